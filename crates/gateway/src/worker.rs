//! One worker: a thread with its own listener, runtime and shard.
//!
//! The fan-out loop is a local task like sessions, requests and timers: a publish queues it behind those that became ready
//! together with it, so their messages leave in one pass, before the runtime looks for further events. All reach the shard
//! through the methods here, each of which borrows it for as long as it runs and never across an await.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fanfare_fanout::budget::SizeClasses;
use fanfare_fanout::{Flushed, Left, Pass, Progress, Report, STEP_MAX, Shard, SubscriberId, TopicSettings};
use fanfare_registry::{AdmitError, Admitted};
use fanfare_wire::event::Event;
use fanfare_wire::websocket::deflate;
use fanfare_wire::{Draft, FormatId, Topic};
use tokio::sync::Notify;
use tokio::task::{spawn_local, yield_now};
use tokio::time::sleep_until;

use crate::accept;
use crate::admission::Bound;
use crate::ask::{self, Asked};
use crate::auth::cache::TokenCache;
use crate::auth::expiry::Expiries;
use crate::client::Client;
use crate::clock::unix_ms;
use crate::connection::{Connection, Connections, Permit};
use crate::drain;
use crate::inbox::{Handover, Inbox};
use crate::liveness::{self, Liveness};
use crate::log::rate::Kind;
use crate::metrics::Counters;
use crate::rate::Meter;
use crate::reload;
use crate::server::Shared;
use crate::socket::Socket;
use crate::subscribe;
use crate::transport;
use crate::transport::disconnect::DisconnectReason;
use crate::writer::{InlineWriter, Lent, Writer};

/// After this many writes of what waits for it, a session lets the others go on: a long replay is written in many turns.
const WRITES_PER_TURN: usize = 4;

/// What one read takes from a socket at most. One buffer serves all connections of a worker.
const SCRATCH_BYTES: usize = 64 * 1024;

/// The state of a worker, shared by its local tasks.
pub(crate) struct Worker {
    /// Its shard's number in the process.
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) shard: RefCell<Shard>,
    pub(crate) connections: RefCell<Connections>,
    pub(crate) liveness: RefCell<Liveness>,
    pub(crate) expiries: RefCell<Expiries>,
    pub(crate) tokens: RefCell<TokenCache>,
    /// Bytes just read, until they are parsed.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    report: RefCell<Report>,
    writer: RefCell<Writer>,
    /// Polls that wait for a message.
    pub(crate) polls: RefCell<HashMap<SubscriberId, Rc<Notify>, ahash::RandomState>>,
    /// Somebody has just subscribed with a pace.
    pub(crate) paced: Notify,
    /// New connections, for `Limits::handshakes_per_second`.
    pub(crate) handshakes: Cell<Meter>,
    /// A pass is under way, and others have a turn between two of its steps.
    passing: Cell<bool>,
    /// It is over.
    passed: Notify,
    /// How far a reload has come in the shard's topics, while it is under way.
    pub(crate) reviewed: Cell<Option<usize>>,
    /// Open connections of all kinds: the drain waits for the last.
    pub(crate) open: Cell<usize>,
    /// A signal to end has come: answers end their connection.
    pub(crate) leaving: Cell<bool>,
    /// Nothing is left to do, or the worker has failed.
    pub(crate) finished: Notify,
    /// A task panicked without which the worker is none.
    failed: Cell<bool>,
}

impl Worker {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> std::io::Result<Rc<Self>> {
        let writer = Writer::open(shared.with_rings, &shared.config(), &shared.counters[index])?;
        let limits = reload::shard_limits(&shared.config());
        let rules = Arc::clone(&shared);
        let shard = Shard::new(limits, shared.dispatch.registry.epoch(), move |topic| {
            let in_force = rules.config();
            let settings = in_force.settings(topic);
            TopicSettings {
                policy: settings.slow,
                stale_after: settings.stale_after,
                reload: in_force.reload,
            }
        });
        Ok(Rc::new(Self {
            index,
            shard: RefCell::new(shard),
            connections: RefCell::default(),
            liveness: RefCell::default(),
            expiries: RefCell::default(),
            tokens: RefCell::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
            report: RefCell::default(),
            writer: RefCell::new(writer),
            polls: RefCell::default(),
            paced: Notify::new(),
            handshakes: Cell::default(),
            passing: Cell::new(false),
            passed: Notify::new(),
            reviewed: Cell::new(None),
            open: Cell::new(0),
            leaving: Cell::new(false),
            finished: Notify::new(),
            failed: Cell::new(false),
            shared,
        }))
    }

