//! A WebSocket after its handshake: reads frames into the session, writes what waits, and sees the end through.
//!
//! One local task per connection. It owns the read half; frames of a fan-out pass are written by the worker, and only
//! what the socket refused is written here, when it is writable again.

use std::net::Shutdown;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use fanfare_wire::FormatId;
use fanfare_wire::websocket::{Parser, ParserLimits};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::disconnect::DisconnectReason;
use super::write_waiting;
use crate::connection::{Connection, Permit};
use crate::session::{Endpoint, Session};
use crate::worker::Worker;

/// After this many reads a session lets the others go on.
const READS_PER_POLL: usize = 4;

/// Runs a connection from its handshake to its end. `read_ahead` are bytes that came together with the request; `format` is the
/// endpoint's, or that under permessage-deflate.
pub(crate) async fn run(
    worker: Rc<Worker>,
    stream: TcpStream,
    read_ahead: Bytes,
    endpoint: Endpoint,
    format: FormatId,
    permit: Permit,
) {
    let connection = worker.connect(stream, format, permit);
    let mut socket = WebSocket {
        session: Session::new(endpoint),
        parser: Parser::new(),
        peer_closed: false,
        shut: false,
        worker: &worker,
        connection: &connection,
    };
    if let Err(reason) = socket.session.open(&worker, &connection) {
        worker.close(&connection, reason);
    }
    if !read_ahead.is_empty() {
        socket.receive(&mut Vec::from(read_ahead));
    }
    let reason = std::future::poll_fn(|context| socket.poll(context)).await;
    worker.disconnect(&connection, reason);
}

struct WebSocket<'a> {
    session: Session,
    parser: Parser,
    /// The peer's close frame is here.
    peer_closed: bool,
    /// Our side is closed: everything is written.
    shut: bool,
    worker: &'a Worker,
    connection: &'a Connection,
}

impl WebSocket<'_> {
    /// Goes on with whatever can go on. Ready with the reason when the connection is over.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<DisconnectReason> {
        self.connection.set_waker(context.waker());
        if self.connection.expired.get()
            || !self.read(context)
            || !write_waiting(self.worker, self.connection, context)
        {
            return Poll::Ready(self.reason());
        }
        if self.connection.closing.get().is_some()
            && !self.worker.shard.borrow().is_waiting(self.connection.id)
        {
            if !self.shut {
                self.shut = true;
                let _ = SockRef::from(&self.connection.stream).shutdown(Shutdown::Write);
            }
            // Otherwise the peer's close frame or its end is awaited, so that it gets to read ours.
            if self.peer_closed {
                return Poll::Ready(self.reason());
            }
        }
        Poll::Pending
    }

    fn reason(&self) -> DisconnectReason {
        self.connection.closing.get().unwrap_or(DisconnectReason::PeerGone)
    }

    /// Reads until nothing is there. `false` if the peer is gone.
    fn read(&mut self, context: &mut Context<'_>) -> bool {
        let stream = &self.connection.stream;
        for _ in 0..READS_PER_POLL {
            match stream.poll_read_ready(context) {
                Poll::Pending => return true,
                Poll::Ready(Err(_)) => return false,
                Poll::Ready(Ok(())) => {}
            }
            let worker = self.worker;
            let mut scratch = worker.scratch.borrow_mut();
            match stream.try_read(&mut scratch) {
                Ok(0) => return false,
                Ok(count) => self.receive(&mut scratch[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        context.waker().wake_by_ref();
        true
    }

    /// Hands the frames in `bytes` to the session.
    fn receive(&mut self, bytes: &mut [u8]) {
        let limits = &self.worker.shared.config.limits;
        let limits = ParserLimits {
            message_bytes_max: limits.message_bytes,
            fragments_max: u32::try_from(limits.fragments).unwrap_or(u32::MAX),
            deflate: self.connection.format != self.connection.format.plain(),
        };
        let mut events = self.parser.feed(bytes, limits);
        while let Some(event) = events.next() {
            let handled = match event {
                // Whatever else the peer says, its close frame is awaited alone.
                Ok(event) if self.connection.closing.get().is_some() => {
                    self.peer_closed |= matches!(event, fanfare_wire::websocket::Event::Close(_));
                    continue;
                }
                Ok(event) => self.session.handle(self.worker, self.connection, event),
                Err(fault) => Err(DisconnectReason::Fault(fault)),
            };
            if let Err(reason) = handled {
                self.peer_closed |= matches!(reason, DisconnectReason::PeerClosed(_));
                self.worker.close(self.connection, reason);
            }
        }
    }
}
