//! The subscribers of one worker.
//!
//! # Owner        one thread; not `Send`
//! # Bounds       [`ShardLimits`]

use std::sync::Arc;

use bytes::Bytes;
use fanfare_wire::{FORMATS, FormatId, Message, Topic};
use slab::Slab;
use smallvec::SmallVec;

use crate::batch::Batch;
use crate::outbox::{Flushed, Outbox, OutboxLimits, Replay};
use crate::pass::{Cursor, Group, Pass, Planned, Progress, Report, Sink};
use crate::slow_consumer::{Eviction, SlowPolicy};
use crate::subscriber::{Subscriber, SubscriberId, Subscription};
use crate::turn::Turn;

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
        if subscriber.takes_gaps {
            subscriber.outbox.end_subscription(topic);
        }
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

    /// Queues retained messages of a topic the subscriber was just tied to. Their offsets are at most the `start` given
    /// then. However many they are, they are written as the socket takes them, and none of them is dropped. A client that
    /// subscribes over and over without reading is to be closed.
    pub fn replay(&mut self, id: SubscriberId, messages: Vec<Arc<Message>>) -> Result<(), Eviction> {
        let Some(topic) = messages.first().map(|message| message.topic().clone()) else { return Ok(()) };
        let Some(index) = self.by_name.get(&topic) else { return Ok(()) };
        let policy = self.topics[*index as usize].policy;
        let Some(subscriber) = self.subscriber(id) else { return Ok(()) };
        if subscriber.outbox.replays() >= self.limits.subscriptions_max {
            return Err(Eviction::SlowConsumer);
        }
        let replay = Replay { messages: messages.into_iter(), topic, format: subscriber.format, policy };
        self.with_outbox(id, |outbox| outbox.push_replay(replay));
        Ok(())
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
                // Who had taken everything until now is not judged by how much one pass brings.
                let spared = subscriber.outbox.is_empty();
                for batch in &planned.batches {
                    let from = batch.through(listed.start);
                    if from == batch.len() {
                        continue;
                    }
                    if several_topics && subscriber.subscriptions.len() > 1 {
                        if turn.gather(subscriber, listed.slot, batch, from, spared) {
                            pass.gathered.push(subscriber.id(listed.slot));
                        }
                    } else {
                        turn.offer(subscriber, listed.slot, batch, from, spared);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::Written;
    use fanfare_wire::{Draft, Epoch, Kind, Position};
    use std::collections::HashMap;
    use std::io::IoSlice;

    const LIMITS: ShardLimits = ShardLimits {
        outbox: OutboxLimits { bytes_max: 100, messages_max: 4, control_bytes_max: 50 },
        subscriptions_max: 3,
    };

    /// What left the shard, write by write: the slot and the payloads, with spaces between the frames of one slice and
    /// bars between slices. A socket without a row in `room` takes everything.
    #[derive(Default)]
    struct Recorder {
        writes: Vec<(u32, String)>,
        room: HashMap<u32, usize>,
        gone: Vec<u32>,
    }

    impl Sink for Recorder {
        fn write(&mut self, to: SubscriberId, bytes: &[u8]) -> Written {
            self.write_vectored(to, &[IoSlice::new(bytes)])
        }

        fn write_vectored(&mut self, to: SubscriberId, slices: &[IoSlice<'_>]) -> Written {
            if self.gone.contains(&to.slot) {
                return Written::PeerGone;
            }
            let total = slices.iter().map(|slice| slice.len()).sum();
            let room = self.room.get_mut(&to.slot).map(|room| std::mem::take(room).min(total));
            match room.unwrap_or(total) {
                0 => Written::Blocked,
                written if written == total => {
                    let slices: Vec<_> = slices.iter().map(|slice| payloads(slice)).collect();
                    self.writes.push((to.slot, slices.join("|")));
                    Written::Bytes(written)
                }
                written => Written::Bytes(written),
            }
        }
    }

    /// The payloads of whole short frames.
    fn payloads(mut bytes: &[u8]) -> String {
        let mut payloads = Vec::new();
        while let [_, len, rest @ ..] = bytes {
            let (payload, rest) = rest.split_at(usize::from(*len));
            payloads.push(String::from_utf8_lossy(payload));
            bytes = rest;
        }
        payloads.join(" ")
    }

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    /// A message whose payload is its place: `"a3"` is the third of topic `a`.
    fn message(place: &str) -> Arc<Message> {
        let (name, offset) = place.split_at(1);
        let draft = Draft::new(topic(name), Kind::Text, place.as_bytes());
        let offset = offset.parse().unwrap();
        Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
    }

    fn messages(places: &[&str]) -> Vec<Arc<Message>> {
        places.iter().map(|place| message(place)).collect()
    }

    fn shard() -> Shard {
        Shard::new(LIMITS)
    }

    /// A new subscriber of strict topics, from their start.
    fn join(shard: &mut Shard, topics: &[&str]) -> SubscriberId {
        let id = shard.connect(FormatId::RAW, false);
        for name in topics {
            assert_eq!(shard.subscribe(id, &topic(name), SlowPolicy::Disconnect, 0), Ok(true));
        }
        id
    }

    /// Carries out a whole pass.
    fn deliver(shard: &mut Shard, places: &[&str], sink: &mut Recorder) -> Report {
        let mut report = Report::default();
        let mut pass = shard.begin(messages(places));
        assert_eq!(shard.deliver(&mut pass, usize::MAX, sink, &mut report), Progress::Done);
        report
    }

    #[test]
    fn messages_of_one_topic_are_one_write() {
        let (mut shard, mut sink) = (shard(), Recorder::default());
        join(&mut shard, &["a"]);
        let report = deliver(&mut shard, &["a1", "b1", "a2", "a3"], &mut sink);
        assert_eq!(sink.writes, [(0, "a1 a2 a3".into())]);
        assert_eq!((report.writes, report.deliveries, report.bytes), (1, 3, 12));
    }

    #[test]
    fn a_subscriber_of_several_topics_gets_one_vectored_write() {
        let (mut shard, mut sink) = (shard(), Recorder::default());
        join(&mut shard, &["a", "b", "c"]);
        join(&mut shard, &["b"]);
        let report = deliver(&mut shard, &["b1", "a1", "b2"], &mut sink);
        assert_eq!(sink.writes, [(1, "b1 b2".into()), (0, "b1 b2|a1".into())]);
        assert_eq!((report.writes, report.deliveries), (2, 5));
        assert_eq!(shard.outbox_bytes(), 0);
    }

    #[test]
    fn messages_up_to_the_start_are_skipped() {
        fn check(start: u64, expect: &[(u32, String)]) {
            let (mut shard, mut sink) = (shard(), Recorder::default());
            let id = shard.connect(FormatId::RAW, false);
            shard.subscribe(id, &topic("a"), SlowPolicy::Disconnect, start).unwrap();
            deliver(&mut shard, &["a4", "a5", "a6"], &mut sink);
            assert_eq!(sink.writes, expect, "after {start}");
        }
        check(3, &[(0, "a4 a5 a6".into())]);
        check(4, &[(0, "a5 a6".into())]);
        check(5, &[(0, "a6".into())]);
        check(6, &[]);
        check(9, &[]);
    }

    #[test]
    fn a_newcomer_during_a_pass_gets_nothing_of_it() {
        let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
        for _ in 0..3 {
            join(&mut shard, &["a"]);
        }
        let mut pass = shard.begin(messages(&["a1"]));
        assert_eq!(shard.deliver(&mut pass, 1, &mut sink, &mut report), Progress::More);
        let newcomer = join(&mut shard, &["a"]);
        assert_eq!(shard.deliver(&mut pass, 9, &mut sink, &mut report), Progress::Done);
        assert!(sink.writes.iter().all(|(slot, _)| *slot != newcomer.slot));
        assert_eq!(report.deliveries, 3);
        deliver(&mut shard, &["a2"], &mut sink);
        assert!(sink.writes.contains(&(newcomer.slot, "a2".into())));
    }

    #[test]
    fn a_leaver_during_a_pass_shifts_nobody() {
        const SUBSCRIBERS: usize = 5;
        type Leave = fn(&mut Shard, SubscriberId);
        let ways: [Leave; 3] = [
            |shard, id| assert_eq!(shard.unsubscribe(id, &topic("a")), Some(false)),
            |shard, id| shard.disconnect(id, &mut Vec::new()),
            |shard, id| shard.close(id, "bye".into(), true, &mut Vec::new()),
        ];
        for (way, leave) in ways.iter().enumerate() {
            for steps in 0..=SUBSCRIBERS {
                for leaver in 0..SUBSCRIBERS {
                    let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
                    let ids: Vec<_> = (0..SUBSCRIBERS).map(|_| join(&mut shard, &["a"])).collect();
                    let mut pass = shard.begin(messages(&["a1"]));
                    let _ = shard.deliver(&mut pass, steps, &mut sink, &mut report);
                    leave(&mut shard, ids[leaver]);
                    while shard.deliver(&mut pass, 1, &mut sink, &mut report) == Progress::More {}
                    deliver(&mut shard, &["a2"], &mut sink);
                    for id in ids.iter().filter(|id| **id != ids[leaver]) {
                        let got: Vec<_> = sink.writes.iter().filter(|(slot, _)| *slot == id.slot).collect();
                        let case = format!("way {way}, {leaver} leaves after {steps} turns, {id:?}");
                        assert_eq!(got, [&(id.slot, "a1".into()), &(id.slot, "a2".into())], "{case}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_last_to_leave_during_a_pass_takes_the_topic_along() {
        let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
        let id = join(&mut shard, &["a"]);
        let mut pass = shard.begin(messages(&["a1"]));
        assert_eq!(shard.unsubscribe(id, &topic("a")), Some(true));
        assert_eq!(shard.deliver(&mut pass, 9, &mut sink, &mut report), Progress::Done);
        assert_eq!((shard.topics(), sink.writes.len()), (0, 0));
    }

    #[test]
    fn interest_ends_with_the_last_subscriber() {
        let mut shard = shard();
        let (one, two, three) =
            (join(&mut shard, &["a", "b"]), join(&mut shard, &["a", "b"]), join(&mut shard, &["b", "c"]));
        assert_eq!(shard.unsubscribe(one, &topic("c")), None);
        assert_eq!(shard.unsubscribe(one, &topic("a")), Some(false));
        assert_eq!(shard.unsubscribe(one, &topic("a")), None);
        assert_eq!(shard.unsubscribe(two, &topic("a")), Some(true));
        let mut left = Vec::new();
        shard.disconnect(two, &mut left);
        assert_eq!(left, []);
        shard.close(three, "bye".into(), false, &mut left);
        assert_eq!(left, [topic("c")]);
        shard.disconnect(one, &mut left);
        assert_eq!(left, [topic("c"), topic("b")]);
        assert_eq!((shard.topics(), shard.len()), (0, 1));
    }

    #[test]
    fn the_first_turn_moves_from_pass_to_pass() {
        for subscribers in 2..40 {
            let (mut shard, mut sink) = (shard(), Recorder::default());
            for _ in 0..subscribers {
                join(&mut shard, &["a"]);
            }
            let mut first_turns = vec![0; subscribers];
            for _ in 0..subscribers {
                sink.writes.clear();
                deliver(&mut shard, &["a1"], &mut sink);
                first_turns[sink.writes[0].0 as usize] += 1;
            }
            assert_eq!(first_turns, vec![1; subscribers], "everybody is first once");
        }
    }

    #[test]
    fn an_old_id_does_nothing() {
        let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
        let old = join(&mut shard, &["a"]);
        shard.disconnect(old, &mut Vec::new());
        let new = join(&mut shard, &["a"]);
        assert_eq!(old.slot, new.slot);

        let (name, mut left) = (topic("a"), Vec::new());
        assert_eq!(
            shard.subscribe(old, &topic("b"), SlowPolicy::Disconnect, 0),
            Err(SubscribeError::Closing)
        );
        assert_eq!(shard.may_subscribe(old, &name), Err(SubscribeError::Closing));
        assert!(!shard.is_subscribed(old, &name));
        assert_eq!(shard.unsubscribe(old, &name), None);
        assert_eq!(shard.push_control(old, "ack".into()), Ok(()));
        shard.push_pong(old, "pong".into());
        assert_eq!(shard.replay(old, messages(&["a1"])), Ok(()));
        shard.close(old, "bye".into(), true, &mut left);
        shard.disconnect(old, &mut left);
        assert_eq!(shard.flush(old, &mut sink, &mut report), Flushed::Empty);

        assert_eq!((left.len(), shard.len(), shard.topics(), shard.outbox_bytes()), (0, 1, 1, 0));
        assert!(!shard.is_waiting(old) && !shard.is_waiting(new) && shard.is_subscribed(new, &name));
    }

    #[test]
    fn a_big_pass_over_several_topics_spares_the_healthy() {
        let (mut shard, mut sink) = (shard(), Recorder::default());
        join(&mut shard, &["a", "b", "c"]);
        let report = deliver(&mut shard, &["a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2", "c3"], &mut sink);
        assert_eq!(report.evicted, []);
        let got: Vec<_> = sink.writes.iter().map(|(_, payloads)| payloads.as_str()).collect();
        assert_eq!(got.join("|"), "a1 a2 a3|b1 b2 b3|c1 c2 c3");
    }

    #[test]
    fn a_full_outbox_goes_by_the_policy_of_the_topic() {
        use SlowPolicy::{Disconnect, DropOldest};
        fn check(format: FormatId, policy: SlowPolicy, evicted: Option<Eviction>, dropped: u64) {
            let (mut shard, mut sink) = (shard(), Recorder::default());
            let id = shard.connect(format, format == FormatId::JSON);
            shard.subscribe(id, &topic("a"), policy, 0).unwrap();
            sink.room.insert(id.slot, 0);
            let mut report = Report::default();
            for place in ["a1", "a2", "a3", "a4", "a5", "a6"] {
                let more = deliver(&mut shard, &[place], &mut sink);
                report.dropped += more.dropped;
                report.blocked.extend(more.blocked);
                report.evicted.extend(more.evicted);
            }
            let case = format!("{format:?} {policy:?}");
            let evictions: Vec<_> = evicted.into_iter().map(|eviction| (id, eviction)).collect();
            assert_eq!(report.blocked, [id], "{case}");
            assert_eq!(report.evicted, evictions, "{case}: once");
            assert_eq!(report.dropped, dropped, "{case}");
        }
        check(FormatId::JSON, Disconnect, Some(Eviction::SlowConsumer), 0);
        check(FormatId::RAW, Disconnect, Some(Eviction::SlowConsumer), 0);
        // A raw client cannot be told what it misses.
        check(FormatId::RAW, DropOldest, Some(Eviction::Gap), 0);
        // Two frames of this size are within the bound of bytes.
        check(FormatId::JSON, DropOldest, None, 4);
    }

    #[test]
    fn one_burst_spares_who_had_taken_everything() {
        let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
        let id = join(&mut shard, &["a"]);
        sink.room.insert(id.slot, 10);
        let large = |offset| {
            let draft = Draft::new(topic("a"), Kind::Text, &[b'x'; 60_000]);
            Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
        };
        // Far over the bound, and too much for one batch.
        let mut pass = shard.begin((1..=5).map(large));
        assert_eq!(shard.deliver(&mut pass, usize::MAX, &mut sink, &mut report), Progress::Done);
        assert_eq!((report.evicted.len(), report.blocked.len()), (0, 1));
        // The next message finds it still over the bound.
        let mut pass = shard.begin([large(6)]);
        assert_eq!(shard.deliver(&mut pass, usize::MAX, &mut sink, &mut report), Progress::Done);
        assert_eq!(report.evicted, [(id, Eviction::SlowConsumer)]);
    }

    #[test]
    fn what_was_dropped_is_announced_before_the_next_message() {
        let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
        let id = shard.connect(FormatId::JSON, true);
        shard.subscribe(id, &topic("a"), SlowPolicy::DropOldest, 0).unwrap();
        sink.room.insert(id.slot, 0);
        for place in ["a1", "a2", "a3"] {
            deliver(&mut shard, &[place], &mut sink);
        }
        sink.room.clear();
        assert_eq!(shard.flush(id, &mut sink, &mut report), Flushed::Empty);
        let (gap, rest) = sink.writes[0].1.split_once('|').unwrap();
        assert!(gap.contains(r#""from":1,"to":1"#), "{gap}");
        assert!(rest.contains("a2") && rest.contains("a3"), "{rest}");
    }

    #[test]
    fn a_strict_message_takes_the_room_of_those_that_may_be_dropped() {
        let (mut shard, mut sink) = (shard(), Recorder::default());
        let id = shard.connect(FormatId::JSON, true);
        shard.subscribe(id, &topic("a"), SlowPolicy::DropOldest, 0).unwrap();
        shard.subscribe(id, &topic("b"), SlowPolicy::Disconnect, 0).unwrap();
        sink.room.insert(id.slot, 0);
        let mut dropped = 0;
        for place in ["a1", "b1", "b2"] {
            let report = deliver(&mut shard, &[place], &mut sink);
            assert_eq!(report.evicted, [], "{place}");
            dropped += report.dropped;
        }
        assert_eq!(dropped, 1);
        let report = deliver(&mut shard, &["b3"], &mut sink);
        assert_eq!(report.evicted, [(id, Eviction::SlowConsumer)]);
    }

    #[test]
    fn a_dead_peer_is_reported_once() {
        let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
        let id = join(&mut shard, &["a"]);
        sink.gone.push(id.slot);
        assert_eq!(deliver(&mut shard, &["a1"], &mut sink).evicted, [(id, Eviction::PeerGone)]);
        assert_eq!(deliver(&mut shard, &["a2"], &mut sink).evicted, []);
        shard.push_pong(id, "pong".into());
        assert_eq!(shard.flush(id, &mut sink, &mut report), Flushed::PeerGone);
        assert_eq!(report.evicted, []);
    }

    #[test]
    fn subscriptions_have_a_bound() {
        let mut shard = shard();
        let id = join(&mut shard, &["a", "b", "c"]);
        let mut subscribe = |name| shard.subscribe(id, &topic(name), SlowPolicy::Disconnect, 0);
        assert_eq!(subscribe("d"), Err(SubscribeError::TooMany));
        assert_eq!(subscribe("c"), Ok(false), "what is tied already needs no room");
        assert_eq!(shard.topics(), 3, "a refused topic leaves nothing behind");
        shard.unsubscribe(id, &topic("a"));
        assert_eq!(shard.subscribe(id, &topic("d"), SlowPolicy::Disconnect, 0), Ok(true));
    }

    #[test]
    fn a_client_that_asks_without_reading_is_given_up() {
        let mut shard = shard();
        let id = join(&mut shard, &[]);
        assert_eq!(shard.push_control(id, vec![b'x'; 60].into()), Ok(()), "an empty outbox takes any answer");
        assert_eq!(shard.push_control(id, "x".into()), Err(Eviction::SlowConsumer));
        assert_eq!(shard.outbox_bytes(), 60);
    }
}
