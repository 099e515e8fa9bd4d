//! The rules for topics: `[[topics]]` of the file.

use std::time::Duration;

use fanfare_fanout::SlowPolicy;
use fanfare_registry::{ReplayLimits, Retention};
use fanfare_wire::{Pattern, Topic};
use toml::{Table, Value};

use super::Config;
use super::keys::{Kind, text_of, unknown};
use crate::units;

/// What holds for the topics that match a pattern. What it leaves out has the default.
#[derive(Debug, Clone)]
pub struct TopicRule {
    /// Which topics.
    pub pattern: Pattern,
    slow: Option<SlowPolicy>,
    last_value: Option<bool>,
    replay: ReplayRule,
    stale_after: Option<Duration>,
    pub(super) deflate: bool,
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

impl Config {
    /// What holds for `topic`.
    pub fn settings(&self, topic: &Topic) -> TopicSettings {
        self.settings_by(self.topics.iter().find(|rule| rule.pattern.matches(topic)))
    }

    /// What holds for the topics of a rule, or without one.
    pub(super) fn settings_by(&self, rule: Option<&TopicRule>) -> TopicSettings {
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
}

/// What a rule may say.
const RULE_KEYS: [&str; 6] = ["match", "slow", "last_value", "replay", "stale_after", "deflate"];

/// Reads one rule.
pub(super) fn topic_rule(table: &Table) -> Result<TopicRule, String> {
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
                let time = text_of(value, Kind::Text).and_then(|text| units::Time(&text));
                stale_after = Some(time.map_err(|error| format!("stale_after: {error}"))?);
            }
            ("match" | "slow", _) => return Err(format!("{key}: not a string")),
            ("last_value" | "deflate", _) => return Err(format!("{key}: neither true nor false")),
            ("replay", _) => return Err(format!("{key}: neither true, false nor a table")),
            _ => return Err(format!("{key}: {}", unknown(key, RULE_KEYS))),
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
            _ => Err(unknown(key, ["messages", "age", "bytes"])),
        };
        text_of(value, Kind::Text).and_then(read).map_err(|error| format!("{key}: {error}"))?;
    }
    Ok(rule)
}
