//! Server-sent events (WHATWG HTML, section 9.2) of one topic: one HTTP chunk a message.
//!
//! ```text
//!   id: k3x9wm0q:1043
//!   event: ticker                  if the publisher set one
//!   data: {"bid":"64000.10"}       a line per line of the payload; binary payloads are base64 (RFC 4648, section 4)
//! ```
//! `id` is the message's place, so that a browser that comes back asks for what follows it. A carriage return ends a line as
//! well as a line feed does: text with lone carriage returns arrives with line feeds in their place.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::chunk::chunk;
use crate::event::Event;
use crate::format::WireFormat;
use crate::message::{Kind, Message};

pub(crate) struct EventStream;

impl WireFormat for EventStream {
    fn name(&self) -> &'static str {
        "event_stream"
    }

    fn encode(&self, message: &Message) -> Bytes {
        let mut out = Vec::with_capacity(message.payload().len() + 64);
        // Writing to a Vec does not fail.
        let _ = writeln!(out, "id: {}:{}", message.epoch(), message.offset());
        if let Some(event) = message.event() {
            let _ = writeln!(out, "event: {event}");
        }
        match message.kind() {
            Kind::Json | Kind::Text => data(&mut out, message.payload()),
            Kind::Binary => data(&mut out, STANDARD.encode(message.payload()).as_bytes()),
        }
        out.push(b'\n');
        chunk(&out)
    }

    fn event(&self, event: &Event<'_>) -> Option<Bytes> {
        let mut out = format!("event: {}\n", event.name()).into_bytes();
        // The event's name says what the JSON form says in `type`, its first key.
        let json = event.json();
        let rest = json.iter().position(|byte| *byte == b',').map_or(&b"}"[..], |comma| &json[comma + 1..]);
        data(&mut out, &[b"{", rest].concat());
        out.push(b'\n');
        Some(chunk(&out))
    }
}

/// A `data:` line per line of `payload`.
fn data(out: &mut Vec<u8>, payload: &[u8]) {
    let mut rest = payload;
    loop {
        let end = memchr::memchr2(b'\r', b'\n', rest);
        let line = &rest[..end.unwrap_or(rest.len())];
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
        let Some(end) = end else { return };
        // CR LF is one line end.
        let width = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = &rest[end + width..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Draft;
    use crate::position::{Epoch, Position};
    use crate::topic::Topic;

    /// The event as a browser reads it: the chunk around it is checked and taken off.
    fn event(kind: Kind, name: Option<&str>, payload: &[u8]) -> String {
        let mut draft = Draft::new(Topic::new("t").unwrap(), kind, payload);
        draft.event = name.map(Into::into);
        let message = Message::new(draft, Position { epoch: Epoch::new(1), offset: 7 }, 7);
        let chunk = String::from_utf8(EventStream.encode(&message).to_vec()).unwrap();
        let (length, rest) = chunk.split_once("\r\n").unwrap();
        let event = rest.strip_suffix("\r\n").unwrap();
        assert_eq!(usize::from_str_radix(length, 16), Ok(event.len()));
        event.to_owned()
    }

    #[test]
    fn a_payload_is_one_event() {
        fn check(kind: Kind, name: Option<&str>, payload: &[u8], expect: &str) {
            assert_eq!(event(kind, name, payload), format!("id: 10000000:7\n{expect}\n\n"), "{payload:?}");
        }
        check(Kind::Json, None, br#"{"bid":"1"}"#, "data: {\"bid\":\"1\"}");
        check(Kind::Json, Some("ticker"), b"1", "event: ticker\ndata: 1");
        check(Kind::Text, None, b"", "data: ");
        check(Kind::Text, None, b"a\nb", "data: a\ndata: b");
        check(Kind::Text, None, b"a\r\nb\rc\n", "data: a\ndata: b\ndata: c\ndata: ");
        check(
            Kind::Text,
            None,
            b"x\n\ndata: forged\nid: 9:9\n\n",
            "data: x\ndata: \ndata: data: forged\ndata: id: 9:9\ndata: \ndata: ",
        );
        check(Kind::Text, None, "\u{2028}\0".as_bytes(), "data: \u{2028}\0");
        check(Kind::Binary, None, b"\0\xff\n", "data: AP8K");
    }

    #[test]
    fn a_gap_is_an_event_of_its_own() {
        let topic = Topic::new("t").unwrap();
        let reason = crate::event::GapReason::Slow;
        let gap = Event::Gap { topic: &topic, epoch: Epoch::new(1), from: 4, to: 5, reason };
        let chunk = EventStream.event(&gap).unwrap();
        let json = r#"{"topic":"t","epoch":"10000000","from":4,"to":5,"reason":"slow"}"#;
        assert_eq!(chunk, format!("{:x}\r\nevent: gap\ndata: {json}\n\n\r\n", json.len() + 19));
    }
}
