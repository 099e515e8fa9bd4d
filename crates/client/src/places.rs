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
        let announces_gaps =
            matches!(answer.policy.as_deref(), None | Some("queue" | "drop-oldest" | "disconnect"));
        let standing = Standing {
            epoch,
            offset,
            recovered: answer.recovered,
            replay: Some(answer.replay),
            begin: Some(offset.saturating_sub(answer.replay)),
            dense: announces_gaps && !request.conflates(),
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
    ) -> Option<Event> {
        let begin = match start {
            // All that it has had is still to come.
            _ if offset == 0 => Some(0),
            Start::Live => Some(offset),
            Start::Last => Some(offset - 1),
            Start::Earliest => None,
        };
        // Whether the topic conflates is not said here.
        let standing = Standing { epoch, offset, recovered, replay: None, begin, dense: false };
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

fn reset(topic: &str, epoch: Arc<str>, offset: u64) -> Event {
    Event::Reset { topic: topic.to_owned(), epoch, offset }
}
