//! The native JSON message: `{"topic":…,"offset":…,["event":…,]"data":…}`, in that order.
//!
//! JSON payloads stand in `data` byte for byte as posted; text becomes a JSON string; binary becomes base64 (RFC 4648,
//! section 4) under `data64`.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::event::Event;
use crate::format::WireFormat;
use crate::message::{Kind, Message};
use crate::websocket::header::{OpCode, frame};

pub(crate) struct Json;

impl WireFormat for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn encode(&self, message: &Message) -> Bytes {
        frame(OpCode::Text, &object(message))
    }

    fn event(&self, event: &Event<'_>) -> Option<Bytes> {
        Some(event.frame())
    }
}

/// The JSON object without any transport around it.
pub(crate) fn object(message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.payload().len() + message.topic().as_str().len() + 64);
    // Topic names need no escaping. Writing to a Vec does not fail.
    let _ = write!(out, r#"{{"topic":"{}","offset":{}"#, message.topic(), message.offset());
    if let Some(event) = message.event() {
        out.extend_from_slice(br#","event":"#);
        string(&mut out, event);
    }
    match message.kind() {
        Kind::Json => {
            out.extend_from_slice(br#","data":"#);
            out.extend_from_slice(message.payload());
        }
        Kind::Text => {
            out.extend_from_slice(br#","data":"#);
            string(&mut out, &String::from_utf8_lossy(message.payload()));
        }
        Kind::Binary => {
            out.extend_from_slice(br#","data64":""#);
            out.extend_from_slice(STANDARD.encode(message.payload()).as_bytes());
            out.push(b'"');
        }
    }
    out.push(b'}');
    out
}

fn string(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Draft;
    use crate::position::{Epoch, Position};
    use crate::topic::Topic;

    fn message(kind: Kind, event: Option<&str>, payload: &[u8]) -> Message {
        let mut draft = Draft::new(Topic::new("ticker.BTC-USD").unwrap(), kind, payload);
        draft.event = event.map(Into::into);
        Message::new(draft, Position { epoch: Epoch::new(1), offset: 1043 }, 1043)
    }

    #[test]
    fn messages_have_one_shape() {
        fn check(kind: Kind, event: Option<&str>, payload: &[u8], expect: &str) {
            assert_eq!(String::from_utf8(object(&message(kind, event, payload))).unwrap(), expect);
        }
        check(
            Kind::Json,
            None,
            br#"{"bid":"64000.10","ask":"64000.20"}"#,
            r#"{"topic":"ticker.BTC-USD","offset":1043,"data":{"bid":"64000.10","ask":"64000.20"}}"#,
        );
        check(
            Kind::Json,
            Some("tick\"er"),
            b" 1e400 ",
            r#"{"topic":"ticker.BTC-USD","offset":1043,"event":"tick\"er","data": 1e400 }"#,
        );
        check(
            Kind::Text,
            None,
            "line\n\"\u{2028}ü".as_bytes(),
            "{\"topic\":\"ticker.BTC-USD\",\"offset\":1043,\"data\":\"line\\n\\\"\u{2028}ü\"}",
        );
        check(Kind::Text, None, b"", r#"{"topic":"ticker.BTC-USD","offset":1043,"data":""}"#);
        check(Kind::Binary, None, b"\0\xff", r#"{"topic":"ticker.BTC-USD","offset":1043,"data64":"AP8="}"#);
    }

    #[test]
    fn a_frame_is_a_header_and_the_object() {
        let message = message(Kind::Json, None, b"{}");
        let frame = Json.encode(&message);
        assert_eq!(frame[..2], [0x81, frame.len() as u8 - 2]);
        assert_eq!(frame[2..], object(&message));
    }
}
