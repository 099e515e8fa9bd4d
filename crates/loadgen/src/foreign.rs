//! What a server sends that is known by its adapter only: the bytes of frames or of a stream, to find stamps in.
//!
//! Bytes are handed out as they come, wherever frames, chunks and reads cut them: nothing here knows where a message ends.
//!
//! # Bounds       [`TOLD_BYTES_MAX`] while it is waited for what the server says before it is subscribed

use std::collections::VecDeque;

use crate::adapter::template::Values;
use crate::adapter::{Opcode, Subscribe, SubscribeTransport};
use crate::chunks::Chunks;
use crate::http;
use crate::scanner::Violation;
use crate::stamps::Stamps;
use crate::websocket::{BINARY, CLOSE, PING, PONG, TEXT, masked_frame};

const TOLD_BYTES_MAX: usize = 64 * 1024;

/// One connection.
#[derive(Debug)]
pub(crate) struct Foreign {
    framing: Framing,
    pub(crate) stamps: Stamps,
    /// What is to be sent, each after a text was seen or at once.
    to_send: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// It is subscribed when this was seen so many times.
    ready: Vec<u8>,
    ready_missing: usize,
    /// What came and is not looked at.
    told: Vec<u8>,
}

#[derive(Debug)]
enum Framing {
    Frames(Frames),
    Chunks(Chunks),
    /// Until the connection ends.
    Plain,
}

/// One thing that a server says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said<'i> {
    Bytes(&'i [u8]),
    Ping(Vec<u8>),
    Close(Option<u16>),
    Last,
}

impl Foreign {
    /// What is to be done on a connection whose answer has `head`, for `topics`.
    pub(crate) fn new(subscribe: &Subscribe, head: &str, topics: &[&str]) -> Self {
        let chunked = || {
            http::header(head, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        };
        let framing = match subscribe.transport {
            SubscribeTransport::Websocket => Framing::Frames(Frames::default()),
            SubscribeTransport::EventStream if chunked() => Framing::Chunks(Chunks::default()),
            SubscribeTransport::EventStream => Framing::Plain,
        };
        let opcode = match subscribe.opcode {
            Opcode::Text => TEXT,
            Opcode::Binary => BINARY,
        };
        let mut to_send = VecDeque::new();
        for send in &subscribe.send {
            let each = if send.frame().names_topic() { topics } else { &topics[..1] };
            for (at, &topic) in each.iter().enumerate() {
                let values = Values { topic, number: at as u64 + 1, ..Values::default() };
                let after = send.after().filter(|_| at == 0).map(|after| after.rendered(&values));
                let frame = masked_frame(opcode, &send.frame().rendered(&values));
                to_send.push_back((after.unwrap_or_default(), frame));
            }
        }
        let ready =
            subscribe.ready.as_ref().map(|ready| ready.rendered(&Values::default())).unwrap_or_default();
        let answers = if subscribe.takes_several_topics() { topics.len() } else { 1 };
        let ready_missing = if ready.is_empty() { 0 } else { answers };
        Self { framing, stamps: Stamps::default(), to_send, ready, ready_missing, told: Vec::new() }
    }

    /// All is sent, and the server said that it is subscribed, where it does.
    pub(crate) fn is_ready(&self) -> bool {
        self.to_send.is_empty() && self.ready_missing == 0
    }

    /// Takes note of what came before it is ready.
    pub(crate) fn hear(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if self.told.len() + bytes.len() > TOLD_BYTES_MAX {
            return Err(Violation("64 KiB before the subscription was answered"));
        }
        self.told.extend_from_slice(bytes);
        Ok(())
    }

    /// The frames that can be sent now.
    pub(crate) fn take_frames(&mut self) -> Vec<u8> {
        let mut frames = Vec::new();
        while let Some((after, frame)) = self.to_send.front() {
            if !see(&mut self.told, after) {
                break;
            }
            frames.extend_from_slice(frame);
            self.to_send.pop_front();
        }
        while self.to_send.is_empty() && self.ready_missing > 0 && see(&mut self.told, &self.ready) {
            self.ready_missing -= 1;
        }
        if self.is_ready() {
            self.told = Vec::new();
        }
        frames
    }

    /// What comes next in `input`, which is moved past it. `None`: all of it is used up.
    pub(crate) fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Said<'i>>, Violation> {
        match &mut self.framing {
            Framing::Frames(frames) => frames.next(input),
            Framing::Chunks(chunks) => match chunks.peek(input)? {
                Some(contents) => Ok(Some(Said::Bytes(chunks.take(input, contents.len())))),
                None => Ok(chunks.is_last().then_some(Said::Last)),
            },
            Framing::Plain if input.is_empty() => Ok(None),
            Framing::Plain => Ok(Some(Said::Bytes(std::mem::take(input)))),
        }
    }
}

/// Cuts `told` behind the first `text` in it, if it is there.
fn see(told: &mut Vec<u8>, text: &[u8]) -> bool {
    let end = memchr::memmem::find(told, text).map(|at| at + text.len());
    if let Some(end) = end {
        told.drain(..end);
    }
    end.is_some()
}

/// WebSocket frames (RFC 6455, section 5.2), fragmented or not.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; 10],
    head_bytes: usize,
    /// Of the payload; `None` while the head is not whole.
    missing: Option<u64>,
    control: Vec<u8>,
}

