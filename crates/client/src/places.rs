//! How far a subscription has come in each of its topics, over all its connections: what is a repeat, what is a hole,
//! and from where to go on.
//!
//! ```text
//!   acknowledgement, `topic` event ──► new: from where it says · kept: from where it was · lost: Reset, and anew
//!   message, gap ──► repeat: nothing · hole: Gap · else: one step on
//!   reconnect ◄── place, positions
//! ```
//!
//! # Bounds       `topics_max` topics; of one more the messages pass without being kept track of
//! # Invariants   messages of a tracked topic and epoch leave in strictly increasing order

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{Event, Message, UNANNOUNCED};
use crate::frame::{self, Acknowledged};
use crate::pattern::covers;
use crate::topic_request::{Place, Start, TopicRequest};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Places {
    topics: HashMap<String, Known>,
    topics_max: usize,
    /// Whether a topic was not kept.
    overflowed: bool,
    /// Counts connections.
    connection: u64,
    /// The last connection after which topics that the server no longer knows were let go.
    swept: u64,
    /// Counts messages.
    clock: u64,
}

/// What is known of one topic.
#[derive(Debug)]
struct Known {
    epoch: Arc<str>,
    /// The last message that was handed on or announced as lost. `None`: nothing yet, and the first may have any offset.
    seen: Option<u64>,
    /// Where to go on if nothing was seen yet. `None`: ask afresh.
    begin: Option<u64>,
    /// Offsets are known to be dense but for announced gaps.
    dense: bool,
    /// The connection that last told its epoch.
    told: u64,
    /// When it last had a message.
    used: u64,
}

impl Known {
    fn offset(&self) -> Option<u64> {
        self.seen.or(self.begin)
    }

    fn place(&self) -> Option<Place> {
        Some(Place { epoch: Arc::clone(&self.epoch), offset: self.offset()? })
    }
}

/// What the server says of where a topic stands.
struct Standing<'a> {
    epoch: &'a str,
    offset: u64,
    recovered: Option<bool>,
    /// How many messages of replay follow; a `topic` event does not say.
    replay: Option<u64>,
    begin: Option<u64>,
    dense: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Continuity {
    New,
    Kept,
    Lost,
}

impl Places {
    pub(crate) fn new(topics_max: usize) -> Self {
        Self { topics: HashMap::new(), topics_max, overflowed: false, connection: 0, swept: 0, clock: 0 }
    }

    pub(crate) fn limit(&mut self, topics_max: usize) {
        self.topics_max = topics_max;
    }

    /// What is told from now on comes from another connection.
    pub(crate) fn reconnected(&mut self) {
        self.connection += 1;
    }

    /// An earlier run has come so far.
    pub(crate) fn resume(&mut self, topic: &str, place: &Place) {
        let known = Known {
            epoch: Arc::clone(&place.epoch),
            seen: Some(place.offset),
            begin: None,
            dense: false,
            told: 0,
            used: 0,
        };
        self.insert(topic, known);
    }

    /// The acknowledgement of a topic by name.
    pub(crate) fn acknowledged(&mut self, request: &TopicRequest, answer: &Acknowledged) -> Option<Event> {
        let (Some(epoch), Some(offset)) = (&answer.epoch, answer.offset) else { return None };
        let standing = Standing {
            epoch,
            offset,
            recovered: answer.recovered,
            replay: Some(answer.replay),
            begin: Some(offset.saturating_sub(answer.replay)),
            dense: announces_gaps(answer.policy.as_deref()) && !request.conflates(),
        };
        match self.stand(&request.topic, &standing) {
            Continuity::Lost => Some(reset(&request.topic, self.epoch(&request.topic, epoch), offset)),
            Continuity::New | Continuity::Kept => None,
        }
    }

    /// A `topic` event: a wildcard covers the topic. Its replay began at `start`.
    pub(crate) fn announced(
        &mut self,
        topic: String,
        epoch: &str,
        offset: u64,
        recovered: Option<bool>,
        start: Start,
        dense: bool,
    ) -> Option<Event> {
        let begin = match start {
            // All that it has had is still to come.
            _ if offset == 0 => Some(0),
            Start::Live => Some(offset),
            Start::Last => Some(offset - 1),
            Start::Earliest => None,
        };
        // Whether the topic keeps a last value is not said here: only where that makes no difference, a hole is one.
        let dense = dense && (offset == 0 || start == Start::Live || recovered == Some(true));
        let standing = Standing { epoch, offset, recovered, replay: None, begin, dense };
        let continuity = self.stand(&topic, &standing);
        let epoch = self.epoch(&topic, epoch);
        match continuity {
            Continuity::New => Some(Event::Topic { topic, epoch, offset }),
            Continuity::Kept => None,
            Continuity::Lost => Some(reset(&topic, epoch, offset)),
        }
    }

