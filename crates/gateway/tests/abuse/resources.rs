//! Too much of something that is allowed: each has its bound, and leaves nothing behind.

use std::process::Command;

use serde_json::json;

use crate::support::Gateway;
use crate::support::metrics::{eventually, metric, open_files, resident_bytes, until_metric};
use crate::support::peer::{Peer, TEXT, masked, publish, request};
use crate::witnesses::Witnesses;

#[test]
fn who_asks_without_reading_is_closed() {
    let gateway = Gateway::start(&["--close-timeout", "30s"]);
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
