//! A worker's life, made up by a seed: clients come, subscribe to topics and patterns, read slowly or not at all, and leave,
//! while messages pass through the shard in small steps. Every client reads its bytes and checks them against what it was
//! promised.
//!
//! A failure prints its seed. `FANFARE_SIM_SEED=n` runs that seed alone and prints each operation; `FANFARE_SIM_SEEDS=n`
//! runs that many.

mod model;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_fanout::{
    Announce, Beginning, Eviction, Flushed, Left, OutboxLimits, Pass, Progress, Report, Shard, ShardLimits,
    SlowPolicy, SubscribeError, SubscriberId, TopicSettings, Wish,
};
use fanfare_wire::event::Event;
use fanfare_wire::websocket::OpCode;
use fanfare_wire::{FormatId, Position, Topic};
use model::{Follow, Given, NODE, On, Promise, Random, Reader, Seen, Sockets, Tie, Topics, frames};

const SEEDS: u64 = 700;
const STEPS: usize = 400;
const CLIENTS_MAX: usize = 12;
/// So many messages of a topic are retained.
const RETAINED: usize = 40;
/// Topics and keys: more messages cannot be held for a pace.
const KEYS_MAX: usize = 24;
/// An answer, notices, two pings, two pongs and a last frame, all of which are taken whatever the bound says, and what a
/// replay makes ready of them, are not longer than this.
const CONTROL_SLACK: usize = 8_000;

#[test]
fn every_socket_gets_what_it_was_promised() {
    let number = |name| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    if let Some(seed) = number("FANFARE_SIM_SEED") {
        run(seed, true);
        return;
    }
    let mut seen = Seen::default();
    for seed in 0..number("FANFARE_SIM_SEEDS").unwrap_or(SEEDS) {
        seen.add(&run(seed, false));
    }
    seen.check_that_all_happened();
}

fn run(seed: u64, traced: bool) -> Seen {
    let _name = SeedOnPanic(seed);
    let mut world = World::new(seed, traced);
    for _ in 0..STEPS {
        world.step();
        world.check();
    }
    world.wind_down();
    world.seen
}

struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to see it again: FANFARE_SIM_SEED={}", self.0);
        }
    }
}

/// The gateway around the shard: it acts on reports, flushes writable sockets and closes the evicted.
struct World {
    random: Random,
    traced: bool,
    now: Instant,
    limits: ShardLimits,
    /// Nobody dies, leaves or is closed before the end, and nothing is conflated: then every lost message is announced.
    peaceful: bool,
    conflates: bool,
    paces: bool,
    sheds: bool,
    sweeps: bool,
    healthy_percent: usize,
    pattern_percent: usize,
    formats: &'static [FormatId],
    shard: Shard,
    topics: Topics,
    settings: Rc<RefCell<BTreeMap<String, TopicSettings>>>,
    reloads: bool,
    /// The largest bounds there were.
    most: ShardLimits,
    pass: Option<Pass>,
    pass_is_silent: bool,
    /// Polls that the pass under way has to wake, those that it woke, and those that it may as well.
    to_wake: HashSet<SubscriberId>,
    woken: HashSet<SubscriberId>,
    sockets: Sockets,
    clients: Vec<Client>,
    gone: Vec<SubscriberId>,
    report: Report,
    seen: Seen,
}

struct Client {
    id: SubscriberId,
    format: FormatId,
    /// Its socket takes everything, always.
    healthy: bool,
    /// The oldest first.
    ties: Vec<Tie>,
    /// The topics that reach it, and the offset each starts after.
    starts: BTreeMap<usize, u64>,
    unsubscribed: usize,
    reader: Reader,
    /// The shard reported that its socket refuses: the writable event will flush.
    awaits_writable: bool,
    /// Something was queued by a call whose caller flushes, and that has not happened yet.
    owes_flush: bool,
    closing: bool,
}

impl Client {
    fn is_poll(&self) -> bool {
        self.format == FormatId::LONG_POLL
    }

    fn is_tied(&self, on: On) -> bool {
        self.ties.iter().any(|tie| tie.on == on)
    }

    fn is_paced(&self) -> bool {
        self.ties.iter().any(|tie| tie.wish == Wish::Paced)
    }
}

