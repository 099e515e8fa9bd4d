//! The event loop of many subscribers: dials them at their rates, hands each what its socket received, and cuts off or lets
//! go those whose time has come.
//!
//! A run has one [`Crowd`] per thread. All subscribers of a crowd share one read buffer. Slow ones leave the event loop
//! once they are subscribed: who trickles is read a little at a time, who stops and goes now and then, and who never reads
//! not before the run is over.
//!
//! # Owner        one thread each

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mio::net::TcpStream;
use slab::Slab;

use crate::dials::{Dial, Dials, Start};
use crate::pace::{Allowance, Pace};
use crate::reader::{Reader, Sockets, What};
use crate::recorder::{Counters, Recorder, Tally, Window};
use crate::scene::Scene;
use crate::schedule::nanoseconds;
use crate::subscriber::{Ended, Subscriber};
use crate::websocket::{self, KEY};
use slow::Slow;

mod dialling;
mod movement;
mod slow;

/// What one who trickles can read at once.
const BUFFER_BYTES: usize = 64 * 1024;
const TURN_MAX: Duration = Duration::from_millis(100);
const RECENT_EVERY_NS: u64 = 250_000_000;
const TRICKLE_EVERY: Duration = Duration::from_millis(50);
/// How often those who come and go are looked after.
const CHURN_EVERY: Duration = Duration::from_millis(10);
/// Where a subscription is not acknowledged, it has surely begun so long after the answer to its request.
pub(crate) const SETTLE: Duration = Duration::from_millis(300);

/// Some of the subscribers, on one thread.
#[derive(Debug)]
pub(crate) struct Crowd {
    scene: Arc<Scene>,
    /// Those who join, by group, then those who come in the place of others, by group, then those cut off, by event.
    dials: Vec<Dials>,
    /// Since when those wait that try again.
    retries: VecDeque<(u64, Dial)>,
    /// Connections made so far, and how many of the whole run come before the first of them.
    dialled: usize,
    before: usize,
    /// Of all this thread's subscribers.
    size: usize,
    /// This one's part of all threads' subscribers.
    share: f64,
    reader: Reader,
    subscribers: Slab<Subscriber>,
    dialing: usize,
    slow: Vec<(usize, Slow)>,
    slow_ns: u64,
    /// Who may not be sure yet that it is subscribed, since when, and when it will be.
    unsure: VecDeque<(u64, usize, u64)>,
    /// Of each group, how many have left and where the next is looked for.
    left: Vec<(u64, usize)>,
    happened: Vec<bool>,
    recorders: Vec<Recorder>,
    accept: String,
}

impl Crowd {
    /// The subscribers `dials`, by group, that are a `share` of all; `before` subscribers of the run belong to other threads.
    pub(crate) fn new(
        scene: Arc<Scene>,
        counters: &[Arc<Counters>],
        parts: Vec<Vec<Dial>>,
        before: usize,
        share: f64,
    ) -> io::Result<Self> {
        // What a slow reader reads in the window was due before it.
        let always = Arc::new(Window::always());
        let groups = &scene.scenario.subscribers;
        let recorders = groups.iter().zip(counters).map(|(group, counters)| {
            let window = if group.pace == Pace::Full { &scene.window } else { &always };
            Recorder::new(Arc::clone(window), Arc::clone(counters))
        });
        let now_ns = scene.clock.now_ns();
        let size = parts.iter().map(Vec::len).sum();
        let mut dials: Vec<_> = groups
            .iter()
            .map(|group| {
                let start = group.join_at.map_or(Start::At(now_ns), |at| Start::InWindow(nanoseconds(at.0)));
                Dials::new(start, group.connect_rate * share)
            })
            .collect();
        let mut recorders: Vec<_> = recorders.collect();
        for (group, part) in parts.into_iter().enumerate() {
            recorders[group].tally.asked = part.len() as u64;
            part.into_iter().for_each(|dial| dials[group].push(dial));
        }
        // The rate of those who come is that of those who leave.
        dials.extend(groups.iter().map(|_| Dials::new(Start::At(0), f64::INFINITY)));
        let events = scene.scenario.events.iter();
        dials.extend(
            events.map(|event| {
                Dials::new(Start::InWindow(nanoseconds(event.at.0)), event.reconnect_rate * share)
            }),
        );
        Ok(Self {
            recorders,
            subscribers: Slab::with_capacity(size),
            dials,
            retries: VecDeque::new(),
            dialled: 0,
            before,
            size: size.max(1),
            share,
            reader: Reader::new(scene.reader, scene.clock)?,
            dialing: 0,
            slow: Vec::new(),
            slow_ns: 0,
            unsure: VecDeque::new(),
            left: vec![(0, 0); groups.len()],
            happened: vec![false; scene.scenario.events.len()],
            accept: websocket::accept(KEY),
            scene,
        })
    }

