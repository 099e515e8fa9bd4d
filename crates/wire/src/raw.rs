//! JSON values as the bytes that arrived.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Reads a value that is there. `null` is a value: serde would take it for an absent one.
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}
