//! The wall clock, as clients, tokens and operators count: since 1970 (Unix time).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now.
pub(crate) fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Now, in milliseconds.
pub(crate) fn unix_ms() -> u64 {
    milliseconds(unix())
}

/// So many milliseconds.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
