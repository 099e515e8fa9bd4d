//! The topics of the process: making them, publishing to them, joining and leaving them, forgetting them.
//!
//! # Locks
//! The map's shard, a topic's entry, then one of the two that are held for a step only: the index, the eviction's queue.
//! Each is taken with none held but those before it, and nobody holds two of a kind. The sweep looks at entries with the
//! queue held, but never waits for one.
//!
//! # Bounds   [`RegistryLimits`]

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use dashmap::DashMap;
use fanfare_wire::command::Start;
use fanfare_wire::{Draft, Epoch, Pattern, Topic};
use parking_lot::Mutex;

use crate::entry::{Admitted, Entry, Joined, Kept};
use crate::inboxes::{InboxFull, Inboxes};
use crate::index::Index;
use crate::replay::Retention;
use crate::sequence::Sequence;

/// Why messages got no place. None of them was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// An interested shard does not keep up.
    #[error("the gateway is busy: {0}")]
    Busy(#[from] InboxFull),
    /// The topic is new and the process has as many as it may.
    #[error("the gateway has as many topics as it may")]
    TooManyTopics,
}

/// Why a subscriber cannot join, or a poll is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The topic is new and the process has as many as it may.
    #[error("the gateway has as many topics as it may")]
    TooManyTopics,
    /// More than [`RegistryLimits::wildcard_topics_max`] topics.
    #[error("more topics match than a subscription may have")]
    TooManyMatches,
    /// The pattern is new and the process has as many as it may.
    #[error("the gateway has as many patterns as it may")]
    TooManyPatterns,
}

/// The bounds of a registry.
#[derive(Debug, Clone, Copy)]
pub struct RegistryLimits {
    /// Topics with subscribers, or published to not long ago.
    pub topics_max: usize,
    /// Memory of the messages kept for newcomers, over all topics. Past it, the least recently used topics give way.
    pub retained_bytes_max: usize,
    /// Threads that publish.
    pub lanes: usize,
    /// Topics that a pattern may match when a subscriber joins it, and that a poll may name.
    pub wildcard_topics_max: usize,
    /// Different patterns with subscribers.
    pub patterns_max: usize,
}

/// The bounds in force. Nearly never written: nothing that is stands on their cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Bounds {
    topics_max: AtomicUsize,
    retained_bytes_max: AtomicUsize,
    wildcard_topics_max: AtomicUsize,
    patterns_max: AtomicUsize,
    lanes: usize,
}

impl Bounds {
    fn new(limits: &RegistryLimits) -> Self {
        Self {
            topics_max: AtomicUsize::new(limits.topics_max),
            retained_bytes_max: AtomicUsize::new(limits.retained_bytes_max),
            wildcard_topics_max: AtomicUsize::new(limits.wildcard_topics_max),
            patterns_max: AtomicUsize::new(limits.patterns_max),
            lanes: limits.lanes,
        }
    }

    pub(crate) fn read(&self) -> RegistryLimits {
        RegistryLimits {
            topics_max: self.topics_max.load(Ordering::Relaxed),
            retained_bytes_max: self.retained_bytes_max.load(Ordering::Relaxed),
            lanes: self.lanes,
            wildcard_topics_max: self.wildcard_topics_max.load(Ordering::Relaxed),
            patterns_max: self.patterns_max.load(Ordering::Relaxed),
        }
    }
}

/// The process's topics. All threads share it.
pub struct Registry {
    topics: DashMap<Topic, Arc<Mutex<Entry>>, ahash::RandomState>,
    /// Has exactly the topics of the map, to whoever can see the map.
    pub(crate) index: Mutex<Index>,
    pub(crate) sequence: Sequence,
    pub(crate) limits: Bounds,
    retention: Box<dyn Fn(&Topic) -> Retention + Send + Sync>,
    topics_len: AtomicUsize,
    retained_bytes: AtomicUsize,
    /// Topics that keep messages, in the order in which they give way: a clock hand that passes over a topic once if it
    /// was used meanwhile.
    giving_way: Mutex<VecDeque<Arc<Mutex<Entry>>>>,
    evictions: AtomicU64,
    epochs: AtomicU64,
    /// The greatest sequence of a topic that is not here any more. Written before the topic leaves the map and the index,
    /// under their locks: whoever does not find it there finds it here.
    forgotten_through: AtomicU64,
}

