//! The gateway: everything that waits.
//!
//! Two journeys go through it.
//!
//! ```text
//!   publish     accept ─► routes ─► publish (body · limits · parse) ─► dispatch ─► Registry::admit
//!                                                                                      │ one push per interested worker
//!   ══════════════════════════════════════════════════ thread boundary ════════════════╪═══════ only Arc<Message> ═══
//!                                                                                      ▼
//!                                                   inbox ─► worker ─► Shard::deliver ─► writer ─► sockets
//!                                                              ▲
//!   subscribe   accept ─► routes ─┬─► handshake ─► transport/websocket ─► session ─┬─► subscribe
//!                                 └─► transport/http_stream ───────────────────────┘
//!   poll        accept ─► routes ─► poll ─► Registry::since      (one that waits: transport/long_poll)
//! ```
//!
//! | state | owner |
//! |---|---|
//! | `server::Shared`: registry, inboxes, limits | all threads |
//! | `auth::Auth`: keys, origins; `auth::revocations` | all threads |
//! | `worker::Worker`: shard, connections, timers | one worker's thread |
//! | `session::Session`, the read half | its local task |
//! | the write half | the worker's `writer` |
//!
//! Who may is `auth`. What operators look at and do is `admin`, which asks workers through `ask`. A reload is `reload`, leaving is
//! `drain`; why a client is closed is `transport::disconnect`; every bound is in `limits`.

mod accept;
mod admin;
mod admission;
mod alone;
pub mod args;
mod ask;
mod auth;
mod body;
mod client;
mod clock;
pub mod commands;
pub mod config;
mod connection;
pub mod demo;
mod dispatch;
mod drain;
mod entity_tag;
mod error;
mod forwarded;
mod framing;
mod handshake;
mod idempotency;
mod in_force;
mod inbox;
mod interrupts;
mod javascript;
pub mod limits;
mod liveness;
pub mod log;
mod metrics;
pub mod open_files;
mod pem;
mod poll;
mod proxy_protocol;
mod publish;
mod query;
pub mod rate;
mod reload;
mod request_id;
mod routes;
pub mod server;
mod serving;
mod session;
mod socket;
mod subscribe;
mod tls;
mod topics;
mod transport;
mod units;
mod worker;
mod writer;
