//! Signs of life: heartbeats that are asked for, streams whose reader has gone to sleep, and where a reader comes back.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};
use support::Gateway;
use support::config_file::ConfigFile;
use support::metrics::{closes, metric, until_metric};
use support::peer::{HANDSHAKE, Peer, publish, request, request_text};
use support::stream::{EVENTS, LINES, Stream};

#[test]
fn heartbeats_come_to_those_who_asked() {
    let gateway = Gateway::start(&[]);
    let mut asked = Peer::connect(gateway.address).upgraded("/ws?heartbeat=1").welcomed().0;
    let mut silent = Peer::connect(gateway.address).upgraded("/ws").welcomed().0;
    let mut before = 0;
    for _ in 0..2 {
        let heartbeat = asked.json();
        let time = heartbeat["time"].as_u64().unwrap();
        assert_eq!(heartbeat, json!({"type": "heartbeat", "time": time}));
        assert!(time > before);
        before = time;
    }
    assert_eq!(silent.fence(), [Value::Null; 0]);
    drop(asked);
    until_metric(&gateway, r#"fanfare_connections{transport="json"}"#, |open| open == 1.0);
}

#[test]
fn a_heartbeat_is_a_whole_number_of_seconds_up_to_a_minute() {
    let gateway = Gateway::start(&[]);
    for good in ["1", "60", "025"] {
        Peer::connect(gateway.address).upgraded(&format!("/ws?heartbeat={good}")).welcomed();
    }
    for bad in ["0", "61", "-1", "1.5", "x", "", "1s", "99999999999999999999", "%31%00"] {
        let mut peer = Peer::connect(gateway.address);
        peer.send(format!("GET /ws?heartbeat={bad} HTTP/1.1\r\n{HANDSHAKE}\r\n"));
        let answer = peer.answer();
        assert_eq!((answer.status, answer.error_code().as_str()), (400, "bad_request"), "{bad:?}");
        peer.ended();
    }
    assert_eq!(metric(&gateway, "fanfare_refused_handshakes_total"), 9.0);
}

/// Publishes 8 KiB to a topic that drops for the slow.
fn post(gateway: &Gateway) {
    assert_eq!(publish(gateway.address, "drop.a", "text/plain", "x".repeat(8 * 1024)).status, 200);
}

/// A gateway that looks after its streams often, and does not judge slow ones by what waits.
fn watchful() -> Gateway {
    let file = ConfigFile::new("[[topics]]\nmatch = \"drop.>\"\nslow = \"drop-oldest\"\n");
    let args = ["--ping-interval", "800ms", "--pong-timeout", "400ms", "--close-timeout", "100ms"];
    Gateway::start(&[&["--config", file.path()], &args[..]].concat())
}

/// Streams with little room, whose sockets take no more.
fn blocked(gateway: &Gateway) -> Vec<Stream> {
    let open = |(target, accept): (&str, (&str, &str))| {
        Stream::on(Peer::connect_with_room(gateway.address, 4 * 1024), target, &[accept])
    };
    let targets = [("/topics/drop.a", EVENTS), ("/topics/drop.a", LINES), ("/events?topic=drop.*", EVENTS)];
    let streams: Vec<Stream> = targets.into_iter().map(open).collect();
    let before = metric(gateway, "fanfare_blocked_total");
    while metric(gateway, "fanfare_blocked_total") < before + 3.0 {
        post(gateway);
    }
    streams
}

#[test]
fn a_stream_that_is_never_read_is_closed_after_a_heartbeat() {
    let gateway = watchful();
    let mut healthy = Stream::open(gateway.address, "/topics/silent", &[EVENTS]);
    let _asleep = blocked(&gateway);
    until_metric(&gateway, r#"fanfare_closes_total{reason="no_pong"}"#, |count| count == 3.0);
    until_metric(&gateway, r#"fanfare_connections{transport="stream"}"#, |open| open == 1.0);
    until_metric(&gateway, "fanfare_outbox_bytes", |bytes| bytes == 0.0);
    assert_eq!(publish(gateway.address, "silent", "text/plain", "x").status, 200);
    assert_eq!(healthy.next().data, "x");
}

#[test]
fn a_stream_that_is_read_slowly_is_not_closed() {
    let gateway = watchful();
    let mut clock = Stream::open(gateway.address, "/topics/silent", &[LINES]);
    let mut slow = blocked(&gateway);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The first is the stream's beginning; the others come once per interval.
            for _ in 0..4 {
                assert_eq!(clock.chunk().as_deref(), Some(&b"\n"[..]));
            }
            over.store(true, Relaxed);
        });
        while !over.load(Relaxed) {
            post(&gateway);
            for stream in &mut slow {
                assert!(stream.peer.take(4 * 1024).is_some(), "it was closed");
            }
        }
    });
    assert_eq!(closes(&gateway, "no_pong"), 0.0);
    assert_eq!(metric(&gateway, r#"fanfare_connections{transport="stream"}"#), 4.0);
    assert!(metric(&gateway, "fanfare_dropped_messages_total") > 0.0, "they were slow");
}

#[test]
fn an_id_that_the_server_did_not_give_is_refused() {
    let gateway = Gateway::start(&[]);
    let targets = ["/topics/a?x", "/events?topic=a", "/events?topic=*&topic=a.%3E"];
    for target in targets {
        for id in ["7", ":", "e:", "e:-1", "e:+1", "e:x", "e:1.0", "e:1:2", "e:99999999999999999999"] {
            let answer = request(gateway.address, "GET", target, &[EVENTS, ("last-event-id", id)], "");
            assert_eq!((answer.status, answer.error_code().as_str()), (400, "bad_request"), "{target} {id}");
            let query = format!("{target}&last_event_id={}", id.replace('+', "%2B"));
            let answer = request(gateway.address, "GET", &query, &[EVENTS], "");
            assert_eq!(answer.status, 400, "{query}");
        }
        // An empty one is none.
        Stream::open(gateway.address, target, &[EVENTS, ("last-event-id", "")]);
        Stream::open(gateway.address, &format!("{target}&last_event_id="), &[EVENTS]);
    }
    let place = "/events?topic=a&epoch=e&offset=1";
    assert_eq!(request(gateway.address, "GET", place, &[EVENTS], "").error_code(), "bad_request");
    until_metric(&gateway, r#"fanfare_connections{transport="stream"}"#, |open| open == 0.0);
}

#[test]
fn the_header_of_a_browser_that_comes_back_wins_over_the_query_it_began_with() {
    let gateway = Gateway::start(&[]);
    let mut epoch = Value::Null;
    (1..=4).for_each(|_| epoch = publish(gateway.address, "a", "text/plain", "x").json()["epoch"].clone());
    let epoch = epoch.as_str().unwrap();
    for query in ["from=live", "from=earliest", &format!("last_event_id={epoch}:1")] {
        let id = format!("{epoch}:3");
        let target = format!("/topics/a?{query}");
        let mut stream = Stream::open(gateway.address, &target, &[EVENTS, ("last-event-id", &id)]);
        assert_eq!(stream.next().last_id, format!("{epoch}:4"), "{query}");
    }
    let mut stream = Stream::open(gateway.address, "/events?topic=a&from=live", &[EVENTS]);
    let subscribed = stream.next();
    assert_eq!(subscribed.name, "subscribed");
    (5..=6).for_each(|_| drop(publish(gateway.address, "a", "text/plain", "x")));
    let headers = [EVENTS, ("last-event-id", subscribed.last_id.as_str())];
    let mut stream = Stream::open(gateway.address, "/events?topic=a&from=live", &headers);
    assert_eq!(stream.next().json()["topics"][0]["recovered"], true);
    assert_eq!([stream.next().json()["offset"].clone(), stream.next().json()["offset"].clone()], [5, 6]);
}

#[test]
fn a_resumed_wildcard_says_so_when_one_of_its_topics_was_forgotten() {
    let gateway = Gateway::start(&["--topic-idle", "200ms"]);
    let mut stream = Stream::open(gateway.address, "/events?topic=t.*", &[EVENTS]);
    let subscribed = stream.next();
    drop(stream);
    let recovered = |id: &str| {
        let mut stream = Stream::open(gateway.address, "/events?topic=t.*", &[EVENTS, ("last-event-id", id)]);
        let told = stream.next();
        (told.json()["topics"][0]["recovered"].clone(), told.last_id)
    };
    assert_eq!(recovered(&subscribed.last_id).0, true, "nothing was lost");
    assert_eq!(recovered("zzzzzzzz:0").0, false, "another life of the server");
    assert_eq!(publish(gateway.address, "t.short.lived", "text/plain", "x").status, 200);
    assert_eq!(publish(gateway.address, "t.a", "text/plain", "x").status, 200);
    until_metric(&gateway, "fanfare_topics", |topics| topics == 0.0);
    let (whole, id) = recovered(&subscribed.last_id);
    assert_eq!(whole, false, "a message came and is no more");
    assert_eq!(recovered(&id).0, true, "since then nothing was lost");
}

#[test]
fn a_stream_that_is_never_read_does_not_hold_up_a_drain() {
    let args = ["--drain-grace", "10ms", "--drain-window", "10ms", "--close-timeout", "200ms"];
    let file = ConfigFile::new("[[topics]]\nmatch = \"drop.>\"\nslow = \"drop-oldest\"\n");
    let mut gateway = Gateway::start(&[&["--config", file.path()], &args[..]].concat());
    let _asleep = blocked(&gateway);
    let mut waiting = Peer::connect(gateway.address);
    waiting.send(request_text("GET", "/topics/none?wait=60", &[], ""));
    until_metric(&gateway, "fanfare_waiting_polls", |polls| polls == 1.0);
    gateway.signal("TERM");
    assert_eq!(waiting.answer().status, 404);
    assert!(gateway.wait().success());
}