    /// A message: what to tell instead of, or before, handing it on.
    pub(crate) fn message(&mut self, message: frame::Message) -> (Option<Event>, Option<Event>) {
        let frame::Message { topic, offset, event, data } = message;
        self.clock += 1;
        let Some(known) = self.topics.get_mut(&topic) else {
            let message = Message { topic, epoch: Arc::default(), offset, event, data };
            return (None, Some(Event::Message(message)));
        };
        if known.seen.is_some_and(|seen| offset <= seen) {
            return (None, None);
        }
        known.used = self.clock;
        let hole = known.hole(&topic, offset);
        known.seen = Some(offset);
        let epoch = Arc::clone(&known.epoch);
        (hole, Some(Event::Message(Message { topic, epoch, offset, event, data })))
    }

    /// An announced gap, and what was lost before it without a word.
    pub(crate) fn gap(
        &mut self,
        topic: String,
        epoch: &str,
        from: u64,
        to: u64,
        reason: String,
    ) -> (Option<Event>, Option<Event>) {
        let Some(known) = self.topics.get_mut(&topic) else {
            return (None, Some(Event::Gap { topic, epoch: epoch.into(), from, to, reason }));
        };
        if !epoch.is_empty() && *known.epoch != *epoch {
            return (None, Some(Event::Gap { topic, epoch: epoch.into(), from, to, reason }));
        }
        let from = known.seen.map_or(from, |seen| from.max(seen.saturating_add(1)));
        if to < from {
            return (None, None);
        }
        let hole = known.hole(&topic, from);
        known.seen = Some(to);
        (hole, Some(Event::Gap { topic, epoch: Arc::clone(&known.epoch), from, to, reason }))
    }

    pub(crate) fn is_known(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// Where to go on in a topic.
    pub(crate) fn place(&self, topic: &str) -> Option<Place> {
        self.topics.get(topic)?.place()
    }

    /// All places, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, Place)> {
        self.topics.iter().filter_map(|(topic, known)| Some((topic.as_str(), known.place()?)))
    }

    /// Where to go on in the topics of a wildcard, those that spoke last first.
    pub(crate) fn positions(&self, pattern: &str) -> Vec<(String, Place)> {
        let covered = self.topics.iter().filter(|(topic, _)| covers(pattern, topic));
        let mut covered: Vec<_> =
            covered.filter_map(|(topic, known)| Some((topic, known, known.place()?))).collect();
        covered.sort_unstable_by(|(a_topic, a, _), (b_topic, b, _)| {
            b.used.cmp(&a.used).then_with(|| a_topic.cmp(b_topic))
        });
        covered.into_iter().map(|(topic, _, place)| (topic.clone(), place)).collect()
    }

    /// Whether every topic that was told of is kept.
    pub(crate) fn is_complete(&self) -> bool {
        !self.overflowed
    }

    pub(crate) fn forget(&mut self, is_left: impl Fn(&str) -> bool) {
        self.topics.retain(|topic, _| !is_left(topic));
    }

    fn stand(&mut self, topic: &str, standing: &Standing<'_>) -> Continuity {
        let connection = self.connection;
        let continuity = match self.topics.get(topic) {
            Some(known) => known.continuity(standing, connection),
            None => Continuity::New,
        };
        match self.topics.get_mut(topic) {
            Some(known) if continuity == Continuity::Kept => {
                // Told twice on one connection, by name and by wildcard: what the name said is more.
                known.dense = standing.dense || (known.told == connection && known.dense);
                known.told = connection;
            }
            _ => {
                let known = Known {
                    epoch: standing.epoch.into(),
                    seen: None,
                    begin: standing.begin,
                    dense: standing.dense,
                    told: connection,
                    used: self.clock,
                };
                self.insert(topic, known);
            }
        }
        continuity
    }

    fn insert(&mut self, topic: &str, known: Known) {
        if let Some(slot) = self.topics.get_mut(topic) {
            *slot = known;
            return;
        }
        if self.topics.len() >= self.topics_max && self.swept < self.connection {
            // What this connection was not told of, the server has forgotten; or it will be told as new.
            self.swept = self.connection;
            self.topics.retain(|_, known| known.told == self.connection);
        }
        if self.topics.len() >= self.topics_max {
            self.overflowed = true;
            return;
        }
        self.topics.insert(topic.to_owned(), known);
    }

    /// The topic's own copy of `epoch`.
    fn epoch(&self, topic: &str, epoch: &str) -> Arc<str> {
        self.topics.get(topic).map_or_else(|| epoch.into(), |known| Arc::clone(&known.epoch))
    }
}

