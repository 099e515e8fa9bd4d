//! Any bytes as what a publisher sends, in every form it may have: no panic, and what is taken reaches subscribers byte
//! for byte.

#![no_main]

use std::borrow::Cow;
use std::collections::BTreeMap;

use fanfare_wire::command::{self, Command};
use fanfare_wire::envelope::{self, EVENT_BYTES_MAX, Item, KEY_BYTES_MAX};
use fanfare_wire::websocket::{OpCode, frame, header_len};
use fanfare_wire::{Draft, Epoch, FormatId, Kind, Message, Pattern, Position, Topic};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

/// The largest offset a message may have.
const OFFSET: u64 = (1 << 53) - 1;

const CONTENT_TYPES: [Option<&str>; 6] = [
    None,
    Some("application/json"),
    Some("application/geo+json; charset=utf-8"),
    Some("text/plain"),
    Some("application/octet-stream"),
    Some("image/png"),
];

fuzz_target!(|input: &[u8]| {
    CONTENT_TYPES.iter().for_each(|content_type| check_body(*content_type, input));
    check_item(input);
    check_elements(input);
    if let Ok(text) = str::from_utf8(input) {
        check_content_type(text);
        check_command(text);
    }
});

/// The input as the body of a publish to one topic.
fn check_body(content_type: Option<&str>, body: &[u8]) {
    let Ok(kind) = Kind::of(content_type, body) else { return };
    match kind {
        Kind::Json => check_json(body),
        Kind::Text => assert!(str::from_utf8(body).is_ok(), "a text that is not UTF-8"),
        Kind::Binary => {}
    }
    check_frames("t", kind, None, body);
}

/// The input as one item of a publish to many topics.
fn check_item(input: &[u8]) {
    let Ok(Item { topics, kind, payload, event, key, id: _ }) = envelope::parse(input) else { return };
    assert!(!topics.is_empty(), "an item without a topic");
    check_label(event.as_deref(), EVENT_BYTES_MAX);
    check_label(key.as_deref(), KEY_BYTES_MAX);
    match kind {
        Kind::Json => {
            check_json(&payload);
            check_lent(input, &payload);
        }
        Kind::Text => panic!("an item has no way to say text"),
        Kind::Binary => {}
    }
    topics.iter().for_each(|topic| check_frames(topic, kind, event.as_deref(), &payload));
}

/// The input as the JSON body of a publish to many topics.
fn check_elements(input: &[u8]) {
    let elements = envelope::elements(input).unwrap_or_default();
    for element in &elements {
        check_json(element.get().as_bytes());
        check_lent(input, element.get().as_bytes());
        check_item(element.get().as_bytes());
    }
    assert!(elements.is_sorted_by_key(|element| element.get().as_ptr()), "elements out of order");
}

/// The input as a header, so that it does not need to be one of the usual.
fn check_content_type(text: &str) {
    for body in [&b"{}"[..], b"x", b"\xff"] {
        check_body(Some(text), body);
    }
}

/// The input as a text frame of a native WebSocket.
fn check_command(text: &str) {
    match command::parse(text) {
        Ok(Command::Publish { topic, data, event, .. }) => {
            let payload = data.get().as_bytes();
            check_json(payload);
            check_lent(text.as_bytes(), payload);
            check_frames(&topic, Kind::Json, event.as_deref(), payload);
        }
        Ok(Command::Subscribe { topics, .. }) => {
            for wanted in topics {
                let (topic, pattern) = (Topic::new(&wanted.topic), Pattern::new(&wanted.topic));
                let matches = topic.is_ok_and(|topic| pattern.is_ok_and(|pattern| pattern.matches(&topic)));
                assert_eq!(matches, Topic::new(&wanted.topic).is_ok(), "a topic is a pattern of itself");
            }
        }
        Ok(Command::Auth { id, token }) => {
            // Of a token nothing is shown that could not be said of any other.
            let shown = |token| format!("{:?}", Command::Auth { id, token });
            assert_eq!(shown(token), shown("".into()));
        }
        Ok(Command::Unsubscribe { .. } | Command::Ping { .. }) | Err(_) => {}
    }
}

