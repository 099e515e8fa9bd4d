//! What a run does, as data: its stages, topics, subscribers, publishers, and what happens on the way.
//!
//! A scenario is a TOML file (loadtest/README.md lists every key), or made of the flags of `quick`. Both go the same road,
//! and a report holds the scenario as it was run.
//!
//! # Invariants   one that passed [`Scenario::check`] can be run

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::pace::Pace;

mod bundled;
mod check;
mod file;
mod scale;

pub(crate) use bundled::list;
pub(crate) use file::{Refused, load, toml_value};

/// All of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The file's name without its ending, if it says no other.
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) about: String,
    /// Makes prices and the order of symbols repeatable.
    #[serde(default = "one")]
    pub(crate) seed: u64,
    /// Threads for the subscribers.
    #[serde(default = "one_thread")]
    pub(crate) threads: usize,
    #[serde(default)]
    pub(crate) stages: Stages,
    #[serde(default)]
    pub(crate) topics: Topics,
    #[serde(default)]
    pub(crate) subscribers: Vec<Subscribers>,
    #[serde(default)]
    pub(crate) publishers: Vec<Publishers>,
    #[serde(default)]
    pub(crate) events: Vec<Event>,
}

/// How long each part of a run takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Stages {
    /// Publishing before the measured time.
    pub(crate) warmup: Span,
    /// The measured time.
    pub(crate) window: Span,
    /// How long to wait at most for the last messages.
    pub(crate) drain: Span,
    /// How long everything is held once the last message came.
    pub(crate) hold: Span,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Topics {
    pub(crate) count: usize,
    /// Topics are called PREFIX.0, PREFIX.1 …; in a market PREFIX.SYMBOL.
    pub(crate) prefix: String,
    /// Some topics have far more messages and subscribers than others (Zipf's law), and messages are quotes.
    pub(crate) market: bool,
    /// The first topic's share of messages and subscribers; the others keep their proportions.
    pub(crate) hot: Option<f64>,
    /// What a newer message replaced is not lost, but who reads must end on the newest.
    pub(crate) conflating: bool,
}

/// Subscribers that are all alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subscribers {
    pub(crate) name: String,
    pub(crate) count: usize,
    #[serde(default)]
    pub(crate) format: Format,
    #[serde(default)]
    pub(crate) pace: Pace,
    /// What each one reads at the pace `trickle`.
    #[serde(default = "trickle_rate")]
    pub(crate) bytes_per_second: f64,
    /// How long each one reads, and then does not, at the pace `stop-and-go`.
    #[serde(default = "second")]
    pub(crate) go: Span,
    #[serde(default = "second")]
    pub(crate) stop: Span,
    /// `SO_RCVBUF`; the kernel keeps twice as much.
    #[serde(default)]
    pub(crate) receive_buffer: Option<usize>,
    #[serde(default = "one_topic")]
    pub(crate) topics_each: usize,
    /// New connections per second.
    #[serde(default = "connect_rate")]
    pub(crate) connect_rate: f64,
    /// When they begin to connect, from the beginning of the window; otherwise before anything is published.
    #[serde(default)]
    pub(crate) join_at: Option<Span>,
    /// So many per second leave, and others come in their place.
    #[serde(default)]
    pub(crate) churn: f64,
    /// Announced gaps and disconnects by the server are faults, too. Otherwise they are counted only.
    #[serde(default)]
    pub(crate) strict: Option<bool>,
}

/// Publishers that are all alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Publishers {
    pub(crate) name: String,
    /// Messages per second over all topics; a recording has its own.
    #[serde(default)]
    pub(crate) rate: f64,
    /// The rate grows, or falls, evenly up to this at the end of the window.
    #[serde(default)]
    pub(crate) ramp_to: Option<f64>,
    /// What would be due within so long is due at its beginning, all at once.
    #[serde(default)]
    pub(crate) burst_every: Option<Span>,
    /// Messages per request, all of one topic and due at the same time.
    #[serde(default = "one_topic")]
    pub(crate) batch: usize,
    /// Bytes per message, exactly.
    #[serde(default = "payload")]
    pub(crate) payload: usize,
    /// Threads; each topic belongs to one of them.
    #[serde(default = "one_thread")]
    pub(crate) threads: usize,
    /// Connections of each thread; by default one for each topic, and at most 8.
    #[serde(default)]
    pub(crate) connections: Option<usize>,
    /// The messages of a topic come from all connections in turn, as in a chat, and so in no order between them.
    #[serde(default)]
    pub(crate) spread: bool,
    #[serde(default)]
    pub(crate) via: Via,
    /// A recording to publish in place of made-up messages: see `replay`.
    #[serde(default)]
    pub(crate) recording: Option<Recording>,
}

/// A file of recorded messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recording {
    pub(crate) file: String,
    /// So many times as fast as it was recorded; 0: as fast as can be.
    #[serde(default = "as_recorded")]
    pub(crate) speed: f64,
    /// The field or column that has the time.
    #[serde(default = "time_field")]
    pub(crate) time: String,
    /// The field or column that has the topic.
    #[serde(default = "topic_field")]
    pub(crate) topic: String,
}

/// What happens at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    /// From the beginning of the window.
    pub(crate) at: Span,
    /// The subscribers it happens to.
    pub(crate) group: String,
    /// The share of them that is cut off at once.
    pub(crate) disconnect: f64,
    /// So many per second come back.
    #[serde(default = "connect_rate")]
    pub(crate) reconnect_rate: f64,
    /// They go on from the last message they have; otherwise they begin anew.
    #[serde(default)]
    pub(crate) resume: bool,
}

