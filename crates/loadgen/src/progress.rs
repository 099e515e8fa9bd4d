//! The line on standard error that tells how a run goes: redrawn in place on a terminal, else a new one now and then.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::series::Point;

const REDRAWN_EVERY: Duration = Duration::from_millis(250);
const PRINTED_EVERY: Duration = Duration::from_secs(2);
const BAR_CELLS: usize = 24;

/// When the line was last shown.
#[derive(Debug)]
pub(crate) struct Line {
    terminal: bool,
    shown: Instant,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: Instant::now() }
    }

    /// Shows that `stage` is done to the part `done` of 1, and the last half second, if it is time to.
    pub(crate) fn show(&mut self, stage: &str, done: f64, point: Option<&Point>) {
        if self.shown.elapsed() < if self.terminal { REDRAWN_EVERY } else { PRINTED_EVERY } {
            return;
        }
        self.shown = Instant::now();
        let ms = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{:.2}", us / 1e3));
        let text = match point {
            None => format!("{stage:<9}"),
            Some(point) => format!(
                "{stage:<9} connected {}  in {:.0}/s  out {:.0}/s  p50 {} ms  p99 {} ms  lost {}",
                point.connected,
                point.published_per_second,
                point.delivered_per_second,
                ms(point.p50_us),
                ms(point.p99_us),
                point.lost
            ),
        };
        if self.terminal {
            let cells = (done.clamp(0.0, 1.0) * BAR_CELLS as f64) as usize;
            eprint!("\r[{}{}] {text}\x1b[K", "=".repeat(cells), " ".repeat(BAR_CELLS - cells));
            // Without a terminal to draw on there is nothing to tell.
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{:3.0}% {text}", done.clamp(0.0, 1.0) * 100.0);
        }
    }

    /// Leaves the terminal's line free for what follows.
    pub(crate) fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