impl Known {
    fn continuity(&self, standing: &Standing<'_>, connection: u64) -> Continuity {
        let Standing { epoch, offset, recovered, replay, .. } = *standing;
        if *self.epoch != *epoch {
            return Continuity::Lost;
        }
        if self.told == connection {
            return Continuity::Kept;
        }
        let Some(place) = self.offset() else { return Continuity::New };
        match (recovered, replay) {
            (Some(true), _) => Continuity::Kept,
            (Some(false), _) => Continuity::Lost,
            // Its place was not named, or not answered: nothing is missing if nothing came, or if the replay reaches back.
            (None, _) if place == offset => Continuity::Kept,
            (None, Some(replay)) if place < offset && offset - replay.min(offset) <= place => {
                Continuity::Kept
            }
            (None, _) => Continuity::Lost,
        }
    }

    /// What is missing before `offset`, if that can be known.
    fn hole(&self, topic: &str, offset: u64) -> Option<Event> {
        let last = self.offset().filter(|last| self.dense && offset > last.saturating_add(1))?;
        Some(Event::Gap {
            topic: topic.to_owned(),
            epoch: Arc::clone(&self.epoch),
            from: last + 1,
            to: offset - 1,
            reason: UNANNOUNCED.to_owned(),
        })
    }
}

/// Whether a topic of this policy says what is missing.
pub(crate) fn announces_gaps(policy: Option<&str>) -> bool {
    matches!(policy, None | Some("queue" | "drop-oldest" | "disconnect"))
}

