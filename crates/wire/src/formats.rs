//! One file per wire format.

pub(crate) mod deflated;
pub(crate) mod event_stream;
pub(crate) mod events;
pub(crate) mod json;
pub(crate) mod long_poll;
pub(crate) mod ndjson;
pub(crate) mod raw;
