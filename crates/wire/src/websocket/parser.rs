//! A client's bytes to messages and control frames: strict, incremental, no buffer between messages.
//!
//! The connections of a thread read into one scratch buffer, and [`Parser::feed`] goes over what was read. A
//! message that lies whole in it is unmasked in place and lent from there. Only what the end of the input
//! cuts, or what comes in fragments, is copied into the parser, and freed once the whole has been handed out.
//! Such a buffer grows with the bytes that came, never with the length a header claims, and what a text costs to
//! validate grows with its length, not with the number of its pieces. A compressed message is inflated once it is whole, and
//! a text is validated then. After a close frame or a fault nothing more comes out.
//!
//! # Owner        the connection; one parser for each
//! # Bounds       [`ParserLimits`], checked at each header, before a byte of its payload is kept
//! # Invariants   the same bytes give the same events and the same fault, however they are split

use std::{borrow::Cow, fmt, mem};

use super::{
    close::{CloseCode, parse_close},
    deflate,
    fault::Fault,
    header::{CLIENT_HEADER_BYTES_MAX, ClientHeader, OpCode},
    mask::mask,
};

/// What a client may send.
#[derive(Clone, Copy, Debug)]
pub struct ParserLimits {
    /// The longest message, all its fragments together, in bytes.
    pub message_bytes_max: usize,
    /// The most frames of one message, empty ones too; 1 refuses fragmented messages.
    pub fragments_max: u32,
    /// Whether permessage-deflate was negotiated: messages may be compressed. Their length is that of the payload.
    pub deflate: bool,
}

