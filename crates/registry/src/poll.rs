//! Reading what is kept without joining: a client comes with a cursor and takes the next one with it.
//!
//! A cursor is a sequence of the node up to which the client has everything. The answer goes up to the watermark that was
//! read before the first topic was looked at: what comes meanwhile is left for the next poll, and nothing falls between
//! two.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use fanfare_wire::{Message, Name, Topic};

use crate::entry::Entry;
use crate::registry::{JoinError, Registry};

/// What a poll brings.
#[derive(Debug)]
pub struct Polled {
    /// Everything between the two cursors, or after a gap the last values; in the order of their sequences.
    pub messages: Vec<Arc<Message>>,
    /// The next cursor.
    pub sequence: u64,
    /// Messages after the cursor may be lost.
    pub gap: bool,
    /// How many topics were looked at.
    pub topics: usize,
}

/// The selected topics, each once, and whether it is selected by its name.
type Topics = BTreeMap<Topic, bool>;

/// So many patterns of a poll may match as many topics as a poll may name.
const VISITS_PER_TOPIC: usize = 4;

impl Registry {
    /// Reads at most `max` messages of the selected topics after `cursor`, which is an epoch and a sequence.
    ///
    /// Without a cursor, or after a gap, there are the last values, of more than `max` the newest. One of a topic that
    /// is published to right now, and keeps too few messages to tell what its value was, may come again in the next poll.
    /// To select a topic by name is to use it; no topic is made. Refused if more than
    /// [`wildcard_topics_max`](crate::RegistryLimits::wildcard_topics_max) topics are selected.
    pub fn since(
        &self,
        selection: &[Name],
        cursor: Option<(&str, u64)>,
        max: usize,
        now: Instant,
    ) -> Result<Polled, JoinError> {
        let through = self.watermark();
        let topics = self.selected(selection)?;
        let seen = cursor.filter(|(epoch, seen)| epoch.parse() == Ok(self.epoch()) && *seen <= through);
        if let Some((_, seen)) = seen {
            let patterns = selection.iter().any(|selected| matches!(selected, Name::Pattern(_)));
            // A forgotten topic may have matched.
            let forgotten = patterns && seen < self.forgotten_through();
            let missed = (!forgotten).then(|| self.missed(&topics, seen, through, max, now));
            if let Some(missed) = missed.flatten() {
                return Ok(missed);
            }
        }
        let messages = self.last_values(&topics, through, max, now);
        Ok(Polled { messages, sequence: through, gap: cursor.is_some(), topics: topics.len() })
    }

