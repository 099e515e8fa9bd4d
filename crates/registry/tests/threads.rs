//! Publishers, workers and the sweep on the same few topics at once: what reaches an inbox is in order and without holes.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use fanfare_registry::{
    AdmitError, BatchSize, InboxFull, Inboxes, Registry, RegistryLimits, Retention, ShardSet,
};
use fanfare_wire::command::Start;
use fanfare_wire::{Draft, Epoch, Kind, Message, Topic};

const TOPICS: usize = 5;
const PUBLISHERS: usize = 4;
const WORKERS: usize = 3;
const PUBLISHES: usize = 3_000;
const INBOX_MESSAGES_MAX: usize = 50;

/// One inbox per worker. They are bounded, so some publishes are refused, and must leave no trace.
#[derive(Default)]
struct Mailboxes([Mutex<Mailbox>; WORKERS]);

#[derive(Default)]
struct Mailbox {
    reserved: usize,
    messages: Vec<Arc<Message>>,
}

impl Mailboxes {
    fn with<R>(&self, shard: usize, change: impl FnOnce(&mut Mailbox) -> R) -> R {
        change(&mut self.0[shard].lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self, shard: usize) -> Vec<Arc<Message>> {
        self.with(shard, |mailbox| {
            let messages = std::mem::take(&mut mailbox.messages);
            mailbox.reserved -= messages.len();
            messages
        })
    }
}

impl Inboxes for Mailboxes {
    fn reserve(&self, shards: ShardSet, size: BatchSize) -> Result<(), InboxFull> {
        let mut reserved = ShardSet::EMPTY;
        for shard in shards.iter() {
            let fits = self.with(shard, |mailbox| {
                let fits = mailbox.reserved + size.messages <= INBOX_MESSAGES_MAX;
                mailbox.reserved += if fits { size.messages } else { 0 };
                fits
            });
            if !fits {
                for shard in reserved.iter() {
                    self.with(shard, |mailbox| mailbox.reserved -= size.messages);
                }
                return Err(InboxFull);
            }
            reserved.insert(shard);
        }
        Ok(())
    }

    fn push(&self, shards: ShardSet, messages: Vec<Arc<Message>>, _: BatchSize) -> ShardSet {
        for shard in shards.iter() {
            self.with(shard, |mailbox| mailbox.messages.extend(messages.iter().cloned()));
        }
        shards
    }
}

/// Ends the test for everybody when one thread fails, or the others would wait for it.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}

/// What a worker knows of its subscription to one topic.
struct Tie {
    epoch: Epoch,
    /// The offset it stands at: where it joined, or the last message since.
    last: u64,
}

/// A worker that joins and leaves topics and checks what comes.
struct Worker<'a> {
    shard: usize,
    registry: &'a Registry,
    mailboxes: &'a Mailboxes,
    topics: &'a [Topic],
    ties: HashMap<Topic, Tie>,
    /// The last offset seen of each topic and epoch, over all ties.
    seen: HashMap<(Topic, Epoch), u64>,
    received: usize,
}

impl<'a> Worker<'a> {
    /// A worker that wants every topic: publishers soon wait until it reads.
    fn new(shard: usize, registry: &'a Registry, mailboxes: &'a Mailboxes, topics: &'a [Topic]) -> Self {
        let (ties, seen) = (HashMap::new(), HashMap::new());
        let mut worker = Self { shard, registry, mailboxes, topics, ties, seen, received: 0 };
        for topic in topics {
            worker.join(topic);
        }
        worker
    }

    fn turn(&mut self, random: usize) {
        let topic = &self.topics[random % TOPICS];
        if self.ties.contains_key(topic) {
            self.registry.leave(topic, self.shard);
            // Whatever was handed over before is here now, and nothing comes after.
            self.read();
            self.ties.remove(topic);
        } else if random % (3 * TOPICS) < TOPICS {
            // Mostly nobody is interested, so that the sweep finds topics to forget.
            self.join(topic);
        }
        self.read();
    }

    fn join(&mut self, topic: &Topic) {
        let joined =
            self.registry.join(topic, self.shard, &Start::Last, Instant::now()).expect("within the bounds");
        for message in &joined.replay {
            assert_eq!((message.epoch(), message.offset()), (joined.position.epoch, joined.position.offset));
        }
        let (epoch, offset) = (joined.position.epoch, joined.position.offset);
        self.ties.insert(topic.clone(), Tie { epoch, last: offset });
    }

