//! The command line: what it may say, and what it may not (exit 2).

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::compare::Compare;
use crate::payload::PAYLOAD_BYTES_MIN;

/// Puts load on a Fanfare gateway and checks that every message arrived.
#[derive(Debug, Parser)]
#[command(name = "fanfare-load", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One run: connect subscribers, publish on a schedule, check and measure what they receive
    Quick(Box<Quick>),
    /// A server that only writes: what the fan-out costs at least on this machine
    Floor(Floor),
    /// A report as a page: one HTML file that needs nothing else
    Page(Page),
    /// Two reports, or the medians of several: what got better, and what worse
    Compare(Compare),
    /// The JSON schema of reports
    Schema,
}

/// The options of one run.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub(crate) struct Quick {
    /// The server
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub(crate) url: Target,
    /// Subscribers, spread over the topics
    #[arg(long, default_value_t = 1000)]
    pub(crate) subscribers: usize,
    /// Topics, called load.0, load.1 …
    #[arg(long, default_value_t = 1)]
    pub(crate) topics: usize,
    /// Messages per second over all topics; 0 only holds the connections
    #[arg(long, default_value_t = 50.0)]
    pub(crate) rate: f64,
    /// Messages per POST, all of one topic and due at the same time
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: usize,
    /// Bytes per message, exactly
    #[arg(long, default_value_t = 128)]
    pub(crate) payload: usize,
    /// Of the subscribers, those that never read once they are subscribed
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) stalled: usize,
    /// Of the subscribers, those that read at --trickle-rate
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) trickle: usize,
    /// Bytes per second that each of them reads
    #[arg(long, default_value_t = 1000.0, value_name = "BYTES")]
    pub(crate) trickle_rate: f64,
    /// SO_RCVBUF of stalled and trickling subscribers; the kernel keeps twice as much
    #[arg(long, value_name = "BYTES")]
    pub(crate) receive_buffer: Option<usize>,
    /// The topics conflate: what a newer message replaced is not lost, but who reads must end on the newest
    #[arg(long)]
    pub(crate) conflating: bool,
    /// The measured time, such as 10s or 500ms
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    #[serde(serialize_with = "as_seconds")]
    pub(crate) duration: Duration,
    /// Publishing before the measured time
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    #[serde(serialize_with = "as_seconds")]
    pub(crate) warmup: Duration,
    /// How long to wait at most for the last messages
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    #[serde(serialize_with = "as_seconds")]
    pub(crate) drain: Duration,
    /// How long everything is held once the last message came, to look at it at rest
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    #[serde(serialize_with = "as_seconds")]
    pub(crate) hold: Duration,
    /// What subscribers speak
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    pub(crate) format: Format,
    /// New connections per second
    #[arg(long, default_value_t = 2000.0)]
    pub(crate) connect_rate: f64,
    /// Threads for the subscribers
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Threads that publish; each topic belongs to one of them
    #[arg(long, default_value_t = 1)]
    pub(crate) publishers: usize,
    /// A market: topics are ticker.SYMBOL, and some have far more messages and subscribers than others
    #[arg(long)]
    pub(crate) ticker: bool,
    /// The server's process, to measure its CPU and memory
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// The report as JSON: to FILE, or without FILE to standard output in place of the text
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
    /// The report as a page, one HTML file
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) report: Option<PathBuf>,
    /// Makes prices and the order of symbols repeatable
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// The options of the floor.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Floor {
    /// Where to listen; port 0 takes any, and the line "listening on ADDR" tells which
    #[arg(long, default_value = "127.0.0.1:9001")]
    pub(crate) listen: SocketAddr,
    /// Join the messages of a POST into one write per subscriber
    #[arg(long)]
    pub(crate) join: bool,
}

/// The options of a page.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Page {
    /// A report, from --json
    pub(crate) report: PathBuf,
    /// The page; without it, standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// GET /topics/TOPIC: a frame is the payload
    Raw,
    /// GET /ws: a frame is {"topic":…,"offset":…,"data":…}
    Json,
    /// GET /topics/TOPIC, text/event-stream: an event is the payload, its id EPOCH:OFFSET
    Sse,
    /// GET /topics/TOPIC, application/x-ndjson: a line is {"topic":…,"offset":…,"data":…}
    Ndjson,
    /// GET /events?topic=TOPIC, text/event-stream: an event is {"topic":…,"offset":…,"data":…}
    Events,
}

/// A server, from `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// `HOST:PORT`, as in the `Host` header.
    pub(crate) authority: String,
}

