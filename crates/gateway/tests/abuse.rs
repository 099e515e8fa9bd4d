//! Peers that break the rules, or keep them and mean no good. Each harms itself only.

mod support;

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use support::Gateway;
use support::metrics::{closes, eventually, metric, metrics, open_files, resident_bytes, until_metric};
use support::peer::{
    BINARY, CLOSE, CONTINUATION, HANDSHAKE, MORE, PING, PONG, Peer, TEXT, header, masked, publish, request,
    request_text,
};

/// A subscriber on each worker: whoever is abused, one of them shares its worker.
struct Witnesses<'a> {
    gateway: &'a Gateway,
    peers: [Peer; 2],
}

impl<'a> Witnesses<'a> {
    fn new(gateway: &'a Gateway) -> Self {
        Self { gateway, peers: Peer::on_each_worker(gateway.address, "witness") }
    }

    /// Publishes, and checks that both get it.
    fn are_served(&mut self, after: &str) {
        let answer = publish(self.gateway.address, "witness", "application/json", "1").json();
        for peer in &mut self.peers {
            let message = peer.json();
            let expect = (&json!("witness"), &answer["offset"]);
            assert_eq!((&message["topic"], &message["offset"]), expect, "after {after}: {message}");
        }
    }
}

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
    idle.ended();
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
    assert_eq!(metric(&gateway, "fanfare_refused_handshakes_total"), 32.0);

    let mut polite = Peer::connect(gateway.address);
    let headers = HANDSHAKE.replace("connection: Upgrade", "connection: keep-alive, upgrade");
    let headers = headers.replace("upgrade: websocket", "upgrade: WebSocket");
    polite.send(format!("GET http://elsewhere/ws HTTP/1.1\r\n{headers}sec-websocket-extensions: permessage-deflate; x=\"y\"\r\n\r\n"));
    let answer = polite.answer();
    assert_eq!((answer.status, answer.header("sec-websocket-extensions")), (101, None), "{answer:?}");
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
fn who_asks_without_reading_is_closed() {
    let gateway = Gateway::start(&["--close-timeout", "30s", "--commands-per-second", "off"]);
    let mut witnesses = Witnesses::new(&gateway);
    let floods = [
        r#"{"type":"subscribe","id":1,"topics":["a","b","c","d","e","f","g","h"]}"#,
        r#"{"type":"unsubscribe","id":1,"topics":["a","b","c","d","e","f","g","h"]}"#,
        r#"{"type":"ping"}"#,
        r#"{"type":"publish","topic":"a","data":1}"#,
        "nonsense",
    ];
    for (number, flood) in (1..).zip(floods) {
        let (mut peer, _) = Peer::connect_with_room(gateway.address, 4 * 1024).upgraded("/ws").welcomed();
        peer.subscribe(&["its.own"]);
        let burst = masked(TEXT, flood.as_bytes()).repeat(1000);
        for _ in 0..20 {
            peer.send(&burst);
            assert!(metric(&gateway, "fanfare_outbox_bytes") <= 2.0 * 65_536.0);
        }
        // It is closed before it reads: its subscriptions are gone.
        until_metric(&gateway, "fanfare_subscribed_topics", |topics| topics == 2.0);
        assert_eq!(peer.close_code(), Some(4101), "{flood}");
        until_metric(&gateway, r#"fanfare_closes_total{reason="slow_consumer"}"#, |count| {
            count == f64::from(number)
        });
        witnesses.are_served(flood);
    }
    until_metric(&gateway, "fanfare_outbox_bytes", |bytes| bytes == 0.0);
    assert_eq!(metric(&gateway, "fanfare_subscribed_topics"), 2.0);
}

#[test]
fn many_names_in_one_item_do_not_multiply_its_data() {
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    let before = resident_bytes(&gateway);
    let mut check = |topics: Vec<String>, bytes: usize, fits: bool| {
        let item = json!({"topics": topics, "data": "x".repeat(bytes - 2)}).to_string();
        let headers = [("content-type", "application/json")];
        let answer = request(gateway.address, "POST", "/publish", &headers, item);
        let answer = answer.json();
        assert_eq!(answer["errors"], !fits);
        assert_eq!(answer["results"].as_array().map(Vec::len), Some(if fits { topics.len() } else { 1 }));
        if !fits {
            assert_eq!(answer["results"][0]["error"]["code"], "too_large");
        }
        witnesses.are_served("many names");
    };
    check(vec!["a".into(); 200_000], 60_000, false);
    check(vec!["a".into(); 10_001], 3, false);
    check(vec!["a".into(); 10_000], 3, true);
    check((0..16).map(|number| format!("t{number}")).collect(), 65_536, true);
    check((0..17).map(|number| format!("t{number}")).collect(), 65_536, false);
    assert!(resident_bytes(&gateway) < before + (64 << 20), "data was multiplied");
}

