//! How clients subscribe to topics and patterns, what the shard has to say to it, and how they unsubscribe.

use std::time::Duration;

use fanfare_fanout::{Announce, Beginning, Eviction, SubscribeError, SubscriberId, Wish};
use fanfare_wire::{FormatId, Position, Topic};

use super::{Client, RETAINED, World};
use crate::model::{Follow, On, Promise, Tie};

impl World {
    /// A topic or a pattern.
    pub(super) fn any_name(&mut self) -> On {
        if self.random.chance(self.pattern_percent) {
            On::Pattern(self.random.below(self.topics.patterns()))
        } else {
            On::Topic(self.random.below(self.topics.len()))
        }
    }

    fn any_wish(&mut self, format: FormatId) -> Wish {
        match self.random.below(10) {
            0 => Wish::Queue,
            1 if self.conflates => Wish::Latest,
            // An event stream with a pace would have marks ahead of what is held back.
            2 | 3 if self.paces && format != FormatId::EVENTS => Wish::Paced,
            _ => Wish::AsTopic,
        }
    }

    pub(super) fn subscribe(&mut self) {
        let Some(client) = self.any_client() else { return };
        let on = self.any_name();
        self.subscribe_to(client, on);
    }

    pub(super) fn subscribe_to(&mut self, client: usize, on: On) {
        let Client { id, closing, format, ref ties, .. } = self.clients[client];
        let tied = self.clients[client].is_tied(on);
        let expect = match () {
            () if closing => Err(SubscribeError::Closing),
            () if !tied && ties.len() >= self.limits.subscriptions_max => Err(SubscribeError::TooMany),
            () => Ok(!tied),
        };
        if expect != Ok(true) {
            assert_eq!(self.subscribe_in_shard(id, on, Wish::AsTopic, Vec::new()), expect.map(|_| false));
            assert_eq!(
                self.shard.may_subscribe(id).err().or_else(|| expect.err()),
                self.shard.may_subscribe(id).err()
            );
            return;
        }
        let wish = self.any_wish(format);
        let interval = Duration::from_millis(self.random.pick(&[10, 40]));
        let tie = Tie { on, wish, interval, reload: self.topics.reload };
        self.topics.join(on);
        // Messages up to the start may be in the inbox or in the pass under way: they are not for this subscription.
        let reached: Vec<usize> =
            (0..self.topics.len()).filter(|topic| self.topics.covers(on, *topic)).collect();
        let exists = |topic: &usize| on == On::Topic(*topic) || self.topics.last(*topic) > 0;
        let existing: Vec<usize> = reached.iter().copied().filter(exists).collect();
        let starts =
            existing.iter().map(|topic| (self.topics.name(*topic).clone(), self.topics.last(*topic)));
        let starts: Vec<(Topic, u64)> = starts.collect();
        self.trace(|| format!("  {id:?} to {:?}, {wish:?} after {starts:?}", self.topics.name_of(on)));
        let is_new = |topic: &usize| self.topics.effective(&self.clients[client].ties, *topic).is_none();
        let news: Vec<usize> = existing.into_iter().filter(is_new).collect();
        for topic in &reached {
            assert_eq!(self.shard.is_covered(id, self.topics.name(*topic)), !is_new(topic));
        }
        let any_new = match on {
            On::Topic(_) => !news.is_empty(),
            On::Pattern(_) => true,
        };
        assert_eq!(self.subscribe_in_shard(id, on, wish, starts), Ok(any_new));
        if wish == Wish::Paced {
            self.shard.pace(id, &self.topics.name_of(on), interval);
        }
        self.seen.newcomers_in_a_pass += u64::from(self.pass.is_some());
        let (follows, beginnings) = news.into_iter().map(|topic| self.beginning(topic, on)).unzip();
        let client_state = &mut self.clients[client];
        client_state.ties.push(tie);
        for topic in reached {
            client_state.starts.entry(topic).or_insert_with(|| self.topics.last(topic));
        }
        if self.clients[client].is_poll() {
            return;
        }
        self.push_answer(client, Promise::Subscribed { tie, follows });
        if !self.clients.get(client).is_some_and(|client| client.id == id && !client.closing) {
            return;
        }
        self.replay(client, beginnings);
        self.after_push(id);
    }

