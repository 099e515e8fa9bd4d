//! Sockets that take everything, for tests of what a pass costs.

use std::io::IoSlice;

use fanfare_fanout::{Sink, SubscriberId, Written};

/// All of them.
pub(crate) struct Healthy;

impl Sink for Healthy {
    fn write(&mut self, _: SubscriberId, bytes: &[u8]) -> Written {
        Written::Bytes(bytes.len())
    }

    fn write_vectored(&mut self, _: SubscriberId, slices: &[IoSlice<'_>]) -> Written {
        Written::Bytes(slices.iter().map(|slice| slice.len()).sum())
    }
}
