//! The publishers: POSTs on an open schedule, over a few keep-alive connections.
//!
//! A POST is written when it is due and not when the one before it was answered: requests are pipelined (RFC 9112,
//! section 9.3.2). All messages of a topic go over the same connection, so the server receives them in order; several
//! connections keep a slow answer from holding up other topics. Each topic belongs to one publisher.
//!
//! # Owner        one thread each
//! # Bounds       those of its connections; what is due past them is left out, and counted
//! # Invariants   a sequence number is used once, and only for a message that a connection took

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use fanfare_market::Market;
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::connection::{Connection, Post};
use crate::crowd::Scene;
use crate::http::{self, Parsed};
use crate::payload::Stamp;
use crate::recorder::histogram;
use crate::schedule::Schedule;

const CONNECTIONS_MAX: usize = 8;
const READ_BYTES: usize = 64 * 1024;
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
    /// Deliveries they should cause.
    pub(crate) expected: AtomicU64,
    /// The sum, over the subscribers, of one past the newest sequence number acknowledged in their topic.
    pub(crate) reach: AtomicU64,
    /// The schedule is at its end and every POST is answered.
    pub(crate) finished: AtomicBool,
}

/// What one publisher, or all of them together, published.
#[derive(Debug)]
pub(crate) struct Published {
    /// Messages acknowledged, for each topic.
    pub(crate) acknowledged: Vec<u64>,
    /// One past the newest sequence number acknowledged, for each topic.
    pub(crate) newest: Vec<u64>,
    /// Messages handed to the socket.
    pub(crate) sent: u64,
    /// Of these, messages due in the window and sent before it ended.
    pub(crate) sent_in_window: u64,
    pub(crate) posts: u64,
    /// Answers by status.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// POSTs whose connection ended before the answer came.
    pub(crate) unanswered: u64,
    /// Messages not sent, for want of a connection or because too much waited already.
    pub(crate) skipped: u64,
    /// Nanoseconds from when a POST was due to its answer, for POSTs due in the window.
    pub(crate) answered: Histogram<u64>,
    /// Nanoseconds from when a POST was due to when it was handed to the socket, likewise.
    pub(crate) lateness: Histogram<u64>,
}

/// How messages are made and which topics they go to.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// This publisher's topics.
    pub(crate) topics: Vec<usize>,
    /// The topic of a POST is drawn by the market's weights; otherwise the topics take turns.
    pub(crate) drawn: bool,
    pub(crate) batch: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) seed: u64,
    /// Subscribers of each topic of the run.
    pub(crate) subscribers: Vec<u64>,
}

/// Some of the topics' publisher, on one thread.
#[derive(Debug)]
pub(crate) struct Publisher {
    scene: Arc<Scene>,
    progress: Arc<Progress>,
    schedule: Schedule,
    recipe: Recipe,
    market: Market,
    topics: Vec<Topic>,
    turn: usize,
    connections: Vec<Connection>,
    published: Published,
}

#[derive(Debug)]
struct Topic {
    index: usize,
    next_sequence: u64,
    connection: usize,
    /// Every POST of a topic has the same head, because its body has the same length.
    head: Vec<u8>,
}

