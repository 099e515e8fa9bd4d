//! What can be said of a shard's subscribers, for those who look at it from outside.

use std::ops::Range;
use std::time::Instant;

use crate::shard::Shard;
use crate::subscriber::{Subscriber, SubscriberId};

/// What is known of a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// Topics and patterns it is tied to.
    pub subscriptions: usize,
    /// What waits for it, in bytes.
    pub bytes: usize,
    /// Messages that wait for its socket, without those of a replay that are not ready.
    pub messages: usize,
    /// When the pass began that brought the oldest of them. `None` if no live message waits.
    pub oldest: Option<Instant>,
}

impl Shard {
    /// What is known of a subscriber; `None` if it is gone.
    pub fn describe(&self, id: SubscriberId) -> Option<Described> {
        let subscriber = self.subscriber(id)?;
        let (messages, oldest) = subscriber.outbox.waiting();
        Some(Described {
            subscriptions: subscriber.subscriptions.len(),
            bytes: subscriber.waiting_bytes(),
            messages,
            oldest,
        })
    }

    /// Since when the oldest live message waits in the outboxes of `slots`.
    pub fn oldest_waiting(&self, slots: Range<usize>) -> Option<Instant> {
        let subscribers = slots.filter_map(|slot| self.subscribers.get(slot));
        subscribers.filter_map(|subscriber: &Subscriber| subscriber.outbox.oldest()).min()
    }

    /// No slot in use is as large.
    pub fn slots(&self) -> usize {
        self.subscribers.capacity()
    }
}
