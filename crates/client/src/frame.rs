//! What the server says on `/ws`: messages, and frames with a `type`.
//!
//! A frame is read twice at most: once as a message, whose `data` is cut out of the frame's own bytes, and if it has a
//! `type` once more as what that says. Types and keys this version does not know are passed over.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::publisher::Published;
use crate::refusal::Refusal;
use crate::websocket::{Closed, ReceiveError};

/// What a session receives, as the server said it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message of a subscribed topic.
    Message(Message),
    /// Messages were lost; the next message of the topic is after `to`.
    Gap {
        /// Where.
        topic: String,
        /// The life of the topic's count.
        epoch: String,
        /// The first lost offset.
        from: u64,
        /// The last lost offset.
        to: u64,
        /// `slow`, `evicted`, `reset` or `backplane`.
        reason: String,
    },
    /// A topic that a subscribed pattern matches for the first time.
    Topic {
        /// Its name.
        topic: String,
        /// The life of its count.
        epoch: String,
        /// Its last offset: messages up to it are replay, those after it are live.
        offset: u64,
        /// If a position was given for it: whether every message since follows.
        recovered: Option<bool>,
        /// `conflate` or `drop-oldest`; none if a slow reader is closed instead.
        policy: Option<String>,
    },
    /// A topic with a limit of age went stale, or is live again.
    Status {
        /// Which.
        topic: String,
        /// `stale` or `live`.
        status: String,
        /// Since its last message.
        age: Duration,
    },
    /// The server is there; it says so only if asked.
    Heartbeat {
        /// The server's clock, in milliseconds since 1970.
        time: u64,
    },
    /// A topic of the first subscribe that the server refused.
    Refused {
        /// Which.
        topic: String,
        /// Why.
        refusal: Refusal,
    },
    /// An error that belongs to no command.
    Error(Refusal),
    /// The server is about to close.
    Bye {
        /// The close code that follows.
        code: u16,
        /// In plain words.
        reason: String,
        /// When to come back, if the server says so.
        retry: Option<Duration>,
    },
    /// The last event.
    Closed(Closed),
}

/// One message. Within a topic and epoch offsets are strictly increasing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The concrete topic, also when a pattern matched it.
    pub topic: String,
    /// Counts from 1.
    pub offset: u64,
    /// The publisher's event name.
    pub event: Option<String>,
    /// The payload.
    pub data: Data,
}

/// A payload as the native JSON format carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// One JSON value, byte for byte as it was posted. What was posted as text is a JSON string.
    ///
    /// A slice of the received frame: it keeps up to 8 KiB of received frames in memory.
    Json(Bytes),
    /// What was posted as bytes.
    Binary(Bytes),
}

/// What became of one topic of a subscribe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The topic or pattern.
    pub topic: String,
    /// The server's answer to it.
    pub result: Result<Acknowledged, Refusal>,
}

/// The server's answer to one topic; for a pattern only `matched` is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Acknowledged {
    /// The life of the topic's count.
    pub epoch: Option<String>,
    /// The topic's last offset: messages up to it are replay, those after it are live.
    pub offset: Option<u64>,
    /// How many messages of replay follow.
    #[serde(default)]
    pub replay: u64,
    /// For a resume: whether every message since the given place follows.
    pub recovered: Option<bool>,
    /// What happens when this subscriber is slow, e.g. `conflate`, under which offsets may jump.
    pub policy: Option<String>,
    /// How many topics a pattern matches now.
    pub matched: Option<u64>,
}

/// One frame, read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Event(Event),
    Welcome { client: String, ping: Option<Duration>, max_message: Option<usize> },
    Reply { id: u64, reply: Reply },
    Unknown,
}

/// The answer to a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Subscribed(Vec<Acknowledgement>),
    Unsubscribed(Vec<String>),
    Published(Published),
    Pong { time: u64 },
    Refused(Refusal),
}

#[derive(Deserialize)]
struct MessageFrame<'a> {
    r#type: Option<Cow<'a, str>>,
    topic: Option<String>,
    offset: Option<u64>,
    event: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    data64: Option<Cow<'a, str>>,
}

