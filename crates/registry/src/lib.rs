//! The one structure all threads of the process touch: its topics.
//!
//! A topic's entry gives messages their place, keeps what a newcomer may ask for, and knows which shards are interested.
//! The map from names to entries is sharded with dashmap; the state of one topic is under a mutex of its own. Beside the
//! map there is an index of names and patterns, which nobody asks per message, and a count of all messages of the node.
//!
//! # Invariants
//! - No dashmap type and no guard leaves this crate; no method waits for anything but short locks, in one order (see
//!   `registry`).
//! - Offset, sequence, retention and the hand-over to every interested inbox happen under one lock of the topic, so all
//!   shards see a topic's messages in the order of their offsets. Waking the shards is the caller's, after the lock is
//!   gone.
//! - What is at or below [`Registry::watermark`] has been handed over; a cursor is such a sequence. Whoever comes with one
//!   gets all that followed, or hears that something may be lost: never a part as if it were all.
//! - A shard's interest in a topic is: it has subscribers of the topic, or of a pattern that matches it.

mod describe;
mod entry;
mod inboxes;
mod index;
mod patterns;
mod poll;
mod registry;
mod replay;
mod sequence;
mod shard_set;

pub use describe::{Info, Last};
pub use entry::{Admitted, Joined};
pub use inboxes::{BatchSize, InboxFull, Inboxes};
pub use poll::Polled;
pub use registry::{AdmitError, JoinError, Registry, RegistryLimits};
pub use replay::{ReplayLimits, Retention};
pub use shard_set::ShardSet;
