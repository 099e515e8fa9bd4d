//! Names and patterns by their segments: which of many match, without trying each.
//!
//! ```text
//!   root ─┬─ logs ─┬─ web        keys are topics: `matching` walks down a pattern
//!         │        └─ db
//!         └─ ticker ── *         keys are patterns: `patterns_of` walks down a topic
//! ```
//! A walk visits each node at most once, and only those along its way. A name has at most 100 segments, so recursion is
//! bounded.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::ops::ControlFlow;

use crate::pattern::Pattern;
use crate::topic::Topic;

/// A map from topic names, or from patterns, to values. Do not mix the two in one trie.
#[derive(Debug)]
pub struct Trie<T> {
    root: Node<T>,
    len: usize,
}

#[derive(Debug)]
struct Node<T> {
    children: BTreeMap<Box<str>, Self>,
    value: Option<T>,
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { root: Node::default(), len: 0 }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { children: BTreeMap::new(), value: None }
    }
}

impl<T> Trie<T> {
    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value under exactly `key`.
    pub fn get(&self, key: &str) -> Option<&T> {
        let mut node = &self.root;
        for segment in key.split('.') {
            node = node.children.get(segment)?;
        }
        node.value.as_ref()
    }

    /// The value under exactly `key`, which `make` makes if it is not there.
    pub fn get_or_insert_with(&mut self, key: &str, make: impl FnOnce() -> T) -> &mut T {
        let mut node = &mut self.root;
        for segment in key.split('.') {
            // Looked for first: most segments are there, and then need no name of their own.
            if !node.children.contains_key(segment) {
                node.children.insert(segment.into(), Node::default());
            }
            node = node.children.get_mut(segment).expect("it was put there above");
        }
        if node.value.is_none() {
            self.len += 1;
        }
        node.value.get_or_insert_with(make)
    }

    /// Takes `key` out, and the nodes that only led to it.
    pub fn remove(&mut self, key: &str) -> Option<T> {
        let removed = self.root.remove(&mut key.split('.'));
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// Calls `visit` for each pattern in this trie that matches `topic`.
    pub fn patterns_of<'a>(&'a self, topic: &Topic, mut visit: impl FnMut(&'a T)) {
        self.root.patterns_of(Some(topic.as_str()), &mut visit);
    }

    /// Calls `visit` for each topic in this trie that `pattern` matches, in the order of their segments, until it breaks.
    /// With `after`, those up to that name are passed over.
    pub fn matching<'a>(
        &'a self,
        pattern: &Pattern,
        after: Option<&str>,
        mut visit: impl FnMut(&'a T) -> ControlFlow<()>,
    ) {
        let _ = self.root.matching(Some(pattern.as_str()), after, &mut visit);
    }
}

/// The first segment and the rest.
fn cut(name: &str) -> (&str, Option<&str>) {
    match name.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    }
}

