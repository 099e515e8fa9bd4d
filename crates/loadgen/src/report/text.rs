//! The report for people: a row for each subject, the result last.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::slow::Trickle;
use super::{Quantiles, Report};
use crate::args::Quick;

impl Report {
    /// The report for people.
    pub(crate) fn text(&self) -> String {
        let Self { options, connections, delivery, publish, latency_us: latency, .. } = self;
        let mut text = String::new();
        let mut row =
            |name: &str, value: String| writeln!(text, "{name:<12} {value}").expect("a String takes it");
        row(
            "run",
            format!(
                "subscribers {}, topics {}, {} messages/s of {} B, {} to a POST, {}, {} s",
                options.subscribers,
                options.topics,
                options.rate,
                options.payload,
                options.batch,
                options.format,
                options.duration.as_secs_f64()
            ),
        );
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
        if options.conflating {
            row("conflated", delivery.conflated.to_string());
        }
        row(
            "disconnected",
            match connections.disconnected {
                0 => "0".to_owned(),
                count => format!("{count}: {}", most_frequent(&connections.disconnects)),
            },
        );
        row("latency", latency.text());
        if let Some(trickle) = &self.trickle {
            trickle.rows(options, &mut row);
        }
        if let Some(stalled) = &self.stalled {
            let closes = match stalled.closed_by_server {
                0 => String::new(),
                _ => format!(": {}", most_frequent(&stalled.closes)),
            };
            row(
                "stalled",
                format!(
                    "{} connected, {} closed by the server{closes}",
                    stalled.connected, stalled.closed_by_server
                ),
            );
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
        refused.remove(&200);
        if !refused.is_empty() || publish.unanswered_posts + publish.skipped > 0 {
            row(
                "refused",
                format!(
                    "posts by status {refused:?}, {} unanswered, {} messages not sent",
                    publish.unanswered_posts, publish.skipped
                ),
            );
        }
        if let Some(server) = &self.server {
            row("server cpu", cpu_text(server.cpu_us_per_delivery, server.cpu_share));
            row(
                "server rss",
                format!(
                    "{:.1} MiB before, {:.1} MiB connected, {:.0} B per connection",
                    server.resident_bytes_before as f64 / 1_048_576.0,
                    server.resident_bytes_connected as f64 / 1_048_576.0,
                    server.resident_bytes_per_connection.unwrap_or(0.0)
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
        row("lateness", publish.lateness_us.text());
        if self.generator.was_bottleneck {
            let reasons = self.generator.bottleneck.join("; ");
            row("verdict", format!("the generator was the bottleneck: these are lower bounds ({reasons})"));
        }
        if self.cut_off {
            let advice =
                "messages were still arriving when it ended: the lost may only be late (raise --drain)";
            row("drain", advice.to_owned());
        }
        if self.interrupted {
            row("interrupted", "the run ended before its time".to_owned());
        }
        row(
            "result",
            if self.passed { "passed".to_owned() } else { format!("FAILED: {}", self.problems.join(", ")) },
        );
        text
    }
}

impl Trickle {
    fn rows(&self, options: &Quick, row: &mut impl FnMut(&str, String)) {
        let delivery = &self.delivery;
        let bytes = options.trickle_rate;
        row("trickle", format!("{} connected, {bytes} B/s each", self.connected));
        row("  delivered", format!("{} of {} expected", delivery.delivered, delivery.expected));
        row("  faults", delivery.faults_text());
        row("  gaps", delivery.gaps_text());
        if options.conflating {
            let ended = format!("ended on the newest: {} of {}", self.ended_on_newest, self.connected);
            row("  conflated", format!("{}; {ended}", delivery.conflated));
        }
        row("  age", self.age_us.text());
        if !self.disconnects.is_empty() {
            row("  closed", most_frequent(&self.disconnects));
        }
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
