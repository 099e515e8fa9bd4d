//! A publisher's connection: what waits to be written, and what waits to be answered.
//!
//! # Owner        the publisher's thread
//! # Bounds       [`WAITING_BYTES_MAX`]; past it the connection takes no request

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::outgoing::Outgoing;
use crate::scene::Scene;

const WAITING_BYTES_MAX: usize = 16 << 20;
/// Written bytes in front of unwritten ones are cut off past this, and not each time.
const WRITTEN_BYTES_KEPT: usize = 4 << 20;
const CONNECT_WAIT: Duration = Duration::from_secs(1);
const RETRY_NS: u64 = 100_000_000;

/// One connection, made when the first request needs it.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub(crate) socket: Option<TcpStream>,
    /// Not tried again before.
    retry_at_ns: u64,
    /// The server's word to begin is missing.
    greeting: bool,
    /// Requests, of which the first `written` bytes are in the socket.
    unsent: Vec<u8>,
    written: usize,
    /// Requests that wait for the answers to others.
    waiting: VecDeque<(Vec<u8>, Post)>,
    waiting_bytes: usize,
    /// Answers not looked at yet.
    pub(crate) received: Vec<u8>,
    /// What the next answers answer, the oldest first.
    pub(crate) unanswered: VecDeque<Post>,
    /// Messages so far.
    pub(crate) number: u64,
}

/// A request that was handed to a connection.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) topic: usize,
    /// The sequence number of its first message, and how many it has.
    pub(crate) first: u64,
    pub(crate) messages: u64,
    pub(crate) due_ns: u64,
}

impl Connection {
    /// Nothing waits for an answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.unanswered.is_empty() && self.waiting.is_empty()
    }

    /// Whether a request can be added. Connects if need be, and says by `true` in the second place that it did.
    pub(crate) fn is_ready(&mut self, scene: &Scene, outgoing: &Outgoing, now_ns: u64) -> (bool, bool) {
        let mut is_new = false;
        if self.socket.is_none() && now_ns >= self.retry_at_ns {
            self.retry_at_ns = now_ns + RETRY_NS;
            self.socket = TcpStream::connect_timeout(&scene.publish_address, CONNECT_WAIT)
                .and_then(|socket| {
                    socket.set_nodelay(true)?;
                    socket.set_nonblocking(true)?;
                    Ok(socket)
                })
                .ok();
            is_new = self.socket.is_some();
            if is_new {
                (self.unsent, self.greeting) = outgoing.greeting();
            }
        }
        let bytes = self.unsent.len() - self.written + self.waiting_bytes;
        (self.socket.is_some() && bytes < WAITING_BYTES_MAX, is_new)
    }

    pub(crate) fn push(&mut self, bytes: Vec<u8>, post: Post) {
        self.waiting_bytes += bytes.len();
        self.waiting.push_back((bytes, post));
    }

    /// What is to be sent at once.
    pub(crate) fn reply(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    /// Writes as much as the socket and the requests in flight allow; `false` when it is broken.
    pub(crate) fn flush(&mut self, outgoing: &Outgoing) -> bool {
        if self.greeting {
            match outgoing.is_greeted(&mut self.received) {
                Ok(greeted) => self.greeting = !greeted,
                Err(()) => return false,
            }
        }
        while !self.greeting && self.unanswered.len() < outgoing.in_flight_max() {
            let Some((bytes, post)) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= bytes.len();
            self.unsent.extend_from_slice(&bytes);
            self.unanswered.push_back(post);
        }
        self.write()
    }

    fn write(&mut self) -> bool {
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
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// What was handed to it and not answered; it is as new afterwards, and not tried again at once.
    pub(crate) fn give_up(&mut self) -> impl Iterator<Item = Post> {
        let retry_at_ns = self.retry_at_ns;
        let gone = std::mem::replace(self, Self { retry_at_ns, ..Self::default() });
        gone.unanswered.into_iter().chain(gone.waiting.into_iter().map(|(_, post)| post))
    }
}
