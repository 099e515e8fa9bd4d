//! So many a second: what has been taken, by whom.
//!
//! A [`Meter`] is the time at which all that was taken is paid for, at the price of the rate (the generic cell rate
//! algorithm). Nothing has to run for it to fill up again: one that is paid for is as good as one that never was.
//!
//! [`Meters`] are the meters of many, found by a hash that differs from process to process. A place for a newcomer is that of
//! whoever is paid for first among eight neighbours, which is nobody as long as there is room.
//!
//! # Bounds       `Limits::rate_entries`, of 16 bytes, which are there from the start and stay untouched until they are needed
//! # Invariants   time is an argument: nanoseconds since any beginning, the same for all calls

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ahash::RandomState;
use parking_lot::Mutex;

/// So many a second, and so many at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Above 0, at most 10^9.
    pub per_second: u32,
    /// Above 0, at most 10^9.
    pub burst: u32,
}

impl Rate {
    /// What one costs, in nanoseconds.
    fn price(self) -> u64 {
        1_000_000_000 / u64::from(self.per_second)
    }

    /// How far ahead of its payment a meter may be.
    fn credit(self) -> u64 {
        u64::from(self.burst) * self.price()
    }
}

/// What one of them has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Meter(u64);

impl Meter {
    /// Takes `count`, if one is to be had. Those that come together are let in together: what they cost more than the
    /// burst keeps the next ones waiting for longer.
    pub(crate) fn take(&mut self, now: u64, count: u64, rate: Rate) -> bool {
        if !self.has_room(now, rate) {
            return false;
        }
        self.owe(now, count, rate);
        true
    }

    /// Takes `count`, whether or not it is to be had: what it cost is known behind it only.
    pub(crate) fn owe(&mut self, now: u64, count: u64, rate: Rate) {
        self.0 = self.0.max(now).saturating_add(count.saturating_mul(rate.price()));
    }

    /// Whether one is to be had.
    pub(crate) fn has_room(self, now: u64, rate: Rate) -> bool {
        self.0.saturating_sub(now) + rate.price() <= rate.credit()
    }
}

/// How many shards share the entries, each under its own lock.
const SHARDS: usize = 64;

/// Where an entry may stand: among so many, from a place that its hash says.
const NEIGHBOURS: usize = 8;

/// The meters of many.
pub(crate) struct Meters {
    shards: Vec<Mutex<Vec<Entry>>>,
    hasher: RandomState,
    evictions: AtomicU64,
}

/// Hash and meter. All zeroes is nobody.
type Entry = [u64; 2];

