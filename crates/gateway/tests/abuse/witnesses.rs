//! Who is to notice nothing.

use serde_json::json;

use crate::support::Gateway;
use crate::support::peer::{Peer, publish};

/// A subscriber on each worker: whoever is abused, one of them shares its worker.
pub(crate) struct Witnesses<'a> {
    gateway: &'a Gateway,
    pub(crate) peers: [Peer; 2],
}

impl<'a> Witnesses<'a> {
    pub(crate) fn new(gateway: &'a Gateway) -> Self {
        Self { gateway, peers: Peer::on_each_worker(gateway.address, "witness") }
    }

    /// Publishes, and checks that both get it.
    pub(crate) fn are_served(&mut self, after: &str) {
        let answer = publish(self.gateway.address, "witness", "application/json", "1").json();
        for peer in &mut self.peers {
            let message = peer.json();
            let expect = (&json!("witness"), &answer["offset"]);
            assert_eq!((&message["topic"], &message["offset"]), expect, "after {after}: {message}");
        }
    }
}
