//! What can be said of topics: their last values, their places, who has them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_wire::{Message, Pattern, Position, Topic};

use crate::registry::Registry;

/// A topic's last value.
#[derive(Debug, Clone)]
pub struct Last {
    /// The message.
    pub message: Arc<Message>,
    /// Since it was published.
    pub age: Duration,
}

/// What is known of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// The place of its last message.
    pub position: Position,
    /// The smallest offset that can still be replayed; `None` if nothing is kept.
    pub oldest: Option<u64>,
    /// Subscribers of the topic, and of patterns that match it; who has both counts twice.
    pub subscribers: usize,
    /// Memory of the messages kept.
    pub retained_bytes: usize,
    /// Since its last message; `None` if it had none in this epoch.
    pub age: Option<Duration>,
}

impl Registry {
    /// The topic's retained message.
    pub fn last(&self, topic: &Topic, now: Instant) -> Option<Last> {
        let last = self.look(topic, now, |entry| {
            let message = Arc::clone(entry.replay().last()?);
            Some(Last { message, age: entry.age(now)? })
        });
        last.flatten()
    }

    /// What is known of a topic; `None` if there is none of that name.
    pub fn info(&self, topic: &Topic, now: Instant) -> Option<Info> {
        self.look(topic, now, |entry| Info {
            position: entry.position(),
            oldest: entry.replay().oldest(),
            retained_bytes: entry.replay().bytes(),
            subscribers: entry.subscribers() + self.index.lock().subscribers(topic),
            age: entry.age(now),
        })
    }

    /// How many topics `pattern` matches.
    pub fn count(&self, pattern: &Pattern) -> usize {
        self.index.lock().count(pattern)
    }

    /// The first `max` topics that `pattern` matches and that come after the name `after`, in the order of their
    /// segments. Fewer than `max` are the last.
    pub fn list(&self, pattern: &Pattern, after: Option<&str>, max: usize) -> Vec<(Topic, Position)> {
        let mut listed: Vec<(Topic, Position)> = Vec::new();
        let mut after = after.map(str::to_owned);
        loop {
            let missing = max - listed.len();
            let page = self.index.lock().page(pattern, after.as_deref(), missing);
            after = page.last().map(|topic| topic.as_str().to_owned());
            let full = page.len() == missing;
            // Topics forgotten meanwhile are none; others fill their place.
            for topic in page {
                let position = self.with(&topic, |entry| entry.position());
                listed.extend(position.map(|position| (topic, position)));
            }
            if !full || listed.len() == max {
                return listed;
            }
        }
    }
}
