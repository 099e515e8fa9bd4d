//! What the process counts, and the page that shows it in the Prometheus text format.
//!
//! Each worker has counters of its own that only it writes, so counting is an add without a lock prefix on a line nobody
//! else writes. They are summed when the page is asked for. No label ever carries a topic or anything else a client
//! chooses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use fanfare_fanout::budget::CLASSES;
use fanfare_wire::FormatId;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily, MetricType};

use crate::admission::{BOUNDS, Bound};
use crate::alone::Alone;
use crate::auth::failure::{ALL_FAILURES, FAILURES};
use crate::limits::LIMITS;
use crate::server::Shared;
use crate::tls::{Handshake, Tls};
use crate::transport::disconnect::{ALL_LABELS, LABELS};

/// A number that one thread writes and all may read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Only the owning worker's thread calls it.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// For a gauge. Only the owning worker's thread calls it.
    pub(crate) fn subtract(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(count), Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the histograms' buckets, in microseconds.
const BUCKETS: [u64; 16] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000,
];

/// Times, in the buckets above. One writer, as a [`Counter`].
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Counter; BUCKETS.len()],
    count: Counter,
    microseconds: Counter,
}

impl Histogram {
    pub(crate) fn observe(&self, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = BUCKETS.iter().position(|bound| microseconds <= *bound) {
            self.buckets[bucket].add(1);
        }
        self.count.add(1);
        self.microseconds.add(microseconds);
    }
}

/// Bytes in outboxes, by size class.
#[derive(Debug)]
pub(crate) struct OutboxClasses(pub(crate) [Counter; CLASSES]);

impl Default for OutboxClasses {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// One worker's counters. Aligned, so that no two workers share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub(crate) http_connections: Counter,
    pub(crate) raw_connections: Counter,
    pub(crate) json_connections: Counter,
    pub(crate) deflate_connections: Counter,
    pub(crate) stream_connections: Counter,
    pub(crate) tls_connections: Counter,
    pub(crate) tls_handshakes: [Counter; Handshake::LABELS.len()],
    pub(crate) accepted: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) proxy_header_errors: Counter,
    /// By [`Bound`].
    pub(crate) refusals: [Counter; BOUNDS],
    pub(crate) refused_handshakes: Counter,
    pub(crate) publishes: Counter,
    pub(crate) refused_publishes: Counter,
    pub(crate) failed_publishes: Counter,
    pub(crate) recoveries_whole: Counter,
    pub(crate) recoveries_partial: Counter,
    pub(crate) messages: Counter,
    pub(crate) message_bytes: Counter,
    pub(crate) deliveries: Counter,
    pub(crate) delivery_bytes: Counter,
    pub(crate) writes: Counter,
    pub(crate) submissions: Counter,
    /// 1 of a worker that has a ring.
    pub(crate) rings: Counter,
    pub(crate) dropped: Counter,
    pub(crate) blocked: Counter,
    pub(crate) conflated: Counter,
    pub(crate) sheds: Counter,
    pub(crate) deflated: Counter,
    pub(crate) deflate_bytes_in: Counter,
    pub(crate) deflate_bytes_out: Counter,
    /// The other workers read it at each of their steps, and it changes only where a socket is slow.
    pub(crate) outbox_bytes: Alone<Counter>,
    pub(crate) outbox_classes: OutboxClasses,
    pub(crate) subscribed_topics: Counter,
    pub(crate) patterns: Counter,
    pub(crate) polls: Counter,
    pub(crate) waiting_polls: Counter,
    pub(crate) passes: Counter,
    pub(crate) panics: Counter,
    pub(crate) closes: [Counter; LABELS],
    pub(crate) auth_failures: [Counter; FAILURES],
    pub(crate) cached_tokens: Counter,
    pub(crate) publish_seconds: Histogram,
    pub(crate) fanout_seconds: Histogram,
    /// How late the worker's timer fires.
    pub(crate) loop_lag: Histogram,
    /// For how long the oldest message waits in an outbox, in milliseconds, as of the last look.
    pub(crate) outbox_age_ms: Counter,
}

