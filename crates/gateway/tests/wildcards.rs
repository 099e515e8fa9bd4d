//! Wildcards on the native WebSocket: which topics they bring, from when on, and what they leave behind.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};
use support::Gateway;
use support::config_file::ConfigFile;
use support::metrics::{eventually, metric, resident_bytes, until_metric};
use support::peer::{Peer, TEXT, masked, publish, request};

/// Publishes a number; returns its offset's epoch.
fn post(gateway: &Gateway, topic: &str, offset: u64) -> String {
    let answer = publish(gateway.address, topic, "application/json", offset.to_string()).json();
    assert_eq!(answer["offset"], offset, "{topic}: {answer}");
    answer["epoch"].as_str().unwrap().to_owned()
}

/// Publishes 1 to each topic in one request; returns how many were refused, and with which code.
fn post_many(gateway: &Gateway, names: impl Iterator<Item = String>) -> (usize, String) {
    let mut body = String::new();
    for name in names {
        writeln!(body, r#"{{"topic":"{name}","data":1}}"#).unwrap();
    }
    let headers = [("content-type", "application/x-ndjson")];
    let answer = request(gateway.address, "POST", "/publish", &headers, body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let results = answer["results"].as_array().unwrap();
    let refused: Vec<&Value> = results.iter().filter_map(|result| result.get("error")).collect();
    let code = refused.first().map_or("", |error| error["code"].as_str().unwrap());
    assert!(refused.iter().all(|error| error["code"] == code), "{refused:?}");
    (refused.len(), code.to_owned())
}

fn command(kind: &str, topics: Value) -> String {
    json!({"type": kind, "id": 7, "topics": topics}).to_string()
}

/// Several commands in one segment: nothing comes between them.
fn at_once(peer: &mut Peer, commands: &[String]) {
    peer.send(commands.iter().flat_map(|command| masked(TEXT, command.as_bytes())).collect::<Vec<u8>>());
}

fn publish_command(topic: &str, data: u64) -> String {
    json!({"type": "publish", "topic": topic, "data": data}).to_string()
}

/// A client that believes what it is told: it knows each topic's place, and finds any contradiction.
#[derive(Default)]
struct Ledger {
    places: BTreeMap<String, (String, u64)>,
    received: u64,
}

impl Ledger {
    /// Reads until so many messages have come.
    fn read(&mut self, peer: &mut Peer, received: u64) {
        while self.received < received {
            self.take(&peer.json());
        }
    }

    fn take(&mut self, told: &Value) {
        match told["type"].as_str() {
            None => {
                let topic = told["topic"].as_str().unwrap();
                let place = self.places.get_mut(topic).unwrap_or_else(|| panic!("never announced: {told}"));
                assert_eq!(told["offset"], place.1 + 1, "after {place:?}");
                place.1 += 1;
                self.received += 1;
            }
            // Replay comes: it is announced from behind.
            Some("topic") => {
                let (topic, epoch) = (told["topic"].as_str().unwrap(), told["epoch"].as_str().unwrap());
                let offset = told["offset"].as_u64().unwrap();
                let known = self.places.insert(topic.to_owned(), (epoch.to_owned(), offset));
                assert!(known.is_none_or(|known| known.0 != epoch || known.1 == offset), "moved: {told}");
            }
            _ => {}
        }
    }
}

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
fn what_a_name_and_a_wildcard_bring_comes_once() {
    let gateway = Gateway::start(&[]);
    let mut count = 1;
    post(&gateway, "t.a", 1);
    let names = ["t.a", "t.*", ">"];
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0]] {
        let (mut peer, _) = Peer::native(gateway.address);
        let mut copies = 0;
        for name in order.map(|index| names[index]) {
            peer.say(&command("subscribe", json!([name])));
            for told in peer.fence() {
                copies += usize::from(told.get("type").is_none());
            }
        }
        assert_eq!(copies, 1, "{order:?}: the last value came once");
        let mut next = |peer: &mut Peer, what: &str| {
            count += 1;
            post(&gateway, "t.a", count);
            let told = peer.json();
            assert_eq!((&told["topic"], &told["offset"]), (&json!("t.a"), &json!(count)), "{what}");
            assert_eq!(peer.fence(), [Value::Null; 0], "{what}");
        };
        next(&mut peer, "three subscriptions");
        for left in [2, 1] {
            let name = names[order[2 - left]];
            peer.say(&command("unsubscribe", json!([name])));
            assert_eq!(peer.json(), json!({"type": "unsubscribed", "id": 7, "topics": [name]}));
            next(&mut peer, &format!("{left} left, {order:?}"));
        }
        peer.say(&command("unsubscribe", json!(names)));
        assert_eq!(peer.json()["topics"], json!([names[order[2]]]));
        count += 1;
        post(&gateway, "t.a", count);
        assert_eq!(peer.fence(), [Value::Null; 0], "nothing is left");
    }
}