impl Registry {
    /// An empty registry. `retention` is asked for each topic that appears, and by [`review`](Self::review).
    pub fn new(
        limits: RegistryLimits,
        retention: impl Fn(&Topic) -> Retention + Send + Sync + 'static,
    ) -> Self {
        // Random, so that a restarted process does not reuse an epoch.
        let epochs = AtomicU64::new(RandomState::new().hash_one(std::process::id()));
        Self {
            topics: DashMap::default(),
            index: Mutex::default(),
            sequence: Sequence::new(next_epoch(&epochs), limits.lanes),
            limits: Bounds::new(&limits),
            retention: Box::new(retention),
            topics_len: AtomicUsize::new(0),
            retained_bytes: AtomicUsize::new(0),
            giving_way: Mutex::default(),
            evictions: AtomicU64::new(0),
            epochs,
            forgotten_through: AtomicU64::new(0),
        }
    }

    /// Gives `drafts`, all of `topic`, their places, and hands them to the interested shards.
    ///
    /// `lane` is the calling thread's, below [`RegistryLimits::lanes`]: one thread at a time may use it.
    pub fn admit(
        &self,
        lane: usize,
        topic: &Topic,
        drafts: Vec<Draft>,
        now: Instant,
        inboxes: &impl Inboxes,
    ) -> Result<Admitted, AdmitError> {
        let admitted = loop {
            let shared = self.entry(topic).ok_or(AdmitError::TooManyTopics)?;
            let mut entry = shared.lock();
            if entry.dead {
                continue;
            }
            let (admitted, kept) = entry.admit(&self.sequence, lane, drafts, now, inboxes)?;
            self.account(&kept);
            if !entry.replay().is_empty() && !std::mem::replace(&mut entry.queued, true) {
                self.giving_way.lock().push_back(Arc::clone(&shared));
            }
            break admitted;
        };
        self.make_room();
        Ok(admitted)
    }

    /// Registers the interest of `shard` in `topic` for a new subscriber, and says how that one begins.
    ///
    /// Every message after [`Joined::position`] reaches the shard's inbox. Messages up to it may still be in that inbox:
    /// the shard skips them for this subscriber.
    pub fn join(
        &self,
        topic: &Topic,
        shard: usize,
        start: &Start<'_>,
        now: Instant,
    ) -> Result<Joined, JoinError> {
        loop {
            let entry = self.entry(topic).ok_or(JoinError::TooManyTopics)?;
            let mut entry = entry.lock();
            if !entry.dead {
                entry.join(shard);
                self.account(&entry.forget_aged(now));
                return Ok(entry.begin(start, &self.sequence, now));
            }
        }
    }

    /// Takes back one subscriber of `topic`. If it was the `last` of `shard`, so goes the shard's interest, but for what
    /// its patterns want.
    pub fn leave(&self, topic: &Topic, shard: usize, last: bool) {
        if self.with(topic, |entry| entry.leave(shard, last)) == Some(true) {
            self.remove_if(topic, |entry| entry.is_unused());
        }
    }

    /// Forgets the topics that nobody subscribes to by name and nobody used since the sweep before. Returns how many.
    ///
    /// Patterns keep no topic: a subscriber of `>` would keep all. A forgotten topic that comes back has another epoch.
    pub fn sweep(&self) -> usize {
        let mut idle = Vec::new();
        for topic in &self.topics {
            if topic.value().lock().is_idle() {
                idle.push(topic.key().clone());
            }
        }
        // A topic used between the two looks has `used` set again and stays.
        let forgotten = idle.iter().filter(|topic| self.remove_if(topic, Entry::is_idle)).count();
        // Whoever holds an entry's lock is using it, so it is not dead.
        self.giving_way.lock().retain(|entry| !entry.try_lock().is_some_and(|entry| entry.dead));
        forgotten
    }

    /// Other bounds of what there may be hold from now on; what is past them stays. The lanes are what they were, and so is
    /// the bound of what is kept: see [`shrink`](Self::shrink).
    pub fn set_limits(&self, limits: &RegistryLimits) {
        let Bounds { topics_max, wildcard_topics_max, patterns_max, .. } = &self.limits;
        topics_max.store(limits.topics_max, Ordering::Relaxed);
        wildcard_topics_max.store(limits.wildcard_topics_max, Ordering::Relaxed);
        patterns_max.store(limits.patterns_max, Ordering::Relaxed);
    }

