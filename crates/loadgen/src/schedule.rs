//! The open schedule: message `k` is due at `start + k / rate`, whatever happened to those before it.
//!
//! A publisher that was held up finds all that came due meanwhile and sends it at once. Since latency counts from the
//! due time, a stall shows in every message that it delayed, not only in the first.
//!
//! # Owner        one publisher thread
//! # Invariants   the due times depend on the rate and the start alone; rounding never adds up

use std::time::{Duration, Instant};

/// Nanoseconds of the monotonic clock since the run began; the same clock for all threads of the process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    pub(crate) fn now_ns(self) -> u64 {
        nanoseconds(self.origin.elapsed())
    }
}

/// The due times of one publisher's posts.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    start_ns: u64,
    end_ns: u64,
    per_second: f64,
    taken: u64,
}

impl Schedule {
    /// Posts at `per_second` from `start_ns` up to, not including, `end_ns`. A rate of zero is an empty schedule.
    pub(crate) fn new(start_ns: u64, end_ns: u64, per_second: f64) -> Self {
        Self { start_ns, end_ns, per_second, taken: 0 }
    }

    /// When the next post is due; `None` after the last.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        if self.per_second <= 0.0 {
            return None;
        }
        // An f64 keeps nanoseconds exact for a hundred days.
        let due_ns = self.start_ns + (self.taken as f64 * 1e9 / self.per_second) as u64;
        (due_ns < self.end_ns).then_some(due_ns)
    }

    /// The due time of the next post, if it has come.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        let due_ns = self.next_due_ns().filter(|&due_ns| due_ns <= now_ns)?;
        self.taken += 1;
        Some(due_ns)
    }

    /// No post comes after this one.
    pub(crate) fn stop(&mut self) {
        self.end_ns = 0;
    }
}

/// A duration as nanoseconds; five centuries fit.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn due_times_do_not_drift() {
        let mut schedule = Schedule::new(5, 5 + 3_000_000 * MS, 3.0);
        let due: Vec<_> = std::iter::from_fn(|| schedule.take_due(u64::MAX)).collect();
        assert_eq!(due.len(), 9_000);
        for (k, due) in due.iter().enumerate() {
            let exact = 5 + k as u64 * 1_000_000_000 / 3;
            assert!(due.abs_diff(exact) <= 1, "message {k}: {due}, exactly {exact}");
        }
    }

    #[test]
    fn nothing_is_taken_before_it_is_due_nor_after_the_end() {
        let mut schedule = Schedule::new(10 * MS, 12 * MS, 1_000.0);
        assert_eq!(schedule.take_due(10 * MS - 1), None);
        assert_eq!(schedule.take_due(10 * MS), Some(10 * MS));
        assert_eq!(schedule.take_due(10 * MS), None);
        assert_eq!(schedule.next_due_ns(), Some(11 * MS));
        assert_eq!(schedule.take_due(99 * MS), Some(11 * MS));
        assert_eq!(schedule.next_due_ns(), None);
    }

    #[test]
    fn a_stall_shows_in_the_latency_of_every_message_it_delayed() {
        // A message each millisecond; the publisher stands still from 20 ms to 120 ms, and delivery takes no time.
        let mut schedule = Schedule::new(0, 200 * MS, 1_000.0);
        let mut latencies = Vec::new();
        for now in (0..=20).chain(120..=200).map(|ms| ms * MS) {
            while let Some(due) = schedule.take_due(now) {
                latencies.push((now - due) / MS);
            }
        }
        assert_eq!(latencies.len(), 200, "none is left out");
        let late: Vec<_> = latencies.into_iter().filter(|&ms| ms > 0).collect();
        assert_eq!(late, (1..=99).rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_rate_of_zero_and_a_stopped_schedule_are_empty() {
        assert_eq!(Schedule::new(0, u64::MAX, 0.0).next_due_ns(), None);
        let mut schedule = Schedule::new(0, u64::MAX, 10.0);
        schedule.stop();
        assert_eq!(schedule.take_due(u64::MAX), None);
    }
}
