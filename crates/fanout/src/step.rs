//! What a step of a pass writes: collected while its subscribers are visited, carried out together, and looked at again
//! where a socket did not take all.
//!
//! ```text
//!   visit ─► Due, Due, Due …          ─┐
//!                                      ├─► Sink::write_all ─► whole: counted · refused: the outbox, or the policy
//!   end of the pass ─► outbox, outbox ─┘
//! ```
//!
//! # Invariants
//! - A subscriber is in a step's writes once: either nothing waited for it and one batch is all it gets of the pass, or
//!   what it gets is in its outbox, and the outbox is written at the end of the pass.
//! - Nothing else touches a subscriber between its visit and the end of the step.

use std::io::IoSlice;
use std::rc::Rc;

use fanfare_wire::FormatId;
use smallvec::SmallVec;

use crate::batch::Batch;
use crate::outbox::SLICES_MAX;
use crate::pass::{Group, Report};
use crate::shard::Shard;
use crate::sink::{Sink, Write, WriteBytes, Written};
use crate::slow_consumer::SlowPolicy;
use crate::subscriber::SubscriberId;
use crate::turn::{Offer, Turn};

/// Sockets of a step, at most: so many writes are handed to the sink together.
pub const STEP_MAX: usize = 256;

/// Pieces that the outboxes of one call are written in, at most. They lie on the stack.
const SLICES_TOGETHER: usize = 1024;

/// One batch for a subscriber for whom nothing waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due<'a> {
    pub(crate) to: SubscriberId,
    /// Its first message that is for the subscriber.
    pub(crate) from: u32,
    pub(crate) policy: SlowPolicy,
    pub(crate) format: FormatId,
    pub(crate) batch: &'a Rc<Batch>,
    /// Its messages from that one on.
    pub(crate) bytes: &'a [u8],
    pub(crate) group: &'a Group,
}

impl Due<'_> {
    fn messages(&self) -> u64 {
        u64::from(self.batch.len() - self.from)
    }
}

/// The memory of a step's list, for the next one.
pub(crate) fn recycle<'b>(mut dues: Vec<Due<'_>>) -> Vec<Due<'b>> {
    dues.clear();
    // Collected in place: this neither allocates nor copies.
    dues.into_iter().map_while(|_| None).collect()
}

/// An outbox's part in the pieces that are written together.
#[derive(Debug)]
struct Part {
    id: SubscriberId,
    slices: std::ops::Range<usize>,
    bytes: usize,
    written: Written,
}

impl Shard {
    /// Writes what is due, and queues what sockets refuse.
    pub(crate) fn carry_out(&mut self, dues: &[Due<'_>], sink: &mut impl Sink, report: &mut Report) {
        if dues.is_empty() {
            return;
        }
        let mut refused: SmallVec<[(usize, Written); 16]> = SmallVec::new();
        let (mut bytes, mut messages) = (0, 0);
        let writes = dues.iter().map(|due| {
            bytes += due.bytes.len() as u64;
            messages += due.messages();
            Write { to: due.to, bytes: WriteBytes::One(due.bytes) }
        });
        sink.write_all(writes, |place, written| refused.push((place, written)));
        report.writes += dues.len() as u64;
        report.bytes += bytes;
        report.deliveries += messages;
        for (place, written) in refused {
            report.bytes -= dues[place].bytes.len() as u64;
            report.deliveries -= dues[place].messages();
            self.refused(&dues[place], written, sink, report);
        }
    }

    #[cold]
    fn refused(&mut self, due: &Due<'_>, written: Written, sink: &mut impl Sink, report: &mut Report) {
        let Due { to, from, policy, format, batch, group, .. } = *due;
        let Some(subscriber) = self.subscribers.get_mut(to.slot as usize) else { return };
        let before = subscriber.waiting_bytes();
        let mut turn = Turn { limits: &self.limits.outbox, sink, report };
        if let Some(offset) = turn.written(subscriber, to.slot, batch, from, policy, written) {
            turn.conflate(subscriber, to.slot, &Offer::new(group, format, policy), offset);
        }
        self.outboxes.change(before, subscriber.waiting_bytes());
    }

    /// Writes what waits for some of `ids`, none of which is there twice, and returns for how many, from the first on. One
    /// whose socket has refused already waits for that.
    pub(crate) fn flush_together(
        &mut self,
        ids: &[SubscriberId],
        sink: &mut impl Sink,
        report: &mut Report,
    ) -> usize {
        let ids = &ids[..ids.len().min(STEP_MAX)];
        ids.iter().for_each(|id| self.make_ready(*id));
        let mut slices = [IoSlice::new(&[]); SLICES_TOGETHER];
        let mut parts: SmallVec<[Part; STEP_MAX]> = SmallVec::new();
        let (mut taken, mut filled) = (0, 0);
        for id in ids {
            let Some(room) = slices.get_mut(filled..filled + SLICES_MAX) else { break };
            taken += 1;
            let Some(subscriber) = self.subscriber(*id).filter(|subscriber| !subscriber.outbox.blocked)
            else {
                continue;
            };
            let (count, bytes) = subscriber.outbox.fill(room);
            if count > 0 {
                let slices = filled..filled + count;
                parts.push(Part { id: *id, slices, bytes, written: Written::Bytes(bytes) });
                filled += count;
            }
        }
        let mut refused: SmallVec<[(usize, Written); 16]> = SmallVec::new();
        let writes = parts.iter().map(|part| {
            let bytes = match &slices[part.slices.clone()] {
                [one] => WriteBytes::One(one),
                several => WriteBytes::Several(several),
            };
            Write { to: part.id, bytes }
        });
        sink.write_all(writes, |place, written| refused.push((place, written)));
        report.writes += parts.len() as u64;
        refused.into_iter().for_each(|(place, written)| parts[place].written = written);
        for part in parts {
            let Some(subscriber) = self.subscribers.get_mut(part.id.slot as usize) else { continue };
            let before = subscriber.waiting_bytes();
            let mut turn = Turn { limits: &self.limits.outbox, sink: &mut *sink, report: &mut *report };
            if turn.sent(subscriber, part.id.slot, part.written, part.bytes).is_none() {
                // What did not fit one write.
                turn.flush(subscriber, part.id.slot);
            }
            self.outboxes.change(before, subscriber.waiting_bytes());
        }
        taken
    }

    /// Prepares what waits for a subscriber for a write.
    fn make_ready(&mut self, id: SubscriberId) {
        if self.subscriber(id).is_none() {
            return;
        }
        let Some(subscriber) = self.subscribers.get_mut(id.slot as usize) else { return };
        subscriber.gathered = false;
        if subscriber.outbox.blocked {
            return;
        }
        let before = subscriber.waiting_bytes();
        subscriber.outbox.make_ready(subscriber.format);
        self.outboxes.change(before, subscriber.waiting_bytes());
    }
}
