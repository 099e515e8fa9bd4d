//! permessage-deflate (RFC 7692): a message compressed once for all subscribers, and a client's message inflated.
//!
//! Nothing is taken over from one message to the next, on either side: so a compressed frame depends on its message alone,
//! and no connection has a compressor. A thread has one of each, made when it first needs it.
//!
//! ```text
//!   frame    payload ──deflate, sync flush──► [ data | 00 00 FF FF ] ──► [ header with RSV1 | data ]
//!   inflate  [ data | 00 00 FF FF ] [ an empty last block ] ──► payload, which ends where the last block does
//! ```
//!
//! # Owner        the thread
//! # Bounds       one compressor (175 KiB, and a buffer of up to 128 KiB) and one inflater (63 KiB) a thread; what a message
//! inflates to is cut at the bound, before it is kept

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status};

use super::fault::Fault;
use super::header::{OpCode, compressed_frame};

/// Shorter payloads are not compressed: a tick of digits has nothing to gain.
pub const PAYLOAD_BYTES_MIN: usize = 128;

/// How far back compressed data refers, as a power of two: what a client needs to inflate it. Larger ones gain a hundredth.
pub const WINDOW_BITS: u8 = 12;

/// The first level with codes of the message's own. Those above cost up to twice as much and gain a twentieth.
const LEVEL: i32 = 2;

/// Memory for symbols: enough for 4,096 of them in a block.
const MEMORY_LEVEL: i32 = 6;

/// What a sync flush ends with. It is not sent (section 7.2.1).
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];

/// What stands behind a message to be inflated: the end of the flush, and an empty last block, which is only read as one if
/// the message ended as it should.
const END: [u8; 6] = [0, 0, 0xff, 0xff, 3, 0];

/// What is inflated at a time.
const PIECE_BYTES: usize = 16 * 1024;

/// A buffer that a large message made larger than this is given back.
const KEPT_BYTES_MAX: usize = 128 * 1024;

/// What a thread compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages, those included that did not become shorter.
    pub messages: u64,
    /// Their payloads.
    pub bytes_in: u64,
    /// What became of them: the payload itself where it did not become shorter.
    pub bytes_out: u64,
}

thread_local! {
    static DEFLATER: RefCell<Option<Deflater>> = const { RefCell::new(None) };
    static INFLATER: RefCell<Option<Inflater>> = const { RefCell::new(None) };
    static COUNTS: Cell<Counts> = const { Cell::new(Counts { messages: 0, bytes_in: 0, bytes_out: 0 }) };
}

/// A whole compressed frame; `None` if the payload is short, or does not become shorter.
pub fn frame(opcode: OpCode, payload: &[u8]) -> Option<Bytes> {
    if payload.len() < PAYLOAD_BYTES_MIN {
        return None;
    }
    DEFLATER.with_borrow_mut(|deflater| {
        let deflater = deflater.get_or_insert_with(Deflater::new);
        let compressed = deflater.compress(payload);
        let mut counts = COUNTS.get();
        counts.messages += 1;
        counts.bytes_in += payload.len() as u64;
        counts.bytes_out += compressed.unwrap_or(payload).len() as u64;
        COUNTS.set(counts);
        let frame = compressed.map(|compressed| compressed_frame(opcode, compressed));
        deflater.shrink();
        frame
    })
}

/// What this thread compressed since the last call.
pub fn take_counts() -> Counts {
    COUNTS.take()
}

/// The payload of a compressed message, at most `bytes_max` bytes of it.
pub(super) fn inflate(compressed: &[u8], bytes_max: usize) -> Result<Vec<u8>, Fault> {
    INFLATER
        .with_borrow_mut(|inflater| inflater.get_or_insert_with(Inflater::new).inflate(compressed, bytes_max))
}

/// How long a compressed message may be whose payload has at most `bytes_max` bytes. What does not compress becomes longer: by
/// an eighth under the fixed codes, by less in every other way that makes sense.
pub(super) const fn compressed_bytes_max(bytes_max: usize) -> usize {
    bytes_max.saturating_add(bytes_max / 8).saturating_add(64)
}

struct Deflater {
    deflate: Deflate,
    /// Its length is what it has room for.
    out: Vec<u8>,
}

impl Deflater {
    fn new() -> Self {
        let config = DeflateConfig {
            level: LEVEL,
            mem_level: MEMORY_LEVEL,
            // Negative: no header, no checksum.
            window_bits: -i32::from(WINDOW_BITS),
            ..DeflateConfig::default()
        };
        Self { deflate: Deflate::new_with_config(config), out: Vec::new() }
    }

