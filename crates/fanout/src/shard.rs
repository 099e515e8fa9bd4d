//! The subscribers of one worker.
//!
//! # Owner        one thread; not `Send`
//! # Bounds       [`ShardLimits`]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_wire::event::Event;
use fanfare_wire::{Epoch, FormatId, Name, Pattern, Topic, Trie};
use slab::Slab;

use crate::audience::{Audience, Listed, Wish};
use crate::budget::SizeClasses;
use crate::known_topic::{KnownTopic, TopicSettings};
use crate::outbox::{Outbox, OutboxLimits};
use crate::pacing::Timers;
use crate::replay::{Beginning, Replay};
use crate::slow_consumer::{Eviction, SlowPolicy};
use crate::step::{Due, STEP_MAX};
use crate::subscriber::{Joining, Subscriber, SubscriberId, Subscription};

/// The bounds of a shard.
#[derive(Debug, Clone, Copy)]
pub struct ShardLimits {
    /// What may wait for one subscriber.
    pub outbox: OutboxLimits,
    /// Topics and patterns of one subscriber.
    pub subscriptions_max: usize,
}

/// Why a subscription is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The subscriber has as many subscriptions as it may.
    #[error("the connection has as many subscriptions as it may")]
    TooMany,
    /// The subscriber is gone or being closed.
    #[error("the connection is closing")]
    Closing,
}

/// A tie that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// What the subscriber was tied to.
    pub name: Name,
    /// Nobody here is tied to it any more: the shard's interest is to be taken back.
    pub last: bool,
}

/// An [`unsubscribe`](Shard::unsubscribe) that was carried out.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsubscribed {
    /// The tie.
    pub left: Left,
    /// How many topics it brought.
    pub topics: usize,
    /// A newer subscription brings some of the same topics from now on, and in the pass under way it may be too late for
    /// that: what the subscriber misses is not known. It is to be closed, and told so.
    pub torn: bool,
}

/// One worker's subscribers and their topics.
pub struct Shard {
    pub(crate) limits: ShardLimits,
    /// The node's epoch, in marks.
    pub(crate) node: Epoch,
    settings: Box<dyn Fn(&Topic) -> TopicSettings>,
    pub(crate) subscribers: Slab<Subscriber>,
    pub(crate) audiences: Slab<Audience>,
    pub(crate) topics: Slab<KnownTopic>,
    pub(crate) by_name: HashMap<Topic, u32, ahash::RandomState>,
    /// The audiences of patterns.
    patterns: Trie<u32>,
    generation: u32,
    pub(crate) outboxes: SizeClasses,
    /// Passes begun.
    pub(crate) passes: u64,
    /// The sequence of the node up to which everything was delivered, or queued, in finished passes.
    pub(crate) through: u64,
    /// Subscribers with a [`Joining`].
    joiners: Vec<SubscriberId>,
    pub(crate) timers: Timers,
    pub(crate) silence: crate::silence::Silence,
    /// The last reload that settings came from.
    reload: u16,
    /// Empty between steps.
    pub(crate) dues: Vec<Due<'static>>,
}

impl Shard {
    /// A shard without subscribers. `settings` is asked for each topic that becomes known here, and by
    /// [`review`](Self::review).
    pub fn new(
        limits: ShardLimits,
        node: Epoch,
        settings: impl Fn(&Topic) -> TopicSettings + 'static,
    ) -> Self {
        Self {
            limits,
            node,
            settings: Box::new(settings),
            subscribers: Slab::new(),
            audiences: Slab::new(),
            topics: Slab::new(),
            by_name: HashMap::default(),
            patterns: Trie::default(),
            generation: 0,
            outboxes: SizeClasses::default(),
            passes: 0,
            through: 0,
            joiners: Vec::new(),
            timers: Timers::new(),
            silence: crate::silence::Silence::default(),
            reload: 0,
            dues: Vec::with_capacity(STEP_MAX),
        }
    }

    // === subscribers ===

    /// Adds a subscriber that reads `format`. One that takes no gaps is closed rather than cut when it is slow.
    pub fn connect(&mut self, format: FormatId, takes_gaps: bool) -> SubscriberId {
        self.generation = self.generation.wrapping_add(1);
        let subscriber = Subscriber::new(self.generation, format, takes_gaps);
        SubscriberId { slot: self.subscribers.insert(subscriber) as u32, generation: self.generation }
    }

