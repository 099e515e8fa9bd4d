//! Any bytes behind the handshake, with and without permessage-deflate: no panic, no message past the limits, and the same
//! events however they are split.

#![no_main]

use fanfare_wire::websocket::{CloseCode, Event, Fault, Parser, ParserLimits};
use libfuzzer_sys::fuzz_target;

const LIMITS: ParserLimits = ParserLimits { message_bytes_max: 4096, fragments_max: 8, deflate: false };

/// An [`Event`] that outlives its input.
#[derive(Debug, PartialEq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(CloseCode, String)>),
}

impl From<Event<'_>> for Owned {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Event::Close(close) => Self::Close(close.map(|(code, reason)| (code, reason.to_owned()))),
        }
    }
}

fuzz_target!(|stream: &[u8]| {
    for limits in [LIMITS, ParserLimits { deflate: true, ..LIMITS }] {
        let whole = parse(stream, limits, |_| stream.len());
        check_bounds(&whole);
        // Piece lengths come from the stream itself, so that a crash is reproduced by its bytes alone.
        let pieces = parse(stream, limits, |at| 1 + usize::from(stream[at] % 16));
        assert_eq!(pieces, whole, "cut into pieces");
        let single = parse(stream, limits, |_| 1);
        assert_eq!(single, whole, "byte by byte");
    }
});

/// Feeds `stream` in pieces; `piece_len` says how long the one is that starts at an index.
fn parse(
    stream: &[u8],
    limits: ParserLimits,
    piece_len: impl Fn(usize) -> usize,
) -> Vec<Result<Owned, Fault>> {
    let mut parser = Parser::new();
    let mut seen = Vec::new();
    let mut at = 0;
    while at < stream.len() {
        let end = stream.len().min(at + piece_len(at));
        let mut piece = stream[at..end].to_vec();
        let mut events = parser.feed(&mut piece, limits);
        while let Some(event) = events.next() {
            seen.push(event.map(Owned::from));
        }
        at = end;
    }
    seen
}

fn check_bounds(seen: &[Result<Owned, Fault>]) {
    for (at, event) in seen.iter().enumerate() {
        let (len, max) = match event {
            Ok(Owned::Text(text)) => (text.len(), LIMITS.message_bytes_max),
            Ok(Owned::Binary(bytes)) => (bytes.len(), LIMITS.message_bytes_max),
            Ok(Owned::Ping(bytes) | Owned::Pong(bytes)) => (bytes.len(), 125),
            Ok(Owned::Close(_)) | Err(_) => {
                assert_eq!(at + 1, seen.len(), "{event:?} is not the last");
                continue;
            }
        };
        assert!(len <= max, "{len} bytes of at most {max}");
    }
}
