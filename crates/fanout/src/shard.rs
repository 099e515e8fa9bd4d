//! The subscribers of one worker.
//!
//! # Owner        one thread; not `Send`
//! # Bounds       [`ShardLimits`]

use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_wire::{FORMATS, FormatId, Message, Topic};
use slab::Slab;
use smallvec::SmallVec;

use crate::batch::Batch;
use crate::outbox::{Flushed, Outbox, OutboxLimits, SLICES_MAX};
use crate::pass::{Cursor, Group, Pass, Planned, Progress, Report, Sink, Written};
use crate::slow_consumer::{Eviction, SlowPolicy};
use crate::subscriber::{Subscriber, SubscriberId, Subscription};

/// The bounds of a shard.
#[derive(Debug, Clone, Copy)]
pub struct ShardLimits {
    /// What may wait for one subscriber.
    pub outbox: OutboxLimits,
    /// Topics of one subscriber.
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

/// One worker's subscribers and their topics.
pub struct Shard {
    limits: ShardLimits,
    subscribers: Slab<Subscriber>,
    topics: Slab<TopicList>,
    by_name: std::collections::HashMap<Topic, u32, ahash::RandomState>,
    generation: u32,
    outbox_bytes: usize,
}

/// Who wants one topic.
#[derive(Debug)]
struct TopicList {
    name: Topic,
    policy: SlowPolicy,
    lists: [Vec<Listed>; FORMATS.len()],
    /// How many stand in the lists, tombstones not counted.
    live: usize,
    /// Where the next pass begins in its lists.
    rotation: usize,
    /// A pass walks the lists: leavers become tombstones, and the topic stays even when nobody is left.
    in_pass: bool,
    tombstones: bool,
}

/// A subscriber in a topic's list.
#[derive(Debug, Clone, Copy)]
struct Listed {
    slot: u32,
    /// Messages up to this offset are not for it: it came after them, or got them as replay.
    start: u64,
}

const TOMBSTONE: u32 = u32::MAX;

impl Shard {
    /// A shard without subscribers.
    pub fn new(limits: ShardLimits) -> Self {
        Self {
            limits,
            subscribers: Slab::new(),
            topics: Slab::new(),
            by_name: Default::default(),
            generation: 0,
            outbox_bytes: 0,
        }
    }

    // === subscribers ===

    /// Adds a subscriber that reads `format`. One that takes no gaps is closed rather than cut when it is slow.
    pub fn connect(&mut self, format: FormatId, takes_gaps: bool) -> SubscriberId {
        self.generation = self.generation.wrapping_add(1);
        let subscriber = Subscriber {
            generation: self.generation,
            format,
            takes_gaps,
            closing: false,
            outbox: Outbox::default(),
            subscriptions: SmallVec::new(),
        };
        SubscriberId { slot: self.subscribers.insert(subscriber) as u32, generation: self.generation }
    }

    /// Ties a subscriber to a topic: messages after `start` will reach it. Returns whether the tie is new.
    pub fn subscribe(
        &mut self,
        id: SubscriberId,
        topic: &Topic,
        policy: SlowPolicy,
        start: u64,
    ) -> Result<bool, SubscribeError> {
        self.may_subscribe(id, topic)?;
        let index = self.topic_index(topic, policy);
        let Some(subscriber) = self.subscribers.get_mut(id.slot as usize) else {
            return Err(SubscribeError::Closing);
        };
        if subscriber.subscriptions.iter().any(|subscription| subscription.topic == index) {
            return Ok(false);
        }
        let entry = &mut self.topics[index as usize];
        entry.live += 1;
        let list = &mut entry.lists[subscriber.format.index()];
        subscriber.subscriptions.push(Subscription { topic: index, place: list.len() as u32 });
        list.push(Listed { slot: id.slot, start });
        Ok(true)
    }

    /// Whether [`subscribe`](Self::subscribe) would succeed: to be asked before interest is registered.
    pub fn may_subscribe(&self, id: SubscriberId, topic: &Topic) -> Result<(), SubscribeError> {
        let subscriber = self.subscriber(id).filter(|subscriber| !subscriber.closing);
        let subscriber = subscriber.ok_or(SubscribeError::Closing)?;
        if subscriber.subscriptions.len() >= self.limits.subscriptions_max && !self.is_subscribed(id, topic) {
            return Err(SubscribeError::TooMany);
        }
        Ok(())
    }