    /// Ties a subscriber to a topic: messages after `start` will reach it. Returns whether it is new that they do: if a pattern
    /// brings the topic already, it goes on as it began.
    pub fn subscribe(
        &mut self,
        id: SubscriberId,
        topic: &Topic,
        wish: Wish,
        start: u64,
    ) -> Result<bool, SubscribeError> {
        if self.is_subscribed(id, topic) {
            return Ok(false);
        }
        self.may_subscribe(id)?;
        let covered = self.is_covered(id, topic);
        let start = if covered { self.joining_start(id, topic) } else { start };
        let known = self.know(topic);
        let audience = match self.topics[known as usize].direct {
            Some(audience) => audience,
            None => self.audiences.insert(Audience::new(Name::Topic(topic.clone()))) as u32,
        };
        self.topics[known as usize].direct = Some(audience);
        self.tie(id, audience, wish, start);
        Ok(!covered)
    }

    /// Ties a subscriber to all topics that match. `starts` says, for those of them that exist, up to which offset messages
    /// are not for it; what reaches it already goes on as it began. Returns whether the tie is new.
    pub fn subscribe_pattern(
        &mut self,
        id: SubscriberId,
        pattern: &Pattern,
        wish: Wish,
        starts: impl IntoIterator<Item = (Topic, u64)>,
    ) -> Result<bool, SubscribeError> {
        if self.is_subscribed_to_pattern(id, pattern) {
            return Ok(false);
        }
        self.may_subscribe(id)?;
        let mut news: Vec<_> = starts.into_iter().filter(|(topic, _)| !self.is_covered(id, topic)).collect();
        // When the name's tie ends, the pattern's goes on from where that began.
        news.extend(self.starts_by_name(id).filter(|(topic, _)| pattern.matches(topic)));
        let audience = match self.patterns.get(pattern.as_str()) {
            Some(audience) => *audience,
            None => self.new_pattern(pattern),
        };
        self.tie(id, audience, wish, 0);
        let pass = self.passes + 1;
        if let Some(subscriber) = self.subscribers.get_mut(id.slot as usize) {
            let joining = subscriber.joining.get_or_insert_with(|| {
                self.joiners.push(id);
                Box::new(Joining { pass, starts: HashMap::default() })
            });
            joining.pass = pass;
            joining.starts.extend(news);
        }
        Ok(true)
    }

    /// Lets a subscription's messages through at most once per `interval` and topic. It was made with [`Wish::Paced`]. Not for
    /// formats with marks: what is held comes later than they say.
    pub fn pace(&mut self, id: SubscriberId, name: &Name, interval: Duration) {
        let audience = match name {
            Name::Topic(topic) => {
                self.by_name.get(topic).and_then(|known| self.topics[*known as usize].direct)
            }
            Name::Pattern(pattern) => self.patterns.get(pattern.as_str()).copied(),
        };
        if let (Some(audience), Some(_)) = (audience, self.subscriber(id))
            && let Some(subscriber) = self.subscribers.get_mut(id.slot as usize)
        {
            subscriber.paced.get_or_insert_default().add(audience, interval);
        }
    }

    /// Whether one more subscription is within the bounds: to be asked before interest is registered.
    pub fn may_subscribe(&self, id: SubscriberId) -> Result<(), SubscribeError> {
        let subscriber = self.subscriber(id).filter(|subscriber| !subscriber.closing);
        let subscriber = subscriber.ok_or(SubscribeError::Closing)?;
        if subscriber.subscriptions.len() >= self.limits.subscriptions_max {
            return Err(SubscribeError::TooMany);
        }
        Ok(())
    }

    /// Whether the subscriber is tied to the topic by its name.
    pub fn is_subscribed(&self, id: SubscriberId, topic: &Topic) -> bool {
        let audience = self.by_name.get(topic).and_then(|known| self.topics[*known as usize].direct);
        let (Some(subscriber), Some(audience)) = (self.subscriber(id), audience) else { return false };
        subscriber.is_in(audience)
    }

    /// Whether the subscriber is tied to the pattern.
    pub fn is_subscribed_to_pattern(&self, id: SubscriberId, pattern: &Pattern) -> bool {
        let (Some(subscriber), Some(audience)) = (self.subscriber(id), self.patterns.get(pattern.as_str()))
        else {
            return false;
        };
        subscriber.is_in(*audience)
    }

    /// Whether the topic reaches the subscriber already, by its name or by a pattern.
    pub fn is_covered(&self, id: SubscriberId, topic: &Topic) -> bool {
        let Some(subscriber) = self.subscriber(id) else { return false };
        if subscriber.subscriptions.is_empty() {
            return false;
        }
        let mut covered = self.is_subscribed(id, topic);
        self.patterns.patterns_of(topic, |audience| covered |= subscriber.is_in(*audience));
        covered
    }

