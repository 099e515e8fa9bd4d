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
