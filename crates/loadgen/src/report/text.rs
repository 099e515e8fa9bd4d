//! The report for people: a row for each subject, the result last.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Group, Quantiles, Report, Run};

impl Report {
    /// The report for people.
    pub(crate) fn text(&self) -> String {
        if let Some(knee) = &self.knee {
            return self.knee_text(knee);
        }
        let mut text = self.runs.iter().map(Run::text).collect::<Vec<_>>().join("\n");
        if let Some(partial) = &self.partial
            && self.runs.iter().all(|run| run.partial.is_none())
        {
            writeln!(text, "{:<12} {partial}", "partial").expect("a String takes it");
        }
        text
    }
}

impl Run {
    fn text(&self) -> String {
        let Self { scenario, connections, delivery, publish, .. } = self;
        let mut text = String::new();
        let mut row =
            |name: &str, value: String| writeln!(text, "{name:<12} {value}").expect("a String takes it");
        row("run", self.what());
        row("target", format!("{}, {}", self.target.server, self.target.url));
        row(
            "connected",
            format!("{} of {} in {:.2} s", connections.connected, connections.asked, connections.seconds),
        );
        if !connections.failures.is_empty() {
            row("failed", most_frequent(&connections.failures));
        }
        row(
            "delivered",
            format!(
                "{} of {} expected, {:.0}/s",
                delivery.delivered, delivery.expected, self.delivered_per_second
            ),
        );
        row("faults", delivery.faults_text());
        row("gaps", delivery.gaps_text());
        if scenario.topics.conflating {
            row("conflated", delivery.conflated.to_string());
        }
        row(
            "disconnected",
            match connections.disconnected {
                0 => "0".to_owned(),
                count => format!("{count}: {}", most_frequent(&connections.disconnects)),
            },
        );
        if connections.reconnected > 0 {
            row("reconnected", connections.reconnected.to_string());
        }
        row("latency", self.latency_us.text());
        if self.groups.len() > 1 {
            self.groups.iter().for_each(|group| group.rows(&mut row));
        }
        row(
            "published",
            format!(
                "{:.1}/s of {:.1}/s asked ({:+.2} %), {} acknowledged of {} sent",
                publish.achieved_per_second,
                publish.asked_per_second,
                publish.rate_error * 100.0,
                publish.acknowledged,
                publish.sent
            ),
        );
        row("ack latency", publish.ack_us.text());
        let mut refused = publish.posts_by_status.clone();
        refused.retain(|status, _| !(200..300).contains(status));
        if !refused.is_empty() || publish.unanswered_posts + publish.skipped > 0 {
            row(
                "refused",
                format!(
                    "posts by status {refused:?}, {} unanswered, {} messages not sent",
                    publish.unanswered_posts, publish.skipped
                ),
            );
        }
        self.costs(&mut row);
        if self.cut_off {
            let advice = "messages were still arriving when it ended: the lost may only be late (a longer drain tells)";
            row("drain", advice.to_owned());
        }
        if let Some(partial) = &self.partial {
            row("partial", partial.clone());
        }
        let result = match (self.passed, &self.partial) {
            (true, _) => "passed".to_owned(),
            (false, Some(partial)) if self.problems.is_empty() => format!("FAILED: {partial}"),
            _ => format!("FAILED: {}", self.problems.join(", ")),
        };
        row("result", result);
        text
    }

    /// What was run, in a line.
    pub(super) fn what(&self) -> String {
        let scenario = &self.scenario;
        let feeds = scenario.publishers.iter().filter(|feed| feed.rate > 0.0 || feed.ramp_to.is_some());
        let feeds = feeds.map(|feed| {
            let ramp = feed.ramp_to.map_or_else(String::new, |to| format!(" to {to}"));
            format!("{}{ramp} messages/s of {} B, {} to a POST", feed.rate, feed.payload, feed.batch)
        });
        let feeds: Vec<_> = feeds.collect();
        let feeds = if feeds.is_empty() { "no messages".to_owned() } else { feeds.join(" and ") };
        let mut formats: Vec<_> = self.groups.iter().map(|group| group.format.as_str()).collect();
        formats.dedup();
        format!(
            "{}: subscribers {}, topics {}, {}, {}, {} s",
            scenario.name,
            scenario.subscribers(),
            scenario.topics.count,
            feeds,
            formats.join(" and "),
            scenario.stages.window.0.as_secs_f64()
        )
    }

