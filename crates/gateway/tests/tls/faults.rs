//! Who does not shake hands, and who breaks the rules later.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::secure::Secure;
use crate::support::PATIENCE;
use crate::support::metrics::{closes, metric, until_metric};
use crate::support::peer::{Peer, request_text};

/// Reads to the end, however it comes.
fn read_to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes it");
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    all
}

fn is_alert(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x15)
}

#[test]
fn plain_http_is_refused_and_counted() {
    let secure = Secure::start(&[]);
    let mut stream = TcpStream::connect(secure.gateway.address).unwrap();
    stream.write_all(&request_text("GET", "/healthz", &[], "")).unwrap();
    let answer = read_to_the_end(&mut stream);
    assert!(answer.is_empty() || is_alert(&answer), "{answer:?}");
    secure.until_handshakes("not_tls", 1.0);
    secure.post("a", "1");
}

#[test]
fn a_handshake_that_takes_too_long_is_over() {
    let secure = Secure::start(&["--tls-handshake-timeout", "200ms"]);
    // One says nothing, one a part of its hello, one drips.
    let mut silent = TcpStream::connect(secure.gateway.address).unwrap();
    let mut half = TcpStream::connect(secure.gateway.address).unwrap();
    let hello = old_hello();
    half.write_all(&hello[..hello.len() / 2]).unwrap();
    let mut dripping = TcpStream::connect(secure.gateway.address).unwrap();
    dripping.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let deadline = Instant::now() + PATIENCE;
    // A hello that claims to be long: it is never whole.
    dripping.write_all(&[0x16, 3, 1, 0x20, 0, 1, 0, 0x1f, 0xfc]).unwrap();
    loop {
        assert!(Instant::now() < deadline, "it may drip for ever");
        let sent = dripping.write_all(&[0]);
        match dripping.read(&mut [0; 64]) {
            Ok(0) => break,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            _ if sent.is_err() => break,
            _ => {}
        }
    }
    assert_eq!(read_to_the_end(&mut silent), b"");
    assert_eq!(read_to_the_end(&mut half), b"");
    secure.until_handshakes("timeout", 3.0);
    until_metric(&secure.gateway, r#"fanfare_connections{transport="http"}"#, |open| open == 0.0);
    secure.post("a", "1");
}

#[test]
fn who_shakes_hands_is_among_the_open_connections() {
    let secure = Secure::start(&["--tls-handshake-timeout", "10m"]);
    let crowd: Vec<_> = (0..5).map(|_| TcpStream::connect(secure.gateway.address).unwrap()).collect();
    until_metric(&secure.gateway, r#"fanfare_connections{transport="http"}"#, |open| open == 5.0);
    drop(crowd);
    until_metric(&secure.gateway, r#"fanfare_connections{transport="http"}"#, |open| open == 0.0);
}

/// A hello of TLS 1.1, which has no better to offer.
fn old_hello() -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    // No session, two ciphers, no compression.
    body.extend([0, 0, 4, 0xc0, 0x14, 0, 0x2f, 1, 0]);
    let mut hello = vec![1, 0, 0, body.len() as u8];
    hello.extend(body);
    [&[0x16, 3, 1, 0, hello.len() as u8], &*hello].concat()
}

#[test]
fn who_has_nothing_in_common_is_refused() {
    let secure = Secure::start(&[]);
    let mut old = TcpStream::connect(secure.gateway.address).unwrap();
    old.write_all(&old_hello()).unwrap();
    assert!(is_alert(&read_to_the_end(&mut old)));
    secure.until_handshakes("incompatible", 1.0);
    // HTTP/2 alone: the process does not speak it.
    let only_h2 = secure.authority.client(&["h2"]);
    let refused = Peer::connect(secure.gateway.address).try_secured(&only_h2).err().expect("ALPN refuses");
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    secure.until_handshakes("incompatible", 2.0);
    // With a choice, or without a wish, there is HTTP/1.1.
    for protocols in [&["h2", "http/1.1"][..], &[]] {
        let client = secure.authority.client(protocols);
        let mut peer = Peer::connect(secure.gateway.address).secured(&client);
        assert_eq!(peer.request("GET", "/healthz", &[], "").status, 200);
    }
}

#[test]
fn a_client_that_does_not_trust_the_certificate_is_counted() {
    let secure = Secure::start(&[]);
    let distrustful = secure.authority.distrustful_client();
    assert!(Peer::connect(secure.gateway.address).try_secured(&distrustful).is_err());
    secure.until_handshakes("refused", 1.0);
    assert_eq!(secure.handshakes("done"), 0.0);
}

#[test]
fn who_leaves_in_the_middle_of_a_handshake_is_counted() {
    let secure = Secure::start(&[]);
    drop(TcpStream::connect(secure.gateway.address).unwrap());
    secure.until_handshakes("gone", 1.0);
}

#[test]
fn garbage_after_the_handshake_ends_that_connection_and_no_other() {
    let secure = Secure::start(&[]);
    let mut other = secure.subscribed(&["a"]);
    let mut idle = secure.peer();
    let mut broken = [secure.subscribed(&["a"]), secure.peer().upgraded("/topics/a").listening()];
    let garbage: [&[u8]; 2] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x17, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
    ];
    for (peer, garbage) in broken.iter_mut().zip(garbage) {
        peer.stream.write_all(garbage).unwrap();
        read_to_the_end(&mut peer.stream);
    }
    idle.stream.write_all(garbage[1]).unwrap();
    read_to_the_end(&mut idle.stream);
    until_metric(&secure.gateway, r#"fanfare_closes_total{reason="peer_gone"}"#, |count| count == 2.0);
    secure.post("a", "1");
    assert_eq!(other.json()["data"], 1);
}

#[test]
fn an_end_without_words_is_an_end() {
    let secure = Secure::start(&[]);
    let peer = secure.subscribed(&["a"]);
    let idle = secure.peer();
    let mut stream = secure.peer();
    stream.send(request_text("GET", "/topics/a", &[("accept", "text/event-stream")], ""));
    assert_eq!(stream.answer().status, 200);
    // Dropped, they say nothing: their sockets just end.
    drop((peer, idle, stream));
    secure.until_nobody();
    assert_eq!(closes(&secure.gateway, "peer_gone"), 2.0);
}

#[test]
fn past_the_bound_a_connection_ends_before_its_handshake() {
    let secure = Secure::start(&["--connections", "1"]);
    let _first = secure.peer();
    assert!(Peer::connect(secure.gateway.address).try_secured(&secure.client).is_err());
    assert_eq!(metric(&secure.gateway, "fanfare_refused_connections_total"), 1.0);
    assert_eq!(secure.handshakes("done"), 1.0);
}