    /// Runs until the drain is over.
    pub(crate) async fn run(
        self: Rc<Self>,
        listener: std::net::TcpListener,
        asked: Asked,
    ) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        self.spawn_vital(accept::run(Rc::clone(&self), listener));
        self.spawn_vital(liveness::run(Rc::clone(&self)));
        self.spawn_vital(drain::run(Rc::clone(&self)));
        self.spawn_vital(pace(Rc::clone(&self)));
        self.spawn_vital(ask::answer(Rc::clone(&self), asked));
        self.spawn_vital(reload::follow(Rc::clone(&self)));
        self.spawn_vital(fan_out(Rc::clone(&self)));
        self.finished.notified().await;
        if self.failed.get() { Err(std::io::Error::other("a task of it panicked")) } else { Ok(()) }
    }

    /// Runs a task without which the worker is none: should it panic, the worker ends, and the process with it.
    fn spawn_vital(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let alarm = Alarm(Rc::clone(self));
        spawn_local(async move {
            let _alarm = alarm;
            task.await;
        });
    }

    /// What publishers hand to this worker.
    pub(crate) fn inbox(&self) -> &Inbox {
        &self.shared.dispatch.inboxes.0[self.index]
    }

    /// One fan-out pass.
    async fn deliver(&self, through: u64, batch: &mut Vec<Handover>) {
        let Some(oldest) = batch.first().map(|handover| handover.admitted) else { return };
        let messages = batch.drain(..).flat_map(|handover| handover.messages);
        let pass = self.shard.borrow_mut().begin(Instant::now(), through, messages);
        self.carry_out(pass).await;
        self.counters().passes.add(1);
        self.counters().fanout_seconds.observe(oldest.elapsed());
    }

    async fn carry_out(&self, mut pass: Pass) {
        loop {
            let progress =
                self.with_writer(|shard, writer, report| shard.deliver(&mut pass, STEP_MAX, writer, report));
            self.settle();
            if progress == Progress::Done {
                break;
            }
            // Reads, pings and handshakes go on.
            self.passing.set(true);
            yield_now().await;
        }
        if self.passing.replace(false) {
            self.passed.notify_waiters();
        }
        // Patterns make topics known.
        self.count_topics();
        if self.shard.borrow().next_release().is_some() {
            self.paced.notify_one();
        }
    }

    /// Waits for the end of the pass that is under way, if there is one.
    pub(crate) async fn between_passes(&self) {
        while self.passing.get() {
            self.passed.notified().await;
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters[self.index]
    }

    // === publish ===

    /// Gives drafts their places and sends them on their way.
    pub(crate) fn publish(&self, topic: &Topic, mut drafts: Vec<Draft>) -> Result<Admitted, AdmitError> {
        let config = self.shared.config();
        if config.deflates() && config.settings(topic).deflate {
            drafts.iter_mut().for_each(|draft| draft.deflate = true);
        }
        let messages = drafts.len() as u64;
        let bytes = drafts.iter().map(|draft| draft.payload_bytes() as u64).sum();
        let admitted = self.shared.dispatch.publish(self.index, topic, drafts).inspect_err(|error| {
            if matches!(error, AdmitError::TooManyTopics) {
                self.counters().refused(Bound::Topics);
            }
        })?;
        self.counters().messages.add(messages);
        self.counters().message_bytes.add(bytes);
        Ok(admitted)
    }

    // === subscribers ===

    /// Makes a socket a subscriber.
    pub(crate) fn connect(
        &self,
        socket: Socket,
        format: FormatId,
        client: Client,
        permit: Permit,
    ) -> Rc<Connection> {
        // The raw format has no words for a gap.
        let takes_gaps = format.plain() != FormatId::RAW;
        let id = self.shard.borrow_mut().connect(format, takes_gaps);
        self.writer.borrow_mut().add(id, &socket);
        let connection = Rc::new(Connection::new(id, socket, format, client, permit));
        if let Some(grant) = connection.client.grant() {
            self.expiries.borrow_mut().add(&grant, id);
        }
        self.connections.borrow_mut().insert(Rc::clone(&connection));
        self.counters().connected(format);
        connection
    }

    /// Forgets a subscriber; its session is over.
    pub(crate) fn disconnect(&self, connection: &Connection, reason: DisconnectReason) {
        if connection.expired.get() {
            // What the peer did not take is thrown away by the kernel, too. It may be gone already.
            let _ = connection.socket.tcp().set_zero_linger();
        }
        let mut left = Vec::new();
        self.shard.borrow_mut().disconnect(connection.id, &mut left);
        self.connections.borrow_mut().remove(connection.id);
        if let Some(grant) = connection.client.grant() {
            self.expiries.borrow_mut().remove(&grant, connection.id);
        }
        self.writer.borrow_mut().remove(connection.id, self.counters());
        self.leave(&left);
        self.counters().disconnected(connection.format);
        self.counters().closes[reason.index()].add(1);
        let (client, address) = (client_name(self.index, connection.id), connection.client.address);
        if !reason.is_fault() {
            tracing::debug!(%client, %address, reason = reason.label(), "closed");
        } else if let Some(suppressed) = self.shared.may_log(Kind::Closed) {
            let (reason, code) = (reason.label(), reason.code(connection.format.plain() == FormatId::JSON).0);
            let connected_ms = unix_ms().saturating_sub(connection.since_ms);
            tracing::info!(%client, %address, reason, code, connected_ms, suppressed, "closed");
        }
    }

    /// Ends a connection whose task has panicked: the others go on.
    pub(crate) fn give_up(&self, connection: &Connection) {
        self.counters().panics.add(1);
        self.take_back(connection);
    }

    /// Takes back what a panic, which others count, has left of a connection. A second one in here ends the process.
    pub(crate) fn take_back(&self, connection: &Connection) {
        self.close(connection, DisconnectReason::Internal);
        self.flush(connection.id);
        self.disconnect(connection, connection.closing.get().unwrap_or(DisconnectReason::Internal));
    }

    /// Ends a conversation: says why, and gives the peer `Limits::close_timeout` to hear it.
    pub(crate) fn close(&self, connection: &Connection, reason: DisconnectReason) {
        self.close_with(connection, reason, transport::last_frame(connection.format, reason));
    }

    /// The same, with something else for the last that the peer gets.
    pub(crate) fn close_with(&self, connection: &Connection, reason: DisconnectReason, last: Bytes) {
        if connection.closing.get().is_some() {
            return;
        }
        connection.closing.set(Some(reason));
        let mut left = Vec::new();
        {
            let mut shard = self.shard.borrow_mut();
            if reason.is_farewell() && connection.format.plain() == FormatId::JSON {
                let code = reason.code(true).0;
                let bye = Event::Bye { code, reason: &reason.text(), retry_ms: Some(transport::retry_ms()) };
                // A full outbox gets the close frame alone.
                let _ = shard.push_control(connection.id, bye.frame());
            }
            shard.close(connection.id, last, reason.discards(), &mut left);
        }
        self.leave(&left);
        if reason == DisconnectReason::PeerGone {
            connection.expired.set(true);
        } else {
            let deadline = Instant::now() + self.shared.config().limits.close_timeout;
            self.liveness.borrow_mut().expire_at(deadline, connection.id);
        }
        connection.wake();
    }

    /// Writes what waits for a subscriber.
    pub(crate) fn flush(&self, id: SubscriberId) -> Flushed {
        let flushed = self.with_writer(|shard, writer, report| shard.flush(id, writer, report));
        self.settle();
        flushed
    }

    /// Writes some of what waits for a subscriber: a session's turn, between those of others.
    pub(crate) fn flush_some(&self, id: SubscriberId) -> Flushed {
        let flushed =
            self.with_writer(|shard, writer, report| shard.flush_some(id, WRITES_PER_TURN, writer, report));
        self.settle();
        flushed
    }

    /// Lends the shard together with what it writes through. [`settle`](Self::settle) comes after.
    pub(crate) fn with_writer<R>(&self, run: impl FnOnce(&mut Shard, &mut Lent<'_>, &mut Report) -> R) -> R {
        let connections = self.connections.borrow();
        let inline = InlineWriter { connections: &connections };
        let mut lent = Lent { writer: &mut self.writer.borrow_mut(), inline, counters: self.counters() };
        run(&mut self.shard.borrow_mut(), &mut lent, &mut self.report.borrow_mut())
    }

    /// Acts on what a step of the shard reported.
    pub(crate) fn settle(&self) {
        let mut report = self.report.borrow_mut();
        let counters = self.counters();
        counters.deliveries.add(std::mem::take(&mut report.deliveries));
        counters.delivery_bytes.add(std::mem::take(&mut report.bytes));
        counters.writes.add(std::mem::take(&mut report.writes));
        counters.dropped.add(std::mem::take(&mut report.dropped));
        counters.conflated.add(std::mem::take(&mut report.conflated));
        let deflated = deflate::take_counts();
        counters.deflated.add(deflated.messages);
        counters.deflate_bytes_in.add(deflated.bytes_in);
        counters.deflate_bytes_out.add(deflated.bytes_out);
        counters.blocked.add(report.blocked.len() as u64);
        self.count_outboxes();
        // Who has nothing waiting has nothing to shed, and need not look at what the others have.
        if counters.outbox_bytes.read() > 0
            && self.shared.outbox_bytes() > self.shared.config().limits.outbox_budget as u64
        {
            self.shed(&mut report);
        }
        for id in report.woken.drain(..) {
            if let Some(poll) = self.polls.borrow().get(&id) {
                poll.notify_one();
            }
        }
        for id in report.blocked.drain(..) {
            if let Some(connection) = self.connections.borrow().get(id) {
                // Its task waits for writability from now on.
                connection.wake();
            }
        }
        if report.evicted.is_empty() {
            return;
        }
        let evicted = std::mem::take(&mut report.evicted);
        drop(report);
        for (id, eviction) in evicted {
            let connection = self.connections.borrow().get(id).cloned();
            if let Some(connection) = connection {
                self.close(&connection, eviction.into());
            }
        }
    }

    /// Makes the largest outboxes of the process smaller, those that are this worker's.
    fn shed(&self, report: &mut Report) {
        let mut classes = SizeClasses::default();
        for counters in &self.shared.counters {
            for (sum, class) in classes.0.iter_mut().zip(&counters.outbox_classes.0) {
                *sum += class.read() as usize;
            }
        }
        if let Some(bytes) = classes.size_to_shrink_to(self.shared.config().limits.outbox_budget) {
            let before = (report.dropped, report.evicted.len());
            self.shard.borrow_mut().shed(bytes, report);
            if (report.dropped, report.evicted.len()) != before {
                self.counters().sheds.add(1);
            }
            self.count_outboxes();
        }
    }

    /// Publishes how much waits, for the scrape and for the other workers.
    fn count_outboxes(&self) {
        let shard = self.shard.borrow();
        let (counters, bytes) = (self.counters(), shard.outbox_bytes() as u64);
        if bytes > 0 || counters.outbox_bytes.read() > 0 {
            counters.outbox_bytes.set(bytes);
            for (counter, class) in counters.outbox_classes.0.iter().zip(shard.outboxes().0) {
                counter.set(class as u64);
            }
        }
    }

    /// Publishes how much is wanted here, for the scrape.
    pub(crate) fn count_topics(&self) {
        let shard = self.shard.borrow();
        self.counters().subscribed_topics.set(shard.topics() as u64);
        self.counters().patterns.set(shard.patterns() as u64);
    }

    /// Takes back what ended subscriptions wanted of the registry.
    pub(crate) fn leave(&self, ties: &[Left]) {
        subscribe::leave(self, ties);
        self.count_topics();
        // Whoever leaves by closing leaves an outbox behind, too.
        self.count_outboxes();
    }
}

/// Carries out pass after pass.
async fn fan_out(worker: Rc<Worker>) {
    let mut batch = Vec::new();
    loop {
        worker.inbox().wait().await;
        // Read before: what is handed over up to there is in the inbox.
        let through = worker.shared.dispatch.registry.watermark();
        worker.inbox().take(&mut batch);
        worker.deliver(through, &mut batch).await;
        reload::review(&worker);
        // Also when there is always something in the inbox.
        let silence = worker.shard.borrow_mut().begin_silence(Instant::now());
        if let Some(pass) = silence {
            worker.carry_out(pass).await;
        }
        if worker.inbox().depth().0 > 0 {
            // However fast others publish, what this worker has to do besides goes on.
            yield_now().await;
        }
    }
}

/// Ends the worker when it is dropped in a panic.
struct Alarm(Rc<Worker>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.set(true);
            self.0.finished.notify_one();
        }
    }
}

