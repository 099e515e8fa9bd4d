//! Who may: `[[api_keys]]`, `[[token_keys]]` and `[anonymous]` of the file, and the keys that belong to them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use fanfare_wire::Pattern;
use jsonwebtoken::Algorithm;
use toml::{Table, Value};

use super::keys::unknown;

/// Everything that says who may.
#[derive(Debug, Clone)]
pub struct AuthRules {
    /// Known API keys.
    pub api_keys: Vec<ApiKeyRule>,
    /// What tokens are checked with.
    pub token_keys: Vec<TokenKeyRule>,
    /// What clients without a credential may. If there is none, and something else is configured, nothing.
    pub anonymous: Option<Scope>,
    /// Where more keys for tokens are: a path, or a URL.
    pub jwks: Option<String>,
    /// Who vouches for that URL's host: a file of certificates in place of the usual ones.
    pub jwks_ca: Option<PathBuf>,
    /// How old keys from the URL get before they are fetched again.
    pub jwks_refresh: Duration,
    /// A token's `aud` has one of them; nothing is checked if there is none.
    pub token_audience: Vec<String>,
    /// A token's `iss` is one of them; likewise.
    pub token_issuer: Vec<String>,
    /// How far the clock of whoever made a token may be ahead.
    pub token_leeway: Duration,
    /// Whose pages may come, beside those of the gateway's own host.
    pub origins: Vec<String>,
}

impl Default for AuthRules {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            token_keys: Vec::new(),
            anonymous: None,
            jwks: None,
            jwks_ca: None,
            jwks_refresh: Duration::from_secs(300),
            token_audience: Vec::new(),
            token_issuer: Vec::new(),
            token_leeway: Duration::from_secs(5),
            origins: Vec::new(),
        }
    }
}

impl AuthRules {
    /// Whether anything says who may. If nothing does, everybody may everything.
    pub fn are_given(&self) -> bool {
        !self.api_keys.is_empty()
            || !self.token_keys.is_empty()
            || self.jwks.is_some()
            || self.anonymous.is_some()
    }

    /// What each rule cannot see alone.
    pub(super) fn check(&self, errors: &mut Vec<String>) {
        for (index, key) in self.api_keys.iter().enumerate() {
            let earlier = &self.api_keys[..index];
            if earlier.iter().any(|earlier| earlier.name == key.name) {
                errors.push(format!("api_keys[{index}].name: another key has it"));
            }
            if earlier.iter().any(|earlier| earlier.sha256 == key.sha256) {
                errors.push(format!("api_keys[{index}].sha256: another key has it"));
            }
        }
        for (index, key) in self.token_keys.iter().enumerate() {
            if self.token_keys[..index].iter().any(|earlier| earlier.id == key.id) {
                errors.push(format!("token_keys[{index}].id: another key has it"));
            }
        }
        if self.jwks_ca.is_some() && !self.jwks.as_ref().is_some_and(|jwks| jwks.starts_with("https://")) {
            errors.push("jwks_ca: jwks is no https:// URL".into());
        }
    }
}

/// Topics and wildcards that somebody may publish and subscribe to.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Publish to.
    pub publish: Vec<Pattern>,
    /// Subscribe to.
    pub subscribe: Vec<Pattern>,
}

/// An API key.
#[derive(Clone)]
pub struct ApiKeyRule {
    /// Names it in revocations.
    pub name: String,
    /// Of the key.
    pub sha256: [u8; 32],
    /// What it is good for.
    pub publish: Vec<Pattern>,
    /// Likewise.
    pub subscribe: Vec<Pattern>,
}

/// The hash of a key that somebody has chosen badly is as good as the key.
impl fmt::Debug for ApiKeyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyRule").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What tokens are checked with.
#[derive(Debug, Clone)]
pub struct TokenKeyRule {
    /// The `kid` that chooses it.
    pub id: String,
    /// The only algorithm that it is for.
    pub algorithm: Algorithm,
    /// Where the secret, or the public key, is; relative to the configuration file.
    pub file: PathBuf,
}

