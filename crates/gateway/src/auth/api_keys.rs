//! API keys: long-lived credentials of publishers and servers, known to the gateway by their SHA-256 alone.
//!
//! A key is looked up by its hash. How long that takes tells something of the hash that was computed, and nothing of those
//! that are configured: who sends a key knows its hash already, and cannot choose one bit by bit. The lookup goes by the
//! first bytes; the whole is then compared in constant time. The hash needs no salt and no work factor, because a key is
//! random: `fanfare hash-key --random` makes one of 256 bits.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

use super::grant::{Grant, Holder};
use crate::config::ApiKeyRule;

/// The shortest and the longest key, in bytes.
pub(crate) const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// SHA-256 of a credential.
pub(crate) type Digest = [u8; 32];

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let mut sum = Digest::default();
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

/// The configured keys.
#[derive(Default)]
pub(crate) struct ApiKeys(HashMap<Prefix, Vec<(Digest, Arc<Grant>)>, ahash::RandomState>);

type Prefix = [u8; 8];

fn prefix(digest: &Digest) -> Prefix {
    *digest.first_chunk().expect("it is shorter")
}

impl ApiKeys {
    pub(crate) fn new(rules: &[ApiKeyRule]) -> Self {
        let mut keys = Self::default();
        for rule in rules {
            let grant = Grant {
                publish: rule.publish.clone().into(),
                subscribe: rule.subscribe.clone().into(),
                holder: Holder::Key(rule.name.as_str().into()),
                expires: None,
            };
            keys.0.entry(prefix(&rule.sha256)).or_default().push((rule.sha256, Arc::new(grant)));
        }
        keys
    }

    /// The grant of a key.
    pub(crate) fn find(&self, key: &str) -> Option<Arc<Grant>> {
        let presented = sha256(key.as_bytes());
        let candidates = self.0.get(&prefix(&presented))?;
        let is_it = |(digest, _): &&(Digest, _)| verify_slices_are_equal(digest, &presented).is_ok();
        candidates.iter().find(is_it).map(|(_, grant)| Arc::clone(grant))
    }
}
