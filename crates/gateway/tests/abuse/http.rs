//! Requests that are none, are two, or do not end.

use std::time::Duration;

use serde::Deserialize;

use crate::support::Gateway;
use crate::support::metrics::{eventually, metric, metrics, open_files, resident_bytes, until_metric};
use crate::support::peer::{HANDSHAKE, Peer, TEXT, masked, publish, request, request_text};
use crate::support::stream::{EVENTS, LINES, Stream};
use crate::witnesses::Witnesses;

#[test]
fn a_request_that_drips_is_given_up() {
    let gateway = Gateway::start(&["--header-timeout", "300ms"]);
    let mut witnesses = Witnesses::new(&gateway);
    for start in ["", "GET /healthz HTTP/1.1\r\nhost: x\r\na: "] {
        let mut peer = Peer::connect(gateway.address);
        peer.send(start);
        let mut hand = peer.second_hand();
        std::thread::scope(|scope| {
            if !start.is_empty() {
                scope.spawn(move || {
                    while hand.try_send("x") {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                });
            }
            // The reset that meets a byte under way may overtake the answer.
            assert!(peer.try_answer().is_none_or(|answer| answer.status == 408));
            peer.ended();
        });
        witnesses.are_served("a request byte by byte");
    }
    let mut idle = Peer::connect(gateway.address);
    assert_eq!(idle.request("GET", "/healthz", &[], "").status, 200);
    // An answer may take longer than a header.
    assert_eq!(idle.request("GET", "/poll?topic=a&wait=1", &[], "").status, 200);
    assert_eq!(idle.request("GET", "/healthz", &[], "").status, 200);
    assert_eq!(idle.next_byte(), None, "nothing was asked, and nothing is answered");
    until_metric(&gateway, r#"fanfare_connections{transport="http"}"#, |open| open == 0.0);
}

#[test]
fn what_is_not_http_is_refused() {
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    let mut check = |name: &str, bytes: &[u8], statuses: &[u16]| {
        let mut peer = Peer::connect(gateway.address);
        peer.try_send(bytes);
        for status in statuses {
            // Refused before all of it was read, it may end with a reset.
            let answer = peer.try_answer();
            assert!(answer.as_ref().is_none_or(|answer| answer.status == *status), "{name}: {answer:?}");
        }
        assert!(peer.try_answer().is_none(), "{name}: one answer too many");
        witnesses.are_served(name);
    };
    let post = |headers: &str, body: &str| {
        format!("POST /topics/a HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{body}").into_bytes()
    };
    let get = |headers: &str| format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n").into_bytes();

    check("any bytes", &(128..=255).cycle().take(1000).collect::<Vec<u8>>(), &[400]);
    check("zeroes", &[0; 64], &[400]);
    check("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &[400]);
    check("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[]);
    check("half a line", b"GET\r\n\r\n", &[400]);
    check("HTTP/9.9", b"GET / HTTP/9.9\r\n\r\n", &[400]);
    check("no method", b"G@T / HTTP/1.1\r\n\r\n", &[400]);
    check("a zero byte in a header", &get("a: b\0c"), &[400]);
    check("a space before the colon", &get("a : b"), &[400]);
    check("a folded header", &get("a: b\r\n c"), &[400]);
    check("a lone carriage return", &get("a: b\rc: d"), &[400]);
    check("a length with a sign", &post("content-length: +3", "abc"), &[400]);
    check("a negative length", &post("content-length: -1", "abc"), &[400]);
    check("two lengths in one", &post("content-length: 3, 3", "abc"), &[400]);
    check("two lengths that differ", &post("content-length: 3\r\ncontent-length: 4", "abcd"), &[400]);
    check("a length of 2^64", &post("content-length: 18446744073709551616", "abc"), &[400]);
    check("an unknown encoding", &post("transfer-encoding: xchunked", "0\r\n\r\n"), &[400]);
    check("chunks and more", &post("transfer-encoding: chunked, gzip", "0\r\n\r\n"), &[400]);
    let chunked = |body: &str| post("transfer-encoding: chunked", body);
    check("a chunk of 2^64 bytes", &chunked("10000000000000000\r\nabc"), &[400]);
    check("a chunk with a prefix", &chunked("0x3\r\nabc\r\n0\r\n\r\n"), &[400]);
    check("a chunk without an end", &chunked("3\r\nabcd\r\n0\r\n\r\n"), &[400]);
    check("a long chunk extension", &chunked(&format!("3;{}\r\n", "a".repeat(20_000))), &[400]);
    check("10,000 trailers", &chunked(&format!("0\r\n{}\r\n", "a: b\r\n".repeat(10_000))), &[400]);
    check("100 KiB of header", &get(&format!("a: {}", "b".repeat(100 * 1024))), &[431]);
    check("17 KiB of header", &get(&format!("a: {}", "b".repeat(17 * 1024))), &[431]);
    check("300 headers", &get("a: b\r\n".repeat(300).trim_end()), &[431]);
    check("100 KiB of path", format!("GET /{} HTTP/1.1\r\n", "a".repeat(100 * 1024)).as_bytes(), &[431]);

    // The length is not believed, and what comes behind the chunks is not served.
    let smuggled =
        post("content-length: 6\r\ntransfer-encoding: chunked", "0\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n");
    check("a request behind both lengths", &smuggled, &[200]);
    assert_eq!(publish(gateway.address, "a", "text/plain", "x").json()["offset"], 2);
}

#[test]
fn a_bad_handshake_is_refused_and_its_connection_closed() {
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    let mut check = |name: &str, request_line: &str, change: (&str, &str), status: u16| {
        for target in ["/ws", "/topics/a"] {
            let request_line = request_line.replace("TARGET", target);
            let headers = HANDSHAKE.replace(change.0, change.1);
            let mut peer = Peer::connect(gateway.address);
            // Frames behind it are no requests either.
            let text = format!("{request_line}\r\n{headers}\r\n").into_bytes();
            peer.send([text, masked(TEXT, b"GET /healthz HTTP/1.1\r\n\r\n")].concat());
            let answer = peer.answer();
            assert_eq!(answer.status, status, "{name} on {target}: {answer:?}");
            assert!(!answer.error_code().is_empty());
            if status == 426 {
                assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{answer:?}");
            }
            assert_eq!(peer.next_byte(), None, "{name}: the connection stays open");
        }
        witnesses.are_served(name);
    };
    let get = "GET TARGET HTTP/1.1";
    check("version 8", get, ("version: 13", "version: 8"), 426);
    check("version 1337", get, ("version: 13", "version: 1337"), 426);
    check("two versions", get, ("version: 13", "version: 8, 13"), 426);
    check("no version", get, ("sec-websocket-version: 13\r\n", ""), 426);
    check("no key", get, ("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400);
    check("a short key", get, ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="), 400);
    check("a key that is no base64", get, ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j!Q=="), 400);
    let twice = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
    check("two keys", get, ("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", twice), 400);
    check("no connection header", get, ("connection: Upgrade\r\n", ""), 400);
    check("another connection header", get, ("connection: Upgrade", "connection: keep-alive"), 400);
    check("a POST", "POST TARGET HTTP/1.1", ("", ""), 405);
    check("HTTP/1.0", "GET TARGET HTTP/1.0", ("", ""), 400);
    check("a body", get, ("host: fanfare", "host: fanfare\r\ncontent-length: 5"), 400);
    check("chunks", get, ("host: fanfare", "host: fanfare\r\ntransfer-encoding: chunked"), 400);
    check("no host", get, ("host: fanfare\r\n", ""), 400);
    check("two hosts", get, ("host: fanfare", "host: fanfare\r\nhost: other"), 400);
    assert_eq!(metric(&gateway, "fanfare_refused_handshakes_total"), 28.0);

    let mut polite = Peer::connect(gateway.address);
    let headers = HANDSHAKE.replace("connection: Upgrade", "connection: keep-alive, upgrade");
    let headers = headers.replace("upgrade: websocket", "upgrade: WebSocket");
    polite.send(format!("GET http://elsewhere/ws HTTP/1.1\r\n{headers}sec-websocket-extensions: permessage-deflate; x=\"y\"\r\n\r\n"));
    let answer = polite.answer();
    assert_eq!((answer.status, answer.header("sec-websocket-extensions")), (101, None), "{answer:?}");
}

#[test]
fn requests_without_reading_fill_no_memory() {
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    let before = resident_bytes(&gateway);
    let mut peer = Peer::connect_with_room(gateway.address, 4 * 1024);
    peer.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let burst = request_text("GET", "/healthz", &[], "").repeat(1000);
    let mut sent = 0;
    while sent < 2000 && peer.try_send(&burst) {
        sent += 1;
    }
    assert!(sent < 2000, "it reads on and on, and where do the answers go?");
    assert!(resident_bytes(&gateway) < before + (16 << 20), "answers pile up");
    witnesses.are_served("requests without reading");
}

/// A way to hide one request in another.
#[derive(Deserialize)]
struct Form {
    name: String,
    request: String,
    /// The statuses of what the gateway answers.
    answers: Vec<u16>,
}

/// What stands for `HIDDEN` in a form.
const HIDDEN: &str = "POST /topics/smuggled HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx";

#[test]
fn a_request_hidden_in_another_is_never_served() {
    let forms: Vec<Form> = serde_json::from_str(include_str!("smuggling.json")).unwrap();
    assert!(forms.len() > 100);
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    for Form { name, request: text, answers } in forms {
        // Characters up to U+00FF stand for bytes.
        let bytes: Vec<u8> = text.replace("HIDDEN", HIDDEN).chars().map(|byte| byte as u8).collect();
        let mut peer = Peer::connect(gateway.address);
        peer.try_send(&bytes);
        let first = peer.statuses(answers.len());
        // It was refused before all of it was read, and may end with a reset.
        assert!(first == answers || first.is_empty(), "{name}: {first:?}");
        peer.end();
        assert_eq!(peer.statuses(usize::MAX), first, "{name}: another answer");
        let smuggled = request(gateway.address, "GET", "/topics/smuggled", &[], "");
        assert_eq!(smuggled.status, 404, "{name}");
    }
    witnesses.are_served("smuggling");
    until_metric(&gateway, r#"fanfare_connections{transport="http"}"#, |open| open == 0.0);
}

#[test]
fn a_line_feed_alone_ends_a_line() {
    // RFC 9112, section 2.2, allows it. What stands in front writes headers anew.
    let gateway = Gateway::start(&[]);
    let mut peer = Peer::connect(gateway.address);
    peer.send("GET /healthz HTTP/1.1\nhost: x\na: b\n\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!((peer.answer().status, peer.answer().status), (200, 200));
}

#[test]
fn a_stream_is_a_stream_whatever_else_is_asked_of_it() {
    let gateway = Gateway::start(&[]);
    publish(gateway.address, "a", "text/plain", "whole");
    let odd = [
        ("range", "bytes=0-1"),
        ("if-none-match", "*"),
        ("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT"),
        ("if-range", "\"x\""),
        ("accept-encoding", "gzip, br"),
        ("te", "trailers, deflate"),
        ("connection", "keep-alive"),
    ];
    for accept in [EVENTS, LINES] {
        let stream = Stream::open(gateway.address, "/topics/a", &[&odd[..], &[accept]].concat());
        for (name, value) in [
            ("content-encoding", None),
            ("content-range", None),
            ("cache-control", Some("no-cache, no-transform")),
        ] {
            assert_eq!(stream.head.header(name), value, "{accept:?}: {:?}", stream.head);
        }
        // HEAD is asked of the value, not of a stream that would not end.
        let mut peer = Peer::connect(gateway.address);
        let head = peer.request("HEAD", "/topics/a", &[accept], "");
        assert_eq!((head.status, head.header("transfer-encoding")), (200, None), "{head:?}");
        assert_eq!(peer.request("HEAD", "/events?topic=a", &[], "").status, 405);
        assert_eq!(peer.request("GET", "/healthz", &[], "").status, 200, "the connection goes on");
    }
    let part = request(gateway.address, "GET", "/topics/a", &[("range", "bytes=0-1")], "");
    assert_eq!((part.status, part.text()), (200, "whole"));
}

#[test]
fn a_scan_finds_nothing_and_makes_no_metric() {
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    let names = || metrics(&gateway).into_keys().collect::<Vec<_>>();
    let before = names();
    let long = format!("/{}", "x".repeat(4000));
    let paths = [
        "/",
        "/metrics",
        "/admin",
        "/debug/pprof/",
        "/.env",
        "/.git/config",
        "/../../etc/passwd",
        "//healthz",
        "/healthz/",
        "/HEALTHZ",
        "/healthz%00",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/topics/../metrics",
        "/topics/a/b/c",
        "/topics//",
        "/topics/%ff",
        "/topics/a%0d%0ax:%20y",
        "/ws/",
        "/events/",
        "/publish/",
        "/connections",
        "/drain",
        "/wp-login.php",
        "/?x",
        "/;",
        "/*",
        &long,
    ];
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "X-MADE-UP"];
    for path in paths {
        for method in methods {
            let headers = [("host", "fanfare"), ("x-evil", "\"}\\"), ("user-agent", "() { :; }; /bin/false")];
            let mut peer = Peer::connect(gateway.address);
            let mut text = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
            for (name, value) in headers {
                text.extend(format!("{name}: {value}\r\n").into_bytes());
            }
            text.extend(b"connection: close\r\ncontent-length: 0\r\n\r\n");
            peer.send(text);
            let statuses = peer.statuses(usize::MAX);
            assert!(matches!(statuses[..], [400 | 404 | 405]), "{method} {path}: {statuses:?}");
        }
        witnesses.are_served(path);
    }
    assert_eq!(names(), before, "a client has made a metric");
}

/// `count` connections come, say nothing or a little, and go.
fn silent_visitors_leave_nothing_behind(count: usize) {
    let gateway = Gateway::start(&["--handshakes-per-second", "off"]);
    let mut witnesses = Witnesses::new(&gateway);
    let visit = |count: usize| {
        for number in 0..count {
            let mut peer = Peer::connect(gateway.address);
            if number % 2 == 0 {
                peer.try_send("GET /topics");
            }
            if number % 3 == 0 {
                socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
        until_metric(&gateway, r#"fanfare_connections{transport="http"}"#, |open| open == 0.0);
    };
    visit(count / 4);
    let (memory, files) = (resident_bytes(&gateway), open_files(&gateway));
    visit(count);
    witnesses.are_served("silent visitors");
    eventually(|| open_files(&gateway) <= files, "no file is left open");
    eventually(|| resident_bytes(&gateway) < memory + (8 << 20), "the memory comes back");
    assert!(metric(&gateway, "fanfare_accepted_total") >= count as f64);
}

#[test]
fn thousands_of_silent_visitors_leave_nothing_behind() {
    silent_visitors_leave_nothing_behind(2_000);
}

#[test]
#[ignore = "on demand: make abuse"]
fn a_hundred_thousand_silent_visitors_leave_nothing_behind() {
    silent_visitors_leave_nothing_behind(100_000);
}
