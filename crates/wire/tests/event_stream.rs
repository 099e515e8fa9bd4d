//! Server-sent events against a reader made of the standard's rules (WHATWG HTML, section 9.2.6): whatever a payload is, it is
//! one event, with all of it.
//!
//! A failure prints its seed; `FANFARE_SEED=n` runs that one alone.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use fanfare_wire::{Draft, Epoch, FormatId, Kind, Message, Position, Topic};

const SEEDS: u64 = 3_000;

/// What a browser makes of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    id: String,
    kind: String,
    data: String,
}

/// Reads a whole stream: fields by line, an event by blank line.
fn read(stream: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let (mut id, mut kind, mut data) = (String::new(), String::new(), None::<String>);
    let mut rest = stream;
    while let Some(end) = rest.find(['\r', '\n']) {
        let line = &rest[..end];
        rest = rest[end..].strip_prefix("\r\n").unwrap_or_else(|| &rest[end + 1..]);
        if line.is_empty() {
            if let Some(data) = data.take() {
                events.push(Event { id: id.clone(), kind: std::mem::take(&mut kind), data });
            }
            kind.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => value.clone_into(&mut id),
            "event" => value.clone_into(&mut kind),
            "data" => match &mut data {
                Some(data) => *data = format!("{data}\n{value}"),
                None => data = Some(value.to_owned()),
            },
            _ => panic!("a field that nobody wrote: {line:?}"),
        }
    }
    assert_eq!(rest, "", "a line without an end");
    events
}

/// The contents of HTTP chunks.
fn unchunked(mut bytes: &[u8]) -> String {
    let mut content = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        let (chunk, rest) = bytes[end + 2..].split_at(length);
        content.extend_from_slice(chunk);
        bytes = rest.strip_prefix(b"\r\n").unwrap();
    }
    String::from_utf8(content).unwrap()
}

/// Payloads of everything that has a meaning in the format, and of what looks like it.
fn payload(random: &mut impl FnMut(usize) -> usize) -> String {
    const PIECES: [&str; 16] = [
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "data:",
        "data: ",
        ": ",
        "id: 1",
        "event: x",
        " ",
        "\0",
        "\u{2028}",
        "\u{feff}",
        "x",
        "ü",
        "{\"a\":1}",
    ];
    (0..random(12)).map(|_| PIECES[random(PIECES.len())]).collect()
}

#[test]
fn every_payload_is_one_event_with_all_of_it() {
    let one = std::env::var("FANFARE_SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in one.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let payloads: Vec<String> = (0..1 + random(4)).map(|_| payload(&mut random)).collect();
        let topic = Topic::new("a.b").unwrap();
        let (mut stream, mut many) = (Vec::new(), Vec::new());
        let (mut expect, mut expect_many) = (Vec::new(), Vec::new());
        for (payload, offset) in payloads.iter().zip(1..) {
            let mut draft = Draft::new(topic.clone(), Kind::Text, payload.as_bytes());
            draft.event = (random(2) == 0).then(|| "tick".into());
            let kind = draft.event.as_deref().unwrap_or_default().to_owned();
            let message = Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset);
            stream.extend_from_slice(message.frame(FormatId::EVENT_STREAM));
            let data = payload.replace("\r\n", "\n").replace('\r', "\n");
            expect.push(Event { id: format!("10000000:{offset}"), kind, data });
            many.extend_from_slice(message.frame(FormatId::EVENTS));
            let object = std::str::from_utf8(message.frame(FormatId::LONG_POLL)).unwrap().to_owned();
            expect_many.push(Event { data: object, ..Event::default() });
        }
        assert_eq!(read(&unchunked(&stream)), expect, "FANFARE_SEED={seed}");
        let events = read(&unchunked(&many));
        assert_eq!(events, expect_many, "FANFARE_SEED={seed}");
        for (event, payload) in events.iter().zip(&payloads) {
            let object: serde_json::Value = serde_json::from_str(&event.data).unwrap();
            assert_eq!(object["data"], **payload, "FANFARE_SEED={seed}: every byte of it");
        }
    }
}
