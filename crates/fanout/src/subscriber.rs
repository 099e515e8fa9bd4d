//! One client in the fan-out.

use std::collections::HashMap;

use fanfare_wire::{FormatId, Topic};
use smallvec::SmallVec;

use crate::outbox::Outbox;
use crate::pacing::Paced;

/// Names a subscriber of one shard. An id is not reused while anyone may still hold it: the generation differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriberId {
    /// The slot, small and dense: an index for tables beside the shard.
    pub slot: u32,
    /// Tells successive users of a slot apart.
    pub generation: u32,
}

/// What the shard knows of one client.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) generation: u32,
    pub(crate) format: FormatId,
    /// The client understands `gap` frames.
    pub(crate) takes_gaps: bool,
    /// No more messages: it was evicted or is being closed. What its outbox holds may still be written.
    pub(crate) closing: bool,
    /// What its outbox holds is to be written at the end of the pass, with what waits for others.
    pub(crate) gathered: bool,
    pub(crate) outbox: Outbox,
    /// The oldest first: a topic that several of them cover comes by the oldest.
    pub(crate) subscriptions: SmallVec<[Subscription; 1]>,
    /// For the first pass after it subscribed to a pattern.
    pub(crate) joining: Option<Box<Joining>>,
    /// Subscriptions that get messages only so often.
    pub(crate) paced: Option<Box<Paced>>,
}

/// The tie between a subscriber and an audience.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscription {
    pub(crate) audience: u32,
    /// Where the subscriber stands in the audience's list of its format.
    pub(crate) place: u32,
}

/// Offsets up to which messages of a pattern's topics are not for the subscriber: it came after them, or got them as
/// replay. They were in the inbox when it came, so they are all in the next pass. With a second pattern during that pass,
/// they are kept for one more.
#[derive(Debug)]
pub(crate) struct Joining {
    /// The last pass for which they matter.
    pub(crate) pass: u64,
    pub(crate) starts: HashMap<Topic, u64, ahash::RandomState>,
}

impl Subscriber {
    pub(crate) fn new(generation: u32, format: FormatId, takes_gaps: bool) -> Self {
        Self {
            generation,
            format,
            takes_gaps,
            closing: false,
            gathered: false,
            outbox: Outbox::default(),
            subscriptions: SmallVec::new(),
            joining: None,
            paced: None,
        }
    }

    pub(crate) fn id(&self, slot: u32) -> SubscriberId {
        SubscriberId { slot, generation: self.generation }
    }

    /// Whether nothing waits for it, or ever does but for its socket.
    pub(crate) fn is_idle(&self) -> bool {
        self.outbox.is_empty() && self.paced.is_none() && !self.closing
    }

    /// What waits for it, in bytes: for its socket, and for its time.
    pub(crate) fn waiting_bytes(&self) -> usize {
        if self.outbox.is_empty() && self.paced.is_none() {
            return 0;
        }
        self.outbox.bytes() + self.paced.as_ref().map_or(0, |paced| paced.bytes())
    }

    /// Whether it is tied to the audience.
    pub(crate) fn is_in(&self, audience: u32) -> bool {
        self.subscriptions.iter().any(|subscription| subscription.audience == audience)
    }
}
