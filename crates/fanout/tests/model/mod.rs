//! What the simulation compares a shard with: topics that count, sockets that take what they like, and readers that know
//! what they were promised. Nothing here looks into the shard.

pub(crate) mod frames;
mod random;
mod reader;
mod seen;
mod socket;
mod topics;

use fanfare_wire::Epoch;

pub(crate) use random::Random;
pub(crate) use reader::{Follow, Given, Promise, Reader};
pub(crate) use seen::Seen;
pub(crate) use socket::Sockets;
pub(crate) use topics::{On, Tie, Topics};

/// The node, as marks name it.
pub(crate) const NODE: Epoch = Epoch::new(0x0f1f2);
