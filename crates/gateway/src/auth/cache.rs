//! Tokens that a worker has checked already: an RSA signature costs as much as some hundred deliveries.
//!
//! Refusals are not remembered: whoever sends wrong tokens pays for each, and leaves nothing.
//!
//! # Owner        one worker's thread
//! # Bounds       `Limits::token_cache`, in two halves: when the newer is full, the older is forgotten

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::api_keys::Digest;
use super::grant::Grant;

#[derive(Default)]
pub(crate) struct TokenCache {
    /// Of which keys: with others, nothing here holds.
    generation: u64,
    newer: HashMap<Digest, Arc<Grant>, ahash::RandomState>,
    older: HashMap<Digest, Arc<Grant>, ahash::RandomState>,
}

impl TokenCache {
    /// The grant of a token that was checked with the keys of this generation, and has not expired.
    pub(crate) fn find(
        &mut self,
        token: &Digest,
        generation: u64,
        now: Instant,
        max: usize,
    ) -> Option<Arc<Grant>> {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
            return None;
        }
        if let Some(grant) = self.newer.get(token) {
            return (!grant.has_expired(now)).then(|| Arc::clone(grant));
        }
        let grant = self.older.remove(token)?;
        if grant.has_expired(now) {
            return None;
        }
        self.insert(*token, Arc::clone(&grant), max);
        Some(grant)
    }

    /// Remembers a token, after it was not found.
    pub(crate) fn insert(&mut self, token: Digest, grant: Arc<Grant>, max: usize) {
        if self.newer.len() >= max.div_ceil(2) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(token, grant);
    }

    pub(crate) fn len(&self) -> usize {
        self.newer.len() + self.older.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_remembers_what_was_used_last_and_no_more_than_its_bound() {
        let (mut cache, now) = (TokenCache::default(), Instant::now());
        let grant = Arc::new(Grant::nothing(Some(now + Duration::from_secs(1))));
        for token in 0..100 {
            assert!(cache.find(&[token; 32], 0, now, 10).is_none());
            cache.insert([token; 32], Arc::clone(&grant), 10);
            assert!(cache.find(&[0; 32], 0, now, 10).is_some() && cache.len() <= 10);
        }
        assert!(cache.find(&[99; 32], 0, now, 10).is_some() && cache.find(&[50; 32], 0, now, 10).is_none());
        // Expired.
        assert!(cache.find(&[99; 32], 0, now + Duration::from_secs(1), 10).is_none());
        // Other keys.
        assert!(cache.find(&[99; 32], 1, now, 10).is_none() && cache.len() == 0);
    }
}
