//! Whoever makes tokens, and whoever forges them: it signs anything.
//!
//! It shares no code with the gateway's reading of tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA512,
};
use aws_lc_rs::{digest, hmac, rsa};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A key that signs.
pub struct Signer {
    /// As tokens name it.
    pub algorithm: &'static str,
    key: Key,
}

enum Key {
    Secret(hmac::Algorithm, Vec<u8>),
    Rsa(rsa::KeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    pub fn secret(algorithm: &'static str, secret: impl Into<Vec<u8>>) -> Self {
        let kind = match algorithm {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            _ => hmac::HMAC_SHA512,
        };
        Self { algorithm, key: Key::Secret(kind, secret.into()) }
    }

    /// `RS256` or `PS512`.
    pub fn rsa(algorithm: &'static str) -> Self {
        let key = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("keys can be made");
        Self { algorithm, key: Key::Rsa(key) }
    }

    pub fn p256() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("keys can be made");
        Self { algorithm: "ES256", key: Key::Ec(key) }
    }

    pub fn p384() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("keys can be made");
        Self { algorithm: "ES384", key: Key::Ec(key) }
    }

    pub fn ed25519() -> Self {
        Self { algorithm: "EdDSA", key: Key::Ed(Ed25519KeyPair::generate().expect("keys can be made")) }
    }

    /// The public key in PEM; of a secret, the secret.
    pub fn file(&self) -> Vec<u8> {
        let der = match &self.key {
            Key::Secret(_, secret) => return secret.clone(),
            Key::Rsa(key) => AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()),
            Key::Ec(key) => AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()),
            Key::Ed(key) => AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()),
        };
        let text = STANDARD.encode(der.expect("a public key has a form").as_ref() as &[u8]);
        let lines: Vec<_> = text
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).expect("base64 is text"))
            .collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")).into_bytes()
    }

    /// The public key of a P-256 signer as a JSON Web Key.
    pub fn jwk(&self, id: &str) -> Value {
        let Key::Ec(key) = &self.key else { panic!("only keys of P-256 are asked for") };
        let point = key.public_key().as_ref();
        let (x, y) = (base64url(&point[1..33]), base64url(&point[33..65]));
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": id, "x": x, "y": y})
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.key {
            Key::Secret(kind, secret) => {
                hmac::sign(&hmac::Key::new(*kind, secret), message).as_ref().to_vec()
            }
            Key::Rsa(key) => {
                let padding: &dyn aws_lc_rs::signature::RsaEncoding =
                    if self.algorithm == "RS256" { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA512 };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &SystemRandom::new(), message, &mut signature).expect("it signs");
                signature
            }
            Key::Ec(key) => key.sign(&SystemRandom::new(), message).expect("it signs").as_ref().to_vec(),
            Key::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A token of any header and claims.
    pub fn forge(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
        let signature = base64url(&self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// A token that names its key, and is as it should be but for what the claims say.
    pub fn token(&self, id: &str, claims: &Value) -> String {
        let header = json!({"typ": "JWT", "alg": self.algorithm, "kid": id});
        self.forge(&header.to_string(), &claims.to_string())
    }
}

pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since 1970, so many from now.
pub fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    now.as_secs() as i64 + seconds
}

/// Claims that are good for an hour, with `others` in place of what they have or besides.
pub fn claims(others: Value) -> Value {
    let mut claims = json!({"exp": in_seconds(3600), "sub_topics": ["a.>"], "pub_topics": ["a.>"]});
    for (name, value) in others.as_object().expect("claims are an object") {
        if value.is_null() {
            claims.as_object_mut().expect("likewise").remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

/// What the configuration has of an API key.
pub fn sha256(key: &str) -> String {
    digest::digest(&digest::SHA256, key.as_bytes())
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
