//! Which topics a pattern matches, and which shards want a topic by pattern.
//!
//! Asked when a topic or a pattern appears or goes, never per message: a topic's entry keeps the answer.
//!
//! # Bounds   as many topics as the registry has, [`RegistryLimits::patterns_max`](crate::RegistryLimits) patterns

use std::ops::ControlFlow;

use fanfare_wire::{Pattern, Topic, Trie};

use crate::registry::{JoinError, RegistryLimits};
use crate::shard_set::ShardSet;

/// The names of the process, under the registry's last lock.
#[derive(Default)]
pub(crate) struct Index {
    topics: Trie<Topic>,
    patterns: Trie<PatternInterest>,
}

#[derive(Default)]
struct PatternInterest {
    shards: ShardSet,
    subscribers: usize,
}

/// What a pattern's new subscriber finds.
pub(crate) struct Matched {
    /// The topics it matches, in the order of their segments.
    pub(crate) topics: Vec<Topic>,
    /// Whether the shard did not want the pattern before.
    pub(crate) changed: bool,
}

impl Index {
    /// Puts a topic in and returns the shards that want it by pattern.
    pub(crate) fn insert(&mut self, topic: &Topic) -> ShardSet {
        self.topics.get_or_insert_with(topic.as_str(), || topic.clone());
        self.interest(topic)
    }

    pub(crate) fn remove(&mut self, topic: &Topic) {
        self.topics.remove(topic.as_str());
    }

    /// The shards that want `topic` by pattern.
    pub(crate) fn interest(&self, topic: &Topic) -> ShardSet {
        let mut shards = ShardSet::EMPTY;
        self.patterns.patterns_of(topic, |pattern| shards = shards.union(pattern.shards));
        shards
    }

    /// How many subscribers have `topic` by pattern.
    pub(crate) fn subscribers(&self, topic: &Topic) -> usize {
        let mut subscribers = 0;
        self.patterns.patterns_of(topic, |pattern| subscribers += pattern.subscribers);
        subscribers
    }

    /// Counts one more subscriber of `pattern`, on `shard`. A refusal changes nothing.
    pub(crate) fn join(
        &mut self,
        pattern: &Pattern,
        shard: usize,
        limits: &RegistryLimits,
    ) -> Result<Matched, JoinError> {
        if self.patterns.len() >= limits.patterns_max && self.patterns.get(pattern.as_str()).is_none() {
            return Err(JoinError::TooManyPatterns);
        }
        // One more than may be shows that there are more.
        let topics = self.page(pattern, None, limits.wildcard_topics_max.saturating_add(1));
        if topics.len() > limits.wildcard_topics_max {
            return Err(JoinError::TooManyMatches);
        }
        let interest = self.patterns.get_or_insert_with(pattern.as_str(), PatternInterest::default);
        let changed = !interest.shards.contains(shard);
        interest.shards.insert(shard);
        interest.subscribers += 1;
        Ok(Matched { topics, changed })
    }

    /// Counts one subscriber of `pattern` less, `last` if it was the shard's last. Returns whether the shard wanted the
    /// pattern and does not any more.
    pub(crate) fn leave(&mut self, pattern: &Pattern, shard: usize, last: bool) -> bool {
        if self.patterns.get(pattern.as_str()).is_none() {
            return false;
        }
        let interest = self.patterns.get_or_insert_with(pattern.as_str(), PatternInterest::default);
        interest.subscribers = interest.subscribers.saturating_sub(1);
        let changed = last && interest.shards.contains(shard);
        if changed {
            interest.shards.remove(shard);
        }
        if interest.shards.is_empty() {
            self.patterns.remove(pattern.as_str());
        }
        changed
    }

    /// How many patterns have subscribers.
    pub(crate) fn patterns(&self) -> usize {
        self.patterns.len()
    }

