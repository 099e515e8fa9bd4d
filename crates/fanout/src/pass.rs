//! One fan-out pass: what came out of the inbox, on its way to the sockets.
//!
//! A pass is carried out in steps, so that reads, pings and handshakes go on between them. While it is under way,
//! subscribers come and go: see [`audience`](crate::audience).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fanfare_wire::event::{Event, Status};
use fanfare_wire::{Epoch, FormatId, Message, Name};
use smallvec::{SmallVec, smallvec};

use crate::batch::{Batch, Batches};
use crate::outbox::Flushed;
use crate::replay;
use crate::shard::Shard;
use crate::sink::Sink;
use crate::slow_consumer::Eviction;
use crate::step::{Due, STEP_MAX, recycle};
use crate::subscriber::SubscriberId;
use crate::turn::{Newest, Turn};
use crate::visit::{Paid, Visit};

/// Whether a pass has more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Call again.
    More,
    /// All subscribers had their turn.
    Done,
}

/// What a step did, for the counters and for the caller to act on. It is reused from step to step.
#[derive(Debug, Default)]
pub struct Report {
    /// Messages that went out to a subscriber whole.
    pub deliveries: u64,
    /// Bytes that sockets took.
    pub bytes: u64,
    /// Calls of the sink.
    pub writes: u64,
    /// Messages dropped for slow subscribers, and announced to them.
    pub dropped: u64,
    /// Messages that a newer one of their key replaced, for slow subscribers of conflating topics.
    pub conflated: u64,
    /// Subscribers whose socket just began to refuse: the caller waits for writability and then flushes.
    pub blocked: Vec<SubscriberId>,
    /// Subscribers the shard gave up on: the caller closes them.
    pub evicted: Vec<(SubscriberId, Eviction)>,
    /// Polls for which there is something now.
    pub woken: Vec<SubscriberId>,
}

/// A pass under way. It must be carried to its end: its topics are kept from changing shape until then.
#[derive(Debug)]
#[must_use]
pub struct Pass {
    groups: Vec<Group>,
    cursor: Cursor,
    /// Subscribers whose frames wait in their outbox until the end of the pass, for one vectored write.
    gathered: Vec<SubscriberId>,
    number: u64,
    /// The sequence of the node up to which everything is delivered, or queued, when the pass is over.
    through: u64,
    at: Instant,
}

/// What a pass has of one topic.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) topic: u32,
    pub(crate) messages: Messages,
    /// For each format that a plan names.
    frames: SmallVec<[(FormatId, Frames); 1]>,
    pub(crate) plans: SmallVec<[Plan; 1]>,
    /// The audiences whose lists must keep their places.
    pub(crate) walked: SmallVec<[u32; 1]>,
}

/// A topic's messages in a pass. One is the rule.
type Messages = SmallVec<[Arc<Message>; 1]>;

/// A topic's messages in one format.
#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) batches: Batches,
    pub(crate) newest: Newest,
}

/// One list of subscribers.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) audience: u32,
    pub(crate) format: FormatId,
    /// Its subscribers came by a pattern.
    pub(crate) by_pattern: bool,
    /// The list's length when the pass began.
    pub(crate) len: usize,
    /// Whose turn is first: it moves from pass to pass, so that nobody is always last.
    pub(crate) first: usize,
    /// What they are told before the messages.
    pub(crate) notice: Option<Bytes>,
}

/// The next subscriber of a pass.
#[derive(Debug, Default)]
struct Cursor {
    group: usize,
    plan: usize,
    visited: usize,
    flushed: usize,
}

impl Group {
    /// Its messages in the format of one of its plans.
    pub(crate) fn frames(&self, format: FormatId) -> &Frames {
        let frames = self.frames.iter().find(|(of, _)| *of == format);
        &frames.expect("whoever makes a plan makes its frames").1
    }
}

/// A pass while it visits subscribers.
struct Walk<'a, 'b> {
    groups: &'a [Group],
    cursor: &'b mut Cursor,
    gathered: &'b mut Vec<SubscriberId>,
    number: u64,
    at: Instant,
    /// So many sockets of the step are left.
    left: &'b mut usize,
}

/// What subscribers of a topic are told, in their format.
struct Notices<'a> {
    /// Those who came by a pattern, of a topic that is new.
    announcement: Option<Event<'a>>,
    /// All of them.
    status: Option<Event<'a>>,
}

impl Notices<'_> {
    fn frame(&self, format: FormatId, by_pattern: bool) -> Option<Bytes> {
        let announcement = self.announcement.as_ref().filter(|_| by_pattern);
        let events = [announcement, self.status.as_ref()].into_iter().flatten();
        let frames = events.filter_map(|event| format.format().event(event));
        frames.reduce(|one, other| [one, other].concat().into())
    }
}

