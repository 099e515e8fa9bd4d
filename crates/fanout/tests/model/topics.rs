//! The topics of the process as one worker sees them: offsets, the last message, interest, and the worker's inbox.

use std::sync::Arc;

use fanfare_fanout::SlowPolicy;
use fanfare_wire::{Draft, Epoch, FormatId, Kind, Message, Position, Topic};

/// The topics and the inbox.
pub(crate) struct Topics {
    list: Vec<Counted>,
    inbox: Vec<Arc<Message>>,
    /// The most that a subscriber got of one topic at once.
    pub(crate) group_bytes_max: usize,
    pub(crate) group_messages_max: usize,
}

/// One topic.
struct Counted {
    name: Topic,
    policy: SlowPolicy,
    epoch: Epoch,
    interest: bool,
    messages: Vec<Arc<Message>>,
    /// The last offset that a pass began with, and the last that a finished pass had.
    begun: u64,
    done: u64,
}

impl Topics {
    pub(crate) fn new(policies: impl IntoIterator<Item = SlowPolicy>) -> Self {
        let list = policies.into_iter().enumerate().map(|(index, policy)| Counted {
            name: Topic::new(&format!("t{index}")).expect("a valid name"),
            policy,
            epoch: Epoch::new(index as u64),
            interest: false,
            messages: Vec::new(),
            begun: 0,
            done: 0,
        });
        Self { list: list.collect(), inbox: Vec::new(), group_bytes_max: 0, group_messages_max: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn name(&self, topic: usize) -> &Topic {
        &self.list[topic].name
    }

    pub(crate) fn policy(&self, topic: usize) -> SlowPolicy {
        self.list[topic].policy
    }

    pub(crate) fn epoch(&self, topic: usize) -> Epoch {
        self.list[topic].epoch
    }

    /// The topic with that name.
    pub(crate) fn find(&self, name: &str) -> usize {
        self.list
            .iter()
            .position(|topic| topic.name.as_str() == name)
            .unwrap_or_else(|| panic!("there is no topic {name:?}"))
    }

    /// Publishes one message. It begins with its place, so that a reader can tell where it belongs.
    pub(crate) fn publish(&mut self, topic: usize, filler: usize) {
        let counted = &mut self.list[topic];
        let offset = counted.messages.len() as u64 + 1;
        let payload = format!("{}:{offset}:{}", counted.name, "x".repeat(filler));
        let draft = Draft::new(counted.name.clone(), Kind::Text, payload.as_bytes());
        let message = Arc::new(Message::new(draft, Position { epoch: counted.epoch, offset }, offset));
        counted.messages.push(Arc::clone(&message));
        // It may also come as a replay, outside any pass.
        self.group_bytes_max = self.group_bytes_max.max(message.frame(FormatId::JSON).len());
        if counted.interest {
            self.inbox.push(message);
        }
    }

    /// What was published at `offset`.
    pub(crate) fn payload(&self, topic: usize, offset: u64) -> &[u8] {
        self.list[topic].messages[offset as usize - 1].payload()
    }

    /// Registers interest; returns the last offset and the last message.
    pub(crate) fn join(&mut self, topic: usize) -> (u64, Option<Arc<Message>>) {
        let counted = &mut self.list[topic];
        counted.interest = true;
        (counted.messages.len() as u64, counted.messages.last().cloned())
    }

    pub(crate) fn last(&self, topic: usize) -> Option<Arc<Message>> {
        self.list[topic].messages.last().cloned()
    }

    pub(crate) fn leave(&mut self, topic: usize) {
        let interest = std::mem::take(&mut self.list[topic].interest);
        assert!(interest, "interest in {} was taken back already", self.list[topic].name);
    }

    pub(crate) fn has_interest(&self, topic: usize) -> bool {
        self.list[topic].interest
    }

    pub(crate) fn inbox_is_empty(&self) -> bool {
        self.inbox.is_empty()
    }

    /// Empties the inbox for a pass.
    pub(crate) fn take_inbox(&mut self) -> Vec<Arc<Message>> {
        let messages = std::mem::take(&mut self.inbox);
        for counted in &mut self.list {
            let (mut count, mut bytes) = (0, 0);
            for message in messages.iter().filter(|message| *message.topic() == counted.name) {
                counted.begun = message.offset();
                count += 1;
                bytes += message.frame(FormatId::JSON).len();
            }
            self.group_messages_max = self.group_messages_max.max(count);
            self.group_bytes_max = self.group_bytes_max.max(bytes);
        }
        messages
    }

    /// The pass is over.
    pub(crate) fn finish_pass(&mut self) {
        for counted in &mut self.list {
            counted.done = counted.begun;
        }
    }

    /// What a subscriber must have been given at least, and can have been given at most: the offset of its last message.
    pub(crate) fn given(&self, topic: usize) -> (u64, u64) {
        (self.list[topic].done, self.list[topic].begun)
    }
}
