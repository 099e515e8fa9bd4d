//! A publish allocates for its messages, never for patterns.
#![expect(unsafe_code, reason = "a counting allocator is an unsafe trait")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Instant;

use fanfare_registry::Registry;
use fanfare_wire::command::Start;

use support::{LIMITS, Mailboxes, drafts, pattern, ring, topic};

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

#[test]
fn a_publish_does_not_look_at_patterns() {
    let (none, many) = (allocations(0), allocations(10_000));
    assert!(none > 0, "a publish itself allocates, or nothing is counted");
    assert_eq!(none, many, "without patterns and with 10,000 that do not match");
}

/// How often a publish allocates beside so many patterns.
fn allocations(patterns: usize) -> u64 {
    let (registry, mailboxes) = (Registry::new(LIMITS, |_| ring(9)), Mailboxes::new(1, usize::MAX));
    let start = |_: &_| Start::Live;
    for index in 0..patterns {
        let pattern = pattern(&format!("{index}.*"));
        registry.join_pattern(&pattern, 0, start, Instant::now()).expect("there is room");
    }
    let topic = topic("ticker.BTC-USD");
    registry.join(&topic, 0, &Start::Live, Instant::now()).expect("there is room");
    let publish = || {
        let drafts = drafts(&topic, 1);
        let before = ALLOCATIONS.get();
        registry.admit(0, &topic, drafts, Instant::now(), &mailboxes).expect("there is room");
        ALLOCATIONS.get() - before
    };
    // The ring and the inbox have room from the second on.
    publish();
    publish()
}
