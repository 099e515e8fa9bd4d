//! One story, told over every transport: a history, a subscriber, live messages, an interruption, and the rest of it.
//!
//! Whatever carries the messages, the subscriber has each of them once, in order, and never another topic's.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use serde_json::{Value, json};
use support::config_file::ConfigFile;
use support::metrics::until_metric;
use support::peer::{BINARY, PING, PONG, Peer, TEXT, masked, publish, request};
use support::stream::{EVENTS, LINES, Stream};
use support::{Gateway, PATIENCE};

/// How one can subscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Raw,
    /// Both under permessage-deflate.
    RawDeflate,
    NativeDeflate,
    Native,
    NativeWildcard,
    EventStream,
    Lines,
    Events,
    EventsWildcard,
    Poll,
    LongPoll,
    /// `GET /topics/{topic}?wait=`: only ever the newest.
    Newest,
}

const WAYS: [Way; 12] = [
    Way::Raw,
    Way::RawDeflate,
    Way::NativeDeflate,
    Way::Native,
    Way::NativeWildcard,
    Way::EventStream,
    Way::Lines,
    Way::Events,
    Way::EventsWildcard,
    Way::Poll,
    Way::LongPoll,
    Way::Newest,
];

/// Where a subscriber begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Start {
    Last,
    Live,
    Earliest,
    /// What the transport calls a place: epoch and offset, or whatever it handed out.
    After(Place),
}

/// What a subscriber remembers over an interruption.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    epoch: String,
    offset: u64,
    /// `EPOCH:SEQUENCE` of the node, for transports of many topics.
    cursor: String,
}

/// A message as one transport shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    /// The bytes of a WebSocket frame, and its kind.
    Frame(u8, Vec<u8>),
    /// An event's data.
    Event(String),
    /// What stands behind `"data":` or `"data64":`, with that.
    Json(String),
    /// The body of an answer, with its type.
    Body(String, Vec<u8>),
}

/// A payload, and how each kind of transport is to show it.
struct Payload {
    content_type: &'static str,
    bytes: &'static [u8],
    event: &'static str,
    json: &'static str,
}

