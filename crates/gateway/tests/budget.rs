//! All outboxes together have a bound, and the largest pay for it.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use serde_json::Value;
use support::Gateway;
use support::config_file::ConfigFile;
use support::metrics::{closes, metric, until_metric};
use support::peer::{CLOSE, Peer, publish};

const BUDGET: f64 = 512.0 * 1024.0;

/// A gateway where one subscriber may have more than all together.
fn gateway() -> Gateway {
    let file = ConfigFile::new(
        "[[topics]]\nmatch = \"drop.>\"\nslow = \"drop-oldest\"\n[[topics]]\nmatch = \"tick.>\"\nslow = \"conflate\"\n",
    );
    let args = ["--outbox-budget", "512KiB", "--outbox-bytes", "4MiB", "--close-timeout", "10m"];
    Gateway::start(&[&["--config", file.path()], &args[..]].concat())
}

fn stalled(gateway: &Gateway, topic: &str) -> Peer {
    let (mut peer, _) = Peer::connect_with_room(gateway.address, 4 * 1024).upgraded("/ws").welcomed();
    peer.subscribe(&[topic]);
    peer
}

/// Publishes 8 KiB.
fn post(gateway: &Gateway, topic: &str, number: u64) {
    let answer = publish(gateway.address, topic, "application/json", format!("\"{number:08190}\""));
    assert_eq!(answer.json()["offset"], number, "{answer:?}");
}

#[test]
fn slow_readers_of_dropping_topics_are_told_what_was_evicted() {
    const COUNT: u64 = 100;
    let gateway = gateway();
    let mut healthy = Peer::on_each_worker(gateway.address, "drop.a");
    let mut slow: Vec<Peer> = (0..10).map(|_| stalled(&gateway, "drop.a")).collect();
    let mut most = 0.0;
    for number in 1..=COUNT {
        post(&gateway, "drop.a", number);
        for peer in &mut healthy {
            assert_eq!(peer.json()["offset"], number);
        }
        most = f64::max(most, metric(&gateway, "fanfare_outbox_bytes"));
    }
    assert!(most > BUDGET / 2.0 && most < BUDGET * 1.25, "{most} bytes waited");
    assert!(metric(&gateway, "fanfare_sheds_total") > 0.0);
    let (mut lost, mut evicted) = (0, 0);
    for peer in &mut slow {
        let mut expect = 1;
        while expect <= COUNT {
            let told = peer.json();
            if told["type"] == "gap" {
                assert_eq!((&told["from"], &told["reason"]), (&expect.into(), &"evicted".into()), "{told}");
                let to = told["to"].as_u64().unwrap();
                lost += to + 1 - expect;
                evicted += 1;
                expect = to + 1;
            } else {
                assert_eq!(told["offset"], expect, "{told}");
                expect += 1;
            }
        }
        assert_eq!(peer.fence(), [Value::Null; 0]);
    }
    assert_eq!(evicted, 10, "each lost the oldest of what waited");
    assert_eq!(metric(&gateway, "fanfare_dropped_messages_total"), lost as f64);
    assert_eq!(metric(&gateway, "fanfare_outbox_bytes"), 0.0);
    for reason in ["budget", "slow_consumer", "gap"] {
        assert_eq!(closes(&gateway, reason), 0.0, "{reason}");
    }
}

