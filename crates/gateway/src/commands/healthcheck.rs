//! `fanfare healthcheck`: whether the gateway of this host or container answers, where there is no shell to ask it.
//!
//! Asks `/healthz` on the operators' address. Anything but a 200 in time is a failure.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};

/// For connecting, and for each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(1);

const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

const HEALTHY: &[u8; 12] = b"HTTP/1.1 200";

/// Asks once.
pub fn run(admin: SocketAddr) -> anyhow::Result<()> {
    let address = SocketAddr::new(reachable(admin.ip()), admin.port());
    let answer = ask(address).with_context(|| format!("{address} does not answer"))?;
    ensure!(&answer == HEALTHY, "{address} answers {:?}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// The first of the answer: its version and its status.
fn ask(address: SocketAddr) -> std::io::Result<[u8; HEALTHY.len()]> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(REQUEST)?;
    let mut answer = [0; HEALTHY.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Whoever listens on all addresses is reached on its own.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}
