//! One client in the fan-out.

use fanfare_wire::FormatId;
use smallvec::SmallVec;

use crate::outbox::Outbox;

/// Names a subscriber of one shard. An id is not reused while anyone may still hold it: the generation differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    pub(crate) outbox: Outbox,
    pub(crate) subscriptions: SmallVec<[Subscription; 1]>,
}

/// The tie between a subscriber and a topic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscription {
    pub(crate) topic: u32,
    /// Where the subscriber stands in the topic's list of its format.
    pub(crate) place: u32,
}

impl Subscriber {
    pub(crate) fn id(&self, slot: u32) -> SubscriberId {
        SubscriberId { slot, generation: self.generation }
    }
}
