//! One topic: its count, what it keeps, and who is interested.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_wire::command::Start;
use fanfare_wire::{Draft, Epoch, Message, Position};

use crate::inboxes::{BatchSize, InboxFull, Inboxes};
use crate::replay::{Replay, Retention};
use crate::sequence::Sequence;
use crate::shard_set::ShardSet;

/// The place some messages of one topic got. Of no messages, `first` is past `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Which count.
    pub epoch: Epoch,
    /// The first message's offset.
    pub first: u64,
    /// The last message's offset.
    pub last: u64,
    /// Shards that slept and have messages now. The caller wakes them.
    pub wake: ShardSet,
}

/// How a shard's new subscriber begins.
#[derive(Debug)]
pub struct Joined {
    /// The topic's last place. Messages after it reach the shard's inbox.
    pub position: Position,
    /// Retained messages to deliver before those, oldest first.
    pub replay: Vec<Arc<Message>>,
    /// Answers a resume: whether the replay is all that was missed.
    pub recovered: Option<bool>,
    /// Since the topic's last message, if it had one in this epoch.
    pub age: Option<Duration>,
}

/// The state of a topic, under its mutex.
#[derive(Debug)]
pub(crate) struct Entry {
    head: Position,
    /// Shards with subscribers of this very topic.
    direct: ShardSet,
    /// Shards with subscribers of patterns that match it: the index's answer.
    patterns: ShardSet,
    /// Both together, for each message.
    interest: ShardSet,
    /// Of this very topic.
    subscribers: usize,
    replay: Replay,
    last_at: Option<Instant>,
    /// Used since the eviction's hand passed last.
    pub(crate) recent: bool,
    /// Stands in the eviction's queue.
    pub(crate) queued: bool,
    /// Set by whoever uses the topic, cleared by the sweep.
    used: bool,
    /// Taken out of the map. Whoever still holds the entry looks the topic up again.
    pub(crate) dead: bool,
}

/// How something changed the bytes a topic keeps.
pub(crate) struct Kept {
    pub(crate) before: usize,
    pub(crate) after: usize,
}

/// What is left of a topic.
pub(crate) struct Buried {
    /// The memory it kept.
    pub(crate) bytes: usize,
    /// A sequence that none of its messages exceeds.
    pub(crate) sequence: u64,
}

impl Entry {
    /// A topic without messages, which the shards of `patterns` want. Messages of a topic of this name that was
    /// forgotten had sequences up to `lost_through`.
    pub(crate) fn new(epoch: Epoch, retention: Retention, patterns: ShardSet, lost_through: u64) -> Self {
        Self {
            head: Position { epoch, offset: 0 },
            direct: ShardSet::EMPTY,
            patterns,
            interest: patterns,
            subscribers: 0,
            replay: Replay::new(retention, lost_through),
            last_at: None,
            recent: true,
            queued: false,
            used: true,
            dead: false,
        }
    }

    /// Gives `drafts` the next offsets and sequences and hands them to every interested inbox. Refused before one is used
    /// when one of those inboxes has no room.
    pub(crate) fn admit(
        &mut self,
        node: &Sequence,
        lane: usize,
        drafts: Vec<Draft>,
        now: Instant,
        inboxes: &impl Inboxes,
    ) -> Result<(Admitted, Kept), InboxFull> {
        self.touch();
        if drafts.is_empty() {
            let Position { epoch, offset } = self.head;
            let admitted = Admitted { epoch, first: offset + 1, last: offset, wake: ShardSet::EMPTY };
            return Ok((admitted, Kept { before: 0, after: 0 }));
        }
        let size = BatchSize { messages: drafts.len(), bytes: drafts.iter().map(Draft::payload_bytes).sum() };
        if !self.interest.is_empty() {
            inboxes.reserve(self.interest, size)?;
        }
        let first = self.head.offset + 1;
        // Holds the watermark back until this method ends: then the messages are in the ring and in the inboxes.
        let taken = node.take(lane, drafts.len());
        let messages: Vec<Arc<Message>> = drafts
            .into_iter()
            .zip(taken.first..)
            .map(|(draft, sequence)| {
                self.head.offset += 1;
                Arc::new(Message::new(draft, self.head, sequence))
            })
            .collect();
        self.last_at = Some(now);
        let before = self.replay.bytes();
        messages.iter().for_each(|message| self.replay.keep(message, now));
        let kept = Kept { before, after: self.replay.bytes() };
        let wake = if self.interest.is_empty() {
            ShardSet::EMPTY
        } else {
            inboxes.push(self.interest, messages, size)
        };
        Ok((Admitted { epoch: self.head.epoch, first, last: self.head.offset, wake }, kept))
    }

