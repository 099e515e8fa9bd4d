//! Subscribers of patterns.
//!
//! A pattern's interest is kept in each topic it matches, so that a publish never looks at patterns. Two things can
//! change what a topic is to have: a topic appears, or a shard's interest in a pattern comes or goes.
//!
//! # Why a topic never misses a pattern
//! The index's lock puts each topic's appearance and each pattern's change in one order.
//! - The pattern comes first: the topic takes its interest over as it is put into the index, before anyone can publish
//!   to it. Nothing of it is in the answer of [`Registry::join_pattern`], and everything of it reaches the inbox.
//! - The topic comes first: the newcomer finds it, and asks the map for it, which has it when its maker lets go of the
//!   map. Under one lock of the entry the shard's interest is noted and the newcomer's place is read. Messages before are
//!   before that place, messages behind it reach the inbox.
//!
//! Whoever comes or goes changes the bit of its own shard alone, so that no shard gets messages of a topic before it has
//! asked for its place there. A bit goes under the entry's lock if the index has no pattern for it then: a pattern that
//! came in between is in the index before it notes its bit, so it is seen, or it notes its bit later.

use std::time::Instant;

use fanfare_wire::command::Start;
use fanfare_wire::{Pattern, Topic};

use crate::entry::Joined;
use crate::registry::{JoinError, Registry};

/// Topics taken from the index at a time, so that nobody waits long for its lock.
const PAGE: usize = 256;

impl Registry {
    /// Registers the interest of `shard` in `pattern` for a new subscriber, and says how that one begins in each topic
    /// there is, in the order of their segments. `starts` says where in each.
    ///
    /// What [`Registry::join`] promises holds for each of these topics, and for topics that appear later from their first
    /// message on. Refused without a trace if too many topics match, or there are too many patterns.
    pub fn join_pattern<'a>(
        &self,
        pattern: &Pattern,
        shard: usize,
        starts: impl Fn(&Topic) -> Start<'a>,
        now: Instant,
    ) -> Result<Vec<(Topic, Joined)>, JoinError> {
        let matched = self.index.lock().join(pattern, shard, &self.limits.read())?;
        let mut joined = Vec::with_capacity(matched.topics.len());
        for topic in matched.topics {
            let start = starts(&topic);
            let begin = self.look(&topic, now, |entry| {
                if matched.changed {
                    entry.join_pattern(shard);
                }
                entry.begin(&start, &self.sequence, now)
            });
            // A topic forgotten meanwhile has nothing to begin with. Comes it back, it has the interest.
            joined.extend(begin.map(|begin| (topic, begin)));
        }
        Ok(joined)
    }

    /// Takes back one subscriber of `pattern`. If it was the `last` of `shard`, so goes the shard's interest in the topics
    /// that it has neither by name nor by another pattern.
    pub fn leave_pattern(&self, pattern: &Pattern, shard: usize, last: bool) {
        if !self.index.lock().leave(pattern, shard, last) {
            return;
        }
        let mut after: Option<Topic> = None;
        loop {
            let mut page = self.index.lock().page(pattern, after.as_ref().map(Topic::as_str), PAGE);
            for topic in &page {
                self.with(topic, |entry| {
                    if !self.index.lock().interest(topic).contains(shard) {
                        entry.leave_pattern(shard);
                    }
                });
            }
            if page.len() < PAGE {
                return;
            }
            after = page.pop();
        }
    }

    /// How many patterns have subscribers.
    pub fn patterns(&self) -> usize {
        self.index.lock().patterns()
    }
}
