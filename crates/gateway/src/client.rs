//! Who is at the other end: of a request, and of the connection that it may become.

use std::net::IpAddr;

use crate::admission::Key;

/// The sender of a request. A connection that becomes a subscriber keeps the client of the request that it began with.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// Where it comes from. Never an IPv4 address in the form of IPv6.
    pub(crate) address: IpAddr,
    /// A trusted proxy says so of this request: its connection is the proxy's.
    pub(crate) is_forwarded: bool,
}

impl Client {
    /// The key or the token's subject that it has shown: one holder, wherever its connections come from.
    pub(crate) fn holder(&self) -> Option<Key> {
        None
    }
}
