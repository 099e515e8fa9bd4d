//! Who is at the other end: of a request, and of the connection that it may become.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use fanfare_wire::event::ErrorCode;
use fanfare_wire::{Name, Topic};
use hyper::StatusCode;

use crate::admission::{Key, holder_key};
use crate::auth::failure::NEEDS_CREDENTIAL;
use crate::auth::grant::{Grant, Holder};
use crate::error::ApiError;
use crate::subscribe::Refusal;

/// The sender of a request. A connection that becomes a subscriber keeps the client of the request that it began with.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// Where it comes from. Never an IPv4 address in the form of IPv6.
    pub(crate) address: IpAddr,
    /// A trusted proxy says so of this request: its connection is the proxy's.
    pub(crate) is_forwarded: bool,
    /// What it may. Nothing, until somebody has looked.
    grant: RefCell<Option<Arc<Grant>>>,
}

impl Client {
    pub(crate) fn new(address: IpAddr, is_forwarded: bool) -> Self {
        Self { address, is_forwarded, grant: RefCell::default() }
    }

    /// The key or the token's subject that it has shown: one holder, wherever its connections come from.
    pub(crate) fn holder(&self) -> Option<Key> {
        match &self.grant.borrow().as_ref()?.holder {
            Holder::Key(name) => Some(holder_key(("key", name))),
            Holder::Token { subject: Some(subject), .. } => Some(holder_key(("subject", subject))),
            Holder::Token { subject: None, .. } | Holder::Anybody => None,
        }
    }

    /// From now on it may this, whatever it might before.
    pub(crate) fn admit(&self, grant: Arc<Grant>) {
        self.grant.replace(Some(grant));
    }

    pub(crate) fn grant(&self) -> Option<Arc<Grant>> {
        self.grant.borrow().clone()
    }

    /// Whether there is something that it may publish.
    pub(crate) fn check_publisher(&self) -> Result<(), ApiError> {
        self.check(|grant| !grant.publish.is_empty())
    }

    /// Whether there is something that it may subscribe to.
    pub(crate) fn check_subscriber(&self) -> Result<(), ApiError> {
        self.check(|grant| !grant.subscribe.is_empty())
    }

    pub(crate) fn check_publish(&self, topic: &Topic) -> Result<(), ApiError> {
        self.check(|grant| grant.may_publish(topic))
    }

    /// Reading a topic in any way is subscribing to it.
    pub(crate) fn check_subscribe(&self, name: &Name) -> Result<(), ApiError> {
        self.check(|grant| grant.may_subscribe(name))
    }

    /// As [`check_subscribe`](Self::check_subscribe), for a part of a request.
    pub(crate) fn may_subscribe(&self, name: &Name) -> Result<(), Refusal> {
        let grant = self.grant.borrow();
        if grant.as_ref().is_some_and(|grant| grant.may_subscribe(name)) {
            Ok(())
        } else {
            Err(refusal(grant.as_deref()))
        }
    }

    fn check(&self, is_allowed: impl FnOnce(&Grant) -> bool) -> Result<(), ApiError> {
        let grant = self.grant.borrow();
        if grant.as_deref().is_some_and(is_allowed) {
            return Ok(());
        }
        let (code, message) = refusal(grant.as_deref());
        Err(match code {
            ErrorCode::Unauthorized => ApiError {
                authenticate: Some(NEEDS_CREDENTIAL),
                ..ApiError::new(StatusCode::UNAUTHORIZED, code, message)
            },
            _ => ApiError::new(StatusCode::FORBIDDEN, code, message),
        })
    }
}

/// Who has shown a credential may not; who has not may come back with one. Nothing depends on whether there is the topic.
fn refusal(grant: Option<&Grant>) -> Refusal {
    match grant.map(|grant| &grant.holder) {
        Some(Holder::Key(_) | Holder::Token { .. }) => (ErrorCode::Forbidden, "not allowed"),
        Some(Holder::Anybody) | None => (ErrorCode::Unauthorized, "not allowed without a token or a key"),
    }
}
