//! The publishers: messages on an open schedule, over a few connections or many.
//!
//! A request is written when it is due and not when the one before it was answered: requests are pipelined (RFC 9112,
//! section 9.3.2), as far as the adapter allows. All messages of a topic go over the same connection, so the server
//! receives them in order, unless they are to be spread; several connections keep a slow answer from holding up other
//! topics. Each topic of a group belongs to one of its threads.
//!
//! # Owner        one thread each
//! # Bounds       those of its connections; what is due past them is left out, and counted
//! # Invariants   a sequence number is used once, and only for a message that a connection took

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use fanfare_market::Market;
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use crate::connection::{Connection, Post};
use crate::outgoing::{Heard, Outgoing};
use crate::payload::Stamp;
use crate::recorder::histogram;
use crate::recording::{Playback, Recorded};
use crate::scene::Scene;
use crate::schedule::Schedule;

pub(crate) const CONNECTIONS_MAX: usize = 8;
const READ_BYTES: usize = 64 * 1024;
const EVENTS_MAX: usize = 256;
/// Of a recording that is published as fast as can be: so many requests wait for their answers, and so many more are taken
/// in a turn.
const UNPACED_IN_FLIGHT: usize = 256;
const UNPACED_TURN: usize = 64;
const TURN_MAX_NS: u64 = 50_000_000;
const PRIORITY: i32 = -10;
/// The kernel's default lets a sleep end 50 µs late; this asks for as little as it can do.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

/// What a publisher tells while it runs.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Set when no more is to be published; answers are still waited for.
    pub(crate) stop: AtomicBool,
    /// Set when answers are no longer waited for either.
    pub(crate) abandon: AtomicBool,
    /// Messages acknowledged.
    pub(crate) acknowledged: AtomicU64,
    /// Connections that ended, or could not be made.
    pub(crate) broken: AtomicU64,
    /// The schedule is at its end and every request is answered.
    pub(crate) finished: AtomicBool,
}

/// What one publisher, or all of them together, published.
#[derive(Debug)]
pub(crate) struct Published {
    /// Messages handed to a connection.
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    /// Of those sent, messages due in the window and sent before it ended.
    pub(crate) sent_in_window: u64,
    pub(crate) posts: u64,
    /// Answers by status.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Requests whose connection ended before the answer came.
    pub(crate) unanswered: u64,
    /// Messages not sent, for want of a connection or because too much waited already.
    pub(crate) skipped: u64,
    /// Nanoseconds from when a request was due to its answer, for those due in the window.
    pub(crate) answered: Histogram<u64>,
    /// Nanoseconds from when a request was due to when it was handed to the connection, likewise.
    pub(crate) lateness: Histogram<u64>,
}

/// How messages are made and which topics they go to.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// This publisher's topics.
    pub(crate) topics: Vec<usize>,
    /// The share of each topic of the run, by which the topic of a request is drawn; otherwise topics take turns.
    pub(crate) weights: Option<Vec<f64>>,
    pub(crate) batch: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) connections: usize,
    /// The messages of a topic take all connections in turn.
    pub(crate) spread: bool,
    pub(crate) seed: u64,
}

/// What is due, and when.
#[derive(Debug)]
pub(crate) enum Feed {
    Made(Schedule),
    Recorded(Playback, Arc<Recorded>),
}

/// Some of the topics' publisher, on one thread.
#[derive(Debug)]
pub(crate) struct Publisher {
    scene: Arc<Scene>,
    progress: Arc<Progress>,
    outgoing: Outgoing,
    feed: Feed,
    recipe: Recipe,
    market: Market,
    random: fastrand::Rng,
    /// Of the weights of this publisher's topics.
    cumulative: Vec<f64>,
    turn: usize,
    connections: Vec<Connection>,
    epoll: OwnedFd,
    published: Published,
}

