//! Topics that are to speak often, and fall silent: who is told, when, and how often.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::fmt::Write;

use serde_json::{Value, json};
use support::Gateway;
use support::config_file::ConfigFile;
use support::metrics::eventually;
use support::peer::{PING, PONG, Peer, TEXT, masked, publish, request};
use support::stream::{EVENTS, LINES, Stream};

const STALE_AFTER_MS: u64 = 300;

/// A gateway whose topics under `feed.` are to speak every 300 ms.
fn gateway() -> Gateway {
    let file = ConfigFile::new(
        "[[topics]]\nmatch = \"feed.>\"\nstale_after = \"300ms\"\n\
        [[topics]]\nmatch = \"slow.>\"\nstale_after = \"1h\"\n",
    );
    Gateway::start(&["--config", file.path()])
}

fn post(gateway: &Gateway, topic: &str, number: u64) {
    let answer = publish(gateway.address, topic, "application/json", number.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Waits until the last value is called that.
fn until_status(gateway: &Gateway, topic: &str, status: &str) {
    eventually(
        || {
            let answer = request(gateway.address, "GET", &format!("/topics/{topic}"), &[], "");
            answer.header("fanfare-status") == Some(status)
        },
        status,
    );
}

/// The same from all of [`Told`].
fn all(told: impl Into<Value>) -> Vec<Value> {
    vec![told.into(); 7]
}

/// Everyone who is told of statuses.
struct Told {
    native: Peer,
    wildcard: Peer,
    both: Peer,
    events: Stream,
    events_wildcard: Stream,
    event_stream: Stream,
    lines: Stream,
}

impl Told {
    fn new(gateway: &Gateway) -> Self {
        let address = gateway.address;
        let stream = |target: &str, accept| Stream::open(address, target, &[accept]);
        Self {
            native: Peer::subscribed(address, &["feed.a"]).0,
            wildcard: Peer::subscribed(address, &["feed.*"]).0,
            both: Peer::subscribed(address, &["feed.>", "feed.a"]).0,
            events: stream("/events?topic=feed.a", EVENTS),
            events_wildcard: stream("/events?topic=*.a", EVENTS),
            event_stream: stream("/topics/feed.a", EVENTS),
            lines: stream("/topics/feed.a", LINES),
        }
    }

    /// What each is told next, but for announcements: a status, or the offset of a message.
    fn next(&mut self) -> Vec<Value> {
        let peers = [&mut self.native, &mut self.wildcard, &mut self.both].map(|peer| {
            loop {
                let told = peer.json();
                if told["type"] != "topic" {
                    return told;
                }
            }
        });
        let streams = [&mut self.events, &mut self.events_wildcard].map(|stream| {
            loop {
                let event = stream.next();
                let mut told = event.json();
                match event.name.as_str() {
                    "message" => return told,
                    "status" => {
                        told["type"] = "status".into();
                        return told;
                    }
                    _ => {}
                }
            }
        });
        let event = self.event_stream.next();
        let single = if event.name == "status" {
            let mut told = event.json();
            told["type"] = "status".into();
            told
        } else {
            json!({"topic": "feed.a", "offset": event.last_id.split_once(':').unwrap().1.parse::<u64>().unwrap()})
        };
        let line = serde_json::from_str(&self.lines.object().unwrap()).unwrap();
        let mut all: Vec<Value> = [&peers[..], &streams[..], &[single, line]].concat();
        for told in &all {
            assert_eq!(told["topic"], "feed.a");
        }
        // How old it is differs by a little.
        for told in &mut all {
            if let Some(age) = told["age_ms"].as_u64() {
                assert!(age >= STALE_AFTER_MS, "{told}");
            }
            *told = told.get("status").or_else(|| told.get("offset")).unwrap().clone();
        }
        all
    }
}

#[test]
fn a_topic_that_falls_silent_is_stale_once_and_live_before_its_next_message() {
    let gateway = gateway();
    let mut raw = Peer::raw(gateway.address, "feed.a");
    let mut told = Told::new(&gateway);
    for round in 0..3 {
        post(&gateway, "feed.a", 2 * round + 1);
        if round > 0 {
            assert_eq!(told.next(), all("live"));
        }
        assert_eq!(told.next(), all(2 * round + 1));
        assert_eq!(raw.text(), (2 * round + 1).to_string());
        assert_eq!(told.next(), all("stale"));
        until_status(&gateway, "feed.a", "stale");
        post(&gateway, "feed.a", 2 * round + 2);
        assert_eq!(told.next(), all("live"));
        assert_eq!(told.next(), all(2 * round + 2), "nothing comes between");
        assert_eq!(raw.text(), (2 * round + 2).to_string());
        assert_eq!(told.next(), all("stale"));
    }
    raw.send(masked(PING, b""));
    assert_eq!(raw.frame().first, PONG, "a raw subscriber is told nothing");
}

#[test]
fn who_comes_to_a_stale_topic_is_told_at_once_and_who_comes_to_a_live_one_is_not() {
    let gateway = gateway();
    post(&gateway, "feed.a", 1);
    until_status(&gateway, "feed.a", "stale");
    // The first ones of their workers, and later ones.
    for _ in 0..6 {
        let (mut native, _) = Peer::subscribed(gateway.address, &["feed.a"]);
        let status = native.json();
        assert_eq!((&status["type"], &status["status"]), (&json!("status"), &json!("stale")));
        assert!(status["age_ms"].as_u64().unwrap() >= STALE_AFTER_MS);
        assert_eq!(native.json()["offset"], 1);
        assert_eq!(native.fence(), [Value::Null; 0]);
        let (mut wildcard, _) = Peer::subscribed(gateway.address, &["*.a"]);
        let kinds: Vec<Value> = wildcard.fence().iter().map(|told| told["type"].clone()).collect();
        assert_eq!(kinds, [json!("topic"), json!("status"), Value::Null]);
        let mut events = Stream::open(gateway.address, "/events?topic=feed.a&from=live", &[EVENTS]);
        assert_eq!([events.next().name, events.next().name], ["subscribed", "status"]);
        let mut event_stream = Stream::open(gateway.address, "/topics/feed.a", &[EVENTS]);
        assert_eq!([event_stream.next().name, event_stream.next().name], ["status", "message"]);
        let mut lines = Stream::open(gateway.address, "/topics/feed.a", &[LINES]);
        assert!(lines.object().unwrap().starts_with(r#"{"type":"status","topic":"feed.a","status":"stale""#));
        assert!(lines.object().unwrap().starts_with(r#"{"topic":"feed.a","offset":1"#));
    }
    let (mut other, _) = Peer::subscribed(gateway.address, &["feed.new", "other"]);
    post(&gateway, "feed.new", 1);
    assert_eq!(other.json()["offset"], 1, "it never was stale");
}

#[test]
fn a_newcomer_does_not_hide_from_others_that_the_topic_speaks_again() {
    let gateway = gateway();
    let (mut waiting, worker) = Peer::native(gateway.address);
    waiting.subscribe(&["feed.a"]);
    let mut newcomer = Peer::native_on(gateway.address, &worker);
    post(&gateway, "feed.a", 1);
    assert_eq!(waiting.json()["offset"], 1);
    assert_eq!(waiting.json()["status"], "stale");
    // The message is under way when the newcomer asks how old the topic is.
    let publish = masked(TEXT, br#"{"type":"publish","topic":"feed.a","data":2}"#);
    let subscribe = masked(TEXT, br#"{"type":"subscribe","topics":["feed.a"]}"#);
    newcomer.send([publish, subscribe].concat());
    let told = waiting.json();
    assert_eq!((&told["type"], &told["status"]), (&json!("status"), &json!("live")), "{told}");
    assert!(told["age_ms"].as_u64().unwrap() >= STALE_AFTER_MS, "the silence before: {told}");
    assert_eq!(waiting.json()["offset"], 2);
    assert_eq!(waiting.json()["status"], "stale");
    assert_eq!(newcomer.json()["type"], "published");
    assert_eq!(newcomer.json()["type"], "subscribed");
    assert_eq!(newcomer.json()["offset"], 2);
    assert_eq!(newcomer.json()["status"], "stale");
}

#[test]
fn hundreds_of_topics_that_fall_silent_together_close_nobody() {
    // Told in more bytes than answers may wait, and in fewer than two sockets take.
    const COUNT: usize = 800;
    let gateway = gateway();
    let mut peers = Peer::on_each_worker(gateway.address, "feed.>");
    let mut body = String::new();
    for number in 0..COUNT {
        writeln!(body, r#"{{"topic":"feed.with.a.long.name.of.its.own.{number}","data":1}}"#).unwrap();
    }
    let headers = [("content-type", "application/x-ndjson")];
    assert_eq!(request(gateway.address, "POST", "/publish", &headers, &body).status, 200);
    for peer in &mut peers {
        let mut stale = 0;
        while stale < COUNT {
            stale += usize::from(peer.json()["status"] == "stale");
        }
    }
    for peer in &mut peers {
        assert_eq!(peer.fence(), [Value::Null; 0]);
    }
}

#[test]
fn a_last_value_says_how_old_it_is() {
    let gateway = gateway();
    post(&gateway, "feed.a", 1);
    post(&gateway, "other", 1);
    let header = |topic: &str, method: &str, name: &str| {
        let answer = request(gateway.address, method, &format!("/topics/{topic}"), &[], "");
        assert_eq!(answer.status, 200);
        answer.header(name).map(str::to_owned)
    };
    let age = |topic: &str| header(topic, "GET", "fanfare-age-ms").unwrap().parse::<u64>().unwrap();
    assert_eq!(header("other", "GET", "fanfare-status"), None);
    until_status(&gateway, "feed.a", "stale");
    assert!(age("feed.a") >= STALE_AFTER_MS);
    eventually(|| header("other", "GET", "age").unwrap() == "1", "a second is over");
    assert!((1000..2000).contains(&age("other")) || age("other") >= 2000, "{}", age("other"));
    assert_eq!(header("feed.a", "HEAD", "fanfare-status").as_deref(), Some("stale"));
    let etag = header("feed.a", "GET", "etag").unwrap();
    let answer = request(gateway.address, "GET", "/topics/feed.a", &[("if-none-match", &etag)], "");
    assert_eq!((answer.status, answer.header("fanfare-status")), (304, Some("stale")), "{answer:?}");
    post(&gateway, "slow.a", 2);
    assert_eq!(header("slow.a", "GET", "fanfare-status").as_deref(), Some("live"));
}
