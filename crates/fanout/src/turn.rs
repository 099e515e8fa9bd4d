//! One subscriber's turn in a pass: its socket, its outbox, or its topic's policy.

use std::cell::OnceCell;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_wire::{FormatId, Message};

use crate::batch::{Batch, Batches};
use crate::outbox::{Flushed, Outbox, OutboxLimits, SLICES_MAX};
use crate::pass::{Group, Report};
use crate::sink::{Sink, Written};
use crate::slow_consumer::{Eviction, SlowPolicy};
use crate::subscriber::Subscriber;

/// What a turn needs of the shard.
pub(crate) struct Turn<'a, S> {
    pub(crate) limits: &'a OutboxLimits,
    pub(crate) sink: &'a mut S,
    pub(crate) report: &'a mut Report,
}

/// What a pass has for a subscriber: messages of one topic.
#[derive(Clone, Copy)]
pub(crate) struct Offer<'a> {
    pub(crate) batches: &'a Batches,
    pub(crate) newest: &'a Newest,
    pub(crate) messages: &'a [Arc<Message>],
    pub(crate) format: FormatId,
    pub(crate) policy: SlowPolicy,
    /// Messages up to this offset are not for it.
    pub(crate) start: u64,
    /// It had taken everything until now.
    pub(crate) first: bool,
    /// The pass brings more, or brought words before the messages, for one vectored write at its end.
    pub(crate) gather: bool,
}

/// A pass's newest messages of each key, one batch each, made for the first slow subscriber.
pub(crate) type Newest = OnceCell<Vec<Rc<Batch>>>;

impl<'a> Offer<'a> {
    /// What a pass has of one topic, all of it.
    pub(crate) fn new(group: &'a Group, format: FormatId, policy: SlowPolicy) -> Self {
        let frames = group.frames(format);
        Self {
            batches: &frames.batches,
            newest: &frames.newest,
            messages: &group.messages,
            format,
            policy,
            start: 0,
            first: true,
            gather: false,
        }
    }

    /// The newest messages after `offset`.
    pub(crate) fn newest_after(&self, offset: u64) -> &[Rc<Batch>] {
        let newest = self.newest.get_or_init(|| {
            let at = self.batches.first().and_then(|batch| batch.at);
            Batch::newest(self.format, self.messages, at)
        });
        &newest[newest.partition_point(|batch| batch.offset(0) <= offset)..]
    }

    fn messages_after(&self, offset: u64) -> usize {
        self.messages.len() - self.messages.partition_point(|message| message.offset() <= offset)
    }
}