impl Shard {
    /// Begins a pass over `messages`, in the order in which they left the inbox. One pass at a time.
    ///
    /// `through` is the sequence of the node up to which all messages for this shard had been in the inbox when these were
    /// taken.
    pub fn begin(
        &mut self,
        now: Instant,
        through: u64,
        messages: impl IntoIterator<Item = Arc<Message>>,
    ) -> Pass {
        let mut grouped: SmallVec<[(u32, Messages); 2]> = SmallVec::new();
        for message in messages {
            let Some(topic) = self.known(message.topic()) else { continue };
            let place = &mut self.topics[topic as usize].place;
            match grouped.get_mut(*place as usize) {
                // Of an earlier pass, the place may be another topic's.
                Some((of, group)) if *of == topic => group.push(message),
                _ => {
                    *place = grouped.len() as u32;
                    grouped.push((topic, smallvec![message]));
                }
            }
        }
        self.passes += 1;
        let groups = grouped.into_iter().map(|(topic, messages)| self.plan(topic, messages, now)).collect();
        self.forget_joining();
        self.pass(groups, through, now)
    }

    /// Begins a pass that tells the subscribers of topics that have just become stale. `None` if there are none. A pass
    /// under way goes first.
    pub fn begin_silence(&mut self, now: Instant) -> Option<Pass> {
        let stale = self.take_stale(now);
        if stale.is_empty() {
            return None;
        }
        let groups = stale.into_iter().map(|topic| self.plan(topic, Messages::new(), now)).collect();
        Some(self.pass(groups, self.through, now))
    }

    fn pass(&self, groups: Vec<Group>, through: u64, at: Instant) -> Pass {
        Pass { groups, cursor: Cursor::default(), gathered: Vec::new(), number: self.passes, through, at }
    }

    fn plan(&mut self, topic: u32, messages: Messages, now: Instant) -> Group {
        let silence = self.hear(topic, !messages.is_empty(), now);
        let known = &mut self.topics[topic as usize];
        known.in_pass = true;
        known.used = true;
        if known.conflates_since > 0 && known.direct.is_none() && messages.first().is_some_and(is_born) {
            // All its subscribers are told of it below.
            known.conflates_since = 0;
        }
        let name = &known.name;
        let notices = Notices {
            announcement: messages.first().filter(|message| is_born(message)).map(|message| {
                let policy = known.settings.policy.announced();
                Event::Topic { topic: name, epoch: message.epoch(), offset: 0, recovered: None, policy }
            }),
            status: match silence {
                Some((age, Status::Stale)) => Some(replay::stale(name, age)),
                Some((age, status)) => {
                    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                    Some(Event::Status { topic: name, status, age_ms })
                }
                None => None,
            },
        };
        let mut frames: SmallVec<[(FormatId, Frames); 1]> = SmallVec::new();
        let mut plans = SmallVec::new();
        let mut walked: SmallVec<[u32; 1]> = SmallVec::new();
        known.audiences().for_each(|audience| walked.push(audience));
        for &audience in &walked {
            let listeners = &mut self.audiences[audience as usize];
            let first = listeners.begin_walk();
            let by_pattern = matches!(listeners.name, Name::Pattern(_));
            for format in FormatId::ALL {
                let len = listeners.lists[format.index()].len();
                if len == 0 {
                    continue;
                }
                if !frames.iter().any(|(of, _)| *of == format) {
                    // Who polls is woken, and reads the ring.
                    let batches = if format == FormatId::LONG_POLL {
                        Batches::new()
                    } else {
                        let mark = mark(format, self.node, self.through);
                        Batch::join(format, mark.as_ref(), &messages, Some(now))
                    };
                    frames.push((format, Frames { batches, newest: Newest::new() }));
                }
                let notice = notices.frame(format, by_pattern);
                plans.push(Plan { audience, format, by_pattern, len, first: first % len, notice });
            }
        }
        Group { topic, messages, frames, plans, walked }
    }

    /// Carries the pass on, for at most `sockets` sockets, and [`STEP_MAX`]. What it did is added to `report`.
    pub fn deliver(
        &mut self,
        pass: &mut Pass,
        sockets: usize,
        sink: &mut impl Sink,
        report: &mut Report,
    ) -> Progress {
        let mut left = sockets.min(STEP_MAX);
        let mut dues = recycle(std::mem::take(&mut self.dues));
        let Pass { groups, cursor, gathered, number, at, .. } = pass;
        let mut walk = Walk { groups, cursor, gathered, number: *number, at: *at, left: &mut left };
        let progress = self.walk(&mut walk, &mut dues, sink, report);
        self.carry_out(&dues, sink, report);
        self.dues = recycle(dues);
        if progress == Progress::More {
            return Progress::More;
        }
        while cursor.flushed < gathered.len() {
            if left == 0 {
                return Progress::More;
            }
            let next = &gathered[cursor.flushed..];
            let flushed = self.flush_together(&next[..next.len().min(left)], sink, report);
            cursor.flushed += flushed;
            left -= flushed;
        }
        // Only now may a client hear of it.
        self.through = pass.through;
        Progress::Done
    }

