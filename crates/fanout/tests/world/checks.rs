//! What holds after each step, whenever everybody reads, and at the end.

use std::time::Duration;

use bytes::Bytes;
use fanfare_fanout::{Beginning, Flushed, OutboxLimits, SubscribeError, SubscriberId, Wish};
use fanfare_wire::FormatId;

use super::{Client, RETAINED, World};
use crate::model::{On, Seen};

/// An answer, notices, two pings, two pongs and a last frame, all of which are taken whatever the bound says, and what a
/// replay makes ready of them, are not longer than this.
const CONTROL_SLACK: usize = 8_000;

impl World {
    pub(crate) fn check(&mut self) {
        let mut clients = std::mem::take(&mut self.clients);
        for client in &mut clients {
            self.read(client);
            let heard = client.awaits_writable || client.owes_flush || self.pass.is_some();
            let dead = self.sockets.of(client.id).dead;
            assert!(heard || dead || !self.shard.is_waiting(client.id), "{:?} waits forever", client.id);
            let refused = self.sockets.of(client.id).refused;
            assert!(!client.healthy || !refused, "a healthy socket refuses nothing");
        }
        self.clients = clients;
        assert_eq!(self.shard.len(), self.clients.len());
        assert_eq!(self.shard.is_empty(), self.clients.is_empty());
        assert_eq!((self.report.writes, self.report.bytes), (self.sockets.writes, self.sockets.bytes));
        let read: u64 = self.clients.iter().map(|client| client.reader.total.messages).sum();
        assert_eq!(self.report.deliveries, self.seen.deliveries + read);
        let names = (0..self.topics.len()).map(On::Topic);
        let patterns = (0..self.topics.patterns()).map(On::Pattern);
        let mut wanted = (0, 0);
        for on in names.chain(patterns) {
            let is_wanted = self.is_wanted(on);
            assert_eq!(*self.topics.interest(on), is_wanted);
            *(if matches!(on, On::Topic(_)) { &mut wanted.0 } else { &mut wanted.1 }) +=
                usize::from(is_wanted);
        }
        if self.pass.is_none() {
            assert_eq!(self.shard.patterns(), wanted.1);
            let known = self.shard.topics();
            assert!(known == wanted.0 || wanted.1 > 0 && wanted.0 < known && known <= self.topics.len());
        }
    }

    /// All sockets take everything for a moment: what waited was within the bounds, and was counted right.
    pub(super) fn everybody_reads(&mut self) {
        for id in self.ids() {
            let socket = self.sockets.of(id);
            if socket.dead {
                continue;
            }
            let room = socket.room.take();
            let (before, waited) = (*self.shard.outboxes(), self.shard.is_waiting(id));
            let flushed = self.shard.flush(id, &mut self.sockets, &mut self.report);
            assert_eq!(flushed, Flushed::Empty);
            let received = self.receive(id);
            let client = self.clients.iter_mut().find(|client| client.id == id).expect("listed above");
            client.awaits_writable = false;
            client.owes_flush = false;
            let kept = client.reader.read(&received, &self.topics, self.now);
            self.sockets.of(id).room = room;
            assert_eq!(waited, kept.bytes > 0);
            assert!(!client.reader.is_mid_frame(), "an empty outbox leaves a frame cut off");
            let after = self.shard.outboxes();
            let counted = before.sum() - after.sum();
            let live = kept.bytes - kept.gap_bytes - kept.replay_bytes;
            assert!(live <= counted, "{id:?} {kept:?} {counted}");
            // A replay may have been of words that raw clients are not told.
            if kept.replay_bytes == 0 && client.format.plain() != FormatId::RAW {
                assert_eq!(live, counted, "{id:?} {kept:?}");
                let class = class_of(counted);
                let is_alone = client.is_paced() || before.0[class] - after.0[class] == counted;
                assert!(is_alone, "an outbox is in one class");
            }
            let bound = &self.limits.outbox;
            let client = self.clients.iter().find(|client| client.id == id).expect("listed above");
            assert!(live <= self.waiting_bytes_max(client), "{id:?} {kept:?} {bound:?}");
            assert!(kept.messages <= self.waiting_messages_max(client), "{id:?} {kept:?} {bound:?}");
        }
        self.handle_report();
    }

    pub(super) fn use_an_old_id(&mut self) {
        if self.gone.is_empty() {
            return;
        }
        let id = self.gone[self.random.below(self.gone.len())];
        let on = self.any_name();
        let name = self.topics.name_of(on);
        let topic = self.random.below(self.topics.len());
        let frame = Bytes::from_static(b"never");
        let mut left = Vec::new();
        let subscribed = self.subscribe_in_shard(id, on, Wish::Paced, Vec::new());
        assert_eq!(subscribed, Err(SubscribeError::Closing));
        assert_eq!(self.shard.may_subscribe(id), Err(SubscribeError::Closing));
        assert!(!self.shard.is_subscribed(id, self.topics.name(topic)) && !self.shard.is_waiting(id));
        assert!(!self.shard.is_covered(id, self.topics.name(topic)));
        self.shard.pace(id, &name, Duration::from_secs(1));
        assert_eq!(self.shard.unsubscribe(id, &name), None);
        assert_eq!(self.shard.push_control(id, frame.clone()), Ok(()));
        self.shard.push_pong(id, frame.clone());
        let topic = self.topics.name(topic).clone();
        let beginning =
            Beginning { topic, announce: None, stale: Some(Duration::ZERO), messages: Vec::new() };
        assert_eq!(self.shard.replay(id, vec![beginning]), Ok(()));
        assert_eq!(self.shard.flush(id, &mut self.sockets, &mut self.report), Flushed::Empty);
        self.shard.close(id, frame, true, &mut left);
        self.shard.disconnect(id, &mut left);
        assert_eq!(left, []);
    }