    /// Asks again what some topics keep: at most `topics` of those after the name `after`. Returns the last of them, to go on
    /// behind it, and `None` when none is left. Whoever began after the answers changed has then reached every topic.
    pub fn review(&self, after: Option<&Topic>, topics: usize, now: Instant) -> Option<Topic> {
        let all = Pattern::new(">").expect("it stands for every topic");
        let page = self.index.lock().page(&all, after.map(Topic::as_str), topics);
        for topic in &page {
            let retention = (self.retention)(topic);
            self.with(topic, |entry| self.account(&entry.set_retention(retention, now)));
        }
        page.into_iter().last()
    }

    /// Takes memory from at most `topics` of the topics whose turn it is, until all is within another bound, which holds from
    /// then on. Returns whether there is more to take.
    pub fn shrink(&self, retained_bytes_max: usize, topics: usize) -> bool {
        for _ in 0..topics {
            if !self.make_room_once(retained_bytes_max) {
                self.limits.retained_bytes_max.store(retained_bytes_max, Ordering::Relaxed);
                return false;
            }
        }
        true
    }

    /// The life of [`Self::watermark`]'s count: that of this process.
    pub fn epoch(&self) -> Epoch {
        self.sequence.epoch()
    }

    /// A sequence up to which every message of the node has been handed to all interested inboxes and is kept where its
    /// topic keeps messages. It never falls.
    ///
    /// A shard that reads it and then its inbox has, behind that, delivered everything up to it.
    pub fn watermark(&self) -> u64 {
        self.sequence.watermark()
    }

    /// The greatest sequence that was given. Once the watermark is there, everything published before this call is kept and
    /// handed over.
    pub fn published(&self) -> u64 {
        self.sequence.taken()
    }

    /// The greatest sequence of a topic that was forgotten: a cursor below it may have missed what nobody can tell of any
    /// more. Whoever resumes a pattern looks after [`Self::join_pattern`].
    pub fn forgotten_through(&self) -> u64 {
        self.forgotten_through.load(Ordering::Relaxed)
    }

    /// How many topics there are.
    pub fn topics(&self) -> usize {
        self.topics_len.load(Ordering::Relaxed)
    }

    /// The memory of the messages kept for newcomers.
    pub fn retained_bytes(&self) -> usize {
        self.retained_bytes.load(Ordering::Relaxed)
    }

    /// How often a topic had to give way.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// What `read` says of the topic as it is `now`, without what is too old. `None` if there is no such topic.
    pub(crate) fn look<R>(
        &self,
        topic: &Topic,
        now: Instant,
        read: impl FnOnce(&mut Entry) -> R,
    ) -> Option<R> {
        self.with(topic, |entry| {
            self.account(&entry.forget_aged(now));
            read(entry)
        })
    }

    /// Calls `with` on the topic's entry under its lock. `None` if there is no such topic.
    pub(crate) fn with<R>(&self, topic: &Topic, with: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        loop {
            // The guard of the map is gone before the entry's lock is waited for.
            let entry = self.topics.get(topic).map(|entry| Arc::clone(&entry))?;
            let mut entry = entry.lock();
            if !entry.dead {
                return Some(with(&mut entry));
            }
        }
    }

    fn account(&self, kept: &Kept) {
        // A ring that is full mostly lets go of as much as it takes: then nobody's cache line is touched.
        if kept.after != kept.before {
            self.retained_bytes.fetch_add(kept.after.wrapping_sub(kept.before), Ordering::Relaxed);
        }
    }

    /// Takes memory from the topics whose turn it is until all is within the bound. Ends: each topic is passed over once,
    /// and gives way twice.
    fn make_room(&self) {
        while self.make_room_once(self.limits.retained_bytes_max.load(Ordering::Relaxed)) {}
    }

    /// Lets the next topic give way, or passes over it, if not all is within the bound. `false` if there is nothing to do.
    fn make_room_once(&self, retained_bytes_max: usize) -> bool {
        if self.retained_bytes() <= retained_bytes_max {
            return false;
        }
        let Some(shared) = self.giving_way.lock().pop_front() else { return false };
        let mut entry = shared.lock();
        if !entry.dead && !std::mem::take(&mut entry.recent) {
            let kept = entry.give_way();
            self.account(&kept);
            self.evictions.fetch_add(1, Ordering::Relaxed);
        }
        entry.queued = !entry.dead && !entry.replay().is_empty();
        if entry.queued {
            drop(entry);
            self.giving_way.lock().push_back(shared);
        }
        true
    }

