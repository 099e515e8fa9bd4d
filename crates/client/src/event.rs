//! What a subscription tells its owner, and how that looks as JSON.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::frame::{Acknowledged, Data};
use crate::refusal::Refusal;

/// What a [`Subscription`](crate::Subscription) receives.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message: once, and after all earlier ones of its topic.
    Message(Message),
    /// Messages were lost. The next message of the topic is after `to`.
    Gap {
        /// Where.
        topic: String,
        /// The life of the topic's count.
        epoch: Arc<str>,
        /// The first lost offset.
        from: u64,
        /// The last lost offset.
        to: u64,
        /// `slow` or `evicted`, as the server announced it; [`UNANNOUNCED`] for a hole in the offsets that nobody
        /// announced.
        reason: String,
    },
    /// The topic could not be continued: forget what you knew of it. Its count may have begun anew. The last value
    /// follows, if the topic keeps one.
    Reset {
        /// Which.
        topic: String,
        /// The life of its count from now on.
        epoch: Arc<str>,
        /// Its last offset.
        offset: u64,
    },
    /// A topic whose configuration says how often it has to speak fell silent, or speaks again.
    Status {
        /// Which.
        topic: String,
        /// Which of the two.
        status: Status,
        /// Since its last message; of a topic that speaks again, the silence before.
        age: Duration,
    },
    /// A wildcard matches this topic: said once, before its first message. Not said again after a reconnect.
    Topic {
        /// Which.
        topic: String,
        /// The life of its count.
        epoch: Arc<str>,
        /// Its last offset: messages up to it are replay, those after it are live. 0: it is new.
        offset: u64,
    },
    /// The server took a topic or wildcard; said after each connect.
    Subscribed {
        /// As it was asked for.
        topic: String,
        /// The server's answer.
        acknowledged: Acknowledged,
    },
    /// The server refused a topic or wildcard, and goes on with the others. Asked for again after the next connect, and
    /// before that if the refusal may pass (`unavailable`, `rate_limited`).
    Refused {
        /// As it was asked for.
        topic: String,
        /// Why.
        refusal: Refusal,
    },
    /// The server complains of something else.
    Error(Refusal),
    /// There is a connection.
    Connected {
        /// The server's name for it, as in its logs.
        client: String,
    },
    /// There is none: it was lost, or could not be made. The next try is after `retry_in`.
    Disconnected {
        /// In plain words.
        reason: String,
        /// The pause, of which nothing has passed yet.
        retry_in: Duration,
    },
}

/// The reason of a [`Gap`](Event::Gap) that the server did not announce.
pub const UNANNOUNCED: &str = "unannounced";

/// One message. Within a topic and epoch offsets are strictly increasing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The concrete topic, also when a wildcard matched it.
    pub topic: String,
    /// The life of the topic's count. Empty if the topic is one too many to be kept track of: see
    /// [`Subscription::with_positions_max`](crate::Subscription::with_positions_max).
    pub epoch: Arc<str>,
    /// Counts from 1.
    pub offset: u64,
    /// The publisher's event name.
    pub event: Option<String>,
    /// The payload.
    pub data: Data,
}

/// Whether a topic speaks as often as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No message for longer than the topic's `stale_after`.
    Stale,
    /// The first message after that.
    Live,
}

impl Status {
    pub(crate) fn read(word: &str) -> Option<Self> {
        match word {
            "stale" => Some(Self::Stale),
            "live" => Some(Self::Live),
            _ => None,
        }
    }
}

impl Message {
    /// The message in the native JSON format, as the server sent it: one line, keys in the format's order, the payload's
    /// bytes untouched.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(64 + self.topic.len());
        json.extend_from_slice(b"{\"topic\":");
        append(&mut json, &self.topic);
        json.extend_from_slice(b",\"offset\":");
        append(&mut json, &self.offset);
        if let Some(event) = &self.event {
            json.extend_from_slice(b",\"event\":");
            append(&mut json, event);
        }
        match &self.data {
            Data::Json(data) => {
                json.extend_from_slice(b",\"data\":");
                json.extend_from_slice(data);
            }
            Data::Binary(data) => {
                json.extend_from_slice(b",\"data64\":");
                append(&mut json, &STANDARD.encode(data));
            }
        }
        json.push(b'}');
        json
    }
}

