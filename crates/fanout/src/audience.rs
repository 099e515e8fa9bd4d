//! Who listens: the subscribers of one topic, or of one pattern, by wire format.
//!
//! A pass walks the lists by index. While it does, leavers become tombstones and newcomers stand behind the end that the
//! list had when the pass began.

use fanfare_wire::{FORMATS, FormatId, Name};

use crate::known_topic::KnownTopic;
use crate::slow_consumer::SlowPolicy;

#[derive(Debug)]
pub(crate) struct Audience {
    pub(crate) name: Name,
    pub(crate) lists: [Vec<Listed>; FORMATS.len()],
    /// How many stand in the lists, tombstones not counted.
    pub(crate) live: usize,
    /// Where the next pass begins in its lists.
    rotation: usize,
    /// How often a pass under way walks the lists: once per topic.
    pub(crate) walks: u32,
    tombstones: bool,
}

/// A subscriber in a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    pub(crate) slot: u32,
    pub(crate) wish: Wish,
    /// The last reload of which the shard knew when it came.
    pub(crate) since: u16,
    /// Messages up to this offset are not for it: it came after them, or got them as replay.
    pub(crate) start: u64,
}

impl Listed {
    /// What holds for it of a topic. Who was not told that the topic conflates is told of each loss, however that changed:
    /// it gets `DropOldest` in place of `Conflate`.
    #[inline]
    pub(crate) fn policy(&self, topic: &KnownTopic) -> SlowPolicy {
        match self.wish.policy(topic.settings.policy) {
            SlowPolicy::Conflate if self.wish == Wish::AsTopic && topic.conflates_only_after(self.since) => {
                SlowPolicy::DropOldest
            }
            policy => policy,
        }
    }
}

/// What a subscriber asked for, against what its topics say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wish {
    /// The topic's policy.
    #[default]
    AsTopic,
    /// Every message, or a gap, or the end.
    Queue,
    /// The newest of each key, when it is slow.
    Latest,
    /// The newest of each key, at most so often.
    Paced,
}

impl Wish {
    /// What holds for a subscriber with this wish, of a topic with that policy.
    pub fn policy(self, topic: SlowPolicy) -> SlowPolicy {
        match (self, topic) {
            (Self::AsTopic, topic) => topic,
            (Self::Queue, SlowPolicy::Conflate) => SlowPolicy::Disconnect,
            (Self::Queue, topic) => topic,
            (Self::Latest | Self::Paced, _) => SlowPolicy::Conflate,
        }
    }
}

const TOMBSTONE: u32 = u32::MAX;

impl Audience {
    pub(crate) fn new(name: Name) -> Self {
        Self { name, lists: Default::default(), live: 0, rotation: 0, walks: 0, tombstones: false }
    }

    /// Adds a subscriber; returns its place.
    pub(crate) fn add(&mut self, format: FormatId, listed: Listed) -> u32 {
        let list = &mut self.lists[format.index()];
        self.live += 1;
        list.push(listed);
        list.len() as u32 - 1
    }

    /// Takes a subscriber out. Returns the slot of the one that stands in its place now.
    pub(crate) fn remove(&mut self, format: FormatId, place: u32) -> Option<u32> {
        self.live -= 1;
        let list = &mut self.lists[format.index()];
        if self.walks > 0 {
            list[place as usize].slot = TOMBSTONE;
            self.tombstones = true;
            return None;
        }
        list.swap_remove(place as usize);
        list.get(place as usize).map(|moved| moved.slot)
    }

    /// A pass will walk the lists. Returns where it begins; it is to be taken modulo a list's length.
    pub(crate) fn begin_walk(&mut self) -> usize {
        self.walks += 1;
        self.rotation = self.rotation.wrapping_add(1);
        // A stride coprime to most lengths: successive passes begin far apart.
        self.rotation.wrapping_mul(7919)
    }

    /// A pass has walked the lists. After the last walk the tombstones go: `moved` hears each slot's place.
    pub(crate) fn end_walk(&mut self, mut moved: impl FnMut(u32, u32)) {
        self.walks -= 1;
        if self.walks > 0 || !std::mem::take(&mut self.tombstones) {
            return;
        }
        for list in &mut self.lists {
            list.retain(|listed| listed.slot != TOMBSTONE);
            for (place, listed) in list.iter().enumerate() {
                moved(listed.slot, place as u32);
            }
        }
    }

    /// Whether nobody listens and no pass walks the lists.
    pub(crate) fn is_over(&self) -> bool {
        self.live == 0 && self.walks == 0
    }
}
