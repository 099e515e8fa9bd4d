//! One side of a comparison: the runs of its reports, those that are the same together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use crate::report::file;
use crate::units::{digits, grouped};

#[derive(Debug)]
pub(super) struct Side {
    pub(super) machines: BTreeSet<String>,
    pub(super) runs: BTreeMap<Key, Vec<Round>>,
    /// Reports that are not whole, and why.
    pub(super) partial: Vec<String>,
}

/// What makes two runs the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    scenario: String,
    subscribers: u64,
    /// A thousandth of a message per second, so that it can be told equal.
    millirate: u64,
}

/// A run's figures; `None` is what was not measured.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) server: String,
    pub(super) delivered_per_second: f64,
    pub(super) p50_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
    pub(super) cpu_us_per_delivery: Option<f64>,
    pub(super) resident_bytes_per_connection: Option<f64>,
    pub(super) kernel_bytes_per_connection: Option<f64>,
    /// Of what was expected.
    pub(super) lost_share: Option<f64>,
    pub(super) partial: Option<String>,
    pub(super) problems: Vec<String>,
    pub(super) was_bottleneck: bool,
}

/// The part of a report that is compared. What else is in it is not looked at.
#[derive(Debug, Deserialize)]
struct Report {
    machine: Machine,
    partial: Option<String>,
    runs: Vec<Run>,
}

#[derive(Debug, Deserialize)]
struct Machine {
    cpu: Option<String>,
    cores: Option<u64>,
    kernel: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Run {
    scenario: Scenario,
    target: Target,
    partial: Option<String>,
    problems: Vec<String>,
    connections: Connections,
    delivery: Delivery,
    delivered_per_second: f64,
    latency_us: Quantiles,
    publish: Publish,
    server: Option<Server>,
    generator: Generator,
}

#[derive(Debug, Deserialize)]
struct Scenario {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Target {
    adapter: String,
    server: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Connections {
    asked: u64,
}

#[derive(Debug, Deserialize)]
struct Delivery {
    expected: u64,
    lost: u64,
}

#[derive(Debug, Deserialize)]
struct Quantiles {
    count: u64,
    p50: Option<f64>,
    p99: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Publish {
    asked_per_second: f64,
}

#[derive(Debug, Deserialize)]
struct Server {
    cpu_us_per_delivery: Option<f64>,
    resident_bytes_per_connection: Option<f64>,
    kernel_socket_bytes_per_connection: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Generator {
    was_bottleneck: bool,
}

impl Side {
    pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let mut side = Self { machines: BTreeSet::new(), runs: BTreeMap::new(), partial: Vec::new() };
        for path in paths {
            side.add(path)?;
        }
        Ok(side)
    }

    fn add(&mut self, path: &Path) -> anyhow::Result<()> {
        let name = path.display();
        let report: Report = serde_json::from_value(file::read(path)?)
            .with_context(|| format!("{name} does not have the form of a report"))?;
        self.machines.insert(report.machine.to_string());
        self.partial.extend(report.partial.map(|why| format!("{name} is partial: {why}")));
        for run in report.runs {
            self.runs.entry(run.key()).or_default().push(run.into());
        }
        Ok(())
    }

    /// Its runs, for a message.
    pub(super) fn names(&self) -> String {
        match self.runs.is_empty() {
            true => "none".to_owned(),
            false => self.runs.keys().map(Key::to_string).collect::<Vec<_>>().join("; "),
        }
    }
}

impl Run {
    fn key(&self) -> Key {
        Key {
            scenario: self.scenario.name.clone(),
            subscribers: self.connections.asked,
            millirate: (self.publish.asked_per_second * 1e3).round() as u64,
        }
    }
}

impl From<Run> for Round {
    fn from(run: Run) -> Self {
        let timed = run.latency_us.count > 0;
        let server = run.server.as_ref();
        let Target { adapter, server: version } = run.target;
        Self {
            server: version.map_or_else(|| adapter.clone(), |version| format!("{adapter} ({version})")),
            delivered_per_second: run.delivered_per_second,
            p50_us: run.latency_us.p50.filter(|_| timed),
            p99_us: run.latency_us.p99.filter(|_| timed),
            cpu_us_per_delivery: server.and_then(|server| server.cpu_us_per_delivery),
            resident_bytes_per_connection: server.and_then(|server| server.resident_bytes_per_connection),
            kernel_bytes_per_connection: server.and_then(|server| server.kernel_socket_bytes_per_connection),
            lost_share: (run.delivery.expected > 0)
                .then(|| run.delivery.lost as f64 / run.delivery.expected as f64),
            partial: run.partial,
            problems: run.problems,
            was_bottleneck: run.generator.was_bottleneck,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.millirate as f64 / 1e3;
        let rate = if self.millirate.is_multiple_of(1000) { grouped(rate) } else { digits(rate) };
        write!(f, "{}: {} subscribers, {rate} messages/s", self.scenario, grouped(self.subscribers as f64))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = "unknown";
        write!(f, "{}, ", self.cpu.as_deref().unwrap_or(unknown))?;
        match self.cores {
            Some(cores) => write!(f, "{cores} cores, ")?,
            None => write!(f, "{unknown} cores, ")?,
        }
        f.write_str(self.kernel.as_deref().unwrap_or(unknown))
    }
}
