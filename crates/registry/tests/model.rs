//! A registry's life, made up by a seed, against a model that tries each name and keeps all history.
//!
//! A failure prints its seed. `FANFARE_SEED=n` runs that seed alone and prints each operation.

mod support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use fanfare_registry::{
    BatchSize, InboxFull, Inboxes, JoinError, Joined, Registry, RegistryLimits, Retention, ShardSet,
};
use fanfare_wire::command::Start;
use fanfare_wire::{Message, Name, Pattern, Topic};

use support::{Random, drafts, pattern, ring, topic};

const SEEDS: u64 = 150;
const STEPS: usize = 250;
const SHARDS: usize = 3;
const LIMITS: RegistryLimits =
    RegistryLimits { wildcard_topics_max: 7, patterns_max: 5, lanes: 2, ..support::LIMITS };
/// What a topic keeps is in its name.
const TOPICS: [&str; 12] = [
    "deep", "deep.a", "deep.a.x", "ring", "ring.a", "ring.b", "ring.a.x", "last", "last.a", "last.b.x",
    "none", "none.a",
];
const PATTERNS: [&str; 9] = [">", "*", "*.a", "ring.>", "deep.>", "last.a", "*.*.x", "none.*", "unheard.of"];

/// Each reload gives the names to the next of the four ways to keep.
fn retention(topic: &Topic, reloads: usize) -> Retention {
    let kinds = ["deep", "ring", "last", "none"];
    let kind = kinds.iter().position(|kind| topic.as_str().starts_with(kind)).expect("a name of ours");
    match kinds[(kind + reloads) % kinds.len()] {
        "deep" => ring(usize::MAX),
        "ring" => ring(4),
        "last" => Retention { last_value: true, replay: None },
        _ => Retention { last_value: false, replay: None },
    }
}

/// Notes who was interested in what was published last.
#[derive(Default)]
struct Noted(RefCell<(ShardSet, Vec<Arc<Message>>)>);

impl Inboxes for Noted {
    fn reserve(&self, _: ShardSet, _: BatchSize) -> Result<(), InboxFull> {
        Ok(())
    }

    fn push(&self, shards: ShardSet, messages: Vec<Arc<Message>>, _: BatchSize) -> ShardSet {
        *self.0.borrow_mut() = (shards, messages);
        shards
    }
}

/// A topic of the model, while there is one.
#[derive(Debug)]
struct Life {
    retention: Retention,
    /// So many messages, the oldest, were let go of by a reload.
    lost: usize,
    used: bool,
    direct: [usize; SHARDS],
    offset: u64,
    /// The sequences of this life's messages.
    sequences: Vec<u64>,
    /// How many were forgotten when it began.
    forgotten_before: u64,
}

impl Life {
    fn is_wanted(&self) -> bool {
        self.direct.iter().any(|&subscribers| subscribers > 0)
    }

    /// A topic that keeps so, behind messages of an earlier one of its name that was forgotten.
    fn new(retention: Retention, forgotten_before: u64) -> Self {
        Self {
            retention,
            lost: 0,
            used: false,
            direct: [0; SHARDS],
            offset: 0,
            sequences: Vec::new(),
            forgotten_before,
        }
    }

    /// The sequences still kept.
    fn kept(&self) -> &[u64] {
        let Retention { last_value, replay } = self.retention;
        let max = replay.map_or_else(|| usize::from(last_value), |limits| limits.messages_max);
        &self.sequences[self.sequences.len().saturating_sub(max).max(self.lost)..]
    }

    fn reload(&mut self, retention: Retention) {
        for retention in [self.retention, retention] {
            self.retention = retention;
            self.lost = self.sequences.len() - self.kept().len();
        }
    }

    /// Whether everything after `cursor` is kept.
    fn has_all_since(&self, cursor: u64) -> bool {
        let kept = self.kept();
        let missed = self.sequences.iter().filter(|&&sequence| sequence > cursor);
        self.forgotten_before <= cursor && missed.clone().all(|sequence| kept.contains(sequence))
    }
}

