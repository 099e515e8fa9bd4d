//! A fan-out pass from begin to end, to subscribers whose sockets take everything. Elements are deliveries: one message
//! to one subscriber.
//!
//! The sockets cost nothing here. What is left is what the shard adds to each write, and it should stay far below the
//! write itself, a system call of microseconds.

use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanfare_benches::{HealthySockets, message, topic};
use fanfare_fanout::{OutboxLimits, Progress, Report, Shard, ShardLimits, TopicSettings, Wish};
use fanfare_wire::{Epoch, FormatId, Message, Topic};

const LIMITS: ShardLimits = ShardLimits {
    outbox: OutboxLimits { bytes_max: 64 * 1024, messages_max: 1024, control_bytes_max: 64 * 1024 },
    subscriptions_max: 256,
};
/// How many sockets a worker serves before it lets reads and pings go on.
const SOCKETS_A_STEP: usize = 256;
const PAYLOAD_BYTES: usize = 128;

struct Scenario {
    name: &'static str,
    format: FormatId,
    subscribers: usize,
    topics: usize,
    /// How many of the topics each subscriber has.
    subscriptions: usize,
    /// Messages of each topic in a pass.
    messages: usize,
}

const PLAIN: Scenario = Scenario {
    name: "1k subscribers, 1 topic",
    format: FormatId::RAW,
    subscribers: 1000,
    topics: 1,
    subscriptions: 1,
    messages: 1,
};

const SCENARIOS: [Scenario; 8] = [
    PLAIN,
    Scenario { name: "10k subscribers, 1 topic", subscribers: 10_000, ..PLAIN },
    Scenario { name: "1k subscribers over 50 topics", topics: 50, ..PLAIN },
    Scenario { name: "10k subscribers over 50 topics", subscribers: 10_000, topics: 50, ..PLAIN },
    Scenario { name: "1k subscribers, 1 topic, 20 joined", messages: 20, ..PLAIN },
    Scenario { name: "1k subscribers, 1 topic, json", format: FormatId::JSON, ..PLAIN },
    Scenario {
        name: "1k subscribers, 1 topic, json, 20 joined",
        format: FormatId::JSON,
        messages: 20,
        ..PLAIN
    },
    Scenario { name: "1k subscribers of 20 topics each", topics: 20, subscriptions: 20, ..PLAIN },
];

fn deliver(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deliver");
    for scenario in &SCENARIOS {
        let topics: Vec<Topic> = (0..scenario.topics).map(topic).collect();
        let mut shard = scenario.shard(&topics);
        let messages = scenario.messages(&topics);
        let mut report = Report::default();
        let deliveries = (scenario.subscribers * scenario.subscriptions * scenario.messages) as u64;
        pass(&mut shard, &messages, &mut report);
        assert_eq!(report.deliveries, deliveries, "{}", scenario.name);
        group.throughput(Throughput::Elements(deliveries));
        group.bench_function(scenario.name, |bench| bench.iter(|| pass(&mut shard, &messages, &mut report)));
    }
    group.finish();
}

impl Scenario {
    fn shard(&self, topics: &[Topic]) -> Shard {
        let mut shard = Shard::new(LIMITS, Epoch::new(1), |_| TopicSettings::default());
        for index in 0..self.subscribers {
            let id = shard.connect(self.format, self.format == FormatId::JSON);
            for topic in topics.iter().cycle().skip(index % topics.len()).take(self.subscriptions) {
                // From the start: the same messages are new to everyone in every pass.
                shard.subscribe(id, topic, Wish::AsTopic, 0).expect("the bound is far");
            }
        }
        shard
    }

    /// In the order in which publishers that take turns would have them admitted.
    fn messages(&self, topics: &[Topic]) -> Vec<Arc<Message>> {
        let offsets = 1..=self.messages as u64;
        offsets
            .flat_map(|offset| topics.iter().map(move |topic| message(topic, offset, PAYLOAD_BYTES)))
            .collect()
    }
}

fn pass(shard: &mut Shard, messages: &[Arc<Message>], report: &mut Report) {
    let mut pass = shard.begin(Instant::now(), 0, messages.iter().cloned());
    while shard.deliver(&mut pass, SOCKETS_A_STEP, &mut HealthySockets, report) == Progress::More {}
}

criterion_group!(benches, deliver);
criterion_main!(benches);
