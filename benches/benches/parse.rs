//! From a client's bytes to messages. Elements are messages.
//!
//! The parser unmasks in place, so each round first copies the stream into the buffer it reads from, as a socket would.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanfare_benches::json_payload;
use fanfare_wire::websocket::{OpCode, Parser, ParserLimits, encode_masked_frame};

const LIMITS: ParserLimits =
    ParserLimits { message_bytes_max: 64 * 1024, fragments_max: 128, deflate: false };
const SMALL_FRAMES: usize = 64;

fn parse(criterion: &mut Criterion) {
    let small = stream(SMALL_FRAMES, &json_payload(35));
    let large = stream(1, &json_payload(16 * 1024));
    let rows = [
        ("35 B, 64 frames a read", SMALL_FRAMES, &small, small.len()),
        ("35 B, byte by byte", SMALL_FRAMES, &small, 1),
        ("16 KiB, whole", 1, &large, large.len()),
        ("16 KiB, byte by byte", 1, &large, 1),
    ];
    let mut group = criterion.benchmark_group("parse");
    for (name, messages, stream, piece_len) in rows {
        group.throughput(Throughput::Elements(messages as u64));
        group.bench_function(name, |bench| {
            let mut parser = Parser::new();
            let mut buffer = vec![0; stream.len()];
            bench.iter(|| {
                buffer.copy_from_slice(stream);
                let mut seen = 0;
                for piece in buffer.chunks_mut(piece_len) {
                    let mut events = parser.feed(piece, LIMITS);
                    while let Some(event) = events.next() {
                        black_box(event.is_ok());
                        seen += 1;
                    }
                }
                assert_eq!(seen, messages, "the stream is whole, and legal");
            });
        });
    }
    group.finish();
}

/// `frames` text frames with the same payload, as a client sends them.
fn stream(frames: usize, payload: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    for key in 0..frames as u32 {
        encode_masked_frame(OpCode::Text, payload, key.wrapping_mul(0x9e37_79b9).to_be_bytes(), &mut stream);
    }
    stream
}

criterion_group!(benches, parse);
criterion_main!(benches);
