//! What a publisher sends: its bytes, what they are, and what the server may do with them.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::publisher::new_key;

/// The publisher's bytes and their content type, which decides whether they must be JSON and how they are framed.
///
/// ```
/// use fanfare_client::Payload;
///
/// let tick = Payload::json(r#"{"bid":"64000.10"}"#).key("BTC").event("ticker");
/// let line = Payload::text("hello");
/// let image = Payload::binary(&b"\x89PNG"[..]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Delivered to every subscriber as they are.
    pub bytes: Bytes,
    /// The `Content-Type`; none: text if the bytes are UTF-8, else binary.
    pub content_type: Option<Cow<'static, str>>,
    /// `Fanfare-Key`: on a conflating topic a newer message replaces a queued one of its key.
    pub key: Option<String>,
    /// `Fanfare-Event`: the event's name in event streams.
    pub event: Option<String>,
    /// `Idempotency-Key`: a repeat within two minutes returns the first result. With one, a publish that is lost on a
    /// connection kept from an earlier publish is sent again on a new one.
    pub idempotency_key: Option<String>,
}

impl Payload {
    /// Bytes without a content type.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), content_type: None, key: None, event: None, idempotency_key: None }
    }

    /// `application/json`; the server refuses what is not valid JSON.
    pub fn json(bytes: impl Into<Bytes>) -> Self {
        Self::new(bytes).content_type("application/json")
    }

    /// `application/x-ndjson`, for [`publish_lines`](crate::Publisher::publish_lines): each line is JSON.
    pub fn ndjson(bytes: impl Into<Bytes>) -> Self {
        Self::new(bytes).content_type("application/x-ndjson")
    }

    /// `text/plain`; the server refuses what is not UTF-8.
    pub fn text(bytes: impl Into<Bytes>) -> Self {
        Self::new(bytes).content_type("text/plain")
    }

    /// `application/octet-stream`: subscribers get binary frames.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self::new(bytes).content_type("application/octet-stream")
    }

    /// Sets the content type.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<Cow<'static, str>>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Sets the conflation key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the event's name.
    #[must_use]
    pub fn event(mut self, event: impl Into<String>) -> Self {
        self.event = Some(event.into());
        self
    }

    /// Sets the idempotency key.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }
}

/// One JSON message of a [`publish_many`](crate::Publisher::publish_many).
///
/// ```
/// use fanfare_client::Item;
///
/// let item = Item::new("ticker.ETH-USD", br#"{"bid":"3100.00"}"#)?.key("ETH");
/// assert!(Item::new("ticker.ETH-USD", b"{bid: 3100.00}").is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct Item {
    topic: String,
    data: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

impl Item {
    /// A message of `topic`; `data` is sent as it is, but on one line: raw CR and LF become spaces.
    ///
    /// # Errors
    /// If `data` is not one JSON value.
    pub fn new(topic: impl Into<String>, data: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(Self { topic: topic.into(), data: one_line(data)?, key: None, event: None, id: None })
    }

    /// Sets the conflation key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the event's name.
    #[must_use]
    pub fn event(mut self, event: impl Into<String>) -> Self {
        self.event = Some(event.into());
        self
    }

    /// Sets the idempotency key.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.id = Some(key.into());
        self
    }

    pub(crate) fn has_id(&self) -> bool {
        self.id.is_some()
    }

    pub(crate) fn with_id(mut self) -> Self {
        self.id.get_or_insert_with(new_key);
        self
    }
}

/// Valid JSON has CR and LF between tokens only, so a space in their place changes nothing.
pub(crate) fn one_line(json: &[u8]) -> Result<Box<RawValue>, serde_json::Error> {
    let value: &RawValue = serde_json::from_slice(json)?;
    let text = value.get();
    if text.contains(['\r', '\n']) {
        RawValue::from_string(text.replace(['\r', '\n'], " "))
    } else {
        Ok(value.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_items_data_goes_out_as_it_came_on_one_line() {
        for (data, line) in [
            (r#"{"bid":"64000.10"}"#, r#"{"topic":"t","data":{"bid":"64000.10"}}"#),
            ("[1.10,\r\n 2e-0 ]", r#"{"topic":"t","data":[1.10,   2e-0 ]}"#),
            (" null\n", r#"{"topic":"t","data":null}"#),
            (r#""a\nb""#, r#"{"topic":"t","data":"a\nb"}"#),
        ] {
            assert_eq!(serde_json::to_string(&Item::new("t", data.as_bytes()).unwrap()).unwrap(), line);
        }
        let full = Item::new("t", b"1").unwrap().key("k").event("e").idempotency_key("i");
        assert_eq!(
            serde_json::to_string(&full).unwrap(),
            r#"{"topic":"t","data":1,"key":"k","event":"e","id":"i"}"#
        );
    }

    #[test]
    fn what_is_not_one_json_value_is_no_item() {
        for data in ["", "{", "1 2", "{\"a\":\"\n\"}", "\u{feff}1"] {
            assert!(Item::new("t", data.as_bytes()).is_err(), "{data:?}");
        }
        assert!(Item::new("t", b"\"\xff\"").is_err());
    }
}
