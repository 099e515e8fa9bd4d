//! Answers to publishes that carried a key, so that a repeat gets the first one's answer and publishes nothing.
//!
//! # Bounds       `Limits::idempotency_keys`, `Limits::idempotency_age`; the oldest key is forgotten first

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use fanfare_registry::Admitted;
use fanfare_wire::Topic;
use parking_lot::Mutex;

use crate::admission;

/// The longest key, in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 256;

/// The remembered keys of the process. A key belongs to a topic and to the holder of a credential: the same key on another topic,
/// or of somebody else, is another key. Those who show no credential share theirs.
pub(crate) struct IdempotencyStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys_max: usize,
    age_max: Duration,
    answers: HashMap<Key, Admitted, ahash::RandomState>,
    order: VecDeque<(Instant, Key)>,
}

type Key = (Topic, Option<admission::Key>, Box<str>);

/// An answer, and whether it is an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) admitted: Admitted,
    pub(crate) replayed: bool,
}

impl IdempotencyStore {
    pub(crate) fn new(keys_max: usize, age_max: Duration) -> Self {
        Self { state: Mutex::new(State { keys_max, age_max, ..State::default() }) }
    }

    /// Forgets at most `most` keys that are past other bounds; these hold once no more are. Returns whether more are.
    pub(crate) fn set_bounds(&self, keys_max: usize, age_max: Duration, now: Instant, most: usize) -> bool {
        let mut state = self.state.lock();
        for _ in 0..most {
            if !state.forget_one(keys_max, age_max, now) {
                (state.keys_max, state.age_max) = (keys_max, age_max);
                return false;
            }
        }
        true
    }

    /// Runs `publish`, or answers as it did when the key was first seen. A refused publish is not remembered.
    ///
    /// The lock is held while it runs, so that of two equal requests at once one publishes; it never waits.
    pub(crate) fn once<E>(
        &self,
        topic: &Topic,
        holder: Option<admission::Key>,
        key: &str,
        now: Instant,
        publish: impl FnOnce() -> Result<Admitted, E>,
    ) -> Result<Answer, E> {
        let mut state = self.state.lock();
        let (keys_max, age_max) = (state.keys_max, state.age_max);
        while state.forget_one(keys_max, age_max, now) {}
        let key = (topic.clone(), holder, Box::from(key));
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

impl State {
    /// Forgets the oldest key, if it is past a bound.
    fn forget_one(&mut self, keys_max: usize, age_max: Duration, now: Instant) -> bool {
        let len = self.order.len();
        let is_past =
            |(since, _): &mut (Instant, Key)| now.duration_since(*since) >= age_max || len > keys_max;
        let Some((_, key)) = self.order.pop_front_if(is_past) else { return false };
        self.answers.remove(&key);
        true
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
            let answer = store.once(
                &Topic::new(topic).unwrap(),
                None,
                key,
                start + Duration::from_secs(after),
                || {
                    offset += 1;
                    let admitted =
                        Admitted { epoch: Epoch::new(1), first: offset, last: offset, wake: ShardSet::EMPTY };
                    Ok::<_, ()>(admitted)
                },
            );
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
    fn other_bounds_hold_when_what_is_past_them_is_forgotten() {
        let minute = Duration::from_secs(60);
        let (store, start) = (IdempotencyStore::new(100, 2 * minute), Instant::now());
        let admitted = Admitted { epoch: Epoch::new(1), first: 1, last: 1, wake: ShardSet::EMPTY };
        let topic = Topic::new("a").unwrap();
        let is_known =
            |key: &str, now| store.once(&topic, None, key, now, || Ok::<_, ()>(admitted)).unwrap().replayed;
        for key in 0..10 {
            assert!(!is_known(&key.to_string(), start));
        }
        assert!(store.set_bounds(5, 2 * minute, start, 4), "four are forgotten, and one more is too many");
        assert!(is_known("4", start), "the old bounds hold");
        assert!(!store.set_bounds(5, 2 * minute, start, 4));
        assert!(store.len() == 5 && !is_known("4", start) && is_known("9", start));
        assert!(!store.set_bounds(100, minute, start + minute, 9));
        assert_eq!(store.len(), 0, "the age is another one");
        assert!(!is_known("9", start + minute) && is_known("9", start + minute));
    }

    #[test]
    fn a_refused_publish_may_be_tried_again() {
        let store = IdempotencyStore::new(2, Duration::from_secs(120));
        let topic = Topic::new("a").unwrap();
        assert_eq!(store.once(&topic, None, "k", Instant::now(), || Err("busy")), Err("busy"));
        assert_eq!(store.len(), 0);
    }
}