#[test]
fn changing_from_one_subscription_to_another_loses_nothing_of_what_both_bring() {
    let gateway = Gateway::start(&[]);
    let (mut peer, _) = Peer::native(gateway.address);
    peer.subscribe(&["t.*"]);
    let mut ledger = Ledger::default();
    at_once(&mut peer, &[publish_command("t.a", 1)]);
    ledger.read(&mut peer, 1);
    // Each message is under way when the subscription that brings it is replaced by another.
    let changes = [("t.*", "t.a"), ("t.a", "t.*"), ("t.*", ">"), (">", "t.a"), ("t.a", "t.>")];
    for (old, new) in changes {
        let commands = [
            publish_command("t.a", 2),
            command("subscribe", json!([{"topic": new, "from": "live"}])),
            publish_command("t.a", 3),
            command("unsubscribe", json!([old])),
            publish_command("t.a", 4),
        ];
        at_once(&mut peer, &commands);
        // The ledger finds what is missing.
        let all = ledger.received + 3;
        ledger.read(&mut peer, all);
    }
}

#[test]
fn a_second_wildcard_does_not_hide_what_the_first_is_about_to_bring() {
    let gateway = Gateway::start(&[]);
    let (mut peer, _) = Peer::native(gateway.address);
    post(&gateway, "t.a", 1);
    let commands = [
        command("subscribe", json!(["t.*"])),
        publish_command("t.a", 2),
        command("subscribe", json!([">"])),
        publish_command("t.a", 3),
    ];
    at_once(&mut peer, &commands);
    let mut offsets = Vec::new();
    while offsets.last() != Some(&3) {
        let told = peer.json();
        if told.get("type").is_none() {
            offsets.push(told["offset"].as_u64().unwrap());
        }
    }
    assert_eq!(offsets, [1, 2, 3]);
}

#[test]
fn a_topic_is_announced_at_its_beginning_or_where_it_stands_but_never_moved_back() {
    let gateway = Gateway::start(&[]);
    let (mut peer, worker) = Peer::native(gateway.address);
    // Because of it the first message is on its way to the worker before the newcomer gets it as replay.
    let mut witness = Peer::native_on(gateway.address, &worker);
    witness.subscribe(&[">"]);
    let commands = [
        publish_command("t.a", 1),
        command("subscribe", json!(["t.*"])),
        publish_command("t.a", 2),
        publish_command("t.b", 1),
    ];
    at_once(&mut peer, &commands);
    let mut told = Vec::new();
    while told.last().is_none_or(|last| *last != json!([null, "t.b", 1])) {
        let next = peer.json();
        if next.get("topic").is_some() {
            told.push(json!([next["type"], next["topic"], next["offset"]]));
        }
    }
    let expect = json!([
        ["topic", "t.a", 1],
        [null, "t.a", 1],
        [null, "t.a", 2],
        ["topic", "t.b", 0],
        [null, "t.b", 1],
    ]);
    assert_eq!(Value::from(told), expect);
}

