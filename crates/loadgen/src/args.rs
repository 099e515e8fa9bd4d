//! The command line: what it may say, and what it may not (exit 2).

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};

use crate::compare::Compare;
use crate::pace::Pace;
use crate::scenario::{Format, Publishers, Recording, Scenario, Span, Stages, Subscribers, Topics};

const EXIT_CODES: &str = "\
Exit codes:
  0  everything passed
  1  a message was lost, repeated or out of order, a subscriber was disconnected, the run ended
     before its time, the server could not be reached, a comparison is past its bound, or no
     step of a knee held
  2  the command line, a scenario or an adapter is wrong";

/// Puts load on a Fanfare gateway, or another server, and checks that every message arrived.
#[derive(Debug, Parser)]
#[command(name = "fanfare-load", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One run made of flags: connect subscribers, publish on a schedule, check and measure what they receive
    Quick(Box<Quick>),
    /// Runs scenarios: files, or bundled ones by their names
    Run(RunScenarios),
    /// Raises the rate until p99 or loss passes a bound: the most deliveries per second that the server holds
    Knee(Box<Knee>),
    /// Publishes a recording again, at the times it was made or faster
    Replay(Box<Replay>),
    /// The bundled scenarios
    List,
    /// A server that only writes: what the fan-out costs at least on this machine
    Floor(Floor),
    /// Connections that send one request each: what newcomers cost, and those who knock
    Flood(Flood),
    /// A report as a page: one HTML file that needs nothing else
    Page(Page),
    /// Two reports, or the medians of several: what got better, and what worse
    Compare(Compare),
    /// The JSON schema of reports
    Schema,
}

/// Where the load goes to, and where the report.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// The server
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub(crate) url: Target,
    /// How the server is subscribed and published to; without it, as Fanfare is
    #[arg(long, value_name = "FILE")]
    pub(crate) adapter: Option<String>,
    /// A token or an API key that every request shows
    #[arg(long, env = "FANFARE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Where messages are published, if not to the server's own address
    #[arg(long, value_name = "ADDR")]
    pub(crate) publish: Option<SocketAddr>,
    /// The server's process, to measure its CPU and memory; once for each, where it is several
    #[arg(long = "pid", value_name = "PID")]
    pub(crate) pids: Vec<u32>,
    /// How subscribers' sockets are read
    #[arg(long, value_enum, default_value_t = ReaderKind::Auto)]
    pub(crate) reader: ReaderKind,
    /// Which segments those acknowledge who read at full pace
    #[arg(long, value_enum, default_value_t = Acks::Each)]
    pub(crate) acks: Acks,
    /// The report as JSON: to FILE, or without FILE to standard output in place of the text
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(crate) json: Option<PathBuf>,
    /// The report as a page, one HTML file
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

/// The options of `run`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RunScenarios {
    /// Bundled ones by their names (fanfare-load list), or files
    #[arg(required = true, value_name = "SCENARIO")]
    pub(crate) scenarios: Vec<String>,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Subscribers, connections and rates times so much
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    pub(crate) scale: f64,
    /// Warm-up, window and the moments in them times so much
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    pub(crate) time_scale: f64,
    /// Threads for the subscribers, in place of the scenario's
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