impl Frames {
    fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Said<'i>>, Violation> {
        loop {
            let Some(missing) = self.missing else {
                if !self.take_head(input)? {
                    return Ok(None);
                }
                continue;
            };
            let opcode = self.head[0] & 0x0f;
            let (part, rest) =
                input.split_at(input.len().min(usize::try_from(missing).unwrap_or(usize::MAX)));
            *input = rest;
            let missing = missing - part.len() as u64;
            self.missing = (missing > 0).then_some(missing);
            if opcode < 0x8 {
                // What continues, too.
                match part {
                    [] if missing > 0 => return Ok(None),
                    [] => continue,
                    part => return Ok(Some(Said::Bytes(part))),
                }
            }
            self.control.extend_from_slice(part);
            if missing > 0 {
                return Ok(None);
            }
            let control = std::mem::take(&mut self.control);
            match opcode {
                PING => return Ok(Some(Said::Ping(control))),
                CLOSE => {
                    let code = control.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                    return Ok(Some(Said::Close(code)));
                }
                PONG => {}
                _ => return Err(Violation("an unknown opcode")),
            }
        }
    }

    /// Whether a head is whole now.
    fn take_head(&mut self, input: &mut &[u8]) -> Result<bool, Violation> {
        loop {
            let have = self.head_bytes;
            let need = match self.head[1] & 0x7f {
                _ if have < 2 => 2,
                126 => 4,
                127 => 10,
                _ => 2,
            };
            if have == need {
                let (first, second) = (self.head[0], self.head[1]);
                let extended =
                    self.head[2..need].iter().fold(0, |length, &byte| length << 8 | u64::from(byte));
                let length = if need == 2 { u64::from(second & 0x7f) } else { extended };
                (self.head_bytes, self.missing) = (0, Some(length));
                return match () {
                    () if second & 0x80 != 0 => Err(Violation("a masked frame")),
                    () if first & 0x70 != 0 => Err(Violation("a reserved bit")),
                    () if first & 0x08 != 0 && length > 125 => {
                        Err(Violation("a control frame past 125 bytes"))
                    }
                    () => Ok(true),
                };
            }
            if input.is_empty() {
                return Ok(false);
            }
            let (part, rest) = input.split_at(input.len().min(need - have));
            self.head[have..have + part.len()].copy_from_slice(part);
            self.head_bytes += part.len();
            *input = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::write_frame;

    fn subscribe(text: &str) -> Subscribe {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn frames_cut_anywhere_have_the_same_bytes() {
        let mut stream = Vec::new();
        write_frame(&mut stream, TEXT, b"hello ");
        write_frame(&mut stream, PING, b"p");
        write_frame(&mut stream, BINARY, &[b'x'; 300]);
        stream.extend(b"\x01\x02ab\x00\x00\x80\x01c");
        write_frame(&mut stream, CLOSE, &[16, 5]);
        let contents = format!("hello {}abc", "x".repeat(300));
        for cut in 0..=stream.len() {
            let (mut frames, mut bytes, mut rest) = (Frames::default(), Vec::new(), Vec::new());
            for mut piece in [&stream[..cut], &stream[cut..]] {
                while let Some(said) = frames.next(&mut piece).unwrap() {
                    match said {
                        Said::Bytes(part) => bytes.extend_from_slice(part),
                        Said::Ping(ping) => rest.push(format!("{ping:?}")),
                        Said::Close(code) => rest.push(format!("{code:?}")),
                        Said::Last => panic!("frames have no last chunk"),
                    }
                }
            }
            assert_eq!(String::from_utf8(bytes).unwrap(), contents, "cut at {cut}");
            assert_eq!(rest, ["[112]", "Some(4101)"]);
        }
    }

    #[test]
    fn what_is_sent_waits_for_what_it_is_sent_after() {
        let subscribe = subscribe(
            "transport = 'websocket'\npath = '/'\nready = 'done'\n\
             send = ['hi', { after = 'welcome', frame = 'join {topic}' }]",
        );
        let mut foreign = Foreign::new(&subscribe, "", &["a", "b"]);
        let check = |foreign: &mut Foreign, hears: &str, sends: &[&str], ready| {
            foreign.hear(hears.as_bytes()).unwrap();
            let expect: Vec<_> = sends.iter().flat_map(|text| masked_frame(TEXT, text.as_bytes())).collect();
            assert_eq!(foreign.take_frames(), expect, "after {hears}");
            assert_eq!(foreign.is_ready(), ready, "after {hears}");
        };
        check(&mut foreign, "", &["hi"], false);
        check(&mut foreign, "done wel", &[], false);
        check(&mut foreign, "come!", &["join a", "join b"], false);
        check(&mut foreign, "done", &[], false);
        check(&mut foreign, "ne, done", &[], true);
    }

    #[test]
    fn without_a_word_to_wait_for_it_is_ready_at_once() {
        let subscribe = subscribe("transport = 'event-stream'\npath = '/{topic}'");
        let mut foreign = Foreign::new(&subscribe, "HTTP/1.1 200 OK\r\n\r\n", &["a"]);
        assert!(foreign.is_ready());
        assert_eq!(foreign.next(&mut &b"data: x"[..]), Ok(Some(Said::Bytes(b"data: x"))));
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut foreign = Foreign::new(&subscribe, head, &["a"]);
        let mut input = &b"3\r\nabc\r\n0\r\n\r\n"[..];
        assert_eq!(foreign.next(&mut input), Ok(Some(Said::Bytes(b"abc"))));
        assert_eq!(foreign.next(&mut input), Ok(Some(Said::Last)));
    }
}
