//! The listeners, and what happens between `accept` and a request.
//!
//! ```text
//!   accept ─► permit ─► PROXY header, of a trusted proxy ─► address ─► first byte, or TLS ─► requests (`serving`)
//! ```
//! Whoever meets a bound on the way is told so and let go; see [`admission`].

use std::future::poll_fn;
use std::io::{Error, ErrorKind, Read};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{sleep, timeout};

use crate::admission::{self, Bound};
use crate::connection::Permit;
use crate::drain::Phase;
use crate::limits::Limits;
use crate::log::rate::Kind;
use crate::proxy_protocol;
use crate::serving;
use crate::socket::Socket;
use crate::tls::{self, Handshake};
use crate::worker::Worker;

/// A listener whose options the kernel passes on to each accepted socket.
pub(crate) fn listen(
    address: SocketAddr,
    limits: &Limits,
    shared: bool,
) -> Result<std::net::TcpListener, Error> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // One listener per worker on one port: the kernel spreads connections by a hash of their addresses.
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)))?;
    socket.set_tcp_user_timeout(Some(limits.user_timeout))?;
    // What a slow reader leaves waiting belongs in its outbox, where its topic's policy sees it, not in the kernel.
    socket.set_tcp_notsent_lowat(u32::try_from(limits.socket_unsent_bytes).unwrap_or(u32::MAX))?;
    socket.set_send_buffer_size(limits.socket_send_bytes)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(limits.listen_backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// After so many accepts, everything else has a turn. A step of a pass takes as long as some ten handshakes or more: while there is
/// something to deliver, newcomers take a small part of the time, however many there are.
const ACCEPTS_PER_TURN: usize = 4;

/// Between two turns, newcomers wait for the end of a pass that is under way, but no longer than this: a worker that delivers all the
/// time lets some 2,000 a second in.
const PASS_WAIT_MAX: Duration = Duration::from_millis(2);

/// Accepts until the drain closes the listener.
pub(crate) async fn run(worker: Rc<Worker>, listener: TcpListener) {
    let mut phase = worker.shared.phase(worker.index);
    let mut reserve = Reserve::new(&listener);
    for turn in 1.. {
        if turn % ACCEPTS_PER_TURN == 0 {
            yield_now().await;
            let _ = timeout(PASS_WAIT_MAX, worker.between_passes()).await;
        }
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Closing) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                worker.counters().accepted.add(1);
                match admission::connection(&worker) {
                    Ok(permit) => drop(spawn_local(begin(Rc::clone(&worker), stream, peer, permit))),
                    Err(bound) => refuse(&worker, &stream, bound),
                }
            }
            // The peer gave up before we came.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                worker.counters().accept_errors.add(1);
                if error.raw_os_error() == Some(libc::EMFILE) && reserve.refuse(&worker, &listener).await {
                    continue;
                }
                // Out of file descriptors or memory: the listener stays readable, so without a pause this would spin.
                if let Some(suppressed) = worker.shared.may_log(Kind::Accept) {
                    tracing::warn!(%error, suppressed, "accepting pauses");
                }
                sleep(worker.shared.config().limits.accept_pause).await;
            }
        }
    }
}

/// A file descriptor that is there to be given up: when there is no other, somebody can still be told so.
struct Reserve(Option<OwnedFd>);

impl Reserve {
    fn new(listener: &TcpListener) -> Self {
        Self(listener.as_fd().try_clone_to_owned().ok())
    }

    /// Refuses whoever is next, if there is anybody. `false` if that is not possible: another thread was faster.
    async fn refuse(&mut self, worker: &Worker, listener: &TcpListener) -> bool {
        let is_free = self.0.take().is_some();
        let accepted = poll_fn(|context| Poll::Ready(listener.poll_accept(context))).await;
        let is_possible = match accepted {
            Poll::Ready(Ok((stream, _))) => {
                worker.counters().accepted.add(1);
                refuse(worker, &stream, Bound::Files);
                true
            }
            // Without a free descriptor, the kernel does not even say that nobody is there.
            Poll::Pending => true,
            Poll::Ready(Err(_)) => false,
        };
        *self = Self::new(listener);
        is_free && is_possible
    }
}

/// Tells a connection past a bound to come back later. What its socket does not take at once, it does not get; and who
/// expects a handshake gets nothing.
fn refuse(worker: &Worker, stream: &TcpStream, bound: Bound) {
    worker.counters().refused(bound);
    if worker.shared.config().tls.is_some() {
        return;
    }
    let socket = SockRef::from(stream);
    // Closed with bytes unread, the connection would be reset, and the peer might never see the answer.
    let _ = (&*socket).read(&mut worker.scratch.borrow_mut());
    // One packet with the end behind it.
    let _ = socket.send_with_flags(bound.answer(), libc::MSG_MORE);
    let _ = socket.shutdown(Shutdown::Write);
}

