//! Whether the work of one delivery and of one publish grows with what else there is, for callgrind to count.
//!
//! ```text
//!   scaling deliver SUBSCRIBERS TOPICS PATTERNS ROUNDS   passes over the subscribers of one of the topics
//!   scaling admit SHARDS TOPICS PATTERNS ROUNDS          publishes that all the shards want
//!   scaling watermark LANES ROUNDS                       what a worker reads before each pass
//!
//!   valgrind --tool=callgrind --toggle-collect='scaling::measured*' target/release/scaling deliver 1000 1 0 10
//! ```
//!
//! `tests/counts.rs` says what may not be exceeded. No example, because those wait for criterion to be built.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_benches::{DiscardingInboxes, HealthySockets, topic};
use fanfare_fanout::{OutboxLimits, Progress, Report, STEP_MAX, Shard, ShardLimits, TopicSettings, Wish};
use fanfare_registry::{Registry, RegistryLimits, ReplayLimits, Retention};
use fanfare_wire::command::Start;
use fanfare_wire::{Draft, Epoch, FormatId, Kind, Message, Pattern, Position, Topic};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let numbers: Vec<usize> = arguments.map(|number| number.parse().expect("a number")).collect();
    match (what.as_str(), numbers.as_slice()) {
        ("deliver", &[subscribers, topics, patterns, rounds]) => {
            deliver(subscribers, topics, patterns, rounds)
        }
        ("admit", &[shards, topics, patterns, rounds]) => admit(shards, topics, patterns, rounds),
        ("watermark", &[lanes, rounds]) => watermark(lanes, rounds),
        _ => panic!("see the top of this file"),
    }
}

/// What is counted; callgrind knows it by its name.
#[inline(never)]
fn measured(rounds: usize, mut round: impl FnMut(usize)) {
    (1..=rounds).for_each(&mut round);
}

/// Two rounds go before: in the second one, a shard forgets where newcomers began.
fn settled(rounds: usize, mut round: impl FnMut(usize)) {
    (1..=2).for_each(&mut round);
    measured(rounds, |number| round(number + 2));
}

/// The first topic has all the `subscribers`; each other topic and each pattern has one of its own.
fn deliver(subscribers: usize, topics: usize, patterns: usize, rounds: usize) {
    let outbox = OutboxLimits { bytes_max: 65_536, messages_max: 1_024, control_bytes_max: 65_536 };
    let limits = ShardLimits { outbox, subscriptions_max: 1 };
    let mut shard = Shard::new(limits, Epoch::new(1), |_| TopicSettings::default());
    for index in (0..subscribers).map(|_| 0).chain(1..topics) {
        let id = shard.connect(FormatId::RAW, false);
        shard.subscribe(id, &topic(index), Wish::AsTopic, 0).expect("the bound is far");
    }
    for index in 0..patterns {
        let id = shard.connect(FormatId::JSON, true);
        shard.subscribe_pattern(id, &unrelated(index), Wish::AsTopic, []).expect("the bound is far");
    }
    let (to, mut report) = (topic(0), Report::default());
    settled(rounds, |round| {
        let offset = round as u64;
        let message = Message::new(draft(&to), Position { epoch: Epoch::new(1), offset }, offset);
        let mut pass = shard.begin(Instant::now(), offset, [Arc::new(message)]);
        while shard.deliver(&mut pass, STEP_MAX, &mut HealthySockets, &mut report) == Progress::More {}
    });
    assert_eq!(report.deliveries, (subscribers * (rounds + 2)) as u64);
}

/// All the `shards` want the first topic, the first shard all of them.
fn admit(shards: usize, topics: usize, patterns: usize, rounds: usize) {
    let (registry, now) = (registry(shards), Instant::now());
    let interests = (0..topics).map(|index| (index, 0)).chain((1..shards).map(|shard| (0, shard)));
    for (index, shard) in interests {
        registry.join(&topic(index), shard, &Start::Live, now).expect("the bound is far");
    }
    for index in 0..patterns {
        registry.join_pattern(&unrelated(index), 0, |_| Start::Live, now).expect("the bound is far");
    }
    let to = topic(0);
    settled(rounds, |round| {
        let drafts = vec![draft(&to)];
        let admitted = registry.admit(round % shards, &to, drafts, Instant::now(), &DiscardingInboxes);
        black_box(admitted.expect("the inboxes have room"));
    });
}

fn watermark(lanes: usize, rounds: usize) {
    let registry = registry(lanes);
    measured(rounds, |_| {
        black_box(registry.watermark());
    });
}

fn registry(lanes: usize) -> Registry {
    let limits = RegistryLimits {
        topics_max: 100_000,
        retained_bytes_max: 256 << 20,
        lanes,
        wildcard_topics_max: 10_000,
        patterns_max: 10_000,
    };
    let replay = ReplayLimits { messages_max: 100, age_max: Duration::from_secs(3_600), bytes_max: 1 << 20 };
    Registry::new(limits, move |_| Retention { last_value: true, replay: Some(replay) })
}

fn unrelated(index: usize) -> Pattern {
    Pattern::new(&format!("unrelated.{index}.*")).expect("a valid pattern")
}

fn draft(to: &Topic) -> Draft {
    Draft::new(to.clone(), Kind::Text, &[b'x'; 128])
}