/// As an ordinary `Option`, `null` would be no data at all.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ControlFrame {
    Welcome {
        #[serde(default)]
        client: String,
        ping: Option<u64>,
        max_message: Option<usize>,
    },
    Subscribed {
        id: u64,
        topics: Vec<AcknowledgementFrame>,
    },
    Unsubscribed {
        id: u64,
        #[serde(default)]
        topics: Vec<String>,
    },
    Published {
        id: u64,
        epoch: String,
        offset: u64,
    },
    Pong {
        id: u64,
        #[serde(default)]
        time: u64,
    },
    Gap {
        topic: String,
        #[serde(default)]
        epoch: String,
        from: u64,
        to: u64,
        #[serde(default)]
        reason: String,
    },
    Topic {
        topic: String,
        epoch: String,
        offset: u64,
        recovered: Option<bool>,
        policy: Option<String>,
    },
    Status {
        topic: String,
        status: String,
        #[serde(default)]
        age_ms: u64,
    },
    Heartbeat {
        time: u64,
    },
    Error {
        id: Option<u64>,
        #[serde(flatten)]
        refusal: Refusal,
    },
    Bye {
        code: u16,
        #[serde(default)]
        reason: String,
        retry_ms: Option<u64>,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
struct AcknowledgementFrame {
    topic: String,
    error: Option<Refusal>,
    #[serde(flatten)]
    acknowledged: Acknowledged,
}

/// Reads one text frame.
pub(crate) fn read(frame: &Bytes) -> Result<Received, ReceiveError> {
    let message: MessageFrame<'_> = parse(frame)?;
    if message.r#type.is_some() {
        return Ok(parse::<ControlFrame>(frame)?.into());
    }
    let data = match (message.data, message.data64) {
        (Some(json), None) => Data::Json(frame.slice_ref(json.get().as_bytes())),
        (None, Some(text)) => {
            let bytes = STANDARD.decode(text.as_bytes()).map_err(|error| unreadable(frame, &error))?;
            Data::Binary(bytes.into())
        }
        _ => return Err(unreadable(frame, &"a message has data or data64")),
    };
    let (Some(topic), Some(offset)) = (message.topic, message.offset) else {
        return Err(unreadable(frame, &"a message has a topic and an offset"));
    };
    Ok(Received::Event(Event::Message(Message { topic, offset, event: message.event, data })))
}

fn parse<'a, T: Deserialize<'a>>(frame: &'a Bytes) -> Result<T, ReceiveError> {
    serde_json::from_slice(frame).map_err(|error| unreadable(frame, &error))
}

fn unreadable(frame: &Bytes, why: &dyn std::fmt::Display) -> ReceiveError {
    const QUOTED_BYTES_MAX: usize = 200;
    let quoted = &frame[..frame.len().min(QUOTED_BYTES_MAX)];
    ReceiveError::Protocol(format!("{why}: {}", quoted.escape_ascii()))
}

impl From<ControlFrame> for Received {
    fn from(frame: ControlFrame) -> Self {
        let event = match frame {
            ControlFrame::Welcome { client, ping, max_message } => {
                return Self::Welcome { client, ping: ping.map(Duration::from_secs), max_message };
            }
            ControlFrame::Subscribed { id, topics } => {
                let topics = topics.into_iter().map(Into::into).collect();
                return Self::Reply { id, reply: Reply::Subscribed(topics) };
            }
            ControlFrame::Unsubscribed { id, topics } => {
                return Self::Reply { id, reply: Reply::Unsubscribed(topics) };
            }
            ControlFrame::Published { id, epoch, offset } => {
                return Self::Reply { id, reply: Reply::Published(Published { epoch, offset }) };
            }
            ControlFrame::Pong { id, time } => return Self::Reply { id, reply: Reply::Pong { time } },
            ControlFrame::Error { id: Some(id), refusal } => {
                return Self::Reply { id, reply: Reply::Refused(refusal) };
            }
            ControlFrame::Error { id: None, refusal } => Event::Error(refusal),
            ControlFrame::Gap { topic, epoch, from, to, reason } => {
                Event::Gap { topic, epoch, from, to, reason }
            }
            ControlFrame::Topic { topic, epoch, offset, recovered, policy } => {
                Event::Topic { topic, epoch, offset, recovered, policy }
            }
            ControlFrame::Status { topic, status, age_ms } => {
                Event::Status { topic, status, age: Duration::from_millis(age_ms) }
            }
            ControlFrame::Heartbeat { time } => Event::Heartbeat { time },
            ControlFrame::Bye { code, reason, retry_ms } => {
                Event::Bye { code, reason, retry: retry_ms.map(Duration::from_millis) }
            }
            ControlFrame::Unknown => return Self::Unknown,
        };
        Self::Event(event)
    }
}

