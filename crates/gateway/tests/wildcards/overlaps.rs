//! Topics that several subscriptions of one client bring: each message comes once, and none is missing.

use serde_json::{Value, json};

use crate::ledger::Ledger;
use crate::requests::{at_once, command, post, publish_command};
use crate::support::Gateway;
use crate::support::peer::Peer;

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