impl World {
    fn new(seed: u64, traced: bool) -> Self {
        const EVERY: &[FormatId] =
            &[FormatId::RAW, FormatId::RAW_DEFLATE, FormatId::JSON, FormatId::JSON_DEFLATE, FormatId::EVENTS];
        let mut random = Random::new(seed);
        let limits = any_limits(&mut random);
        let (conflates, stale) = (random.chance(70), random.chance(50));
        let topics = Topics::new(&mut random, conflates, stale);
        let settings = Rc::new(RefCell::new(topics.all_settings()));
        let rules = Rc::clone(&settings);
        Self {
            traced,
            now: Instant::now(),
            limits,
            peaceful: random.chance(30),
            conflates,
            paces: conflates && random.chance(50),
            sheds: random.chance(40),
            sweeps: random.chance(30),
            healthy_percent: random.pick(&[0, 20, 60]),
            pattern_percent: random.pick(&[0, 40, 60]),
            formats: random.pick(&[
                EVERY,
                EVERY,
                &[FormatId::JSON],
                &[FormatId::JSON_DEFLATE],
                &[FormatId::EVENTS],
            ]),
            shard: Shard::new(limits, NODE, move |topic: &Topic| rules.borrow()[topic.as_str()]),
            topics,
            settings,
            reloads: random.chance(40),
            most: limits,
            pass: None,
            pass_is_silent: false,
            to_wake: HashSet::new(),
            woken: HashSet::new(),
            sockets: Sockets {
                shuffles: random.chance(50).then(|| Random::new(seed + 1)),
                ..Sockets::default()
            },
            clients: Vec::new(),
            gone: Vec::new(),
            report: Report::default(),
            seen: Seen::default(),
            random,
        }
    }

    fn step(&mut self) {
        type Operation = fn(&mut World);
        const OPERATIONS: [(&str, usize, Operation); 25] = [
            ("connect", 6, World::connect),
            ("subscribe", 16, World::subscribe),
            ("unsubscribe", 7, World::unsubscribe),
            ("a poll begins", 2, World::poll),
            ("a poll ends", 2, World::end_poll),
            ("publish", 22, World::publish),
            ("publish a burst", 3, World::publish_a_burst),
            ("begin a pass", 12, World::begin),
            ("deliver", 40, World::deliver),
            ("time passes", 16, World::wait),
            ("look for silence", 4, World::begin_silence),
            ("release what is held", 5, World::release),
            ("shed", 2, World::shed),
            ("sweep", 2, World::sweep),
            ("reload", 2, World::reload),
            ("a socket drains", 4, World::make_room),
            ("a socket is writable", 8, World::writable),
            ("a socket stalls", 7, World::stall),
            ("a peer dies", 1, World::kill),
            ("answer", 6, World::answer),
            ("ping or pong", 7, World::heartbeat),
            ("flush what is owed", 6, World::flush_owed),
            ("leave", 3, World::leave),
            ("use an old id", 1, World::use_an_old_id),
            ("everybody reads", 1, World::everybody_reads),
        ];
        let weights: usize = OPERATIONS.iter().map(|(_, weight, _)| weight).sum();
        let mut left = self.random.below(weights);
        for (name, weight, operation) in OPERATIONS {
            if left < weight {
                if self.traced {
                    eprintln!("{name}");
                }
                return operation(self);
            }
            left -= weight;
        }
    }

    // === what clients do ===

    fn connect(&mut self) {
        if self.clients.len() >= CLIENTS_MAX {
            return;
        }
        let format = self.random.pick(self.formats);
        let healthy = self.random.chance(self.healthy_percent);
        let room = if healthy { None } else { Some(self.random.below(400)) };
        self.add_client(format, healthy, room);
    }

    fn add_client(&mut self, format: FormatId, healthy: bool, room: Option<usize>) {
        let id = self.shard.connect(format, format.plain() != FormatId::RAW);
        self.sockets.open(id, room);
        self.trace(|| format!("  {id:?}, healthy: {healthy}, {}", format.format().name()));
        self.clients.push(Client {
            id,
            format,
            healthy,
            ties: Vec::new(),
            starts: BTreeMap::new(),
            unsubscribed: 0,
            reader: Reader::new(format, healthy, healthy && self.limits.outbox.messages_max > KEYS_MAX),
            awaits_writable: false,
            owes_flush: false,
            closing: false,
        });
    }

