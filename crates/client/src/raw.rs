//! A raw subscription: one topic, its payloads as they were posted.

use std::time::Duration;

use bytes::Bytes;

use crate::connection::{self, Address};
use crate::session::SubscribeError;
use crate::topic_request::Start;
use crate::websocket::{Closed, Incoming, ReceiveError, Socket};

/// Receives one topic's payloads. Made by [`Client::subscribe_raw`](crate::Client::subscribe_raw).
pub struct RawSubscription {
    socket: Socket,
}

/// What a raw subscription receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawEvent {
    /// A payload posted as JSON or text: UTF-8, checked.
    Text(Bytes),
    /// A payload posted as bytes.
    Binary(Bytes),
    /// The last event.
    Closed(Closed),
}

impl RawSubscription {
    pub(crate) async fn open(
        address: &Address,
        timeout: Duration,
        topic: &str,
        start: Start,
    ) -> Result<Self, SubscribeError> {
        let path = format!("{}?from={}", connection::topic_path(topic), start.as_str());
        Ok(Self { socket: Socket::open(address, &path, None, timeout).await? })
    }

    /// Waits for the next payload. Cancel safe.
    ///
    /// # Errors
    /// [`ReceiveError`], also for every call after [`RawEvent::Closed`].
    pub async fn next(&mut self) -> Result<RawEvent, ReceiveError> {
        Ok(match self.socket.recv().await? {
            Incoming::Text(payload) => RawEvent::Text(payload),
            Incoming::Binary(payload) => RawEvent::Binary(payload),
            Incoming::Closed(closed) => RawEvent::Closed(closed),
        })
    }

    /// Publishes to the subscribed topic: a text frame. It is not acknowledged.
    ///
    /// # Errors
    /// If the connection is lost or the server takes nothing within the client's timeout.
    pub async fn publish(&mut self, text: impl Into<String>) -> Result<(), ReceiveError> {
        self.socket.send_text(text.into().into_bytes()).await
    }

    /// Closes with 1000 and waits for the server's close within the client's timeout.
    ///
    /// # Errors
    /// If the server does not answer the close.
    pub async fn close(self) -> Result<(), ReceiveError> {
        self.socket.close().await
    }
}
