//! Subscribing without a WebSocket: server-sent events and lines of JSON, and coming back to both.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use support::metrics::until_metric;
use support::peer::{Peer, request};
use support::{Gateway, PATIENCE};

/// An HTTP response that goes on, read chunk by chunk.
struct Stream {
    reader: BufReader<TcpStream>,
    head: String,
}

impl Stream {
    fn open(gateway: &Gateway, target: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(gateway.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {target} HTTP/1.1\r\nhost: x\r\n{headers}\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "the response ended in its head: {head}");
        }
        Self { reader, head: head.to_ascii_lowercase() }
    }

    /// The next chunk's content; `None` for the last one.
    fn chunk(&mut self) -> Option<String> {
        let mut length = String::new();
        self.reader.read_line(&mut length).unwrap();
        let length = usize::from_str_radix(length.trim_end(), 16).expect("a chunk begins with its length");
        let mut content = vec![0; length + 2];
        self.reader.read_exact(&mut content).unwrap();
        assert!(content.ends_with(b"\r\n"));
        content.truncate(length);
        (length > 0).then(|| String::from_utf8(content).unwrap())
    }

    fn is_over(&mut self) -> bool {
        self.reader.read(&mut [0]).unwrap() == 0
    }
}

/// Publishes a text and returns the answer's body.
fn publish(gateway: &Gateway, topic: &str, payload: &str) -> String {
    let mut stream = TcpStream::connect(gateway.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = payload.len();
    write!(stream, "POST /topics/{topic} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{payload}")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn epoch(answer: &str) -> String {
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
    answer["epoch"].as_str().unwrap().to_owned()
}

const EVENTS: &str = "accept: text/event-stream\r\n";
const LINES: &str = "accept: application/x-ndjson\r\n";

#[test]
fn an_event_stream_begins_with_the_last_value_and_goes_on_live() {
    let gateway = Gateway::start(&[]);
    let epoch = epoch(&publish(&gateway, "a", "one"));
    publish(&gateway, "a", "two");
    let mut stream = Stream::open(&gateway, "/topics/a", EVENTS);
    for header in [
        "http/1.1 200 ok\r\n",
        "content-type: text/event-stream\r\n",
        "cache-control: no-cache, no-transform\r\n",
        "x-accel-buffering: no\r\n",
        "access-control-allow-origin: *\r\n",
    ] {
        assert!(stream.head.contains(header), "{}", stream.head);
    }
    assert_eq!(stream.chunk().unwrap(), "retry: 2000\n:ok\n");
    assert_eq!(stream.chunk().unwrap(), format!("id: {epoch}:2\ndata: two\n\n"));
    publish(&gateway, "a", "three\nlines\n\ndata: forged");
    let expect = format!("id: {epoch}:3\ndata: three\ndata: lines\ndata: \ndata: data: forged\n\n");
    assert_eq!(stream.chunk().unwrap(), expect);
}

#[test]
fn a_browser_that_comes_back_gets_what_it_missed_and_nothing_twice() {
    let gateway = Gateway::start(&[]);
    let epoch = epoch(&publish(&gateway, "a", "1"));
    (2..=10).for_each(|number| drop(publish(&gateway, "a", &number.to_string())));
    let header = format!("{EVENTS}last-event-id: {epoch}:5\r\n");
    let query = format!("/topics/a?last_event_id={epoch}:5");
    for (target, headers) in [("/topics/a", header.as_str()), (query.as_str(), EVENTS)] {
        let mut stream = Stream::open(&gateway, target, headers);
        stream.chunk();
        for number in 6..=10 {
            assert_eq!(stream.chunk().unwrap(), format!("id: {epoch}:{number}\ndata: {number}\n\n"));
        }
        let next = publish(&gateway, "other", "x");
        assert!(next.contains("\"offset\""));
    }
}

#[test]
fn a_place_that_is_gone_gets_a_gap_and_the_last_value() {
    let gateway = Gateway::start(&["--replay-messages", "3"]);
    let epoch = epoch(&publish(&gateway, "a", "1"));
    (2..=10).for_each(|number| drop(publish(&gateway, "a", &number.to_string())));
    for (place, from, reason) in [
        (format!("{epoch}:6"), 7, "evicted"),
        ("zzzzzzzz:9".into(), 1, "reset"),
        (format!("{epoch}:99"), 1, "reset"),
    ] {
        let mut stream = Stream::open(&gateway, "/topics/a", &format!("{EVENTS}last-event-id: {place}\r\n"));
        stream.chunk();
        let gap = format!(r#"{{"topic":"a","epoch":"{epoch}","from":{from},"to":9,"reason":"{reason}"}}"#);
        assert_eq!(stream.chunk().unwrap(), format!("event: gap\ndata: {gap}\n\n"), "{place}");
        assert_eq!(stream.chunk().unwrap(), format!("id: {epoch}:10\ndata: 10\n\n"), "{place}");
    }
    let mut stream = Stream::open(&gateway, "/topics/a", &format!("{EVENTS}last-event-id: {epoch}:7\r\n"));
    stream.chunk();
    assert!(stream.chunk().unwrap().contains("data: 8\n"));
}

#[test]
fn a_malformed_place_is_refused() {
    let gateway = Gateway::start(&[]);
    for id in ["7", "a:-1", "a:99999999999999999999999", "a:", "\u{e4}:1"] {
        let stream = Stream::open(&gateway, "/topics/a", &format!("{EVENTS}last-event-id: {id}\r\n"));
        assert!(stream.head.starts_with("http/1.1 400"), "{id}: {}", stream.head);
    }
    let stream = Stream::open(&gateway, "/topics/a", &format!("{EVENTS}last-event-id: \r\n"));
    assert!(stream.head.starts_with("http/1.1 200"), "an empty one is none");
}

#[test]
fn lines_of_json_are_for_the_shell() {
    let gateway = Gateway::start(&[]);
    publish(&gateway, "a", "one");
    publish(&gateway, "a", "two");
    let mut stream = Stream::open(&gateway, "/topics/a?from=earliest", LINES);
    assert!(stream.head.contains("content-type: application/x-ndjson\r\n"));
    assert_eq!(stream.chunk().unwrap(), "\n");
    assert_eq!(stream.chunk().unwrap(), "{\"topic\":\"a\",\"offset\":1,\"data\":\"one\"}\n");
    assert_eq!(stream.chunk().unwrap(), "{\"topic\":\"a\",\"offset\":2,\"data\":\"two\"}\n");
    publish(&gateway, "a", "three");
    assert_eq!(stream.chunk().unwrap(), "{\"topic\":\"a\",\"offset\":3,\"data\":\"three\"}\n");
}

#[test]
fn a_stream_follows_other_requests_on_its_connection() {
    let gateway = Gateway::start(&[]);
    let mut stream = TcpStream::connect(gateway.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "POST /topics/a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\none").unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while !line.contains("\"offset\":1") {
        line.clear();
        let mut byte = [0];
        while !line.ends_with('}') && !line.ends_with('\n') {
            reader.read_exact(&mut byte).unwrap();
            line.push(char::from(byte[0]));
        }
    }
    write!(stream, "GET /topics/a HTTP/1.1\r\nhost: x\r\n{EVENTS}\r\n").unwrap();
    let mut text = String::new();
    while !text.contains("data: one") {
        assert!(reader.read_line(&mut text).unwrap() > 0);
    }
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn a_drain_ends_streams_properly() {
    let mut gateway = Gateway::start(&["--drain-grace", "10ms", "--drain-window", "100ms"]);
    let open = |target: &str, headers| {
        let mut stream = Stream::open(&gateway, target, headers);
        stream.chunk();
        stream
    };
    let mut events: Vec<_> = (0..12).map(|_| open("/topics/a", EVENTS)).collect();
    events.push(open("/events?topic=a", ""));
    let mut lines = open("/topics/a", LINES);
    gateway.signal("TERM");
    let mut retries = BTreeSet::new();
    for stream in &mut events {
        // The stream of many topics says first what was subscribed.
        let last =
            std::iter::from_fn(|| stream.chunk()).last().expect("something comes before the last chunk");
        let retry = last.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix('\n'));
        let retry: u64 = retry.and_then(|retry| retry.parse().ok()).unwrap_or_else(|| panic!("{last:?}"));
        assert!((500..5_000).contains(&retry), "{retry}");
        retries.insert(retry);
        assert!(stream.is_over());
    }
    assert!(retries.len() > events.len() / 2, "they would come back together: {retries:?}");
    assert_eq!(lines.chunk(), None, "the last chunk");
    assert!(lines.is_over());
    drop((events, lines));
    assert!(gateway.wait().success());
}

#[test]
fn a_silent_stream_has_a_heartbeat() {
    let gateway = Gateway::start(&["--ping-interval", "800ms", "--pong-timeout", "100ms"]);
    let mut events = Stream::open(&gateway, "/topics/a", EVENTS);
    let mut lines = Stream::open(&gateway, "/topics/a", LINES);
    events.chunk();
    lines.chunk();
    // Nobody answers it, and nobody is closed for that.
    for _ in 0..3 {
        assert_eq!(events.chunk().unwrap(), ":\n");
        assert_eq!(lines.chunk().unwrap(), "\n");
    }
}

#[test]
fn a_stream_that_there_is_no_room_for_is_answered_so() {
    let (gateway, mut log) = Gateway::start_logging(&["--topics", "1"]);
    // Its topic is there as long as it subscribes; the other one's cannot come about.
    let first = Peer::raw(gateway.address, "a");
    for accept in ["text/event-stream", "application/x-ndjson"] {
        let mut peer = Peer::connect(gateway.address);
        let answer = peer.request("GET", "/topics/b", &[("accept", accept), ("x-request-id", "mine")], "");
        assert_eq!((answer.status, &*answer.error_code()), (503, "limit"), "{answer:?}");
        answer.assert_retry_after();
        let header = |name| answer.header(name);
        assert_eq!((header("x-request-id"), header("connection")), (Some("mine"), Some("close")));
        assert_eq!(header("access-control-allow-origin"), Some("*"), "{answer:?}");
        assert_eq!(peer.next_byte(), None, "it is whole");
    }
    let answer = request(gateway.address, "GET", "/topics/b", &[("accept", "text/event-stream")], "");
    let id = answer.header("x-request-id").unwrap();
    until_metric(&gateway, r#"fanfare_closes_total{reason="refused"}"#, |closes| closes == 3.0);
    // In a stream of many, each topic has its own answer.
    let mut many = Stream::open(&gateway, "/events?topic=a&topic=b", "");
    let acknowledgement: String = (0..3).map(|_| many.chunk().unwrap()).collect();
    assert!(
        many.head.starts_with("http/1.1 200") && acknowledgement.contains(r#""limit""#),
        "{acknowledgement}"
    );
    drop((gateway, first));
    let mut lines = String::new();
    log.read_to_string(&mut lines).unwrap();
    let line = lines.lines().find(|line| line.contains(id)).unwrap_or_else(|| panic!("{lines}"));
    assert!(line.contains("refused") && line.contains("/topics/b") && line.contains("503"), "{line}");
}
