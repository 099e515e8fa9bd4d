//! Tokens: JSON Web Tokens (RFC 7519), signed by somebody else.
//!
//! A token's header chooses among the keys that are configured, by `kid`, and nothing more: the algorithm is the key's, and a
//! key, or the address of one, that the token brings along is never looked at.
//!
//! | claim | |
//! |---|---|
//! | `sub_topics`, `pub_topics` | arrays of topics and wildcards; what is left out allows nothing |
//! | `exp` | required; exact |
//! | `nbf`, `iat` | not further ahead than the leeway |
//! | `aud`, `iss` | required and checked where they are configured; an `aud` that nobody expects is refused |
//! | `sub`, `jti` | what a revocation names |

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_wire::Pattern;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Header, Validation};
use serde::Deserialize;

use super::failure::Failure;
use super::grant::{Grant, Holder};
use crate::clock;
use crate::config::{AuthRules, TokenKeyRule};

/// The shortest secret, in bytes: that of the shortest hash (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// The shortest RSA key, in bytes of its modulus (RFC 7518, section 3.3).
const RSA_BYTES_MIN: usize = 256;

/// A key, and the one algorithm that it is for.
pub(crate) struct TokenKey {
    /// Tokens name it; keys of a set may have none.
    id: Option<Box<str>>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl TokenKey {
    pub(crate) fn new(
        id: Option<&str>,
        algorithm: Algorithm,
        key: DecodingKey,
    ) -> Result<Self, &'static str> {
        use jsonwebtoken::DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
        match (key.kind(), algorithm) {
            _ if key.family() != algorithm.family() => return Err("the key is of another kind"),
            (SecretOrDer(secret), _)
                if key.family() == AlgorithmFamily::Hmac && secret.len() < SECRET_BYTES_MIN =>
            {
                return Err("a secret has at least 32 bytes");
            }
            // A point of the curve, uncompressed.
            (SecretOrDer(point), Algorithm::ES256) if point.len() != 65 => {
                return Err("the key is not of the curve P-256");
            }
            (SecretOrDer(point), Algorithm::ES384) if point.len() != 97 => {
                return Err("the key is not of the curve P-384");
            }
            (SecretOrDer(point), Algorithm::EdDSA) if point.len() != 32 => {
                return Err("the key is not of the curve Ed25519");
            }
            // In DER, the modulus is most of it.
            (SecretOrDer(der), _) if key.family() == AlgorithmFamily::Rsa && der.len() < RSA_BYTES_MIN => {
                return Err("an RSA key has at least 2048 bits");
            }
            (RsaModulusExponent { n, .. }, _) if n.len() < RSA_BYTES_MIN => {
                return Err("an RSA key has at least 2048 bits");
            }
            _ => {}
        }
        Ok(Self { id: id.map(Into::into), algorithm, key })
    }

    /// Reads a configured key. `bytes` is what its file has.
    pub(crate) fn read(rule: &TokenKeyRule, bytes: &[u8]) -> Result<Self, &'static str> {
        let key = match rule.algorithm.family() {
            // A last line's end is the editor's.
            AlgorithmFamily::Hmac => {
                let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
                Ok(DecodingKey::from_secret(secret.strip_suffix(b"\r").unwrap_or(secret)))
            }
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(bytes),
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(bytes),
            AlgorithmFamily::Ed => DecodingKey::from_ed_pem(bytes),
        };
        let key = key.map_err(|_| "not a public key of that algorithm in PEM")?;
        Self::new(Some(&rule.id), rule.algorithm, key)
    }

    /// Whether a token with this header may be checked with it.
    fn is_meant(&self, header: &Header) -> bool {
        match &header.kid {
            Some(id) => self.id.as_deref() == Some(id),
            None => self.algorithm == header.alg,
        }
    }
}

/// What is checked of claims, whatever the key.
pub(crate) struct Rules {
    audience: Vec<String>,
    issuer: Vec<String>,
    leeway: Duration,
}

