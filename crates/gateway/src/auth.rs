//! Who may: from the credential of a request to the grant of its client.
//!
//! ```text
//!   request ─► origins ─► credential ─┬─► api_keys ─┐
//!                                     └─► cache ─► token (keys: configured, jwks) ─► revocations ─► grant
//! ```
//! Every request is looked at for itself; a connection keeps the grant of the request that it began with, until `auth`
//! brings another one, or [`expiry`] ends it. Who shows a credential that is not valid is refused, and never taken for
//! somebody who shows none.
//!
//! # Owner        [`Auth`]: the process, immutable but for the keys of a set; it is replaced whole

pub(crate) mod api_keys;
pub(crate) mod cache;
mod credential;
pub(crate) mod expiry;
pub(crate) mod failure;
pub(crate) mod grant;
pub(crate) mod jwks;
pub(crate) mod origins;
pub(crate) mod revocations;
pub(crate) mod token;

use std::sync::Arc;
use std::time::Instant;

use hyper::Request;

use crate::client::Client;
use crate::config::{AuthRules, Config, ConfigError};
use crate::error::ApiError;
use crate::worker::Worker;
use api_keys::{ApiKeys, KEY_BYTES, sha256};
use failure::Failure;
use grant::{Grant, Holder};
use jwks::KeySet;
use origins::Origins;
use token::{Rules, TokenKey, TokenKeys};

pub(crate) use credential::SUBPROTOCOL;

/// What a configuration says of who may.
pub(crate) struct Auth {
    /// Nothing says who may, so nobody is asked.
    is_open: bool,
    api_keys: ApiKeys,
    /// What tokens must say.
    rules: Rules,
    /// Those of the configuration.
    token_keys: TokenKeys,
    /// Those of the set that it names.
    pub(crate) key_set: KeySet,
    /// Of all clients without a credential.
    anonymous: Arc<Grant>,
    pub(crate) origins: Origins,
}

impl Auth {
    /// Reads what `config` names. `previous` is what was in force until now: keys that were fetched from the same URL stay.
    pub(crate) fn new(config: &Config, previous: Option<&Self>) -> Result<Self, ConfigError> {
        let mut errors = Vec::new();
        let rules = &config.auth;
        let token_keys = token_keys(config, &mut errors);
        let key_set = KeySet::new(config, previous.map(|previous| &previous.key_set), &mut errors);
        if !errors.is_empty() {
            return Err(ConfigError(errors));
        }
        let is_open = !rules.are_given();
        Ok(Self {
            is_open,
            api_keys: ApiKeys::new(&rules.api_keys),
            rules: Rules::new(rules),
            token_keys,
            key_set,
            anonymous: Arc::new(anonymous(rules)),
            origins: Origins::new(&rules.origins, !is_open),
        })
    }

    /// How many keys tokens are checked with.
    pub(crate) fn token_keys(&self) -> usize {
        self.token_keys.len() + self.key_set.keys().len()
    }
}

fn anonymous(rules: &AuthRules) -> Grant {
    match &rules.anonymous {
        _ if !rules.are_given() => Grant::everything(),
        Some(scope) => Grant {
            publish: scope.publish.clone().into(),
            subscribe: scope.subscribe.clone().into(),
            holder: Holder::Anybody,
            expires: None,
        },
        None => Grant::nothing(None),
    }
}

fn token_keys(config: &Config, errors: &mut Vec<String>) -> TokenKeys {
    let mut keys = Vec::new();
    for (index, rule) in config.auth.token_keys.iter().enumerate() {
        let path = config.path(&rule.file);
        let read = std::fs::read(&path).map_err(|error| error.to_string());
        match read.and_then(|bytes| TokenKey::read(rule, &bytes).map_err(str::to_owned)) {
            Ok(key) => keys.push(key),
            Err(error) => errors.push(format!("token_keys[{index}]: {}: {error}", path.display())),
        }
    }
    keys.into()
}

/// Looks at a request's credential, and makes its client what that is good for.
pub(crate) fn admit<B>(worker: &Worker, client: &Client, request: &Request<B>) -> Result<(), Failure> {
    let in_force = worker.shared.config();
    let auth = &in_force.who;
    // Where nobody is asked, what is shown may be for a proxy on the way.
    let credential = if auth.is_open { None } else { credential::of(request)? };
    client.admit(match credential {
        Some(credential) => check(worker, &credential)?,
        None => Arc::clone(&auth.anonymous),
    });
    Ok(())
}

/// The grant of a credential. A token has two dots, and a key has not.
pub(crate) fn check(worker: &Worker, credential: &str) -> Result<Arc<Grant>, Failure> {
    let in_force = worker.shared.config();
    let auth = &in_force.who;
    if auth.is_open {
        return Ok(Arc::clone(&auth.anonymous));
    }
    let grant = if credential.bytes().filter(|byte| *byte == b'.').count() == 2 {
        check_token(worker, auth, credential)?
    } else {
        if !KEY_BYTES.contains(&credential.len()) {
            return Err(Failure::Malformed);
        }
        auth.api_keys.find(credential).ok_or(Failure::UnknownKey)?
    };
    if worker.shared.revocations.has(&grant.holder) {
        return Err(Failure::Revoked);
    }
    Ok(grant)
}

fn check_token(worker: &Worker, auth: &Auth, token: &str) -> Result<Arc<Grant>, Failure> {
    let config = worker.shared.config();
    if token.len() > config.limits.token_bytes {
        return Err(Failure::Malformed);
    }
    let mut cache = worker.tokens.borrow_mut();
    let (digest, max) = (sha256(token.as_bytes()), config.limits.token_cache);
    // Read before the keys are: what is remembered was checked with these, or with newer ones.
    let generation = auth.key_set.generation();
    if let Some(grant) = cache.find(&digest, generation, Instant::now(), max) {
        return Ok(grant);
    }
    let set = auth.key_set.keys();
    let checked = auth.rules.check(token, auth.token_keys.iter().chain(set.iter()));
    if checked.as_ref().is_err_and(|failure| *failure == Failure::UnknownTokenKey) {
        // The set may have it by now.
        auth.key_set.ask();
    }
    let grant = Arc::new(checked?);
    cache.insert(digest, Arc::clone(&grant), max);
    worker.counters().cached_tokens.set(cache.len() as u64);
    Ok(grant)
}

/// Why the grant that a client has is over, if it is.
pub(crate) fn is_over(worker: &Worker, client: &Client) -> Result<(), Failure> {
    let Some(grant) = client.grant() else { return Ok(()) };
    if grant.has_expired(Instant::now()) {
        return Err(Failure::Expired);
    }
    if worker.shared.revocations.has(&grant.holder) { Err(Failure::Revoked) } else { Ok(()) }
}

/// Refuses, and counts why.
pub(crate) fn refuse(worker: &Worker, failure: Failure) -> ApiError {
    worker.counters().auth_failures[failure.index()].add(1);
    failure.into()
}
