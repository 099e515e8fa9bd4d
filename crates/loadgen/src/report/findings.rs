//! What a run leaves behind, and the report that is made of it.

use super::{
    Connections, Delivery, Generator, Group, Publish, Quantiles, Run, Server, Target, ThreadShare,
    distribution, per,
};
use crate::ledger::Ledger;
use crate::pace::Pace;
use crate::process::Sample;
use crate::publisher::Published;
use crate::recorder::{Tally, histogram};
use crate::scenario::{Scenario, Subscribers};
use crate::series::Point;

/// A thread that runs, or waits for a core, longer than this part of the time has no room left.
pub(crate) const BUSY_MAX: f64 = 0.9;
/// A publisher later than this, in microseconds, measures itself.
const LATENESS_P99_MAX_US: f64 = 2_000.0;

/// All that a run leaves behind.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) scenario: Scenario,
    pub(crate) target: Target,
    pub(crate) pids: Vec<u32>,
    /// Subscribers when publishing began.
    pub(crate) connected: u64,
    pub(crate) connect_seconds: f64,
    /// By group.
    pub(crate) tallies: Vec<Tally>,
    pub(crate) ledgers: Vec<Ledger>,
    pub(crate) published: Published,
    /// The beginning and the end of the window, if it was reached.
    pub(crate) edges: Option<(Edge, Edge)>,
    /// The length of the window, up to an interruption.
    pub(crate) window_seconds: f64,
    /// Messages that were due in it.
    pub(crate) due_in_window: f64,
    pub(crate) resident_before: Option<u64>,
    pub(crate) resident_connected: Option<u64>,
    pub(crate) resident_peak: Option<u64>,
    /// When all were connected or at the end of the window, whichever is more.
    pub(crate) kernel_socket_bytes: Option<u64>,
    pub(crate) cut_off: bool,
    pub(crate) partial: Option<String>,
    pub(crate) series: Vec<Point>,
}

/// The state of things at one end of the window.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) server: Option<Sample>,
    pub(crate) generator: Sample,
    pub(crate) delivered: u64,
}

impl Findings {
    pub(crate) fn into_run(self) -> Run {
        let conflating = self.scenario.topics.conflating;
        let groups = self.scenario.subscribers.iter().zip(&self.tallies);
        let groups: Vec<_> = groups
            .map(|(group, tally)| group_of(group, tally, &self.ledgers, &self.target, conflating))
            .collect();
        let mut latency = histogram(3);
        let (mut connections, mut delivery) = (Connections::default(), Delivery::default());
        for ((group, settings), tally) in groups.iter().zip(&self.scenario.subscribers).zip(&self.tallies) {
            connections.add(&group.connections);
            delivery.add(&group.delivery);
            if settings.pace == Pace::Full {
                latency.add(&tally.latency).expect("all have the same bounds");
            }
        }
        connections.seconds = self.connect_seconds;
        let edges = self.edges.as_ref();
        let delivered = edges.map_or(0, |(from, to)| to.delivered - from.delivered);
        let seconds = edges.map_or(0.0, |(from, to)| to.generator.seconds_since(&from.generator));
        let publish = self.publish();
        let problems = self.problems(&groups, &publish);
        Run {
            passed: problems.is_empty() && self.partial.is_none(),
            problems,
            delivered_per_second: per(delivered as f64, seconds).unwrap_or(0.0),
            cut_off: self.cut_off,
            latency_us: Quantiles::of(&latency),
            latency_distribution: distribution(&latency),
            server: self.server(delivered),
            generator: self.generator(delivered, publish.lateness_us.p99),
            connections,
            delivery,
            groups,
            publish,
            scenario: self.scenario,
            target: self.target,
            partial: self.partial,
            series: self.series,
        }
    }

