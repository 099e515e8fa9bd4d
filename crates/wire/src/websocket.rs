//! WebSocket frames (RFC 6455), server side: bytes in, bytes out, no I/O and no clock.
//!
//! Frames to a subscriber are not masked, so one encoding of a message serves every subscriber. A frame from
//! a client is masked with a key of its own, and goes through the [`Parser`].
//!
//! | file | holds |
//! |---|---|
//! | [`header`] | operation codes, frame headers both ways, whole frames |
//! | [`mask`](mod@mask) | the XOR of client frames |
//! | [`close`] | close codes and close frames |
//! | [`deflate`] | permessage-deflate: messages compressed and inflated |
//! | [`extension`] | what a client offers in its handshake, and the answer |
//! | [`fault`] | what a client did wrong, with its close code and metric label |
//! | [`parser`] | a client's bytes to messages and control frames |

pub mod close;
pub mod deflate;
pub mod extension;
pub mod fault;
pub mod header;
pub mod mask;
pub mod parser;

pub use close::{CloseCode, close_frame, parse_close};
pub use fault::Fault;
pub use header::{Header, OpCode, encode_header, encode_masked_frame, frame, header_len};
pub use mask::mask;
pub use parser::{Event, Events, Parser, ParserLimits};
