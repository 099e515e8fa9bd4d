//! One item of `POST /publish`: where to, the payload, and what goes with it.
//!
//! ```text
//!   {"topic":"ticker.ETH-USD","data":{"bid":"3100.00"},"key":"ETH","event":"ticker","id":"dedupe-2"}
//!   {"topics":["a","b"],"data64":"AP8="}
//! ```
//! `data` is cut out as the bytes that arrived. Unknown keys are ignored.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::message::Kind;
use crate::raw;

/// The longest event name, in bytes.
pub const EVENT_BYTES_MAX: usize = 100;
/// The longest conflation key, in bytes.
pub const KEY_BYTES_MAX: usize = 200;

/// One message to be published to one or more topics.
#[derive(Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// Names, not checked yet; at least one.
    pub topics: Vec<Cow<'a, str>>,
    /// What the payload is.
    pub kind: Kind,
    /// The publisher's bytes.
    pub payload: Cow<'a, [u8]>,
    /// Event name.
    pub event: Option<Cow<'a, str>>,
    /// Conflation key.
    pub key: Option<Cow<'a, str>>,
    /// Idempotency key.
    pub id: Option<Cow<'a, str>>,
}

/// Why an item is none. The others of its request are not touched by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ItemError(pub String);

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow)]
    topics: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default, deserialize_with = "raw::present")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
}

/// Reads one item: a line of NDJSON, or an element of [`elements`].
pub fn parse(item: &[u8]) -> Result<Item<'_>, ItemError> {
    let refuse = |message: &str| Err(ItemError(message.to_owned()));
    let Ok(text) = std::str::from_utf8(item) else { return refuse("the item is not UTF-8") };
    // serde would also read a struct from an array of its fields.
    if !text.trim_start().starts_with('{') {
        return refuse("an item is a JSON object");
    }
    let fields: Fields<'_> = serde_json::from_str(text)
        .map_err(|error| ItemError(format!("not an item: {}", raw::clipped(&error))))?;
    let topics = match (fields.topic, fields.topics) {
        (Some(topic), None) => vec![topic],
        (None, Some(topics)) if !topics.is_empty() => topics,
        (None, Some(_)) => return refuse("\"topics\" is empty"),
        (Some(_), Some(_)) => return refuse("\"topic\" and \"topics\" exclude each other"),
        (None, None) => return refuse("\"topic\" is missing"),
    };
    let (kind, payload) = match (fields.data, fields.data64) {
        (Some(data), None) => (Kind::Json, Cow::Borrowed(data.get().as_bytes())),
        (None, Some(data)) => match STANDARD.decode(data.as_bytes()) {
            Ok(bytes) => (Kind::Binary, Cow::Owned(bytes)),
            Err(_) => return refuse("\"data64\" is not base64"),
        },
        (Some(_), Some(_)) => return refuse("\"data\" and \"data64\" exclude each other"),
        (None, None) => return refuse("\"data\" is missing"),
    };
    let item = Item { topics, kind, payload, event: fields.event, key: fields.key, id: fields.id };
    check_event(item.event.as_deref())?;
    check_key(item.key.as_deref())?;
    Ok(item)
}

/// The items of a JSON body: the elements of an array, or the body itself.
pub fn elements(body: &[u8]) -> Result<Vec<&RawValue>, ItemError> {
    let error = |error| ItemError(format!("the body is not valid JSON: {}", raw::clipped(&error)));
    let text = std::str::from_utf8(body).map_err(|_| ItemError("the body is not UTF-8".into()))?;
    if text.trim_start().starts_with('[') {
        serde_json::from_str(text).map_err(error)
    } else {
        serde_json::from_str(text).map(|element| vec![element]).map_err(error)
    }
}

/// An event name has no control characters: it becomes a line of its own in server-sent events.
pub fn check_event(event: Option<&str>) -> Result<(), ItemError> {
    check("event", event, EVENT_BYTES_MAX)
}

/// Checks a conflation key.
pub fn check_key(key: Option<&str>) -> Result<(), ItemError> {
    check("key", key, KEY_BYTES_MAX)
}

fn check(name: &str, text: Option<&str>, bytes_max: usize) -> Result<(), ItemError> {
    match text {
        Some(text) if text.is_empty() || text.len() > bytes_max => {
            Err(ItemError(format!("\"{name}\" has 1 to {bytes_max} bytes")))
        }
        Some(text) if text.chars().any(char::is_control) => {
            Err(ItemError(format!("\"{name}\" has a control character")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read() {
        let item =
            parse(br#" {"topic":"a.b","data":{"x": 1.10},"key":"k","event":"e","id":"i","more":1}"#).unwrap();
        assert_eq!(item.topics, ["a.b"]);
        assert_eq!((item.kind, &*item.payload), (Kind::Json, &br#"{"x": 1.10}"#[..]));
        assert_eq!(
            (item.key.as_deref(), item.event.as_deref(), item.id.as_deref()),
            (Some("k"), Some("e"), Some("i"))
        );
        let item = parse(br#"{"topics":["a","b"],"data64":"AP8="}"#).unwrap();
        assert_eq!((item.topics.len(), item.kind, &*item.payload), (2, Kind::Binary, &b"\0\xff"[..]));
        assert_eq!(&*parse(br#"{"topic":"a","data":null}"#).unwrap().payload, b"null");
    }

    #[test]
    fn a_bad_item_says_why() {
        fn check(item: &[u8], expect: &str) {
            let error = parse(item).expect_err(&String::from_utf8_lossy(item));
            assert!(error.0.contains(expect), "{error}");
        }
        check(b"", "JSON object");
        check(b"[\"a\"]", "JSON object");
        check(b"{\"topic\":\"\xff\"}", "UTF-8");
        check(b"{", "not an item");
        check(b"{\"data\":1}", "\"topic\" is missing");
        check(b"{\"topics\":[],\"data\":1}", "empty");
        check(b"{\"topic\":\"a\",\"topics\":[\"b\"],\"data\":1}", "exclude");
        check(b"{\"topic\":\"a\"}", "\"data\" is missing");
        check(b"{\"topic\":\"a\",\"data\":1,\"data64\":\"\"}", "exclude");
        check(b"{\"topic\":\"a\",\"data64\":\"?\"}", "base64");
        check(b"{\"topic\":\"a\",\"data\":1,\"event\":\"a\\nb\"}", "control");
        check(b"{\"topic\":\"a\",\"data\":1,\"key\":\"\"}", "1 to 200");
        check(b"{\"topic\":1,\"data\":1}", "not an item");
    }

    #[test]
    fn an_error_is_short_whatever_the_item() {
        let item = format!(r#"{{"topics":"{}","data":1}}"#, "\u{7f}".repeat(60_000));
        assert!(parse(item.as_bytes()).unwrap_err().0.len() < 1_000);
    }

    #[test]
    fn a_json_body_is_one_item_or_an_array() {
        let count = |body: &[u8]| elements(body).map(|elements| elements.len());
        assert_eq!(count(b"[]"), Ok(0));
        assert_eq!(count(b" [{}, 1,{\"a\":[1]}] "), Ok(3));
        assert_eq!(count(b"{}"), Ok(1));
        assert!(count(b"{}{}").is_err());
        assert!(count(b"").is_err());
        assert!(count(b"[\xff]").is_err());
    }
}