struct World {
    random: Random,
    traced: bool,
    registry: Registry,
    limits: RegistryLimits,
    reloads: Arc<AtomicUsize>,
    inboxes: Noted,
    topics: Vec<Topic>,
    patterns: Vec<Pattern>,
    lives: BTreeMap<Topic, Life>,
    subscribers: BTreeMap<(usize, usize), usize>,
    /// The topic of each message there ever was; its sequence is its place, from 1.
    history: Vec<Topic>,
    forgotten_through: u64,
    seen: BTreeSet<&'static str>,
}

#[test]
fn the_registry_does_what_trying_each_name_does() {
    if let Ok(seed) = std::env::var("FANFARE_SEED") {
        run(seed.parse().expect("a number"), true);
        return;
    }
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        seen.extend(run(seed, false));
    }
    let happened = [
        "complete since",
        "fresh since",
        "complete poll",
        "cut poll",
        "gap",
        "last values",
        "too many matches",
        "too many patterns",
        "forgotten",
        "reloaded by pages",
    ];
    assert_eq!(seen, happened.into_iter().collect(), "the seeds do not lead everywhere");
}

fn run(seed: u64, traced: bool) -> BTreeSet<&'static str> {
    let _name = SeedOnPanic(seed);
    let reloads = Arc::new(AtomicUsize::new(0));
    let rules = Arc::clone(&reloads);
    let mut world = World {
        random: Random::new(seed),
        traced,
        registry: Registry::new(LIMITS, move |topic| retention(topic, rules.load(Relaxed))),
        limits: LIMITS,
        reloads,
        inboxes: Noted::default(),
        topics: TOPICS.iter().map(|name| topic(name)).collect(),
        patterns: PATTERNS.iter().map(|name| pattern(name)).collect(),
        lives: BTreeMap::new(),
        subscribers: BTreeMap::new(),
        history: Vec::new(),
        forgotten_through: 0,
        seen: BTreeSet::new(),
    };
    for _ in 0..STEPS {
        world.step();
        world.check();
    }
    for name in world.topics.clone() {
        world.publish(&name, 1);
    }
    world.seen
}

struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to see it again: FANFARE_SEED={}", self.0);
        }
    }
}

impl World {
    fn step(&mut self) {
        let name = self.topics[self.random.below(TOPICS.len())].clone();
        let shard = self.random.below(SHARDS);
        match self.random.below(100) {
            0..35 => {
                let count = 1 + self.random.below(3);
                self.publish(&name, count);
            }
            35..45 => self.join(&name, shard),
            45..57 => self.leave(&name, shard),
            57..65 => self.join_pattern(shard),
            65..72 => self.leave_pattern(shard),
            72..80 => self.sweep(),
            80..84 => self.list(&name),
            84 => self.reload(),
            _ => self.poll(),
        }
    }

