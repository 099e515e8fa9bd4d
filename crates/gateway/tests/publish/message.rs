//! One message: how it arrives, its place and its order, and that it can be asked for.

use serde_json::{Value, json};

use crate::JSON;
use crate::support::Gateway;
use crate::support::peer::{BINARY, Peer, TEXT, publish, request, request_text};

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
