//! The limits of wildcards and of what they bring, and that nothing is left behind.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::requests::{command, post};
use crate::support::Gateway;
use crate::support::metrics::{eventually, metric, resident_bytes, until_metric};
use crate::support::peer::{Peer, publish, request};

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
    assert_eq!(metric(&gateway, r#"fanfare_refusals_total{limit="wildcard_topics"}"#), 2.0);
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
    // Two of the topics were refused to the publisher.
    for (limit, count) in
        [("patterns", 2.0), ("subscriptions", 2.0), ("wildcard_topics", 2.0), ("topics", 3.0)]
    {
        assert_eq!(
            metric(&gateway, &format!("fanfare_refusals_total{{limit=\"{limit}\"}}")),
            count,
            "{limit}"
        );
    }
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
    let gateway = Gateway::start(&["--topic-idle", "300ms", "--commands-per-second", "off"]);
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
