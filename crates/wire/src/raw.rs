//! Reading JSON that somebody else wrote: values as the bytes that arrived, and words about what is wrong with them.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Reads a value that is there. `null` is a value: serde would take it for an absent one.
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What an error says, cut to a length fit for an answer: serde quotes the value it did not expect, whatever its length.
pub(crate) fn clipped(error: &serde_json::Error) -> String {
    const CHARACTERS_MAX: usize = 200;
    let mut message = error.to_string();
    if let Some((end, _)) = message.char_indices().nth(CHARACTERS_MAX) {
        message.truncate(end);
        message.push('…');
    }
    message
}
