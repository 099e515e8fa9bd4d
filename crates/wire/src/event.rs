//! What the server says on the native JSON WebSocket besides messages: one JSON object with a `type` per text frame.

use bytes::Bytes;
use serde::{Serialize, Serializer};

use crate::position::Epoch;
use crate::topic::Topic;
use crate::websocket::header::{OpCode, frame};

/// A control frame of the server. Keys stand on the wire in the order they have here.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event<'a> {
    /// The first frame of every connection.
    Welcome {
        /// Names the connection in logs.
        client: &'a str,
        /// Seconds between the server's WebSocket pings.
        ping: u64,
        /// The largest message in bytes that the server takes.
        max_message: usize,
    },
    /// Answers `subscribe`; precedes any message of its topics.
    Subscribed {
        /// The request's.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// One entry per topic asked for, in that order.
        topics: Vec<Subscribed<'a>>,
    },
    /// Answers `unsubscribe`; no message of these topics follows it.
    Unsubscribed {
        /// The request's.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// The topics that were subscribed until now.
        topics: Vec<&'a str>,
    },
    /// Answers `ping`.
    Pong {
        /// The request's.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// Milliseconds since 1970-01-01T00:00:00Z.
        time: u64,
    },
    /// Answers `publish`.
    Published {
        /// The request's.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// The message's epoch.
        epoch: Epoch,
        /// The message's offset.
        offset: u64,
    },
    /// Messages of a topic that this subscriber does not get, before the next one it does get.
    Gap {
        /// Which topic.
        topic: &'a Topic,
        /// Which count.
        epoch: Epoch,
        /// The first lost offset.
        from: u64,
        /// The last lost offset.
        to: u64,
        /// Why.
        reason: GapReason,
    },
    /// A topic that a wildcard of this subscriber matches: told once, before the topic's first message.
    Topic {
        /// Which topic.
        topic: &'a Topic,
        /// Its current count.
        epoch: Epoch,
        /// Its last offset. Messages up to it are replay, later ones are live.
        offset: u64,
        /// Answers a position: whether everything after it follows.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
        /// Said when a slow reader does not get every message.
        #[serde(skip_serializing_if = "Option::is_none")]
        policy: Option<&'a str>,
    },
    /// A topic that is to speak often has fallen silent, or speaks again.
    Status {
        /// Which topic.
        topic: &'a Topic,
        /// Which of the two.
        status: Status,
        /// Milliseconds since its last message; of a topic that speaks again, the silence before.
        age_ms: u64,
    },
    /// Answers `auth`: from now on the client may what its token says.
    Authenticated {
        /// The request's.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
    },
    /// Asked for with `/ws?heartbeat=SECONDS`.
    Heartbeat {
        /// Milliseconds since 1970-01-01T00:00:00Z.
        time: u64,
    },
    /// A request that was not carried out; the connection goes on.
    Error {
        /// The request's.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: &'a str,
    },
    /// The server is about to close the connection.
    Bye {
        /// The close code that follows.
        code: u16,
        /// The close reason that follows.
        reason: &'a str,
        /// How long to wait before connecting again, in milliseconds; differs from client to client.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_ms: Option<u64>,
    },
}

/// What became of one topic of a `subscribe`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Subscribed<'a> {
    /// Messages follow.
    Accepted {
        /// Which topic.
        topic: &'a str,
        /// Its current count.
        epoch: Epoch,
        /// Its last offset. Messages up to it are replay, later ones are live.
        offset: u64,
        /// Answers a position: whether everything after it follows.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
        /// How many messages are replayed.
        #[serde(skip_serializing_if = "is_zero")]
        replay: usize,
        /// Said when offsets may jump without a `gap`.
        #[serde(skip_serializing_if = "Option::is_none")]
        policy: Option<&'a str>,
    },
    /// The topics of a wildcard follow, each told by a `topic` event.
    Matched {
        /// The pattern.
        topic: &'a str,
        /// How many topics it matches now.
        matched: usize,
        /// Answers positions: whether everything after each of them follows.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
    },
    /// Nothing follows.
    Refused {
        /// As the client wrote it.
        topic: &'a str,
        /// Why.
        error: Refusal<'a>,
    },
}

/// Why one topic of a request was refused.
#[derive(Debug, Serialize)]
pub struct Refusal<'a> {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: &'a str,
}

/// Why messages are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The subscriber did not read fast enough.
    Slow,
    /// The server let go of them: they are no more kept for replay, or all outboxes together were past their bound and this
    /// one was among the largest.
    Evicted,
    /// The place that the client named is of another count: this one began anew.
    Reset,
}

/// Whether a topic speaks as often as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// No message for longer than the topic's `stale_after`.
    Stale,
    /// The first message after that.
    Live,
}

impl Status {
    /// The status as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Live => "live",
        }
    }
}

/// The error codes of the native protocol and of the HTTP interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Malformed, or not what the content type says.
    BadRequest,
    /// Not a topic name.
    BadTopic,
    /// No credential, or one that is not valid.
    Unauthorized,
    /// Not what this client may.
    Forbidden,
    /// A bound of the server is reached.
    Limit,
    /// A message or body over its bound.
    TooLarge,
    /// Too much at once; slower.
    RateLimited,
    /// Not now; try again.
    Unavailable,
    /// No such thing.
    NotFound,
    /// The thing exists, the method does not.
    MethodNotAllowed,
    /// The body came too slowly.
    Timeout,
    /// The content type or encoding is not taken here.
    UnsupportedMediaType,
}

