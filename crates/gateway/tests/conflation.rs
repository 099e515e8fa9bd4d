//! The newest instead of all: for readers that do not keep up, and for those who asked for less.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Instant;

use serde_json::{Value, json};
use support::Gateway;
use support::config_file::ConfigFile;
use support::metrics::{metric, metrics};
use support::peer::{Peer, publish, request};
use support::stream::{EVENTS, LINES, Stream};

/// A gateway whose topics under `tick.` are conflated, and under `drop.` lose their oldest.
fn gateway() -> Gateway {
    let file = ConfigFile::new(
        "[[topics]]\nmatch = \"tick.>\"\nslow = \"conflate\"\n[[topics]]\nmatch = \"drop.>\"\nslow = \"drop-oldest\"\n",
    );
    Gateway::start(&["--config", file.path()])
}

/// Publishes a number under a key, in `bytes` bytes.
fn post(gateway: &Gateway, topic: &str, key: &str, number: u64, bytes: usize) {
    let headers = [("content-type", "application/json"), ("fanfare-key", key)];
    let body = format!(r#"{{"key":"{key}","number":{number},"rest":"{}"}}"#, "x".repeat(bytes));
    let answer = request(gateway.address, "POST", &format!("/topics/{topic}"), &headers, body);
    assert_eq!(answer.json()["offset"], number, "{answer:?}");
}

/// Whatever brings payloads of one topic.
enum Reader {
    Raw(Peer),
    Native(Peer),
    EventStream(Stream),
    Lines(Stream),
    Events(Stream),
}

impl Reader {
    /// One of each kind, with room for `bytes`.
    fn all(gateway: &Gateway, topic: &str, bytes: usize) -> Vec<Self> {
        let connect = || Peer::connect_with_room(gateway.address, bytes);
        let native = |name: &str| {
            let (mut peer, _) = connect().upgraded("/ws").welcomed();
            peer.subscribe(&[name]);
            Self::Native(peer)
        };
        let wildcard = format!("{}.*", topic.split('.').next().unwrap());
        let mut all = vec![
            Self::Raw(connect().upgraded(&format!("/topics/{topic}")).listening()),
            native(topic),
            native(&wildcard),
            Self::EventStream(Stream::on(connect(), &format!("/topics/{topic}"), &[EVENTS])),
            Self::Lines(Stream::on(connect(), &format!("/topics/{topic}"), &[LINES])),
            Self::Events(Stream::on(connect(), &format!("/events?topic={topic}"), &[EVENTS])),
            Self::Events(Stream::on(connect(), &format!("/events?topic={wildcard}"), &[EVENTS])),
        ];
        // The streams have begun when their first bytes are here.
        for reader in &mut all {
            match reader {
                Self::EventStream(stream) | Self::Lines(stream) | Self::Events(stream) => {
                    stream.chunk();
                }
                _ => {}
            }
        }
        all
    }

    /// The next payload.
    fn next(&mut self) -> Value {
        loop {
            let text = match self {
                Self::Raw(peer) | Self::Native(peer) => peer.text(),
                Self::Lines(stream) => stream.object().expect("it goes on"),
                Self::EventStream(stream) | Self::Events(stream) => {
                    let event = stream.next();
                    assert_ne!(event.name, "gap", "{event:?}");
                    if event.name != "message" {
                        continue;
                    }
                    event.data
                }
            };
            let told: Value = serde_json::from_str(&text).unwrap();
            match self {
                Self::Raw(_) | Self::EventStream(_) => return told,
                _ if told.get("type").is_some() => assert_ne!(told["type"], "gap", "{told}"),
                _ => {
                    assert_eq!(told["offset"], told["data"]["number"]);
                    return told["data"].clone();
                }
            }
        }
    }
}

#[test]
fn an_acknowledgement_says_when_offsets_may_jump() {
    let gateway = gateway();
    let (mut peer, _) = Peer::native(gateway.address);
    let wishes = [
        (json!({"topic": "tick.a"}), json!("conflate")),
        (json!({"topic": "tick.b", "policy": "latest"}), json!("conflate")),
        (json!({"topic": "tick.c", "policy": "queue"}), Value::Null),
        (json!({"topic": "tick.d", "max_hz": 100}), json!("conflate")),
        (json!({"topic": "drop.a"}), json!("drop-oldest")),
        (json!({"topic": "drop.b", "policy": "queue"}), json!("drop-oldest")),
        (json!({"topic": "drop.c", "policy": "latest"}), json!("conflate")),
        (json!({"topic": "strict.a"}), Value::Null),
        (json!({"topic": "strict.b", "policy": "latest"}), json!("conflate")),
        (json!({"topic": "strict.c", "max_hz": 0.1, "policy": "latest"}), json!("conflate")),
    ];
    let topics: Vec<&Value> = wishes.iter().map(|(wish, _)| wish).collect();
    peer.say(&json!({"type": "subscribe", "topics": topics}).to_string());
    let acknowledgement = peer.json();
    for (index, (wish, policy)) in wishes.iter().enumerate() {
        assert_eq!(acknowledgement["topics"][index]["policy"], *policy, "{wish}");
    }
    for bad in [
        json!({"topic": "a", "policy": "newest"}),
        json!({"topic": "a", "max_hz": 0}),
        json!({"topic": "a", "max_hz": 101}),
        json!({"topic": "a", "max_hz": -1}),
        json!({"topic": "a", "max_hz": "5"}),
        json!({"topic": "a", "max_hz": 5, "policy": "queue"}),
    ] {
        peer.say(&json!({"type": "subscribe", "id": 3, "topics": [bad]}).to_string());
        let answer = peer.json();
        assert_eq!(
            (&answer["type"], &answer["code"], &answer["id"]),
            (&json!("error"), &json!("bad_request"), &json!(3))
        );
    }
}

#[test]
fn who_reads_again_gets_rising_offsets_and_the_newest_of_every_key() {
    const KEYS: u64 = 5;
    const COUNT: u64 = 150;
    let gateway = gateway();
    let mut healthy = Reader::Native(Peer::subscribed(gateway.address, &["tick.a"]).0);
    let mut stalled = Reader::all(&gateway, "tick.a", 4 * 1024);
    for number in 1..=COUNT {
        post(&gateway, "tick.a", &format!("k{}", number % KEYS), number, 8 * 1024);
        assert_eq!(healthy.next()["number"], number);
    }
    let mut jumps = 0;
    for reader in &mut stalled {
        let (mut last, mut newest) = (0, BTreeMap::new());
        while last < COUNT {
            let payload = reader.next();
            let number = payload["number"].as_u64().unwrap();
            assert!(number > last, "{number} after {last}");
            jumps += u64::from(number > last + 1);
            newest.insert(payload["key"].as_str().unwrap().to_owned(), number);
            last = number;
        }
        let expect: BTreeMap<String, u64> =
            (COUNT - KEYS + 1..=COUNT).map(|number| (format!("k{}", number % KEYS), number)).collect();
        assert_eq!(newest, expect);
    }
    assert!(jumps >= 7, "nobody was slow: {jumps}");
    let metrics = metrics(&gateway);
    assert!(metrics["fanfare_conflated_messages_total"] > 0.0);
    assert_eq!(metrics["fanfare_dropped_messages_total"], 0.0);
    assert_eq!(metrics[r#"fanfare_closes_total{reason="slow_consumer"}"#], 0.0);
    // They live on, and miss nothing.
    for number in COUNT + 1..COUNT + 5 {
        post(&gateway, "tick.a", "k0", number, 0);
        for reader in &mut stalled {
            assert_eq!(reader.next()["number"], number);
        }
    }
}

#[test]
fn who_keeps_up_gets_every_message_of_every_burst() {
    const BURST: u64 = 500;
    let gateway = gateway();
    let mut readers = Reader::all(&gateway, "tick.a", 1024 * 1024);
    for burst in 0..10 {
        let mut body = String::new();
        for number in burst * BURST + 1..=(burst + 1) * BURST {
            writeln!(body, r#"{{"topic":"tick.a","key":"k","data":{{"number":{number}}}}}"#).unwrap();
        }
        let headers = [("content-type", "application/x-ndjson")];
        assert_eq!(request(gateway.address, "POST", "/publish", &headers, body).status, 200);
        for reader in &mut readers {
            for number in burst * BURST + 1..=(burst + 1) * BURST {
                assert_eq!(reader.next()["number"], number);
            }
        }
    }
    assert_eq!(metric(&gateway, "fanfare_conflated_messages_total"), 0.0);
}

#[test]
fn who_keeps_up_gets_every_message_of_topics_that_are_born_together() {
    const TOPICS: usize = 100;
    let gateway = gateway();
    let mut peers = Peer::on_each_worker(gateway.address, "tick.>");
    let mut body = String::new();
    for offset in 1..=3 {
        for topic in 0..TOPICS {
            writeln!(body, r#"{{"topic":"tick.{topic}","data":{offset}}}"#).unwrap();
        }
    }
    let headers = [("content-type", "application/x-ndjson")];
    assert_eq!(request(gateway.address, "POST", "/publish", &headers, body).status, 200);
    for peer in &mut peers {
        let mut offsets = BTreeMap::new();
        let mut count = 0;
        while count < 3 * TOPICS {
            let told = peer.json();
            let topic = told["topic"].as_str().unwrap().to_owned();
            if told["type"] == "topic" {
                assert_eq!((offsets.insert(topic, 0), &told["offset"]), (None, &json!(0)));
                continue;
            }
            let last = offsets.get_mut(&topic).unwrap_or_else(|| panic!("not announced: {told}"));
            assert_eq!(told["offset"], *last + 1, "{told}");
            *last += 1;
            count += 1;
        }
    }
    assert_eq!(metric(&gateway, "fanfare_conflated_messages_total"), 0.0);
}

#[test]
fn a_pace_lets_through_so_many_and_always_the_newest_in_the_end() {
    const HZ: f64 = 50.0;
    const COUNT: u64 = 300;
    let gateway = gateway();
    let begin = Instant::now();
    let subscribe = |topic: &str| {
        let (mut peer, _) = Peer::native(gateway.address);
        peer.say(&json!({"type": "subscribe", "topics": [{"topic": topic, "max_hz": HZ}]}).to_string());
        assert_eq!(peer.json()["type"], "subscribed");
        peer
    };
    let mut peers = [subscribe("tick.a"), subscribe("strict.a"), subscribe("tick.*"), subscribe("*.a")];
    for number in 1..=COUNT {
        for topic in ["tick.a", "strict.a"] {
            let answer = publish(gateway.address, topic, "application/json", number.to_string());
            assert_eq!(answer.json()["offset"], number);
        }
    }
    for (peer, topics) in peers.iter_mut().zip([1, 1, 1, 2]) {
        let (mut last, mut received) = (BTreeMap::new(), 0);
        while last.values().filter(|offset| **offset == COUNT).count() < topics {
            let told = peer.json();
            if told.get("type").is_none() {
                let offset = told["offset"].as_u64().unwrap();
                let before = last.insert(told["topic"].as_str().unwrap().to_owned(), offset);
                assert!(before.is_none_or(|before| before < offset));
                received += 1;
            }
        }
        // A slow machine is given more time, and more messages.
        let most = (begin.elapsed().as_secs_f64() * HZ + 1.0).ceil() * topics as f64;
        assert!(f64::from(received) <= most, "{received} messages, at most {most} were to come");
        assert_eq!(peer.fence(), [Value::Null; 0]);
    }
    assert!(metric(&gateway, "fanfare_conflated_messages_total") > 0.0);
}

#[test]
fn a_slow_pace_holds_the_newest_of_each_key_back_until_its_time() {
    let gateway = gateway();
    let (mut peer, _) = Peer::native(gateway.address);
    peer.say(&json!({"type": "subscribe", "topics": [{"topic": "tick.a", "max_hz": 0.1}]}).to_string());
    assert_eq!(peer.json()["topics"][0]["policy"], "conflate");
    let mut witness = Peer::subscribed(gateway.address, &["tick.a"]).0;
    for number in 1..=50 {
        post(&gateway, "tick.a", &format!("k{}", number % 5), number, 0);
        assert_eq!(witness.json()["offset"], number);
        if number == 1 {
            // Read before there is a second: what comes in one pass goes together, whatever its keys are.
            assert_eq!(peer.json()["offset"], 1, "the first comes at once");
        }
    }
    assert_eq!(peer.fence(), [Value::Null; 0], "the others wait");
    // The end of the subscription is the end of what waits; a new one begins with the last value.
    peer.say(r#"{"type":"unsubscribe","topics":["tick.a"]}"#);
    assert_eq!(peer.json()["type"], "unsubscribed");
    assert_eq!(metric(&gateway, "fanfare_outbox_bytes"), 0.0);
    peer.say(&json!({"type": "subscribe", "topics": [{"topic": "tick.a", "max_hz": 0.1}]}).to_string());
    assert_eq!(peer.json()["type"], "subscribed");
    assert_eq!(peer.json()["offset"], 50);
    post(&gateway, "tick.a", "k0", 51, 0);
    assert_eq!(peer.json()["offset"], 51);
}

#[test]
fn wishes_hold_against_the_topics_own_policy() {
    let gateway = gateway();
    let stalled = |topic: &str, policy: &str| {
        let (mut peer, _) = Peer::connect_with_room(gateway.address, 4 * 1024).upgraded("/ws").welcomed();
        peer.say(&json!({"type": "subscribe", "topics": [{"topic": topic, "policy": policy}]}).to_string());
        assert_eq!(peer.json()["type"], "subscribed");
        peer
    };
    let mut latest = stalled("strict.a", "latest");
    let mut by_wildcard = stalled("strict.*", "latest");
    let mut queue = stalled("tick.a", "queue");
    for number in 1..=100 {
        post(&gateway, "strict.a", "k", number, 8 * 1024);
        post(&gateway, "tick.a", "k", number, 8 * 1024);
    }
    for peer in [&mut latest, &mut by_wildcard] {
        let (mut last, mut count) = (0, 0);
        while last < 100 {
            let told = peer.json();
            if let Some(offset) = told["data"]["number"].as_u64() {
                assert!(offset > last);
                (last, count) = (offset, count + 1);
            }
        }
        assert!(count < 100, "it was not slow");
    }
    assert_eq!(queue.close_code(), Some(4101));
}
