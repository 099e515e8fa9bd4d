//! What a topic keeps for those who come later: a ring of its newest messages, and with it the last value.
//!
//! # Bounds       [`ReplayLimits`] per topic; [`RegistryLimits::retained_bytes_max`](crate::RegistryLimits) over all topics
//! # Invariants
//! - Offsets in the ring are dense and end at the topic's head; sequences rise with them.
//! - Every message of the topic is in the ring, or its sequence is at most `lost_through`.
//! - `bytes` is the sum of [`cost`] over the ring.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_wire::Message;
use fanfare_wire::command::Start;
use fanfare_wire::{Epoch, Position};

use crate::sequence::Sequence;

/// The bounds of one topic's ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayLimits {
    /// Messages kept.
    pub messages_max: usize,
    /// How long a message can be replayed.
    pub age_max: Duration,
    /// Memory of the messages kept.
    pub bytes_max: usize,
}

/// What a topic keeps, decided when it appears and when it is reviewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Whether a new subscriber gets the last message.
    pub last_value: bool,
    /// What a resuming subscriber can catch up on; nothing if `None`.
    pub replay: Option<ReplayLimits>,
}

/// What a message costs in memory beside its payload: its place, its frame's header, its topic and the ring's own entry.
pub(crate) const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// The newest messages of a topic, oldest first.
#[derive(Debug)]
pub(crate) struct Replay {
    retention: Retention,
    ring: VecDeque<Kept>,
    bytes: usize,
    /// The greatest sequence that is not in the ring any more, or that never was.
    lost_through: u64,
}

#[derive(Debug)]
struct Kept {
    message: Arc<Message>,
    at: Instant,
}

fn cost(message: &Message) -> usize {
    message.payload().len() + MESSAGE_OVERHEAD_BYTES
}

impl Replay {
    /// Keeps nothing yet. What had a sequence up to `lost_through` may have been lost before.
    pub(crate) fn new(retention: Retention, lost_through: u64) -> Self {
        Self { retention, ring: VecDeque::new(), bytes: 0, lost_through }
    }

    /// Takes in the newest message, and lets go of what it pushes over a bound.
    pub(crate) fn keep(&mut self, message: &Arc<Message>, now: Instant) {
        let Retention { last_value, replay } = self.retention;
        if !last_value && replay.is_none() {
            self.lost_through = message.sequence();
            return;
        }
        self.bytes += cost(message);
        self.ring.push_back(Kept { message: Arc::clone(message), at: now });
        self.shrink(now);
    }

    /// Keeps by other rules from now on. What was let go of does not come back.
    pub(crate) fn set_retention(&mut self, retention: Retention, now: Instant) {
        self.retention = retention;
        self.shrink(now);
    }

    /// Lets go of what is over a bound.
    fn shrink(&mut self, now: Instant) {
        match self.retention.replay {
            None => self.shrink_to(usize::from(self.retention.last_value)),
            Some(limits) => {
                while self.ring.len() > limits.messages_max
                    || self.bytes > limits.bytes_max && self.ring.len() > 1
                {
                    self.pop_oldest();
                }
                self.forget_aged(now);
            }
        }
    }

    /// Lets go of messages too old to be replayed; the last value does not age.
    pub(crate) fn forget_aged(&mut self, now: Instant) {
        let Retention { last_value, replay: Some(limits) } = self.retention else { return };
        let spared = usize::from(last_value);
        while self.ring.len() > spared
            && self.ring.front().is_some_and(|oldest| now.duration_since(oldest.at) > limits.age_max)
        {
            self.pop_oldest();
        }
    }

    /// Lets go of memory for topics used more recently: first of all but the last message, the next time of that, too.
    pub(crate) fn give_way(&mut self) {
        let rest = usize::from(self.ring.len() > 1 && self.retention.last_value);
        self.shrink_to(rest);
    }

    fn shrink_to(&mut self, len: usize) {
        while self.ring.len() > len {
            self.pop_oldest();
        }
        if self.ring.is_empty() {
            self.ring = VecDeque::new();
        }
    }

    fn pop_oldest(&mut self) {
        if let Some(oldest) = self.ring.pop_front() {
            self.bytes -= cost(&oldest.message);
            self.lost_through = oldest.message.sequence();
        }
    }

    /// The last value, for topics that keep one.
    pub(crate) fn last(&self) -> Option<&Arc<Message>> {
        let last = self.ring.back().filter(|_| self.retention.last_value);
        last.map(|kept| &kept.message)
    }

    /// The last value of those up to the sequence `through`. If the ring has only later ones and cannot tell what the
    /// value was, the last of all: nobody is to be without a value because its topic is busy.
    pub(crate) fn last_through(&self, through: u64) -> Option<&Arc<Message>> {
        let last = self.last()?;
        let count = self.ring.partition_point(|kept| kept.message.sequence() <= through);
        match count.checked_sub(1) {
            Some(index) => Some(&self.ring[index].message),
            // The topic's first message came later: there was no value.
            None if self.oldest() == Some(1) => None,
            None => Some(last),
        }
    }

