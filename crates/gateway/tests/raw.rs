//! The raw WebSocket of one topic: payloads as posted.

mod support;

use support::Gateway;
use support::config_file::ConfigFile;
use support::metrics::{closes, metric, until_metric};
use support::peer::{BINARY, CLOSE, HANDSHAKE, PING, PONG, Peer, TEXT, masked, publish};

/// Publishes text, and returns the epoch and the offset.
fn post(gateway: &Gateway, topic: &str, body: &str) -> (String, u64) {
    let answer = publish(gateway.address, topic, "text/plain", body).json();
    (answer["epoch"].as_str().expect("published").to_owned(), answer["offset"].as_u64().expect("published"))
}

/// What a subscriber that comes now gets, up to a message that is published once it is there.
fn first_messages(gateway: &Gateway, target: &str) -> Vec<String> {
    let mut peer = Peer::websocket(gateway.address, target);
    // The pong comes behind what the subscription began with.
    peer.send(masked(PING, b"here"));
    let mut got = Vec::new();
    loop {
        let frame = peer.frame();
        if frame.first == PONG {
            break;
        }
        got.push(String::from_utf8(frame.payload).expect("text was posted"));
    }
    got
}

#[test]
fn the_last_value_comes_first_and_then_what_is_new() {
    let gateway = Gateway::start(&[]);
    post(&gateway, "a", "one");
    post(&gateway, "a", "two");
    let mut peer = Peer::websocket(gateway.address, "/topics/a");
    assert_eq!(peer.text(), "two");
    post(&gateway, "a", "three");
    assert_eq!(peer.text(), "three");
    assert_eq!(metric(&gateway, "fanfare_subscribed_topics"), 1.0);
}

#[test]
fn the_query_says_where_to_start() {
    let gateway = Gateway::start(&[]);
    post(&gateway, "a", "1");
    post(&gateway, "a", "2");
    let (epoch, _) = post(&gateway, "a", "3");
    let check = |query: &str, expect: &[&str]| {
        assert_eq!(first_messages(&gateway, &format!("/topics/a{query}")), expect, "{query}");
    };
    check("", &["3"]);
    check("?from=last", &["3"]);
    check("?from=live", &[]);
    check("?%66rom=l%69ve&other=1", &[]);
    check("?from=earliest", &["1", "2", "3"]);
    check(&format!("?epoch={epoch}&offset=3"), &[]);
    check(&format!("?epoch={epoch}&offset=2"), &["3"]);
    check(&format!("?epoch={epoch}&offset=1"), &["2", "3"]);
    check(&format!("?epoch={epoch}&offset=0"), &["1", "2", "3"]);
    // What cannot be recovered is not passed over in silence: the format has no word for it.
    for lost in [format!("?epoch={epoch}&offset=4"), "?epoch=k3x9&offset=3".to_owned()] {
        let mut peer = Peer::websocket(gateway.address, &format!("/topics/a{lost}"));
        assert_eq!(peer.close_code(), Some(4203), "{lost}");
    }
    assert_eq!(first_messages(&gateway, "/topics/new"), [""; 0]);
}

#[test]
fn a_topic_may_keep_nothing() {
    let file = ConfigFile::new("[[topics]]\nmatch = \"echo.>\"\nlast_value = false\n");
    let gateway = Gateway::start(&["--config", file.path()]);
    post(&gateway, "echo.a", "1");
    post(&gateway, "kept", "1");
    assert_eq!(first_messages(&gateway, "/topics/echo.a"), [""; 0]);
    assert_eq!(first_messages(&gateway, "/topics/kept"), ["1"]);
}