const PAYLOADS: [Payload; 9] = [
    Payload {
        content_type: "application/json",
        bytes: br#"{"n":1.00000000000000000001,"s":"\u0000 \u2028"}"#,
        event: r#"{"n":1.00000000000000000001,"s":"\u0000 \u2028"}"#,
        json: r#""data":{"n":1.00000000000000000001,"s":"\u0000 \u2028"}"#,
    },
    Payload {
        content_type: "text/plain",
        bytes: b"a\n\ndata: forged\nid: 9:9\n\nevent: gap",
        event: "a\n\ndata: forged\nid: 9:9\n\nevent: gap",
        json: r#""data":"a\n\ndata: forged\nid: 9:9\n\nevent: gap""#,
    },
    // Long enough to be compressed, and worth it.
    Payload {
        content_type: "application/json",
        bytes: br#"[[64000.10,0.5],[64000.20,0.5],[64000.30,0.5],[64000.40,0.5],[64000.50,0.5],[64000.60,0.5],[64000.70,0.5],[64000.80,0.5],[64000.90,0.5]]"#,
        event: r#"[[64000.10,0.5],[64000.20,0.5],[64000.30,0.5],[64000.40,0.5],[64000.50,0.5],[64000.60,0.5],[64000.70,0.5],[64000.80,0.5],[64000.90,0.5]]"#,
        json: r#""data":[[64000.10,0.5],[64000.20,0.5],[64000.30,0.5],[64000.40,0.5],[64000.50,0.5],[64000.60,0.5],[64000.70,0.5],[64000.80,0.5],[64000.90,0.5]]"#,
    },
    Payload { content_type: "text/plain", bytes: b"a\rb", event: "a\nb", json: r#""data":"a\rb""# },
    Payload {
        content_type: "text/plain",
        bytes: "\u{2028}\u{2029}\u{85}".as_bytes(),
        event: "\u{2028}\u{2029}\u{85}",
        json: "\"data\":\"\u{2028}\u{2029}\u{85}\"",
    },
    Payload { content_type: "text/plain", bytes: b"\0", event: "\0", json: r#""data":"\u0000""# },
    Payload {
        content_type: "application/octet-stream",
        bytes: b"\0\xff\r\n",
        event: "AP8NCg==",
        json: r#""data64":"AP8NCg==""#,
    },
    // White space between JSON tokens may change, but only line ends do.
    Payload {
        content_type: "application/json",
        bytes: b"[1,\r\n 2]",
        event: "[1,   2]",
        json: r#""data":[1,   2]"#,
    },
    Payload { content_type: "text/plain", bytes: b"", event: "", json: r#""data":"""# },
];

fn payload(number: u64) -> &'static Payload {
    &PAYLOADS[(number % 9) as usize]
}

impl Way {
    fn shown(self, number: u64) -> Shown {
        let Payload { content_type, bytes, event, json } = *payload(number);
        let bytes = if content_type == "application/json" { event.as_bytes() } else { bytes };
        match self.plain() {
            Self::Raw if content_type == "application/octet-stream" => Shown::Frame(BINARY, bytes.to_vec()),
            Self::Raw => Shown::Frame(TEXT, bytes.to_vec()),
            Self::EventStream => Shown::Event(event.to_owned()),
            Self::Newest => {
                let content_type =
                    if content_type == "text/plain" { "text/plain; charset=utf-8" } else { content_type };
                Shown::Body(content_type.to_owned(), bytes.to_vec())
            }
            _ => Shown::Json(json.to_owned()),
        }
    }

    /// What it can begin with, beside a place.
    fn starts(self) -> &'static [Start] {
        match self {
            Self::Poll | Self::LongPoll | Self::Newest => &[Start::Last],
            _ => &[Start::Last, Start::Live, Start::Earliest],
        }
    }

    /// The way without permessage-deflate.
    fn plain(self) -> Self {
        match self {
            Self::RawDeflate => Self::Raw,
            Self::NativeDeflate => Self::Native,
            plain => plain,
        }
    }

    fn websocket(self, address: SocketAddr, target: &str) -> Peer {
        if self == self.plain() { Peer::websocket(address, target) } else { Peer::deflated(address, target) }
    }

    fn is_wildcard(self) -> bool {
        matches!(self, Self::NativeWildcard | Self::EventsWildcard)
    }
}

/// Publishes the payload of that number, which is the topic's next, and as much noise to others.
fn post(address: SocketAddr, topic: &str, number: u64) -> String {
    let Payload { content_type, bytes, .. } = payload(number);
    let answer = publish(address, topic, content_type, bytes).json();
    assert_eq!(answer["offset"], number, "{answer}");
    // Behind it, so that the next one follows a place directly.
    for other in [format!("{topic}x"), format!("other.{topic}"), "other".to_owned()] {
        assert_eq!(publish(address, &other, "text/plain", "noise").status, 200);
    }
    answer["epoch"].as_str().unwrap().to_owned()
}

// === subscribers ===

struct Subscriber<'a> {
    way: Way,
    address: SocketAddr,
    topic: &'a str,
    place: Place,
    link: Link,
    /// What the server said of recovery, in its way: `None` if it was silent.
    recovered: Option<bool>,
    /// Messages of polls, not looked at yet.
    polled: VecDeque<String>,
}

enum Link {
    Socket(Peer),
    Stream(Stream),
    Requests,
}

