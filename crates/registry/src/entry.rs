//! One topic: its count, what it keeps, and who is interested.

use std::sync::Arc;

use fanfare_wire::command::Start;
use fanfare_wire::{Draft, Epoch, Message, Position};

use crate::registry::{BatchSize, InboxFull, Inboxes};
use crate::replay::{From, Replay};
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
    keeps_last: bool,
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
    pub(crate) fn new(epoch: Epoch, keeps_last: bool) -> Self {
        Self {
            head: Position { epoch, offset: 0 },
            interest: ShardSet::EMPTY,
            replay: Replay::default(),
            keeps_last,
            used: true,
            dead: false,
        }
    }

    /// Gives `drafts` the next offsets and hands them to every interested inbox. Refused before an offset is used when
    /// one of those inboxes has no room.
    pub(crate) fn admit(
        &mut self,
        drafts: Vec<Draft>,
        inboxes: &impl Inboxes,
        may_keep: bool,
    ) -> Result<(Admitted, Kept), InboxFull> {
        self.used = true;
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
                Arc::new(Message::new(draft, self.head))
            })
            .collect();
        let before = self.replay.bytes();
        match messages.last() {
            Some(last) if self.keeps_last && may_keep => self.replay.keep(Arc::clone(last)),
            // An older message must not be served as the last one.
            _ => self.replay.clear(),
        }
        let kept = Kept { before, after: self.replay.bytes() };
        let wake = if self.interest.is_empty() {
            ShardSet::EMPTY
        } else {
            inboxes.push(self.interest, messages, size)
        };
        Ok((Admitted { epoch: self.head.epoch, first, last: self.head.offset, wake }, kept))
    }

    /// Registers `shard`'s interest and says where its new subscriber stands.
    pub(crate) fn join(&mut self, shard: usize, start: &Start<'_>) -> Joined {
        self.used = true;
        self.interest.insert(shard);
        let (from, recovered) = self.replay.from(start, self.head);
        let replay = match from {
            From::Nothing => Vec::new(),
            From::Last => self.replay.last().cloned().into_iter().collect(),
        };
        Joined { position: self.head, replay, recovered }
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

    pub(crate) fn last(&self) -> Option<&Arc<Message>> {
        self.replay.last()
    }

    /// Ends the entry; returns the bytes it kept.
    pub(crate) fn bury(&mut self) -> usize {
        self.dead = true;
        self.replay.bytes()
    }

    pub(crate) fn is_unused(&self) -> bool {
        self.interest.is_empty() && self.head.offset == 0
    }
}