/// What a client sent, unmasked. Borrowed until the next call of [`Events::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A text message, whole.
    Text(&'a str),
    /// A binary message, whole.
    Binary(&'a [u8]),
    /// To be answered by a pong with the same payload of at most 125 bytes.
    Ping(&'a [u8]),
    /// An answer to a ping, or a sign of life nobody asked for.
    Pong(&'a [u8]),
    /// The client's last frame, with its code and reason unless it was empty.
    Close(Option<(CloseCode, &'a str)>),
}

/// The state of one client's byte stream.
pub struct Parser {
    state: State,
    /// The data message that some bytes or fragments are here of, but not all.
    message: Option<Box<Assembly>>,
    /// The payload so far of a control frame that the end of an input cut.
    control: Vec<u8>,
}

impl Parser {
    /// At the start of a stream, just behind the handshake.
    pub const fn new() -> Self {
        Self { state: State::Header(HeaderBytes::NONE), message: None, control: Vec::new() }
    }

    /// Goes over the next bytes of the stream, unmasking them in place.
    ///
    /// Call [`Events::next`] until it returns `None`, or give the connection up: bytes not parsed are lost.
    pub fn feed<'p>(&'p mut self, input: &'p mut [u8], limits: ParserLimits) -> Events<'p> {
        Events { parser: self, input, limits, current: None }
    }

    /// Goes on until a message or control frame is whole; `None` if `input` is used up before.
    fn advance<'p>(
        &mut self,
        input: &mut &'p mut [u8],
        limits: ParserLimits,
    ) -> Result<Option<Whole<'p>>, Fault> {
        loop {
            match &mut self.state {
                State::Header(bytes) => {
                    let Some(header) = bytes.read(input, limits.deflate)? else { return Ok(None) };
                    self.state = State::Payload(self.begin(header, limits)?);
                }
                State::Payload(frame) => {
                    let payload = frame.read(input);
                    let frame = *frame;
                    if frame.left == 0 {
                        self.state = State::Header(HeaderBytes::NONE);
                    } else if payload.is_empty() {
                        return Ok(None);
                    }
                    let whole = if frame.opcode.is_control() {
                        self.collect_control(frame, payload)
                    } else {
                        self.collect_data(frame, payload, limits)?
                    };
                    if whole.is_some() {
                        return Ok(whole);
                    }
                }
                State::Closed => return Ok(None),
            }
        }
    }

    /// Checks a header against the message it belongs to, and against the limits.
    fn begin(&mut self, header: ClientHeader, limits: ParserLimits) -> Result<Frame, Fault> {
        let ClientHeader { fin, compressed, opcode, len, key } = header;
        let left = usize::try_from(len).map_err(|_| Fault::MessageTooBig)?;
        if !opcode.is_control() {
            let (fragments, bytes, compressed) = match (&mut self.message, opcode) {
                (None, OpCode::Continuation) => return Err(Fault::ContinuationAlone),
                (None, _) => (1, 0, compressed),
                (Some(message), OpCode::Continuation) => {
                    message.fragments = message.fragments.saturating_add(1);
                    (message.fragments, message.bytes.len(), message.compressed)
                }
                (Some(_), _) => return Err(Fault::MessageInterrupted),
            };
            if fragments > limits.fragments_max {
                return Err(Fault::TooManyFragments);
            }
            let bytes_max = match compressed {
                true => deflate::compressed_bytes_max(limits.message_bytes_max),
                false => limits.message_bytes_max,
            };
            if left > bytes_max.saturating_sub(bytes) {
                return Err(Fault::MessageTooBig);
            }
        }
        Ok(Frame { opcode, fin, compressed, key, phase: 0, left })
    }

    /// Takes in the unmasked bytes that just came of a control frame.
    fn collect_control<'p>(&mut self, frame: Frame, payload: &'p [u8]) -> Option<Whole<'p>> {
        let ends = frame.left == 0;
        if ends && self.control.is_empty() {
            return Some(Whole { opcode: frame.opcode, payload: Cow::Borrowed(payload) });
        }
        self.control.extend_from_slice(payload);
        ends.then(|| Whole { opcode: frame.opcode, payload: Cow::Owned(mem::take(&mut self.control)) })
    }

    /// Takes in the unmasked bytes that just came of a data frame.
    fn collect_data<'p>(
        &mut self,
        frame: Frame,
        payload: &'p [u8],
        limits: ParserLimits,
    ) -> Result<Option<Whole<'p>>, Fault> {
        let ends = frame.left == 0 && frame.fin;
        if ends && self.message.is_none() {
            let whole = Whole { opcode: frame.opcode, payload: Cow::Borrowed(payload) };
            return (if frame.compressed { whole.inflated(limits) } else { Ok(whole) }).map(Some);
        }
        let message = self.message.get_or_insert_with(|| Box::new(Assembly::new(frame)));
        message.push(payload)?;
        if !ends {
            return Ok(None);
        }
        self.message.take().map(|message| message.into_whole(limits)).transpose()
    }

    /// Ends the stream, and frees what was kept of it.
    fn close(&mut self) {
        *self = Self { state: State::Closed, ..Self::new() };
    }
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Parser {
    /// Says where the stream stands; what the client sent is none of a log's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, left) = match &self.state {
            State::Header(bytes) => ("header", CLIENT_HEADER_BYTES_MAX - bytes.len),
            State::Payload(frame) => ("payload", frame.left),
            State::Closed => ("closed", 0),
        };
        f.debug_struct("Parser").field("state", &state).field("left", &left).finish_non_exhaustive()
    }
}

/// The events of one input, from [`Parser::feed`].
#[must_use = "the input is parsed as its events are taken"]
pub struct Events<'p> {
    parser: &'p mut Parser,
    /// What no event was made of yet.
    input: &'p mut [u8],
    limits: ParserLimits,
    /// What the last event borrows from, if it was not whole in the input.
    current: Option<Whole<'p>>,
}

impl Events<'_> {
    /// The next event, or the fault that ends the stream; `None` when the input is used up.
    ///
    /// Not an `Iterator`: an event borrows from `self`.
    #[expect(clippy::should_implement_trait, reason = "an `Iterator` cannot lend from itself")]
    pub fn next(&mut self) -> Option<Result<Event<'_>, Fault>> {
        let whole = match self.parser.advance(&mut self.input, self.limits) {
            Ok(whole) => whole?,
            Err(fault) => {
                self.parser.close();
                return Some(Err(fault));
            }
        };
        let event = self.current.insert(whole).event();
        if matches!(event, Ok(Event::Close(_)) | Err(_)) {
            self.parser.close();
        }
        Some(event)
    }
}

/// Where the stream stands.
enum State {
    /// Between two frames, or inside a header.
    Header(HeaderBytes),
    /// Behind a header, or inside a payload.
    Payload(Frame),
    /// Behind a close frame or a fault. Whatever comes is ignored.
    Closed,
}

