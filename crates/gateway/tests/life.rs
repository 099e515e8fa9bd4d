//! From the start to the end: health, metrics, liveness, the drain.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::metrics::{closes, eventually, until_metric};
use support::peer::{CLOSE, PING, PONG, Peer, TEXT, chunk, masked, publish, request};
use support::{Gateway, PATIENCE, fanfare};

const JSON: &str = "application/json";

fn ready(address: SocketAddr) -> u16 {
    request(address, "GET", "/readyz", &[], "").status
}

/// Sends a signal, and waits until the gateway shows that it came.
fn drain(gateway: &Gateway, signal: &str) {
    gateway.signal(signal);
    eventually(|| ready(gateway.admin) == 503, "it is not ready any more");
}

/// Reads up to a close frame, and returns the text frames before it and its code.
fn farewell(peer: &mut Peer) -> (Vec<Value>, Option<u16>) {
    let mut before = Vec::new();
    loop {
        let frame = peer.frame();
        match frame.first {
            TEXT => before.push(serde_json::from_slice(&frame.payload).expect("text is JSON here")),
            CLOSE => {
                peer.try_send(masked(CLOSE, &frame.payload));
                assert_eq!(peer.next(), None, "nothing comes behind a close frame");
                return (before, frame.code());
            }
            _ => panic!("{frame:?}"),
        }
    }
}

/// Checks the native farewell, and says after how many milliseconds to come back.
fn check_bye(bye: &Value) -> u64 {
    let retry_ms = bye["retry_ms"].as_u64().unwrap_or_else(|| panic!("{bye}"));
    let expect = json!({"type": "bye", "code": 4200, "reason": "draining", "retry_ms": retry_ms});
    assert_eq!(*bye, expect);
    retry_ms
}

#[test]
fn health_is_told_on_both_addresses() {
    let gateway = Gateway::start(&[]);
    for address in [gateway.address, gateway.admin] {
        for path in ["/healthz", "/readyz"] {
            assert_eq!(request(address, "GET", path, &[], "").status, 200, "{path}");
            assert_eq!(request(address, "HEAD", path, &[], "").status, 200, "{path}");
            let refused = request(address, "POST", path, &[], "");
            assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")), "{path}");
        }
    }
    assert_eq!(request(gateway.address, "GET", "/metrics", &[], "").status, 404, "operators only");
    assert_eq!(request(gateway.admin, "GET", "/topics/a", &[], "").status, 404);
    assert_eq!(publish(gateway.admin, "a", JSON, "1").status, 404);
}

#[test]
fn the_metrics_page_is_well_formed_and_names_no_topic() {
    let gateway = Gateway::start(&[]);
    let (_peer, _) = Peer::subscribed(gateway.address, &["secret.subscribed"]);
    let _raw = Peer::websocket(gateway.address, "/topics/secret.raw");
    for number in 0..20 {
        publish(gateway.address, &format!("secret.published.{number}"), JSON, "\"secret\"");
    }
    publish(gateway.address, "secret.subscribed", JSON, "1");
    let answer = request(gateway.admin, "GET", "/metrics", &[], "");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let page = answer.text();
    assert!(!page.contains("secret"), "{page}");
    assert!(page.ends_with('\n') && page.len() < 200 * 1024);

    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let mut kinds = BTreeMap::new();
    let mut samples = BTreeSet::new();
    let mut help = BTreeSet::new();
    for line in page.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            let (name, words) = text.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(name) && !words.is_empty() && help.insert(name), "{line}");
        } else if let Some(text) = line.strip_prefix("# TYPE ") {
            let (name, kind) = text.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert!(help.contains(name) && kinds.insert(name, kind).is_none(), "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
            assert!(samples.insert(sample), "twice: {line}");
            let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let family = family.filter(|family| kinds.get(family) == Some(&"histogram")).unwrap_or(name);
            let kind = kinds.get(family).unwrap_or_else(|| panic!("no type before {line}"));
            assert_eq!(*kind == "counter", family.ends_with("_total"), "{line}");
            let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (name, value) = label.split_once('=').unwrap_or_else(|| panic!("{line}"));
                assert!(is_name(name) && value.starts_with('"') && value.ends_with('"'), "{line}");
            }
        }
    }
    for name in [
        "fanfare_connections{transport=\"http\"}",
        "fanfare_connections{transport=\"raw\"}",
        "fanfare_connections{transport=\"json\"}",
        "fanfare_messages_total",
        "fanfare_deliveries_total",
        "fanfare_publishes_total",
        "fanfare_refused_publishes_total",
        "fanfare_outbox_bytes",
        "fanfare_inbox_bytes",
        "fanfare_topics",
        "fanfare_draining",
        "fanfare_closes_total{reason=\"slow_consumer\"}",
        "fanfare_publish_seconds_count",
        "fanfare_fanout_seconds_bucket{le=\"+Inf\"}",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(samples.contains(name), "{name} is missing");
    }
}

