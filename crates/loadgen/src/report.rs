//! What a run found, as JSON and as text, and whether it passed.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::args::Quick;
use crate::pace::ByPace;
use crate::process::Sample;
use crate::publisher::Published;
use crate::recorder::Tally;
use delivery::Delivery;
use slow::{Stalled, Trickle};

pub(crate) use text::most_frequent;

mod delivery;
pub(crate) mod file;
pub(crate) mod page;
mod slow;
mod text;

/// A thread that runs, or waits for a core, longer than this part of the time has no room left.
pub(crate) const BUSY_MAX: f64 = 0.9;
/// A publisher later than this, in microseconds, measures itself.
const LATENESS_P99_MAX_US: f64 = 2_000.0;

/// All that a run leaves behind.
#[derive(Debug)]
pub(crate) struct Findings {
    /// Subscribers when publishing began.
    pub(crate) connected: u64,
    pub(crate) connect_seconds: f64,
    pub(crate) tallies: ByPace<Tally>,
    pub(crate) published: Published,
    /// The beginning and the end of the window, if it was reached.
    pub(crate) edges: Option<(Edge, Edge)>,
    /// The length of the window, up to an interruption.
    pub(crate) window_seconds: f64,
    pub(crate) resident_before: Option<u64>,
    pub(crate) resident_connected: Option<u64>,
    pub(crate) cut_off: bool,
    pub(crate) interrupted: bool,
}

/// The state of things at one end of the window.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) server: Option<Sample>,
    pub(crate) generator: Sample,
    pub(crate) delivered: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    tool: &'static str,
    version: &'static str,
    options: Quick,
    interrupted: bool,
    pub(crate) passed: bool,
    /// Why it did not pass.
    problems: Vec<String>,
    connections: Connections,
    delivery: Delivery,
    /// Messages per second over the window, those to slow subscribers too.
    delivered_per_second: f64,
    /// Messages were still arriving when the drain ended: what counts as lost may only be late.
    cut_off: bool,
    latency_us: Quantiles,
    trickle: Option<Trickle>,
    stalled: Option<Stalled>,
    publish: Publish,
    server: Option<Server>,
    generator: Generator,
}

