//! One topic: its count, what it keeps, and who is interested.

use std::sync::Arc;
use std::time::Instant;

use fanfare_wire::command::Start;
use fanfare_wire::{Draft, Epoch, Message, Position};

use crate::inboxes::{BatchSize, InboxFull, Inboxes};
use crate::replay::{Replay, Retention};
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
}

/// The state of a topic, under its mutex.
#[derive(Debug)]
pub(crate) struct Entry {
    head: Position,
    interest: ShardSet,
    replay: Replay,
    /// Used since the eviction's hand passed last.
    pub(crate) recent: bool,
    /// Stands in the eviction's queue.
    pub(crate) queued: bool,
    /// Set by whoever uses the topic, cleared by the sweep.
    used: bool,
    /// Taken out of the map. Whoever still holds the entry looks the topic up again.
    pub(crate) dead: bool,
}

/// How admission changed the bytes a topic keeps.
pub(crate) struct Kept {
    pub(crate) before: usize,
    pub(crate) after: usize,
}

impl Entry {
    pub(crate) fn new(epoch: Epoch, retention: Retention) -> Self {
        Self {
            head: Position { epoch, offset: 0 },
            interest: ShardSet::EMPTY,
            replay: Replay::new(retention),
            recent: true,
            queued: false,
            used: true,
            dead: false,
        }
    }

    /// Gives `drafts` the next offsets and hands them to every interested inbox. Refused before an offset is used when
    /// one of those inboxes has no room.
    pub(crate) fn admit(
        &mut self,
        drafts: Vec<Draft>,
        now: Instant,
        inboxes: &impl Inboxes,
    ) -> Result<(Admitted, Kept), InboxFull> {
        (self.used, self.recent) = (true, true);
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
        let messages: Vec<Arc<Message>> = drafts
            .into_iter()
            .map(|draft| {
                self.head.offset += 1;
                Arc::new(Message::new(draft, self.head, 0))
            })
            .collect();
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

    /// Registers `shard`'s interest and says where its new subscriber stands.
    pub(crate) fn join(&mut self, shard: usize, start: &Start<'_>, now: Instant) -> (Joined, Kept) {
        self.interest.insert(shard);
        let before = self.replay.bytes();
        let (replay, recovered) = self.look(start, now);
        let kept = Kept { before, after: self.replay.bytes() };
        (Joined { position: self.head, replay, recovered }, kept)
    }

    fn look(&mut self, start: &Start<'_>, now: Instant) -> (Vec<Arc<Message>>, Option<bool>) {
        (self.used, self.recent) = (true, true);
        self.replay.forget_aged(now);
        self.replay.from(start, self.head)
    }

    /// Takes `shard`'s interest away. Returns whether the topic now is as if it had never been.
    pub(crate) fn leave(&mut self, shard: usize) -> bool {
        self.interest.remove(shard);
        self.interest.is_empty() && self.head.offset == 0
    }

    /// Whether nobody used the topic since the last call.
    pub(crate) fn is_idle(&mut self) -> bool {
        let idle = !self.used && self.interest.is_empty();
        self.used = !self.interest.is_empty();
        idle
    }

    /// Lets go of memory for other topics.
    pub(crate) fn give_way(&mut self) -> Kept {
        let before = self.replay.bytes();
        self.replay.give_way();
        Kept { before, after: self.replay.bytes() }
    }

    /// Whether messages are kept.
    pub(crate) fn keeps_messages(&self) -> bool {
        !self.replay.is_empty()
    }

    pub(crate) fn last(&self) -> Option<&Arc<Message>> {
        self.replay.last()
    }

    /// Ends the entry; returns the memory it kept, which is free from now on, whoever still holds the entry.
    pub(crate) fn bury(&mut self) -> usize {
        self.dead = true;
        let bytes = self.replay.bytes();
        self.replay = Replay::new(Retention { last_value: false, replay: None });
        bytes
    }

    pub(crate) fn is_unused(&self) -> bool {
        self.interest.is_empty() && self.head.offset == 0
    }
}