#[test]
fn slow_readers_of_strict_topics_are_closed_for_the_budget() {
    const COUNT: u64 = 120;
    let gateway = gateway();
    let mut healthy = Peer::on_each_worker(gateway.address, "a");
    let mut raw = Peer::connect_with_room(gateway.address, 4 * 1024).upgraded("/topics/a").listening();
    let mut slow: Vec<Peer> = (0..5).map(|_| stalled(&gateway, "a")).collect();
    for number in 1..=COUNT {
        post(&gateway, "a", number);
        for peer in &mut healthy {
            assert_eq!(peer.json()["offset"], number);
        }
        let waiting = metric(&gateway, "fanfare_outbox_bytes");
        assert!(waiting < BUDGET * 1.25, "{waiting} bytes wait");
    }
    // The code waits behind what their sockets took before.
    let mut closed = 0.0;
    for peer in &mut slow {
        let mut expect = 1;
        loop {
            if expect > COUNT {
                break;
            }
            let frame = peer.frame();
            if frame.first == CLOSE {
                assert_eq!(frame.code(), Some(4100));
                closed += 1.0;
                break;
            }
            let told: Value = serde_json::from_slice(&frame.payload).unwrap();
            assert_eq!(told["offset"], expect);
            expect += 1;
        }
    }
    if raw.close_code() == Some(4100) {
        closed += 1.0;
    }
    drop((slow, raw));
    until_metric(&gateway, r#"fanfare_connections{transport="raw"}"#, |open| open == 0.0);
    until_metric(&gateway, r#"fanfare_connections{transport="json"}"#, |open| open == 2.0);
    assert!(closed >= 5.0, "{closed} were closed");
    assert_eq!(closes(&gateway, "budget"), closed);
    assert_eq!(closes(&gateway, "slow_consumer"), 0.0);
    assert_eq!(metric(&gateway, "fanfare_dropped_messages_total"), 0.0);
}

#[test]
fn the_largest_pays_and_the_small_ones_do_not() {
    let gateway = gateway();
    let mut small: Vec<Peer> = (0..8).map(|_| stalled(&gateway, "small")).collect();
    let mut large = stalled(&gateway, "large");
    let mut dropping = stalled(&gateway, "drop.large");
    // Until the small ones' sockets are full, and a little waits for each.
    let mut count = 0;
    while metric(&gateway, "fanfare_outbox_bytes") < 64.0 * 1024.0 {
        count += 1;
        post(&gateway, "small", count);
    }
    for number in 1..=100 {
        post(&gateway, "drop.large", number);
    }
    for number in 1..=100 {
        post(&gateway, "large", number);
    }
    assert_eq!(large.close_code(), Some(4100));
    let (mut expect, mut gaps) = (1, 0);
    while expect <= 100 {
        let told = dropping.json();
        if told["type"] == "gap" {
            assert_eq!(told["reason"], "evicted");
            gaps += 1;
            expect = told["to"].as_u64().unwrap() + 1;
        } else {
            assert_eq!(told["offset"], expect);
            expect += 1;
        }
    }
    assert_eq!(gaps, 1);
    for peer in &mut small {
        for offset in 1..=count {
            assert_eq!(peer.json()["offset"], offset, "the small ones lose nothing");
        }
        assert_eq!(peer.fence(), [Value::Null; 0]);
    }
    until_metric(&gateway, r#"fanfare_closes_total{reason="budget"}"#, |closed| closed == 1.0);
    assert_eq!(metric(&gateway, "fanfare_outbox_bytes"), 0.0);
}

#[test]
fn conflated_outboxes_shrink_to_their_newest_and_say_what_they_gave_up() {
    const KEYS: u64 = 40;
    let gateway = gateway();
    let mut slow: Vec<Peer> = (0..4).map(|_| stalled(&gateway, "tick.a")).collect();
    for number in 1..=300 {
        let body = format!(r#"{{"topic":"tick.a","key":"k{}","data":"{number:08190}"}}"#, number % KEYS);
        let headers = [("content-type", "application/x-ndjson")];
        let answer = support::peer::request(gateway.address, "POST", "/publish", &headers, body).json();
        assert_eq!(answer["results"][0]["offset"], number, "{answer}");
        let waiting = metric(&gateway, "fanfare_outbox_bytes");
        assert!(waiting < BUDGET * 1.25, "{waiting} bytes wait");
    }
    for peer in &mut slow {
        let (mut last, mut gave_up) = (0, 0);
        while last < 300 {
            let told = peer.json();
            if told["type"] == "gap" {
                assert_eq!(told["reason"], "evicted", "{told}");
                assert!(told["from"].as_u64().unwrap() > last, "{told} after {last}");
                gave_up += 1;
                last = told["to"].as_u64().unwrap();
                assert!(last < 300, "the newest of all stays: {told}");
            } else {
                let offset = told["offset"].as_u64().unwrap();
                assert!(offset > last, "{offset} after {last}");
                last = offset;
            }
        }
        assert!(gave_up > 0);
    }
    assert_eq!(closes(&gateway, "budget"), 0.0);
}
