//! Topics that are to speak often, and have fallen silent: their subscribers are told, so that an old value does not look
//! fresh.
//!
//! Each such topic is looked at when it may have become stale, not at each message.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use fanfare_wire::Topic;
use fanfare_wire::event::Status;

use crate::shard::Shard;

/// When which topics are looked at. A row whose time is not the topic's own is out of date.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    looks: BinaryHeap<Reverse<(Instant, u32)>>,
}

impl Shard {
    /// Tells the shard when a topic spoke last: `age` is what the registry knows. Returns its age if it is stale.
    pub fn note_age(&mut self, topic: &Topic, age: Option<Duration>, now: Instant) -> Option<Duration> {
        let index = self.known(topic)?;
        let known = &mut self.topics[index as usize];
        let stale_after = known.settings.stale_after?;
        let age = age?;
        let at = now.checked_sub(age).unwrap_or(now);
        let is_stale = age >= stale_after;
        // Of a topic that others were told is stale, a newer message may be in the inbox: it makes it live for them.
        if !known.is_stale && known.last_at.is_none_or(|last_at| last_at <= at) {
            known.last_at = Some(at);
            // What was stale before anybody came here is told to the one who comes.
            known.is_stale = is_stale && known.looked_at.is_none();
            if !known.is_stale {
                self.look_at(index, at + stale_after);
            }
        }
        // What is about to be told to all is told to the newcomer then.
        (is_stale && self.topics[index as usize].is_stale).then_some(age)
    }

    /// A topic can be stale after another time, or cannot any more. `age` is how long it has been silent, if that was of no
    /// interest here before. Who was told that it is stale is told when it speaks.
    pub(crate) fn change_stale_after(&mut self, index: u32, age: Option<Duration>, now: Instant) {
        let known = &mut self.topics[index as usize];
        known.looked_at = None;
        let Some(stale_after) = known.settings.stale_after else { return };
        known.last_at = known.last_at.or_else(|| age.map(|age| now.checked_sub(age).unwrap_or(now)));
        if let Some(last_at) = known.last_at.filter(|_| !known.is_stale) {
            self.look_at(index, last_at + stale_after);
        }
    }

    /// A topic is in a pass. Returns what its subscribers are to be told: the age is that of the silence.
    pub(crate) fn hear(&mut self, index: u32, speaks: bool, now: Instant) -> Option<(Duration, Status)> {
        let known = &mut self.topics[index as usize];
        if known.settings.stale_after.is_none() && !known.is_stale {
            return None;
        }
        let age = known.last_at.map_or(Duration::ZERO, |last_at| now.saturating_duration_since(last_at));
        if !speaks {
            return Some((age, Status::Stale));
        }
        known.last_at = Some(now);
        let was_stale = std::mem::take(&mut known.is_stale);
        match known.settings.stale_after {
            Some(stale_after) if known.looked_at.is_none() => self.look_at(index, now + stale_after),
            _ => {}
        }
        was_stale.then_some((age, Status::Live))
    }

    /// The topics that have become stale.
    pub(crate) fn take_stale(&mut self, now: Instant) -> Vec<u32> {
        let mut stale = Vec::new();
        while let Some(Reverse((at, index))) = self.silence.looks.peek().copied()
            && at <= now
        {
            self.silence.looks.pop();
            let Some(known) = self.topics.get_mut(index as usize).filter(|known| known.looked_at == Some(at))
            else {
                continue;
            };
            known.looked_at = None;
            let (Some(last_at), Some(stale_after)) = (known.last_at, known.settings.stale_after) else {
                continue;
            };
            if now.saturating_duration_since(last_at) >= stale_after {
                known.is_stale = true;
                stale.push(index);
            } else {
                self.look_at(index, last_at + stale_after);
            }
        }
        stale
    }

    fn look_at(&mut self, index: u32, at: Instant) {
        let known = &mut self.topics[index as usize];
        if known.looked_at.is_none() {
            known.looked_at = Some(at);
            self.silence.looks.push(Reverse((at, index)));
        }
    }
}