    fn trace(&self, operation: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{}", operation());
        }
    }

    /// The topic's life, which begins now if there is none.
    fn life(&mut self, name: &Topic) -> &mut Life {
        let retention = retention(name, self.reloads.load(Relaxed));
        let forgotten_before = self.forgotten_through;
        self.lives.entry(name.clone()).or_insert_with(|| Life::new(retention, forgotten_before))
    }

    fn interest(&self, name: &Topic) -> ShardSet {
        let direct =
            self.lives.get(name).into_iter().flat_map(|life| (0..SHARDS).filter(|&s| life.direct[s] > 0));
        let patterns = self.subscribers.keys().filter(|(pattern, _)| self.patterns[*pattern].matches(name));
        direct.chain(patterns.map(|(_, shard)| *shard)).collect()
    }

    fn publish(&mut self, name: &Topic, count: usize) {
        self.trace(|| format!("publish {count} to {name}"));
        *self.inboxes.0.borrow_mut() = Default::default();
        let lane = self.random.below(LIMITS.lanes);
        let admitted = self
            .registry
            .admit(lane, name, drafts(name, count), Instant::now(), &self.inboxes)
            .expect("there is room");
        let (first, expect) = (self.history.len() as u64 + 1, self.interest(name));
        let life = self.life(name);
        life.used = true;
        assert_eq!((admitted.first, admitted.last), (life.offset + 1, life.offset + count as u64));
        life.offset += count as u64;
        life.sequences.extend(first..first + count as u64);
        self.history.extend(vec![name.clone(); count]);
        let (interest, messages) = &*self.inboxes.0.borrow();
        assert_eq!(*interest, expect, "who is interested in {name}");
        for (message, sequence) in messages.iter().zip(first..) {
            assert_eq!(message.sequence(), sequence);
        }
    }

    /// A place to start at, as a cursor; sometimes one of the future.
    fn cursor(&mut self) -> u64 {
        let len = self.history.len();
        let scale = [3, 10, 1_000][self.random.below(3)];
        let back = self.random.below(scale);
        if self.random.chance(3) { len as u64 + 1 } else { len.saturating_sub(back) as u64 }
    }

    fn start(&mut self) -> (Option<u64>, Start<'static>) {
        if self.random.chance(30) {
            return (None, Start::Last);
        }
        let sequence = self.cursor();
        (Some(sequence), Start::Since { epoch: self.registry.epoch().to_string().into(), sequence })
    }

    fn join(&mut self, name: &Topic, shard: usize) {
        let (cursor, start) = self.start();
        self.trace(|| format!("join {name} on {shard} {start:?}"));
        let joined = self.registry.join(name, shard, &start, Instant::now()).expect("there is room");
        let life = self.life(name);
        life.used = true;
        life.direct[shard] += 1;
        self.check_joined(name, cursor, &joined);
    }

    fn check_joined(&mut self, name: &Topic, cursor: Option<u64>, joined: &Joined) {
        let life = &self.lives[name];
        assert_eq!((joined.position.offset, joined.age.is_some()), (life.offset, life.offset > 0));
        let complete = cursor.map(|cursor| cursor <= self.history.len() as u64 && life.has_all_since(cursor));
        assert_eq!(joined.recovered, complete, "{name} since {cursor:?}");
        let expect = match cursor {
            Some(cursor) if complete == Some(true) => self.missed(cursor, |topic| topic == name),
            _ => self.last(name).into_iter().collect(),
        };
        assert_eq!(sequences(&joined.replay), expect, "{name} since {cursor:?}");
        match complete {
            Some(true) => self.seen.insert("complete since"),
            Some(false) => self.seen.insert("fresh since"),
            None => false,
        };
    }

    /// All that was ever published after `cursor`, also to topics that are forgotten.
    fn missed(&self, cursor: u64, of: impl Fn(&Topic) -> bool) -> Vec<u64> {
        let all = self.history.iter().zip(1..).skip(cursor as usize);
        all.filter(|(topic, _)| of(topic)).map(|(_, sequence)| sequence).collect()
    }

    fn last(&self, name: &Topic) -> Option<u64> {
        self.lives.get(name)?.kept().last().copied()
    }

    fn leave(&mut self, name: &Topic, shard: usize) {
        let Some(life) = self.lives.get_mut(name).filter(|life| life.direct[shard] > 0) else { return };
        life.direct[shard] -= 1;
        let last = life.direct[shard] == 0;
        if !life.is_wanted() && life.offset == 0 {
            self.lives.remove(name);
        }
        self.trace(|| format!("leave {name} on {shard}, {last}"));
        self.registry.leave(name, shard, last);
    }

    /// The topics there are that `pattern` matches, in the index's order.
    fn matching(&self, pattern: &Pattern) -> Vec<Topic> {
        let mut matching: Vec<Topic> =
            self.lives.keys().filter(|name| pattern.matches(name)).cloned().collect();
        matching.sort_by_key(|name| name.as_str().split('.').map(str::to_owned).collect::<Vec<_>>());
        matching
    }

    fn patterns_len(&self) -> usize {
        self.subscribers.keys().map(|(pattern, _)| pattern).collect::<BTreeSet<_>>().len()
    }

    fn join_pattern(&mut self, shard: usize) {
        let which = self.random.below(PATTERNS.len());
        let pattern = self.patterns[which].clone();
        let (cursor, start) = self.start();
        self.trace(|| format!("join {pattern} on {shard} {start:?}"));
        let joined = self.registry.join_pattern(&pattern, shard, |_| start.clone(), Instant::now());
        let matching = self.matching(&pattern);
        let is_new = self.subscribers.keys().all(|(pattern, _)| *pattern != which);
        if is_new && self.patterns_len() >= self.limits.patterns_max {
            assert_eq!(joined.err(), Some(JoinError::TooManyPatterns));
            self.seen.insert("too many patterns");
            return;
        }
        if matching.len() > self.limits.wildcard_topics_max {
            assert_eq!(joined.err(), Some(JoinError::TooManyMatches));
            self.seen.insert("too many matches");
            return;
        }
        *self.subscribers.entry((which, shard)).or_default() += 1;
        let joined = joined.expect("not too much of anything");
        assert_eq!(joined.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), matching);
        joined.iter().for_each(|(name, joined)| self.check_joined(name, cursor, joined));
    }

    fn leave_pattern(&mut self, shard: usize) {
        let which = self.random.below(PATTERNS.len());
        let Some(subscribers) = self.subscribers.get_mut(&(which, shard)) else { return };
        *subscribers -= 1;
        let last = *subscribers == 0;
        if last {
            self.subscribers.remove(&(which, shard));
        }
        self.trace(|| format!("leave {} on {shard}, {last}", self.patterns[which]));
        self.registry.leave_pattern(&self.patterns[which], shard, last);
    }

    fn sweep(&mut self) {
        self.trace(|| "sweep".to_owned());
        let before = self.lives.len();
        let mut forgotten_through = self.forgotten_through;
        self.lives.retain(|_, life| {
            let stays = life.used || life.is_wanted();
            life.used = life.is_wanted();
            if !stays {
                forgotten_through = forgotten_through.max(life.sequences.last().copied().unwrap_or_default());
            }
            stays
        });
        self.forgotten_through = forgotten_through;
        let forgotten = before - self.lives.len();
        assert_eq!(self.registry.sweep(), forgotten);
        if forgotten > 0 {
            self.seen.insert("forgotten");
        }
    }

    /// Other bounds, and other rules for what topics keep, which reach one page of them after the other.
    fn reload(&mut self) {
        self.limits.wildcard_topics_max = 5 + self.random.below(4);
        self.limits.patterns_max = 3 + self.random.below(4);
        self.registry.set_limits(&self.limits);
        let reloads = self.reloads.fetch_add(1, Relaxed) + 1;
        self.trace(|| format!("reload {reloads}: {:?}", self.limits));
        let topics = 1 + self.random.below(5);
        let mut after: Option<Topic> = None;
        loop {
            let all = pattern(">");
            let page = self.registry.list(&all, after.as_ref().map(Topic::as_str), topics);
            let last = self.registry.review(after.as_ref(), topics, Instant::now());
            assert_eq!(last.as_ref(), page.last().map(|(name, _)| name));
            for (name, _) in page {
                let life = self.lives.get_mut(&name).expect("it is listed");
                life.reload(retention(&name, reloads));
            }
            self.check();
            let Some(last) = last else { return };
            if after.replace(last).is_some() {
                self.seen.insert("reloaded by pages");
            }
            // Others go on meanwhile; a topic that is born now is born into the new rules.
            let name = self.topics[self.random.below(TOPICS.len())].clone();
            self.publish(&name, 1);
        }
    }

    fn list(&mut self, after: &Topic) {
        let pattern = &self.patterns[self.random.below(PATTERNS.len())];
        let max = self.random.below(5);
        let key = |name: &Topic| name.as_str().split('.').map(str::to_owned).collect::<Vec<_>>();
        let expect: Vec<_> =
            self.matching(pattern).into_iter().filter(|name| key(name) > key(after)).collect();
        let listed = self.registry.list(pattern, Some(after.as_str()), max);
        let expect = expect.into_iter().take(max).map(|name| {
            let offset = self.lives[&name].offset;
            (name, offset)
        });
        let listed = listed.into_iter().map(|(name, position)| (name, position.offset));
        assert_eq!(listed.collect::<Vec<_>>(), expect.collect::<Vec<_>>(), "{pattern} after {after}");
    }

    fn poll(&mut self) {
        let selection: Vec<Name> = (0..1 + self.random.below(3))
            .map(|_| match self.random.chance(60) {
                true => Name::Topic(self.topics[self.random.below(TOPICS.len())].clone()),
                false => Name::Pattern(self.patterns[self.random.below(PATTERNS.len())].clone()),
            })
            .collect();
        let cursor = if self.random.chance(10) { None } else { Some(self.cursor()) };
        let max = 1 + self.random.below(8);
        self.trace(|| format!("poll {selection:?} {cursor:?}, {max}"));
        let own =
            if self.random.chance(95) { self.registry.epoch().to_string() } else { "elsewhere".to_owned() };
        let cursor = cursor.map(|sequence| (own.as_str(), sequence));
        let polled = self.registry.since(&selection, cursor, max, Instant::now());

        let mut named = BTreeSet::new();
        let mut selected = BTreeSet::new();
        let mut by_pattern = false;
        for selection in &selection {
            match selection {
                Name::Topic(name) => _ = named.insert(name.clone()),
                Name::Pattern(pattern) => {
                    by_pattern = true;
                    selected.extend(self.matching(pattern));
                }
            }
        }
        selected.extend(named.iter().cloned());
        if selected.len() > self.limits.wildcard_topics_max {
            assert_eq!(polled.err(), Some(JoinError::TooManyMatches));
            return;
        }
        let polled = polled.expect("not too many topics");
        let watermark = self.history.len() as u64;
        let complete = cursor.filter(|&(epoch, cursor)| {
            epoch != "elsewhere"
                && cursor <= watermark
                && (!by_pattern || self.forgotten_through <= cursor)
                && selected.iter().all(|name| match self.lives.get(name) {
                    Some(life) => life.has_all_since(cursor),
                    None => self.forgotten_through <= cursor,
                })
        });
        let matches = |name: &Topic| {
            named.contains(name)
                || selection.iter().any(|selected| match selected {
                    Name::Topic(_) => false,
                    Name::Pattern(pattern) => pattern.matches(name),
                })
        };
        let (expect, sequence) = match complete {
            Some((_, cursor)) => {
                let mut missed = self.missed(cursor, matches);
                let cut = missed.len() > max;
                missed.truncate(max);
                self.seen.insert(if cut { "cut poll" } else { "complete poll" });
                let sequence = if cut { missed[max - 1] } else { watermark };
                (missed, sequence)
            }
            None => {
                let mut last: Vec<u64> = selected.iter().filter_map(|name| self.last(name)).collect();
                last.sort_unstable();
                last.drain(..last.len().saturating_sub(max));
                self.seen.insert(if cursor.is_some() { "gap" } else { "last values" });
                (last, watermark)
            }
        };
        assert_eq!(polled.gap, cursor.is_some() && complete.is_none());
        assert_eq!((sequences(&polled.messages), polled.sequence), (expect, sequence));
        // A gap ends the look early, but then the last values are asked for.
        for name in &named {
            if let Some(life) = self.lives.get_mut(name) {
                life.used = true;
            }
        }
    }

    /// What can be seen at any time.
    fn check(&self) {
        assert_eq!(self.registry.topics(), self.lives.len());
        assert_eq!(self.registry.patterns(), self.patterns_len());
        assert_eq!(self.registry.watermark(), self.history.len() as u64);
        assert_eq!(self.registry.forgotten_through(), self.forgotten_through);
        for name in &self.topics {
            let by_pattern =
                self.subscribers.iter().filter(|((pattern, _), _)| self.patterns[*pattern].matches(name));
            let by_pattern: usize = by_pattern.map(|(_, count)| count).sum();
            let expect = self.lives.get(name).map(|life| {
                let oldest = life.kept().len() as u64;
                let oldest = (oldest > 0).then(|| life.offset - oldest + 1);
                (life.offset, oldest, life.direct.iter().sum::<usize>() + by_pattern)
            });
            let info = self.registry.info(name, Instant::now());
            let info = info.map(|info| (info.position.offset, info.oldest, info.subscribers));
            assert_eq!(info, expect, "{name}");
            let last = self.registry.last(name, Instant::now()).map(|last| last.message.sequence());
            assert_eq!(last, self.last(name), "{name}");
        }
    }
}

fn sequences(messages: &[Arc<Message>]) -> Vec<u64> {
    messages.iter().map(|message| message.sequence()).collect()
}
