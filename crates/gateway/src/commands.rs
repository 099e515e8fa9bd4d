//! `fanfare publish` and `fanfare subscribe`: the two journeys from a shell.
//!
//! Both talk to a gateway over its public protocol, with the client library, and go on through its restarts.

pub mod publish;
pub mod subscribe;

use std::time::Duration;

/// The longest pause before another try.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The longest first pause.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// Pauses between tries, with full jitter: anywhere between at once and a bound that doubles.
#[derive(Debug, Default)]
struct BackOff {
    tries: u32,
}

impl BackOff {
    /// The next pause; `advised` is what the server asked for.
    fn next(&mut self, advised: Option<Duration>) -> Duration {
        let bound = PAUSE_MIN.saturating_mul(1 << self.tries.min(10)).min(PAUSE_MAX);
        self.tries += 1;
        advised.map_or_else(|| bound.mul_f64(fastrand::f64()), |advised| advised.min(PAUSE_MAX))
    }

    /// It went well: the next pause is a first one.
    fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut back_off = BackOff::default();
        for _ in 0..100 {
            assert!(back_off.next(None) <= PAUSE_MAX);
        }
        back_off.reset();
        assert!(back_off.next(None) <= PAUSE_MIN);
        assert_eq!(back_off.next(Some(Duration::from_secs(3))), Duration::from_secs(3));
    }
}
