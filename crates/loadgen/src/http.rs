//! The little HTTP/1.1 that all parts need: find the end of a head, read a header, read an answer.
//!
//! # Bounds       a head is at most [`HEAD_BYTES_MAX`]; an answer states its Content-Length or has chunks

use crate::chunks::Chunks;

/// Past this an unfinished head is an error.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What the received bytes hold: nothing whole yet, or one part and how many bytes it took.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<T> {
    Partial,
    Whole(T, usize),
    Malformed(&'static str),
}

/// An answer to a request, its body left out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The server closes the connection after it.
    pub(crate) last: bool,
    /// Where its body begins.
    pub(crate) head_bytes: usize,
}

/// The head of a message, with the empty line that ends it.
pub(crate) fn head(received: &[u8]) -> Parsed<&str> {
    match received.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(end) => match std::str::from_utf8(&received[..end + 4]) {
            Ok(head) => Parsed::Whole(head, end + 4),
            Err(_) => Parsed::Malformed("a head that is not text"),
        },
        None if received.len() > HEAD_BYTES_MAX => Parsed::Malformed("a head without end"),
        None => Parsed::Partial,
    }
}

/// The value of the first header called `name`, in any case.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The status of an answer's head.
pub(crate) fn status(head: &str) -> Option<u16> {
    head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

/// The first answer in `received`, once its body is there too.
pub(crate) fn answer(received: &[u8]) -> Parsed<Answer> {
    let (head, head_bytes) = match head(received) {
        Parsed::Whole(head, bytes) => (head, bytes),
        Parsed::Partial => return Parsed::Partial,
        Parsed::Malformed(why) => return Parsed::Malformed(why),
    };
    let Some(status) = status(head) else { return Parsed::Malformed("no status line") };
    let chunked =
        header(head, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    let body_bytes = match header(head, "content-length").map(str::parse::<usize>) {
        Some(Ok(bytes)) => bytes,
        None if status == 204 => 0,
        None if chunked => match chunked_bytes(&received[head_bytes..]) {
            Parsed::Whole((), bytes) => bytes,
            Parsed::Partial => return Parsed::Partial,
            Parsed::Malformed(why) => return Parsed::Malformed(why),
        },
        _ => return Parsed::Malformed("an answer without Content-Length"),
    };
    if received.len() - head_bytes < body_bytes {
        return Parsed::Partial;
    }
    let last = header(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Parsed::Whole(Answer { status, last, head_bytes }, head_bytes + body_bytes)
}

/// How many bytes a chunked body takes; trailers have no place in the answers to publishers.
fn chunked_bytes(received: &[u8]) -> Parsed<()> {
    let (mut chunks, mut rest) = (Chunks::default(), received);
    loop {
        match chunks.peek(&mut rest) {
            Ok(Some(contents)) => {
                chunks.take(&mut rest, contents.len());
            }
            // The empty line behind the last chunk.
            Ok(None) if chunks.is_last() && rest.len() < 2 => return Parsed::Partial,
            Ok(None) if chunks.is_last() => return Parsed::Whole((), received.len() - rest.len() + 2),
            Ok(None) => return Parsed::Partial,
            Err(violation) => return Parsed::Malformed(violation.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is_there() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 5\r\n\r\nhelloHTTP/1.1 503";
        let whole = Parsed::Whole(Answer { status: 200, last: false, head_bytes: 38 }, text.len() - 12);
        for (cut, expect) in [(10, Parsed::Partial), (40, Parsed::Partial), (text.len(), whole)] {
            assert_eq!(answer(&text[..cut]), expect, "cut at {cut}");
        }
    }

    #[test]
    fn answers_that_cannot_be_followed_are_malformed() {
        let check = |text: &str, why| assert_eq!(answer(text.as_bytes()), Parsed::Malformed(why));
        check("SMTP ready\r\n\r\n", "no status line");
        check("HTTP/1.1 200 OK\r\n\r\n", "an answer without Content-Length");
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(&format!("{chunked}x\r\n"), "a chunk that is not framed");
        check(&"x".repeat(HEAD_BYTES_MAX + 1), "a head without end");
    }

    #[test]
    fn an_answer_in_chunks_ends_behind_the_last() {
        let text = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nHTTP";
        let whole = Parsed::Whole(Answer { status: 201, last: false, head_bytes: 52 }, text.len() - 4);
        assert_eq!(answer(text), whole);
        (0..text.len() - 4).for_each(|cut| assert_eq!(answer(&text[..cut]), Parsed::Partial, "cut at {cut}"));
    }

    #[test]
    fn connection_close_marks_the_last_answer() {
        let text = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(
            answer(text),
            Parsed::Whole(Answer { status: 503, last: true, head_bytes: text.len() }, text.len())
        );
    }
}