impl<T> Node<T> {
    fn remove<'k>(&mut self, segments: &mut impl Iterator<Item = &'k str>) -> Option<T> {
        let Some(segment) = segments.next() else { return self.value.take() };
        let child = self.children.get_mut(segment)?;
        let removed = child.remove(segments);
        if child.value.is_none() && child.children.is_empty() {
            self.children.remove(segment);
        }
        removed
    }

    fn patterns_of<'a>(&'a self, name: Option<&str>, visit: &mut impl FnMut(&'a T)) {
        let Some(name) = name else {
            if let Some(value) = &self.value {
                visit(value);
            }
            return;
        };
        let (first, rest) = cut(name);
        for segment in [first, "*"] {
            if let Some(child) = self.children.get(segment) {
                child.patterns_of(rest, visit);
            }
        }
        if let Some(value) = self.children.get(">").and_then(|child| child.value.as_ref()) {
            visit(value);
        }
    }

    fn matching<'a>(
        &'a self,
        pattern: Option<&str>,
        after: Option<&str>,
        visit: &mut impl FnMut(&'a T) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some(pattern) = pattern else {
            // The name that ends here is the one to come after, or lies before it.
            return match &self.value {
                Some(value) if after.is_none() => visit(value),
                _ => ControlFlow::Continue(()),
            };
        };
        let (first, rest) = cut(pattern);
        let (bound, later) = match after.map(cut) {
            None => (Bound::Unbounded, None),
            Some((segment, later)) => (Bound::Included(segment), Some((segment, later))),
        };
        if first != "*" && first != ">" {
            let Some(child) = self.children.get(first) else { return ControlFlow::Continue(()) };
            return match later {
                Some((segment, _)) if first < segment => ControlFlow::Continue(()),
                Some((segment, later)) if first == segment => child.matching_after(rest, later, visit),
                _ => child.matching(rest, None, visit),
            };
        }
        for (name, child) in self.children.range::<str, _>((bound, Bound::Unbounded)) {
            let (here, later) = match later {
                Some((segment, later)) if **name == *segment => (true, later),
                _ => (false, None),
            };
            if first == "*" {
                if here {
                    child.matching_after(rest, later, visit)?
                } else {
                    child.matching(rest, None, visit)?
                }
            } else if here {
                // Past this very name: what is below it, and behind.
                match later {
                    Some(later) => child.matching(Some(">"), Some(later), visit)?,
                    None => child.matching(Some(">"), None, visit)?,
                }
            } else {
                child.matching(None, None, visit)?;
                child.matching(Some(">"), None, visit)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// As `matching`, below the node that a name to come after leads to; `later` is the rest of that name.
    fn matching_after<'a>(
        &'a self,
        pattern: Option<&str>,
        later: Option<&str>,
        visit: &mut impl FnMut(&'a T) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match (pattern, later) {
            // It is the name itself, or one before it.
            (None, _) => ControlFlow::Continue(()),
            (pattern, later) => self.matching(pattern, later, visit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trie(keys: &[&str]) -> Trie<String> {
        let mut trie = Trie::default();
        for key in keys {
            trie.get_or_insert_with(key, || (*key).to_owned());
        }
        trie
    }

    fn matching(trie: &Trie<String>, pattern: &str, after: Option<&str>) -> Vec<String> {
        let mut found = Vec::new();
        trie.matching(&Pattern::new(pattern).unwrap(), after, |name| {
            found.push(name.clone());
            ControlFlow::Continue(())
        });
        found
    }

    #[test]
    fn topics_are_found_by_pattern() {
        let trie = trie(&["a", "a.b", "a.c", "a.b.c", "b", "b.c"]);
        fn check(trie: &Trie<String>, pattern: &str, expect: &[&str]) {
            assert_eq!(matching(trie, pattern, None), expect, "{pattern}");
        }
        check(&trie, "a", &["a"]);
        check(&trie, "*", &["a", "b"]);
        check(&trie, ">", &["a", "a.b", "a.b.c", "a.c", "b", "b.c"]);
        check(&trie, "a.>", &["a.b", "a.b.c", "a.c"]);
        check(&trie, "*.c", &["a.c", "b.c"]);
        check(&trie, "*.b.*", &["a.b.c"]);
        check(&trie, "c.>", &[]);
    }

    #[test]
    fn patterns_are_found_by_topic() {
        let trie = trie(&["a.b", "*", "a.*", "*.b", ">", "a.>", "*.*.*", "b.>"]);
        fn check(trie: &Trie<String>, topic: &str, expect: &[&str]) {
            let mut found = Vec::new();
            trie.patterns_of(&Topic::new(topic).unwrap(), |pattern| found.push(pattern.as_str()));
            found.sort_unstable();
            let mut expect = expect.to_vec();
            expect.sort_unstable();
            assert_eq!(found, expect, "{topic}");
        }
        check(&trie, "a", &["*", ">"]);
        check(&trie, "a.b", &["a.b", "a.*", "*.b", ">", "a.>"]);
        check(&trie, "a.b.c", &["*.*.*", ">", "a.>"]);
        check(&trie, "b.x", &["b.>", ">"]);
    }

    #[test]
    fn what_is_removed_leaves_nothing() {
        let mut trie = trie(&["a.b.c", "a.b"]);
        assert_eq!((trie.remove("a.b.c").as_deref(), trie.remove("a"), trie.len()), (Some("a.b.c"), None, 1));
        assert_eq!((trie.get("a.b").map(String::as_str), trie.get("a.b.c")), (Some("a.b"), None));
        assert_eq!(trie.remove("a.b").as_deref(), Some("a.b"));
        assert!(trie.is_empty() && trie.root.children.is_empty());
    }

    /// Every trie of some small names against trying each name, page by page.
    #[test]
    fn a_walk_finds_what_trying_each_finds() {
        let segments = ["a", "b-", "b", "c!"];
        let mut names = Vec::new();
        for one in segments {
            names.push(one.to_owned());
            for two in segments {
                names.push(format!("{one}.{two}"));
                names.extend(segments.iter().map(|three| format!("{one}.{two}.{three}")));
            }
        }
        let mut seed = 7u64;
        for _ in 0..50 {
            let mut dice = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed >> 33
            };
            let some: Vec<&str> = names.iter().filter(|_| dice() % 3 == 0).map(String::as_str).collect();
            let trie = trie(&some);
            for pattern in ["a", "*", ">", "a.>", "*.b", "a.*.c!", "*.*", "b-.>", "*.>", "b.b.b"] {
                let matcher = Pattern::new(pattern).unwrap();
                let all = matching(&trie, pattern, None);
                let mut tried: Vec<_> =
                    some.iter().filter(|name| matcher.matches(&Topic::new(name).unwrap())).collect();
                tried.sort_by_key(|name| name.split('.').collect::<Vec<_>>());
                assert_eq!(
                    all.iter().map(String::as_str).collect::<Vec<_>>(),
                    tried.iter().map(|name| **name).collect::<Vec<_>>(),
                    "{pattern} in {some:?}"
                );
                for after in &names {
                    let rest = all.iter().filter(|name| name.split('.').gt(after.split('.')));
                    let rest: Vec<_> = rest.cloned().collect();
                    assert_eq!(
                        matching(&trie, pattern, Some(after)),
                        rest,
                        "{pattern} after {after} in {some:?}"
                    );
                }
            }
        }
    }
}