impl<'a> Subscriber<'a> {
    /// Subscribes; when it returns, what is published comes live.
    fn open(address: SocketAddr, way: Way, topic: &'a str, start: &Start) -> Self {
        let place = if let Start::After(place) = start { place.clone() } else { Place::default() };
        let Place { epoch, offset, cursor } = &place;
        let from = match start {
            Start::Last => "from=last".to_owned(),
            Start::Live => "from=live".to_owned(),
            Start::Earliest => "from=earliest".to_owned(),
            Start::After(_) => format!("epoch={epoch}&offset={offset}"),
        };
        let (pattern, id) = (format!("{}.*", topic.split('.').next().unwrap()), format!("{epoch}:{offset}"));
        let link = match way.plain() {
            Way::Raw => Link::Socket(way.websocket(address, &format!("/topics/{topic}?{from}"))),
            Way::Native | Way::NativeWildcard => {
                let (mut peer, _) = way.websocket(address, "/ws").welcomed();
                let mut wish = match start {
                    Start::Last => json!({"from": "last"}),
                    Start::Live => json!({"from": "live"}),
                    Start::Earliest => json!({"from": "earliest"}),
                    Start::After(_) if way == Way::NativeWildcard => {
                        json!({"positions": {topic: {"epoch": epoch, "offset": offset}}})
                    }
                    Start::After(_) => json!({"epoch": epoch, "offset": offset}),
                };
                wish["topic"] = if way.is_wildcard() { json!(pattern) } else { json!(topic) };
                peer.say(&json!({"type": "subscribe", "topics": [wish]}).to_string());
                Link::Socket(peer)
            }
            Way::EventStream => {
                let target = format!("/topics/{topic}?{from}");
                match start {
                    Start::After(_) => {
                        let headers = [EVENTS, ("last-event-id", &id)];
                        Link::Stream(Stream::open(address, &format!("/topics/{topic}"), &headers))
                    }
                    _ => Link::Stream(Stream::open(address, &target, &[EVENTS])),
                }
            }
            Way::Lines => Link::Stream(Stream::open(address, &format!("/topics/{topic}?{from}"), &[LINES])),
            Way::Events | Way::EventsWildcard => {
                let name = if way.is_wildcard() { &pattern } else { topic };
                let target = match start {
                    Start::After(_) => format!("/events?topic={name}&last_event_id={cursor}"),
                    _ => format!("/events?topic={name}&{from}"),
                };
                Link::Stream(Stream::open(address, &target, &[EVENTS]))
            }
            Way::Poll | Way::LongPoll | Way::Newest => Link::Requests,
            deflate => unreachable!("{deflate:?} is not plain"),
        };
        let mut subscriber =
            Self { way, address, topic, place, link, recovered: None, polled: VecDeque::new() };
        subscriber.begin(start);
        subscriber
    }

    fn begin(&mut self, start: &Start) {
        match (&mut self.link, self.way.plain()) {
            // Nothing tells that a raw subscription has begun but what begins with it, or a pong.
            (Link::Socket(peer), Way::Raw) if *start == Start::Live => {
                peer.send(masked(PING, b""));
                assert_eq!(peer.frame().first, PONG);
            }
            (Link::Socket(peer), Way::Native | Way::NativeWildcard) => {
                let told = peer.json();
                assert_eq!(told["type"], "subscribed", "{told}");
                self.told_of_topics(&told);
            }
            (Link::Stream(stream), Way::Events | Way::EventsWildcard) => {
                let event = stream.next();
                assert_eq!(event.name, "subscribed", "{event:?}");
                self.place.cursor.clone_from(&event.last_id);
                let told = event.json();
                self.told_of_topics(&told);
            }
            _ => {}
        }
    }

    /// The acknowledgement, or a topic event. They say where the topic stands.
    fn told_of_topics(&mut self, told: &Value) {
        let topic = told.get("topics").map_or(told, |topics| &topics[0]);
        assert_eq!(topic.get("error"), None, "{told}");
        if let Some(recovered) = topic["recovered"].as_bool() {
            self.recovered = Some(recovered);
        }
        if let Some(epoch) = topic["epoch"].as_str() {
            assert_eq!(topic["topic"], self.topic, "another topic: {told}");
            epoch.clone_into(&mut self.place.epoch);
        }
    }

    fn told(&mut self, told: &Value) {
        match told["type"].as_str() {
            Some("topic") if told["topic"] == self.topic => self.told_of_topics(told),
            // The wildcard has others, too.
            Some("topic") => {}
            Some("gap") => {
                assert_eq!(told["topic"], self.topic, "{told}");
                self.recovered = Some(false);
            }
            _ => panic!("{:?} was not to be told {told}", self.way),
        }
    }

