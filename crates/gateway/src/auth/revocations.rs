//! Credentials that operators have revoked.
//!
//! # Owner        the process; written on the control plane, read where a credential is checked
//! # Bounds       `Limits::revocations`; what may be forgotten makes room

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use parking_lot::RwLock;
use serde::Serialize;

use super::grant::Holder;
use crate::clock;

/// All revocations in force.
#[derive(Default)]
pub(crate) struct Revocations {
    entries: RwLock<Entries>,
    /// How often one was added. Zero: there was never one, and nobody needs to look.
    changes: AtomicU64,
}

/// Until when, in seconds since 1970; `None`: until it is taken back.
pub(crate) type Until = Option<u64>;

/// Whose credentials.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Who {
    /// Every token with this `sub`.
    Subject(Box<str>),
    /// The token with this `jti`.
    Token(Box<str>),
    /// The API key of this name.
    Key(Box<str>),
}

type Names = HashMap<Box<str>, Until, ahash::RandomState>;

#[derive(Default)]
struct Entries {
    subjects: Names,
    tokens: Names,
    keys: Names,
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
        let now = clock::unix().as_secs();
        let entries = self.entries.read();
        let is_in = |names: &Names, name: &str| names.get(name).is_some_and(|until| holds(*until, now));
        match holder {
            Holder::Anybody => false,
            Holder::Key(name) => is_in(&entries.keys, name),
            Holder::Token { subject, id } => {
                subject.as_ref().is_some_and(|subject| is_in(&entries.subjects, subject))
                    || id.as_ref().is_some_and(|id| is_in(&entries.tokens, id))
            }
        }
    }

    /// How many there are, those included that may be forgotten.
    pub(crate) fn len(&self) -> usize {
        self.entries.read().len()
    }

    /// Adds one, or says until when it holds. `false` if there are `max`.
    pub(crate) fn add(&self, who: Who, until: Until, now: u64, max: usize) -> bool {
        {
            let mut entries = self.entries.write();
            if entries.len() >= max {
                entries.forget(now);
            }
            let is_full = entries.len() >= max;
            let (names, name) = entries.place(who);
            if is_full && !names.contains_key(&name) {
                return false;
            }
            names.insert(name, until);
        }
        self.changes.fetch_add(1, Release);
        true
    }

    /// Takes one back. `false` if there is none.
    pub(crate) fn remove(&self, who: &Who) -> bool {
        let mut entries = self.entries.write();
        let removed = match who {
            Who::Subject(name) => entries.subjects.remove(name),
            Who::Token(name) => entries.tokens.remove(name),
            Who::Key(name) => entries.keys.remove(name),
        };
        removed.is_some()
    }

    /// Those that hold.
    pub(crate) fn list(&self, now: u64) -> Vec<(Who, Until)> {
        fn of(names: &Names, who: fn(Box<str>) -> Who, now: u64) -> impl Iterator<Item = (Who, Until)> {
            let holding = names.iter().filter(move |(_, until)| holds(**until, now));
            holding.map(move |(name, until)| (who(name.clone()), *until))
        }
        let entries = self.entries.read();
        let subjects = of(&entries.subjects, Who::Subject, now);
        let tokens = of(&entries.tokens, Who::Token, now);
        subjects.chain(tokens).chain(of(&entries.keys, Who::Key, now)).collect()
    }
}

fn holds(until: Until, now: u64) -> bool {
    until.is_none_or(|until| until > now)
}

impl Entries {
    fn len(&self) -> usize {
        self.subjects.len() + self.tokens.len() + self.keys.len()
    }

    fn forget(&mut self, now: u64) {
        for names in [&mut self.subjects, &mut self.tokens, &mut self.keys] {
            names.retain(|_, until| holds(*until, now));
        }
    }

    fn place(&mut self, who: Who) -> (&mut Names, Box<str>) {
        match who {
            Who::Subject(name) => (&mut self.subjects, name),
            Who::Token(name) => (&mut self.tokens, name),
            Who::Key(name) => (&mut self.keys, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(subject: &str, id: &str) -> Holder {
        Holder::Token { subject: Some(subject.into()), id: Some(id.into()) }
    }

    #[test]
    fn who_is_revoked_is_known_by_any_name() {
        let (revocations, now) = (Revocations::default(), clock::unix().as_secs());
        assert!(revocations.add(Who::Subject("ann".into()), None, now, 9));
        assert!(revocations.add(Who::Token("t1".into()), Some(now + 60), now, 9));
        assert!(revocations.add(Who::Key("feeds".into()), None, now, 9));
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
        let (revocations, now) = (Revocations::default(), clock::unix().as_secs());
        let add = |name: &str, until, now| revocations.add(Who::Subject(name.into()), until, now, 2);
        assert!(add("a", Some(now + 60), now) && add("b", None, now) && !add("c", None, now));
        assert!(add("b", Some(now + 90), now), "it is there already");
        assert!(add("c", None, now + 60) && revocations.len() == 2);
        assert_eq!(revocations.list(now + 90), [(Who::Subject("c".into()), None)]);
    }
}
