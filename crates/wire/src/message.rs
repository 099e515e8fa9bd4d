//! One publication: the publisher's bytes, their place, and a frame per wire format, each encoded once.
//!
//! ```text
//!   body ──► Draft ──(the registry gives it its place)──► Message ──Arc──► shards
//!            one allocation:                              frames[RAW]   the draft's bytes, as they are
//!            [ header | payload ]                         frames[JSON]  encoded by its first reader
//!                                                         deflated      likewise, on topics that compress
//! ```
//!
//! # Invariants
//! - The payload exists once, inside the raw frame, in an allocation of exactly that size.
//! - A payload is never parsed and written again. The one change ever made is that raw CR and LF in JSON become spaces:
//!   between tokens they are whitespace, and inside a string they are not valid JSON.

use std::borrow::Cow;
use std::sync::OnceLock;

use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::format::{FORMATS, FormatId, PLAIN_FORMATS};
use crate::formats::raw;
use crate::plain_json;
use crate::position::{Epoch, Position};
use crate::topic::Topic;
use crate::websocket::header::header_len;

/// What a payload is, decided when it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Valid JSON in UTF-8.
    Json,
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// Why a payload cannot be taken as what its content type says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The content type says JSON.
    #[error("the body is not valid JSON: {0}")]
    Json(String),
    /// The content type says text.
    #[error("the body is not valid UTF-8 (first bad byte at {0})")]
    Utf8(usize),
}

impl Kind {
    /// Decides what `payload` is under an HTTP `Content-Type`, and checks that it is so.
    ///
    /// `application/json` and `…+json` must be JSON, `text/…` must be UTF-8, `application/octet-stream` is binary;
    /// anything else or nothing is text if it is UTF-8 and binary if not.
    pub fn of(content_type: Option<&str>, payload: &[u8]) -> Result<Self, PayloadError> {
        let content_type = content_type.unwrap_or_default();
        // Nearly all are written so.
        match content_type {
            "application/json" => return check_json(payload).map(|()| Self::Json),
            "text/plain" => return check_utf8(payload).map(|_| Self::Text),
            _ => {}
        }
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let essence = essence.to_ascii_lowercase();
        if essence == "application/json" || essence == "application/x-ndjson" || essence.ends_with("+json") {
            check_json(payload)?;
            Ok(Self::Json)
        } else if essence.starts_with("text/") {
            check_utf8(payload)?;
            Ok(Self::Text)
        } else if essence == "application/octet-stream" || std::str::from_utf8(payload).is_err() {
            Ok(Self::Binary)
        } else {
            Ok(Self::Text)
        }
    }
}

fn check_utf8(payload: &[u8]) -> Result<&str, PayloadError> {
    std::str::from_utf8(payload).map_err(|error| PayloadError::Utf8(error.valid_up_to()))
}

fn check_json(payload: &[u8]) -> Result<(), PayloadError> {
    if plain_json::is_plain(payload) {
        return Ok(());
    }
    // UTF-8 first: skipping over a JSON string does not look at its bytes.
    let text = check_utf8(payload)?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| PayloadError::Json(error.to_string()))?;
    Ok(())
}

/// A message before it has its place.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The topic it was published to.
    pub topic: Topic,
    /// The publisher's event name: `event:` in server-sent events, `"event"` in native JSON.
    pub event: Option<Box<str>>,
    /// The publisher's conflation key: on a conflating topic a newer message replaces a queued one with its key.
    pub key: Option<Box<str>>,
    /// The topic compresses its messages for those who negotiated that.
    pub deflate: bool,
    kind: Kind,
    raw_frame: Bytes,
    payload_start: usize,
}

impl Draft {
    /// Takes the one copy of `payload` that Fanfare makes. `kind` is what [`Kind::of`] said of it.
    pub fn new(topic: Topic, kind: Kind, payload: &[u8]) -> Self {
        let payload = if kind == Kind::Json { unbroken(payload) } else { Cow::Borrowed(payload) };
        let raw_frame = raw::encode_payload(kind, &payload);
        let payload_start = header_len(payload.len());
        Self { topic, event: None, key: None, deflate: false, kind, raw_frame, payload_start }
    }

    /// The payload's length in bytes.
    pub fn payload_bytes(&self) -> usize {
        self.raw_frame.len() - self.payload_start
    }
}

/// JSON on one line.
fn unbroken(payload: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\r', b'\n', payload).is_none() {
        return Cow::Borrowed(payload);
    }
    payload.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }).collect()
}

/// A published message. Shared by `Arc`, one clone per interested shard.
#[derive(Debug)]
pub struct Message {
    topic: Topic,
    position: Position,
    sequence: u64,
    kind: Kind,
    event: Option<Box<str>>,
    key: Option<Box<str>>,
    payload_start: usize,
    /// One cell per wire format; the raw one is set from the start. Whoever needs a frame first encodes it.
    frames: [OnceLock<Bytes>; PLAIN_FORMATS],
    /// The cells of the compressed formats, on topics that compress. On the others those are the plain formats.
    deflated: Option<Box<[OnceLock<Bytes>; FORMATS.len() - PLAIN_FORMATS]>>,
}

