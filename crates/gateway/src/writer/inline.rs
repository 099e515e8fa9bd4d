//! The inline writer: `send` for each socket, now.
//!
//! A socket that tokio knows to be full costs one load and no system call. One under TLS whose records are left over wakes
//! its session, which waits for the socket: the shard may have nothing more for it, and would not say so.

use std::io::{Error, ErrorKind, IoSlice};

use fanfare_fanout::{Sink, SubscriberId, Written};

use crate::connection::{Connection, Connections};
use crate::socket::Socket;

/// Writes at once.
pub(crate) struct InlineWriter<'a> {
    pub(crate) connections: &'a Connections,
}

impl Sink for InlineWriter<'_> {
    #[inline]
    fn write(&mut self, to: SubscriberId, bytes: &[u8]) -> Written {
        match self.connections.get(to) {
            Some(connection) => match &connection.socket {
                Socket::Plain(stream) => written(stream.try_write(bytes)),
                Socket::Tls(socket) => encrypt(connection, || socket.write(bytes)),
            },
            None => Written::PeerGone,
        }
    }

    fn write_vectored(&mut self, to: SubscriberId, slices: &[IoSlice<'_>]) -> Written {
        match self.connections.get(to) {
            Some(connection) => match &connection.socket {
                Socket::Plain(stream) => written(stream.try_write_vectored(slices)),
                Socket::Tls(socket) => encrypt(connection, || socket.write_vectored(slices)),
            },
            None => Written::PeerGone,
        }
    }
}

/// Never inlined: the way of plain sockets stays short.
#[inline(never)]
fn encrypt(connection: &Connection, write: impl FnOnce() -> Written) -> Written {
    let written = write();
    if connection.socket.has_records() {
        connection.wake();
    }
    written
}

/// What a `send` of something said.
pub(super) fn written(result: Result<usize, Error>) -> Written {
    match result {
        // A socket takes something or says that it would block; nothing taken is an end.
        Ok(0) => Written::PeerGone,
        Ok(count) => Written::Bytes(count),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Written::Blocked
        }
        Err(_) => Written::PeerGone,
    }
}