    /// The topic's entry, made if it is not there. `None` at the bound.
    fn entry(&self, topic: &Topic) -> Option<Arc<Mutex<Entry>>> {
        // Looking takes the read lock only; `entry` would take the write lock of the map's shard each time.
        if let Some(entry) = self.topics.get(topic).map(|entry| Arc::clone(&entry)) {
            return Some(entry);
        }
        match self.topics.entry(topic.clone()) {
            dashmap::Entry::Occupied(entry) => Some(Arc::clone(entry.get())),
            dashmap::Entry::Vacant(place) => {
                let topics_max = self.limits.topics_max.load(Ordering::Relaxed);
                let room = |len| (len < topics_max).then_some(len + 1);
                self.topics_len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
                let epoch = next_epoch(&self.epochs);
                // One lock for both. A pattern that comes later finds the topic in the index, waits for it to be in the
                // map, and sees to its interest before it says where its subscriber stands; one that came earlier is in
                // the answer, before the first message. See `patterns`.
                let patterns = self.index.lock().insert(topic);
                // Asked behind that: a review either finds the topic there, or was over before the answer.
                let retention = (self.retention)(topic);
                let entry = Entry::new(epoch, retention, patterns, self.forgotten_through());
                let entry = Arc::new(Mutex::new(entry));
                place.insert(Arc::clone(&entry));
                Some(entry)
            }
        }
    }

    fn remove_if(&self, topic: &Topic, condition: impl Fn(&mut Entry) -> bool) -> bool {
        let removed = self.topics.remove_if(topic, |_, entry| {
            let mut entry = entry.lock();
            let remove = condition(&mut entry);
            if remove {
                let buried = entry.bury();
                self.retained_bytes.fetch_sub(buried.bytes, Ordering::Relaxed);
                self.forgotten_through.fetch_max(buried.sequence, Ordering::Relaxed);
                self.index.lock().remove(topic);
                // Under the lock of the map, or the same topic could find no room when it comes back at once.
                self.topics_len.fetch_sub(1, Ordering::Relaxed);
            }
            remove
        });
        removed.is_some()
    }
}