/// The options of `replay`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Replay {
    /// NDJSON, or CSV with a line of names
    pub(crate) file: String,
    /// So many times as fast as it was recorded, such as 10x; max: as fast as can be
    #[arg(long, default_value = "1x", value_parser = parse_speed)]
    pub(crate) speed: f64,
    /// The field or column that has the time: a number since 1970, or RFC 3339
    #[arg(long, default_value = "time", value_name = "FIELD")]
    pub(crate) time: String,
    /// The field or column that has the topic, or the symbol
    #[arg(long, default_value = "topic", value_name = "FIELD")]
    pub(crate) topic: String,
    /// What stands before each topic
    #[arg(long, default_value = "replay")]
    pub(crate) prefix: String,
    /// Subscribers, spread over the topics
    #[arg(long, default_value_t = 1000)]
    pub(crate) subscribers: usize,
    /// What subscribers speak
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    pub(crate) format: Format,
    /// New connections per second
    #[arg(long, default_value_t = 2000.0)]
    pub(crate) connect_rate: f64,
    /// Threads for the subscribers
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// It ends after so long at the latest
    #[arg(long, default_value = "10m")]
    pub(crate) duration: Span,
    /// How long to wait at most for the last messages
    #[arg(long, default_value = "3s")]
    pub(crate) drain: Span,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// The options of `quick`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Quick {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// What a scenario is made of where there is no file of it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Flags {
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
    #[arg(long, default_value = "10s")]
    pub(crate) duration: Span,
    /// Publishing before the measured time
    #[arg(long, default_value = "2s")]
    pub(crate) warmup: Span,
    /// How long to wait at most for the last messages
    #[arg(long, default_value = "3s")]
    pub(crate) drain: Span,
    /// How long everything is held once the last message came, to look at it at rest
    #[arg(long, default_value = "0s")]
    pub(crate) hold: Span,
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
    /// Makes prices and the order of symbols repeatable
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// The options of `knee`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Knee {
    /// A bundled scenario by its name, or a file, in place of the flags of `quick`; its rates do not ramp
    #[arg(conflicts_with = "Flags")]
    pub(crate) scenario: Option<String>,
    /// A step breaks with a p99 above this
    #[arg(long, default_value = "50ms", value_name = "SPAN")]
    pub(crate) p99: Span,
    /// A step breaks with more messages lost than this
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) lost: u64,
    /// Messages per second of the first step; without it, the scenario's
    #[arg(long, value_name = "RATE")]
    pub(crate) from: Option<f64>,
    /// Each step's rate is so many times the one before
    #[arg(long, default_value_t = 1.5)]
    pub(crate) factor: f64,
    /// Steps at most
    #[arg(long, default_value_t = 12, value_name = "N")]
    pub(crate) steps_max: usize,
    /// Of the steps, those between the highest rate that held and the lowest that broke
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub(crate) refine: usize,
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// The options of the floor.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Floor {
    /// Where to listen; port 0 takes any, and the line "listening on ADDR" tells which
    #[arg(long, default_value = "127.0.0.1:9001")]
    pub(crate) listen: SocketAddr,
    /// How a frame is written to its subscribers' sockets
    #[arg(long, value_enum, default_value_t = WriterKind::Send)]
    pub(crate) writer: WriterKind,
    /// Join the messages of a POST into one write per subscriber
    #[arg(long)]
    pub(crate) join: bool,
}

