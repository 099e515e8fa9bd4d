//! One worker's subscribers: who wants which topic, what waits for whom, and the fan-out pass.
//!
//! A [`Shard`] belongs to one thread. It does no I/O and reads no clock: frames leave through a [`Sink`], so the same
//! shard runs under the gateway's writer and in the simulation.
//!
//! ```text
//!   inbox ─► Shard::begin ─► Pass ─► Shard::deliver ──┬─► Sink::write_all        the socket takes it: done
//!            groups by topic,         256 sockets     └─► Outbox ─► Shard::flush  it does not: kept, bounded
//!            joins the frames         at a time
//! ```
//!
//! # Invariants
//! - To a subscriber whose socket takes everything, a pass costs a place in one `Sink::write_all`: no allocation, no reference
//!   count, no clone.
//! - A subscriber sees a topic's offsets strictly increasing. Offsets it misses are announced by a gap before the next
//!   message of the topic, or its connection is closed.
//! - What waits for one subscriber is bounded by [`OutboxLimits`]; past it, see [`slow_consumer`].

mod audience;
mod batch;
pub mod budget;
mod conflation;
mod describe;
mod known_topic;
mod outbox;
mod pacing;
mod pass;
mod replay;
mod shard;
mod silence;
mod sink;
pub mod slow_consumer;
mod step;
mod subscriber;
mod turn;
mod visit;

pub use audience::Wish;
pub use describe::Described;
pub use known_topic::TopicSettings;
pub use outbox::{Flushed, OutboxLimits};
pub use pass::{Pass, Progress, Report};
pub use replay::{Announce, Beginning};
pub use shard::{Left, Shard, ShardLimits, SubscribeError, Unsubscribed};
pub use sink::{Sink, Write, WriteBytes, Written};
pub use slow_consumer::{Eviction, SlowPolicy};
pub use step::STEP_MAX;
pub use subscriber::SubscriberId;
