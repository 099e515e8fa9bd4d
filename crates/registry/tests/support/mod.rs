//! Inboxes, numbers and names for the tests.
#![allow(dead_code, reason = "each test uses some of it")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use fanfare_registry::{BatchSize, InboxFull, Inboxes, RegistryLimits, ReplayLimits, Retention, ShardSet};
use fanfare_wire::{Draft, Kind, Message, Pattern, Topic};

/// Bounds that no test reaches by accident.
pub(crate) const LIMITS: RegistryLimits = RegistryLimits {
    topics_max: 100_000,
    retained_bytes_max: 1 << 30,
    lanes: 4,
    wildcard_topics_max: 1_000,
    patterns_max: 100_000,
};

/// Keeps the newest `messages_max` messages for ever.
pub(crate) fn ring(messages_max: usize) -> Retention {
    let limits = ReplayLimits { messages_max, age_max: std::time::Duration::MAX, bytes_max: usize::MAX };
    Retention { last_value: true, replay: Some(limits) }
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).expect("a valid name")
}

pub(crate) fn pattern(name: &str) -> Pattern {
    Pattern::new(name).expect("a valid pattern")
}

pub(crate) fn drafts(topic: &Topic, count: usize) -> Vec<Draft> {
    vec![Draft::new(topic.clone(), Kind::Text, b"payload"); count]
}

/// One inbox per shard, each of which takes so many messages. A full one refuses, and that must leave no trace.
pub(crate) struct Mailboxes {
    messages_max: usize,
    mailboxes: Vec<Mutex<Mailbox>>,
}

#[derive(Default)]
struct Mailbox {
    reserved: usize,
    messages: Vec<Arc<Message>>,
}

impl Mailboxes {
    pub(crate) fn new(shards: usize, messages_max: usize) -> Self {
        Self { messages_max, mailboxes: (0..shards).map(|_| Mutex::default()).collect() }
    }

    fn with<R>(&self, shard: usize, change: impl FnOnce(&mut Mailbox) -> R) -> R {
        change(&mut self.mailboxes[shard].lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn take(&self, shard: usize) -> Vec<Arc<Message>> {
        self.with(shard, |mailbox| {
            let messages = std::mem::take(&mut mailbox.messages);
            mailbox.reserved -= messages.len();
            messages
        })
    }

    /// The offsets in a shard's inbox, which is empty then.
    pub(crate) fn take_offsets(&self, shard: usize) -> Vec<u64> {
        self.take(shard).iter().map(|message| message.offset()).collect()
    }
}

impl Inboxes for Mailboxes {
    fn reserve(&self, shards: ShardSet, size: BatchSize) -> Result<(), InboxFull> {
        let mut reserved = ShardSet::EMPTY;
        for shard in shards.iter() {
            let fits = self.with(shard, |mailbox| {
                let fits = mailbox.reserved + size.messages <= self.messages_max;
                mailbox.reserved += if fits { size.messages } else { 0 };
                fits
            });
            if !fits {
                for shard in reserved.iter() {
                    self.with(shard, |mailbox| mailbox.reserved -= size.messages);
                }
                return Err(InboxFull);
            }
            reserved.insert(shard);
        }
        Ok(())
    }

    fn push(&self, shards: ShardSet, messages: Vec<Arc<Message>>, _: BatchSize) -> ShardSet {
        for shard in shards.iter() {
            self.with(shard, |mailbox| mailbox.messages.extend(messages.iter().cloned()));
        }
        shards
    }
}

/// Ends the test for everybody when one thread fails, or the others would wait for it.
pub(crate) struct StopOnPanic<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}

/// Endless numbers from a seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds start far apart, and the state is never zero, where the generator would stay.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound as u64) as usize
    }

    /// True `percent` times in a hundred.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}
