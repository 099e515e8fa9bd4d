//! One fan-out pass: what came out of the inbox, on its way to the sockets.
//!
//! A pass is carried out in steps, so that reads, pings and handshakes go on between them. While it is under way,
//! subscribers come and go: lists are walked by index, leavers become tombstones, and newcomers stand behind the end that
//! the list had when the pass began.

use std::io::IoSlice;
use std::rc::Rc;

use fanfare_wire::FORMATS;
use smallvec::SmallVec;

use crate::batch::Batch;
use crate::slow_consumer::Eviction;
use crate::subscriber::SubscriberId;

/// Where frames leave the shard. Implementations write to a non-blocking socket, or simulate one.
pub trait Sink {
    /// Writes `bytes` to the subscriber's socket now.
    fn write(&mut self, to: SubscriberId, bytes: &[u8]) -> Written;

    /// Writes `slices` to the subscriber's socket now, as if they were one.
    fn write_vectored(&mut self, to: SubscriberId, slices: &[IoSlice<'_>]) -> Written;
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

/// Whether a pass has more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Call again.
    More,
    /// All subscribers had their turn.
    Done,
}

/// What a step did, for the counters and for the caller to act on. It is reused from step to step.
#[derive(Debug, Default)]
pub struct Report {
    /// Messages that went out to a subscriber whole.
    pub deliveries: u64,
    /// Bytes that sockets took.
    pub bytes: u64,
    /// Calls of the sink.
    pub writes: u64,
    /// Messages dropped for slow subscribers, and announced to them.
    pub dropped: u64,
    /// Subscribers whose socket just began to refuse: the caller waits for writability and then flushes.
    pub blocked: Vec<SubscriberId>,
    /// Subscribers the shard gave up on: the caller closes them.
    pub evicted: Vec<(SubscriberId, Eviction)>,
}

/// A pass under way. It must be carried to its end: its topics are kept from changing shape until then.
#[derive(Debug)]
#[must_use]
pub struct Pass {
    pub(crate) groups: Vec<Group>,
    pub(crate) cursor: Cursor,
    /// Subscribers of several topics: their frames wait in their outbox until the end of the pass, for one vectored
    /// write.
    pub(crate) gathered: Vec<SubscriberId>,
}

/// The messages of one topic in a pass.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) topic: u32,
    pub(crate) lists: [Planned; FORMATS.len()],
}

/// What one list of subscribers gets.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    pub(crate) batches: SmallVec<[Rc<Batch>; 1]>,
    /// The list's length when the pass began.
    pub(crate) len: usize,
    /// Whose turn is first: it moves from pass to pass, so that nobody is always last.
    pub(crate) first: usize,
}

/// The next subscriber of a pass.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    pub(crate) group: usize,
    pub(crate) list: usize,
    pub(crate) visited: usize,
    pub(crate) flushed: usize,
}