impl Published {
    pub(crate) fn new(topics: usize) -> Self {
        Self {
            acknowledged: vec![0; topics],
            newest: vec![0; topics],
            sent: 0,
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
        self.acknowledged.iter_mut().zip(&other.acknowledged).for_each(|(sum, part)| *sum += part);
        // A topic has one publisher.
        self.newest.iter_mut().zip(&other.newest).for_each(|(all, part)| *all = part.max(all).to_owned());
        other.statuses.iter().for_each(|(&status, count)| *self.statuses.entry(status).or_default() += count);
        self.sent += other.sent;
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
        schedule: Schedule,
        recipe: Recipe,
    ) -> Self {
        let connections = recipe.topics.len().min(CONNECTIONS_MAX);
        let body_bytes = recipe.batch * (recipe.payload_bytes + 1) - 1;
        let (query, kind) = if recipe.batch > 1 {
            ("?split=lines", "application/x-ndjson")
        } else {
            ("", "application/json")
        };
        let head = |topic: usize| {
            format!(
                "POST /topics/{}{query} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {body_bytes}\r\n\r\n",
                scene.topics[topic], scene.authority
            )
        };
        let topic = |(turn, &index): (usize, &usize)| Topic {
            index,
            next_sequence: 0,
            connection: turn % connections,
            head: head(index).into_bytes(),
        };
        Self {
            topics: recipe.topics.iter().enumerate().map(topic).collect(),
            market: Market::new(scene.topics.len(), recipe.seed),
            turn: 0,
            connections: (0..connections).map(|_| Connection::default()).collect(),
            published: Published::new(scene.topics.len()),
            scene,
            progress,
            schedule,
            recipe,
        }
    }

    /// Publishes what is due until the schedule ends, then waits for the answers.
    pub(crate) fn run(mut self) -> rustix::io::Result<Published> {
        rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS))?;
        // Where it may (CAP_SYS_NICE), it goes before those that it would otherwise wait for a few milliseconds; it
        // needs a hundredth of a core. Where not, lateness tells.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), PRIORITY);
        let mut buffer = vec![0; READ_BYTES];
        let mut readable = 0;
        for connection in &mut self.connections {
            // Before the first POST is due; one that fails here is tried again then.
            connection.is_ready(&self.scene, self.scene.clock.now_ns());
        }
        loop {
            if self.progress.stop.load(Relaxed) {
                self.schedule.stop();
            }
            // One turn takes what is due at its beginning: catching up doesn't keep answers from being read.
            let turn_ns = self.scene.clock.now_ns();
            while let Some(due_ns) = self.schedule.take_due(turn_ns) {
                self.post(due_ns);
            }
            (0..self.connections.len())
                .for_each(|at| self.exchange(at, readable & 1 << at != 0, &mut buffer));
            if self.progress.abandon.load(Relaxed) {
                break;
            }
            if self.schedule.next_due_ns().is_none() && self.connections.iter().all(Connection::is_idle) {
                self.progress.finished.store(true, Relaxed);
            }
            readable = self.wait()?;
        }
        for connection in &mut self.connections {
            self.published.unanswered += connection.unanswered.len() as u64;
        }
        Ok(self.published)
    }

    /// Sleeps until the next POST is due or a socket has something; a bit for each connection that can be read.
    fn wait(&self) -> rustix::io::Result<u32> {
        let now_ns = self.scene.clock.now_ns();
        let sleep_ns =
            self.schedule.next_due_ns().map_or(TURN_MAX_NS, |due_ns| due_ns.saturating_sub(now_ns));
        let timeout = Timespec { tv_sec: 0, tv_nsec: sleep_ns.min(TURN_MAX_NS).cast_signed() };
        let connected =
            || self.connections.iter().enumerate().filter(|(_, connection)| connection.socket.is_some());
        let mut sockets: Vec<_> = connected().filter_map(|(_, connection)| connection.interest()).collect();
        match poll(&mut sockets, Some(&timeout)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(0),
            Err(error) => return Err(error),
        }
        // An error or a hang-up is found by reading, too.
        let quiet = |socket: &PollFd<'_>| (socket.revents() - PollFlags::OUT).is_empty();
        Ok(connected()
            .zip(&sockets)
            .fold(0, |bits, ((at, _), socket)| bits | u32::from(!quiet(socket)) << at))
    }

    /// Writes a POST with the messages due at `due_ns`.
    fn post(&mut self, due_ns: u64) {
        let turn = self.take_turn();
        let batch = self.recipe.batch;
        let topic = &mut self.topics[turn];
        let connection = &mut self.connections[topic.connection];
        let now_ns = self.scene.clock.now_ns();
        if !connection.is_ready(&self.scene, now_ns) {
            self.published.skipped += batch as u64;
            return;
        }
        connection.unsent.extend_from_slice(&topic.head);
        for message in 0..batch {
            if message > 0 {
                connection.unsent.push(b'\n');
            }
            let stamp = Stamp { intended_ns: due_ns, sequence: topic.next_sequence };
            let quote = self.market.tick_of(topic.index);
            stamp.write_payload(&quote, self.recipe.payload_bytes, &mut connection.unsent);
            topic.next_sequence += 1;
        }
        connection.unanswered.push_back(Post {
            topic: topic.index,
            next_sequence: topic.next_sequence,
            due_ns,
        });
        // A socket with room takes it at once: the next POST that is due already must not delay this one.
        let alive = connection.flush();
        let published = &mut self.published;
        published.posts += 1;
        published.sent += batch as u64;
        let now_ns = self.scene.clock.now_ns();
        if self.scene.window.contains(due_ns) {
            published.lateness.saturating_record(now_ns - due_ns);
            if self.scene.window.contains(now_ns) {
                published.sent_in_window += batch as u64;
            }
        }
        if !alive {
            self.broken(self.topics[turn].connection);
        }
    }

    /// The place in `topics` of the topic that is next.
    fn take_turn(&mut self) -> usize {
        if self.recipe.drawn {
            loop {
                let drawn = self.market.tick().index;
                // Those of another publisher are drawn again: among its own topics the weights keep their proportions.
                if let Ok(turn) = self.recipe.topics.binary_search(&drawn) {
                    return turn;
                }
            }
        }
        self.turn = (self.turn + 1) % self.topics.len();
        self.turn
    }

    /// Writes what waits and reads what came on one connection.
    fn exchange(&mut self, at: usize, readable: bool, buffer: &mut [u8]) {
        let connection = &mut self.connections[at];
        let alive = connection.flush() && (!readable || connection.receive(buffer));
        let alive = self.take_answers(at) && alive;
        if !alive {
            self.broken(at);
        }
    }

    /// Counts the answers that are there; `false` after the last one of a connection.
    fn take_answers(&mut self, at: usize) -> bool {
        let connection = &mut self.connections[at];
        let mut used = 0;
        let alive = loop {
            match http::answer(&connection.received[used..]) {
                Parsed::Partial => break true,
                Parsed::Malformed(_) => break false,
                Parsed::Whole(answer, length) => {
                    used += length;
                    let Some(post) = connection.unanswered.pop_front() else { break false };
                    let batch = self.recipe.batch as u64;
                    *self.published.statuses.entry(answer.status).or_default() += 1;
                    if answer.status == 200 {
                        let subscribers = self.recipe.subscribers[post.topic];
                        let newest = &mut self.published.newest[post.topic];
                        let before = std::mem::replace(newest, post.next_sequence);
                        self.published.acknowledged[post.topic] += batch;
                        self.progress.expected.fetch_add(batch * subscribers, Relaxed);
                        self.progress.reach.fetch_add((post.next_sequence - before) * subscribers, Relaxed);
                        self.progress.acknowledged.fetch_add(batch, Relaxed);
                    }
                    if self.scene.window.contains(post.due_ns) {
                        let now_ns = self.scene.clock.now_ns();
                        self.published.answered.saturating_record(now_ns - post.due_ns);
                    }
                    if answer.last {
                        break false;
                    }
                }
            }
        };
        connection.received.drain(..used);
        alive
    }

    /// Gives a connection up; the next POST over it makes a new one.
    fn broken(&mut self, at: usize) {
        let connection = std::mem::take(&mut self.connections[at]);
        self.published.unanswered += connection.unanswered.len() as u64;
    }
}

/// The topics of publisher `at` of `publishers`: every so many-th, so that all get popular ones.
pub(crate) fn topics_of(at: usize, publishers: usize, topics: usize) -> Vec<usize> {
    (at..topics).step_by(publishers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_has_one_publisher() {
        for (publishers, topics) in [(1, 1), (2, 5), (3, 3)] {
            let mut all: Vec<_> = (0..publishers).flat_map(|at| topics_of(at, publishers, topics)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..topics).collect::<Vec<_>>());
        }
    }
}
