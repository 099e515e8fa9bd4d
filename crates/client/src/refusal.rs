//! What the server says when it will not: a code for programs and a sentence for people.

use std::fmt;
use std::time::Duration;

use hyper::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;

use crate::connection::Answer;

/// A refusal over a WebSocket, or of one message of many.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// For programs: `bad_topic`, `forbidden`, `too_large`, ….
    #[serde(default)]
    pub code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
}

impl Refusal {
    /// Whether the server may answer otherwise later.
    pub fn is_passing(&self) -> bool {
        matches!(self.code.as_str(), "unavailable" | "rate_limited")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(&self.code, &self.message))
    }
}

/// A refusal over HTTP: an answer other than the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused with {status}: {refusal}", refusal = describe(.code, .message))]
pub struct HttpRefusal {
    /// The HTTP status.
    pub status: u16,
    /// For programs; empty if the answer was not Fanfare's.
    pub code: String,
    /// For people; the beginning of the body if the answer was not Fanfare's.
    pub message: String,
    /// How long the server asks to wait, with 429 and 503.
    pub retry_after: Option<Duration>,
}

impl HttpRefusal {
    /// Whether the server may answer otherwise later: 408, 429 and 5xx.
    pub fn is_passing(&self) -> bool {
        matches!(self.status, 408 | 429 | 500..)
    }

    /// Reads `{"error":{"code":…,"message":…}}`. An answer from something else on the way (a proxy's page) is quoted.
    pub(crate) fn read(answer: &Answer) -> Self {
        #[derive(Deserialize)]
        struct Body {
            error: Refusal,
        }
        const QUOTED_CHARS_MAX: usize = 200;

        let Refusal { code, message } = match serde_json::from_slice::<Body>(&answer.body) {
            Ok(body) => body.error,
            Err(_) => {
                let message =
                    String::from_utf8_lossy(&answer.body).trim().chars().take(QUOTED_CHARS_MAX).collect();
                Refusal { code: String::new(), message }
            }
        };
        Self { status: answer.status.as_u16(), code, message, retry_after: retry_after(&answer.headers) }
    }
}

fn describe(code: &str, message: &str) -> String {
    match (code, message) {
        ("", "") => "no reason given".to_owned(),
        ("", text) | (text, "") => text.to_owned(),
        (code, message) => format!("{message} ({code})"),
    }
}

/// `Retry-After` in seconds (RFC 9110 §10.2.3); its date form is not read.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::StatusCode;
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a_refusal_is_read_whoever_wrote_it() {
        for (body, retry_after, text, seconds) in [
            (r#"{"error":{"code":"full","message":"later"}}"#, "3", "later (full)", Some(3)),
            (r#"{"error":{"code":"unavailable"}}"#, "", "unavailable", None),
            ("<h1>Bad Gateway</h1>\n", "Fri, 31 Dec 1999 23:59:59 GMT", "<h1>Bad Gateway</h1>", None),
            ("", "-1", "no reason given", None),
        ] {
            let answer = Answer {
                status: StatusCode::SERVICE_UNAVAILABLE,
                headers: HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(retry_after))]),
                body: Bytes::from_static(body.as_bytes()),
            };
            let refusal = HttpRefusal::read(&answer);
            assert_eq!(refusal.to_string(), format!("refused with 503: {text}"));
            assert_eq!(refusal.retry_after, seconds.map(Duration::from_secs), "{retry_after}");
        }
    }
}
