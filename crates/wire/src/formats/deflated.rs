//! The WebSocket formats under permessage-deflate: the same messages, compressed where that makes them shorter.
//!
//! A message that does not become shorter is the plain frame, shared with those who read that format: under the extension a
//! message may go either way (RFC 7692, section 6). Who needs the frame first compresses, on its own thread.

use bytes::Bytes;

use crate::event::Event;
use crate::format::{FormatId, WireFormat};
use crate::formats::{json, raw};
use crate::message::Message;
use crate::websocket::OpCode;
use crate::websocket::deflate::frame;

pub(crate) struct RawDeflate;

impl WireFormat for RawDeflate {
    fn name(&self) -> &'static str {
        "raw_deflate"
    }

    fn encode(&self, message: &Message) -> Bytes {
        let frame = frame(raw::opcode(message.kind()), message.payload());
        frame.unwrap_or_else(|| message.frame(FormatId::RAW).clone())
    }

    fn event(&self, event: &Event<'_>) -> Option<Bytes> {
        raw::Raw.event(event)
    }
}

pub(crate) struct JsonDeflate;

impl WireFormat for JsonDeflate {
    fn name(&self) -> &'static str {
        "json_deflate"
    }

    fn encode(&self, message: &Message) -> Bytes {
        // Not by way of the plain frame, which nobody may want and the message would keep.
        let frame = frame(OpCode::Text, &json::object(message));
        frame.unwrap_or_else(|| message.frame(FormatId::JSON).clone())
    }

    /// The server's own words are few: they go as they are.
    fn event(&self, event: &Event<'_>) -> Option<Bytes> {
        json::Json.event(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Draft, Epoch, Kind, Position, Topic};

    fn message(deflate: bool, payload: &[u8]) -> Message {
        let mut draft = Draft::new(Topic::new("t").unwrap(), Kind::Json, payload);
        draft.deflate = deflate;
        Message::new(draft, Position { epoch: Epoch::new(1), offset: 1 }, 1)
    }

    #[test]
    fn a_message_is_compressed_if_its_topic_says_so_and_it_helps() {
        let long = format!("[{}1]", "1,".repeat(100));
        for (format, plain) in
            [(FormatId::RAW_DEFLATE, FormatId::RAW), (FormatId::JSON_DEFLATE, FormatId::JSON)]
        {
            let check = |deflate, payload: &[u8], compressed: bool| {
                let message = message(deflate, payload);
                let (frame, plain) = (message.frame(format), message.frame(plain));
                assert_eq!(frame[0], if compressed { 0xc1 } else { 0x81 }, "{payload:?}");
                assert_eq!(frame.len() < plain.len(), compressed, "{payload:?}");
                assert_eq!(frame.as_ptr() == plain.as_ptr(), !compressed, "{payload:?}");
            };
            check(true, long.as_bytes(), true);
            check(true, b"[1,1]", false);
            check(false, long.as_bytes(), false);
        }
    }
}