    pub(super) fn subscribe_in_shard(
        &mut self,
        id: SubscriberId,
        on: On,
        wish: Wish,
        starts: Vec<(Topic, u64)>,
    ) -> Result<bool, SubscribeError> {
        match on {
            On::Topic(topic) => {
                let start = starts.first().map_or(0, |(_, start)| *start);
                self.shard.subscribe(id, self.topics.name(topic), wish, start)
            }
            On::Pattern(pattern) => {
                self.shard.subscribe_pattern(id, self.topics.pattern(pattern), wish, starts)
            }
        }
    }

    /// How a topic that is new to a client begins.
    fn beginning(&mut self, topic: usize, on: On) -> (Follow, Beginning) {
        let start = self.topics.last(topic);
        let most = RETAINED.min(start as usize);
        let some = self.random.below(most + 1);
        let count = self.random.pick(&[0, most.min(1), some]);
        let age = self.topics.age(topic, self.now);
        let name = self.topics.name(topic).clone();
        let stale = self.shard.note_age(&name, age, self.now);
        if let Some(stale) = stale {
            assert_eq!(Some(stale), age);
            assert!(Some(stale) >= self.topics.settings(topic).stale_after);
        }
        let position = Position { epoch: self.topics.epoch(topic), offset: start };
        let announce =
            matches!(on, On::Pattern(_)).then_some(Announce { position, recovered: None, policy: None });
        let messages = self.topics.newest(topic, count);
        let follow = Follow { topic, next: start + 1 - count as u64, start, stale: stale.is_some() };
        (follow, Beginning { topic: name, announce, stale, messages })
    }

    fn replay(&mut self, client: usize, beginnings: Vec<Beginning>) {
        let id = self.clients[client].id;
        let messages = beginnings.iter().map(|beginning| beginning.messages.len() as u64);
        let several = messages.clone().filter(|messages| *messages > 0).count() > 1;
        self.seen.replays += messages.sum::<u64>();
        self.seen.replays_of_several_topics += u64::from(several);
        if let Err(eviction) = self.shard.replay(id, beginnings) {
            // It subscribed over and over, and read nothing.
            assert_eq!(eviction, Eviction::SlowConsumer);
            self.seen.refused_replays += 1;
            self.close(client, true);
        }
    }

    pub(super) fn unsubscribe(&mut self) {
        let Some(client) = self.any_client() else { return };
        let on = match self.clients[client].ties.len() {
            0 => self.any_name(),
            ties => {
                let place = self.random.below(ties);
                self.clients[client].ties[place].on
            }
        };
        let Client { id, ref ties, .. } = self.clients[client];
        let Some(place) = ties.iter().position(|tie| tie.on == on) else {
            assert_eq!(self.shard.unsubscribe(id, &self.topics.name_of(on)), None);
            return;
        };
        let (mut ended, mut handed_over) = (Vec::new(), Vec::new());
        for topic in self.clients[client].starts.keys().copied().collect::<Vec<_>>() {
            let ties = &self.clients[client].ties;
            let mut reaching = (0..ties.len()).filter(|place| self.topics.covers(ties[*place].on, topic));
            if reaching.next() != Some(place) {
                continue;
            }
            let given = (topic, self.given(client, topic));
            if reaching.next().is_none() { ended.push(given) } else { handed_over.push(given) }
        }
        // In a pass that tells of silence, too, though it has no messages that could be missed.
        let in_pass =
            |topic: usize| self.topics.is_in_pass(topic) || self.pass_is_silent && self.pass.is_some();
        let may_tear = handed_over.iter().any(|(topic, _)| in_pass(*topic));
        let state = &mut self.clients[client];
        state.ties.remove(place);
        state.unsubscribed += 1;
        if !handed_over.is_empty() {
            state.reader.goes_early();
        }
        ended.iter().for_each(|(topic, _)| {
            state.starts.remove(topic);
        });
        let unsubscribed = self.shard.unsubscribe(id, &self.topics.name_of(on)).expect("it is tied");
        self.trace(|| format!("  {id:?}: {unsubscribed:?}"));
        assert!(may_tear || !unsubscribed.torn, "torn, and nothing was handed over in a pass");
        assert_eq!(self.topics.find_name(&unsubscribed.left.name), on);
        assert_eq!(unsubscribed.left.last, !self.is_wanted(on));
        if unsubscribed.left.last {
            self.topics.leave(on);
        }
        self.seen.leavers_in_a_pass += u64::from(self.pass.is_some());
        if unsubscribed.torn {
            self.seen.torn += 1;
            return self.close(client, true);
        }
        self.push_answer(client, Promise::Unsubscribed { on, ended, handed_over });
        self.after_push(id);
    }
}
