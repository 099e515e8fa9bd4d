//! permessage-deflate (RFC 7692): for whom it is, what is compressed, how often, and what a client may send compressed.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use support::Gateway;
use support::config_file::ConfigFile;
use support::metrics::{metric, resident_bytes, until_metric};
use support::peer::{BINARY, COMPRESSED, CONTINUATION, HANDSHAKE, MORE, PING, Peer, TEXT, masked, publish};

/// "Hello" in one compressed block: the example of RFC 7692, section 7.2.3.1.
const HELLO: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";

/// A gateway that compresses the topics under `z.`.
fn gateway(flags: &[&str]) -> (Gateway, ConfigFile) {
    let file = ConfigFile::new("[[topics]]\nmatch = \"z.>\"\ndeflate = true\n");
    (Gateway::start(&[&["--config", file.path()], flags].concat()), file)
}

fn book() -> String {
    let rows: Vec<_> = (0..50).map(|row| format!("[\"64000.{row:02}\",\"0.5\"]")).collect();
    format!("[{}]", rows.join(","))
}

/// What a client's compressor makes of it that ends with a last block (section 7.2.3.4).
fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut data = miniz_oxide::deflate::compress_to_vec(bytes, 6);
    data.push(0);
    data
}

#[test]
fn it_is_not_offered_where_no_topic_is_compressed() {
    let gateway = Gateway::start(&[]);
    let mut peer = Peer::connect(gateway.address);
    peer.send(format!("GET /ws HTTP/1.1\r\n{HANDSHAKE}sec-websocket-extensions: permessage-deflate\r\n\r\n"));
    let answer = peer.answer();
    assert_eq!((answer.status, answer.header("sec-websocket-extensions")), (101, None));
    let (mut peer, _) = peer.welcomed();
    peer.send(masked(TEXT | COMPRESSED, HELLO));
    assert_eq!(peer.close_code(), Some(1002));
}

