//! From a published draft to the inboxes of the workers whose subscribers want it.
//!
//! Never waits: a publish either has its place and is on its way, or surely is not published.

use std::sync::Arc;
use std::time::Instant;

use fanfare_registry::{AdmitError, Admitted, BatchSize, InboxFull, Inboxes, Registry, ShardSet};
use fanfare_wire::{Draft, Message, Topic};

use crate::inbox::Inbox;

/// The registry and all inboxes. Shared by all threads.
pub(crate) struct Dispatch {
    pub(crate) registry: Registry,
    /// One per worker, in the order of the shards.
    pub(crate) inboxes: AllInboxes,
}

pub(crate) struct AllInboxes(pub(crate) Vec<Inbox>);

impl Dispatch {
    /// Publishes `drafts`, all to `topic`, in their order and without another message between them. `lane` is the calling
    /// worker.
    pub(crate) fn publish(
        &self,
        lane: usize,
        topic: &Topic,
        drafts: Vec<Draft>,
    ) -> Result<Admitted, AdmitError> {
        let admitted = self.registry.admit(lane, topic, drafts, Instant::now(), &self.inboxes)?;
        for shard in admitted.wake.iter() {
            self.inboxes.0[shard].wake();
        }
        Ok(admitted)
    }
}

impl Inboxes for AllInboxes {
    fn reserve(&self, shards: ShardSet, size: BatchSize) -> Result<(), InboxFull> {
        for shard in shards.iter() {
            if let Err(full) = self.0[shard].reserve(size) {
                for earlier in shards.iter().take_while(|earlier| *earlier != shard) {
                    self.0[earlier].release(size);
                }
                return Err(full);
            }
        }
        Ok(())
    }

    fn push(&self, shards: ShardSet, messages: Vec<Arc<Message>>, size: BatchSize) -> ShardSet {
        let mut wake = ShardSet::EMPTY;
        let mut push = |shard: usize, messages| {
            if self.0[shard].push(messages, size) {
                wake.insert(shard);
            }
        };
        let mut shards = shards.iter();
        let Some(mut last) = shards.next() else { return wake };
        for shard in shards {
            push(std::mem::replace(&mut last, shard), messages.clone());
        }
        // The last shard takes the list itself.
        push(last, messages);
        wake
    }
}
