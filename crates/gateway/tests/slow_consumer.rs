//! Subscribers that stop reading: what it costs them, and that it costs nobody else.

mod support;

use serde_json::Value;
use support::Gateway;
use support::config_file::ConfigFile;
use support::metrics::{closes, metric, resident_bytes, until_metric};
use support::peer::{CLOSE, Peer, publish};

/// What the gateway lets wait for one subscriber, by default.
const OUTBOX_BYTES: f64 = 65_536.0;

/// A payload of 8 KiB that names its place, as JSON.
fn payload(number: u64) -> String {
    format!("\"{number:08190}\"")
}

fn post(gateway: &Gateway, topic: &str, number: u64) {
    let answer = publish(gateway.address, topic, "application/json", payload(number)).json();
    assert_eq!(answer["offset"], number, "{answer}");
}

/// A gateway whose topics under `drop.` drop their oldest messages for slow subscribers.
fn dropping(args: &[&str]) -> Gateway {
    let file = ConfigFile::new("[[topics]]\nmatch = \"drop.>\"\nslow = \"drop-oldest\"\n");
    Gateway::start(&[&["--config", file.path()], args].concat())
}

/// A subscriber with little room, which does not read until the test does.
fn stalled(gateway: &Gateway, topics: &[&str]) -> Peer {
    let (mut peer, _) = Peer::connect_with_room(gateway.address, 4 * 1024).upgraded("/ws").welcomed();
    peer.subscribe(topics);
    peer
}