    /// The compressed payload, if it is shorter.
    fn compress(&mut self, payload: &[u8]) -> Option<&[u8]> {
        // With a byte left when all is written, or the flush may not be.
        let room = payload.len() + FLUSHED.len();
        if self.out.len() < room {
            self.out.resize(room, 0);
        }
        self.deflate.reset();
        let status = self.deflate.compress(payload, &mut self.out[..room], DeflateFlush::SyncFlush);
        let written = usize::try_from(self.deflate.total_out()).ok()?;
        if status != Ok(Status::Ok) || written == room {
            return None;
        }
        let data = self.out[..written].strip_suffix(&FLUSHED)?;
        (data.len() < payload.len()).then_some(data)
    }

    fn shrink(&mut self) {
        if self.out.len() > KEPT_BYTES_MAX {
            self.out = Vec::new();
        }
    }
}

struct Inflater {
    inflate: Inflate,
    piece: Box<[u8]>,
}

impl Inflater {
    fn new() -> Self {
        // The widest window: what a client may use was not restricted.
        Self { inflate: Inflate::new(false, 15), piece: vec![0; PIECE_BYTES].into() }
    }

    fn inflate(&mut self, compressed: &[u8], bytes_max: usize) -> Result<Vec<u8>, Fault> {
        self.inflate.reset(false);
        let mut out = Vec::new();
        for mut input in [compressed, &END] {
            loop {
                let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
                let status = self.inflate.decompress(input, &mut self.piece, InflateFlush::NoFlush);
                let status = status.map_err(|_| Fault::Deflate)?;
                // Both fit: they are lengths of parts of slices.
                let read = (self.inflate.total_in() - read) as usize;
                let written = (self.inflate.total_out() - written) as usize;
                input = &input[read..];
                append(&mut out, &self.piece[..written], bytes_max)?;
                match status {
                    // A client may end its message with a last block, and a zero byte in place of the flush (7.2.3.4).
                    Status::StreamEnd if matches!(input, [] | [0]) => return Ok(out),
                    Status::StreamEnd => return Err(Fault::Deflate),
                    // There may be more without another byte of input.
                    _ if written == self.piece.len() => {}
                    _ => break,
                }
            }
        }
        Err(Fault::Deflate)
    }
}

