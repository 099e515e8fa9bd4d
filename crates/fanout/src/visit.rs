//! What a pass does at one subscriber: nearly always one write of one batch.
//!
//! The rest is for those who have several subscriptions, came by a wildcard, asked for a pace, are told something of the topic,
//! or have something waiting.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use fanfare_wire::{FormatId, Message};

use crate::audience::{Listed, Wish};
use crate::batch::Batch;
use crate::known_topic::KnownTopic;
use crate::pacing::{Pace, Timers};
use crate::pass::{Group, Plan};
use crate::sink::Sink;
use crate::step::Due;
use crate::subscriber::{Subscriber, SubscriberId};
use crate::turn::{Offer, Turn};

/// One list's visit by a pass.
pub(crate) struct Visit<'a, 'b> {
    group: &'a Group,
    plan: &'a Plan,
    topic: &'b KnownTopic,
    several_topics: bool,
    pass: u64,
    now: Instant,
    /// The one batch, where that is all there is to a turn of nearly every subscriber.
    plain: Option<&'a Rc<Batch>>,
}

/// What came of a subscriber's turn.
pub(crate) enum Paid<'a> {
    /// Nothing is left to do.
    Done,
    /// Its outbox is to be written at the end of the pass.
    Gathered,
    /// This is to be written, and was all that the pass has for it.
    Due(Due<'a>),
}

impl<'a, 'b> Visit<'a, 'b> {
    pub(crate) fn new(
        group: &'a Group,
        plan: &'a Plan,
        topic: &'b KnownTopic,
        several_topics: bool,
        pass: u64,
        now: Instant,
    ) -> Self {
        let plain = match &group.frames(plan.format).batches[..] {
            [one] if plan.notice.is_none() && !plan.by_pattern => Some(one),
            _ => None,
        };
        Self { group, plan, topic, several_topics, pass, now, plain }
    }

    /// What is due to nearly every subscriber. `None` if it takes more to tell: then [`pay`](Self::pay) does.
    #[inline]
    pub(crate) fn plain(&self, subscriber: &Subscriber, listed: Listed) -> Option<Due<'a>> {
        let batch = self.plain?;
        let is_plain = subscriber.subscriptions.len() == 1 && subscriber.is_idle();
        is_plain.then(|| self.due(subscriber.id(listed.slot), batch, listed, listed.start)).flatten()
    }

    /// What of a batch is for a subscriber for whom nothing waits.
    #[inline]
    fn due(&self, to: SubscriberId, batch: &'a Rc<Batch>, listed: Listed, start: u64) -> Option<Due<'a>> {
        let from = batch.through(start);
        let policy = listed.policy(self.topic);
        let bytes = batch.rest(from);
        let Self { group, plan, .. } = *self;
        let due = Due { to, from, policy, format: plan.format, batch, bytes, group };
        (!bytes.is_empty()).then_some(due)
    }

    fn offer(&self, listed: Listed, start: u64, first: bool, gather: bool) -> Offer<'a> {
        let policy = listed.policy(self.topic);
        Offer { start, first, gather, ..Offer::new(self.group, self.plan.format, policy) }
    }

    /// Gives a subscriber what there is for it.
    pub(crate) fn pay<S: Sink>(
        &self,
        subscriber: &mut Subscriber,
        listed: Listed,
        turn: &mut Turn<'_, S>,
        timers: &mut Timers,
    ) -> Paid<'a> {
        let Self { group, plan, topic, .. } = self;
        let several = subscriber.subscriptions.len() > 1;
        if several && !topic.patterns.is_empty() && self.is_covered_before(subscriber) {
            return Paid::Done;
        }
        let start = self.start(subscriber, listed);
        let is_new = |message: &Arc<Message>| message.offset() > start;
        if plan.format == FormatId::LONG_POLL {
            if group.messages.last().is_some_and(is_new) {
                turn.report.woken.push(subscriber.id(listed.slot));
            }
            return Paid::Done;
        }
        let first = subscriber.outbox.is_empty() && !subscriber.closing;
        let notice = plan.notice.as_ref().filter(|_| {
            // An announcement is for those who get the first message; others had it in their beginning.
            let born = group.messages.first().filter(|message| message.offset() == 1);
            born.or_else(|| group.messages.last()).is_none_or(is_new)
        });
        if let Some(notice) = notice {
            turn.notify(subscriber, listed.slot, notice);
        }
        let gather = notice.is_some() || self.several_topics && (several || plan.by_pattern);
        let offer = self.offer(listed, start, first, gather);
        if listed.wish == Wish::Paced {
            let sends = pace(turn, subscriber, listed.slot, plan.audience, &offer, self.now, timers);
            return if first && (sends || gather) { Paid::Gathered } else { Paid::Done };
        }
        if first
            && !gather
            && let [one] = &group.frames(plan.format).batches[..]
        {
            return self.due(subscriber.id(listed.slot), one, listed, start).map_or(Paid::Done, Paid::Due);
        }
        turn.offer(subscriber, listed.slot, &offer);
        if first && gather { Paid::Gathered } else { Paid::Done }
    }

    /// Whether the topic reaches a subscriber by an older subscription than this one: a connection gets one copy.
    fn is_covered_before(&self, subscriber: &Subscriber) -> bool {
        let audiences = subscriber.subscriptions.iter().map(|subscription| subscription.audience);
        audiences.take_while(|audience| *audience != self.plan.audience).any(|older| self.topic.has(older))
    }

    /// Messages up to this offset are not for the subscriber.
    fn start(&self, subscriber: &Subscriber, listed: Listed) -> u64 {
        match &subscriber.joining {
            Some(joining) if self.plan.by_pattern && joining.pass >= self.pass => {
                joining.starts.get(&self.topic.name).copied().unwrap_or_default()
            }
            _ => listed.start,
        }
    }
}

/// A turn of a subscriber with a pace. Returns whether something goes out.
fn pace<S: Sink>(
    turn: &mut Turn<'_, S>,
    subscriber: &mut Subscriber,
    slot: u32,
    audience: u32,
    offer: &Offer<'_>,
    now: Instant,
    timers: &mut Timers,
) -> bool {
    if subscriber.closing {
        return false;
    }
    let newest = offer.newest_after(offer.start);
    let skipped =
        offer.messages.iter().filter(|message| message.offset() > offer.start).count() - newest.len();
    turn.report.conflated += skipped as u64;
    let mut sends = false;
    let Some(mut paced) = subscriber.paced.take() else { return false };
    paced.forget_past(now, turn.limits.messages_max);
    // One pace holds for all keys of the topic: the first decides.
    for batch in newest {
        if sends {
            turn.conflate_one(subscriber, slot, batch);
            continue;
        }
        match paced.offer(audience, batch, now) {
            Pace::Now => {
                sends = true;
                turn.conflate_one(subscriber, slot, batch);
            }
            Pace::Held { timer, replaced } => {
                turn.report.conflated += u64::from(replaced);
                if let Some(at) = timer {
                    timers.push(std::cmp::Reverse((at, subscriber.id(slot), batch.topic.clone())));
                }
            }
        }
    }
    if paced.held() > turn.limits.messages_max {
        sends = true;
        for batch in paced.take_all().into_iter().flatten() {
            turn.conflate_one(subscriber, slot, &batch);
        }
    }
    subscriber.paced = Some(paced);
    sends
}