/// What a key's table may say.
const API_KEY_KEYS: [&str; 4] = ["name", "sha256", "publish", "subscribe"];
const TOKEN_KEY_KEYS: [&str; 4] = ["id", "algorithm", "secret_file", "public_key_file"];
const SCOPE_KEYS: [&str; 2] = ["publish", "subscribe"];

/// Reads one of `[[api_keys]]`.
pub(super) fn api_key(table: &Table) -> Result<ApiKeyRule, String> {
    let (mut name, mut sha256) = (None, None);
    let mut scope = Scope::default();
    for (key, value) in table {
        match key.as_str() {
            "name" => name = Some(text(key, value)?.to_owned()),
            "sha256" => {
                sha256 = Some(hex(text(key, value)?).ok_or("sha256: not 64 hexadecimal digits")?);
            }
            _ => scope.read(key, value, &API_KEY_KEYS)?,
        }
    }
    let Scope { publish, subscribe } = scope;
    let name = name.filter(|name| !name.is_empty()).ok_or("name: missing")?;
    Ok(ApiKeyRule { name, sha256: sha256.ok_or("sha256: missing")?, publish, subscribe })
}

/// Reads one of `[[token_keys]]`.
pub(super) fn token_key(table: &Table) -> Result<TokenKeyRule, String> {
    let (mut id, mut algorithm, mut secret, mut public) = (None, None, None, None);
    for (key, value) in table {
        let value = text(key, value);
        match key.as_str() {
            "id" => id = Some(value?.to_owned()),
            "algorithm" => {
                let name = value?;
                let known = name.parse::<Algorithm>().map_err(|_| {
                    format!("algorithm: {name:?} is not one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA")
                })?;
                algorithm = Some(known);
            }
            "secret_file" => secret = Some(PathBuf::from(value?)),
            "public_key_file" => public = Some(PathBuf::from(value?)),
            _ => return Err(format!("{key}: {}", unknown(key, TOKEN_KEY_KEYS))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or("id: missing")?;
    let algorithm = algorithm.ok_or("algorithm: missing")?;
    let is_secret = matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
    // A public key taken for a secret would let everybody who knows it sign.
    let file = match (is_secret, secret, public) {
        (true, Some(file), None) | (false, None, Some(file)) => file,
        (true, None, None) => return Err("secret_file: missing".into()),
        (false, None, None) => return Err("public_key_file: missing".into()),
        (true, _, Some(_)) => return Err(format!("public_key_file: {algorithm:?} has a secret")),
        (false, Some(_), _) => return Err(format!("secret_file: {algorithm:?} has a public key")),
    };
    Ok(TokenKeyRule { id, algorithm, file })
}

/// Reads `[anonymous]`.
pub(super) fn scope(table: &Table) -> Result<Scope, String> {
    let mut scope = Scope::default();
    for (key, value) in table {
        scope.read(key, value, &SCOPE_KEYS)?;
    }
    Ok(scope)
}

impl Scope {
    fn read(&mut self, key: &str, value: &Value, known: &[&'static str]) -> Result<(), String> {
        match key {
            "publish" => self.publish = patterns(key, value)?,
            "subscribe" => self.subscribe = patterns(key, value)?,
            _ => return Err(format!("{key}: {}", unknown(key, known.iter().copied()))),
        }
        Ok(())
    }
}

fn patterns(key: &str, value: &Value) -> Result<Vec<Pattern>, String> {
    let texts = value.as_array().ok_or_else(|| format!("{key}: not an array of topics and wildcards"))?;
    let pattern = |value: &Value| {
        let text = value.as_str().ok_or_else(|| format!("{key}: not an array of topics and wildcards"))?;
        Pattern::new(text).map_err(|error| format!("{key}: {text:?}: {error}"))
    };
    texts.iter().map(pattern).collect()
}

fn text<'a>(key: &str, value: &'a Value) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{key}: not a string"))
}

/// 32 bytes in hexadecimal.
fn hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}
