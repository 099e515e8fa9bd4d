//! Peers that break the rules, or keep them and mean no good. Each harms itself only.
//!
//! docs/FAULTS.md has a row for each. What takes minutes is `#[ignore]`d here, and run by `make abuse`.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[path = "../support/mod.rs"]
mod support;

mod http;
mod json;
mod network;
mod process;
mod resources;
mod websocket;
mod witnesses;
