//! What should have reached the subscribers of one pace, and what did.
//!
//! Different messages count, each once per subscriber: `delivered + lost + conflated = expected + unexpected`.

use serde::Serialize;

use crate::publisher::Published;
use crate::recorder::{Outcome, Tally};

#[derive(Debug, Serialize)]
pub(super) struct Delivery {
    pub(super) expected: u64,
    pub(super) delivered: u64,
    pub(super) lost: u64,
    /// Where topics conflate: missing, and a newer message came. What is newer than all that came is lost there, too.
    pub(super) conflated: u64,
    /// Delivered although not acknowledged: the answer to its POST did not come.
    pub(super) unexpected: u64,
    pub(super) repeated: u64,
    pub(super) out_of_order: u64,
    pub(super) offsets_back: u64,
    pub(super) malformed: u64,
    pub(super) gaps: u64,
    pub(super) gap_messages: u64,
    /// By the offsets, in formats that have them: missing, and no gap said so.
    pub(super) unannounced: u64,
}

impl Delivery {
    pub(super) fn new(tally: &Tally, published: &Published, conflating: bool) -> Self {
        let (mut expected, mut delivered, mut unexpected) = (0, 0, 0);
        let (mut lost, mut conflated) = (0, 0);
        for outcome in &tally.outcomes {
            let acknowledged = published.acknowledged[outcome.topic];
            expected += acknowledged;
            delivered += outcome.unique;
            unexpected += outcome.unique.saturating_sub(acknowledged);
            let missing = acknowledged.saturating_sub(outcome.unique);
            let newer = missing.min(published.newest[outcome.topic].saturating_sub(outcome.next));
            let (loss, replaced) = if conflating { (newer, missing - newer) } else { (missing, 0) };
            lost += loss;
            conflated += replaced;
        }
        Self {
            expected,
            delivered,
            lost,
            conflated,
            unexpected,
            repeated: tally.repeated,
            out_of_order: tally.out_of_order,
            offsets_back: tally.offsets_back,
            malformed: tally.malformed,
            gaps: tally.gaps,
            gap_messages: tally.gap_messages,
            unannounced: tally.unannounced,
        }
    }

    /// What a run must not have, and how much of it there is.
    pub(super) fn faults(&self, conflating: bool) -> [(u64, &'static str); 6] {
        [
            (self.lost, "messages lost"),
            (self.repeated, "messages repeated"),
            (self.out_of_order, "messages out of order"),
            (self.offsets_back, "offsets not above the one before"),
            (self.malformed, "messages malformed"),
            (if conflating { 0 } else { self.unannounced }, "messages missing without a gap"),
        ]
    }

    pub(super) fn faults_text(&self) -> String {
        format!(
            "lost {}, repeated {}, out of order {}, unexpected {}, malformed {}, offsets back {}",
            self.lost, self.repeated, self.out_of_order, self.unexpected, self.malformed, self.offsets_back
        )
    }

    pub(super) fn gaps_text(&self) -> String {
        format!(
            "{} announced, of {} messages; {} messages missing without one",
            self.gaps, self.gap_messages, self.unannounced
        )
    }
}

/// How many received the newest message of their topic, or one newer than any acknowledged.
pub(super) fn ended_on_newest(outcomes: &[Outcome], published: &Published) -> u64 {
    outcomes.iter().filter(|outcome| outcome.next >= published.newest[outcome.topic]).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Topics' acknowledged messages; for each subscriber its topic, what it received and one past the newest.
    fn delivery(acknowledged: &[u64], outcomes: &[(usize, u64, u64)], conflating: bool) -> (Delivery, u64) {
        let mut published = Published::new(acknowledged.len());
        published.acknowledged = acknowledged.to_vec();
        published.newest = acknowledged.to_vec();
        let mut tally = Tally::new();
        tally.outcomes =
            outcomes.iter().map(|&(topic, unique, next)| Outcome { topic, unique, next }).collect();
        let delivery = Delivery::new(&tally, &published, conflating);
        assert_eq!(
            delivery.delivered + delivery.lost + delivery.conflated,
            delivery.expected + delivery.unexpected
        );
        (delivery, ended_on_newest(&tally.outcomes, &published))
    }

    #[test]
    fn what_is_expected_is_acknowledged_messages_times_subscribers_of_each_topic() {
        let check = |acknowledged: &[u64], outcomes: &[(usize, u64, u64)], expect: (u64, u64, u64, u64)| {
            let (delivery, _) = delivery(acknowledged, outcomes, false);
            let found = (delivery.expected, delivery.delivered, delivery.lost, delivery.unexpected);
            assert_eq!(found, expect);
        };
        check(&[10, 5], &[(0, 10, 10), (0, 10, 10), (1, 5, 5)], (25, 25, 0, 0));
        check(&[10, 5], &[(0, 10, 10), (0, 7, 10), (1, 0, 0)], (25, 17, 8, 0));
        check(&[10, 5], &[(0, 11, 11), (0, 9, 9), (1, 5, 5)], (25, 25, 1, 1));
        check(&[3], &[], (0, 0, 0, 0));
    }

    #[test]
    fn on_a_conflating_topic_only_what_is_newer_than_all_that_came_is_lost() {
        let check = |unique, next, expect: (u64, u64, u64)| {
            let (delivery, ended) = delivery(&[10], &[(0, unique, next)], true);
            assert_eq!((delivery.lost, delivery.conflated, ended), expect, "{unique} up to {next}");
        };
        check(10, 10, (0, 0, 1));
        check(3, 10, (0, 7, 1));
        check(3, 8, (2, 5, 0));
        check(0, 0, (10, 0, 0));
        check(11, 11, (0, 0, 1));
    }
}