    /// What the subscriber is tied to: its topics and patterns.
    pub fn names(&self, id: SubscriberId) -> impl Iterator<Item = &Name> {
        let ties = self.subscriber(id).map(|subscriber| subscriber.subscriptions.as_slice());
        ties.unwrap_or_default().iter().map(|tie| &self.audiences[tie.audience as usize].name)
    }

    /// The same name, in the one copy that the topic's subscribers here share, if it has any.
    pub fn shared_name(&self, topic: Topic) -> Topic {
        self.by_name.get_key_value(&topic).map_or(topic, |(name, _)| name.clone())
    }

    /// Unties a subscriber. `None` if it was not tied.
    pub fn unsubscribe(&mut self, id: SubscriberId, name: &Name) -> Option<Unsubscribed> {
        let audience = match name {
            Name::Topic(topic) => self.topics[*self.by_name.get(topic)? as usize].direct?,
            Name::Pattern(pattern) => *self.patterns.get(pattern.as_str())?,
        };
        let topics: Vec<u32> = match name {
            Name::Topic(topic) => self.by_name.get(topic).copied().into_iter().collect(),
            Name::Pattern(_) => {
                let matching = self.topics.iter().filter(|(_, topic)| topic.patterns.contains(&audience));
                matching.map(|(index, _)| index as u32).collect()
            }
        };
        let count = topics.len();
        self.subscriber(id)?;
        let subscriber = self.subscribers.get_mut(id.slot as usize)?;
        let at = subscriber.subscriptions.iter().position(|tie| tie.audience == audience)?;
        let subscription = subscriber.subscriptions.remove(at);
        let before = subscriber.waiting_bytes();
        let mut torn = false;
        for topic in topics.into_iter().map(|index| &self.topics[index as usize]) {
            let heir = subscriber.subscriptions.iter().position(|tie| topic.has(tie.audience));
            if heir.is_some_and(|heir| heir < at) {
                // Something older brings the topic, before and after.
                continue;
            }
            torn |= heir.is_some() && topic.in_pass;
            let heir = heir.map(|heir| subscriber.subscriptions[heir].audience);
            if let Some(paced) = &mut subscriber.paced {
                match heir {
                    Some(heir) if paced.is_for(heir) => paced.hand_over(&topic.name, heir),
                    // What comes next does not wait, and is newer.
                    Some(_) => paced.forget(&topic.name).iter().for_each(|batch| {
                        subscriber.outbox.conflate(batch);
                    }),
                    None => drop(paced.forget(&topic.name)),
                }
            }
            subscriber.outbox.end_subscription(&topic.name);
        }
        subscriber.paced.take_if(|paced| paced.remove(audience));
        self.outboxes.change(before, subscriber.waiting_bytes());
        let format = subscriber.format;
        Some(Unsubscribed { left: self.unlist(subscription, format), topics: count, torn })
    }

    /// Queues an answer for the subscriber, behind what already waits.
    pub fn push_control(&mut self, id: SubscriberId, frame: Bytes) -> Result<(), Eviction> {
        let limits = self.limits.outbox;
        let pushed = self.with_outbox(id, |outbox| outbox.push_control(frame, &limits));
        pushed.unwrap_or(Ok(())).map_err(|_| Eviction::SlowConsumer)
    }

    /// Queues an event of the server's own, behind what already waits, with the place up to which everything came before.
    pub fn push_event(&mut self, id: SubscriberId, event: &Event<'_>) -> Result<(), Eviction> {
        let Some(format) = self.subscriber(id).map(|subscriber| subscriber.format) else { return Ok(()) };
        let Some(frame) = format.format().event(event) else { return Ok(()) };
        let mark = crate::pass::mark(format, self.node, self.through);
        self.push_control(
            id,
            match mark {
                Some(mark) => [mark, frame].concat().into(),
                None => frame,
            },
        )
    }

    /// Queues a ping or a pong ahead of what can still wait.
    pub fn push_pong(&mut self, id: SubscriberId, frame: Bytes) {
        self.with_outbox(id, |outbox| outbox.push_pong(frame));
    }

