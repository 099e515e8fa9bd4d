//! Finds the stamps of messages anywhere in what a server sends, whatever stands around them.
//!
//! A server that is not known by its formats is known by its messages: each payload begins with a stamp that nothing else
//! looks like. It is found as it was published, and also where the payload was put into a JSON string, once or twice.
//!
//! # Bounds       [`CARRY_BYTES_MAX`] bytes are kept between two reads
//! # Invariants   cut anywhere, the same stamps come out

use crate::payload::{NUMBER_DIGITS, Stamp};

/// Longer than the longest way to write a stamp.
const CARRY_BYTES_MAX: usize = 128;

/// What was read of a stamp that may go on.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    carry: Vec<u8>,
}

/// What stands at one place.
#[derive(Debug, PartialEq, Eq)]
enum Read<T> {
    Whole(T),
    /// It may become one.
    Cut,
    Not,
}

impl Stamps {
    /// Finds the stamps in `bytes`, which follow those of the last call.
    pub(crate) fn find(&mut self, mut bytes: &[u8], mut found: impl FnMut(Stamp)) {
        if !self.carry.is_empty() {
            // Only what began before is looked at here; what begins in `bytes` is looked at below.
            let before = self.carry.len();
            let mut joined = std::mem::take(&mut self.carry);
            joined.extend_from_slice(&bytes[..bytes.len().min(CARRY_BYTES_MAX)]);
            match scan(&joined, before, &mut found) {
                Scanned::Cut(at) if before + bytes.len() == joined.len() => {
                    self.carry = joined.split_off(at);
                    return;
                }
                Scanned::Until(end) => bytes = &bytes[end.saturating_sub(before).min(bytes.len())..],
                Scanned::Cut(_) => {}
            }
        }
        if let Scanned::Cut(at) = scan(bytes, bytes.len(), &mut found) {
            self.carry = bytes[at..].to_vec();
        }
    }
}

enum Scanned {
    /// Nothing is cut; the last stamp ended here, or the look did.
    Until(usize),
    /// Something that begins here may go on.
    Cut(usize),
}

/// Finds the stamps that begin before `limit`.
fn scan(bytes: &[u8], limit: usize, found: &mut impl FnMut(Stamp)) -> Scanned {
    let mut at = 0;
    while let Some(step) = bytes.get(at..limit).and_then(|rest| memchr::memchr(b'{', rest)) {
        at += step;
        match read(&bytes[at..]) {
            Read::Whole((stamp, length)) => {
                found(stamp);
                at += length;
            }
            Read::Cut => return Scanned::Cut(at),
            Read::Not => at += 1,
        }
    }
    Scanned::Until(at.max(limit))
}

/// A stamp at the beginning of `bytes` and its length: `{"t":DIGITS,"n":DIGITS`, quotes as they are or escaped.
fn read(bytes: &[u8]) -> Read<(Stamp, usize)> {
    let mut rest = &bytes[1..];
    let mut numbers = [0; 2];
    for (number, name) in numbers.iter_mut().zip(["t", "n"]) {
        if name == "n" && !matches!(take(&mut rest, b","), Read::Whole(())) {
            return if rest.is_empty() { Read::Cut } else { Read::Not };
        }
        for part in [Part::Quote, Part::Text(name.as_bytes()), Part::Quote, Part::Text(b":")] {
            let read = match part {
                Part::Quote => quote(&mut rest),
                Part::Text(text) => take(&mut rest, text),
            };
            match read {
                Read::Whole(()) => {}
                Read::Cut => return Read::Cut,
                Read::Not => return Read::Not,
            }
        }
        let digits = &rest[..rest.len().min(NUMBER_DIGITS)];
        if !digits.iter().all(u8::is_ascii_digit) {
            return Read::Not;
        }
        if digits.len() < NUMBER_DIGITS {
            return Read::Cut;
        }
        *number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        rest = &rest[NUMBER_DIGITS..];
    }
    match Stamp::of_numbers(numbers[0], numbers[1]) {
        Some(stamp) => Read::Whole((stamp, bytes.len() - rest.len())),
        None => Read::Not,
    }
}

enum Part<'t> {
    Quote,
    Text(&'t [u8]),
}

fn take(rest: &mut &[u8], text: &[u8]) -> Read<()> {
    match rest.strip_prefix(text) {
        Some(after) => {
            *rest = after;
            Read::Whole(())
        }
        None if text.starts_with(rest) => Read::Cut,
        None => Read::Not,
    }
}

/// A quotation mark: plain, behind one to three backslashes, or as `\u0022`.
fn quote(rest: &mut &[u8]) -> Read<()> {
    let slashes = rest.iter().take_while(|&&byte| byte == b'\\').count();
    if slashes > 3 {
        return Read::Not;
    }
    let after = &rest[slashes..];
    match after.first() {
        None => Read::Cut,
        Some(b'"') => {
            *rest = &after[1..];
            Read::Whole(())
        }
        Some(b'u') if slashes > 0 => {
            *rest = after;
            take(rest, b"u0022")
        }
        Some(_) => Read::Not,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sequence: u64) -> Stamp {
        Stamp { intended_ns: 2_350_000_000 + sequence, topic: 3, sequence }
    }

    fn payload(sequence: u64) -> String {
        let mut out = Vec::new();
        let market = &mut fanfare_market::Market::new(1, 1);
        stamp(sequence).write_payload(&market.tick(), 100, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn find<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Stamp> {
        let (mut stamps, mut found) = (Stamps::default(), Vec::new());
        for piece in pieces {
            stamps.find(piece, |stamp| found.push(stamp));
            assert!(stamps.carry.len() <= CARRY_BYTES_MAX);
        }
        found
    }

    fn stream() -> String {
        let quoted = |text: String| serde_json::to_string(&text).unwrap();
        let once = quoted(payload(2));
        let twice = quoted(quoted(payload(3)));
        let coded = payload(4).replace('"', "\\u0022");
        let near = r#"{"t":1,"n":2}{"t":1000000000000000,"x":{"t":{{{"t":10000000000000000,"n":1"#;
        format!(
            r#"MSG x{}{{"data":{once},"d":[{{"t":1}}]}}{near}{{"a":{twice}}}"{coded}"{}"#,
            payload(1),
            payload(5)
        )
    }

    #[test]
    fn stamps_are_found_plain_and_escaped() {
        assert_eq!(find([stream().as_bytes()]), (1..=5).map(stamp).collect::<Vec<_>>());
    }

    #[test]
    fn a_stream_cut_anywhere_has_the_same_stamps_as_the_whole() {
        let stream = stream();
        let whole = find([stream.as_bytes()]);
        for cut in 0..=stream.len() {
            assert_eq!(find([&stream.as_bytes()[..cut], &stream.as_bytes()[cut..]]), whole, "cut at {cut}");
        }
        for size in 1..200 {
            assert_eq!(find(stream.as_bytes().chunks(size)), whole, "pieces of {size}");
        }
    }
}
