//! How many lines clients can cause: so many of each kind in a second, and then how many there would have been.
//!
//! ```text
//!   if let Some(suppressed) = shared.log_rate.permit(Kind::Refused, limits.log_rate) {
//!       tracing::info!(%address, suppressed, "refused");
//!   }
//! ```

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What a client can cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A request that is not carried out.
    Refused,
    /// A connection that the server closed.
    Closed,
    /// An accept that failed.
    Accept,
}

const KINDS: usize = 3;

/// Lines that began less than this ago count.
const WINDOW: Duration = Duration::from_secs(1);

/// The lines of the running second. Locked where a line would be written, and nowhere else.
#[derive(Default)]
pub(crate) struct LogRate {
    windows: [Mutex<Window>; KINDS],
    suppressed: AtomicU64,
}

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    lines: usize,
    suppressed: u64,
}

/// How many lines of its kind were suppressed before one; as a field, nothing if none.
pub(crate) type Suppressed = Option<u64>;

impl LogRate {
    /// Whether a line may be written, of `most` a second.
    pub(crate) fn permit(&self, kind: Kind, most: usize) -> Option<Suppressed> {
        self.permit_at(kind, most, Instant::now())
    }

    fn permit_at(&self, kind: Kind, most: usize, now: Instant) -> Option<Suppressed> {
        let mut window = self.windows[kind as usize].lock();
        if window.began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            (window.began, window.lines) = (Some(now), 0);
        }
        if window.lines >= most {
            window.suppressed += 1;
            self.suppressed.fetch_add(1, Relaxed);
            return None;
        }
        window.lines += 1;
        let suppressed = std::mem::take(&mut window.suppressed);
        Some((suppressed > 0).then_some(suppressed))
    }

    /// Lines suppressed so far, of all kinds.
    pub(crate) fn suppressed(&self) -> u64 {
        self.suppressed.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_rate_lines_are_counted_and_the_next_one_says_how_many() {
        let (rate, start) = (LogRate::default(), Instant::now());
        let at = |ms, kind| rate.permit_at(kind, 2, start + Duration::from_millis(ms));
        assert_eq!(at(0, Kind::Refused), Some(None));
        assert_eq!(at(0, Kind::Refused), Some(None));
        assert_eq!(at(500, Kind::Refused), None);
        assert_eq!(at(999, Kind::Refused), None);
        assert_eq!(at(999, Kind::Closed), Some(None), "each kind for itself");
        assert_eq!(at(1000, Kind::Refused), Some(Some(2)));
        assert_eq!(at(1001, Kind::Refused), Some(None));
        assert_eq!(at(1002, Kind::Refused), None);
        assert_eq!(rate.suppressed(), 3);
    }
}
