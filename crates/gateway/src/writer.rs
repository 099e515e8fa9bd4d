//! Writes frames to subscribers' sockets: the one place where they leave the process.
//!
//! | writer | a step of a pass | everything else |
//! |---|---|---|
//! | [`ring`] | one system call for all its sends | `send` |
//! | [`inline`] | `send` for each socket | `send` |
//!
//! A subscriber under TLS is written to inline, whatever the writer.
//!
//! What a socket refuses the ring, tokio does not hear of: the session that is woken for it finds out by a send of its own, and
//! then waits for the socket as ever.

mod inline;
mod probe;
mod ring;

use std::io::{Error, IoSlice};
use std::os::fd::AsFd;

use fanfare_fanout::{Sink, SubscriberId, Write, Written};

use crate::config::{Config, WriterChoice};
use crate::metrics::Counters;
use crate::socket::Socket;
pub(crate) use inline::InlineWriter;
pub(crate) use probe::probe;
use ring::{Answer, Ring};

/// One write alone costs an eighth more as a submission; two cost less already.
const SUBMISSION_MIN: usize = 2;

/// What a worker writes through: a ring, where there is one.
pub(crate) struct Writer {
    ring: Option<Ring>,
}

/// Whether workers are to have rings. Says so in the log.
pub(crate) fn choose(choice: WriterChoice) -> bool {
    let probed = match choice {
        WriterChoice::Inline => return false,
        // It was probed with the configuration.
        WriterChoice::Ring => Ok(()),
        WriterChoice::Auto => probe(),
    };
    match &probed {
        Ok(()) => tracing::info!(writer = "ring", "passes are submitted to io_uring"),
        Err(reason) => tracing::info!(writer = "inline", %reason, "sockets are written one by one"),
    }
    probed.is_ok()
}

impl Writer {
    /// Opens a worker's writer, on its thread.
    pub(crate) fn open(with_ring: bool, config: &Config, counters: &Counters) -> Result<Self, Error> {
        let ring = if with_ring { Ring::new(slots(config)).map(Some) } else { Ok(None) };
        let ring = match ring {
            Err(error) if config.writer != WriterChoice::Ring => {
                tracing::warn!(%error, "a worker writes without a ring");
                None
            }
            ring => ring?,
        };
        counters.rings.set(u64::from(ring.is_some()));
        Ok(Self { ring })
    }

    /// Makes a subscriber's socket known. One under TLS is not: what is written to it is not what it is handed.
    pub(crate) fn add(&mut self, id: SubscriberId, socket: &Socket) {
        let (Some(ring), Socket::Plain(stream)) = (&mut self.ring, socket) else { return };
        if let Err(error) = ring.add(id, stream.as_fd()) {
            tracing::debug!(%error, "a socket is written inline");
        }
    }

    /// Forgets a subscriber's socket. To be called before it is closed: until then the ring keeps it open.
    pub(crate) fn remove(&mut self, id: SubscriberId, counters: &Counters) {
        if let Some(ring) = &mut self.ring
            && let Err(error) = ring.remove(id)
        {
            self.give_up(&error, counters);
        }
    }

    /// Goes on without the ring.
    fn give_up(&mut self, error: &Error, counters: &Counters) {
        tracing::error!(%error, "io_uring failed: sockets are written one by one from now on");
        self.ring = None;
        counters.rings.set(0);
    }
}

/// How many slots a ring needs: any worker may get all connections.
fn slots(config: &Config) -> u32 {
    /// The kernel's bound. It takes no more than the process may open files, either.
    const SLOTS_MAX: u64 = 1 << 20;
    let files = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(SLOTS_MAX, |(soft, _)| soft);
    (config.limits.connections as u64).min(files).clamp(1, SLOTS_MAX) as u32
}

/// The writer with the sockets of a worker, for a step of its shard.
pub(crate) struct Lent<'a> {
    pub(crate) writer: &'a mut Writer,
    pub(crate) inline: InlineWriter<'a>,
    pub(crate) counters: &'a Counters,
}

impl Sink for Lent<'_> {
    fn write(&mut self, to: SubscriberId, bytes: &[u8]) -> Written {
        self.inline.write(to, bytes)
    }

    fn write_vectored(&mut self, to: SubscriberId, slices: &[IoSlice<'_>]) -> Written {
        self.inline.write_vectored(to, slices)
    }

    fn write_all<'a>(
        &mut self,
        writes: impl ExactSizeIterator<Item = Write<'a>>,
        mut refused: impl FnMut(usize, Written),
    ) {
        let inline = &mut self.inline;
        let ring = self.writer.ring.as_mut().filter(|_| writes.len() >= SUBMISSION_MIN);
        let Some(ring) = ring else { return inline.write_all(writes, refused) };
        let submitted = ring.write_all(writes, |place, answer| match answer {
            Answer::Refused(written) => refused(place, written),
            Answer::Unknown(write) => {
                inline.write_all(std::iter::once(write), |_, written| refused(place, written));
            }
        });
        match submitted {
            Ok(submitted) => self.counters.submissions.add(u64::from(submitted)),
            Err(error) => self.writer.give_up(&error, self.counters),
        }
    }
}