#[test]
fn a_connection_too_many_is_told_to_come_back() {
    let gateway = Gateway::start(&["--connections", "10"]);
    let mut inside: Vec<Peer> = (0..10).map(|_| Peer::raw(gateway.address, "a")).collect();
    let mut refused = Peer::connect(gateway.address);
    let answer = refused.answer();
    assert_eq!(answer.status, 503);
    answer.assert_retry_after();
    refused.ended();
    assert_eq!(metric(&gateway, "fanfare_refused_connections_total"), 1.0, "operators are not refused");

    // One leaves, one publishes and leaves, and all others are served.
    inside.pop();
    until_metric(&gateway, r#"fanfare_connections{transport="raw"}"#, |open| open == 9.0);
    assert_eq!(publish(gateway.address, "a", "text/plain", "x").status, 200);
    for peer in &mut inside {
        assert_eq!(peer.text(), "x");
    }
    until_metric(&gateway, r#"fanfare_connections{transport="http"}"#, |open| open == 0.0);
    inside.push(Peer::websocket(gateway.address, "/topics/a"));
}

#[test]
fn out_of_file_descriptors_it_waits_and_recovers() {
    let gateway = Gateway::start(&["--header-timeout", "10m"]);
    let mut witnesses = Witnesses::new(&gateway);
    // The page is asked for on a connection that is open already.
    let mut operator = Peer::connect(gateway.admin);
    let mut accept_errors = move || {
        let page = operator.request("GET", "/metrics", &[], "");
        let line = page.text().lines().find(|line| line.starts_with("fanfare_accept_errors_total")).unwrap();
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    assert_eq!(accept_errors(), 0.0);
    let open = open_files(&gateway);
    let limit = format!("--nofile={0}:{0}", open + 8);
    let pid = gateway.pid().to_string();
    match Command::new("prlimit").args(["--pid", &pid, &limit]).status() {
        Ok(status) => assert!(status.success(), "the limit cannot be set"),
        Err(error) => return eprintln!("not tried, prlimit does not run: {error}"),
    }
    let crowd: Vec<Peer> = (0..40).map(|_| Peer::connect(gateway.address)).collect();
    eventually(|| accept_errors() > 0.0, "accepting pauses");
    for _ in 0..3 {
        // Those who are inside notice nothing: one publishes, all get it.
        let [publisher, other] = &mut witnesses.peers;
        publisher.say(r#"{"type":"publish","topic":"witness","data":1}"#);
        assert_eq!(publisher.json()["type"], "published");
        assert_eq!(publisher.json()["topic"], "witness");
        assert_eq!(other.json()["topic"], "witness");
    }
    drop(crowd);
    assert_eq!(request(gateway.address, "GET", "/healthz", &[], "").status, 200);
    witnesses.are_served("a time without file descriptors");
    eventually(|| open_files(&gateway) <= open, "no file is left open");
}

#[test]
fn thousands_of_idle_connections_leave_nothing_behind() {
    let files = rlimit::increase_nofile_limit(12_000).unwrap_or(1024);
    let count = 10_000.min(files.saturating_sub(500)) as usize;
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    let crowd = || -> Vec<Peer> { (0..count).map(|_| Peer::raw(gateway.address, "a")).collect() };
    let raw = r#"fanfare_connections{transport="raw"}"#;
    // The first crowd shows what allocators and tables keep; the second must not add to it.
    drop(crowd());
    until_metric(&gateway, raw, |open| open == 0.0);
    let before = resident_bytes(&gateway);
    let mut peers = crowd();
    let with_all = resident_bytes(&gateway);
    let each = with_all.saturating_sub(before) / count;
    assert!(each < 4 * 1024, "{each} bytes for an idle connection");
    publish(gateway.address, "a", "text/plain", "hello");
    for peer in &mut peers {
        assert_eq!(peer.text(), "hello");
    }
    drop(peers);
    for name in [raw, "fanfare_outbox_bytes", r#"fanfare_connections{transport="http"}"#] {
        until_metric(&gateway, name, |value| value == 0.0);
    }
    assert_eq!(metric(&gateway, "fanfare_subscribed_topics"), 2.0, "the witnesses' topic, on each worker");
    eventually(|| resident_bytes(&gateway) < before + (16 << 20), "the memory comes back");
    witnesses.are_served("a crowd");
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
