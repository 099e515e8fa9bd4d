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
}

/// The selected topics, each once, and whether it is selected by its name.
type Topics = BTreeMap<Topic, bool>;

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
        Ok(Polled { messages, sequence: through, gap: cursor.is_some() })
    }

    fn selected(&self, selection: &[Name]) -> Result<Topics, JoinError> {
        let max = self.limits.wildcard_topics_max;
        let mut topics = Topics::new();
        for selected in selection {
            match selected {
                Name::Topic(topic) => {
                    topics.insert(topic.clone(), true);
                }
                Name::Pattern(pattern) => self.index.lock().matching(pattern, None, |topic| {
                    topics.entry(topic.clone()).or_insert(false);
                    if topics.len() > max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                }),
            }
            if topics.len() > max {
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
        Some(Polled { messages, sequence: through, gap: false })
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
