//! Publishers, workers and the sweep on the same few topics at once: what reaches an inbox is in order and without holes.

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use fanfare_registry::{AdmitError, Registry, RegistryLimits, Retention};
use fanfare_wire::command::Start;
use fanfare_wire::{Epoch, Message, Pattern, Topic};

use support::{LIMITS, Mailboxes, Random, StopOnPanic, drafts, pattern, topic};

const TOPICS: usize = 5;
const PUBLISHERS: usize = 4;
const WORKERS: usize = 3;
const PUBLISHES: usize = 3_000;
const INBOX_MESSAGES_MAX: usize = 50;
/// Each matches some of the topics, and some topics are matched twice.
const PATTERNS: [&str; 3] = ["t.*", "*.1", ">"];

/// What a worker knows of a topic it has, by name or by pattern.
struct Tie {
    epoch: Epoch,
    /// The offset it stands at: where it joined, or the last message since.
    last: u64,
    /// Where it joined: a topic that was forgotten and came back while a pattern was joined may have sent what is before.
    joined: u64,
}

/// A worker that joins and leaves topics and patterns and checks what comes.
struct Worker<'a> {
    shard: usize,
    registry: &'a Registry,
    mailboxes: &'a Mailboxes,
    topics: &'a [Topic],
    /// Topics it has by name, and the life they were in: a subscriber keeps it.
    direct: HashMap<Topic, Epoch>,
    patterns: Vec<Pattern>,
    ties: HashMap<Topic, Tie>,
    /// The last offset seen of each topic and epoch, over all ties.
    seen: HashMap<(Topic, Epoch), u64>,
    received: usize,
    /// The watermark before the inbox was read last: everything up to it has been here.
    passed: u64,
    /// Messages of topics that were born after the pattern.
    born: usize,
}

impl<'a> Worker<'a> {
    /// A worker that wants every topic: publishers soon wait until it reads.
    fn new(shard: usize, registry: &'a Registry, mailboxes: &'a Mailboxes, topics: &'a [Topic]) -> Self {
        let mut worker = Self {
            shard,
            registry,
            mailboxes,
            topics,
            direct: HashMap::new(),
            patterns: Vec::new(),
            ties: HashMap::new(),
            seen: HashMap::new(),
            received: 0,
            passed: 0,
            born: 0,
        };
        for topic in topics {
            worker.join(topic);
        }
        worker
    }

    fn turn(&mut self, random: &mut Random) {
        if random.chance(50) {
            let topic = &self.topics[random.below(TOPICS)];
            if self.direct.remove(topic).is_some() {
                self.registry.leave(topic, self.shard, true);
                self.forget_unwanted();
            } else if random.chance(33) {
                // Mostly nobody is interested, so that the sweep finds topics to forget.
                self.join(topic);
            }
        } else {
            let pattern = pattern(PATTERNS[random.below(PATTERNS.len())]);
            if let Some(index) = self.patterns.iter().position(|joined| *joined == pattern) {
                self.patterns.remove(index);
                self.registry.leave_pattern(&pattern, self.shard, true);
                self.forget_unwanted();
            } else if random.chance(50) {
                self.join_pattern(pattern);
            }
        }
        self.read();
    }

    fn wants(&self, topic: &Topic) -> bool {
        self.direct.contains_key(topic) || self.patterns.iter().any(|pattern| pattern.matches(topic))
    }

    fn join(&mut self, topic: &Topic) {
        let joined =
            self.registry.join(topic, self.shard, &Start::Last, Instant::now()).expect("within the bounds");
        for message in &joined.replay {
            assert_eq!((message.epoch(), message.offset()), (joined.position.epoch, joined.position.offset));
        }
        let (epoch, offset) = (joined.position.epoch, joined.position.offset);
        // One that it has already may have messages in the inbox: it goes on where it stands.
        if !self.wants(topic) {
            self.ties.insert(topic.clone(), Tie { epoch, last: offset, joined: offset });
        }
        self.direct.insert(topic.clone(), epoch);
    }

    fn join_pattern(&mut self, pattern: Pattern) {
        let joined = self.registry.join_pattern(&pattern, self.shard, |_| Start::Live, Instant::now());
        for (topic, joined) in joined.expect("within the bounds") {
            assert!(pattern.matches(&topic));
            if !self.wants(&topic) {
                let (epoch, offset) = (joined.position.epoch, joined.position.offset);
                self.ties.insert(topic, Tie { epoch, last: offset, joined: offset });
            }
        }
        self.patterns.push(pattern);
    }