impl Meters {
    pub(crate) fn new(entries: usize) -> Self {
        let groups = entries.div_ceil(SHARDS * NEIGHBOURS);
        // Zeroes come from the kernel when they are first touched.
        let shard = || Mutex::new(vec![[0; 2]; groups * NEIGHBOURS]);
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher: RandomState::new(),
            evictions: AtomicU64::new(0),
        }
    }

    /// Takes `count` from the meter of `key`.
    pub(crate) fn take(&self, key: impl Hash, now: u64, count: u64, rate: Rate) -> bool {
        self.with(key, now, |meter| meter.take(now, count, rate))
    }

    /// Takes `count` from the meter of `key`, whether or not it is to be had.
    pub(crate) fn owe(&self, key: impl Hash, now: u64, count: u64, rate: Rate) {
        self.with(key, now, |meter| meter.owe(now, count, rate));
    }

    /// Whether one is to be had.
    pub(crate) fn has_room(&self, key: impl Hash, now: u64, rate: Rate) -> bool {
        self.with(key, now, |meter| meter.has_room(now, rate))
    }

    /// How often somebody who still had to wait was forgotten for another.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.load(Relaxed)
    }

    fn with<R>(&self, key: impl Hash, now: u64, run: impl FnOnce(&mut Meter) -> R) -> R {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shards[hash as usize % SHARDS].lock();
        let groups = shard.len() / NEIGHBOURS;
        let first = (hash >> 32) as usize % groups * NEIGHBOURS;
        let neighbours = &mut shard[first..first + NEIGHBOURS];
        let found = neighbours.iter().position(|entry| entry[0] == hash);
        let known = found.map(|index| neighbours[index][1]);
        let mut meter = Meter(known.unwrap_or_default());
        let before = meter;
        let result = run(&mut meter);
        if meter != before {
            let paid_first = || {
                let entries = neighbours.iter().enumerate();
                entries.min_by_key(|(_, entry)| entry[1]).map_or(0, |(index, _)| index)
            };
            let index = found.unwrap_or_else(paid_first);
            if found.is_none() && neighbours[index][1] > now {
                self.evictions.fetch_add(1, Relaxed);
            }
            neighbours[index] = [hash, meter.0];
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    #[test]
    fn a_burst_is_had_at_once_and_the_rate_after_it() {
        let mut meter = Meter::default();
        let mut check = |now: u64, expect: &[bool]| {
            for (number, expect) in expect.iter().enumerate() {
                assert_eq!(meter.has_room(now, RATE), *expect);
                assert_eq!(meter.take(now, 1, RATE), *expect, "number {number} at {now}");
            }
        };
        let start = 5 * SECOND;
        check(start, &[true, true, true, false, false]);
        check(start + SECOND / 10 - 1, &[false]);
        check(start + SECOND / 10, &[true, false]);
        check(start + SECOND / 2, &[true, true, true, false]);
        // A long pause is worth a burst, no more.
        check(start + 1000 * SECOND, &[true, true, true, false]);
    }

    #[test]
    fn in_the_long_run_the_rate_holds() {
        for rate in [
            RATE,
            Rate { per_second: 1, burst: 1 },
            Rate { per_second: 7, burst: 100 },
            Rate { per_second: 1_000_000, burst: 1 },
        ] {
            let mut meter = Meter::default();
            let step = rate.price() / 3 + 1;
            let taken = (0..10_000).filter(|tick| meter.take(tick * step, 1, rate)).count() as u64;
            let fair = 10_000 * step / rate.price();
            let most = fair + u64::from(rate.burst);
            assert!((fair.min(10_000) * 99 / 100..=most).contains(&taken), "{taken} of {fair}: {rate:?}");
        }
    }

    #[test]
    fn those_that_come_together_are_let_in_together_and_paid_for() {
        let mut meter = Meter::default();
        assert!(meter.take(0, 20, RATE), "more than the burst");
        assert!(!meter.take(17 * SECOND / 10, 1, RATE));
        assert!(meter.take(18 * SECOND / 10, 1, RATE));
        assert!(meter.take(100 * SECOND, u64::MAX, RATE), "no overflow");
        assert!(!meter.take(1_000_000 * SECOND, 1, RATE));
    }

    #[test]
    fn each_has_a_meter_of_its_own() {
        let meters = Meters::new(1000);
        for key in ["a", "b"] {
            assert!((0..3).all(|_| meters.take(key, 0, 1, RATE)), "{key}");
            assert!(!meters.take(key, 0, 1, RATE) && !meters.has_room(key, 0, RATE), "{key}");
        }
        assert!(meters.has_room("c", 0, RATE));
        assert_eq!(meters.evictions(), 0);
    }

    #[test]
    fn a_million_keys_fit_where_there_is_room_for_few() {
        let meters = Meters::new(1);
        let entries = || meters.shards.iter().map(|shard| shard.lock().len()).sum::<usize>();
        assert_eq!(entries(), SHARDS * NEIGHBOURS);
        for key in 0..1_000_000u32 {
            // All at once, so that each is owed by whoever was there.
            assert!(meters.take(key, 0, 3, RATE), "a newcomer is let in");
        }
        assert_eq!(entries(), SHARDS * NEIGHBOURS, "nothing grows");
        assert_eq!(meters.evictions(), 1_000_000 - entries() as u64);
        // Those who are paid for make room without being missed.
        let later = 10 * SECOND;
        let before = meters.evictions();
        (0..100u32).for_each(|key| assert!(meters.take(key, later, 1, RATE)));
        assert_eq!(meters.evictions(), before);
    }

    #[test]
    fn who_owes_most_is_forgotten_last() {
        let meters = Meters::new(1);
        assert!(meters.take("flood", 0, 1_000_000, RATE));
        for key in 0..10_000u32 {
            meters.take(key, 0, 1, RATE);
        }
        assert!(!meters.has_room("flood", SECOND, RATE));
    }
}
