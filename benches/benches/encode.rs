//! From a body to its frame: the check of what it is, the one copy of it, and the frame of each wire format.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare_benches::{json_payload, topic};
use fanfare_wire::{Draft, Epoch, FormatId, Kind, Message, Position};

/// The shortest price update, a usual one, and a snapshot.
const PAYLOAD_BYTES: [usize; 3] = [35, 128, 4096];

fn encode(criterion: &mut Criterion) {
    let topic = topic(0);
    let position = Position { epoch: Epoch::new(1), offset: 1_000_000 };
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(1));
    for bytes in PAYLOAD_BYTES {
        let payload = json_payload(bytes);
        group.bench_with_input(BenchmarkId::new("check", bytes), &payload, |bench, payload| {
            bench.iter(|| Kind::of(black_box(Some("application/json")), black_box(payload)));
        });
        for format in FormatId::ALL {
            let name = format.format().name();
            group.bench_with_input(BenchmarkId::new(name, bytes), &payload, |bench, payload| {
                bench.iter(|| {
                    let draft = Draft::new(topic.clone(), Kind::Json, black_box(payload));
                    let message = Message::new(draft, position, 1);
                    black_box(message.frame(format));
                    message
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