#[test]
fn the_counters_count() {
    let gateway = Gateway::start(&[]);
    let mut peers =
        [Peer::subscribed(gateway.address, &["a"]).0, Peer::subscribed(gateway.address, &["a"]).0];
    publish(gateway.address, "a", "text/plain", "12345");
    publish(gateway.address, "b", "text/plain", "678");
    publish(gateway.address, "b", JSON, "{");
    for peer in &mut peers {
        assert_eq!(peer.json()["offset"], 1);
    }
    for (name, value) in [
        ("fanfare_messages_total", 2.0),
        ("fanfare_message_bytes_total", 8.0),
        ("fanfare_publishes_total", 2.0),
        ("fanfare_refused_publishes_total", 1.0),
        ("fanfare_deliveries_total", 2.0),
        ("fanfare_topics", 2.0),
        // What a message costs beside its payload is counted, too.
        ("fanfare_retained_bytes", 8.0 + 2.0 * 256.0),
        ("fanfare_publish_seconds_count", 3.0),
        ("fanfare_publish_seconds_bucket{le=\"+Inf\"}", 3.0),
        ("fanfare_connections{transport=\"json\"}", 2.0),
        ("fanfare_inbox_messages", 0.0),
        ("fanfare_draining", 0.0),
        ("fanfare_workers", 2.0),
    ] {
        until_metric(&gateway, name, |now| now == value);
    }
}

/// Reads up to the second ping, and does something about each.
fn through_two_pings(mut peer: Peer, answer: impl Fn(&mut Peer)) -> Peer {
    let mut pings = 0;
    while pings < 2 {
        let frame = peer.next().expect("it lives");
        assert_ne!(frame.first, CLOSE, "it lives");
        if frame.first == PING {
            assert!(frame.payload.is_empty(), "all get the same ping");
            pings += 1;
            answer(&mut peer);
        }
    }
    peer
}

