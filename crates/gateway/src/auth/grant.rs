//! What a client may, and until when.
//!
//! A grant is made where a credential is checked, and shared by all that came with that credential. A topic or a wildcard
//! is allowed if one of its patterns covers it whole: what no pattern covers is not allowed.

use std::time::Instant;

use fanfare_wire::{Name, Pattern, Topic};

/// What one credential, or none, is good for.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) publish: Box<[Pattern]>,
    pub(crate) subscribe: Box<[Pattern]>,
    pub(crate) holder: Holder,
    /// Of a token, when it expires. Taken from its wall-clock time once, when it is admitted.
    pub(crate) expires: Option<Instant>,
}

/// Whose grant it is: what a revocation names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Whoever shows no credential.
    Anybody,
    /// An API key, by its name in the configuration.
    Key(Box<str>),
    /// A token, by its claims `sub` and `jti`.
    Token { subject: Option<Box<str>>, id: Option<Box<str>> },
}

impl Grant {
    /// Everything, for everybody: there is no configured auth.
    pub(crate) fn everything() -> Self {
        let all = || Box::from([Pattern::new(">").expect("it is a pattern")]);
        Self { publish: all(), subscribe: all(), holder: Holder::Anybody, expires: None }
    }

    /// Nothing, for whoever shows no credential.
    pub(crate) fn nothing(expires: Option<Instant>) -> Self {
        Self { publish: [].into(), subscribe: [].into(), holder: Holder::Anybody, expires }
    }

    pub(crate) fn may_publish(&self, topic: &Topic) -> bool {
        self.publish.iter().any(|pattern| pattern.matches(topic))
    }

    pub(crate) fn may_subscribe(&self, name: &Name) -> bool {
        self.subscribe.iter().any(|pattern| pattern.covers(name))
    }

    /// Whether there is nothing that it allows.
    pub(crate) fn is_empty(&self) -> bool {
        self.publish.is_empty() && self.subscribe.is_empty()
    }

    pub(crate) fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(patterns: &[&str]) -> Grant {
        let patterns: Box<[_]> = patterns.iter().map(|pattern| Pattern::new(pattern).unwrap()).collect();
        Grant { publish: patterns.clone(), subscribe: patterns, ..Grant::nothing(None) }
    }

    #[test]
    fn what_no_pattern_covers_is_not_allowed() {
        fn check(patterns: &[&str], name: &str, expect: bool) {
            let (grant, name) = (grant(patterns), Name::parse(name).unwrap());
            assert_eq!(grant.may_subscribe(&name), expect, "{patterns:?}: {name:?}");
            if let Name::Topic(topic) = &name {
                assert_eq!(grant.may_publish(topic), expect, "{patterns:?}: {topic}");
            }
        }
        check(&[], "a", false);
        check(&["a.b"], "a.b", true);
        check(&["a.b"], "a.bc", false);
        check(&["a.b"], "A.b", false);
        check(&["a.*"], "a.>", false);
        check(&["a.*", "a.*.>"], "a.*", true);
        // Together they would, but no one does.
        check(&["a.*", "a.*.>"], "a.>", false);
        check(&["x", "a.>"], "a.>", true);
        assert!(Grant::everything().may_subscribe(&Name::parse(">").unwrap()));
    }
}
