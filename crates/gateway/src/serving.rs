//! Requests on a connection, until it ends or becomes a subscriber.
//!
//! An answer that says that it is the connection's last leaves together with the end behind it: one packet, not two. Refusals are
//! such answers, and a flood gets nothing else.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::accept::Counted;
use crate::admission::Bound;
use crate::connection::Permit;
use crate::drain::Phase;
use crate::forwarded;
use crate::routes::{self, Upgrade, UpgradeSlot};
use crate::socket::Socket;
use crate::transport::{http_stream, websocket};
use crate::worker::Worker;

/// A request's header fits `Limits::header_bytes`; bodies are read in pieces of at most this.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Serves requests on a connection until it ends or becomes a subscriber.
pub(crate) async fn run(worker: Rc<Worker>, socket: Socket, peer: IpAddr, permit: Permit) {
    let _counted = Counted::new(&worker);
    // Not the configuration itself: a connection may outlive it.
    let (header_timeout, header_bytes, close_timeout) = {
        let limits = &worker.shared.config().limits;
        (limits.header_timeout, limits.header_bytes, limits.close_timeout)
    };
    let upgrade = Rc::new(UpgradeSlot::new(permit));
    let service = service_fn({
        let (worker, upgrade) = (Rc::clone(&worker), Rc::clone(&upgrade));
        move |request: Request<Incoming>| {
            let client = forwarded::client(&worker.shared.config(), peer, request.headers());
            routes::route(Rc::clone(&worker), Rc::clone(&upgrade), client, request)
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_header_size(header_bytes)
        .max_buf_size(READ_BUFFER_BYTES.max(header_bytes))
        .serve_connection(TokioIo::new(Served { socket, upgrade: Rc::clone(&upgrade) }), service);
    let mut phase = worker.shared.phase(worker.index);
    let mut draining = false;
    let served = tokio::select! {
        biased;
        served = &mut connection => served,
        _ = phase.wait_for(|phase| *phase >= Phase::Closing) => {
            draining = true;
            // A request under way is answered; an idle connection ends.
            Pin::new(&mut connection).graceful_shutdown();
            connection.await_end().await
        }
    };
    if served.as_ref().is_err_and(hyper::Error::is_parse_too_large) {
        worker.counters().refused(Bound::HeaderBytes);
    }
    let parts = connection.into_parts();
    let socket = parts.io.into_inner().socket;
    match (served, upgrade.take()) {
        // A task of its own each, so that nothing of the HTTP connection stays in memory.
        (Ok(()), Some((Upgrade::WebSocket(endpoint, format, client), permit))) => {
            let (worker, read_ahead) = (Rc::clone(&worker), parts.read_buf);
            drop(spawn_local(websocket::open(worker, socket, read_ahead, endpoint, format, client, permit)));
        }
        (Err(_), Some((Upgrade::Stream(request), permit))) => {
            drop(spawn_local(http_stream::open(Rc::clone(&worker), socket, request, permit)));
        }
        (Err(error), _) if error.is_timeout() => {
            // Between two requests nobody is refused anything, and nothing is said: whose request is on its way would take it for
            // the answer.
            let answer: &[u8] = if parts.read_buf.is_empty() {
                &[]
            } else {
                worker.counters().refused(Bound::HeaderTimeout);
                Bound::HeaderTimeout.answer()
            };
            socket.write_now(answer);
        }
        (served, None) if !draining && served.as_ref().err().is_none_or(hyper::Error::is_parse) => {
            tokio::select! {
                _ = phase.wait_for(|phase| *phase >= Phase::Closing) => {}
                _ = timeout(close_timeout, linger(&worker, &socket)) => {}
            }
        }
        _ => {}
    }
}

/// The socket, while hyper has it.
struct Served {
    socket: Socket,
    upgrade: Rc<UpgradeSlot>,
}

impl AsyncRead for Served {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Served {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &self.socket {
            Socket::Plain(stream) if self.upgrade.is_last() => poll_write_more(stream, context, slices),
            _ => Pin::new(&mut self.socket).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().socket.poll_shutdown(context).map(Ok)
    }
}

/// Writes what the end follows: the kernel holds the last packet back for it, for a fifth of a second at most.
fn poll_write_more(
    stream: &TcpStream,
    context: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(context))?;
        let write = || SockRef::from(stream).send_vectored_with_flags(slices, libc::MSG_MORE);
        match stream.try_io(Interest::WRITABLE, write) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}

/// Ends our side, and throws away what the peer still sends, up to its end. Closed with the rest of a refused header or body
/// unread, the connection would be reset, and the peer might never see the answer that says why.
async fn linger(worker: &Worker, socket: &Socket) {
    poll_fn(|context| socket.poll_shutdown(context)).await;
    // Below TLS: nobody decrypts what is thrown away.
    let stream = socket.tcp();
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut worker.scratch.borrow_mut()) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Waits for a connection without taking it, so that its parts can be had afterwards.
trait AwaitEnd: Future + Unpin {
    async fn await_end(&mut self) -> Self::Output {
        Pin::new(self).await
    }
}

impl<F: Future + Unpin> AwaitEnd for F {}
