//! Retained messages on their way to one subscriber: of one topic, or of all that a wildcard matches.
//!
//! # Owner        the outbox
//! # Bounds       the topics' rings, and how many topics a wildcard may match

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_wire::event::{Event, Status};
use fanfare_wire::{FormatId, Message, Position, Topic};

use crate::batch::Batch;

/// How one topic begins for a subscriber.
#[derive(Debug)]
pub struct Beginning {
    /// Which topic.
    pub topic: Topic,
    /// For a topic that came by a wildcard: told to the subscriber first.
    pub announce: Option<Announce>,
    /// The topic's silence, if it is stale.
    pub stale: Option<Duration>,
    /// Retained messages, oldest first.
    pub messages: Vec<Arc<Message>>,
}

/// What a subscriber is told of a topic that came by a wildcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announce {
    /// The topic's last place.
    pub position: Position,
    /// Answers the place that the subscriber named.
    pub recovered: Option<bool>,
    /// What holds for it when it is slow.
    pub policy: Option<&'static str>,
}

/// What is left of a replay.
#[derive(Debug)]
pub(crate) struct Replay {
    topics: std::vec::IntoIter<Beginning>,
    /// Of the topic under way.
    messages: std::vec::IntoIter<Arc<Message>>,
    topic: Option<Topic>,
    format: FormatId,
    left: usize,
}

/// What to write next.
pub(crate) enum Item {
    Event(Bytes),
    Message(Batch),
}

/// What a replay holds for a topic, and for a message: references and a place in a list.
const TOPIC_BYTES: usize = 96;
const MESSAGE_BYTES: usize = 8;

impl Replay {
    pub(crate) fn new(format: FormatId, topics: Vec<Beginning>) -> Self {
        let left = topics.iter().map(|beginning| beginning.messages.len()).sum();
        Self { topics: topics.into_iter(), messages: Vec::new().into_iter(), topic: None, format, left }
    }

    /// The memory it holds, without the messages, which are shared.
    pub(crate) fn held_bytes(&self) -> usize {
        self.topics.len() * TOPIC_BYTES + self.left * MESSAGE_BYTES
    }

    /// Whether nothing is left.
    pub(crate) fn is_over(&self) -> bool {
        self.messages.len() == 0 && self.topics.len() == 0
    }

    /// Whether something of `topic` may be left.
    pub(crate) fn concerns(&self, topic: &Topic) -> bool {
        self.topic.as_ref() == Some(topic)
            || self.topics.as_slice().iter().any(|beginning| beginning.topic == *topic)
    }

    /// The next items; about `count`.
    pub(crate) fn next(&mut self, count: usize) -> Vec<Item> {
        let mut items = Vec::with_capacity(count.min(self.left + self.topics.len()));
        while items.len() < count {
            if let Some(message) = self.messages.next() {
                self.left -= 1;
                items.push(Item::Message(Batch::single(self.format, &message)));
                continue;
            }
            let Some(beginning) = self.topics.next() else { break };
            let event = |event| self.format.format().event(&event).map(Item::Event);
            let topic = &beginning.topic;
            if let Some(Announce { position: Position { epoch, offset }, recovered, policy }) =
                beginning.announce
            {
                items.extend(event(Event::Topic { topic, epoch, offset, recovered, policy }));
            }
            if let Some(age) = beginning.stale {
                items.extend(event(stale(topic, age)));
            }
            self.topic = Some(beginning.topic);
            self.messages = beginning.messages.into_iter();
        }
        items
    }
}

/// Says that `topic` has been silent for `age`.
pub(crate) fn stale(topic: &Topic, age: Duration) -> Event<'_> {
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    Event::Status { topic, status: Status::Stale, age_ms }
}
