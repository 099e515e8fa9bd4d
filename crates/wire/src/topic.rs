//! A validated topic name: what messages are published to.
//!
//! Names are 1 to 200 bytes of `[A-Za-z0-9_=@,.;:!-]`, segments separated by `.`, no segment empty. They need no
//! escaping in JSON, in a URL path, in a log line or in a NATS subject, so nobody downstream escapes them.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of a topic. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

/// Why a string is not a topic name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The name is empty or longer than [`Topic::BYTES_MAX`].
    #[error("a topic name has 1 to {} bytes", Topic::BYTES_MAX)]
    Length,
    /// The name has a byte outside the alphabet.
    #[error("a topic name consists of A-Z a-z 0-9 and _ = @ , . ; : ! -")]
    Character,
    /// Two dots in a row, or a dot at either end.
    #[error("a topic name has no empty segment")]
    EmptySegment,
    /// `*` or `>` where only a concrete topic makes sense.
    #[error("a wildcard is not a topic name")]
    Wildcard,
}

impl Topic {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 200;

    /// Checks `name` and takes a copy of it.
    pub fn new(name: &str) -> Result<Self, TopicError> {
        validate(name)?;
        Ok(Self(name.into()))
    }

    /// The name as it was published to.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks a name without keeping it.
pub fn validate(name: &str) -> Result<(), TopicError> {
    if name.is_empty() || name.len() > Topic::BYTES_MAX {
        return Err(TopicError::Length);
    }
    let mut previous = b'.';
    for &byte in name.as_bytes() {
        if !is_topic_byte(byte) {
            return Err(if matches!(byte, b'*' | b'>') {
                TopicError::Wildcard
            } else {
                TopicError::Character
            });
        }
        if byte == b'.' && previous == b'.' {
            return Err(TopicError::EmptySegment);
        }
        previous = byte;
    }
    if previous == b'.' { Err(TopicError::EmptySegment) } else { Ok(()) }
}

/// Whether `byte` may stand in a topic name; the dot included.
pub(crate) const fn is_topic_byte(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9'
        | b'_' | b'=' | b'@' | b',' | b'.' | b';' | b':' | b'!' | b'-')
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        fn check(name: &str, expect: Result<(), TopicError>) {
            assert_eq!(Topic::new(name).map(|_| ()), expect, "{name:?}");
        }
        check("ticker.BTC-USD", Ok(()));
        check("a", Ok(()));
        check("A_=@,;:!-.9", Ok(()));
        check(&"x".repeat(200), Ok(()));
        check(&"x".repeat(201), Err(TopicError::Length));
        check("", Err(TopicError::Length));
        check(".a", Err(TopicError::EmptySegment));
        check("a.", Err(TopicError::EmptySegment));
        check("a..b", Err(TopicError::EmptySegment));
        check(".", Err(TopicError::EmptySegment));
        check("$sys.x", Err(TopicError::Character));
        check("a b", Err(TopicError::Character));
        check("a/b", Err(TopicError::Character));
        check("a\r\nb", Err(TopicError::Character));
        check("ä", Err(TopicError::Character));
        check("a.\0", Err(TopicError::Character));
        check("ticker.*", Err(TopicError::Wildcard));
        check("ticker.>", Err(TopicError::Wildcard));
    }
}
