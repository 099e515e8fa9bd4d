//! What a topic keeps for those who come later: at present its last message.
//!
//! A ring bounded by messages, age and bytes takes this place next; [`Replay::from`] already answers every start.

use std::sync::Arc;

use fanfare_wire::Message;
use fanfare_wire::command::Start;
use fanfare_wire::{Epoch, Position};

#[derive(Debug, Default)]
pub(crate) struct Replay {
    last: Option<Arc<Message>>,
}

/// What a newcomer gets before live messages.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum From {
    Nothing,
    Last,
}

impl Replay {
    /// Keeps `message` as the newest, and forgets the one before it.
    pub(crate) fn keep(&mut self, message: Arc<Message>) {
        self.last = Some(message);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.last = None;
    }

    /// The newest message.
    pub(crate) fn last(&self) -> Option<&Arc<Message>> {
        self.last.as_ref()
    }

    /// The payload bytes kept.
    pub(crate) fn bytes(&self) -> usize {
        self.last.as_ref().map_or(0, |message| message.payload().len())
    }

    /// Decides what a newcomer gets, and whether a position it named is recovered. A resume is complete or it is a fresh
    /// start with the last message; it is never a part.
    pub(crate) fn from(&self, start: &Start<'_>, head: Position) -> (From, Option<bool>) {
        match start {
            Start::Live => (From::Nothing, None),
            Start::Last | Start::Earliest => (From::Last, None),
            Start::After { epoch, offset } => {
                let same_count = epoch.parse::<Epoch>() == Ok(head.epoch);
                if same_count && *offset == head.offset {
                    (From::Nothing, Some(true))
                } else if same_count && offset.checked_add(1) == Some(head.offset) && self.last.is_some() {
                    (From::Last, Some(true))
                } else {
                    (From::Last, Some(false))
                }
            }
        }
    }
}