impl Counters {
    /// Counts somebody who met a bound.
    pub(crate) fn refused(&self, bound: Bound) {
        self.refusals[bound as usize].add(1);
    }

    /// Counts a subscriber that reads `format`.
    pub(crate) fn connected(&self, format: FormatId) {
        self.subscribers(format).add(1);
        if format != format.plain() {
            self.deflate_connections.add(1);
        }
    }

    /// Counts one less.
    pub(crate) fn disconnected(&self, format: FormatId) {
        self.subscribers(format).subtract(1);
        if format != format.plain() {
            self.deflate_connections.subtract(1);
        }
    }

    /// The gauge of subscribers that read `format`, compressed or not.
    pub(crate) fn subscribers(&self, format: FormatId) -> &Counter {
        match format.plain() {
            FormatId::RAW => &self.raw_connections,
            FormatId::JSON => &self.json_connections,
            FormatId::LONG_POLL => &self.waiting_polls,
            _ => &self.stream_connections,
        }
    }
}

/// Sums the workers' counters when asked.
pub(crate) struct Page {
    shared: Arc<Shared>,
}

impl Page {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn sum(&self, read: impl Fn(&Counters) -> &Counter) -> f64 {
        self.shared.counters.iter().map(|counters| read(counters).read()).fold(0u64, u64::wrapping_add) as f64
    }