    /// Visits subscribers: what they get is due at the end of the step, or gathered in their outboxes.
    fn walk<'a>(
        &mut self,
        walk: &mut Walk<'a, '_>,
        dues: &mut Vec<Due<'a>>,
        sink: &mut impl Sink,
        report: &mut Report,
    ) -> Progress {
        let Walk { groups, cursor, gathered, number, at, left } = walk;
        let several_topics = groups.len() > 1;
        while let Some(group) = groups.get(cursor.group) {
            let Some(plan) = group.plans.get(cursor.plan) else {
                self.finish(group.topic, &group.walked);
                cursor.group += 1;
                cursor.plan = 0;
                continue;
            };
            let list = &self.audiences[plan.audience as usize].lists[plan.format.index()];
            let topic = &self.topics[group.topic as usize];
            let visit = Visit::new(group, plan, topic, several_topics, *number, *at);
            let mut turn = Turn { limits: &self.limits.outbox, sink: &mut *sink, report: &mut *report };
            while cursor.visited < plan.len {
                if **left == 0 {
                    return Progress::More;
                }
                **left -= 1;
                let place = plan.first + cursor.visited;
                let listed = list[if place < plan.len { place } else { place - plan.len }];
                cursor.visited += 1;
                let Some(subscriber) = self.subscribers.get_mut(listed.slot as usize) else { continue };
                if let Some(due) = visit.plain(subscriber, listed) {
                    dues.push(due);
                    continue;
                }
                let before = subscriber.waiting_bytes();
                match visit.pay(subscriber, listed, &mut turn, &mut self.timers) {
                    Paid::Due(due) => dues.push(due),
                    Paid::Gathered if !std::mem::replace(&mut subscriber.gathered, true) => {
                        gathered.push(subscriber.id(listed.slot));
                    }
                    Paid::Gathered | Paid::Done => {}
                }
                self.outboxes.change(before, subscriber.waiting_bytes());
            }
            cursor.plan += 1;
            cursor.visited = 0;
        }
        Progress::Done
    }

    /// Sends on what was held back for subscribers with a pace, and whose time has come. Returns when to call again.
    pub fn release_held(
        &mut self,
        now: Instant,
        sink: &mut impl Sink,
        report: &mut Report,
    ) -> Option<Instant> {
        let mut released = Vec::new();
        while let Some(next) = self.timers.peek()
            && next.0.0 <= now
        {
            let Some(std::cmp::Reverse((_, id, topic))) = self.timers.pop() else { break };
            if self.subscriber(id).is_none() {
                continue;
            }
            let Some(subscriber) = self.subscribers.get_mut(id.slot as usize) else { continue };
            let Some(paced) = &mut subscriber.paced else { continue };
            let before = subscriber.outbox.bytes() + paced.bytes();
            let mut turn = Turn { limits: &self.limits.outbox, sink: &mut *sink, report: &mut *report };
            let due = paced.take_due(&topic, now);
            paced.forget_past(now, self.limits.outbox.messages_max);
            for batch in due {
                turn.conflate_one(subscriber, id.slot, &batch);
            }
            if !std::mem::replace(&mut subscriber.gathered, true) {
                released.push(id);
            }
            self.outboxes.change(before, subscriber.waiting_bytes());
        }
        let mut left = &released[..];
        while !left.is_empty() {
            left = &left[self.flush_together(left, sink, report)..];
        }
        self.next_release()
    }

    /// When [`release_held`](Self::release_held) is to be called next.
    pub fn next_release(&self) -> Option<Instant> {
        self.timers.peek().map(|next| next.0.0)
    }

    /// Writes what waits for a subscriber until nothing does or the socket refuses. A socket that begins to refuse is
    /// reported, like one that is gone.
    pub fn flush(&mut self, id: SubscriberId, sink: &mut impl Sink, report: &mut Report) -> Flushed {
        self.flush_some(id, usize::MAX, sink, report)
    }

    /// The same in at most `writes` writes: a long replay is no reason for others to wait.
    pub fn flush_some(
        &mut self,
        id: SubscriberId,
        writes: usize,
        sink: &mut impl Sink,
        report: &mut Report,
    ) -> Flushed {
        if self.subscriber(id).is_none() {
            return Flushed::Empty;
        }
        let Some(subscriber) = self.subscribers.get_mut(id.slot as usize) else { return Flushed::Empty };
        let before = subscriber.waiting_bytes();
        let mut turn = Turn { limits: &self.limits.outbox, sink, report };
        let flushed = turn.flush_some(subscriber, id.slot, writes);
        self.outboxes.change(before, subscriber.waiting_bytes());
        flushed
    }

    /// Ends a topic's part in a pass.
    fn finish(&mut self, topic: u32, walked: &[u32]) {
        // The walks first: the end of the last may be the end of the audience, and the topic is looked at below.
        walked.iter().for_each(|audience| self.end_walk(*audience));
        self.topics[topic as usize].in_pass = false;
        self.forget_if_unwanted(topic);
    }
}

/// Whether the topic begins with the message.
fn is_born(message: &Arc<Message>) -> bool {
    message.offset() == 1
}

/// Says that everything up to `through` came before, in formats that say so.
pub(crate) fn mark(format: FormatId, node: Epoch, through: u64) -> Option<Bytes> {
    (through > 0).then(|| format.format().mark(node, through)).flatten()
}
