//! The one structure all threads of the process touch: its topics.
//!
//! A topic's entry gives messages their place, keeps what a newcomer may ask for, and knows which shards are interested.
//! The map from names to entries is sharded with dashmap; the state of one topic is under a mutex of its own.
//!
//! # Invariants
//! - No dashmap type and no guard leaves this crate; no method waits for anything but the two short locks above.
//! - Offset, retention and the hand-over to every interested inbox happen under one lock of the topic, so all shards see
//!   a topic's messages in the order of their offsets. Waking the shards is the caller's, after the lock is gone.

mod entry;
mod inboxes;
mod registry;
mod replay;
mod shard_set;

pub use entry::{Admitted, Joined};
pub use inboxes::{BatchSize, InboxFull, Inboxes};
pub use registry::{AdmitError, JoinError, Registry, RegistryLimits};
pub use replay::{ReplayLimits, Retention};
pub use shard_set::ShardSet;
