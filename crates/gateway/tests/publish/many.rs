//! Many messages in one request: lines of one topic, and items of many.

use serde_json::{Value, json};

use crate::support::Gateway;
use crate::support::peer::{Answer, Peer, publish, request, request_text};
use crate::{JSON, NDJSON};

/// Posts to `/publish`.
fn publish_many(gateway: &Gateway, content_type: &str, body: &str) -> Answer {
    request(gateway.address, "POST", "/publish", &[("content-type", content_type)], body)
}

#[test]
fn lines_are_messages_all_or_none() {
    let gateway = Gateway::start(&[]);
    let lines = |content_type: &str, body: &str| {
        let headers = [("content-type", content_type)];
        request(gateway.address, "POST", "/topics/a?split=lines", &headers, body)
    };
    let (mut native, _) = Peer::subscribed(gateway.address, &["a"]);
    let answer = lines("text/plain", "one\r\n\n two \nthree");
    assert_eq!(answer.status, 200, "{answer:?}");
    let epoch = answer.json()["epoch"].as_str().expect("an epoch is a string").to_owned();
    let expect = format!(r#"{{"topic":"a","epoch":"{epoch}","first":1,"offset":3,"count":3}}"#);
    assert_eq!(answer.text(), expect);
    for (offset, line) in [(1, "one"), (2, " two "), (3, "three")] {
        assert_eq!(native.text(), format!(r#"{{"topic":"a","offset":{offset},"data":"{line}"}}"#));
    }

    let refused = lines(NDJSON, "{\"n\":1}\n{\"n\":\n{\"n\":3}\n");
    assert_eq!((refused.status, refused.error_code().as_str()), (400, "bad_request"));
    assert!(refused.text().contains("line 2"), "{refused:?}");

    let answer = lines(NDJSON, "{\"n\":1}\n{\"n\":2}\n");
    let expect = format!(r#"{{"topic":"a","epoch":"{epoch}","first":4,"offset":5,"count":2}}"#);
    assert_eq!(answer.text(), expect, "none of the refused lines took a place");
    assert_eq!(native.text(), r#"{"topic":"a","offset":4,"data":{"n":1}}"#);
    assert_eq!(native.text(), r#"{"topic":"a","offset":5,"data":{"n":2}}"#);
    assert_eq!(lines("application/octet-stream", "a\nb").status, 200);
    assert_eq!(native.text(), r#"{"topic":"a","offset":6,"data64":"YQ=="}"#);
    assert_eq!(native.text(), r#"{"topic":"a","offset":7,"data64":"Yg=="}"#);
}

#[test]
fn many_messages_go_to_many_topics_in_one_request() {
    let gateway = Gateway::start(&[]);
    let (mut native, acknowledgement) =
        Peer::subscribed(gateway.address, &["ticker.BTC-USD", "ticker.ETH-USD", "a", "b"]);
    let epochs: Vec<&str> = acknowledgement["topics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|topic| topic["epoch"].as_str().unwrap())
        .collect();
    let [btc, eth, a, b] = epochs[..] else { panic!("{acknowledgement}") };
    let body = "{\"topic\":\"ticker.BTC-USD\",\"data\":{\"bid\":\"64000.10\"}}\n\
        {\"topic\":\"ticker.ETH-USD\",\"data\":{\"bid\":\"3100.00\"},\"key\":\"ETH\",\"event\":\"ticker\",\"id\":\"dedupe-2\"}\r\n\
        \n\
        {\"topics\":[\"a\",\"b\"],\"data\": {\"x\": 1.0 } }\n\
        {\"topic\":\"a\",\"data64\":\"AP8=\",\"later\":[1]}";
    let answer = publish_many(&gateway, NDJSON, body);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(JSON)));
    let expect = format!(
        "{{\"errors\":false,\"results\":[\
         {{\"topic\":\"ticker.BTC-USD\",\"epoch\":\"{btc}\",\"offset\":1}},\
         {{\"topic\":\"ticker.ETH-USD\",\"epoch\":\"{eth}\",\"offset\":1}},\
         {{\"topic\":\"a\",\"epoch\":\"{a}\",\"offset\":1}},\
         {{\"topic\":\"b\",\"epoch\":\"{b}\",\"offset\":1}},\
         {{\"topic\":\"a\",\"epoch\":\"{a}\",\"offset\":2}}]}}"
    );
    assert_eq!(answer.text(), expect);
    let mut got: Vec<String> = (0..5).map(|_| native.text()).collect();
    // Between topics there is no order; the two of `a` are in theirs.
    got.sort();
    assert_eq!(
        got,
        [
            r#"{"topic":"a","offset":1,"data":{"x": 1.0 }}"#,
            r#"{"topic":"a","offset":2,"data64":"AP8="}"#,
            r#"{"topic":"b","offset":1,"data":{"x": 1.0 }}"#,
            r#"{"topic":"ticker.BTC-USD","offset":1,"data":{"bid":"64000.10"}}"#,
            r#"{"topic":"ticker.ETH-USD","offset":1,"event":"ticker","data":{"bid":"3100.00"}}"#,
        ]
    );

    let array = publish_many(&gateway, JSON, r#"[{"topic":"a","data":3}, {"topic":"b","data":null}]"#).json();
    assert_eq!((&array["results"][0]["offset"], &array["results"][1]["offset"]), (&json!(3), &json!(2)));
    let single = publish_many(&gateway, JSON, r#"{"topic":"a","data":4}"#);
    assert_eq!(
        single.text(),
        format!(r#"{{"errors":false,"results":[{{"topic":"a","epoch":"{a}","offset":4}}]}}"#)
    );
    assert_eq!(publish_many(&gateway, JSON, "[]").text(), r#"{"errors":false,"results":[]}"#);
}

#[test]
fn a_bad_item_does_not_spoil_the_others() {
    let gateway = Gateway::start(&["--message-bytes", "1KiB"]);
    let (mut native, _) = Peer::subscribed(gateway.address, &["a"]);
    let items = [
        r#"{"topic":"a","data":1}"#,
        r#"{"topic":"bad topic","data":1}"#,
        "not JSON",
        r#"{"topics":["a","a..b"],"data":2}"#,
        r#"{"topic":"a"}"#,
        r#"{"topic":"a","data64":"?"}"#,
        r#"{"data":1}"#,
        &format!(r#"{{"topic":"a","data":"{}"}}"#, "x".repeat(1024)),
        r#"{"topic":"a","data":1,"event":""}"#,
        r#"{"topic":"a","data":1,"id":""}"#,
        r#"["a",null,1]"#,
        r#"{"topic":"a","data":3}"#,
    ];
    let expect: [(Option<&str>, Result<u64, &str>); 13] = [
        (Some("a"), Ok(1)),
        (Some("bad topic"), Err("bad_topic")),
        (None, Err("bad_request")),
        (Some("a"), Ok(2)),
        (Some("a..b"), Err("bad_topic")),
        (None, Err("bad_request")),
        (None, Err("bad_request")),
        (None, Err("bad_request")),
        (Some("a"), Err("too_large")),
        (None, Err("bad_request")),
        (Some("a"), Err("bad_request")),
        (None, Err("bad_request")),
        (Some("a"), Ok(3)),
    ];
    let answer = publish_many(&gateway, NDJSON, &items.join("\n"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!(answer["errors"], true);
    let results = answer["results"].as_array().expect("results are a list");
    assert_eq!(results.len(), expect.len(), "{answer}");
    for (result, (topic, expect)) in results.iter().zip(expect) {
        assert_eq!(result["topic"].as_str(), topic, "{result}");
        match expect {
            Ok(offset) => assert_eq!(result["offset"], offset, "{result}"),
            Err(code) => {
                assert_eq!(result["error"]["code"], code, "{result}");
                assert!(result["error"]["message"].is_string() && result["offset"].is_null(), "{result}");
            }
        }
    }
    for offset in 1..=3 {
        assert_eq!(native.text(), format!(r#"{{"topic":"a","offset":{offset},"data":{offset}}}"#));
    }
}

#[test]
fn what_a_full_inbox_refuses_surely_was_not_published() {
    let gateway =
        Gateway::start(&["--message-bytes", "1KiB", "--body-bytes", "4KiB", "--inbox-bytes", "4KiB"]);
    let topics: Vec<String> = (1..=12).map(|number| format!("t{number}")).collect();
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut subscribers = Peer::on_each_worker(gateway.address, "t1");
    for subscriber in &mut subscribers {
        subscriber.subscribe(&names[1..]);
    }
    // The worker that carries out requests that came together empties its own inbox only afterwards: four of 1,000 bytes
    // have room.
    let requests = topics.chunks(4).flat_map(|topics| {
        let item = json!({"topics": topics, "data": "x".repeat(998)}).to_string();
        request_text("POST", "/publish", &[("content-type", JSON)], &item)
    });
    let mut publisher = Peer::connect(gateway.address);
    publisher.send(requests.collect::<Vec<u8>>());
    let answers: Vec<Value> = (0..3).map(|_| publisher.answer().json()).collect();
    assert_eq!(answers.iter().map(|answer| &answer["errors"]).collect::<Vec<_>>(), [false, true, true]);
    let results: Vec<&Value> =
        answers.iter().flat_map(|answer| answer["results"].as_array().unwrap()).collect();
    assert_eq!(results.len(), 12, "{answers:?}");
    for (result, topic) in results.iter().zip(&topics) {
        assert_eq!(result["topic"], *topic);
    }
    assert!(results[..4].iter().all(|result| result["offset"] == 1), "{answers:?}");
    assert!(results[4..].iter().all(|result| result["error"]["code"] == "unavailable"), "{answers:?}");

    // They are published when tried again: as the first of their topics.
    for topic in &topics[4..] {
        assert_eq!(publish(gateway.address, topic, JSON, "1").json()["offset"], 1);
    }
    for mut subscriber in subscribers {
        let mut got: Vec<String> =
            (0..12).map(|_| subscriber.json()["topic"].as_str().unwrap().to_owned()).collect();
        got.sort();
        let mut expect = topics.clone();
        expect.sort();
        assert_eq!(got, expect);
        assert_eq!(subscriber.fence(), [Value::Null; 0], "each came once");
    }
}
