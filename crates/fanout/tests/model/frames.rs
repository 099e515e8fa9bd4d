//! What a client sees of its bytes: WebSocket frames, or the chunks of an event stream.

use std::borrow::Cow;

use bytes::Bytes;
use fanfare_wire::FormatId;
use fanfare_wire::chunk::{self, chunk};
use fanfare_wire::websocket::{CloseCode, OpCode, close_frame, frame};
use serde_json::Value;

/// One frame, whatever carries it.
#[derive(Debug)]
pub(crate) enum Frame {
    Answer(usize),
    /// A payload as it was published.
    Raw(String),
    /// A native message or event.
    Native(Value),
    /// An epoch, and a sequence of the node.
    Mark(String, u64),
    Heartbeat(OpCode, u64),
    Close,
}

/// An answer with its number.
pub(crate) fn answer(format: FormatId, number: usize, filler: usize) -> Bytes {
    let text = format!("answer:{number}:{}", "x".repeat(filler));
    if format == FormatId::EVENTS {
        return chunk(format!(":{text}\n\n").as_bytes());
    }
    frame(OpCode::Text, text.as_bytes())
}

/// A ping or a pong with its number.
pub(crate) fn heartbeat(kind: OpCode, number: u64) -> Bytes {
    frame(kind, number.to_string().as_bytes())
}

/// The last frame of a conversation.
pub(crate) fn last(format: FormatId) -> Bytes {
    if format == FormatId::EVENTS { chunk::LAST } else { close_frame(CloseCode(4008), "slow") }
}

/// The frame at the front of `bytes`, if it is whole, and its length.
pub(crate) fn first(format: FormatId, bytes: &[u8]) -> Option<(Frame, usize)> {
    if format == FormatId::EVENTS {
        let (content, len) = whole_chunk(bytes)?;
        return Some((read_chunk(content), len));
    }
    let (opcode, compressed, len, payload) = whole_frame(bytes)?;
    let payload = match compressed {
        true => {
            assert_ne!(format, format.plain(), "compressed, for somebody who reads what is not");
            // The end of the flush, and an empty last block.
            let whole = [payload, &[0, 0, 0xff, 0xff, 3, 0]].concat();
            Cow::Owned(miniz_oxide::inflate::decompress_to_vec(&whole).expect("deflate data"))
        }
        false => Cow::Borrowed(payload),
    };
    let text = || std::str::from_utf8(&payload).expect("text is UTF-8");
    let read = match opcode {
        OpCode::Text => match text().strip_prefix("answer:") {
            Some(answer) => read_answer(answer),
            None if format.plain() == FormatId::RAW => Frame::Raw(text().to_owned()),
            None => Frame::Native(serde_json::from_str(text()).expect("the native format is JSON")),
        },
        OpCode::Ping | OpCode::Pong => {
            Frame::Heartbeat(opcode, text().parse().expect("pings and pongs have a number"))
        }
        OpCode::Close => Frame::Close,
        other => panic!("the server never sends {other:?}"),
    };
    Some((read, len))
}

fn read_answer(text: &str) -> Frame {
    let number = text.split(':').next().and_then(|number| number.parse().ok());
    Frame::Answer(number.expect("an answer has a number"))
}

fn read_chunk(content: &str) -> Frame {
    if content.is_empty() {
        return Frame::Close;
    }
    if let Some(answer) = content.strip_prefix(":answer:") {
        return read_answer(answer);
    }
    if let Some(mark) = content.strip_prefix("id: ") {
        let (epoch, sequence) = mark.trim_end().split_once(':').expect("two parts");
        return Frame::Mark(epoch.to_owned(), sequence.parse().expect("a number"));
    }
    let event = content.strip_suffix("\n\n").expect("an event ends with an empty line");
    let (kind, data) = match event.strip_prefix("event: ") {
        None => (None, event),
        Some(rest) => rest.split_once('\n').map(|(kind, data)| (Some(kind), data)).expect("two lines"),
    };
    let data = data.strip_prefix("data: ").expect("a data line");
    let mut value: Value = serde_json::from_str(data).expect("data is native JSON");
    if let Some(kind) = kind {
        value["type"] = kind.into();
    }
    Frame::Native(value)
}

fn whole_chunk(bytes: &[u8]) -> Option<(&str, usize)> {
    let line = bytes.iter().position(|byte| *byte == b'\n')?;
    let size = std::str::from_utf8(&bytes[..line - 1]).expect("a hexadecimal number");
    let size = usize::from_str_radix(size, 16).expect("a hexadecimal number");
    let content = bytes.get(line + 1..line + 1 + size)?;
    let end = bytes.get(line + 1 + size..line + 3 + size)?;
    assert_eq!(end, b"\r\n", "a chunk ends with a line end");
    Some((std::str::from_utf8(content).expect("events are UTF-8"), line + 3 + size))
}

/// The operation code, whether the message is compressed, the frame's length, its payload.
fn whole_frame(bytes: &[u8]) -> Option<(OpCode, bool, usize, &[u8])> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    let compressed = first == 0xc1;
    assert!(first & 0xf0 == 0x80 || compressed, "frames are final, without reserved bits");
    let opcode = match first & 0x0f {
        1 => OpCode::Text,
        8 => OpCode::Close,
        9 => OpCode::Ping,
        10 => OpCode::Pong,
        other => panic!("operation code {other:x} in the middle of nowhere"),
    };
    let (len, rest) = match second {
        127 => rest.split_first_chunk().map(|(len, rest)| (u64::from_be_bytes(*len) as usize, rest))?,
        126 => rest.split_first_chunk().map(|(len, rest)| (usize::from(u16::from_be_bytes(*len)), rest))?,
        len => {
            assert!(len < 126, "the server does not mask");
            (usize::from(len), rest)
        }
    };
    let payload = rest.get(..len)?;
    Some((opcode, compressed, bytes.len() - rest.len() + len, payload))
}