#[test]
fn payloads_arrive_byte_for_byte() {
    let gateway = Gateway::start(&[]);
    let mut peer = Peer::raw(gateway.address, "a");
    let mut check = |content_type: &str, payload: &[u8], first: u8| {
        assert_eq!(publish(gateway.address, "a", content_type, payload).status, 200);
        let frame = peer.frame();
        assert!(frame.first == first && frame.payload == payload, "{content_type}, {} bytes", payload.len());
    };
    let every_byte: Vec<u8> = (0..=255).collect();
    check("application/octet-stream", &every_byte, BINARY);
    check("application/json", br#"{"n":1.000000000000000000001,"s":"\u0000\ud83d"}"#, TEXT);
    check("text/plain", "a\r\n\r\nü\u{2028}\0".as_bytes(), TEXT);
    // Around the lengths at which a frame's header grows, and at the bound.
    for len in [0, 1, 125, 126, 127, 65_535, 65_536] {
        let payload: Vec<u8> = every_byte.iter().copied().cycle().take(len).collect();
        check("application/octet-stream", &payload, BINARY);
        check("text/plain", "x".repeat(len).as_bytes(), TEXT);
    }
}

#[test]
fn what_a_client_sends_is_published() {
    let gateway = Gateway::start(&[]);
    let mut one = Peer::raw(gateway.address, "chat");
    let mut other = Peer::raw(gateway.address, "chat");
    let (mut native, _) = Peer::subscribed(gateway.address, &["chat"]);
    one.send(masked(TEXT, "hello \"ü\"".as_bytes()));
    one.send(masked(BINARY, b"\0\xff"));
    one.send(masked(TEXT, b""));
    for peer in [&mut one, &mut other] {
        for (first, payload) in [(TEXT, "hello \"ü\"".as_bytes()), (BINARY, b"\0\xff"), (TEXT, b"")] {
            let frame = peer.frame();
            assert_eq!((frame.first, &*frame.payload), (first, payload));
        }
    }
    assert_eq!(native.text(), r#"{"topic":"chat","offset":1,"data":"hello \"ü\""}"#);
    assert_eq!(native.text(), r#"{"topic":"chat","offset":2,"data64":"AP8="}"#);
    assert_eq!(native.text(), r#"{"topic":"chat","offset":3,"data":""}"#);
    assert_eq!(first_messages(&gateway, "/topics/chat"), [""], "the last one is kept");
}

#[test]
fn what_cannot_be_published_ends_the_connection_with_try_again() {
    let gateway = Gateway::start(&["--topics", "1"]);
    // Its topic is there as long as it subscribes; the other one's cannot come about.
    let _first = Peer::raw(gateway.address, "a");
    let mut second = Peer::websocket(gateway.address, "/topics/b");
    let close = second.frame();
    assert_eq!((close.code(), &close.payload[2..]), (Some(1013), &b"there is no room for it now"[..]));
    until_metric(&gateway, r#"fanfare_closes_total{reason="refused"}"#, |count| count == 1.0);
}

#[test]
fn a_bad_request_is_no_handshake() {
    let gateway = Gateway::start(&[]);
    let check = |target: &str, headers: &str, code: &str| {
        let mut peer = Peer::connect(gateway.address);
        peer.send(format!("GET {target} HTTP/1.1\r\n{HANDSHAKE}{headers}\r\n"));
        let answer = peer.answer();
        assert_eq!((answer.status, answer.error_code().as_str()), (400, code), "{target}: {answer:?}");
        peer.ended();
    };
    check("/topics/a?from=yesterday", "", "bad_request");
    check("/topics/a?from=", "", "bad_request");
    check("/topics/a?offset=1", "", "bad_request");
    check("/topics/a?epoch=k3x9", "", "bad_request");
    check("/topics/a?epoch=k3x9&offset=-1", "", "bad_request");
    check("/topics/a?epoch=k3x9&offset=18446744073709551616", "", "bad_request");
    check("/topics/a?from=live&epoch=k3x9&offset=1", "", "bad_request");
    check("/topics/a.*", "", "bad_topic");
    check("/topics/a.%3E", "", "bad_topic");
    check("/topics/*", "", "bad_topic");
    check("/topics/$sys", "", "bad_topic");
    check("/topics/a..b", "", "bad_topic");
    check("/topics/", "", "bad_topic");
    check("/topics/a", "sec-websocket-protocol: fanfare.v1.json\r\n", "bad_request");
    assert_eq!(metric(&gateway, "fanfare_refused_handshakes_total"), 14.0);
}

#[test]
fn pings_are_answered_with_their_payload() {
    let gateway = Gateway::start(&[]);
    let mut peer = Peer::websocket(gateway.address, "/topics/a");
    for payload in [&b""[..], b"x", &[0xff; 125]] {
        peer.send(masked(PING, payload));
        let frame = peer.frame();
        assert_eq!((frame.first, &*frame.payload), (PONG, payload));
    }
    peer.send(masked(PONG, b"nobody asked"));
    peer.send(masked(CLOSE, b"\x03\xe8"));
    assert_eq!(peer.close_code(), Some(1000));
    until_metric(&gateway, r#"fanfare_connections{transport="raw"}"#, |open| open == 0.0);
    assert_eq!(closes(&gateway, "peer_closed"), 1.0);
}
