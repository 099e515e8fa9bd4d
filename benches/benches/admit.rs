//! From drafts to messages with a place, kept and handed over. Elements are messages.

use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fanfare_benches::{DiscardingInboxes, json_payload, topic};
use fanfare_registry::{Registry, RegistryLimits, ReplayLimits, Retention};
use fanfare_wire::command::Start;
use fanfare_wire::{Draft, Kind, Pattern, Topic};

const LIMITS: RegistryLimits = RegistryLimits {
    topics_max: 100_000,
    retained_bytes_max: 256 << 20,
    lanes: 1,
    wildcard_topics_max: 10_000,
    patterns_max: 10_000,
};
/// The gateway's defaults.
const REPLAY: ReplayLimits =
    ReplayLimits { messages_max: 1_000, age_max: Duration::from_secs(60), bytes_max: 1 << 20 };
/// Topics beside the one admitted to, so that finding it is not finding the only one.
const OTHER_TOPICS: usize = 1000;

fn admit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("admit");
    for (shards, messages, patterns) in
        [(0, 1, 0), (0, 20, 0), (1, 1, 0), (1, 20, 0), (4, 1, 0), (4, 20, 0), (1, 1, 10_000)]
    {
        let topic = topic(0);
        let registry = registry(&topic, shards);
        for index in 0..patterns {
            let pattern = Pattern::new(&format!("unrelated.{index}.*")).expect("a valid pattern");
            let joined = registry.join_pattern(&pattern, 0, |_| Start::Live, Instant::now());
            assert!(joined.expect("the bound is far").is_empty());
        }
        let draft = Draft::new(topic.clone(), Kind::Json, &json_payload(128));
        group.throughput(Throughput::Elements(messages as u64));
        group.bench_function(format!("{shards} shards, {messages} messages, {patterns} patterns"), |bench| {
            bench.iter_batched(
                || vec![draft.clone(); messages],
                |drafts| registry.admit(0, &topic, drafts, Instant::now(), &DiscardingInboxes),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A registry in which `shards` shards are interested in `topic`.
fn registry(topic: &Topic, shards: usize) -> Registry {
    let registry = Registry::new(LIMITS, |_| Retention { last_value: true, replay: Some(REPLAY) });
    let others = (1..=OTHER_TOPICS).map(|index| (fanfare_benches::topic(index), 0));
    let interested = (0..shards).map(|shard| (topic.clone(), shard));
    for (topic, shard) in others.chain(interested) {
        registry.join(&topic, shard, &Start::Live, Instant::now()).expect("the bound is far");
    }
    registry
}

criterion_group!(benches, admit);
criterion_main!(benches);