#[test]
fn a_topic_is_compressed_for_those_who_negotiated_it() {
    let (gateway, _file) = gateway(&[]);
    let book = book();
    let targets = ["/topics/z.a", "/topics/plain", "/ws"];
    let [mut compressed, mut other, mut native] =
        targets.map(|target| Peer::deflated(gateway.address, target));
    let mut without = Peer::websocket(gateway.address, "/topics/z.a").listening();
    compressed = compressed.listening();
    other = other.listening();
    (native, _) = native.welcomed();
    native.subscribe(&["z.a", "plain"]);
    assert_eq!(metric(&gateway, "fanfare_deflate_connections"), 3.0);
    assert_eq!(metric(&gateway, "fanfare_connections{transport=\"raw\"}"), 3.0);

    for topic in ["z.a", "plain"] {
        publish(gateway.address, topic, "application/json", &book);
        publish(gateway.address, topic, "application/json", "{}");
    }
    for peer in [&mut compressed, &mut other, &mut without] {
        assert_eq!((peer.text(), peer.text()), (book.clone(), "{}".to_owned()));
    }
    for topic in ["z.a", "plain"] {
        assert_eq!(native.text(), format!(r#"{{"topic":"{topic}","offset":1,"data":{book}}}"#));
        assert_eq!(native.text(), format!(r#"{{"topic":"{topic}","offset":2,"data":{{}}}}"#));
    }
    // The long messages of the topic, and nothing that the server says itself.
    assert_eq!((compressed.inflated, other.inflated, native.inflated), (1, 0, 1));

    drop((compressed, other, native));
    until_metric(&gateway, "fanfare_deflate_connections", |open| open == 0.0);
    until_metric(&gateway, "fanfare_connections{transport=\"raw\"}", |open| open == 1.0);
}

#[test]
fn a_message_is_compressed_once_however_many_subscribe() {
    const EACH: usize = 50;
    let (gateway, _file) = gateway(&[]);
    let book = book();
    // The kernel spreads them over both workers.
    let mut raw: Vec<_> =
        (0..EACH).map(|_| Peer::deflated(gateway.address, "/topics/z.a").listening()).collect();
    let mut native: Vec<_> = (0..EACH).map(|_| Peer::deflated(gateway.address, "/ws").welcomed().0).collect();
    native.iter_mut().for_each(|peer| drop(peer.subscribe(&["z.a"])));
    for offset in 1..=3 {
        publish(gateway.address, "z.a", "application/json", &book);
        let message = format!(r#"{{"topic":"z.a","offset":{offset},"data":{book}}}"#);
        assert!(raw.iter_mut().all(|peer| peer.text() == book));
        assert!(native.iter_mut().all(|peer| peer.text() == message));
        until_metric(&gateway, "fanfare_deflated_messages_total", |count| count == 2.0 * f64::from(offset));
    }
    let (bytes_in, bytes_out) = (
        metric(&gateway, "fanfare_deflate_in_bytes_total"),
        metric(&gateway, "fanfare_deflate_out_bytes_total"),
    );
    assert!(bytes_in > 6.0 * book.len() as f64 && bytes_out < bytes_in / 3.0, "{bytes_in}, {bytes_out}");
    // A replay takes what is there.
    let mut late = Peer::deflated(gateway.address, "/topics/z.a?from=earliest");
    assert!((0..3).all(|_| late.text() == book));
    assert_eq!(late.inflated, 3);
    assert_eq!(metric(&gateway, "fanfare_deflated_messages_total"), 6.0);
}

#[test]
fn what_a_client_compresses_is_inflated() {
    let (gateway, _file) = gateway(&[]);
    // On any topic: what was negotiated is the connection's.
    let mut raw = Peer::deflated(gateway.address, "/topics/plain").listening();
    raw.send(masked(TEXT | COMPRESSED, HELLO));
    assert_eq!(raw.text(), "Hello");
    raw.send(masked((BINARY | COMPRESSED) & MORE, &HELLO[..2]));
    raw.send(masked(CONTINUATION & MORE, b""));
    raw.send(masked(CONTINUATION, &HELLO[2..]));
    assert_eq!(raw.frame().payload, b"Hello");
    raw.send(masked(TEXT, b"as it is"));
    assert_eq!(raw.text(), "as it is");
    let longest = "x".repeat(64 << 10);
    raw.send(masked(TEXT | COMPRESSED, &compress(longest.as_bytes())));
    assert_eq!(raw.text(), longest);

    let (mut native, _) = Peer::deflated(gateway.address, "/ws").welcomed();
    native.send(masked(TEXT | COMPRESSED, &compress(br#"{"type":"ping","id":7}"#)));
    assert_eq!(native.json()["id"], 7);
}

#[test]
fn what_does_not_inflate_has_its_code() {
    let (gateway, _file) = gateway(&[]);
    let check = |frames: &[Vec<u8>], code, reason: &str| {
        let (mut peer, _) = Peer::deflated(gateway.address, "/ws").welcomed();
        for frame in frames {
            peer.try_send(frame);
        }
        assert_eq!(peer.close_code(), Some(code), "{frames:x?}");
        let name = format!("fanfare_closes_total{{reason=\"{reason}\"}}");
        until_metric(&gateway, &name, |closes| closes > 0.0);
    };
    check(&[masked(TEXT | COMPRESSED, b"\xff\xff")], 1007, "bad_utf8");
    check(&[masked(TEXT | COMPRESSED, b"")], 1007, "bad_utf8");
    check(&[masked(TEXT | COMPRESSED, &compress(b"\xff"))], 1007, "bad_utf8");
    check(&[masked(PING | COMPRESSED, b"")], 1002, "protocol_error");
    let again = [masked((TEXT | COMPRESSED) & MORE, HELLO), masked(CONTINUATION | COMPRESSED, b"")];
    check(&again, 1002, "protocol_error");
    check(&[masked(TEXT | COMPRESSED, &compress(&[b' '; (64 << 10) + 1]))], 1009, "too_big");
}

#[test]
fn a_bomb_costs_no_more_than_a_message() {
    let (gateway, _file) = gateway(&[]);
    // 48 MiB in 48 KiB.
    let bomb = masked(TEXT | COMPRESSED, &compress(&vec![b' '; 48 << 20]));
    assert!(bomb.len() < 64 << 10, "{}", bomb.len());
    let explode = || {
        let (mut peer, _) = Peer::deflated(gateway.address, "/ws").welcomed();
        peer.try_send(&bomb);
        assert_eq!(peer.close_code(), Some(1009));
    };
    explode();
    let before = resident_bytes(&gateway);
    (0..50).for_each(|_| explode());
    let grown = resident_bytes(&gateway).saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
}