#[test]
fn a_silent_client_is_closed_and_one_that_answers_lives() {
    let gateway = Gateway::start(&["--ping-interval", "1500ms", "--pong-timeout", "1400ms"]);
    let open = |target: &str| Peer::websocket(gateway.address, target);
    let survivors = std::thread::scope(|scope| {
        let silent = ["/ws", "/topics/a"].map(|target| {
            let mut peer = open(target);
            scope.spawn(move || peer.close_code())
        });
        let pong = |peer: &mut Peer| peer.send(masked(PONG, b""));
        // Whatever a client says is a sign of life.
        let talk = |peer: &mut Peer| peer.say(r#"{"type":"ping"}"#);
        let alive = [
            scope.spawn(move || through_two_pings(open("/ws"), pong)),
            scope.spawn(move || through_two_pings(open("/topics/a"), pong)),
            scope.spawn(move || through_two_pings(open("/ws"), talk)),
        ];
        for thread in silent {
            assert_eq!(thread.join().unwrap(), Some(4201));
        }
        alive.map(|thread| thread.join().unwrap())
    });
    assert_eq!(closes(&gateway, "no_pong"), 2.0);
    let [_, _, mut talker] = survivors;
    talker.fence();
}

#[test]
fn a_drain_answers_what_is_under_way_and_tells_everyone() {
    let mut gateway = Gateway::start(&["--drain-grace", "2s", "--drain-window", "500ms"]);
    let (mut native, _) = Peer::subscribed(gateway.address, &["a"]);
    let mut raw = Peer::raw(gateway.address, "a");
    let mut idle = Peer::connect(gateway.address);
    assert_eq!(idle.request("GET", "/healthz", &[], "").status, 200);
    let mut slow: Vec<Peer> = (0..2).map(|_| Peer::connect(gateway.address)).collect();
    for peer in &mut slow {
        peer.send("POST /topics/late HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf ");
    }
    let mut stream = Peer::connect(gateway.address);
    stream.send(
        "POST /publish HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n\
         transfer-encoding: chunked\r\n\r\n",
    );
    stream.send(chunk("{\"topic\":\"a\",\"data\":1}\n"));
    assert_eq!(native.json()["offset"], 1);
    until_metric(&gateway, "fanfare_inflight_body_bytes", |bytes| bytes == 10.0);

    drain(&gateway, "TERM");
    assert_eq!((ready(gateway.address), ready(gateway.admin)), (503, 503));
    assert_eq!(request(gateway.address, "GET", "/healthz", &[], "").status, 200, "it lives");
    let (mut newcomer, _) = Peer::subscribed(gateway.address, &["a"]);
    assert_eq!(newcomer.json()["offset"], 1);
    assert_eq!(publish(gateway.address, "a", JSON, "2").json()["offset"], 2, "it serves in the grace");
    slow[0].send("whole");
    let answer = slow[0].answer();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "none meets the end");

    for peer in [&mut native, &mut newcomer] {
        let (before, code) = farewell(peer);
        assert_eq!(before[0]["offset"], 2, "what was acknowledged is delivered");
        check_bye(before.last().expect("there is a farewell"));
        assert_eq!((before.len(), code), (2, Some(4200)));
    }
    assert_eq!((raw.text(), raw.text()), ("1".into(), "2".into()));
    assert_eq!(raw.close_code(), Some(1012));
    assert_eq!(idle.next_byte(), None, "an idle connection ends");

    // All subscribers are gone; requests under way are still carried out.
    slow[1].send("whole");
    let answer = slow[1].answer();
    assert_eq!((answer.status, answer.json()["offset"].as_u64()), (200, Some(2)));
    assert_eq!(answer.header("connection"), Some("close"));
    let answer = stream.answer();
    assert_eq!((answer.status, &answer.json()["results"][0]["offset"]), (200, &json!(1)), "{answer:?}");
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(TcpStream::connect(gateway.address).is_err());
}

