//! What the benches share: payloads of a size, messages with a place, and ends of the line that take everything.
//!
//! | bench | measures |
//! |---|---|
//! | `encode` | from a body to its frame in a wire format |
//! | `parse` | from a client's bytes to messages |
//! | `admit` | from drafts to places, retention and the hand-over to shards |
//! | `deliver` | a fan-out pass, without the sockets |
//!
//! ```sh
//! cargo bench -p fanfare-benches -- --quick       # a minute: whether something moved
//! cargo bench -p fanfare-benches --bench deliver  # with intervals, and against the run before
//! ```
//!
//! `examples/turns.rs`, `examples/compressions.rs` and `bin/scaling.rs` are for callgrind.
//!
//! No time is asserted: those belong to the machine they were measured on. `tests/counts.rs` asserts counts.

use std::hint::black_box;
use std::io::IoSlice;
use std::sync::Arc;

use fanfare_fanout::{Sink, SubscriberId, Written};
use fanfare_registry::{BatchSize, InboxFull, Inboxes, ShardSet};
use fanfare_wire::{Draft, Epoch, Kind, Message, Position, Topic};

/// A JSON object of just `bytes` bytes, at least 34: a price, and digits up to the length.
pub fn json_payload(bytes: usize) -> Vec<u8> {
    const HEAD: &str = r#"{"bid":"64000.10","ask":"64000.2"#;
    const TAIL: &str = r#""}"#;
    let digits = bytes.checked_sub(HEAD.len() + TAIL.len()).expect("34 bytes are the shortest");
    format!("{HEAD}{}{TAIL}", "0".repeat(digits)).into_bytes()
}

/// The `index`th of many topics.
pub fn topic(index: usize) -> Topic {
    Topic::new(&format!("ticker.T{index}-USD")).expect("the name is legal")
}

/// A JSON message of `bytes` payload bytes, placed at `offset`.
pub fn message(topic: &Topic, offset: u64, bytes: usize) -> Arc<Message> {
    let draft = Draft::new(topic.clone(), Kind::Json, &json_payload(bytes));
    Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
}

/// Sockets that take everything at once.
#[derive(Debug)]
pub struct HealthySockets;

impl Sink for HealthySockets {
    fn write(&mut self, to: SubscriberId, bytes: &[u8]) -> Written {
        black_box((to, bytes));
        Written::Bytes(bytes.len())
    }

    fn write_vectored(&mut self, to: SubscriberId, slices: &[IoSlice<'_>]) -> Written {
        black_box((to, slices));
        Written::Bytes(slices.iter().map(|slice| slice.len()).sum())
    }
}

/// Inboxes that always have room and forget what they get.
#[derive(Debug)]
pub struct DiscardingInboxes;

impl Inboxes for DiscardingInboxes {
    fn reserve(&self, shards: ShardSet, size: BatchSize) -> Result<(), InboxFull> {
        black_box((shards, size));
        Ok(())
    }

    /// Each shard but the last gets clones, as from the gateway: that is most of what a further shard costs.
    fn push(&self, shards: ShardSet, messages: Vec<Arc<Message>>, size: BatchSize) -> ShardSet {
        for _ in shards.iter().skip(1) {
            black_box(messages.clone());
        }
        black_box((messages, size));
        ShardSet::EMPTY
    }
}
