//! Publishing over HTTP: what is taken, what is refused and how, and who gets it in which order.

mod support;

use std::io::Write;

use serde_json::{Value, json};
use support::Gateway;
use support::metrics::{metric, until_metric};
use support::peer::{Answer, BINARY, Peer, TEXT, chunk, publish, request, request_text};

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// Posts to `/publish`.
fn publish_many(gateway: &Gateway, content_type: &str, body: &str) -> Answer {
    request(gateway.address, "POST", "/publish", &[("content-type", content_type)], body)
}

/// The head of a publish stream.
fn open_stream(gateway: &Gateway, more_headers: &str) -> Peer {
    let mut stream = Peer::connect(gateway.address);
    stream.send(format!(
        "POST /publish HTTP/1.1\r\nhost: fanfare\r\ncontent-type: {NDJSON}\r\n\
         transfer-encoding: chunked\r\n{more_headers}\r\n"
    ));
    stream
}

/// Checks that the next message of `topic` would be its first one.
fn assert_nothing_was_published(gateway: &Gateway, topic: &str) {
    let answer = publish(gateway.address, topic, JSON, "0");
    assert_eq!(answer.json()["offset"], 1, "{answer:?}");
}

#[test]
fn a_publish_is_answered_with_its_place() {
    let gateway = Gateway::start(&[]);
    let first = publish(gateway.address, "ticker.BTC-USD", JSON, r#"{"bid":"64000.10"}"#);
    assert_eq!((first.status, first.header("content-type")), (200, Some(JSON)));
    let epoch = first.json()["epoch"].as_str().expect("an epoch is a string").to_owned();
    assert_eq!(first.text(), format!(r#"{{"topic":"ticker.BTC-USD","epoch":"{epoch}","offset":1}}"#));
    let second = publish(gateway.address, "ticker.BTC-USD", JSON, r#"{"bid":"64000.20"}"#);
    assert_eq!(second.text(), format!(r#"{{"topic":"ticker.BTC-USD","epoch":"{epoch}","offset":2}}"#));
    let other = publish(gateway.address, "ticker.ETH-USD", JSON, "1").json();
    assert_eq!((&other["topic"], &other["offset"]), (&json!("ticker.ETH-USD"), &json!(1)));
    assert_ne!(other["epoch"], epoch, "each topic has a count of its own");
}

#[test]
fn the_content_type_decides_how_a_payload_arrives() {
    let gateway = Gateway::start(&[]);
    let mut raw = Peer::raw(gateway.address, "a");
    let (mut native, _) = Peer::subscribed(gateway.address, &["a"]);
    let mut offset = 0;
    let mut check = |content_type: Option<&str>, body: &[u8], first: u8, payload: &[u8], tail: &str| {
        let headers: Vec<_> = content_type.map(|name| ("content-type", name)).into_iter().collect();
        let answer = request(gateway.address, "POST", "/topics/a", &headers, body);
        assert_eq!(answer.status, 200, "{content_type:?} {body:?}: {answer:?}");
        offset += 1;
        let frame = raw.frame();
        assert_eq!((frame.first, &*frame.payload), (first, payload), "{content_type:?} {body:?}");
        let expect = format!(r#"{{"topic":"a","offset":{offset},{tail}}}"#);
        assert_eq!(native.text(), expect, "{content_type:?} {body:?}");
    };
    check(Some(JSON), br#"{"a": 1.10}"#, TEXT, br#"{"a": 1.10}"#, r#""data":{"a": 1.10}"#);
    check(Some(JSON), b"{\r\n\"a\":1}\n", TEXT, br#"{  "a":1} "#, r#""data":{  "a":1} "#);
    check(Some(JSON), br#""a\r\nb""#, TEXT, br#""a\r\nb""#, r#""data":"a\r\nb""#);
    check(Some("Application/Json; charset=utf-8"), b"null", TEXT, b"null", r#""data":null"#);
    check(Some("application/geo+json"), b"[1e400]", TEXT, b"[1e400]", r#""data":[1e400]"#);
    check(Some("text/plain"), b"a\r\n\"b\"", TEXT, b"a\r\n\"b\"", r#""data":"a\r\n\"b\"""#);
    check(Some("text/plain"), "ü\u{2028}".as_bytes(), TEXT, "ü\u{2028}".as_bytes(), "\"data\":\"ü\u{2028}\"");
    check(Some("text/plain"), b"\n\ndata: x\0", TEXT, b"\n\ndata: x\0", r#""data":"\n\ndata: x\u0000""#);
    check(Some("application/octet-stream"), b"abc", BINARY, b"abc", r#""data64":"YWJj""#);
    check(Some("application/octet-stream"), b"", BINARY, b"", r#""data64":"""#);
    check(Some("image/png"), b"\x89PNG", BINARY, b"\x89PNG", r#""data64":"iVBORw==""#);
    check(Some("image/svg"), b"<svg/>", TEXT, b"<svg/>", r#""data":"<svg/>""#);
    check(None, b"abc", TEXT, b"abc", r#""data":"abc""#);
    check(None, b"{}", TEXT, b"{}", r#""data":"{}""#);
    check(None, b"", TEXT, b"", r#""data":"""#);
    check(None, b"\xff\0\n", BINARY, b"\xff\0\n", r#""data64":"/wAK""#);
}

#[test]
fn an_event_name_goes_with_its_message() {
    let gateway = Gateway::start(&[]);
    let (mut native, _) = Peer::subscribed(gateway.address, &["a"]);
    let headers = [("content-type", JSON), ("fanfare-event", "tick \"1\""), ("fanfare-key", "BTC")];
    assert_eq!(request(gateway.address, "POST", "/topics/a", &headers, "1").status, 200);
    assert_eq!(native.text(), r#"{"topic":"a","offset":1,"event":"tick \"1\"","data":1}"#);
}

#[test]
fn a_refused_request_has_a_status_a_code_and_words_and_publishes_nothing() {
    let gateway = Gateway::start(&[
        "--message-bytes",
        "1KiB",
        "--body-bytes",
        "4KiB",
        "--body-messages",
        "10",
        "--inbox-messages",
        "100",
    ]);
    let check =
        |method: &str, target: &str, headers: &[(&str, &str)], body: &[u8], status: u16, code: &str| {
            let answer = request(gateway.address, method, target, headers, body);
            assert_eq!(answer.status, status, "{method} {target} {headers:?}: {answer:?}");
            assert_eq!(answer.header("content-type"), Some(JSON), "{answer:?}");
            assert_eq!(answer.error_code(), code, "{method} {target} {headers:?}: {answer:?}");
            answer
        };
    let json = &[("content-type", JSON)];
    let ndjson = &[("content-type", NDJSON)];
    let text = &[("content-type", "text/plain")];

    check("POST", "/topics/a", json, b"{\"a\":", 400, "bad_request");
    check("POST", "/topics/a", json, b"", 400, "bad_request");
    check("POST", "/topics/a", json, b"1 2", 400, "bad_request");
    check("POST", "/topics/a", json, b"\"\xff\"", 400, "bad_request");
    check("POST", "/topics/a", json, "[".repeat(1000).as_bytes(), 400, "bad_request");
    check("POST", "/topics/a", &[("content-type", "application/geo+json")], b"x", 400, "bad_request");
    check("POST", "/topics/a", text, b"\xff", 400, "bad_request");
    check("POST", "/topics/a?split=words", text, b"x", 400, "bad_request");
    check("POST", "/topics/a?split=lines", text, b"\n\r\n", 400, "bad_request");
    check("POST", "/topics/a", &[("fanfare-event", "")], b"x", 400, "bad_request");
    check("POST", "/topics/a", &[("fanfare-event", "a\tb")], b"x", 400, "bad_request");
    check("POST", "/topics/a", &[("fanfare-event", &"e".repeat(101))], b"x", 400, "bad_request");
    check("POST", "/topics/a", &[("fanfare-key", &"k".repeat(201))], b"x", 400, "bad_request");
    check("POST", "/topics/a", &[("idempotency-key", "")], b"x", 400, "bad_request");
    check("POST", "/topics/a", &[("idempotency-key", &"k".repeat(257))], b"x", 400, "bad_request");
    check("POST", "/publish", json, b"[", 400, "bad_request");
    check("POST", "/publish", json, b"\xff", 400, "bad_request");

    let long = format!("/topics/{}", "a".repeat(201));
    for target in [&long, "/topics/", "/topics/a..b", "/topics/.a", "/topics/a%20b", "/topics/a/b"] {
        check("POST", target, text, b"x", 400, "bad_topic");
    }
    for target in
        ["/topics/$sys.a", "/topics/a.*", "/topics/%3E", "/topics/a%2Fb", "/topics/%FF", "/topics/a%00"]
    {
        check("POST", target, text, b"x", 400, "bad_topic");
    }

    check("GET", "/topics/a", &[], b"", 404, "not_found");
    check("GET", "/nowhere", &[], b"", 404, "not_found");
    check("POST", "/", &[], b"", 404, "not_found");
    check("GET", "/metrics", &[], b"", 404, "not_found");
    let answer = check("PUT", "/topics/a", text, b"x", 405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("GET, HEAD, POST"));
    let answer = check("GET", "/publish", &[], b"", 405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("POST"));
    let answer = check("POST", "/healthz", &[], b"", 405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("GET, HEAD"));

    check("POST", "/topics/a", text, &[b'x'; 1025], 413, "too_large");
    check("POST", "/topics/a", text, &[b'x'; 4097], 413, "too_large");
    check("POST", "/topics/a?split=lines", text, "x\n".repeat(11).as_bytes(), 413, "too_large");
    check("POST", "/topics/a?split=lines", text, &[&b"x\n"[..], &[b'y'; 1025]].concat(), 413, "too_large");
    check("POST", "/publish", ndjson, "{}\n".repeat(11).as_bytes(), 413, "too_large");
    check("POST", "/publish", json, format!("[{}1]", "1,".repeat(10)).as_bytes(), 413, "too_large");

    check("POST", "/publish", text, b"{}", 415, "unsupported_media_type");
    check("POST", "/publish", &[], b"{}", 415, "unsupported_media_type");
    let gzip = &[("content-type", JSON), ("content-encoding", "gzip")];
    check("POST", "/topics/a", gzip, b"1", 415, "unsupported_media_type");
    check("POST", "/publish", gzip, b"1", 415, "unsupported_media_type");

    let answer = request(gateway.address, "POST", "/topics/b", text, [b'x'; 1024]);
    assert_eq!(answer.status, 200, "just the longest message");
    let identity = &[("content-type", JSON), ("content-encoding", "identity")];
    assert_eq!(request(gateway.address, "POST", "/topics/c", identity, "1").status, 200);
    assert_nothing_was_published(&gateway, "a");
}

#[test]
fn a_body_is_refused_before_it_is_read() {
    let gateway = Gateway::start(&[]);
    let mut patient = Peer::connect(gateway.address);
    patient.send("POST /topics/a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
    assert_eq!(patient.answer().status, 100);
    patient.send("abc");
    assert_eq!(patient.answer().status, 200);

    let mut greedy = Peer::connect(gateway.address);
    greedy.send(
        "POST /topics/a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1048577\r\n\r\n",
    );
    assert_eq!(greedy.answer().status, 413, "and no 100 before it");
    greedy.ended();

    let mut endless = Peer::connect(gateway.address);
    endless.send("POST /topics/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let piece = chunk([b'x'; 64 * 1024]);
    (0..32).for_each(|_| endless.send(&piece));
    let answer = endless.answer();
    assert_eq!((answer.status, answer.error_code().as_str()), (413, "too_large"));
    endless.ended();
}

#[test]
fn who_sends_a_refused_body_to_its_end_still_reads_why() {
    const LEN: usize = 8 * 1024 * 1024;
    let gateway = Gateway::start(&[]);
    for _ in 0..10 {
        let mut peer = Peer::connect(gateway.address);
        peer.send(request_text("POST", "/topics/a", &[], vec![b'x'; LEN]));
        let answer = peer.answer();
        assert_eq!((answer.status, answer.error_code().as_str()), (413, "too_large"));
        peer.ended();
    }
}

#[test]
fn a_slow_body_is_given_up() {
    let gateway = Gateway::start(&["--body-timeout", "300ms"]);
    let mut slow = Peer::connect(gateway.address);
    slow.send("POST /topics/a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf ");
    let answer = slow.answer();
    assert_eq!((answer.status, answer.error_code().as_str()), (408, "timeout"));
    slow.ended();
    assert_nothing_was_published(&gateway, "a");
}

#[test]
fn bodies_past_the_memory_for_all_are_told_to_come_back() {
    let gateway = Gateway::start(&["--body-bytes", "64KiB", "--inflight-body-bytes", "64KiB"]);
    let body = vec![b'x'; 60 * 1024];
    let text = request_text("POST", "/topics/a", &[("content-type", "text/plain")], &body);
    let (most, rest) = text.split_at(text.len() - 1);
    let mut first = Peer::connect(gateway.address);
    first.send(most);
    until_metric(&gateway, "fanfare_inflight_body_bytes", |bytes| bytes as usize == body.len() - 1);

    let refused = publish(gateway.address, "a", "text/plain", [b'y'; 10 * 1024]);
    assert_eq!((refused.status, refused.error_code().as_str()), (503, "unavailable"));
    refused.assert_retry_after();

    first.send(rest);
    assert_eq!(first.answer().json()["offset"], 1, "the one under way was not touched");
    until_metric(&gateway, "fanfare_inflight_body_bytes", |bytes| bytes == 0.0);
    assert_eq!(publish(gateway.address, "a", "text/plain", [b'y'; 10 * 1024]).json()["offset"], 2);
}

#[test]
fn a_topic_too_many_is_refused_and_the_others_go_on() {
    let gateway = Gateway::start(&["--topics", "2"]);
    assert_eq!(publish(gateway.address, "a", JSON, "1").status, 200);
    assert_eq!(publish(gateway.address, "b", JSON, "1").status, 200);
    let refused = publish(gateway.address, "c", JSON, "1");
    assert_eq!((refused.status, refused.error_code().as_str()), (503, "limit"));
    refused.assert_retry_after();
    assert_eq!(publish(gateway.address, "a", JSON, "2").json()["offset"], 2);
    assert_eq!(metric(&gateway, "fanfare_topics"), 2.0);
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
    // The worker that carries out a request empties its own inbox only afterwards: four of 1,000 bytes have room.
    let items: Vec<Value> =
        topics.chunks(4).map(|topics| json!({"topics": topics, "data": "x".repeat(998)})).collect();
    let answer = publish_many(&gateway, JSON, &Value::from(items).to_string()).json();
    assert_eq!(answer["errors"], true);
    let results = answer["results"].as_array().expect("results are a list");
    assert_eq!(results.len(), 12, "{answer}");
    for (result, topic) in results.iter().zip(&topics) {
        assert_eq!(result["topic"], *topic);
    }
    assert!(results[..4].iter().all(|result| result["offset"] == 1), "{answer}");
    assert!(results[4..].iter().all(|result| result["error"]["code"] == "unavailable"), "{answer}");

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

#[test]
fn a_repeated_key_gets_the_first_answer_and_publishes_nothing() {
    let gateway = Gateway::start(&[]);
    let (mut native, _) = Peer::subscribed(gateway.address, &["a", "b"]);
    let post = |target: &str, key: &str, content_type: &str, body: &str| {
        let headers = [("content-type", content_type), ("idempotency-key", key)];
        request(gateway.address, "POST", target, &headers, body)
    };
    let replayed = |answer: &Answer| answer.header("idempotent-replayed").map(str::to_owned);

    let refused = post("/topics/a", "7f3c", JSON, "{");
    assert_eq!(refused.status, 400, "a refused publish is not remembered");
    let first = post("/topics/a", "7f3c", JSON, "1");
    let again = post("/topics/a", "7f3c", JSON, "1");
    assert_eq!((first.status, replayed(&first)), (200, None));
    assert_eq!((again.status, replayed(&again).as_deref()), (200, Some("true")));
    assert_eq!(first.text(), again.text());
    let other = post("/topics/b", "7f3c", JSON, "1");
    assert_eq!(
        (other.json()["offset"].as_u64(), replayed(&other)),
        (Some(1), None),
        "another topic, another key"
    );

    let first = post("/topics/a?split=lines", "lines", "text/plain", "2\n3");
    let again = post("/topics/a?split=lines", "lines", "text/plain", "2\n3");
    assert_eq!((first.text(), replayed(&again).as_deref()), (again.text(), Some("true")));
    assert_eq!(again.json()["first"], 2);
    let other_body = post("/topics/a?split=lines", "lines", "text/plain", "2\n3\n4\n5");
    assert_eq!(other_body.text(), first.text(), "the answer is about what was published");

    let items = r#"[{"topic":"a","data":4,"id":"x"},{"topics":["a","b"],"data":5}]"#;
    let first = post("/publish", "many", JSON, items);
    let again = post("/publish", "many", JSON, items);
    assert_eq!((first.text(), replayed(&first)), (again.text(), None));
    assert_eq!(replayed(&again).as_deref(), Some("true"));
    let part = post("/publish", "other", JSON, items);
    assert_eq!(replayed(&part), None, "an answer that is new in part is no replay");
    assert_eq!(part.json()["results"][0], first.json()["results"][0], "the item's own id is older");

    let mut got: Vec<(String, u64)> = native
        .fence()
        .iter()
        .map(|message| (message["topic"].as_str().unwrap().to_owned(), message["offset"].as_u64().unwrap()))
        .collect();
    got.sort();
    let expect: Vec<_> = (1..=6).map(|offset| ("a".to_owned(), offset)).collect();
    assert_eq!(got[..6], expect, "each was delivered once");
    assert_eq!(got.len(), 6 + 3);
}

#[test]
fn two_equal_requests_at_once_publish_once() {
    let gateway = Gateway::start(&[]);
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let post = || {
            let headers = [("content-type", JSON), ("idempotency-key", "one")];
            request(gateway.address, "POST", "/topics/a", &headers, "1")
        };
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(post)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.json()["offset"] == 1));
    let new = answers.iter().filter(|answer| answer.header("idempotent-replayed").is_none()).count();
    assert_eq!(new, 1);
}

#[test]
fn a_publish_stream_delivers_lines_as_they_arrive_and_answers_at_its_end() {
    let gateway = Gateway::start(&[]);
    let (mut native, acknowledgement) = Peer::subscribed(gateway.address, &["a"]);
    let epoch = acknowledgement["topics"][0]["epoch"].as_str().unwrap();
    let mut stream = open_stream(&gateway, "");
    for number in 1..=3 {
        stream.send(chunk(format!("{{\"topic\":\"a\",\"data\":{number}}}\n")));
        assert_eq!(native.text(), format!(r#"{{"topic":"a","offset":{number},"data":{number}}}"#));
    }
    stream.send(chunk("{\"topic\":\"a\",\"da"));
    stream
        .send(chunk("ta\":4}\n\r\n  \n{\"topic\":\"a\",\"data\":5}\nnonsense\n{\"topic\":\"a\",\"data\":6}"));
    assert_eq!(native.text(), r#"{"topic":"a","offset":4,"data":4}"#);
    assert_eq!(native.text(), r#"{"topic":"a","offset":5,"data":5}"#);
    stream.send("0\r\n\r\n");
    assert_eq!(native.text(), r#"{"topic":"a","offset":6,"data":6}"#, "the last line needs no end");
    let answer = stream.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!((&answer["errors"], answer["results"].as_array().map(Vec::len)), (&json!(true), Some(7)));
    assert_eq!(answer["results"][0], json!({"topic": "a", "epoch": epoch, "offset": 1}));
    assert_eq!(answer["results"][5]["error"]["code"], "bad_request");
    assert_eq!(answer["results"][6]["offset"], 6);
    assert_eq!(stream.request("GET", "/healthz", &[], "").status, 200, "the connection goes on");
}

#[test]
fn a_key_of_a_publish_stream_stands_for_one_per_line() {
    let gateway = Gateway::start(&[]);
    let (mut native, _) = Peer::subscribed(gateway.address, &["a"]);
    for is_new in [true, false] {
        let mut stream = open_stream(&gateway, "idempotency-key: 7f3c\r\n");
        for number in 1..=3 {
            stream.send(chunk(format!("{{\"topic\":\"a\",\"data\":{number}}}\n")));
            if is_new {
                assert_eq!(native.text(), format!(r#"{{"topic":"a","offset":{number},"data":{number}}}"#));
            }
        }
        stream.send("0\r\n\r\n");
        let answer = stream.answer();
        let offsets: Vec<_> = answer.json()["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|result| result["offset"].clone())
            .collect();
        assert_eq!(offsets, [1, 2, 3]);
        assert_eq!(answer.header("idempotent-replayed").is_none(), is_new, "{answer:?}");
    }
    assert_eq!(native.fence(), [Value::Null; 0]);
}

#[test]
fn a_publish_stream_that_pauses_too_long_is_answered_with_what_it_had() {
    let gateway = Gateway::start(&["--stream-idle", "300ms"]);
    let mut stream = open_stream(&gateway, "");
    stream.send(chunk("{\"topic\":\"a\",\"data\":1}\n"));
    let answer = stream.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!((&answer["errors"], &answer["results"][0]["offset"]), (&json!(true), &json!(1)));
    assert_eq!(answer["results"][1]["error"]["code"], "timeout");
    stream.ended();
}

#[test]
fn a_line_of_a_publish_stream_has_a_bound() {
    let gateway = Gateway::start(&["--body-bytes", "64KiB"]);
    let mut stream = open_stream(&gateway, "");
    stream.send(chunk("{\"topic\":\"a\",\"data\":1}\n"));
    let piece = chunk([b'x'; 16 * 1024]);
    let mut sent = 0;
    while sent < 64 && stream.try_send(&piece) {
        sent += 1;
    }
    if let Some(answer) = stream.try_answer() {
        let answer = answer.json();
        assert_eq!(answer["results"][1]["error"]["code"], "too_large", "{answer}");
    }
    stream.ended();
    until_metric(&gateway, "fanfare_inflight_body_bytes", |bytes| bytes == 0.0);
    assert_eq!(publish(gateway.address, "a", JSON, "2").json()["offset"], 2, "what came before it stays");
}

#[test]
fn pipelined_posts_are_answered_in_order() {
    let gateway = Gateway::start(&[]);
    let mut peer = Peer::connect(gateway.address);
    let requests: Vec<u8> = (1..=200)
        .flat_map(|number: u32| {
            request_text("POST", "/topics/a", &[("content-type", JSON)], number.to_string())
        })
        .collect();
    peer.send(requests);
    for number in 1..=200 {
        let answer = peer.answer();
        assert_eq!((answer.status, answer.json()["offset"].as_u64()), (200, Some(number)));
    }
    let last = peer.request("GET", "/topics/a", &[], "");
    assert_eq!(last.text(), "200");
}

#[test]
fn a_topic_may_be_percent_encoded() {
    let gateway = Gateway::start(&[]);
    let (mut native, _) = Peer::subscribed(gateway.address, &["ticker.BTC-USD", "a@b,c;d:e!f=g_h-i"]);
    let check = |target: &str, topic: &str, offset: u64| {
        let answer = request(gateway.address, "POST", target, &[("content-type", JSON)], "1");
        let expect = (Some(topic), Some(offset));
        let answer = answer.json();
        assert_eq!((answer["topic"].as_str(), answer["offset"].as_u64()), expect, "{target}");
    };
    check("/topics/ticker.BTC-USD", "ticker.BTC-USD", 1);
    check("/topics/ticker%2EBTC%2DUSD", "ticker.BTC-USD", 2);
    check("/topics/%74icker.BTC-USD?x=1", "ticker.BTC-USD", 3);
    check("/topics/a@b,c;d:e!f=g_h-i", "a@b,c;d:e!f=g_h-i", 1);
    check("/topics/a%40b%2Cc%3Bd%3Ae%21f%3Dg%5Fh-i", "a@b,c;d:e!f=g_h-i", 2);
    assert_eq!(native.fence().len(), 5);
}

#[test]
fn the_last_value_can_be_asked_for() {
    let gateway = Gateway::start(&[]);
    let epoch =
        publish(gateway.address, "a", JSON, "{\"a\":\n1}").json()["epoch"].as_str().unwrap().to_owned();
    let get =
        |method: &str, headers: &[(&str, &str)]| request(gateway.address, method, "/topics/a", headers, "");
    let answer = get("GET", &[]);
    assert_eq!((answer.status, answer.text()), (200, r#"{"a": 1}"#));
    assert_eq!(answer.header("content-type"), Some(JSON));
    assert_eq!(answer.header("fanfare-offset"), Some("1"));
    let tag = format!("\"{epoch}:1\"");
    assert_eq!(answer.header("etag"), Some(tag.as_str()));
    assert_eq!(get("GET", &[("if-none-match", &tag)]).status, 304);
    assert_eq!(get("GET", &[("if-none-match", "\"x\", \"y\"")]).status, 200);
    let head = get("HEAD", &[]);
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("8"), 0));
    publish(gateway.address, "a", "application/octet-stream", b"\0\xff");
    let answer = get("GET", &[("if-none-match", &tag)]);
    assert_eq!((answer.status, &*answer.body), (200, &b"\0\xff"[..]));
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    publish(gateway.address, "a", "text/plain", "ü");
    assert_eq!(get("GET", &[]).header("content-type"), Some("text/plain; charset=utf-8"));
}

/// Publishes `{"p":…,"n":…}` for each `n`, one after the other's answer, and returns the offsets.
fn publish_in_turn(publisher: usize, count: u64, mut post: impl FnMut(String) -> Value) -> Vec<u64> {
    (0..count)
        .map(|number| {
            let answer = post(json!({"p": publisher, "n": number}).to_string());
            answer["offset"].as_u64().unwrap_or_else(|| panic!("{answer}"))
        })
        .collect()
}

#[test]
fn everyone_sees_one_order_whoever_publishes_where() {
    const EACH: u64 = 100;
    let gateway = Gateway::start(&[]);
    let mut subscribers: Vec<Peer> = Peer::on_each_worker(gateway.address, "a").into();
    subscribers.extend((2..8).map(|_| Peer::subscribed(gateway.address, &["a"]).0));
    let sockets = Peer::on_each_worker(gateway.address, "elsewhere");

    // Four publish over HTTP, wherever the kernel puts them; two over WebSockets, one on each worker.
    let offsets: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let http = (0..4).map(|publisher| {
            let mut peer = Peer::connect(gateway.address);
            scope.spawn(move || {
                publish_in_turn(publisher, EACH, |body| {
                    peer.request("POST", "/topics/a", &[("content-type", JSON)], body).json()
                })
            })
        });
        let mut threads: Vec<_> = http.collect();
        threads.extend((4..).zip(sockets).map(|(publisher, mut peer)| {
            scope.spawn(move || {
                publish_in_turn(publisher, EACH, |body| {
                    peer.say(&format!(r#"{{"type":"publish","topic":"a","data":{body}}}"#));
                    peer.json()
                })
            })
        }));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    let mut seen: Vec<Vec<String>> = Vec::new();
    for subscriber in &mut subscribers {
        seen.push((0..6 * EACH).map(|_| subscriber.text()).collect());
        assert_eq!(subscriber.fence(), [Value::Null; 0]);
    }
    assert!(seen.iter().all(|messages| *messages == seen[0]), "two saw different things");
    for (offset, message) in (1..).zip(&seen[0]) {
        let message: Value = serde_json::from_str(message).unwrap();
        assert_eq!(message["offset"], offset, "offsets are dense");
        let publisher = message["data"]["p"].as_u64().unwrap() as usize;
        let number = message["data"]["n"].as_u64().unwrap() as usize;
        assert_eq!(offsets[publisher][number], offset, "a message stands where its answer said");
    }
    assert!(offsets.iter().all(|offsets| offsets.is_sorted()), "a publisher's answers have its own order");
}

#[test]
fn a_publisher_that_vanishes_in_the_middle_of_a_body_publishes_nothing() {
    let gateway = Gateway::start(&[]);
    let mut peer = Peer::connect(gateway.address);
    peer.send("POST /topics/a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf ");
    until_metric(&gateway, "fanfare_inflight_body_bytes", |bytes| bytes == 5.0);
    peer.stream.flush().unwrap();
    drop(peer);
    until_metric(&gateway, "fanfare_inflight_body_bytes", |bytes| bytes == 0.0);
    assert_nothing_was_published(&gateway, "a");
}
