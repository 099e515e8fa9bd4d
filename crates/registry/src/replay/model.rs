//! A ring's life against a model that keeps all history.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_wire::command::Start;
use fanfare_wire::{Draft, Epoch, Kind, Message, Position, Topic};

use super::{MESSAGE_OVERHEAD_BYTES, Replay, ReplayLimits, Retention};
use crate::sequence::Sequence;

const EPOCH: Epoch = Epoch::new(7);
const NODE: Epoch = Epoch::new(70);

/// Everything that ever was, and what is kept of it by rules that are tried one after the other.
struct Model {
    retention: Retention,
    lost_before: u64,
    /// Offset, sequence, bytes and time of each message.
    history: Vec<(u64, u64, usize, Instant)>,
    kept: usize,
}

impl Model {
    fn bytes(&self) -> usize {
        self.kept().iter().map(|(_, _, bytes, _)| bytes + MESSAGE_OVERHEAD_BYTES).sum()
    }

    fn kept(&self) -> &[(u64, u64, usize, Instant)] {
        &self.history[self.history.len() - self.kept..]
    }

    fn keep(&mut self, sequence: u64, bytes: usize, now: Instant) {
        self.history.push((self.history.len() as u64 + 1, sequence, bytes, now));
        self.kept += 1;
        self.shrink(now);
    }

    fn shrink(&mut self, now: Instant) {
        match (self.retention.last_value, self.retention.replay) {
            (false, None) => self.kept = 0,
            (true, None) => self.kept = self.kept.min(1),
            (_, Some(limits)) => {
                while self.kept > limits.messages_max || self.kept > 1 && self.bytes() > limits.bytes_max {
                    self.kept -= 1;
                }
                self.age(now);
            }
        }
    }

    fn age(&mut self, now: Instant) {
        let Some(limits) = self.retention.replay else { return };
        while self.kept > usize::from(self.retention.last_value) && now - self.kept()[0].3 > limits.age_max {
            self.kept -= 1;
        }
    }

    fn give_way(&mut self) {
        self.kept = usize::from(self.retention.last_value && self.kept > 1);
    }

    /// The offsets after a place: all that were missed, if they are kept, or the last value.
    fn resume(&self, is_known: bool, is_missed: impl Fn(u64, u64) -> bool) -> (Vec<u64>, Option<bool>) {
        let offsets = |messages: &[(u64, u64, usize, Instant)]| -> Vec<u64> {
            let missed = messages.iter().filter(|(offset, sequence, ..)| is_missed(*offset, *sequence));
            missed.map(|(offset, ..)| *offset).collect()
        };
        let (all, kept) = (offsets(&self.history), offsets(self.kept()));
        if is_known && all == kept {
            return (all, Some(true));
        }
        let last = self.kept().last().filter(|_| self.retention.last_value);
        (last.map(|(offset, ..)| *offset).into_iter().collect(), Some(false))
    }
}

fn any_retention(below: &mut impl FnMut(u64) -> u64) -> Retention {
    let replay = Some(ReplayLimits {
        messages_max: 1 + below(9) as usize,
        age_max: Duration::from_secs(1 + below(40)),
        bytes_max: 1 + 300 * below(9) as usize,
    });
    Retention { last_value: below(3) > 0, replay: replay.filter(|_| below(4) > 0) }
}

/// A ring's life, made up by a seed.
pub(super) fn live(seed: u64, mut now: Instant) {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |bound: u64| {
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    };
    let retention = any_retention(&mut below);
    let lost_before = below(2) * below(30);
    let node = Sequence::new(NODE, 1);
    drop(node.take(0, lost_before as usize));
    let mut ring = Replay::new(retention, lost_before);
    let mut model = Model { retention, lost_before, history: Vec::new(), kept: 0 };
    let mut taken = lost_before;
    for _ in 0..150 {
        now += Duration::from_secs(below(3) * below(10));
        match below(20) {
            0..12 => {
                // Other topics take numbers in between.
                let gap = below(3);
                drop(node.take(0, 1 + gap as usize));
                taken += 1 + gap;
                let (offset, bytes) = (model.history.len() as u64 + 1, below(300) as usize);
                let draft = Draft::new(Topic::new("t").unwrap(), Kind::Text, &vec![b'x'; bytes]);
                let place = Position { epoch: EPOCH, offset };
                ring.keep(&Arc::new(Message::new(draft, place, taken)), now);
                model.keep(taken, bytes, now);
            }
            12..18 => {
                ring.forget_aged(now);
                model.age(now);
            }
            18 => {
                model.retention = any_retention(&mut below);
                ring.set_retention(model.retention, now);
                model.shrink(now);
            }
            _ => {
                ring.give_way();
                model.give_way();
            }
        }
        assert_eq!(
            ring.ring.iter().map(|kept| kept.message.offset()).collect::<Vec<_>>(),
            model.kept().iter().map(|kept| kept.0).collect::<Vec<_>>()
        );
        assert_eq!(ring.bytes(), model.bytes());
        let head = Position { epoch: EPOCH, offset: model.history.len() as u64 };
        let check = |start: Start<'_>, expect| {
            let (messages, recovered) = ring.from(&start, head, &node);
            let offsets = messages.iter().map(|message| message.offset()).collect::<Vec<_>>();
            assert_eq!((offsets, recovered), expect, "{start:?}");
        };
        let back = below(12);
        let offset = (head.offset + 1).saturating_sub(back);
        let after = Start::After { epoch: EPOCH.to_string().into(), offset };
        check(after, model.resume(offset <= head.offset, |missed, _| missed > offset));
        let cursor = (taken + 1).saturating_sub(2 * back);
        let since = Start::Since { epoch: NODE.to_string().into(), sequence: cursor };
        let is_known = model.lost_before <= cursor && cursor <= taken;
        check(since, model.resume(is_known, |_, missed| missed > cursor));
    }
}