    /// Whether the subscriber is tied to the topic.
    pub fn is_subscribed(&self, id: SubscriberId, topic: &Topic) -> bool {
        let (Some(subscriber), Some(index)) = (self.subscriber(id), self.by_name.get(topic)) else {
            return false;
        };
        subscriber.subscriptions.iter().any(|subscription| subscription.topic == *index)
    }

    /// Unties a subscriber from a topic. `None` if it was not tied; else whether this was the topic's last subscriber
    /// here, and the shard's interest is to be taken back.
    pub fn unsubscribe(&mut self, id: SubscriberId, topic: &Topic) -> Option<bool> {
        let index = *self.by_name.get(topic)?;
        self.subscriber(id)?;
        let subscriber = self.subscribers.get_mut(id.slot as usize)?;
        let at = subscriber.subscriptions.iter().position(|subscription| subscription.topic == index)?;
        let subscription = subscriber.subscriptions.swap_remove(at);
        let format = subscriber.format;
        Some(self.unlist(subscription, format))
    }

    /// Queues an answer for the subscriber, behind what already waits.
    pub fn push_control(&mut self, id: SubscriberId, frame: Bytes) -> Result<(), Eviction> {
        let limits = self.limits.outbox;
        let pushed = self.with_outbox(id, |outbox| outbox.push_control(frame, &limits));
        pushed.unwrap_or(Ok(())).map_err(|_| Eviction::SlowConsumer)
    }

    /// Queues a ping or a pong ahead of what can still wait.
    pub fn push_pong(&mut self, id: SubscriberId, frame: Bytes) {
        self.with_outbox(id, |outbox| outbox.push_pong(frame));
    }

    /// Queues retained messages of a topic the subscriber was just tied to, for the caller to flush. Their offsets are at
    /// most the `start` given then.
    pub fn replay(
        &mut self,
        id: SubscriberId,
        messages: &[Arc<Message>],
        sink: &mut impl Sink,
        report: &mut Report,
    ) {
        let Some(topic) = messages.first().and_then(|message| self.by_name.get(message.topic())) else {
            return;
        };
        let policy = self.topics[*topic as usize].policy;
        if self.subscriber(id).is_none() {
            return;
        }
        let Some(subscriber) = self.subscribers.get_mut(id.slot as usize) else { return };
        let before = subscriber.outbox.bytes();
        let mut turn = Turn { limits: &self.limits.outbox, sink, report };
        for batch in &Batch::join(subscriber.format, policy, messages) {
            turn.gather(subscriber, id.slot, batch, 0);
        }
        self.outbox_bytes = self.outbox_bytes + subscriber.outbox.bytes() - before;
    }

    /// Ends the conversation: no more messages enter, `frame` is the last to leave. With `discard`, what waits is thrown
    /// away first. Topics without a subscriber here are added to `left`.
    pub fn close(&mut self, id: SubscriberId, frame: Bytes, discard: bool, left: &mut Vec<Topic>) {
        if self.subscriber(id).is_none() {
            return;
        }
        self.untie(id, left);
        if let Some(subscriber) = self.subscribers.get_mut(id.slot as usize) {
            subscriber.closing = true;
        }
        self.with_outbox(id, |outbox| outbox.push_last(frame, discard));
    }

    /// Forgets a subscriber. Topics without a subscriber here are added to `left`.
    pub fn disconnect(&mut self, id: SubscriberId, left: &mut Vec<Topic>) {
        if self.subscriber(id).is_none() {
            return;
        }
        self.untie(id, left);
        let subscriber = self.subscribers.remove(id.slot as usize);
        self.outbox_bytes -= subscriber.outbox.bytes();
    }

    /// Whether something waits for the subscriber.
    pub fn is_waiting(&self, id: SubscriberId) -> bool {
        self.subscriber(id).is_some_and(|subscriber| !subscriber.outbox.is_empty())
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
        self.outbox_bytes
    }

    /// How many topics have a subscriber here.
    pub fn topics(&self) -> usize {
        self.by_name.len()
    }

    // === the pass ===

