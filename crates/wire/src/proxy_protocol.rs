//! The PROXY protocol, versions 1 and 2: what a load balancer says of a connection before the client's own bytes.
//!
//! ```text
//!   PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\r\n                                      version 1, a line
//!   signature (12) │ 2 + command │ family │ length (2) │ addresses │ TLVs                version 2
//! ```
//! A header is read from bytes that go on behind it: what is known of a part of it is that all of it belongs to the header.
//!
//! # Bounds       [`HEADER_BYTES_MAX`], TLVs included; a line of version 1 has at most 107 bytes

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What both versions fit into: more than any segment of TCP has to carry is not read.
pub const HEADER_BYTES_MAX: usize = 536;

/// The longest line of version 1, its CR LF included.
const LINE_BYTES_MAX: usize = 107;

const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, the command, the family and the length.
const FIXED_BYTES: usize = 16;

/// What some bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// They begin with a whole header.
    Whole {
        /// Its length.
        bytes: usize,
        /// Whose connection it is. Nothing if the proxy speaks for itself or does not know: then it is the peer's.
        source: Option<IpAddr>,
    },
    /// All of them belong to a header that is not whole.
    Part,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// They begin like none.
    #[error("no PROXY protocol header")]
    Missing,
    /// They begin like one.
    #[error("a malformed PROXY protocol header")]
    Malformed,
    /// It would be longer than what is read.
    #[error("a PROXY protocol header that is too long")]
    TooLong,
}

/// Reads a header at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    if begins(bytes, SIGNATURE) {
        binary(bytes)
    } else if begins(bytes, LINE_START) {
        line(bytes)
    } else {
        Err(HeaderError::Missing)
    }
}

/// Whether `bytes` begin with `start`, as far as they go.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let known = bytes.len().min(start.len());
    bytes[..known] == start[..known]
}

// === version 1 ===

fn line(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let readable = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = readable.iter().position(|byte| !matches!(byte, b' '..=b'~')) else {
        return if readable.len() < LINE_BYTES_MAX { Ok(Parsed::Part) } else { Err(HeaderError::TooLong) };
    };
    match readable[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if readable.len() < LINE_BYTES_MAX => return Ok(Parsed::Part),
        [b'\r'] => return Err(HeaderError::TooLong),
        _ => return Err(HeaderError::Malformed),
    }
    let text = readable.get(LINE_START.len()..end).and_then(|text| std::str::from_utf8(text).ok());
    let source = described(text.ok_or(HeaderError::Malformed)?).ok_or(HeaderError::Malformed)?;
    Ok(Parsed::Whole { bytes: end + 2, source })
}

/// `TCP4 source destination port port`, or `UNKNOWN` and whatever follows.
fn described(text: &str) -> Option<Option<IpAddr>> {
    let mut words = text.split(' ');
    let source = match words.next()? {
        "UNKNOWN" => return Some(None),
        "TCP4" => {
            let source: Ipv4Addr = words.next()?.parse().ok()?;
            words.next()?.parse::<Ipv4Addr>().ok()?;
            IpAddr::from(source)
        }
        "TCP6" => {
            let source: Ipv6Addr = words.next()?.parse().ok()?;
            words.next()?.parse::<Ipv6Addr>().ok()?;
            IpAddr::from(source)
        }
        _ => return None,
    };
    let are_ports = is_port(words.next()?) && is_port(words.next()?);
    (are_ports && words.next().is_none()).then_some(Some(source))
}

/// As the specification writes it: no sign, no zero in front.
fn is_port(text: &str) -> bool {
    let is_plain = text == "0" || !text.starts_with(['0', '+']);
    is_plain && text.parse::<u16>().is_ok()
}

// === version 2 ===

