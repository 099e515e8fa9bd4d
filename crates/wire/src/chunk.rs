//! HTTP/1.1 chunks (RFC 9112, section 7.1): what carries a stream whose length nobody knows.
//!
//! ```text
//!   1b\r\n id: k3x9wm0q:7\ndata: {}\n\n \r\n        the length in hexadecimal, the bytes, and a line end
//!   0\r\n\r\n                                        the last chunk
//! ```
//! A chunk says nothing about who reads it, so the chunks of a stream are shared like WebSocket frames.

use bytes::Bytes;

/// The end of a stream.
pub const LAST: Bytes = Bytes::from_static(b"0\r\n\r\n");

/// One chunk, in one allocation of its size. `content` is not empty: an empty chunk would end the stream.
pub fn chunk(content: &[u8]) -> Bytes {
    debug_assert!(!content.is_empty());
    let length = format!("{:x}\r\n", content.len());
    let mut chunk = Vec::with_capacity(length.len() + content.len() + 2);
    chunk.extend_from_slice(length.as_bytes());
    chunk.extend_from_slice(content);
    chunk.extend_from_slice(b"\r\n");
    chunk.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_its_length_in_front() {
        assert_eq!(chunk(b"x"), "1\r\nx\r\n");
        assert_eq!(chunk(&[b'y'; 0x1af])[..5], *b"1af\r\n");
        assert_eq!(chunk(b":\n"), "2\r\n:\n\r\n");
    }
}
