//! What a shard knows of a topic that somebody here wants, by its name or by a pattern.

use std::time::{Duration, Instant};

use fanfare_wire::Topic;
use smallvec::SmallVec;

use crate::slow_consumer::SlowPolicy;

/// What holds for a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TopicSettings {
    /// What happens to a slow subscriber.
    pub policy: SlowPolicy,
    /// A topic silent for longer is stale, and its subscribers are told.
    pub stale_after: Option<Duration>,
    /// The number of the reload after which this was asked. What is told to a subscriber is asked after it was tied.
    pub reload: u16,
}

#[derive(Debug)]
pub(crate) struct KnownTopic {
    pub(crate) name: Topic,
    pub(crate) settings: TopicSettings,
    /// The reload by which it came to conflate: who came before that was not told. 0: everybody was told.
    pub(crate) conflates_since: u16,
    /// The audience of its name.
    pub(crate) direct: Option<u32>,
    /// The audiences of the patterns that match it.
    pub(crate) patterns: SmallVec<[u32; 2]>,
    /// A pass under way has messages of it: it stays even when nobody is left.
    pub(crate) in_pass: bool,
    /// Which of a pass's topics it is, if it is one of them.
    pub(crate) place: u32,
    /// Spoke since the last sweep.
    pub(crate) used: bool,
    /// Its last message, as far as is known here. Kept for topics that can be stale.
    pub(crate) last_at: Option<Instant>,
    pub(crate) is_stale: bool,
    /// When it will be looked at next.
    pub(crate) looked_at: Option<Instant>,
}

impl KnownTopic {
    pub(crate) fn new(name: Topic, settings: TopicSettings) -> Self {
        Self {
            name,
            settings,
            conflates_since: 0,
            direct: None,
            patterns: SmallVec::new(),
            in_pass: false,
            place: 0,
            used: true,
            last_at: None,
            is_stale: false,
            looked_at: None,
        }
    }

    /// Whether it came to conflate after the reload `since`. When reloads are not counted any more, it may always have.
    pub(crate) fn conflates_only_after(&self, since: u16) -> bool {
        since < self.conflates_since || self.conflates_since == u16::MAX
    }

    /// All its audiences.
    pub(crate) fn audiences(&self) -> impl Iterator<Item = u32> {
        self.direct.into_iter().chain(self.patterns.iter().copied())
    }

    /// Whether `audience` is one of its.
    pub(crate) fn has(&self, audience: u32) -> bool {
        self.direct == Some(audience) || self.patterns.contains(&audience)
    }
}