fn binary(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let command = bytes.get(12).copied();
    if command.is_some_and(|command| !matches!(command, 0x20 | 0x21)) {
        return Err(HeaderError::Malformed);
    }
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else { return Ok(Parsed::Part) };
    let end = FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if end > HEADER_BYTES_MAX {
        return Err(HeaderError::TooLong);
    }
    let Some(rest) = bytes.get(FIXED_BYTES..end) else { return Ok(Parsed::Part) };
    let source = if fixed[12] == 0x20 {
        // LOCAL: the proxy's own connection, to see whether we are well. What it says besides is nobody's.
        None
    } else {
        let (source, tlvs) = addressed(fixed[13], rest).ok_or(HeaderError::Malformed)?;
        if !are_whole(tlvs) {
            return Err(HeaderError::Malformed);
        }
        source
    };
    Ok(Parsed::Whole { bytes: end, source })
}

/// The source, and what is behind the addresses.
fn addressed(family: u8, rest: &[u8]) -> Option<(Option<IpAddr>, &[u8])> {
    match family {
        // TCP over IPv4, over IPv6, and a Unix socket, which has no address to go by.
        0x11 => rest.split_at_checked(12).map(|(addresses, tlvs)| {
            let source = addresses.first_chunk::<4>().map(|source| Ipv4Addr::from(*source).into());
            (source, tlvs)
        }),
        0x21 => rest.split_at_checked(36).map(|(addresses, tlvs)| {
            let source = addresses.first_chunk::<16>().map(|source| Ipv6Addr::from(*source).into());
            (source, tlvs)
        }),
        0x31 => rest.split_at_checked(216).map(|(_, tlvs)| (None, tlvs)),
        // Unknown: nothing that is said has a meaning.
        0x00 => Some((None, &[])),
        // Datagrams do not come here.
        _ => None,
    }
}

