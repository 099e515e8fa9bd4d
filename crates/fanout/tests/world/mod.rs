//! The gateway around a shard that the simulation plays, and its clients.
//!
//! A step is one operation, drawn by its weight. Whatever is drawn comes from the seed.

mod answers;
mod checks;
mod connections;
mod passes;
mod subscriptions;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::time::Instant;

use fanfare_fanout::{OutboxLimits, Pass, Report, Shard, ShardLimits, SubscriberId, TopicSettings, Wish};
use fanfare_wire::{FormatId, Topic};

use crate::model::{Given, NODE, On, Random, Reader, Seen, Sockets, Tie, Topics};

/// So many messages of a topic are retained.
const RETAINED: usize = 40;
/// Topics and keys: more messages cannot be held for a pace.
const KEYS_MAX: usize = 24;

/// The gateway around the shard: it acts on reports, flushes writable sockets and closes the evicted.
pub(crate) struct World {
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
    pub(crate) seen: Seen,
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
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
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

    pub(crate) fn step(&mut self) {
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
}

fn any_limits(random: &mut Random) -> ShardLimits {
    let outbox = OutboxLimits {
        bytes_max: random.pick(&[60, 300, 3_000, 60_000]),
        messages_max: random.pick(&[2, 10, 70, 500]),
        control_bytes_max: random.pick(&[60, 400, 4_000]),
    };
    ShardLimits { outbox, subscriptions_max: 1 + random.below(4) }
}