/// Sends on what is held back for subscribers with a pace, when its time has come.
async fn pace(worker: Rc<Worker>) {
    loop {
        let next = worker.shard.borrow().next_release();
        tokio::select! {
            () = async { if let Some(at) = next { sleep_until(at.into()).await } else { pending().await } } => {}
            // Another time may have become the next.
            () = worker.paced.notified() => {}
        }
        worker.with_writer(|shard, writer, report| shard.release_held(Instant::now(), writer, report));
        worker.settle();
    }
}

/// The connection of such a name, if it is one: its worker and its id.
pub(crate) fn client_of(name: &str) -> Option<(usize, SubscriberId)> {
    let mut parts = name.split('-').map(|part| u32::from_str_radix(part, 16).ok());
    let (worker, slot, generation) = (parts.next()??, parts.next()??, parts.next()??);
    let id = SubscriberId { slot, generation };
    // One name each: no signs, no leading zeros.
    (client_name(worker as usize, id) == name).then_some((worker as usize, id))
}

/// Names a connection in the welcome, to operators and in logs.
pub(crate) fn client_name(worker: usize, id: SubscriberId) -> String {
    format!("{worker:x}-{:x}-{:x}", id.slot, id.generation)
}

#[cfg(test)]
mod beside;
#[cfg(test)]
mod newcomers;
#[cfg(test)]
mod panics;
#[cfg(test)]
mod revoked;
