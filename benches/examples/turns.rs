//! Passes over 1,000 healthy subscribers of one topic, for callgrind to count: `turns PASSES`.
//!
//! The difference of two runs, over 1,000 times the difference of their passes, is what one delivery costs without its socket:
//!
//! ```text
//!   valgrind --tool=callgrind target/release/examples/turns 10
//!   valgrind --tool=callgrind target/release/examples/turns 110
//! ```

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use fanfare_fanout::{
    OutboxLimits, Progress, Report, Shard, ShardLimits, Sink, SubscriberId, TopicSettings, Wish, Written,
};
use fanfare_wire::{Draft, Epoch, FormatId, Kind, Message, Position};

const SUBSCRIBERS: usize = 1_000;

/// Sockets that take everything.
struct Healthy;

impl Sink for Healthy {
    fn write(&mut self, _: SubscriberId, bytes: &[u8]) -> Written {
        Written::Bytes(bytes.len())
    }

    fn write_vectored(&mut self, _: SubscriberId, slices: &[IoSlice<'_>]) -> Written {
        Written::Bytes(slices.iter().map(|slice| slice.len()).sum())
    }
}

fn main() {
    let passes = std::env::args().nth(1).and_then(|passes| passes.parse().ok()).unwrap_or(10);
    let outbox = OutboxLimits { bytes_max: 65_536, messages_max: 1_024, control_bytes_max: 65_536 };
    let limits = ShardLimits { outbox, subscriptions_max: 1 };
    let mut shard = Shard::new(limits, Epoch::new(1), |_| TopicSettings::default());
    let topic = fanfare_benches::topic(0);
    for _ in 0..SUBSCRIBERS {
        let id = shard.connect(FormatId::RAW, false);
        shard.subscribe(id, &topic, Wish::AsTopic, 0).expect("the bound is far");
    }
    let mut report = Report::default();
    for offset in 1..=passes {
        let draft = Draft::new(topic.clone(), Kind::Text, &[b'x'; 128]);
        let message = Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset);
        let mut pass = shard.begin(Instant::now(), offset, [Arc::new(message)]);
        while shard.deliver(&mut pass, 256, &mut Healthy, &mut report) == Progress::More {}
    }
    println!("{} deliveries", report.deliveries);
}
