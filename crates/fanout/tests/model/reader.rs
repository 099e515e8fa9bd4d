//! A client that reads its bytes as WebSocket frames, and knows what it was promised.
//!
//! Answers carry a number, so each is a mark in the stream: the promise behind it begins to hold, or ends, where the mark
//! is read. Between the marks of a subscription the offsets must be dense, holes filled by gaps.

use std::collections::BTreeMap;

use bytes::Bytes;
use fanfare_fanout::SlowPolicy;
use fanfare_wire::FormatId;
use fanfare_wire::websocket::{OpCode, frame};
use serde_json::Value;

use super::Topics;

/// What an answer means to the client, from where it is read.
#[derive(Debug, Clone)]
pub(crate) enum Promise {
    /// Nothing.
    Answer,
    /// The topic's messages follow, from offset `next` on; those up to `start` are replay.
    Subscribed { topic: usize, next: u64, start: u64 },
    /// No message of the topic follows; the last one was `given`, from the least to the most.
    Unsubscribed { topic: usize, given: (u64, u64) },
}

/// What a client made of some bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) bytes: usize,
    /// How many of `bytes` were of gap frames.
    pub(crate) gap_bytes: usize,
    /// How many of `bytes` were of replayed messages, which wait as references.
    pub(crate) replay_bytes: usize,
    pub(crate) messages: u64,
    pub(crate) gaps: u64,
    /// How many messages the gaps announced.
    pub(crate) lost: u64,
}

/// The number of the last ping or pong that was sent, and of the last one that was read.
#[derive(Debug, Default)]
struct Numbers {
    sent: u64,
    read: u64,
}

/// One client.
pub(crate) struct Reader {
    format: FormatId,
    /// A frame that is not whole yet.
    unread: Vec<u8>,
    promises: Vec<Promise>,
    answers_read: usize,
    /// The next offset of each topic that is subscribed, as far as this client has read.
    next: BTreeMap<usize, u64>,
    /// Up to which offset its messages are replay.
    starts: BTreeMap<usize, u64>,
    replayed: u64,
    pings: Numbers,
    pongs: Numbers,
    /// Once the server began to close: what each topic was given by then, unless it threw away what waited.
    closing: Option<Option<BTreeMap<usize, (u64, u64)>>>,
    closed: bool,
    pub(crate) total: Kept,
}

/// An answer with its number.
pub(crate) fn control_frame(number: usize, filler: usize) -> Bytes {
    frame(OpCode::Text, format!("answer:{number}:{}", "x".repeat(filler)).as_bytes())
}

/// A ping or a pong with its number.
pub(crate) fn heartbeat_frame(kind: OpCode, number: u64) -> Bytes {
    frame(kind, number.to_string().as_bytes())
}

impl Reader {
    pub(crate) fn new(format: FormatId) -> Self {
        Self {
            format,
            unread: Vec::new(),
            promises: Vec::new(),
            answers_read: 0,
            next: BTreeMap::new(),
            starts: BTreeMap::new(),
            replayed: 0,
            pings: Numbers::default(),
            pongs: Numbers::default(),
            closing: None,
            closed: false,
            total: Kept::default(),
        }
    }

    // === what the server says it did ===

    /// The number of the next answer.
    pub(crate) fn next_answer(&self) -> usize {
        self.promises.len()
    }

    pub(crate) fn promise(&mut self, promise: Promise) {
        self.promises.push(promise);
    }

    /// Numbers a ping or a pong. A later one may replace it while it waits.
    pub(crate) fn expect_heartbeat(&mut self, kind: OpCode) -> u64 {
        let numbers = self.numbers(kind);
        numbers.sent += 1;
        numbers.sent
    }

    fn numbers(&mut self, kind: OpCode) -> &mut Numbers {
        if kind == OpCode::Ping { &mut self.pings } else { &mut self.pongs }
    }

    /// The server closes the connection after what it has `given`, or throws away what waits (`None`).
    pub(crate) fn expect_close(&mut self, given: Option<BTreeMap<usize, (u64, u64)>>) {
        self.closing = Some(given);
    }

    // === what arrives ===

    /// Whether a frame has begun and is not whole.
    pub(crate) fn is_mid_frame(&self) -> bool {
        !self.unread.is_empty()
    }

    pub(crate) fn read(&mut self, bytes: &[u8], topics: &Topics) -> Kept {
        let mut kept = Kept { bytes: bytes.len(), ..Kept::default() };
        let mut before = self.unread.len();
        self.unread.extend_from_slice(bytes);
        let mut unread = std::mem::take(&mut self.unread);
        let mut read = 0;
        while let Some((opcode, len, payload)) = whole_frame(&unread[read..]) {
            assert!(!self.closed, "a frame after the close frame");
            let (gaps_before, replayed_before) = (kept.gaps, self.replayed);
            match opcode {
                OpCode::Text => self.read_text(payload, topics, &mut kept),
                OpCode::Ping | OpCode::Pong => self.read_heartbeat(opcode, payload),
                OpCode::Close => self.read_close(),
                other => panic!("the server never sends {other:?}"),
            }
            if kept.gaps > gaps_before {
                kept.gap_bytes += len - before;
            }
            if self.replayed > replayed_before {
                kept.replay_bytes += len - before;
            }
            before = 0;
            read += len;
        }
        unread.drain(..read);
        self.unread = unread;
        self.total.bytes += kept.bytes;
        self.total.messages += kept.messages;
        self.total.gaps += kept.gaps;
        self.total.lost += kept.lost;
        kept
    }

