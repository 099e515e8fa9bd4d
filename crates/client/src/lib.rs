//! A client of Fanfare over its public protocol: publish over HTTP, subscribe over WebSocket.
//!
//! ```text
//!   Client ──► Publisher          POST /topics/{topic}, POST /publish     one keep-alive connection
//!          ├─► Subscription       GET /ws                                 many topics, acks, gaps, commands
//!          └─► RawSubscription    GET /topics/{topic}                     one topic, the payloads as posted
//! ```
//!
//! Nothing runs in the background: a connection makes progress while one of its methods is awaited, on any tokio
//! runtime with I/O and time enabled, and closes when its owner is dropped.
//!
//! # Contract
//! - A payload is never rewritten: the bytes of a JSON value come out as they arrived.
//! - Every method may be dropped at any await. A frame is then still read whole by the next call, and a command is sent
//!   whole or not at all; a publish that is dropped may or may not have happened.
//! - Every wait ends: requests, handshakes and commands after [`Client::with_timeout`], a silent subscription after
//!   three times the server's ping interval.
//! - Names of topics are checked by the server.
//!
//! # Not here
//! TLS, and reconnecting: a subscription ends with [`Event::Closed`] or an error, and its owner opens the next one,
//! with [`TopicRequest::resume`] if it must miss nothing.
//!
//! # Example
//! ```no_run
//! use fanfare_client::session::Event;
//! use fanfare_client::{Client, Payload};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new("http://127.0.0.1:8080")?;
//! let mut subscription = client.session(["ticker.BTC-USD"]).await?;
//!
//! let published = client.publisher().publish("ticker.BTC-USD", Payload::json(r#"{"bid":"64000.10"}"#)).await?;
//! println!("published at {}", published.offset);
//!
//! while let Event::Message(message) = subscription.next().await? {
//!     println!("{} {} {:?}", message.topic, message.offset, message.data);
//! }
//! # Ok(())
//! # }
//! ```

mod client;
mod connection;
mod frame;
mod payload;
mod publisher;
mod raw;
mod refusal;
pub mod session;
mod topic_request;
mod websocket;

pub use client::{Client, UrlError};
pub use frame::{Acknowledged, Acknowledgement, Data};
pub use payload::{Item, Payload};
pub use publisher::{PublishError, Published, PublishedBatch, Publisher};
pub use raw::{RawEvent, RawSubscription};
pub use refusal::{HttpRefusal, Refusal};
pub use session::SubscribeError;
pub use topic_request::{Policy, Start, TopicRequest};
pub use websocket::{Closed, ReceiveError};
