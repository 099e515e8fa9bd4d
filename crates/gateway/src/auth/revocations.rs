//! Credentials that are no longer good, though nothing else says so.
//!
//! ```text
//!   POST /revocations {"subject":"…"}     every token with this `sub`
//!   POST /revocations {"token":"…"}       the token with this `jti`
//!   POST /revocations {"key":"…"}         the API key of this name
//! ```
//! with `"until"`, in seconds since 1970, when it may be forgotten: the `exp` of the last token that it is about. Without, it
//! holds until it is taken back (DELETE, the same body), or until the process ends. GET lists them.
//!
//! # Owner        the process; written on the control plane, read where a credential is checked
//! # Bounds       `Limits::revocations`; what may be forgotten makes room

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{SystemTime, UNIX_EPOCH};

use fanfare_wire::event::ErrorCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::grant::Holder;
use crate::error::{ApiError, Body, json};

/// The longest request: names have no reason to be longer.
const BODY_BYTES_MAX: usize = 8 * 1024;

/// All revocations in force.
#[derive(Default)]
pub(crate) struct Revocations {
    entries: RwLock<Entries>,
    /// How often one was added. Zero: there was never one, and nobody needs to look.
    changes: AtomicU64,
}

/// Until when, in seconds since 1970.
type Until = Option<u64>;

#[derive(Default)]
struct Entries {
    subjects: HashMap<Box<str>, Until, ahash::RandomState>,
    tokens: HashMap<Box<str>, Until, ahash::RandomState>,
    keys: HashMap<Box<str>, Until, ahash::RandomState>,
}

/// One of them, as operators write it.
#[derive(Debug, Serialize)]
struct Revocation {
    #[serde(flatten)]
    who: Who,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Until,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Who {
    Subject(Box<str>),
    Token(Box<str>),
    Key(Box<str>),
}

impl Revocations {
    /// Grows with each new one.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Acquire)
    }

    /// Whether a grant of this holder is revoked.
    pub(crate) fn has(&self, holder: &Holder) -> bool {
        if self.changes() == 0 || *holder == Holder::Anybody {
            return false;
        }
        let now = unix_seconds();
        let entries = self.entries.read();
        let holds = |until: Option<&Until>| until.is_some_and(|until| until.is_none_or(|until| until > now));
        match holder {
            Holder::Anybody => false,
            Holder::Key(name) => holds(entries.keys.get(name)),
            Holder::Token { subject, id } => {
                subject.as_ref().is_some_and(|subject| holds(entries.subjects.get(subject)))
                    || id.as_ref().is_some_and(|id| holds(entries.tokens.get(id)))
            }
        }
    }

    /// How many there are, those included that may be forgotten.
    pub(crate) fn len(&self) -> usize {
        self.entries.read().len()
    }

    /// `/revocations`
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        max: usize,
    ) -> Result<Response<Body>, ApiError> {
        match *request.method() {
            Method::GET | Method::HEAD => return Ok(json(StatusCode::OK, &self.list())),
            Method::POST | Method::DELETE => {}
            _ => return Err(ApiError::method_not_allowed("GET, HEAD, POST, DELETE")),
        }
        let is_new = request.method() == Method::POST;
        let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|_| ApiError::bad_request("the body is not a short JSON object"))?.to_bytes();
        let Asked { who, until } = Asked::read(&body).map_err(ApiError::bad_request)?;
        if is_new {
            self.add(who, until, max)?;
        } else if !self.remove(&who) {
            return Err(ApiError { message: "no such revocation".into(), ..ApiError::not_found() });
        }
        Ok(json(StatusCode::OK, &self.list()))
    }

    fn add(&self, who: Who, until: Until, max: usize) -> Result<(), ApiError> {
        let now = unix_seconds();
        if until.is_some_and(|until| until <= now) {
            return Err(ApiError::bad_request("\"until\" is over: seconds since 1970"));
        }
        {
            let mut entries = self.entries.write();
            let entries = &mut *entries;
            if entries.len() >= max {
                for map in [&mut entries.subjects, &mut entries.tokens, &mut entries.keys] {
                    map.retain(|_, until| until.is_none_or(|until| until > now));
                }
            }
            let is_full = entries.len() >= max;
            let (map, name) = entries.place(who);
            if is_full && !map.contains_key(&name) {
                let message = "there are as many revocations as there may be";
                return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Limit, message));
            }
            map.insert(name, until);
        }
        self.changes.fetch_add(1, Release);
        Ok(())
    }

    fn remove(&self, who: &Who) -> bool {
        let mut entries = self.entries.write();
        let removed = match who {
            Who::Subject(name) => entries.subjects.remove(name),
            Who::Token(name) => entries.tokens.remove(name),
            Who::Key(name) => entries.keys.remove(name),
        };
        removed.is_some()
    }

    fn list(&self) -> impl Serialize + use<> {
        #[derive(Serialize)]
        struct List {
            revocations: Vec<Revocation>,
        }
        let now = unix_seconds();
        let entries = self.entries.read();
        let of = |map: &HashMap<Box<str>, Until, ahash::RandomState>, who: fn(Box<str>) -> Who| {
            let holding = map.iter().filter(|(_, until)| until.is_none_or(|until| until > now));
            holding
                .map(|(name, until)| Revocation { who: who(name.clone()), until: *until })
                .collect::<Vec<_>>()
        };
        let mut revocations = of(&entries.subjects, Who::Subject);
        revocations.extend(of(&entries.tokens, Who::Token));
        revocations.extend(of(&entries.keys, Who::Key));
        List { revocations }
    }
}

