//! The newest messages of conflating topics, which a slow subscriber has not got yet: one per key.
//!
//! A message that waits here is replaced by a newer one of its topic and key. When the topic's turn comes, what it has is
//! taken out whole, in the order of the offsets, and changes no more: so a subscriber sees a topic's offsets increase, and
//! a key that changes all the time has its turn like any other.
//!
//! # Owner        the outbox
//! # Bounds       messages are bounded by [`OutboxLimits::messages_max`](crate::OutboxLimits::messages_max)
//! # Invariants   a topic is here if and only if its place stands in the outbox's queue

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Instant;

use fanfare_wire::Topic;

use crate::batch::Batch;

/// What waits, by topic.
#[derive(Debug, Default)]
pub(crate) struct Conflation {
    topics: HashMap<Topic, Newest, ahash::RandomState>,
    /// How many messages there are, and their frames' bytes.
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// Nearly all topics have no keys.
#[derive(Debug)]
enum Newest {
    One(Rc<Batch>),
    Keyed(HashSet<ByKey, ahash::RandomState>),
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// Its topic is new here, and needs a place in the queue.
    FirstOfTopic,
    /// Its key is new here.
    FirstOfKey,
    /// It took the place of an older one.
    Replaced,
}

/// A batch of one message, compared by its key.
#[derive(Debug)]
struct ByKey(Rc<Batch>);

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

fn size(batch: &Batch) -> usize {
    batch.messages(0, batch.len()).len()
}

impl Conflation {
    /// Takes in a batch of one message, newer than all of its topic here.
    pub(crate) fn put(&mut self, batch: &Rc<Batch>) -> Put {
        let (new, batch) = (size(batch), Rc::clone(batch));
        self.bytes += new;
        let Some(newest) = self.topics.get_mut(&batch.topic) else {
            self.messages += 1;
            self.topics.insert(batch.topic.clone(), Newest::One(batch));
            return Put::FirstOfTopic;
        };
        let replaced = match newest {
            Newest::One(one) if one.key == batch.key => Some(std::mem::replace(one, batch)),
            Newest::One(one) => {
                let keyed = [ByKey(Rc::clone(one)), ByKey(batch)];
                *newest = Newest::Keyed(keyed.into_iter().collect());
                None
            }
            Newest::Keyed(keyed) => keyed.replace(ByKey(batch)).map(|replaced| replaced.0),
        };
        match replaced {
            Some(old) => {
                self.bytes -= size(&old);
                Put::Replaced
            }
            None => {
                self.messages += 1;
                Put::FirstOfKey
            }
        }
    }

    /// Takes a topic out: its messages, oldest first.
    pub(crate) fn take(&mut self, topic: &Topic) -> Vec<Rc<Batch>> {
        let mut batches = match self.topics.remove(topic) {
            None => Vec::new(),
            Some(Newest::One(one)) => vec![one],
            Some(Newest::Keyed(keyed)) => keyed.into_iter().map(|by_key| by_key.0).collect(),
        };
        batches.sort_unstable_by_key(|batch| batch.offset(0));
        self.messages -= batches.len();
        self.bytes -= batches.iter().map(|batch| size(batch)).sum::<usize>();
        batches
    }

    /// Takes all topics out: each one's messages, oldest first.
    pub(crate) fn take_all(&mut self) -> Vec<Vec<Rc<Batch>>> {
        let topics: Vec<_> = self.topics.keys().cloned().collect();
        topics.iter().map(|topic| self.take(topic)).collect()
    }

    /// Takes a topic's oldest message out. Says whether it was the topic's last.
    pub(crate) fn take_oldest(&mut self, topic: &Topic) -> Option<(Rc<Batch>, bool)> {
        let (oldest, is_last) = match self.topics.get_mut(topic)? {
            Newest::One(one) => (Rc::clone(one), true),
            Newest::Keyed(keyed) => {
                let oldest = keyed.iter().min_by_key(|by_key| by_key.0.offset(0))?;
                let oldest = ByKey(Rc::clone(&oldest.0));
                keyed.remove(&oldest);
                (oldest.0, keyed.is_empty())
            }
        };
        if is_last {
            self.topics.remove(topic);
        }
        self.messages -= 1;
        self.bytes -= size(&oldest);
        Some((oldest, is_last))
    }

    /// When the topic's oldest message came to wait.
    pub(crate) fn oldest(&self, topic: &Topic) -> Option<Instant> {
        match self.topics.get(topic)? {
            Newest::One(one) => one.at,
            Newest::Keyed(keyed) => keyed.iter().filter_map(|by_key| by_key.0.at).min(),
        }
    }

    /// Whether something of the topic waits.
    pub(crate) fn holds(&self, topic: &Topic) -> bool {
        self.topics.contains_key(topic)
    }

    /// Whether a message like this one would take an older one's place.
    pub(crate) fn would_replace(&self, batch: &Rc<Batch>) -> bool {
        match self.topics.get(&batch.topic) {
            None => false,
            Some(Newest::One(one)) => one.key == batch.key,
            Some(Newest::Keyed(keyed)) => keyed.contains(&ByKey(Rc::clone(batch))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_wire::{Draft, Epoch, FormatId, Kind, Message, Position};

    fn batch(topic: &str, key: Option<&str>, offset: u64) -> Rc<Batch> {
        let mut draft = Draft::new(Topic::new(topic).unwrap(), Kind::Text, b"xyz");
        draft.key = key.map(Into::into);
        let message = Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset);
        Rc::new(Batch::single(FormatId::RAW, &message))
    }

    fn offsets(batches: &[Rc<Batch>]) -> Vec<u64> {
        batches.iter().map(|batch| batch.offset(0)).collect()
    }

    #[test]
    fn the_newest_of_each_key_is_kept() {
        let (a, b) = (Topic::new("a").unwrap(), Topic::new("b").unwrap());
        let mut conflation = Conflation::default();
        assert_eq!(conflation.put(&batch("a", None, 1)), Put::FirstOfTopic);
        assert_eq!(conflation.put(&batch("a", None, 2)), Put::Replaced);
        assert_eq!(conflation.put(&batch("b", Some("x"), 1)), Put::FirstOfTopic);
        assert_eq!(conflation.put(&batch("b", Some("y"), 2)), Put::FirstOfKey);
        assert_eq!(conflation.put(&batch("b", None, 3)), Put::FirstOfKey);
        assert!(conflation.would_replace(&batch("b", Some("x"), 9)));
        assert!(!conflation.would_replace(&batch("b", Some("z"), 9)));
        assert_eq!(conflation.put(&batch("b", Some("x"), 4)), Put::Replaced);
        assert_eq!((conflation.messages, conflation.bytes), (4, 20));
        assert_eq!(offsets(&conflation.take(&a)), [2]);
        assert_eq!(offsets(&conflation.take(&b)), [2, 3, 4]);
        assert_eq!((conflation.messages, conflation.bytes, conflation.take(&b).len()), (0, 0, 0));
    }

    #[test]
    fn the_oldest_can_be_given_up() {
        let topic = Topic::new("a").unwrap();
        let mut conflation = Conflation::default();
        for (key, offset) in [("x", 1), ("y", 2), ("x", 3)] {
            conflation.put(&batch("a", Some(key), offset));
        }
        let mut taken = || conflation.take_oldest(&topic).map(|(batch, is_last)| (batch.offset(0), is_last));
        assert_eq!([taken(), taken(), taken()], [Some((2, false)), Some((3, true)), None]);
        assert_eq!((conflation.messages, conflation.bytes), (0, 0));
    }
}
