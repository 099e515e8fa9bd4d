//! The counters of a run that goes on, and the moments that [`View`] shows of them.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::pace::ByPace;
use crate::process::{self, Sample};
use crate::publisher;
use crate::recorder::{Counters, histogram};
use crate::report::BUSY_MAX;
use crate::view::{Moment, Use, View};

/// The counters of all threads, summed when asked.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) subscribers: Vec<ByPace<Arc<Counters>>>,
    pub(crate) publishers: Vec<Arc<publisher::Progress>>,
}

/// The counts and processes when a moment was last shown.
#[derive(Debug)]
pub(crate) struct Meter {
    view: View,
    asked: u64,
    acknowledged: u64,
    delivered: u64,
    server: Option<Watched>,
    generator: Watched,
}

/// A process, and what it had used by the last moment.
#[derive(Debug)]
struct Watched {
    pid: u32,
    last: Option<Sample>,
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

    /// p50 and p99 in microseconds of what came since the last call, if anything did.
    fn take_latency_us(&self) -> Option<(f64, f64)> {
        let mut recent = histogram(2);
        for counters in &self.subscribers {
            let mut part = counters.full.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.add(&*part).expect("both have the same bounds");
            part.reset();
        }
        let at = |quantile| recent.value_at_quantile(quantile) as f64 / 1e3;
        (!recent.is_empty()).then(|| (at(0.50), at(0.99)))
    }
}

impl Meter {
    /// Of `asked` subscribers, and of the server's process if it is known.
    pub(crate) fn new(asked: u64, server: Option<u32>) -> Self {
        Self {
            view: View::new(),
            asked,
            acknowledged: 0,
            delivered: 0,
            server: server.map(Watched::new),
            generator: Watched::new(std::process::id()),
        }
    }

    /// Shows that `stage` is done to the part `done` of 1, if it is time to.
    pub(crate) fn show(&mut self, stage: &str, done: f64, live: &Live) {
        let Some(passed) = self.view.due() else { return };
        let moment = self.moment(passed, live);
        self.view.show(&Moment { stage, done, ..moment });
    }

    /// Leaves the terminal free for what follows.
    pub(crate) fn clear(&mut self) {
        self.view.clear();
    }

    fn moment(&mut self, passed: Duration, live: &Live) -> Moment<'static> {
        let acknowledged = live.published(|progress| &progress.acknowledged);
        let delivered = live.sum(|counters| &counters.delivered);
        let per_second = |count: u64| count as f64 / passed.as_secs_f64();
        let (generator, busiest) = self.generator.used().unzip();
        let moment = Moment {
            run: "quick",
            asked: self.asked,
            connected: live.sum(|counters| &counters.open),
            published_per_second: per_second(acknowledged - self.acknowledged),
            delivered_per_second: per_second(delivered - self.delivered),
            latency_us: live.take_latency_us(),
            lost: live.sum(|counters| &counters.holes),
            server: self.server.as_mut().and_then(Watched::used).map(|(used, _)| used),
            generator,
            generator_is_busy: busiest.is_some_and(|share| share > BUSY_MAX),
            ..Moment::default()
        };
        (self.acknowledged, self.delivered) = (acknowledged, delivered);
        moment
    }
}

impl Watched {
    fn new(pid: u32) -> Self {
        Self { pid, last: Sample::take(pid).ok() }
    }

    /// What it used since the last call, and the part of the time that its busiest thread ran or waited for a core. None
    /// once it has ended.
    fn used(&mut self) -> Option<(Use, f64)> {
        let now = Sample::take(self.pid).ok()?;
        let resident_bytes = process::resident_bytes(self.pid).ok()?;
        let last = self.last.replace(now.clone())?;
        let cpu_share = now.cpu_since(&last).as_secs_f64() / now.seconds_since(&last);
        let busiest =
            now.shares_since(&last).iter().map(|share| share.running + share.waiting).fold(0.0, f64::max);
        Some((Use { cpu_share, resident_bytes }, busiest))
    }
}
