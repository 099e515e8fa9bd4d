//! Takes the PROXY protocol's header from the front of a connection.
//!
//! Nothing behind the header is taken: the bytes are looked at first, and of what is there only the header's are read. So
//! what follows, be it TLS or HTTP, finds its own beginning in the socket.

use std::io::{Error, ErrorKind};
use std::net::IpAddr;

use fanfare_wire::proxy_protocol::{HEADER_BYTES_MAX, Parsed, parse};
use tokio::net::TcpStream;

/// The address in the header that `stream` begins with, if there is one in it. Whoever calls it gives it a time.
pub(crate) async fn read(stream: &TcpStream) -> Result<Option<IpAddr>, Error> {
    let mut header = [0; HEADER_BYTES_MAX];
    let mut taken = 0;
    loop {
        // Never empty: a header that fills it is whole, or too long.
        let seen = stream.peek(&mut header[taken..]).await?;
        if seen == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let parsed =
            parse(&header[..taken + seen]).map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        let end = match parsed {
            Parsed::Whole { bytes, .. } => bytes,
            Parsed::Part => taken + seen,
        };
        // These bytes are there.
        if stream.try_read(&mut header[taken..end])? != end - taken {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        taken = end;
        if let Parsed::Whole { source, .. } = parsed {
            return Ok(source.map(|source| source.to_canonical()));
        }
    }
}
