//! Requests and handshakes that show a credential, or none.

use serde_json::Value;

use crate::support::Gateway;
use crate::support::peer::{Answer, HANDSHAKE, Peer, request};

pub(crate) fn bearer(credential: &str) -> String {
    format!("Bearer {credential}")
}

pub(crate) fn get(gateway: &Gateway, target: &str, credential: Option<&str>) -> Answer {
    let value = credential.map(bearer);
    let headers: Vec<_> = value.iter().map(|value| ("authorization", value.as_str())).collect();
    request(gateway.address, "GET", target, &headers, "")
}

pub(crate) fn post(gateway: &Gateway, topic: &str, credential: Option<&str>) -> Answer {
    let value = credential.map(bearer);
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(value.iter().map(|value| ("authorization", value.as_str())));
    request(gateway.address, "POST", &format!("/topics/{topic}"), &headers, "{}")
}

/// Asks for a WebSocket, and returns the answer and what becomes of the connection.
pub(crate) fn handshake(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> (Answer, Peer) {
    let mut peer = Peer::connect(gateway.address);
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    peer.send(format!("GET {target} HTTP/1.1\r\n{HANDSHAKE}{lines}\r\n"));
    (peer.answer(), peer)
}

/// `/ws` with a credential, up to its welcome.
pub(crate) fn native(gateway: &Gateway, credential: &str) -> Peer {
    let (answer, peer) = handshake(gateway, "/ws", &[("authorization", &bearer(credential))]);
    assert_eq!(answer.status, 101, "{answer:?}");
    peer.welcomed().0
}

/// The code of each entry of a list, if it was refused.
pub(crate) fn error_codes(entries: &Value) -> Vec<Option<&str>> {
    entries.as_array().unwrap().iter().map(|entry| entry["error"]["code"].as_str()).collect()
}