/// Takes a connection from `accept` to its end, or to the subscriber that it becomes.
async fn begin(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, permit: Permit) {
    let opened = {
        let _counted = Counted::new(&worker);
        let mut phase = worker.shared.phase(worker.index);
        tokio::select! {
            biased;
            opened = open(&worker, &stream, peer, &permit) => opened,
            _ = phase.wait_for(|phase| *phase >= Phase::Closing) => None,
        }
    };
    let Some(peer) = opened else { return };
    let is_plain = worker.shared.config().tls.is_none();
    if is_plain {
        serving::run(worker, Socket::Plain(stream), peer, permit).await;
    } else {
        // A task of its own, so that nothing of a handshake stays in memory.
        drop(spawn_local(secure(worker, stream, peer, permit)));
    }
}

/// What comes before the first request. The address of whoever is at the other end; nothing if the connection is not to go on.
async fn open(worker: &Worker, stream: &TcpStream, peer: SocketAddr, permit: &Permit) -> Option<IpAddr> {
    let peer = proxied(worker, stream, peer).await?;
    if let Err(bound) = admission::address(worker, peer, permit) {
        refuse(worker, stream, bound);
        return None;
    }
    if worker.shared.config().tls.is_some() {
        // A handshake has a time of its own.
        return Some(peer);
    }
    let limit = worker.shared.config().limits.first_request_timeout;
    // Looked at, and left where it is: a new socket counts as readable until it is tried.
    match timeout(limit, stream.peek(&mut [0])).await {
        Ok(first) => first.is_ok_and(|bytes| bytes > 0).then_some(peer),
        Err(_) => {
            refuse(worker, stream, Bound::FirstRequestTimeout);
            None
        }
    }
}

/// The peer, or whom it speaks for.
async fn proxied(worker: &Worker, stream: &TcpStream, peer: SocketAddr) -> Option<IpAddr> {
    let peer = peer.ip().to_canonical();
    let config = worker.shared.config();
    if !config.proxy_protocol || !config.trusts(peer) {
        return Some(peer);
    }
    let limit = config.limits.proxy_header_timeout;
    drop(config);
    match timeout(limit, proxy_protocol::read(stream)).await {
        Ok(Ok(source)) => Some(source.unwrap_or(peer)),
        Ok(Err(error)) => {
            worker.counters().proxy_header_errors.add(1);
            tracing::debug!(%peer, %error, "closed");
            None
        }
        Err(_) => {
            worker.counters().refused(Bound::ProxyHeaderTimeout);
            None
        }
    }
}

/// Shakes hands, and serves who did.
async fn secure(worker: Rc<Worker>, stream: TcpStream, peer: IpAddr, permit: Permit) {
    let _counted = Counted::new(&worker);
    let mut phase = worker.shared.phase(worker.index);
    let shaken = tokio::select! {
        biased;
        shaken = tls::shake_hands(&worker, stream) => shaken,
        _ = phase.wait_for(|phase| *phase >= Phase::Closing) => Err(Handshake::Gone),
    };
    let result = shaken.as_ref().err().copied().unwrap_or(Handshake::Done);
    worker.counters().tls_handshakes[result.index()].add(1);
    if let Ok(socket) = shaken {
        drop(spawn_local(serving::run(Rc::clone(&worker), socket, peer, permit)));
    }
}

/// A connection that carries requests, or does not yet, in the gauge of those. Its task may end in a panic.
pub(crate) struct Counted(Rc<Worker>);

impl Counted {
    pub(crate) fn new(worker: &Rc<Worker>) -> Self {
        worker.counters().http_connections.add(1);
        Self(Rc::clone(worker))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counters().http_connections.subtract(1);
        if std::thread::panicking() {
            self.0.counters().panics.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpStream as Client};

    #[test]
    fn accepted_sockets_inherit_their_options() {
        let limits = Limits::default();
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into(), &limits, true).unwrap();
        let _client = Client::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(limits.user_timeout));
        assert_eq!(socket.tcp_notsent_lowat().unwrap() as usize, limits.socket_unsent_bytes);
        assert_eq!(socket.send_buffer_size().unwrap(), 2 * limits.socket_send_bytes, "the kernel doubles it");
    }
}
