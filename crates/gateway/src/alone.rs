//! A value that shares its cache lines with nothing.
//!
//! A line that one thread writes is fetched anew by every other that reads anything on it.

use std::ops::Deref;

/// On cache lines of its own: two of 64 bytes, which some processors fetch together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Alone<T>(T);

impl<T> Deref for Alone<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
