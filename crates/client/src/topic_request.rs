//! What a subscriber asks of one topic or wildcard.

use std::sync::Arc;

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

/// A place in a topic: everything after it is still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The life of the topic's count. Shared by all messages of it.
    pub epoch: Arc<str>,
    /// Of the last message that was received; 0: none yet.
    pub offset: u64,
}

/// A topic or a wildcard, and how to subscribe to it. A name alone converts into one.
///
/// `*` stands for one segment and `>`, at the end, for one or more: `ticker.*`, `logs.>`.
///
/// ```
/// use fanfare_client::{Policy, Start, TopicRequest};
///
/// let plain: TopicRequest = "ticker.BTC-USD".into();
/// let resumed = TopicRequest::new("ticker.ETH-USD").resume("k3x9", 1999);
/// let sparing = TopicRequest::new("ticker.>").start(Start::Live).policy(Policy::Latest).max_hz(2.5);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TopicRequest {
    pub(crate) topic: String,
    pub(crate) start: Option<Start>,
    pub(crate) place: Option<Place>,
    pub(crate) positions: Vec<(String, Place)>,
    pub(crate) policy: Option<Policy>,
    pub(crate) max_hz: Option<f64>,
}

impl TopicRequest {
    /// The server's defaults for `topic`.
    pub fn new(topic: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            start: None,
            place: None,
            positions: Vec::new(),
            policy: None,
            max_hz: None,
        }
    }

    /// Starts there; replaces [`resume`](Self::resume).
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = Some(start);
        self.place = None;
        self
    }

    /// Continues after the message at (`epoch`, `offset`), as an earlier run has received it; replaces
    /// [`start`](Self::start). For a topic, not for a wildcard. What cannot be continued begins anew, and says so.
    #[must_use]
    pub fn resume(mut self, epoch: impl Into<Arc<str>>, offset: u64) -> Self {
        self.place = Some(Place { epoch: epoch.into(), offset });
        self.start = None;
        self
    }

    /// For a wildcard: these topics of it continue after these places, and all others begin where
    /// [`start`](Self::start) says. What an earlier run has received is in
    /// [`Subscription::positions`](crate::Subscription::positions).
    #[must_use]
    pub fn positions<T: Into<String>>(mut self, positions: impl IntoIterator<Item = (T, Place)>) -> Self {
        self.positions = positions.into_iter().map(|(topic, place)| (topic.into(), place)).collect();
        self
    }

    /// What the server does when this subscriber is slow.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// At most so many times a second the newest message of each key; the server takes 0.1 to 100, and not with
    /// [`Policy::Queue`].
    #[must_use]
    pub fn max_hz(mut self, max_hz: f64) -> Self {
        self.max_hz = Some(max_hz);
        self
    }

    /// Whether the subscriber wants the newest rather than all.
    pub(crate) fn conflates(&self) -> bool {
        self.policy == Some(Policy::Latest) || self.max_hz.is_some()
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

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("epoch", &*self.epoch)?;
        map.serialize_entry("offset", &self.offset)?;
        map.end()
    }
}

/// Positions as one object, in their order.
struct Positions<'a>(&'a [(String, Place)]);

impl Serialize for Positions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(topic, place)| (topic, place)))
    }
}

impl Serialize for TopicRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { topic, start, place, positions, policy, max_hz } = self;
        if start.is_none() && place.is_none() && positions.is_empty() && policy.is_none() && max_hz.is_none()
        {
            return serializer.serialize_str(topic);
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", topic)?;
        if let Some(start) = start {
            map.serialize_entry("from", start)?;
        }
        if let Some(Place { epoch, offset }) = place {
            map.serialize_entry("epoch", &**epoch)?;
            map.serialize_entry("offset", offset)?;
        }
        if !positions.is_empty() {
            map.serialize_entry("positions", &Positions(positions))?;
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
                TopicRequest::new("a").policy(Policy::Latest).max_hz(2.5),
                r#"{"topic":"a","policy":"latest","max_hz":2.5}"#,
            ),
            (
                TopicRequest::new("a.>")
                    .start(Start::Earliest)
                    .positions([("a.b", Place { epoch: "k3x9".into(), offset: 1042 })]),
                r#"{"topic":"a.>","from":"earliest","positions":{"a.b":{"epoch":"k3x9","offset":1042}}}"#,
            ),
            (TopicRequest::new("a").resume("k3x9", 7).start(Start::Live), r#"{"topic":"a","from":"live"}"#),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), json);
        }
    }
}
