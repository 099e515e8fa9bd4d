//! The values of Fanfare: topics, messages, frames, and what clients and server say to each other.
//!
//! Everything here is immutable or a pure state machine: `Send + Sync`, without I/O, tokio or a clock. Other crates
//! decide *when*; this one knows *what the bytes are*. A message is encoded once per wire format
//! ([`Message::frame`]), and no encoder ever sees a subscriber.

pub mod chunk;
pub mod command;
pub mod envelope;
pub mod event;
pub mod format;
mod formats;
pub mod message;
pub mod pattern;
mod plain_json;
pub mod position;
pub mod proxy_protocol;
mod raw;
pub mod topic;
pub mod trie;
pub mod websocket;

pub use format::{FORMATS, FormatId, WireFormat};
pub use message::{Draft, Kind, Message, PayloadError};
pub use pattern::{Name, Pattern};
pub use position::{Epoch, Position};
pub use topic::{Topic, TopicError};
pub use trie::Trie;