    fn publish(&self) -> Publish {
        let published = &self.published;
        let rate = |count: f64| per(count, self.window_seconds).unwrap_or(0.0);
        let (asked, achieved) = (rate(self.due_in_window), rate(published.sent_in_window as f64));
        Publish {
            asked_per_second: asked,
            achieved_per_second: achieved,
            rate_error: per(achieved - asked, asked).unwrap_or(0.0),
            posts: published.posts,
            sent: published.sent,
            acknowledged: published.acknowledged,
            skipped: published.skipped,
            unanswered_posts: published.unanswered,
            posts_by_status: published.statuses.clone(),
            ack_us: Quantiles::of(&published.answered),
            lateness_us: Quantiles::of(&published.lateness),
        }
    }

    fn server(&self, delivered: u64) -> Option<Server> {
        let (before, connected) = (self.resident_before?, self.resident_connected?);
        let samples =
            self.edges.as_ref().and_then(|(from, to)| Some((from.server.as_ref()?, to.server.as_ref()?)));
        let cpu = samples.map(|(from, to)| (to.used_since(from), to.seconds_since(from)));
        let each = |bytes: f64| per(bytes, self.connected as f64);
        Some(Server {
            pids: self.pids.clone(),
            cpu_user_seconds: cpu.map(|(used, _)| used.user.as_secs_f64()),
            cpu_system_seconds: cpu.map(|(used, _)| used.system.as_secs_f64()),
            cpu_share: cpu.map(|(used, wall)| used.seconds() / wall),
            cpu_us_per_delivery: cpu.and_then(|(used, _)| per(used.seconds() * 1e6, delivered as f64)),
            resident_bytes_before: before,
            resident_bytes_connected: connected,
            resident_bytes_peak: self.resident_peak,
            resident_bytes_per_connection: each(connected as f64 - before as f64),
            kernel_socket_bytes: self.kernel_socket_bytes,
            kernel_socket_bytes_per_connection: self.kernel_socket_bytes.and_then(|bytes| each(bytes as f64)),
        })
    }

