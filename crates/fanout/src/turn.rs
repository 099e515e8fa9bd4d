//! One subscriber's turn in a pass: its socket, its outbox, or its topic's policy.

use std::io::IoSlice;
use std::rc::Rc;

use crate::batch::Batch;
use crate::outbox::{Flushed, OutboxLimits, SLICES_MAX};
use crate::pass::{Report, Sink, Written};
use crate::slow_consumer::{Eviction, SlowPolicy};
use crate::subscriber::Subscriber;

/// What a turn needs of the shard.
pub(crate) struct Turn<'a, S> {
    pub(crate) limits: &'a OutboxLimits,
    pub(crate) sink: &'a mut S,
    pub(crate) report: &'a mut Report,
}

impl<S: Sink> Turn<'_, S> {
    /// Writes messages `from..` of `batch` if nothing waits, and queues what the socket refuses.
    pub(crate) fn offer(
        &mut self,
        subscriber: &mut Subscriber,
        slot: u32,
        batch: &Rc<Batch>,
        from: u32,
        spared: bool,
    ) {
        if !subscriber.outbox.is_empty() {
            return self.queue(subscriber, slot, batch, from, spared);
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
    pub(crate) fn gather(
        &mut self,
        subscriber: &mut Subscriber,
        slot: u32,
        batch: &Rc<Batch>,
        from: u32,
        spared: bool,
    ) -> bool {
        let first = subscriber.outbox.is_empty() && !subscriber.closing;
        let bytes = batch.messages(from, batch.len()).len();
        if !subscriber.outbox.blocked && !subscriber.outbox.fits(bytes, batch.len() - from, self.limits) {
            // The socket has not refused yet: a healthy subscriber is not judged by how much one pass brings.
            self.flush(subscriber, slot);
        }
        self.queue(subscriber, slot, batch, from, spared);
        first
    }

    /// Queues messages behind what waits, within the bounds or `spared` from them, or lets the topic's policy decide.
    fn queue(&mut self, subscriber: &mut Subscriber, slot: u32, batch: &Rc<Batch>, from: u32, spared: bool) {
        if subscriber.closing {
            return;
        }
        let bytes = batch.messages(from, batch.len()).len();
        let messages = batch.len() - from;
        let outbox = &mut subscriber.outbox;
        if spared || outbox.fits(bytes, messages, self.limits) {
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

    pub(crate) fn flush(&mut self, subscriber: &mut Subscriber, slot: u32) -> Flushed {
        let id = subscriber.id(slot);
        let outbox = &mut subscriber.outbox;
        while !outbox.is_empty() {
            outbox.make_ready(subscriber.format);
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
