//! The bounded queue of frames in front of one socket.
//!
//! A frame enters when the socket refuses it and leaves when the worker writes, in order. Some change in place or go ahead
//! of their turn: a message of a conflating topic is replaced by a newer one with its key, a pong goes right behind the
//! half-written frame, a gap stands where its first dropped message stood, and a close frame may throw away what waits.
//!
//! ```text
//!   head (maybe half written)                                              back
//!   [ message 7 of a │ pong │ messages 8–9 of a │ gap b 3–5 │ newest of c │ message 6 of b │ ack ]
//!     ^ head_sent bytes of it are gone                         ^ what it is, is seen when its turn comes
//! ```
//!
//! # Owner        the shard; one thread, not `Send`
//! # Bounds       [`OutboxLimits`]; past them, see [`slow_consumer`](crate::slow_consumer). A replay is bounded by its ring
//! # Invariants
//! - `bytes` and `messages` are the sums over the queued live frames, without what is already written.
//! - `head_sent` is within the first frame of the head: a finished message leaves at once.
//! - At most [`PONGS_MAX`] unsent pings, as many unsent pongs, and per subscription one unsent gap.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use fanfare_wire::event::{Event, GapReason};
use fanfare_wire::{Epoch, FormatId, Topic};

use crate::batch::Batch;
use crate::conflation::{Conflation, Put};
use crate::replay::Replay;
use crate::slow_consumer::SlowPolicy;

/// The bounds of each outbox.
#[derive(Debug, Clone, Copy)]
pub struct OutboxLimits {
    /// Frame bytes that may wait. What one pass brings of a topic is always taken by an empty outbox, a single batch by one
    /// in which no whole message waits: they are shared, and the next message finds them over the bound.
    pub bytes_max: usize,
    /// Messages that may wait; likewise. Of conflating topics, as many again: one per key.
    pub messages_max: usize,
    /// Bytes of answers (acknowledgements, errors) that may wait. A client that asks without reading is closed.
    pub control_bytes_max: usize,
}

/// How a flush ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing waits any more.
    Empty,
    /// The socket takes no more now.
    Blocked,
    /// The socket may take more: others have their turn first.
    More,
    /// The peer is gone.
    PeerGone,
}

/// An outbox took all the answers it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ControlFull;

/// What left the outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) messages: u64,
}

/// More slices in one call gain nothing; the kernel takes 1,024 at most.
pub(crate) const SLICES_MAX: usize = 64;

/// So many pings that came together are each answered.
const PONGS_MAX: usize = 16;

/// So many messages of a replay, or of conflating topics, are made ready at once.
const READY_STEP: usize = SLICES_MAX;

/// Conflating topics whose frames are together past this are not made ready: what waits longer may still become newer.
const READY_BYTES: usize = 8 * 1024;

/// Of so many messages at the front the oldest is told.
const OLDEST_LOOKED_AT: usize = 8;

/// A queue that grew past this many entries gives its memory back whenever it is empty. A smaller one is kept from pass to
/// pass, which so need not allocate, until its subscriber is idle.
const ENTRIES_KEPT: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Entry>,
    head_sent: usize,
    bytes: usize,
    messages: usize,
    /// Frames outside the bounds: of replays, of conflating topics whose turn has come, and what topics are said to be.
    ready_bytes: usize,
    /// What replays further back hold.
    replay_bytes: usize,
    control_bytes: usize,
    /// Messages of conflating topics. Only a slow subscriber has any.
    conflation: Option<Box<Conflation>>,
    /// The last frame is queued or gone: nothing enters behind it.
    ended: bool,
    /// The socket refused bytes and has not asked for more since.
    pub(crate) blocked: bool,
}

#[derive(Debug)]
enum Entry {
    /// `ends` with the subscription's last message.
    Messages {
        batch: Rc<Batch>,
        from: u32,
        to: u32,
        ends: bool,
        class: Class,
    },
    /// The place of a conflating topic. Becomes messages when its turn comes.
    Newest(Topic),
    /// Becomes messages a few at a time, when its turn comes.
    Replay(Box<Replay>),
    Control(Bytes),
    /// Words about a topic, shared by all its subscribers: they are as many as there are topics, and nobody's fault.
    Notice(Bytes),
    /// Or a ping.
    Pong(Bytes),
    Gap(Box<Gap>),
}