    /// Counts a subscriber of this very topic, on `shard`.
    pub(crate) fn join(&mut self, shard: usize) {
        self.touch();
        self.subscribers += 1;
        self.direct.insert(shard);
        self.interest.insert(shard);
    }

    /// Where a new subscriber stands, and what it begins with.
    pub(crate) fn begin(&self, start: &Start<'_>, node: &Sequence, now: Instant) -> Joined {
        let (replay, recovered) = self.replay.from(start, self.head, node);
        Joined { position: self.head, replay, recovered, age: self.age(now) }
    }

    /// Counts a subscriber less; `last` was the last of `shard`. Returns whether the topic now is as if it had never
    /// been.
    pub(crate) fn leave(&mut self, shard: usize, last: bool) -> bool {
        self.subscribers = self.subscribers.saturating_sub(1);
        if last {
            self.direct.remove(shard);
            self.interest = self.direct.union(self.patterns);
        }
        self.is_unused()
    }

    /// Notes that `shard` wants the topic by pattern.
    pub(crate) fn join_pattern(&mut self, shard: usize) {
        self.patterns.insert(shard);
        self.interest.insert(shard);
    }

    /// Notes that `shard` does not want the topic by any pattern.
    pub(crate) fn leave_pattern(&mut self, shard: usize) {
        self.patterns.remove(shard);
        self.interest = self.direct.union(self.patterns);
    }

    /// Somebody wants the topic by its name.
    pub(crate) fn touch(&mut self) {
        (self.used, self.recent) = (true, true);
    }

    /// Whether nobody used the topic since the last call. Who wants it by pattern does not use it.
    pub(crate) fn is_idle(&mut self) -> bool {
        let idle = !self.used && self.direct.is_empty();
        self.used = !self.direct.is_empty();
        idle
    }

    /// Whether the topic is as if it had never been.
    pub(crate) fn is_unused(&self) -> bool {
        self.direct.is_empty() && self.head.offset == 0
    }

    /// Lets go of messages too old to be replayed.
    pub(crate) fn forget_aged(&mut self, now: Instant) -> Kept {
        let before = self.replay.bytes();
        self.replay.forget_aged(now);
        Kept { before, after: self.replay.bytes() }
    }

    /// Keeps by other rules from now on.
    pub(crate) fn set_retention(&mut self, retention: Retention, now: Instant) -> Kept {
        let before = self.replay.bytes();
        self.replay.set_retention(retention, now);
        Kept { before, after: self.replay.bytes() }
    }

    /// Lets go of memory for other topics.
    pub(crate) fn give_way(&mut self) -> Kept {
        let before = self.replay.bytes();
        self.replay.give_way();
        Kept { before, after: self.replay.bytes() }
    }

    /// Ends the entry; the memory it kept is free from now on, whoever still holds the entry.
    pub(crate) fn bury(&mut self) -> Buried {
        self.dead = true;
        let buried = Buried { bytes: self.replay.bytes(), sequence: self.replay.sequence() };
        self.replay = Replay::new(Retention { last_value: false, replay: None }, buried.sequence);
        buried
    }

    pub(crate) fn position(&self) -> Position {
        self.head
    }

    pub(crate) fn replay(&self) -> &Replay {
        &self.replay
    }

    /// How many subscribers this very topic has.
    pub(crate) fn subscribers(&self) -> usize {
        self.subscribers
    }

    /// Since the last message.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        self.last_at.map(|at| now.saturating_duration_since(at))
    }
}