    /// After leaving: whatever was handed over before is here now, and nothing comes after.
    fn forget_unwanted(&mut self) {
        self.read();
        let ties = std::mem::take(&mut self.ties);
        self.ties = ties.into_iter().filter(|(topic, _)| self.wants(topic)).collect();
    }

    fn read(&mut self) {
        let watermark = self.registry.watermark();
        for message in self.mailboxes.take(self.shard) {
            self.received += 1;
            assert!(message.sequence() > self.passed, "{message:?} after {}", self.passed);
            let (topic, epoch, offset) = (message.topic(), message.epoch(), message.offset());
            let before = self.seen.insert((topic.clone(), epoch), offset);
            assert!(before.is_none_or(|before| before < offset), "{topic} {offset} after {before:?}");
            match self.ties.get_mut(topic) {
                Some(tie) if tie.epoch == epoch && offset <= tie.joined => {}
                Some(tie) if tie.epoch == epoch => {
                    assert_eq!(offset, tie.last + 1, "{topic}: the next message");
                    tie.last = offset;
                }
                // Patterns keep no topic: it was forgotten, or was not there yet, and a pattern has it from the first on.
                tie => {
                    let kept = tie.is_some_and(|tie| self.direct.get(topic) == Some(&tie.epoch));
                    assert!(!kept, "{topic} {offset} in another epoch");
                    assert_eq!(offset, 1, "{topic}: the first message");
                    self.born += 1;
                    self.ties.insert(topic.clone(), Tie { epoch, last: offset, joined: 0 });
                }
            }
        }
        self.passed = watermark;
    }
}

#[test]
fn every_inbox_sees_every_topic_in_order() {
    let topics: Vec<_> = (0..TOPICS).map(|index| topic(&format!("t.{index}"))).collect();
    let limits = RegistryLimits { topics_max: TOPICS, retained_bytes_max: 1_000, ..LIMITS };
    let registry = Registry::new(limits, |_| Retention { last_value: true, replay: None });
    let (mailboxes, done) = (Mailboxes::new(WORKERS, INBOX_MESSAGES_MAX), AtomicBool::new(false));

    let published = thread::scope(|scope| {
        let _stop = StopOnPanic(&done);
        let workers: Vec<_> = (0..WORKERS)
            .map(|shard| {
                let mut worker = Worker::new(shard, &registry, &mailboxes, &topics);
                let done = &done;
                scope.spawn(move || {
                    let _stop = StopOnPanic(done);
                    let mut random = Random::new(1_000 + shard as u64);
                    while !done.load(Ordering::Acquire) {
                        worker.turn(&mut random);
                        thread::yield_now();
                    }
                    worker.read();
                    (worker.received, worker.born)
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
        let mut born_in_all = 0;
        for worker in workers {
            let (received, born) = worker.join().expect("a worker panicked");
            assert!(received > 0, "a worker received nothing");
            born_in_all += born;
        }
        assert!(born_in_all > 0, "no topic was born while a pattern waited for it");
        sweeper.join().expect("the sweep panicked");
        places.len()
    });

    registry.sweep();
    assert!(registry.topics() <= TOPICS);
    let now = Instant::now();
    let cost = |message: &Message| message.payload().len() + 256;
    let kept: usize =
        topics.iter().filter_map(|topic| registry.last(topic, now)).map(|last| cost(&last.message)).sum();
    assert_eq!(registry.retained_bytes(), kept);
    assert_eq!(registry.watermark(), published as u64);
}

/// Publishes batches of one to three, again when an inbox is full; returns every place it was given.
fn publish(
    registry: &Registry,
    mailboxes: &Mailboxes,
    topics: &[Topic],
    publisher: usize,
    done: &AtomicBool,
) -> Vec<(usize, Epoch, u64)> {
    let mut random = Random::new(publisher as u64);
    let mut places = Vec::new();
    let mut published = 0;
    while published < PUBLISHES && !done.load(Ordering::Acquire) {
        // A publisher stays with a topic for a while: one of the others is idle, and the sweep may forget it.
        let index = (published / 50 + publisher) % TOPICS;
        let count = 1 + random.below(3);
        let drafts = drafts(&topics[index], count);
        let admitted = match registry.admit(publisher, &topics[index], drafts, Instant::now(), mailboxes) {
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