    /// A topic or a pattern.
    fn any_name(&mut self) -> On {
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

    fn subscribe(&mut self) {
        let Some(client) = self.any_client() else { return };
        let on = self.any_name();
        self.subscribe_to(client, on);
    }

    fn subscribe_to(&mut self, client: usize, on: On) {
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

    fn subscribe_in_shard(
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

    fn unsubscribe(&mut self) {
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

    /// A client without a socket, which is woken when there is something.
    fn poll(&mut self) {
        if self.clients.len() >= CLIENTS_MAX {
            return;
        }
        self.add_client(FormatId::LONG_POLL, true, None);
        for _ in 0..1 + self.random.below(2) {
            let on = self.any_name();
            self.subscribe_to(self.clients.len() - 1, on);
        }
    }

    fn end_poll(&mut self) {
        if let Some(poll) = self.clients.iter().position(Client::is_poll) {
            self.disconnect(poll);
        }
    }

    fn make_room(&mut self) {
        let Some(client) = self.any_client() else { return };
        let more = self.random.below(200);
        let socket = self.sockets.of(self.clients[client].id);
        socket.room = socket.room.map(|room| room + more);
    }

    /// The worker hears of it only if it was told to listen.
    fn writable(&mut self) {
        let Some(client) = self.any_client() else { return };
        let id = self.clients[client].id;
        let more = self.random.pick(&[1, 10, 100, 1_000, 10_000]);
        let socket = self.sockets.of(id);
        socket.room = socket.room.map(|room| room + more);
        if self.clients[client].awaits_writable {
            self.flush(id);
        }
    }

    fn stall(&mut self) {
        let Some(client) = self.any_client() else { return };
        let socket = self.sockets.of(self.clients[client].id);
        socket.room = socket.room.map(|_| 0);
    }

    fn kill(&mut self) {
        if let Some(client) = self.any_client()
            && !self.peaceful
        {
            self.sockets.of(self.clients[client].id).dead = true;
        }
    }

    /// A client closes its connection, or the gateway does.
    fn leave(&mut self) {
        let Some(client) = self.any_client() else { return };
        match self.random.below(3) {
            _ if self.peaceful => {}
            0 => self.disconnect(client),
            way => self.close(client, way == 1),
        }
    }

    // === what the gateway does ===

    fn publish(&mut self) {
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
    fn publish_a_burst(&mut self) {
        let topic = self.random.below(self.topics.len());
        let random = self.random.below(100);
        for _ in 0..self.random.pick(&[random, 63, 64]) {
            let key = self.random.below(4);
            self.topics.publish(topic, 0, key, self.now);
            self.begin();
            self.carry_on(usize::MAX);
        }
    }

    fn begin(&mut self) {
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

    fn begin_silence(&mut self) {
        if self.pass.is_none() {
            self.pass = self.shard.begin_silence(self.now);
            self.pass_is_silent = true;
            self.seen.passes_of_silence += u64::from(self.pass.is_some());
        }
    }

    fn deliver(&mut self) {
        let sockets = 1 + self.random.below(4);
        self.carry_on(sockets);
    }

    fn carry_on(&mut self, sockets: usize) {
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
    fn wait(&mut self) {
        if self.pass.is_none() && self.topics.inbox_is_empty() {
            self.now += Duration::from_millis(self.random.pick(&[1, 5, 20, 100]));
        }
    }

    fn release(&mut self) {
        let due = self.shard.next_release().is_some_and(|at| at <= self.now);
        let next = self.shard.release_held(self.now, &mut self.sockets, &mut self.report);
        assert_eq!(next, self.shard.next_release());
        assert!(next.is_none_or(|next| next > self.now), "what is due is released");
        self.seen.releases += u64::from(due);
        self.handle_report();
    }

    fn shed(&mut self) {
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

    fn sweep(&mut self) {
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
    fn reload(&mut self) {
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

    fn answer(&mut self) {
        let Some(client) = self.any_client() else { return };
        let id = self.clients[client].id;
        // An event of the server's own, which brings a mark.
        if self.random.chance(40) {
            match self.shard.push_event(id, &Event::Heartbeat { time: 0 }) {
                Ok(()) => {}
                Err(_) => {
                    self.seen.refused_answers += 1;
                    self.close(client, true);
                }
            }
        } else {
            self.push_answer(client, Promise::Answer);
        }
        self.after_push(id);
    }

    fn heartbeat(&mut self) {
        let kind = self.random.pick(&[OpCode::Ping, OpCode::Pong]);
        let Some(client) = self.any_client() else { return };
        let client = &mut self.clients[client];
        let id = client.id;
        if client.format == FormatId::EVENTS {
            return;
        }
        // After the close frame nothing may come: what is pushed then goes nowhere.
        let number = if client.closing { 0 } else { client.reader.expect_heartbeat(kind) };
        self.shard.push_pong(id, frames::heartbeat(kind, number));
        self.after_push(id);
    }

    fn flush_owed(&mut self) {
        let owing: Vec<_> = self.clients.iter().filter(|client| client.owes_flush).map(|c| c.id).collect();
        for id in owing {
            self.flush(id);
        }
    }

    fn use_an_old_id(&mut self) {
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

    /// All sockets take everything for a moment: what waited was within the bounds, and was counted right.
    fn everybody_reads(&mut self) {
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

    // === helpers ===

    fn trace(&self, line: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{}", line());
        }
    }

    /// A client with a socket.
    fn any_client(&mut self) -> Option<usize> {
        let with_socket = |client: &&Client| !client.is_poll();
        let count = self.clients.iter().filter(with_socket).count();
        let place = (count > 0).then(|| self.random.below(count))?;
        let mut clients = self.clients.iter().enumerate().filter(|(_, client)| with_socket(client));
        clients.nth(place).map(|(index, _)| index)
    }

    fn ids(&self) -> Vec<SubscriberId> {
        self.clients.iter().map(|client| client.id).collect()
    }

    fn is_wanted(&self, on: On) -> bool {
        self.clients.iter().any(|client| client.is_tied(on))
    }

    /// The least and the most a client was given so far of a topic, as the offset of its last message.
    fn given(&self, client: usize, topic: usize) -> Given {
        let start = self.clients[client].starts.get(&topic).copied().unwrap_or(0);
        let (least, most) = self.topics.given(topic);
        (least.max(start), most.max(start))
    }

    fn given_all(&self, client: usize) -> BTreeMap<usize, Given> {
        self.clients[client].starts.keys().map(|&topic| (topic, self.given(client, topic))).collect()
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

    /// Queues an answer. A client that does not read its answers is closed.
    fn push_answer(&mut self, client: usize, promise: Promise) {
        let Client { id, closing, format, .. } = self.clients[client];
        let number = self.clients[client].reader.next_answer();
        let filler = self.random.below(60);
        match self.shard.push_control(id, frames::answer(format, number, filler)) {
            // Nothing follows the last frame.
            Ok(()) if closing => {}
            Ok(()) => self.clients[client].reader.promise(promise),
            Err(eviction) => {
                assert_eq!(eviction, Eviction::SlowConsumer);
                assert!(self.shard.is_waiting(id), "an empty outbox takes any answer");
                self.seen.refused_answers += 1;
                self.close(client, true);
            }
        }
    }

    /// The caller of a push flushes: mostly at once, sometimes after other things have happened.
    fn after_push(&mut self, id: SubscriberId) {
        self.handle_report();
        if self.random.chance(75) {
            self.flush(id);
        } else if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.owes_flush = true;
            client.reader.is_late();
        }
    }

    fn flush(&mut self, id: SubscriberId) {
        let writes = self.random.pick(&[1, 4, usize::MAX, usize::MAX]);
        let flushed = self.shard.flush_some(id, writes, &mut self.sockets, &mut self.report);
        self.handle_report();
        let Some(at) = self.clients.iter().position(|client| client.id == id) else { return };
        let client = &mut self.clients[at];
        client.owes_flush = false;
        match flushed {
            Flushed::Empty => client.awaits_writable = false,
            Flushed::More => {
                // The rest follows in a later turn; until then the socket is not known to be full.
                client.owes_flush = true;
                client.awaits_writable = false;
                client.reader.is_late();
                self.seen.interrupted_flushes += 1;
            }
            Flushed::Blocked => assert!(client.awaits_writable, "{id:?} blocked, and nobody was told"),
            Flushed::PeerGone => self.disconnect(at),
        }
    }

    fn handle_report(&mut self) {
        for id in std::mem::take(&mut self.report.blocked) {
            if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
                client.awaits_writable = true;
            }
        }
        for id in std::mem::take(&mut self.report.woken) {
            assert!(self.to_wake.contains(&id), "{id:?} is woken, and there is nothing");
            self.woken.insert(id);
            self.seen.polls_woken += 1;
        }
        for (id, eviction) in std::mem::take(&mut self.report.evicted) {
            self.trace(|| format!("  {id:?} is evicted: {eviction:?}"));
            let at = self.clients.iter().position(|client| client.id == id);
            let at = at.expect("only the connected are evicted, and once");
            let client = &self.clients[at];
            let mut policies = Vec::new();
            for &topic in client.starts.keys() {
                let tie = self.topics.effective(&client.ties, topic).expect("it reaches the client");
                policies.push(self.topics.policy(tie, topic));
            }
            match eviction {
                Eviction::PeerGone => {
                    assert!(self.sockets.of(id).dead, "{id:?} is alive");
                    self.seen.peers_gone += 1;
                    self.disconnect(at);
                    continue;
                }
                Eviction::SlowConsumer => {
                    // Too many notices are answers that nobody reads.
                    let strict = policies.contains(&SlowPolicy::Disconnect);
                    assert!(strict || client.format.plain() != FormatId::RAW, "nothing strict here");
                    self.seen.slow_consumers += 1;
                }
                Eviction::Gap => {
                    let lenient = policies.iter().any(|policy| *policy != SlowPolicy::Disconnect);
                    assert!(client.format.plain() == FormatId::RAW && lenient);
                    self.seen.evictions_for_a_gap += 1;
                }
                Eviction::Budget => {
                    assert!(self.topics.shed, "nobody asked for it");
                    self.seen.evictions_for_the_budget += 1;
                }
            }
            assert!(!client.healthy || client.owes_flush, "{id:?} reads everything: {eviction:?}");
            self.clients[at].reader.expect_eviction();
            let discard = self.random.chance(50);
            self.close(at, discard);
        }
    }

    fn close(&mut self, at: usize, discard: bool) {
        let id = self.clients[at].id;
        let given = self.given_all(at);
        let client = &mut self.clients[at];
        if !client.closing {
            client.reader.expect_close(if discard { None } else { Some(given) });
        }
        client.closing = true;
        client.starts.clear();
        let ties = std::mem::take(&mut client.ties);
        let mut left = Vec::new();
        self.trace(|| format!("  {id:?} closes, discard: {discard}"));
        self.shard.close(id, frames::last(self.clients[at].format), discard, &mut left);
        self.take_back(&ties, left);
        self.seen.closed_and_discarded += u64::from(discard);
        self.flush(id);
    }

    fn disconnect(&mut self, at: usize) {
        let mut client = self.clients.swap_remove(at);
        self.trace(|| format!("  {:?} disconnects", client.id));
        let mut left = Vec::new();
        self.shard.disconnect(client.id, &mut left);
        self.take_back(&std::mem::take(&mut client.ties), left);
        self.read(&mut client);
        self.to_wake.remove(&client.id);
        self.sockets.shut(client.id);
        self.gone.push(client.id);
        self.seen.deliveries += client.reader.total.messages;
        self.seen.messages_lost += client.reader.total.lost;
        self.seen.add(&client.reader.seen);
    }

    /// Takes interest back in what nobody here wants any more.
    fn take_back(&mut self, ties: &[Tie], left: Vec<Left>) {
        assert_eq!(left.len(), ties.len());
        for (tie, left) in ties.iter().zip(left) {
            assert_eq!(self.topics.find_name(&left.name), tie.on);
            assert_eq!(left.last, !self.is_wanted(tie.on));
            if left.last {
                self.topics.leave(tie.on);
            }
        }
    }

    fn receive(&mut self, id: SubscriberId) -> Vec<u8> {
        let received = std::mem::take(&mut self.sockets.of(id).received);
        if !received.is_empty() {
            self.trace(|| format!("  {id:?} reads {:?}", String::from_utf8_lossy(&received)));
        }
        received
    }

    fn read(&mut self, client: &mut Client) {
        let received = self.receive(client.id);
        client.reader.read(&received, &self.topics, self.now);
        self.seen.cut_frames += u64::from(client.reader.is_mid_frame() && !received.is_empty());
    }

    // === after each step, and at the end ===

    fn check(&mut self) {
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

    /// The pass and the inbox come to their end, what is held is released, every topic falls silent, every live socket takes
    /// what waits, and everybody leaves.
    fn wind_down(&mut self) {
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
}

fn any_limits(random: &mut Random) -> ShardLimits {
    let outbox = OutboxLimits {
        bytes_max: random.pick(&[60, 300, 3_000, 60_000]),
        messages_max: random.pick(&[2, 10, 70, 500]),
        control_bytes_max: random.pick(&[60, 400, 4_000]),
    };
    ShardLimits { outbox, subscriptions_max: 1 + random.below(4) }
}

/// The size class of an outbox: a power of two.
fn class_of(bytes: usize) -> usize {
    (usize::BITS - bytes.leading_zeros()) as usize
}
