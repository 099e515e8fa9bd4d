//! How fast subscribers read: as fast as they can, at a low rate, or not at all.
//!
//! Figures of the three are kept apart: what a server does for its slow readers says nothing of the healthy ones.

/// How fast one subscriber reads once it is subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Full,
    /// So many bytes per second and no more.
    Trickle,
    /// Nothing, until the run is over. Then it is looked at what waits, for the close among it.
    Stalled,
}

/// One for each pace.
#[derive(Debug, Default)]
pub(crate) struct ByPace<T> {
    pub(crate) full: T,
    pub(crate) trickle: T,
    pub(crate) stalled: T,
}

/// What a trickling subscriber may read now.
#[derive(Debug)]
pub(crate) struct Allowance {
    bytes: f64,
    since_ns: u64,
}

/// The pace of each of `subscribers`, the slow ones spread evenly among them and the stalled among the slow.
pub(crate) fn paces(subscribers: usize, stalled: usize, trickle: usize) -> impl Iterator<Item = Pace> {
    // Of `all`, `chosen` are spread evenly: is the one at `at` among them?
    let is_chosen = |at: usize, chosen: usize, all: usize| (at + 1) * chosen / all > at * chosen / all;
    let (slow, mut slow_before) = (stalled + trickle, 0);
    (0..subscribers).map(move |at| {
        if !is_chosen(at, slow, subscribers) {
            return Pace::Full;
        }
        slow_before += 1;
        if is_chosen(slow_before - 1, stalled, slow) { Pace::Stalled } else { Pace::Trickle }
    })
}

impl<T> ByPace<T> {
    pub(crate) fn new(mut make: impl FnMut() -> T) -> Self {
        Self { full: make(), trickle: make(), stalled: make() }
    }

    pub(crate) fn map<U>(self, mut change: impl FnMut(T) -> U) -> ByPace<U> {
        ByPace { full: change(self.full), trickle: change(self.trickle), stalled: change(self.stalled) }
    }

    pub(crate) fn of(&self, pace: Pace) -> &T {
        match pace {
            Pace::Full => &self.full,
            Pace::Trickle => &self.trickle,
            Pace::Stalled => &self.stalled,
        }
    }

    pub(crate) fn of_mut(&mut self, pace: Pace) -> &mut T {
        match pace {
            Pace::Full => &mut self.full,
            Pace::Trickle => &mut self.trickle,
            Pace::Stalled => &mut self.stalled,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        [&self.full, &self.trickle, &self.stalled].into_iter()
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
    fn slow_subscribers_are_spread_among_the_others() {
        let check = |subscribers, stalled, trickle, expect: &str| {
            let text: String = paces(subscribers, stalled, trickle)
                .map(|pace| match pace {
                    Pace::Full => '.',
                    Pace::Trickle => 't',
                    Pace::Stalled => 's',
                })
                .collect();
            assert_eq!(text, expect);
        };
        check(6, 0, 0, "......");
        check(6, 2, 0, "..s..s");
        check(6, 0, 3, ".t.t.t");
        check(8, 2, 2, ".t.s.t.s");
        check(3, 1, 2, "tts");
        check(0, 0, 0, "");
        for (subscribers, stalled, trickle) in [(2_000, 200, 0), (101, 7, 13), (9, 4, 5)] {
            let count = |pace| paces(subscribers, stalled, trickle).filter(|&other| other == pace).count();
            assert_eq!((count(Pace::Stalled), count(Pace::Trickle)), (stalled, trickle));
        }
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