/// Whether the TLVs fill their place. None of them is of use here.
fn are_whole(mut tlvs: &[u8]) -> bool {
    while let Some((head, rest)) = tlvs.split_first_chunk::<3>() {
        let Some(rest) = rest.get(usize::from(u16::from_be_bytes([head[1], head[2]]))..) else {
            return false;
        };
        tlvs = rest;
    }
    tlvs.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use HeaderError::{Malformed, Missing, TooLong};

    /// A header of version 2.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    /// However it is cut, a header is read as the same, and nothing of what follows it.
    fn check(header: &[u8], source: Option<&str>) {
        let whole = Parsed::Whole { bytes: header.len(), source: source.map(|text| text.parse().unwrap()) };
        assert_eq!(parse(header), Ok(whole), "{}", header.escape_ascii());
        assert_eq!(parse(&[header, b"GET / HTTP/1.1\r\n"].concat()), Ok(whole), "{}", header.escape_ascii());
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end]), Ok(Parsed::Part), "{}", header[..end].escape_ascii());
        }
    }

    fn check_refused(header: &[u8], expect: HeaderError) {
        let followed = [header, b"\r\nGET / HTTP/1.1\r\n"].concat();
        assert_eq!(parse(&followed), Err(expect), "{}", followed.escape_ascii());
    }

    #[test]
    fn a_line_names_the_source() {
        check(b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\r\n", Some("192.0.2.7"));
        check(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n", Some("255.255.255.255"));
        check(b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n", Some("2001:db8::7"));
        check(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", Some("::ffff:192.0.2.7"));
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN ffff::1 whatever 1\r\n", None);
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        check(format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n").as_bytes(), None);
    }

    #[test]
    fn a_line_that_is_not_as_specified_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.7 198.51.100.1 51234",
            "PROXY TCP4 192.0.2.7 198.51.100.1 51234 443 ",
            "PROXY TCP4 192.0.2.7 198.51.100.1 51234 443 1",
            "PROXY TCP4  192.0.2.7 198.51.100.1 51234 443",
            "PROXY TCP4 192.0.2.07 198.51.100.1 51234 443",
            "PROXY TCP4 192.0.2.256 198.51.100.1 51234 443",
            "PROXY TCP4 192.0.2 198.51.100.1 51234 443",
            "PROXY TCP4 2001:db8::7 198.51.100.1 51234 443",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443",
            "PROXY TCP4 192.0.2.7 198.51.100.1 -1 443",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 443",
            "PROXY TCP4 192.0.2.7 198.51.100.1 01 443",
            "PROXY TCP6 192.0.2.7 198.51.100.1 1 443",
            "PROXY TCP6 fe80::1%eth0 ::1 1 443",
            "PROXY TCP6 [::1] ::1 1 443",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 443",
            "PROXY tcp4 192.0.2.7 198.51.100.1 1 443",
            "PROXY ",
            "PROXY UNKNOWN\n",
            "PROXY UNKNOWN\r ",
            "PROXY UNKNOWN\t",
            "PROXY UNKNOWN \u{e9}",
            "PROXY UNKNOWN \0",
        ] {
            check_refused(line.as_bytes(), Malformed);
        }
        for line in ["GET / HTTP/1.1", "proxy TCP4", "PROXYTCP4", "", "\n", "\r\n\r\nGET", "\x16\x03\x01"] {
            check_refused(line.as_bytes(), Missing);
        }
        for more in [94, 93, 200, 10_000] {
            check_refused(format!("PROXY UNKNOWN{}", "x".repeat(more)).as_bytes(), TooLong);
        }
    }

    #[test]
    fn a_binary_header_names_the_source() {
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 0xc8, 0x22, 1, 0xbb];
        check(&binary(0x21, 0x11, &four), Some("192.0.2.7"));
        let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 20]].concat();
        check(&binary(0x21, 0x21, &six), Some("2001:db8::7"));
        check(&binary(0x21, 0x31, &[b'/'; 216]), None);
        check(&binary(0x21, 0x00, &[]), None);
        check(&binary(0x21, 0x00, &[1, 2, 3]), None);
        // A health check: whatever it says, it is the proxy's own.
        check(&binary(0x20, 0x00, &[]), None);
        check(&binary(0x20, 0x11, &four), None);
        check(&binary(0x20, 0xff, &[0xff; 520]), None);
        let with = |tlvs: &[u8]| binary(0x21, 0x11, &[&four, tlvs].concat());
        check(&with(&[4, 0, 0]), Some("192.0.2.7"));
        check(&with(&[4, 0, 2, 0, 0, 0xea, 0, 1, b'x']), Some("192.0.2.7"));
        check(&with(&[&[4, 1, 0xf9][..], &[0; 505]].concat()), Some("192.0.2.7"));
    }

    #[test]
    fn a_binary_header_that_is_not_as_specified_is_refused() {
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 0xc8, 0x22, 1, 0xbb];
        for command in [0x00, 0x01, 0x10, 0x11, 0x22, 0x2f, 0x31, 0xff] {
            check_refused(&binary(command, 0x11, &four), Malformed);
        }
        for family in [0x01, 0x10, 0x12, 0x20, 0x22, 0x30, 0x32, 0x41, 0xff] {
            check_refused(&binary(0x21, family, &[0; 216]), Malformed);
        }
        check_refused(&binary(0x21, 0x11, &four[..11]), Malformed);
        check_refused(&binary(0x21, 0x21, &four), Malformed);
        check_refused(&binary(0x21, 0x31, &[0; 215]), Malformed);
        for tlvs in [&[4][..], &[4, 0], &[4, 0, 1], &[4, 0xff, 0xff, 0], &[4, 0, 0, 4, 0, 2, 1]] {
            check_refused(&binary(0x21, 0x11, &[&four, tlvs].concat()), Malformed);
        }
        check_refused(&binary(0x21, 0x11, &[0; 521]), TooLong);
        check_refused(&binary(0x20, 0x00, &[0; 65_535]), TooLong);
        check_refused(b"\r\n\r\n\0\r\nQUIX\n", Missing);
    }
}
