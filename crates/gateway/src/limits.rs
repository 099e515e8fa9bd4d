//! Every bound of the process, in one table: its name in the configuration file, on the command line and in the
//! environment, its default, and what it bounds.
//!
//! `limits.outbox_bytes` in the file is `--outbox-bytes` as a flag and `FANFARE_OUTBOX_BYTES` in the environment.
//! docs/OPERATING.md has a row for each; a test compares.

use std::time::Duration;

use crate::rate::Rate;
use crate::units;

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// A rate: `20`, `20 burst 100`, `off`.
    Rate,
    /// Bytes: `65536`, `64KiB`, `1MiB`.
    Bytes,
    /// A time: `250ms`, `10s`, `2m`, `1h`.
    Time,
}

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// Its name, in `snake_case`.
    pub name: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// The default, as one would write it.
    pub default: &'static str,
    /// What it bounds, in one sentence.
    pub help: &'static str,
    /// Whether a reload changes it; else it needs a restart.
    pub reloads: bool,
    set: fn(&mut Limits, &str) -> Result<(), String>,
    value: fn(&Limits) -> f64,
    shown: fn(&Limits) -> String,
    keep: fn(&Limits, &mut Limits),
}

impl Row {
    /// Reads `text` into `limits`.
    pub fn set(&self, limits: &mut Limits, text: &str) -> Result<(), String> {
        (self.set)(limits, text)
    }

    /// What is in force, as a number: things, bytes or seconds.
    pub fn value(&self, limits: &Limits) -> f64 {
        (self.value)(limits)
    }

    /// Its value, as one would write it.
    pub fn shown(&self, limits: &Limits) -> String {
        (self.shown)(limits)
    }

    /// Sets it in `into` to what it is in `from`.
    pub(crate) fn keep(&self, from: &Limits, into: &mut Limits) {
        (self.keep)(from, into);
    }
}

macro_rules! limits {
    ($($(#[$at_start:ident])? $name:ident: $unit:ident = $default:literal, $help:literal;)*) => {
        /// The bounds in force.
        #[derive(Debug, Clone)]
        pub struct Limits {
            $(#[doc = $help] pub $name: limits!(@type $unit),)*
        }

        /// All bounds.
        pub const LIMITS: &[Row] = &[$(Row {
            name: stringify!($name),
            unit: Unit::$unit,
            default: $default,
            help: $help,
            reloads: limits!(@reloads $($at_start)?),
            set: |limits, text| {
                limits.$name = units::$unit(text)?;
                Ok(())
            },
            value: |limits| limits!(@value $unit limits.$name),
            shown: |limits| units::shown::$unit(limits.$name),
            keep: |from, into| into.$name = from.$name,
        }),*];

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: units::$unit($default).expect("a test reads every default")),* }
            }
        }
    };
    (@reloads at_start) => { false };
    (@reloads) => { true };
    (@type Count) => { usize };
    (@type Rate) => { Option<Rate> };
    (@type Bytes) => { usize };
    (@type Time) => { Duration };
    // One without a bound has the largest.
    (@value Rate $value:expr) => { $value.map_or(f64::INFINITY, |rate| f64::from(rate.per_second)) };
    (@value Time $value:expr) => { $value.as_secs_f64() };
    (@value $unit:ident $value:expr) => { $value as f64 };
}

