//! The topics of the process as one worker sees them: offsets, what was published, interest, and the worker's inbox.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_fanout::{SlowPolicy, TopicSettings, Wish};
use fanfare_wire::{Draft, Epoch, FormatId, Kind, Message, Name, Pattern, Position, Topic};

use super::Random;

const NAMES: [&str; 6] = ["a.0", "a.1", "b.0", "b.1", "b.1.x", "c"];
/// Some overlap, and `>` covers all.
const PATTERNS: [&str; 5] = ["a.*", "*.0", "b.>", ">", "*.*"];
/// The longest mark in front of a batch.
const MARK_BYTES: usize = 64;

/// What a client is tied to, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum On {
    Topic(usize),
    Pattern(usize),
}

/// A subscription.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tie {
    pub(crate) on: On,
    pub(crate) wish: Wish,
    /// Of paced ones.
    pub(crate) interval: Duration,
    /// The last reload before it.
    pub(crate) reload: u16,
}

/// The topics and the inbox.
pub(crate) struct Topics {
    list: Vec<Counted>,
    patterns: Vec<Pattern>,
    /// Which of them somebody here wants.
    wanted: [bool; PATTERNS.len()],
    inbox: Vec<Arc<Message>>,
    /// Reloads so far.
    pub(crate) reload: u16,
    /// Messages of the node so far.
    pub(crate) sequence: u64,
    /// The most that a subscriber got of one topic at once, and of one message.
    pub(crate) group_bytes_max: usize,
    pub(crate) group_messages_max: usize,
    pub(crate) message_bytes_max: usize,
    /// A sweep may have forgotten which topics are stale.
    pub(crate) swept: bool,
    /// Outboxes were shed.
    pub(crate) shed: bool,
}

/// One topic.
struct Counted {
    name: Topic,
    settings: TopicSettings,
    /// Every policy there was, and the reload it came by.
    policies: Vec<(u16, SlowPolicy)>,
    keyed: bool,
    epoch: Epoch,
    interest: bool,
    messages: Vec<Arc<Message>>,
    spoke_at: Option<Instant>,
    /// The last offset that a pass began with, and the last that a finished pass had.
    begun: u64,
    done: u64,
}

impl Topics {
    pub(crate) fn new(random: &mut Random, conflate: bool, stale: bool) -> Self {
        let policies = policies(conflate);
        let count = 1 + random.below(NAMES.len());
        let list = NAMES[..count].iter().zip(0..).map(|(name, epoch)| Counted {
            name: Topic::new(name).expect("a valid name"),
            settings: TopicSettings {
                policy: random.pick(policies),
                stale_after: random
                    .pick(&[None, Some(50), Some(300)])
                    .filter(|_| stale)
                    .map(Duration::from_millis),
                reload: 0,
            },
            policies: Vec::new(),
            keyed: random.chance(60),
            epoch: Epoch::new(epoch),
            interest: false,
            messages: Vec::new(),
            spoke_at: None,
            begun: 0,
            done: 0,
        });
        let mut list: Vec<_> = list.collect();
        list.iter_mut().for_each(|topic| topic.policies.push((0, topic.settings.policy)));
        Self {
            list,
            reload: 0,
            patterns: PATTERNS.map(|pattern| Pattern::new(pattern).expect("a valid pattern")).to_vec(),
            wanted: Default::default(),
            inbox: Vec::new(),
            sequence: 0,
            group_bytes_max: 0,
            group_messages_max: 0,
            message_bytes_max: 0,
            swept: false,
            shed: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn patterns(&self) -> usize {
        self.patterns.len()
    }

    pub(crate) fn name(&self, topic: usize) -> &Topic {
        &self.list[topic].name
    }

    pub(crate) fn pattern(&self, pattern: usize) -> &Pattern {
        &self.patterns[pattern]
    }

    pub(crate) fn name_of(&self, on: On) -> Name {
        match on {
            On::Topic(topic) => Name::Topic(self.name(topic).clone()),
            On::Pattern(pattern) => Name::Pattern(self.pattern(pattern).clone()),
        }
    }

    pub(crate) fn covers(&self, on: On, topic: usize) -> bool {
        match on {
            On::Topic(known) => known == topic,
            On::Pattern(pattern) => self.pattern(pattern).matches(self.name(topic)),
        }
    }

    /// The tie by which a topic comes: the oldest of those that cover it.
    pub(crate) fn effective<'a>(&self, ties: &'a [Tie], topic: usize) -> Option<&'a Tie> {
        ties.iter().find(|tie| self.covers(tie.on, topic))
    }

    /// What holds now for a subscriber with this tie.
    pub(crate) fn policy(&self, tie: &Tie, topic: usize) -> SlowPolicy {
        self.policies(tie, topic).last().expect("there is one from the beginning")
    }

    /// What held for it since it was made, one after the other: what waits may have entered under any. It conflates only from
    /// the beginning, when that was told.
    pub(crate) fn policies(&self, tie: &Tie, topic: usize) -> impl Iterator<Item = SlowPolicy> {
        let policies = &self.list[topic].policies;
        let first = policies.iter().rposition(|(reload, _)| *reload <= tie.reload).unwrap_or_default();
        policies[first..].iter().map(|(reload, policy)| match tie.wish.policy(*policy) {
            SlowPolicy::Conflate if tie.wish == Wish::AsTopic && *reload > tie.reload => {
                SlowPolicy::DropOldest
            }
            policy => policy,
        })
    }