#[test]
fn a_resume_under_a_wildcard_that_brings_the_topic_already_is_not_called_whole() {
    let gateway = Gateway::start(&[]);
    (1..=4).for_each(|offset| drop(post(&gateway, "t.a", offset)));
    let epoch = post(&gateway, "t.a", 5);
    let (mut peer, _) = Peer::native(gateway.address);
    let resume = json!({"topic": "t.a", "epoch": epoch, "offset": 2});
    peer.say(&command("subscribe", json!(["t.*", resume])));
    let acknowledgement = peer.json();
    let told: Vec<Value> = peer.fence();
    let offsets: Vec<u64> = told
        .iter()
        .filter(|told| told.get("type").is_none())
        .map(|told| told["offset"].as_u64().unwrap())
        .collect();
    if acknowledgement["topics"][1]["recovered"] == true {
        assert_eq!(offsets, [3, 4, 5], "{acknowledgement}");
    }
    assert_eq!(*offsets.last().unwrap(), 5);
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
fn one_request_brings_only_so_many_topics() {
    let gateway = Gateway::start(&["--wildcard-topics", "4"]);
    for name in ["t.1", "t.2", "t.3", "t.4"] {
        post(&gateway, name, 1);
    }
    let mut peer = Peer::native(gateway.address).0;
    peer.say(&command("subscribe", json!(["t.*", "t.>", "t.1", "*.1"])));
    let answer = peer.json();
    assert_eq!(answer["topics"][0]["matched"], 4, "{answer}");
    for (index, name) in [(1, "t.>"), (3, "*.1")] {
        let refused = &answer["topics"][index];
        assert_eq!(
            (&refused["topic"], &refused["error"]["code"]),
            (&json!(name), &json!("limit")),
            "{answer}"
        );
    }
    assert_eq!(answer["topics"][2]["offset"], 1, "a name is no wildcard: {answer}");
    // The next request is another one.
    peer.fence();
    assert_eq!(peer.subscribe(&["t.>"])["topics"][0]["matched"], 4);
}

#[test]
fn each_limit_of_wildcards_has_its_name() {
    let args = ["--patterns", "3", "--wildcard-topics", "5", "--subscriptions", "4", "--topics", "8"];
    let gateway = Gateway::start(&args);
    let refused = |peer: &mut Peer, topic: &str, words: &str| {
        peer.fence();
        peer.say(&command("subscribe", json!([topic])));
        let answer = peer.json();
        let error = &answer["topics"][0]["error"];
        assert_eq!(error["code"], "limit", "{answer}");
        assert!(error["message"].as_str().unwrap().contains(words), "{answer}");
    };
    let mut holder = Peer::subscribed(gateway.address, &["p.1", "p.*", "q.*"]).0;
    let mut other = Peer::subscribed(gateway.address, &["p.*", "r.*"]).0;
    other.fence();
    refused(&mut other, "s.*", "as many wildcards");
    holder.fence();
    holder.say(&command("unsubscribe", json!(["q.*"])));
    assert_eq!(holder.json()["topics"], json!(["q.*"]));
    assert_eq!(other.subscribe(&["s.*"])["topics"][0]["matched"], 0);
    refused(&mut holder, "q.*", "as many wildcards");

    other.fence();
    assert_eq!(other.subscribe(&["x"])["topics"][0]["offset"], 0);
    refused(&mut other, "y", "as many subscriptions");
    refused(&mut other, ">", "as many subscriptions");

    let (count, code) = post_many(&gateway, (0..8).map(|number| format!("many.{number}")));
    assert_eq!((count, &*code), (2, "limit"), "p.1 and x are there already");
    other.say(&command("unsubscribe", json!(["r.*", "s.*"])));
    other.fence();
    refused(&mut other, "many.*", "more topics match");
    refused(&mut other, ">", "more topics match");
    assert_eq!(other.subscribe(&["*.1"])["topics"][0]["matched"], 2, "many.1 and p.1");
    refused(&mut holder, "another.name", "as many topics");
    drop((holder, other));
    until_metric(&gateway, "fanfare_patterns", |patterns| patterns == 0.0);
    until_metric(&gateway, "fanfare_subscribed_topics", |topics| topics == 0.0);
}

#[test]
fn a_pattern_may_have_a_hundred_segments_and_no_more() {
    let gateway = Gateway::start(&[]);
    let (mut peer, _) = Peer::native(gateway.address);
    let segments = |count: usize, last: &str| ["*."].repeat(count - 1).concat() + last;
    peer.say(&command("subscribe", json!([segments(200, ">"), segments(101, "*"), segments(100, ">")])));
    let answer = peer.json();
    for index in [0, 1] {
        assert_eq!(answer["topics"][index]["error"]["code"], "bad_topic", "{answer}");
        assert!(answer["topics"][index]["topic"].as_str().unwrap().len() <= 200);
    }
    assert_eq!(answer["topics"][2]["matched"], 0, "{answer}");
    let topic = segments(100, "a").replace('*', "a");
    post(&gateway, &topic, 1);
    assert_eq!(peer.json()["topic"], topic);
    assert_eq!(peer.json()["offset"], 1);
    // Many patterns that differ at the end cost a birth no more than they are.
    let patterns: Vec<String> =
        (0..200).map(|number| segments(98, &format!("{number}")).replace("*.*", "a.*")).collect();
    assert!(
        peer.subscribe(&patterns.iter().map(String::as_str).collect::<Vec<_>>())["topics"][199]["matched"]
            == 0
    );
    post(&gateway, &segments(98, "199").replace('*', "a"), 1);
    assert_eq!(peer.json()["offset"], 0);
    assert_eq!(peer.json()["offset"], 1);
}

#[test]
fn topics_without_end_reach_their_limit_and_are_forgotten_again() {
    const LIMIT: usize = 5_000;
    const COUNT: usize = 9_000;
    let gateway = Gateway::start(&["--topics", "5000", "--topic-idle", "1s"]);
    let mut peer = Peer::subscribed(gateway.address, &["keep.*"]).0;
    // In one request, so that no sweep comes between.
    let (refused, code) =
        post_many(&gateway, (0..COUNT).map(|number| format!("junk.{number}.of.a.publisher")));
    assert_eq!((refused, &*code), (COUNT - LIMIT, "limit"));
    assert_eq!(metric(&gateway, "fanfare_topics"), LIMIT as f64);
    until_metric(&gateway, "fanfare_topics", |topics| topics == 0.0);
    assert_eq!(metric(&gateway, "fanfare_retained_bytes"), 0.0);
    post(&gateway, "keep.a", 1);
    assert_eq!(peer.json()["topic"], "keep.a");
}

#[test]
fn coming_and_going_wildcards_leave_nothing_behind() {
    let gateway = Gateway::start(&["--topic-idle", "300ms"]);
    assert_eq!(post_many(&gateway, (0..200).map(|number| format!("t.{number}.x"))).0, 0);
    let mut peers: Vec<Peer> = (0..4).map(|_| Peer::native(gateway.address).0).collect();
    let mut churn = |rounds: usize| {
        for round in 0..rounds {
            for (index, peer) in peers.iter_mut().enumerate() {
                let names = json!([
                    format!("t.{round}.*"),
                    format!("t.{}.*", index + round),
                    {"topic": "t.*.x", "from": "live", "policy": "latest"},
                    {"topic": ">", "from": "live", "max_hz": 5},
                    format!("name.{round}"),
                ]);
                peer.say(&command("subscribe", names.clone()));
                peer.say(&command("unsubscribe", names));
            }
            assert_eq!(
                publish(gateway.address, &format!("t.{}.x", round % 200), "text/plain", "x").status,
                200
            );
            for peer in &mut peers {
                peer.fence();
            }
        }
    };
    churn(50);
    let before = resident_bytes(&gateway);
    churn(300);
    let grown = resident_bytes(&gateway).saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
    for name in ["fanfare_patterns", "fanfare_subscribed_patterns", "fanfare_subscribed_topics"] {
        assert_eq!(metric(&gateway, name), 0.0, "{name}");
    }
    drop(peers);
    eventually(|| metric(&gateway, "fanfare_topics") == 0.0, "nothing is left");
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
