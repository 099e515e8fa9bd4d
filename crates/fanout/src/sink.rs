//! Where frames leave the shard.
//!
//! What is said to many subscribers in one step of a pass is handed over together, so that a writer may hand it on
//! together: see [`Sink::write_all`]. All answers are there when the call returns, and nothing of a write outlives it.

use std::io::IoSlice;

use crate::subscriber::SubscriberId;

/// Where frames leave the shard. Implementations write to non-blocking sockets, or simulate them.
pub trait Sink {
    /// Writes `bytes` to the subscriber's socket now.
    fn write(&mut self, to: SubscriberId, bytes: &[u8]) -> Written;

    /// Writes `slices` to the subscriber's socket now, as if they were one.
    fn write_vectored(&mut self, to: SubscriberId, slices: &[IoSlice<'_>]) -> Written;

    /// Carries out `writes`, each to another subscriber and at most [`STEP_MAX`](crate::STEP_MAX), in any order. `refused`
    /// hears the places of those that a socket did not take whole, and what it did instead.
    fn write_all<'a>(
        &mut self,
        writes: impl ExactSizeIterator<Item = Write<'a>>,
        mut refused: impl FnMut(usize, Written),
    ) {
        for (place, write) in writes.enumerate() {
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

/// One of the writes of a step.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// To whose socket.
    pub to: SubscriberId,
    /// What.
    pub bytes: WriteBytes<'a>,
}

/// What is to be written.
#[derive(Debug, Clone, Copy)]
pub enum WriteBytes<'a> {
    /// Frames in one piece, shared by many writes.
    One(&'a [u8]),
    /// Pieces, as if they were one.
    Several(&'a [IoSlice<'a>]),
}

impl WriteBytes<'_> {
    /// How many bytes.
    #[expect(clippy::len_without_is_empty, reason = "nobody writes nothing")]
    pub fn len(&self) -> usize {
        match self {
            Self::One(bytes) => bytes.len(),
            Self::Several(slices) => slices.iter().map(|slice| slice.len()).sum(),
        }
    }
}

/// What a socket did with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It took that many, maybe fewer than it was given.
    Bytes(usize),
    /// It takes none now.
    Blocked,
    /// It is closed.
    PeerGone,
}
