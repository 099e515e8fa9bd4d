//! The inline writer: `send` for each socket, now.
//!
//! A socket that tokio knows to be full costs one load and no system call.

use std::io::{Error, ErrorKind, IoSlice};

use fanfare_fanout::{Sink, SubscriberId, Written};

use crate::connection::Connections;

/// Writes at once.
pub(crate) struct InlineWriter<'a> {
    pub(crate) connections: &'a Connections,
}

impl Sink for InlineWriter<'_> {
    fn write(&mut self, to: SubscriberId, bytes: &[u8]) -> Written {
        match self.connections.get(to) {
            Some(connection) => written(connection.stream.try_write(bytes)),
            None => Written::PeerGone,
        }
    }

    fn write_vectored(&mut self, to: SubscriberId, slices: &[IoSlice<'_>]) -> Written {
        match self.connections.get(to) {
            Some(connection) => written(connection.stream.try_write_vectored(slices)),
            None => Written::PeerGone,
        }
    }
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
