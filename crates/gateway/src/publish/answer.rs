//! What a publish is answered: where its messages are, and what is wrong with the others.

use fanfare_registry::Admitted;
use fanfare_wire::{Epoch, Topic};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::error::{ApiError, Body, ErrorObject, json_text};
use crate::idempotency::Answer;
use crate::subscribe::clipped;

/// Says that all of it was published before.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// How long it is what [`placed`] writes. An answer in a buffer of just its size is not copied, and has one allocation.
pub(super) fn placed_bytes(topic: &Topic, offset: u64) -> usize {
    let digits = offset.checked_ilog10().unwrap_or_default() as usize + 1;
    r#"{"topic":"","epoch":"--------","offset":}"#.len() + topic.as_str().len() + digits
}

/// Writes where a message is. No name of a topic or an epoch has a character that JSON escapes.
pub(super) fn placed(topic: &Topic, epoch: Epoch, offset: u64, text: &mut Vec<u8>) {
    text.extend_from_slice(br#"{"topic":""#);
    text.extend_from_slice(topic.as_str().as_bytes());
    text.extend_from_slice(br#"","epoch":""#);
    text.extend_from_slice(&epoch.text());
    text.extend_from_slice(br#"","offset":"#);
    // Writing to a Vec does not fail.
    let _ = serde_json::to_writer(&mut *text, &offset);
    text.push(b'}');
}

#[derive(Serialize)]
pub(super) struct Lined<'a> {
    pub(super) topic: &'a str,
    pub(super) epoch: Epoch,
    pub(super) first: u64,
    pub(super) offset: u64,
    pub(super) count: u64,
}

#[derive(Serialize)]
struct Failed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    error: ErrorObject<'a>,
}

/// The answer of `POST /publish`, written as it comes about. Past its bound, results are only counted.
pub(super) struct Results {
    json: Vec<u8>,
    /// Items so far: what numbers them when one key stands for all, also over the pieces of a publish stream.
    pub(super) items: usize,
    listed: usize,
    listed_max: usize,
    count: usize,
    replayed: usize,
    errors: bool,
}

impl Results {
    pub(super) fn new(listed_max: usize) -> Self {
        Self { json: Vec::new(), items: 0, listed: 0, listed_max, count: 0, replayed: 0, errors: false }
    }

    pub(super) fn push(&mut self, topic: &Topic, answer: &Answer) {
        self.replayed += usize::from(answer.replayed);
        let Admitted { epoch, last: offset, .. } = answer.admitted;
        self.list(|text| placed(topic, epoch, offset, text));
    }

    pub(super) fn push_error(&mut self, topic: Option<&str>, error: &ApiError) {
        self.errors = true;
        let topic = topic.map(clipped);
        // Writing to a Vec does not fail.
        self.list(|text| drop(serde_json::to_writer(text, &Failed { topic, error: error.into() })));
    }

    fn list(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.count += 1;
        if self.listed == self.listed_max {
            return;
        }
        if self.listed > 0 {
            self.json.push(b',');
        }
        self.listed += 1;
        write(&mut self.json);
    }

    pub(super) fn response(self) -> Response<Body> {
        let mut body = format!("{{\"errors\":{},", self.errors).into_bytes();
        if self.count > self.listed {
            body.extend_from_slice(format!("\"count\":{},\"truncated\":true,", self.count).as_bytes());
        }
        body.extend_from_slice(b"\"results\":[");
        body.extend_from_slice(&self.json);
        body.extend_from_slice(b"]}");
        let mut response = json_text(StatusCode::OK, body);
        if self.count > 0 && self.replayed == self.count {
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_into_just_its_bytes() {
        fn check(topic: &str, offset: u64, expect: &str) {
            let (topic, mut text) = (Topic::new(topic).unwrap(), Vec::new());
            placed(&topic, Epoch::new(0), offset, &mut text);
            assert_eq!(std::str::from_utf8(&text), Ok(expect));
            assert_eq!(placed_bytes(&topic, offset), text.len(), "{expect}");
        }
        check("a", 0, r#"{"topic":"a","epoch":"00000000","offset":0}"#);
        check("ticker.BTC-USD", 9, r#"{"topic":"ticker.BTC-USD","epoch":"00000000","offset":9}"#);
        check("A_=@,;:!-.9", 10, r#"{"topic":"A_=@,;:!-.9","epoch":"00000000","offset":10}"#);
        check("a", u64::MAX, r#"{"topic":"a","epoch":"00000000","offset":18446744073709551615}"#);
    }
}