    /// Queues the beginning of topics the subscriber was just tied to. The messages' offsets are at most the starts given
    /// then. However many they are, they are written as the socket takes them, and none of them is dropped. A client that
    /// subscribes over and over without reading is to be closed.
    pub fn replay(&mut self, id: SubscriberId, mut topics: Vec<Beginning>) -> Result<(), Eviction> {
        topics
            .retain(|topic| topic.announce.is_some() || topic.stale.is_some() || !topic.messages.is_empty());
        let Some(subscriber) = self.subscriber(id) else { return Ok(()) };
        if topics.is_empty() {
            return Ok(());
        }
        if subscriber.outbox.replays() >= self.limits.subscriptions_max {
            return Err(Eviction::SlowConsumer);
        }
        let replay = Replay::new(subscriber.format, topics);
        self.with_outbox(id, |outbox| outbox.push_replay(replay));
        Ok(())
    }

    /// Ends the conversation: no more messages enter, `frame` is the last to leave. With `discard`, what waits is thrown
    /// away first. Its ties are added to `left`.
    pub fn close(&mut self, id: SubscriberId, frame: Bytes, discard: bool, left: &mut Vec<Left>) {
        if self.subscriber(id).is_none() {
            return;
        }
        self.untie(id, left);
        if let Some(subscriber) = self.subscribers.get_mut(id.slot as usize) {
            let before = subscriber.waiting_bytes();
            subscriber.closing = true;
            // What was held back is older than the end.
            if let Some(mut paced) = subscriber.paced.take()
                && !discard
            {
                paced.take_all().iter().flatten().for_each(|batch| {
                    subscriber.outbox.conflate(batch);
                });
            }
            subscriber.outbox.push_last(frame, discard);
            self.outboxes.change(before, subscriber.waiting_bytes());
        }
    }

    /// Forgets a subscriber. Its ties are added to `left`.
    pub fn disconnect(&mut self, id: SubscriberId, left: &mut Vec<Left>) {
        if self.subscriber(id).is_none() {
            return;
        }
        self.untie(id, left);
        let subscriber = self.subscribers.remove(id.slot as usize);
        self.outboxes.change(subscriber.waiting_bytes(), 0);
    }

    /// Makes outboxes larger than `bytes` as small as that, where the socket has refused: what may be dropped is, and
    /// announced; who has to get everything is given up. Other sockets get what waits at the end of the pass.
    pub fn shed(&mut self, bytes: usize, report: &mut crate::pass::Report) {
        for (slot, subscriber) in &mut self.subscribers {
            let before = subscriber.waiting_bytes();
            if before <= bytes || subscriber.closing || !subscriber.outbox.blocked {
                continue;
            }
            if subscriber.takes_gaps {
                let held = before - subscriber.outbox.bytes();
                report.dropped += subscriber.outbox.shed(bytes.saturating_sub(held));
            }
            let after = subscriber.waiting_bytes();
            self.outboxes.change(before, after);
            if after > bytes {
                subscriber.closing = true;
                let eviction = Eviction::Budget;
                report.evicted.push((subscriber.id(slot as u32), eviction));
            }
        }
    }

    /// Whether something waits for the subscriber's socket.
    pub fn is_waiting(&self, id: SubscriberId) -> bool {
        self.subscriber(id).is_some_and(|subscriber| !subscriber.outbox.is_empty())
    }

    /// Lets a subscriber that waits for the next pass keep no memory for that, if nothing waits for its socket.
    pub fn rest(&mut self, id: SubscriberId) {
        self.with_outbox(id, Outbox::rest);
    }

    /// How many subscribers there are.
    pub fn len(&self) -> usize {
        self.subscribers.len()
    }