    fn costs(&self, row: &mut impl FnMut(&str, String)) {
        if let Some(server) = &self.server {
            row("server cpu", cpu_text(server.cpu_us_per_delivery, server.cpu_share));
            row(
                "server rss",
                format!(
                    "{:.1} MiB before, {:.1} MiB connected, {:.1} MiB at its peak, {:.0} B per connection, and {:.0} B in the kernel",
                    server.resident_bytes_before as f64 / 1_048_576.0,
                    server.resident_bytes_connected as f64 / 1_048_576.0,
                    server.resident_bytes_peak.unwrap_or(server.resident_bytes_connected) as f64
                        / 1_048_576.0,
                    server.resident_bytes_per_connection.unwrap_or(0.0),
                    server.kernel_socket_bytes_per_connection.unwrap_or(0.0)
                ),
            );
        }
        row("generator", cpu_text(self.generator.cpu_us_per_delivery, self.generator.cpu_share));
        for thread in &self.generator.threads {
            row(
                "",
                format!(
                    "{} ran {:.0} %, waited for a core {:.0} % of the time",
                    thread.name,
                    thread.running * 100.0,
                    thread.waiting * 100.0
                ),
            );
        }
        row("lateness", self.publish.lateness_us.text());
        if self.generator.was_bottleneck {
            let reasons = self.generator.bottleneck.join("; ");
            row("verdict", format!("the generator was the bottleneck: these are lower bounds ({reasons})"));
        }
    }
}

impl Group {
    fn rows(&self, row: &mut impl FnMut(&str, String)) {
        let Self { connections, delivery, .. } = self;
        let closed = match connections.disconnected {
            0 => String::new(),
            _ => format!(", closed by the server {}", most_frequent(&connections.disconnects)),
        };
        let pace = if self.pace == "full" { String::new() } else { format!(", {}", self.pace) };
        row(
            &self.name,
            format!(
                "{} of {} connected, {}{pace}{closed}",
                connections.connected, connections.asked, self.format
            ),
        );
        if self.pace == "never" {
            return;
        }
        let conflated = match delivery.conflated {
            0 => String::new(),
            count => format!(", conflated {count}"),
        };
        row("  delivered", format!("{} of {} expected{conflated}", delivery.delivered, delivery.expected));
        row("  faults", delivery.faults_text());
        if delivery.gaps + delivery.unannounced > 0 {
            row("  gaps", delivery.gaps_text());
        }
        row("  latency", self.latency_us.text());
    }
}

impl Quantiles {
    fn text(&self) -> String {
        let Self { p50, p90, p99, p99_9, max, .. } = self;
        format!("p50 {p50:.0} µs, p90 {p90:.0}, p99 {p99:.0}, p99.9 {p99_9:.0}, max {max:.0}")
    }
}

fn cpu_text(us_per_delivery: Option<f64>, share: Option<f64>) -> String {
    match (us_per_delivery, share) {
        (Some(us), Some(share)) => format!("{us:.3} µs per delivery, {:.0} % of a core", share * 100.0),
        (None, Some(share)) => format!("{:.0} % of a core", share * 100.0),
        _ => "not measured".to_owned(),
    }
}

/// A label and its count for each reason, the most frequent first.
pub(crate) fn most_frequent(counts: &BTreeMap<String, u64>) -> String {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by(|a, b| b.1.cmp(a.1));
    counts.iter().map(|(label, count)| format!("{label} ({count})")).collect::<Vec<_>>().join(", ")
}
