//! CPU time and memory of a process, from `/proc`.
//!
//! CPU is user plus system time, the sum over `/proc/PID/task/*/schedstat` in nanoseconds. Where the kernel has no such
//! file, or a thread ended between two samples and took its count along, `/proc/PID/stat` is used, in ticks of 10 ms.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// What was used up to one moment.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    at: Instant,
    threads: BTreeMap<u32, Thread>,
    whole: Duration,
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

impl Sample {
    /// The state of process `pid` now.
    pub(crate) fn take(pid: u32) -> io::Result<Self> {
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
        Ok(Self { at: Instant::now(), threads, whole })
    }

    /// CPU time used since `earlier`.
    pub(crate) fn cpu_since(&self, earlier: &Self) -> Duration {
        let same_threads = earlier.threads.keys().all(|tid| self.threads.contains_key(tid));
        if same_threads && !earlier.threads.is_empty() {
            self.running().saturating_sub(earlier.running())
        } else {
            self.whole.saturating_sub(earlier.whole)
        }
    }

    /// What part of the time since `earlier` each of the threads ran.
    pub(crate) fn shares_since(&self, earlier: &Self) -> Vec<Share> {
        let wall = self.seconds_since(earlier);
        let part = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / wall;
        let common = self.threads.iter().filter_map(|(tid, now)| Some((now, earlier.threads.get(tid)?)));
        common
            .map(|(now, then)| Share {
                name: now.name.clone(),
                running: part(now.running, then.running),
                waiting: part(now.waiting, then.waiting),
            })
            .collect()
    }

    /// Wall time between the two, never zero.
    pub(crate) fn seconds_since(&self, earlier: &Self) -> f64 {
        (self.at - earlier.at).as_secs_f64().max(1e-9)
    }

    fn running(&self) -> Duration {
        self.threads.values().map(|thread| thread.running).sum()
    }
}

/// Resident memory of a process in bytes (`VmRSS`).
pub(crate) fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes =
        line.and_then(|rest| rest.trim().strip_suffix(" kB")).and_then(|number| number.parse::<u64>().ok());
    kibibytes
        .map(|kibibytes| kibibytes * 1024)
        .ok_or_else(|| io::Error::other("/proc/PID/status has no VmRSS"))
}

/// utime and stime, the fields 14 and 15. The name in field 2 may hold spaces and parentheses.
fn whole_of(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(threads: &[(u32, u64)], whole_ms: u64, at: Instant) -> Sample {
        let thread =
            |ms| Thread { name: "t".into(), running: Duration::from_millis(ms), waiting: Duration::ZERO };
        let threads = threads.iter().map(|&(tid, ms)| (tid, thread(ms))).collect();
        Sample { at, threads, whole: Duration::from_millis(whole_ms) }
    }

    #[test]
    fn the_name_of_a_process_does_not_shift_its_fields() {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 300 200 0 0";
        assert_eq!(whole_of(stat), Some(Duration::from_secs_f64(500.0 / ticks)));
    }

    #[test]
    fn a_thread_that_ended_makes_the_coarse_clock_count() {
        let start = Instant::now();
        let end = start + Duration::from_secs(1);
        let before = sample(&[(1, 100), (2, 50)], 150, start);
        let cpu = |after: Sample| after.cpu_since(&before).as_millis();
        assert_eq!(cpu(sample(&[(1, 130), (2, 55), (3, 7)], 190, end)), 42, "a new thread counts whole");
        assert_eq!(cpu(sample(&[(1, 130)], 190, end)), 40);
        assert!((sample(&[(1, 350)], 0, end).shares_since(&before)[0].running - 0.25).abs() < 1e-9);
    }

    #[test]
    fn this_process_has_memory_and_threads() {
        let sample = Sample::take(std::process::id()).unwrap();
        assert!(sample.seconds_since(&sample) > 0.0);
        assert!(resident_bytes(std::process::id()).unwrap() > 4096);
    }
}
