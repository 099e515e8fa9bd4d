//! Whose connection it is: what proxies say, and who is believed.

mod support;

use support::Gateway;
use support::metrics::{metric, until_metric};
use support::peer::{Peer, publish, request_text};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
}

/// A gateway that wants the PROXY protocol of 127.0.0.1, and of nobody else.
fn behind_a_proxy(args: &[&str]) -> Gateway {
    Gateway::start(&[&["--trusted-proxies", "127.0.0.1", "--proxy-protocol"], args].concat())
}

fn health() -> Vec<u8> {
    request_text("GET", "/healthz", &[], "")
}

const ADDRESSES: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xc8, 0x22, 1, 0xbb];

#[test]
fn a_trusted_proxy_says_whose_connection_it_is() {
    let gateway = behind_a_proxy(&[]);
    let check = |header: &[u8]| {
        // With the request, alone before it, and byte by byte.
        let request = health();
        let cuts: [&[&[u8]]; 2] = [&[&[header, &request].concat()], &[header, &request]];
        for pieces in cuts {
            let mut peer = Peer::connect(gateway.address);
            pieces.iter().for_each(|piece| peer.send(piece));
            assert_eq!(peer.answer().status, 200, "{}", header.escape_ascii());
        }
        let mut peer = Peer::connect(gateway.address);
        header.iter().chain(&request).for_each(|byte| peer.send([*byte]));
        assert_eq!(peer.answer().status, 200, "{}", header.escape_ascii());
        // Only the first request has one.
        assert_eq!(peer.request("GET", "/healthz", &[], "").status, 200);
    };
    check(b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\r\n");
    check(b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 443\r\n");
    check(b"PROXY UNKNOWN\r\n");
    check(&binary(0x21, 0x11, &ADDRESSES));
    check(&binary(0x21, 0x21, &[1; 36]));
    check(&binary(0x21, 0x31, &[b'/'; 216]));
    check(&binary(0x21, 0x00, &[]));
    check(&binary(0x20, 0x00, &[]));
    check(&binary(0x21, 0x11, &[&ADDRESSES[..], &[4, 1, 0xf9], &[0; 505]].concat()));
    assert_eq!(metric(&gateway, "fanfare_proxy_header_errors_total"), 0.0);

    // A WebSocket like any other.
    let mut peer = Peer::connect(gateway.address);
    peer.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\r\n");
    let mut peer = peer.upgraded("/topics/a").listening();
    let mut publisher = Peer::connect(gateway.address);
    publisher.send(binary(0x21, 0x11, &ADDRESSES));
    let answer = publisher.request("POST", "/topics/a", &[("content-type", "text/plain")], "hello");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(peer.text(), "hello");
}

#[test]
fn a_trusted_proxy_without_a_header_is_not_heard() {
    let gateway = behind_a_proxy(&[]);
    let mut refused = 0.0;
    let mut check = |name: &str, bytes: &[u8]| {
        let mut peer = Peer::connect(gateway.address);
        peer.try_send(bytes);
        peer.try_send(health());
        peer.end();
        assert_eq!(peer.next_byte(), None, "{name}: it is answered");
        refused += 1.0;
        until_metric(&gateway, "fanfare_proxy_header_errors_total", |count| count == refused);
    };
    check("no header", b"");
    check("a malformed line", b"PROXY TCP4 192.0.2.7 198.51.100.1 51234\r\n");
    check("an address that is none", b"PROXY TCP4 192.0.2.256 198.51.100.1 51234 443\r\n");
    check("a line without an end", &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat());
    check("a line feed alone", b"PROXY UNKNOWN\n");
    check("garbage", &[0xff; 64]);
    check("half a signature", b"\r\n\r\n\0\r\nQUIX\n");
    check("version 3", &binary(0x31, 0x11, &ADDRESSES));
    check("a datagram", &binary(0x21, 0x12, &ADDRESSES));
    check("too few addresses", &binary(0x21, 0x11, &ADDRESSES[..8]));
    check(
        "a TLV that is longer than the header",
        &binary(0x21, 0x11, &[&ADDRESSES[..], &[4, 9, 9]].concat()),
    );
    check("huge TLVs", &binary(0x21, 0x11, &[0; 65_535]));
    check("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");

    // An end in the middle of it.
    let mut peer = Peer::connect(gateway.address);
    peer.send(b"PROXY TCP4 192.");
    peer.end();
    assert_eq!(peer.next_byte(), None);
    until_metric(&gateway, r#"fanfare_connections{transport="http"}"#, |open| open == 0.0);
}

#[test]
fn a_header_that_does_not_come_in_time_is_given_up() {
    let gateway = behind_a_proxy(&["--proxy-header-timeout", "200ms"]);
    let mut witness = Peer::connect(gateway.address);
    witness.send(b"PROXY UNKNOWN\r\n");
    let mut witness = witness.upgraded("/topics/a").listening();
    for start in [&b""[..], b"PROXY TCP4 ", SIGNATURE] {
        let mut peer = Peer::connect(gateway.address);
        peer.send(start);
        assert_eq!(peer.next_byte(), None);
    }
    assert_eq!(metric(&gateway, r#"fanfare_refusals_total{limit="proxy_header_timeout"}"#), 3.0);
    witness.send(support::peer::masked(support::peer::TEXT, b"still here"));
    assert_eq!(witness.text(), "still here");
}

#[test]
fn nobody_else_may_speak_for_others() {
    let gateway = behind_a_proxy(&[]);
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), binary(0x21, 0x11, &ADDRESSES)] {
        let mut stranger = Peer::connect_from("127.0.0.2", gateway.address);
        stranger.send([header, health()].concat());
        assert_eq!(stranger.answer().status, 400);
    }
    let mut stranger = Peer::connect_from("127.0.0.2", gateway.address);
    assert_eq!(stranger.request("GET", "/healthz", &[], "").status, 200);
    assert_eq!(metric(&gateway, "fanfare_proxy_header_errors_total"), 0.0);

    // Nor does anybody where the protocol is not spoken, trusted or not.
    let gateway = Gateway::start(&["--trusted-proxies", "127.0.0.1"]);
    let mut proxy = Peer::connect(gateway.address);
    proxy.send([b"PROXY UNKNOWN\r\n".to_vec(), health()].concat());
    assert_eq!(proxy.answer().status, 400);
    assert_eq!(publish(gateway.address, "a", "text/plain", "x").status, 200);
}