fn next_epoch(epochs: &AtomicU64) -> Epoch {
    // A golden-ratio step visits all values before it repeats one; the mix keeps neighbours from looking alike.
    let step = epochs.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    Epoch::new((step ^ step >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inboxes::BatchSize;
    use crate::shard_set::ShardSet;
    use fanfare_wire::{Kind, Message, Position};
    use std::cell::{Cell, RefCell};
    use std::collections::HashSet;
    use std::time::Duration;

    use crate::replay::{MESSAGE_OVERHEAD_BYTES as OVERHEAD, ReplayLimits};

    const SHARDS: usize = 3;

    /// The inboxes of three shards, any of which may be full.
    #[derive(Default)]
    struct Shards {
        full: Cell<Option<usize>>,
        inboxes: RefCell<[Vec<Arc<Message>>; SHARDS]>,
    }

    impl Shards {
        /// The offsets in a shard's inbox, which is empty then.
        fn take_offsets(&self, shard: usize) -> Vec<u64> {
            self.inboxes.borrow_mut()[shard].drain(..).map(|message| message.offset()).collect()
        }
    }

    impl Inboxes for Shards {
        fn reserve(&self, shards: ShardSet, size: BatchSize) -> Result<(), InboxFull> {
            assert!(size.messages > 0 && !shards.is_empty());
            let full = shards.iter().any(|shard| self.full.get() == Some(shard));
            if full { Err(InboxFull) } else { Ok(()) }
        }

        fn push(&self, shards: ShardSet, messages: Vec<Arc<Message>>, size: BatchSize) -> ShardSet {
            let bytes = messages.iter().map(|message| message.payload().len()).sum();
            assert_eq!(size, BatchSize { messages: messages.len(), bytes });
            let mut inboxes = self.inboxes.borrow_mut();
            let woken = shards.iter().filter(|&shard| inboxes[shard].is_empty()).collect();
            for shard in shards.iter() {
                inboxes[shard].extend(messages.iter().cloned());
            }
            woken
        }
    }

    /// Keeps last messages, but for topics that begin with `live`.
    fn registry(topics_max: usize, retained_bytes_max: usize) -> Registry {
        let limits = RegistryLimits {
            topics_max,
            retained_bytes_max,
            lanes: 2,
            wildcard_topics_max: 9,
            patterns_max: 9,
        };
        Registry::new(limits, |topic| Retention {
            last_value: !topic.as_str().starts_with("live"),
            replay: topic.as_str().starts_with("ring").then_some(ReplayLimits {
                messages_max: 3,
                age_max: Duration::from_secs(60),
                bytes_max: 1 << 20,
            }),
        })
    }

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn drafts(name: &str, payloads: &[&str]) -> Vec<Draft> {
        payloads.iter().map(|payload| Draft::new(topic(name), Kind::Text, payload.as_bytes())).collect()
    }

    fn publish(registry: &Registry, shards: &Shards, name: &str, payloads: &[&str]) -> Admitted {
        registry.admit(0, &topic(name), drafts(name, payloads), Instant::now(), shards).unwrap()
    }

    fn join(registry: &Registry, shard: usize, name: &str) -> Joined {
        registry.join(&topic(name), shard, &Start::Last, Instant::now()).unwrap()
    }

    fn last_payload(registry: &Registry, name: &str) -> Option<String> {
        let last = registry.last(&topic(name), Instant::now())?;
        Some(String::from_utf8_lossy(last.message.payload()).into_owned())
    }

    #[test]
    fn offsets_count_from_one_without_holes() {
        let (registry, shards) = (registry(9, 1 << 20), Shards::default());
        let joined = join(&registry, 0, "a");
        assert_eq!((joined.position.offset, joined.replay.len(), joined.recovered), (0, 0, None));
        for (payloads, first, last) in [(&["x"][..], 1, 1), (&["x", "y", "z"], 2, 4), (&["x"], 5, 5)] {
            let admitted = publish(&registry, &shards, "a", payloads);
            assert_eq!((admitted.first, admitted.last), (first, last));
            assert_eq!(admitted.epoch, joined.position.epoch);
        }
        assert_eq!(publish(&registry, &shards, "b", &["x"]).first, 1, "each topic counts for itself");
        assert_eq!(shards.take_offsets(0), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_full_inbox_refuses_before_an_offset_is_used() {
        let (registry, shards) = (registry(9, 1 << 20), Shards::default());
        join(&registry, 0, "a");
        join(&registry, 1, "a");
        publish(&registry, &shards, "a", &["one"]);
        shards.full.set(Some(1));
        let refused = registry.admit(0, &topic("a"), drafts("a", &["lost", "lost"]), Instant::now(), &shards);
        assert_eq!(refused, Err(AdmitError::Busy(InboxFull)));
        assert_eq!(last_payload(&registry, "a").as_deref(), Some("one"));
        assert_eq!(registry.retained_bytes(), 3 + OVERHEAD);
        shards.full.set(Some(2));
        assert_eq!(publish(&registry, &shards, "a", &["two"]).first, 2, "shard 2 is not interested");
        assert_eq!((shards.take_offsets(0), shards.take_offsets(1)), (vec![1, 2], vec![1, 2]));
    }

    #[test]
    fn messages_reach_the_interested_shards_alone() {
        let (registry, shards) = (registry(9, 1 << 20), Shards::default());
        let wake = |shards: &[usize]| shards.iter().copied().collect::<ShardSet>();
        assert_eq!(publish(&registry, &shards, "a", &["x"]).wake, ShardSet::EMPTY);
        join(&registry, 0, "a");
        join(&registry, 2, "a");
        assert_eq!(publish(&registry, &shards, "a", &["x"]).wake, wake(&[0, 2]));
        assert_eq!(publish(&registry, &shards, "a", &["x"]).wake, ShardSet::EMPTY, "they are awake");
        registry.leave(&topic("a"), 0, true);
        registry.leave(&topic("unheard-of"), 0, true);
        publish(&registry, &shards, "a", &["x"]);
        assert_eq!(shards.take_offsets(0), [2, 3]);
        assert!(shards.take_offsets(1).is_empty());
        assert_eq!(shards.take_offsets(2), [2, 3, 4]);
    }

    #[test]
    fn a_newcomer_hears_where_it_stands_and_what_is_kept() {
        let (registry, shards) = (registry(9, 1 << 20), Shards::default());
        let admitted = publish(&registry, &shards, "a", &["one", "two"]);
        publish(&registry, &shards, "live.a", &["one", "two"]);
        let check = |name, start: &Start<'_>, expect: &[u64], recovered| {
            let joined = registry.join(&topic(name), 0, start, Instant::now()).unwrap();
            assert_eq!(joined.position.offset, 2);
            let replay: Vec<_> = joined.replay.iter().map(|message| message.offset()).collect();
            assert_eq!((&replay[..], joined.recovered), (expect, recovered), "{name} {start:?}");
        };
        let after = |offset| Start::After { epoch: admitted.epoch.to_string().into(), offset };
        check("a", &Start::Last, &[2], None);
        check("a", &Start::Earliest, &[2], None);
        check("a", &Start::Live, &[], None);
        check("a", &after(2), &[], Some(true));
        check("a", &after(1), &[2], Some(true));
        check("a", &after(0), &[2], Some(false));
        check("a", &after(3), &[2], Some(false));
        check("live.a", &Start::Last, &[], None);
        check("live.a", &Start::Earliest, &[], None);
        // The count of another topic is no place in this one.
        check("live.a", &after(2), &[], Some(false));
    }

    #[test]
    fn topics_have_a_bound() {
        let (registry, shards) = (registry(2, 1 << 20), Shards::default());
        publish(&registry, &shards, "a", &["x"]);
        join(&registry, 0, "b");
        let refused = registry.admit(0, &topic("c"), drafts("c", &["x"]), Instant::now(), &shards);
        assert_eq!(refused, Err(AdmitError::TooManyTopics));
        let refused = registry.join(&topic("c"), 0, &Start::Live, Instant::now());
        assert_eq!(refused.map(|joined| joined.position), Err(JoinError::TooManyTopics));
        assert_eq!(registry.topics(), 2);
        publish(&registry, &shards, "a", &["x"]);
        join(&registry, 1, "b");
        // Nobody published to `b`: with its last subscriber it is as if it had never been.
        registry.leave(&topic("b"), 0, true);
        assert_eq!(registry.topics(), 2);
        registry.leave(&topic("b"), 1, true);
        assert_eq!(registry.topics(), 1);
        join(&registry, 0, "c");
    }

    #[test]
    fn past_the_bound_the_least_recently_used_topics_give_way() {
        let (registry, shards) = (registry(9, 5 * (OVERHEAD + 1)), Shards::default());
        let kept = |name: &str| {
            join(&registry, 0, name).position.offset - last_offset_before_replay(&registry, name)
        };
        publish(&registry, &shards, "ring.a", &["1", "2", "3", "4"]);
        publish(&registry, &shards, "ring.b", &["1", "2"]);
        assert_eq!((registry.retained_bytes(), registry.evictions()), (5 * (OVERHEAD + 1), 0));
        // The hand passes over both once, then `a` gives way but for its last value.
        publish(&registry, &shards, "c", &["1"]);
        assert_eq!(registry.evictions(), 1);
        assert_eq!((kept("ring.a"), kept("ring.b")), (1, 2));
        assert_eq!(last_payload(&registry, "ring.a").as_deref(), Some("4"));
        for name in ["d", "e", "f", "g"] {
            publish(&registry, &shards, name, &["1"]);
            assert!(registry.retained_bytes() <= 5 * (OVERHEAD + 1));
        }
        assert_eq!(last_payload(&registry, "g").as_deref(), Some("1"), "the newest stays");
    }

    /// The offset before the oldest that `from=earliest` replays.
    fn last_offset_before_replay(registry: &Registry, name: &str) -> u64 {
        let joined = registry.join(&topic(name), 0, &Start::Earliest, Instant::now()).unwrap();
        joined.replay.first().map_or(joined.position.offset, |oldest| oldest.offset() - 1)
    }

    #[test]
    fn a_smaller_bound_is_reached_in_steps_and_holds_then() {
        let (registry, shards) = (registry(9, 1 << 20), Shards::default());
        for name in ["a", "b", "c", "d"] {
            publish(&registry, &shards, name, &["1"]);
        }
        // Each is passed over once before the first gives way.
        assert!(registry.shrink(2 * (OVERHEAD + 1), 4));
        assert_eq!(registry.retained_bytes(), 4 * (OVERHEAD + 1));
        assert!(registry.shrink(2 * (OVERHEAD + 1), 1));
        publish(&registry, &shards, "e", &["1"]);
        assert_eq!(registry.retained_bytes(), 4 * (OVERHEAD + 1), "the old bound holds meanwhile");
        assert!(!registry.shrink(2 * (OVERHEAD + 1), 99));
        assert_eq!(registry.retained_bytes(), 2 * (OVERHEAD + 1));
        publish(&registry, &shards, "f", &["1"]);
        assert_eq!(registry.retained_bytes(), 2 * (OVERHEAD + 1));
        assert!(!registry.shrink(1 << 20, 1));
        publish(&registry, &shards, "g", &["1"]);
        assert_eq!(registry.retained_bytes(), 3 * (OVERHEAD + 1));
    }

    #[test]
    fn messages_too_old_are_not_replayed() {
        let (registry, shards) = (registry(9, 1 << 20), Shards::default());
        publish(&registry, &shards, "ring.a", &["1", "2", "3"]);
        let later = Instant::now() + Duration::from_secs(61);
        let joined = registry.join(&topic("ring.a"), 0, &Start::Earliest, later).unwrap();
        assert_eq!(joined.replay.len(), 1, "the last value does not age");
        assert_eq!(registry.retained_bytes(), 1 + OVERHEAD);
    }

    /// An inbox that looks at the watermark as messages arrive.
    struct Watching<'a>(&'a Registry, Cell<bool>);

    impl Inboxes for Watching<'_> {
        fn reserve(&self, _: ShardSet, _: BatchSize) -> Result<(), InboxFull> {
            if self.1.get() { Err(InboxFull) } else { Ok(()) }
        }

        fn push(&self, _: ShardSet, messages: Vec<Arc<Message>>, _: BatchSize) -> ShardSet {
            assert_eq!(self.0.watermark() + 1, messages[0].sequence(), "they have not been handed over yet");
            ShardSet::EMPTY
        }
    }

    #[test]
    fn the_watermark_passes_messages_that_are_in_every_inbox() {
        let registry = registry(9, 1 << 20);
        let inboxes = Watching(&registry, Cell::new(false));
        join(&registry, 0, "a");
        for (lane, full, watermark) in
            [(0, false, 2), (1, false, 4), (1, true, 4), (0, true, 4), (1, false, 6)]
        {
            inboxes.1.set(full);
            let drafts = drafts("a", &["x", "y"]);
            let admitted = registry.admit(lane, &topic("a"), drafts, Instant::now(), &inboxes);
            assert_eq!((admitted.is_err(), registry.watermark()), (full, watermark));
        }
        assert_eq!(registry.last(&topic("a"), Instant::now()).unwrap().message.sequence(), 6);
    }

    #[test]
    fn a_publish_does_not_ask_the_index() {
        let (registry, shards) = (registry(9, 1 << 20), Shards::default());
        publish(&registry, &shards, "a", &["x"]);
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            let index = registry.index.lock();
            scope.spawn(|| {
                publish(&registry, &Shards::default(), "a", &["x"]);
                answer.send(()).unwrap();
            });
            let answered = answered.recv_timeout(Duration::from_secs(10));
            drop(index);
            answered.expect("it waits for the index");
        });
    }

    #[test]
    fn the_age_is_that_of_the_last_message() {
        let (registry, shards, now) = (registry(9, 1 << 20), Shards::default(), Instant::now());
        let join = |name, now| registry.join(&topic(name), 0, &Start::Last, now).unwrap().age;
        assert_eq!(join("a", now), None);
        let info = registry.info(&topic("a"), now).unwrap();
        assert_eq!((info.age, info.oldest, info.subscribers), (None, None, 1));
        for name in ["a", "live.a"] {
            registry.admit(0, &topic(name), drafts(name, &["x"]), now, &shards).unwrap();
            registry
                .admit(0, &topic(name), drafts(name, &[]), now + Duration::from_secs(1), &shards)
                .unwrap();
            let age = Some(Duration::from_secs(2));
            assert_eq!(join(name, now + Duration::from_secs(2)), age, "{name}");
        }
        let later = now + Duration::from_secs(3);
        assert_eq!(registry.last(&topic("a"), later).unwrap().age, Duration::from_secs(3));
        assert_eq!(
            registry.info(&topic("a"), now - Duration::from_secs(1)).unwrap().age,
            Some(Duration::ZERO)
        );
        assert!(registry.last(&topic("live.a"), later).is_none());
    }

    #[test]
    fn a_batch_of_nothing_changes_nothing() {
        let (registry, shards) = (registry(9, 1 << 20), Shards::default());
        join(&registry, 0, "a");
        publish(&registry, &shards, "a", &["x"]);
        let admitted = publish(&registry, &shards, "a", &[]);
        assert_eq!((admitted.first, admitted.last, admitted.wake), (2, 1, ShardSet::EMPTY));
        assert_eq!(last_payload(&registry, "a").as_deref(), Some("x"));
        assert_eq!(shards.take_offsets(0), [1]);
    }

    #[test]
    fn a_sweep_forgets_what_nobody_used_since_the_one_before() {
        let (registry, shards) = (registry(9, 1 << 20), Shards::default());
        publish(&registry, &shards, "quiet", &["12345"]);
        publish(&registry, &shards, "busy", &["1"]);
        join(&registry, 0, "wanted");
        publish(&registry, &shards, "wanted", &["1"]);
        assert_eq!(registry.sweep(), 0, "all were used");
        publish(&registry, &shards, "busy", &["1"]);
        assert_eq!(registry.sweep(), 1);
        assert_eq!((registry.topics(), registry.retained_bytes()), (2, 2 + 2 * OVERHEAD));
        assert_eq!(last_payload(&registry, "quiet"), None);
        assert_eq!(registry.sweep(), 1, "now also `busy`");
        for _ in 0..3 {
            assert_eq!(registry.sweep(), 0, "subscribers keep a topic");
        }
        registry.leave(&topic("wanted"), 0, true);
        assert_eq!(registry.sweep(), 0, "there was a subscriber since");
        assert_eq!(registry.sweep(), 1);
        assert_eq!((registry.topics(), registry.retained_bytes()), (0, 0));
    }

    #[test]
    fn a_topic_that_comes_back_counts_in_another_epoch() {
        let (registry, shards) = (registry(9, 1 << 20), Shards::default());
        let mut epochs = HashSet::new();
        for _ in 0..100 {
            let admitted = publish(&registry, &shards, "a", &["x"]);
            assert_eq!(admitted.first, 1);
            assert!(epochs.insert(admitted.epoch), "{} was in use", admitted.epoch);
            assert_eq!((registry.sweep(), registry.sweep()), (0, 1));
        }
        let before = Start::After { epoch: epochs.iter().next().unwrap().to_string().into(), offset: 0 };
        let joined = registry.join(&topic("a"), 0, &before, Instant::now()).unwrap();
        assert_eq!((joined.position.offset, joined.recovered), (0, Some(false)));
    }

    #[test]
    fn who_holds_a_forgotten_entry_looks_again() {
        let registry = registry(9, 1 << 20);
        let before = join(&registry, 0, "a").position.epoch;
        let entry = registry.entry(&topic("a")).unwrap();
        let mut guard = entry.lock();
        std::thread::scope(|scope| {
            let joiner = scope.spawn(|| join(&registry, 1, "a").position.epoch);
            let publisher = scope.spawn(|| {
                let draft = drafts("a", &["x"]);
                registry.admit(0, &topic("a"), draft, Instant::now(), &Shards::default()).unwrap().epoch
            });
            // The map has the entry, so does this test, and now both threads, which wait for its lock.
            while Arc::strong_count(&entry) < 4 {
                std::thread::yield_now();
            }
            registry.topics.remove(&topic("a"));
            guard.bury();
            drop(guard);
            let (joined, published) = (joiner.join().unwrap(), publisher.join().unwrap());
            assert_eq!(joined, published);
            assert_ne!(joined, before);
        });
    }

    #[test]
    fn a_restarted_process_does_not_reuse_an_epoch() {
        let epochs: HashSet<_> = (0..100)
            .map(|_| {
                let Position { epoch, .. } = join(&registry(9, 1 << 20), 0, "a").position;
                epoch
            })
            .collect();
        assert_eq!(epochs.len(), 100);
    }
}
