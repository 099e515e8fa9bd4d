//! Publishing over HTTP: what is taken, what is refused and how, and who gets it in which order.

#[path = "../support/mod.rs"]
mod support;

mod idempotency;
mod many;
mod message;
mod refusals;
mod stream;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