    /// Begins a pass over `messages`, in the order in which they left the inbox. One pass at a time.
    pub fn begin(&mut self, messages: impl IntoIterator<Item = Arc<Message>>) -> Pass {
        let mut grouped: Vec<(u32, Vec<Arc<Message>>)> = Vec::new();
        let mut places: std::collections::HashMap<u32, usize, ahash::RandomState> = Default::default();
        for message in messages {
            let Some(&topic) = self.by_name.get(message.topic()) else { continue };
            let place = match grouped.last() {
                Some((last, _)) if *last == topic => grouped.len() - 1,
                _ => *places.entry(topic).or_insert(grouped.len()),
            };
            match grouped.get_mut(place) {
                Some((_, group)) => group.push(message),
                None => grouped.push((topic, vec![message])),
            }
        }
        let groups = grouped.into_iter().map(|(topic, messages)| self.plan(topic, &messages)).collect();
        Pass { groups, cursor: Cursor::default(), gathered: Vec::new() }
    }

    fn plan(&mut self, topic: u32, messages: &[Arc<Message>]) -> Group {
        let entry = &mut self.topics[topic as usize];
        entry.in_pass = true;
        entry.rotation = entry.rotation.wrapping_add(1);
        let lists = std::array::from_fn(|index| {
            let len = entry.lists[index].len();
            if len == 0 {
                return Planned::default();
            }
            let batches = Batch::join(FormatId::ALL[index], entry.policy, messages);
            // A stride coprime to most lengths: successive passes begin far apart.
            Planned { batches, len, first: entry.rotation.wrapping_mul(7919) % len }
        });
        Group { topic, lists }
    }

    /// Carries the pass on, for at most `sockets` sockets. What it did is added to `report`.
    pub fn deliver(
        &mut self,
        pass: &mut Pass,
        sockets: usize,
        sink: &mut impl Sink,
        report: &mut Report,
    ) -> Progress {
        let mut left = sockets;
        let several_topics = pass.groups.len() > 1;
        while let Some(group) = pass.groups.get(pass.cursor.group) {
            let Some(planned) = group.lists.get(pass.cursor.list) else {
                self.finish(group.topic);
                pass.cursor.group += 1;
                pass.cursor.list = 0;
                continue;
            };
            while pass.cursor.visited < planned.len {
                if left == 0 {
                    return Progress::More;
                }
                left -= 1;
                let place = (planned.first + pass.cursor.visited) % planned.len;
                pass.cursor.visited += 1;
                let topic = &self.topics[group.topic as usize];
                let listed = topic.lists[pass.cursor.list][place];
                let Some(subscriber) = self.subscribers.get_mut(listed.slot as usize) else { continue };
                let mut turn = Turn { limits: &self.limits.outbox, sink: &mut *sink, report: &mut *report };
                let before = subscriber.outbox.bytes();
                for batch in &planned.batches {
                    let from = batch.through(listed.start);
                    if from == batch.len() {
                        continue;
                    }
                    if several_topics && subscriber.subscriptions.len() > 1 {
                        if turn.gather(subscriber, listed.slot, batch, from) {
                            pass.gathered.push(subscriber.id(listed.slot));
                        }
                    } else {
                        turn.offer(subscriber, listed.slot, batch, from);
                    }
                }
                self.outbox_bytes = self.outbox_bytes + subscriber.outbox.bytes() - before;
            }
            pass.cursor.list += 1;
            pass.cursor.visited = 0;
        }
        while let Some(&id) = pass.gathered.get(pass.cursor.flushed) {
            if left == 0 {
                return Progress::More;
            }
            left -= 1;
            pass.cursor.flushed += 1;
            self.flush(id, sink, report);
        }
        Progress::Done
    }

    /// Writes what waits for a subscriber until nothing does or the socket refuses. A socket that begins to refuse is
    /// reported, like one that is gone.
    pub fn flush(&mut self, id: SubscriberId, sink: &mut impl Sink, report: &mut Report) -> Flushed {
        if self.subscriber(id).is_none() {
            return Flushed::Empty;
        }
        let Some(subscriber) = self.subscribers.get_mut(id.slot as usize) else { return Flushed::Empty };
        let before = subscriber.outbox.bytes();
        let flushed = Turn { limits: &self.limits.outbox, sink, report }.flush(subscriber, id.slot);
        self.outbox_bytes = self.outbox_bytes + subscriber.outbox.bytes() - before;
        flushed
    }