impl Message {
    /// Gives a draft its place. `sequence` counts the messages of the node, over all topics.
    pub fn new(draft: Draft, position: Position, sequence: u64) -> Self {
        let Draft { topic, event, key, deflate, kind, raw_frame, payload_start } = draft;
        let mut frames = [const { OnceLock::new() }; PLAIN_FORMATS];
        frames[FormatId::RAW.index()] = OnceLock::from(raw_frame);
        let deflated = deflate.then(Box::default);
        Self { topic, position, sequence, kind, event, key, payload_start, frames, deflated }
    }

    /// The whole frame in `format`, the same bytes for every caller.
    pub fn frame(&self, format: FormatId) -> &Bytes {
        let cell = match (format.index().checked_sub(PLAIN_FORMATS), &self.deflated) {
            (None, _) => &self.frames[format.index()],
            (Some(compressed), Some(cells)) => &cells[compressed],
            (Some(_), None) => return self.frame(format.plain()),
        };
        cell.get_or_init(|| format.format().encode(self))
    }

    /// The concrete topic, also for those who came by a wildcard.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Which count the offset belongs to.
    pub fn epoch(&self) -> Epoch {
        self.position.epoch
    }

    /// The place in the topic, from 1.
    pub fn offset(&self) -> u64 {
        self.position.offset
    }

    /// The place among all messages of the node. Within a topic it increases with the offset.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What the payload is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The publisher's event name.
    pub fn event(&self) -> Option<&str> {
        self.event.as_deref()
    }

    /// The publisher's conflation key.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The publisher's bytes.
    pub fn payload(&self) -> &[u8] {
        &self.frame(FormatId::RAW)[self.payload_start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: Kind, payload: &[u8]) -> Message {
        Message::new(
            Draft::new(Topic::new("t").unwrap(), kind, payload),
            Position { epoch: Epoch::new(7), offset: 1 },
            1,
        )
    }

    #[test]
    fn the_content_type_decides() {
        fn check(content_type: Option<&str>, payload: &[u8], expect: Option<Kind>) {
            assert_eq!(Kind::of(content_type, payload).ok(), expect, "{content_type:?} {payload:?}");
        }
        check(Some("application/json"), b"{\"a\":1}", Some(Kind::Json));
        check(Some("Application/JSON; charset=utf-8"), b"[1]\r\n", Some(Kind::Json));
        check(Some("application/geo+json"), b"null", Some(Kind::Json));
        check(Some("application/x-ndjson"), b"1", Some(Kind::Json));
        check(Some("application/json"), b"{\"a\":", None);
        check(Some("application/json"), b"", None);
        check(Some("application/json"), b"\"\xff\"", None);
        check(Some("application/json"), b"1 2", None);
        check(Some("text/plain"), "ü".as_bytes(), Some(Kind::Text));
        check(Some("text/plain"), b"\xff", None);
        check(Some("application/octet-stream"), b"abc", Some(Kind::Binary));
        check(Some("image/png"), b"abc", Some(Kind::Text));
        check(Some("image/png"), b"\x89PNG", Some(Kind::Binary));
        check(None, b"abc", Some(Kind::Text));
        check(None, b"\xff", Some(Kind::Binary));
        check(Some(""), b"", Some(Kind::Text));
    }

    #[test]
    fn deep_json_is_an_error_and_not_a_crash() {
        let bomb = "[".repeat(100_000);
        assert!(matches!(Kind::of(Some("application/json"), bomb.as_bytes()), Err(PayloadError::Json(_))));
    }

    #[test]
    fn payloads_arrive_as_posted() {
        fn check(kind: Kind, payload: &[u8], expect: &[u8]) {
            assert_eq!(message(kind, payload).payload(), expect, "{payload:?}");
        }
        check(Kind::Json, br#"{"price":64000.10}"#, br#"{"price":64000.10}"#);
        check(Kind::Json, b"{\r\n\"a\":1}\n", b"{  \"a\":1} ");
        check(Kind::Text, b"a\nb\r\n", b"a\nb\r\n");
        check(Kind::Binary, b"\0\n\xff", b"\0\n\xff");
        check(Kind::Text, b"", b"");
        check(Kind::Binary, &[7; 70_000], &[7; 70_000]);
    }

    #[test]
    fn a_frame_is_encoded_once() {
        let message = message(Kind::Json, b"{}");
        for format in FormatId::ALL {
            assert_eq!(
                message.frame(format).as_ptr(),
                message.frame(format).as_ptr(),
                "{}",
                format.format().name()
            );
        }
        assert_eq!(&message.frame(FormatId::RAW)[..], b"\x81\x02{}");
    }
}
