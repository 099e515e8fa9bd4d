//! A worker's life, made up by a seed: clients come, subscribe, read slowly or not at all, and leave, while messages pass
//! through the shard in small steps. Every client reads its bytes and checks them against what it was promised.
//!
//! A failure prints its seed. `FANFARE_SIM_SEED=n` runs that seed alone and prints each operation; `FANFARE_SIM_SEEDS=n`
//! runs that many.

mod model;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fanfare_fanout::{
    Beginning, Eviction, Flushed, Left, OutboxLimits, Pass, Progress, Report, Shard, ShardLimits, SlowPolicy,
    SubscribeError, SubscriberId, TopicSettings, Wish,
};
use fanfare_wire::websocket::{CloseCode, OpCode, close_frame};
use fanfare_wire::{Epoch, FormatId, Message, Name, Topic};
use model::{Promise, Random, Reader, Seen, Sockets, Topics, control_frame, heartbeat_frame};

const SEEDS: u64 = 300;
const STEPS: usize = 400;
const CLIENTS_MAX: usize = 12;
/// An answer, two pings, two pongs and a close frame, all of which are taken whatever the bound says, are not longer than this.
const CONTROL_SLACK: usize = 400;

#[test]
fn every_socket_gets_what_it_was_promised() {
    let number = |name| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    if let Some(seed) = number("FANFARE_SIM_SEED") {
        run(seed, true);
        return;
    }
    let mut seen = Seen::default();
    for seed in 0..number("FANFARE_SIM_SEEDS").unwrap_or(SEEDS) {
        seen.add(run(seed, false));
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

/// Retained messages of a topic that was subscribed by its name.
fn beginning(name: &Topic, messages: impl IntoIterator<Item = Arc<Message>>) -> Beginning {
    Beginning { topic: name.clone(), announce: None, stale: None, messages: messages.into_iter().collect() }
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
    limits: ShardLimits,
    /// Nobody dies, leaves or is closed before the end: then every lost message is announced.
    peaceful: bool,
    healthy_percent: usize,
    json_percent: usize,
    shard: Shard,
    topics: Topics,
    pass: Option<Pass>,
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
    /// Its topics, and the offset each subscription starts after.
    starts: BTreeMap<usize, u64>,
    /// The topic whose last message is on its way to the outbox.
    awaits_replay: Option<usize>,
    reader: Reader,
    /// The shard reported that its socket refuses: the writable event will flush.
    awaits_writable: bool,
    /// Something was queued by a call whose caller flushes, and that has not happened yet.
    owes_flush: bool,
    closing: bool,
}

impl World {
    fn new(seed: u64, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let outbox = OutboxLimits {
            bytes_max: random.pick(&[60, 300, 3_000, 60_000]),
            messages_max: random.pick(&[2, 10, 70, 500]),
            control_bytes_max: random.pick(&[60, 400, 4_000]),
        };
        let limits = ShardLimits { outbox, subscriptions_max: 1 + random.below(4) };
        let policies = [SlowPolicy::Disconnect, SlowPolicy::DropOldest];
        let policies: Vec<_> = (0..1 + random.below(5)).map(|_| random.pick(&policies)).collect();
        let topics = Topics::new(policies.iter().copied());
        let settings = move |topic: &Topic| {
            let index: usize = topic.as_str()[1..].parse().expect("topics here are numbered");
            TopicSettings { policy: policies[index], stale_after: None }
        };
        Self {
            traced,
            limits,
            peaceful: random.chance(30),
            healthy_percent: random.pick(&[0, 20, 60]),
            json_percent: random.pick(&[40, 70, 100]),
            shard: Shard::new(limits, Epoch::new(7), settings),
            topics,
            pass: None,
            sockets: Sockets::default(),
            clients: Vec::new(),
            gone: Vec::new(),
            report: Report::default(),
            seen: Seen::default(),
            random,
        }
    }

    fn step(&mut self) {
        type Operation = fn(&mut World);
        const OPERATIONS: [(&str, usize, Operation); 18] = [
            ("connect", 6, World::connect),
            ("subscribe", 14, World::subscribe),
            ("unsubscribe", 6, World::unsubscribe),
            ("publish", 22, World::publish),
            ("publish a burst", 3, World::publish_a_burst),
            ("begin a pass", 12, World::begin),
            ("deliver", 40, World::deliver),
            ("a socket drains", 4, World::make_room),
            ("a socket is writable", 8, World::writable),
            ("a socket stalls", 7, World::stall),
            ("a peer dies", 1, World::kill),
            ("answer", 6, World::answer),
            ("ping or pong", 9, World::heartbeat),
            ("flush what is owed", 6, World::flush_owed),
            ("close", 2, World::close_one),
            ("disconnect", 1, World::disconnect_one),
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
        let format = if self.random.chance(self.json_percent) { FormatId::JSON } else { FormatId::RAW };
        let healthy = self.random.chance(self.healthy_percent);
        let id = self.shard.connect(format, format == FormatId::JSON);
        self.sockets.open(id, if healthy { None } else { Some(self.random.below(400)) });
        self.trace(|| format!("  {id:?}, healthy: {healthy}, {format:?}"));
        self.clients.push(Client {
            id,
            format,
            healthy,
            starts: BTreeMap::new(),
            awaits_replay: None,
            reader: Reader::new(format),
            awaits_writable: false,
            owes_flush: false,
            closing: false,
        });
    }

    fn subscribe(&mut self) {
        let Some(client) = self.any_client() else { return };
        let topic = self.random.below(self.topics.len());
        let name = self.topics.name(topic).clone();
        let Client { id, closing, ref starts, .. } = self.clients[client];
        let tied = starts.contains_key(&topic);
        let expect = match () {
            () if closing => Err(SubscribeError::Closing),
            () if !tied && starts.len() >= self.limits.subscriptions_max => Err(SubscribeError::TooMany),
            () => Ok(()),
        };
        assert_eq!(self.shard.is_subscribed(id, &name), tied);
        if !tied {
            assert_eq!(self.shard.may_subscribe(id), expect);
        }
        if expect.is_err() {
            return;
        }
        // Messages up to `start` may be in the inbox or in the pass under way: they are not for this subscription.
        let (start, last) = self.topics.join(topic);
        self.trace(|| format!("  {id:?} to {name} after {start}"));
        assert_eq!(self.shard.subscribe(id, &name, Wish::AsTopic, start), Ok(!tied));
        if tied {
            return;
        }
        self.seen.newcomers_in_a_pass += u64::from(self.pass.is_some());
        let replay = last.filter(|_| self.random.chance(60));
        let next = start + u64::from(replay.is_none());
        self.clients[client].starts.insert(topic, start);
        self.clients[client].awaits_replay = replay.as_ref().map(|_| topic);
        self.push_answer(client, Promise::Subscribed { topic, next, start });
        if let Some(message) = replay {
            self.seen.replays += 1;
            if let Err(eviction) = self.shard.replay(id, vec![beginning(&name, [message])]) {
                // It subscribed over and over, and read nothing.
                assert_eq!(eviction, Eviction::SlowConsumer);
                self.close(client, true);
            }
            // A subscriber that was too slow for the replay is evicted without it.
            self.handle_report();
        }
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.awaits_replay = None;
        }
        self.after_push(id);
    }

    fn unsubscribe(&mut self) {
        let Some(client) = self.any_client() else { return };
        let topic = self.random.below(self.topics.len());
        let name = self.topics.name(topic).clone();
        let id = self.clients[client].id;
        let given = self.given(client, topic);
        let expect = self.clients[client].starts.remove(&topic).map(|_| !self.is_wanted(topic));
        self.trace(|| format!("  {id:?} from {name}: {expect:?}"));
        let left = self.shard.unsubscribe(id, &Name::Topic(name));
        assert_eq!(left.map(|left| (left.left.last, left.torn)), expect.map(|last| (last, false)));
        let Some(last) = expect else { return };
        if last {
            self.topics.leave(topic);
        }
        self.seen.leavers_in_a_pass += u64::from(self.pass.is_some());
        self.push_answer(client, Promise::Unsubscribed { topic, given });
        self.after_push(id);
    }

    fn disconnect_one(&mut self) {
        if let Some(client) = self.any_client()
            && !self.peaceful
        {
            self.disconnect(client);
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
            self.topics.publish(topic, filler);
        }
    }

    /// Small messages one by one: as many entries as one write takes, or other numbers of them.
    fn publish_a_burst(&mut self) {
        let topic = self.random.below(self.topics.len());
        let random = self.random.below(100);
        for _ in 0..self.random.pick(&[random, 63, 64]) {
            self.topics.publish(topic, 0);
            self.begin();
            self.carry_on(usize::MAX);
        }
    }

    fn begin(&mut self) {
        if self.pass.is_none() && !self.topics.inbox_is_empty() {
            self.pass = Some(self.shard.begin(Instant::now(), 0, self.topics.take_inbox()));
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
        }
    }

    fn answer(&mut self) {
        let Some(client) = self.any_client() else { return };
        let id = self.clients[client].id;
        self.push_answer(client, Promise::Answer);
        self.after_push(id);
    }

    fn heartbeat(&mut self) {
        let kind = self.random.pick(&[OpCode::Ping, OpCode::Pong]);
        let Some(client) = self.any_client() else { return };
        let client = &mut self.clients[client];
        let id = client.id;
        // After the close frame nothing may come: what is pushed then goes nowhere.
        let number = if client.closing { 0 } else { client.reader.expect_heartbeat(kind) };
        self.shard.push_pong(id, heartbeat_frame(kind, number));
        self.after_push(id);
    }

    fn flush_owed(&mut self) {
        let owing: Vec<_> = self.clients.iter().filter(|client| client.owes_flush).map(|c| c.id).collect();
        for id in owing {
            self.flush(id);
        }
    }

    fn close_one(&mut self) {
        let Some(client) = self.any_client() else { return };
        let discard = self.random.chance(50);
        if !self.peaceful {
            self.close(client, discard);
        }
    }

    fn use_an_old_id(&mut self) {
        if self.gone.is_empty() {
            return;
        }
        let id = self.gone[self.random.below(self.gone.len())];
        let topic = self.random.below(self.topics.len());
        let name = self.topics.name(topic).clone();
        let frame = Bytes::from_static(b"never");
        let last = self.topics.last(topic);
        let mut left = Vec::new();
        assert_eq!(self.shard.subscribe(id, &name, Wish::AsTopic, 0), Err(SubscribeError::Closing));
        assert_eq!(self.shard.may_subscribe(id), Err(SubscribeError::Closing));
        assert!(!self.shard.is_subscribed(id, &name) && !self.shard.is_waiting(id));
        assert_eq!(self.shard.unsubscribe(id, &Name::Topic(name.clone())), None);
        assert_eq!(self.shard.push_control(id, frame.clone()), Ok(()));
        self.shard.push_pong(id, frame.clone());
        assert_eq!(self.shard.replay(id, vec![beginning(&name, last)]), Ok(()));
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
            let (before, waited) = (self.shard.outbox_bytes(), self.shard.is_waiting(id));
            let flushed = self.shard.flush(id, &mut self.sockets, &mut self.report);
            assert_eq!(flushed, Flushed::Empty);
            let client = self.clients.iter_mut().find(|client| client.id == id).expect("listed above");
            client.awaits_writable = false;
            client.owes_flush = false;
            let received = std::mem::take(&mut self.sockets.of(id).received);
            let kept = client.reader.read(&received, &self.topics);
            self.sockets.of(id).room = room;
            assert_eq!(waited, kept.bytes > 0);
            assert!(!client.reader.is_mid_frame(), "an empty outbox leaves a frame cut off");
            let counted = before - self.shard.outbox_bytes();
            let live = kept.bytes - kept.gap_bytes - kept.replay_bytes;
            assert!(live <= counted, "{id:?} {kept:?} {counted}");
            assert!(kept.replay_bytes > 0 || live == counted, "{id:?} {kept:?} {counted}");
            let bound = &self.limits.outbox;
            assert!(kept.bytes - kept.gap_bytes <= self.waiting_bytes_max(), "{id:?} {kept:?} {bound:?}");
            let replays_max = self.limits.subscriptions_max + 1;
            let messages_max = bound.messages_max.max(self.topics.group_messages_max + 1) + replays_max;
            assert!(kept.messages <= messages_max as u64, "{id:?} {kept:?} {bound:?}");
        }
        self.handle_report();
    }

    // === helpers ===

    fn trace(&self, line: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{}", line());
        }
    }

    fn any_client(&mut self) -> Option<usize> {
        (!self.clients.is_empty()).then(|| self.random.below(self.clients.len()))
    }

    fn ids(&self) -> Vec<SubscriberId> {
        self.clients.iter().map(|client| client.id).collect()
    }

    fn is_wanted(&self, topic: usize) -> bool {
        self.clients.iter().any(|client| client.starts.contains_key(&topic))
    }

    /// The least and the most a client's subscription was given so far, as the offset of its last message.
    fn given(&self, client: usize, topic: usize) -> (u64, u64) {
        let Client { ref starts, awaits_replay, .. } = self.clients[client];
        let start = starts.get(&topic).copied().unwrap_or(0);
        if awaits_replay == Some(topic) {
            return (start - 1, start);
        }
        let (least, most) = self.topics.given(topic);
        (least.max(start), most.max(start))
    }

    fn given_all(&self, client: usize) -> BTreeMap<usize, (u64, u64)> {
        self.clients[client].starts.keys().map(|&topic| (topic, self.given(client, topic))).collect()
    }

    /// The most that may wait for one subscriber: a half-written message and a batch, if they are over the bound, and its
    /// replays of one message each.
    fn waiting_bytes_max(&self) -> usize {
        let OutboxLimits { bytes_max, control_bytes_max, .. } = self.limits.outbox;
        let replays_max = (self.limits.subscriptions_max + 1) * self.topics.group_bytes_max;
        bytes_max.max(2 * self.topics.group_bytes_max) + replays_max + control_bytes_max + CONTROL_SLACK
    }

    /// Queues an answer. A client that does not read its answers is closed.
    fn push_answer(&mut self, client: usize, promise: Promise) {
        let Client { id, closing, .. } = self.clients[client];
        let number = self.clients[client].reader.next_answer();
        let filler = self.random.below(60);
        match self.shard.push_control(id, control_frame(number, filler)) {
            // Nothing follows the close frame.
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
        }
    }

    fn flush(&mut self, id: SubscriberId) {
        let flushed = self.shard.flush(id, &mut self.sockets, &mut self.report);
        self.handle_report();
        let Some(at) = self.clients.iter().position(|client| client.id == id) else { return };
        let client = &mut self.clients[at];
        client.owes_flush = false;
        match flushed {
            Flushed::Empty => client.awaits_writable = false,
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
        for (id, eviction) in std::mem::take(&mut self.report.evicted) {
            self.trace(|| format!("  {id:?} is evicted: {eviction:?}"));
            let at = self.clients.iter().position(|client| client.id == id);
            let at = at.expect("only the connected are evicted, and once");
            let client = &self.clients[at];
            let policies: Vec<_> = client.starts.keys().map(|&topic| self.topics.policy(topic)).collect();
            match eviction {
                Eviction::PeerGone => {
                    assert!(self.sockets.of(id).dead, "{id:?} is alive");
                    self.seen.peers_gone += 1;
                    self.disconnect(at);
                    continue;
                }
                Eviction::SlowConsumer => {
                    assert!(policies.contains(&SlowPolicy::Disconnect), "nothing strict here");
                    self.seen.slow_consumers += 1;
                }
                Eviction::Budget => panic!("nobody asked for it"),
                Eviction::Gap => {
                    assert!(client.format == FormatId::RAW && policies.contains(&SlowPolicy::DropOldest));
                    self.seen.evictions_for_a_gap += 1;
                }
            }
            assert!(!client.healthy || client.owes_flush, "{id:?} reads everything: {eviction:?}");
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
        let starts = std::mem::take(&mut client.starts);
        let mut left = Vec::new();
        self.trace(|| format!("  {id:?} closes, discard: {discard}"));
        let reason = close_frame(CloseCode(4008), "slow");
        self.shard.close(id, reason, discard, &mut left);
        self.take_back(starts, left);
        self.seen.closed_and_discarded += u64::from(discard);
        self.flush(id);
    }

    fn disconnect(&mut self, at: usize) {
        let mut client = self.clients.swap_remove(at);
        self.trace(|| format!("  {:?} disconnects", client.id));
        let mut left = Vec::new();
        self.shard.disconnect(client.id, &mut left);
        self.take_back(std::mem::take(&mut client.starts), left);
        self.read(&mut client);
        self.sockets.shut(client.id);
        self.gone.push(client.id);
        self.count(&client);
    }

    /// Takes interest back in the topics that nobody here wants any more: those, and no others, are in `left`.
    fn take_back(&mut self, starts: BTreeMap<usize, u64>, left: Vec<Left>) {
        let mut left: Vec<_> = left
            .iter()
            .filter(|left| left.last)
            .map(|left| match &left.name {
                Name::Topic(name) => self.topics.find(name.as_str()),
                Name::Pattern(pattern) => panic!("nobody asked for {pattern}"),
            })
            .collect();
        left.sort_unstable();
        let unwanted: Vec<_> = starts.into_keys().filter(|&topic| !self.is_wanted(topic)).collect();
        assert_eq!(left, unwanted);
        for topic in left {
            self.topics.leave(topic);
        }
    }

    fn read(&mut self, client: &mut Client) {
        let received = std::mem::take(&mut self.sockets.of(client.id).received);
        client.reader.read(&received, &self.topics);
        self.seen.cut_frames += u64::from(client.reader.is_mid_frame() && !received.is_empty());
    }

    fn count(&mut self, client: &Client) {
        self.seen.deliveries += client.reader.total.messages;
        self.seen.gaps += client.reader.total.gaps;
        self.seen.messages_lost += client.reader.total.lost;
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
        assert!(self.shard.outbox_bytes() <= self.clients.len() * self.waiting_bytes_max());
        for topic in 0..self.topics.len() {
            assert_eq!(self.topics.has_interest(topic), self.is_wanted(topic));
        }
        if self.pass.is_none() {
            let wanted = (0..self.topics.len()).filter(|&topic| self.is_wanted(topic)).count();
            assert_eq!(self.shard.topics(), wanted);
        }
    }

    /// The pass and the inbox come to their end, every live socket takes what waits, and everybody leaves.
    fn wind_down(&mut self) {
        while self.pass.is_some() || !self.topics.inbox_is_empty() {
            self.begin();
            self.carry_on(3);
        }
        for id in self.ids() {
            self.sockets.of(id).room = None;
            let client = self.clients.iter().find(|client| client.id == id);
            if client.is_some_and(|client| client.awaits_writable || client.owes_flush) {
                self.flush(id);
            }
        }
        self.check();
        let mut lost = self.seen.messages_lost;
        for at in 0..self.clients.len() {
            let given = self.given_all(at);
            let Client { id, ref reader, .. } = self.clients[at];
            if !self.sockets.of(id).dead {
                assert!(!self.shard.is_waiting(id));
                reader.finish(&given);
            }
            lost += reader.total.lost;
        }
        if self.peaceful && self.seen.refused_answers + self.seen.slow_consumers == 0 {
            assert_eq!(self.report.dropped, lost, "every dropped message was announced");
        }
        assert!(self.report.dropped >= lost, "only dropped messages are announced");
        while !self.clients.is_empty() {
            self.disconnect(0);
        }
        self.check();
        assert_eq!((self.shard.len(), self.shard.topics(), self.shard.outbox_bytes()), (0, 0, 0));
    }
}