    /// Other policies. Returns what holds then, by the topics' names.
    pub(crate) fn change_policies(
        &mut self,
        random: &mut Random,
        conflate: bool,
    ) -> BTreeMap<String, TopicSettings> {
        self.reload += 1;
        for topic in &mut self.list {
            topic.settings.reload = self.reload;
            let policy = random.pick(policies(conflate));
            if policy != topic.settings.policy {
                topic.settings.policy = policy;
                topic.policies.push((self.reload, policy));
            }
        }
        self.all_settings()
    }

    pub(crate) fn all_settings(&self) -> BTreeMap<String, TopicSettings> {
        self.list.iter().map(|topic| (topic.name.as_str().to_owned(), topic.settings)).collect()
    }

    pub(crate) fn settings(&self, topic: usize) -> TopicSettings {
        self.list[topic].settings
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

    /// What stands for that name here.
    pub(crate) fn find_name(&self, name: &Name) -> On {
        match name {
            Name::Topic(topic) => On::Topic(self.find(topic.as_str())),
            Name::Pattern(pattern) => {
                let place = PATTERNS.iter().position(|known| *known == pattern.as_str());
                On::Pattern(place.expect("no other pattern was asked for"))
            }
        }
    }

    /// Publishes one message. It begins with its place, so that a reader can tell where it belongs.
    pub(crate) fn publish(&mut self, topic: usize, filler: usize, key: usize, now: Instant) {
        self.sequence += 1;
        let counted = &mut self.list[topic];
        let offset = counted.messages.len() as u64 + 1;
        let payload = format!("{}:{offset}:{}", counted.name, "x".repeat(filler));
        let mut draft = Draft::new(counted.name.clone(), Kind::Text, payload.as_bytes());
        draft.deflate = true;
        draft.key = (counted.keyed && key > 0).then(|| format!("k{key}").into());
        let position = Position { epoch: counted.epoch, offset };
        let message = Arc::new(Message::new(draft, position, self.sequence));
        counted.messages.push(Arc::clone(&message));
        counted.spoke_at = Some(now);
        // It may also come as a replay, outside any pass.
        let bytes = frame_bytes(&message);
        self.message_bytes_max = self.message_bytes_max.max(bytes);
        self.group_bytes_max = self.group_bytes_max.max(bytes);
        if self.has_interest(topic) {
            self.inbox.push(message);
        }
    }

    pub(crate) fn message(&self, topic: usize, offset: u64) -> &Message {
        &self.list[topic].messages[offset as usize - 1]
    }

    /// The newest messages, oldest of them first.
    pub(crate) fn newest(&self, topic: usize, count: usize) -> Vec<Arc<Message>> {
        let messages = &self.list[topic].messages;
        messages[messages.len() - count..].to_vec()
    }

    /// How long ago it spoke.
    pub(crate) fn age(&self, topic: usize, now: Instant) -> Option<Duration> {
        self.list[topic].spoke_at.map(|at| now - at)
    }

    /// The last offset.
    pub(crate) fn last(&self, topic: usize) -> u64 {
        self.list[topic].messages.len() as u64
    }

    // === interest ===

    pub(crate) fn join(&mut self, on: On) {
        *self.interest(on) = true;
    }

    pub(crate) fn leave(&mut self, on: On) {
        let interest = std::mem::take(self.interest(on));
        assert!(interest, "interest in {on:?} was taken back already");
    }

    pub(crate) fn interest(&mut self, on: On) -> &mut bool {
        match on {
            On::Topic(topic) => &mut self.list[topic].interest,
            On::Pattern(pattern) => &mut self.wanted[pattern],
        }
    }

    fn has_interest(&self, topic: usize) -> bool {
        let mut wanted = (0..PATTERNS.len()).filter(|pattern| self.wanted[*pattern]);
        self.list[topic].interest || wanted.any(|pattern| self.covers(On::Pattern(pattern), topic))
    }

    // === passes ===

    pub(crate) fn inbox_is_empty(&self) -> bool {
        self.inbox.is_empty()
    }

    /// Empties the inbox for a pass.
    pub(crate) fn take_inbox(&mut self) -> Vec<Arc<Message>> {
        let messages = std::mem::take(&mut self.inbox);
        for counted in &mut self.list {
            let (mut count, mut bytes) = (0, MARK_BYTES);
            for message in messages.iter().filter(|message| *message.topic() == counted.name) {
                counted.begun = message.offset();
                count += 1;
                bytes += frame_bytes(message);
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

    /// Whether the pass under way has messages of the topic.
    pub(crate) fn is_in_pass(&self, topic: usize) -> bool {
        let (done, begun) = self.given(topic);
        done < begun
    }
}

fn policies(conflate: bool) -> &'static [SlowPolicy] {
    if conflate {
        &[SlowPolicy::Disconnect, SlowPolicy::DropOldest, SlowPolicy::Conflate, SlowPolicy::Conflate]
    } else {
        &[SlowPolicy::Disconnect, SlowPolicy::DropOldest]
    }
}

/// The longest frame of a message.
fn frame_bytes(message: &Message) -> usize {
    message.frame(FormatId::JSON).len().max(message.frame(FormatId::EVENTS).len())
}
