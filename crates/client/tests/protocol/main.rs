//! The client against a server that each test plays by hand: what goes over the wire stands in the tests, byte for byte.

#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests, too")]

mod peer;
mod publish;
mod raw;
mod session;
mod subscription;
