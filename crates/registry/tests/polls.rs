//! Polls and resumes by cursor, while publishers on several lanes finish in any order.

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use fanfare_registry::Registry;
use fanfare_wire::command::Start;
use fanfare_wire::{Message, Name, Topic};

use support::{LIMITS, Mailboxes, Random, StopOnPanic, drafts, pattern, ring, topic};

const TOPICS: usize = 600;
const PUBLISHERS: usize = 4;
const PUBLISHES: usize = 4_000;
/// Few, so that an answer is cut, or as many as there are, so that a poller keeps up.
const MESSAGES_PER_POLL_MAX: [usize; 2] = [50, 1_000_000];

/// A client that comes back with the cursor it got.
struct Poller<'a> {
    registry: &'a Registry,
    cursor: Option<u64>,
    /// The last offset seen of each topic.
    seen: HashMap<Topic, u64>,
    received: usize,
}

impl Poller<'_> {
    /// Returns whether there was anything new.
    fn poll(&mut self, max: usize) -> bool {
        let mut selection =
            vec![Name::Pattern(pattern("t.>")), Name::Topic(topic("t.0")), Name::Topic(topic("unheard.of"))];
        // They match nothing, but take their time: enough for topics to be born after those of `t` were looked for.
        selection.extend(vec![Name::Pattern(pattern("t.*.of")); 10]);
        let epoch = self.registry.epoch().to_string();
        let cursor = self.cursor.map(|sequence| (epoch.as_str(), sequence));
        let polled = self.registry.since(&selection, cursor, max, Instant::now());
        let polled = polled.expect("there are few topics");
        assert!(!polled.gap, "everything is kept, and {cursor:?} was a watermark");
        let before = self.cursor.replace(polled.sequence);
        assert!(before <= self.cursor, "{before:?}, then {:?}", self.cursor);
        let mut sequence = before.unwrap_or_default();
        for message in &polled.messages {
            assert!(sequence < message.sequence() && message.sequence() <= polled.sequence);
            sequence = message.sequence();
            self.see(message, before.is_none());
        }
        before != self.cursor
    }

    fn see(&mut self, message: &Message, is_last_value: bool) {
        self.received += 1;
        let seen = self.seen.entry(message.topic().clone()).or_default();
        assert!(is_last_value || message.offset() == *seen + 1, "{message:?} after {seen}");
        *seen = message.offset();
    }

    /// Joins a topic where it stands, and leaves again.
    fn resume(&self, shard: usize, topic: &Topic) {
        let Some(sequence) = self.cursor else { return };
        let start = Start::Since { epoch: self.registry.epoch().to_string().into(), sequence };
        let joined = self.registry.join(topic, shard, &start, Instant::now()).expect("there are few topics");
        self.registry.leave(topic, shard, true);
        assert_eq!(joined.recovered, Some(true));
        let seen = self.seen.get(topic).copied().unwrap_or_default();
        let offsets: Vec<u64> = joined.replay.iter().map(|message| message.offset()).collect();
        assert_eq!(
            offsets,
            (seen + 1..=joined.position.offset).collect::<Vec<_>>(),
            "{topic} since {sequence}"
        );
    }
}

#[test]
fn a_poller_sees_every_message_once_in_order_and_never_a_gap() {
    let registry = Registry::new(LIMITS, |_| ring(usize::MAX));
    let topics: Vec<_> = (0..TOPICS).map(|index| topic(&format!("t.{index}"))).collect();
    let mailboxes = Mailboxes::new(2, usize::MAX);
    let (failed, publishing) = (AtomicBool::new(false), AtomicUsize::new(PUBLISHERS));
    thread::scope(|scope| {
        for lane in 0..PUBLISHERS {
            let (registry, topics, mailboxes, failed, publishing) =
                (&registry, &topics, &mailboxes, &failed, &publishing);
            scope.spawn(move || {
                let _stop = StopOnPanic(failed);
                let mut random = Random::new(lane as u64);
                for publish in 0..PUBLISHES {
                    // Topics appear all the time, and the newest are the busiest.
                    let born = 1 + publish * TOPICS / PUBLISHES;
                    let topic = &topics[born - 1 - random.below(born.min(20))];
                    let drafts = drafts(topic, 1 + random.below(3));
                    registry.admit(lane, topic, drafts, Instant::now(), mailboxes).expect("there is room");
                    if random.chance(2) || failed.load(Ordering::Acquire) {
                        thread::yield_now();
                    }
                }
                publishing.fetch_sub(1, Ordering::Release);
            });
        }
        for shard in 0..2 {
            let (registry, topics, mailboxes, failed, publishing) =
                (&registry, &topics, &mailboxes, &failed, &publishing);
            scope.spawn(move || {
                let _stop = StopOnPanic(failed);
                let mut random = Random::new(100 + shard as u64);
                // One begins before everything, the other with last values.
                let cursor = (shard == 0).then_some(0);
                let mut poller = Poller { registry, cursor, seen: HashMap::new(), received: 0 };
                loop {
                    let ended = publishing.load(Ordering::Acquire) == 0 || failed.load(Ordering::Acquire);
                    let news = poller.poll(MESSAGES_PER_POLL_MAX[random.below(2)]);
                    if random.chance(2) {
                        poller.resume(shard, &topics[random.below(TOPICS)]);
                        mailboxes.take(shard);
                    }
                    if ended && !news {
                        break;
                    }
                }
                let published = registry.watermark();
                assert_eq!(poller.cursor, Some(published));
                if cursor.is_some() {
                    assert_eq!(poller.received as u64, published);
                }
                for (topic, seen) in &poller.seen {
                    let info = registry.info(topic, Instant::now()).expect("it was published to");
                    assert_eq!(*seen, info.position.offset, "{topic}");
                }
            });
        }
    });
}
