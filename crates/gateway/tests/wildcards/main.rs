//! Wildcards on the native WebSocket: which topics they bring, from when on, and what they leave behind.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[path = "../support/mod.rs"]
mod support;

mod ledger;
mod limits;
mod overlaps;
mod requests;
mod topics;
