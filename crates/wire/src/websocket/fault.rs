//! What a client did wrong in its byte stream, with the close code it gets and the label it is counted under.

use thiserror::Error;

use super::close::CloseCode;

/// A breach of RFC 6455, of RFC 7692 or of a limit. The stream has no meaning after it: the connection closes with
/// [`close_code`](Self::close_code).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// A reserved bit is set, and no extension gives it a meaning (section 5.2).
    #[error("reserved header bit is set")]
    ReservedBit,
    /// An operation code without a meaning (section 5.2).
    #[error("reserved operation code")]
    ReservedOpCode,
    /// A close, ping or pong without the final bit (section 5.5).
    #[error("control frame is fragmented")]
    ControlFragmented,
    /// A close, ping or pong of more than 125 bytes (section 5.5).
    #[error("control frame is longer than 125 bytes")]
    ControlTooLong,
    /// A client must mask every frame (section 5.1).
    #[error("client frame is not masked")]
    Unmasked,
    /// A length in more bytes than it needs (section 5.2).
    #[error("length is not in its shortest form")]
    LengthNotMinimal,
    /// A length of 2^63 bytes or more (section 5.2).
    #[error("length has its highest bit set")]
    LengthOverflow,
    /// A continuation frame, and nothing to continue (section 5.4).
    #[error("continuation frame without a message")]
    ContinuationAlone,
    /// A new message before the one before it ended (section 5.4).
    #[error("new message inside a fragmented one")]
    MessageInterrupted,
    /// A message, all its fragments counted, past `ParserLimits::message_bytes_max`.
    #[error("message is too big")]
    MessageTooBig,
    /// A message in more than `ParserLimits::fragments_max` frames.
    #[error("message has too many fragments")]
    TooManyFragments,
    /// A compressed message that does not inflate (RFC 7692, section 7.2.2).
    #[error("message is not valid deflate data")]
    Deflate,
    /// A text message that is not UTF-8 (section 8.1).
    #[error("text is not UTF-8")]
    TextNotUtf8,
    /// A close payload of one byte (section 5.5.1).
    #[error("close frame has half a code")]
    CloseLength,
    /// A close code that may not be sent (section 7.4).
    #[error("close code {0} may not be sent")]
    CloseCode(CloseCode),
    /// A close reason that is not UTF-8 (section 5.5.1).
    #[error("close reason is not UTF-8")]
    CloseReason,
}

impl Fault {
    /// The code of the close frame that answers the fault.
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::MessageTooBig | Self::TooManyFragments => CloseCode::TOO_BIG,
            Self::Deflate | Self::TextNotUtf8 | Self::CloseReason => CloseCode::INVALID_PAYLOAD,
            Self::ReservedBit
            | Self::ReservedOpCode
            | Self::ControlFragmented
            | Self::ControlTooLong
            | Self::Unmasked
            | Self::LengthNotMinimal
            | Self::LengthOverflow
            | Self::ContinuationAlone
            | Self::MessageInterrupted
            | Self::CloseLength
            | Self::CloseCode(_) => CloseCode::PROTOCOL_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_close_code() {
        let check = |fault: Fault, code| assert_eq!(fault.close_code(), CloseCode(code), "{fault}");
        check(Fault::ReservedBit, 1002);
        check(Fault::ReservedOpCode, 1002);
        check(Fault::ControlFragmented, 1002);
        check(Fault::ControlTooLong, 1002);
        check(Fault::Unmasked, 1002);
        check(Fault::LengthNotMinimal, 1002);
        check(Fault::LengthOverflow, 1002);
        check(Fault::ContinuationAlone, 1002);
        check(Fault::MessageInterrupted, 1002);
        check(Fault::MessageTooBig, 1009);
        check(Fault::TooManyFragments, 1009);
        check(Fault::Deflate, 1007);
        check(Fault::TextNotUtf8, 1007);
        check(Fault::CloseLength, 1002);
        check(Fault::CloseCode(CloseCode(1005)), 1002);
        check(Fault::CloseReason, 1007);
    }
}