    /// The first `max` topics that `pattern` matches and that come after the name `after`.
    pub(crate) fn page(&self, pattern: &Pattern, after: Option<&str>, max: usize) -> Vec<Topic> {
        let mut topics = Vec::new();
        if max > 0 {
            self.matching(pattern, after, |topic| {
                topics.push(topic.clone());
                if topics.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
        }
        topics
    }

    /// How many topics `pattern` matches.
    pub(crate) fn count(&self, pattern: &Pattern) -> usize {
        let mut count = 0;
        self.matching(pattern, None, |_| {
            count += 1;
            ControlFlow::Continue(())
        });
        count
    }

    /// Calls `visit` for the topics that `pattern` matches and that come after the name `after`, until it breaks.
    pub(crate) fn matching<'a>(
        &'a self,
        pattern: &Pattern,
        after: Option<&str>,
        visit: impl FnMut(&'a Topic) -> ControlFlow<()>,
    ) {
        self.topics.matching(pattern, after, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RegistryLimits = RegistryLimits {
        topics_max: 9,
        retained_bytes_max: 0,
        lanes: 1,
        wildcard_topics_max: 2,
        patterns_max: 2,
    };

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn pattern(name: &str) -> Pattern {
        Pattern::new(name).unwrap()
    }

    fn shards(shards: &[usize]) -> ShardSet {
        shards.iter().copied().collect()
    }

    #[test]
    fn a_shard_wants_a_topic_as_long_as_one_of_its_patterns_does() {
        let mut index = Index::default();
        assert_eq!(index.insert(&topic("a.b")), ShardSet::EMPTY);
        for (name, shard, changed) in [("a.*", 0, true), ("a.*", 0, false), ("a.*", 1, true), (">", 0, true)]
        {
            let matched = index.join(&pattern(name), shard, &LIMITS).unwrap();
            assert_eq!((matched.topics, matched.changed), (vec![topic("a.b")], changed), "{name} {shard}");
        }
        assert_eq!((index.interest(&topic("a.b")), index.subscribers(&topic("a.b"))), (shards(&[0, 1]), 4));
        assert_eq!((index.insert(&topic("c")), index.subscribers(&topic("c"))), (shards(&[0]), 1));
        assert!(!index.leave(&pattern("a.*"), 0, false));
        assert!(index.leave(&pattern("a.*"), 0, true));
        assert!(!index.leave(&pattern("a.*"), 0, true), "it has left");
        assert_eq!(index.interest(&topic("a.b")), shards(&[0, 1]), "by the other pattern");
        assert!(index.leave(&pattern(">"), 0, true));
        assert_eq!((index.interest(&topic("a.b")), index.patterns()), (shards(&[1]), 1));
        assert!(index.leave(&pattern("a.*"), 1, true));
        assert!(!index.leave(&pattern("unheard.of"), 1, true));
        assert_eq!((index.interest(&topic("a.b")), index.patterns()), (ShardSet::EMPTY, 0));
    }

    #[test]
    fn a_refusal_leaves_nothing_behind() {
        let mut index = Index::default();
        let refused = |index: &mut Index, name| {
            let before = index.patterns();
            let refused = index.join(&pattern(name), 0, &LIMITS).err();
            assert_eq!((index.patterns(), index.subscribers(&topic("a"))), (before, 0), "{name}");
            refused
        };
        ["a", "b", "c"].iter().for_each(|name| assert!(index.insert(&topic(name)).is_empty()));
        assert_eq!(refused(&mut index, "*"), Some(JoinError::TooManyMatches));
        index.join(&pattern("b"), 0, &LIMITS).unwrap();
        index.join(&pattern("c"), 0, &LIMITS).unwrap();
        assert_eq!(refused(&mut index, "a"), Some(JoinError::TooManyPatterns));
        index.join(&pattern("b"), 1, &LIMITS).expect("it is there already");
        index.remove(&topic("c"));
        index.leave(&pattern("c"), 0, true);
        index.join(&pattern("*"), 0, &LIMITS).expect("not more match than may");
    }

    #[test]
    fn a_page_begins_after_a_name() {
        let mut index = Index::default();
        ["b", "a", "a.b", "c"].iter().for_each(|name| assert!(index.insert(&topic(name)).is_empty()));
        let check = |after, max, expect: &[&str]| {
            let page = index.page(&pattern(">"), after, max);
            assert_eq!(page.iter().map(Topic::as_str).collect::<Vec<_>>(), expect, "{after:?} {max}");
        };
        check(None, 9, &["a", "a.b", "b", "c"]);
        check(None, 2, &["a", "a.b"]);
        check(Some("a.b"), 2, &["b", "c"]);
        check(Some("c"), 2, &[]);
        check(None, 0, &[]);
    }
}
