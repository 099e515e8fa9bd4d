//! CPU time of one process, from `/proc`.
//!
//! The sum over `/proc/PID/task/*/schedstat` counts in nanoseconds. Where the kernel has no such file, or a thread ended
//! between two samples and took its count along, `/proc/PID/stat` is used, in ticks of 10 ms. It also says what part was
//! user and what system time, and both are given by that.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::Used;

/// What one process had used up to one moment.
#[derive(Debug, Clone)]
pub(super) struct Cpu {
    threads: BTreeMap<u32, Thread>,
    whole: Used,
}

#[derive(Debug, Clone)]
struct Thread {
    name: String,
    running: Duration,
    waiting: Duration,
}

/// A thread's part of the time between two samples.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    pub(crate) name: String,
    /// It ran.
    pub(crate) running: f64,
    /// It could have run, but had no core.
    pub(crate) waiting: f64,
}

impl Cpu {
    /// The state of process `pid` now.
    pub(super) fn take(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let whole = whole_of(&stat).ok_or_else(|| io::Error::other("/proc/PID/stat has another form"))?;
        let mut threads = BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = entry?.path();
            let tid = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            // A thread may end while it is looked at.
            if let (Some(tid), Ok(schedstat)) = (tid, std::fs::read_to_string(path.join("schedstat"))) {
                let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
                let mut numbers = schedstat.split_whitespace().map(|field| field.parse().unwrap_or(0));
                let mut next = || Duration::from_nanos(numbers.next().unwrap_or(0));
                threads
                    .insert(tid, Thread { name: name.trim().to_owned(), running: next(), waiting: next() });
            }
        }
        Ok(Self { threads, whole })
    }

    /// CPU time used since `earlier`.
    pub(super) fn used_since(&self, earlier: &Self) -> Used {
        let coarse = Used {
            user: self.whole.user.saturating_sub(earlier.whole.user),
            system: self.whole.system.saturating_sub(earlier.whole.system),
        };
        let same_threads = earlier.threads.keys().all(|tid| self.threads.contains_key(tid));
        if !same_threads || earlier.threads.is_empty() {
            return coarse;
        }
        let sum = self.running().saturating_sub(earlier.running());
        // Too short for a tick: as in its whole life.
        let parts = if coarse.seconds() > 0.0 { coarse } else { self.whole };
        let user =
            if parts.seconds() > 0.0 { sum.mul_f64(parts.user.as_secs_f64() / parts.seconds()) } else { sum };
        Used { user, system: sum.saturating_sub(user) }
    }

    /// What part of `wall` seconds since `earlier` each of the threads ran.
    pub(super) fn shares_since(&self, earlier: &Self, wall: f64) -> impl Iterator<Item = Share> {
        let part = move |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / wall;
        let common = self.threads.iter().filter_map(|(tid, now)| Some((now, earlier.threads.get(tid)?)));
        common.map(move |(now, then)| Share {
            name: now.name.clone(),
            running: part(now.running, then.running),
            waiting: part(now.waiting, then.waiting),
        })
    }

    fn running(&self) -> Duration {
        self.threads.values().map(|thread| thread.running).sum()
    }
}

/// utime and stime, the fields 14 and 15. The name in field 2 may hold spaces and parentheses.
fn whole_of(stat: &str) -> Option<Used> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut time = || {
        let ticks = fields.next()?.parse::<u64>().ok()?;
        Duration::try_from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64).ok()
    };
    Some(Used { user: time()?, system: time()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(threads: &[(u32, u64)], user_ms: u64, system_ms: u64) -> Cpu {
        let thread =
            |ms| Thread { name: "t".into(), running: Duration::from_millis(ms), waiting: Duration::ZERO };
        let threads = threads.iter().map(|&(tid, ms)| (tid, thread(ms))).collect();
        let whole = Used { user: Duration::from_millis(user_ms), system: Duration::from_millis(system_ms) };
        Cpu { threads, whole }
    }

    fn milliseconds(used: Used) -> (u128, u128) {
        (used.user.as_millis(), used.system.as_millis())
    }

    #[test]
    fn the_name_of_a_process_does_not_shift_its_fields() {
        let tick_ms = 1000 / u128::from(rustix::param::clock_ticks_per_second());
        let check = |stat, expect| assert_eq!(whole_of(stat).map(milliseconds), expect, "{stat}");
        check("42 (a) b) S 1 2 3 4 5 6 7 8 9 10 300 200 0 0", Some((300 * tick_ms, 200 * tick_ms)));
        check("42 (a) S 1 2 3 4 5 6 7 8 9 10 300", None);
        check("42 (a) S 1 2 3 4 5 6 7 8 9 10 -3 200", None);
        check("42", None);
    }

    #[test]
    fn a_thread_that_ended_makes_the_coarse_clock_count() {
        let before = cpu(&[(1, 100), (2, 50)], 50, 100);
        let used = |after: Cpu| milliseconds(after.used_since(&before));
        assert_eq!(used(cpu(&[(1, 130), (2, 55), (3, 7)], 60, 130)), (10, 31), "a new thread counts whole");
        assert_eq!(used(cpu(&[(1, 130), (2, 62)], 50, 100)), (14, 28), "before a tick: as ever");
        assert_eq!(used(cpu(&[(1, 130)], 60, 130)), (10, 30));
        let share = cpu(&[(1, 350)], 0, 0).shares_since(&before, 1.0).next().unwrap();
        assert!((share.running - 0.25).abs() < 1e-9);
    }
}