#[derive(Deserialize)]
struct Claims {
    exp: Number,
    iat: Option<Number>,
    sub: Option<Box<str>>,
    jti: Option<Box<str>>,
    #[serde(default)]
    sub_topics: Vec<Box<str>>,
    #[serde(default)]
    pub_topics: Vec<Box<str>>,
}

/// Seconds since 1970; a fraction is allowed (RFC 7519, section 2).
#[derive(Deserialize, Clone, Copy)]
#[serde(transparent)]
struct Number(f64);

impl Number {
    /// `None` if no clock will ever show it.
    fn since_1970(self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.0).ok()
    }
}

impl Rules {
    pub(crate) fn new(rules: &AuthRules) -> Self {
        Self {
            audience: rules.token_audience.clone(),
            issuer: rules.token_issuer.clone(),
            leeway: rules.token_leeway,
        }
    }

    /// Checks a token with one of `keys`.
    pub(crate) fn check<'a>(
        &self,
        token: &str,
        keys: impl Iterator<Item = &'a TokenKey>,
    ) -> Result<Grant, Failure> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Failure::Malformed)?;
        let brings_key =
            header.jku.is_some() || header.jwk.is_some() || header.x5u.is_some() || header.x5c.is_some();
        // Extensions that must be understood (RFC 7515, section 4.1.11): none is.
        if brings_key || header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
            return Err(Failure::Header);
        }
        let mut failure = Failure::UnknownTokenKey;
        for key in keys.filter(|key| key.is_meant(&header)) {
            if key.algorithm != header.alg {
                failure = Failure::Algorithm;
                continue;
            }
            match jsonwebtoken::decode::<Claims>(token, &key.key, &self.validation(key.algorithm)) {
                Ok(data) => return self.grant(data.claims),
                // Keys that take each other's place may share an id, or have none.
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => failure = Failure::Signature,
                Err(error) => return Err(reason(error.kind())),
            }
        }
        Err(failure)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        let mut required = vec!["exp"];
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        if !self.audience.is_empty() {
            validation.set_audience(&self.audience);
            required.push("aud");
        }
        if !self.issuer.is_empty() {
            validation.set_issuer(&self.issuer);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        validation
    }

    /// What the claims of a token with a good signature are worth.
    fn grant(&self, claims: Claims) -> Result<Grant, Failure> {
        let (now, wall) = (Instant::now(), clock::unix());
        let expires = claims.exp.since_1970().ok_or(Failure::Claims)?;
        let left = expires.checked_sub(wall).filter(|left| !left.is_zero()).ok_or(Failure::Expired)?;
        if let Some(issued) = claims.iat {
            let issued = issued.since_1970().ok_or(Failure::Claims)?;
            if issued > wall + self.leeway {
                return Err(Failure::NotYet);
            }
        }
        let patterns = |topics: Vec<Box<str>>| {
            let patterns: Result<Box<[_]>, _> = topics.iter().map(|topic| Pattern::new(topic)).collect();
            patterns.map_err(|_| Failure::Claims)
        };
        Ok(Grant {
            publish: patterns(claims.pub_topics)?,
            subscribe: patterns(claims.sub_topics)?,
            holder: Holder::Token { subject: claims.sub, id: claims.jti },
            // Past what this clock can count to, nobody will be here.
            expires: now.checked_add(left),
        })
    }
}

fn reason(error: &ErrorKind) -> Failure {
    match error {
        ErrorKind::InvalidAlgorithm | ErrorKind::MissingAlgorithm => Failure::Algorithm,
        ErrorKind::ExpiredSignature => Failure::Expired,
        ErrorKind::ImmatureSignature => Failure::NotYet,
        ErrorKind::InvalidAudience => Failure::Audience,
        ErrorKind::InvalidIssuer => Failure::Issuer,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => Failure::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => Failure::Issuer,
        ErrorKind::Base64(_) | ErrorKind::Utf8(_) | ErrorKind::InvalidToken => Failure::Malformed,
        _ => Failure::Claims,
    }
}

/// Keys that are in force together.
pub(crate) type TokenKeys = Arc<[TokenKey]>;