#[test]
fn a_strict_topic_closes_who_does_not_read_and_serves_everyone_else() {
    const COUNT: u64 = 100;
    let gateway = Gateway::start(&["--close-timeout", "10m"]);
    let mut healthy: Vec<Peer> = (0..20).map(|_| Peer::subscribed(gateway.address, &["a"]).0).collect();
    let mut slow = stalled(&gateway, &["a", "other"]);
    let mut raw = Peer::connect_with_room(gateway.address, 4 * 1024).upgraded("/topics/a").listening();
    let mut waiting_most = 0.0;
    for number in 1..=COUNT {
        post(&gateway, "a", number);
        for peer in &mut healthy {
            let message = peer.json();
            assert_eq!(message["offset"], number, "{message}");
            assert_eq!(message["data"].to_string(), payload(number));
        }
        waiting_most = f64::max(waiting_most, metric(&gateway, "fanfare_outbox_bytes"));
    }
    assert!(waiting_most > 0.0 && waiting_most <= 2.0 * OUTBOX_BYTES, "{waiting_most} bytes waited");
    for peer in &mut healthy {
        assert_eq!(peer.fence(), [Value::Null; 0]);
    }

    // What reached the slow ones' sockets before is whole and in order, and then they are told.
    let mut expect = 1;
    let code = loop {
        let frame = slow.frame();
        match frame.first {
            CLOSE => break frame.code(),
            _ => {
                let message: Value = serde_json::from_slice(&frame.payload).unwrap();
                assert_eq!(message["offset"], expect, "{message}");
                expect += 1;
            }
        }
    };
    assert_eq!(code, Some(4101));
    assert!((2..COUNT).contains(&expect), "{expect}");
    slow.ended();
    assert_eq!(raw.close_code(), Some(4101));
    drop((slow, raw));
    until_metric(&gateway, r#"fanfare_closes_total{reason="slow_consumer"}"#, |count| count == 2.0);
    assert_eq!(metric(&gateway, "fanfare_outbox_bytes"), 0.0);
    assert_eq!(metric(&gateway, "fanfare_dropped_messages_total"), 0.0);
}

#[test]
fn who_never_reads_again_is_thrown_out_and_its_memory_comes_back() {
    let gateway = Gateway::start(&["--close-timeout", "200ms"]);
    let _slow = [stalled(&gateway, &["a"]), stalled(&gateway, &["a"]), stalled(&gateway, &["a"])];
    let mut number = 0;
    while closes(&gateway, "slow_consumer") < 3.0 {
        assert!(number < 10_000, "it reads on");
        number += 1;
        post(&gateway, "a", number);
    }
    // Nothing else happens on these workers: the gauges are right by themselves.
    until_metric(&gateway, "fanfare_outbox_bytes", |bytes| bytes == 0.0);
    until_metric(&gateway, r#"fanfare_connections{transport="json"}"#, |open| open == 0.0);
    until_metric(&gateway, "fanfare_subscribed_topics", |topics| topics == 0.0);
}

#[test]
fn who_vanishes_while_messages_wait_leaves_no_bytes_behind() {
    let gateway = Gateway::start(&[]);
    let slow = stalled(&gateway, &["a"]);
    let mut number = 0;
    while metric(&gateway, "fanfare_outbox_bytes") == 0.0 {
        assert!(number < 1000, "it reads on");
        number += 1;
        post(&gateway, "a", number);
    }
    drop(slow);
    until_metric(&gateway, r#"fanfare_connections{transport="json"}"#, |open| open == 0.0);
    assert_eq!(closes(&gateway, "peer_gone"), 1.0);
    until_metric(&gateway, "fanfare_outbox_bytes", |bytes| bytes == 0.0);
}

#[test]
fn a_dropping_topic_says_which_messages_are_missing_and_ends_with_the_newest() {
    const COUNT: u64 = 200;
    let gateway = dropping(&[]);
    let mut slow = stalled(&gateway, &["drop.a"]);
    let (mut healthy, acknowledgement) = Peer::subscribed(gateway.address, &["drop.a"]);
    let topic = &acknowledgement["topics"][0];
    assert_eq!(topic["policy"], "drop-oldest", "{acknowledgement}");
    for number in 1..=COUNT {
        post(&gateway, "drop.a", number);
        assert_eq!(healthy.json()["offset"], number);
        assert!(metric(&gateway, "fanfare_outbox_bytes") <= OUTBOX_BYTES);
    }

    let (mut expect, mut lost) = (1, 0);
    while expect <= COUNT {
        let frame = slow.json();
        if frame["type"] == "gap" {
            let (from, to) = (frame["from"].as_u64().unwrap(), frame["to"].as_u64().unwrap());
            assert_eq!(from, expect, "a gap begins where the messages ended: {frame}");
            assert!(from <= to && to < COUNT, "{frame}");
            let expect_text = serde_json::json!({
                "type": "gap", "topic": "drop.a", "epoch": topic["epoch"], "from": from, "to": to, "reason": "slow"
            });
            assert_eq!(frame, expect_text);
            lost += to - from + 1;
            expect = to + 1;
        } else {
            assert_eq!(frame["offset"], expect, "{frame}");
            assert_eq!(frame["data"].to_string(), payload(expect));
            expect += 1;
        }
    }
    assert!(lost > 0, "nothing was dropped");
    assert_eq!(metric(&gateway, "fanfare_dropped_messages_total"), lost as f64);
    assert_eq!(slow.fence(), [Value::Null; 0]);
    // It lives on as if nothing had been.
    post(&gateway, "drop.a", COUNT + 1);
    assert_eq!(slow.json()["offset"], COUNT + 1);
    assert_eq!(closes(&gateway, "slow_consumer"), 0.0);
}

#[test]
fn a_strict_topic_is_not_cut_for_a_dropping_one() {
    let gateway = dropping(&["--close-timeout", "10m"]);
    let mut slow = stalled(&gateway, &["drop.a", "strict"]);
    for number in 1..=100 {
        post(&gateway, "drop.a", number);
        if number % 4 == 0 {
            post(&gateway, "strict", number / 4);
        }
    }
    // A small message of the strict topic takes the place of old ones that may be dropped; what comes is whole.
    let (mut expect, mut strict) = (1, 1);
    loop {
        let frame = slow.frame();
        if frame.first == CLOSE {
            assert_eq!(frame.code(), Some(4101));
            break;
        }
        let frame: Value = serde_json::from_slice(&frame.payload).unwrap();
        let offset = frame["offset"].as_u64();
        match frame["topic"].as_str().unwrap() {
            "strict" => {
                assert_eq!(offset, Some(strict), "{frame}");
                strict += 1;
            }
            _ if frame["type"] == "gap" => {
                assert_eq!(frame["from"], expect, "{frame}");
                expect = frame["to"].as_u64().unwrap() + 1;
            }
            _ => {
                assert_eq!(offset, Some(expect), "{frame}");
                expect += 1;
            }
        }
    }
}

#[test]
fn a_raw_subscriber_of_a_dropping_topic_is_closed_rather_than_cut() {
    let gateway = dropping(&["--close-timeout", "10m"]);
    let mut slow = Peer::connect_with_room(gateway.address, 4 * 1024).upgraded("/topics/drop.a").listening();
    let mut healthy = Peer::raw(gateway.address, "drop.a");
    for number in 1..=100 {
        post(&gateway, "drop.a", number);
        assert_eq!(healthy.text(), payload(number));
    }
    let mut expect = 1;
    let code = loop {
        let frame = slow.frame();
        if frame.first == CLOSE {
            break frame.code();
        }
        assert_eq!(frame.payload, payload(expect).as_bytes());
        expect += 1;
    };
    assert_eq!(code, Some(4203));
    drop(slow);
    until_metric(&gateway, r#"fanfare_closes_total{reason="gap"}"#, |count| count == 1.0);
}

#[test]
fn hundreds_of_stalled_subscribers_cost_no_more_than_their_outboxes() {
    const CROWD: usize = 300;
    const COUNT: u64 = 60;
    let gateway = dropping(&[]);
    let mut healthy = Peer::subscribed(gateway.address, &["drop.a"]).0;
    let crowd: Vec<Peer> = (0..CROWD).map(|_| stalled(&gateway, &["drop.a"])).collect();
    let before = resident_bytes(&gateway);
    for number in 1..=COUNT {
        post(&gateway, "drop.a", number);
        assert_eq!(healthy.json()["offset"], number);
    }
    assert!(metric(&gateway, "fanfare_outbox_bytes") <= CROWD as f64 * OUTBOX_BYTES);
    // The frames that wait are shared: much less than an outbox for each.
    let each = resident_bytes(&gateway).saturating_sub(before) / CROWD;
    assert!(each < 65_536, "{each} bytes for a stalled subscriber");
    drop(crowd);
    until_metric(&gateway, "fanfare_outbox_bytes", |bytes| bytes == 0.0);
    until_metric(&gateway, r#"fanfare_connections{transport="json"}"#, |open| open == 1.0);
}
