//! What the simulation compares a shard with: topics that count, sockets that take what they like, and readers that know
//! what they were promised. Nothing here looks into the shard.

mod random;
mod reader;
mod seen;
mod socket;
mod topics;

pub(crate) use random::Random;
pub(crate) use reader::{Promise, Reader, control_frame, heartbeat_frame};
pub(crate) use seen::Seen;
pub(crate) use socket::Sockets;
pub(crate) use topics::Topics;