    /// Whether there is no subscriber.
    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }

    /// What waits in all outboxes, in bytes.
    pub fn outbox_bytes(&self) -> usize {
        self.outboxes.sum()
    }

    /// The same, by the outboxes' sizes.
    pub fn outboxes(&self) -> &SizeClasses {
        &self.outboxes
    }

    /// How many topics are known: they have a subscriber here, or had a message for a pattern's.
    pub fn topics(&self) -> usize {
        self.by_name.len()
    }

    /// How many patterns have a subscriber here.
    pub fn patterns(&self) -> usize {
        self.patterns.len()
    }

    /// Forgets topics that only patterns brought, and that did not speak since the sweep before. One whose silence is still to
    /// be told stays until then.
    pub fn sweep(&mut self) {
        let may_go =
            |topic: &KnownTopic| topic.direct.is_none() && !topic.in_pass && topic.looked_at.is_none();
        let unused = self.topics.iter_mut().filter(|(_, topic)| may_go(topic));
        let unused = unused.filter_map(|(index, topic)| (!std::mem::take(&mut topic.used)).then_some(index));
        for index in unused.collect::<Vec<_>>() {
            let topic = self.topics.remove(index);
            self.by_name.remove(&topic.name);
        }
    }

    // === other settings ===

    /// Other bounds hold from now on. What is past them stays until its policy is asked.
    pub fn set_limits(&mut self, limits: ShardLimits) {
        self.limits = limits;
    }

    /// Asks again what holds for at most `topics` of the topics known here, from the place `from` on. Returns where to go on,
    /// unless that was all. `age` says how long a topic has been silent; it is asked for topics that can be stale from now
    /// on.
    pub fn review_some(
        &mut self,
        from: usize,
        topics: usize,
        now: Instant,
        age: impl Fn(&Topic) -> Option<Duration>,
    ) -> Option<usize> {
        let to = from.saturating_add(topics);
        for index in from..to.min(self.places()) {
            if self.topics.contains(index) {
                self.review_at(index, now, &age);
            }
        }
        (to < self.places()).then_some(to)
    }

    /// The same for one topic: before somebody is told what holds for it.
    pub fn review(&mut self, topic: &Topic, now: Instant, age: impl Fn(&Topic) -> Option<Duration>) {
        if let Some(&index) = self.by_name.get(topic) {
            self.review_at(index as usize, now, &age);
        }
    }

    fn review_at(&mut self, index: usize, now: Instant, age: &impl Fn(&Topic) -> Option<Duration>) {
        let known = &mut self.topics[index];
        let settings = (self.settings)(&known.name);
        self.reload = self.reload.max(settings.reload);
        let before = std::mem::replace(&mut known.settings, settings);
        if settings.policy != before.policy && settings.policy == SlowPolicy::Conflate {
            known.conflates_since = settings.reload;
        }
        if settings.stale_after != before.stale_after {
            let age = if known.last_at.is_none() { age(&known.name) } else { None };
            self.change_stale_after(index as u32, age, now);
        }
    }

    /// Past the last place of a topic.
    fn places(&self) -> usize {
        self.topics.iter().next_back().map_or(0, |(index, _)| index + 1)
    }

    // === helpers ===

    pub(crate) fn subscriber(&self, id: SubscriberId) -> Option<&Subscriber> {
        self.subscribers.get(id.slot as usize).filter(|subscriber| subscriber.generation == id.generation)
    }

    fn with_outbox<R>(&mut self, id: SubscriberId, change: impl FnOnce(&mut Outbox) -> R) -> Option<R> {
        self.subscriber(id)?;
        let subscriber = self.subscribers.get_mut(id.slot as usize)?;
        let before = subscriber.waiting_bytes();
        let result = change(&mut subscriber.outbox);
        self.outboxes.change(before, subscriber.waiting_bytes());
        Some(result)
    }

    /// The topic, if somebody here wants it.
    pub(crate) fn known(&mut self, topic: &Topic) -> Option<u32> {
        if let Some(known) = self.by_name.get(topic) {
            return Some(*known);
        }
        // It is new here, or has just lost its last subscriber.
        let mut wanted = false;
        self.patterns.patterns_of(topic, |_| wanted = true);
        let known = wanted.then(|| self.know(topic))?;
        // Whoever was told of it may have been told of another policy, but for a topic that is born: see `plan`.
        let topic = &mut self.topics[known as usize];
        topic.conflates_since = topic.settings.reload;
        Some(known)
    }

    fn know(&mut self, topic: &Topic) -> u32 {
        if let Some(known) = self.by_name.get(topic) {
            return *known;
        }
        let settings = (self.settings)(topic);
        self.reload = self.reload.max(settings.reload);
        let mut known = KnownTopic::new(topic.clone(), settings);
        self.patterns.patterns_of(topic, |audience| known.patterns.push(*audience));
        let known = self.topics.insert(known) as u32;
        self.by_name.insert(topic.clone(), known);
        known
    }

    /// Where the topic's messages begin for a subscriber that a pattern brings them.
    fn joining_start(&self, id: SubscriberId, topic: &Topic) -> u64 {
        let joining = self.subscriber(id).and_then(|subscriber| subscriber.joining.as_ref());
        joining.and_then(|joining| joining.starts.get(topic)).copied().unwrap_or_default()
    }

    /// The topics that the subscriber is tied to by name, and where they begin for it.
    fn starts_by_name(&self, id: SubscriberId) -> impl Iterator<Item = (Topic, u64)> {
        self.subscriber(id).into_iter().flat_map(|subscriber| {
            subscriber.subscriptions.iter().filter_map(|tie| {
                let audience = &self.audiences[tie.audience as usize];
                let Name::Topic(topic) = &audience.name else { return None };
                let listed = audience.lists[subscriber.format.index()][tie.place as usize];
                Some((topic.clone(), listed.start))
            })
        })
    }

    fn new_pattern(&mut self, pattern: &Pattern) -> u32 {
        let audience = self.audiences.insert(Audience::new(Name::Pattern(pattern.clone()))) as u32;
        self.patterns.get_or_insert_with(pattern.as_str(), || audience);
        for (_, topic) in self.topics.iter_mut().filter(|(_, topic)| pattern.matches(&topic.name)) {
            topic.patterns.push(audience);
        }
        audience
    }

    fn tie(&mut self, id: SubscriberId, audience: u32, wish: Wish, start: u64) {
        let Some(subscriber) = self.subscribers.get_mut(id.slot as usize) else { return };
        let listed = Listed { slot: id.slot, wish, since: self.reload, start };
        let place = self.audiences[audience as usize].add(subscriber.format, listed);
        subscriber.subscriptions.push(Subscription { audience, place });
    }

    fn untie(&mut self, id: SubscriberId, left: &mut Vec<Left>) {
        let Some(subscriber) = self.subscribers.get_mut(id.slot as usize) else { return };
        let format = subscriber.format;
        for subscription in std::mem::take(&mut subscriber.subscriptions) {
            left.push(self.unlist(subscription, format));
        }
    }

    /// Takes a subscriber out of a list.
    fn unlist(&mut self, subscription: Subscription, format: FormatId) -> Left {
        let Subscription { audience, place } = subscription;
        let listeners = &mut self.audiences[audience as usize];
        if let Some(moved) = listeners.remove(format, place) {
            replace(&mut self.subscribers, moved, audience, place);
        }
        let left = Left { name: listeners.name.clone(), last: listeners.live == 0 };
        self.forget_if_over(audience);
        left
    }

    /// A pass has walked an audience's lists.
    pub(crate) fn end_walk(&mut self, audience: u32) {
        let subscribers = &mut self.subscribers;
        self.audiences[audience as usize].end_walk(|slot, place| replace(subscribers, slot, audience, place));
        self.forget_if_over(audience);
    }

    fn forget_if_over(&mut self, audience: u32) {
        if !self.audiences[audience as usize].is_over() {
            return;
        }
        match self.audiences.remove(audience as usize).name {
            Name::Topic(topic) => {
                if let Some(&known) = self.by_name.get(&topic) {
                    self.topics[known as usize].direct = None;
                    self.forget_if_unwanted(known);
                }
            }
            Name::Pattern(pattern) => {
                self.patterns.remove(pattern.as_str());
                let matching = self.topics.iter_mut().filter(|(_, topic)| topic.patterns.contains(&audience));
                let mut matched = Vec::new();
                for (index, topic) in matching {
                    topic.patterns.retain(|known| *known != audience);
                    matched.push(index as u32);
                }
                matched.into_iter().for_each(|known| self.forget_if_unwanted(known));
            }
        }
    }

    pub(crate) fn forget_if_unwanted(&mut self, known: u32) {
        let topic = &self.topics[known as usize];
        if topic.direct.is_none() && topic.patterns.is_empty() && !topic.in_pass {
            let topic = self.topics.remove(known as usize);
            self.by_name.remove(&topic.name);
        }
    }

    /// Forgets where subscribers of patterns began: the passes for which that mattered are over.
    pub(crate) fn forget_joining(&mut self) {
        let passes = self.passes;
        let mut joiners = std::mem::take(&mut self.joiners);
        joiners.retain(|id| {
            if self.subscriber(*id).is_none() {
                return false;
            }
            let Some(subscriber) = self.subscribers.get_mut(id.slot as usize) else { return false };
            subscriber.joining.take_if(|joining| joining.pass < passes);
            subscriber.joining.is_some()
        });
        self.joiners = joiners;
    }
}

/// Tells a subscriber that it stands at another place of an audience's list.
fn replace(subscribers: &mut Slab<Subscriber>, slot: u32, audience: u32, place: u32) {
    let Some(subscriber) = subscribers.get_mut(slot as usize) else { return };
    if let Some(subscription) = subscriber.subscriptions.iter_mut().find(|tie| tie.audience == audience) {
        subscription.place = place;
    }
}

#[cfg(test)]
mod tests;