    fn read_text(&mut self, payload: &[u8], topics: &Topics, kept: &mut Kept) {
        let text = std::str::from_utf8(payload).expect("text is UTF-8");
        if let Some(number) = text.strip_prefix("answer:") {
            let number = number.split(':').next().and_then(|number| number.parse().ok());
            return self.read_answer(number.expect("an answer has a number"));
        }
        if self.format == FormatId::RAW {
            kept.messages += 1;
            let mut parts = text.split(':');
            let topic = topics.find(parts.next().unwrap_or_default());
            let offset = parts.next().and_then(|offset| offset.parse().ok()).expect("a place");
            return self.read_message(topic, offset, text, topics);
        }
        let value: Value = serde_json::from_str(text).expect("the native format is JSON");
        let topic = topics.find(value["topic"].as_str().expect("every native frame here names its topic"));
        let number = |key: &str| value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {text}"));
        if value["type"] == "gap" {
            assert_eq!(value["epoch"], topics.epoch(topic).to_string());
            kept.gaps += 1;
            kept.lost += self.read_gap(topic, number("from"), number("to"), topics);
        } else {
            kept.messages += 1;
            let data = value["data"].as_str().expect("payloads here are text");
            self.read_message(topic, number("offset"), data, topics);
        }
    }

    fn read_answer(&mut self, number: usize) {
        assert_eq!(number, self.answers_read, "answers come in order and each once");
        self.answers_read += 1;
        match self.promises[number] {
            Promise::Answer => {}
            Promise::Subscribed { topic, next, start } => {
                self.starts.insert(topic, start);
                let before = self.next.insert(topic, next);
                assert_eq!(before, None, "topic {topic} was subscribed already");
            }
            Promise::Unsubscribed { topic, given } => {
                let next = self.next.remove(&topic).expect("only a subscription ends");
                check_given(topic, next, given);
            }
        }
    }

    fn read_message(&mut self, topic: usize, offset: u64, payload: &str, topics: &Topics) {
        let next = self.next.get_mut(&topic).unwrap_or_else(|| {
            panic!("message {offset} of topic {topic}, which is not subscribed here");
        });
        assert_eq!(offset, *next, "the next message of topic {topic}");
        assert_eq!(payload.as_bytes(), topics.payload(topic, offset), "as it was published");
        *next += 1;
        self.replayed += u64::from(offset <= self.starts[&topic]);
    }

    fn read_gap(&mut self, topic: usize, from: u64, to: u64, topics: &Topics) -> u64 {
        assert_eq!(topics.policy(topic), SlowPolicy::DropOldest, "a strict topic has no gaps");
        let next = self.next.get_mut(&topic).unwrap_or_else(|| {
            panic!("gap {from}-{to} of topic {topic}, which is not subscribed here");
        });
        assert_eq!(from, *next, "a gap of topic {topic} begins where its messages end");
        assert!(from <= to, "the gap {from}-{to} is empty");
        let (_, begun) = topics.given(topic);
        assert!(to <= begun.max(*next), "the gap {from}-{to} is of messages still to come: {begun}");
        *next = to + 1;
        to + 1 - from
    }

    fn read_heartbeat(&mut self, kind: OpCode, payload: &[u8]) {
        let number = std::str::from_utf8(payload).ok().and_then(|number| number.parse().ok());
        let number: u64 = number.expect("pings and pongs have a number");
        let Numbers { sent, read } = self.numbers(kind);
        assert!(number > *read, "{kind:?} {number} after {read}");
        assert!(number <= *sent, "{kind:?} {number} was never sent");
        *read = number;
    }

    fn read_close(&mut self) {
        self.closed = true;
        let given = self.closing.take().expect("only a connection that is being closed has a close frame");
        if let Some(given) = given {
            self.check_complete(&given);
        }
    }

    // === at the end ===

    /// Nothing waits for this client any more: it has everything it was promised.
    pub(crate) fn finish(&self, given: &BTreeMap<usize, (u64, u64)>) {
        assert!(self.unread.is_empty(), "a frame is cut off");
        assert!(self.closing.is_none(), "the close frame never came");
        if !self.closed {
            self.check_complete(given);
        }
    }

    fn check_complete(&self, given: &BTreeMap<usize, (u64, u64)>) {
        assert_eq!(self.answers_read, self.promises.len(), "every answer came");
        assert_eq!(self.pings.read, self.pings.sent, "the last ping came");
        assert_eq!(self.pongs.read, self.pongs.sent, "the last pong came");
        assert!(self.next.keys().eq(given.keys()), "{:?} is subscribed, not {given:?}", self.next);
        for (&topic, &next) in &self.next {
            check_given(topic, next, given[&topic]);
        }
    }
}

/// Checks that a subscription which now waits for `next` was given all it had to, and nothing from the future.
fn check_given(topic: usize, next: u64, (least, most): (u64, u64)) {
    let last = next - 1;
    assert!(last >= least, "topic {topic} ends at {last}, and {least} was delivered");
    assert!(last <= most, "topic {topic} ends at {last}, and only {most} was in a pass");
}

/// The frame at the front of `bytes`, if it is whole: what it is, its length and its payload.
fn whole_frame(bytes: &[u8]) -> Option<(OpCode, usize, &[u8])> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    assert_eq!(first & 0xf0, 0x80, "frames are final, without reserved bits");
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
    Some((opcode, bytes.len() - rest.len() + len, payload))
}
