//! The line on standard error that tells how a run goes: redrawn in place on a terminal, else a new one now and then.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::pace::ByPace;
use crate::publisher;
use crate::recorder::{Counters, histogram};

const REDRAWN_EVERY: Duration = Duration::from_millis(250);
const PRINTED_EVERY: Duration = Duration::from_secs(2);
const BAR_CELLS: usize = 24;

/// The counters of all threads, summed when asked.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) subscribers: Vec<ByPace<Arc<Counters>>>,
    pub(crate) publishers: Vec<Arc<publisher::Progress>>,
}

/// When the line was last shown, and the counts then.
#[derive(Debug)]
pub(crate) struct Line {
    terminal: bool,
    shown: Instant,
    acknowledged: u64,
    delivered: u64,
}

impl Live {
    pub(crate) fn sum(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.subscribers.iter().flat_map(ByPace::iter).map(|counters| counter(counters).load(Relaxed)).sum()
    }

    pub(crate) fn published(&self, counter: impl Fn(&publisher::Progress) -> &AtomicU64) -> u64 {
        self.publishers.iter().map(|progress| counter(progress).load(Relaxed)).sum()
    }

    /// Every POST is answered, and every message acknowledged was delivered; where topics conflate, the newest of them.
    pub(crate) fn is_complete(&self, conflating: bool) -> bool {
        let unique = self.sum(|counters| &counters.unique);
        let delivered = if conflating {
            // Holes and what is there make up everything up to the newest.
            unique + self.sum(|counters| &counters.holes) >= self.published(|progress| &progress.reach)
        } else {
            unique >= self.published(|progress| &progress.expected)
        };
        self.publishers.iter().all(|progress| progress.finished.load(Relaxed)) && delivered
    }
}

impl Line {
    pub(crate) fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            shown: Instant::now(),
            acknowledged: 0,
            delivered: 0,
        }
    }

    /// Shows that `stage` is done to the part `done` of 1, if it is time to.
    pub(crate) fn show(&mut self, stage: &str, done: f64, live: &Live) {
        let passed = self.shown.elapsed();
        if passed < if self.terminal { REDRAWN_EVERY } else { PRINTED_EVERY } {
            return;
        }
        self.shown = Instant::now();
        let mut recent = histogram(2);
        for counters in &live.subscribers {
            let mut part = counters.full.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.add(&*part).expect("both have the same bounds");
            part.reset();
        }
        let per_second = |count: u64| count as f64 / passed.as_secs_f64();
        let acknowledged = live.published(|progress| &progress.acknowledged);
        let delivered = live.sum(|counters| &counters.delivered);
        let text = format!(
            "{stage:<9} connected {}  in {:.0}/s  out {:.0}/s  p50 {:.2} ms  p99 {:.2} ms  lost {}",
            live.sum(|counters| &counters.open),
            per_second(acknowledged - self.acknowledged),
            per_second(delivered - self.delivered),
            recent.value_at_quantile(0.50) as f64 / 1e6,
            recent.value_at_quantile(0.99) as f64 / 1e6,
            live.sum(|counters| &counters.holes),
        );
        (self.acknowledged, self.delivered) = (acknowledged, delivered);
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
