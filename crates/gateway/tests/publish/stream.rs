//! A request that goes on: its lines are published as they arrive.

use serde_json::{Value, json};

use crate::support::Gateway;
use crate::support::metrics::until_metric;
use crate::support::peer::{Peer, chunk, publish};
use crate::{JSON, NDJSON};

/// The head of a publish stream.
fn open_stream(gateway: &Gateway, more_headers: &str) -> Peer {
    let mut stream = Peer::connect(gateway.address);
    stream.send(format!(
        "POST /publish HTTP/1.1\r\nhost: fanfare\r\ncontent-type: {NDJSON}\r\n\
         transfer-encoding: chunked\r\n{more_headers}\r\n"
    ));
    stream
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
