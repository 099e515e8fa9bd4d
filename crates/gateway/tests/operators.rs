//! What operators see and do on their own address.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use support::Gateway;
use support::metrics::{closes, eventually, metric, until_metric};
use support::peer::{Answer, Peer, publish, request};
use support::stream::{EVENTS, Stream};

/// A request by the operators' address, as curl sends it.
fn ask(gateway: &Gateway, method: &str, target: &str) -> Answer {
    ask_as(gateway, method, target, &gateway.admin.to_string(), "")
}

/// The same, for another host, and with more headers.
fn ask_as(gateway: &Gateway, method: &str, target: &str, host: &str, headers: &str) -> Answer {
    let mut peer = Peer::connect(gateway.admin);
    peer.send(format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n{headers}\r\n"));
    peer.answer()
}

fn shown(gateway: &Gateway, target: &str) -> Vec<Value> {
    let answer = ask(gateway, "GET", target);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["shown"].as_array().expect("a list").clone()
}

/// `/ws`, with its name.
fn named(gateway: &Gateway, topics: &[&str]) -> (Peer, String) {
    named_by(Peer::connect(gateway.address), topics)
}

fn named_by(peer: Peer, topics: &[&str]) -> (Peer, String) {
    let mut peer = peer.upgraded("/ws");
    let client = peer.json()["client"].as_str().expect("a welcome").to_owned();
    peer.subscribe(topics);
    (peer, client)
}

/// Posts until something waits in an outbox, and then some more.
fn fill_outboxes(gateway: &Gateway, topic: &str) {
    let mut number = 0;
    let mut waits = 0;
    while waits < 3 {
        assert!(number < 1000, "everybody reads on");
        number += 1;
        publish(gateway.address, topic, "text/plain", "x".repeat(8192));
        waits += u64::from(metric(gateway, "fanfare_outbox_bytes") > 0.0);
    }
}

#[test]
fn the_address_says_what_there_is() {
    let gateway = Gateway::start(&[]);
    let contents = ask(&gateway, "GET", "/").json();
    let paths = contents["paths"].as_array().expect("a list");
    assert!(paths.len() >= 9, "{contents}");
    for line in paths {
        let (method, path) = (line["method"].as_str().unwrap(), line["path"].as_str().unwrap());
        assert!(!line["about"].as_str().unwrap().is_empty(), "{line}");
        if method == "GET" {
            let status = ask(&gateway, "GET", path).status;
            assert_eq!(status, 200, "{path}");
        } else {
            let refused = ask(&gateway, "PUT", &path.replace("{client}", "0-0-0"));
            assert_eq!(refused.status, 405, "{path}");
            assert!(refused.header("allow").is_some_and(|allow| allow.ends_with("POST")), "{refused:?}");
        }
    }
}

#[test]
fn the_list_of_connections_begins_with_the_one_that_waits_longest() {
    let gateway = Gateway::start(&["--outbox-bytes", "10MiB"]);
    let (_oldest, oldest) = named(&gateway, &["a", "b"]);
    // Ages are told in milliseconds.
    let connected = SystemTime::now();
    let is_older = || connected.elapsed().is_ok_and(|age| age > Duration::from_millis(1));
    eventually(is_older, "a millisecond is over");
    let room = || Peer::connect_with_room(gateway.address, 4 * 1024);
    let (_slow, slow) = named_by(room(), &["slow"]);
    fill_outboxes(&gateway, "slow");
    let (_later, later) = named_by(room(), &["later"]);
    fill_outboxes(&gateway, "later");
    let _raw = Peer::raw(gateway.address, "a");

    let list = shown(&gateway, "/connections");
    let clients: Vec<_> = list.iter().map(|shown| shown["client"].as_str().unwrap()).collect();
    assert_eq!((list.len(), &clients[..2]), (4, &[&*slow, &*later][..]), "{list:?}");
    let first = &list[0];
    assert!(first["outbox_age_ms"].as_u64() >= list[1]["outbox_age_ms"].as_u64(), "{list:?}");
    assert!(first["outbox_bytes"].as_u64() > Some(8192) && first["outbox_messages"].as_u64() > Some(0));
    assert_eq!(first["transport"], "json");
    assert_eq!(first["address"], "127.0.0.1");
    assert_eq!(first["subscriptions"], 1);

    let by_age = shown(&gateway, "/connections?sort=age&max=1");
    assert_eq!(by_age.len(), 1);
    assert_eq!(by_age[0]["client"], oldest);
    assert_eq!(by_age[0]["subscriptions"], 2);
    assert_eq!((&by_age[0]["outbox_bytes"], by_age[0].get("outbox_age_ms")), (&json!(0), None));
    let by_bytes = shown(&gateway, "/connections?sort=bytes");
    assert_eq!(by_bytes.last().unwrap()["outbox_bytes"], 0);
    assert!(by_bytes.is_sorted_by_key(|shown| std::cmp::Reverse(shown["outbox_bytes"].as_u64())));
    let raw = by_bytes.iter().filter(|shown| shown["transport"] == "raw").count();
    assert_eq!(raw, 1, "{by_bytes:?}");

    // The same is told of all together.
    until_metric(&gateway, "fanfare_outbox_age_seconds", |age| age > 0.0);
    drop((_slow, _later));
    until_metric(&gateway, "fanfare_outbox_age_seconds", |age| age == 0.0);
}

#[test]
fn the_busiest_topic_comes_first_and_the_others_by_request() {
    let gateway = Gateway::start(&[]);
    let text = |topic: &str, count: usize| {
        let lines = "x\n".repeat(count);
        request(gateway.address, "POST", &format!("/topics/{topic}?split=lines"), &[], lines)
    };
    // Before the first look, so not new.
    assert_eq!(text("quiet", 500).status, 200);
    publish(gateway.address, "large", "text/plain", "x".repeat(60_000));
    let (_crowd, _) = named(&gateway, &["crowded"]);
    let _raw = Peer::raw(gateway.address, "crowded");

    let busy: Vec<Value> = std::thread::scope(|scope| {
        let list = scope.spawn(|| shown(&gateway, "/topics?seconds=2"));
        while !list.is_finished() {
            text("busy", 10);
        }
        list.join().unwrap()
    });
    assert_eq!(busy.len(), 4);
    assert_eq!(busy[0]["topic"], "busy");
    assert!(busy[0]["rate"].as_f64() > Some(0.0) && busy[1]["rate"].as_f64() == Some(0.0), "{busy:?}");
    assert_eq!(busy[0]["subscribers"], 0);

    let first = |target: &str| shown(&gateway, target)[0].clone();
    let crowded = first("/topics?sort=subscribers&max=1");
    assert_eq!((&crowded["topic"], &crowded["subscribers"]), (&json!("crowded"), &json!(2)));
    let large = first("/topics?sort=bytes");
    assert!(large["topic"] != "crowded" && large["retained_bytes"].as_u64() > Some(60_000), "{large}");
}

#[test]
fn one_connection_is_sent_elsewhere_and_told_when_to_come_back() {
    let gateway = Gateway::start(&[]);
    let ((mut peer, client), (mut stays, _)) = (named(&gateway, &["a"]), named(&gateway, &["a"]));
    let path = format!("/connections/{client}/close");
    assert_eq!(ask(&gateway, "POST", &path).json(), json!({"closing": 1}));
    let bye = peer.json();
    assert!(bye["retry_ms"].as_u64().is_some(), "{bye}");
    assert_eq!(
        (&bye["type"], &bye["code"], &bye["reason"]),
        (&json!("bye"), &json!(4200), &json!("operator"))
    );
    assert_eq!(peer.close_code(), Some(4200));
    until_metric(&gateway, r#"fanfare_closes_total{reason="operator"}"#, |count| count == 1.0);
    for gone in
        [path.as_str(), "/connections/0-0-0/close", "/connections/99-0-1/close", "/connections/x/close"]
    {
        assert_eq!(ask(&gateway, "POST", gone).status, 404, "{gone}");
    }
    publish(gateway.address, "a", "text/plain", "x");
    assert_eq!(stays.json()["data"], "x");
}

#[test]
fn a_stream_that_is_sent_elsewhere_is_told_when_to_come_back() {
    let gateway = Gateway::start(&[]);
    for (target, headers) in [("/topics/a", &[EVENTS][..]), ("/events?topic=a", &[])] {
        let mut stream = Stream::open(gateway.address, target, headers);
        stream.chunk();
        let client = shown(&gateway, "/connections")[0]["client"].as_str().unwrap().to_owned();
        assert_eq!(ask(&gateway, "POST", &format!("/connections/{client}/close")).status, 200);
        let rest: Vec<_> = std::iter::from_fn(|| stream.chunk()).collect();
        let last = String::from_utf8(rest.last().expect("something comes before the end").clone()).unwrap();
        let retry = last.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix('\n'));
        let retry: u64 = retry.and_then(|retry| retry.parse().ok()).unwrap_or_else(|| panic!("{last:?}"));
        assert!((500..5_000).contains(&retry), "{retry}");
        assert_eq!(stream.peer.next_byte(), None);
    }
}

#[test]
fn a_share_of_the_connections_is_sent_elsewhere_over_a_window() {
    let gateway = Gateway::start(&[]);
    let mut peers: Vec<_> = (0..20).map(|_| named(&gateway, &["a"]).0).collect();
    let answer = ask(&gateway, "POST", "/connections/close?share=0.25&window=200ms");
    assert_eq!((answer.status, answer.json()), (202, json!({"closing": 5, "window_ms": 200})));
    until_metric(&gateway, r#"fanfare_closes_total{reason="operator"}"#, |count| count == 5.0);
    publish(gateway.address, "a", "text/plain", "x");
    let went = peers.iter_mut().filter_map(|peer| peer.json()["reason"].as_str().map(str::to_owned));
    let went = went.filter(|reason| reason == "operator").count();
    assert_eq!(went, 5);

    let refused = |target: &str| ask(&gateway, "POST", target).error_code();
    for bad in ["", "?share=0", "?share=1.5", "?share=NaN", "?share=x", "?share=0.5&window=2h"] {
        assert_eq!(refused(&format!("/connections/close{bad}")), "bad_request", "{bad}");
    }
    // One at a time, and until it is over.
    let begun = ask(&gateway, "POST", "/connections/close?share=0.1&window=1h");
    assert_eq!(begun.status, 202);
    let second = ask(&gateway, "POST", "/connections/close?share=0.1");
    assert_eq!(second.status, 503, "{second:?}");
    second.assert_retry_after();
    assert_eq!(closes(&gateway, "operator"), 5.0);
}

#[test]
fn a_drain_can_be_asked_for() {
    let mut gateway = Gateway::start(&["--drain-grace", "1s", "--drain-window", "100ms"]);
    let (mut peer, _) = named(&gateway, &["a"]);
    for _ in 0..2 {
        // A second request is no second signal.
        let answer = ask(&gateway, "POST", "/drain");
        assert_eq!((answer.status, answer.json()), (202, json!({"draining": true})));
    }
    eventually(|| ask(&gateway, "GET", "/readyz").status == 503, "it is not ready any more");
    assert_eq!(peer.json()["type"], "bye");
    assert_eq!(peer.close_code(), Some(4200));
    assert!(gateway.wait().success());
}

#[test]
fn bodies_that_do_not_come_keep_nobody_out() {
    let gateway = Gateway::start(&["--body-timeout", "300ms"]);
    let silent = |number: usize| {
        let target = if number.is_multiple_of(2) { "/revocations" } else { "/revocations/lift" };
        let host = gateway.admin;
        let mut peer = Peer::connect(host);
        peer.send(format!("POST {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 10\r\n\r\n{{"));
        peer
    };
    // As many as are served at once.
    let silent: Vec<_> = (0..64).map(silent).collect();
    assert_eq!(ask(&gateway, "GET", "/healthz").status, 200);
    for mut peer in silent {
        let answer = peer.answer();
        assert_eq!((answer.status, &*answer.error_code()), (408, "timeout"), "{answer:?}");
        assert_eq!(peer.next_byte(), None, "its connection stays open");
    }
}

#[test]
fn pages_and_strangers_names_are_refused() {
    let gateway = Gateway::start(&["--admin-host", "Ops.example.com"]);
    let (mut peer, client) = named(&gateway, &["a"]);
    let close = format!("/connections/{client}/close");
    let targets =
        [("POST", "/drain"), ("POST", &*close), ("GET", "/connections"), ("GET", "/topics"), ("GET", "/")];
    let port = gateway.admin.port();
    for (method, target) in targets {
        for host in
            ["evil.example.com", &format!("evil.example.com:{port}"), "127.0.0.1.evil.example.com", ""]
        {
            let refused = ask_as(&gateway, method, target, host, "");
            assert_eq!((refused.status, &*refused.error_code()), (403, "forbidden"), "{target} {host}");
        }
        // A page may well know the address; it cannot hide that it is one.
        let host = gateway.admin.to_string();
        let refused = ask_as(&gateway, method, target, &host, "origin: http://127.0.0.1:8080\r\n");
        assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, None), "{target}");
    }
    // Scrapes and probes come by any name.
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(ask_as(&gateway, "GET", path, "fanfare.monitoring.svc", "").status, 200, "{path}");
    }
    assert_eq!(peer.fence(), [Value::Null; 0], "nothing was done to it");
    assert_eq!(ask_as(&gateway, "POST", &close, &format!("ops.example.com:{port}"), "").status, 200);
    let codes: BTreeSet<_> = peer.close_code().into_iter().collect();
    assert_eq!(codes, [4200].into());
}

#[test]
fn strange_parameters_are_told() {
    let gateway = Gateway::start(&[]);
    let targets = [
        "/connections?sort=name",
        "/connections?max=0",
        "/connections?max=x",
        "/topics?sort=lag",
        "/topics?seconds=0",
        "/topics?seconds=11",
    ];
    for target in targets {
        let refused = ask(&gateway, "GET", target);
        assert_eq!((refused.status, &*refused.error_code()), (400, "bad_request"), "{target}");
    }
}

#[test]
fn a_worker_says_how_late_its_timers_are() {
    let gateway = Gateway::start(&["--ping-interval", "1s", "--pong-timeout", "500ms"]);
    until_metric(&gateway, "fanfare_loop_lag_seconds_count", |count| count >= 4.0);
    assert!(metric(&gateway, "fanfare_loop_lag_seconds_sum") >= 0.0);
    assert_eq!(metric(&gateway, r#"fanfare_limit{limit="pong_timeout"}"#), 0.5);
    assert_eq!(metric(&gateway, r#"fanfare_limit{limit="outbox_bytes"}"#), 65_536.0);
}
