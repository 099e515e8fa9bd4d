//! How a thread reads its many subscribers: it is told what connections became, and given the bytes that came.
//!
//! ```text
//!     add ── Connected ── Bytes … ──┬── stream ── Bytes … ── remove     who reads at full pace
//!                                   └── pause ─────── resume ── …       who is slow is read by its owner, or not at all
//! ```
//!
//! One loop of `wait` and `next` serves both ways: [`Epoll`] works everywhere, [`Ring`] costs less where the kernel
//! allows it. A key is the caller's; what was under way for a key that was removed is never handed out.
//!
//! # Owner        one thread, the one that first waits

use std::io::{self, ErrorKind};
use std::time::Duration;

use mio::net::TcpStream;

use crate::args::ReaderKind;
use crate::schedule::Clock;

use epoll::Epoll;
use ring::Ring;

mod epoll;
mod ring;

/// Reads the sockets of one thread.
#[derive(Debug)]
pub(crate) enum Reader {
    Epoll(Epoll),
    Ring(Ring),
}

/// What came of one connection.
#[derive(Debug)]
pub(crate) struct Arrival<'r> {
    pub(crate) key: usize,
    /// When this program had it: never before the bytes were in its memory, and never made later by waiting for others.
    pub(crate) at_ns: u64,
    pub(crate) what: What<'r>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What<'r> {
    /// The connection stands or has failed.
    Connected,
    Bytes(&'r [u8]),
    End,
    Failed(ErrorKind),
}

/// The sockets by their keys; `None` for one that has ended.
pub(crate) trait Sockets {
    fn socket(&mut self, key: usize) -> Option<&mut TcpStream>;
}

impl Reader {
    /// A reader of the asked kind. Where the kernel has or permits no io_uring, `Auto` means epoll.
    pub(crate) fn new(kind: ReaderKind, clock: Clock) -> io::Result<Self> {
        match kind {
            ReaderKind::Epoll => Ok(Self::Epoll(Epoll::new(clock)?)),
            ReaderKind::IoUring => Ok(Self::Ring(Ring::new(clock)?)),
            ReaderKind::Auto => match Ring::new(clock) {
                Ok(ring) => Ok(Self::Ring(ring)),
                Err(_) => Ok(Self::Epoll(Epoll::new(clock)?)),
            },
        }
    }

    /// Begins with a socket whose connection is being made.
    pub(crate) fn add(&mut self, key: usize, socket: &mut TcpStream) -> io::Result<()> {
        match self {
            Self::Epoll(epoll) => epoll.add(key, socket),
            Self::Ring(ring) => {
                ring.add(key, socket);
                Ok(())
            }
        }
    }

    /// What comes for `key` may be received ahead from now on, into the reader's own memory.
    pub(crate) fn stream(&mut self, key: usize) {
        if let Self::Ring(ring) = self {
            ring.stream(key);
        }
    }

    /// Leaves `key` alone, before it was ever streamed: its bytes stay in its socket.
    pub(crate) fn pause(&mut self, key: usize, socket: &mut TcpStream) -> io::Result<()> {
        match self {
            Self::Epoll(epoll) => epoll.pause(socket),
            Self::Ring(ring) => {
                ring.pause(key);
                Ok(())
            }
        }
    }

    /// Goes on with one that was paused.
    pub(crate) fn resume(&mut self, key: usize, socket: &mut TcpStream) -> io::Result<()> {
        match self {
            Self::Epoll(epoll) => epoll.resume(key, socket),
            Self::Ring(ring) => {
                ring.resume(key);
                Ok(())
            }
        }
    }

    /// Forgets `key`, whose socket is about to be closed.
    pub(crate) fn remove(&mut self, key: usize) {
        if let Self::Ring(ring) = self {
            ring.remove(key);
        }
    }

    /// Waits until something came, at most for `timeout`. Everything of the last wait has to be taken before.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Epoll(epoll) => epoll.wait(timeout),
            Self::Ring(ring) => ring.wait(timeout),
        }
    }

    /// The next of what came; `None` when all is taken.
    pub(crate) fn next(&mut self, sockets: &mut impl Sockets) -> Option<Arrival<'_>> {
        match self {
            Self::Epoll(epoll) => epoll.next(sockets),
            Self::Ring(ring) => ring.next(sockets),
        }
    }
}
