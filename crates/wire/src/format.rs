//! Wire formats: how one kind of client sees messages.
//!
//! A format turns a message into one complete frame, ready for the socket. It is given the message alone: whatever
//! differs between two subscribers of a format cannot be in its frames, which is why all of them share the bytes.
//!
//! A new format is one file in `formats/`, one row in [`FORMATS`] and a name in [`FormatId`].

use bytes::Bytes;

use crate::event::Event;
use crate::formats::{deflated, event_stream, events, json, long_poll, ndjson, raw};
use crate::message::Message;
use crate::position::Epoch;

/// Encodes messages for one kind of client.
pub trait WireFormat: Send + Sync {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// The whole frame, transport header included. Called once per message, whoever and however many subscribe.
    fn encode(&self, message: &Message) -> Bytes;

    /// A control event in this format, if it can say one. A format that cannot say a gap cannot lose messages: its
    /// subscribers are closed instead.
    fn event(&self, event: &Event<'_>) -> Option<Bytes>;

    /// What tells a client that it has everything up to `sequence` of the node, for formats whose clients resume from
    /// that.
    fn mark(&self, epoch: Epoch, sequence: u64) -> Option<Bytes> {
        let _ = (epoch, sequence);
        None
    }
}

/// Every format this server speaks. A [`FormatId`] is a row of it.
pub const FORMATS: [&dyn WireFormat; 8] = [
    &raw::Raw,
    &json::Json,
    &event_stream::EventStream,
    &ndjson::Ndjson,
    &events::Events,
    &long_poll::LongPoll,
    &deflated::RawDeflate,
    &deflated::JsonDeflate,
];

/// How many rows of [`FORMATS`], from the first on, are formats of their own. The others are these, compressed.
pub(crate) const PLAIN_FORMATS: usize = 6;

/// Names a row of [`FORMATS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatId(u8);

impl FormatId {
    /// The payload as posted, one WebSocket frame a message.
    pub const RAW: Self = Self(0);
    /// The native JSON object, one WebSocket frame a message.
    pub const JSON: Self = Self(1);

    /// Server-sent events of one topic, one HTTP chunk a message.
    pub const EVENT_STREAM: Self = Self(2);
    /// The native JSON object on a line, one HTTP chunk a message.
    pub const NDJSON: Self = Self(3);
    /// The native JSON object in server-sent events of many topics, one HTTP chunk a message.
    pub const EVENTS: Self = Self(4);
    /// The native JSON object as it stands in the answer to a poll.
    pub const LONG_POLL: Self = Self(5);

    /// [`RAW`](Self::RAW) under permessage-deflate.
    pub const RAW_DEFLATE: Self = Self(6);
    /// [`JSON`](Self::JSON) under permessage-deflate.
    pub const JSON_DEFLATE: Self = Self(7);

    /// Every format, in the order of [`FORMATS`].
    pub const ALL: [Self; FORMATS.len()] = [
        Self::RAW,
        Self::JSON,
        Self::EVENT_STREAM,
        Self::NDJSON,
        Self::EVENTS,
        Self::LONG_POLL,
        Self::RAW_DEFLATE,
        Self::JSON_DEFLATE,
    ];

    /// The row in [`FORMATS`]; below `FORMATS.len()`.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The format without permessage-deflate: its clients say and are told the same.
    pub const fn plain(self) -> Self {
        match self {
            Self::RAW_DEFLATE => Self::RAW,
            Self::JSON_DEFLATE => Self::JSON,
            plain => plain,
        }
    }

    /// The format under permessage-deflate, if it is one of a WebSocket.
    pub const fn deflated(self) -> Option<Self> {
        match self.plain() {
            Self::RAW => Some(Self::RAW_DEFLATE),
            Self::JSON => Some(Self::JSON_DEFLATE),
            _ => None,
        }
    }

    /// The format itself.
    pub fn format(self) -> &'static dyn WireFormat {
        FORMATS[self.index()]
    }
}