impl<S: Sink> Turn<'_, S> {
    /// Queues words that go before the messages.
    pub(crate) fn notify(&mut self, subscriber: &mut Subscriber, slot: u32, notice: &Bytes) {
        if !subscriber.outbox.blocked && subscriber.outbox.bytes() > self.limits.control_bytes_max {
            // However many topics are born at once: what waits for a socket that takes it stays little.
            self.flush(subscriber, slot);
        }
        subscriber.outbox.push_notice(notice.clone());
    }

    /// Writes what is offered if nothing waits, and queues what the socket refuses. What is gathered is to be flushed.
    pub(crate) fn offer(&mut self, subscriber: &mut Subscriber, slot: u32, offer: &Offer<'_>) {
        // Who had taken everything until now is not judged by how much one pass brings.
        let spared = offer.first && offer.policy != SlowPolicy::Conflate;
        for batch in offer.batches {
            let from = batch.through(offer.start);
            if from == batch.len() {
                continue;
            }
            if offer.policy == SlowPolicy::Conflate
                && self.is_behind(subscriber, slot, batch, from, offer.gather)
            {
                self.conflate(subscriber, slot, offer, batch.offset(from) - 1);
                break;
            }
            if offer.gather {
                self.make_room(subscriber, slot, batch, from);
                self.queue(subscriber, slot, batch, from, offer.policy, spared);
            } else if !subscriber.outbox.is_empty() {
                self.queue(subscriber, slot, batch, from, offer.policy, spared);
            } else if !subscriber.closing
                && let Some(refused) = self.write(subscriber, slot, batch, from, offer.policy)
            {
                self.conflate(subscriber, slot, offer, refused);
                break;
            }
        }
    }

    /// Whether a subscriber of a conflating topic does not keep up, so that it is to get only the newest of each key.
    fn is_behind(
        &mut self,
        subscriber: &mut Subscriber,
        slot: u32,
        batch: &Batch,
        from: u32,
        gather: bool,
    ) -> bool {
        if !gather {
            return !subscriber.outbox.is_empty();
        }
        self.make_room(subscriber, slot, batch, from);
        // Behind what may still become newer nothing of the topic is queued as it is.
        subscriber.outbox.blocked || subscriber.outbox.conflates(&batch.topic)
    }

    /// Writes messages `from..` of `batch` to a subscriber for whom nothing waits, and queues what the socket refuses. Of a
    /// conflating topic only a half-written message is queued: then the offset up to which that was everything is returned.
    fn write(
        &mut self,
        subscriber: &mut Subscriber,
        slot: u32,
        batch: &Rc<Batch>,
        from: u32,
        policy: SlowPolicy,
    ) -> Option<u64> {
        self.report.writes += 1;
        let written = self.sink.write(subscriber.id(slot), batch.messages(from, batch.len()));
        self.written(subscriber, slot, batch, from, policy, written)
    }

    /// Takes note of what the socket did with messages `from..` of `batch`: the second half of [`write`](Self::write).
    pub(crate) fn written(
        &mut self,
        subscriber: &mut Subscriber,
        slot: u32,
        batch: &Rc<Batch>,
        from: u32,
        policy: SlowPolicy,
        written: Written,
    ) -> Option<u64> {
        let written = match written {
            Written::Bytes(written) => written,
            Written::Blocked => 0,
            Written::PeerGone => {
                self.evict(subscriber, slot, Eviction::PeerGone);
                return None;
            }
        };
        self.report.bytes += written as u64;
        if written == batch.messages(from, batch.len()).len() {
            self.report.deliveries += u64::from(batch.len() - from);
            return None;
        }
        self.queue_refused(subscriber, slot, batch, from, policy, written)
    }

    /// Queues what the socket refused: all but the `written` bytes of messages `from..`.
    fn queue_refused(
        &mut self,
        subscriber: &mut Subscriber,
        slot: u32,
        batch: &Rc<Batch>,
        from: u32,
        policy: SlowPolicy,
        written: usize,
    ) -> Option<u64> {
        let whole = batch.index_at(batch.start(from) + written);
        self.report.deliveries += u64::from(whole - from);
        // A message of which nothing is written can still become newer.
        let is_cut = batch.start(whole) < batch.start(from) + written;
        let to = match policy {
            SlowPolicy::Conflate => whole + u32::from(is_cut),
            _ => batch.len(),
        };
        subscriber.outbox.push_messages(batch, from, to, written, policy);
        self.block(subscriber, slot);
        match to.checked_sub(1) {
            _ if policy != SlowPolicy::Conflate => None,
            Some(last) => Some(batch.offset(last)),
            None => Some(batch.offset(0) - 1),
        }
    }

    /// Writes what waits if the next messages would not fit otherwise, and the socket has not refused yet: a healthy
    /// subscriber is not judged by how much one pass brings.
    fn make_room(&mut self, subscriber: &mut Subscriber, slot: u32, batch: &Batch, from: u32) {
        let bytes = batch.messages(from, batch.len()).len();
        if !subscriber.outbox.blocked && !subscriber.outbox.fits(bytes, batch.len() - from, self.limits) {
            self.flush(subscriber, slot);
        }
    }

    /// Queues messages behind what waits, within the bounds or `spared` from them, or lets the policy decide.
    fn queue(
        &mut self,
        subscriber: &mut Subscriber,
        slot: u32,
        batch: &Rc<Batch>,
        from: u32,
        policy: SlowPolicy,
        spared: bool,
    ) {
        if subscriber.closing {
            return;
        }
        let bytes = batch.messages(from, batch.len()).len();
        let messages = batch.len() - from;
        let outbox = &mut subscriber.outbox;
        if policy != SlowPolicy::Conflate {
            // The topic conflated until a reload: nothing behind these may take the place of what waits before them.
            outbox.settle(&batch.topic);
        }
        if spared || policy == SlowPolicy::Conflate || outbox.fits(bytes, messages, self.limits) {
            return outbox.push_messages(batch, from, batch.len(), 0, policy);
        }
        if !subscriber.takes_gaps {
            let drops = policy == SlowPolicy::DropOldest;
            let eviction = if drops { Eviction::Gap } else { Eviction::SlowConsumer };
            return self.evict(subscriber, slot, eviction);
        }
        while outbox.drop_oldest() {
            self.report.dropped += 1;
            if outbox.fits(bytes, messages, self.limits) {
                return outbox.push_messages(batch, from, batch.len(), 0, policy);
            }
        }
        if policy == SlowPolicy::DropOldest {
            self.report.dropped += u64::from(messages);
            outbox.note_gap(batch, from);
        } else {
            self.evict(subscriber, slot, Eviction::SlowConsumer);
        }
    }

    /// Queues the newest messages after `offset`, each in the place of an older one with its key.
    pub(crate) fn conflate(
        &mut self,
        subscriber: &mut Subscriber,
        slot: u32,
        offer: &Offer<'_>,
        offset: u64,
    ) {
        let newest = offer.newest_after(offset);
        self.report.conflated += (offer.messages_after(offset) - newest.len()) as u64;
        for batch in newest {
            self.conflate_one(subscriber, slot, batch);
        }
    }

    /// Queues a batch of one message in the place of an older one with its key.
    pub(crate) fn conflate_one(&mut self, subscriber: &mut Subscriber, slot: u32, batch: &Rc<Batch>) {
        let messages_max = self.limits.messages_max;
        let is_full = |outbox: &Outbox| outbox.conflated() >= messages_max && !outbox.would_replace(batch);
        if is_full(&subscriber.outbox) && !subscriber.outbox.blocked {
            // The socket has not refused yet: a healthy subscriber is not judged by how many keys there are.
            self.flush(subscriber, slot);
        }
        if subscriber.closing {
            return;
        }
        if is_full(&subscriber.outbox) {
            if !subscriber.takes_gaps {
                return self.evict(subscriber, slot, Eviction::Gap);
            }
            self.report.dropped += u64::from(subscriber.outbox.drop_conflated());
        }
        self.report.conflated += u64::from(subscriber.outbox.conflate(batch));
    }

    pub(crate) fn flush(&mut self, subscriber: &mut Subscriber, slot: u32) -> Flushed {
        self.flush_some(subscriber, slot, usize::MAX)
    }

    /// Writes what waits, in at most `writes` writes.
    pub(crate) fn flush_some(&mut self, subscriber: &mut Subscriber, slot: u32, writes: usize) -> Flushed {
        let id = subscriber.id(slot);
        for done in 0.. {
            let outbox = &mut subscriber.outbox;
            outbox.make_ready(subscriber.format);
            // Also when what waited was words that the format does not have.
            if outbox.is_empty() {
                break;
            }
            if done == writes {
                outbox.blocked = false;
                return Flushed::More;
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let (count, total) = outbox.fill(&mut slices);
            self.report.writes += 1;
            let written = match slices[..count] {
                [ref one] => self.sink.write(id, one),
                ref many => self.sink.write_vectored(id, many),
            };
            if let Some(end) = self.sent(subscriber, slot, written, total) {
                return end;
            }
        }
        subscriber.outbox.blocked = false;
        Flushed::Empty
    }

    /// Takes note of what the socket did with the `total` bytes that were next. Returns how the flush ends, unless it took
    /// them all.
    pub(crate) fn sent(
        &mut self,
        subscriber: &mut Subscriber,
        slot: u32,
        written: Written,
        total: usize,
    ) -> Option<Flushed> {
        match written {
            Written::Bytes(written) => {
                self.report.bytes += written as u64;
                self.report.deliveries += subscriber.outbox.advance(written).messages;
                if written == total {
                    return None;
                }
                self.block(subscriber, slot);
                Some(Flushed::Blocked)
            }
            Written::Blocked => {
                self.block(subscriber, slot);
                Some(Flushed::Blocked)
            }
            Written::PeerGone => {
                self.evict(subscriber, slot, Eviction::PeerGone);
                Some(Flushed::PeerGone)
            }
        }
    }

    fn block(&mut self, subscriber: &mut Subscriber, slot: u32) {
        if !subscriber.outbox.blocked {
            subscriber.outbox.blocked = true;
            self.report.blocked.push(subscriber.id(slot));
        }
    }

    pub(crate) fn evict(&mut self, subscriber: &mut Subscriber, slot: u32, eviction: Eviction) {
        if !subscriber.closing {
            subscriber.closing = true;
            self.report.evicted.push((subscriber.id(slot), eviction));
        }
    }
}
