//! What happens to a subscriber that reads slower than its topics speak.
//!
//! A frame the socket refuses waits in the outbox. When the outbox is at its bound, the policy of the topic whose message
//! comes next decides; conflation begins with the first message that waits:
//!
//! | policy | the subscriber | what it is told |
//! |---|---|---|
//! | [`Disconnect`](SlowPolicy::Disconnect) | is closed | the close code |
//! | [`Conflate`](SlowPolicy::Conflate) | gets the newest message of each key | nothing: its acknowledgement said so |
//! | [`DropOldest`](SlowPolicy::DropOldest) | loses its oldest waiting messages of such topics | a gap, before the next message of the topic |
//!
//! Past [`OutboxLimits::messages_max`](crate::OutboxLimits::messages_max) keys, the oldest is dropped and announced. When all
//! outboxes together are past their budget, the largest shrink first: see [`budget`](crate::budget).
//!
//! A wire format that cannot say `gap` is closed instead of cut: nothing is lost silently. A frame that is half written is
//! never dropped.

/// The policy of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowPolicy {
    /// Close the connection. The client reconnects and starts from what is retained.
    #[default]
    Disconnect,
    /// Drop the oldest waiting messages and say which.
    DropOldest,
    /// Keep the newest message of each key. Offsets jump.
    Conflate,
}

impl SlowPolicy {
    /// What an acknowledgement says when a slow reader does not get every message.
    pub fn announced(self) -> Option<&'static str> {
        match self {
            Self::Disconnect => None,
            Self::DropOldest => Some("drop-oldest"),
            Self::Conflate => Some("conflate"),
        }
    }
}

/// Why a shard gives up on a subscriber. The caller closes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// The outbox is full and the topic is strict.
    SlowConsumer,
    /// Messages had to be dropped, and the subscriber's wire format cannot say so.
    Gap,
    /// All outboxes together are past their budget, and this one was among the largest.
    Budget,
    /// The peer is gone: the socket said so.
    PeerGone,
}