impl Event {
    /// The event as one line of JSON: a message in the native format, a gap, reset, status or topic as an object with
    /// `type`. `None` for what concerns the connection.
    ///
    /// ```
    /// use fanfare_client::Event;
    ///
    /// let gap = Event::Gap { topic: "x".into(), epoch: "k3x9".into(), from: 4, to: 5, reason: "slow".into() };
    /// let json = br#"{"type":"gap","topic":"x","epoch":"k3x9","from":4,"to":5,"reason":"slow"}"#;
    /// assert_eq!(gap.to_json().as_deref(), Some(&json[..]));
    /// ```
    pub fn to_json(&self) -> Option<Vec<u8>> {
        #[derive(Serialize)]
        #[serde(tag = "type", rename_all = "lowercase")]
        enum Line<'a> {
            Gap { topic: &'a str, epoch: &'a str, from: u64, to: u64, reason: &'a str },
            Reset { topic: &'a str, epoch: &'a str, offset: u64 },
            Status { topic: &'a str, status: Status, age_ms: u128 },
            Topic { topic: &'a str, epoch: &'a str, offset: u64 },
        }
        let line = match self {
            Self::Message(message) => return Some(message.to_json()),
            Self::Gap { topic, epoch, from, to, reason } => {
                Line::Gap { topic, epoch, from: *from, to: *to, reason }
            }
            Self::Reset { topic, epoch, offset } => Line::Reset { topic, epoch, offset: *offset },
            Self::Status { topic, status, age } => {
                Line::Status { topic, status: *status, age_ms: age.as_millis() }
            }
            Self::Topic { topic, epoch, offset } => Line::Topic { topic, epoch, offset: *offset },
            _ => return None,
        };
        let mut json = Vec::new();
        append(&mut json, &line);
        Some(json)
    }
}

fn append<T: Serialize + ?Sized>(json: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(json, value).expect("strings and numbers, into memory");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_line_that_the_server_sent() {
        let message = |event: Option<&str>, data| Message {
            topic: "a".into(),
            epoch: "k3x9".into(),
            offset: 7,
            event: event.map(str::to_owned),
            data,
        };
        for (message, json) in [
            (
                message(None, Data::Json("{\"x\": 1.10}".into())),
                r#"{"topic":"a","offset":7,"data":{"x": 1.10}}"#,
            ),
            (
                message(Some("tick\"er"), Data::Json("null".into())),
                r#"{"topic":"a","offset":7,"event":"tick\"er","data":null}"#,
            ),
            (
                message(None, Data::Binary(vec![0, 255, 16, 251, 255].into())),
                r#"{"topic":"a","offset":7,"data64":"AP8Q+/8="}"#,
            ),
        ] {
            assert_eq!(String::from_utf8(message.to_json()).unwrap(), json);
        }
    }

    #[test]
    fn what_is_not_a_message_has_a_type() {
        let (topic, epoch) = (String::from("a"), Arc::<str>::from("k3x9"));
        for (event, json) in [
            (
                Event::Reset { topic: topic.clone(), epoch: epoch.clone(), offset: 3 },
                r#"{"type":"reset","topic":"a","epoch":"k3x9","offset":3}"#,
            ),
            (
                Event::Status {
                    topic: topic.clone(),
                    status: Status::Stale,
                    age: Duration::from_millis(5200),
                },
                r#"{"type":"status","topic":"a","status":"stale","age_ms":5200}"#,
            ),
            (
                Event::Topic { topic, epoch, offset: 0 },
                r#"{"type":"topic","topic":"a","epoch":"k3x9","offset":0}"#,
            ),
        ] {
            assert_eq!(String::from_utf8(event.to_json().unwrap()).unwrap(), json);
        }
        assert_eq!(Event::Connected { client: "c".into() }.to_json(), None);
    }
}
