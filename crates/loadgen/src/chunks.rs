//! HTTP/1.1 chunks (RFC 9112, section 7.1): finds the contents in what a server sends, wherever the reads cut them.
//!
//! Contents are handed out as slices of the read buffer: where a chunk ends says nothing about where a message does.
//!
//! # Bounds       16 bytes, whatever was received; a chunk past [`CHUNK_BYTES_MAX`] is an error

use crate::scanner::Violation;

const CHUNK_BYTES_MAX: u64 = 16 << 20;

/// Where in the framing the last read ended.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    /// Of the chunk's contents; its length, as far as it is read, before they begin.
    missing: u64,
    place: Place,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first digit of a length.
    #[default]
    Length,
    LengthDigits,
    Extension,
    LengthEnd,
    Contents,
    ContentsEnd,
    ContentsEndFeed,
    /// The last chunk has begun. What follows it belongs to no message.
    Last,
}

impl Chunks {
    /// The contents at the front of `input`, which is moved past the framing before them. `None`: there are none yet, or
    /// none any more.
    pub(crate) fn peek<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<&'i [u8]>, Violation> {
        while let Some((&byte, rest)) = input.split_first() {
            self.place = match (self.place, byte) {
                (Place::Contents, _) => {
                    let available = input.len().min(usize::try_from(self.missing).unwrap_or(usize::MAX));
                    return Ok(Some(&input[..available]));
                }
                (Place::Last, _) => return Ok(None),
                (Place::Length | Place::LengthDigits, byte) if byte.is_ascii_hexdigit() => {
                    self.missing = self.missing << 4 | hex(byte);
                    if self.missing > CHUNK_BYTES_MAX {
                        return Err(Violation("a chunk past 16 MiB"));
                    }
                    Place::LengthDigits
                }
                (Place::LengthDigits, b';') => Place::Extension,
                (Place::LengthDigits | Place::Extension, b'\r') => Place::LengthEnd,
                (Place::Extension, byte) if byte != b'\n' => Place::Extension,
                (Place::LengthEnd, b'\n') if self.missing == 0 => Place::Last,
                (Place::LengthEnd, b'\n') => Place::Contents,
                (Place::ContentsEnd, b'\r') => Place::ContentsEndFeed,
                (Place::ContentsEndFeed, b'\n') => Place::Length,
                _ => return Err(Violation("a chunk that is not framed")),
            };
            *input = rest;
        }
        Ok(None)
    }

    /// Takes the first `count` bytes of what [`peek`](Self::peek) showed.
    pub(crate) fn take<'i>(&mut self, input: &mut &'i [u8], count: usize) -> &'i [u8] {
        let (taken, rest) = input.split_at(count);
        *input = rest;
        self.missing -= count as u64;
        if self.missing == 0 {
            self.place = Place::ContentsEnd;
        }
        taken
    }

    /// The stream is at its end.
    pub(crate) fn is_last(&self) -> bool {
        self.place == Place::Last
    }
}

fn hex(digit: u8) -> u64 {
    u64::from(match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `contents` in chunks of `size` bytes, without the last chunk.
    pub(crate) fn chunked(contents: &[u8], size: usize) -> Vec<u8> {
        let chunk = |part: &[u8]| [format!("{:X}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
        contents.chunks(size).flat_map(chunk).collect()
    }

    /// The contents of `pieces`, read one after another, and whether the last chunk was among them.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(Vec<u8>, bool), Violation> {
        let (mut chunks, mut contents) = (Chunks::default(), Vec::new());
        for mut piece in pieces {
            while let Some(part) = chunks.peek(&mut piece)? {
                contents.extend_from_slice(chunks.take(&mut piece, part.len()));
            }
        }
        Ok((contents, chunks.is_last()))
    }

    #[test]
    fn chunks_cut_in_two_anywhere_have_the_same_contents() {
        let contents: Vec<u8> = (0..=255).cycle().take(600).collect();
        for size in [1, 15, 16, 255, 600] {
            let stream = [&chunked(&contents, size)[..], b"0;last=yes\r\n\r\n"].concat();
            for cut in 0..=stream.len() {
                let found = read([&stream[..cut], &stream[cut..]]);
                assert_eq!(found, Ok((contents.clone(), true)), "chunks of {size} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_length_may_have_zeros_in_front_and_an_extension_behind() {
        let stream = b"0003;a=\"b\"\r\nabc\r\n1\r\nd\r\n";
        assert_eq!(read([&stream[..]]), Ok((b"abcd".to_vec(), false)));
        assert_eq!(read(stream.chunks(1)), Ok((b"abcd".to_vec(), false)));
    }

    #[test]
    fn bytes_that_are_no_chunk_are_violations() {
        let check = |text: &str, why| assert_eq!(read([text.as_bytes()]), Err(Violation(why)), "{text}");
        let unframed = "a chunk that is not framed";
        check("x\r\n", unframed);
        check("\r\n", unframed);
        check("3\nabc", unframed);
        check("3\r\nabcd", unframed);
        check("3\r\nabc\rx", unframed);
        check("3;a\nabc", unframed);
        check("1000001\r\n", "a chunk past 16 MiB");
        check("ffffffffffffffffff\r\n", "a chunk past 16 MiB");
    }
}
