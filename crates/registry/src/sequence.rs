//! The node's count of messages, and up to where all of them have been handed over.
//!
//! Publishers take numbers at the same time and finish in any order, so the greatest number given says little. Each
//! publishing thread has a lane, in which it writes a lower bound of what it is about to take, and which it clears when
//! those messages are in their ring and in every interested inbox:
//!
//! ```text
//!   publisher   lane := taken     taken += n     ring, inboxes     lane := idle
//!   reader      1. taken?   2. every lane?   3. the least of them all
//! ```
//!
//! # Why the watermark holds
//! Let a reader have found the count at or past message *s*. The addition that gave *s* then comes before that look at
//! the count in the one order of all SeqCst operations, the lane's bound before that addition, and the look at the lanes
//! after it: the reader finds in that lane the bound, which is below *s*, or something written later. Later is only what
//! the publisher wrote with the hand-over behind it, by a release that the reader acquires. So the watermark is below
//! *s*, or *s* has been handed over. Were the bound written after the addition, or the lanes read before the count, a
//! number could be given between the two and be overlooked.
//!
//! # Invariants   a number is given under its topic's lock; one thread at a time uses a lane; a watermark never falls

use std::sync::atomic::{AtomicU64, Ordering};

use fanfare_wire::Epoch;

/// In the lane of a thread that has nothing in hand.
const IDLE: u64 = u64::MAX;

pub(crate) struct Sequence {
    epoch: Epoch,
    taken: Line,
    reached: Line,
    lanes: Box<[Line]>,
}

/// A number on cache lines of its own: two of 64 bytes, which some processors fetch together.
#[repr(align(128))]
struct Line(AtomicU64);

/// Numbers whose messages are being handed over, until this is dropped.
pub(crate) struct Taken<'a> {
    /// The first of them.
    pub(crate) first: u64,
    lane: &'a AtomicU64,
}

impl Sequence {
    pub(crate) fn new(epoch: Epoch, lanes: usize) -> Self {
        let line = |number| Line(AtomicU64::new(number));
        Self { epoch, taken: line(0), reached: line(0), lanes: (0..lanes).map(|_| line(IDLE)).collect() }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Gives the next `count` numbers to the thread whose lane it is.
    pub(crate) fn take(&self, lane: usize, count: usize) -> Taken<'_> {
        let lane = &self.lanes[lane].0;
        // However old this value is, the addition below gives greater ones.
        let bound = self.taken.0.load(Ordering::Relaxed);
        let before = lane.swap(bound, Ordering::SeqCst);
        debug_assert_eq!(before, IDLE, "two threads use one lane");
        let first = self.taken.0.fetch_add(count as u64, Ordering::SeqCst) + 1;
        Taken { first, lane }
    }

    /// The sequence up to which every message has been handed over.
    pub(crate) fn watermark(&self) -> u64 {
        let taken = self.taken.0.load(Ordering::SeqCst);
        let least = self.lanes.iter().map(|lane| lane.0.load(Ordering::SeqCst)).fold(taken, u64::min);
        // A thread that was interrupted between its look at the count and its lane writes a bound that others have
        // passed meanwhile. What was a watermark once still is one.
        let reached = self.reached.0.load(Ordering::Acquire);
        if reached >= least { reached } else { self.reached.0.fetch_max(least, Ordering::AcqRel).max(least) }
    }

    /// The sequence a client names as the last it has seen, if it can have seen it here.
    pub(crate) fn cursor(&self, epoch: &str, sequence: u64) -> Option<u64> {
        let known = epoch.parse() == Ok(self.epoch) && sequence <= self.watermark();
        known.then_some(sequence)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.lane.store(IDLE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    fn sequence(lanes: usize) -> Sequence {
        Sequence::new(Epoch::new(7), lanes)
    }

    #[test]
    fn the_watermark_waits_for_the_slowest_lane() {
        let sequence = sequence(3);
        assert_eq!(sequence.watermark(), 0);
        let first = sequence.take(0, 2);
        let second = sequence.take(1, 1);
        assert_eq!((first.first, second.first, sequence.watermark()), (1, 3, 0));
        drop(second);
        assert_eq!(sequence.watermark(), 0, "1 and 2 are on their way");
        let third = sequence.take(1, 1);
        drop(first);
        assert_eq!(sequence.watermark(), 3);
        drop(third);
        assert_eq!(sequence.watermark(), 4);
    }

    #[test]
    fn the_watermark_never_falls() {
        let sequence = sequence(2);
        drop(sequence.take(0, 5));
        assert_eq!(sequence.watermark(), 5);
        // A thread that looked at the count long ago, and takes its number now.
        sequence.lanes[1].0.store(2, Ordering::SeqCst);
        assert_eq!(sequence.watermark(), 5);
    }

    #[test]
    fn a_cursor_is_of_this_node_and_of_the_past() {
        let sequence = sequence(1);
        drop(sequence.take(0, 5));
        let own = Epoch::new(7).to_string();
        assert_eq!(sequence.cursor(&own, 0), Some(0));
        assert_eq!(sequence.cursor(&own, 5), Some(5));
        assert_eq!(sequence.cursor(&own, 6), None);
        assert_eq!(sequence.cursor(&Epoch::new(8).to_string(), 5), None);
        assert_eq!(sequence.cursor("elsewhere", 5), None);
    }

    #[test]
    fn a_lane_is_free_after_a_panic() {
        let sequence = sequence(1);
        let panicked = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _taken = sequence.take(0, 1);
                panic!("on purpose");
            });
            thread.join().is_err()
        });
        assert!(panicked);
        drop(sequence.take(0, 1));
        assert_eq!(sequence.watermark(), 2);
    }

    #[test]
    fn nothing_up_to_the_watermark_is_still_to_come() {
        const LANES: usize = 4;
        const NUMBERS: usize = 100_000;
        let sequence = sequence(LANES);
        let handed: Vec<AtomicBool> = (0..NUMBERS + LANES * 3).map(|_| AtomicBool::new(false)).collect();
        thread::scope(|scope| {
            for lane in 0..LANES {
                let (sequence, handed) = (&sequence, &handed);
                scope.spawn(move || {
                    for turn in 0.. {
                        let count = 1 + turn % 3;
                        let taken = sequence.take(lane, count);
                        let first = taken.first as usize;
                        // Long enough for a reader that overlooked this to look at what it believes to be handed over.
                        (0..50).for_each(|_| std::hint::spin_loop());
                        handed[first - 1..first - 1 + count]
                            .iter()
                            .for_each(|handed| handed.store(true, Ordering::Relaxed));
                        drop(taken);
                        if first + count > NUMBERS {
                            return;
                        }
                        if turn % 64 == 0 {
                            thread::yield_now();
                        }
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut before = 0;
                    while before < NUMBERS {
                        let watermark = sequence.watermark() as usize;
                        assert!(watermark >= before, "{watermark} after {before}");
                        for (index, handed) in handed[before..watermark].iter().enumerate().rev() {
                            let number = before + 1 + index;
                            assert!(handed.load(Ordering::Relaxed), "{number} of {watermark}");
                        }
                        before = watermark;
                    }
                });
            }
        });
    }
}