    fn families(&self) -> Vec<MetricFamily> {
        let shared = &self.shared;
        let sum = |read: fn(&Counters) -> &Counter| self.sum(read);
        let inboxes = || shared.dispatch.inboxes.0.iter().map(crate::inbox::Inbox::depth);
        let closes = ALL_LABELS.iter().enumerate();
        let closes = closes.map(|(index, label)| {
            sample(MetricType::COUNTER, Some(("reason", label)), self.sum(|c| &c.closes[index]))
        });
        let failures = ALL_FAILURES.iter().enumerate();
        let failures = failures.map(|(index, label)| {
            sample(MetricType::COUNTER, Some(("reason", label)), self.sum(|c| &c.auth_failures[index]))
        });
        let fetches = ["ok", "failed"].into_iter().zip(&shared.key_set_fetches);
        let fetches = fetches.map(|(result, count)| {
            sample(MetricType::COUNTER, Some(("result", result)), count.load(Relaxed) as f64)
        });
        let refusals = Bound::ALL.iter().map(|bound| {
            let count = self.sum(|c| &c.refusals[*bound as usize]);
            sample(MetricType::COUNTER, Some(("limit", bound.label())), count)
        });
        let connections = [
            sample(MetricType::GAUGE, Some(("transport", "http")), sum(|c| &c.http_connections)),
            sample(MetricType::GAUGE, Some(("transport", "raw")), sum(|c| &c.raw_connections)),
            sample(MetricType::GAUGE, Some(("transport", "json")), sum(|c| &c.json_connections)),
            sample(MetricType::GAUGE, Some(("transport", "stream")), sum(|c| &c.stream_connections)),
        ];
        let handshakes = Handshake::LABELS.iter().enumerate().map(|(index, label)| {
            let count = self.sum(|c| &c.tls_handshakes[index]);
            sample(MetricType::COUNTER, Some(("result", label)), count)
        });
        let recoveries = [
            sample(MetricType::COUNTER, Some(("result", "whole")), sum(|c| &c.recoveries_whole)),
            sample(MetricType::COUNTER, Some(("result", "partial")), sum(|c| &c.recoveries_partial)),
        ];
        let config = shared.config();
        let limits = LIMITS.iter();
        let limits =
            limits.map(|row| sample(MetricType::GAUGE, Some(("limit", row.name)), row.value(&config.limits)));
        let reloads =
            [("ok", &shared.reloads.done), ("failed", &shared.reloads.failed)].map(|(result, count)| {
                sample(MetricType::COUNTER, Some(("result", result)), count.load(Relaxed) as f64)
            });
        let rings = sum(|c| &c.rings);
        let writers = [
            sample(MetricType::GAUGE, Some(("writer", "ring")), rings),
            sample(MetricType::GAUGE, Some(("writer", "inline")), shared.counters.len() as f64 - rings),
        ];
        let certificate = config.tls.as_ref().and_then(Tls::ends).map(|ends| {
            gauge(
                "fanfare_tls_certificate_expiry_timestamp_seconds",
                "When the certificate that is served ends, as Unix time.",
                ends as f64,
            )
        });
        let mut families = vec![
            family(
                "fanfare_connections",
                "Open connections, by what they carry.",
                MetricType::GAUGE,
                connections.into(),
            ),
            counter("fanfare_accepted_total", "Connections accepted.", sum(|c| &c.accepted)),
            counter(
                "fanfare_accept_errors_total",
                "Accepts that failed, for want of file descriptors mostly.",
                sum(|c| &c.accept_errors),
            ),
            counter(
                "fanfare_refused_connections_total",
                "Connections refused at the bound.",
                sum(|c| &c.refusals[Bound::Connections as usize]),
            ),
            gauge(
                "fanfare_tls_connections",
                "Open connections under TLS, whatever they carry.",
                sum(|c| &c.tls_connections),
            ),
            family(
                "fanfare_tls_handshakes_total",
                "TLS handshakes, by what they came to.",
                MetricType::COUNTER,
                handshakes.collect(),
            ),
            counter(
                "fanfare_proxy_header_errors_total",
                "Connections of trusted proxies without a PROXY protocol header.",
                sum(|c| &c.proxy_header_errors),
            ),
            family(
                "fanfare_refusals_total",
                "Connections, requests, subscriptions and messages refused, by the limit they met.",
                MetricType::COUNTER,
                refusals.collect(),
            ),
            gauge(
                "fanfare_addresses",
                "Addresses and holders of credentials with open connections, but loopback and trusted proxies.",
                shared.admission.addresses() as f64,
            ),
            counter(
                "fanfare_rate_evictions_total",
                "Times a rate was forgotten of somebody who still had to wait.",
                shared.admission.evictions() as f64,
            ),
            counter(
                "fanfare_refused_handshakes_total",
                "WebSocket handshakes refused.",
                sum(|c| &c.refused_handshakes),
            ),
            counter(
                "fanfare_publishes_total",
                "Publish requests answered with 200, and client publishes taken.",
                sum(|c| &c.publishes),
            ),
            counter(
                "fanfare_refused_publishes_total",
                "Publish requests and client publishes refused.",
                sum(|c| &c.refused_publishes),
            ),
            counter(
                "fanfare_failed_publishes_total",
                "Those of them that were refused for the gateway's own reasons: 503, mostly.",
                sum(|c| &c.failed_publishes),
            ),
            counter("fanfare_messages_total", "Messages published.", sum(|c| &c.messages)),
            counter("fanfare_message_bytes_total", "Payload bytes published.", sum(|c| &c.message_bytes)),
            counter(
                "fanfare_deliveries_total",
                "Messages handed to a subscriber's socket whole.",
                sum(|c| &c.deliveries),
            ),
            counter(
                "fanfare_delivery_bytes_total",
                "Bytes that subscribers' sockets took.",
                sum(|c| &c.delivery_bytes),
            ),
            counter(
                "fanfare_writes_total",
                "Writes to subscribers' sockets, each a system call or part of a submission.",
                sum(|c| &c.writes),
            ),
            counter(
                "fanfare_submissions_total",
                "System calls that submitted writes to io_uring.",
                sum(|c| &c.submissions),
            ),
            family(
                "fanfare_writers",
                "Workers, by how they write to sockets.",
                MetricType::GAUGE,
                writers.into(),
            ),
            counter(
                "fanfare_dropped_messages_total",
                "Messages dropped for slow subscribers, and announced to them.",
                sum(|c| &c.dropped),
            ),
            counter(
                "fanfare_conflated_messages_total",
                "Messages that a newer one of their key replaced, for slow subscribers of conflating topics.",
                sum(|c| &c.conflated),
            ),
            counter(
                "fanfare_sheds_total",
                "Times outboxes had to shrink because all together were past the budget.",
                sum(|c| &c.sheds),
            ),
            gauge(
                "fanfare_deflate_connections",
                "WebSockets that negotiated permessage-deflate.",
                sum(|c| &c.deflate_connections),
            ),
            counter(
                "fanfare_deflated_messages_total",
                "Compressions of a message, in vain ones included: one per message and format.",
                sum(|c| &c.deflated),
            ),
            counter(
                "fanfare_deflate_in_bytes_total",
                "Bytes before their compression.",
                sum(|c| &c.deflate_bytes_in),
            ),
            counter(
                "fanfare_deflate_out_bytes_total",
                "Bytes after their compression; as many where it was in vain.",
                sum(|c| &c.deflate_bytes_out),
            ),
            counter("fanfare_polls_total", "Polls answered.", sum(|c| &c.polls)),
            gauge("fanfare_waiting_polls", "Polls that wait for a message.", sum(|c| &c.waiting_polls)),
            counter(
                "fanfare_blocked_total",
                "Times a subscriber's socket began to refuse bytes.",
                sum(|c| &c.blocked),
            ),
            counter("fanfare_passes_total", "Fan-out passes.", sum(|c| &c.passes)),
            counter(
                "fanfare_panics_total",
                "Tasks of connections that panicked; each ended its own connection.",
                sum(|c| &c.panics),
            ),
            gauge("fanfare_outbox_bytes", "Bytes waiting in outboxes.", sum(|c| &c.outbox_bytes)),
            gauge(
                "fanfare_outbox_age_seconds",
                "For how long the oldest message waits in an outbox; looked at once a second.",
                shared.counters.iter().map(|c| c.outbox_age_ms.read()).max().unwrap_or_default() as f64 / 1e3,
            ),
            gauge(
                "fanfare_inbox_messages",
                "Messages waiting in workers' inboxes.",
                inboxes().map(|depth| depth.0).sum::<usize>() as f64,
            ),
            gauge(
                "fanfare_inbox_bytes",
                "Payload bytes waiting in workers' inboxes.",
                inboxes().map(|depth| depth.1).sum::<usize>() as f64,
            ),
            gauge(
                "fanfare_inflight_body_bytes",
                "Request bodies being received.",
                shared.inflight_body_bytes.load(Relaxed) as f64,
            ),
            gauge(
                "fanfare_inflight_poll_bytes",
                "Answers to polls that are not written yet.",
                shared.inflight_poll_bytes.load(Relaxed) as f64,
            ),
            gauge(
                "fanfare_topics",
                "Topics with subscribers, or published to not long ago.",
                shared.dispatch.registry.topics() as f64,
            ),
            gauge(
                "fanfare_subscribed_topics",
                "Topics with subscribers, counted once per worker.",
                sum(|c| &c.subscribed_topics),
            ),
            gauge(
                "fanfare_patterns",
                "Different wildcards with subscribers.",
                shared.dispatch.registry.patterns() as f64,
            ),
            gauge(
                "fanfare_subscribed_patterns",
                "Wildcards with subscribers, counted once per worker.",
                sum(|c| &c.patterns),
            ),
            gauge(
                "fanfare_retained_bytes",
                "Memory of the messages kept for replay and as last values.",
                shared.dispatch.registry.retained_bytes() as f64,
            ),
            counter(
                "fanfare_replay_evictions_total",
                "Times a topic gave up kept messages for others.",
                shared.dispatch.registry.evictions() as f64,
            ),
            gauge(
                "fanfare_idempotency_keys",
                "Remembered idempotency keys.",
                shared.idempotency.len() as f64,
            ),
            counter(
                "fanfare_log_dropped_total",
                "Lines of the log that found no room, because nobody read it.",
                crate::log::writer::dropped() as f64,
            ),
            counter(
                "fanfare_log_suppressed_total",
                "Lines of the log past what clients can cause in a second.",
                shared.log_rate.suppressed() as f64,
            ),
            gauge("fanfare_workers", "Workers.", shared.counters.len() as f64),
            family(
                "fanfare_config_reloads_total",
                "Reloads of the configuration, by result.",
                MetricType::COUNTER,
                reloads.into(),
            ),
            gauge(
                "fanfare_config_last_reload_success",
                "1 unless the last reload failed, and the configuration before it is in force.",
                f64::from(u8::from(!shared.reloads.last_failed.load(Relaxed))),
            ),
            gauge(
                "fanfare_draining",
                "1 from the first SIGTERM on.",
                f64::from(u8::from(shared.is_draining())),
            ),
            family(
                "fanfare_closes_total",
                "Subscribers' connections ended, by reason.",
                MetricType::COUNTER,
                closes.collect(),
            ),
            family(
                "fanfare_auth_failures_total",
                "Requests and `auth`s refused for their credential or their origin, by reason.",
                MetricType::COUNTER,
                failures.collect(),
            ),
            gauge("fanfare_tokens_cached", "Valid tokens that workers remember.", sum(|c| &c.cached_tokens)),
            gauge("fanfare_revocations", "Revocations.", shared.revocations.len() as f64),
            gauge(
                "fanfare_token_keys",
                "Keys that tokens are checked with.",
                shared.config().who.token_keys() as f64,
            ),
            family(
                "fanfare_jwks_fetches_total",
                "Fetches of the key set that the configuration names by a URL, by result.",
                MetricType::COUNTER,
                fetches.collect(),
            ),
            family(
                "fanfare_recoveries_total",
                "Subscriptions that named a place to resume from, by whether all that was missed came.",
                MetricType::COUNTER,
                recoveries.into(),
            ),
            family(
                "fanfare_limit",
                "The bounds in force; times in seconds.",
                MetricType::GAUGE,
                limits.collect(),
            ),
            self.histogram(
                "fanfare_publish_seconds",
                "From a publish request's header to its answer.",
                |c| &c.publish_seconds,
            ),
            self.histogram(
                "fanfare_fanout_seconds",
                "From a message's place to the end of the pass that wrote it.",
                |c| &c.fanout_seconds,
            ),
            self.histogram(
                "fanfare_loop_lag_seconds",
                "How late workers' timers fire: what else they do holds them up.",
                |c| &c.loop_lag,
            ),
            family(
                "fanfare_build_info",
                "1, with the version.",
                MetricType::GAUGE,
                vec![sample(MetricType::GAUGE, Some(("version", env!("CARGO_PKG_VERSION"))), 1.0)],
            ),
        ];
        families.extend(certificate);
        families
    }

