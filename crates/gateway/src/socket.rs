//! A client's socket, plain or under TLS: what reads and writes it need not know which.
//!
//! A plain one is the kernel's. One under TLS encrypts what it is given, for its client alone, and hands the records to the
//! kernel at once. It takes nothing more while records are left over, so that what a slow client has yet to take waits
//! in its outbox, as it does for a plain one, and is subject to its topic's policy there:
//!
//! ```text
//!   write ─► records left over? ─┬─ yes, and the kernel takes no more ──────────────────► Blocked
//!                                └─ no ─► encrypt some ─► the kernel took all? ─┬─ yes: on with the rest
//!                                                                              └─ no: so much was taken
//! ```
//!
//! What is encrypted counts as written. Records left over are the session's to flush: it is woken, and
//! [`poll_write_ready`](Socket::poll_write_ready) is only ready behind them.
//!
//! # Owner        one worker's thread; not `Send`
//! # Bounds       `Limits::tls_unsent_bytes` of plaintext in records left over, beside the outbox

use std::cell::{Cell, RefCell};
use std::io::{self, Error, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use fanfare_fanout::Written;
use rustls::ServerConnection;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::worker::Worker;

/// See the [module](self).
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsSocket>),
}

impl Socket {
    /// What the kernel has of it.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(socket) => &socket.tcp,
        }
    }

    pub(crate) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(socket) if socket.decrypted.get() => Poll::Ready(Ok(())),
            _ => self.tcp().poll_read_ready(context),
        }
    }

    /// Reads what is there; 0 at the end.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.try_read(buffer),
            Self::Tls(socket) => socket.try_read(buffer),
        }
    }

    /// Ready when a write may be taken, which under TLS is behind all records left over.
    pub(crate) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_write_ready(context),
            Self::Tls(socket) => socket.poll_flush(context),
        }
    }

    /// Whether it has something to write by itself: records left over.
    pub(crate) fn has_records(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(socket) => socket.session.borrow().wants_write(),
        }
    }

    /// Writes an answer before the connection is dropped, if there is room for it.
    pub(crate) fn write_now(&self, answer: &[u8]) {
        let _ = match self {
            Self::Plain(stream) => SockRef::from(stream).send(answer).map(|_| ()),
            Self::Tls(socket) => {
                socket.write(answer);
                socket.close_notify()
            }
        };
    }

    /// Ends our side. Under TLS, behind what is left over, with words that say so: without them a client cannot tell an end
    /// from a cut.
    pub(crate) fn poll_shutdown(&self, context: &mut Context<'_>) -> Poll<()> {
        if let Self::Tls(socket) = self {
            let told = socket.close_notify();
            if told.is_ok() && ready!(socket.poll_flush(context)).is_err() {
                return Poll::Ready(());
            }
        }
        let _ = SockRef::from(self.tcp()).shutdown(Shutdown::Write);
        Poll::Ready(())
    }
}

/// A socket under TLS, from its handshake on.
pub(crate) struct TlsSocket {
    tcp: TcpStream,
    session: RefCell<ServerConnection>,
    /// Something read and decrypted may be waiting to be taken.
    decrypted: Cell<bool>,
    /// Its gauge is there.
    worker: Rc<Worker>,
}

