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
//! # Acknowledgements
//!
//! Where a client only reads, Linux sends an acknowledgement for each small message the moment it is read, and on one
//! machine the way of that segment up to the server's socket is the reader's time: more than half of it. So who is
//! streamed acknowledges every second segment (RFC 9293, section 3.8.6.3), as one that also talks does by itself. The
//! kernel drops that mode whenever an acknowledgement had to wait for its timer; it is set anew every so many reads.
//!
//! # Owner        one thread, the one that first waits

use std::io::{self, ErrorKind};
use std::time::Duration;

use mio::net::TcpStream;
use socket2::SockRef;

use crate::args::ReaderKind;
use crate::schedule::Clock;

use epoll::Epoll;
use ring::Ring;

mod epoll;
mod ring;

/// A system call each time, so not for every read.
const READS_PER_ACK_MODE: u8 = 8;

/// Reads the sockets of one thread.
#[derive(Debug)]
pub(crate) struct Reader {
    way: Way,
    /// By key: reads until the mode of acknowledging is set; zero for those who are not streamed.
    reads_left: Vec<u8>,
}

#[derive(Debug)]
enum Way {
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
        let way = match kind {
            ReaderKind::Epoll => Way::Epoll(Epoll::new(clock)?),
            ReaderKind::IoUring => Way::Ring(Ring::new(clock)?),
            ReaderKind::Auto => match Ring::new(clock) {
                Ok(ring) => Way::Ring(ring),
                Err(_) => Way::Epoll(Epoll::new(clock)?),
            },
        };
        Ok(Self { way, reads_left: Vec::new() })
    }

    /// Begins with a socket whose connection is being made.
    pub(crate) fn add(&mut self, key: usize, socket: &mut TcpStream) -> io::Result<()> {
        if key >= self.reads_left.len() {
            self.reads_left.resize(key + 1, 0);
        }
        self.reads_left[key] = 0;
        match &mut self.way {
            Way::Epoll(epoll) => epoll.add(key, socket)?,
            Way::Ring(ring) => ring.add(key, socket),
        }
        Ok(())
    }

    /// What comes for `key` may be received ahead from now on, into the reader's own memory.
    pub(crate) fn stream(&mut self, key: usize) {
        self.reads_left[key] = 1;
        if let Way::Ring(ring) = &mut self.way {
            ring.stream(key);
        }
    }

    /// Leaves `key` alone, which was never streamed: its bytes stay in its socket.
    pub(crate) fn pause(&mut self, key: usize, socket: &mut TcpStream) -> io::Result<()> {
        match &mut self.way {
            Way::Epoll(epoll) => epoll.pause(socket)?,
            Way::Ring(ring) => ring.pause(key),
        }
        Ok(())
    }

    /// Goes on with one that was paused.
    pub(crate) fn resume(&mut self, key: usize, socket: &mut TcpStream) -> io::Result<()> {
        match &mut self.way {
            Way::Epoll(epoll) => epoll.resume(key, socket)?,
            Way::Ring(ring) => ring.resume(key),
        }
        Ok(())
    }

    /// Forgets `key`, whose socket is about to be closed.
    pub(crate) fn remove(&mut self, key: usize) {
        if let Way::Ring(ring) = &mut self.way {
            ring.remove(key);
        }
    }

    /// Waits until something came, at most for `timeout`. Everything of the last wait has to be taken before.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        match &mut self.way {
            Way::Epoll(epoll) => epoll.wait(timeout),
            Way::Ring(ring) => ring.wait(timeout),
        }
    }

    /// The next of what came; `None` when all is taken.
    pub(crate) fn next(&mut self, sockets: &mut impl Sockets) -> Option<Arrival<'_>> {
        let arrival = match &mut self.way {
            Way::Epoll(epoll) => epoll.next(sockets),
            Way::Ring(ring) => ring.next(sockets),
        }?;
        if let (What::Bytes(_), left @ 1..) = (&arrival.what, &mut self.reads_left[arrival.key]) {
            *left -= 1;
            if *left == 0 {
                *left = READS_PER_ACK_MODE;
                if let Some(socket) = sockets.socket(arrival.key) {
                    // Without it everything works the same and costs more.
                    let _ = SockRef::from(&*socket).set_tcp_quickack(false);
                }
            }
        }
        Some(arrival)
    }
}
