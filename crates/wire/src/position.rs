//! The place of a message: the life of a count, and the count.

use std::fmt;
use std::str::FromStr;

/// The life of a topic's offsets. It changes whenever offsets restart; clients compare it and read nothing else in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

/// A place in one topic. Offsets count from 1; 0 is the place before the first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Which count `offset` belongs to.
    pub epoch: Epoch,
    /// The offset of the last message at or before this place. Stays below 2^53, so that JavaScript reads it exactly.
    pub offset: u64,
}

/// No vowels: an epoch never spells a word.
const ALPHABET: &[u8; 32] = b"0123456789bcdfghjkmnpqrstvwxyz-_";
const DIGITS: usize = 8;

impl Epoch {
    /// Takes the low 40 bits of `bits`: eight characters on the wire.
    pub const fn new(bits: u64) -> Self {
        Self(bits & 0xff_ffff_ffff)
    }

    /// How it stands on the wire, in ASCII.
    pub fn text(self) -> [u8; DIGITS] {
        let mut text = [0; DIGITS];
        for (place, digit) in text.iter_mut().enumerate() {
            *digit = ALPHABET[(self.0 >> (5 * place) & 31) as usize];
        }
        text
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

/// The text is not an epoch this server could have issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an epoch of this server")]
pub struct ParseEpochError;

impl FromStr for Epoch {
    type Err = ParseEpochError;

    fn from_str(text: &str) -> Result<Self, ParseEpochError> {
        if text.len() != DIGITS {
            return Err(ParseEpochError);
        }
        let mut bits = 0;
        for byte in text.bytes().rev() {
            let digit = ALPHABET.iter().position(|&known| known == byte).ok_or(ParseEpochError)?;
            bits = bits << 5 | digit as u64;
        }
        Ok(Self(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_survives_the_wire() {
        for bits in [0, 1, 31, 32, 0xff_ffff_ffff, 0x12_3456_789a, u64::MAX] {
            let epoch = Epoch::new(bits);
            assert_eq!(epoch.to_string().parse(), Ok(epoch), "{bits:x}");
        }
    }

    #[test]
    fn another_servers_epoch_is_refused() {
        for text in ["", "k3x9", "aeiouaei", "000000000", "0000000ä"] {
            assert_eq!(text.parse::<Epoch>(), Err(ParseEpochError), "{text:?}");
        }
    }
}