impl Entries {
    fn len(&self) -> usize {
        self.subjects.len() + self.tokens.len() + self.keys.len()
    }

    fn place(&mut self, who: Who) -> (&mut HashMap<Box<str>, Until, ahash::RandomState>, Box<str>) {
        match who {
            Who::Subject(name) => (&mut self.subjects, name),
            Who::Token(name) => (&mut self.tokens, name),
            Who::Key(name) => (&mut self.keys, name),
        }
    }
}

/// What a request asks for.
struct Asked {
    who: Who,
    until: Until,
}

impl Asked {
    fn read(body: &[u8]) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            subject: Option<Box<str>>,
            token: Option<Box<str>>,
            key: Option<Box<str>>,
            until: Option<u64>,
        }
        const EXPECTED: &str =
            "expected: {\"subject\":\"…\"}, {\"token\":\"…\"} or {\"key\":\"…\"}, with \"until\" or without";
        let fields: Fields = serde_json::from_slice(body).map_err(|_| EXPECTED)?;
        let who = match (fields.subject, fields.token, fields.key) {
            (Some(name), None, None) => Who::Subject(name),
            (None, Some(name), None) => Who::Token(name),
            (None, None, Some(name)) => Who::Key(name),
            _ => return Err(EXPECTED),
        };
        Ok(Self { who, until: fields.until })
    }
}

/// The wall clock: what tokens and operators count in.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(subject: &str, id: &str) -> Holder {
        Holder::Token { subject: Some(subject.into()), id: Some(id.into()) }
    }

    #[test]
    fn who_is_revoked_is_known_by_any_name() {
        let revocations = Revocations::default();
        let later = unix_seconds() + 60;
        revocations.add(Who::Subject("ann".into()), None, 9).unwrap();
        revocations.add(Who::Token("t1".into()), Some(later), 9).unwrap();
        revocations.add(Who::Key("feeds".into()), None, 9).unwrap();
        let check = |holder: Holder, expect: bool| assert_eq!(revocations.has(&holder), expect, "{holder:?}");
        check(token("ann", "t9"), true);
        check(token("bob", "t1"), true);
        check(token("bob", "t2"), false);
        check(token("feeds", "feeds"), false);
        check(Holder::Key("feeds".into()), true);
        check(Holder::Key("ann".into()), false);
        check(Holder::Anybody, false);
        assert!(revocations.remove(&Who::Subject("ann".into())) && !revocations.has(&token("ann", "t9")));
    }

    #[test]
    fn what_may_be_forgotten_makes_room() {
        let revocations = Revocations::default();
        let add = |name: &str, until| revocations.add(Who::Subject(name.into()), until, 2).is_ok();
        let later = unix_seconds() + 60;
        assert!(!add("past", Some(unix_seconds())));
        assert!(add("a", Some(later)) && add("b", None) && !add("c", None) && add("b", Some(later)));
        revocations.entries.write().subjects.insert("a".into(), Some(1));
        assert!(add("c", None) && revocations.len() == 2);
        assert!(!revocations.has(&token("a", "x")));
    }

    #[test]
    fn requests_are_read_strictly() {
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"subject":"a","key":"b"}"#,
            r#"{"subject":"a","untill":1}"#,
            r#"{"until":1}"#,
            r#"{"subject":1}"#,
        ] {
            assert!(Asked::read(bad.as_bytes()).is_err(), "{bad}");
        }
        let asked = Asked::read(br#"{"token":"x","until":7}"#).unwrap();
        assert_eq!((asked.who, asked.until), (Who::Token("x".into()), Some(7)));
    }
}
