//! What the registry asks of whoever takes its messages: an inbox per shard, with a bound.

use std::sync::Arc;

use fanfare_wire::Message;

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
