//! The configuration: one TOML file, flags and environment variables of the same names.
//!
//! A flag wins over the environment, the environment over the file, the file over the default. Whatever is wrong is
//! reported as one line per error that names the key, before anything listens.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use fanfare_fanout::SlowPolicy;
use fanfare_registry::{ReplayLimits, Retention, ShardSet};
use fanfare_wire::{Pattern, Topic};
use toml::{Table, Value};

use crate::limits::{LIMITS, Limits};
use crate::units;
use crate::writer;

/// What the gateway was told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The public address.
    pub listen: SocketAddr,
    /// The address for operators: metrics, health.
    pub admin: SocketAddr,
    /// How many workers; each is a thread with its own listener, runtime and shard.
    pub workers: usize,
    /// How passes are written to sockets.
    pub writer: WriterChoice,
    /// Every bound.
    pub limits: Limits,
    /// Rules for topics; the first match wins.
    pub topics: Vec<TopicRule>,
}

/// How passes are written to sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriterChoice {
    /// Through io_uring where that is to be had.
    #[default]
    Auto,
    /// Through io_uring.
    Ring,
    /// By a system call for each socket.
    Inline,
}

/// What holds for the topics that match a pattern. What it leaves out has the default.
#[derive(Debug, Clone)]
pub struct TopicRule {
    /// Which topics.
    pub pattern: Pattern,
    slow: Option<SlowPolicy>,
    last_value: Option<bool>,
    replay: ReplayRule,
    stale_after: Option<Duration>,
    deflate: bool,
}

/// `replay = false`, or bounds of its own.
#[derive(Debug, Clone, Copy, Default)]
struct ReplayRule {
    off: bool,
    messages: Option<usize>,
    age: Option<Duration>,
    bytes: Option<usize>,
}

/// What holds for a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicSettings {
    /// What happens to a slow subscriber.
    pub slow: SlowPolicy,
    /// What is kept for those who come later.
    pub retention: Retention,
    /// A topic silent for longer is stale.
    pub stale_after: Option<Duration>,
    /// Its messages are compressed for WebSockets that negotiated that.
    pub deflate: bool,
}

/// What is wrong with a configuration: one line per error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin: SocketAddr::from(([127, 0, 0, 1], 9090)),
            workers: std::thread::available_parallelism().map_or(1, usize::from).min(ShardSet::SHARDS_MAX),
            writer: WriterChoice::default(),
            limits: Limits::default(),
            topics: Vec::new(),
        }
    }
}

impl Config {
    /// Reads the file, if there is one, and applies `overrides`: names of keys, with a limit under its bare name, and
    /// their values as text.
    pub fn load(file: Option<&Path>, overrides: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let mut errors = Vec::new();
        if let Some(path) = file {
            match std::fs::read_to_string(path) {
                Ok(text) => config.read_toml(&text, &mut errors),
                Err(error) => errors.push(format!("{}: {error}", path.display())),
            }
        }
        for (name, value) in overrides {
            if let Err(error) = config.set(name, value) {
                errors.push(format!("{name}: {error}"));
            }
        }
        config.check(&mut errors);
        if errors.is_empty() { Ok(config) } else { Err(ConfigError(errors)) }
    }

    /// What holds for `topic`.
    pub fn settings(&self, topic: &Topic) -> TopicSettings {
        let rule = self.topics.iter().find(|rule| rule.pattern.matches(topic));
        let replay = rule.map(|rule| rule.replay).unwrap_or_default();
        let limits = ReplayLimits {
            messages_max: replay.messages.unwrap_or(self.limits.replay_messages),
            age_max: replay.age.unwrap_or(self.limits.replay_age),
            bytes_max: replay.bytes.unwrap_or(self.limits.replay_bytes),
        };
        TopicSettings {
            slow: rule.and_then(|rule| rule.slow).unwrap_or_default(),
            retention: Retention {
                last_value: rule.and_then(|rule| rule.last_value).unwrap_or(true),
                replay: (!replay.off).then_some(limits),
            },
            stale_after: rule.and_then(|rule| rule.stale_after),
            deflate: rule.is_some_and(|rule| rule.deflate),
        }
    }

    /// Whether any topic may be compressed: else nobody is offered it.
    pub fn deflates(&self) -> bool {
        self.topics.iter().any(|rule| rule.deflate)
    }

