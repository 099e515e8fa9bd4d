//! Who may: keys, tokens and origins, good and forged, over every way in.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[path = "../support/mod.rs"]
mod support;

mod anonymous;
mod connections;
mod credential;
mod gateways;
mod key_sets;
mod keys;
mod origins;
mod requests;
mod revocations;
mod tokens;
