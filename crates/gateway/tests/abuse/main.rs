//! Peers that break the rules, or keep them and mean no good. Each harms itself only.
//!
//! docs/FAULTS.md has a row for each. What takes minutes is `#[ignore]`d here, and run by `make abuse`.

#[path = "../support/mod.rs"]
mod support;

mod http;
mod resources;
mod websocket;
mod witnesses;