    fn read_toml(&mut self, text: &str, errors: &mut Vec<String>) {
        let table = match text.parse::<Table>() {
            Ok(table) => table,
            Err(error) => {
                return errors.push(error.to_string().trim_end().replace('\n', " "));
            }
        };
        for (key, value) in &table {
            match (key.as_str(), value) {
                ("limits", Value::Table(limits)) => {
                    for (name, value) in limits {
                        let set = match LIMITS.iter().find(|row| row.name == name) {
                            Some(row) => scalar(value).and_then(|text| row.set(&mut self.limits, &text)),
                            None => Err("unknown key".into()),
                        };
                        if let Err(error) = set {
                            errors.push(format!("limits.{name}: {error}"));
                        }
                    }
                }
                ("topics", Value::Array(rules)) => {
                    for (index, rule) in rules.iter().enumerate() {
                        match rule.as_table().map(topic_rule) {
                            Some(Ok(rule)) => self.topics.push(rule),
                            Some(Err(error)) => errors.push(format!("topics[{index}].{error}")),
                            None => errors.push(format!("topics[{index}]: not a table")),
                        }
                    }
                }
                ("limits", _) => errors.push("limits: not a table".into()),
                ("topics", _) => errors.push("topics: not an array of tables".into()),
                ("listen" | "admin" | "workers" | "writer", value) => {
                    if let Err(error) = scalar(value).and_then(|text| self.set(key, &text)) {
                        errors.push(format!("{key}: {error}"));
                    }
                }
                _ => errors.push(format!("{key}: unknown key")),
            }
        }
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let address = |text: &str| {
            text.parse()
                .map_err(|_| format!("{text:?} is not an address with a port, such as 127.0.0.1:8080"))
        };
        match name {
            "listen" => self.listen = address(text)?,
            "admin" => self.admin = address(text)?,
            "workers" => {
                self.workers = units::Count(text)?;
                if self.workers > ShardSet::SHARDS_MAX {
                    return Err(format!("at most {} workers", ShardSet::SHARDS_MAX));
                }
            }
            "writer" => {
                self.writer = match text {
                    "auto" => WriterChoice::Auto,
                    "ring" => WriterChoice::Ring,
                    "inline" => WriterChoice::Inline,
                    _ => return Err(format!("{text:?} is not auto, ring or inline")),
                }
            }
            _ => {
                let row = LIMITS.iter().find(|row| row.name == name).ok_or("unknown key")?;
                row.set(&mut self.limits, text)?;
            }
        }
        Ok(())
    }

    /// What each key cannot see alone.
    fn check(&self, errors: &mut Vec<String>) {
        let limits = &self.limits;
        if limits.pong_timeout >= limits.ping_interval {
            errors.push("limits.pong_timeout: not shorter than limits.ping_interval".into());
        }
        if limits.message_bytes > limits.body_bytes {
            errors.push("limits.message_bytes: larger than limits.body_bytes".into());
        }
        if limits.body_bytes > limits.inflight_body_bytes {
            errors.push("limits.body_bytes: larger than limits.inflight_body_bytes".into());
        }
        if limits.body_bytes > limits.inbox_bytes {
            errors.push(
                "limits.body_bytes: larger than limits.inbox_bytes, which a full body could then never enter"
                    .into(),
            );
        }
        if limits.body_messages > limits.inbox_messages {
            errors.push("limits.body_messages: larger than limits.inbox_messages, which a full body could then never enter".into());
        }
        if limits.message_bytes > u32::MAX as usize / 2 {
            errors.push("limits.message_bytes: at most 2GiB".into());
        }
        if limits.header_bytes < 8192 {
            errors.push("limits.header_bytes: at least 8KiB".into());
        }
        if self.listen == self.admin && self.listen.port() != 0 {
            errors.push("admin: the same address as listen".into());
        }
        if self.writer == WriterChoice::Ring
            && let Err(reason) = writer::probe()
        {
            errors.push(format!("writer: {reason}"));
        }
    }
}

fn topic_rule(table: &Table) -> Result<TopicRule, String> {
    let (mut pattern, mut slow, mut last_value) = (None, None, None);
    let (mut replay, mut stale_after, mut deflate) = (ReplayRule::default(), None, false);
    for (key, value) in table {
        match (key.as_str(), value) {
            ("match", Value::String(text)) => {
                pattern = Some(Pattern::new(text).map_err(|error| format!("match: {text:?}: {error}"))?);
            }
            ("slow", Value::String(text)) => {
                slow = Some(match text.as_str() {
                    "disconnect" => SlowPolicy::Disconnect,
                    "drop-oldest" => SlowPolicy::DropOldest,
                    "conflate" => SlowPolicy::Conflate,
                    _ => return Err(format!("slow: {text:?} is not disconnect, drop-oldest or conflate")),
                });
            }
            ("last_value", Value::Boolean(keeps)) => last_value = Some(*keeps),
            ("deflate", Value::Boolean(on)) => deflate = *on,
            ("replay", Value::Boolean(on)) => replay.off = !on,
            ("replay", Value::Table(table)) => {
                replay = replay_rule(table).map_err(|error| format!("replay.{error}"))?;
            }
            ("stale_after", value) => {
                let time = scalar(value).and_then(|text| units::Time(&text));
                stale_after = Some(time.map_err(|error| format!("stale_after: {error}"))?);
            }
            ("match" | "slow", _) => return Err(format!("{key}: not a string")),
            ("last_value" | "deflate", _) => return Err(format!("{key}: neither true nor false")),
            ("replay", _) => return Err(format!("{key}: neither true, false nor a table")),
            _ => return Err(format!("{key}: unknown key")),
        }
    }
    let pattern = pattern.ok_or("match: missing")?;
    Ok(TopicRule { pattern, slow, last_value, replay, stale_after, deflate })
}

