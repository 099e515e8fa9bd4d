//! The public listener under TLS: the same as ever for who shakes hands, and the end for who does not.

mod support;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use serde_json::Value;
use support::config_file::ConfigFile;
use support::metrics::{closes, eventually, metric, metrics, until_metric};
use support::peer::{Answer, CLOSE, Peer, TEXT, masked, request_text};
use support::tls::Authority;
use support::{Gateway, PATIENCE, fanfare};

/// A gateway under TLS, and a client that trusts it.
struct Secure {
    gateway: Gateway,
    authority: Authority,
    client: Arc<ClientConfig>,
}

impl Secure {
    fn start(args: &[&str]) -> Self {
        let authority = Authority::new();
        let flags = authority.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(args.iter().copied()).collect();
        let gateway = Gateway::start(&flags);
        let client = authority.client(&["http/1.1"]);
        Self { gateway, authority, client }
    }

    fn peer(&self) -> Peer {
        Peer::connect(self.gateway.address).secured(&self.client)
    }

    fn subscribed(&self, topics: &[&str]) -> Peer {
        let (mut peer, _) = self.peer().upgraded("/ws").welcomed();
        peer.subscribe(topics);
        peer
    }

    /// A subscriber with little room, which does not read until the test does.
    fn stalled(&self, topics: &[&str]) -> Peer {
        let peer = Peer::connect_with_room(self.gateway.address, 4 * 1024).secured(&self.client);
        let (mut peer, _) = peer.upgraded("/ws").welcomed();
        peer.subscribe(topics);
        peer
    }