/// Grows `out` as a vector does, but never past the bound.
fn append(out: &mut Vec<u8>, piece: &[u8], bytes_max: usize) -> Result<(), Fault> {
    let len = out.len() + piece.len();
    if len > bytes_max {
        return Err(Fault::MessageTooBig);
    }
    if len > out.capacity() {
        out.reserve_exact(len.max(2 * out.capacity()).min(bytes_max) - out.len());
    }
    out.extend_from_slice(piece);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES_MAX: usize = 100_000;

    fn payload_of(frame: &[u8]) -> &[u8] {
        assert_eq!(frame[0], 0xc1, "final, compressed, text");
        match frame[1] {
            126 => &frame[4..],
            127 => &frame[10..],
            _ => &frame[2..],
        }
    }

    /// The examples of RFC 7692, section 7.2.3.
    #[test]
    fn the_examples_of_the_rfc_are_inflated() {
        let check = |data: &[u8], expect: &str| {
            assert_eq!(inflate(data, BYTES_MAX).as_deref(), Ok(expect.as_bytes()), "{data:x?}");
        };
        // 7.2.3.1 One compressed block.
        check(b"\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello");
        // 7.2.3.3 A block without compression.
        check(b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", "Hello");
        // 7.2.3.4 A block that says that it is the last.
        check(b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", "Hello");
        // 7.2.3.5 Two blocks.
        check(b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", "Hello");
        // 7.2.3.6 Nothing.
        check(b"\x00", "");
    }

    /// 7.2.3.2: the second "Hello" refers to the first, which was another message.
    #[test]
    fn nothing_is_taken_over_from_the_message_before() {
        assert!(inflate(b"\xf2\x48\xcd\xc9\xc9\x07\x00", BYTES_MAX).is_ok());
        assert_eq!(inflate(b"\xf2\x00\x11\x00\x00", BYTES_MAX), Err(Fault::Deflate));
    }

    #[test]
    fn what_is_no_deflate_data_is_a_fault() {
        let check = |data: &[u8]| assert_eq!(inflate(data, BYTES_MAX), Err(Fault::Deflate), "{data:x?}");
        check(b"");
        check(b"\xff");
        check(b"\x06");
        // Cut: inside the codes, inside a block without compression, before its data.
        check(b"\xf2\x48\xcd\xc9");
        check(b"\x00\x05\x00\xfa\xff\x48\x65");
        check(b"\x00\x05\x00\xfa\xff");
        // More behind the last block.
        check(b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00\x00");
        check(b"\xf3\x48\xcd\xc9\xc9\x07\x00\xf3\x48\xcd\xc9\xc9\x07\x00");
        // It still works after all that.
        assert_eq!(inflate(b"\xf2\x48\xcd\xc9\xc9\x07\x00", BYTES_MAX).as_deref(), Ok(&b"Hello"[..]));
    }

    #[test]
    fn a_bomb_ends_at_the_bound() {
        let zeros = vec![0; 10 << 20];
        let bomb = frame(OpCode::Text, &zeros).unwrap();
        let bomb = payload_of(&bomb);
        assert!(bomb.len() < 64 << 10, "{}", bomb.len());
        for bytes_max in [0, 1, PIECE_BYTES, BYTES_MAX, zeros.len() - 1] {
            assert_eq!(inflate(bomb, bytes_max), Err(Fault::MessageTooBig), "{bytes_max}");
        }
        let inflated = inflate(bomb, zeros.len()).unwrap();
        assert_eq!((inflated.len(), inflated.capacity()), (zeros.len(), zeros.len()));
    }

    #[test]
    fn a_client_needs_no_wider_window_than_it_was_told() {
        // Each line comes again after 3,600 and after 7,200 bytes.
        let lines: Vec<String> = (0..100).map(|line| format!("{:036}", line * 7_919)).collect();
        let text = lines.concat().repeat(10);
        let frame = frame(OpCode::Text, text.as_bytes()).unwrap();
        let mut inflate = Inflate::new(false, WINDOW_BITS);
        let (mut out, mut piece) = (Vec::new(), [0; 100]);
        let mut input = payload_of(&frame);
        while out.len() < text.len() {
            let (read, written) = (inflate.total_in(), inflate.total_out());
            inflate.decompress(input, &mut piece, InflateFlush::NoFlush).unwrap();
            input = &input[(inflate.total_in() - read) as usize..];
            let written = (inflate.total_out() - written) as usize;
            assert_ne!(written, 0, "after {} bytes", out.len());
            out.extend_from_slice(&piece[..written]);
        }
        assert_eq!(out, text.as_bytes());
    }

    #[test]
    fn short_payloads_and_noise_stay_as_they_are() {
        assert_eq!(frame(OpCode::Text, b""), None);
        assert_eq!(frame(OpCode::Text, &[b'x'; PAYLOAD_BYTES_MIN - 1]), None);
        assert!(frame(OpCode::Text, &[b'x'; PAYLOAD_BYTES_MIN]).is_some());
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(20_000)
        .collect();
        for len in [128, 1_000, 20_000] {
            assert_eq!(frame(OpCode::Binary, &noise[..len]), None, "{len}");
        }
    }

    #[test]
    fn compressions_are_counted() {
        take_counts();
        let short = [b'x'; 10];
        let text = "all work and no play ".repeat(100);
        assert_eq!(frame(OpCode::Text, &short), None);
        assert_eq!(take_counts(), Counts::default());
        let frame = frame(OpCode::Text, text.as_bytes()).unwrap();
        let bytes_out = payload_of(&frame).len() as u64;
        assert_eq!(take_counts(), Counts { messages: 1, bytes_in: text.len() as u64, bytes_out });
        assert_eq!(take_counts(), Counts::default());
    }

    /// Bytes that compress: pieces of them come again.
    fn payload() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..8);
        (pieces, prop::collection::vec(any::<prop::sample::Index>(), 0..400)).prop_map(|(pieces, order)| {
            order.iter().flat_map(|index| pieces[index.index(pieces.len())].clone()).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_compressed_is_inflated(payload in payload()) {
            if let Some(frame) = frame(OpCode::Text, &payload) {
                let data = payload_of(&frame);
                prop_assert!(data.len() < payload.len());
                prop_assert_eq!(inflate(data, payload.len()), Ok(payload.clone()));
                prop_assert_eq!(inflate(data, payload.len() - 1), Err(Fault::MessageTooBig));
                // By another implementation.
                let whole = [data, &END].concat();
                prop_assert_eq!(miniz_oxide::inflate::decompress_to_vec(&whole).ok(), Some(payload));
            }
        }

        #[test]
        fn any_bytes_inflate_or_are_a_fault(data in prop::collection::vec(any::<u8>(), 0..300)) {
            match inflate(&data, 1_000) {
                Ok(out) => prop_assert!(out.len() <= 1_000),
                Err(fault) => prop_assert!(matches!(fault, Fault::Deflate | Fault::MessageTooBig)),
            }
        }
    }
}
