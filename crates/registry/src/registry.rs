//! The topics of the process.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use fanfare_wire::command::Start;
use fanfare_wire::{Draft, Epoch, Message, Topic};
use parking_lot::Mutex;

use crate::entry::{Admitted, Entry, Joined};
use crate::shard_set::ShardSet;

/// Where admitted messages go: one bounded inbox per shard. The gateway provides them.
pub trait Inboxes {
    /// Makes room for `size` in every inbox of `shards`, or in none.
    fn reserve(&self, shards: ShardSet, size: BatchSize) -> Result<(), InboxFull>;

    /// Hands over messages that room was made for. Returns the shards whose inbox was empty before: they may sleep.
    fn push(&self, shards: ShardSet, messages: Vec<Arc<Message>>, size: BatchSize) -> ShardSet;
}

/// What a batch takes of an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSize {
    /// How many messages.
    pub messages: usize,
    /// Their payloads together.
    pub bytes: usize,
}

/// A shard does not keep up: its inbox is at its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker's inbox is full")]
pub struct InboxFull;

/// Why messages got no place. None of them was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// An interested shard does not keep up.
    #[error("the gateway is busy: {0}")]
    Busy(#[from] InboxFull),
    /// The topic is new and the process has as many as it may.
    #[error("the gateway has as many topics as it may")]
    TooManyTopics,
}

/// Why a subscriber cannot join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The topic is new and the process has as many as it may.
    #[error("the gateway has as many topics as it may")]
    TooManyTopics,
}

/// The bounds of a registry.
#[derive(Debug, Clone, Copy)]
pub struct RegistryLimits {
    /// Topics with subscribers, or published to not long ago.
    pub topics_max: usize,
    /// Payload bytes kept for newcomers, over all topics. Past it, a topic keeps no last message.
    pub retained_bytes_max: usize,
}

/// What a topic keeps, decided when it appears.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Whether a new subscriber gets the last message.
    pub last_value: bool,
}

/// The process's topics. All threads share it.
pub struct Registry {
    topics: DashMap<Topic, Arc<Mutex<Entry>>, ahash::RandomState>,
    limits: RegistryLimits,
    retention: Box<dyn Fn(&Topic) -> Retention + Send + Sync>,
    topics_len: AtomicUsize,
    retained_bytes: AtomicUsize,
    epochs: AtomicU64,
}

impl Registry {
    /// An empty registry. `retention` is asked once for each topic that appears.
    pub fn new(
        limits: RegistryLimits,
        retention: impl Fn(&Topic) -> Retention + Send + Sync + 'static,
    ) -> Self {
        Self {
            topics: DashMap::default(),
            limits,
            retention: Box::new(retention),
            topics_len: AtomicUsize::new(0),
            retained_bytes: AtomicUsize::new(0),
            // Random, so that a restarted process does not reuse an epoch.
            epochs: AtomicU64::new(RandomState::new().hash_one(std::process::id())),
        }
    }

    /// Gives `drafts`, all of `topic`, their places, and hands them to the interested shards.
    pub fn admit(
        &self,
        topic: &Topic,
        drafts: Vec<Draft>,
        inboxes: &impl Inboxes,
    ) -> Result<Admitted, AdmitError> {
        loop {
            let entry = self.entry(topic).ok_or(AdmitError::TooManyTopics)?;
            let mut entry = entry.lock();
            if entry.dead {
                continue;
            }
            let may_keep = self.retained_bytes() < self.limits.retained_bytes_max;
            let (admitted, kept) = entry.admit(drafts, inboxes, may_keep)?;
            self.retained_bytes.fetch_add(kept.after, Ordering::Relaxed);
            self.retained_bytes.fetch_sub(kept.before, Ordering::Relaxed);
            return Ok(admitted);
        }
    }

    /// Registers the interest of `shard` in `topic` for a new subscriber, and says how that one begins.
    ///
    /// Every message after [`Joined::position`] reaches the shard's inbox. Messages up to it may still be in that inbox:
    /// the shard skips them for this subscriber.
    pub fn join(&self, topic: &Topic, shard: usize, start: &Start<'_>) -> Result<Joined, JoinError> {
        loop {
            let entry = self.entry(topic).ok_or(JoinError::TooManyTopics)?;
            let mut entry = entry.lock();
            if !entry.dead {
                return Ok(entry.join(shard, start));
            }
        }
    }

    /// Takes back the interest of `shard`: its last subscriber of `topic` is gone.
    pub fn leave(&self, topic: &Topic, shard: usize) {
        let Some(entry) = self.topics.get(topic).map(|entry| Arc::clone(&entry)) else {
            return;
        };
        if entry.lock().leave(shard) {
            self.remove_if(topic, |entry| entry.is_unused());
        }
    }

    /// The topic's retained message.
    pub fn last(&self, topic: &Topic) -> Option<Arc<Message>> {
        let entry = self.topics.get(topic).map(|entry| Arc::clone(&entry))?;
        entry.lock().last().cloned()
    }

    /// Forgets the topics that nobody subscribes to and nobody used since the sweep before. Returns how many.
    ///
    /// A forgotten topic that comes back has another epoch.
    pub fn sweep(&self) -> usize {
        let mut idle = Vec::new();
        for topic in &self.topics {
            if topic.value().lock().is_idle() {
                idle.push(topic.key().clone());
            }
        }
        // A topic used between the two looks has `used` set again and stays.
        idle.iter().filter(|topic| self.remove_if(topic, Entry::is_idle)).count()
    }

    /// How many topics there are.
    pub fn topics(&self) -> usize {
        self.topics_len.load(Ordering::Relaxed)
    }

    /// The payload bytes kept for newcomers.
    pub fn retained_bytes(&self) -> usize {
        self.retained_bytes.load(Ordering::Relaxed)
    }

    /// The topic's entry, made if it is not there. `None` at the bound.
    fn entry(&self, topic: &Topic) -> Option<Arc<Mutex<Entry>>> {
        // Looking takes the read lock only; `entry` would take the write lock of the map's shard each time.
        if let Some(entry) = self.topics.get(topic).map(|entry| Arc::clone(&entry)) {
            return Some(entry);
        }
        if self.topics_len.fetch_add(1, Ordering::Relaxed) >= self.limits.topics_max {
            self.topics_len.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mut added = false;
        let entry = Arc::clone(&self.topics.entry(topic.clone()).or_insert_with(|| {
            added = true;
            let keeps_last = (self.retention)(topic).last_value;
            Arc::new(Mutex::new(Entry::new(self.next_epoch(), keeps_last)))
        }));
        if !added {
            self.topics_len.fetch_sub(1, Ordering::Relaxed);
        }
        Some(entry)
    }

    fn remove_if(&self, topic: &Topic, condition: impl Fn(&mut Entry) -> bool) -> bool {
        let removed = self.topics.remove_if(topic, |_, entry| {
            let mut entry = entry.lock();
            let remove = condition(&mut entry);
            if remove {
                self.retained_bytes.fetch_sub(entry.bury(), Ordering::Relaxed);
            }
            remove
        });
        if removed.is_some() {
            self.topics_len.fetch_sub(1, Ordering::Relaxed);
        }
        removed.is_some()
    }

    fn next_epoch(&self) -> Epoch {
        // A golden-ratio step visits all values before it repeats one; the mix keeps neighbours from looking alike.
        let step = self.epochs.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        Epoch::new((step ^ step >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20)
    }
}