/// A header that the end of an input cut.
struct HeaderBytes {
    bytes: [u8; CLIENT_HEADER_BYTES_MAX],
    len: usize,
}

impl HeaderBytes {
    const NONE: Self = Self { bytes: [0; CLIENT_HEADER_BYTES_MAX], len: 0 };

    /// Takes the rest of a header from the front of `input`, or all of `input` if that is not enough.
    fn read(&mut self, input: &mut &mut [u8], deflate: bool) -> Result<Option<ClientHeader>, Fault> {
        let room = &mut self.bytes[self.len..];
        let copied = room.len().min(input.len());
        room[..copied].copy_from_slice(&input[..copied]);

        let seen = self.len + copied;
        let header = ClientHeader::decode(&self.bytes[..seen], deflate)?;
        // The bytes kept from before were no header, so that a header is always longer than they are.
        let used = header.map_or(copied, |(_, header_len)| header_len - self.len);
        *input = &mut mem::take(input)[used..];
        self.len += used;
        Ok(header.map(|(header, _)| header))
    }
}

/// A frame behind its header.
#[derive(Clone, Copy)]
struct Frame {
    opcode: OpCode,
    fin: bool,
    /// Of a message's first frame: whether the message is compressed.
    compressed: bool,
    key: [u8; 4],
    /// Which byte of `key` is next.
    phase: u8,
    /// How many bytes of the payload have not come.
    left: usize,
}

impl Frame {
    /// Takes and unmasks what `input` has of the payload.
    fn read<'p>(&mut self, input: &mut &'p mut [u8]) -> &'p mut [u8] {
        let len = self.left.min(input.len());
        let payload = input.split_off_mut(..len).unwrap_or_default();
        mask(payload, self.key, usize::from(self.phase));
        self.phase = ((usize::from(self.phase) + len) % 4) as u8;
        self.left -= len;
        payload
    }
}

/// A data message that is not whole yet.
struct Assembly {
    /// Text or binary.
    opcode: OpCode,
    compressed: bool,
    fragments: u32,
    bytes: Vec<u8>,
    /// How many bytes of a text are known to be UTF-8: all but a character that is cut at the end.
    valid: usize,
}

impl Assembly {
    const fn new(Frame { opcode, compressed, .. }: Frame) -> Self {
        Self { opcode, compressed, fragments: 1, bytes: Vec::new(), valid: 0 }
    }

    /// A text fails at its first bad byte: a client that sends garbage should not get to send all of it.
    fn push(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.bytes.extend_from_slice(payload);
        if self.opcode == OpCode::Text && !self.compressed {
            match str::from_utf8(&self.bytes[self.valid..]) {
                Ok(text) => self.valid += text.len(),
                Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
                Err(_) => return Err(Fault::TextNotUtf8),
            }
        }
        Ok(())
    }

    fn into_whole(self, limits: ParserLimits) -> Result<Whole<'static>, Fault> {
        let whole = Whole { opcode: self.opcode, payload: Cow::Owned(self.bytes) };
        if self.compressed { whole.inflated(limits) } else { Ok(whole) }
    }
}

/// A whole message or control frame: in the input if it was whole there, or else in a buffer of its own.
struct Whole<'p> {
    /// Never a continuation: a message has the code of its first frame.
    opcode: OpCode,
    payload: Cow<'p, [u8]>,
}

