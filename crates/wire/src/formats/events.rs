//! Server-sent events (WHATWG HTML, section 9.2) of many topics: the native JSON message in each event, one HTTP chunk a
//! message.
//!
//! ```text
//!   id: k3x9wm0q:70211                                  a mark, now and then: everything up to this sequence of the node
//!   data: {"topic":"a","offset":1043,"data":{"x":1}}    came before
//! ```
//! A message has no id of its own: which messages of other topics a subscriber has depends on the subscriber, and its bytes
//! are shared. A mark is true for all who get it.

use bytes::Bytes;

use super::event_stream::EventStream;
use super::json;
use crate::chunk::chunk;
use crate::event::Event;
use crate::format::WireFormat;
use crate::message::Message;
use crate::position::Epoch;

pub(crate) struct Events;

impl WireFormat for Events {
    fn name(&self) -> &'static str {
        "events"
    }

    /// No JSON of ours has a line end in it: payloads lost theirs when they were taken in.
    fn encode(&self, message: &Message) -> Bytes {
        chunk(&[b"data: ", &json::object(message)[..], b"\n\n"].concat())
    }

    fn event(&self, event: &Event<'_>) -> Option<Bytes> {
        EventStream.event(event)
    }

    /// A line of the event that follows.
    fn mark(&self, epoch: Epoch, sequence: u64) -> Option<Bytes> {
        Some(chunk(format!("id: {epoch}:{sequence}\n").as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Draft, FormatId, Kind, Position, Topic};

    #[test]
    fn messages_and_marks_have_the_documented_bytes() {
        let draft = Draft::new(Topic::new("t").unwrap(), Kind::Json, b"{\"x\":\n1}");
        let message = Message::new(draft, Position { epoch: Epoch::new(1), offset: 3 }, 9);
        let expect = "30\r\ndata: {\"topic\":\"t\",\"offset\":3,\"data\":{\"x\": 1}}\n\n\r\n";
        assert_eq!(message.frame(FormatId::EVENTS), expect);
        let mark = FormatId::EVENTS.format().mark(Epoch::new(1), 70_211).unwrap();
        assert_eq!(mark, "13\r\nid: 10000000:70211\n\r\n");
    }
}
