//! What one subscriber has received of one topic: which messages came, in what order, and what it is owed.
//!
//! A subscriber is owed what was published from the moment on at which it was surely subscribed. That moment gives a
//! sequence number: the next one of the topic then. What comes from before it was in flight, and is counted as a gift; where
//! the messages of a topic come in order, all after the first of them is owed as well.
//!
//! # Bounds       80 bytes, and [`WIDE_WORDS`] words more where messages come in no order

use crate::ledger::Ledger;

/// Bits that remember what came, where several connections publish to a topic.
const WIDE_WORDS: usize = 16;

/// What is known of one topic at one subscriber.
///
/// `seen` remembers the last 64 sequence numbers (or 1,024, where messages come in no order), as a bit each, the newest
/// lowest. So a message that fills a hole is told from one that came twice; one that comes after more newer ones counts as
/// repeated, and its hole as lost.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    pub(crate) topic: u32,
    /// The first that is owed; `None` while that is not known.
    from: Option<u64>,
    /// One past the newest.
    next: u64,
    seen: Seen,
    /// Different messages from `from` on.
    unique: u64,
    early: u64,
    /// The last offset, in formats that have one.
    pub(crate) offset: Option<u64>,
    /// Messages that the server said would not come.
    announced: u64,
}

#[derive(Debug, Clone)]
enum Seen {
    Narrow(u64),
    Wide(Box<[u64; WIDE_WORDS]>),
}

/// How a message stands to those before it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Newest,
    OutOfOrder,
    Repeated,
    /// From before the subscription was sure.
    Early,
}

/// What one subscriber received of one topic in all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) topic: usize,
    /// The first that was owed.
    pub(crate) from: u64,
    /// One past the newest sequence number.
    pub(crate) next: u64,
    /// Different messages that were owed.
    pub(crate) unique: u64,
    pub(crate) early: u64,
    pub(crate) announced: u64,
    /// It left, or was let go, before the end: nothing after the newest is owed.
    pub(crate) left: bool,
}

impl Track {
    /// Nothing is received; messages of the topic come in order, or not.
    pub(crate) fn new(topic: usize, ordered: bool) -> Self {
        let seen = if ordered { Seen::Narrow(0) } else { Seen::Wide(Box::default()) };
        let topic = u32::try_from(topic).expect("a run has fewer topics");
        Self { topic, from: None, next: 0, seen, unique: 0, early: 0, offset: None, announced: 0 }
    }

    pub(crate) fn topic(&self) -> usize {
        self.topic as usize
    }

    fn is_ordered(&self) -> bool {
        matches!(self.seen, Seen::Narrow(_))
    }

    /// The subscription is sure, and `next` the next sequence number to be published.
    pub(crate) fn owed_from(&mut self, next: u64) {
        if self.from.is_none() {
            self.begin(next);
        }
    }

    fn begin(&mut self, sequence: u64) {
        (self.from, self.next) = (Some(sequence), sequence);
    }

    /// Takes note of message `sequence`.
    pub(crate) fn arrive(&mut self, sequence: u64) -> Arrival {
        let is_before = self.from.is_none_or(|from| sequence < from);
        if is_before {
            if !self.is_ordered() || self.unique > 0 {
                self.early += 1;
                return Arrival::Early;
            }
            self.begin(sequence);
        }
        if sequence >= self.next {
            let step = sequence + 1 - self.next;
            self.seen.shift(step);
            self.seen.take(0);
            self.next = sequence + 1;
            self.unique += 1;
            return Arrival::Newest;
        }
        if !self.seen.take(self.next - 1 - sequence) {
            return Arrival::Repeated;
        }
        self.unique += 1;
        if self.is_ordered() { Arrival::OutOfOrder } else { Arrival::Newest }
    }

    /// Messages older than the newest that have not come.
    pub(crate) fn holes(&self) -> u64 {
        self.next - self.from.unwrap_or(0) - self.unique
    }

    /// One past the newest sequence number, and the first that is owed.
    pub(crate) fn range(&self) -> (u64, u64) {
        (self.from.unwrap_or(self.next), self.next)
    }

    /// Whether all of `ledger` is here; where a newer message replaces those before it, the newest.
    pub(crate) fn is_complete(&self, ledger: &Ledger, conflating: bool) -> bool {
        let (from, _) = self.range();
        if conflating {
            return self.next >= ledger.newest();
        }
        self.unique + self.announced >= ledger.acknowledged(from, ledger.next())
    }

    /// What there is to say at the end, of a subscriber that `left` before it or did not.
    pub(crate) fn outcome(&self, left: bool) -> Outcome {
        // What came in no order may have been under way when it left.
        let unsettled = left && !self.is_ordered();
        let (from, next) = if unsettled { (self.next, self.next) } else { self.range() };
        let (unique, early) =
            if unsettled { (0, self.early + self.unique) } else { (self.unique, self.early) };
        Outcome { topic: self.topic(), from, next, unique, early, announced: self.announced, left }
    }

    /// Takes note of an offset: how far it is above the last one, if it is. What came before the first is not known.
    pub(crate) fn advance(&mut self, offset: u64) -> Option<u64> {
        let step = match self.offset {
            Some(last) => offset.checked_sub(last).filter(|&step| step > 0)?,
            None => 1,
        };
        self.offset = Some(offset);
        Some(step)
    }

    /// The subscription begins behind `offset`.
    pub(crate) fn begin_behind(&mut self, offset: u64) {
        self.offset.get_or_insert(offset);
    }