#[test]
fn a_drain_writes_what_waits_before_it_says_goodbye() {
    let mut gateway = Gateway::start(&["--drain-grace", "1ms", "--drain-window", "1ms"]);
    let (mut peer, _) = Peer::connect_with_room(gateway.address, 4 * 1024).upgraded("/ws").welcomed();
    peer.subscribe(&["a"]);
    let mut last = 0;
    while support::metrics::metric(&gateway, "fanfare_outbox_bytes") == 0.0 {
        assert!(last < 1000, "it reads on");
        last = publish(gateway.address, "a", "text/plain", [b'x'; 8192]).json()["offset"].as_u64().unwrap();
    }
    gateway.signal("TERM");
    let (before, code) = farewell(&mut peer);
    let offsets: Vec<u64> = before.iter().filter_map(|frame| frame["offset"].as_u64()).collect();
    assert_eq!(offsets, (1..=last).collect::<Vec<_>>());
    check_bye(before.last().expect("there is a farewell"));
    assert_eq!((before.len() as u64, code), (last + 1, Some(4200)));
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn the_closes_of_a_drain_are_spread_over_its_window() {
    const CROWD: usize = 60;
    let mut gateway =
        Gateway::start(&["--drain-grace", "100ms", "--drain-window", "2s", "--close-timeout", "10m"]);
    // Each has a topic of its own: the gauge tells how many are not closed yet.
    let mut crowd: Vec<Peer> =
        (0..CROWD).map(|number| Peer::subscribed(gateway.address, &[&format!("t{number}")]).0).collect();
    until_metric(&gateway, "fanfare_subscribed_topics", |topics| topics == CROWD as f64);
    gateway.signal("TERM");
    let mut seen = BTreeSet::new();
    until_metric(&gateway, "fanfare_subscribed_topics", |topics| {
        seen.insert(topics as usize);
        topics == 0.0
    });
    let between = seen.iter().filter(|left| (1..CROWD).contains(left)).count();
    assert!(between >= 5, "all at once: {seen:?}");

    let mut retries = BTreeSet::new();
    for peer in &mut crowd {
        let (before, code) = farewell(peer);
        assert_eq!((before.len(), code), (1, Some(4200)));
        let retry_ms = check_bye(&before[0]);
        assert!((1..=60_000).contains(&retry_ms), "{retry_ms}");
        retries.insert(retry_ms);
    }
    assert!(retries.len() > CROWD / 2, "they would all come back together: {retries:?}");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn nobody_holds_up_a_drain_past_its_time() {
    let mut gateway = Gateway::start(&[
        "--drain-grace",
        "1ms",
        "--drain-window",
        "1ms",
        "--drain-timeout",
        "1s",
        "--close-timeout",
        "10m",
        "--body-timeout",
        "10m",
    ]);
    // Neither answers: one hears nothing, and one never ends its request.
    let (_deaf, _) = Peer::subscribed(gateway.address, &["a"]);
    let mut half = Peer::connect(gateway.address);
    half.send("POST /topics/a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf ");
    until_metric(&gateway, "fanfare_inflight_body_bytes", |bytes| bytes == 5.0);
    gateway.signal("TERM");
    half.ended();
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn an_interrupt_drains_as_well() {
    let mut gateway = Gateway::start(&["--drain-grace", "1ms", "--drain-window", "1ms"]);
    let (mut peer, _) = Peer::subscribed(gateway.address, &["a"]);
    gateway.signal("INT");
    let (before, code) = farewell(&mut peer);
    check_bye(&before[0]);
    assert_eq!(code, Some(4200));
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for second in ["TERM", "INT"] {
        let mut gateway = Gateway::start(&["--drain-grace", "10m"]);
        let (mut peer, _) = Peer::subscribed(gateway.address, &["a"]);
        drain(&gateway, "TERM");
        assert_eq!(peer.fence(), [Value::Null; 0], "the grace goes on");
        gateway.signal(second);
        assert_eq!(gateway.wait().code(), Some(1));
        peer.ended();
    }
}

/// Runs a program that should end by itself.
fn end_of(command: &mut Command) -> Output {
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let deadline = Instant::now() + PATIENCE;
    while process.try_wait().expect("it is our child").is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    // One that is still there has done wrong, and its output will show it.
    let _ = process.kill();
    process.wait_with_output().expect("it is our child")
}

#[test]
fn an_address_that_is_taken_is_said_in_one_line() {
    let gateway = Gateway::start(&[]);
    let start = |workers: &str, listen: SocketAddr, admin: &str| {
        let listen = listen.to_string();
        end_of(fanfare().args(["serve", "--workers", workers, "--listen", &listen, "--admin", admin]))
    };
    let check = |output: Output, address: SocketAddr| {
        let text = String::from_utf8(output.stderr).expect("errors are text");
        let claims = String::from_utf8_lossy(&output.stdout);
        assert_eq!((output.status.code(), &*claims), (Some(1), ""), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with(&format!("fanfare: cannot listen on {address}")), "{text}");
        assert!(text.contains("in use"), "{text}");
    };
    // Workers share their port, but not with the workers of another process.
    check(start("1", gateway.address, "127.0.0.1:0"), gateway.address);
    check(start("2", gateway.address, "127.0.0.1:0"), gateway.address);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    check(start("2", any, &gateway.admin.to_string()), gateway.admin);
    check(start("2", gateway.admin, "127.0.0.1:0"), gateway.admin);
    assert_eq!(ready(gateway.address), 200, "the first one is untouched");
}
