//! How the floor writes a frame to many sockets: a call for each, or many with one.

use std::io;

use slab::Slab;

use super::Connection;
use super::ring::Ring;

/// What the loop that is measured is made of.
pub(super) enum Writer {
    Send,
    Ring(Box<Ring>),
}

impl Writer {
    /// A connection has come.
    pub(super) fn add(&mut self, key: usize, connection: &Connection) -> io::Result<()> {
        match self {
            Self::Send => Ok(()),
            Self::Ring(ring) => ring.add(key, &connection.socket),
        }
    }

    /// A connection is about to be closed.
    pub(super) fn remove(&mut self, key: usize) -> io::Result<()> {
        match self {
            Self::Send => Ok(()),
            Self::Ring(ring) => ring.remove(key),
        }
    }

    /// Writes `frame` to all `subscribers`; those that didn't take all of it are added to `full`.
    pub(super) fn write_all(
        &mut self,
        connections: &mut Slab<Connection>,
        subscribers: &[usize],
        frame: &[u8],
        full: &mut Vec<usize>,
    ) {
        match self {
            Self::Send => {
                for &key in subscribers {
                    if !connections[key].write_whole(frame) {
                        full.push(key);
                    }
                }
            }
            Self::Ring(ring) => ring.send_all(subscribers, frame, full),
        }
    }
}