fn reset(topic: &str, epoch: Arc<str>, offset: u64) -> Event {
    Event::Reset { topic: topic.to_owned(), epoch, offset }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use fastrand::Rng;

    use super::*;
    use crate::frame::Data;

    /// A server's topic: dense offsets, the newest of them kept.
    struct Topic {
        epoch: String,
        offset: u64,
        kept: u64,
    }

    /// What a subscriber was told of one topic since its last reset.
    #[derive(Default)]
    struct Told {
        epoch: String,
        offset: Option<u64>,
        /// Anything between offsets must have been told as a gap.
        is_dense: bool,
    }

    impl Told {
        fn step(&mut self, topic: &str, event: &Event) {
            match event {
                Event::Message(Message { epoch, offset, .. }) => {
                    assert_eq!(**epoch, *self.epoch, "{topic}");
                    let last = self.offset.replace(*offset);
                    assert!(last.is_none_or(|last| *offset > last), "{topic}: {offset} after {last:?}");
                    let is_next = last.is_none_or(|last| *offset == last + 1);
                    assert!(is_next || !self.is_dense, "{topic}: {last:?}, and without a word {offset}");
                }
                Event::Gap { from, to, .. } => {
                    let last = self.offset.replace(*to);
                    assert!(
                        last.is_none_or(|last| *from == last + 1),
                        "{topic}: {from} to {to} after {last:?}"
                    );
                }
                Event::Reset { epoch, .. } | Event::Topic { epoch, .. } => {
                    (self.epoch, self.offset) = (epoch.to_string(), None);
                }
                _ => {}
            }
        }
    }

    fn message(topic: &str, offset: u64) -> frame::Message {
        let data = Data::Json(Bytes::from_static(b"1"));
        frame::Message { topic: topic.to_owned(), offset, event: None, data }
    }

    /// Two topics by name, one of them conflating; four by wildcard. Connections are cut anywhere, the server loses what
    /// it kept and now and then forgets everything, repeats a little, and drops messages with and without a gap.
    fn run(seed: u64) {
        let mut random = Rng::with_seed(seed);
        let names = ["dense", "conflated", "w.a", "w.b", "w.c", "w.d"];
        let mut server: BTreeMap<&str, Topic> = BTreeMap::new();
        let mut told: BTreeMap<&str, Told> = BTreeMap::new();
        for name in names {
            told.entry(name).or_default().is_dense = name != "conflated";
        }
        let mut places = Places::new(100);
        let mut epochs = 0;

        for connection in 0..20 {
            if random.u8(..) < 40 {
                server.clear();
            }
            // Published while nobody was connected.
            for name in names {
                if random.bool() {
                    epochs += 1;
                    let fresh = Topic { epoch: format!("e{epochs}"), offset: 0, kept: 0 };
                    let topic = server.entry(name).or_insert(fresh);
                    let count = random.u64(0..6);
                    (topic.offset, topic.kept) = (topic.offset + count, (topic.kept + count).min(10));
                }
            }
            places.reconnected();
            let mut frames: Vec<(&str, u64)> = Vec::new();
            for name in names {
                let is_named = !name.starts_with("w.");
                if is_named {
                    epochs += 1;
                    let fresh = Topic { epoch: format!("e{epochs}"), offset: 0, kept: 0 };
                    server.entry(name).or_insert(fresh);
                }
                let Some(topic) = server.get(name) else { continue };
                let place = places.place(name);
                let reaches = |place: &Place| {
                    *place.epoch == *topic.epoch
                        && place.offset <= topic.offset
                        && place.offset + topic.kept >= topic.offset
                };
                let recovered = place.as_ref().map(&reaches);
                let first = match &place {
                    Some(place) if reaches(place) => place.offset + 1,
                    // Younger than the first connection: whole.
                    None if connection > 0 && !is_named => topic.offset + 1 - topic.kept,
                    _ => topic.offset.max(1),
                };
                let event = if is_named {
                    let answer = Acknowledged {
                        epoch: Some(topic.epoch.clone()),
                        offset: Some(topic.offset),
                        replay: (first..=topic.offset).count() as u64,
                        recovered,
                        policy: (name == "conflated").then(|| "conflate".to_owned()),
                        matched: None,
                    };
                    let told = told.entry(name).or_default();
                    if place.is_none() {
                        (told.epoch, told.offset) = (topic.epoch.clone(), None);
                    }
                    places.acknowledged(&name.into(), &answer)
                } else {
                    let start = if connection > 0 { Start::Earliest } else { Start::Last };
                    places.announced(name.to_owned(), &topic.epoch, topic.offset, recovered, start, false)
                };
                event.iter().for_each(|event| told.entry(name).or_default().step(name, event));
                // Without a place to name, a topic that was announced and nothing of which came may be another now.
                if let Some(recovered) = recovered {
                    assert_eq!(matches!(event, Some(Event::Reset { .. })), !recovered, "{name}");
                }
                let repeats = if recovered == Some(true) { random.u64(0..3) } else { 0 };
                frames.extend(
                    (first.saturating_sub(repeats).max(1)..=topic.offset).map(|offset| (name, offset)),
                );
            }
            // What is live comes after the replay of its topic, in any order with the others'.
            for _ in 0..random.usize(0..30) {
                let name = names[random.usize(..names.len())];
                let Some(topic) = server.get_mut(name) else { continue };
                (topic.offset, topic.kept) = (topic.offset + 1, (topic.kept + 1).min(10));
                frames.push((name, topic.offset));
            }
            let cut_at = random.usize(..=frames.len());
            let mut lost: Option<(&str, u64)> = None;
            for (name, offset) in frames.into_iter().take(cut_at) {
                let seen = places.topics[name].seen;
                if name == "dense" && seen.is_some() && random.u8(..) < 20 {
                    // With a word about it before the next, or without.
                    lost = lost.or(Some((name, offset)));
                    continue;
                }
                let mut events = Vec::new();
                if let Some((_, from)) = lost.take_if(|lost| lost.0 == name && random.bool()) {
                    let epoch = server[name].epoch.clone();
                    let (hole, gap) =
                        places.gap(name.to_owned(), &epoch, from, offset - 1, "slow".to_owned());
                    events.extend([hole, gap]);
                }
                let (hole, message) = places.message(message(name, offset));
                events.extend([hole, message]);
                let told = told.entry(name).or_default();
                events.iter().flatten().for_each(|event| told.step(name, event));
                lost = lost.filter(|lost| lost.0 != name);
            }
        }
    }

    #[test]
    fn whatever_happens_a_message_comes_once_in_order_or_is_told_as_lost() {
        let given = std::env::var("FANFARE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seeds = given.map_or(0..500, |seed| seed..seed + 1);
        for seed in seeds {
            std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| panic!("FANFARE_SEED={seed}"));
        }
    }

    #[test]
    fn what_the_server_has_forgotten_makes_room() {
        let mut places = Places::new(2);
        let announce = |places: &mut Places, topic: &str| {
            places
                .announced(topic.to_owned(), "k3x9", 0, None, Start::Last, false)
                .map(|_| places.is_known(topic))
        };
        places.reconnected();
        assert_eq!(announce(&mut places, "a"), Some(true));
        assert_eq!(announce(&mut places, "b"), Some(true));
        assert_eq!(announce(&mut places, "c"), Some(false));
        assert!(!places.is_complete());
        places.reconnected();
        assert_eq!(announce(&mut places, "b"), None, "it goes on");
        assert_eq!(announce(&mut places, "c"), Some(true), "in the place of a");
    }

    #[test]
    fn what_spoke_last_is_named_first() {
        let mut places = Places::new(10);
        places.reconnected();
        for topic in ["a.1", "a.2", "a.3", "b.1"] {
            places.announced(topic.to_owned(), "k3x9", 0, None, Start::Last, false);
        }
        for topic in ["a.2", "b.1", "a.3"] {
            places.message(message(topic, 1));
        }
        let names: Vec<String> = places.positions("a.*").into_iter().map(|(topic, _)| topic).collect();
        assert_eq!(names, ["a.3", "a.2", "a.1"]);
    }
}