    fn selected(&self, selection: &[Name]) -> Result<Topics, JoinError> {
        let max = self.limits.read().wildcard_topics_max;
        let mut topics = Topics::new();
        // Patterns that match the same topics are gone through all the same.
        let mut visits = 0;
        for selected in selection {
            match selected {
                Name::Topic(topic) => {
                    topics.insert(topic.clone(), true);
                }
                Name::Pattern(pattern) => self.index.lock().matching(pattern, None, |topic| {
                    topics.entry(topic.clone()).or_insert(false);
                    visits += 1;
                    if topics.len() > max || visits > VISITS_PER_TOPIC * max {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                }),
            }
            if topics.len() > max || visits > VISITS_PER_TOPIC * max {
                return Err(JoinError::TooManyMatches);
            }
        }
        Ok(topics)
    }

    /// All of `topics` from `seen` to `through`, or as much as is at most `max`; `None` if something may be lost.
    fn missed(&self, topics: &Topics, seen: u64, through: u64, max: usize, now: Instant) -> Option<Polled> {
        let mut messages: Vec<Arc<Message>> = Vec::new();
        // With `max` messages at hand it falls to the last of them: none behind it is taken any more.
        let mut through = through;
        for (topic, &named) in topics {
            let complete = self.look(topic, now, |entry| {
                touch_if(named, entry);
                let missed = entry.replay().since(seen)?;
                let missed = missed.take_while(|message| message.sequence() <= through);
                // One more than `max` shows that there are more.
                messages.extend(missed.take(max.saturating_add(1)).cloned());
                Some(())
            });
            match complete {
                Some(complete) => complete?,
                // There is no such topic. If there was one, its messages are among the forgotten.
                None if seen < self.forgotten_through() => return None,
                None => {}
            }
            if messages.len() > max {
                // Stable sorting merges runs: what was sorted before costs nothing again.
                messages.sort_by_key(|message| message.sequence());
                messages.truncate(max);
                through = messages.last().map_or(seen, |message| message.sequence());
            }
        }
        messages.sort_by_key(|message| message.sequence());
        Some(Polled { messages, sequence: through, gap: false, topics: topics.len() })
    }

    /// The last values of `topics` as of `through`.
    fn last_values(&self, topics: &Topics, through: u64, max: usize, now: Instant) -> Vec<Arc<Message>> {
        let last = |(topic, &named): (&Topic, &bool)| {
            self.look(topic, now, |entry| {
                touch_if(named, entry);
                entry.replay().last_through(through).cloned()
            })
        };
        let mut messages: Vec<_> = topics.iter().filter_map(last).flatten().collect();
        messages.sort_unstable_by_key(|message| message.sequence());
        messages.drain(..messages.len().saturating_sub(max));
        messages
    }
}

/// A topic that clients come back to is used; one that a pattern finds is not, or it would stay for ever.
fn touch_if(named: bool, entry: &mut Entry) {
    if named {
        entry.touch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_wire::{Draft, Kind};
    use std::cell::RefCell;
    use std::time::Duration;

    use crate::{BatchSize, InboxFull, Inboxes, RegistryLimits, ReplayLimits, Retention, ShardSet};

    const LIMITS: RegistryLimits = RegistryLimits {
        topics_max: 9,
        retained_bytes_max: 1 << 20,
        lanes: 2,
        wildcard_topics_max: 9,
        patterns_max: 9,
    };

    /// Calls something when messages arrive: they are kept by then, and not handed over yet.
    struct During<F>(F);

    impl<F: Fn()> Inboxes for During<F> {
        fn reserve(&self, _: ShardSet, _: BatchSize) -> Result<(), InboxFull> {
            Ok(())
        }

        fn push(&self, _: ShardSet, _: Vec<Arc<Message>>, _: BatchSize) -> ShardSet {
            (self.0)();
            ShardSet::EMPTY
        }
    }

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn publish(registry: &Registry, lane: usize, name: &str, during: impl Fn()) {
        let drafts = vec![Draft::new(topic(name), Kind::Text, b"x")];
        registry.admit(lane, &topic(name), drafts, Instant::now(), &During(during)).unwrap();
    }

    /// The sequences of the messages, the next cursor, and whether there is a gap.
    fn poll(registry: &Registry, cursor: Option<u64>) -> (Vec<u64>, u64, bool) {
        let selection = ["one", "ring", "new"].map(|name| Name::Topic(topic(name)));
        let epoch = registry.epoch().to_string();
        let cursor = cursor.map(|sequence| (epoch.as_str(), sequence));
        let polled = registry.since(&selection, cursor, 9, Instant::now()).unwrap();
        (polled.messages.iter().map(|message| message.sequence()).collect(), polled.sequence, polled.gap)
    }

    #[test]
    fn what_is_behind_the_watermark_is_left_for_the_next_poll() {
        let registry = Registry::new(LIMITS, |topic| Retention {
            last_value: true,
            replay: (topic.as_str() != "one").then_some(ReplayLimits {
                messages_max: 9,
                age_max: Duration::from_secs(60),
                bytes_max: 1 << 20,
            }),
        });
        registry.join(&topic("slow"), 0, &fanfare_wire::command::Start::Live, Instant::now()).unwrap();
        publish(&registry, 0, "ring", || {});
        publish(&registry, 0, "one", || {});
        let polled = RefCell::new(Vec::new());
        publish(&registry, 0, "slow", || {
            // The count is at 3 and goes on, the watermark stays at 2.
            publish(&registry, 1, "ring", || {});
            publish(&registry, 1, "new", || {});
            polled.borrow_mut().push(poll(&registry, Some(0)));
            polled.borrow_mut().push(poll(&registry, Some(1)));
            polled.borrow_mut().push(poll(&registry, Some(4)));
            polled.borrow_mut().push(poll(&registry, None));
            publish(&registry, 1, "one", || {});
            polled.borrow_mut().push(poll(&registry, Some(2)));
            polled.borrow_mut().push(poll(&registry, None));
        });
        let expect = [
            (vec![1, 2], 2, false),
            (vec![2], 2, false),
            // The place of a message that came, but not of a poll.
            (vec![1, 2], 2, true),
            (vec![1, 2], 2, false),
            (vec![], 2, false),
            // What `one` was is gone.
            (vec![1, 6], 2, false),
        ];
        assert_eq!(*polled.borrow(), expect);
        assert_eq!(poll(&registry, Some(2)), (vec![4, 5, 6], 6, false));
        assert_eq!(poll(&registry, Some(1)), (vec![4, 5, 6], 6, true), "2 is lost");
    }
}
