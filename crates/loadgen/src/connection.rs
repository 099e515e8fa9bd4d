//! A publisher's keep-alive connection: what waits to be written, and what waits to be answered.
//!
//! # Owner        the publisher's thread
//! # Bounds       [`UNSENT_BYTES_MAX`]; past it the connection takes no POST

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::crowd::Scene;

const UNSENT_BYTES_MAX: usize = 16 << 20;
/// Written bytes in front of unwritten ones are cut off past this, and not each time.
const WRITTEN_BYTES_KEPT: usize = 4 << 20;
const CONNECT_WAIT: Duration = Duration::from_secs(1);
const RETRY_NS: u64 = 100_000_000;

/// One connection, made when the first POST needs it.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub(crate) socket: Option<TcpStream>,
    /// Not tried again before.
    retry_at_ns: u64,
    /// Requests, of which the first `written` bytes are in the socket.
    pub(crate) unsent: Vec<u8>,
    written: usize,
    /// Answers not looked at yet.
    pub(crate) received: Vec<u8>,
    /// What the next answers answer, the oldest first.
    pub(crate) unanswered: VecDeque<Post>,
}

/// A POST that was handed to a connection.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) topic: usize,
    /// One past that of its last message.
    pub(crate) next_sequence: u64,
    pub(crate) due_ns: u64,
}

impl Connection {
    /// Nothing waits for an answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// What to wait for, if it is connected.
    pub(crate) fn interest(&self) -> Option<PollFd<'_>> {
        let writing = if self.unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        Some(PollFd::new(self.socket.as_ref()?, PollFlags::IN | writing))
    }

    /// Whether a POST can be added; connects if need be.
    pub(crate) fn is_ready(&mut self, scene: &Scene, now_ns: u64) -> bool {
        if self.socket.is_none() && now_ns >= self.retry_at_ns {
            self.retry_at_ns = now_ns + RETRY_NS;
            self.socket = TcpStream::connect_timeout(&scene.address, CONNECT_WAIT)
                .and_then(|socket| {
                    socket.set_nodelay(true)?;
                    socket.set_nonblocking(true)?;
                    Ok(socket)
                })
                .ok();
        }
        self.socket.is_some() && self.unsent.len() - self.written < UNSENT_BYTES_MAX
    }

    /// Writes as much as the socket takes; `false` when it is broken.
    pub(crate) fn flush(&mut self) -> bool {
        let Some(socket) = &mut self.socket else { return true };
        while self.written < self.unsent.len() {
            match socket.write(&self.unsent[self.written..]) {
                Ok(0) => return false,
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.written >= WRITTEN_BYTES_KEPT {
                        self.unsent.drain(..self.written);
                        self.written = 0;
                    }
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.unsent.clear();
        self.written = 0;
        true
    }

    /// Reads what there is; `false` at the end of the stream.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> bool {
        let Some(socket) = &mut self.socket else { return true };
        loop {
            match socket.read(buffer) {
                Ok(0) => return false,
                Ok(length) => {
                    self.received.extend_from_slice(&buffer[..length]);
                    if length < buffer.len() {
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}
