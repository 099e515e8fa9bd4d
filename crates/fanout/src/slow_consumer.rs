//! What happens to a subscriber that reads slower than its topics speak.
//!
//! A frame the socket refuses waits in the outbox. When the outbox is at its bound, the policy of the topic whose message
//! comes next decides:
//!
//! | policy | the subscriber | what it is told |
//! |---|---|---|
//! | [`Disconnect`](SlowPolicy::Disconnect) | is closed | the close code |
//! | [`DropOldest`](SlowPolicy::DropOldest) | loses its oldest waiting messages of such topics | a gap, before the next message of the topic |
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
}

/// Why a shard gives up on a subscriber. The caller closes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// The outbox is full and the topic is strict.
    SlowConsumer,
    /// Messages had to be dropped, and the subscriber's wire format cannot say so.
    Gap,
    /// The peer is gone: the socket said so.
    PeerGone,
}
