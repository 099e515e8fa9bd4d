//! Reading with epoll: the kernel says which sockets have something, and each is read with a call of its own.
//!
//! All sockets share one buffer. A read that leaves room in it took all there was; only a connection that is closing is
//! read to its end, because its end gives no second event. The clock is read once per read.

use std::io::{self, ErrorKind, Read as _};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::{Arrival, Sockets, What};
use crate::schedule::Clock;

const BUFFER_BYTES: usize = 256 * 1024;
const EVENTS_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct Epoll {
    clock: Clock,
    poll: Poll,
    events: Events,
    /// What the last wait brought and nobody took yet, the newest first.
    told: Vec<Told>,
    buffer: Vec<u8>,
}

/// What epoll told of one socket.
#[derive(Debug)]
struct Told {
    key: usize,
    writable: bool,
    readable: bool,
    closing: bool,
}

impl Epoll {
    pub(super) fn new(clock: Clock) -> io::Result<Self> {
        Ok(Self {
            clock,
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_MAX),
            told: Vec::with_capacity(EVENTS_MAX),
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    pub(super) fn add(&mut self, key: usize, socket: &mut TcpStream) -> io::Result<()> {
        self.poll.registry().register(socket, Token(key), Interest::READABLE | Interest::WRITABLE)
    }

    pub(super) fn pause(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        self.poll.registry().deregister(socket)
    }

    pub(super) fn resume(&mut self, key: usize, socket: &mut TcpStream) -> io::Result<()> {
        self.poll.registry().register(socket, Token(key), Interest::READABLE)
    }

    pub(super) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            done => done?,
        }
        self.told.extend(self.events.iter().map(|event| Told {
            key: event.token().0,
            writable: event.is_writable(),
            readable: event.is_readable(),
            closing: event.is_read_closed(),
        }));
        self.told.reverse();
        Ok(())
    }

    pub(super) fn next(&mut self, sockets: &mut impl Sockets) -> Option<Arrival<'_>> {
        let (key, length) = loop {
            let told = self.told.last_mut()?;
            let key = told.key;
            let Some(socket) = sockets.socket(key) else {
                self.told.pop();
                continue;
            };
            if std::mem::take(&mut told.writable) {
                return Some(Arrival { key, at_ns: self.clock.now_ns(), what: What::Connected });
            }
            if !told.readable {
                self.told.pop();
                continue;
            }
            match socket.read(&mut self.buffer) {
                Ok(length) => {
                    if length == 0 || (length < self.buffer.len() && !told.closing) {
                        self.told.pop();
                    }
                    break (key, length);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.told.pop();
                    if error.kind() != ErrorKind::WouldBlock {
                        let what = What::Failed(error.kind());
                        return Some(Arrival { key, at_ns: self.clock.now_ns(), what });
                    }
                }
            }
        };
        let what = if length == 0 { What::End } else { What::Bytes(&self.buffer[..length]) };
        Some(Arrival { key, at_ns: self.clock.now_ns(), what })
    }
}
