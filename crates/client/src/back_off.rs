//! How long to wait before the next try: full jitter, so that clients that were cut off together do not come back
//! together.
//!
//! # Bounds       [`BackOff::cap`] for a pause of our own choice, [`ADVISED_MAX`] for one that the server asks for

use std::time::Duration;

/// The longest pause a server gets when it asks for one (`retry_ms`, `Retry-After`).
pub(crate) const ADVISED_MAX: Duration = Duration::from_secs(120);

/// Pauses between tries: anywhere between nothing and a bound that doubles with each failure in a row, from `base` to
/// `cap`.
///
/// ```
/// use std::time::Duration;
///
/// use fanfare_client::BackOff;
///
/// let patient = BackOff { cap: Duration::from_secs(60), ..BackOff::default() };
/// assert_eq!(patient.base, Duration::from_millis(250));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// The longest first pause. Default: 250 ms.
    pub base: Duration,
    /// The longest pause. Default: 10 s.
    pub cap: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { base: Duration::from_millis(250), cap: Duration::from_secs(10) }
    }
}

/// A row of failures.
#[derive(Debug)]
pub(crate) struct Pauses {
    back_off: BackOff,
    failures: u32,
}

impl Pauses {
    pub(crate) fn new(back_off: BackOff) -> Self {
        Self { back_off, failures: 0 }
    }

    pub(crate) fn cap(&self) -> Duration {
        self.back_off.cap
    }

    /// Full jitter: possibly at once.
    pub(crate) fn soon(&mut self) -> Duration {
        self.bound(0).mul_f64(fastrand::f64())
    }

    /// For a server that has too much to do: never at once, and from the third bound on.
    pub(crate) fn later(&mut self) -> Duration {
        let half = self.bound(2) / 2;
        half + half.mul_f64(fastrand::f64())
    }

    /// What the server asked for. It says something else to each client, so there is no jitter on top.
    pub(crate) fn advised(&mut self, pause: Duration) -> Duration {
        self.failures = self.failures.saturating_add(1);
        pause.min(ADVISED_MAX)
    }

    /// It went well: the next failure is a first one.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    fn bound(&mut self, at_least: u32) -> Duration {
        let doublings = self.failures.max(at_least).min(20);
        self.failures = self.failures.max(at_least).saturating_add(1);
        self.back_off.base.saturating_mul(1 << doublings).min(self.back_off.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_cap() {
        let mut pauses = Pauses::new(BackOff::default());
        for bound_ms in [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            assert_eq!(pauses.bound(0).as_millis(), bound_ms);
        }
        pauses.reset();
        assert_eq!(pauses.bound(0).as_millis(), 250);
    }

    #[test]
    fn a_pause_is_within_its_bound_and_later_is_never_at_once() {
        for _ in 0..100 {
            let mut pauses = Pauses::new(BackOff::default());
            assert!(pauses.soon() < Duration::from_millis(250));
            assert!(pauses.soon() < Duration::from_millis(500));
            pauses.reset();
            let later = pauses.later();
            assert!((Duration::from_millis(500)..=Duration::from_secs(1)).contains(&later), "{later:?}");
            let later = pauses.later();
            assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&later), "{later:?}");
        }
    }

    #[test]
    fn advice_is_followed_within_reason() {
        let mut pauses = Pauses::new(BackOff::default());
        assert_eq!(pauses.advised(Duration::from_millis(3200)), Duration::from_millis(3200));
        assert_eq!(pauses.advised(Duration::MAX), ADVISED_MAX);
    }

    #[test]
    fn odd_settings_do_not_overflow() {
        let mut pauses = Pauses::new(BackOff { base: Duration::MAX, cap: Duration::from_secs(1) });
        for _ in 0..100 {
            assert!(pauses.soon() <= Duration::from_secs(1));
        }
        let mut none = Pauses::new(BackOff { base: Duration::ZERO, cap: Duration::ZERO });
        assert_eq!((none.soon(), none.later()), (Duration::ZERO, Duration::ZERO));
    }
}
