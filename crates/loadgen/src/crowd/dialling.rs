//! Making connections: those that are due, and those that are tried again.
//!
//! # Bounds       [`DIALING_MAX`] connections being made

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use super::Crowd;
use crate::dials::{Dial, Dials};
use crate::subscriber::{Ended, Subscriber};

/// Fewer than a listen backlog holds.
const DIALING_MAX: usize = 256;
/// Who was cut off and could not come back tries again after so long.
const RETRY_NS: u64 = 500_000_000;
/// Linux gives a destination address 28,232 ports by default; past this many another loopback address is dialled.
const CONNECTIONS_PER_ADDRESS: usize = 25_000;

impl Crowd {
    pub(super) fn waiting(&self) -> usize {
        self.dials.iter().map(Dials::len).sum::<usize>() + self.retries.len()
    }

    /// Makes the connections that are due; whether more are to come soon.
    pub(super) fn dial_due(&mut self, now_ns: u64) -> bool {
        let scene = Arc::clone(&self.scene);
        while self.dialing < DIALING_MAX
            && self.retries.front().is_some_and(|(failed_ns, _)| now_ns - failed_ns >= RETRY_NS)
            && let Some((_, dial)) = self.retries.pop_front()
        {
            self.dial(dial, now_ns);
        }
        for at in 0..self.dials.len() {
            while self.dialing < DIALING_MAX
                && let Some(dial) = self.dials[at].take_due(&scene, now_ns)
            {
                self.dial(dial, now_ns);
            }
        }
        self.dials.iter().any(|dials| dials.is_active(&scene, now_ns))
    }

    pub(super) fn dial(&mut self, dial: Dial, now_ns: u64) {
        let address = address_of(self.scene.address, self.before + self.dialled % self.size);
        self.dialled += 1;
        let Dial { group, past } = dial;
        match self.connect(group, address) {
            Ok((socket, key)) => {
                let subscriber = Subscriber::connecting(socket, group, past, &self.scene);
                assert_eq!(self.subscribers.insert(subscriber), key, "nothing was entered meanwhile");
                self.dialing += 1;
            }
            Err(error) => self.fail(Dial { group, past }, &Ended::Socket(error.kind()), now_ns),
        }
    }

    /// A connection that is being made, and the key it is registered with.
    pub(super) fn connect(&mut self, group: usize, address: SocketAddr) -> io::Result<(TcpStream, usize)> {
        let mut socket = match self.scene.scenario.subscribers[group].receive_buffer {
            Some(bytes) => connect_with_buffer(address, bytes)?,
            None => TcpStream::connect(address)?,
        };
        let key = self.subscribers.vacant_key();
        self.reader.add(key, &mut socket)?;
        Ok((socket, key))
    }
}

/// A connection whose receive buffer is set before the handshake, so that the window is never larger. The kernel keeps
/// twice as much.
fn connect_with_buffer(address: SocketAddr, bytes: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_recv_buffer_size(bytes)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// Where the connection `index` of a run goes to: 127.0.0.1, .2, .3 … when one address has too few ports.
fn address_of(address: SocketAddr, index: usize) -> SocketAddr {
    if address.ip() != IpAddr::V4(Ipv4Addr::LOCALHOST) {
        return address;
    }
    let last = u8::try_from(1 + index / CONNECTIONS_PER_ADDRESS).unwrap_or(254);
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_past_what_one_address_has_ports_for_go_to_the_next() {
        let check = |from: &str, index, to: &str| {
            assert_eq!(address_of(from.parse().unwrap(), index), to.parse().unwrap());
        };
        check("127.0.0.1:80", 24_999, "127.0.0.1:80");
        check("127.0.0.1:80", 25_000, "127.0.0.2:80");
        check("127.0.0.1:80", 75_000, "127.0.0.4:80");
        check("[::1]:80", 75_000, "[::1]:80");
        check("127.0.0.9:80", 75_000, "127.0.0.9:80");
    }
}
