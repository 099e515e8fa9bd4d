//! Answers to publishes that carried a key, so that a repeat gets the first one's answer and publishes nothing.
//!
//! # Bounds       `Limits::idempotency_keys`, `Limits::idempotency_age`; the oldest key is forgotten first

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use fanfare_registry::Admitted;
use fanfare_wire::Topic;
use parking_lot::Mutex;

/// The longest key, in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 256;

/// The remembered keys of the process. A key belongs to a topic: the same key on another topic is another key.
pub(crate) struct IdempotencyStore {
    state: Mutex<State>,
    keys_max: usize,
    age_max: Duration,
}

#[derive(Default)]
struct State {
    answers: HashMap<Key, Admitted, ahash::RandomState>,
    order: VecDeque<(Instant, Key)>,
}

type Key = (Topic, Box<str>);

/// An answer, and whether it is an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) admitted: Admitted,
    pub(crate) replayed: bool,
}

impl IdempotencyStore {
    pub(crate) fn new(keys_max: usize, age_max: Duration) -> Self {
        Self { state: Mutex::default(), keys_max, age_max }
    }

    /// Runs `publish`, or answers as it did when the key was first seen. A refused publish is not remembered.
    ///
    /// The lock is held while it runs, so that of two equal requests at once one publishes; it never waits.
    pub(crate) fn once<E>(
        &self,
        topic: &Topic,
        key: &str,
        now: Instant,
        publish: impl FnOnce() -> Result<Admitted, E>,
    ) -> Result<Answer, E> {
        let mut state = self.state.lock();
        while let Some((since, _)) = state.order.front()
            && (now.duration_since(*since) >= self.age_max || state.order.len() > self.keys_max)
        {
            if let Some((_, key)) = state.order.pop_front() {
                state.answers.remove(&key);
            }
        }
        let key = (topic.clone(), Box::from(key));
        if let Some(&admitted) = state.answers.get(&key) {
            return Ok(Answer { admitted, replayed: true });
        }
        let admitted = publish()?;
        state.answers.insert(key.clone(), admitted);
        state.order.push_back((now, key));
        Ok(Answer { admitted, replayed: false })
    }

    /// How many keys are remembered.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_registry::ShardSet;
    use fanfare_wire::Epoch;

    #[test]
    fn a_repeat_is_answered_and_not_published() {
        let store = IdempotencyStore::new(2, Duration::from_secs(120));
        let start = Instant::now();
        let mut offset = 0;
        let mut publish = |topic: &str, key: &str, after: u64| {
            let answer =
                store.once(&Topic::new(topic).unwrap(), key, start + Duration::from_secs(after), || {
                    offset += 1;
                    let admitted =
                        Admitted { epoch: Epoch::new(1), first: offset, last: offset, wake: ShardSet::EMPTY };
                    Ok::<_, ()>(admitted)
                });
            answer.map(|answer| (answer.admitted.last, answer.replayed)).unwrap()
        };
        assert_eq!(publish("a", "k", 0), (1, false));
        assert_eq!(publish("a", "k", 1), (1, true));
        assert_eq!(publish("b", "k", 2), (2, false));
        assert_eq!(publish("a", "k", 119), (1, true));
        assert_eq!(publish("a", "k", 120), (3, false), "forgotten after its age");
        assert_eq!(publish("c", "k", 121), (4, false));
        assert_eq!(publish("d", "k", 121), (5, false), "one more than the bound until the next call");
        assert_eq!(publish("a", "k", 121), (6, false), "the oldest went first");
        assert!(store.len() <= 3);
    }

    #[test]
    fn a_refused_publish_may_be_tried_again() {
        let store = IdempotencyStore::new(2, Duration::from_secs(120));
        let topic = Topic::new("a").unwrap();
        assert_eq!(store.once(&topic, "k", Instant::now(), || Err("busy")), Err("busy"));
        assert_eq!(store.len(), 0);
    }
}