/// The options of a flood.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Flood {
    /// The server, on this machine
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub(crate) url: Target,
    /// The requests that are sent by turns, one behind another, each with the empty line that ends it
    pub(crate) requests: PathBuf,
    /// New connections per second; without it, as fast as they are answered
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Connections at a time where there is no rate
    #[arg(long, default_value_t = 64)]
    pub(crate) at_a_time: usize,
    /// It ends after so long
    #[arg(long, default_value = "10s")]
    pub(crate) duration: Span,
    /// What was answered, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WriterKind {
    /// A plain loop: a system call for each socket
    Send,
    /// Batches of sends with one system call, to registered sockets
    IoUring,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReaderKind {
    /// io_uring where the kernel allows it, else epoll
    Auto,
    Epoll,
    IoUring,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Acks {
    /// Each message's, as it is read: what Linux does by itself for a client that only reads
    Each,
    /// Every second one, as for a client that also talks: it costs the generator, and so the machine, less
    Second,
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

/// A server, from `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// `HOST:PORT`, as in the `Host` header.
    pub(crate) authority: String,
}

impl Flags {
    /// The scenario that the flags say, or what is wrong with them.
    pub(crate) fn scenario(&self) -> Result<Scenario, String> {
        let rule = |holds: bool, text: &str| if holds { Ok(()) } else { Err(text.to_owned()) };
        rule(
            self.stalled + self.trickle <= self.subscribers,
            "--stalled and --trickle are of the --subscribers",
        )?;
        rule(self.trickle_rate > 0.0 && self.trickle_rate.is_finite(), "--trickle-rate must be above 0")?;
        rule(self.receive_buffer != Some(0), "--receive-buffer must be above 0")?;
        let group = |name: &str, count, pace| Subscribers {
            name: name.to_owned(),
            count,
            format: self.format,
            pace,
            bytes_per_second: self.trickle_rate,
            receive_buffer: self.receive_buffer.filter(|_| pace != Pace::Full),
            // All groups connect at once, at this rate together.
            connect_rate: self.connect_rate * count as f64 / self.subscribers.max(1) as f64,
            // A reader that trickles is to get everything that is not conflated or announced, and to stay.
            strict: (pace == Pace::Trickle).then_some(self.conflating),
            ..Subscribers::default()
        };
        let groups = [
            group("full", self.subscribers - self.stalled - self.trickle, Pace::Full),
            group("trickle", self.trickle, Pace::Trickle),
            group("stalled", self.stalled, Pace::Never),
        ];
        let scenario = Scenario {
            name: "quick".to_owned(),
            title: "One run made of flags".to_owned(),
            about: String::new(),
            seed: self.seed,
            threads: self.threads,
            stages: Stages { warmup: self.warmup, window: self.duration, drain: self.drain, hold: self.hold },
            topics: Topics {
                count: self.topics,
                prefix: if self.ticker { "ticker" } else { "load" }.to_owned(),
                market: self.ticker,
                hot: None,
                conflating: self.conflating,
            },
            subscribers: groups.into_iter().filter(|group| group.count > 0).collect(),
            publishers: vec![Publishers {
                name: "feed".to_owned(),
                rate: self.rate,
                batch: self.batch,
                payload: self.payload,
                threads: self.publishers,
                ..Publishers::default()
            }],
            events: Vec::new(),
        };
        let wrong = |problem: String| {
            // A key of a scenario is nearly the flag.
            let problem = problem.split_once("\": ").map_or(problem.as_str(), |(_, rest)| rest);
            let flag = problem.replace("topics.count", "topics").replace("stages.window", "duration");
            let flag = flag.replace("threads must not exceed", "publishers must not exceed");
            format!("--{}", flag.replace('_', "-").replace("exceed topics", "exceed --topics"))
        };
        scenario.check().map_err(wrong)?;
        Ok(scenario)
    }
}

impl Replay {
    /// The scenario that the flags say.
    pub(crate) fn scenario(&self) -> Scenario {
        let recording = Recording {
            file: self.file.clone(),
            speed: self.speed,
            time: self.time.clone(),
            topic: self.topic.clone(),
        };
        Scenario {
            name: "replay".to_owned(),
            title: format!("{} again", self.file),
            about: String::new(),
            seed: 1,
            threads: self.threads,
            stages: Stages {
                warmup: Span::default(),
                window: self.duration,
                drain: self.drain,
                hold: Span::default(),
            },
            topics: Topics { prefix: self.prefix.clone(), ..Topics::default() },
            subscribers: vec![Subscribers {
                name: "subscribers".to_owned(),
                count: self.subscribers,
                format: self.format,
                connect_rate: self.connect_rate,
                ..Subscribers::default()
            }],
            publishers: vec![Publishers {
                name: "recording".to_owned(),
                recording: Some(recording),
                ..Publishers::default()
            }],
            events: Vec::new(),
        }
    }
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let shape = || "expected a number such as 10x, or max".to_owned();
    if text == "max" {
        return Ok(0.0);
    }
    let speed: f64 = text.strip_suffix('x').unwrap_or(text).parse().map_err(|_| shape())?;
    if speed > 0.0 && speed.is_finite() { Ok(speed) } else { Err(shape()) }
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_knee_is_of_a_scenario_or_of_flags() {
        let check = |flags: &str, expect: bool| {
            let args =
                Args::try_parse_from(["fanfare-load", "knee"].into_iter().chain(flags.split_whitespace()));
            assert_eq!(args.is_ok(), expect, "{flags}");
        };
        check("", true);
        check("ramp --from 10 --p99 1ms --url http://a:1", true);
        check("--subscribers 3 --from 10", true);
        check("ramp --subscribers 3", false);
        check("ramp --duration 1s", false);
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let check = |flags: &str, expect: &str| {
            let args =
                Args::try_parse_from(["fanfare-load", "quick"].into_iter().chain(flags.split(' '))).unwrap();
            let Command::Quick(quick) = args.command else { panic!("quick was asked for") };
            let found = quick.flags.scenario().err().unwrap_or_default();
            assert!(found.contains(expect) && found.is_empty() == expect.is_empty(), "{flags}: {found}");
        };
        check("--rate 0", "");
        check("--payload 10", "--payload");
        check("--publishers 2", "--publishers must not exceed --topics");
        check("--publishers 2 --topics 2", "");
        check("--rate=-1", "--rate");
        check("--duration 0s", "--duration");
        check("--topics 0", "--topics");
        check("--subscribers 5 --stalled 2 --trickle 3", "");
        check("--subscribers 5 --stalled 3 --trickle 3", "--stalled and --trickle");
        check("--trickle-rate 0", "--trickle-rate");
        check("--receive-buffer 0", "--receive-buffer");
        check("--connect-rate 0", "--connect-rate");
    }
}
