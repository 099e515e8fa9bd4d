//! A gateway under TLS, and its clients.

use std::sync::Arc;

use rustls::ClientConfig;

use crate::support::Gateway;
use crate::support::metrics::{metric, until_metric};
use crate::support::peer::{Answer, Peer};
use crate::support::tls::Authority;

/// A gateway under TLS, and a client that trusts it.
pub(crate) struct Secure {
    pub(crate) gateway: Gateway,
    pub(crate) authority: Authority,
    pub(crate) client: Arc<ClientConfig>,
}

impl Secure {
    pub(crate) fn start(args: &[&str]) -> Self {
        let authority = Authority::new();
        let flags = authority.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(args.iter().copied()).collect();
        let gateway = Gateway::start(&flags);
        let client = authority.client(&["http/1.1"]);
        Self { gateway, authority, client }
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer::connect(self.gateway.address).secured(&self.client)
    }

    pub(crate) fn subscribed(&self, topics: &[&str]) -> Peer {
        let (mut peer, _) = self.peer().upgraded("/ws").welcomed();
        peer.subscribe(topics);
        peer
    }

    /// A subscriber with little room, which does not read until the test does.
    pub(crate) fn stalled(&self, topics: &[&str]) -> Peer {
        let peer = Peer::connect_with_room(self.gateway.address, 4 * 1024).secured(&self.client);
        let (mut peer, _) = peer.upgraded("/ws").welcomed();
        peer.subscribe(topics);
        peer
    }

    pub(crate) fn post(&self, topic: &str, body: &str) -> Answer {
        let headers = [("content-type", "application/json")];
        let answer = self.peer().request("POST", &format!("/topics/{topic}"), &headers, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    }

    pub(crate) fn handshakes(&self, result: &str) -> f64 {
        metric(&self.gateway, &format!("fanfare_tls_handshakes_total{{result=\"{result}\"}}"))
    }

    pub(crate) fn until_handshakes(&self, result: &str, count: f64) {
        until_metric(&self.gateway, &format!("fanfare_tls_handshakes_total{{result=\"{result}\"}}"), |now| {
            now == count
        });
    }

    pub(crate) fn until_nobody(&self) {
        until_metric(&self.gateway, "fanfare_tls_connections", |open| open == 0.0);
    }
}

/// A payload of 8 KiB that names its place, as JSON.
pub(crate) fn payload(number: u64) -> String {
    format!("\"{number:08190}\"")
}
