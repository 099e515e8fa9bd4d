//! One file per wire format.

pub(crate) mod json;
pub(crate) mod raw;