// What is marked is read when the process or a connection begins, or clients were told of it.
limits! {
    connections: Count = "50000", "Open connections of all kinds; one more gets 503 and is closed.";
    handshakes_per_second: Rate = "2000 burst 10000", "New connections of one worker; more get 503.";
    address_connections: Count = "1000", "Open connections of one address; one more gets 429. Loopback and trusted proxies have no such bound.";
    address_handshakes_per_second: Rate = "50 burst 500", "New connections of one address; more get 429. Likewise.";
    token_connections: Count = "1000", "Subscribers' connections of one API key or token subject, which then count for no address; one more gets 429 (4504).";
    commands_per_second: Rate = "100 burst 1000", "Messages of one WebSocket, each one however many fragments it has, and its pings and pongs, and one more for each hundred topics that wildcards match; more close it (4102).";
    publishes_per_second: Rate = "100000 burst 200000", "Messages of one publisher: an API key, a token's subject, else an address; more get 429. Loopback and trusted proxies have no such bound.";
    topic_publishes_per_second: Rate = "off", "Messages to one topic; more get 429.";
    reads_per_second: Rate = "200 burst 2000", "Polls with wildcards and lists of topics of one client, told apart as publishers are, and one more for each hundred topics gone through; more get 429. Loopback and trusted proxies have no such bound.";
    #[at_start] rate_entries: Count = "65536", "Addresses, publishers, topics, and readers whose rate is remembered, of each; those who owe least are forgotten first.";
    subscriptions: Count = "256", "Topics and wildcards of one connection or poll; one more is refused with `limit`.";
    patterns: Count = "10000", "Different wildcards of the process; a subscription that needs one more is refused with `limit`.";
    wildcard_topics: Count = "10000", "Topics that a wildcard, or all of one request together, may match when they are subscribed, and that a poll may name; more are refused with `limit`.";
    topics: Count = "100000", "Topics of the process; a publish or subscription that needs one more is refused with `limit`.";
    topic_idle: Time = "1h", "A topic without subscribers and publishes for this long (up to twice) is forgotten.";
    replay_messages: Count = "1000", "Messages of one topic kept for replay; a topic rule may say otherwise.";
    replay_age: Time = "60s", "How long a message is kept for replay; likewise. A last value does not age.";
    replay_bytes: Bytes = "1MiB", "Memory of one topic's messages kept for replay; likewise.";
    retained_bytes: Bytes = "256MiB", "Memory of all messages kept; past it the least recently used topics give way.";

    message_bytes: Bytes = "64KiB", "One message, published over HTTP or received over a WebSocket (1009).";
    fragments: Count = "128", "Fragments of one WebSocket message (1009).";
    body_bytes: Bytes = "1MiB", "The body of one request (413).";
    body_messages: Count = "10000", "Messages in one request (413), and results reported for a publish stream.";
    inflight_body_bytes: Bytes = "64MiB", "Request bodies being received, over all connections (503).";
    header_bytes: Bytes = "16KiB", "Request line and headers, of which there may be 100 (431).";
    proxy_header_timeout: Time = "2s", "From connecting to a whole PROXY protocol header of a trusted proxy (closed).";
    first_request_timeout: Time = "5s", "From connecting, or from the PROXY header, to the first byte (408). Under TLS it is `tls_handshake_timeout`.";
    header_timeout: Time = "10s", "From the first byte, or from the last answer, to a complete request header (408, closed); where nothing of one has come, the connection ends without an answer.";
    tls_handshake_timeout: Time = "5s", "From connecting to the end of the TLS handshake (closed).";
    body_timeout: Time = "10s", "From the header to the end of the body, of an operator's request too (408).";
    stream_idle: Time = "60s", "Between two pieces of a publish stream (its end).";

    inbox_messages: Count = "16384", "Messages in one worker's inbox; a publish that finds it full gets 503.";
    inbox_bytes: Bytes = "32MiB", "Payload bytes in one worker's inbox; likewise.";
    outbox_bytes: Bytes = "64KiB", "Frame bytes waiting for one subscriber; past it the topic's slow-consumer policy decides.";
    outbox_messages: Count = "1024", "Messages waiting for one subscriber; likewise. Of conflating topics as many again, one per key.";
    outbox_budget: Bytes = "256MiB", "What waits in all outboxes together; past it the largest shrink first.";
    control_bytes: Bytes = "64KiB", "Answers waiting for one subscriber; past it the connection is closed (4101).";
    #[at_start] socket_send_bytes: Bytes = "64KiB", "SO_SNDBUF of a connection; the kernel doubles it.";
    #[at_start] socket_unsent_bytes: Bytes = "16KiB", "TCP_NOTSENT_LOWAT of a connection: what waits in the kernel rather than in the outbox.";
    tls_unsent_bytes: Bytes = "16KiB", "Bytes encrypted for a connection under TLS that the kernel has yet to take: what waits beside the outbox. At least 1KiB.";
    #[at_start] user_timeout: Time = "30s", "TCP_USER_TIMEOUT of a connection: unacknowledged data for this long ends it.";
    #[at_start] listen_backlog: Count = "4096", "Connections waiting to be accepted, per worker.";
    accept_pause: Time = "100ms", "How long accepting stops when the process is out of file descriptors.";

    #[at_start] ping_interval: Time = "25s", "Between two WebSocket pings to one subscriber.";
    #[at_start] pong_timeout: Time = "20s", "From a ping to the close of a silent subscriber (4201); shorter than `ping_interval`.";
    close_timeout: Time = "5s", "From a close frame, or from the answer to a header or a body that is too large, to the end of the connection, whatever the peer does.";

    auth_timeout: Time = "10s", "From a `/ws` without a credential to its `auth`, where nobody may anything without one (4501).";
    token_bytes: Bytes = "4KiB", "A token; a longer one is not valid (401).";
    token_cache: Count = "10000", "Valid tokens that a worker remembers, so that they are checked once.";
    revocations: Count = "10000", "Revocations in force; one more is refused (503).";
    jwks_bytes: Bytes = "256KiB", "The answer of the URL that `jwks` names; a longer one changes nothing.";
    jwks_timeout: Time = "5s", "From the request for it to its end; likewise.";
    jwks_pause: Time = "30s", "Between two requests for it when tokens name unknown keys.";

    poll_wait: Time = "60s", "How long a poll may wait, whatever it asks for.";
    poll_messages: Count = "1000", "Messages in the answer to a poll, whatever it asks for.";
    poll_bytes: Bytes = "4MiB", "Bytes of messages in the answer to a poll, if it has more than one; the next poll goes on there.";
    inflight_poll_bytes: Bytes = "64MiB", "Answers to polls on their way, over all connections (503).";
    list_topics: Count = "1000", "Topics in one page of the list, whatever is asked for.";

    idempotency_keys: Count = "100000", "Remembered idempotency keys; the oldest is forgotten first.";
    idempotency_age: Time = "2m", "How long an idempotency key is remembered.";

    admin_wait: Time = "5s", "How long an operator's request waits for the workers; then it is answered 503.";
    list_connections: Count = "1000", "Connections in one answer to an operator, whatever is asked for.";

    #[at_start] log_lines: Count = "4096", "Lines that wait for the reader of the log; further ones are dropped.";
    log_rate: Count = "50", "Lines a second of each kind that clients can cause; the next one says how many were suppressed.";

    drain_grace: Time = "5s", "From SIGTERM to the end of accepting, so that the load balancer sees `/readyz` first.";
    drain_window: Time = "30s", "Over which the closes of a drain are spread.";
    drain_timeout: Time = "60s", "From SIGTERM to the end of the process, whatever the peers do.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_reads_as_itself() {
        let limits = Limits::default();
        assert_eq!(limits.outbox_bytes, 65_536);
        assert_eq!(limits.idempotency_age, Duration::from_secs(120));
        assert_eq!(limits.connections, 50_000);
    }

    #[test]
    fn a_row_sets_its_field() {
        let mut limits = Limits::default();
        let row = LIMITS.iter().find(|row| row.name == "message_bytes").unwrap();
        row.set(&mut limits, "1MiB").unwrap();
        assert_eq!(limits.message_bytes, 1 << 20);
        assert!(row.set(&mut limits, "many").is_err());
        assert_eq!(row.value(&limits), 1_048_576.0);
        let time = LIMITS.iter().find(|row| row.name == "drain_window").unwrap();
        time.set(&mut limits, "1500ms").unwrap();
        assert_eq!(time.value(&limits), 1.5);
    }

    #[test]
    fn what_is_shown_reads_as_the_same() {
        for row in LIMITS {
            let (defaults, mut limits) = (Limits::default(), Limits::default());
            row.set(&mut limits, "7777s").or_else(|_| row.set(&mut limits, "7777")).unwrap();
            let (shown, default) = (row.shown(&limits), row.shown(&defaults));
            assert!(shown.starts_with("7777") && default == row.default, "{}: {shown}, {default}", row.name);
            row.set(&mut limits, &default).unwrap();
            assert_eq!(row.shown(&limits), default);
            row.set(&mut limits, &shown).unwrap();
            row.keep(&defaults, &mut limits);
            assert_eq!(row.shown(&limits), default);
        }
    }
}
