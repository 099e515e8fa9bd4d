//! What was found, as one JSON object (schema `fanfare-load-report/1`) and as text, and whether it passed.
//!
//! Durations are in the unit their name ends with; what is not known is null.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;
use crate::series::Point;
pub(crate) use delivery::{Delivery, LOST};
pub(crate) use findings::{Edge, Findings};
pub(crate) use knee::{Knee, KneeBounds, KneeBroke, KneeHeld};
pub(crate) use machine::Machine;
pub(crate) use text::most_frequent;

mod delivery;
pub(crate) mod file;
pub(crate) mod findings;
mod knee;
mod machine;
pub(crate) mod page;
mod text;

const SCHEMA: &str = "fanfare-load-report/1";
/// Steps of a distribution: each this much above the one before.
const STEP: f64 = 1.1;

/// All that a command found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: String,
    pub(crate) tool: String,
    pub(crate) version: String,
    /// UTC, RFC 3339.
    pub(crate) started: String,
    pub(crate) command: Vec<String>,
    pub(crate) machine: Machine,
    /// Every run passed and none is partial; of a knee, one of them.
    pub(crate) passed: bool,
    pub(crate) partial: Option<String>,
    pub(crate) runs: Vec<Run>,
    pub(crate) knee: Option<Knee>,
}

/// What one scenario's run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) scenario: Scenario,
    pub(crate) target: Target,
    pub(crate) passed: bool,
    /// Why it did not pass.
    pub(crate) problems: Vec<String>,
    /// Why it is not whole, if it is not.
    pub(crate) partial: Option<String>,
    pub(crate) connections: Connections,
    pub(crate) delivery: Delivery,
    /// Messages per second over the window.
    pub(crate) delivered_per_second: f64,
    /// Messages were still arriving when the drain ended: what counts as lost may only be late.
    pub(crate) cut_off: bool,
    /// Of those who read at full pace, for messages due in the window.
    pub(crate) latency_us: Quantiles,
    pub(crate) latency_distribution: Vec<Step>,
    pub(crate) groups: Vec<Group>,
    pub(crate) publish: Publish,
    pub(crate) server: Option<Server>,
    pub(crate) generator: Generator,
    pub(crate) series: Vec<Point>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) adapter: String,
    pub(crate) server: String,
}

/// What subscribers that are alike found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) format: String,
    pub(crate) pace: String,
    pub(crate) connections: Connections,
    pub(crate) delivery: Delivery,
    pub(crate) latency_us: Quantiles,
    pub(crate) latency_distribution: Vec<Step>,
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Connections {
    pub(crate) asked: u64,
    pub(crate) connected: u64,
    /// From the first dial until all who were to be there first were.
    pub(crate) seconds: f64,
    pub(crate) failures: BTreeMap<String, u64>,
    /// By the server.
    pub(crate) disconnected: u64,
    pub(crate) disconnects: BTreeMap<String, u64>,
    /// Cut off by the run, and back.
    pub(crate) reconnected: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Publish {
    pub(crate) asked_per_second: f64,
    /// Messages due in the window and sent in it.
    pub(crate) achieved_per_second: f64,
    pub(crate) rate_error: f64,
    pub(crate) posts: u64,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) skipped: u64,
    pub(crate) unanswered_posts: u64,
    pub(crate) posts_by_status: BTreeMap<u16, u64>,
    pub(crate) ack_us: Quantiles,
    pub(crate) lateness_us: Quantiles,
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
}

/// A part of a distribution: what is above the step before and up to this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) up_to_us: f64,
    pub(crate) count: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Server {
    pub(crate) pids: Vec<u32>,
    pub(crate) cpu_user_seconds: Option<f64>,
    pub(crate) cpu_system_seconds: Option<f64>,
    /// User and system time; of one core.
    pub(crate) cpu_share: Option<f64>,
    pub(crate) cpu_us_per_delivery: Option<f64>,
    pub(crate) resident_bytes_before: u64,
    pub(crate) resident_bytes_connected: u64,
    pub(crate) resident_bytes_peak: Option<u64>,
    pub(crate) resident_bytes_per_connection: Option<f64>,
    pub(crate) kernel_socket_bytes: Option<u64>,
    pub(crate) kernel_socket_bytes_per_connection: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Generator {
    /// Of one core, all threads together.
    pub(crate) cpu_share: Option<f64>,
    pub(crate) cpu_us_per_delivery: Option<f64>,
    pub(crate) threads: Vec<ThreadShare>,
    pub(crate) was_bottleneck: bool,
    pub(crate) bottleneck: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ThreadShare {
    pub(crate) name: String,
    pub(crate) running: f64,
    pub(crate) waiting: f64,
}

impl Report {
    /// Of these runs, made by this process. `partial` says why not all were made.
    pub(crate) fn new(started: String, runs: Vec<Run>, partial: Option<String>) -> Self {
        let partial = partial.or_else(|| runs.iter().find_map(|run| run.partial.clone()));
        Self {
            schema: SCHEMA.to_owned(),
            tool: "fanfare-load".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started,
            command: std::env::args().skip(1).collect(),
            machine: Machine::this(),
            passed: partial.is_none() && runs.iter().all(|run| run.passed),
            partial,
            runs,
            knee: None,
        }
    }

    /// Of the steps of a knee. Those that broke were to break: it passes if one held.
    pub(crate) fn of_knee(started: String, steps: Vec<Run>, partial: Option<String>, knee: Knee) -> Self {
        let report = Self::new(started, steps, partial);
        Self { passed: report.partial.is_none() && knee.held.is_some(), knee: Some(knee), ..report }
    }
}

/// This moment, for [`Report::new`].
pub(crate) fn now() -> String {
    machine::now()
}

impl Connections {
    fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.connected += other.connected;
        self.disconnected += other.disconnected;
        self.reconnected += other.reconnected;
        for (sum, part) in
            [(&mut self.failures, &other.failures), (&mut self.disconnects, &other.disconnects)]
        {
            part.iter().for_each(|(label, count)| *sum.entry(label.clone()).or_default() += count);
        }
    }
}

impl Quantiles {
    /// In microseconds, of nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            mean: histogram.mean() / 1e3,
            p50: at(0.50),
            p90: at(0.90),
            p99: at(0.99),
            p99_9: at(0.999),
            max: histogram.max() as f64 / 1e3,
        }
    }
}

/// The steps of a histogram of nanoseconds that have something.
pub(crate) fn distribution(histogram: &Histogram<u64>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut up_to_us = 1.0;
    for recorded in histogram.iter_recorded() {
        let us = recorded.value_iterated_to() as f64 / 1e3;
        while up_to_us < us {
            up_to_us *= STEP;
        }
        let count = recorded.count_since_last_iteration();
        match steps.last_mut() {
            Some(step) if step.up_to_us == up_to_us => step.count += count,
            _ => steps.push(Step { up_to_us, count }),
        }
    }
    steps
}

fn per(amount: f64, count: f64) -> Option<f64> {
    (count > 0.0).then(|| amount / count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::histogram;

    #[test]
    fn a_distribution_has_every_value_once_and_few_steps() {
        let mut all = histogram(3);
        let mut value = 100.0;
        while value < 60e9 {
            all.saturating_record(value as u64);
            value *= 1.01;
        }
        let steps = distribution(&all);
        assert_eq!(steps.iter().map(|step| step.count).sum::<u64>(), all.len());
        assert!(steps.len() <= 200, "{} steps", steps.len());
        assert!(steps.is_sorted_by(|a, b| a.up_to_us < b.up_to_us));
        assert_eq!(distribution(&histogram(3)), []);
    }
}
