//! What a subscriber asks of one topic or pattern.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// Where a subscription starts when it resumes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the retained last message, if the topic keeps one. The server's default.
    Last,
    /// With the next message.
    Live,
    /// With the oldest message of the replay ring.
    Earliest,
}

impl Start {
    /// As it stands in the raw subscription's query.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Live => "live",
            Self::Earliest => "earliest",
        }
    }
}

/// What the server does when this subscriber reads too slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Queue up to the bound, then what the topic's policy says.
    Queue,
    /// Keep the newest message only.
    Latest,
}

/// A topic or a pattern, and how to subscribe to it. A name alone converts into one.
///
/// ```
/// use fanfare_client::{Start, TopicRequest};
///
/// let plain: TopicRequest = "ticker.BTC-USD".into();
/// let resumed = TopicRequest::new("ticker.ETH-USD").resume("k3x9", 1999);
/// let sparing = TopicRequest::new("ticker.>").start(Start::Live).max_hz(5);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRequest {
    topic: String,
    place: Option<Place>,
    policy: Option<Policy>,
    max_hz: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Start(Start),
    Resume { epoch: String, offset: u64 },
}

impl TopicRequest {
    /// The server's defaults for `topic`.
    pub fn new(topic: impl Into<String>) -> Self {
        Self { topic: topic.into(), place: None, policy: None, max_hz: None }
    }

    /// Starts there; replaces [`resume`](Self::resume).
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.place = Some(Place::Start(start));
        self
    }

    /// Continues after the message at (`epoch`, `offset`); replaces [`start`](Self::start). The acknowledgement's
    /// `recovered` says whether nothing was missed.
    #[must_use]
    pub fn resume(mut self, epoch: impl Into<String>, offset: u64) -> Self {
        self.place = Some(Place::Resume { epoch: epoch.into(), offset });
        self
    }

    /// What the server does when this subscriber is slow.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// At most so many messages a second.
    #[must_use]
    pub fn max_hz(mut self, max_hz: u32) -> Self {
        self.max_hz = Some(max_hz);
        self
    }
}

impl From<&str> for TopicRequest {
    fn from(topic: &str) -> Self {
        Self::new(topic)
    }
}

impl From<&&str> for TopicRequest {
    fn from(topic: &&str) -> Self {
        Self::new(*topic)
    }
}

impl From<String> for TopicRequest {
    fn from(topic: String) -> Self {
        Self::new(topic)
    }
}

impl From<&String> for TopicRequest {
    fn from(topic: &String) -> Self {
        Self::new(topic)
    }
}

impl Serialize for TopicRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { topic, place, policy, max_hz } = self;
        if place.is_none() && policy.is_none() && max_hz.is_none() {
            return serializer.serialize_str(topic);
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", topic)?;
        match place {
            Some(Place::Start(start)) => map.serialize_entry("from", start)?,
            Some(Place::Resume { epoch, offset }) => {
                map.serialize_entry("epoch", epoch)?;
                map.serialize_entry("offset", offset)?;
            }
            None => {}
        }
        if let Some(policy) = policy {
            map.serialize_entry("policy", policy)?;
        }
        if let Some(max_hz) = max_hz {
            map.serialize_entry("max_hz", max_hz)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_only_what_was_asked() {
        for (request, json) in [
            (TopicRequest::from("a"), r#""a""#),
            (TopicRequest::new("a").start(Start::Live), r#"{"topic":"a","from":"live"}"#),
            (TopicRequest::new("a").resume("k3x9", 7), r#"{"topic":"a","epoch":"k3x9","offset":7}"#),
            (
                TopicRequest::new("a").policy(Policy::Latest).max_hz(5),
                r#"{"topic":"a","policy":"latest","max_hz":5}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), json);
        }
    }
}
