//! The native JSON WebSocket, frame by frame.

mod support;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};
use support::Gateway;
use support::metrics::{closes, metric, until_metric};
use support::peer::{
    Answer, BINARY, CLOSE, HANDSHAKE, MORE, PING, PONG, Peer, TEXT, masked, publish, request,
};

const JSON: &str = "application/json";

fn post(gateway: &Gateway, topic: &str, body: &str) -> Value {
    let answer = publish(gateway.address, topic, JSON, body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// The epoch of the only topic in an acknowledgement.
fn epoch(acknowledgement: &Value) -> &str {
    acknowledgement["topics"][0]["epoch"].as_str().expect("an acknowledgement names the epoch")
}

#[test]
fn a_connection_is_welcomed() {
    let gateway = Gateway::start(&["--ping-interval", "40s", "--message-bytes", "1KiB"]);
    let mut peer = Peer::websocket(gateway.address, "/ws");
    let welcome = peer.text();
    let client = serde_json::from_str::<Value>(&welcome).unwrap()["client"].as_str().unwrap().to_owned();
    let expect = format!(r#"{{"type":"welcome","client":"{client}","ping":40,"max_message":1024}}"#);
    assert_eq!(welcome, expect);
    let mut other = Peer::websocket(gateway.address, "/ws");
    assert_ne!(other.json()["client"], client, "a name names one connection");
}

#[test]
fn a_subscription_is_acknowledged_and_then_its_messages_come() {
    let gateway = Gateway::start(&[]);
    let (mut peer, _) = Peer::native(gateway.address);
    peer.say(r#"{"type":"subscribe","id":1,"topics":["ticker.BTC-USD"]}"#);
    let acknowledgement = peer.text();
    let first: Value = serde_json::from_str(&acknowledgement).unwrap();
    let epoch = epoch(&first);
    let expect = format!(
        r#"{{"type":"subscribed","id":1,"topics":[{{"topic":"ticker.BTC-USD","epoch":"{epoch}","offset":0}}]}}"#
    );
    assert_eq!(acknowledgement, expect);
    assert_eq!(post(&gateway, "ticker.BTC-USD", r#"{"bid":"64000.10"}"#)["epoch"], epoch);
    assert_eq!(peer.text(), r#"{"topic":"ticker.BTC-USD","offset":1,"data":{"bid":"64000.10"}}"#);

    let (mut late, _) = Peer::native(gateway.address);
    late.say(r#"{"type":"subscribe","topics":["ticker.BTC-USD"]}"#);
    let expect = format!(
        r#"{{"type":"subscribed","topics":[{{"topic":"ticker.BTC-USD","epoch":"{epoch}","offset":1,"replay":1}}]}}"#
    );
    assert_eq!(late.text(), expect);
    assert_eq!(late.text(), r#"{"topic":"ticker.BTC-USD","offset":1,"data":{"bid":"64000.10"}}"#);
    post(&gateway, "ticker.BTC-USD", "2");
    for peer in [&mut peer, &mut late] {
        assert_eq!(peer.text(), r#"{"topic":"ticker.BTC-USD","offset":2,"data":2}"#);
    }
}

#[test]
fn each_topic_of_a_request_is_answered_for_itself() {
    let gateway = Gateway::start(&[]);
    post(&gateway, "kept", "1");
    let (mut peer, _) = Peer::native(gateway.address);
    let long = "x".repeat(300);
    let topics = json!([
        "a",
        "b b",
        "a..b",
        "$sys.load",
        "trades.x*",
        "trades.>.x",
        "",
        long,
        {"topic": "kept", "from": "live"},
        {"topic": "ü"},
        {"topic": "c", "from": "last", "later": [1]},
    ]);
    peer.say(&json!({"type": "subscribe", "id": 9007199254740991u64, "topics": topics}).to_string());
    let answer = peer.json();
    assert_eq!(answer["id"], 9007199254740991u64);
    let results = answer["topics"].as_array().expect("one entry per topic");
    assert_eq!(results.len(), 11, "{answer}");
    let refused =
        [(1, "b b"), (2, "a..b"), (3, "$sys.load"), (4, "trades.x*"), (5, "trades.>.x"), (6, ""), (9, "ü")];
    for (index, name) in refused {
        let error = &results[index]["error"];
        assert_eq!(
            (&results[index]["topic"], &error["code"]),
            (&json!(name), &json!("bad_topic")),
            "{answer}"
        );
        assert!(error["message"].as_str().is_some_and(|words| !words.is_empty()), "{answer}");
        assert_eq!(results[index].as_object().unwrap().len(), 2, "nothing but the error: {answer}");
    }
    assert_eq!(results[7]["error"]["code"], "bad_topic");
    assert!(results[7]["topic"].as_str().unwrap().len() <= 200, "a refused name is cut");
    assert_eq!((&results[0]["topic"], &results[0]["offset"]), (&json!("a"), &json!(0)));
    assert_eq!(
        (&results[8]["offset"], &results[8]["replay"]),
        (&json!(1), &Value::Null),
        "live replays nothing"
    );
    assert_eq!((&results[10]["topic"], &results[10]["offset"]), (&json!("c"), &json!(0)));

    for topic in ["a", "kept", "c"] {
        post(&gateway, topic, "2");
        assert_eq!(peer.json()["topic"], topic);
    }
}

#[test]
fn a_connection_has_so_many_topics_and_no_more() {
    let gateway = Gateway::start(&["--subscriptions", "3"]);
    let (mut peer, acknowledgement) = Peer::subscribed(gateway.address, &["a", "b"]);
    assert_eq!(acknowledgement["topics"].as_array().map(Vec::len), Some(2));
    let acknowledgement = peer.subscribe(&["c", "d", "a"]);
    let topics = &acknowledgement["topics"];
    assert!(topics[0]["error"].is_null(), "{acknowledgement}");
    assert_eq!((&topics[1]["topic"], &topics[1]["error"]["code"]), (&json!("d"), &json!("limit")));
    assert!(topics[2]["error"].is_null(), "one it has already is not one more: {acknowledgement}");
    post(&gateway, "d", "1");
    post(&gateway, "c", "1");
    assert_eq!(peer.json()["topic"], "c", "a refused topic is not delivered");

    peer.say(r#"{"type":"unsubscribe","id":2,"topics":["a"]}"#);
    assert_eq!(peer.text(), r#"{"type":"unsubscribed","id":2,"topics":["a"]}"#);
    assert!(peer.subscribe(&["d"])["topics"][0]["error"].is_null(), "its place is free again");
    peer.json();

    peer.say(r#"{"type":"subscribe","id":5,"topics":["e","f","g","h"]}"#);
    let refused = peer.json();
    assert_eq!(
        (&refused["type"], &refused["id"], &refused["code"]),
        (&json!("error"), &json!(5), &json!("limit"))
    );
    assert_eq!(metric(&gateway, "fanfare_subscribed_topics"), 3.0);
}

#[test]
fn a_process_has_so_many_topics_and_no_more() {
    let gateway = Gateway::start(&["--topics", "2"]);
    let (mut peer, acknowledgement) = Peer::subscribed(gateway.address, &["a", "b", "c"]);
    let topics = acknowledgement["topics"].as_array().unwrap();
    assert!(topics[0]["error"].is_null() && topics[1]["error"].is_null(), "{acknowledgement}");
    assert_eq!(topics[2]["error"]["code"], "limit");
    peer.say(r#"{"type":"publish","id":7,"topic":"d","data":1}"#);
    let refused = peer.json();
    assert_eq!(
        (&refused["type"], &refused["id"], &refused["code"]),
        (&json!("error"), &json!(7), &json!("limit"))
    );
    peer.say(r#"{"type":"unsubscribe","topics":["a"]}"#);
    peer.json();
    assert!(peer.subscribe(&["c"])["topics"][0]["error"].is_null(), "a topic nobody used made room");
}

#[test]
fn a_resume_is_complete_or_says_that_it_is_not() {
    let gateway = Gateway::start(&["--replay-messages", "3"]);
    let epoch = post(&gateway, "a", "1")["epoch"].as_str().unwrap().to_owned();
    let foreign = post(&gateway, "b", "1")["epoch"].as_str().unwrap().to_owned();
    for number in 2..=5 {
        post(&gateway, "a", &number.to_string());
    }
    let check = |epoch_seen: &str, offset: u64, recovered: bool, replay: &[u64]| {
        let (mut peer, _) = Peer::native(gateway.address);
        let wish = json!({"topic": "a", "epoch": epoch_seen, "offset": offset});
        peer.say(&json!({"type": "subscribe", "id": 1, "topics": [wish]}).to_string());
        let replay_text =
            if replay.is_empty() { String::new() } else { format!(r#","replay":{}"#, replay.len()) };
        let expect = format!(
            r#"{{"type":"subscribed","id":1,"topics":[{{"topic":"a","epoch":"{epoch}","offset":5,"recovered":{recovered}{replay_text}}}]}}"#
        );
        assert_eq!(peer.text(), expect, "{epoch_seen} {offset}");
        let offsets: Vec<_> =
            peer.fence().iter().map(|message| message["offset"].as_u64().unwrap()).collect();
        assert_eq!(offsets, replay, "{epoch_seen} {offset}");
    };
    check(&epoch, 5, true, &[]);
    check(&epoch, 4, true, &[5]);
    check(&epoch, 2, true, &[3, 4, 5]);
    // More is missing than is kept: a fresh start with the last value, never a part.
    check(&epoch, 1, false, &[5]);
    check(&epoch, 0, false, &[5]);
    // Places of another count, or that no count has.
    check(&epoch, 6, false, &[5]);
    check(&epoch, u64::MAX, false, &[5]);
    check(&foreign, 5, false, &[5]);
    check("", 5, false, &[5]);
    check("k3x9", 5, false, &[5]);
    check(&"é".repeat(1000), 5, false, &[5]);
}

#[test]
fn a_position_is_whole_and_excludes_from() {
    let gateway = Gateway::start(&[]);
    let (mut peer, _) = Peer::native(gateway.address);
    for wish in [
        r#"{"topic":"a","offset":1}"#,
        r#"{"topic":"a","epoch":"k3x9"}"#,
        r#"{"topic":"a","epoch":"k3x9","offset":-1}"#,
        r#"{"topic":"a","epoch":"k3x9","offset":18446744073709551616}"#,
        r#"{"topic":"a","epoch":"k3x9","offset":1.5}"#,
        r#"{"topic":"a","epoch":"k3x9","offset":1,"from":"last"}"#,
        r#"{"topic":"a","from":"yesterday"}"#,
        r#"{"from":"last"}"#,
        "7",
        "null",
    ] {
        peer.say(&format!(r#"{{"type":"subscribe","id":8,"topics":[{wish}]}}"#));
        let answer = peer.json();
        let expect = (&json!("error"), &json!(8), &json!("bad_request"));
        assert_eq!((&answer["type"], &answer["id"], &answer["code"]), expect, "{wish}");
    }
}

#[test]
fn a_topic_subscribed_twice_comes_once() {
    let gateway = Gateway::start(&[]);
    post(&gateway, "a", "1");
    let (mut peer, acknowledgement) = Peer::subscribed(gateway.address, &["a", "a"]);
    let topics = acknowledgement["topics"].as_array().unwrap();
    assert_eq!((&topics[0]["replay"], &topics[1]["replay"]), (&json!(1), &Value::Null), "{acknowledgement}");
    assert_eq!(peer.json()["offset"], 1);
    assert!(peer.subscribe(&["a"])["topics"][0]["error"].is_null());
    post(&gateway, "a", "2");
    assert_eq!(peer.json()["offset"], 2);
    assert_eq!(peer.fence(), [Value::Null; 0], "one copy");
    peer.say(r#"{"type":"unsubscribe","topics":["a"]}"#);
    assert_eq!(peer.text(), r#"{"type":"unsubscribed","topics":["a"]}"#);
    post(&gateway, "a", "3");
    assert_eq!(peer.fence(), [Value::Null; 0], "one unsubscribe ends it");
}

#[test]
fn nothing_of_a_topic_comes_after_its_unsubscribe() {
    let gateway = Gateway::start(&[]);
    let (mut peer, _) = Peer::subscribed(gateway.address, &["a", "b"]);
    peer.say(r#"{"type":"unsubscribe","id":2,"topics":["a","never","b b",{"topic":"b"}]}"#);
    assert_eq!(peer.text(), r#"{"type":"unsubscribed","id":2,"topics":["a","b"]}"#);
    post(&gateway, "a", "1");
    post(&gateway, "b", "1");
    assert_eq!(peer.fence(), [Value::Null; 0]);
    peer.say(r#"{"type":"unsubscribe","topics":["a"]}"#);
    assert_eq!(peer.text(), r#"{"type":"unsubscribed","topics":[]}"#);
    until_metric(&gateway, "fanfare_subscribed_topics", |topics| topics == 0.0);
}

#[test]
fn an_acknowledgement_precedes_the_messages_of_its_topics() {
    let gateway = Gateway::start(&[]);
    let done = AtomicBool::new(false);
    let (gateway, done) = (&gateway, &done);
    std::thread::scope(|scope| {
        let publishers = (0..2).map(|_| {
            let mut peer = Peer::connect(gateway.address);
            scope.spawn(move || {
                while !done.load(Relaxed) {
                    let answer = peer.request("POST", "/topics/a", &[("content-type", JSON)], "1");
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
            })
        });
        let publishers: Vec<_> = publishers.collect();
        for _ in 0..40 {
            let (mut peer, acknowledgement) = Peer::subscribed(gateway.address, &["a"]);
            let topic = &acknowledgement["topics"][0];
            let (head, replay) = (topic["offset"].as_u64().unwrap(), topic["replay"].as_u64().unwrap_or(0));
            // Replay up to the head, then live behind it; no hole and no repeat where they meet.
            for offset in head + 1 - replay..head + 4 {
                assert_eq!(peer.json()["offset"], offset, "{acknowledgement}");
            }
        }
        done.store(true, Relaxed);
        for publisher in publishers {
            publisher.join().unwrap();
        }
    });
}

#[test]
fn a_ping_is_answered_with_the_time() {
    let gateway = Gateway::start(&[]);
    let (mut peer, _) = Peer::native(gateway.address);
    let since =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    peer.say(r#"{"type":"ping","id":3}"#);
    let pong = peer.text();
    let time = serde_json::from_str::<Value>(&pong).unwrap()["time"].as_u64().unwrap();
    assert_eq!(pong, format!(r#"{{"type":"pong","id":3,"time":{time}}}"#));
    assert!(time >= since, "{time} is before {since}");
    peer.say(r#" {"later":{},"type":"p\u0069ng"} "#);
    let pong = peer.json();
    assert_eq!((&pong["type"], &pong["id"]), (&json!("pong"), &Value::Null));
}

#[test]
fn a_client_may_publish() {
    let gateway = Gateway::start(&[]);
    let (mut peer, acknowledgement) = Peer::subscribed(gateway.address, &["chat.1"]);
    let epoch = epoch(&acknowledgement);
    peer.say(r#"{"type":"publish","id":5,"topic":"chat.1","data":{"x": 1.0 }}"#);
    assert_eq!(peer.text(), format!(r#"{{"type":"published","id":5,"epoch":"{epoch}","offset":1}}"#));
    assert_eq!(peer.text(), r#"{"topic":"chat.1","offset":1,"data":{"x": 1.0 }}"#);
    peer.say(
        "{\"type\":\"publish\",\"topic\":\"chat.1\",\"event\":\"said\",\"key\":\"k\",\"data\":[1,\r\n2]}",
    );
    assert_eq!(peer.text(), format!(r#"{{"type":"published","epoch":"{epoch}","offset":2}}"#));
    assert_eq!(peer.text(), r#"{"topic":"chat.1","offset":2,"event":"said","data":[1,  2]}"#);
    peer.say(r#"{"type":"publish","topic":"chat.1","data":null}"#);
    assert_eq!(peer.json()["offset"], 3);
    assert_eq!(peer.text(), r#"{"topic":"chat.1","offset":3,"data":null}"#);
}

#[test]
fn a_bad_request_is_told_with_its_id_and_the_connection_goes_on() {
    let gateway = Gateway::start(&[]);
    let (mut peer, _) = Peer::subscribed(gateway.address, &["a"]);
    let mut check = |text: &str, id: Option<u64>, code: &str| {
        peer.say(text);
        let answer = peer.json();
        let message = answer["message"].as_str().unwrap_or_else(|| panic!("{text}: {answer}"));
        let id = id.map(|id| format!(r#""id":{id},"#)).unwrap_or_default();
        let expect = format!(r#"{{"type":"error",{id}"code":"{code}","message":{}}}"#, json!(message));
        assert_eq!(answer, serde_json::from_str::<Value>(&expect).unwrap(), "{text}");
    };
    check("", None, "bad_request");
    check("hello", None, "bad_request");
    check("[]", None, "bad_request");
    check(r#"["ping",1]"#, None, "bad_request");
    check("{}", None, "bad_request");
    check(r#"{"type":"dance","id":4}"#, Some(4), "bad_request");
    check(r#"{"type":7,"id":4}"#, Some(4), "bad_request");
    check(r#"{"type":"subscribe","id":4}"#, Some(4), "bad_request");
    check(r#"{"type":"subscribe","id":4,"topics":"a"}"#, Some(4), "bad_request");
    check(r#"{"type":"unsubscribe","id":4}"#, Some(4), "bad_request");
    check(r#"{"type":"publish","id":4,"topic":"a"}"#, Some(4), "bad_request");
    check(r#"{"type":"publish","id":4,"data":1}"#, Some(4), "bad_request");
    check(r#"{"type":"publish","id":4,"topic":"a","data":1,"event":""}"#, Some(4), "bad_request");
    check(r#"{"type":"publish","id":4,"topic":"a b","data":1}"#, Some(4), "bad_topic");
    check(r#"{"type":"publish","id":4,"topic":"a.*","data":1}"#, Some(4), "bad_topic");
    check(r#"{"type":"ping","id":-1}"#, None, "bad_request");
    check(r#"{"type":"ping","id":"x"}"#, None, "bad_request");
    check(&"[".repeat(60_000), None, "bad_request");
    check(&format!(r#"{{"a":{}"#, "[".repeat(60_000)), None, "bad_request");
    check(&format!(r#"{{"type":"{}"}}"#, "y".repeat(60_000)), None, "bad_request");
    post(&gateway, "a", "1");
    assert_eq!(peer.json()["offset"], 1);
}

#[test]
fn all_questions_of_one_burst_are_answered() {
    const COUNT: usize = 2300;
    let gateway = Gateway::start(&["--commands-per-second", "off"]);
    // More answers than may wait, and room for all of them in the peer's socket.
    let (mut peer, _) = Peer::connect_with_room(gateway.address, 200 * 1024).upgraded("/ws").welcomed();
    let ping = |id| masked(TEXT, format!(r#"{{"type":"ping","id":{id}}}"#).as_bytes());
    peer.send((0..COUNT).flat_map(ping).collect::<Vec<u8>>());
    for id in 0..COUNT {
        assert_eq!(peer.json()["id"], id, "in the order of the questions");
    }
}

#[test]
fn the_first_request_may_be_as_large_as_requests_get() {
    let gateway = Gateway::start(&[]);
    let topics: Vec<String> = (0..256).map(|number| format!("{number:a>200}")).collect();
    let wish = |topic: &String| json!({"topic": topic, "epoch": "k3x9", "offset": 1});
    let wishes: Vec<_> = topics.iter().map(wish).collect();
    let subscribe = json!({"type": "subscribe", "id": 1, "topics": wishes}).to_string();
    // It comes together with the handshake: the welcome still waits when it is answered.
    let mut peer = Peer::connect_with_room(gateway.address, 200 * 1024);
    let handshake = format!("GET /ws HTTP/1.1\r\n{HANDSHAKE}\r\n");
    peer.send([handshake.as_bytes(), &masked(TEXT, subscribe.as_bytes())].concat());
    assert_eq!(peer.answer().status, 101);
    let (mut peer, _) = peer.welcomed();
    let acknowledgement = peer.text();
    assert!(acknowledgement.len() > 64 * 1024, "longer than what may wait");
    assert_eq!(acknowledgement.matches(r#""recovered":false"#).count(), 256);
    post(&gateway, &topics[255], "1");
    assert_eq!(peer.json()["topic"], topics[255]);
}

fn handshake(gateway: &Gateway, subprotocols: &[&str]) -> Answer {
    let mut headers = String::new();
    for offered in subprotocols {
        headers.push_str(&format!("sec-websocket-protocol: {offered}\r\n"));
    }
    let mut peer = Peer::connect(gateway.address);
    peer.send(format!("GET /ws HTTP/1.1\r\n{HANDSHAKE}{headers}\r\n"));
    peer.answer()
}

#[test]
fn a_subprotocol_is_echoed_if_it_is_known_and_refused_if_none_is() {
    let gateway = Gateway::start(&[]);
    let check = |offered: &[&str], echoed: Option<&str>| {
        let answer = handshake(&gateway, offered);
        assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, echoed), "{offered:?}");
        assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(answer.header("sec-websocket-extensions"), None);
    };
    check(&[], None);
    check(&["fanfare.v1.json"], Some("fanfare.v1.json"));
    check(&["mqtt, fanfare.v1.json"], Some("fanfare.v1.json"));
    check(&["mqtt", "fanfare.v1.json"], Some("fanfare.v1.json"));
    check(&["fanfare.v1.json,fanfare.bearer.abc"], Some("fanfare.v1.json"));
    for offered in ["mqtt", "fanfare.v2.json", "FANFARE.V1.JSON"] {
        let refused = handshake(&gateway, &[offered]);
        assert_eq!((refused.status, refused.error_code().as_str()), (400, "bad_request"), "{offered}");
        assert!(refused.text().contains("fanfare.v1.json"), "{refused:?}");
    }
    let plain = request(gateway.address, "GET", "/ws", &[], "");
    assert_eq!(plain.status, 426, "{plain:?}");
}

#[test]
fn a_message_in_fragments_is_one_message() {
    let gateway = Gateway::start(&[]);
    let (mut peer, _) = Peer::native(gateway.address);
    let text = r#"{"type":"ping","id":77}"#.as_bytes();
    peer.send(masked(TEXT & MORE, &text[..5]));
    peer.send(masked(PING, b"between"));
    peer.send(masked(MORE & 0x80, b""));
    peer.send(masked(MORE & 0x80, &text[5..9]));
    peer.send(masked(0x80, &text[9..]));
    let pong = peer.frame();
    assert_eq!((pong.first, &*pong.payload), (PONG, &b"between"[..]));
    assert_eq!(peer.json()["id"], 77);
}

#[test]
fn a_close_frame_is_answered_with_its_own_code() {
    let gateway = Gateway::start(&[]);
    let check = |payload: &[u8], expect: &[u8]| {
        let (mut peer, _) = Peer::subscribed(gateway.address, &["a"]);
        peer.send([masked(CLOSE, payload), masked(TEXT, b"never read")].concat());
        let frame = peer.frame();
        assert_eq!((frame.first, &frame.payload[..]), (CLOSE, expect), "{payload:?}");
        assert_eq!(peer.next(), None, "nothing comes behind it");
    };
    check(b"", b"");
    check(b"\x03\xe8", b"\x03\xe8");
    check(b"\x03\xe9bye", b"\x03\xe9");
    check(&4999u16.to_be_bytes(), &4999u16.to_be_bytes());
    until_metric(&gateway, r#"fanfare_connections{transport="json"}"#, |open| open == 0.0);
    assert_eq!(closes(&gateway, "peer_closed"), 4.0);
    assert_eq!(metric(&gateway, "fanfare_topics"), 0.0);
}

#[test]
fn a_binary_frame_is_not_a_command() {
    let gateway = Gateway::start(&[]);
    let (mut peer, _) = Peer::native(gateway.address);
    peer.send(masked(BINARY, br#"{"type":"ping"}"#));
    assert_eq!(peer.close_code(), Some(1003));
    until_metric(&gateway, r#"fanfare_closes_total{reason="wrong_type"}"#, |count| count == 1.0);
}
