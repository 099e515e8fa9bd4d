//! The payload as posted, in one WebSocket frame: text for JSON and text, binary for the rest.

use bytes::Bytes;

use crate::event::Event;
use crate::format::{FormatId, WireFormat};
use crate::message::{Kind, Message};
use crate::websocket::header::{OpCode, frame};

pub(crate) struct Raw;

impl WireFormat for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    /// The frame a draft was born with: the payload's only copy lives in it.
    fn encode(&self, message: &Message) -> Bytes {
        message.frame(FormatId::RAW).clone()
    }

    /// A frame is somebody's payload: there is none for the server's own words.
    fn event(&self, _: &Event<'_>) -> Option<Bytes> {
        None
    }
}

/// The frame that holds a payload from its arrival on.
pub(crate) fn encode_payload(kind: Kind, payload: &[u8]) -> Bytes {
    frame(opcode(kind), payload)
}

/// Text for JSON and text, binary for the rest.
pub(crate) fn opcode(kind: Kind) -> OpCode {
    match kind {
        Kind::Json | Kind::Text => OpCode::Text,
        Kind::Binary => OpCode::Binary,
    }
}
