//! Sockets that take everything, a little, nothing, or are dead; written to one by one, or all of a step together.

use std::collections::{HashMap, HashSet};
use std::io::IoSlice;

use fanfare_fanout::{STEP_MAX, Sink, SubscriberId, Write, WriteBytes, Written};

use super::random::Random;

/// Where a subscriber's bytes arrive.
#[derive(Default)]
pub(crate) struct Socket {
    /// What it takes until the next writable event; `None` is everything, always.
    pub(crate) room: Option<usize>,
    pub(crate) dead: bool,
    /// What arrived since the reader looked.
    pub(crate) received: Vec<u8>,
    /// It has refused bytes at least once.
    pub(crate) refused: bool,
}

impl Socket {
    fn take(&mut self, bytes: &[u8]) -> Written {
        assert!(!bytes.is_empty(), "a write of nothing");
        if self.dead {
            return Written::PeerGone;
        }
        let taken = self.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        self.received.extend_from_slice(&bytes[..taken]);
        // A short write says that the socket is full: the rest of the room is only there after the next event.
        self.refused |= taken < bytes.len();
        self.room = self.room.map(|room| if taken < bytes.len() { 0 } else { room - taken });
        match taken {
            0 => Written::Blocked,
            taken => Written::Bytes(taken),
        }
    }
}

/// All sockets, as the shard sees them.
#[derive(Default)]
pub(crate) struct Sockets {
    pub(crate) by_id: HashMap<SubscriberId, Socket>,
    /// Carries the writes of a step out in an order of its own; else one by one, as they come.
    pub(crate) shuffles: Option<Random>,
    /// How often there were several in a step.
    pub(crate) together: u64,
    pub(crate) writes: u64,
    pub(crate) bytes: u64,
}

impl Sockets {
    pub(crate) fn open(&mut self, id: SubscriberId, room: Option<usize>) {
        let before = self.by_id.insert(id, Socket { room, ..Socket::default() });
        assert!(before.is_none(), "{id:?} is in use");
    }

    pub(crate) fn shut(&mut self, id: SubscriberId) {
        self.by_id.remove(&id);
    }

    pub(crate) fn of(&mut self, id: SubscriberId) -> &mut Socket {
        self.by_id.get_mut(&id).expect("only connected subscribers are written to")
    }
}

impl Sink for Sockets {
    fn write(&mut self, to: SubscriberId, bytes: &[u8]) -> Written {
        let written = self.of(to).take(bytes);
        self.writes += 1;
        if let Written::Bytes(bytes) = written {
            self.bytes += bytes as u64;
        }
        written
    }

    fn write_vectored(&mut self, to: SubscriberId, slices: &[IoSlice<'_>]) -> Written {
        assert!(slices.iter().all(|slice| !slice.is_empty()), "an empty slice");
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter()).copied().collect();
        self.write(to, &bytes)
    }

    fn write_all<'a>(
        &mut self,
        writes: impl ExactSizeIterator<Item = Write<'a>>,
        mut refused: impl FnMut(usize, Written),
    ) {
        let mut writes: Vec<_> = writes.enumerate().collect();
        assert!(writes.len() <= STEP_MAX);
        let ids: HashSet<_> = writes.iter().map(|(_, write)| write.to).collect();
        assert_eq!(ids.len(), writes.len(), "two writes of one subscriber have no order");
        self.together += u64::from(writes.len() > 1);
        if let Some(random) = &mut self.shuffles {
            (1..writes.len()).for_each(|last| writes.swap(last, random.below(last + 1)));
        }
        for (place, write) in writes {
            let written = match write.bytes {
                WriteBytes::One(bytes) => self.write(write.to, bytes),
                WriteBytes::Several(slices) => self.write_vectored(write.to, slices),
            };
            if written != Written::Bytes(write.bytes.len()) {
                refused(place, written);
            }
        }
    }
}