impl ErrorCode {
    /// The code as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::BadTopic => "bad_topic",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Limit => "limit",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Timeout => "timeout",
            Self::UnsupportedMediaType => "unsupported_media_type",
        }
    }
}

impl Event<'_> {
    /// The event as one WebSocket text frame.
    pub fn frame(&self) -> Bytes {
        frame(OpCode::Text, &self.json())
    }

    /// The event as a JSON object.
    pub fn json(&self) -> Vec<u8> {
        // Serialising these shapes into memory has no way to fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The event's `type`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Welcome { .. } => "welcome",
            Self::Subscribed { .. } => "subscribed",
            Self::Unsubscribed { .. } => "unsubscribed",
            Self::Pong { .. } => "pong",
            Self::Published { .. } => "published",
            Self::Gap { .. } => "gap",
            Self::Topic { .. } => "topic",
            Self::Status { .. } => "status",
            Self::Authenticated { .. } => "authenticated",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Error { .. } => "error",
            Self::Bye { .. } => "bye",
        }
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_documented_bytes() {
        fn check(event: &Event<'_>, expect: &str) {
            assert!(expect.starts_with(&format!(r#"{{"type":"{}""#, event.name())));
            let frame = event.frame();
            let start = if frame[1] < 126 { 2 } else { 4 };
            assert_eq!(std::str::from_utf8(&frame[start..]).unwrap(), expect);
        }
        let epoch = Epoch::new(1);
        let topic = Topic::new("x").unwrap();
        check(
            &Event::Welcome { client: "c1f0e9a2", ping: 25, max_message: 65536 },
            r#"{"type":"welcome","client":"c1f0e9a2","ping":25,"max_message":65536}"#,
        );
        let accepted = Subscribed::Accepted {
            topic: "x",
            epoch,
            offset: 1042,
            recovered: None,
            replay: 1,
            policy: Some("conflate"),
        };
        let resumed = Subscribed::Accepted {
            topic: "y",
            epoch,
            offset: 0,
            recovered: Some(false),
            replay: 0,
            policy: None,
        };
        let refused =
            Subscribed::Refused { topic: "a b", error: Refusal { code: ErrorCode::BadTopic, message: "no" } };
        check(
            &Event::Subscribed { id: Some(1), topics: vec![accepted, resumed, refused] },
            concat!(
                r#"{"type":"subscribed","id":1,"topics":["#,
                r#"{"topic":"x","epoch":"10000000","offset":1042,"replay":1,"policy":"conflate"},"#,
                r#"{"topic":"y","epoch":"10000000","offset":0,"recovered":false},"#,
                r#"{"topic":"a b","error":{"code":"bad_topic","message":"no"}}]}"#
            ),
        );
        check(
            &Event::Unsubscribed { id: Some(2), topics: vec!["x"] },
            r#"{"type":"unsubscribed","id":2,"topics":["x"]}"#,
        );
        check(&Event::Pong { id: Some(3), time: 1735 }, r#"{"type":"pong","id":3,"time":1735}"#);
        check(&Event::Pong { id: None, time: 1735 }, r#"{"type":"pong","time":1735}"#);
        check(
            &Event::Published { id: Some(5), epoch, offset: 9 },
            r#"{"type":"published","id":5,"epoch":"10000000","offset":9}"#,
        );
        check(
            &Event::Gap { topic: &topic, epoch, from: 1044, to: 1051, reason: GapReason::Slow },
            r#"{"type":"gap","topic":"x","epoch":"10000000","from":1044,"to":1051,"reason":"slow"}"#,
        );
        check(
            &Event::Gap { topic: &topic, epoch, from: 1, to: 1, reason: GapReason::Evicted },
            r#"{"type":"gap","topic":"x","epoch":"10000000","from":1,"to":1,"reason":"evicted"}"#,
        );
        let matched = Subscribed::Matched { topic: "trades.*", matched: 14, recovered: None };
        check(
            &Event::Subscribed { id: None, topics: vec![matched] },
            r#"{"type":"subscribed","topics":[{"topic":"trades.*","matched":14}]}"#,
        );
        check(
            &Event::Topic { topic: &topic, epoch, offset: 0, recovered: None, policy: Some("conflate") },
            r#"{"type":"topic","topic":"x","epoch":"10000000","offset":0,"policy":"conflate"}"#,
        );
        check(
            &Event::Topic { topic: &topic, epoch, offset: 7, recovered: Some(true), policy: None },
            r#"{"type":"topic","topic":"x","epoch":"10000000","offset":7,"recovered":true}"#,
        );
        check(
            &Event::Status { topic: &topic, status: Status::Stale, age_ms: 5200 },
            r#"{"type":"status","topic":"x","status":"stale","age_ms":5200}"#,
        );
        check(
            &Event::Error { id: Some(4), code: ErrorCode::BadRequest, message: "a \"b\"" },
            r#"{"type":"error","id":4,"code":"bad_request","message":"a \"b\""}"#,
        );
        check(
            &Event::Bye { code: 4200, reason: "draining", retry_ms: Some(3200) },
            r#"{"type":"bye","code":4200,"reason":"draining","retry_ms":3200}"#,
        );
        check(&Event::Authenticated { id: Some(7) }, r#"{"type":"authenticated","id":7}"#);
        check(&Event::Authenticated { id: None }, r#"{"type":"authenticated"}"#);
        check(&Event::Heartbeat { time: 5 }, r#"{"type":"heartbeat","time":5}"#);
    }
}