impl TlsSocket {
    pub(crate) fn new(stream: TlsStream<TcpStream>, worker: Rc<Worker>) -> Self {
        let (tcp, mut session) = stream.into_inner();
        session.set_buffer_limit(Some(worker.shared.config().limits.tls_unsent_bytes));
        worker.counters().tls_connections.add(1);
        // The handshake may have read ahead.
        Self { tcp, session: RefCell::new(session), decrypted: Cell::new(true), worker }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut session = self.session.borrow_mut();
        if self.decrypted.replace(false)
            && let Some(count) = self.take_decrypted(&mut session, buffer)?
        {
            return Ok(count);
        }
        session.read_tls(&mut &*self)?;
        if let Err(error) = session.process_new_packets() {
            // The alert that says what is wrong, if there is room for it.
            let _ = self.push(&mut session);
            return Err(Error::new(ErrorKind::InvalidData, error));
        }
        match self.take_decrypted(&mut session, buffer)? {
            Some(count) => Ok(count),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// What is decrypted; `None` if nothing is, and 0 at the end, with or without words.
    fn take_decrypted(&self, session: &mut ServerConnection, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match session.reader().read(buffer) {
            Ok(count) => {
                self.decrypted.set(count > 0);
                Ok(Some(count))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            // WebSockets and HTTP have ends of their own: nobody is fooled by a cut.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Some(0)),
            Err(error) => Err(error),
        }
    }

    /// Encrypts and writes as much of `bytes` as the kernel takes, and then some: see the [module](self).
    pub(crate) fn write(&self, bytes: &[u8]) -> Written {
        let mut taken = 0;
        self.write_with(bytes.len(), |session| {
            let count = session.writer().write(&bytes[taken..])?;
            taken += count;
            Ok(count)
        })
    }

    /// Likewise, of slices as if they were one.
    pub(crate) fn write_vectored(&self, slices: &[IoSlice<'_>]) -> Written {
        let total = slices.iter().map(|slice| slice.len()).sum();
        let mut taken = 0;
        self.write_with(total, |session| {
            let count = if taken == 0 {
                session.writer().write_vectored(slices)?
            } else {
                // More than the bound: what it took costs more than a copy of the list.
                let mut rest = slices.to_vec();
                let mut rest = &mut rest[..];
                IoSlice::advance_slices(&mut rest, taken);
                session.writer().write_vectored(rest)?
            };
            taken += count;
            Ok(count)
        })
    }

    fn write_with(
        &self,
        total: usize,
        mut encrypt: impl FnMut(&mut ServerConnection) -> io::Result<usize>,
    ) -> Written {
        let mut session = self.session.borrow_mut();
        match self.push(&mut session) {
            Ok(true) => {}
            Ok(false) => return Written::Blocked,
            Err(_) => return Written::PeerGone,
        }
        let mut taken = 0;
        while taken < total {
            match encrypt(&mut session) {
                Ok(count) if count > 0 => taken += count,
                // There was room: the session is over.
                _ => return Written::PeerGone,
            }
            match self.push(&mut session) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => return Written::PeerGone,
            }
        }
        Written::Bytes(taken)
    }

    /// Says that nothing more will be written. The records are left over.
    fn close_notify(&self) -> io::Result<()> {
        let mut session = self.session.borrow_mut();
        session.send_close_notify();
        self.push(&mut session).map(drop)
    }

    /// Hands records to the kernel. `true` if none is left over.
    fn push(&self, session: &mut ServerConnection) -> io::Result<bool> {
        while session.wants_write() {
            match session.write_tls(&mut &*self) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.tcp.poll_write_ready(context))?;
            if self.push(&mut self.session.borrow_mut())? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Drop for TlsSocket {
    fn drop(&mut self) {
        self.worker.counters().tls_connections.subtract(1);
    }
}

/// The kernel's side of it, for records.
impl Read for &TlsSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.try_read(buffer)
    }
}

impl Write for &TlsSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.tcp.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === while requests are served ===

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if let Self::Plain(stream) = socket {
            return Pin::new(stream).poll_read(context, buffer);
        }
        loop {
            ready!(socket.poll_read_ready(context))?;
            match socket.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(socket) => socket.poll_taken(context, |socket| socket.write(bytes)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(socket) => socket.poll_taken(context, |socket| socket.write_vectored(slices)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(socket) if !socket.session.borrow().wants_write() => Poll::Ready(Ok(())),
            Self::Tls(socket) => TlsSocket::poll_flush(socket, context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_shutdown(self.get_mut(), context).map(Ok)
    }
}

impl TlsSocket {
    fn poll_taken(
        &self,
        context: &mut Context<'_>,
        mut write: impl FnMut(&Self) -> Written,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_flush(context))?;
            match write(self) {
                Written::Bytes(count) => return Poll::Ready(Ok(count)),
                Written::Blocked => {}
                Written::PeerGone => return Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_socket_is_no_larger_for_what_it_is_not() {
        assert_eq!(size_of::<Socket>(), size_of::<TcpStream>());
    }
}
