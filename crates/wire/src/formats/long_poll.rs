//! The native JSON object, to be put among the `messages` of the answer to a poll.

use bytes::Bytes;

use super::json;
use crate::event::Event;
use crate::format::WireFormat;
use crate::message::Message;

pub(crate) struct LongPoll;

impl WireFormat for LongPoll {
    fn name(&self) -> &'static str {
        "long_poll"
    }

    fn encode(&self, message: &Message) -> Bytes {
        json::object(message).into()
    }

    /// An answer says in its own keys what there is to say.
    fn event(&self, _: &Event<'_>) -> Option<Bytes> {
        None
    }
}
