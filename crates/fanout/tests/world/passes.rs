//! Messages on their way through the shard, the time that passes meanwhile, and what is done between passes: to hold back,
//! to shed, to sweep, to reload.

use std::time::Duration;

use fanfare_fanout::Progress;

use super::checks::class_of;
use super::{Client, KEYS_MAX, World, any_limits};

impl World {
    pub(super) fn publish(&mut self) {
        for _ in 0..1 + self.random.below(4) {
            let topic = self.random.below(self.topics.len());
            let filler = match self.random.below(100) {
                0..80 => self.random.below(30),
                80..98 => self.random.below(300),
                98 => self.random.below(3_000),
                _ => 60_000 + self.random.below(20_000),
            };
            let key = self.random.below(4);
            self.topics.publish(topic, filler, key, self.now);
        }
    }

    /// Small messages one by one: as many entries as one write takes, or other numbers of them.
    pub(super) fn publish_a_burst(&mut self) {
        let topic = self.random.below(self.topics.len());
        let random = self.random.below(100);
        for _ in 0..self.random.pick(&[random, 63, 64]) {
            let key = self.random.below(4);
            self.topics.publish(topic, 0, key, self.now);
            self.begin();
            self.carry_on(usize::MAX);
        }
    }

    pub(super) fn begin(&mut self) {
        if self.pass.is_some() || self.topics.inbox_is_empty() {
            return;
        }
        let messages = self.topics.take_inbox();
        for poll in self.clients.iter().filter(|client| client.is_poll()) {
            let has_news = |(topic, start): (&usize, &u64)| {
                messages
                    .iter()
                    .any(|message| message.topic() == self.topics.name(*topic) && message.offset() > *start)
            };
            if poll.starts.iter().any(has_news) {
                self.to_wake.insert(poll.id);
            }
        }
        self.pass_is_silent = false;
        self.pass = Some(self.shard.begin(self.now, self.topics.sequence, messages));
    }

    pub(super) fn begin_silence(&mut self) {
        if self.pass.is_none() {
            self.pass = self.shard.begin_silence(self.now);
            self.pass_is_silent = true;
            self.seen.passes_of_silence += u64::from(self.pass.is_some());
        }
    }

    pub(super) fn deliver(&mut self) {
        let sockets = 1 + self.random.below(4);
        self.carry_on(sockets);
    }

    pub(super) fn carry_on(&mut self, sockets: usize) {
        let Some(pass) = &mut self.pass else { return };
        let progress = self.shard.deliver(pass, sockets, &mut self.sockets, &mut self.report);
        if progress == Progress::Done {
            self.pass = None;
        }
        // Whoever was evicted in the pass did not get all of it.
        self.handle_report();
        if progress == Progress::Done {
            self.topics.finish_pass();
            let slept: Vec<_> = self.to_wake.difference(&self.woken).collect();
            assert!(slept.is_empty(), "{slept:?} were not woken");
            self.to_wake.clear();
            self.woken.clear();
        }
    }

    /// Not within a pass: a pass has one time. Nor does a message wait in the inbox until its topic is stale.
    pub(super) fn wait(&mut self) {
        if self.pass.is_none() && self.topics.inbox_is_empty() {
            self.now += Duration::from_millis(self.random.pick(&[1, 5, 20, 100]));
        }
    }

    pub(super) fn release(&mut self) {
        let due = self.shard.next_release().is_some_and(|at| at <= self.now);
        let next = self.shard.release_held(self.now, &mut self.sockets, &mut self.report);
        assert_eq!(next, self.shard.next_release());
        assert!(next.is_none_or(|next| next > self.now), "what is due is released");
        self.seen.releases += u64::from(due);
        self.handle_report();
    }

    pub(super) fn shed(&mut self) {
        if !self.sheds {
            return;
        }
        self.topics.shed = true;
        let bytes = self.random.pick(&[0, 50, 500, 5_000]);
        let before = (self.shard.outbox_bytes(), self.report.dropped);
        self.shard.shed(bytes, &mut self.report);
        self.seen.sheds += u64::from(self.report.dropped > before.1);
        assert!(self.shard.outbox_bytes() <= before.0);
        let all_refuse = |client: &Client| client.awaits_writable && !client.closing;
        if self.report.evicted.is_empty() && self.clients.iter().all(all_refuse) {
            let larger =
                self.shard.outboxes().0.iter().enumerate().filter(|(class, _)| *class > class_of(bytes));
            assert_eq!(larger.map(|(_, bytes)| bytes).sum::<usize>(), 0, "larger than {bytes}");
        }
        self.handle_report();
    }

    pub(super) fn sweep(&mut self) {
        if !self.sweeps {
            return;
        }
        let before = self.shard.topics();
        self.shard.sweep();
        let swept = before - self.shard.topics();
        self.topics.swept |= swept > 0;
        self.seen.swept_topics += swept as u64;
    }

    /// Other bounds and policies, while all kinds of things wait; not within a pass. Topics are looked at one or two at a time.
    pub(super) fn reload(&mut self) {
        if !self.reloads || self.pass.is_some() {
            return;
        }
        self.limits = any_limits(&mut self.random);
        let (now, most) = (&self.limits, &mut self.most);
        most.subscriptions_max = most.subscriptions_max.max(now.subscriptions_max);
        most.outbox.bytes_max = most.outbox.bytes_max.max(now.outbox.bytes_max);
        most.outbox.messages_max = most.outbox.messages_max.max(now.outbox.messages_max);
        most.outbox.control_bytes_max = most.outbox.control_bytes_max.max(now.outbox.control_bytes_max);
        if now.outbox.messages_max <= KEYS_MAX {
            self.clients.iter_mut().for_each(|client| client.reader.goes_early());
        }
        self.shard.set_limits(self.limits);
        *self.settings.borrow_mut() = self.topics.change_policies(&mut self.random, self.conflates);
        let topics = 1 + self.random.below(2);
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.shard.review_some(from, topics, self.now, |_| None);
        }
        self.trace(|| format!("  {:?}, {:?}", self.limits, self.settings.borrow()));
        self.seen.reloads += 1;
    }
}