#[derive(Debug, Serialize)]
struct Connections {
    asked: u64,
    connected: u64,
    seconds: f64,
    failures: BTreeMap<String, u64>,
    /// Slow subscribers not counted.
    disconnected: u64,
    disconnects: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Publish {
    asked_per_second: f64,
    /// Messages due in the window and sent in it.
    achieved_per_second: f64,
    rate_error: f64,
    posts: u64,
    sent: u64,
    acknowledged: u64,
    skipped: u64,
    unanswered_posts: u64,
    posts_by_status: BTreeMap<u16, u64>,
    ack_us: Quantiles,
    lateness_us: Quantiles,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    count: u64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Server {
    pid: u32,
    /// User and system time; of one core.
    cpu_share: Option<f64>,
    cpu_us_per_delivery: Option<f64>,
    resident_bytes_before: u64,
    resident_bytes_connected: u64,
    resident_bytes_per_connection: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Generator {
    /// Of one core, all threads together.
    cpu_share: Option<f64>,
    cpu_us_per_delivery: Option<f64>,
    threads: Vec<ThreadShare>,
    was_bottleneck: bool,
    bottleneck: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ThreadShare {
    name: String,
    running: f64,
    waiting: f64,
}

impl Report {
    pub(crate) fn new(options: &Quick, findings: &Findings) -> Self {
        let (tally, published) = (&findings.tallies.full, &findings.published);
        let delivered_in_window =
            findings.edges.as_ref().map_or(0, |(from, to)| to.delivered - from.delivered);
        let window_seconds =
            findings.edges.as_ref().map_or(0.0, |(from, to)| to.generator.seconds_since(&from.generator));
        let delivery = Delivery::new(tally, published, options.conflating);
        let (trickle, stalled) = (Trickle::new(options, findings), Stalled::new(options, findings));
        let connections = Connections {
            asked: options.subscribers as u64,
            connected: findings.connected,
            seconds: findings.connect_seconds,
            failures: failures(&findings.tallies),
            disconnected: tally.disconnects.values().sum(),
            disconnects: tally.disconnects.clone(),
        };
        let achieved = per(published.sent_in_window as f64, findings.window_seconds).unwrap_or(0.0);
        let publish = Publish {
            asked_per_second: options.rate,
            achieved_per_second: achieved,
            rate_error: per(achieved - options.rate, options.rate).unwrap_or(0.0),
            posts: published.posts,
            sent: published.sent,
            acknowledged: published.acknowledged.iter().sum(),
            skipped: published.skipped,
            unanswered_posts: published.unanswered,
            posts_by_status: published.statuses.clone(),
            ack_us: Quantiles::of(&published.answered),
            lateness_us: Quantiles::of(&published.lateness),
        };
        let generator = Generator::new(findings, delivered_in_window, publish.lateness_us.p99);
        let problems = problems(options, &connections, &delivery, trickle.as_ref(), &publish);
        Self {
            tool: "fanfare-load",
            version: env!("CARGO_PKG_VERSION"),
            options: options.clone(),
            interrupted: findings.interrupted,
            passed: problems.is_empty(),
            problems,
            server: Server::new(options, findings, connections.connected, delivered_in_window),
            connections,
            delivery,
            delivered_per_second: per(delivered_in_window as f64, window_seconds).unwrap_or(0.0),
            cut_off: findings.cut_off,
            trickle,
            stalled,
            latency_us: Quantiles::of(&tally.latency),
            publish,
            generator,
        }
    }

    /// The one run of a report in the form of the schema, as far as `quick` knows it.
    pub(crate) fn for_page(&self, options: &Quick) -> serde_json::Value {
        let interrupted = self.interrupted.then_some("interrupted");
        let mut run = serde_json::json!(self);
        run["scenario"] = serde_json::json!(options);
        run["scenario"]["name"] = "quick".into();
        run["target"] = serde_json::json!({"url": options.url, "adapter": "fanfare", "server": null});
        run["partial"] = interrupted.into();
        let command: Vec<_> = std::env::args().skip(1).collect();
        serde_json::json!({
            "tool": self.tool, "version": self.version, "command": command, "passed": self.passed && !self.interrupted,
            "partial": interrupted, "runs": [run],
        })
    }
}

impl Quantiles {
    /// In microseconds, of nanoseconds.
    fn of(histogram: &Histogram<u64>) -> Self {
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

impl Server {
    fn new(options: &Quick, findings: &Findings, connected: u64, delivered: u64) -> Option<Self> {
        let (before, after) = (findings.resident_before?, findings.resident_connected?);
        let samples =
            findings.edges.as_ref().and_then(|(from, to)| Some((from.server.as_ref()?, to.server.as_ref()?)));
        let cpu = samples.map(|(from, to)| (to.cpu_since(from).as_secs_f64(), to.seconds_since(from)));
        Some(Self {
            pid: options.pid?,
            cpu_share: cpu.map(|(cpu, wall)| cpu / wall),
            cpu_us_per_delivery: cpu.and_then(|(cpu, _)| per(cpu * 1e6, delivered as f64)),
            resident_bytes_before: before,
            resident_bytes_connected: after,
            resident_bytes_per_connection: per(after as f64 - before as f64, connected as f64),
        })
    }
}

impl Generator {
    fn new(findings: &Findings, delivered: u64, lateness_p99_us: f64) -> Self {
        let samples = findings.edges.as_ref().map(|(from, to)| (&from.generator, &to.generator));
        let cpu = samples.map(|(from, to)| (to.cpu_since(from).as_secs_f64(), to.seconds_since(from)));
        let mut threads = samples.map_or_else(Vec::new, |(from, to)| to.shares_since(from));
        threads
            .retain(|thread| thread.name.starts_with("subscriber-") || thread.name.starts_with("publisher-"));
        let mut bottleneck: Vec<_> = threads
            .iter()
            .filter(|thread| thread.running + thread.waiting > BUSY_MAX)
            .map(|thread| format!("{} had no time left", thread.name))
            .collect();
        if lateness_p99_us > LATENESS_P99_MAX_US {
            bottleneck.push(format!("publishing was {:.1} ms late at p99", lateness_p99_us / 1e3));
        }
        Self {
            cpu_share: cpu.map(|(cpu, wall)| cpu / wall),
            cpu_us_per_delivery: cpu.and_then(|(cpu, _)| per(cpu * 1e6, delivered as f64)),
            threads: threads
                .into_iter()
                .map(|share| ThreadShare { name: share.name, running: share.running, waiting: share.waiting })
                .collect(),
            was_bottleneck: !bottleneck.is_empty(),
            bottleneck,
        }
    }
}

fn problems(
    options: &Quick,
    connections: &Connections,
    delivery: &Delivery,
    trickle: Option<&Trickle>,
    publish: &Publish,
) -> Vec<String> {
    let told = |(count, what): (u64, &str)| (count > 0).then(|| format!("{count} {what}"));
    let connecting = [
        (connections.asked - connections.connected, "subscribers did not connect"),
        (connections.disconnected, "subscribers were disconnected"),
    ];
    let conflating = options.conflating;
    let mut problems: Vec<_> =
        connecting.into_iter().chain(delivery.faults(conflating)).filter_map(told).collect();
    let slow = trickle.map_or_else(Vec::new, |trickle| trickle.faults(conflating));
    problems.extend(slow.into_iter().filter_map(told).map(|told| format!("of those who trickle: {told}")));
    // A run that delivered nothing because nothing was accepted has shown nothing.
    if options.rate > 0.0 && publish.acknowledged == 0 {
        problems.push("no message was acknowledged".to_owned());
    }
    problems
}

/// Why subscribers could not subscribe, whatever their pace.
pub(crate) fn failures(tallies: &ByPace<Tally>) -> BTreeMap<String, u64> {
    let mut failures = BTreeMap::new();
    for (label, count) in tallies.iter().flat_map(|tally| &tally.failures) {
        *failures.entry(label.clone()).or_default() += count;
    }
    failures
}

fn per(amount: f64, count: f64) -> Option<f64> {
    (count > 0.0).then(|| amount / count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::Outcome;

    /// Ten messages of one topic, of which each of the subscribers received `unique` up to the newest.
    fn findings(full: &[u64], trickle: &[u64]) -> Findings {
        let mut published = Published::new(1);
        (published.acknowledged[0], published.newest[0]) = (10, 10);
        let mut tallies = ByPace::new(Tally::new);
        let outcomes = |unique: &[u64]| {
            unique.iter().map(|&unique| Outcome { topic: 0, unique, next: 10 }).collect::<Vec<_>>()
        };
        tallies.full.outcomes = outcomes(full);
        tallies.trickle.outcomes = outcomes(trickle);
        Findings {
            connected: (full.len() + trickle.len()) as u64,
            connect_seconds: 0.1,
            tallies,
            published,
            edges: None,
            window_seconds: 0.0,
            resident_before: None,
            resident_connected: None,
            cut_off: false,
            interrupted: false,
        }
    }

    #[test]
    fn a_run_passes_only_if_nothing_went_wrong() {
        let options = |flags: &str| {
            use clap::Parser as _;
            let flags = format!("fanfare-load quick {flags}");
            match crate::args::Args::try_parse_from(flags.split(' ')).unwrap().command {
                crate::args::Command::Quick(options) => options,
                _ => panic!("quick was asked for"),
            }
        };
        let check = |flags, change: &dyn Fn(&mut Findings), problems: &[&str]| {
            let options = options(flags);
            let mut findings = findings(&[10, 10], if options.trickle > 0 { &[4] } else { &[] });
            change(&mut findings);
            let report = Report::new(&options, &findings);
            assert_eq!(report.problems, problems);
            assert_eq!(report.passed, problems.is_empty());
            assert_eq!(report.text().contains("raise --drain"), findings.cut_off);
            assert!(report.text().contains(if report.passed { "passed" } else { "FAILED" }));
        };
        let plain = "--subscribers 2";
        check(plain, &|_| {}, &[]);
        check(plain, &|findings| findings.tallies.full.outcomes[1].unique = 9, &["1 messages lost"]);
        check(plain, &|findings| findings.tallies.full.repeated = 3, &["3 messages repeated"]);
        check(plain, &|findings| findings.connected = 1, &["1 subscribers did not connect"]);
        let jump = |findings: &mut Findings| findings.tallies.full.unannounced = 1;
        check(plain, &jump, &["1 messages missing without a gap"]);
        check("--subscribers 2 --conflating", &jump, &[]);
        let disconnect = |findings: &mut Findings| {
            findings.tallies.full.disconnects.insert("4101".to_owned(), 2);
        };
        check(plain, &disconnect, &["2 subscribers were disconnected"]);
        let refuse = |findings: &mut Findings| {
            (findings.published.acknowledged[0], findings.published.newest[0]) = (0, 0);
            findings.tallies.full.outcomes.iter_mut().for_each(|outcome| outcome.unique = 0);
        };
        check(plain, &refuse, &["no message was acknowledged"]);
        let cut = |findings: &mut Findings| {
            findings.cut_off = true;
            findings.tallies.full.outcomes[0].unique = 4;
        };
        check(plain, &cut, &["6 messages lost"]);
        check("--subscribers 2 --rate 0", &refuse, &[]);
        let (strict, conflating) =
            ("--subscribers 3 --trickle 1", "--subscribers 3 --trickle 1 --conflating");
        check(strict, &|_| {}, &["of those who trickle: 6 messages lost"]);
        check(conflating, &|_| {}, &[]);
        let behind = |findings: &mut Findings| findings.tallies.trickle.outcomes[0].next = 9;
        let problems = [
            "of those who trickle: 1 messages lost",
            "of those who trickle: 1 did not end on the newest message",
        ];
        check(conflating, &behind, &problems);
    }
}