impl Quick {
    /// What is wrong with the options together, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        let rule = |holds: bool, text: &str| if holds { Ok(()) } else { Err(text.to_owned()) };
        rule(self.payload >= PAYLOAD_BYTES_MIN, &format!("--payload must be at least {PAYLOAD_BYTES_MIN}"))?;
        rule(self.topics >= 1, "--topics must be at least 1")?;
        rule(self.batch >= 1, "--batch must be at least 1")?;
        rule(self.threads >= 1, "--threads must be at least 1")?;
        rule(self.publishers >= 1, "--publishers must be at least 1")?;
        rule(
            self.publishers <= self.topics,
            "--publishers must not exceed --topics: a topic has one publisher",
        )?;
        rule(self.rate >= 0.0 && self.rate.is_finite(), "--rate must be a number from 0")?;
        rule(
            self.stalled + self.trickle <= self.subscribers,
            "--stalled and --trickle are of the --subscribers",
        )?;
        rule(self.trickle_rate > 0.0 && self.trickle_rate.is_finite(), "--trickle-rate must be above 0")?;
        rule(self.receive_buffer != Some(0), "--receive-buffer must be above 0")?;
        rule(self.connect_rate > 0.0 && self.connect_rate.is_finite(), "--connect-rate must be above 0")?;
        rule(!self.duration.is_zero(), "--duration must be above 0")
    }
}

impl Target {
    /// The first address of the host.
    pub(crate) fn resolve(&self) -> anyhow::Result<SocketAddr> {
        let mut found = self.authority.to_socket_addrs().with_context(|| format!("cannot resolve {self}"))?;
        found.next().with_context(|| format!("{self} has no address"))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let shape = || "expected http://HOST:PORT".to_owned();
        let rest = url.strip_prefix("http://").ok_or_else(shape)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = authority.rsplit_once(':').ok_or_else(shape)?;
        if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
            return Err(shape());
        }
        Ok(Self { authority: authority.to_owned() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Json => "json",
            Self::Sse => "sse",
            Self::Ndjson => "ndjson",
            Self::Events => "events",
        })
    }
}

impl Format {
    /// It comes in frames; the others come in the chunks of a response without end.
    pub(crate) fn is_websocket(self) -> bool {
        matches!(self, Self::Raw | Self::Json)
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let shape = || "expected a number and a unit: 500ms, 10s or 2m".to_owned();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(shape)?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(shape()),
    };
    let number: f64 = number.parse().map_err(|_| shape())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| shape())
}

fn as_seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        let check = |text, expect: Option<u64>| {
            assert_eq!(parse_duration(text).ok(), expect.map(Duration::from_millis), "{text}");
        };
        check("10s", Some(10_000));
        check("500ms", Some(500));
        check("1.5s", Some(1_500));
        check("2m", Some(120_000));
        check("0s", Some(0));
        ["10", "s", "", "-1s", "10h", "1 s", "1e400s"].into_iter().for_each(|text| check(text, None));
    }

    #[test]
    fn a_target_is_a_plain_http_address() {
        let check = |url: &str, expect: Option<&str>| {
            assert_eq!(url.parse::<Target>().ok().map(|target| target.authority).as_deref(), expect, "{url}");
        };
        check("http://127.0.0.1:8080", Some("127.0.0.1:8080"));
        check("http://[::1]:80/", Some("[::1]:80"));
        for url in ["127.0.0.1:8080", "https://a:1", "http://a", "http://a:b", "http://:1", "http://a:1/x:2"]
        {
            check(url, None);
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let check = |flags: &str, expect: &str| {
            let args =
                Args::try_parse_from(["fanfare-load", "quick"].into_iter().chain(flags.split(' '))).unwrap();
            let Command::Quick(quick) = args.command else { panic!("quick was asked for") };
            let found = quick.check().err().unwrap_or_default();
            assert!(found.contains(expect) && found.is_empty() == expect.is_empty(), "{flags}: {found}");
        };
        check("--rate 0", "");
        check("--payload 10", "--payload");
        check("--publishers 2", "one publisher");
        check("--publishers 2 --topics 2", "");
        check("--rate=-1", "--rate");
        check("--duration 0s", "--duration");
        check("--topics 0", "--topics");
        check("--subscribers 5 --stalled 2 --trickle 3", "");
        check("--subscribers 5 --stalled 3 --trickle 3", "--stalled and --trickle");
        check("--trickle-rate 0", "--trickle-rate");
        check("--receive-buffer 0", "--receive-buffer");
    }
}
