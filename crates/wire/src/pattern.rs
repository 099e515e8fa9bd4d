//! A topic pattern: `*` stands for one segment, `>` at the end for one or more.
//!
//! A pattern without wildcards matches exactly its own name. Matching happens when a topic or a pattern appears, never
//! per message.

use std::fmt;
use std::sync::Arc;

use crate::topic::{Topic, TopicError, is_topic_byte};

/// A validated pattern, in the notation of NATS subjects. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Checks `pattern`: a topic name in which whole segments may be `*`, and the last one `>`.
    pub fn new(pattern: &str) -> Result<Self, TopicError> {
        if pattern.is_empty() || pattern.len() > Topic::BYTES_MAX {
            return Err(TopicError::Length);
        }
        let mut segments = pattern.split('.').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                "" => return Err(TopicError::EmptySegment),
                "*" => {}
                ">" if segments.peek().is_none() => {}
                name if name.bytes().all(is_topic_byte) => {}
                name if name.contains(['*', '>']) => return Err(TopicError::Wildcard),
                _ => return Err(TopicError::Character),
            }
        }
        Ok(Self(pattern.into()))
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `topic` is one of the topics this pattern stands for.
    pub fn matches(&self, topic: &Topic) -> bool {
        let mut names = topic.as_str().split('.');
        for segment in self.0.split('.') {
            match (segment, names.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (segment, Some(name)) if segment == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether every topic that `name` stands for, also one that is not there yet, is one of this pattern's.
    pub fn covers(&self, name: &Name) -> bool {
        let mut names = name.as_str().split('.');
        for segment in self.0.split('.') {
            match (segment, names.next()) {
                (">", Some(_)) => return true,
                // `>` stands for more segments than one, and this pattern here for one.
                (_, Some(">") | None) => return false,
                ("*", Some(_)) => {}
                (segment, Some(name)) if segment == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// The pattern of the topics that are both this one's and `other`'s; `None` if no topic is.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let (mut ours, mut theirs) = (self.0.split('.'), other.0.split('.'));
        let mut both = Vec::new();
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => break,
                // It stands for what is left of the other, whatever that is.
                (Some(">"), Some(segment)) => {
                    both.push(segment);
                    both.extend(theirs.by_ref());
                    break;
                }
                (Some(segment), Some(">")) => {
                    both.push(segment);
                    both.extend(ours.by_ref());
                    break;
                }
                (Some("*"), Some(segment)) | (Some(segment), Some("*")) => both.push(segment),
                (Some(one), Some(other)) if one == other => both.push(one),
                _ => return None,
            }
        }
        // One that is too long has topics that are too long.
        Self::new(&both.join(".")).ok()
    }
}

/// What a client asks for: one topic by its name, or all that match.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Name {
    /// One topic.
    Topic(Topic),
    /// All topics that match.
    Pattern(Pattern),
}

impl Name {
    /// Reads a topic name, or a pattern if there is a wildcard in it.
    pub fn parse(name: &str) -> Result<Self, TopicError> {
        if name.contains(['*', '>']) {
            Pattern::new(name).map(Self::Pattern)
        } else {
            Topic::new(name).map(Self::Topic)
        }
    }

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Topic(topic) => topic.as_str(),
            Self::Pattern(pattern) => pattern.as_str(),
        }
    }

    /// Whether `topic` is meant.
    pub fn matches(&self, topic: &Topic) -> bool {
        match self {
            Self::Topic(name) => name == topic,
            Self::Pattern(pattern) => pattern.matches(topic),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_segments() {
        fn check(pattern: &str, topic: &str, expect: bool) {
            let matched = Pattern::new(pattern).unwrap().matches(&Topic::new(topic).unwrap());
            assert_eq!(matched, expect, "{pattern} against {topic}");
        }
        check("a.b", "a.b", true);
        check("a.b", "a.b.c", false);
        check("a.b", "a.bc", false);
        check("a.*", "a.b", true);
        check("a.*", "a", false);
        check("a.*", "a.b.c", false);
        check("*.b", "a.b", true);
        check("a.*.c", "a.x.c", true);
        check("a.>", "a", false);
        check("a.>", "a.b", true);
        check("a.>", "a.b.c.d", true);
        check("a.>", "ab.c", false);
        check(">", "anything.at.all", true);
        check("*", "a", true);
        check("*", "a.b", false);
    }

    #[test]
    fn a_pattern_covers_what_lies_in_it_whole() {
        fn check(pattern: &str, name: &str, expect: bool) {
            let covers = Pattern::new(pattern).unwrap().covers(&Name::parse(name).unwrap());
            assert_eq!(covers, expect, "{pattern} and {name}");
        }
        check("a.b", "a.b", true);
        check("a.b", "a.bc", false);
        check("a.b", "a.*", false);
        check("a.*", "a.*", true);
        check("a.*", "a.>", false);
        check("a.*", "a.b.c", false);
        check("a.>", "a.>", true);
        check("a.>", "a.*", true);
        check("a.>", "a.*.>", true);
        check("a.>", "a", false);
        check("a.>", ">", false);
        check("*.>", ">", false);
        check(">", ">", true);
        check("*", ">", false);
        check("a.*.>", "a.>", false);
    }

    /// All names of up to three segments over a small alphabet: literals first, then wildcards.
    fn names(segments: &[&str], last: &[&str]) -> Vec<String> {
        let mut all = Vec::new();
        for one in segments {
            for two in segments {
                all.extend(segments.iter().chain(last).map(|three| format!("{one}.{two}.{three}")));
            }
            all.extend(segments.iter().chain(last).map(|two| format!("{one}.{two}")));
        }
        all.extend(segments.iter().chain(last).map(|one| (*one).to_owned()));
        all
    }

    /// What covers and intersects, compared with the topics themselves. A topic of four segments, and a segment that no
    /// pattern names, stand for all that are not listed.
    #[test]
    fn patterns_relate_as_their_topics_do() {
        let topics = names(&["a", "b", "c"], &["a.a", "b.c", "c.c"]);
        let topics: Vec<_> = topics.iter().map(|topic| Topic::new(topic).unwrap()).collect();
        let patterns = names(&["a", "b", "*"], &[">"]);
        let patterns: Vec<_> = patterns.iter().map(|pattern| Pattern::new(pattern).unwrap()).collect();
        for one in &patterns {
            for other in &patterns {
                let covers = topics.iter().all(|topic| one.matches(topic) || !other.matches(topic));
                assert_eq!(one.covers(&Name::parse(other.as_str()).unwrap()), covers, "{one} and {other}");
                let both = one.intersection(other);
                assert_eq!(both.as_ref() == Some(other), covers, "{one} and {other}: {both:?}");
                for topic in &topics {
                    let expect = one.matches(topic) && other.matches(topic);
                    let is_in_both = both.as_ref().is_some_and(|both| both.matches(topic));
                    assert_eq!(is_in_both, expect, "{one} and {other}, {both:?}: {topic}");
                }
            }
        }
    }

    #[test]
    fn a_wildcard_is_a_whole_segment() {
        fn check(pattern: &str, expect: TopicError) {
            assert_eq!(Pattern::new(pattern), Err(expect), "{pattern:?}");
        }
        check("a.b*", TopicError::Wildcard);
        check("a.>.b", TopicError::Wildcard);
        check("a..b", TopicError::EmptySegment);
        check("", TopicError::Length);
        check("a b", TopicError::Character);
    }
}
