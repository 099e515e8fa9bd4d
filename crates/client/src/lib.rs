//! A client of Fanfare over its public protocol: publish over HTTP, subscribe over WebSocket.
//!
//! ```text
//!   Client ──► Publisher          POST /topics/{topic}, POST /publish     one keep-alive connection, retries
//!          ├─► Subscription       GET /ws                                 topics and wildcards, resumed over reconnects
//!          ├─► Session            GET /ws                                 one connection of it, as it is
//!          └─► RawSubscription    GET /topics/{topic}                     one topic, the payloads as posted
//! ```
//!
//! Nothing runs in the background: a connection makes progress while one of its methods is awaited, on any tokio
//! runtime with I/O and time enabled, and closes when its owner is dropped.
//!
//! # Contract
//! - A payload is never rewritten: the bytes of a JSON value come out as they arrived.
//! - A [`Subscription`] hands out each message once, in its topic's order, and says what is lost: [`Event::Gap`],
//!   [`Event::Reset`]. It ends only when the server says that coming back is of no use.
//! - A [`Publisher`] with [retries](Publisher::with_retries) publishes a message once, however often it had to be sent.
//! - Every method may be dropped at any await. A frame is then still read whole by the next call, and a command is sent
//!   whole or not at all; a publish that is dropped may or may not have happened.
//! - Every wait ends: requests, handshakes and commands after [`Client::with_timeout`], a silent connection after 2.5
//!   heartbeats ([`Subscription`]) or three of the server's pings (the others).
//! - Names of topics are checked by the server.
//!
//! # Bounds
//! A message of 16 MiB; the places of 65,536 topics ([`Subscription::with_positions_max`]); the events of one frame. A
//! subscription that is not asked reads nothing, so what it has not taken waits in the server's outbox, under the
//! server's bound and the topic's policy.
//!
//! # Example
//! ```no_run
//! use fanfare_client::{Client, Event, Payload};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new("http://127.0.0.1:8080")?;
//! let published = client.publisher().publish("ticker.BTC-USD", Payload::json(r#"{"bid":"64000.10"}"#)).await?;
//! println!("published at {}", published.offset);
//!
//! let mut subscription = client.subscribe(["ticker.BTC-USD", "logs.>"]);
//! loop {
//!     match subscription.next().await? {
//!         Event::Message(message) => println!("{} {} {:?}", message.topic, message.offset, message.data),
//!         Event::Gap { topic, from, to, .. } => println!("{topic}: {from} to {to} are lost"),
//!         _ => {}
//!     }
//! }
//! # }
//! ```
//!
//! More in `examples/`, against a gateway that was started with `fanfare demo`.

mod back_off;
mod client;
mod connection;
mod event;
mod frame;
mod pattern;
mod payload;
mod places;
mod publisher;
mod raw;
mod refusal;
pub mod session;
mod stream;
mod subscription;
mod topic_request;
mod wanted;
mod websocket;

pub use back_off::BackOff;
pub use client::{Client, TokenError, UrlError};
pub use event::{Event, Message, Status, UNANNOUNCED};
pub use frame::{Acknowledged, Acknowledgement, Data};
pub use payload::{Item, Payload};
pub use publisher::{PublishError, Published, PublishedBatch, Publisher};
pub use raw::{RawEvent, RawSubscription};
pub use refusal::{HttpRefusal, Refusal};
pub use session::SubscribeError;
pub use subscription::{Subscription, SubscriptionError};
pub use topic_request::{Place, Policy, Start, TopicRequest};
pub use websocket::{Closed, ReceiveError};