impl Published {
    pub(crate) fn new() -> Self {
        Self {
            sent: 0,
            acknowledged: 0,
            sent_in_window: 0,
            posts: 0,
            statuses: BTreeMap::new(),
            unanswered: 0,
            skipped: 0,
            answered: histogram(3),
            lateness: histogram(3),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        other.statuses.iter().for_each(|(&status, count)| *self.statuses.entry(status).or_default() += count);
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.sent_in_window += other.sent_in_window;
        self.posts += other.posts;
        self.unanswered += other.unanswered;
        self.skipped += other.skipped;
        self.answered.add(&other.answered).expect("all have the same bounds");
        self.lateness.add(&other.lateness).expect("all have the same bounds");
    }
}

impl Publisher {
    pub(crate) fn new(
        scene: Arc<Scene>,
        progress: Arc<Progress>,
        outgoing: Outgoing,
        feed: Feed,
        recipe: Recipe,
    ) -> std::io::Result<Self> {
        let weights =
            recipe.weights.iter().flat_map(|weights| recipe.topics.iter().map(|&topic| weights[topic]));
        let cumulative = weights
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        Ok(Self {
            market: Market::new(scene.topics.len(), recipe.seed),
            random: fastrand::Rng::with_seed(recipe.seed),
            cumulative,
            turn: 0,
            connections: (0..recipe.connections).map(|_| Connection::default()).collect(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            published: Published::new(),
            scene,
            progress,
            outgoing,
            feed,
            recipe,
        })
    }

    /// Publishes what is due until the schedule ends, then waits for the answers.
    pub(crate) fn run(mut self) -> rustix::io::Result<Published> {
        rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS))?;
        // Where it may (CAP_SYS_NICE), it goes before those that it would otherwise wait for a few milliseconds; it
        // needs a hundredth of a core. Where not, lateness tells.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), PRIORITY);
        let mut buffer = vec![0; READ_BYTES];
        for at in 0..self.connections.len() {
            // Before the first request is due; one that fails here is tried again then.
            self.is_ready(at);
            self.exchange(at, false, &mut buffer);
        }
        loop {
            if self.progress.stop.load(Relaxed) {
                self.feed.stop();
            }
            // One turn takes what is due at its beginning: catching up doesn't keep answers from being read.
            let turn_ns = self.scene.clock.now_ns();
            self.publish_due(turn_ns);
            if self.progress.abandon.load(Relaxed) {
                break;
            }
            if self.feed.next_due_ns().is_none() && self.connections.iter().all(Connection::is_idle) {
                self.progress.finished.store(true, Relaxed);
            }
            for at in self.wait()? {
                self.exchange(at, true, &mut buffer);
            }
        }
        (0..self.connections.len()).for_each(|at| self.give_up(at));
        Ok(self.published)
    }

