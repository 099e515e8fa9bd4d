//! Subscriptions that get a topic's newest message at most so often.
//!
//! A message that comes too early is held, and replaced by newer ones with its key. When its time has come, what is held
//! goes out as if it had just been published.
//!
//! # Owner        a subscriber; times are the shard's
//! # Bounds       past [`OutboxLimits::messages_max`](crate::OutboxLimits::messages_max) held messages, all go out early

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

use fanfare_wire::Topic;
use smallvec::SmallVec;

use crate::batch::Batch;
use crate::conflation::{Conflation, Put};
use crate::subscriber::SubscriberId;

/// What one subscriber holds back.
#[derive(Debug, Default)]
pub(crate) struct Paced {
    /// The shortest time between two messages of a topic, by audience.
    intervals: SmallVec<[(u32, Duration); 1]>,
    /// When a topic's next message may go out, and the time to wait after that.
    next_at: HashMap<Topic, (Instant, Duration), ahash::RandomState>,
    held: Conflation,
}

/// When held messages are to go out.
pub(crate) type Timers = BinaryHeap<Reverse<(Instant, SubscriberId, Topic)>>;

/// What to do with a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// It goes out.
    Now,
    /// It is held; if nothing of the topic was held before, a timer is needed.
    Held { timer: Option<Instant>, replaced: bool },
}

impl Paced {
    pub(crate) fn add(&mut self, audience: u32, interval: Duration) {
        self.intervals.push((audience, interval));
    }

    /// Forgets an audience. Returns whether no other is left.
    pub(crate) fn remove(&mut self, audience: u32) -> bool {
        self.intervals.retain(|(known, _)| *known != audience);
        self.intervals.is_empty()
    }

    /// Whether the audience's messages have a pace.
    pub(crate) fn is_for(&self, audience: u32) -> bool {
        self.intervals.iter().any(|(known, _)| *known == audience)
    }

    fn interval(&self, audience: u32) -> Duration {
        let known = self.intervals.iter().find(|(known, _)| *known == audience);
        known.map_or(Duration::ZERO, |(_, interval)| *interval)
    }

    /// Decides on the newest message of a key.
    pub(crate) fn offer(&mut self, audience: u32, batch: &Rc<Batch>, now: Instant) -> Pace {
        match self.next_at.get(&batch.topic) {
            Some(&(next_at, _)) if next_at > now => match self.held.put(batch) {
                Put::FirstOfTopic => Pace::Held { timer: Some(next_at), replaced: false },
                put => Pace::Held { timer: None, replaced: put == Put::Replaced },
            },
            // A timer of this time is due, and not carried out yet: order comes first.
            Some(_) if self.held.holds(&batch.topic) => {
                Pace::Held { timer: None, replaced: self.held.put(batch) == Put::Replaced }
            }
            _ => {
                let interval = self.interval(audience);
                self.next_at.insert(batch.topic.clone(), (now + interval, interval));
                Pace::Now
            }
        }
    }

    /// Takes out what is held of a topic whose timer has come. Nothing, if the timer is of a subscription that has ended.
    pub(crate) fn take_due(&mut self, topic: &Topic, now: Instant) -> Vec<Rc<Batch>> {
        match self.next_at.get_mut(topic) {
            Some((next_at, interval)) if *next_at <= now && self.held.holds(topic) => {
                *next_at = now + *interval
            }
            _ => return Vec::new(),
        }
        self.held.take(topic)
    }

    /// Takes out everything.
    pub(crate) fn take_all(&mut self) -> Vec<Vec<Rc<Batch>>> {
        self.held.take_all()
    }

    /// How many messages are held.
    pub(crate) fn held(&self) -> usize {
        self.held.messages
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.held.bytes
    }

    /// Forgets times that have passed, when there are more than `most` of them.
    pub(crate) fn forget_past(&mut self, now: Instant, most: usize) {
        if self.next_at.len() > most {
            self.next_at.retain(|topic, (next_at, _)| *next_at > now || self.held.holds(topic));
        }
    }

    /// Another audience brings the topic from now on: after what is held, its interval counts.
    pub(crate) fn hand_over(&mut self, topic: &Topic, heir: u32) {
        let heirs = self.interval(heir);
        if let Some((_, interval)) = self.next_at.get_mut(topic) {
            *interval = heirs;
        }
    }

    /// Forgets a topic. Returns what is held of it.
    pub(crate) fn forget(&mut self, topic: &Topic) -> Vec<Rc<Batch>> {
        self.next_at.remove(topic);
        self.held.take(topic)
    }
}
