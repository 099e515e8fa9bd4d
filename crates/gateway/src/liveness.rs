//! Pings, pong deadlines and close deadlines: one timer per worker, none per connection.
//!
//! A ping interval is cut into ticks, and each connection belongs to the tick its slot falls on. A tick pings its
//! connections, and looks at those whose ping is a pong timeout old. So pings are spread evenly, whatever came at once.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use fanfare_fanout::SubscriberId;
use fanfare_wire::event::Event;
use tokio::time::{MissedTickBehavior, interval};

use crate::auth::expiry;
use crate::clock::unix_ms;
use crate::transport;
use crate::transport::disconnect::DisconnectReason;
use crate::worker::Worker;

/// The longest tick: how late a deadline may be noticed.
const TICK_MAX: Duration = Duration::from_millis(100);

/// The fewest ticks of an interval, so that a short one still has room for a pong timeout.
const TICKS_MIN: usize = 8;

/// Closing connections and when to give up on them, the earliest first.
#[derive(Default)]
pub(crate) struct Liveness {
    deadlines: VecDeque<(Instant, SubscriberId)>,
    /// Connections that asked for a heartbeat: the next one, and the time between two.
    beats: BinaryHeap<Reverse<(Instant, Duration, SubscriberId)>>,
}

impl Liveness {
    /// Gives up on a closing connection at `deadline`.
    pub(crate) fn expire_at(&mut self, deadline: Instant, id: SubscriberId) {
        // The timeout is the same for all, but a reload may change it.
        let place = self.deadlines.partition_point(|(at, _)| *at <= deadline);
        self.deadlines.insert(place, (deadline, id));
    }

    /// Sends a heartbeat every `interval`, as long as there is the connection.
    pub(crate) fn beat(&mut self, interval: Duration, id: SubscriberId) {
        self.beats.push(Reverse((Instant::now() + interval, interval, id)));
    }

    fn due_beat(&mut self, now: Instant) -> Option<(Duration, SubscriberId)> {
        self.beats.peek().filter(|Reverse((at, ..))| *at <= now)?;
        let Reverse((_, interval, id)) = self.beats.pop()?;
        Some((interval, id))
    }

    fn expired(&mut self, now: Instant) -> Option<SubscriberId> {
        let (_, id) = self.deadlines.pop_front_if(|(deadline, _)| *deadline <= now)?;
        Some(id)
    }
}

/// Ticks until the worker ends.
pub(crate) async fn run(worker: Rc<Worker>) {
    // Clients were told of the interval: it stays.
    let limits = worker.shared.config().limits.clone();
    let ticks = (limits.ping_interval.as_millis().div_ceil(TICK_MAX.as_millis()) as usize).max(TICKS_MIN);
    let tick = limits.ping_interval / ticks as u32;
    // A ping sent `wait` ticks ago has had its whole timeout.
    let wait = (limits.pong_timeout.as_nanos().div_ceil(tick.as_nanos().max(1)) as usize).min(ticks - 1);
    let mut timer = interval(tick);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut now = 0;
    let mut swept = Instant::now();
    let mut revoked = 0;
    let mut ages = Ages::default();
    loop {
        let due = timer.tick().await;
        worker.counters().loop_lag.observe(due.elapsed());
        now = (now + 1) % ticks;
        ping(&worker, now, ticks);
        check_pongs(&worker, (now + ticks - wait) % ticks, ticks);
        expire(&worker);
        beat(&worker);
        expiry::close_expired(&worker);
        expiry::close_revoked(&worker, &mut revoked);
        // Topics may have become stale.
        worker.inbox().call();
        // Those who shed are not always those who grow.
        worker.settle();
        ages.look(&worker);
        if swept.elapsed() >= worker.shared.config().limits.topic_idle {
            swept = Instant::now();
            worker.shard.borrow_mut().sweep();
            worker.count_topics();
        }
    }
}

/// Looks for the oldest message that waits, at a part of the outboxes in each tick.
#[derive(Default)]
struct Ages {
    parts_seen: usize,
    oldest: Option<Instant>,
}

impl Ages {
    /// So many ticks go over all outboxes: about a second.
    const PARTS: usize = 10;

    fn look(&mut self, worker: &Worker) {
        let shard = worker.shard.borrow();
        if shard.outbox_bytes() > 0 {
            let part = shard.slots().div_ceil(Self::PARTS);
            let first = part * self.parts_seen;
            self.oldest =
                [self.oldest, shard.oldest_waiting(first..first + part)].into_iter().flatten().min();
        }
        self.parts_seen += 1;
        if self.parts_seen == Self::PARTS {
            let age = self.oldest.map_or(0, |oldest| oldest.elapsed().as_millis());
            worker.counters().outbox_age_ms.set(u64::try_from(age).unwrap_or(u64::MAX));
            *self = Self::default();
        }
    }
}

/// Sends the heartbeats that were asked for.
fn beat(worker: &Worker) {
    let now = Instant::now();
    loop {
        let due = worker.liveness.borrow_mut().due_beat(now);
        let Some((interval, id)) = due else { return };
        let connection = worker.connections.borrow().get(id).cloned();
        let Some(connection) = connection.filter(|connection| connection.closing.get().is_none()) else {
            continue;
        };
        let pushed = worker.shard.borrow_mut().push_event(id, &Event::Heartbeat { time: unix_ms() });
        match pushed {
            Ok(()) => {
                worker.flush(id);
                worker.shard.borrow_mut().rest(id);
            }
            Err(eviction) => worker.close(&connection, eviction.into()),
        }
        worker.liveness.borrow_mut().beat(interval, id);
    }
}

fn ping(worker: &Worker, tick: usize, ticks: usize) {
    let due: Vec<_> = {
        let connections = worker.connections.borrow();
        let open = connections.every(tick, ticks).filter(|connection| connection.closing.get().is_none());
        open.map(|connection| (connection.id, connection.format)).collect()
    };
    for (id, format) in due {
        worker.shard.borrow_mut().push_pong(id, transport::heartbeat(format));
        worker.flush(id);
        worker.shard.borrow_mut().rest(id);
        if let Some(connection) = worker.connections.borrow().get(id) {
            // A stream's heartbeat is not answered: the socket has to take it.
            let waits = transport::is_websocket(format)
                || connection.socket.has_records()
                || worker.shard.borrow().is_waiting(id);
            connection.awaiting_pong.set(waits);
        }
    }
}

fn check_pongs(worker: &Worker, tick: usize, ticks: usize) {
    let silent: Vec<_> = {
        let connections = worker.connections.borrow();
        connections.every(tick, ticks).filter(|connection| connection.awaiting_pong.get()).cloned().collect()
    };
    for connection in silent {
        worker.close(&connection, DisconnectReason::NoPong);
    }
}

fn expire(worker: &Worker) {
    let now = Instant::now();
    loop {
        let Some(id) = worker.liveness.borrow_mut().expired(now) else { return };
        if let Some(connection) = worker.connections.borrow().get(id) {
            connection.expired.set(true);
            connection.wake();
        }
    }
}
