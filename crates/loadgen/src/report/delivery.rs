//! What should have reached the subscribers, and what did.
//!
//! Different messages count, each once per subscriber and topic. Where a message came although its POST was not acknowledged,
//! more is delivered than was expected.

use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;
use crate::recorder::Tally;

/// What is said of losses.
pub(crate) const LOST: &str = "messages lost";

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Delivery {
    pub(crate) expected: u64,
    pub(crate) delivered: u64,
    /// Owed, and neither delivered nor announced as missing.
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) out_of_order: u64,
    pub(crate) malformed: u64,
    pub(crate) offsets_back: u64,
    /// By the offsets, in formats that have them: missing, and no gap said so.
    pub(crate) unannounced: u64,
    pub(crate) gaps: u64,
    pub(crate) gap_messages: u64,
    /// Where topics conflate: missing, and a newer message came. What is newer than all that came is lost there, too.
    pub(crate) conflated: u64,
}

impl Delivery {
    pub(crate) fn new(tally: &Tally, ledgers: &[Ledger], conflating: bool) -> Self {
        let mut delivery = Self {
            repeated: tally.repeated,
            out_of_order: tally.out_of_order,
            malformed: tally.malformed,
            offsets_back: tally.offsets_back,
            unannounced: tally.unannounced,
            gaps: tally.gaps,
            gap_messages: tally.gap_messages,
            ..Self::default()
        };
        for outcome in &tally.outcomes {
            let ledger = &ledgers[outcome.topic];
            let until = if outcome.left { outcome.next } else { ledger.next() };
            let owed = ledger.acknowledged(outcome.from, until);
            delivery.expected += owed + outcome.early;
            delivery.delivered += outcome.unique + outcome.early;
            let missing = owed.saturating_sub(outcome.unique);
            if conflating {
                let newer = ledger.acknowledged(outcome.next, until).min(missing);
                delivery.lost += newer;
                delivery.conflated += missing - newer;
            } else {
                delivery.lost += missing.saturating_sub(outcome.announced);
            }
        }
        delivery
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.expected += other.expected;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.out_of_order += other.out_of_order;
        self.malformed += other.malformed;
        self.offsets_back += other.offsets_back;
        self.unannounced += other.unannounced;
        self.gaps += other.gaps;
        self.gap_messages += other.gap_messages;
        self.conflated += other.conflated;
    }

    /// What a group must not have, and how much of it there is.
    pub(super) fn faults(&self, conflating: bool, strict: bool) -> [(u64, &'static str); 7] {
        [
            (self.lost, LOST),
            (if strict { self.gap_messages } else { 0 }, "messages missing, as announced"),
            (self.repeated, "messages repeated"),
            (self.out_of_order, "messages out of order"),
            (self.offsets_back, "offsets not above the one before"),
            (self.malformed, "messages malformed"),
            (if conflating { 0 } else { self.unannounced }, "messages missing without a gap"),
        ]
    }

    pub(super) fn faults_text(&self) -> String {
        format!(
            "lost {}, repeated {}, out of order {}, malformed {}, offsets back {}",
            self.lost, self.repeated, self.out_of_order, self.malformed, self.offsets_back
        )
    }

    pub(super) fn gaps_text(&self) -> String {
        format!(
            "{} announced, of {} messages; {} messages missing without one",
            self.gaps, self.gap_messages, self.unannounced
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::Outcome;

    fn whole(topic: usize, unique: u64, next: u64) -> Outcome {
        Outcome { topic, from: 0, next, unique, early: 0, announced: 0, left: false }
    }

    fn delivery(published: &[u64], outcomes: &[Outcome], conflating: bool) -> (u64, u64, u64, u64) {
        let ledgers: Vec<_> = published.iter().map(|&next| Ledger::new(next, Vec::new())).collect();
        let mut tally = Tally::new();
        tally.outcomes = outcomes.to_vec();
        let found = Delivery::new(&tally, &ledgers, conflating);
        (found.expected, found.delivered, found.lost, found.conflated)
    }

    #[test]
    fn what_is_expected_is_what_was_published_while_they_were_there() {
        let check = |published: &[u64], outcomes: &[Outcome], expect: (u64, u64, u64, u64)| {
            assert_eq!(delivery(published, outcomes, false), expect, "{outcomes:?}");
        };
        check(&[10, 5], &[whole(0, 10, 10), whole(0, 10, 10), whole(1, 5, 5)], (25, 25, 0, 0));
        check(&[10, 5], &[whole(0, 10, 10), whole(0, 7, 10), whole(1, 0, 0)], (25, 17, 8, 0));
        check(&[3], &[], (0, 0, 0, 0));
        check(&[10], &[Outcome { from: 4, ..whole(0, 6, 10) }], (6, 6, 0, 0));
        check(&[10], &[Outcome { from: 4, left: true, ..whole(0, 3, 8) }], (4, 3, 1, 0));
        check(&[10], &[Outcome { announced: 2, ..whole(0, 7, 10) }], (10, 7, 1, 0));
        check(&[10], &[Outcome { from: 8, early: 3, ..whole(0, 2, 10) }], (5, 5, 0, 0));
    }

    #[test]
    fn on_a_conflating_topic_only_what_is_newer_than_all_that_came_is_lost() {
        let check = |unique, next, expect: (u64, u64)| {
            let (_, _, lost, conflated) = delivery(&[10], &[whole(0, unique, next)], true);
            assert_eq!((lost, conflated), expect, "{unique} up to {next}");
        };
        check(10, 10, (0, 0));
        check(3, 10, (0, 7));
        check(3, 8, (2, 5));
        check(0, 0, (10, 0));
    }
}
