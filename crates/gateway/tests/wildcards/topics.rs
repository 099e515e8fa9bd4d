//! Which topics a wildcard brings, and from when on: those that are there, and those that are born later.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::ledger::Ledger;
use crate::requests::{at_once, command, post, publish_command};
use crate::support::Gateway;
use crate::support::config_file::ConfigFile;
use crate::support::metrics::{metric, until_metric};
use crate::support::peer::{Peer, publish};

#[test]
fn a_star_is_one_segment_and_an_arrow_the_rest() {
    let gateway = Gateway::start(&[]);
    let check = |pattern: &str, matched: &[&str], others: &[&str]| {
        let (mut peer, _) = Peer::native(gateway.address);
        peer.say(&command("subscribe", json!([{"topic": pattern, "from": "live"}])));
        assert_eq!(peer.json()["topics"][0]["topic"], pattern);
        peer.fence();
        for topic in matched.iter().chain(others) {
            assert_eq!(publish(gateway.address, topic, "text/plain", "x").status, 200);
        }
        // All of them have passed when the last one has.
        let mut witness = Vec::new();
        while witness.len() < matched.len() {
            let told = peer.json();
            if told.get("type").is_none() {
                witness.push(told["topic"].as_str().unwrap().to_owned());
            }
        }
        witness.sort();
        let mut expect = matched.to_vec();
        expect.sort_unstable();
        assert_eq!(witness, expect, "{pattern}");
        assert_eq!(peer.fence(), [Value::Null; 0], "{pattern}");
    };
    check("*", &["a", "b"], &["a.b"]);
    check("a.*", &["a.b", "a.c"], &["a", "a.b.c", "ab.c", "b.a"]);
    check("a.*.c", &["a.b.c", "a.x.c"], &["a.c", "a.b.d", "a.b.c.d"]);
    check("*.b", &["a.b", "b.b"], &["b", "a.b.b"]);
    check("a.>", &["a.b", "a.b.c"], &["a", "aa.b"]);
    check("*.*.>", &["a.b.c", "a.b.c.d"], &["a", "a.b"]);
    check(">", &["a", "a.b", "a.b.c", "z"], &[]);
}

