//! How a run went: what was counted in each half second, from the first dial on.
//!
//! # Owner        the main thread
//! # Bounds       two points a second

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use crate::process::{Sample, Watch};
use crate::publisher::Progress;
use crate::recorder::{Counters, histogram};

const EVERY_NS: u64 = 500_000_000;

/// The counters of all threads, summed when asked.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// By thread, then by group.
    pub(crate) subscribers: Vec<Vec<Arc<Counters>>>,
    pub(crate) publishers: Vec<Arc<Progress>>,
    /// The groups whose latency is told.
    pub(crate) told: Vec<bool>,
}

/// One half second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Since the first dial.
    pub(crate) seconds: f64,
    pub(crate) stage: String,
    pub(crate) connected: u64,
    pub(crate) published_per_second: f64,
    pub(crate) delivered_per_second: f64,
    /// Of the messages that came in it, to those who read at full pace.
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    /// In all so far: messages older than the newest that have not come.
    pub(crate) lost: u64,
    pub(crate) server_cpu_share: Option<f64>,
    pub(crate) server_resident_bytes: Option<u64>,
}

/// The points so far.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) points: Vec<Point>,
    watch: Option<Watch>,
    began_ns: u64,
    taken_ns: u64,
    acknowledged: u64,
    delivered: u64,
    server: Option<Sample>,
}

impl Live {
    pub(crate) fn sum(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        let all = self.subscribers.iter().flatten();
        all.map(|counters| counter(counters).load(Relaxed)).fold(0, u64::saturating_add)
    }

    pub(crate) fn published(&self, counter: impl Fn(&Progress) -> &AtomicU64) -> u64 {
        self.publishers.iter().map(|progress| counter(progress).load(Relaxed)).sum()
    }

    /// Every request is answered, and none is due.
    pub(crate) fn is_published(&self) -> bool {
        self.publishers.iter().all(|progress| progress.finished.load(Relaxed))
    }
}

impl Series {
    pub(crate) fn new(watch: Option<Watch>, now_ns: u64) -> Self {
        let server = watch.as_ref().and_then(|watch| watch.sample().ok());
        Self {
            points: Vec::new(),
            watch,
            began_ns: now_ns,
            taken_ns: now_ns,
            acknowledged: 0,
            delivered: 0,
            server,
        }
    }

    /// Takes a point if it is time to.
    pub(crate) fn sample(&mut self, stage: &str, live: &Live, now_ns: u64) {
        let passed_ns = now_ns - self.taken_ns;
        if passed_ns < EVERY_NS {
            return;
        }
        self.taken_ns = now_ns;
        let mut recent = histogram(2);
        for counters in &live.subscribers {
            for (counters, _) in counters.iter().zip(&live.told).filter(|(_, told)| **told) {
                let mut part = counters.recent.lock().unwrap_or_else(PoisonError::into_inner);
                recent.add(&*part).expect("both have the same bounds");
                part.reset();
            }
        }
        let server = self.watch.as_ref().and_then(|watch| watch.sample().ok());
        let share = |now: &Sample, then: &Sample| now.used_since(then).seconds() / now.seconds_since(then);
        let per_second = |count: u64| count as f64 / (passed_ns as f64 / 1e9);
        let quantile = |at| (!recent.is_empty()).then(|| recent.value_at_quantile(at) as f64 / 1e3);
        let acknowledged = live.published(|progress| &progress.acknowledged);
        let delivered = live.sum(|counters| &counters.delivered);
        self.points.push(Point {
            seconds: (now_ns - self.began_ns) as f64 / 1e9,
            stage: stage.to_owned(),
            connected: live.sum(|counters| &counters.open),
            published_per_second: per_second(acknowledged - self.acknowledged),
            delivered_per_second: per_second(delivered - self.delivered),
            p50_us: quantile(0.50),
            p99_us: quantile(0.99),
            lost: live.sum(|counters| &counters.holes),
            server_cpu_share: server.as_ref().zip(self.server.as_ref()).map(|(now, then)| share(now, then)),
            server_resident_bytes: self.watch.as_ref().and_then(|watch| watch.resident_bytes().ok()),
        });
        (self.acknowledged, self.delivered, self.server) = (acknowledged, delivered, server);
    }
}
