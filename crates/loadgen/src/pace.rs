//! How fast subscribers read: as fast as they can, at a low rate, now and then, or not at all.
//!
//! Latencies of the slow count for all that they read, those of the others for the window alone: what a server does for its
//! slow readers says nothing of the healthy ones.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How fast one subscriber reads once it is subscribed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Pace {
    #[default]
    Full,
    /// So many bytes per second and no more.
    Trickle,
    /// Everything for a while, then nothing for a while.
    StopAndGo,
    /// Nothing, until the run is over. Then it is looked at what waits, for the close among it.
    Never,
}

/// What a trickling subscriber may read now.
#[derive(Debug)]
pub(crate) struct Allowance {
    bytes: f64,
    since_ns: u64,
}

/// Whether a subscriber that stops and goes reads at `now_ns`. They don't all stop at once: `key` shifts them.
pub(crate) fn goes(now_ns: u64, key: usize, go_ns: u64, stop_ns: u64) -> bool {
    let round_ns = go_ns + stop_ns;
    let shift_ns = (key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) % round_ns;
    (now_ns + shift_ns) % round_ns < go_ns
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Trickle => "trickle",
            Self::StopAndGo => "stop-and-go",
            Self::Never => "never",
        })
    }
}

impl Allowance {
    pub(crate) fn from(now_ns: u64) -> Self {
        Self { bytes: 0.0, since_ns: now_ns }
    }

    /// How many bytes may be read at `now_ns`, of `bytes_per_second`. What was not read in time is not saved up past
    /// what `burst_ns` brings, or one byte.
    pub(crate) fn at(&mut self, now_ns: u64, bytes_per_second: f64, burst_ns: u64) -> usize {
        let bytes = |nanoseconds: u64| nanoseconds as f64 / 1e9 * bytes_per_second;
        self.bytes += bytes(now_ns - self.since_ns);
        self.bytes = self.bytes.min(bytes(burst_ns).max(1.0));
        self.since_ns = now_ns;
        self.bytes as usize
    }

    pub(crate) fn spend(&mut self, bytes: usize) {
        self.bytes -= bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stops_and_goes_reads_its_part_of_the_time() {
        for key in 0..20 {
            let going = (0..4_000).filter(|&now_ns| goes(now_ns, key, 100, 300)).count();
            assert_eq!(going, 1_000, "of 4,000");
        }
        let at_once = (0..1_000).filter(|&key| goes(0, key, 100, 300)).count();
        assert!((150..350).contains(&at_once), "{at_once} of 1,000 at one moment");
        assert!((0..100).all(|now_ns| goes(now_ns, 3, 1, 0)), "without a stop");
    }

    #[test]
    fn an_allowance_keeps_to_its_rate_and_saves_little_up() {
        const MS: u64 = 1_000_000;
        let mut allowance = Allowance::from(0);
        let read: usize = (1..=1_000)
            .map(|ms| {
                let bytes = allowance.at(ms * MS, 300.0, 100 * MS);
                allowance.spend(bytes);
                bytes
            })
            .sum();
        assert!((299..=300).contains(&read), "{read} bytes in a second");
        assert_eq!(allowance.at(9_000 * MS, 300.0, 100 * MS), 30, "what 100 ms bring");
        assert_eq!(Allowance::from(0).at(9_000 * MS, 2.0, 100 * MS), 1, "slower than a byte in 100 ms");
    }
}
