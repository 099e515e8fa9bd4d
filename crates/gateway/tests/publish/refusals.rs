//! What is refused, how, and that nothing of it was published.

use std::io::Write;

use crate::support::Gateway;
use crate::support::metrics::{metric, until_metric};
use crate::support::peer::{Peer, chunk, publish, request, request_text};
use crate::{JSON, NDJSON};

/// Checks that the next message of `topic` would be its first one.
fn assert_nothing_was_published(gateway: &Gateway, topic: &str) {
    let answer = publish(gateway.address, topic, JSON, "0");
    assert_eq!(answer.json()["offset"], 1, "{answer:?}");
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
