//! The payload of a measured message: when it was due and its place in its topic, then a quote, then padding.
//!
//! ```text
//!     {"t":1000002350000000,"n":1000030000000117,"symbol":"BTC-USD","bid":"64000.10","ask":"64000.20","pad":"xxxx"}
//!          └ 16 digits           └ 1, 5 digits of the topic, 10 of the place
//! ```
//!
//! `t` is the intended time of sending in nanoseconds of the monotonic clock since the run began, plus [`BASE`]; `n` is
//! the topic's number and the message's place in it, plus [`BASE`]. The base keeps the digits in place, so that a subscriber
//! reads them without a JSON parser; both numbers are below 2^53, so that a server that reads and writes JSON anew does not
//! change them. Both clocks are of one process: no clock is compared across machines.
//!
//! # Bounds       a payload has exactly the bytes asked for, at least [`PAYLOAD_BYTES_MIN`]

use std::io::Write as _;

use fanfare_market::Tick;

const BASE: u64 = 1_000_000_000_000_000;
/// Of `t` and of `n`.
pub(crate) const NUMBER_DIGITS: usize = 16;
/// Messages of one topic.
const SEQUENCES: u64 = 10_000_000_000;
/// Topics of one run.
pub(crate) const TOPICS_MAX: usize = 100_000;
const BEFORE_T: &[u8] = br#"{"t":"#;
const BEFORE_N: &[u8] = br#","n":"#;
const BEFORE_PAD: &[u8] = br#","pad":""#;

/// `t`, `n` and the closing brace.
pub(crate) const PAYLOAD_BYTES_MIN: usize = BEFORE_T.len() + BEFORE_N.len() + 2 * NUMBER_DIGITS + 1;

/// What a payload says of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) intended_ns: u64,
    pub(crate) topic: usize,
    /// From 0 in each topic.
    pub(crate) sequence: u64,
}

impl Stamp {
    /// The stamp at the start of a payload, if it has one.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let rest = payload.strip_prefix(BEFORE_T)?;
        let (t, rest) = rest.split_at_checked(NUMBER_DIGITS)?;
        let (n, _) = rest.strip_prefix(BEFORE_N)?.split_at_checked(NUMBER_DIGITS)?;
        Self::of_numbers(digits(t)?, digits(n)?)
    }

    /// The stamp of the numbers `t` and `n`.
    pub(crate) fn of_numbers(t: u64, n: u64) -> Option<Self> {
        let (intended_ns, place) = (t.checked_sub(BASE)?, n.checked_sub(BASE)?);
        let topic = usize::try_from(place / SEQUENCES).ok().filter(|&topic| topic < TOPICS_MAX)?;
        Some(Self { intended_ns, topic, sequence: place % SEQUENCES })
    }

    /// Appends `{"t":…,"n":…`: what a payload begins with.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        let t = BASE + self.intended_ns;
        let n = BASE + self.topic as u64 * SEQUENCES + self.sequence;
        write!(out, r#"{{"t":{t},"n":{n}"#).expect("a Vec takes every write");
    }

    /// Appends a payload of exactly `size` bytes; the quote is left out where it doesn't fit.
    pub(crate) fn write_payload(self, quote: &Tick<'_>, size: usize, out: &mut Vec<u8>) {
        let end = out.len() + size;
        self.write(out);
        let stamped = out.len();
        write!(out, r#","symbol":"{}","bid":"{}","ask":"{}""#, quote.symbol, quote.bid, quote.ask)
            .expect("a Vec takes every write");
        if out.len() >= end {
            out.truncate(stamped);
        }
        if end - out.len() >= BEFORE_PAD.len() + 2 {
            out.extend_from_slice(BEFORE_PAD);
            out.resize(end - 2, b'x');
            out.push(b'"');
        }
        // Too little room for a pad: spaces before the brace are JSON as well.
        out.resize(end - 1, b' ');
        out.push(b'}');
    }
}

/// The parts of a message in the native JSON format that a subscriber of one topic looks at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Native<'a> {
    pub(crate) topic: &'a [u8],
    pub(crate) offset: u64,
    /// From the first byte of `data` to the end of what was received: the envelope's brace, if it was, is in it.
    pub(crate) data: &'a [u8],
}

impl<'a> Native<'a> {
    /// Reads `{"topic":"…","offset":N,…"data":…`; a topic has no character that JSON would escape.
    pub(crate) fn read(message: &'a [u8]) -> Option<Self> {
        let rest = message.strip_prefix(br#"{"topic":""#)?;
        let (topic, rest) = rest.split_at(rest.iter().position(|&byte| byte == b'"')?);
        let rest = rest.strip_prefix(br#"","offset":"#)?;
        let (offset, rest) = rest.split_at(rest.iter().position(|byte| !byte.is_ascii_digit())?);
        let before_data = br#","data":"#;
        let data = rest.windows(before_data.len()).position(|window| window == before_data)?;
        Some(Self { topic, offset: digits(offset)?, data: &rest[data + before_data.len()..] })
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter()
        .try_fold(0_u64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_market::Market;

    #[test]
    fn a_payload_has_the_size_asked_for_is_json_and_keeps_its_stamp() {
        let mut market = Market::new(3, 1);
        for size in PAYLOAD_BYTES_MIN..400 {
            let stamp = Stamp { intended_ns: size as u64 * 1_234_567, topic: size, sequence: size as u64 };
            let mut out = b"before".to_vec();
            stamp.write_payload(&market.tick(), size, &mut out);
            let payload = &out[6..];
            assert_eq!(payload.len(), size);
            let parsed: serde_json::Value = serde_json::from_slice(payload).unwrap();
            assert_eq!(parsed["n"], BASE + (SEQUENCES + 1) * stamp.sequence);
            assert_eq!(Stamp::read(payload), Some(stamp));
        }
    }

    #[test]
    fn a_payload_of_another_shape_has_no_stamp() {
        for text in ["", "{}", r#"{"t":1,"n":2}"#, r#"{"t":1000000000000000,"n":100000000x000000}"#] {
            assert_eq!(Stamp::read(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_native_message_is_read_with_and_without_an_event() {
        let expect = Native { topic: b"a.b", offset: 1043, data: br#"{"x":1}}"# };
        assert_eq!(Native::read(br#"{"topic":"a.b","offset":1043,"data":{"x":1}}"#), Some(expect));
        let expect = Native { topic: b"a.b", offset: 7, data: b"1}" };
        assert_eq!(Native::read(br#"{"topic":"a.b","offset":7,"event":"e","data":1}"#), Some(expect));
        for other in [r#"{"type":"gap"}"#, r#"{"topic":"a"}"#, r#"{"topic":"a","offset":x,"data":1}"#] {
            assert_eq!(Native::read(other.as_bytes()), None, "{other}");
        }
    }
}
