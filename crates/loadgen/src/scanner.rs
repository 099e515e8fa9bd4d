//! Finds the frames in what a server sends, wherever the reads cut them.
//!
//! A frame that lies whole in the read buffer is handed out as a slice of it. One that is cut is collected in `spill`,
//! which is given away with the frame, so a subscriber at rest holds no buffer.
//!
//! # Bounds       of a cut frame only the first [`PREFIX_BYTES`] are kept; a frame past [`FRAME_BYTES_MAX`] is an error
//! # Invariants   cut anywhere, the same frames come out, up to their prefix

use std::borrow::Cow;

/// Enough for the envelope of a message with the longest topic, and for any control frame.
pub(crate) const PREFIX_BYTES: usize = 1024;
const FRAME_BYTES_MAX: u64 = 16 << 20;

/// One frame. `bytes` is its payload, cut off after [`PREFIX_BYTES`] if it came in pieces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'i> {
    pub(crate) opcode: u8,
    /// The payload's length on the wire.
    pub(crate) length: u64,
    pub(crate) bytes: Cow<'i, [u8]>,
}

/// Bytes that no server may send, in words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) &'static str);

/// Where in a frame the last read ended.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    head: [u8; 10],
    head_bytes: u8,
    /// `Some` from the end of the head to the end of the payload.
    body: Option<Body>,
    spill: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Body {
    opcode: u8,
    length: u64,
    missing: u64,
}

impl Scanner {
    /// The next whole frame in `input`, which is moved past what was used. `None`: all of it is used up.
    pub(crate) fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Frame<'i>>, Violation> {
        let Some(mut body) = self.body.take().map_or_else(|| self.take_head(input), |body| Ok(Some(body)))?
        else {
            return Ok(None);
        };
        let uncut = body.missing == body.length;
        let available = input.len().min(usize::try_from(body.missing).unwrap_or(usize::MAX));
        let (part, rest) = input.split_at(available);
        *input = rest;
        body.missing -= available as u64;
        if body.missing == 0 && uncut {
            return Ok(Some(Frame { opcode: body.opcode, length: body.length, bytes: Cow::Borrowed(part) }));
        }
        let kept = part.len().min(PREFIX_BYTES - self.spill.len());
        self.spill.extend_from_slice(&part[..kept]);
        if body.missing > 0 {
            self.body = Some(body);
            return Ok(None);
        }
        let bytes = Cow::Owned(std::mem::take(&mut self.spill));
        Ok(Some(Frame { opcode: body.opcode, length: body.length, bytes }))
    }

    /// Reads the head of a frame; `None` while it is not whole.
    fn take_head(&mut self, input: &mut &[u8]) -> Result<Option<Body>, Violation> {
        loop {
            let have = usize::from(self.head_bytes);
            let need = if have < 2 { 2 } else { head_length(self.head[1]) };
            if have == need {
                self.head_bytes = 0;
                return body_of(&self.head[..have]).map(Some);
            }
            if input.is_empty() {
                return Ok(None);
            }
            let (part, rest) = input.split_at(input.len().min(need - have));
            self.head[have..have + part.len()].copy_from_slice(part);
            self.head_bytes += part.len() as u8;
            *input = rest;
        }
    }
}

fn head_length(second: u8) -> usize {
    match second & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    }
}

fn body_of(head: &[u8]) -> Result<Body, Violation> {
    let (first, second) = (head[0], head[1]);
    let extended = head[2..].iter().fold(0, |length, &byte| length << 8 | u64::from(byte));
    let length = if head.len() == 2 { u64::from(second & 0x7f) } else { extended };
    let opcode = first & 0x0f;
    match () {
        () if second & 0x80 != 0 => Err(Violation("a masked frame")),
        () if first & 0x70 != 0 => Err(Violation("a reserved bit")),
        // Legal, but nothing that is measured here cuts its messages.
        () if first & 0x80 == 0 || opcode == 0 => Err(Violation("a fragmented message")),
        () if opcode >= 0x8 && length > 125 => Err(Violation("a control frame past 125 bytes")),
        () if length > FRAME_BYTES_MAX => Err(Violation("a frame past 16 MiB")),
        () => Ok(Body { opcode, length, missing: length }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::{BINARY, PING, TEXT, write_frame};

    /// Opcode, length and prefix of each frame in `pieces`, read one after another.
    fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<(u8, u64, Vec<u8>)> {
        let mut scanner = Scanner::default();
        let mut frames = Vec::new();
        for mut piece in pieces {
            while let Some(frame) = scanner.next(&mut piece).unwrap() {
                let prefix = frame.bytes[..frame.bytes.len().min(PREFIX_BYTES)].to_vec();
                frames.push((frame.opcode, frame.length, prefix));
            }
            assert!(piece.is_empty());
        }
        assert_eq!(scanner.spill.capacity(), 0, "a scanner at rest holds no buffer");
        frames
    }

    fn stream() -> Vec<u8> {
        let mut stream = Vec::new();
        write_frame(&mut stream, TEXT, b"hello");
        write_frame(&mut stream, PING, b"");
        write_frame(&mut stream, TEXT, &[b'x'; 125]);
        write_frame(&mut stream, BINARY, &[7; 126]);
        write_frame(&mut stream, TEXT, &(0..=255).cycle().take(1_500).collect::<Vec<_>>());
        write_frame(&mut stream, TEXT, b"end");
        stream
    }

    #[test]
    fn a_stream_cut_in_two_anywhere_gives_the_same_frames_as_the_whole() {
        let stream = stream();
        let whole = scan([&stream[..]]);
        assert_eq!(whole.iter().map(|frame| frame.1).collect::<Vec<_>>(), [5, 0, 125, 126, 1_500, 3]);
        for cut in 0..=stream.len() {
            assert_eq!(scan([&stream[..cut], &stream[cut..]]), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_stream_in_pieces_of_any_size_gives_the_same_frames_as_the_whole() {
        let stream = stream();
        let whole = scan([&stream[..]]);
        for size in 1..300 {
            assert_eq!(scan(stream.chunks(size)), whole, "pieces of {size}");
        }
    }

    #[test]
    fn a_frame_with_a_length_of_eight_bytes_is_followed_to_its_end() {
        let mut stream = Vec::new();
        write_frame(&mut stream, BINARY, &vec![1; 70_000]);
        write_frame(&mut stream, TEXT, b"next");
        let lengths = |pieces: Vec<_>| scan(pieces).iter().map(|frame| frame.1).collect::<Vec<_>>();
        assert_eq!(lengths(stream.chunks(4_096).collect()), [70_000, 4]);
    }

    #[test]
    fn bytes_that_no_server_may_send_are_violations() {
        let check = |mut bytes: &[u8], why| {
            assert_eq!(Scanner::default().next(&mut bytes).unwrap_err(), Violation(why));
        };
        check(&[0x81, 0x85], "a masked frame");
        check(&[0xc1, 0x05], "a reserved bit");
        check(&[0x01, 0x05], "a fragmented message");
        check(&[0x80, 0x05], "a fragmented message");
        check(&[0x89, 126, 0, 126], "a control frame past 125 bytes");
        check(&[0x82, 127, 0, 0, 0, 0, 0xff, 0, 0, 0], "a frame past 16 MiB");
    }
}
