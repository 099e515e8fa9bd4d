//! Frame headers (RFC 6455, section 5.2): written for the server's frames, read from a client's.
//!
//! ```text
//!  byte 0                      byte 1                 then              then, client only
//! +-----+------+--------------+--------+-------------+-----------------+------------------+
//! | fin | rsv  | op code      | masked | length      | longer length   | masking key      |
//! |  1  |  3   |  4 bits      |   1    |  7 bits     | 0, 2 or 8 bytes | 4 bytes          |
//! +-----+------+--------------+--------+-------------+-----------------+------------------+
//! ```
//!
//! A 7-bit length of 126 says that the length is in the next 2 bytes, 127 that it is in the next 8, high byte
//! first.

use std::ops::Deref;

use bytes::Bytes;

use super::{fault::Fault, mask::mask};

/// The longest payload of a close, ping or pong, in bytes.
pub const CONTROL_BYTES_MAX: usize = 125;

/// The longest header of a client's frame, in bytes.
pub(super) const CLIENT_HEADER_BYTES_MAX: usize = 14;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
/// Under permessage-deflate: the message is compressed.
const RESERVED_1: u8 = 0x40;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
const LENGTH_IN_2_BYTES: u8 = 126;
const LENGTH_IN_8_BYTES: u8 = 127;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpCode {
    /// More of the message that the last data frame left open.
    Continuation = 0x0,
    /// A message of UTF-8, or its first fragment.
    Text = 0x1,
    /// A message of any bytes, or its first fragment.
    Binary = 0x2,
    /// The last frame of its sender.
    Close = 0x8,
    /// Asks for a pong with the same payload.
    Ping = 0x9,
    /// Answers a ping, or says that the sender lives.
    Pong = 0xa,
}

impl OpCode {
    /// Close, ping and pong: never fragmented, and allowed between the fragments of a message.
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    const fn from_wire(nibble: u8) -> Option<Self> {
        Some(match nibble {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }
}

/// The header of a server's frame, on the stack; derefs to its 2, 4 or 10 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; 10],
    len: usize,
}

impl Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// How many bytes stand before an unmasked payload of `len` bytes.
pub const fn header_len(len: usize) -> usize {
    match len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

/// The header of an unmasked frame with a payload of `len` bytes.
pub const fn encode_header(fin: bool, opcode: OpCode, len: usize) -> Header {
    let first = if fin { FIN | opcode as u8 } else { opcode as u8 };
    let [a, b, c, d, e, f, g, h] = (len as u64).to_be_bytes();
    let bytes = match header_len(len) {
        2 => [first, h, 0, 0, 0, 0, 0, 0, 0, 0],
        4 => [first, LENGTH_IN_2_BYTES, g, h, 0, 0, 0, 0, 0, 0],
        _ => [first, LENGTH_IN_8_BYTES, a, b, c, d, e, f, g, h],
    };
    Header { bytes, len: header_len(len) }
}

/// A whole unmasked frame, in one allocation of just its size.
pub fn frame(opcode: OpCode, payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(header_len(payload.len()) + payload.len());
    frame.extend_from_slice(&encode_header(true, opcode, payload.len()));
    frame.extend_from_slice(payload);
    Bytes::from(frame)
}

/// The same frame, marked as compressed (RFC 7692, section 6).
pub(super) fn compressed_frame(opcode: OpCode, payload: &[u8]) -> Bytes {
    let mut header = encode_header(true, opcode, payload.len());
    header.bytes[0] |= RESERVED_1;
    [&*header, payload].concat().into()
}

/// Appends a whole frame as a client sends it, masked with `key`.
pub fn encode_masked_frame(opcode: OpCode, payload: &[u8], key: [u8; 4], out: &mut Vec<u8>) {
    let mut header = encode_header(true, opcode, payload.len());
    header.bytes[1] |= MASKED;
    out.reserve(header.len() + key.len() + payload.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(&key);
    let start = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[start..], key, 0);
}

/// What the header of a client's frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientHeader {
    pub(super) fin: bool,
    /// The message that begins here is compressed.
    pub(super) compressed: bool,
    pub(super) opcode: OpCode,
    pub(super) len: u64,
    pub(super) key: [u8; 4],
}

impl ClientHeader {
    /// Reads the header at the start of `bytes`, and how long it is; `None` if its end is not there yet.
    ///
    /// Each rule is checked as soon as the byte it is about has come, in the order of the bytes: more bytes
    /// never turn one fault into another. `deflate` says whether permessage-deflate was negotiated.
    pub(super) fn decode(bytes: &[u8], deflate: bool) -> Result<Option<(Self, usize)>, Fault> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        let fin = first & FIN != 0;
        let opcode = OpCode::from_wire(first & OPCODE);
        // The one extension there is gives RSV1 a meaning, on the first frame of a message.
        let compressed = deflate
            && first & RESERVED == RESERVED_1
            && matches!(opcode, Some(OpCode::Text | OpCode::Binary));
        if first & RESERVED != 0 && !compressed {
            return Err(Fault::ReservedBit);
        }
        let opcode = opcode.ok_or(Fault::ReservedOpCode)?;
        if opcode.is_control() && !fin {
            return Err(Fault::ControlFragmented);
        }

        let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
        if second & MASKED == 0 {
            return Err(Fault::Unmasked);
        }
        let short = second & LENGTH;
        if opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX {
            return Err(Fault::ControlTooLong);
        }