/// What subscribers speak.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// GET /topics/TOPIC: a frame is the payload
    #[default]
    Raw,
    /// GET /ws: a frame is {"topic":…,"offset":…,"data":…}
    Json,
    /// GET /topics/TOPIC, text/event-stream: an event is the payload, its id EPOCH:OFFSET
    Sse,
    /// GET /topics/TOPIC, application/x-ndjson: a line is {"topic":…,"offset":…,"data":…}
    Ndjson,
    /// GET /events?topic=TOPIC, text/event-stream: an event is {"topic":…,"offset":…,"data":…}
    Events,
    /// GET /poll?topic=TOPIC&cursor=…&wait=25: an answer has {"topic":…,"offset":…,"data":…} of several messages
    Poll,
}

/// What publishers speak.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Via {
    #[default]
    Http,
    Websocket,
}

/// A duration, written as a number and a unit: `500ms`, `10s`, `2m`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) Duration);

impl Scenario {
    pub(crate) fn subscribers(&self) -> usize {
        self.subscribers.iter().map(|group| group.count).sum()
    }

    /// Messages that are due from `from` to `until` after publishing began.
    pub(crate) fn due_between(&self, from: Duration, until: Duration) -> f64 {
        let all = (self.stages.warmup.0 + self.stages.window.0).as_secs_f64();
        let (from, until) = (from.as_secs_f64(), until.as_secs_f64());
        let due = |group: &Publishers| {
            let slope = group.ramp_to.map_or(0.0, |to| (to - group.rate) / all);
            group.rate * (until - from) + slope * (until * until - from * from) / 2.0
        };
        self.publishers.iter().map(due).sum()
    }
}

impl Subscribers {
    /// Whether gaps and disconnects are faults.
    pub(crate) fn is_strict(&self) -> bool {
        self.strict.unwrap_or(self.pace == Pace::Full)
    }
}

impl Format {
    /// It comes in frames; the others come in HTTP answers.
    pub(crate) fn is_websocket(self) -> bool {
        matches!(self, Self::Raw | Self::Json)
    }

    /// One connection can have several topics.
    pub(crate) fn takes_several_topics(self) -> bool {
        matches!(self, Self::Json | Self::Events | Self::Poll)
    }

    /// It is told when the subscription begins, and not only that it was asked for.
    pub(crate) fn acknowledges(self) -> bool {
        self.takes_several_topics()
    }
}

impl Default for Subscribers {
    fn default() -> Self {
        Self {
            name: String::new(),
            count: 0,
            format: Format::default(),
            pace: Pace::default(),
            bytes_per_second: trickle_rate(),
            go: second(),
            stop: second(),
            receive_buffer: None,
            topics_each: 1,
            connect_rate: connect_rate(),
            join_at: None,
            churn: 0.0,
            strict: None,
        }
    }
}

impl Default for Publishers {
    fn default() -> Self {
        Self {
            name: String::new(),
            rate: 0.0,
            ramp_to: None,
            burst_every: None,
            batch: 1,
            payload: payload(),
            threads: 1,
            connections: None,
            spread: false,
            via: Via::default(),
            recording: None,
        }
    }
}

impl Default for Stages {
    fn default() -> Self {
        let seconds = |seconds| Span(Duration::from_secs(seconds));
        Self { warmup: seconds(2), window: seconds(10), drain: seconds(3), hold: seconds(0) }
    }
}

impl Default for Topics {
    fn default() -> Self {
        Self { count: 1, prefix: "load".to_owned(), market: false, hot: None, conflating: false }
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
            Self::Poll => "poll",
        })
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
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
        let span = Duration::try_from_secs_f64(number * seconds).map_err(|_| shape())?;
        // Further would not fit into nanoseconds of the run's clock.
        if span > Duration::from_secs(86_400 * 30) {
            Err("at most 30 days".to_owned())
        } else {
            Ok(Self(span))
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() == 0 && self.0.subsec_nanos() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}ms", self.0.as_secs_f64() * 1e3)
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn one() -> u64 {
    1
}

fn as_recorded() -> f64 {
    1.0
}

fn time_field() -> String {
    "time".to_owned()
}

fn topic_field() -> String {
    "topic".to_owned()
}

fn one_thread() -> usize {
    1
}

fn one_topic() -> usize {
    1
}

fn trickle_rate() -> f64 {
    1000.0
}

fn second() -> Span {
    Span(Duration::from_secs(1))
}

fn connect_rate() -> f64 {
    2000.0
}

fn payload() -> usize {
    128
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        let check = |text: &str, expect: Option<u64>| {
            let found = text.parse::<Span>().ok().map(|span| span.0);
            assert_eq!(found, expect.map(Duration::from_millis), "{text}");
        };
        check("10s", Some(10_000));
        check("500ms", Some(500));
        check("1.5s", Some(1_500));
        check("2m", Some(120_000));
        check("0s", Some(0));
        ["10", "s", "", "-1s", "10h", "1 s", "1e400s", "1e9s"].into_iter().for_each(|text| check(text, None));
    }

    #[test]
    fn a_duration_is_written_as_it_is_read() {
        for text in ["0s", "10s", "500ms", "1500ms", "90s", "0.5ms"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_due_follows_the_ramp() {
        let mut scenario: Scenario = toml::from_str(
            "stages = { warmup = \"0s\", window = \"10s\" }\n[[publishers]]\nname = \"p\"\nrate = 100",
        )
        .unwrap();
        let due = |scenario: &Scenario, from, until| {
            scenario.due_between(Duration::from_secs(from), Duration::from_secs(until))
        };
        assert_eq!(due(&scenario, 0, 10), 1_000.0);
        scenario.publishers[0].ramp_to = Some(300.0);
        assert_eq!(due(&scenario, 0, 10), 2_000.0);
        assert_eq!(due(&scenario, 0, 5), 750.0);
    }
}