    fn histogram(&self, name: &str, help: &str, read: impl Fn(&Counters) -> &Histogram) -> MetricFamily {
        let mut cumulative = 0;
        let buckets = BUCKETS.iter().enumerate().map(|(index, bound)| {
            cumulative += self.sum(|counters| &read(counters).buckets[index]) as u64;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound as f64 / 1e6);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(self.sum(|counters| &read(counters).count) as u64);
        histogram.set_sample_sum(self.sum(|counters| &read(counters).microseconds) / 1e6);
        let mut metric = proto::Metric::from_label(Vec::new());
        metric.set_histogram(histogram);
        family(name, help, MetricType::HISTOGRAM, vec![metric])
    }
}

impl Collector for Page {
    fn desc(&self) -> Vec<&Desc> {
        // The families are fixed and registered nowhere else.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.families()
    }
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<proto::Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn counter(name: &str, help: &str, value: f64) -> MetricFamily {
    family(name, help, MetricType::COUNTER, vec![sample(MetricType::COUNTER, None, value)])
}

fn gauge(name: &str, help: &str, value: f64) -> MetricFamily {
    family(name, help, MetricType::GAUGE, vec![sample(MetricType::GAUGE, None, value)])
}

/// A counter's or a gauge's value, under at most one label.
fn sample(kind: MetricType, label: Option<(&str, &str)>, value: f64) -> proto::Metric {
    let labels = label.map(|(name, value)| {
        let mut label = proto::LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value.to_owned());
        label
    });
    let mut metric = proto::Metric::from_label(labels.into_iter().collect());
    if kind == MetricType::COUNTER {
        let mut counter = proto::Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}
