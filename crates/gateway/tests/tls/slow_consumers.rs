//! Who reads slowly, or not at all: records are cut anywhere, and what waits is bounded.

use serde_json::Value;

use crate::secure::{Secure, payload};
use crate::support::config_file::ConfigFile;
use crate::support::metrics::{closes, metric, until_metric};
use crate::support::peer::{CLOSE, Peer, TEXT};

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