    /// The offset of the oldest message kept.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.ring.front().map(|kept| kept.message.offset())
    }

    /// A sequence that none of the topic's messages exceeds, kept or lost.
    pub(crate) fn sequence(&self) -> u64 {
        self.ring.back().map_or(self.lost_through, |kept| kept.message.sequence())
    }

    /// All messages after the sequence `cursor`, oldest first; `None` if one of them may be lost.
    pub(crate) fn since(&self, cursor: u64) -> Option<impl Iterator<Item = &Arc<Message>>> {
        if self.lost_through > cursor {
            return None;
        }
        let seen = self.ring.partition_point(|kept| kept.message.sequence() <= cursor);
        Some(self.ring.range(seen..).map(|kept| &kept.message))
    }

    /// The memory kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// What a newcomer gets before live messages, and whether a place it named is recovered. A resume is complete, or it is
    /// a fresh start with the last value; it is never a part.
    pub(crate) fn from(
        &self,
        start: &Start<'_>,
        head: Position,
        node: &Sequence,
    ) -> (Vec<Arc<Message>>, Option<bool>) {
        let fresh = || self.last().cloned().into_iter().collect();
        match start {
            Start::Live => (Vec::new(), None),
            Start::Last => (fresh(), None),
            Start::Earliest => (self.newest(self.ring.len()), None),
            Start::Since { epoch, sequence } => {
                match node.cursor(epoch, *sequence).and_then(|cursor| self.since(cursor)) {
                    Some(missed) => (missed.cloned().collect(), Some(true)),
                    None => (fresh(), Some(false)),
                }
            }
            Start::After { epoch, offset } => {
                let missed = head.offset.checked_sub(*offset);
                let missed = missed.filter(|_| epoch.parse::<Epoch>() == Ok(head.epoch));
                match missed.and_then(|missed| usize::try_from(missed).ok()) {
                    Some(missed) if missed <= self.ring.len() => (self.newest(missed), Some(true)),
                    _ => (fresh(), Some(false)),
                }
            }
        }
    }

    fn newest(&self, count: usize) -> Vec<Arc<Message>> {
        self.ring.range(self.ring.len() - count..).map(|kept| Arc::clone(&kept.message)).collect()
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_wire::{Draft, Kind, Topic};

    const EPOCH: Epoch = Epoch::new(7);
    const NODE: Epoch = Epoch::new(70);

    fn message(offset: u64, bytes: usize) -> Arc<Message> {
        let draft = Draft::new(Topic::new("t").unwrap(), Kind::Text, &vec![b'x'; bytes]);
        Arc::new(Message::new(draft, Position { epoch: EPOCH, offset }, offset))
    }

    fn limits(messages_max: usize, age_s: u64, bytes_max: usize) -> Option<ReplayLimits> {
        Some(ReplayLimits { messages_max, age_max: Duration::from_secs(age_s), bytes_max })
    }

    fn offsets(replay: &Replay) -> Vec<u64> {
        replay.ring.iter().map(|kept| kept.message.offset()).collect()
    }

    #[test]
    fn each_bound_lets_the_oldest_go() {
        fn check(last_value: bool, replay: Option<ReplayLimits>, expect: &[u64]) {
            let mut kept = Replay::new(Retention { last_value, replay }, 0);
            let start = Instant::now();
            for offset in 1..=10 {
                kept.keep(&message(offset, 100), start + Duration::from_secs(offset));
            }
            assert_eq!(offsets(&kept), expect, "{last_value} {replay:?}");
            assert_eq!(kept.bytes(), expect.len() * (100 + MESSAGE_OVERHEAD_BYTES));
        }
        check(false, None, &[]);
        check(true, None, &[10]);
        check(true, limits(3, 60, 1 << 20), &[8, 9, 10]);
        check(true, limits(100, 4, 1 << 20), &[6, 7, 8, 9, 10]);
        check(true, limits(100, 60, 800), &[9, 10]);
        check(true, limits(100, 60, 1), &[10]);
        check(false, limits(100, 60, 1), &[10]);
    }

    #[test]
    fn the_last_value_does_not_age() {
        for last_value in [true, false] {
            let mut kept = Replay::new(Retention { last_value, replay: limits(9, 60, 1 << 20) }, 0);
            let start = Instant::now();
            kept.keep(&message(1, 1), start);
            kept.keep(&message(2, 1), start);
            kept.forget_aged(start + Duration::from_secs(61));
            assert_eq!(offsets(&kept), if last_value { vec![2] } else { vec![] });
        }
    }

    #[test]
    fn giving_way_spares_the_last_value_once() {
        let mut kept = Replay::new(Retention { last_value: true, replay: limits(9, 60, 1 << 20) }, 0);
        (1..=5).for_each(|offset| kept.keep(&message(offset, 1), Instant::now()));
        kept.give_way();
        assert_eq!((offsets(&kept), kept.is_empty()), (vec![5], false));
        kept.give_way();
        assert_eq!((kept.bytes(), kept.is_empty()), (0, true));
    }

    #[test]
    fn a_resume_is_complete_or_a_fresh_start() {
        #[expect(clippy::reversed_empty_ranges, reason = "nothing is kept, and the head is 0")]
        const EMPTY: std::ops::RangeInclusive<u64> = 1..=0;
        fn check(start: &Start<'_>, kept: std::ops::RangeInclusive<u64>, expect: (&[u64], Option<bool>)) {
            let head = *kept.end();
            let mut replay = Replay::new(Retention { last_value: true, replay: limits(99, 60, 1 << 20) }, 0);
            kept.clone().for_each(|offset| replay.keep(&message(offset, 1), Instant::now()));
            let node = Sequence::new(NODE, 1);
            drop(node.take(0, 9));
            let (messages, recovered) = replay.from(start, Position { epoch: EPOCH, offset: head }, &node);
            let offsets: Vec<u64> = messages.iter().map(|message| message.offset()).collect();
            assert_eq!((&offsets[..], recovered), expect, "{start:?}, kept {kept:?}");
        }
        fn after(epoch: Epoch, offset: u64) -> Start<'static> {
            Start::After { epoch: epoch.to_string().into(), offset }
        }
        check(&Start::Live, 3..=5, (&[], None));
        check(&Start::Last, 3..=5, (&[5], None));
        check(&Start::Earliest, 3..=5, (&[3, 4, 5], None));
        // Nothing was missed, or all that was is kept.
        check(&after(EPOCH, 5), 3..=5, (&[], Some(true)));
        check(&after(EPOCH, 4), 3..=5, (&[5], Some(true)));
        check(&after(EPOCH, 2), 3..=5, (&[3, 4, 5], Some(true)));
        check(&after(EPOCH, 0), 1..=2, (&[1, 2], Some(true)));
        check(&after(EPOCH, 0), EMPTY, (&[], Some(true)));
        // More was missed than is kept.
        check(&after(EPOCH, 1), 3..=5, (&[5], Some(false)));
        check(&after(EPOCH, 0), 3..=5, (&[5], Some(false)));
        // Another count, or a place that this one never had.
        check(&after(Epoch::new(8), 5), 3..=5, (&[5], Some(false)));
        check(&after(EPOCH, 6), 3..=5, (&[5], Some(false)));
        check(&after(EPOCH, u64::MAX), 3..=5, (&[5], Some(false)));
        check(&Start::After { epoch: "elsewhere".into(), offset: 4 }, 3..=5, (&[5], Some(false)));
        // By the node's count, which is at 9.
        fn since(epoch: Epoch, sequence: u64) -> Start<'static> {
            Start::Since { epoch: epoch.to_string().into(), sequence }
        }
        check(&since(NODE, 9), 3..=5, (&[], Some(true)));
        check(&since(NODE, 5), 3..=5, (&[], Some(true)));
        check(&since(NODE, 3), 3..=5, (&[4, 5], Some(true)));
        check(&since(NODE, 0), EMPTY, (&[], Some(true)));
        check(&since(NODE, 10), 3..=5, (&[5], Some(false)));
        check(&since(EPOCH, 5), 3..=5, (&[5], Some(false)));
    }

    #[test]
    fn the_last_value_as_of_a_sequence_is_of_that_time_if_it_is_kept() {
        fn check(
            messages_max: usize,
            offsets: std::ops::RangeInclusive<u64>,
            through: u64,
            expect: Option<u64>,
        ) {
            let mut replay =
                Replay::new(Retention { last_value: true, replay: limits(messages_max, 60, 1 << 20) }, 0);
            offsets.for_each(|offset| replay.keep(&message(offset, 1), Instant::now()));
            let last = replay.last_through(through).map(|message| message.offset());
            assert_eq!(last, expect, "of {messages_max} through {through}");
        }
        check(9, 1..=5, 9, Some(5));
        check(9, 1..=5, 3, Some(3));
        check(9, 1..=5, 0, None);
        // The value of that time is gone: better a later one than none.
        check(2, 1..=5, 3, Some(5));
        check(2, 1..=5, 4, Some(4));
    }

    /// `FANFARE_SEED=n` runs that seed alone.
    #[test]
    fn a_ring_keeps_and_resumes_as_trying_each_message_says() {
        struct SeedOnPanic(u64);
        impl Drop for SeedOnPanic {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("to see it again: FANFARE_SEED={}", self.0);
                }
            }
        }
        let seeds = match std::env::var("FANFARE_SEED") {
            Ok(seed) => {
                let seed = seed.parse().unwrap();
                seed..seed + 1
            }
            Err(_) => 0..500,
        };
        for seed in seeds {
            let _name = SeedOnPanic(seed);
            model::live(seed, Instant::now());
        }
    }
}