impl From<AcknowledgementFrame> for Acknowledgement {
    fn from(frame: AcknowledgementFrame) -> Self {
        Self { topic: frame.topic, result: frame.error.map_or(Ok(frame.acknowledged), Err) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(frame: &'static str) -> Message {
        match read(&Bytes::from_static(frame.as_bytes())) {
            Ok(Received::Event(Event::Message(message))) => message,
            other => panic!("{frame}: {other:?}"),
        }
    }

    #[test]
    fn data_is_the_bytes_that_arrived() {
        for data in [
            r#"{"bid":"64000.10","n":1.10}"#,
            "null",
            "1e2",
            r#""a\u00e9\/""#,
            "[ 1 ,\t2 ]",
            "false",
            "12345678901234567890.0",
        ] {
            let frame = Bytes::from(format!(r#"{{"topic":"t","offset":7,"data":{data}}}"#));
            let Ok(Received::Event(Event::Message(message))) = read(&frame) else { panic!("{data}") };
            assert_eq!(message.data, Data::Json(Bytes::from(data)), "{data}");
        }
    }

    #[test]
    fn a_message_has_an_event_name_or_not_and_json_or_bytes() {
        let named = message(r#"{"topic":"a.b","offset":9007199254740991,"event":"tick\"er","data":1}"#);
        assert_eq!((named.topic.as_str(), named.offset), ("a.b", 9_007_199_254_740_991));
        assert_eq!(named.event.as_deref(), Some("tick\"er"));
        let binary = message(r#"{"topic":"a","offset":1,"data64":"AP8Q+/8="}"#);
        assert_eq!(binary.data, Data::Binary(Bytes::from_static(&[0, 255, 16, 251, 255])));
        assert_eq!(message(r#"{"topic":"a","offset":1,"later":{},"data":1}"#).data, Data::Json("1".into()));
    }

    #[test]
    fn every_control_frame_is_read() {
        let ok = |epoch: &str, offset, replay| Acknowledged {
            epoch: Some(epoch.into()),
            offset: Some(offset),
            replay,
            ..Acknowledged::default()
        };
        let acknowledgement = |topic: &str, result| Acknowledgement { topic: topic.into(), result };
        let refusal = |code: &str, message: &str| Refusal { code: code.into(), message: message.into() };
        for (frame, expect) in [
            (
                r#"{"type":"welcome","client":"c1f0e9a2","ping":25,"max_message":65536}"#,
                Received::Welcome {
                    client: "c1f0e9a2".into(),
                    ping: Some(Duration::from_secs(25)),
                    max_message: Some(65536),
                },
            ),
            (
                r#"{"type":"subscribed","id":1,"topics":[
                    {"topic":"ticker.BTC-USD","epoch":"k3x9","offset":1042,"replay":1,"policy":"conflate"},
                    {"topic":"ticker.ETH-USD","epoch":"k3x9","offset":2001,"recovered":true,"replay":2},
                    {"topic":"trades.*","matched":14},
                    {"topic":"private.x","error":{"code":"forbidden","message":"not allowed"}}]}"#,
                Received::Reply {
                    id: 1,
                    reply: Reply::Subscribed(vec![
                        acknowledgement(
                            "ticker.BTC-USD",
                            Ok(Acknowledged { policy: Some("conflate".into()), ..ok("k3x9", 1042, 1) }),
                        ),
                        acknowledgement(
                            "ticker.ETH-USD",
                            Ok(Acknowledged { recovered: Some(true), ..ok("k3x9", 2001, 2) }),
                        ),
                        acknowledgement(
                            "trades.*",
                            Ok(Acknowledged { matched: Some(14), ..Acknowledged::default() }),
                        ),
                        acknowledgement("private.x", Err(refusal("forbidden", "not allowed"))),
                    ]),
                },
            ),
            (
                r#"{"type":"unsubscribed","id":2,"topics":["ticker.BTC-USD"]}"#,
                Received::Reply { id: 2, reply: Reply::Unsubscribed(vec!["ticker.BTC-USD".into()]) },
            ),
            (
                r#"{"type":"pong","id":3,"time":1735689600123}"#,
                Received::Reply { id: 3, reply: Reply::Pong { time: 1_735_689_600_123 } },
            ),
            (
                r#"{"type":"published","id":5,"epoch":"k3x9","offset":9}"#,
                Received::Reply {
                    id: 5,
                    reply: Reply::Published(Published { epoch: "k3x9".into(), offset: 9 }),
                },
            ),
            (
                r#"{"type":"error","id":4,"code":"bad_request","message":"no"}"#,
                Received::Reply { id: 4, reply: Reply::Refused(refusal("bad_request", "no")) },
            ),
            (
                r#"{"type":"error","code":"rate_limited","message":"slower"}"#,
                Received::Event(Event::Error(refusal("rate_limited", "slower"))),
            ),
            (
                r#"{"type":"gap","topic":"x","epoch":"k3x9","from":1044,"to":1051,"reason":"slow"}"#,
                Received::Event(Event::Gap {
                    topic: "x".into(),
                    epoch: "k3x9".into(),
                    from: 1044,
                    to: 1051,
                    reason: "slow".into(),
                }),
            ),
            (
                r#"{"type":"topic","topic":"trades.new","epoch":"k3x9","offset":0,"policy":"conflate"}"#,
                Received::Event(Event::Topic {
                    topic: "trades.new".into(),
                    epoch: "k3x9".into(),
                    offset: 0,
                    recovered: None,
                    policy: Some("conflate".into()),
                }),
            ),
            (
                r#"{"type":"topic","topic":"trades.x","epoch":"k3x9","offset":7,"recovered":true}"#,
                Received::Event(Event::Topic {
                    topic: "trades.x".into(),
                    epoch: "k3x9".into(),
                    offset: 7,
                    recovered: Some(true),
                    policy: None,
                }),
            ),
            (
                r#"{"type":"status","topic":"x","status":"stale","age_ms":5200}"#,
                Received::Event(Event::Status {
                    topic: "x".into(),
                    status: "stale".into(),
                    age: Duration::from_millis(5200),
                }),
            ),
            (
                r#"{"type":"heartbeat","time":1735689605000}"#,
                Received::Event(Event::Heartbeat { time: 1_735_689_605_000 }),
            ),
            (
                r#"{"type":"bye","code":4200,"reason":"draining","retry_ms":3200}"#,
                Received::Event(Event::Bye {
                    code: 4200,
                    reason: "draining".into(),
                    retry: Some(Duration::from_millis(3200)),
                }),
            ),
            (r#"{"type":"tomorrow","topics":7}"#, Received::Unknown),
        ] {
            assert_eq!(read(&Bytes::from_static(frame.as_bytes())).unwrap(), expect, "{frame}");
        }
    }

    #[test]
    fn what_is_neither_message_nor_control_is_an_error() {
        for frame in [
            "",
            "[]",
            "{}",
            r#"{"topic":"a","offset":1}"#,
            r#"{"topic":"a","data":1}"#,
            r#"{"offset":1,"data":1}"#,
            r#"{"topic":"a","offset":-1,"data":1}"#,
            r#"{"topic":"a","offset":1,"data64":"?"}"#,
            r#"{"topic":"a","offset":1,"data":1,"data64":""}"#,
            r#"{"type":"gap","topic":"a"}"#,
        ] {
            assert!(read(&Bytes::from_static(frame.as_bytes())).is_err(), "{frame}");
        }
    }
}