        let (len, shortest, rest) = match short {
            LENGTH_IN_2_BYTES => {
                let Some((len, rest)) = rest.split_first_chunk() else { return Ok(None) };
                (u64::from(u16::from_be_bytes(*len)), 126, rest)
            }
            LENGTH_IN_8_BYTES => {
                let Some((len, rest)) = rest.split_first_chunk() else { return Ok(None) };
                (u64::from_be_bytes(*len), 0x1_0000, rest)
            }
            short => (u64::from(short), 0, rest),
        };
        if len < shortest {
            return Err(Fault::LengthNotMinimal);
        }
        if len >> 63 != 0 {
            return Err(Fault::LengthOverflow);
        }

        let Some((&key, rest)) = rest.split_first_chunk() else { return Ok(None) };
        Ok(Some((Self { fin, compressed, opcode, len, key }, bytes.len() - rest.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 4] = *b"KEY!";

    #[test]
    fn a_header_takes_the_shortest_length() {
        let check = |len, expect: &[u8]| {
            assert_eq!(&*encode_header(true, OpCode::Text, len), expect, "{len}");
            assert_eq!(header_len(len), expect.len(), "{len}");
        };
        check(0, b"\x81\x00");
        check(125, b"\x81\x7d");
        check(126, b"\x81\x7e\x00\x7e");
        check(65_535, b"\x81\x7e\xff\xff");
        check(65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00");
        check(1 << 32, b"\x81\x7f\x00\x00\x00\x01\x00\x00\x00\x00");
    }

    #[test]
    fn a_header_can_be_a_constant() {
        const PING: Header = encode_header(true, OpCode::Ping, 0);
        assert_eq!(&*PING, b"\x89\x00");
        assert_eq!(&*encode_header(false, OpCode::Binary, 3), b"\x02\x03");
    }

    #[test]
    fn a_frame_is_its_header_and_its_payload() {
        assert_eq!(&frame(OpCode::Binary, b"abc")[..], b"\x82\x03abc");
        let long = frame(OpCode::Text, &[b'x'; 300]);
        assert_eq!(&long[..4], b"\x81\x7e\x01\x2c");
        assert_eq!(long.len(), 304);
    }

    #[test]
    fn every_operation_code_is_known_and_no_other() {
        for nibble in 0..16 {
            let known = matches!(nibble, 0x0..=0x2 | 0x8..=0xa);
            assert_eq!(OpCode::from_wire(nibble).is_some(), known, "{nibble:#x}");
            assert!(OpCode::from_wire(nibble).is_none_or(|opcode| opcode as u8 == nibble), "{nibble:#x}");
        }
    }

    #[test]
    fn a_header_fails_at_the_byte_that_breaks_a_rule() {
        let check = |bytes: &[u8], expect| {
            assert_eq!(ClientHeader::decode(bytes, false), Err(expect), "{bytes:x?}");
            let before = &bytes[..bytes.len() - 1];
            assert_eq!(ClientHeader::decode(before, false), Ok(None), "{before:x?}");
            let after = [bytes, &[0xff; 14]].concat();
            assert_eq!(ClientHeader::decode(&after, false), Err(expect), "{after:x?}");
        };
        check(b"\xc1", Fault::ReservedBit);
        check(b"\xa1", Fault::ReservedBit);
        check(b"\x91", Fault::ReservedBit);
        check(b"\x83", Fault::ReservedOpCode);
        check(b"\x8b", Fault::ReservedOpCode);
        check(b"\x09", Fault::ControlFragmented);
        check(b"\x81\x05", Fault::Unmasked);
        check(b"\x88\xfe", Fault::ControlTooLong);
        check(b"\x89\xff", Fault::ControlTooLong);
        check(b"\x81\xfe\x00\x7d", Fault::LengthNotMinimal);
        check(b"\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff", Fault::LengthNotMinimal);
        check(b"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00", Fault::LengthOverflow);
    }

    #[test]
    fn rsv1_has_a_meaning_at_the_start_of_a_message_only() {
        let check = |first: u8, expect| {
            let frame = [&[first, 0x80], &KEY[..]].concat();
            let compressed = ClientHeader::decode(&frame, true);
            assert_eq!(compressed.map(|header| header.unwrap().0.compressed), expect, "{first:#x}");
        };
        check(0x81, Ok(false));
        check(0xc1, Ok(true));
        check(0x41, Ok(true));
        check(0xc2, Ok(true));
        check(0x80, Ok(false));
        for bad in [0xc0, 0x40, 0xc8, 0xc9, 0xca, 0xe1, 0xd1, 0xa1, 0x91, 0xc3] {
            check(bad, Err(Fault::ReservedBit));
        }
    }

    proptest! {
        #[test]
        fn what_a_client_encodes_is_decoded(
            fin: bool,
            opcode in prop::sample::select(vec![OpCode::Text, OpCode::Binary, OpCode::Continuation]),
            len in prop_oneof![0..300_usize, 65_000..66_000_usize],
        ) {
            let mut frame = Vec::new();
            encode_masked_frame(opcode, &vec![0; len], KEY, &mut frame);
            if !fin {
                frame[0] &= !FIN;
            }
            let expect = ClientHeader { fin, compressed: false, opcode, len: len as u64, key: KEY };
            let header_len = frame.len() - len;
            prop_assert_eq!(ClientHeader::decode(&frame, false), Ok(Some((expect, header_len))));
            for cut in 0..header_len {
                prop_assert_eq!(ClientHeader::decode(&frame[..cut], false), Ok(None));
            }
        }
    }
}