    /// Sleeps until the next request is due or a socket has something; the connections that do.
    fn wait(&self) -> rustix::io::Result<Vec<usize>> {
        let now_ns = self.scene.clock.now_ns();
        let sleep_ns = self.next_look_ns(now_ns).map_or(TURN_MAX_NS, |due_ns| due_ns.saturating_sub(now_ns));
        let timeout = Timespec { tv_sec: 0, tv_nsec: sleep_ns.min(TURN_MAX_NS).cast_signed() };
        // epoll's own timeout counts in milliseconds.
        match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        let mut events = Vec::with_capacity(EVENTS_MAX);
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&Timespec::default()),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        Ok(events.iter().map(|event| event.data.u64() as usize).collect())
    }

    /// Whether a connection takes a request; connects it if need be.
    fn is_ready(&mut self, at: usize) -> bool {
        let now_ns = self.scene.clock.now_ns();
        let connection = &mut self.connections[at];
        let (ready, is_new) = connection.is_ready(&self.scene, &self.outgoing, now_ns);
        if is_new && let Some(socket) = &connection.socket {
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            if epoll::add(&self.epoll, socket, epoll::EventData::new_u64(at as u64), flags).is_err() {
                connection.socket = None;
                return false;
            }
        }
        if connection.socket.is_none() {
            self.progress.broken.fetch_add(1, Relaxed);
        }
        ready
    }

    /// Publishes what is due by `now_ns`.
    fn publish_due(&mut self, now_ns: u64) {
        if let Feed::Recorded(playback, recorded) = &self.feed {
            let (recorded, unpaced) = (Arc::clone(recorded), playback.is_unpaced());
            let mut taken = 0;
            while let Some(due_ns) = self.feed.next_due_ns().filter(|&due_ns| due_ns <= now_ns) {
                if unpaced && (taken >= UNPACED_TURN || self.in_flight() >= UNPACED_IN_FLIGHT) {
                    return;
                }
                // As fast as can be, a message is due when it can be sent.
                let due_ns = if unpaced { self.scene.clock.now_ns() } else { due_ns };
                self.replay(&recorded, due_ns);
                taken += 1;
            }
            return;
        }
        while let Feed::Made(schedule) = &mut self.feed
            && let Some(due_ns) = schedule.take_due(now_ns)
        {
            self.post(due_ns);
        }
    }

    fn in_flight(&self) -> usize {
        self.connections.iter().map(|connection| connection.unanswered.len()).sum()
    }

    /// When something is due next, and can be sent.
    fn next_look_ns(&self, now_ns: u64) -> Option<u64> {
        let due_ns = self.feed.next_due_ns()?;
        let full = matches!(&self.feed, Feed::Recorded(playback, _) if playback.is_unpaced())
            && self.in_flight() >= UNPACED_IN_FLIGHT;
        // An answer wakes it.
        Some(if full { now_ns + TURN_MAX_NS } else { due_ns })
    }

    /// Publishes the next recorded message.
    fn replay(&mut self, recorded: &Recorded, due_ns: u64) {
        let Feed::Recorded(playback, _) = &mut self.feed else { return };
        let tick = &recorded.ticks[playback.taken];
        playback.taken += 1;
        let at = tick.topic % self.connections.len();
        if !self.is_ready(at) {
            self.published.skipped += 1;
            return;
        }
        let first = self.scene.topics[tick.topic].next.fetch_add(1, Relaxed);
        let payload = tick.payload(Stamp { intended_ns: due_ns, topic: tick.topic, sequence: first });
        self.send(at, tick.topic, first, due_ns, &[payload]);
    }

    /// Writes what is due at `due_ns`.
    fn post(&mut self, due_ns: u64) {
        let turn = self.take_turn();
        let at = if self.recipe.spread { self.turn } else { turn } % self.connections.len();
        let batch = self.recipe.batch;
        if !self.is_ready(at) {
            self.published.skipped += batch as u64;
            return;
        }
        let index = self.recipe.topics[turn];
        let first = self.scene.topics[index].next.fetch_add(batch as u64, Relaxed);
        let payloads: Vec<_> = (0..batch as u64)
            .map(|message| {
                let stamp = Stamp { intended_ns: due_ns, topic: index, sequence: first + message };
                let mut payload = Vec::with_capacity(self.recipe.payload_bytes);
                stamp.write_payload(&self.market.tick_of(index), self.recipe.payload_bytes, &mut payload);
                payload
            })
            .collect();
        self.send(at, index, first, due_ns, &payloads);
    }

    fn send(&mut self, at: usize, topic: usize, mut first: u64, due_ns: u64, payloads: &[Vec<u8>]) {
        let connection = &mut self.connections[at];
        let name = &self.scene.topics[topic].name;
        for request in self.outgoing.requests(name, payloads, &mut connection.number) {
            let messages = request.messages as u64;
            connection.push(request.bytes, Post { topic, first, messages, due_ns });
            first += messages;
            self.published.posts += 1;
        }
        // A socket with room takes it at once: the next one that is due already must not delay this one.
        let alive = connection.flush(&self.outgoing);
        if !self.outgoing.is_answered() {
            self.take_as_answered(at);
        }
        let published = &mut self.published;
        published.sent += payloads.len() as u64;
        let now_ns = self.scene.clock.now_ns();
        if self.scene.window.contains(due_ns) {
            published.lateness.saturating_record(now_ns - due_ns);
            if self.scene.window.contains(now_ns) {
                published.sent_in_window += payloads.len() as u64;
            }
        }
        if !alive {
            self.give_up(at);
        }
    }

    /// The place among this publisher's topics of the one that is next.
    fn take_turn(&mut self) -> usize {
        self.turn = self.turn.wrapping_add(1);
        match self.cumulative.last() {
            Some(&all) => {
                let drawn = self.random.f64() * all;
                self.cumulative.partition_point(|&sum| sum <= drawn).min(self.cumulative.len() - 1)
            }
            None => self.turn % self.recipe.topics.len(),
        }
    }

    /// Writes what waits and reads what came on one connection.
    fn exchange(&mut self, at: usize, readable: bool, buffer: &mut [u8]) {
        let connection = &mut self.connections[at];
        let alive = !readable || connection.receive(buffer);
        let greeted = connection.flush(&self.outgoing);
        let alive = self.take_answers(at) && alive && greeted;
        // Answers make room for requests that wait for them.
        let alive = self.connections[at].flush(&self.outgoing) && alive;
        if !alive {
            self.give_up(at);
        }
    }

    /// Counts the answers that are there; `false` after the last one of a connection.
    fn take_answers(&mut self, at: usize) -> bool {
        let mut used = 0;
        let alive = loop {
            let connection = &mut self.connections[at];
            let (heard, length) = self.outgoing.hear(&connection.received[used..]);
            used += length;
            match heard {
                Heard::Nothing => break true,
                Heard::End => break false,
                Heard::Other => {}
                Heard::Reply(bytes) => connection.reply(&bytes),
                Heard::Answer { accepted, status, last, epoch } => {
                    let Some(post) = connection.unanswered.pop_front() else { break false };
                    if let Some(epoch) = epoch {
                        self.scene.topics[post.topic].epoch.get_or_init(|| epoch);
                    }
                    self.answered(&post, accepted, status);
                    if last {
                        break false;
                    }
                }
            }
        };
        self.connections[at].received.drain(..used);
        alive
    }

    fn answered(&mut self, post: &Post, accepted: bool, status: u16) {
        *self.published.statuses.entry(status).or_default() += 1;
        if accepted {
            self.published.acknowledged += post.messages;
            self.progress.acknowledged.fetch_add(post.messages, Relaxed);
        } else {
            self.scene.topics[post.topic].refuse(post.first, post.messages);
        }
        if self.scene.window.contains(post.due_ns) {
            let now_ns = self.scene.clock.now_ns();
            self.published.answered.saturating_record(now_ns - post.due_ns);
        }
    }

    /// Where no answer comes, what is handed over counts as accepted.
    fn take_as_answered(&mut self, at: usize) {
        while let Some(post) = self.connections[at].unanswered.pop_front() {
            self.answered(&post, true, 200);
        }
    }

    /// Gives a connection up; the next request over it makes a new one.
    fn give_up(&mut self, at: usize) {
        self.progress.broken.fetch_add(1, Relaxed);
        for post in self.connections[at].give_up() {
            self.published.unanswered += 1;
            self.scene.topics[post.topic].refuse(post.first, post.messages);
        }
    }
}

impl Feed {
    fn next_due_ns(&self) -> Option<u64> {
        match self {
            Self::Made(schedule) => schedule.next_due_ns(),
            Self::Recorded(playback, recorded) => playback.next_due_ns(recorded),
        }
    }

    /// Nothing comes after this.
    fn stop(&mut self) {
        match self {
            Self::Made(schedule) => schedule.stop(),
            Self::Recorded(playback, _) => playback.stop(),
        }
    }
}

/// The topics of thread `at` of `threads`: every so many-th, so that all get popular ones.
pub(crate) fn topics_of(at: usize, threads: usize, topics: usize) -> Vec<usize> {
    (at..topics).step_by(threads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_has_one_thread() {
        for (threads, topics) in [(1, 1), (2, 5), (3, 3)] {
            let mut all: Vec<_> = (0..threads).flat_map(|at| topics_of(at, threads, topics)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..topics).collect::<Vec<_>>());
        }
    }
}
