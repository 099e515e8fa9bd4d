//! What carries frames to a subscriber, once the handshake is over.

pub(crate) mod disconnect;
pub(crate) mod websocket;