/// Publishes `payload`, and looks at it as the subscribers of each format do.
fn check_frames(topic: &str, kind: Kind, event: Option<&str>, payload: &[u8]) {
    let Ok(name) = Topic::new(topic) else { return };
    let mut draft = Draft::new(name, kind, payload);
    draft.event = event.map(Into::into);
    assert_eq!(draft.payload_bytes(), payload.len());
    let message = Message::new(draft, Position { epoch: Epoch::new(1), offset: OFFSET }, OFFSET);

    let published = if kind == Kind::Json { on_one_line(payload) } else { Cow::Borrowed(payload) };
    assert_eq!(message.payload(), &*published);
    let opcode = if kind == Kind::Binary { OpCode::Binary } else { OpCode::Text };
    assert_eq!(message.frame(FormatId::RAW), &frame(opcode, &published));

    let json_frame = message.frame(FormatId::JSON);
    let object = unframed(json_frame);
    assert_eq!(json_frame, &frame(OpCode::Text, object));
    check_native(object, topic, event, kind, &published);
}

/// The native JSON message: every key reads as what was published, and it is on one line.
fn check_native(object: &[u8], topic: &str, event: Option<&str>, kind: Kind, payload: &[u8]) {
    let text = str::from_utf8(object).expect("a text frame is UTF-8");
    assert!(!text.contains(['\r', '\n']), "more than one line: {text}");
    let fields: BTreeMap<&str, &RawValue> = serde_json::from_str(text).expect("a native message is JSON");
    let read =
        |key: &str| fields.get(key).map(|value| serde_json::from_str::<Value>(value.get()).expect(key));
    assert_eq!(read("topic"), Some(topic.into()));
    assert_eq!(read("offset"), Some(OFFSET.into()));
    assert_eq!(read("event"), event.map(Into::into));
    assert_eq!(fields.len(), 3 + usize::from(event.is_some()), "{text}");
    match kind {
        Kind::Json => {
            assert_eq!(fields["data"].get().as_bytes(), payload.trim_ascii());
            // The value's surroundings are the publisher's bytes, too.
            let end = [payload, b"}"].concat();
            assert!(object.ends_with(&end), "{text}");
        }
        Kind::Text => {
            assert_eq!(read("data"), Some(str::from_utf8(payload).expect("text is UTF-8").into()));
        }
        Kind::Binary => {
            // A native message is an item, too: what was read here can be published there.
            let item = envelope::parse(object).expect("a native message is an item");
            assert_eq!((item.kind, &*item.payload), (kind, payload));
        }
    }
}

/// A whole unmasked frame without its header.
fn unframed(frame: &[u8]) -> &[u8] {
    let header_len = [0, 126, 0x1_0000].into_iter().map(header_len);
    let mut payloads = header_len.filter(|len| frame.len() >= *len).map(|len| &frame[len..]);
    payloads.find(|payload| payload.first() == Some(&b'{')).expect("a header and an object")
}

fn on_one_line(payload: &[u8]) -> Cow<'_, [u8]> {
    payload.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }).collect()
}

/// `value` is JSON. Reading it into a tree is another path through serde_json than the one that took it; what only the
/// tree cannot hold is JSON nevertheless.
fn check_json(value: &[u8]) {
    const TREE_LIMITS: [&str; 4] = [
        "number out of range",
        "recursion limit exceeded",
        "lone leading surrogate in hex escape",
        "unexpected end of hex escape",
    ];
    assert!(str::from_utf8(value).is_ok(), "JSON that is not UTF-8");
    if let Err(error) = serde_json::from_slice::<Value>(value) {
        let message = error.to_string();
        assert!(TREE_LIMITS.iter().any(|limit| message.starts_with(limit)), "{message}");
    }
}

/// `part` was not copied on its way.
fn check_lent(whole: &[u8], part: &[u8]) {
    let (whole, part) = (whole.as_ptr_range(), part.as_ptr_range());
    assert!(whole.start <= part.start && part.end <= whole.end, "a copy");
}

fn check_label(label: Option<&str>, bytes_max: usize) {
    let Some(label) = label else { return };
    assert!((1..=bytes_max).contains(&label.len()), "{} bytes", label.len());
    assert!(!label.contains(char::is_control), "{label:?}");
}