    fn read(&mut self) {
        for message in self.mailboxes.take(self.shard) {
            self.received += 1;
            let (topic, epoch, offset) = (message.topic(), message.epoch(), message.offset());
            let before = self.seen.insert((topic.clone(), epoch), offset);
            assert!(before.is_none_or(|before| before < offset), "{topic} {offset} after {before:?}");
            let tie = self.ties.get_mut(topic).unwrap_or_else(|| panic!("{topic} {offset} after leaving"));
            assert_eq!((epoch, offset), (tie.epoch, tie.last + 1), "{topic}: the next message");
            tie.last = offset;
        }
    }
}

#[test]
fn every_inbox_sees_every_topic_in_order() {
    let topics: Vec<_> = (0..TOPICS).map(|index| Topic::new(&format!("t{index}")).expect("valid")).collect();
    let limits = RegistryLimits { topics_max: TOPICS, retained_bytes_max: 1_000 };
    let registry = Registry::new(limits, |_| Retention { last_value: true, replay: None });
    let (mailboxes, done) = (Mailboxes::default(), AtomicBool::new(false));

    thread::scope(|scope| {
        let _stop = StopOnPanic(&done);
        let workers: Vec<_> = (0..WORKERS)
            .map(|shard| {
                let mut worker = Worker::new(shard, &registry, &mailboxes, &topics);
                let done = &done;
                scope.spawn(move || {
                    let _stop = StopOnPanic(done);
                    let mut random = numbers(1_000 + shard as u64);
                    while !done.load(Ordering::Acquire) {
                        worker.turn(random());
                        thread::yield_now();
                    }
                    worker.read();
                    worker.received
                })
            })
            .collect();
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let (registry, mailboxes, topics, done) = (&registry, &mailboxes, &topics, &done);
                scope.spawn(move || {
                    let _stop = StopOnPanic(done);
                    publish(registry, mailboxes, topics, publisher, done)
                })
            })
            .collect();
        let sweeper = scope.spawn(|| {
            let _stop = StopOnPanic(&done);
            while !done.load(Ordering::Acquire) {
                registry.sweep();
                thread::yield_now();
            }
        });

        let mut places = HashSet::new();
        for publisher in publishers {
            for place in publisher.join().expect("a publisher panicked") {
                assert!(places.insert(place), "{place:?} was given twice");
            }
        }
        done.store(true, Ordering::Release);
        for worker in workers {
            assert!(worker.join().expect("a worker panicked") > 0, "a worker received nothing");
        }
        sweeper.join().expect("the sweep panicked");
    });

    registry.sweep();
    assert!(registry.topics() <= TOPICS);
    let kept: usize =
        topics.iter().filter_map(|topic| registry.last(topic)).map(|m| m.payload().len() + 256).sum();
    assert_eq!(registry.retained_bytes(), kept);
}

/// Publishes batches of one to three, again when an inbox is full; returns every place it was given.
fn publish(
    registry: &Registry,
    mailboxes: &Mailboxes,
    topics: &[Topic],
    publisher: usize,
    done: &AtomicBool,
) -> Vec<(usize, Epoch, u64)> {
    let mut random = numbers(publisher as u64);
    let mut places = Vec::new();
    let mut published = 0;
    while published < PUBLISHES && !done.load(Ordering::Acquire) {
        // A publisher stays with a topic for a while: one of the others is idle, and the sweep may forget it.
        let index = (published / 50 + publisher) % TOPICS;
        let count = 1 + random() % 3;
        let draft = Draft::new(topics[index].clone(), Kind::Text, b"payload");
        let admitted = match registry.admit(&topics[index], vec![draft; count], Instant::now(), mailboxes) {
            Ok(admitted) => admitted,
            Err(AdmitError::TooManyTopics) => panic!("there are not more topics than may be"),
            Err(AdmitError::Busy(_)) => {
                thread::yield_now();
                continue;
            }
        };
        published += 1;
        assert_eq!(admitted.last + 1 - admitted.first, count as u64);
        places.extend((admitted.first..=admitted.last).map(|offset| (index, admitted.epoch, offset)));
    }
    places
}

/// Endless numbers from a seed.
fn numbers(seed: u64) -> impl FnMut() -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize
    }
}