#[test]
fn a_wildcard_says_where_each_of_its_topics_stands_and_then_replays() {
    let gateway = Gateway::start(&[]);
    let epochs = ["t.a", "t.b"].map(|topic| {
        (1..=2).for_each(|offset| drop(post(&gateway, topic, offset)));
        post(&gateway, topic, 3)
    });
    post(&gateway, "other", 1);
    let (mut peer, _) = Peer::native(gateway.address);
    peer.say(&command("subscribe", json!(["t.*"])));
    assert_eq!(peer.text(), r#"{"type":"subscribed","id":7,"topics":[{"topic":"t.*","matched":2}]}"#);
    for (topic, epoch) in ["t.a", "t.b"].iter().zip(&epochs) {
        let expect = format!(r#"{{"type":"topic","topic":"{topic}","epoch":"{epoch}","offset":3}}"#);
        assert_eq!(peer.text(), expect);
        assert_eq!(peer.text(), format!(r#"{{"topic":"{topic}","offset":3,"data":3}}"#));
    }
    // One that is born later, from its very first message on.
    let epoch = post(&gateway, "t.c", 1);
    let expect = format!(r#"{{"type":"topic","topic":"t.c","epoch":"{epoch}","offset":0}}"#);
    assert_eq!(peer.text(), expect);
    assert_eq!(peer.text(), r#"{"topic":"t.c","offset":1,"data":1}"#);
    post(&gateway, "t.c", 2);
    assert_eq!(peer.text(), r#"{"topic":"t.c","offset":2,"data":2}"#, "announced once");
    // Subscribing again changes nothing.
    peer.say(&command("subscribe", json!(["t.*"])));
    assert_eq!(peer.text(), r#"{"type":"subscribed","id":7,"topics":[{"topic":"t.*","matched":3}]}"#);
    post(&gateway, "t.a", 4);
    assert_eq!(peer.text(), r#"{"topic":"t.a","offset":4,"data":4}"#);
    assert_eq!(peer.fence(), [Value::Null; 0]);
}

#[test]
fn positions_resume_a_wildcard_topic_by_topic() {
    let gateway = Gateway::start(&["--replay-messages", "3"]);
    let epochs: BTreeMap<&str, String> = ["t.kept", "t.lost", "t.new", "t.same"]
        .map(|topic| {
            (1..=7).for_each(|offset| drop(post(&gateway, topic, offset)));
            (topic, post(&gateway, topic, 8))
        })
        .into();
    let place = |topic: &str, offset: u64| json!({"epoch": epochs[topic], "offset": offset});
    let check = |positions: Value, recovered: bool, expect: &[(&str, Value, &[u64])]| {
        let (mut peer, _) = Peer::native(gateway.address);
        peer.say(&command("subscribe", json!([{"topic": "t.>", "positions": positions}])));
        let acknowledgement = json!({"topic": "t.>", "matched": 4, "recovered": recovered});
        assert_eq!(peer.json()["topics"][0], acknowledgement, "{positions}");
        for (topic, recovered, offsets) in expect {
            let mut announced = json!({"type": "topic", "topic": topic, "epoch": epochs[topic], "offset": 8});
            if !recovered.is_null() {
                announced["recovered"] = recovered.clone();
            }
            assert_eq!(peer.json(), announced);
            for offset in *offsets {
                assert_eq!(peer.json(), json!({"topic": topic, "offset": offset, "data": offset}));
            }
        }
        assert_eq!(peer.fence(), [Value::Null; 0]);
    };
    let kept = place("t.kept", 5);
    let (same, new) = (("t.same", json!(true), &[][..]), ("t.new", Value::Null, &[8][..]));
    check(
        json!({"t.kept": kept, "t.lost": place("t.lost", 4), "t.same": place("t.same", 8)}),
        false,
        &[("t.kept", json!(true), &[6, 7, 8]), ("t.lost", json!(false), &[8]), new.clone(), same.clone()],
    );
    let lost = ("t.lost", Value::Null, &[8][..]);
    check(
        json!({"t.kept": kept, "t.same": place("t.same", 8)}),
        true,
        &[("t.kept", json!(true), &[6, 7, 8]), lost.clone(), new.clone(), same],
    );
    // A place in a topic that is no more; one in another epoch; one of a topic that it does not match.
    let rest = [("t.kept", json!(true), &[6, 7, 8][..]), lost, new.clone(), ("t.same", Value::Null, &[8])];
    check(json!({"t.kept": kept, "t.gone": {"epoch": "zzzzzzzz", "offset": 1}}), false, &rest);
    let foreign = json!({"t.kept": {"epoch": "zzzzzzzz", "offset": 8}});
    let rest = [("t.kept", json!(false), &[8][..]), rest[1].clone(), new, rest[3].clone()];
    check(foreign, false, &rest);
}

#[test]
fn both_workers_announce_a_topic_that_is_born_on_one_of_them() {
    let gateway = Gateway::start(&[]);
    let mut peers = Peer::on_each_worker(gateway.address, "born.>");
    for number in 0..50 {
        let topic = format!("born.{number}");
        let epoch = post(&gateway, &topic, 1);
        post(&gateway, &topic, 2);
        for peer in &mut peers {
            let announced = json!({"type": "topic", "topic": topic, "epoch": epoch, "offset": 0});
            assert_eq!(peer.json(), announced);
            for offset in 1..=2 {
                assert_eq!(peer.json(), json!({"topic": topic, "offset": offset, "data": offset}));
            }
        }
    }
    until_metric(&gateway, "fanfare_subscribed_topics", |topics| topics == 100.0);
    assert_eq!(metric(&gateway, "fanfare_patterns"), 1.0);
    assert_eq!(metric(&gateway, "fanfare_subscribed_patterns"), 2.0);
    drop(peers);
    until_metric(&gateway, "fanfare_patterns", |patterns| patterns == 0.0);
    until_metric(&gateway, "fanfare_subscribed_topics", |topics| topics == 0.0);
}

#[test]
fn a_healthy_reader_of_a_wildcard_survives_the_birth_of_many_topics_at_once() {
    // Announced in more bytes than answers may wait, and in fewer than two sockets take.
    const COUNT: usize = 950;
    let gateway = Gateway::start(&[]);
    // One of them shares its worker with the publisher, and sees all of it in a few passes.
    let mut peers = Peer::on_each_worker(gateway.address, ">");
    let mut publisher = Peer::native(gateway.address).0;
    let births: Vec<String> =
        (0..COUNT).map(|number| publish_command(&format!("a.topic.is.born.{number:04}"), 1)).collect();
    at_once(&mut publisher, &births);
    for peer in &mut peers {
        let mut ledger = Ledger::default();
        ledger.read(peer, COUNT as u64);
        assert_eq!(peer.fence(), [Value::Null; 0]);
    }
}

#[test]
fn a_topic_that_was_forgotten_comes_back_as_another() {
    let gateway = Gateway::start(&["--topic-idle", "200ms"]);
    let mut peers = Peer::on_each_worker(gateway.address, "t.*");
    let mut epochs = Vec::new();
    for _ in 0..3 {
        epochs.push(post(&gateway, "t.a", 1));
        post(&gateway, "t.a", 2);
        for peer in &mut peers {
            let announced = json!({"type": "topic", "topic": "t.a", "epoch": epochs.last(), "offset": 0});
            assert_eq!(peer.json(), announced);
            for offset in 1..=2 {
                assert_eq!(peer.json()["offset"], offset);
            }
        }
        until_metric(&gateway, "fanfare_topics", |topics| topics == 0.0);
        until_metric(&gateway, "fanfare_subscribed_topics", |topics| topics == 0.0);
        assert_eq!(metric(&gateway, "fanfare_retained_bytes"), 0.0);
        assert_eq!(metric(&gateway, "fanfare_subscribed_patterns"), 2.0);
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 3, "{epochs:?}");
}

#[test]
fn wildcards_of_configured_topics_have_the_policy_of_each() {
    let file = ConfigFile::new("[[topics]]\nmatch = \"t.quiet\"\nlast_value = false\nreplay = false\n");
    let gateway = Gateway::start(&["--config", file.path()]);
    let epoch = post(&gateway, "t.quiet", 1);
    post(&gateway, "t.kept", 1);
    let (mut peer, acknowledgement) = Peer::subscribed(gateway.address, &["t.*"]);
    assert_eq!(acknowledgement["topics"][0]["matched"], 2);
    let told = peer.fence();
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[2], json!({"type": "topic", "topic": "t.quiet", "epoch": epoch, "offset": 1}));
}
