//! The open schedule: message `k` is due at `start + k / rate`, whatever happened to those before it. A rate may grow or
//! fall evenly, and what is due within a while may be due at its beginning, in one burst.
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
    /// What the rate gains each second.
    slope: f64,
    burst_ns: Option<u64>,
    taken: u64,
}

impl Schedule {
    /// Posts at `per_second` from `start_ns` up to, not including, `end_ns`. A rate of zero is an empty schedule.
    pub(crate) fn new(start_ns: u64, end_ns: u64, per_second: f64) -> Self {
        Self { start_ns, end_ns, per_second, slope: 0.0, burst_ns: None, taken: 0 }
    }

    /// The rate reaches `per_second` at the end.
    pub(crate) fn ramp_to(mut self, per_second: f64) -> Self {
        let seconds = self.end_ns.saturating_sub(self.start_ns) as f64 / 1e9;
        self.slope = if seconds > 0.0 { (per_second - self.per_second) / seconds } else { 0.0 };
        self
    }

    /// All that is due within `burst_ns` is due at its beginning.
    pub(crate) fn in_bursts(mut self, burst_ns: u64) -> Self {
        self.burst_ns = Some(burst_ns);
        self
    }

    /// When the next post is due; `None` after the last.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        // An f64 keeps nanoseconds exact for a hundred days.
        let after_ns = (self.seconds_of(self.taken as f64)? * 1e9) as u64;
        let after_ns = self.burst_ns.map_or(after_ns, |burst_ns| after_ns - after_ns % burst_ns);
        Some(self.start_ns + after_ns).filter(|&due_ns| due_ns < self.end_ns)
    }

    /// When `posts` have come due: rate * t + slope * t^2 / 2 = posts, solved for t.
    fn seconds_of(&self, posts: f64) -> Option<f64> {
        let (rate, slope) = (self.per_second, self.slope);
        if slope == 0.0 {
            return (rate > 0.0).then(|| posts / rate);
        }
        if posts == 0.0 {
            return Some(0.0);
        }
        let square = rate * rate + 2.0 * slope * posts;
        // A rate that falls to zero never brings more. This way of writing it divides by no small difference.
        (square >= 0.0 && rate + square.sqrt() > 0.0).then(|| 2.0 * posts / (rate + square.sqrt()))
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
    fn a_rate_can_grow_and_fall() {
        let due = |from, to| {
            let mut schedule = Schedule::new(0, 10_000 * MS, from).ramp_to(to);
            std::iter::from_fn(move || schedule.take_due(u64::MAX)).collect::<Vec<_>>()
        };
        let check = |from, to, whole: usize, half: usize| {
            let due = due(from, to);
            assert!(due.is_sorted() && due.len().abs_diff(whole) <= 1, "{from} to {to}: {}", due.len());
            let first = due.partition_point(|&due_ns| due_ns < 5_000 * MS);
            assert!(first.abs_diff(half) <= 1, "{from} to {to}: {first} in the first half");
        };
        check(100.0, 300.0, 2_000, 750);
        check(300.0, 100.0, 2_000, 1_250);
        check(100.0, 0.0, 500, 375);
        check(0.0, 100.0, 500, 125);
        check(100.0, 100.0, 1_000, 500);
    }

    #[test]
    fn a_burst_is_due_at_once() {
        let mut schedule = Schedule::new(7, 7 + 1_000 * MS, 100.0).in_bursts(100 * MS);
        let due: Vec<_> = std::iter::from_fn(|| schedule.take_due(u64::MAX)).collect();
        assert_eq!(due.len(), 100);
        assert!(due.iter().enumerate().all(|(k, due)| *due == 7 + k as u64 / 10 * 100 * MS));
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