impl Whole<'_> {
    /// The message that a compressed one stands for.
    fn inflated(self, limits: ParserLimits) -> Result<Whole<'static>, Fault> {
        let payload = deflate::inflate(&self.payload, limits.message_bytes_max)?;
        Ok(Whole { opcode: self.opcode, payload: Cow::Owned(payload) })
    }

    fn event(&self) -> Result<Event<'_>, Fault> {
        let payload = &*self.payload;
        Ok(match self.opcode {
            OpCode::Text => Event::Text(str::from_utf8(payload).map_err(|_| Fault::TextNotUtf8)?),
            OpCode::Binary | OpCode::Continuation => Event::Binary(payload),
            OpCode::Ping => Event::Ping(payload),
            OpCode::Pong => Event::Pong(payload),
            OpCode::Close => Event::Close(parse_close(payload)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::encode_masked_frame;

    const LIMITS: ParserLimits = ParserLimits { message_bytes_max: 1000, fragments_max: 4, deflate: false };
    const DEFLATE: ParserLimits = ParserLimits { deflate: true, ..LIMITS };

    const CONTINUATION: u8 = 0x80;
    const TEXT: u8 = 0x81;
    const BINARY: u8 = 0x82;
    const CLOSE: u8 = 0x88;
    const PING: u8 = 0x89;
    const PONG: u8 = 0x8a;
    /// Takes the final bit away: more fragments follow.
    const MORE: u8 = 0x7f;

    /// A masked frame with any first byte, legal or not.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        encode_masked_frame(OpCode::Text, payload, *b"KEY!", &mut frame);
        frame[0] = first;
        frame
    }

    /// Parses the frames, as one input and cut into pieces of several sizes, down to single bytes.
    fn check(name: &str, frames: &[Vec<u8>], expect: &[Result<Event<'_>, Fault>]) {
        check_with(LIMITS, name, frames, expect);
    }

    fn check_with(limits: ParserLimits, name: &str, frames: &[Vec<u8>], expect: &[Result<Event<'_>, Fault>]) {
        let stream = frames.concat();
        for piece_len in [stream.len(), 64, 7, 5, 3, 2, 1] {
            let mut parser = Parser::new();
            let mut expect = expect.iter();
            for piece in stream.clone().chunks_mut(piece_len) {
                let mut events = parser.feed(piece, limits);
                while let Some(event) = events.next() {
                    assert_eq!(Some(&event), expect.next(), "{name}, in pieces of {piece_len}");
                }
            }
            assert_eq!(None, expect.next(), "{name}, in pieces of {piece_len}");
        }
    }

    #[test]
    fn messages_and_control_frames_come_out_as_sent() {
        use Event::{Binary, Close, Ping, Pong, Text};
        let long = [b'x'; 1000];
        let long_text = str::from_utf8(&long).unwrap();

        check("text", &[frame(TEXT, b"hello")], &[Ok(Text("hello"))]);
        check("empty text", &[frame(TEXT, b"")], &[Ok(Text(""))]);
        check("empty binary", &[frame(BINARY, b"")], &[Ok(Binary(b""))]);
        check("any bytes", &[frame(BINARY, b"\x00\xff\xfe")], &[Ok(Binary(b"\x00\xff\xfe"))]);
        check("2-byte length", &[frame(BINARY, &long[..126])], &[Ok(Binary(&long[..126]))]);
        check("just the longest", &[frame(TEXT, &long)], &[Ok(Text(long_text))]);
        check("two", &[frame(TEXT, b"a"), frame(TEXT, b"b")], &[Ok(Text("a")), Ok(Text("b"))]);
        check("ping and pong", &[frame(PING, b"1"), frame(PONG, b"")], &[Ok(Ping(b"1")), Ok(Pong(b""))]);
        check("longest ping", &[frame(PING, &long[..125])], &[Ok(Ping(&long[..125]))]);
        check("empty close", &[frame(CLOSE, b"")], &[Ok(Close(None))]);
        let close = Close(Some((CloseCode::NORMAL, "bye")));
        check("close with a reason", &[frame(CLOSE, b"\x03\xe8bye")], &[Ok(close)]);
    }

    #[test]
    fn fragments_make_one_message() {
        use Event::{Binary, Ping, Pong, Text};
        let fragments =
            [frame(TEXT & MORE, b"a"), frame(CONTINUATION & MORE, b"b"), frame(CONTINUATION, b"c")];
        check("three", &fragments, &[Ok(Text("abc"))]);
        let twice = [&fragments[..], &fragments[..]].concat();
        check("three, twice", &twice, &[Ok(Text("abc")), Ok(Text("abc"))]);
        let empty = [frame(BINARY & MORE, b""), frame(CONTINUATION, b"")];
        check("empty ones", &empty, &[Ok(Binary(b""))]);
        let between = [
            frame(BINARY & MORE, b"a"),
            frame(PING, b"p"),
            frame(PONG, b""),
            frame(CONTINUATION, b"b"),
            frame(TEXT, b"t"),
        ];
        check(
            "control frames between",
            &between,
            &[Ok(Ping(b"p")), Ok(Pong(b"")), Ok(Binary(b"ab")), Ok(Text("t"))],
        );
    }

    #[test]
    fn the_stream_ends_at_a_breach_of_the_framing_rules() {
        let check = |name, bad: Vec<u8>, fault| {
            let ping = Ok(Event::Ping(b"before"));
            check(name, &[frame(PING, b"before"), bad, frame(TEXT, b"after")], &[ping, Err(fault)]);
        };
        check("not masked", b"\x81\x05hello".to_vec(), Fault::Unmasked);
        check("rsv1 without an extension", frame(TEXT | 0x40, b"x"), Fault::ReservedBit);
        check("rsv2", frame(TEXT | 0x20, b"x"), Fault::ReservedBit);
        check("rsv3 on a ping", frame(PING | 0x10, b""), Fault::ReservedBit);
        check("reserved data frame", frame(0x83, b"x"), Fault::ReservedOpCode);
        check("reserved control frame", frame(0x8f, b"x"), Fault::ReservedOpCode);
        check("long ping", frame(PING, &[0; 126]), Fault::ControlTooLong);
        check("long pong", frame(PONG, &[0; 126]), Fault::ControlTooLong);
        check("long close", frame(CLOSE, &[0; 126]), Fault::ControlTooLong);
        check("fragmented ping", frame(PING & MORE, b""), Fault::ControlFragmented);
        check("fragmented pong", frame(PONG & MORE, b""), Fault::ControlFragmented);
        check("fragmented close", frame(CLOSE & MORE, b""), Fault::ControlFragmented);
        check("2-byte length of 125", b"\x82\xfe\x00\x7d".to_vec(), Fault::LengthNotMinimal);
        let wide = b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff".to_vec();
        check("8-byte length of 65535", wide, Fault::LengthNotMinimal);
        check("highest bit of a length", b"\x82\xff\x80\0\0\0\0\0\0\0".to_vec(), Fault::LengthOverflow);
        check("continuation of nothing", frame(CONTINUATION, b"x"), Fault::ContinuationAlone);
        check("open continuation of nothing", frame(CONTINUATION & MORE, b"x"), Fault::ContinuationAlone);
        let interrupted = [frame(TEXT & MORE, b"a"), frame(TEXT, b"b")].concat();
        check("text inside a text", interrupted, Fault::MessageInterrupted);
        let interrupted = [frame(TEXT & MORE, b""), frame(BINARY & MORE, b"")].concat();
        check("fragment of another message", interrupted, Fault::MessageInterrupted);
    }

    #[test]
    fn a_message_past_a_limit_ends_the_stream() {
        let check = |name, frames: &[Vec<u8>], fault| check(name, frames, &[Err(fault)]);
        let open = |payload: &[u8]| frame(TEXT & MORE, payload);
        let more = |payload: &[u8]| frame(CONTINUATION & MORE, payload);

        check("one byte too long", &[frame(TEXT, &[b'x'; 1001])], Fault::MessageTooBig);
        let claims_most = b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xffKEY!".to_vec();
        check("claims 2^63 - 1 bytes", &[claims_most], Fault::MessageTooBig);
        let claims_rest = frame(CONTINUATION, &[b'x'; 991])[..8].to_vec();
        check("one byte in fragments", &[open(b"0123456789"), claims_rest], Fault::MessageTooBig);
        let empty = [open(b""), more(b""), more(b""), more(b""), more(b"")];
        check("empty fragments", &empty, Fault::TooManyFragments);
        let last = [open(b"1"), more(b"2"), more(b"3"), more(b"4"), frame(CONTINUATION, b"5")];
        check("one fragment", &last, Fault::TooManyFragments);
    }

    /// A compressed text, marked as such by its first byte.
    const COMPRESSED: u8 = TEXT | 0x40;
    const HELLO: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";

    #[test]
    fn compressed_messages_come_out_inflated() {
        use Event::{Binary, Ping, Text};
        let check = |name, frames: &[Vec<u8>], expect: &[_]| check_with(DEFLATE, name, frames, expect);
        check("whole", &[frame(COMPRESSED, HELLO)], &[Ok(Text("Hello"))]);
        check("binary", &[frame(BINARY | 0x40, HELLO)], &[Ok(Binary(b"Hello"))]);
        check("empty", &[frame(COMPRESSED, b"\0")], &[Ok(Text(""))]);
        let (head, tail) = HELLO.split_at(3);
        let fragments = [frame(COMPRESSED & MORE, head), frame(PING, b""), frame(CONTINUATION, tail)];
        check("in fragments", &fragments, &[Ok(Ping(b"")), Ok(Text("Hello"))]);
        let empty = [frame(COMPRESSED & MORE, b""), frame(CONTINUATION, HELLO)];
        check("behind an empty fragment", &empty, &[Ok(Text("Hello"))]);
        let mixed =
            [frame(TEXT, b"a"), frame(COMPRESSED, HELLO), frame(TEXT & MORE, b"b"), frame(0x80, b"c")];
        check("among others", &mixed, &[Ok(Text("a")), Ok(Text("Hello")), Ok(Text("bc"))]);
    }

    #[test]
    fn a_compressed_message_that_is_none_ends_the_stream() {
        let check = |name, frames: &[Vec<u8>], fault| check_with(DEFLATE, name, frames, &[Err(fault)]);
        check("no data", &[frame(COMPRESSED, b"")], Fault::Deflate);
        check("cut", &[frame(COMPRESSED, &HELLO[..4])], Fault::Deflate);
        check(
            "cut, in fragments",
            &[frame(COMPRESSED & MORE, b"\xf2"), frame(CONTINUATION, b"")],
            Fault::Deflate,
        );
        let bad_text = b"\x00\x02\x00\xfd\xff\xc0\xaf\x00";
        check("not UTF-8", &[frame(COMPRESSED, bad_text)], Fault::TextNotUtf8);
        check("marked in its middle", &[frame(COMPRESSED & MORE, b""), frame(0xc0, b"")], Fault::ReservedBit);
        check("compressed ping", &[frame(PING | 0x40, b"")], Fault::ReservedBit);

        // A run of 1,001 bytes in 8 bytes, and as many claimed as no message of 1,000 bytes takes.
        let bomb = deflate::frame(OpCode::Text, &[b'x'; 1001]).unwrap();
        check("one byte too long", &[frame(COMPRESSED, &bomb[2..])], Fault::MessageTooBig);
        let claims = frame(COMPRESSED, &[0; 1190])[..8].to_vec();
        check("longer than any", &[claims], Fault::MessageTooBig);
    }

    #[test]
    fn an_inflated_message_is_as_long_as_it_may_be() {
        let text = str::from_utf8(&[b'x'; 1000]).unwrap();
        let longest = deflate::frame(OpCode::Text, text.as_bytes()).unwrap();
        let frames = [frame(COMPRESSED, &longest[2..]), frame(TEXT, b"next")];
        check_with(DEFLATE, "longest", &frames, &[Ok(Event::Text(text)), Ok(Event::Text("next"))]);
        // What does not compress: longer on its way than it is.
        let stored = [b"\x00\xe8\x03\x17\xfc", text.as_bytes(), b"\x00"].concat();
        check_with(DEFLATE, "stored", &[frame(COMPRESSED, &stored)], &[Ok(Event::Text(text))]);
    }

    #[test]
    fn text_is_utf8_across_fragments_or_ends_the_stream() {
        let fault = [Err(Fault::TextNotUtf8)];
        let good = "k\u{f6}\u{df}\u{20ac}\u{10ffff}";
        for cut in 0..good.len() {
            let (head, tail) = good.as_bytes().split_at(cut);
            let frames = [frame(TEXT & MORE, head), frame(PING, b""), frame(CONTINUATION, tail)];
            check("cut anywhere", &frames, &[Ok(Event::Ping(b"")), Ok(Event::Text(good))]);
        }

        let bad: [(&str, &[u8]); 6] = [
            ("lone continuation", b"ok\x80ok"),
            ("overlong", b"\xc0\xaf"),
            ("surrogate", b"\xed\xa0\x80"),
            ("past the last character", b"\xf4\x90\x80\x80"),
            ("character broken off", b"\xe2\x82ok"),
            ("character cut by the end", b"ok\xe2\x82"),
        ];
        for (name, bad) in bad {
            check(name, &[frame(TEXT, bad)], &fault);
            for cut in 0..bad.len() {
                let (head, tail) = bad.split_at(cut);
                check(name, &[frame(TEXT & MORE, head), frame(CONTINUATION, tail)], &fault);
            }
        }
    }

    #[test]
    fn text_fails_at_its_first_bad_byte() {
        let stream = frame(TEXT, b"\xce\xba\xed\xa0 and much more");
        let (seen, rest) = (6 + 3, 6 + 4);
        check("up to there", &[stream[..seen].to_vec()], &[]);
        check("with the bad byte", &[stream[..rest].to_vec()], &[Err(Fault::TextNotUtf8)]);
        let ping_after = [frame(TEXT & MORE, b"\xff"), frame(PING, b"")];
        check("before the frame behind it", &ping_after, &[Err(Fault::TextNotUtf8)]);
    }

    #[test]
    fn nothing_comes_after_a_close_frame() {
        let check = |name, payload: &[u8], expect| {
            check(name, &[frame(CLOSE, payload), frame(TEXT, b"x")], &[expect])
        };
        check("empty", b"", Ok(Event::Close(None)));
        check("code", b"\x03\xe8", Ok(Event::Close(Some((CloseCode::NORMAL, "")))));
        check("half a code", b"\x03", Err(Fault::CloseLength));
        check("code for local use", b"\x03\xee", Err(Fault::CloseCode(CloseCode(1006))));
        check("reason", b"\x03\xe8\xff", Err(Fault::CloseReason));
    }

    #[test]
    fn a_message_whole_in_the_input_is_lent_from_it() {
        let mut input = [frame(TEXT, b"text"), frame(BINARY, b"binary"), frame(PING, b"ping")].concat();
        let span = input.as_ptr_range();
        let mut parser = Parser::new();
        let mut events = parser.feed(&mut input, LIMITS);

        let Some(Ok(Event::Text(text))) = events.next() else { panic!("no text") };
        assert!(span.contains(&text.as_ptr()));
        let Some(Ok(Event::Binary(binary))) = events.next() else { panic!("no binary") };
        assert!(span.contains(&binary.as_ptr()));
        let Some(Ok(Event::Ping(ping))) = events.next() else { panic!("no ping") };
        assert!(span.contains(&ping.as_ptr()));
    }

    /// Feeds all of `input`, and says what the parser holds when its events are dropped.
    fn held_after(parser: &mut Parser, mut input: Vec<u8>, limits: ParserLimits) -> usize {
        let mut events = parser.feed(&mut input, limits);
        while events.next().is_some() {}
        let message =
            parser.message.as_ref().map_or(0, |message| size_of::<Assembly>() + message.bytes.capacity());
        message + parser.control.capacity()
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let limits = ParserLimits { message_bytes_max: 1 << 31, fragments_max: 1, ..LIMITS };
        let mut parser = Parser::new();
        let claims_one_gib = b"\x82\xff\0\0\0\0\x40\0\0\0KEY!".to_vec();
        assert_eq!(held_after(&mut parser, claims_one_gib, limits), 0);
        let held = held_after(&mut parser, vec![0; 100], limits);
        assert!((100..=300).contains(&held), "{held} bytes held of 100");
    }

    #[test]
    fn an_idle_parser_is_small_and_owns_no_heap() {
        assert!(size_of::<Parser>() <= 64, "{}", size_of::<Parser>());

        let check = |name, frames: &[Vec<u8>]| {
            let mut parser = Parser::new();
            let stream = frames.concat();
            let (last, most) = stream.split_last().unwrap();
            assert_ne!(held_after(&mut parser, most.to_vec(), LIMITS), 0, "{name}, but for a byte");
            assert_eq!(held_after(&mut parser, vec![*last], LIMITS), 0, "{name}");
        };
        check("cut ping", &[frame(PING, b"ping")]);
        check("cut text", &[frame(TEXT, b"text")]);
        check("fragments", &[frame(TEXT & MORE, b"text"), frame(CONTINUATION, b"")]);
        check("close inside a message", &[frame(TEXT & MORE, b"text"), frame(CLOSE, b"")]);
        check("fault inside a message", &[frame(TEXT & MORE, b"text"), vec![0xff]]);
    }
}
