//! Too much of something that is allowed: each has its bound, and leaves nothing behind.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::support::Gateway;
use crate::support::config_file::ConfigFile;
use crate::support::metrics::{closes, eventually, metric, open_files, resident_bytes, until_metric};
use crate::support::peer::{CLOSE, Peer, TEXT, masked, publish, request, request_text};
use crate::support::stream::{EVENTS, Stream};
use crate::witnesses::Witnesses;

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
fn many_items_for_many_topics_do_not_multiply_their_data() {
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    let before = resident_bytes(&gateway);
    // 200 topics of 2 KiB are 400 KiB: two of these fit one request, and small ones go on fitting.
    let topics: Vec<String> = (0..200).map(|number| format!("t{number}")).collect();
    let large = json!({"topics": topics, "data": "x".repeat(2046)}).to_string();
    let small = json!({"topic": "small", "data": 1}).to_string();
    let lines = format!("{}{small}\n", format!("{large}\n").repeat(200));
    let array = format!("[{}{small}]", format!("{large},").repeat(200));
    for (content_type, body) in [("application/x-ndjson", lines.clone()), ("application/json", array)] {
        let answer = request(gateway.address, "POST", "/publish", &[("content-type", content_type)], body);
        assert_eq!(answer.status, 200, "what fits is published, and said to be");
        let answer = answer.json();
        let results = answer["results"].as_array().unwrap();
        assert_eq!((&answer["errors"], results.len()), (&json!(true), 2 * 200 + 198 + 1));
        assert!(results[..400].iter().all(|result| result["offset"].is_u64()), "{answer}");
        assert!(results[400..598].iter().all(|result| result["error"]["code"] == "too_large"), "{answer}");
        assert_eq!(results[598]["topic"], "small");
        witnesses.are_served("many items");
    }
    assert!(resident_bytes(&gateway) < before + (64 << 20), "data was multiplied");

    // A stream has no end: it takes its turns, and all is published.
    let mut peer = Peer::connect(gateway.address);
    let head = "POST /publish HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson";
    peer.send(format!(
        "{head}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{lines}\r\n0\r\n\r\n",
        lines.len()
    ));
    let answer = peer.answer().json();
    assert_eq!((&answer["errors"], &answer["count"]), (&json!(false), &json!(200 * 200 + 1)));
    witnesses.are_served("a stream of many items");
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
    eventually(|| open_files(&gateway) <= open, "no file is left open");
    assert_eq!(request(gateway.address, "GET", "/healthz", &[], "").status, 200);
    witnesses.are_served("a time without file descriptors");
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
fn answers_to_polls_that_nobody_reads_are_bounded() {
    let limits = ["--poll-bytes", "256KiB", "--inflight-poll-bytes", "1MiB", "--replay-bytes", "16MiB"];
    let gateway = Gateway::start(&limits);
    let mut witnesses = Witnesses::new(&gateway);
    let ask = |peer: &mut Peer, cursor: &str| {
        peer.send(request_text("GET", &format!("/poll?topic=a{cursor}"), &[], ""));
    };
    let first = request(gateway.address, "GET", "/poll?topic=a", &[], "").json();
    let beginning = format!("&cursor={}", first["cursor"].as_str().unwrap());
    for _ in 0..50 {
        publish(gateway.address, "a", "text/plain", [b'x'; 60_000]);
    }

    // Who follows the cursor gets everything, in answers of bounded size.
    let (mut cursor, mut offsets) = (beginning.clone(), Vec::new());
    while offsets.len() < 50 {
        let answer = request(gateway.address, "GET", &format!("/poll?topic=a{cursor}"), &[], "");
        assert!(answer.body.len() < 256 * 1024 + 1024, "{}", answer.body.len());
        let answer = answer.json();
        assert_eq!(answer["gap"], false);
        let messages = answer["messages"].as_array().unwrap();
        assert!(!messages.is_empty(), "there are more: {offsets:?}");
        offsets.extend(messages.iter().map(|message| message["offset"].as_u64().unwrap()));
        cursor = format!("&cursor={}", answer["cursor"].as_str().unwrap());
    }
    assert_eq!(offsets, (1..=50).collect::<Vec<_>>());

    // Who asks and does not read holds its own answer. All together have their bound, and the others are told.
    let held = r"fanfare_inflight_poll_bytes";
    until_metric(&gateway, held, |bytes| bytes == 0.0);
    let mut deaf = Vec::new();
    let mut refused = loop {
        let mut peer = Peer::connect_with_room(gateway.address, 4 * 1024);
        ask(&mut peer, &beginning);
        let answer = request(gateway.address, "GET", &format!("/poll?topic=a{beginning}"), &[], "");
        if answer.status == 503 {
            break answer;
        }
        assert!(deaf.len() < 10, "nobody is refused");
        deaf.push(peer);
    };
    assert_eq!(refused.error_code(), "unavailable");
    refused.assert_retry_after();
    assert!(metric(&gateway, r#"fanfare_refusals_total{limit="inflight_poll_bytes"}"#) >= 1.0);
    assert!(metric(&gateway, held) <= 1024.0 * 1024.0);
    witnesses.are_served("polls that nobody reads");
    drop(deaf);
    until_metric(&gateway, held, |bytes| bytes == 0.0);
    refused = request(gateway.address, "GET", &format!("/poll?topic=a{beginning}"), &[], "");
    assert_eq!(refused.status, 200);
}

/// Takes away all memory but what the process has and `more` bytes.
fn cap_memory(gateway: &Gateway, more: usize) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap();
    let kibibytes: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    let limit = format!("--data={}", kibibytes * 1024 + more);
    match Command::new("prlimit").args(["--pid", &gateway.pid().to_string(), &limit]).status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("not tried, prlimit does not run: {error}");
            false
        }
    }
}