    /// The next message.
    fn next(&mut self) -> Shown {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(shown) = self.step() {
                return shown;
            }
            assert!(Instant::now() < deadline, "{:?} of {} has nothing more", self.way, self.topic);
        }
    }

    fn step(&mut self) -> Option<Shown> {
        match (&mut self.link, self.way.plain()) {
            (Link::Socket(peer), Way::Raw) => {
                let frame = peer.frame();
                self.place.offset += 1;
                Some(Shown::Frame(frame.first, frame.payload))
            }
            (Link::Socket(peer), _) => {
                let text = peer.text();
                self.object(&text)
            }
            (Link::Stream(stream), Way::Lines) => {
                let text = stream.object().expect("the stream goes on");
                self.object(&text)
            }
            (Link::Stream(stream), Way::EventStream) => {
                let event = stream.next();
                if event.name == "gap" {
                    self.recovered = Some(false);
                    return None;
                }
                assert_eq!(event.name, "message", "{event:?}");
                let (epoch, offset) = event.last_id.split_once(':').expect("an id is a place");
                let offset = offset.parse().unwrap();
                assert!(self.place.epoch != epoch || offset > self.place.offset, "again: {event:?}");
                (self.place.epoch, self.place.offset) = (epoch.to_owned(), offset);
                Some(Shown::Event(event.data))
            }
            (Link::Stream(stream), _) => {
                let event = stream.next();
                self.place.cursor.clone_from(&event.last_id);
                if event.name == "message" {
                    return self.object(&event.data);
                }
                let mut told = event.json();
                told["type"] = event.name.into();
                self.told(&told);
                None
            }
            (Link::Requests, Way::Newest) => Some(self.newest()),
            (Link::Requests, _) => {
                if self.polled.is_empty() {
                    self.poll();
                }
                let text = self.polled.pop_front()?;
                self.object(&text)
            }
        }
    }

    /// A native object: a message, or something else.
    fn object(&mut self, text: &str) -> Option<Shown> {
        let object: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        if object.get("type").is_some() {
            self.told(&object);
            return None;
        }
        if object["topic"] != self.topic {
            assert!(self.way.is_wildcard() && object["topic"] == format!("{}x", self.topic), "{text}");
            return None;
        }
        let offset = object["offset"].as_u64().unwrap();
        // The resume of a stream of many topics may begin early.
        if offset <= self.place.offset && matches!(self.way, Way::Events | Way::EventsWildcard) {
            return None;
        }
        assert!(offset > self.place.offset, "{offset} after {:?}", self.place);
        self.place.offset = offset;
        let (head, _) = text.split_once(r#""data"#).expect("a message has data");
        assert_eq!(head, format!(r#"{{"topic":"{}","offset":{offset},"#, self.topic), "{text}");
        Some(Shown::Json(text[head.len()..text.len() - 1].to_owned()))
    }

    fn poll(&mut self) {
        let wait = if self.way == Way::LongPoll { 20 } else { 0 };
        let target = format!("/poll?topic={}&cursor={}&wait={wait}&max=3", self.topic, self.place.cursor);
        let answer = request(self.address, "GET", &target, &[], "");
        assert_eq!(answer.status, 200, "{answer:?}");
        let body = answer.json();
        body["cursor"].as_str().unwrap().clone_into(&mut self.place.cursor);
        if body["gap"] == true {
            self.recovered = Some(false);
            self.place.offset = 0;
        }
        // The messages as they stand, without their commas.
        let list = answer.text().split_once(r#""messages":["#).unwrap().1.strip_suffix("]}").unwrap();
        let list = list.replace(r#"},{"topic""#, "}\n{\"topic\"");
        self.polled.extend(list.lines().map(str::to_owned));
    }

    fn newest(&mut self) -> Shown {
        let tag = format!("\"{}:{}\"", self.place.epoch, self.place.offset);
        let target = format!("/topics/{}?wait=20", self.topic);
        let answer = request(self.address, "GET", &target, &[("if-none-match", &tag)], "");
        assert_eq!(answer.status, 200, "{answer:?}");
        let tag = answer.header("etag").unwrap().trim_matches('"');
        let (epoch, offset) = tag.split_once(':').unwrap();
        (self.place.epoch, self.place.offset) = (epoch.to_owned(), offset.parse().unwrap());
        Shown::Body(answer.header("content-type").unwrap().to_owned(), answer.body)
    }

    fn expect(&mut self, numbers: impl IntoIterator<Item = u64>, when: &str) {
        for number in numbers {
            let shown = self.next();
            assert_eq!(shown, self.way.shown(number), "{:?} of {}, {when}: {number}", self.way, self.topic);
        }
    }
}

#[test]
fn a_subscriber_has_every_message_once_over_every_transport() {
    let file = ConfigFile::new("[[topics]]\nmatch = \">\"\ndeflate = true\n");
    let gateway = Gateway::start(&["--config", file.path()]);
    let address = gateway.address;
    for way in WAYS {
        for start in way.starts() {
            let topic = format!("{way:?}-{start:?}.x");
            let mut epoch = String::new();
            (1..=5).for_each(|number| epoch = post(address, &topic, number));
            let mut subscriber = Subscriber::open(address, way, &topic, start);
            // Transports that do not say so begin where the publisher knows they do.
            let (first, before) = match start {
                Start::Last => (5, 4),
                Start::Live => (6, 5),
                _ => (1, 0),
            };
            subscriber.place.offset = before;
            subscriber.expect(first..=5, "history");
            for number in 6..=10 {
                post(address, &topic, number);
                subscriber.expect([number], "live");
            }
            let mut place = subscriber.place.clone();
            drop(subscriber);
            if matches!(way.plain(), Way::Raw | Way::Lines) {
                // They do not name the epoch.
                place.epoch = epoch;
            }
            (11..=15).for_each(|number| drop(post(address, &topic, number)));
            let mut subscriber = Subscriber::open(address, way, &topic, &Start::After(place));
            let missed = if way == Way::Newest { 15..=15 } else { 11..=15 };
            subscriber.expect(missed, "resumed");
            assert!(subscriber.recovered != Some(false), "{way:?} of {topic} lost nothing");
            for number in 16..=17 {
                post(address, &topic, number);
                subscriber.expect([number], "live again");
            }
            if let Link::Socket(peer) = &subscriber.link {
                assert_eq!(peer.inflated > 0, way != way.plain(), "{way:?}");
            }
        }
    }
    for transport in ["raw", "json", "stream"] {
        let name = format!("fanfare_connections{{transport=\"{transport}\"}}");
        until_metric(&gateway, &name, |open| open == 0.0);
    }
    until_metric(&gateway, "fanfare_subscribed_topics", |topics| topics == 0.0);
    until_metric(&gateway, "fanfare_subscribed_patterns", |patterns| patterns == 0.0);
    until_metric(&gateway, "fanfare_deflate_connections", |open| open == 0.0);
    until_metric(&gateway, "fanfare_waiting_polls", |polls| polls == 0.0);
}

#[test]
fn what_cannot_be_recovered_is_said_so_and_begins_with_the_last_value() {
    let file = ConfigFile::new("[[topics]]\nmatch = \">\"\nreplay = { messages = 3 }\ndeflate = true\n");
    let gateway = Gateway::start(&["--config", file.path()]);
    let address = gateway.address;
    let foreign = || Place { epoch: "zzzzzzzz".into(), offset: 3, cursor: "zzzzzzzz:3".into() };
    for way in WAYS {
        // The subscriber has seen 3 of 10 when it goes; the ring has 8 to 10.
        let topic = format!("{way:?}.x");
        let mut epoch = String::new();
        (1..=2).for_each(|number| epoch = post(address, &topic, number));
        let mut subscriber = Subscriber::open(address, way, &topic, &Start::Last);
        subscriber.place.offset = 1;
        subscriber.expect([2], "history");
        post(address, &topic, 3);
        subscriber.expect([3], "live");
        let mut seen = subscriber.place.clone();
        seen.epoch = epoch;
        drop(subscriber);
        (4..=10).for_each(|number| drop(post(address, &topic, number)));
        for place in [foreign(), seen] {
            if way.plain() == Way::Raw {
                // It has no words but the close code.
                let Place { epoch, offset, .. } = &place;
                let target = format!("/topics/{topic}?epoch={epoch}&offset={offset}");
                assert_eq!(way.websocket(address, &target).close_code(), Some(4203), "{place:?}");
                continue;
            }
            let mut subscriber = Subscriber::open(address, way, &topic, &Start::After(place.clone()));
            subscriber.place.offset = 0;
            subscriber.expect([10], "begins anew");
            if way != Way::Newest {
                assert_eq!(subscriber.recovered, Some(false), "{way:?} {place:?}");
            }
            drop(subscriber);
        }
        // What the ring still has is recovered by those who name an offset.
        let kept = Place { epoch: post(address, &topic, 11), offset: 8, cursor: String::new() };
        if matches!(way.plain(), Way::Raw | Way::Native | Way::NativeWildcard | Way::EventStream | Way::Lines)
        {
            let mut subscriber = Subscriber::open(address, way, &topic, &Start::After(kept));
            subscriber.expect(9..=11, "the ring's own");
            assert_ne!(subscriber.recovered, Some(false), "{way:?}");
        }
    }
}
