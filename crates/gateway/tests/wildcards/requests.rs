//! Publishes, and commands of the native WebSocket.

use serde_json::{Value, json};

use crate::support::Gateway;
use crate::support::peer::{Peer, TEXT, masked, publish};

/// Publishes a number; returns its offset's epoch.
pub(crate) fn post(gateway: &Gateway, topic: &str, offset: u64) -> String {
    let answer = publish(gateway.address, topic, "application/json", offset.to_string()).json();
    assert_eq!(answer["offset"], offset, "{topic}: {answer}");
    answer["epoch"].as_str().unwrap().to_owned()
}

pub(crate) fn command(kind: &str, topics: Value) -> String {
    json!({"type": kind, "id": 7, "topics": topics}).to_string()
}

/// Several commands in one segment: nothing comes between them.
pub(crate) fn at_once(peer: &mut Peer, commands: &[String]) {
    peer.send(commands.iter().flat_map(|command| masked(TEXT, command.as_bytes())).collect::<Vec<u8>>());
}

pub(crate) fn publish_command(topic: &str, data: u64) -> String {
    json!({"type": "publish", "topic": topic, "data": data}).to_string()
}