    fn generator(&self, delivered: u64, lateness_p99_us: f64) -> Generator {
        let samples = self.edges.as_ref().map(|(from, to)| (&from.generator, &to.generator));
        let cpu = samples.map(|(from, to)| (to.used_since(from).seconds(), to.seconds_since(from)));
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
        Generator {
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

    /// What went wrong, said of its group where there are several.
    fn problems(&self, groups: &[Group], publish: &Publish) -> Vec<String> {
        let conflating = self.scenario.topics.conflating;
        let mut problems = Vec::new();
        for (group, settings) in groups.iter().zip(&self.scenario.subscribers) {
            let (connections, strict) = (&group.connections, settings.is_strict());
            let disconnected = if strict { connections.disconnected } else { 0 };
            let connecting = [
                (connections.asked.saturating_sub(connections.connected), "subscribers did not connect"),
                (disconnected, "subscribers were disconnected"),
            ];
            let of = if groups.len() > 1 { format!("{}: ", group.name) } else { String::new() };
            let all = connecting.into_iter().chain(group.delivery.faults(conflating, strict));
            let told = all.filter(|(count, _)| *count > 0).map(|(count, what)| format!("{of}{count} {what}"));
            problems.extend(told);
        }
        // A run that delivered nothing because nothing was accepted has shown nothing.
        if self.due_in_window > 0.0 && publish.acknowledged == 0 {
            problems.push("no message was acknowledged".to_owned());
        }
        problems
    }
}

fn group_of(
    settings: &Subscribers,
    tally: &Tally,
    ledgers: &[Ledger],
    target: &Target,
    conflating: bool,
) -> Group {
    let is_fanfare = target.adapter == "fanfare";
    Group {
        name: settings.name.clone(),
        format: if is_fanfare { settings.format.to_string() } else { target.adapter.clone() },
        pace: settings.pace.to_string(),
        connections: Connections {
            asked: tally.asked,
            connected: tally.joined,
            seconds: 0.0,
            failures: tally.failures.clone(),
            disconnected: tally.disconnects.values().sum(),
            disconnects: tally.disconnects.clone(),
            reconnected: tally.reconnected,
        },
        delivery: Delivery::new(tally, ledgers, conflating),
        latency_us: Quantiles::of(&tally.latency),
        latency_distribution: distribution(&tally.latency),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;
    use crate::track::Outcome;

    /// Ten messages of one topic, of which two strict subscribers got all and one that trickles got four.
    fn findings(conflating: bool) -> Findings {
        let scenario: Scenario = toml::from_str(&format!(
            "topics = {{ conflating = {conflating} }}\n[[subscribers]]\nname = \"full\"\ncount = 2\n\
             [[subscribers]]\nname = \"slow\"\ncount = 1\npace = \"trickle\"\n[[publishers]]\nname = \"feed\"\nrate = 1"
        ))
        .unwrap();
        let tally = |unique: &[u64]| {
            let mut tally = Tally::new();
            (tally.asked, tally.joined) = (unique.len() as u64, unique.len() as u64);
            let outcome = |&unique: &u64| Outcome {
                topic: 0,
                from: 0,
                next: 10,
                unique,
                early: 0,
                announced: 0,
                left: false,
            };
            tally.outcomes = unique.iter().map(outcome).collect();
            tally
        };
        let mut published = Published::new();
        published.acknowledged = 10;
        Findings {
            scenario,
            target: Target { url: "http://h:1".into(), adapter: "fanfare".into(), server: "Fanfare".into() },
            pids: Vec::new(),
            connected: 3,
            connect_seconds: 0.1,
            tallies: vec![tally(&[10, 10]), tally(&[4])],
            ledgers: vec![Ledger::new(10, Vec::new())],
            published,
            edges: None,
            window_seconds: 1.0,
            due_in_window: 10.0,
            resident_before: None,
            resident_connected: None,
            resident_peak: None,
            kernel_socket_bytes: None,
            cut_off: false,
            partial: None,
            series: Vec::new(),
        }
    }

    #[test]
    fn a_run_passes_only_if_nothing_went_wrong() {
        let check = |conflating, change: &dyn Fn(&mut Findings), problems: &[&str]| {
            let mut findings = findings(conflating);
            change(&mut findings);
            let run = findings.into_run();
            assert_eq!(run.problems, problems);
            assert_eq!(run.passed, problems.is_empty() && run.partial.is_none());
            let passed = run.passed;
            let report = Report::new(String::new(), vec![run], None);
            assert_eq!(report.passed, passed);
            assert!(report.text().contains(if passed { "passed" } else { "FAILED" }));
            let json = serde_json::to_string(&report).unwrap();
            assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report, "it is read as it is written");
        };
        check(true, &|_| {}, &[]);
        check(false, &|_| {}, &["slow: 6 messages lost"]);
        check(true, &|findings| findings.partial = Some("interrupted".into()), &[]);
        check(false, &|findings| findings.tallies[1].outcomes[0].announced = 6, &[]);
        check(true, &|findings| findings.tallies[0].repeated = 3, &["full: 3 messages repeated"]);
        check(true, &|findings| findings.tallies[0].joined = 1, &["full: 1 subscribers did not connect"]);
        let gap = |findings: &mut Findings| {
            findings.tallies.iter_mut().for_each(|tally| tally.gap_messages = 2);
        };
        check(true, &gap, &["full: 2 messages missing, as announced"]);
        let disconnect = |findings: &mut Findings| {
            for tally in &mut findings.tallies {
                tally.disconnects.insert("4101".to_owned(), 1);
            }
        };
        check(true, &disconnect, &["full: 1 subscribers were disconnected"]);
        check(true, &|findings| findings.published.acknowledged = 0, &["no message was acknowledged"]);
    }

    #[test]
    fn a_generator_that_was_late_says_that_its_figures_are_lower_bounds() {
        let mut findings = findings(true);
        findings.published.lateness.record(5_000_000).unwrap();
        let report = Report::new(String::new(), vec![findings.into_run()], None);
        assert!(report.runs[0].generator.was_bottleneck);
        assert!(report.text().contains("the generator was the bottleneck: these are lower bounds"));
    }
}
