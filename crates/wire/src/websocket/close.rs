//! Close codes and the payload of a close frame (RFC 6455, sections 5.5.1 and 7.4).

use std::fmt;

use bytes::Bytes;

use super::{
    fault::Fault,
    header::{self, CONTROL_BYTES_MAX, OpCode},
};

/// The longest reason a close frame has room for behind its code, in bytes.
pub const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Why a connection closes, as a number the peer's library reports.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The server stops, or the client leaves the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the framing rules.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// Data of a kind this endpoint does not take, such as binary where only text is read.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// A payload that is not what its type says: text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// A rule of the server that has no code of its own.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// A message past the size the server takes.
    pub const TOO_BIG: Self = Self(1009);
    /// The server failed.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// The server restarts; the client may come back after a while.
    pub const RESTART: Self = Self(1012);
    /// The server is overloaded; the client may come back after a while.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// Whether the code may stand in a frame. The rest is reserved, or (1005, 1006, 1015) only ever names
    /// what an endpoint saw locally.
    pub const fn is_legal_on_the_wire(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloseCode({})", self.0)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A whole close frame, from server to client. A reason past [`REASON_BYTES_MAX`] is cut between characters.
pub fn close_frame(code: CloseCode, reason: &str) -> Bytes {
    debug_assert!(code.is_legal_on_the_wire(), "{code} is for local use only");
    let reason = &reason.as_bytes()[..reason.floor_char_boundary(REASON_BYTES_MAX)];

    let mut payload = [0; CONTROL_BYTES_MAX];
    payload[..2].copy_from_slice(&code.0.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason);
    header::frame(OpCode::Close, &payload[..2 + reason.len()])
}

/// Reads an unmasked close payload: nothing, or a code and a reason that may be empty.
///
/// # Errors
///
/// [`Fault::CloseLength`] for half a code, [`Fault::CloseCode`] for one that is not legal on the wire,
/// [`Fault::CloseReason`] for a reason that is not UTF-8.
pub fn parse_close(payload: &[u8]) -> Result<Option<(CloseCode, &str)>, Fault> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(Fault::CloseLength) };
    };
    let code = CloseCode(u16::from_be_bytes(*code));
    if !code.is_legal_on_the_wire() {
        return Err(Fault::CloseCode(code));
    }
    let reason = str::from_utf8(reason).map_err(|_| Fault::CloseReason)?;
    Ok(Some((code, reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_payload_is_read_strictly() {
        let check = |payload: &[u8], expect| assert_eq!(parse_close(payload), expect, "{payload:?}");

        check(b"", Ok(None));
        check(b"\x03", Err(Fault::CloseLength));
        check(b"\x03\xe8", Ok(Some((CloseCode::NORMAL, ""))));
        check(b"\x03\xe9bye", Ok(Some((CloseCode::GOING_AWAY, "bye"))));
        check(b"\x0f\xa0\xe2\x82\xac", Ok(Some((CloseCode(4000), "\u{20ac}"))));
        check(b"\x03\xed", Err(Fault::CloseCode(CloseCode(1005))));
        check(b"\x03\xe8\xe2\x82", Err(Fault::CloseReason));
        // The code is judged before the reason.
        check(b"\x00\x00\xff", Err(Fault::CloseCode(CloseCode(0))));
    }

    #[test]
    fn only_codes_meant_for_the_wire_are_legal_on_it() {
        let legal = [1000, 1001, 1002, 1003, 1007, 1008, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
        let not = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, u16::MAX];
        for code in legal {
            assert!(CloseCode(code).is_legal_on_the_wire(), "{code}");
        }
        for code in not {
            assert!(!CloseCode(code).is_legal_on_the_wire(), "{code}");
        }
    }

    #[test]
    fn a_close_frame_is_its_code_and_reason() {
        assert_eq!(&close_frame(CloseCode::NORMAL, "")[..], b"\x88\x02\x03\xe8");
        assert_eq!(&close_frame(CloseCode(4200), "draining")[..], b"\x88\x0a\x10\x68draining");
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let check = |reason: &str, kept: usize| {
            let frame = close_frame(CloseCode::NORMAL, reason);
            assert_eq!(parse_close(&frame[2..]), Ok(Some((CloseCode::NORMAL, &reason[..kept]))));
        };
        check(&"x".repeat(123), 123);
        check(&"x".repeat(124), 123);
        check(&"\u{20ac}".repeat(41), 123);
        check(&format!("x{}", "\u{20ac}".repeat(41)), 121);
    }
}
