//! Bad wires: what is cut, late or gone costs its own connection, and changes no byte.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::support::Gateway;
use crate::support::chaos::{Chaos, Treatment};
use crate::support::metrics::{eventually, metric, open_files, until_metric};
use crate::support::peer::{BINARY, HANDSHAKE, MORE, Peer, TEXT, chunk, header, masked, publish, request};
use crate::support::stream::{EVENTS, Stream};
use crate::witnesses::Witnesses;

/// All of a conversation may wait: a slow wire is a slow consumer.
const PATIENT: [&str; 2] = ["--outbox-bytes", "1MiB"];

/// What subscribers on a WebSocket and on a stream have after fifty messages, by way of `address`.
fn conversation(gateway: &Gateway, address: SocketAddr, topic: &str) -> (Vec<Value>, Vec<String>) {
    const COUNT: u64 = 50;
    const LENGTHS: [usize; 5] = [1, 50, 126, 500, 2500];
    let (mut peer, _) = Peer::native(address);
    peer.subscribe(&[topic]);
    let mut stream = Stream::open(address, &format!("/topics/{topic}"), &[EVENTS]);
    for (number, length) in (0..COUNT).zip(LENGTHS.into_iter().cycle()) {
        let payload = format!("{number}:{}", "ü\n".repeat(length));
        let by = if number % 2 == 0 { address } else { gateway.address };
        let answer = publish(by, topic, "text/plain", &payload).json();
        assert_eq!(answer["offset"], number + 1, "{answer}");
    }
    let message = |_| {
        let mut message = peer.json();
        // All that two topics differ in.
        message["topic"] = Value::Null;
        message
    };
    ((0..COUNT).map(message).collect(), (0..COUNT).map(|_| stream.next().data).collect())
}

#[test]
fn a_wire_that_cuts_all_to_crumbs_changes_nothing() {
    let gateway = Gateway::start(&PATIENT);
    let crumbs = Treatment { slice_max: 7, ..Treatment::default() };
    let wire = Chaos::to(gateway.address, crumbs, crumbs);
    let straight = conversation(&gateway, gateway.address, "a");
    assert_eq!(conversation(&gateway, wire.address, "b"), straight);
}

#[test]
fn a_wire_that_is_late_or_narrow_changes_nothing() {
    let gateway = Gateway::start(&PATIENT);
    let mut witnesses = Witnesses::new(&gateway);
    let late = Treatment { delay: Duration::from_millis(2), ..Treatment::default() };
    let narrow = Treatment { bytes_per_second: 2_000_000, ..Treatment::default() };
    let straight = conversation(&gateway, gateway.address, "straight");
    for (name, treatment) in [("late", late), ("narrow", narrow)] {
        let wire = Chaos::to(gateway.address, treatment, treatment);
        assert_eq!(conversation(&gateway, wire.address, name), straight, "{name}");
        witnesses.are_served(name);
    }
}

#[test]
fn a_wire_that_swallows_all_is_noticed() {
    let pings = ["--ping-interval", "800ms", "--pong-timeout", "700ms", "--close-timeout", "200ms"];
    let gateway = Gateway::start(&pings);
    let wire = Chaos::to(gateway.address, Treatment::default(), Treatment::default());
    let (_native, _) = Peer::subscribed(wire.address, &["a"]);
    let _raw = Peer::raw(wire.address, "a");
    // Neither end is told anything: only the pong that does not come says it.
    wire.swallow();
    for transport in ["raw", "json"] {
        let open = format!("fanfare_connections{{transport=\"{transport}\"}}");
        until_metric(&gateway, &open, |open| open == 0.0);
    }
    assert_eq!(metric(&gateway, r#"fanfare_closes_total{reason="no_pong"}"#), 2.0);
    assert_eq!(metric(&gateway, "fanfare_subscribed_topics"), 0.0);
}

#[test]
fn a_wire_that_ends_in_one_direction_ends_the_connection() {
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    let handshake = format!("GET /topics/a HTTP/1.1\r\n{HANDSHAKE}\r\n");
    // Once in the middle of the request, and once behind it.
    for half_close_after in [1, handshake.len()] {
        let half = Treatment { half_close_after, slice_max: half_close_after, ..Treatment::default() };
        let wire = Chaos::to(gateway.address, half, Treatment::default());
        let mut peer = Peer::connect(wire.address);
        peer.send(&handshake);
        peer.ended();
        witnesses.are_served("half a wire");
    }
    for transport in ["raw", "http"] {
        let open = format!("fanfare_connections{{transport=\"{transport}\"}}");
        until_metric(&gateway, &open, |open| open == 0.0);
    }
}

/// Ends a connection with a reset.
fn reset(peer: Peer) {
    socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
}

#[test]
fn a_reset_anywhere_leaves_nothing_behind() {
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    until_metric(&gateway, r#"fanfare_connections{transport="json"}"#, |open| open == 2.0);
    let files = open_files(&gateway);
    let reset_after = |bytes: &[u8]| {
        let mut peer = Peer::connect(gateway.address);
        peer.send(bytes);
        reset(peer);
    };
    let frame = masked(TEXT, br#"{"type":"subscribe","id":1,"topics":["a","b.*"]}"#);
    let handshake = format!("GET /ws HTTP/1.1\r\n{HANDSHAKE}\r\n");
    for round in 0..10 {
        for cut in [1, 2, 5, 20] {
            let mut peer = Peer::websocket(gateway.address, "/ws");
            peer.send(&frame[..cut]);
            reset(peer);
        }
        let mut peer = Peer::websocket(gateway.address, "/topics/a");
        peer.send([header(BINARY & MORE, 60_000), vec![0; 1000]].concat());
        reset(peer);
        reset_after(&handshake.as_bytes()[..20 + 10 * round]);
        reset_after(handshake.as_bytes());
        reset_after(b"POST /topics/a HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf");
        let publish_stream = "POST /publish HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n\
            transfer-encoding: chunked\r\n\r\n";
        reset_after(&[publish_stream.as_bytes(), &chunk("{\"topic\":\"a\",\"data\":1}\n")[..15]].concat());
        reset(Stream::open(gateway.address, "/topics/a", &[EVENTS]).peer);
        reset(Stream::open(gateway.address, "/events?topic=a&topic=%3E", &[]).peer);
        reset_after(b"GET /topics/a?wait=60 HTTP/1.1\r\nhost: x\r\n\r\n");
    }
    witnesses.are_served("resets");
    for (name, expect) in [
        (r#"fanfare_connections{transport="http"}"#, 0.0),
        (r#"fanfare_connections{transport="json"}"#, 2.0),
        (r#"fanfare_connections{transport="raw"}"#, 0.0),
        (r#"fanfare_connections{transport="stream"}"#, 0.0),
        ("fanfare_waiting_polls", 0.0),
        ("fanfare_subscribed_topics", 2.0),
        ("fanfare_patterns", 0.0),
        ("fanfare_outbox_bytes", 0.0),
        ("fanfare_inflight_body_bytes", 0.0),
    ] {
        until_metric(&gateway, name, |value| value == expect);
    }
    eventually(|| open_files(&gateway) <= files, "no file is left open");
    assert_eq!(request(gateway.address, "GET", "/topics/a", &[], "").status, 404, "nothing was published");
}
