//! A pass allocates for its messages, never for its deliveries.
#![expect(unsafe_code, reason = "a counting allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use fanfare_fanout::{
    OutboxLimits, Progress, Report, Shard, ShardLimits, Sink, SubscriberId, TopicSettings, Wish, Written,
};
use fanfare_wire::{Draft, Epoch, FormatId, Kind, Message, Position, Topic};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Of this thread alone: the test harness allocates on others. Constant and without a destructor, so that reading it
    /// never allocates.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every method hands its arguments to `System` unchanged and returns what that returns; counting touches no
// memory but a thread-local number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the same there.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is the same there.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

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

#[test]
fn a_delivery_does_not_allocate() {
    for messages in [1, 20] {
        let (few, many) = (allocations(1_000, messages), allocations(2_000, messages));
        assert!(few > 0, "the pass itself allocates, or nothing is counted");
        assert_eq!(few, many, "{messages} messages to 1,000 and to 2,000 subscribers");
    }
}

/// How often a pass of `messages` to `subscribers` allocates.
fn allocations(subscribers: u64, messages: u64) -> u64 {
    let topic = Topic::new("ticker.BTC-USD").expect("a valid name");
    let limits = ShardLimits {
        outbox: OutboxLimits { bytes_max: 64 * 1024, messages_max: 1_000, control_bytes_max: 16 * 1024 },
        subscriptions_max: 1,
    };
    let mut shard = Shard::new(limits, Epoch::new(1), |_| TopicSettings::default());
    for _ in 0..subscribers {
        let id = shard.connect(FormatId::RAW, false);
        shard.subscribe(id, &topic, Wish::AsTopic, 0).expect("within the bounds");
    }
    let messages: Vec<_> = (1..=messages)
        .map(|offset| {
            let draft = Draft::new(topic.clone(), Kind::Json, br#"{"bid":"64000.10"}"#);
            Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
        })
        .collect();
    let mut report = Report::default();
    let expect = subscribers * messages.len() as u64;

    let now = Instant::now();
    let before = ALLOCATIONS.get();
    let mut pass = shard.begin(now, 1, messages);
    while shard.deliver(&mut pass, 256, &mut Healthy, &mut report) == Progress::More {}
    drop(pass);
    let allocations = ALLOCATIONS.get() - before;

    assert_eq!(report.deliveries, expect);
    allocations
}