/// `count` stalled readers of each transport, and as many messages of 60 KiB as it takes to close them all.
fn stalled_readers_fit_into_little_memory(count: usize) {
    let config = "[[topics]]\nmatch = \"drop.>\"\nslow = \"drop-oldest\"\n\
        [[topics]]\nmatch = \"conflate.>\"\nslow = \"conflate\"\n";
    let config = ConfigFile::new(config);
    let limits = ["--outbox-budget", "16MiB", "--retained-bytes", "8MiB", "--close-timeout", "200ms"];
    let gateway = Gateway::start(&[&["--config", config.path()][..], &limits].concat());
    let mut witnesses = Witnesses::new(&gateway);
    if !cap_memory(&gateway, 128 << 20) {
        return;
    }
    let mut stalled = Vec::new();
    for number in 0..count {
        let topic = ["a", "drop.a", "conflate.a"][number % 3];
        let room = || Peer::connect_with_room(gateway.address, 4 * 1024);
        stalled.push(room().upgraded(&format!("/topics/{topic}")).listening());
        let (mut native, _) = room().upgraded("/ws").welcomed();
        native.subscribe(&["a", "drop.a", "conflate.a"]);
        stalled.push(native);
        stalled.push(Stream::on(room(), &format!("/topics/{topic}"), &[EVENTS]).peer);
    }
    let strict = (count.div_ceil(3) * 2 + count) as f64;
    let mut sent = 0;
    while closes(&gateway, "slow_consumer") + closes(&gateway, "budget") < strict {
        assert!(sent < 2_000, "they read on");
        for topic in ["a", "drop.a", "conflate.a"] {
            assert_eq!(publish(gateway.address, topic, "text/plain", [b'x'; 60_000]).status, 200);
        }
        sent += 1;
        witnesses.are_served("a message that hundreds do not read");
    }
    // It has waited for nobody, and had the memory that it asked for: it would be gone.
    drop(stalled);
    for name in ["fanfare_outbox_bytes", r#"fanfare_connections{transport="raw"}"#, "fanfare_inbox_bytes"] {
        until_metric(&gateway, name, |value| value == 0.0);
    }
    witnesses.are_served("all of them");
}

#[test]
fn hundreds_of_stalled_readers_fit_into_little_memory() {
    stalled_readers_fit_into_little_memory(100);
}

#[test]
#[ignore = "on demand: make abuse"]
fn thousands_of_stalled_readers_fit_into_little_memory() {
    stalled_readers_fit_into_little_memory(2_000);
}

/// Those who wait for their turn in a long test are neither dead nor slow.
const UNHURRIED: [&str; 6] =
    ["--ping-interval", "1h", "--user-timeout", "1h", "--commands-per-second", "off"];