    fn post(&self, topic: &str, body: &str) -> Answer {
        let headers = [("content-type", "application/json")];
        let answer = self.peer().request("POST", &format!("/topics/{topic}"), &headers, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    }

    fn handshakes(&self, result: &str) -> f64 {
        metric(&self.gateway, &format!("fanfare_tls_handshakes_total{{result=\"{result}\"}}"))
    }

    fn until_handshakes(&self, result: &str, count: f64) {
        until_metric(&self.gateway, &format!("fanfare_tls_handshakes_total{{result=\"{result}\"}}"), |now| {
            now == count
        });
    }

    fn until_nobody(&self) {
        until_metric(&self.gateway, "fanfare_tls_connections", |open| open == 0.0);
    }
}

/// A payload of 8 KiB that names its place, as JSON.
fn payload(number: u64) -> String {
    format!("\"{number:08190}\"")
}

// === as ever ===

#[test]
fn what_is_published_under_tls_is_heard_under_tls_and_resumed() {
    let secure = Secure::start(&[]);
    let mut subscribers: Vec<Peer> = (0..20).map(|_| secure.subscribed(&["a", "b.*"])).collect();
    let mut raw = secure.peer().upgraded("/topics/a").listening();
    let first = secure.post("a", r#"{"n": 1.10}"#).json();
    secure.post("b.c", "2");
    for peer in &mut subscribers {
        assert_eq!(peer.text(), r#"{"topic":"a","offset":1,"data":{"n": 1.10}}"#);
        let mut next = peer.json();
        if next["type"] == "topic" {
            next = peer.json();
        }
        assert_eq!(next["data"], 2, "{next}");
    }
    assert_eq!(raw.text(), r#"{"n": 1.10}"#);
    // What a subscriber says is heard, too.
    raw.send(masked(TEXT, b"by a subscriber"));
    assert_eq!(raw.text(), "by a subscriber");
    // Whoever was away gets what came meanwhile.
    let mut back = secure.peer().upgraded(&format!(
        "/topics/a?epoch={}&offset={}",
        first["epoch"].as_str().unwrap(),
        first["offset"]
    ));
    assert_eq!(back.text(), "by a subscriber");
    assert_eq!(metric(&secure.gateway, "fanfare_tls_connections"), 22.0);
    drop((subscribers, raw, back));
    secure.until_nobody();
}

#[test]
fn a_connection_answers_one_request_after_another_and_then_becomes_a_socket() {
    let secure = Secure::start(&[]);
    let mut peer = secure.peer();
    for number in 1..=3 {
        let answer = peer.request("POST", "/topics/a", &[], number.to_string());
        assert_eq!(answer.json()["offset"], number);
    }
    // Request and first frame in one record: what was read ahead is not lost.
    let handshake = format!("GET /ws HTTP/1.1\r\n{}\r\n", support::peer::HANDSHAKE);
    let subscribe = masked(TEXT, br#"{"type":"subscribe","id":1,"topics":["a"]}"#);
    peer.send([handshake.as_bytes(), &subscribe].concat());
    assert_eq!(peer.answer().status, 101);
    let (mut peer, _) = peer.welcomed();
    assert_eq!(peer.json()["type"], "subscribed");
    assert_eq!(peer.json()["data"], "3");
}

#[test]
fn a_body_that_is_too_large_is_answered_before_the_end() {
    let secure = Secure::start(&["--body-bytes", "70000", "--message-bytes", "70000"]);
    let mut peer = secure.peer();
    peer.try_send(request_text("POST", "/topics/a", &[], vec![b'x'; 200_000]));
    let answer = peer.answer();
    assert_eq!((answer.status, answer.error_code().as_str()), (413, "too_large"));
    peer.ended();
    drop(peer);
    secure.until_nobody();
}

#[test]
fn who_shakes_hands_and_asks_for_nothing_is_told_and_closed() {
    let secure = Secure::start(&["--header-timeout", "200ms"]);
    let mut peer = secure.peer();
    peer.send("GET / HT");
    assert_eq!(peer.answer().status, 408);
    peer.ended();
    drop(peer);
    secure.until_nobody();
}

#[test]
fn streams_and_polls_are_the_same_under_tls() {
    let secure = Secure::start(&[]);
    secure.post("a", "1");
    let mut stream = secure.peer();
    stream.send(request_text("GET", "/topics/a", &[("accept", "text/event-stream")], ""));
    assert_eq!(stream.answer().status, 200);
    let mut seen = String::new();
    let mut until = |text: &str| {
        while !seen.contains(text) {
            seen.push_str(&stream.line().expect("the stream goes on"));
        }
    };
    until("data: 1");
    let cursor = secure.peer().request("GET", "/poll?topic=a", &[], "").json()["cursor"].clone();
    let mut poll = secure.peer();
    let target = format!("/poll?topic=a&wait=25&cursor={}", cursor.as_str().unwrap());
    poll.send(request_text("GET", &target, &[], ""));
    until_metric(&secure.gateway, "fanfare_waiting_polls", |waiting| waiting == 1.0);
    secure.post("a", "2");
    until("data: 2");
    assert_eq!(poll.answer().json()["messages"][0]["data"], 2);
}

#[test]
fn a_drain_says_goodbye_under_tls_and_ends_it_with_words() {
    let mut secure = Secure::start(&["--drain-grace", "10ms", "--drain-window", "10ms"]);
    let mut peer = secure.subscribed(&["a"]);
    let mut stream = secure.peer();
    stream.send(request_text("GET", "/topics/a", &[("accept", "text/event-stream")], ""));
    assert_eq!(stream.answer().status, 200);
    secure.gateway.signal("TERM");
    let bye = peer.json();
    assert_eq!((&bye["type"], &bye["code"]), (&Value::from("bye"), &Value::from(4200)), "{bye}");
    assert_eq!(peer.close_code(), Some(4200));
    assert!(peer.was_told_the_end(), "no close_notify");
    let mut last = String::new();
    while let Some(line) = stream.line() {
        last = if line.is_empty() { last } else { line };
    }
    assert_eq!(last, "0", "the last chunk");
    assert!(stream.was_told_the_end(), "no close_notify");
    drop((peer, stream));
    assert!(secure.gateway.wait().success());
}

#[test]
fn a_reload_brings_another_certificate_for_those_who_come_later_and_closes_nobody() {
    const DONE: &str = "fanfare_config_reloads_total{result=\"ok\"}";
    const FAILED: &str = "fanfare_config_reloads_total{result=\"failed\"}";
    let secure = Secure::start(&[]);
    let mut subscriber = secure.subscribed(&["a"]);
    let first = subscriber.certificate();
    let second = secure.authority.issue();
    secure.gateway.signal("HUP");
    until_metric(&secure.gateway, DONE, |reloads| reloads == 1.0);
    assert_eq!(secure.peer().certificate(), second);
    assert_ne!(first, second);
    // A file that is none leaves the one before in force.
    std::fs::write(secure.authority.certificate(), "nothing").expect("a file can be written");
    secure.gateway.signal("HUP");
    until_metric(&secure.gateway, FAILED, |reloads| reloads == 1.0);
    assert_eq!(secure.peer().certificate(), second);
    secure.post("a", "1");
    assert_eq!(subscriber.json()["data"], 1);
}

#[test]
fn the_commands_publish_and_subscribe_under_tls() {
    let secure = Secure::start(&[]);
    let (url, ca) = (secure.gateway.url(""), secure.authority.ca());
    let publish = |arguments: &[&str]| {
        let output = fanfare().args(["publish", "a", "hello", "--url", &url]).args(arguments).output();
        let output = output.expect("the program runs");
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(publish(&["--ca", &ca]), (true, String::new()));
    let (done, error) = publish(&[]);
    assert!(!done && error.contains("needs an authority"), "{error}");
    let (done, error) = publish(&["--ca", &secure.authority.key()]);
    assert!(!done && error.contains("not a certificate"), "{error}");

    let mut subscriber = fanfare()
        .args(["subscribe", "a", "--url", &url, "--ca", &ca])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut output = BufReader::new(subscriber.stdout.take().unwrap()).lines();
    assert_eq!(output.next().unwrap().unwrap(), "hello");
    secure.post("a", "2");
    assert_eq!(output.next().unwrap().unwrap(), "2");
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();
}

#[test]
fn an_old_client_is_served_and_a_new_one_may_change_its_keys() {
    let secure = Secure::start(&["--outbox-bytes", "64MiB"]);
    let old = Peer::connect(secure.gateway.address).secured(&secure.authority.old_client());
    let (mut old, _) = old.upgraded("/ws").welcomed();
    old.subscribe(&["a"]);
    let mut new = secure.stalled(&["a"]);
    let mut publisher = secure.peer();
    let mut publish = |number: u64| {
        let headers = [("content-type", "application/json")];
        assert_eq!(publisher.request("POST", "/topics/a", &headers, payload(number)).status, 200);
    };
    const EACH: u64 = 40;
    for round in 0..5 {
        (1..=EACH).for_each(|number| publish(round * EACH + number));
        // The gateway's own change of keys goes out before what waits for the client.
        new.change_keys();
        assert_eq!(new.fence().len() as u64, EACH);
        for number in 1..=EACH {
            assert_eq!(old.json()["offset"], round * EACH + number);
        }
    }
}

// === who does not read ===

#[test]
fn a_slow_reader_gets_everything_in_order_from_an_outbox_that_is_large_enough() {
    for writer in ["ring", "inline"] {
        const COUNT: u64 = 300;
        let secure = Secure::start(&["--outbox-bytes", "64MiB", "--writer", writer]);
        let mut slow = [secure.stalled(&["a"]), secure.stalled(&["a"])];
        let mut healthy = secure.subscribed(&["a"]);
        let mut publisher = secure.peer();
        for number in 1..=COUNT {
            let body = payload(number);
            publisher.request("POST", "/topics/a", &[("content-type", "application/json")], body);
            assert_eq!(healthy.json()["offset"], number);
        }
        assert!(metric(&secure.gateway, "fanfare_outbox_bytes") > 1e6, "it was not slow");
        // Messages of several passes are written together now, in records that cut them anywhere.
        for peer in &mut slow {
            for number in 1..=COUNT {
                let message = peer.json();
                assert_eq!(message["offset"], number);
                assert_eq!(message["data"].to_string(), payload(number));
            }
            assert_eq!(peer.fence(), [Value::Null; 0]);
        }
        until_metric(&secure.gateway, "fanfare_outbox_bytes", |bytes| bytes == 0.0);
        assert_eq!(metric(&secure.gateway, "fanfare_deliveries_total"), 3.0 * COUNT as f64);
    }
}

#[test]
fn what_is_left_over_of_the_last_message_follows_without_another() {
    /// More messages than a socket takes.
    const MOST: usize = 20;
    // No ping comes to its help: the first come soon, to those who were here first.
    let flags = ["--ping-interval", "20m", "--pong-timeout", "10m", "--outbox-bytes", "64MiB"];
    let secure = Secure::start(&flags);
    let _first: Vec<Peer> = (0..400).map(|_| secure.subscribed(&["idle"])).collect();
    let mut peers: Vec<Peer> = (0..MOST).map(|count| secure.stalled(&[&format!("t.{count}")])).collect();
    let mut publisher = secure.peer();
    // Each gets one more than the one before: for one of them, the last is the one that its socket takes in part.
    for count in 0..MOST {
        for number in 1..=count as u64 {
            let topic = format!("/topics/t.{count}");
            let headers = [("content-type", "application/json")];
            assert_eq!(publisher.request("POST", &topic, &headers, payload(number)).status, 200);
        }
    }
    for (count, peer) in peers.iter_mut().enumerate() {
        for number in 1..=count as u64 {
            assert_eq!(peer.json()["offset"], number);
        }
        peer.say(r#"{"type":"ping","id":1}"#);
        let answer = peer.next().expect("the connection lives");
        assert_eq!(answer.first, TEXT, "it took a ping to make it move: {answer:?}");
    }
}

#[test]
fn a_slow_reader_is_subject_to_its_topics_policy() {
    for writer in ["ring", "inline"] {
        const COUNT: u64 = 200;
        let file = ConfigFile::new(
            "[[topics]]\nmatch = \"drop.>\"\nslow = \"drop-oldest\"\n\
             [[topics]]\nmatch = \"conflate.>\"\nslow = \"conflate\"\n",
        );
        let secure = Secure::start(&["--config", file.path(), "--writer", writer]);
        let mut strict = secure.stalled(&["strict.a"]);
        let mut dropping = secure.stalled(&["drop.a"]);
        let mut conflating = secure.stalled(&["conflate.a"]);
        let mut publisher = secure.peer();
        for number in 1..=COUNT {
            for topic in ["strict.a", "drop.a", "conflate.a"] {
                let headers = [("content-type", "application/json")];
                let answer =
                    publisher.request("POST", &format!("/topics/{topic}"), &headers, payload(number));
                assert_eq!(answer.json()["offset"], number, "the publisher is not held up");
            }
        }
        // Whole messages in order up to the close frame, which says why.
        let mut expect = 1;
        loop {
            let frame = strict.frame();
            if frame.first == CLOSE {
                assert_eq!(frame.code(), Some(4101));
                break;
            }
            let message: Value = serde_json::from_slice(&frame.payload).unwrap();
            assert_eq!(message["offset"], expect);
            expect += 1;
        }
        assert!((2..COUNT).contains(&expect), "{expect}");
        until_metric(&secure.gateway, r#"fanfare_closes_total{reason="slow_consumer"}"#, |n| n == 1.0);
        // A gap where something is missing, and the newest at the end.
        let (mut expect, mut lost) = (1, 0);
        while expect <= COUNT {
            let message = dropping.json();
            if message["type"] == "gap" {
                assert_eq!(message["from"], expect);
                let to = message["to"].as_u64().unwrap();
                lost += to - expect + 1;
                expect = to + 1;
            } else {
                assert_eq!(message["offset"], expect);
                expect += 1;
            }
        }
        assert!(lost > 0, "nothing was dropped");
        assert_eq!(dropping.fence(), [Value::Null; 0]);
        // Strictly newer messages, and the newest at the end.
        let (mut last, mut count) = (0, 0);
        while last < COUNT {
            let offset = conflating.json()["offset"].as_u64().unwrap();
            assert!(offset > last, "{offset} after {last}");
            (last, count) = (offset, count + 1);
        }
        assert!(count < COUNT, "nothing was conflated");
        assert_eq!(conflating.fence(), [Value::Null; 0]);
    }
}

#[test]
fn what_is_encrypted_before_its_time_is_bounded_as_it_was_when_the_connection_began() {
    const LARGE: usize = 900_000;
    let file = ConfigFile::new("[limits]\ntls_unsent_bytes = \"2MiB\"\n");
    let flags = ["--config", file.path(), "--outbox-bytes", "4MiB", "--message-bytes", "1MiB"];
    let secure = Secure::start(&flags);
    let mut before = secure.stalled(&["before"]);
    file.rewrite("[limits]\ntls_unsent_bytes = \"1KiB\"\n");
    secure.gateway.signal("HUP");
    until_metric(&secure.gateway, "fanfare_limit{limit=\"tls_unsent_bytes\"}", |bytes| bytes == 1024.0);
    let mut after = secure.stalled(&["after"]);
    let large = format!("\"{}\"", "x".repeat(LARGE));
    // Taken whole, it is nowhere but in the records.
    secure.post("before", &large);
    until_metric(&secure.gateway, "fanfare_deliveries_total", |count| count == 1.0);
    assert_eq!(metric(&secure.gateway, "fanfare_outbox_bytes"), 0.0);
    secure.post("after", &large);
    until_metric(&secure.gateway, "fanfare_outbox_bytes", |bytes| bytes > LARGE as f64 / 2.0);
    for peer in [&mut before, &mut after] {
        assert_eq!(peer.json()["data"].to_string(), large);
    }
    until_metric(&secure.gateway, "fanfare_outbox_bytes", |bytes| bytes == 0.0);
}

#[test]
fn the_smallest_bound_of_records_has_room_for_other_keys_and_for_messages() {
    let secure = Secure::start(&["--outbox-bytes", "64MiB", "--tls-unsent-bytes", "1KiB"]);
    let mut slow = secure.stalled(&["a"]);
    let mut publisher = secure.peer();
    const EACH: u64 = 40;
    for round in 0..5 {
        for number in 1..=EACH {
            let body = payload(round * EACH + number);
            let headers = [("content-type", "application/json")];
            assert_eq!(publisher.request("POST", "/topics/a", &headers, body).status, 200);
        }
        slow.change_keys();
        for number in 1..=EACH {
            let message = slow.json();
            assert_eq!(message["offset"], round * EACH + number);
            assert_eq!(message["data"].to_string(), payload(round * EACH + number));
        }
        assert_eq!(slow.fence(), [Value::Null; 0]);
    }
}

#[test]
fn who_never_reads_again_is_thrown_out() {
    let secure = Secure::start(&["--close-timeout", "200ms"]);
    let _slow = secure.stalled(&["a"]);
    let mut publisher = secure.peer();
    let mut number = 0;
    while closes(&secure.gateway, "slow_consumer") < 1.0 {
        assert!(number < 10_000, "it reads on");
        number += 1;
        publisher.request("POST", "/topics/a", &[], payload(number));
    }
    drop(publisher);
    secure.until_nobody();
    assert_eq!(metric(&secure.gateway, "fanfare_outbox_bytes"), 0.0);
}

// === who does not shake hands ===

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

// === who breaks it later ===

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

// === the end of a certificate ===

const ENDS: &str = "fanfare_tls_certificate_expiry_timestamp_seconds";

#[test]
fn the_end_of_the_certificate_that_is_served_is_told() {
    let secure = Secure::start(&[]);
    assert_eq!(metric(&secure.gateway, ENDS), 67_090_118_400.0, "the year 4096");
    secure.authority.issue_until(2100);
    assert_eq!(metric(&secure.gateway, ENDS), 67_090_118_400.0, "what is in the file is not served yet");
    secure.gateway.signal("HUP");
    until_metric(&secure.gateway, ENDS, |seconds| seconds == 4_102_444_800.0);
    // Who speaks no TLS has none.
    assert!(!metrics(&Gateway::start(&[])).contains_key(ENDS));
}

#[test]
fn a_certificate_that_has_ended_is_served_and_warned_of() {
    const DONE: &str = "fanfare_config_reloads_total{result=\"ok\"}";
    let authority = Authority::new();
    let ended = authority.issue_until(2000);
    let flags = authority.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let warning = format!("tls_certificate: {}: it ended on Jan  1 00:00:00 2000", authority.certificate());
    let checked = || {
        let output =
            fanfare().arg("check-config").args(&flags).args(["--connections", "10"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = checked();
    assert!(text.starts_with(&format!("warning: {warning}")) && text.lines().count() == 1, "{text}");

    let (gateway, log) = Gateway::start_logged(&[("FANFARE_LOG", "warn")], &flags);
    let warnings = || std::fs::read_to_string(log.path()).unwrap().matches(&warning).count();
    eventually(|| warnings() == 1, "the warning at the start");
    assert_eq!(metric(&gateway, ENDS), 946_684_800.0);
    let client = authority.client(&["http/1.1"]);
    let refused = Peer::connect(gateway.address).try_secured(&client).err().expect("nobody believes it");
    assert!(refused.to_string().contains("expired"), "{refused}");
    // A reload says it again, until there is another one.
    gateway.signal("HUP");
    until_metric(&gateway, DONE, |reloads| reloads == 1.0);
    eventually(|| warnings() == 2, "the warning of a reload");
    let next = authority.issue();
    gateway.signal("HUP");
    until_metric(&gateway, DONE, |reloads| reloads == 2.0);
    let peer = Peer::connect(gateway.address).secured(&client);
    assert!(peer.certificate() == next && next != ended);
    assert_eq!((warnings(), checked()), (2, String::new()));
}

// === the configuration ===

#[test]
fn a_pair_that_is_none_is_a_wrong_configuration() {
    let one = Authority::new();
    let other = Authority::new();
    let nonsense = ConfigFile::new("no PEM at all\n");
    let cut = ConfigFile::new("-----BEGIN PRIVATE KEY-----\nc2VjcmV0c2VjcmV0c2VjcmV0\n");
    let forged = ConfigFile::new("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n");
    let (certificate, key, others) = (one.certificate(), one.key(), other.key());
    let check = |certificate: Option<&str>, key: Option<&str>, expect: &str| {
        let mut command = fanfare();
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        for (flag, path) in [("--tls-certificate", certificate), ("--tls-key", key)] {
            command.args(path.iter().flat_map(|path| [flag, path]));
        }
        let output = command.output().expect("the program runs");
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with(expect), "{error}");
        assert!(!error.contains("c2Vj") && !error.contains("secret"), "the key is in it: {error}");
    };
    check(Some(&certificate), None, "tls_key: missing");
    check(None, Some(&key), "tls_certificate: missing");
    check(Some("/nowhere.pem"), Some(&key), "tls_certificate: /nowhere.pem: No such file");
    check(Some(&certificate), Some("/nowhere.pem"), "tls_key: /nowhere.pem: No such file");
    check(Some(&key), Some(&key), "tls_certificate: ");
    check(Some(&certificate), Some(&certificate), "tls_key: ");
    check(Some(nonsense.path()), Some(&key), "tls_certificate: ");
    check(Some(&certificate), Some(nonsense.path()), "tls_key: ");
    check(Some(&certificate), Some(cut.path()), "tls_key: ");
    check(Some(&certificate), Some(forged.path()), "tls_key: ");
    check(Some(&certificate), Some(&others), "tls_key: ");
}
