//! What is the same under TLS as without.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::secure::{Secure, payload};
use crate::support;
use crate::support::fanfare;
use crate::support::metrics::{metric, until_metric};
use crate::support::peer::{Peer, TEXT, masked, request_text};

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
    // Between two requests there is nothing to answer, and the end is no cut.
    let mut idle = secure.peer();
    assert_eq!(idle.request("GET", "/healthz", &[], "").status, 200);
    assert_eq!(idle.next_byte(), None);
    assert!(idle.was_told_the_end());
    drop(idle);
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
