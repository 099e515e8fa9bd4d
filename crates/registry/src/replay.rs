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

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_wire::{Draft, Kind, Topic};

    #[test]
    fn a_resume_is_complete_or_a_fresh_start() {
        const EPOCH: Epoch = Epoch::new(7);
        fn check(start: &Start<'_>, head: u64, keeps: bool, expect: (From, Option<bool>)) {
            let mut replay = Replay::default();
            if keeps {
                let draft = Draft::new(Topic::new("t").unwrap(), Kind::Text, b"x");
                replay.keep(Arc::new(Message::new(draft, Position { epoch: EPOCH, offset: head })));
            }
            let from = replay.from(start, Position { epoch: EPOCH, offset: head });
            assert_eq!(from, expect, "{start:?}, head {head}, keeps {keeps}");
        }
        fn after(epoch: Epoch, offset: u64) -> Start<'static> {
            Start::After { epoch: epoch.to_string().into(), offset }
        }
        check(&Start::Live, 5, true, (From::Nothing, None));
        check(&Start::Last, 5, true, (From::Last, None));
        check(&Start::Earliest, 5, true, (From::Last, None));
        // Nothing was missed.
        check(&after(EPOCH, 5), 5, true, (From::Nothing, Some(true)));
        check(&after(EPOCH, 5), 5, false, (From::Nothing, Some(true)));
        check(&after(EPOCH, 0), 0, false, (From::Nothing, Some(true)));
        // One message was missed: it is recovered if it is kept.
        check(&after(EPOCH, 4), 5, true, (From::Last, Some(true)));
        check(&after(EPOCH, 0), 1, true, (From::Last, Some(true)));
        check(&after(EPOCH, 4), 5, false, (From::Last, Some(false)));
        // More was missed than is kept.
        check(&after(EPOCH, 3), 5, true, (From::Last, Some(false)));
        // Another count, or a place that this one never had.
        check(&after(Epoch::new(8), 5), 5, true, (From::Last, Some(false)));
        check(&after(Epoch::new(8), 4), 5, true, (From::Last, Some(false)));
        check(&after(EPOCH, 6), 5, true, (From::Last, Some(false)));
        check(&after(EPOCH, u64::MAX), 0, false, (From::Last, Some(false)));
        check(&Start::After { epoch: "elsewhere".into(), offset: 5 }, 5, true, (From::Last, Some(false)));
    }
}
