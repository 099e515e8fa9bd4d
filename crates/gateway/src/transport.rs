//! What carries frames to a subscriber, once the request is answered.
//!
//! | transport | formats | liveness | the last frame |
//! |---|---|---|---|
//! | WebSocket | raw, json, and both compressed | ping and pong | a close frame with code and reason |
//! | HTTP stream | event_stream, events, ndjson | a heartbeat that the socket has to take | the last chunk |
//! | long poll | long_poll | the request's own timeout | the answer |

pub(crate) mod disconnect;
pub(crate) mod http_stream;
pub(crate) mod long_poll;
pub(crate) mod websocket;

use std::task::{Context, Poll};

use bytes::Bytes;
use fanfare_fanout::Flushed;
use fanfare_wire::FormatId;
use fanfare_wire::chunk;
use fanfare_wire::websocket::{OpCode, close_frame, frame};

use crate::connection::Connection;
use crate::worker::Worker;
use disconnect::DisconnectReason;

/// Whether a format goes over a WebSocket; else over an HTTP stream.
pub(crate) fn is_websocket(format: FormatId) -> bool {
    matches!(format.plain(), FormatId::RAW | FormatId::JSON)
}

/// What tells the peer that this was all.
pub(crate) fn last_frame(format: FormatId, reason: DisconnectReason) -> Bytes {
    match reason {
        _ if reason.is_farewell() && matches!(format, FormatId::EVENT_STREAM | FormatId::EVENTS) => {
            // No blank line: some clients make an event of that.
            let retry = chunk::chunk(format!("retry: {}\n", retry_ms()).as_bytes());
            [&retry[..], &chunk::LAST[..]].concat().into()
        }
        _ if !is_websocket(format) => chunk::LAST,
        DisconnectReason::PeerClosed(None) => frame(OpCode::Close, &[]),
        _ => close_frame(reason.code(format.plain() == FormatId::JSON), &reason.text()),
    }
}

/// After how many milliseconds to come back: each for itself, so that they do not come together.
pub(crate) fn retry_ms() -> u64 {
    fastrand::u64(500..5_000)
}

/// A sign of life, the same bytes for all.
pub(crate) fn heartbeat(format: FormatId) -> Bytes {
    match format {
        // A comment line without a blank one: some clients make an event of that.
        FormatId::EVENT_STREAM | FormatId::EVENTS => Bytes::from_static(b"2\r\n:\n\r\n"),
        // An empty line, which readers of lines of JSON pass over.
        FormatId::NDJSON => Bytes::from_static(b"1\r\n\n\r\n"),
        // Final, ping, no payload.
        _ => Bytes::from_static(&[0x89, 0]),
    }
}

/// Runs the beginning of a connection that has no task yet. Should it panic, what it has left behind is taken back.
pub(crate) fn begin<R>(worker: &Worker, connection: &Connection, run: impl FnOnce() -> R) -> R {
    struct Begun<'a>(&'a Worker, &'a Connection);
    impl Drop for Begun<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.take_back(self.1);
            }
        }
    }
    let _begun = Begun(worker, connection);
    run()
}

/// Writes what waits for a connection, in its outbox or encrypted already, until nothing does or the socket is full. `false` if the peer is gone.
pub(crate) fn write_waiting(worker: &Worker, connection: &Connection, context: &mut Context<'_>) -> bool {
    while connection.socket.has_records() || worker.shard.borrow().is_waiting(connection.id) {
        match connection.socket.poll_write_ready(context) {
            Poll::Pending => return true,
            Poll::Ready(Err(_)) => return false,
            Poll::Ready(Ok(())) => {}
        }
        if !is_websocket(connection.format) {
            // It takes bytes: as good as a pong.
            connection.awaiting_pong.set(false);
        }
        match worker.flush_some(connection.id) {
            Flushed::Empty => {
                worker.shard.borrow_mut().rest(connection.id);
            }
            Flushed::More => {
                context.waker().wake_by_ref();
                return true;
            }
            // Either the socket said so, and the next look at its readiness waits for it; or it took a part, and the next
            // write will say so.
            Flushed::Blocked => {}
            Flushed::PeerGone => return false,
        }
    }
    true
}