/// `rounds` times twenty topics come and go on each of `count` connections.
fn churn_leaves_nothing_behind(count: usize, rounds: usize) {
    let gateway = Gateway::start(&UNHURRIED);
    let mut witnesses = Witnesses::new(&gateway);
    let churn = |from: usize, to: usize| {
        let mut peers: Vec<Peer> = (0..count).map(|_| Peer::native(gateway.address).0).collect();
        for round in from..to {
            for (number, peer) in peers.iter_mut().enumerate() {
                let name = |topic: usize| match topic % 10 {
                    0 => format!("t{round}.c{number}.*"),
                    _ => format!("t{round}.c{number}.{topic}"),
                };
                let topics: Vec<String> = (0..20).map(name).collect();
                for kind in ["subscribe", "unsubscribe"] {
                    peer.say(&json!({"type": kind, "id": 1, "topics": topics}).to_string());
                }
            }
            for peer in &mut peers {
                assert_eq!(peer.json()["type"], "subscribed");
                assert_eq!(peer.json()["type"], "unsubscribed");
            }
        }
    };
    // What tables and allocators keep, they keep after the first part.
    churn(0, rounds.div_ceil(4));
    until_metric(&gateway, r#"fanfare_connections{transport="json"}"#, |open| open == 2.0);
    let before = resident_bytes(&gateway);
    churn(rounds, 2 * rounds);
    for (name, expect) in [
        (r#"fanfare_connections{transport="json"}"#, 2.0),
        ("fanfare_subscribed_topics", 2.0),
        ("fanfare_topics", 1.0),
        ("fanfare_patterns", 0.0),
        ("fanfare_subscribed_patterns", 0.0),
        ("fanfare_outbox_bytes", 0.0),
    ] {
        until_metric(&gateway, name, |value| value == expect);
    }
    eventually(|| resident_bytes(&gateway) < before + (16 << 20), "the memory comes back");
    witnesses.are_served("a coming and going");
}

#[test]
fn topics_that_come_and_go_leave_nothing_behind() {
    churn_leaves_nothing_behind(10, 50);
}

#[test]
#[ignore = "on demand: make abuse"]
fn a_million_topics_that_come_and_go_leave_nothing_behind() {
    churn_leaves_nothing_behind(50, 1_000);
}

/// `count` polls that wait, are given up, and come again.
fn abandoned_polls_leave_nothing_behind(count: usize) {
    let gateway = Gateway::start(&["--handshakes-per-second", "off"]);
    let mut witnesses = Witnesses::new(&gateway);
    let cursor = request(gateway.address, "GET", "/poll?topic=a", &[], "").json()["cursor"].clone();
    let target = format!("/poll?topic=a&topic=b.*&wait=60&cursor={}", cursor.as_str().unwrap());
    let mut before = 0;
    for round in 0..4 {
        let polls: Vec<Peer> = (0..count)
            .map(|_| {
                let mut peer = Peer::connect(gateway.address);
                peer.send(request_text("GET", &target, &[], ""));
                peer
            })
            .collect();
        until_metric(&gateway, "fanfare_waiting_polls", |waiting| waiting == count as f64);
        witnesses.are_served("polls that wait");
        drop(polls);
        for name in ["fanfare_waiting_polls", "fanfare_patterns", r#"fanfare_connections{transport="http"}"#]
        {
            until_metric(&gateway, name, |value| value == 0.0);
        }
        if round == 0 {
            before = resident_bytes(&gateway);
        }
    }
    eventually(|| resident_bytes(&gateway) < before + (16 << 20), "the memory comes back");
}

#[test]
fn hundreds_of_abandoned_polls_leave_nothing_behind() {
    abandoned_polls_leave_nothing_behind(500);
}

#[test]
#[ignore = "on demand: make abuse"]
fn thousands_of_abandoned_polls_leave_nothing_behind() {
    abandoned_polls_leave_nothing_behind(8_000);
}

/// `count` clients come back at once, and each is due a whole ring.
fn a_crowd_that_resumes_is_served_from_one_ring(count: usize) {
    const MESSAGES: u64 = 700;
    let gateway = Gateway::start(&UNHURRIED);
    let mut witnesses = Witnesses::new(&gateway);
    let mut epoch = String::new();
    for number in 1..=MESSAGES {
        let payload = format!("{number:01000}");
        let answer = publish(gateway.address, "a", "text/plain", payload).json();
        epoch = answer["epoch"].as_str().unwrap().to_owned();
    }
    let before = resident_bytes(&gateway);
    let target = format!("/topics/a?epoch={epoch}&offset=0");
    let mut crowd: Vec<Peer> =
        (0..count).map(|_| Peer::connect_with_room(gateway.address, 4 * 1024).upgraded(&target)).collect();
    // Nobody has read anything yet, and a copy for each would be 700 KiB.
    let grown = resident_bytes(&gateway).saturating_sub(before);
    assert!(grown < (16 << 20) + count * 32 * 1024, "{grown} bytes for {count} that resume");
    witnesses.are_served("a crowd that resumes");
    for peer in &mut crowd {
        for number in 1..=MESSAGES {
            assert_eq!(peer.text(), format!("{number:01000}"));
        }
    }
    witnesses.are_served("a crowd that has resumed");
}

#[test]
fn a_crowd_that_resumes_at_once_costs_one_ring() {
    a_crowd_that_resumes_is_served_from_one_ring(200);
}

#[test]
#[ignore = "on demand: make abuse"]
fn thousands_that_resume_at_once_cost_one_ring() {
    a_crowd_that_resumes_is_served_from_one_ring(2_000);
}

#[test]
fn the_largest_message_for_all_is_in_memory_once() {
    let gateway = Gateway::start(&[]);
    let mut crowd: Vec<Peer> = (0..400)
        .map(|_| Peer::connect_with_room(gateway.address, 4 * 1024).upgraded("/topics/a").listening())
        .collect();
    let before = resident_bytes(&gateway);
    for fill in [b'1', b'2'] {
        let payload = [fill; 64 * 1024];
        assert_eq!(publish(gateway.address, "a", "text/plain", payload).status, 200);
    }
    // What sockets did not take waits: 40 MiB of references to the same bytes.
    assert!(metric(&gateway, "fanfare_outbox_bytes") > 0.0);
    let grown = resident_bytes(&gateway).saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes for two messages");
    for peer in &mut crowd {
        for fill in ['1', '2'] {
            let text = peer.text();
            assert!(text.len() == 64 * 1024 && text.chars().all(|byte| byte == fill));
        }
    }
}

#[test]
#[ignore = "on demand: make abuse"]
fn a_flood_of_connections_from_many_addresses_stops_at_the_bound() {
    const BOUND: usize = 4_000;
    let files = rlimit::increase_nofile_limit(20_000).unwrap_or(1024) as usize;
    let bound = BOUND.min(files / 3);
    let gateway = Gateway::start(&[
        "--connections",
        &bound.to_string(),
        "--first-request-timeout",
        "10m",
        "--handshakes-per-second",
        "off",
    ]);
    let mut witnesses = Witnesses::new(&gateway);
    let open = r#"fanfare_connections{transport="json"}"#;
    until_metric(&gateway, open, |open| open == 2.0);
    let before = resident_bytes(&gateway);
    for _ in 0..3 {
        let mut crowd = Vec::new();
        for number in 0..2 * bound {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let source = SocketAddr::from(([127, 0, 0, 2 + (number % 50) as u8], 0));
            socket.bind(&source.into()).unwrap();
            socket.connect(&gateway.address.into()).unwrap();
            crowd.push(std::net::TcpStream::from(socket));
        }
        until_metric(&gateway, "fanfare_refused_connections_total", |refused| refused >= bound as f64);
        let [publisher, other] = &mut witnesses.peers;
        publisher.say(r#"{"type":"publish","topic":"witness","data":1}"#);
        assert_eq!(publisher.json()["type"], "published");
        assert_eq!(
            (&publisher.json()["topic"], &other.json()["topic"]),
            (&json!("witness"), &json!("witness"))
        );
        drop(crowd);
        until_metric(&gateway, r#"fanfare_connections{transport="http"}"#, |open| open == 0.0);
    }
    witnesses.are_served("a flood of connections");
    eventually(|| resident_bytes(&gateway) < before + (64 << 20), "the memory comes back");
}

#[test]
#[ignore = "on demand: make abuse"]
fn minutes_of_coming_and_going_leave_memory_and_files_where_they_were() {
    const PARTS: usize = 6;
    let part = Duration::from_secs(30);
    let gateway =
        Gateway::start(&["--topic-idle", "2s", "--replay-age", "2s", "--handshakes-per-second", "off"]);
    let mut witnesses = Witnesses::new(&gateway);
    let mut sizes = Vec::new();
    for number in 0..PARTS {
        let until = Instant::now() + part;
        while Instant::now() < until {
            let topic = format!("t{}", fastrand::u32(..10_000));
            let mut peers: Vec<Peer> =
                (0..20).map(|_| Peer::websocket(gateway.address, &format!("/topics/{topic}"))).collect();
            let (native, _) = Peer::subscribed(gateway.address, &[&topic, "t1.*"]);
            let stream = Stream::open(gateway.address, &format!("/topics/{topic}"), &[EVENTS]);
            for _ in 0..20 {
                publish(gateway.address, &topic, "text/plain", vec![b'x'; fastrand::usize(1..20_000)]);
            }
            peers.truncate(10);
            for peer in &mut peers {
                // Some have not read enough, and are told so.
                peer.try_send(masked(CLOSE, b"\x03\xe8"));
                assert!(matches!(peer.close_code(), Some(1000 | 4101) | None));
            }
            drop((native, stream));
            witnesses.are_served("some that came and went");
        }
        sizes.push((resident_bytes(&gateway) >> 20, open_files(&gateway)));
        println!("part {number}: {:?} (MiB, files)", sizes.last());
    }
    // The first part fills tables and pools.
    let (first, last) = (sizes[1], sizes[PARTS - 1]);
    assert!(last.0 <= first.0 + first.0 / 10 + 4, "it grows: {sizes:?}");
    assert!(last.1 <= first.1 + 40, "files stay open: {sizes:?}");
}
