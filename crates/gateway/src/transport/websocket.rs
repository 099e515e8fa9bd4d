//! A WebSocket after its handshake: reads frames into the session, writes what waits, and sees the end through.
//!
//! One local task per connection. It owns the read half; frames of a fan-out pass are written by the worker, and only
//! what the socket refused is written here, when it is writable again.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use fanfare_wire::FormatId;
use fanfare_wire::websocket::{Parser, ParserLimits};

use super::disconnect::DisconnectReason;
use super::write_waiting;
use crate::admission;
use crate::auth::{self, expiry};
use crate::client::Client;
use crate::connection::{Connection, Permit};
use crate::session::{Endpoint, Session};
use crate::socket::Socket;
use crate::transport;
use crate::worker::Worker;

/// After this many reads a session lets the others go on.
const READS_PER_POLL: usize = 4;

/// Makes a connection's session and its beginning. `read_ahead` are bytes that came together with the request; `format` is
/// the endpoint's, or that under permessage-deflate.
///
/// What is returned is all that stays of it in memory while it is idle: no future of a handshake, and no buffer.
pub(crate) fn open(
    worker: Rc<Worker>,
    socket: Socket,
    read_ahead: Bytes,
    endpoint: Endpoint,
    format: FormatId,
    client: Client,
    permit: Permit,
) -> WebSocket {
    let connection = worker.connect(socket, format, client, permit);
    let inbound = transport::begin(&worker, &connection, || {
        // While its 101 waited, nobody saw it: what was revoked meanwhile is told now.
        let opened = auth::is_over(&worker, &connection.client)
            .map_err(|failure| expiry::reason(&connection.client, failure))
            .and_then(|()| Session::open(&worker, &connection, &endpoint));
        if let Err(reason) = opened {
            worker.close(&connection, reason);
        }
        let session = Session::new(&worker, endpoint);
        let mut inbound = Inbound { session, parser: Parser::new(), peer_closed: false };
        if !read_ahead.is_empty() {
            inbound.receive(&worker, &connection, &mut Vec::from(read_ahead));
        }
        inbound
    });
    WebSocket { worker, connection, inbound, shut: false, polled: false }
}

/// A connection's task, from its handshake to its end.
pub(crate) struct WebSocket {
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    inbound: Inbound,
    /// Our side is closed: everything is written.
    shut: bool,
    /// Inside of a poll: who is dropped there has panicked.
    polled: bool,
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        if self.polled {
            self.worker.give_up(&self.connection);
        }
    }
}

impl Future for WebSocket {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let socket = self.get_mut();
        socket.polled = true;
        let gone_on = socket.go_on(context);
        socket.polled = false;
        let reason = ready!(gone_on);
        socket.worker.disconnect(&socket.connection, reason);
        Poll::Ready(())
    }
}

impl WebSocket {
    /// Goes on with whatever can go on. Ready with the reason when the connection is over.
    fn go_on(&mut self, context: &mut Context<'_>) -> Poll<DisconnectReason> {
        let Self { worker, connection, inbound, shut, .. } = self;
        connection.set_waker(context.waker());
        if connection.expired.get()
            || !inbound.read(worker, connection, context)
            || !write_waiting(worker, connection, context)
        {
            return Poll::Ready(self.reason());
        }
        if connection.closing.get().is_some() && !worker.shard.borrow().is_waiting(connection.id) {
            *shut = *shut || connection.socket.poll_shutdown(context).is_ready();
            // Otherwise the peer's close frame or its end is awaited, so that it gets to read ours.
            if *shut && inbound.peer_closed {
                return Poll::Ready(self.reason());
            }
        }
        Poll::Pending
    }

    fn reason(&self) -> DisconnectReason {
        self.connection.closing.get().unwrap_or(DisconnectReason::PeerGone)
    }
}

/// What the client sends.
struct Inbound {
    session: Session,
    parser: Parser,
    /// The peer's close frame is here.
    peer_closed: bool,
}

impl Inbound {
    /// Reads until nothing is there. `false` if the peer is gone.
    fn read(&mut self, worker: &Worker, connection: &Connection, context: &mut Context<'_>) -> bool {
        let socket = &connection.socket;
        for _ in 0..READS_PER_POLL {
            match socket.poll_read_ready(context) {
                Poll::Pending => return true,
                Poll::Ready(Err(_)) => return false,
                Poll::Ready(Ok(())) => {}
            }
            let mut scratch = worker.scratch.borrow_mut();
            match socket.try_read(&mut scratch) {
                Ok(0) => return false,
                Ok(count) => self.receive(worker, connection, &mut scratch[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        context.waker().wake_by_ref();
        true
    }

    /// Hands the frames in `bytes` to the session.
    fn receive(&mut self, worker: &Worker, connection: &Connection, bytes: &mut [u8]) {
        let config = worker.shared.config();
        let limits = &config.limits;
        let limits = ParserLimits {
            message_bytes_max: limits.message_bytes,
            fragments_max: u32::try_from(limits.fragments).unwrap_or(u32::MAX),
            deflate: connection.format != connection.format.plain(),
        };
        let rate = config.limits.commands_per_second.map(|rate| (rate, worker.shared.admission.now()));
        let mut events = self.parser.feed(bytes, limits);
        while let Some(event) = events.next() {
            let handled = match event {
                // Whatever else the peer says, its close frame is awaited alone.
                Ok(event) if connection.closing.get().is_some() => {
                    self.peer_closed |= matches!(event, fanfare_wire::websocket::Event::Close(_));
                    continue;
                }
                Ok(event) => {
                    match rate.map(|(rate, now)| admission::command(worker, connection, now, rate)) {
                        None | Some(Ok(())) => self.session.handle(worker, connection, event),
                        Some(Err(_)) => Err(DisconnectReason::RateLimited),
                    }
                }
                Err(fault) => Err(DisconnectReason::Fault(fault)),
            };
            if let Err(reason) = handled {
                self.peer_closed |= matches!(reason, DisconnectReason::PeerClosed(_));
                worker.close(connection, reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_fits_a_small_task() {
        // tokio adds 104 bytes to a task's future, and rounds up to a multiple of 128.
        assert!(size_of::<WebSocket>() + 104 <= 256, "{}", size_of::<WebSocket>());
    }
}