    /// Takes note that offsets from `from` up to `to` will not come.
    pub(crate) fn skip(&mut self, from: u64, to: u64) {
        self.announced += (to + 1).saturating_sub(from);
        if self.offset.is_none_or(|offset| from <= offset + 1) {
            self.offset = Some(self.offset.unwrap_or(0).max(to));
        }
    }
}

impl Seen {
    fn words(&mut self) -> &mut [u64] {
        match self {
            Self::Narrow(word) => std::slice::from_mut(word),
            Self::Wide(words) => &mut words[..],
        }
    }

    /// All become older by `step`.
    fn shift(&mut self, step: u64) {
        let words = self.words();
        let (whole, bits) = (usize::try_from(step / 64).unwrap_or(usize::MAX), step % 64);
        for at in (0..words.len()).rev() {
            let word = |back: usize| at.checked_sub(back).map_or(0, |at| words[at]);
            let low = if bits == 0 { 0 } else { word(whole.saturating_add(1)) >> (64 - bits) };
            words[at] = word(whole) << bits | low;
        }
    }

    /// Remembers the one of `age`; `false` if it is too old, or was remembered already.
    fn take(&mut self, age: u64) -> bool {
        let Some(word) = usize::try_from(age / 64).ok().and_then(|at| self.words().get_mut(at)) else {
            return false;
        };
        let bit = 1 << (age % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_repeated_and_out_of_order_messages_are_told_apart() {
        let check = |sequences: &[u64], ordered, expect: (u64, u64, u64, u64)| {
            let mut track = Track::new(0, ordered);
            track.owed_from(0);
            let (mut repeated, mut out_of_order) = (0, 0);
            for &sequence in sequences {
                match track.arrive(sequence) {
                    Arrival::Newest => {}
                    Arrival::OutOfOrder => out_of_order += 1,
                    Arrival::Repeated => repeated += 1,
                    Arrival::Early => panic!("all are owed"),
                }
            }
            assert_eq!((track.unique, track.holes(), repeated, out_of_order), expect, "{sequences:?}");
        };
        check(&[], true, (0, 0, 0, 0));
        check(&[0, 1, 2, 3], true, (4, 0, 0, 0));
        check(&[0, 2, 3], true, (3, 1, 0, 0));
        check(&[3], false, (1, 3, 0, 0));
        check(&[0, 1, 1, 2, 0], true, (3, 0, 2, 0));
        check(&[0, 2, 1, 3], true, (4, 0, 0, 1));
        check(&[0, 2, 1, 3], false, (4, 0, 0, 0));
        check(&[0, 2, 1, 1], true, (3, 0, 1, 1));
        check(&[0, 100, 99, 99, 36], true, (3, 98, 2, 1));
        check(&[0, 100, 99, 99, 36], false, (4, 97, 1, 0));
        check(&[0, 63, 1], true, (3, 61, 0, 1));
        check(&[0, 65, 1], true, (2, 64, 1, 0));
        check(&[0, 1_024, 1, 1], false, (3, 1_022, 1, 0));
        check(&[0, 1_025, 1], false, (2, 1_024, 1, 0));
        check(&[0, 1_000_000, 999_990], true, (3, 999_998, 0, 1));
    }

    #[test]
    fn who_joins_late_is_owed_what_was_published_from_then_on() {
        // `sure` messages in, the subscription is sure and 7 the next to be published.
        let check = |sequences: &[u64], sure: usize, ordered, expect: (u64, u64, u64, u64)| {
            let mut track = Track::new(0, ordered);
            for (at, &sequence) in sequences.iter().enumerate() {
                if at == sure {
                    track.owed_from(7);
                }
                track.arrive(sequence);
            }
            track.owed_from(7);
            assert_eq!((track.range().0, track.unique, track.early, track.holes()), expect, "{sequences:?}");
        };
        check(&[], 0, true, (7, 0, 0, 0));
        check(&[7, 8], 0, true, (7, 2, 0, 0));
        check(&[8], 0, true, (7, 1, 0, 1));
        check(&[5, 6, 8], 0, true, (5, 3, 0, 1));
        check(&[5, 7], 1, true, (5, 2, 0, 1));
        check(&[5, 7], 0, false, (7, 1, 1, 0));
        check(&[6, 5, 8, 7], 2, false, (7, 2, 2, 0));
    }

    #[test]
    fn offsets_that_do_not_rise_and_jumps_without_a_gap_are_told() {
        enum Sign {
            Offset(u64),
            Gap(u64, u64),
        }
        use Sign::{Gap, Offset};
        let check = |signs: &[Sign], back, jumped| {
            let (mut track, mut found) = (Track::new(0, true), (0, 0));
            for sign in signs {
                match *sign {
                    Offset(offset) => match track.advance(offset) {
                        Some(step) => found.1 += step - 1,
                        None => found.0 += 1,
                    },
                    Gap(from, to) => track.skip(from, to),
                }
            }
            assert_eq!(found, (back, jumped));
        };
        check(&[1, 2, 5, 5, 4, 6].map(Offset), 2, 2);
        check(&[Offset(900), Offset(901)], 0, 0);
        check(&[Offset(1), Gap(2, 4), Offset(5)], 0, 0);
        check(&[Offset(1), Gap(2, 4), Offset(6)], 0, 1);
        check(&[Offset(1), Gap(2, 4), Offset(4)], 1, 0);
        check(&[Offset(1), Gap(3, 4), Offset(5)], 0, 3);
        check(&[Gap(1, 4), Offset(5)], 0, 0);
    }
}