    /// The pass and the inbox come to their end, what is held is released, every topic falls silent, every live socket takes
    /// what waits, and everybody leaves.
    pub(crate) fn wind_down(&mut self) {
        while self.pass.is_some() || !self.topics.inbox_is_empty() {
            self.begin();
            self.carry_on(3);
        }
        self.now += Duration::from_secs(1);
        self.release();
        assert_eq!(self.shard.next_release(), None, "nothing is held");
        self.begin_silence();
        while self.pass.is_some() {
            self.carry_on(3);
        }
        for id in self.ids() {
            self.sockets.of(id).room = None;
            let waits = |client: &Client| client.id == id && (client.awaits_writable || client.owes_flush);
            while self.clients.iter().any(waits) {
                self.flush(id);
            }
        }
        self.check();
        let mut lost = self.seen.messages_lost;
        for at in 0..self.clients.len() {
            let given = self.given_all(at);
            let client = &self.clients[at];
            let reader = &client.reader;
            if !self.sockets.of(client.id).dead && !client.is_poll() {
                assert!(!self.shard.is_waiting(client.id));
                reader.finish(&given);
                for &topic in client.starts.keys() {
                    let can_be = self.topics.settings(topic).stale_after.is_some()
                        && client.format.plain() != FormatId::RAW;
                    let is_stale = can_be && self.topics.last(topic) > 0;
                    assert_eq!(reader.is_told_stale(topic), is_stale, "{:?} of topic {topic}", client.id);
                }
            }
            lost += reader.total.lost;
        }
        if !self.conflates {
            let Seen { refused_answers, refused_replays, slow_consumers, torn, .. } = self.seen;
            let closed = refused_answers + refused_replays + slow_consumers + torn;
            if self.peaceful && closed + self.seen.evictions_for_the_budget == 0 {
                assert_eq!(self.report.dropped, lost, "every dropped message was announced");
            }
            assert!(self.report.dropped >= lost, "only dropped messages are announced");
            assert_eq!(self.report.conflated, 0);
        }
        while !self.clients.is_empty() {
            self.disconnect(0);
        }
        self.check();
        self.seen.conflated += self.report.conflated;
        let shuffles = self.sockets.shuffles.is_some();
        *(if shuffles { &mut self.seen.steps_shuffled } else { &mut self.seen.steps_in_order }) +=
            self.sockets.together;
        assert_eq!((self.shard.len(), self.shard.topics(), self.shard.patterns()), (0, 0, 0));
        assert_eq!((self.shard.outbox_bytes(), *self.shard.outboxes()), (0, Default::default()));
    }

    /// The most messages of conflating topics that may wait for one subscriber: as many as wait to become newer, as many on
    /// their way, and what the ends of subscriptions sent on their way.
    fn conflated_max(&self, client: &Client) -> usize {
        (2 + 2 * client.unsubscribed + usize::from(self.topics.reload)) * (self.most.outbox.messages_max + 1)
            + 32
    }

    /// The most that may wait for one subscriber beside its replays: a half-written message and a batch, if they are over
    /// the bound, and what is conflated.
    fn waiting_bytes_max(&self, client: &Client) -> usize {
        let OutboxLimits { bytes_max, control_bytes_max, .. } = self.most.outbox;
        let live = bytes_max.max(2 * self.topics.group_bytes_max);
        let conflated = self.conflated_max(client) * self.topics.message_bytes_max;
        live + conflated + control_bytes_max + CONTROL_SLACK
    }

    fn waiting_messages_max(&self, client: &Client) -> u64 {
        let live = self.most.outbox.messages_max.max(self.topics.group_messages_max + 1);
        let replays = (self.most.subscriptions_max + 1) * self.topics.len() * RETAINED;
        (live + replays + self.conflated_max(client)) as u64
    }

    fn receive(&mut self, id: SubscriberId) -> Vec<u8> {
        let received = std::mem::take(&mut self.sockets.of(id).received);
        if !received.is_empty() {
            self.trace(|| format!("  {id:?} reads {:?}", String::from_utf8_lossy(&received)));
        }
        received
    }

    pub(super) fn read(&mut self, client: &mut Client) {
        let received = self.receive(client.id);
        client.reader.read(&received, &self.topics, self.now);
        self.seen.cut_frames += u64::from(client.reader.is_mid_frame() && !received.is_empty());
    }
}

/// The size class of an outbox: a power of two.
pub(super) fn class_of(bytes: usize) -> usize {
    (usize::BITS - bytes.leading_zeros()) as usize
}
