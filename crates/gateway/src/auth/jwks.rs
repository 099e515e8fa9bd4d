//! A set of keys that somebody else keeps: JSON Web Keys (RFC 7517), from a file or from a URL.
//!
//! Keys for signatures of a known algorithm are taken, each for one algorithm: its `alg`, or what its kind says. Secrets are
//! not: who can read a set could sign. When the set cannot be had, the keys that were there stay.

mod fetch;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use arc_swap::{ArcSwap, Guard};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::Notify;

use super::token::{TokenKey, TokenKeys};
use crate::config::Config;
use fetch::Target;

pub(crate) use fetch::run;

/// The most keys of a set; real ones have a few.
const KEYS_MAX: usize = 100;

/// The set that a configuration names, as it was when it was read last.
pub(crate) struct KeySet {
    /// Where it is fetched, if it is: the very same as before a reload that changes nothing about it.
    target: Option<Arc<Target>>,
    keys: ArcSwap<TokenKeys>,
    /// Which keys of the process, configured ones included, these are: no others have the number.
    generation: AtomicU64,
    /// A token has named a key that is not there.
    asked: Notify,
}

/// The last number given.
static GENERATIONS: AtomicU64 = AtomicU64::new(0);

impl KeySet {
    pub(crate) fn new(config: &Config, previous: Option<&Self>, errors: &mut Vec<String>) -> Self {
        let set = Self {
            target: None,
            keys: ArcSwap::from_pointee(Arc::from([])),
            generation: AtomicU64::new(GENERATIONS.fetch_add(1, Relaxed) + 1),
            asked: Notify::new(),
        };
        match &config.auth.jwks {
            Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                let Some(mut target) = Target::new(url, config, errors).map(Arc::new) else { return set };
                if let Some(previous) = previous
                    && let Some(known) = &previous.target
                    && known.url == target.url
                {
                    set.keys.store(previous.keys.load_full());
                    if known.trust == target.trust {
                        target = Arc::clone(known);
                    }
                }
                Self { target: Some(target), ..set }
            }
            Some(path) => {
                let path = config.path(path.as_ref());
                let bytes = std::fs::read(&path).map_err(|error| error.to_string());
                match bytes.and_then(|bytes| read(&bytes).map_err(str::to_owned)) {
                    Ok(keys) => set.keys.store(Arc::new(keys)),
                    Err(error) => errors.push(format!("jwks: {}: {error}", path.display())),
                }
                set
            }
            None => set,
        }
    }

    pub(crate) fn keys(&self) -> Guard<Arc<TokenKeys>> {
        self.keys.load()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// Takes the place of what was there.
    fn replace(&self, keys: TokenKeys) {
        self.keys.store(Arc::new(keys));
        // After the keys: what is remembered under the new number was checked with them.
        self.generation.store(GENERATIONS.fetch_add(1, Relaxed) + 1, Release);
    }

    /// Asks for another fetch, some time.
    pub(crate) fn ask(&self) {
        if self.target.is_some() {
            self.asked.notify_one();
        }
    }
}

/// Reads a set. What is in it that is not for tokens is passed over.
pub(crate) fn read(bytes: &[u8]) -> Result<TokenKeys, &'static str> {
    let set: JwkSet = serde_json::from_slice(bytes).map_err(|_| "not a JSON Web Key Set")?;
    let keys: Vec<_> = set.keys.iter().filter_map(key).collect();
    match keys.len() {
        0 => Err("there is no public key for signatures in it"),
        count if count > KEYS_MAX => Err("there are more than 100 keys in it"),
        _ => Ok(keys.into()),
    }
}

fn key(jwk: &Jwk) -> Option<TokenKey> {
    if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
        return None;
    }
    let of_its_kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => Algorithm::ES384,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let algorithm = match jwk.common.key_algorithm {
        Some(algorithm) => algorithm.to_string().parse().ok()?,
        None => of_its_kind,
    };
    TokenKey::new(jwk.common.key_id.as_deref(), algorithm, DecodingKey::from_jwk(jwk).ok()?).ok()
}