    // === helpers ===

    fn subscriber(&self, id: SubscriberId) -> Option<&Subscriber> {
        self.subscribers.get(id.slot as usize).filter(|subscriber| subscriber.generation == id.generation)
    }

    fn with_outbox<R>(&mut self, id: SubscriberId, change: impl FnOnce(&mut Outbox) -> R) -> Option<R> {
        self.subscriber(id)?;
        let outbox = &mut self.subscribers.get_mut(id.slot as usize)?.outbox;
        let before = outbox.bytes();
        let result = change(outbox);
        self.outbox_bytes = self.outbox_bytes + outbox.bytes() - before;
        Some(result)
    }

    fn topic_index(&mut self, topic: &Topic, policy: SlowPolicy) -> u32 {
        if let Some(&index) = self.by_name.get(topic) {
            return index;
        }
        let index = self.topics.insert(TopicList {
            name: topic.clone(),
            policy,
            lists: Default::default(),
            live: 0,
            rotation: 0,
            in_pass: false,
            tombstones: false,
        }) as u32;
        self.by_name.insert(topic.clone(), index);
        index
    }

    fn untie(&mut self, id: SubscriberId, left: &mut Vec<Topic>) {
        let Some(subscriber) = self.subscribers.get_mut(id.slot as usize) else { return };
        let format = subscriber.format;
        for subscription in std::mem::take(&mut subscriber.subscriptions) {
            let name = self.topics[subscription.topic as usize].name.clone();
            if self.unlist(subscription, format) {
                left.push(name);
            }
        }
    }

    /// Takes a subscriber out of a topic's list. Returns whether nobody is left in any of the topic's lists.
    fn unlist(&mut self, subscription: Subscription, format: FormatId) -> bool {
        let Subscription { topic, place } = subscription;
        let entry = &mut self.topics[topic as usize];
        entry.live -= 1;
        let empty = entry.live == 0;
        let list = &mut entry.lists[format.index()];
        if entry.in_pass {
            list[place as usize].slot = TOMBSTONE;
            entry.tombstones = true;
        } else {
            list.swap_remove(place as usize);
            if let Some(&moved) = list.get(place as usize) {
                replace(&mut self.subscribers, moved.slot, topic, place);
            }
        }
        if empty {
            self.remove_if_unused(topic);
        }
        empty
    }

    /// Ends a topic's part in a pass: tombstones go, and the topic itself if nobody is left.
    fn finish(&mut self, topic: u32) {
        let entry = &mut self.topics[topic as usize];
        entry.in_pass = false;
        if std::mem::take(&mut entry.tombstones) {
            for list in &mut entry.lists {
                list.retain(|listed| listed.slot != TOMBSTONE);
                for (place, listed) in list.iter().enumerate() {
                    replace(&mut self.subscribers, listed.slot, topic, place as u32);
                }
            }
        }
        self.remove_if_unused(topic);
    }

    fn remove_if_unused(&mut self, topic: u32) {
        let entry = &self.topics[topic as usize];
        if entry.live == 0 && !entry.in_pass {
            let entry = self.topics.remove(topic as usize);
            self.by_name.remove(&entry.name);
        }
    }
}

/// Tells a subscriber that it stands at another place of a topic's list.
fn replace(subscribers: &mut Slab<Subscriber>, slot: u32, topic: u32, place: u32) {
    let Some(subscriber) = subscribers.get_mut(slot as usize) else { return };
    if let Some(subscription) = subscriber.subscriptions.iter_mut().find(|tie| tie.topic == topic) {
        subscription.place = place;
    }
}

/// One subscriber's turn in a pass, and all it needs of the shard.
struct Turn<'a, S> {
    limits: &'a OutboxLimits,
    sink: &'a mut S,
    report: &'a mut Report,
}

