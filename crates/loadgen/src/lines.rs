//! The lines of a chunked stream: of JSON, or of an event stream.
//!
//! A line ends with a line feed, as the gateway's do; a carriage return is a byte like any other. One that lies whole in
//! a chunk and in the read buffer is handed out as a slice of it; one that is cut is collected in `spill`, which is given
//! away with the line.
//!
//! # Bounds       of a cut line only the first [`PREFIX_BYTES`] are kept; a line past [`LINE_BYTES_MAX`] is an error
//! # Invariants   cut anywhere and chunked anyhow, the same lines come out, up to their prefix

use std::borrow::Cow;

use crate::chunks::Chunks;
use crate::scanner::{PREFIX_BYTES, Violation};

const LINE_BYTES_MAX: u64 = 16 << 20;

/// One line without its end. `bytes` is cut off after [`PREFIX_BYTES`] if it came in pieces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'i> {
    /// Its length on the wire.
    pub(crate) length: u64,
    pub(crate) bytes: Cow<'i, [u8]>,
}

/// Where in a line the last read ended.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    chunks: Chunks,
    /// Of the line that is cut.
    length: u64,
    spill: Vec<u8>,
}

impl Lines {
    /// The next whole line in `input`, which is moved past what was used. `None`: all of it is used up, or the stream is
    /// at its end.
    pub(crate) fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Line<'i>>, Violation> {
        while let Some(contents) = self.chunks.peek(input)? {
            let end = memchr::memchr(b'\n', contents);
            let part = self.chunks.take(input, end.map_or(contents.len(), |end| end + 1));
            let part = part.strip_suffix(b"\n").unwrap_or(part);
            if end.is_some() && self.length == 0 {
                return Ok(Some(Line { length: part.len() as u64, bytes: Cow::Borrowed(part) }));
            }
            self.length += part.len() as u64;
            if self.length > LINE_BYTES_MAX {
                return Err(Violation("a line past 16 MiB"));
            }
            let kept = part.len().min(PREFIX_BYTES - self.spill.len());
            self.spill.extend_from_slice(&part[..kept]);
            if end.is_some() {
                let bytes = Cow::Owned(std::mem::take(&mut self.spill));
                return Ok(Some(Line { length: std::mem::take(&mut self.length), bytes }));
            }
        }
        Ok(None)
    }

    /// The stream is at its end.
    pub(crate) fn is_last(&self) -> bool {
        self.chunks.is_last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunks::tests::chunked;

    /// Length and prefix of each line in `pieces`, read one after another.
    fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<(u64, Vec<u8>)> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for mut piece in pieces {
            while let Some(line) = lines.next(&mut piece).unwrap() {
                assert!(line.bytes.len() as u64 == line.length || line.bytes.len() == PREFIX_BYTES);
                found.push((line.length, line.bytes[..line.bytes.len().min(PREFIX_BYTES)].to_vec()));
            }
            assert!(piece.is_empty(), "all is used up");
        }
        found
    }

    fn contents() -> Vec<u8> {
        let long = "x".repeat(1_100);
        format!("\n{{\"topic\":\"a\"}}\n\n\n{long}\r\n1\n{}\nend\n", "y".repeat(126)).into_bytes()
    }

    #[test]
    fn a_stream_cut_in_two_anywhere_gives_the_same_lines_as_the_whole() {
        let whole = scan([&chunked(&contents(), 10_000)[..]]);
        assert_eq!(whole.iter().map(|line| line.0).collect::<Vec<_>>(), [0, 13, 0, 0, 1_101, 1, 126, 3]);
        for size in [3, 40, 10_000] {
            let stream = chunked(&contents(), size);
            for cut in 0..=stream.len() {
                assert_eq!(scan([&stream[..cut], &stream[cut..]]), whole, "chunks of {size} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_stream_in_pieces_of_any_size_gives_the_same_lines_as_the_whole() {
        let whole = scan([&chunked(&contents(), 10_000)[..]]);
        let stream = chunked(&contents(), 97);
        for size in 1..300 {
            assert_eq!(scan(stream.chunks(size)), whole, "pieces of {size}");
        }
        assert_eq!(scan(chunked(&contents(), 1).chunks(1)), whole, "a byte in each chunk and in each read");
    }

    #[test]
    fn a_line_without_end_is_a_violation() {
        let stream = chunked(&vec![b'x'; LINE_BYTES_MAX as usize + 1], 1 << 20);
        let mut lines = Lines::default();
        assert_eq!(lines.next(&mut &stream[..]), Err(Violation("a line past 16 MiB")));
    }
}