/// What holds for queued messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Within the bounds; past them this policy decides.
    Live(SlowPolicy),
    /// Outside the bounds, and never dropped: the replay is whole or not at all.
    Replay,
    /// Of a conflating topic whose turn has come: outside the bounds, because it was within those of conflation.
    Newest,
}

/// Messages of one subscription that were dropped.
#[derive(Debug)]
struct Gap {
    topic: Topic,
    epoch: Epoch,
    from: u64,
    to: u64,
    reason: GapReason,
    /// The subscription ended here: the gap grows no more.
    ends: bool,
    /// Encoded when its turn comes: until then it may grow.
    frame: Option<Bytes>,
}

impl Gap {
    fn event(&self) -> Event<'_> {
        let Self { topic, epoch, from, to, reason, .. } = self;
        Event::Gap { topic, epoch: *epoch, from: *from, to: *to, reason: *reason }
    }
}

impl Entry {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Messages { batch, from, to, .. } => batch.messages(*from, *to),
            Self::Control(frame) | Self::Notice(frame) | Self::Pong(frame) => frame,
            Self::Gap(gap) => gap.frame.as_deref().unwrap_or_default(),
            Self::Replay(_) | Self::Newest(_) => &[],
        }
    }

    /// A conflating topic's message on its way out.
    fn newest(batch: Rc<Batch>) -> Self {
        Self::Messages { batch, from: 0, to: 1, ends: false, class: Class::Newest }
    }
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of messages and answers that wait. A replay further back counts as the references it holds: its messages are
    /// shared with the ring and with whoever else replays them.
    pub(crate) fn bytes(&self) -> usize {
        let conflated = self.conflation.as_ref().map_or(0, |conflation| conflation.bytes);
        self.bytes + self.ready_bytes + self.replay_bytes + self.control_bytes + conflated
    }

    /// How many messages wait, without those of a replay further back, and since when the oldest live one does.
    pub(crate) fn waiting(&self) -> (usize, Option<Instant>) {
        let ready = self.queue.iter().map(|entry| match entry {
            Entry::Messages { from, to, .. } => (to - from) as usize,
            _ => 0,
        });
        (ready.sum::<usize>() + self.conflated(), self.oldest())
    }

    /// Since when the oldest live message waits.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        // They stand in their order, but for the newest of a topic, which keep its place: one of the first is the oldest.
        let first = self.queue.iter().filter_map(|entry| match entry {
            Entry::Messages { batch, .. } => batch.at,
            Entry::Newest(topic) => self.conflation.as_ref()?.oldest(topic),
            _ => None,
        });
        first.take(OLDEST_LOOKED_AT).min()
    }

    /// Whether the batch stays within the bounds. An outbox in which no whole message waits takes any one batch.
    pub(crate) fn fits(&self, bytes: usize, messages: u32, limits: &OutboxLimits) -> bool {
        let half_written = usize::from(self.head_is_half_message());
        self.messages == half_written
            || self.bytes + bytes <= limits.bytes_max
                && self.messages + messages as usize <= limits.messages_max
    }

    /// Queues messages `from..to` of `batch`, of which the socket already took `sent` bytes.
    pub(crate) fn push_messages(
        &mut self,
        batch: &Rc<Batch>,
        from: u32,
        to: u32,
        sent: usize,
        policy: SlowPolicy,
    ) {
        debug_assert!(sent == 0 || self.queue.is_empty(), "only the head can be half written");
        let position = batch.start(from) + sent;
        let from = batch.index_at(position);
        if from == to {
            return;
        }
        self.bytes += batch.start(to) - position;
        self.messages += (to - from) as usize;
        if sent > 0 {
            self.head_sent = position - batch.start(from);
        }
        let (batch, class) = (Rc::clone(batch), Class::Live(policy));
        self.queue.push_back(Entry::Messages { batch, from, to, ends: false, class });
    }

    // === conflation ===

    /// Messages of conflating topics that wait.
    pub(crate) fn conflated(&self) -> usize {
        self.conflation.as_ref().map_or(0, |conflation| conflation.messages)
    }

    /// Whether something of the topic waits that may still become newer.
    pub(crate) fn conflates(&self, topic: &Topic) -> bool {
        self.conflation.as_ref().is_some_and(|conflation| conflation.holds(topic))
    }

    /// Whether the message would take an older one's place.
    pub(crate) fn would_replace(&self, batch: &Rc<Batch>) -> bool {
        self.conflation.as_ref().is_some_and(|conflation| conflation.would_replace(batch))
    }

    /// Queues a batch of one message in the place of an older one with its key, or else at the back. Returns whether it
    /// took an older one's place.
    pub(crate) fn conflate(&mut self, batch: &Rc<Batch>) -> bool {
        match self.conflation.get_or_insert_default().put(batch) {
            Put::FirstOfTopic => self.queue.push_back(Entry::Newest(batch.topic.clone())),
            Put::FirstOfKey => {}
            Put::Replaced => return true,
        }
        false
    }

    /// What waits of the topic becomes newer no more.
    pub(crate) fn settle(&mut self, topic: &Topic) {
        if !self.conflates(topic) {
            return;
        }
        let is_place = |entry: &Entry| matches!(entry, Entry::Newest(name) if name == topic);
        if let Some(index) = self.queue.iter().rposition(is_place) {
            self.settle_at(index, topic);
        }
    }

    fn settle_at(&mut self, index: usize, topic: &Topic) {
        self.queue.remove(index);
        for (place, batch) in self.take_newest(topic).into_iter().enumerate() {
            self.queue.insert(index + place, Entry::newest(batch));
        }
    }

    fn take_newest(&mut self, topic: &Topic) -> Vec<Rc<Batch>> {
        let Some(conflation) = &mut self.conflation else { return Vec::new() };
        let batches = conflation.take(topic);
        if conflation.messages == 0 {
            self.conflation = None;
        }
        self.ready_bytes += batches.iter().map(|batch| batch.messages(0, 1).len()).sum::<usize>();
        batches
    }

    /// Takes out the conflating topics at the front: what they have now is what will be written.
    fn unfold_newest(&mut self) {
        let mut ready = Vec::new();
        let mut bytes = 0;
        while let Some(Entry::Newest(topic)) = self.queue.front()
            && ready.len() < READY_STEP
            && bytes < READY_BYTES
        {
            let topic = topic.clone();
            self.queue.pop_front();
            let batches = self.take_newest(&topic);
            bytes += batches.iter().map(|batch| batch.messages(0, 1).len()).sum::<usize>();
            ready.extend(batches);
        }
        for batch in ready.into_iter().rev() {
            self.queue.push_front(Entry::newest(batch));
        }
    }

    // === replays ===

    /// Queues retained messages behind everything else.
    pub(crate) fn push_replay(&mut self, replay: Replay) {
        if !self.ended {
            self.replay_bytes += replay.held_bytes();
            self.queue.push_back(Entry::Replay(Box::new(replay)));
        }
    }

    /// How many replays wait.
    pub(crate) fn replays(&self) -> usize {
        self.queue.iter().filter(|entry| matches!(entry, Entry::Replay(_))).count()
    }

    /// Makes the next messages of a replay whose turn has come ready to be written.
    fn unfold_replay(&mut self) {
        while let Some(Entry::Replay(replay)) = self.queue.front_mut() {
            self.replay_bytes -= replay.held_bytes();
            let next = replay.next(READY_STEP);
            if replay.is_over() {
                self.queue.pop_front();
            } else {
                self.replay_bytes += replay.held_bytes();
            }
            for item in next.into_iter().rev() {
                self.queue.push_front(match item {
                    crate::replay::Item::Event(frame) => {
                        self.control_bytes += frame.len();
                        Entry::Control(frame)
                    }
                    crate::replay::Item::Message(batch) => {
                        self.ready_bytes += batch.messages(0, 1).len();
                        let batch = Rc::new(batch);
                        Entry::Messages { batch, from: 0, to: 1, ends: false, class: Class::Replay }
                    }
                });
            }
        }
    }

    // === answers ===

    /// Queues an answer behind everything else.
    pub(crate) fn push_control(&mut self, frame: Bytes, limits: &OutboxLimits) -> Result<(), ControlFull> {
        if self.ended || frame.is_empty() {
            return Ok(());
        }
        if self.control_bytes > 0 && self.control_bytes + frame.len() > limits.control_bytes_max {
            return Err(ControlFull);
        }
        self.control_bytes += frame.len();
        self.queue.push_back(Entry::Control(frame));
        Ok(())
    }

    /// Queues words about a topic behind everything else.
    pub(crate) fn push_notice(&mut self, frame: Bytes) {
        if !self.ended && !frame.is_empty() {
            self.ready_bytes += frame.len();
            self.queue.push_back(Entry::Notice(frame));
        }
    }

    /// Queues a pong or a ping ahead of everything that can still wait, in their order. Past [`PONGS_MAX`] a newer one
    /// replaces the last unsent one of its kind: RFC 6455, section 5.5.3, lets a peer answer only the latest ping.
    pub(crate) fn push_pong(&mut self, frame: Bytes) {
        if self.ended {
            return;
        }
        let mut place = self.first_whole();
        let (mut alike, mut last_alike) = (0, None);
        while let Some(Entry::Pong(waiting)) = self.queue.get(place) {
            // The first byte of a frame says which of the two it is.
            if waiting.first() == frame.first() {
                alike += 1;
                last_alike = Some(place);
            }
            place += 1;
        }
        self.control_bytes += frame.len();
        match last_alike.and_then(|place| self.queue.get_mut(place)) {
            Some(Entry::Pong(waiting)) if alike >= PONGS_MAX => {
                self.control_bytes -= waiting.len();
                *waiting = frame;
            }
            _ => self.queue.insert(place, Entry::Pong(frame)),
        }
    }

    // === dropping ===

    /// Drops the oldest waiting message of a topic whose policy allows it, and notes the gap in its place. `false` if there
    /// is none.
    pub(crate) fn drop_oldest(&mut self) -> bool {
        let may_drop = |entry: &Entry| {
            matches!(entry, Entry::Messages { class: Class::Live(SlowPolicy::DropOldest), .. })
        };
        let first = self.first_whole();
        (first..self.queue.len()).any(|index| self.drop_at(index, may_drop, GapReason::Slow))
    }

    /// Drops the oldest message of those that are conflated, and notes the gap in its place. `false` if there is none.
    pub(crate) fn drop_conflated(&mut self) -> bool {
        let may_drop = |entry: &Entry| matches!(entry, Entry::Newest(_));
        let first = self.first_whole();
        (first..self.queue.len()).any(|index| self.drop_at(index, may_drop, GapReason::Slow))
    }

    /// Drops what may be dropped, oldest first, until at most `bytes` wait. Returns how many messages that were.
    pub(crate) fn shed(&mut self, bytes: usize) -> u64 {
        let may_drop = |entry: &Entry| match entry {
            Entry::Messages { class, .. } => {
                matches!(class, Class::Newest | Class::Live(SlowPolicy::DropOldest | SlowPolicy::Conflate))
            }
            entry => matches!(entry, Entry::Newest(_)),
        };
        let mut dropped = 0;
        let mut index = self.first_whole();
        while self.bytes() > bytes && index < self.queue.len() {
            if self.drop_at(index, may_drop, GapReason::Evicted) {
                dropped += 1;
            } else {
                index += 1;
            }
        }
        dropped
    }

    /// Drops the oldest message of the entry at `index`, if it `may_drop` that.
    fn drop_at(&mut self, index: usize, may_drop: impl Fn(&Entry) -> bool, reason: GapReason) -> bool {
        let Some(entry) = self.queue.get_mut(index).filter(|entry| may_drop(entry)) else { return false };
        let (batch, dropped, is_last, gap_ends) = match entry {
            Entry::Messages { batch, from, to, ends, class } => {
                let (batch, dropped) = (Rc::clone(batch), *from);
                *from += 1;
                let bytes = batch.messages(dropped, dropped + 1).len();
                if matches!(class, Class::Live(_)) {
                    self.bytes -= bytes;
                    self.messages -= 1;
                } else {
                    self.ready_bytes -= bytes;
                }
                (batch, dropped, from == to, from == to && *ends)
            }
            Entry::Newest(topic) => {
                let oldest = self.conflation.as_mut().and_then(|conflation| conflation.take_oldest(topic));
                let Some((batch, is_last)) = oldest else { return false };
                (batch, 0, is_last, false)
            }
            _ => return false,
        };
        if is_last {
            self.queue.remove(index);
        }
        if self.conflated() == 0 {
            self.conflation = None;
        }
        let offset = batch.offset(dropped);
        self.note_gap_at(index, &batch, offset..=offset, gap_ends, reason);
        true
    }

    /// Where the first entry stands of which nothing is written. What is behind a half-written message in its batch
    /// becomes an entry of its own.
    fn first_whole(&mut self) -> usize {
        if self.head_sent == 0 {
            return 0;
        }
        if let Some(Entry::Messages { batch, from, to, ends, class }) = self.queue.front_mut()
            && *from + 1 < *to
        {
            let (batch, class) = (Rc::clone(batch), *class);
            let rest = Entry::Messages { batch, from: *from + 1, to: *to, ends: *ends, class };
            (*to, *ends) = (*from + 1, false);
            self.queue.insert(1, rest);
        }
        1
    }

    /// Notes that messages `from..` of `batch` never entered: behind everything of that topic that waits.
    pub(crate) fn note_gap(&mut self, batch: &Batch, from: u32) {
        let lost = batch.offset(from)..=batch.last_offset();
        self.note_gap_at(self.queue.len(), batch, lost, false, GapReason::Slow);
    }

    /// Marks the end of a subscription: its gap must not grow over the answer that says so, into the next subscription of
    /// the same topic, and its newest message is not to be replaced by one of that.
    pub(crate) fn end_subscription(&mut self, topic: &Topic) {
        for index in (0..self.queue.len()).rev() {
            match &mut self.queue[index] {
                Entry::Messages { batch, ends, .. } if batch.topic == *topic => {
                    *ends = true;
                    return;
                }
                Entry::Gap(gap) if gap.topic == *topic => {
                    gap.ends = true;
                    return;
                }
                Entry::Newest(name) if name == topic => {
                    self.settle_at(index, topic);
                    return self.end_subscription(topic);
                }
                _ => {}
            }
        }
    }

    fn note_gap_at(
        &mut self,
        place: usize,
        lost: &Batch,
        offsets: std::ops::RangeInclusive<u64>,
        ends: bool,
        reason: GapReason,
    ) {
        let half_written = usize::from(self.head_sent > 0);
        for entry in self.queue.range_mut(half_written.min(place)..place).rev() {
            match entry {
                Entry::Gap(gap) if gap.topic == lost.topic && gap.epoch == lost.epoch && !gap.ends => {
                    gap.to = *offsets.end();
                    (gap.ends, gap.reason) = (ends, reason);
                    gap.frame = None;
                    return;
                }
                // A message or a subscription's end stands between: an older gap must not reach over it.
                Entry::Messages { batch, .. } if batch.topic == lost.topic => break,
                Entry::Newest(topic) if *topic == lost.topic => break,
                Entry::Gap(gap) if gap.topic == lost.topic => break,
                Entry::Replay(replay) if replay.concerns(&lost.topic) => break,
                _ => {}
            }
        }
        let (from, to) = offsets.into_inner();
        let gap = Gap { topic: lost.topic.clone(), epoch: lost.epoch, from, to, reason, ends, frame: None };
        self.queue.insert(place, Entry::Gap(Box::new(gap)));
    }

    /// Ends the conversation with `frame`. With `discard`, what waits is thrown away; a half-written frame never is, or
    /// the peer could not read the next one. A conversation that has ended ends no second time.
    pub(crate) fn push_last(&mut self, frame: Bytes, discard: bool) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if discard {
            let head = if self.head_sent > 0 { self.queue.pop_front() } else { None };
            self.queue.clear();
            self.conflation = None;
            (self.bytes, self.messages, self.ready_bytes) = (0, 0, 0);
            (self.replay_bytes, self.control_bytes) = (0, 0);
            match head {
                Some(Entry::Messages { batch, from, ends, class, .. }) => {
                    let bytes = batch.messages(from, from + 1).len() - self.head_sent;
                    match class {
                        Class::Live(_) => (self.bytes, self.messages) = (bytes, 1),
                        Class::Replay | Class::Newest => self.ready_bytes = bytes,
                    }
                    self.queue.push_back(Entry::Messages { batch, from, to: from + 1, ends, class });
                }
                Some(Entry::Gap(gap)) => self.queue.push_back(Entry::Gap(gap)),
                Some(Entry::Notice(notice)) => {
                    self.ready_bytes = notice.len() - self.head_sent;
                    self.queue.push_back(Entry::Notice(notice));
                }
                Some(control) => {
                    self.control_bytes = control.bytes().len() - self.head_sent;
                    self.queue.push_back(control);
                }
                None => {}
            }
        }
        self.control_bytes += frame.len();
        self.queue.push_back(Entry::Control(frame));
    }

    // === writing ===

    /// Makes what is next ready to be written: messages of a replay, of conflating topics, and gaps, which grow no more from
    /// then on.
    pub(crate) fn make_ready(&mut self, format: FormatId) {
        self.unfold_replay();
        self.unfold_newest();
        for entry in self.queue.iter_mut().take(SLICES_MAX) {
            if let Entry::Gap(gap) = entry
                && gap.frame.is_none()
            {
                gap.frame = format.format().event(&gap.event());
            }
        }
    }

    /// What to write next: fills `slices` from the front of the queue and returns how many, and their bytes together.
    pub(crate) fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> (usize, usize) {
        let (mut count, mut total) = (0, 0);
        // What has to be unfolded waits until it is in front.
        let folded = |entry: &&Entry| matches!(entry, Entry::Replay(_) | Entry::Newest(_));
        let ready = self.queue.iter().take_while(|entry| !folded(entry));
        for (slice, entry) in slices.iter_mut().zip(ready) {
            let bytes = if count == 0 { &entry.bytes()[self.head_sent..] } else { entry.bytes() };
            *slice = IoSlice::new(bytes);
            count += 1;
            total += bytes.len();
        }
        (count, total)
    }

    /// Takes out the `written` bytes at the front.
    pub(crate) fn advance(&mut self, mut written: usize) -> Sent {
        let mut sent = Sent::default();
        // Not one entry further than what was written: a gap that comes next is not encoded yet, and looks empty.
        while written > 0
            && let Some(entry) = self.queue.front_mut()
        {
            let left = entry.bytes().len() - self.head_sent;
            let done = written >= left;
            let step = written.min(left);
            match entry {
                Entry::Messages { batch, from, to, class, .. } => {
                    let is_live = matches!(class, Class::Live(_));
                    let bytes = if is_live { &mut self.bytes } else { &mut self.ready_bytes };
                    *bytes -= step;
                    let position = batch.start(*from) + self.head_sent + step;
                    let next = batch.index_at(position).min(*to);
                    sent.messages += u64::from(next - *from);
                    self.messages -= if is_live { (next - *from) as usize } else { 0 };
                    self.head_sent = position - batch.start(next);
                    *from = next;
                }
                Entry::Control(_) | Entry::Pong(_) => {
                    self.control_bytes -= step;
                    self.head_sent += step;
                }
                Entry::Notice(_) => {
                    self.ready_bytes -= step;
                    self.head_sent += step;
                }
                Entry::Gap(_) | Entry::Replay(_) | Entry::Newest(_) => self.head_sent += step,
            }
            written -= step;
            if !done {
                break;
            }
            self.head_sent = 0;
            self.queue.pop_front();
        }
        if self.queue.capacity() > ENTRIES_KEPT {
            self.rest();
        }
        sent
    }

    /// Gives its memory back, if nothing waits.
    pub(crate) fn rest(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    fn head_is_half_message(&self) -> bool {
        self.head_sent > 0
            && matches!(self.queue.front(), Some(Entry::Messages { class: Class::Live(_), .. }))
    }
}

#[cfg(test)]
mod tests;