impl<S: Sink> Turn<'_, S> {
    /// Writes messages `from..` of `batch` if nothing waits, and queues what the socket refuses.
    fn offer(&mut self, subscriber: &mut Subscriber, slot: u32, batch: &Rc<Batch>, from: u32) {
        if !subscriber.outbox.is_empty() {
            return self.queue(subscriber, slot, batch, from);
        }
        if subscriber.closing {
            return;
        }
        let bytes = batch.messages(from, batch.len());
        self.report.writes += 1;
        match self.sink.write(subscriber.id(slot), bytes) {
            Written::Bytes(written) if written == bytes.len() => {
                self.report.deliveries += u64::from(batch.len() - from);
                self.report.bytes += written as u64;
            }
            Written::Bytes(written) => {
                self.report.deliveries += u64::from(batch.index_at(batch.start(from) + written) - from);
                self.report.bytes += written as u64;
                subscriber.outbox.push_messages(batch, from, written);
                self.block(subscriber, slot);
            }
            Written::Blocked => {
                subscriber.outbox.push_messages(batch, from, 0);
                self.block(subscriber, slot);
            }
            Written::PeerGone => self.evict(subscriber, slot, Eviction::PeerGone),
        }
    }

    /// Queues messages for one vectored write at the end of the pass. Returns whether the subscriber is new to that.
    fn gather(&mut self, subscriber: &mut Subscriber, slot: u32, batch: &Rc<Batch>, from: u32) -> bool {
        let first = subscriber.outbox.is_empty() && !subscriber.closing;
        let bytes = batch.messages(from, batch.len()).len();
        if !subscriber.outbox.blocked && !subscriber.outbox.fits(bytes, batch.len() - from, self.limits) {
            // The socket has not refused yet: a healthy subscriber is not judged by how much one pass brings.
            self.flush(subscriber, slot);
        }
        self.queue(subscriber, slot, batch, from);
        first
    }

    /// Queues messages behind what waits, within the bounds, or lets the topic's policy decide.
    fn queue(&mut self, subscriber: &mut Subscriber, slot: u32, batch: &Rc<Batch>, from: u32) {
        if subscriber.closing {
            return;
        }
        let bytes = batch.messages(from, batch.len()).len();
        let messages = batch.len() - from;
        let outbox = &mut subscriber.outbox;
        if outbox.fits(bytes, messages, self.limits) {
            return outbox.push_messages(batch, from, 0);
        }
        let drops = |batch: &Batch| batch.policy == SlowPolicy::DropOldest;
        if !subscriber.takes_gaps {
            let eviction = if drops(batch) { Eviction::Gap } else { Eviction::SlowConsumer };
            return self.evict(subscriber, slot, eviction);
        }
        while outbox.drop_oldest(drops) {
            self.report.dropped += 1;
            if outbox.fits(bytes, messages, self.limits) {
                return outbox.push_messages(batch, from, 0);
            }
        }
        if drops(batch) {
            self.report.dropped += u64::from(messages);
            outbox.note_gap(batch, from);
        } else {
            self.evict(subscriber, slot, Eviction::SlowConsumer);
        }
    }

    fn flush(&mut self, subscriber: &mut Subscriber, slot: u32) -> Flushed {
        let id = subscriber.id(slot);
        let outbox = &mut subscriber.outbox;
        while !outbox.is_empty() {
            outbox.encode_gaps();
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let (count, total) = outbox.fill(&mut slices);
            self.report.writes += 1;
            let written = match slices[..count] {
                [ref one] => self.sink.write(id, one),
                ref many => self.sink.write_vectored(id, many),
            };
            match written {
                Written::Bytes(written) => {
                    self.report.bytes += written as u64;
                    self.report.deliveries += outbox.advance(written).messages;
                    if written < total {
                        self.block(subscriber, slot);
                        return Flushed::Blocked;
                    }
                }
                Written::Blocked => {
                    self.block(subscriber, slot);
                    return Flushed::Blocked;
                }
                Written::PeerGone => {
                    self.evict(subscriber, slot, Eviction::PeerGone);
                    return Flushed::PeerGone;
                }
            }
        }
        outbox.blocked = false;
        Flushed::Empty
    }

    fn block(&mut self, subscriber: &mut Subscriber, slot: u32) {
        if !subscriber.outbox.blocked {
            subscriber.outbox.blocked = true;
            self.report.blocked.push(subscriber.id(slot));
        }
    }

    fn evict(&mut self, subscriber: &mut Subscriber, slot: u32, eviction: Eviction) {
        if !subscriber.closing {
            subscriber.closing = true;
            self.report.evicted.push((subscriber.id(slot), eviction));
        }
    }
}