    /// Dials and reads until the run stops.
    pub(crate) fn run(mut self) -> io::Result<Vec<Tally>> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut recent_ns = self.scene.clock.now_ns();
        let churns = self.scene.scenario.subscribers.iter().any(|group| group.churn > 0.0);
        let moves = churns || !self.happened.is_empty();
        while !self.scene.stop.load(Relaxed) {
            let now_ns = self.scene.clock.now_ns();
            self.settle(now_ns);
            self.happen(now_ns);
            self.churn(now_ns);
            let dials = self.dial_due(now_ns);
            let turn = match () {
                () if dials => Duration::from_millis(1),
                () if moves => CHURN_EVERY,
                () if !self.slow.is_empty() || !self.unsure.is_empty() => TRICKLE_EVERY,
                () => TURN_MAX,
            };
            self.turn(turn, &mut buffer)?;
            let now_ns = self.scene.clock.now_ns();
            if now_ns - recent_ns >= RECENT_EVERY_NS {
                recent_ns = now_ns;
                self.recorders.iter_mut().for_each(Recorder::publish_recent);
            }
            if self.scene.ledgers.get().is_some() {
                self.tell_what_is_missing();
            }
            if self.scene.give_up.load(Relaxed) && self.dialing + self.waiting() > 0 {
                self.give_up();
            }
        }
        self.look_at_the_stalled(&mut buffer)?;
        Ok(self.leave())
    }

    /// Waits at most for `turn`, reads what there is, and lets the run see it. Whether a stalled subscriber was among those
    /// with something to read.
    fn turn(&mut self, turn: Duration, buffer: &mut [u8]) -> io::Result<bool> {
        self.reader.wait(turn)?;
        let mut stalled = false;
        while let Some(arrival) = self.reader.next(&mut self.subscribers) {
            let key = arrival.key;
            let Some(subscriber) = self.subscribers.get_mut(key) else { continue };
            stalled |= subscriber.settings(&self.scene).pace == Pace::Never;
            let was_open = subscriber.is_open();
            let recorder = &mut self.recorders[subscriber.group];
            let handled = match arrival.what {
                What::Connected => subscriber.connect(&self.scene),
                What::Bytes(bytes) => {
                    subscriber.handle_bytes(bytes, arrival.at_ns, &self.scene, &self.accept, recorder)
                }
                What::End => Err(Ended::EndOfStream),
                What::Failed(kind) => Err(Ended::Socket(kind)),
            };
            // One that opened may have ended in the same read.
            let is_new = subscriber.is_open() && !was_open;
            let opened = if is_new { self.opened(key) } else { Ok(()) };
            if let Err(ended) = handled.and(opened) {
                self.end(key, &ended);
            }
        }
        self.read_slowly(buffer);
        self.recorders.iter().for_each(Recorder::publish_counts);
        Ok(stalled)
    }

    fn pace(&self, subscriber: &Subscriber) -> Pace {
        subscriber.settings(&self.scene).pace
    }

    /// A subscriber is subscribed; one that is slow is not told any more when its socket has something.
    fn opened(&mut self, key: usize) -> Result<(), Ended> {
        self.dialing -= 1;
        let now_ns = self.scene.clock.now_ns();
        let subscriber = &mut self.subscribers[key];
        let group = subscriber.group;
        let pace = subscriber.settings(&self.scene).pace;
        let recorder = &mut self.recorders[group];
        subscriber.since_ns = now_ns;
        if subscriber.was_acknowledged(&self.scene) {
            subscriber.is_sure(&self.scene);
        } else {
            self.unsure.push_back((now_ns + nanoseconds(SETTLE), key, now_ns));
        }
        if subscriber.past().again {
            recorder.tally.reconnected += 1;
        } else {
            recorder.tally.joined += 1;
            recorder.counters.joined.fetch_add(1, Relaxed);
        }
        recorder.counters.open.fetch_add(1, Relaxed);
        match pace {
            Pace::Full => {
                self.reader.stream(key);
                return Ok(());
            }
            Pace::Trickle => self.slow.push((key, Slow::Trickle(Allowance::from(now_ns)))),
            Pace::StopAndGo => self.slow.push((key, Slow::StopAndGo)),
            Pace::Never => {}
        }
        let paused = self.reader.pause(key, subscriber.socket());
        paused.map_err(|error| Ended::Socket(error.kind()))
    }

    /// Those are sure now whose time for it has passed.
    fn settle(&mut self, now_ns: u64) {
        while let Some(&(sure_ns, key, since_ns)) = self.unsure.front()
            && sure_ns <= now_ns
        {
            self.unsure.pop_front();
            // Another may have come in its place.
            if let Some(subscriber) = self.subscribers.get_mut(key).filter(|found| found.since_ns == since_ns)
            {
                subscriber.is_sure(&self.scene);
            }
        }
    }

    /// Counts who misses something, once it is known what was published.
    fn tell_what_is_missing(&mut self) {
        let scene = Arc::clone(&self.scene);
        let Some(ledgers) = scene.ledgers.get() else { return };
        let conflating = scene.scenario.topics.conflating;
        let mut incomplete = vec![0; self.recorders.len()];
        for (_, subscriber) in &self.subscribers {
            let misses = || {
                let mut tracks = subscriber.past().tracks.iter();
                tracks.any(|track| !track.is_complete(&ledgers[track.topic()], conflating))
            };
            if self.pace(subscriber) != Pace::Never && (!subscriber.is_open() || misses()) {
                incomplete[subscriber.group] += 1;
            }
        }
        let retries = self.retries.iter().map(|(_, dial)| dial.group);
        retries.for_each(|group| incomplete[group] += 1);
        // Those on their way; the count of a group is wanted only as none or some.
        let waiting: usize = self.dials.iter().map(Dials::len).sum();
        for (recorder, count) in self.recorders.iter().zip(incomplete) {
            recorder.counters.incomplete.store(count + waiting as u64, Relaxed);
        }
    }

    /// The server ended a connection.
    fn end(&mut self, key: usize, ended: &Ended) {
        if self.subscribers[key].is_open() {
            let subscriber = self.let_go(key);
            let strict = subscriber.settings(&self.scene).is_strict();
            let recorder = &mut self.recorders[subscriber.group];
            recorder.counters.ended.fetch_add(1, Relaxed);
            *recorder.tally.disconnects.entry(ended.label()).or_default() += 1;
            self.conclude(&subscriber, !strict);
        } else {
            self.dialing -= 1;
            let subscriber = self.subscribers.remove(key);
            self.reader.remove(key);
            let (group, now_ns) = (subscriber.group, self.scene.clock.now_ns());
            self.fail(Dial { group, past: subscriber.into_past() }, ended, now_ns);
        }
    }

    /// Notes what a subscriber has in the end. Who never reads has nothing that counts.
    fn conclude(&mut self, subscriber: &Subscriber, left: bool) {
        if self.pace(subscriber) != Pace::Never {
            let outcomes = subscriber.past().tracks.iter().map(|track| track.outcome(left));
            self.recorders[subscriber.group].tally.outcomes.extend(outcomes);
        }
    }

    fn fail(&mut self, dial: Dial, ended: &Ended, now_ns: u64) {
        let recorder = &mut self.recorders[dial.group];
        *recorder.tally.failures.entry(ended.label()).or_default() += 1;
        if dial.past.again {
            self.retries.push_back((now_ns, dial));
        } else {
            recorder.counters.failed.fetch_add(1, Relaxed);
        }
    }

    fn give_up(&mut self) {
        let is_waiting = |subscriber: &Subscriber| !subscriber.is_open();
        let waiting: Vec<_> =
            self.subscribers.iter().filter(|(_, found)| is_waiting(found)).map(|(key, _)| key).collect();
        waiting.into_iter().for_each(|key| self.end(key, &Ended::GivenUp));
        let now_ns = self.scene.clock.now_ns();
        for at in 0..self.dials.len() {
            for dial in self.dials[at].take_all() {
                self.fail(dial, &Ended::GivenUp, now_ns);
            }
        }
    }

    fn leave(mut self) -> Vec<Tally> {
        self.give_up();
        for (_, Dial { group, past }) in std::mem::take(&mut self.retries) {
            // Cut off by the run, it could not come back.
            let tally = &mut self.recorders[group].tally;
            *tally.disconnects.entry("did not come back".to_owned()).or_default() += 1;
            tally.outcomes.extend(past.tracks.iter().map(|track| track.outcome(false)));
        }
        let open: Vec<_> = self.subscribers.drain().filter(Subscriber::is_open).collect();
        for mut subscriber in open {
            subscriber.close();
            self.conclude(&subscriber, false);
        }
        self.recorders.into_iter().map(|recorder| recorder.tally).collect()
    }
}

impl Sockets for Slab<Subscriber> {
    fn socket(&mut self, key: usize) -> Option<&mut TcpStream> {
        self.get_mut(key).map(Subscriber::socket)
    }
}
