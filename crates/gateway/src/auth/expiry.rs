//! Ends connections whose grant is over: expired, revoked, or never shown.
//!
//! # Owner        one worker's thread; not `Send`
//! # Bounds       one entry per connection whose grant expires; it leaves with the connection
//! # Invariants   an entry's time is that of the connection's grant

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Instant;

use fanfare_fanout::SubscriberId;

use super::failure::Failure;
use super::grant::{Grant, Holder};
use crate::client::Client;
use crate::connection::Connection;
use crate::transport::disconnect::DisconnectReason;
use crate::worker::Worker;

/// When the grants of a worker's connections expire, the earliest first.
#[derive(Default)]
pub(crate) struct Expiries(BTreeSet<(Instant, SubscriberId)>);

impl Expiries {
    pub(crate) fn add(&mut self, grant: &Grant, id: SubscriberId) {
        self.0.extend(grant.expires.map(|at| (at, id)));
    }

    pub(crate) fn remove(&mut self, grant: &Grant, id: SubscriberId) {
        if let Some(at) = grant.expires {
            self.0.remove(&(at, id));
        }
    }

    fn due(&mut self, now: Instant) -> Option<SubscriberId> {
        let &(at, id) = self.0.first()?;
        (at <= now).then(|| {
            self.0.pop_first();
            id
        })
    }
}

/// Closes the connections whose time is over. Looked at every tick.
pub(crate) fn close_expired(worker: &Worker) {
    let now = Instant::now();
    loop {
        let Some(id) = worker.expiries.borrow_mut().due(now) else { return };
        let connection = worker.connections.borrow().get(id).cloned();
        if let Some(connection) = connection {
            worker.close(&connection, expired(&connection.client));
        }
    }
}

fn expired(client: &Client) -> DisconnectReason {
    match client.grant().map(|grant| grant.holder.clone()) {
        Some(Holder::Token { .. } | Holder::Key(_)) => DisconnectReason::TokenExpired,
        Some(Holder::Anybody) | None => DisconnectReason::AuthTimeout,
    }
}

/// Why a subscriber whose grant is over is closed.
pub(crate) fn reason(client: &Client, failure: Failure) -> DisconnectReason {
    if failure == Failure::Revoked { DisconnectReason::Revoked } else { expired(client) }
}

/// Closes the connections whose grant is revoked, when something was revoked since the last tick. `seen` is how far that
/// was.
pub(crate) fn close_revoked(worker: &Worker, seen: &mut u64) {
    let revocations = &worker.shared.revocations;
    let changes = revocations.changes();
    if std::mem::replace(seen, changes) == changes {
        return;
    }
    let is_revoked = |connection: &&Rc<Connection>| {
        connection.closing.get().is_none()
            && connection.client.grant().is_some_and(|grant| revocations.has(&grant.holder))
    };
    let revoked: Vec<_> = worker.connections.borrow().every(0, 1).filter(is_revoked).cloned().collect();
    for connection in revoked {
        worker.close(&connection, DisconnectReason::Revoked);
    }
    // Polls that wait look for themselves.
    for poll in worker.polls.borrow().values() {
        poll.notify_one();
    }
}
