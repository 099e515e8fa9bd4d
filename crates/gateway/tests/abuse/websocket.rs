//! Frames that break the rules, keep them oddly, or come without end.

use std::time::Duration;

use crate::support::Gateway;
use crate::support::metrics::{closes, metric, metrics, resident_bytes, until_metric};
use crate::support::peer::{
    BINARY, CLOSE, CONTINUATION, HANDSHAKE, MORE, PING, PONG, Peer, TEXT, header, masked,
};
use crate::witnesses::Witnesses;

/// The masking key that [`masked`] uses, for frames whose payload does not come.
const KEY: &[u8] = b"KEY!";

#[test]
fn a_breach_of_the_framing_rules_closes_its_connection_with_the_right_code() {
    let gateway = Gateway::start(&["--message-bytes", "1KiB"]);
    let mut witnesses = Witnesses::new(&gateway);
    let mut check = |name: &str, bytes: &[u8], code: u16| {
        for target in ["/ws", "/topics/a"] {
            let mut peer = Peer::websocket(gateway.address, target);
            peer.send(bytes);
            assert_eq!(peer.close_code(), Some(code), "{name} on {target}");
            witnesses.are_served(name);
        }
    };

    check("an unmasked text", b"\x81\x05hello", 1002);
    check("an unmasked ping", b"\x89\x00", 1002);
    for bit in [0x40, 0x20, 0x10] {
        check("a reserved bit", &masked(TEXT | bit, b"x"), 1002);
        check("a reserved bit on a ping", &masked(PING | bit, b""), 1002);
    }
    for opcode in [0x83, 0x87, 0x8b, 0x8f] {
        check("a reserved operation code", &masked(opcode, b"x"), 1002);
    }
    for opcode in [PING, PONG, CLOSE] {
        check("a long control frame", &masked(opcode, &[b'x'; 126]), 1002);
        check("a control frame in fragments", &masked(opcode & MORE, b"\x03\xe8"), 1002);
    }
    check("a continuation of nothing", &masked(CONTINUATION, b"x"), 1002);
    check("a text inside a text", &[masked(TEXT & MORE, b"a"), masked(TEXT, b"b")].concat(), 1002);
    check("a length with its highest bit", b"\x82\xff\x80\0\0\0\0\0\0\0", 1002);
    check("a length that could be shorter", b"\x82\xfe\x00\x7dKEY!", 1002);
    check("half a close code", &masked(CLOSE, b"\x03"), 1002);
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        check(&format!("the close code {code}"), &masked(CLOSE, &code.to_be_bytes()), 1002);
    }

    let bad_texts: [&[u8]; 6] =
        [b"\xff", b"ok\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"cut \xe2\x82"];
    for bad in bad_texts {
        check("bad UTF-8", &masked(TEXT, bad), 1007);
        let (start, end) = bad.split_at(bad.len() / 2);
        check("bad UTF-8 in two", &[masked(TEXT & MORE, start), masked(CONTINUATION, end)].concat(), 1007);
    }
    check("a bad close reason", &masked(CLOSE, b"\x03\xe8\xff"), 1007);

    check("2^63 - 1 bytes", &[&header(BINARY, i64::MAX as u64)[..], KEY].concat(), 1009);
    check("4 GiB", &[&header(TEXT, 1 << 32)[..], KEY].concat(), 1009);
    check("a byte more than may be, of which none comes", &[&header(TEXT, 1025)[..], KEY].concat(), 1009);
    let rest = [masked(BINARY & MORE, &[0; 1000]), [&header(CONTINUATION, 25)[..], KEY].concat()].concat();
    check("a byte more in fragments", &rest, 1009);

    let mut peer = Peer::websocket(gateway.address, "/ws");
    peer.send(masked(BINARY, b"{}"));
    assert_eq!(peer.close_code(), Some(1003));
    witnesses.are_served("binary commands");
    until_metric(&gateway, r#"fanfare_connections{transport="json"}"#, |open| open == 2.0);
}

#[test]
fn fragments_without_end_are_too_big_however_small() {
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    for payload in [&b""[..], b"x"] {
        let mut peer = Peer::websocket(gateway.address, "/topics/a");
        peer.send(masked(TEXT & MORE, payload));
        let flood = masked(CONTINUATION & MORE, payload).repeat(1000);
        let mut sent = 0;
        while sent < 100 && peer.try_send(&flood) {
            sent += 1;
        }
        // The server may be gone before it is read.
        assert!(matches!(peer.close_code(), Some(1009) | None));
        witnesses.are_served("endless fragments");
    }
    until_metric(&gateway, r#"fanfare_closes_total{reason="too_big"}"#, |count| count == 2.0);
}

#[test]
fn frames_mean_the_same_however_they_are_cut() {
    let gateway = Gateway::start(&[]);
    let (mut peer, worker) = Peer::native(gateway.address);
    // A roundtrip on the same worker tells that it saw the first part before it gets the second.
    let mut neighbour = loop {
        let (neighbour, other) = Peer::native(gateway.address);
        if other == worker {
            break neighbour;
        }
    };
    let command = format!(r#"{{"type":"ping","id":1,"later":"{}ü"}}"#, "x".repeat(200));
    let frames = [
        masked(PING, b"ping"),
        masked(TEXT & MORE, &command.as_bytes()[..100]),
        masked(PONG, b""),
        masked(CONTINUATION, &command.as_bytes()[100..]),
    ]
    .concat();
    let mut check = |pieces: &[&[u8]]| {
        for piece in pieces {
            peer.send(piece);
            neighbour.fence();
        }
        let pong = peer.frame();
        assert_eq!((pong.first, &*pong.payload), (PONG, &b"ping"[..]));
        assert_eq!(peer.json()["id"], 1);
    };
    for cut in 1..frames.len() {
        let (first, second) = frames.split_at(cut);
        check(&[first, second]);
    }
    check(&frames.chunks(1).collect::<Vec<_>>());
}

#[test]
fn frames_that_come_with_the_handshake_are_read() {
    let gateway = Gateway::start(&[]);
    let mut native = Peer::connect(gateway.address);
    let handshake = |target: &str| format!("GET {target} HTTP/1.1\r\n{HANDSHAKE}\r\n").into_bytes();
    let subscribe = masked(TEXT, br#"{"type":"subscribe","id":1,"topics":["a"]}"#);
    let text = [handshake("/ws"), subscribe, masked(PING, b"1")].concat();
    // Byte by byte for a part of it, and the rest at once.
    let (dripped, rest) = text.split_at(20);
    for byte in dripped {
        native.send([*byte]);
    }
    native.send(rest);
    assert_eq!(native.answer().status, 101);
    let mut first = [native.frame(), native.frame(), native.frame()];
    first.sort_by_key(|frame| frame.first);
    assert_eq!((first[2].first, &*first[2].payload), (PONG, &b"1"[..]));
    assert!(first[0].payload.starts_with(br#"{"type":"welcome""#), "{first:?}");
    assert!(first[1].payload.starts_with(br#"{"type":"subscribed","id":1"#), "{first:?}");

    let mut raw = Peer::connect(gateway.address);
    raw.send([handshake("/topics/a"), masked(BINARY, b"\xff"), masked(CLOSE, b"\x03\xe8")].concat());
    assert_eq!(raw.answer().status, 101);
    assert_eq!(native.text(), r#"{"topic":"a","offset":1,"data64":"/w=="}"#);
    assert_eq!(raw.close_code(), Some(1000));
}

#[test]
fn a_flood_of_pings_costs_one_pong() {
    const PINGS: u64 = 50_000;
    // No ping of the gateway's own comes between.
    let gateway = Gateway::start(&["--ping-interval", "1h", "--commands-per-second", "off"]);
    let mut witnesses = Witnesses::new(&gateway);
    let before = resident_bytes(&gateway);
    let mut peer = Peer::connect_with_room(gateway.address, 4 * 1024).upgraded("/topics/a");
    let payload = |number: u64| [&number.to_be_bytes()[..], &[b'x'; 117]].concat();
    for first in (0..PINGS).step_by(1000) {
        let burst: Vec<u8> =
            (first..first + 1000).flat_map(|number| masked(PING, &payload(number))).collect();
        peer.send(burst);
        let waiting = metric(&gateway, "fanfare_outbox_bytes");
        assert!(waiting <= 64.0 * 1024.0, "{waiting} bytes wait");
    }
    assert!(resident_bytes(&gateway) < before + (16 << 20), "pongs pile up");
    witnesses.are_served("a flood of pings");
    // Pongs may be left out, but never mixed up, and the last ping has its pong.
    let mut last = None;
    while last != Some(PINGS - 1) {
        let pong = peer.frame();
        assert_eq!((pong.first, pong.payload.len()), (PONG, 125), "{pong:?}");
        let number = u64::from_be_bytes(pong.payload[..8].try_into().unwrap());
        assert!(last.is_none_or(|last| last < number), "{last:?} before {number}");
        last = Some(number);
    }
}

#[test]
fn random_bytes_close_their_connection_at_most() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    for round in 0..300 {
        let target = ["/ws", "/topics/a"][round % 2];
        let mut bytes: Vec<u8> = (0..random.usize(1..4000)).map(|_| random.u8(..)).collect();
        if random.bool() {
            // A valid beginning takes the noise deeper.
            bytes[0] = [TEXT, BINARY, PING, TEXT & MORE][random.usize(..4)];
            if let Some(second) = bytes.get_mut(1) {
                *second |= 0x80;
            }
        }
        let mut peer = Peer::websocket(gateway.address, target);
        peer.try_send(&bytes);
        peer.end();
        while let Some(frame) = peer.next() {
            if frame.first == CLOSE {
                let code = frame.code();
                // 1000 and up: the noise was a close frame itself.
                assert!(code.is_none_or(|code| (1000..5000).contains(&code)), "{code:?}, SEED={seed}");
            }
        }
        if round % 50 == 49 {
            witnesses.are_served("noise");
        }
    }
    until_metric(&gateway, r#"fanfare_connections{transport="raw"}"#, |open| open == 0.0);
    until_metric(&gateway, r#"fanfare_connections{transport="json"}"#, |open| open == 2.0);
    assert!(metrics(&gateway).contains_key("fanfare_build_info{version=\"0.1.0\"}"));
}

#[test]
fn who_is_told_goodbye_and_stays_is_thrown_out() {
    let gateway = Gateway::start(&["--close-timeout", "200ms"]);
    let mut deaf = Peer::websocket(gateway.address, "/ws");
    // An unmasked frame, and then nothing: neither a close frame nor the end of the connection.
    deaf.send(b"\x81\x05hello");
    let closed = r#"fanfare_closes_total{reason="protocol_error"}"#;
    until_metric(&gateway, closed, |count| count == 1.0);
    assert_eq!(metric(&gateway, r#"fanfare_connections{transport="json"}"#), 0.0);
    assert_eq!(deaf.close_code(), Some(1002));

    let mut talker = Peer::websocket(gateway.address, "/topics/a");
    talker.send(b"\x81\x05hello");
    while talker.try_send(masked(TEXT, &[b'x'; 1000])) {}
    until_metric(&gateway, closed, |count| count == 2.0);
    assert_eq!(metric(&gateway, "fanfare_messages_total"), 0.0, "nothing behind a fault is read");
}

#[test]
fn who_ends_one_half_or_resets_is_gone() {
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    // The search for witnesses left some that are gone, too.
    until_metric(&gateway, r#"fanfare_connections{transport="json"}"#, |open| open == 2.0);
    let before = closes(&gateway, "peer_gone");
    let gone = r#"fanfare_closes_total{reason="peer_gone"}"#;
    let mut half = Peer::websocket(gateway.address, "/topics/a");
    half.end();
    half.ended();
    until_metric(&gateway, gone, |count| count == before + 1.0);
    let (reset, _) = Peer::subscribed(gateway.address, &["a", "b"]);
    socket2::SockRef::from(&reset.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    until_metric(&gateway, gone, |count| count == before + 2.0);
    assert_eq!(metric(&gateway, "fanfare_subscribed_topics"), 2.0);
    assert_eq!(metric(&gateway, "fanfare_topics"), 1.0);
    witnesses.are_served("two that are gone");
}
