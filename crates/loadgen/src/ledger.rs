//! What was published to one topic: every sequence number that was used, and which of them were not acknowledged.
//!
//! # Bounds       a range for each run of refused messages

/// The places of one topic's messages.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ledger {
    /// One past the last that was used.
    next: u64,
    /// Not acknowledged: from, one past the last, and how many are before `from`. In order, and none touches another.
    refused: Vec<(u64, u64, u64)>,
}

impl Ledger {
    pub(crate) fn new(next: u64, mut refused: Vec<(u64, u64)>) -> Self {
        refused.sort_unstable();
        let mut merged: Vec<(u64, u64, u64)> = Vec::new();
        for (from, until) in refused {
            match merged.last_mut() {
                Some((_, end, _)) if *end >= from => *end = until.max(*end),
                last => {
                    let before = last.map_or(0, |(from, until, before)| *before + *until - *from);
                    merged.push((from, until, before));
                }
            }
        }
        Self { next, refused: merged }
    }

    /// One past the last that was used.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// One past the newest that was acknowledged.
    pub(crate) fn newest(&self) -> u64 {
        match self.refused.last() {
            Some(&(from, until, _)) if until >= self.next => from,
            _ => self.next,
        }
    }

    /// How many of `from..until` were acknowledged.
    pub(crate) fn acknowledged(&self, from: u64, until: u64) -> u64 {
        let until = until.min(self.next);
        until
            .saturating_sub(from)
            .saturating_sub(self.refused_before(until).saturating_sub(self.refused_before(from)))
    }

    fn refused_before(&self, sequence: u64) -> u64 {
        let after = self.refused.partition_point(|&(from, _, _)| from < sequence);
        after.checked_sub(1).map_or(0, |at| {
            let (from, until, before) = self.refused[at];
            before + until.min(sequence) - from
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_not_counted() {
        let ledger = Ledger::new(20, vec![(18, 20), (3, 5), (5, 6), (10, 11)]);
        let check =
            |from, until, expect| assert_eq!(ledger.acknowledged(from, until), expect, "{from}..{until}");
        check(0, 20, 14);
        check(0, 99, 14);
        check(4, 10, 4);
        check(3, 6, 0);
        check(6, 10, 4);
        check(11, 19, 7);
        check(19, 20, 0);
        check(30, 40, 0);
        assert_eq!((ledger.next(), ledger.newest()), (20, 18));
        assert_eq!(Ledger::new(5, Vec::new()).newest(), 5);
        assert_eq!(Ledger::new(2, vec![(0, 2)]).newest(), 0);
    }
}
