//! What a server sends, taken apart into messages and the rest: one way for each format.
//!
//! # Bounds       at rest below 128 bytes

use std::borrow::Cow;

use crate::event_stream::{EventStream, Name};
use crate::lines::Lines;
use crate::polls::{Polled, Polls};
use crate::scanner::{Scanner, Violation};
use crate::scenario::Format;
use crate::websocket::{BINARY, CLOSE, PING, PONG, TEXT};

/// Finds the items of one connection, wherever the reads cut them.
#[derive(Debug)]
pub(crate) struct Incoming {
    format: Format,
    stream: Stream,
}

#[derive(Debug)]
enum Stream {
    Frames(Scanner),
    Events(EventStream),
    Lines(Lines),
    Polls(Polls),
}

/// One thing that a server says. Bytes may be cut off: `length` is what they were on the wire.
#[derive(Debug)]
pub(crate) enum Item<'i> {
    /// A message that is its payload; its offset in formats that have one beside it.
    Payload {
        offset: Option<u64>,
        length: u64,
        bytes: Cow<'i, [u8]>,
    },
    /// A message as the native JSON format has it, or an object with a `type`.
    Native {
        length: u64,
        bytes: Cow<'i, [u8]>,
    },
    /// A control object, what would be its `type` apart from it.
    Control(&'static str, Cow<'i, [u8]>),
    /// A message that lacks what its format promises.
    Malformed,
    Ping(Cow<'i, [u8]>),
    Close(Option<u16>),
    Polled(Polled),
    /// The last chunk.
    Last,
}

impl Incoming {
    pub(crate) fn new(format: Format) -> Self {
        let stream = match format {
            Format::Raw | Format::Json => Stream::Frames(Scanner::default()),
            Format::Sse => Stream::Events(EventStream::default()),
            Format::Events => Stream::Events(EventStream::remembering()),
            Format::Poll => Stream::Polls(Polls::default()),
            Format::Ndjson => Stream::Lines(Lines::default()),
        };
        Self { format, stream }
    }

    /// Where a stream of many topics is.
    pub(crate) fn last_id(&self) -> Option<&str> {
        match &self.stream {
            Stream::Events(events) => events.last_id(),
            _ => None,
        }
    }

    /// The next item in `input`, which is moved past what was used. `None`: all of it is used up.
    pub(crate) fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Item<'i>>, Violation> {
        match &mut self.stream {
            Stream::Frames(scanner) => {
                while let Some(frame) = scanner.next(input)? {
                    let (length, bytes) = (frame.length, frame.bytes);
                    return Ok(Some(match frame.opcode {
                        TEXT | BINARY if self.format == Format::Raw => {
                            Item::Payload { offset: None, length, bytes }
                        }
                        TEXT | BINARY => Item::Native { length, bytes },
                        PING => Item::Ping(bytes),
                        CLOSE => {
                            let code = bytes.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                            Item::Close(code)
                        }
                        PONG => continue,
                        _ => return Err(Violation("an unknown opcode")),
                    }));
                }
                Ok(None)
            }
            Stream::Events(events) => {
                while let Some(event) = events.next(input)? {
                    let (length, bytes) = (event.length, event.data);
                    return Ok(Some(match event.name {
                        Name::Message if self.format == Format::Events => Item::Native { length, bytes },
                        Name::Message if event.offset.is_none() => Item::Malformed,
                        Name::Message => Item::Payload { offset: event.offset, length, bytes },
                        Name::Gap => Item::Control("gap", bytes),
                        Name::Subscribed => Item::Control("subscribed", bytes),
                        Name::Other => continue,
                    }));
                }
                Ok(events.is_last().then_some(Item::Last))
            }
            Stream::Polls(polls) => Ok(polls.next(input)?.map(Item::Polled)),
            Stream::Lines(lines) => {
                while let Some(line) = lines.next(input)? {
                    // An empty line says that the server is there.
                    if line.length > 0 {
                        return Ok(Some(Item::Native { length: line.length, bytes: line.bytes }));
                    }
                }
                Ok(lines.is_last().then_some(Item::Last))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunks::tests::chunked;
    use crate::websocket::write_frame;

    #[test]
    fn each_format_has_its_items() {
        let check = |format, stream: &[u8], expect: &[Item<'_>]| {
            let (mut incoming, mut input, mut found) = (Incoming::new(format), stream, Vec::new());
            while let Some(item) = incoming.next(&mut input).unwrap() {
                let last = matches!(item, Item::Last);
                found.push(format!("{item:?}"));
                if last {
                    break;
                }
            }
            let expect: Vec<_> = expect.iter().map(|item| format!("{item:?}")).collect();
            assert_eq!(found, expect, "{format}");
        };
        let mut frames = Vec::new();
        write_frame(&mut frames, TEXT, b"{}");
        write_frame(&mut frames, PONG, b"");
        write_frame(&mut frames, PING, b"p");
        write_frame(&mut frames, CLOSE, &[16, 5]);
        let bytes = || Cow::Borrowed(&b"{}"[..]);
        let payload = |offset| Item::Payload { offset, length: 2, bytes: bytes() };
        let native = || Item::Native { length: 2, bytes: bytes() };
        let rest = || [Item::Ping(Cow::Borrowed(b"p")), Item::Close(Some(4101))];
        let [ping, close] = rest();
        check(Format::Raw, &frames, &[payload(None), ping, close]);
        let [ping, close] = rest();
        check(Format::Json, &frames, &[native(), ping, close]);
        let events = chunked(
            b":ok\nid: e:4\ndata: {}\n\nevent: gap\ndata: {}\n\ndata: {}\n\nevent: x\ndata: {}\n\n",
            90,
        );
        let gap = || Item::Control("gap", bytes());
        check(Format::Sse, &events, &[payload(Some(4)), gap(), Item::Malformed]);
        check(Format::Events, &events, &[native(), gap(), native()]);
        let lines = [&chunked(b"\n\n{}\n\n{}\n", 90)[..], b"0\r\n\r\n"].concat();
        check(Format::Ndjson, &lines, &[native(), native(), Item::Last]);
    }
}
