//! Polling: cursors that miss nothing, waits that end, and what can be asked about topics.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use serde_json::{Value, json};
use support::Gateway;
use support::config_file::ConfigFile;
use support::metrics::{metric, until_metric};
use support::peer::{Answer, Peer, publish, request, request_text};

fn post(gateway: &Gateway, topic: &str, body: &str) -> Value {
    let answer = publish(gateway.address, topic, "text/plain", body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn get(gateway: &Gateway, target: &str) -> Answer {
    request(gateway.address, "GET", target, &[], "")
}

fn poll(gateway: &Gateway, query: &str) -> Value {
    let answer = get(gateway, &format!("/poll?{query}"));
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

/// `topic offset` of each message.
fn places(answer: &Value) -> Vec<String> {
    let messages = answer["messages"].as_array().unwrap();
    let place = |message: &Value| format!("{} {}", message["topic"].as_str().unwrap(), message["offset"]);
    messages.iter().map(place).collect()
}

/// Says that something is over, however that came.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Sends a request and does not wait for its answer.
fn ask(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> Peer {
    let mut peer = Peer::connect(gateway.address);
    peer.send(request_text("GET", target, headers, ""));
    peer
}

/// Waits until so many polls wait.
fn until_waiting(gateway: &Gateway, count: f64) {
    until_metric(gateway, "fanfare_waiting_polls", |waiting| waiting == count);
}

fn assert_nobody_is_interested(gateway: &Gateway) {
    until_waiting(gateway, 0.0);
    for name in ["fanfare_subscribed_topics", "fanfare_subscribed_patterns", "fanfare_patterns"] {
        until_metric(gateway, name, |count| count == 0.0);
    }
}

#[test]
fn a_poll_that_waits_is_answered_with_what_it_waited_for() {
    let gateway = Gateway::start(&[]);
    let check = |query: &str, published: &str| {
        let before = poll(&gateway, query);
        let target = format!("/poll?{query}&wait=60&cursor={}", before["cursor"].as_str().unwrap());
        // Of so many, each worker has some, whichever it is published on.
        let mut polls: Vec<Peer> = (0..8).map(|_| ask(&gateway, &target, &[])).collect();
        until_waiting(&gateway, 8.0);
        if query != "topic=%3E" {
            post(&gateway, "nobody.asked", "x");
        }
        let offset = post(&gateway, published, "x")["offset"].clone();
        for poll in &mut polls {
            let answer = poll.answer().json();
            assert_eq!(answer["gap"], false, "{answer}");
            let expect = json!([{"topic": published, "offset": offset, "data": "x"}]);
            assert_eq!(answer["messages"], expect);
            assert_ne!(answer["cursor"], before["cursor"]);
        }
        assert_nobody_is_interested(&gateway);
    };
    check("topic=a", "a");
    check("topic=a&topic=b&topic=c", "b");
    check("topic=t.*", "t.born");
    check("topic=t.*", "t.born");
    check("topic=t.%3E&topic=t.*&topic=t.other", "t.other");
    check("topic=%3E", "t.born");
    assert_eq!(metric(&gateway, "fanfare_topics"), 5.0);
}

#[test]
fn without_a_cursor_there_are_the_last_values_and_a_cursor() {
    let gateway = Gateway::start(&[]);
    let empty = poll(&gateway, "topic=a&wait=60");
    assert_eq!((&empty["gap"], &empty["messages"]), (&json!(false), &json!([])), "at once");
    for topic in ["a", "b", "a", "t.x", "b"] {
        post(&gateway, topic, "x");
    }
    assert_eq!(places(&poll(&gateway, "topic=a&topic=b&topic=none")), ["a 2", "b 2"]);
    assert_eq!(places(&poll(&gateway, "topic=%3E&wait=60")), ["a 2", "t.x 1", "b 2"]);
    assert_eq!(places(&poll(&gateway, "topic=a&topic=a&topic=*&cursor=")), ["a 2", "b 2"]);
    let since = format!("topic=%3E&cursor={}", empty["cursor"].as_str().unwrap());
    assert_eq!(places(&poll(&gateway, &since)), ["a 1", "b 1", "a 2", "t.x 1", "b 2"]);
}

#[test]
fn an_answer_has_no_more_messages_than_asked_for_and_the_next_goes_on_there() {
    let gateway = Gateway::start(&["--poll-messages", "5"]);
    let mut cursor = poll(&gateway, "topic=%3E")["cursor"].as_str().unwrap().to_owned();
    for number in 0..12 {
        post(&gateway, ["a", "b", "t.c"][number % 3], "x");
    }
    let mut got = Vec::new();
    for (max, expect) in [(1, 1), (2, 2), (5, 5), (1_000_000, 4), (5, 0)] {
        let answer = poll(&gateway, &format!("topic=%3E&max={max}&cursor={cursor}"));
        assert_eq!(places(&answer).len(), expect, "{answer}");
        got.extend(places(&answer));
        answer["cursor"].as_str().unwrap().clone_into(&mut cursor);
    }
    let expect: Vec<String> =
        (0..12).map(|number| format!("{} {}", ["a", "b", "t.c"][number % 3], number / 3 + 1)).collect();
    assert_eq!(got, expect);
    assert_eq!(places(&poll(&gateway, "topic=%3E&max=2")), ["b 4", "t.c 4"], "the newest of the last values");
}

#[test]
fn a_cursor_that_is_no_place_is_refused_and_one_of_elsewhere_is_a_gap() {
    let gateway = Gateway::start(&["--replay-messages", "3"]);
    let epoch = poll(&gateway, "topic=a")["cursor"].as_str().unwrap().split_once(':').unwrap().0.to_owned();
    (0..10).for_each(|_| drop(post(&gateway, "a", "x")));
    for cursor in ["7", "E:", "E:-1", "E:+1", "E:1:2", "E:x", "E:99999999999999999999", "E:1%20", "E%00"] {
        let answer = get(&gateway, &format!("/poll?topic=a&cursor={}", cursor.replace('E', &epoch)));
        assert_eq!((answer.status, answer.error_code().as_str()), (400, "bad_request"), "{cursor}");
    }
    // Of another life, of the future, out of the ring: at once, however long it would wait.
    for cursor in [":0", "zzzzzzzz:5", "E:18446744073709551615", "E:11", "E:0", "E:6", "%00:5", "EE:8"] {
        let cursor = cursor.replace('E', &epoch);
        let answer = poll(&gateway, &format!("topic=a&wait=60&cursor={cursor}"));
        assert_eq!((&answer["gap"], places(&answer)), (&json!(true), vec!["a 10".to_owned()]), "{cursor}");
        let next = format!("topic=a&cursor={}", answer["cursor"].as_str().unwrap());
        assert_eq!(poll(&gateway, &next)["gap"], false, "the new cursor is good");
    }
    let answer = poll(&gateway, &format!("topic=a&cursor={epoch}:7"));
    assert_eq!((&answer["gap"], places(&answer).len()), (&json!(false), 3), "the ring's own");
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    let gateway = Gateway::start(&["--subscriptions", "3", "--wildcard-topics", "4"]);
    let check = |target: &str, code: &str| {
        let answer = get(&gateway, target);
        assert_eq!((answer.status, answer.error_code().as_str()), (400, code), "{target}: {answer:?}");
    };
    check("/poll", "bad_request");
    check("/poll?cursor=a:1&wait=1", "bad_request");
    check("/poll?topic=", "bad_topic");
    for bad in ["a..b", "a%20b", "$sys.load", "a*", "%3E.a", "%ff", &"x".repeat(201)] {
        check(&format!("/poll?topic=good&topic={bad}"), "bad_topic");
    }
    for bad in ["max=0", "max=-1", "max=x", "max=", "max=1.5", "wait=-1", "wait=soon", "wait=", "wait=1.5"] {
        check(&format!("/poll?topic=a&{bad}"), "bad_request");
    }
    check("/poll?topic=a&topic=b&topic=c&topic=d", "limit");
    for number in 0..5 {
        post(&gateway, &format!("t.{number}"), "x");
    }
    check("/poll?topic=t.*", "limit");
    check("/topics/a?wait=-1", "bad_request");
    check("/topics/a?wait=x", "bad_request");
    for bad in ["max=0", "max=x", "after=a..b", "after=$", "after=*"] {
        let code = if bad.starts_with("max") { "bad_request" } else { "bad_topic" };
        check(&format!("/topics?{bad}"), code);
    }
    check("/topics?match=a..b", "bad_topic");
    for (target, allowed) in [("/poll?topic=a", "GET"), ("/events?topic=a", "GET"), ("/topics", "GET, HEAD")]
    {
        for method in ["HEAD", "POST", "PUT", "DELETE"] {
            let answer = request(gateway.address, method, target, &[], "");
            if method == "HEAD" && allowed.contains("HEAD") {
                assert_eq!(answer.status, 200);
                continue;
            }
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{method} {target}");
        }
    }
    assert_nobody_is_interested(&gateway);
}

#[test]
fn waiting_ends_at_its_bound_without_news() {
    // However long is asked for.
    let gateway = Gateway::start(&["--poll-wait", "100ms"]);
    let tag = format!("\"{}:1\"", post(&gateway, "a", "x")["epoch"].as_str().unwrap());
    let before = poll(&gateway, "topic=a&topic=t.*");
    let target =
        format!("topic=a&topic=t.*&wait=18446744073709551615&cursor={}", before["cursor"].as_str().unwrap());
    assert_eq!(poll(&gateway, &target), json!({"cursor": before["cursor"], "gap": false, "messages": []}));
    let answer = request(gateway.address, "GET", "/topics/a?wait=60", &[("if-none-match", &tag)], "");
    assert_eq!((answer.status, answer.header("etag")), (304, Some(&*tag)), "{answer:?}");
    assert_eq!(get(&gateway, "/topics/none?wait=60").status, 404);
    // Others move the cursor of who waits in vain.
    let peer = ask(&gateway, &format!("/poll?{target}"), &[]);
    let mut peer = peer;
    post(&gateway, "other", "x");
    assert_eq!(peer.answer().json()["messages"], json!([]));
    assert_nobody_is_interested(&gateway);
    assert_eq!(metric(&gateway, "fanfare_topics"), 2.0);
}

#[test]
fn the_newest_value_can_be_waited_for() {
    let gateway = Gateway::start(&[]);
    let mut first = ask(&gateway, "/topics/a?wait=60", &[]);
    until_waiting(&gateway, 1.0);
    let epoch = post(&gateway, "a", "one")["epoch"].as_str().unwrap().to_owned();
    let answer = first.answer();
    let tag = format!("\"{epoch}:1\"");
    assert_eq!((answer.status, answer.text(), answer.header("etag")), (200, "one", Some(&*tag)));
    // Known values wait, unknown ones do not.
    let mut second = ask(&gateway, "/topics/a?wait=60", &[("if-none-match", &format!("\"x\", {tag}"))]);
    until_waiting(&gateway, 1.0);
    assert_eq!(get(&gateway, "/topics/a?wait=60").text(), "one");
    // What compresses on the way has made it weak.
    let mut third = ask(&gateway, "/topics/a?wait=60", &[("if-none-match", &format!("W/\"x\", W/{tag}"))]);
    until_waiting(&gateway, 2.0);
    for known in [format!("W/{tag}"), "*".to_owned()] {
        let answer = request(gateway.address, "GET", "/topics/a", &[("if-none-match", &known)], "");
        assert_eq!((answer.status, answer.header("etag")), (304, Some(&*tag)), "{known}");
    }
    post(&gateway, "a", "two");
    assert_eq!((second.answer().text(), third.answer().text()), ("two", "two"));
    let answer = request(gateway.address, "GET", "/topics/a?wait=60", &[("if-none-match", &tag)], "");
    assert_eq!((answer.status, answer.text()), (200, "two"));
    let answer = request(gateway.address, "HEAD", "/topics/a", &[], "");
    assert_eq!((answer.status, answer.header("fanfare-offset")), (200, Some("2")));
    assert_nobody_is_interested(&gateway);
}

#[test]
fn who_goes_while_waiting_leaves_nothing_behind() {
    let gateway = Gateway::start(&[]);
    let cursor = poll(&gateway, "topic=a")["cursor"].as_str().unwrap().to_owned();
    let polls: Vec<Peer> = (0..20)
        .map(|number| {
            let target =
                format!("/poll?topic=a.{number}&topic=a.*&topic={number}.%3E&cursor={cursor}&wait=60");
            ask(&gateway, &target, &[])
        })
        .chain((0..5).map(|number| ask(&gateway, &format!("/topics/b.{number}?wait=60"), &[])))
        .collect();
    until_waiting(&gateway, 25.0);
    assert_eq!(metric(&gateway, "fanfare_patterns"), 21.0);
    assert_eq!(metric(&gateway, "fanfare_topics"), 25.0);
    drop(polls);
    assert_nobody_is_interested(&gateway);
    assert_eq!(metric(&gateway, "fanfare_topics"), 0.0);
    until_metric(&gateway, r#"fanfare_connections{transport="http"}"#, |open| open == 0.0);
}

#[test]
fn a_drain_answers_those_who_wait() {
    let args = ["--drain-grace", "10ms", "--drain-window", "10ms", "--drain-timeout", "20s"];
    let mut gateway = Gateway::start(&args);
    let tag = format!("\"{}:1\"", post(&gateway, "a", "x")["epoch"].as_str().unwrap());
    let cursor = poll(&gateway, "topic=a")["cursor"].as_str().unwrap().to_owned();
    let mut polls: Vec<Peer> =
        (0..6).map(|_| ask(&gateway, &format!("/poll?topic=a&wait=60&cursor={cursor}"), &[])).collect();
    let mut newest = ask(&gateway, "/topics/a?wait=60", &[("if-none-match", &tag)]);
    until_waiting(&gateway, 7.0);
    gateway.signal("TERM");
    for poll in &mut polls {
        let answer = poll.answer().json();
        assert_eq!(answer, json!({"cursor": cursor, "gap": false, "messages": []}));
        poll.ended();
    }
    assert_eq!(newest.answer().status, 304);
    newest.ended();
    assert!(gateway.wait().success());
}

#[test]
fn cursors_miss_nothing_while_many_publish() {
    const EACH: u64 = 400;
    let gateway = Gateway::start(&["--replay-messages", "100000"]);
    let start = poll(&gateway, "topic=%3E")["cursor"].as_str().unwrap().to_owned();
    let follow = |query: &str, topics: &[&str]| {
        let mut peer = Peer::connect(gateway.address);
        let (mut cursor, mut last) = (start.clone(), BTreeMap::<String, u64>::new());
        while topics.iter().any(|topic| last.get(*topic) != Some(&(2 * EACH))) {
            let target = format!("/poll?{query}&wait=60&max=7&cursor={cursor}");
            let answer = peer.request("GET", &target, &[], "").json();
            assert_eq!(answer["gap"], false, "{answer}");
            let messages = answer["messages"].as_array().unwrap();
            assert!(!messages.is_empty(), "it waited in vain: {last:?}");
            for message in messages {
                let last = last.entry(message["topic"].as_str().unwrap().to_owned()).or_default();
                assert_eq!(message["offset"], *last + 1, "{message}");
                *last += 1;
            }
            answer["cursor"].as_str().unwrap().clone_into(&mut cursor);
        }
        assert_eq!(last.keys().map(String::as_str).collect::<Vec<_>>(), topics);
    };
    thread::scope(|scope| {
        for (query, topics) in [
            ("topic=%3E", &["t.a", "t.b", "t.c"][..]),
            ("topic=t.a&topic=t.c", &["t.a", "t.c"]),
            ("topic=t.*&topic=t.b", &["t.a", "t.b", "t.c"]),
        ] {
            scope.spawn(move || follow(query, topics));
        }
        for publisher in 0..6 {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut peer = Peer::connect(gateway.address);
                let target = ["/topics/t.a", "/topics/t.b", "/topics/t.c"][publisher % 3];
                for _ in 0..EACH {
                    assert_eq!(peer.request("POST", target, &[], "x").status, 200);
                }
            });
        }
    });
}

#[test]
fn a_waiting_poll_is_woken_however_busy_other_topics_are() {
    const ROUNDS: usize = 120;
    let gateway = Gateway::start(&[]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also when the test fails.
        let _end = End(&over);
        // One worker has numbers in hand most of the time.
        scope.spawn(|| {
            let mut peer = Peer::connect(gateway.address);
            let body = "x\n".repeat(10_000);
            while !over.load(Relaxed) {
                assert_eq!(peer.request("POST", "/topics/noise?split=lines", &[], &body).status, 200);
            }
        });
        // Of so many, some are on the other worker.
        let mut pairs: Vec<_> =
            (0..6).map(|_| [Peer::connect(gateway.address), Peer::connect(gateway.address)]).collect();
        let first = poll(&gateway, "topic=a");
        let mut cursor = first["cursor"].as_str().unwrap().to_owned();
        for round in 0..ROUNDS {
            let [publisher, poller] = &mut pairs[round % 6];
            poller.send(request_text("GET", &format!("/poll?topic=a&wait=60&cursor={cursor}"), &[], ""));
            assert_eq!(publisher.request("POST", "/topics/a", &[], "x").status, 200);
            // Who is not woken for this message is not woken for any: the test's patience is shorter than the wait.
            let answer = poller.answer().json();
            assert_eq!((&answer["gap"], places(&answer)), (&json!(false), vec![format!("a {}", round + 1)]));
            answer["cursor"].as_str().unwrap().clone_into(&mut cursor);
        }
    });
}

#[test]
fn the_list_of_topics_has_pages() {
    let gateway = Gateway::start(&["--list-topics", "7"]);
    assert_eq!(get(&gateway, "/topics").json(), json!({"topics": []}));
    // Names whose order by bytes is not that of their segments.
    let names =
        ["a", "a!b", "a-b", "a.b", "a.b.c", "a,b", "a.b-c", "A", "a:", "b", "a.!", "z.z", "a.b.c.d", "0"];
    let mut epochs = BTreeMap::new();
    for name in names {
        epochs.insert(name, post(&gateway, name, "x")["epoch"].clone());
    }
    for max in [1, 2, 3, 7, 100] {
        let (mut after, mut found) = (String::new(), Vec::new());
        loop {
            let page = get(&gateway, &format!("/topics?max={max}&after={after}")).json();
            let topics = page["topics"].as_array().unwrap();
            assert!(topics.len() <= max.min(7), "{page}");
            for topic in topics {
                let name = topic["topic"].as_str().unwrap().to_owned();
                assert_eq!(*topic, json!({"topic": name, "epoch": epochs[&*name], "offset": 1}));
                found.push(name);
            }
            let Some(next) = page["next"].as_str() else { break };
            next.clone_into(&mut after);
        }
        assert_eq!(found.len(), names.len(), "none twice, none left out: {max} {found:?}");
        assert_eq!(found.iter().map(String::as_str).collect::<BTreeSet<_>>(), names.into());
    }
    let page = get(&gateway, "/topics?match=a.*&max=2").json();
    assert_eq!(page["topics"].as_array().unwrap().len(), 2, "{page}");
    let page = get(&gateway, "/topics?match=a.b.%3E").json();
    let expect = json!([
        {"topic": "a.b.c", "epoch": epochs["a.b.c"], "offset": 1},
        {"topic": "a.b.c.d", "epoch": epochs["a.b.c.d"], "offset": 1},
    ]);
    assert_eq!(page, json!({"topics": expect}));
    assert_eq!(get(&gateway, "/topics?match=a.b").json()["topics"][0]["topic"], "a.b");
    // A name that is gone, or never was, is a place all the same.
    assert_eq!(get(&gateway, "/topics?after=y").json()["topics"][0]["topic"], "z.z");
    assert_eq!(get(&gateway, "/topics?after=zz").json(), json!({"topics": []}));
}

#[test]
fn a_topic_tells_about_itself() {
    let file = ConfigFile::new("[[topics]]\nmatch = \"short.*\"\nreplay = { messages = 2 }\n");
    let gateway = Gateway::start(&["--config", file.path()]);
    assert_eq!(get(&gateway, "/topics/short.a/info").status, 404);
    (1..=4).for_each(|_| drop(post(&gateway, "short.a", "x")));
    let epoch = post(&gateway, "short.a", "x")["epoch"].clone();
    let mut info = get(&gateway, "/topics/short.a/info").json();
    assert!(info["age_ms"].as_u64().is_some(), "{info}");
    info.as_object_mut().unwrap().remove("age_ms");
    let mut expect = json!({"topic": "short.a", "epoch": epoch, "offset": 5, "oldest": 4, "subscribers": 0});
    assert_eq!(info, expect);
    let subscribers = (
        Peer::subscribed(gateway.address, &["short.a"]),
        Peer::subscribed(gateway.address, &["short.*", ">"]),
    );
    info = get(&gateway, "/topics/short.a/info").json();
    info.as_object_mut().unwrap().remove("age_ms");
    expect["subscribers"] = 3.into();
    assert_eq!(info, expect);
    drop(subscribers);
    let gone = "fanfare_connections{transport=\"json\"}";
    until_metric(&gateway, gone, |open| open == 0.0);
    assert_eq!(get(&gateway, "/topics/short.a/info").json()["subscribers"], 0);
    let _subscriber = Peer::raw(gateway.address, "new");
    let info = get(&gateway, "/topics/new/info").json();
    assert_eq!(
        (&info["offset"], &info["oldest"], &info["subscribers"]),
        (&json!(0), &Value::Null, &json!(1))
    );
    assert_eq!(request(gateway.address, "POST", "/topics/a/info", &[], "x").status, 405);
    assert_eq!(get(&gateway, "/topics/a..b/info").error_code(), "bad_topic");
}
