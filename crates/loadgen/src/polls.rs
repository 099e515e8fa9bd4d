//! The answers to polls: found wherever the reads cut them, and taken apart into messages.
//!
//! # Bounds       an answer is at most [`ANSWER_BYTES_MAX`]

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::http::{self, Parsed};
use crate::scanner::Violation;

const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What came of an answer that is not whole.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    received: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Polled {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// The body of an answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer<'a> {
    pub(crate) cursor: &'a str,
    pub(crate) gap: bool,
    #[serde(borrow)]
    pub(crate) messages: Vec<Message<'a>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Message<'a> {
    pub(crate) topic: &'a str,
    pub(crate) offset: u64,
    #[serde(borrow)]
    pub(crate) data: Option<&'a RawValue>,
}

impl Polls {
    /// The next whole answer in `input`, which is moved past what was used. `None`: all of it is used up.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Polled>, Violation> {
        self.received.extend_from_slice(std::mem::take(input));
        if self.received.len() > ANSWER_BYTES_MAX {
            return Err(Violation("an answer past 64 MiB"));
        }
        match http::answer(&self.received) {
            Parsed::Partial => Ok(None),
            Parsed::Malformed(why) => Err(Violation(why)),
            Parsed::Whole(answer, length) => {
                // A client asks again only after the answer, so nothing follows.
                let mut body = std::mem::take(&mut self.received);
                body.truncate(length);
                body.drain(..answer.head_bytes);
                Ok(Some(Polled { status: answer.status, body }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_cut_anywhere_is_the_same() {
        let body = r#"{"cursor":"e:9","gap":false,"messages":[{"topic":"a","offset":2,"data":{"x": 1}}]}"#;
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        for cut in 0..text.len() {
            let mut polls = Polls::default();
            assert!(polls.next(&mut &text.as_bytes()[..cut]).unwrap().is_none());
            let polled = polls.next(&mut &text.as_bytes()[cut..]).unwrap().unwrap();
            assert_eq!(polled.status, 200);
            let answer: Answer<'_> = serde_json::from_slice(&polled.body).unwrap();
            assert_eq!((answer.cursor, answer.gap, answer.messages.len()), ("e:9", false, 1));
            let message = &answer.messages[0];
            assert_eq!((message.topic, message.offset, message.data.unwrap().get()), ("a", 2, r#"{"x": 1}"#));
            assert_eq!(polls.received.capacity(), 0, "nothing is held at rest");
        }
    }
}