fn replay_rule(table: &Table) -> Result<ReplayRule, String> {
    let mut rule = ReplayRule::default();
    for (key, value) in table {
        let read = |text: String| match key.as_str() {
            "messages" => units::Count(&text).map(|count| rule.messages = Some(count)),
            "age" => units::Time(&text).map(|age| rule.age = Some(age)),
            "bytes" => units::Bytes(&text).map(|bytes| rule.bytes = Some(bytes)),
            _ => Err("unknown key".into()),
        };
        scalar(value).and_then(read).map_err(|error| format!("{key}: {error}"))?;
    }
    Ok(rule)
}

fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        _ => Err("neither a string nor a whole number".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, Vec<String>> {
        let mut config = Config::default();
        let mut errors = Vec::new();
        config.read_toml(text, &mut errors);
        config.check(&mut errors);
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }

    #[test]
    fn a_file_is_read() {
        let config = read(
            r#"
            listen = "0.0.0.0:80"
            workers = 3
            [limits]
            outbox_bytes = "128KiB"
            connections = 7
            [[topics]]
            match = "ticker.>"
            slow = "drop-oldest"
            replay = { messages = 5, age = "1s" }
            [[topics]]
            match = "echo"
            last_value = false
            replay = false
            deflate = true
            "#,
        )
        .unwrap();
        assert_eq!((config.listen.port(), config.workers, config.limits.connections), (80, 3, 7));
        assert_eq!(config.limits.outbox_bytes, 128 << 10);
        let settings = |name: &str| config.settings(&Topic::new(name).unwrap());
        let ticker = settings("ticker.A");
        assert_eq!((ticker.slow, ticker.retention.last_value), (SlowPolicy::DropOldest, true));
        let replay = ReplayLimits { messages_max: 5, age_max: Duration::from_secs(1), bytes_max: 1 << 20 };
        assert_eq!(ticker.retention.replay, Some(replay));
        assert_eq!(settings("echo").retention, Retention { last_value: false, replay: None });
        assert!(settings("echo").deflate && !ticker.deflate && config.deflates());
        let other = settings("other");
        assert_eq!((other.slow, other.retention.last_value), (SlowPolicy::Disconnect, true));
        assert_eq!(other.retention.replay.map(|replay| replay.messages_max), Some(1_000));
    }

    #[test]
    fn each_error_names_its_key() {
        fn check(text: &str, expect: &[&str]) {
            let errors = read(text).expect_err(text);
            assert_eq!(errors.len(), expect.len(), "{errors:?}");
            for (error, expect) in errors.iter().zip(expect) {
                assert!(error.starts_with(expect) && !error.contains('\n'), "{error}");
            }
        }
        check("listne = 1", &["listne: unknown key"]);
        check("listen = 1", &["listen: \"1\" is not an address"]);
        check("workers = 0", &["workers: "]);
        check("workers = 1000", &["workers: at most 128"]);
        check("workers = [", &["TOML parse error"]);
        check("limits = 1", &["limits: not a table"]);
        check(
            "[limits]\noutbox = 1\nping_interval = 5",
            &["limits.outbox: unknown key", "limits.ping_interval: "],
        );
        check("[limits]\npong_timeout = \"1m\"", &["limits.pong_timeout: not shorter"]);
        check("[limits]\nmessage_bytes = \"2MiB\"", &["limits.message_bytes: larger"]);
        check("[[topics]]\nslow = \"disconnect\"", &["topics[0].match: missing"]);
        check("[[topics]]\nmatch = \"a..b\"", &["topics[0].match: \"a..b\""]);
        check("[[topics]]\nmatch = \"a\"\nslow = \"never\"", &["topics[0].slow: \"never\""]);
        check("[[topics]]\nmatch = \"a\"\nlast = 1", &["topics[0].last: unknown key"]);
        check("[[topics]]\nmatch = \"a\"\ndeflate = 6", &["topics[0].deflate: neither true nor false"]);
        check("[[topics]]\nmatch = \"a\"\nreplay = 1", &["topics[0].replay: neither"]);
        check("[[topics]]\nmatch = \"a\"\nreplay = { age = 1 }", &["topics[0].replay.age: \"1\""]);
    }

    #[test]
    fn overrides_win() {
        let overrides =
            [("workers".to_owned(), "5".to_owned()), ("ping_interval".to_owned(), "40s".to_owned())];
        let config = Config::load(None, &overrides).unwrap();
        assert_eq!((config.workers, config.limits.ping_interval.as_secs()), (5, 40));
        let error = Config::load(None, &[("ping_interval".into(), "soon".into())]).unwrap_err();
        assert!(error.0[0].starts_with("ping_interval: \"soon\""), "{error}");
    }
}
