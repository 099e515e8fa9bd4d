//! What a server used: CPU time and memory of its processes, which may be several, and of their sockets in the kernel.
//!
//! Everything is read from outside, so that any server can be watched. A figure that the system doesn't give is an error
//! of that figure alone.

use std::io;
use std::time::{Duration, Instant};

use cpu::Cpu;

pub(crate) use cpu::Share;

mod cpu;
mod sockets;

/// The processes that are one server together.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    pids: Vec<u32>,
}

/// What they had used up to one moment.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    at: Instant,
    processes: Vec<Cpu>,
}

/// CPU time between two samples.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl Watch {
    pub(crate) fn new(pids: Vec<u32>) -> Self {
        Self { pids }
    }

    /// This process.
    pub(crate) fn own() -> Self {
        Self { pids: vec![std::process::id()] }
    }

    pub(crate) fn sample(&self) -> io::Result<Sample> {
        let processes = self.pids.iter().map(|&pid| Cpu::take(pid)).collect::<io::Result<_>>()?;
        Ok(Sample { at: Instant::now(), processes })
    }

    /// Resident memory in bytes (`VmRSS`).
    pub(crate) fn resident_bytes(&self) -> io::Result<u64> {
        self.pids.iter().map(|&pid| status_bytes(pid, "VmRSS:")).sum()
    }

    /// The most that was resident since each process began, in bytes (`VmHWM`).
    pub(crate) fn resident_bytes_peak(&self) -> io::Result<u64> {
        self.pids.iter().map(|&pid| status_bytes(pid, "VmHWM:")).sum()
    }

    /// What the TCP sockets hold in the kernel beside their own structures, in bytes. It looks at every TCP socket of the
    /// machine: some ten milliseconds for ten thousand of them.
    pub(crate) fn kernel_socket_bytes(&self) -> io::Result<u64> {
        sockets::kernel_bytes(&self.pids)
    }
}

impl Sample {
    /// CPU time used since `earlier`, a sample of the same processes.
    pub(crate) fn used_since(&self, earlier: &Self) -> Used {
        self.processes.iter().zip(&earlier.processes).fold(Used::default(), |sum, (now, then)| {
            let used = now.used_since(then);
            Used { user: sum.user + used.user, system: sum.system + used.system }
        })
    }

    /// What part of the time since `earlier` each of the threads ran.
    pub(crate) fn shares_since(&self, earlier: &Self) -> Vec<Share> {
        let wall = self.seconds_since(earlier);
        let pairs = self.processes.iter().zip(&earlier.processes);
        pairs.flat_map(|(now, then)| now.shares_since(then, wall)).collect()
    }

    /// Wall time between the two, never zero.
    pub(crate) fn seconds_since(&self, earlier: &Self) -> f64 {
        (self.at - earlier.at).as_secs_f64().max(1e-9)
    }
}

impl Used {
    pub(crate) fn seconds(&self) -> f64 {
        (self.user + self.system).as_secs_f64()
    }
}

fn status_bytes(pid: u32, name: &str) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    kibibytes(&status, name)
        .map(|kibibytes| kibibytes.saturating_mul(1024))
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/status has no {name}")))
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// A child that is ended with the test.
    struct Burner(Child);

    impl Drop for Burner {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn shell(script: &str) -> Burner {
        Burner(Command::new("sh").args(["-c", script]).spawn().unwrap())
    }

    /// What `watch` uses until it is a tenth of a second of CPU, however slow the machine is.
    fn used(watch: &Watch) -> Used {
        let before = watch.sample().unwrap();
        for _ in 0..2_000 {
            std::thread::sleep(Duration::from_millis(10));
            let used = watch.sample().unwrap().used_since(&before);
            if used.seconds() > 0.1 {
                return used;
            }
        }
        panic!("no CPU time in 20 seconds")
    }

    #[test]
    fn user_time_is_told_from_system_time() {
        let counting = shell("i=0; while :; do i=$((i+1)); done");
        let reading = shell("exec dd if=/dev/zero of=/dev/null bs=1M status=none");
        let user = used(&Watch::new(vec![counting.0.id()]));
        assert!(user.user > 2 * user.system, "{user:?}");
        let system = used(&Watch::new(vec![reading.0.id()]));
        assert!(system.system > 2 * system.user, "{system:?}");
        let both = used(&Watch::new(vec![counting.0.id(), reading.0.id()]));
        assert!(both.user > Duration::ZERO && both.system > Duration::ZERO, "{both:?}");
    }

    #[test]
    fn memory_is_that_of_all_processes() {
        let child = shell("exec sleep 60");
        let (own, other) = (Watch::own(), Watch::new(vec![child.0.id()]));
        let both = Watch::new(vec![std::process::id(), child.0.id()]);
        assert!(own.resident_bytes().unwrap() > 4096 && other.resident_bytes().unwrap() > 0);
        assert!(both.resident_bytes().unwrap() > other.resident_bytes().unwrap());
        assert!(both.resident_bytes_peak().unwrap() >= own.resident_bytes_peak().unwrap());
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        let nobody = Watch::new(vec![std::process::id(), u32::MAX]);
        assert!(nobody.sample().is_err() && nobody.resident_bytes().is_err());
        assert!(nobody.kernel_socket_bytes().is_err());
    }

    #[test]
    fn a_line_of_the_status_is_found_by_its_whole_name() {
        let check = |status, expect| assert_eq!(kibibytes(status, "VmRSS:"), expect, "{status}");
        check("VmHWM:\t  9 kB\nVmRSS:\t     1234 kB\n", Some(1234));
        check("VmRSSx:\t1 kB\n", None);
        check("VmRSS:\t-1 kB\n", None);
        check("VmRSS:\t1 MB\n", None);
        check("", None);
    }
}
