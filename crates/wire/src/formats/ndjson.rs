//! The native JSON message on a line of its own, for the shell: one HTTP chunk a message.

use bytes::Bytes;

use super::json;
use crate::chunk::chunk;
use crate::event::Event;
use crate::format::WireFormat;
use crate::message::Message;

pub(crate) struct Ndjson;

impl WireFormat for Ndjson {
    fn name(&self) -> &'static str {
        "ndjson"
    }

    fn encode(&self, message: &Message) -> Bytes {
        line(json::object(message))
    }

    fn event(&self, event: &Event<'_>) -> Option<Bytes> {
        Some(line(event.json()))
    }
}

/// No JSON of ours has a line end in it: payloads lost theirs when they were taken in.
fn line(mut json: Vec<u8>) -> Bytes {
    json.push(b'\n');
    chunk(&json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Draft, Kind};
    use crate::position::{Epoch, Position};
    use crate::topic::Topic;

    #[test]
    fn a_message_is_a_line() {
        let draft = Draft::new(Topic::new("t").unwrap(), Kind::Json, b"{\n}");
        let message = Message::new(draft, Position { epoch: Epoch::new(1), offset: 7 }, 7);
        assert_eq!(Ndjson.encode(&message), "24\r\n{\"topic\":\"t\",\"offset\":7,\"data\":{ }}\n\r\n");
        let heartbeat = Ndjson.event(&Event::Heartbeat { time: 5 }).unwrap();
        assert_eq!(heartbeat, "1e\r\n{\"type\":\"heartbeat\",\"time\":5}\n\r\n");
    }
}
