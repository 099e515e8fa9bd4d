//! A pass allocates for its messages, never for its deliveries.

mod counting;
mod healthy;

use std::sync::Arc;
use std::time::Instant;

use fanfare_fanout::{OutboxLimits, Progress, Report, Shard, ShardLimits, TopicSettings, Wish};
use fanfare_wire::{Draft, Epoch, FormatId, Kind, Message, Pattern, Position, Topic};
use healthy::Healthy;

/// Who listens, beside patterns that match nothing.
#[derive(Clone, Copy)]
struct Listeners {
    format: FormatId,
    by_pattern: bool,
    unrelated_patterns: usize,
}

const PLAIN: Listeners = Listeners { format: FormatId::RAW, by_pattern: false, unrelated_patterns: 0 };

#[test]
fn a_delivery_does_not_allocate() {
    let rows = [
        PLAIN,
        Listeners { format: FormatId::JSON, ..PLAIN },
        Listeners { by_pattern: true, ..PLAIN },
        Listeners { format: FormatId::EVENTS, ..PLAIN },
        Listeners { format: FormatId::EVENTS, by_pattern: true, ..PLAIN },
        Listeners { format: FormatId::RAW_DEFLATE, ..PLAIN },
        Listeners { format: FormatId::JSON_DEFLATE, ..PLAIN },
    ];
    for listeners in rows {
        for messages in [1, 20] {
            let (few, many) =
                (allocations(listeners, 1_000, messages), allocations(listeners, 2_000, messages));
            let Listeners { format, by_pattern, .. } = listeners;
            let name = format.format().name();
            assert!(few > 0, "the pass itself allocates, or nothing is counted");
            assert_eq!(
                few, many,
                "{messages} messages in {name} to 1,000 and 2,000, by pattern: {by_pattern}"
            );
        }
    }
}

#[test]
fn patterns_that_do_not_match_cost_no_allocation() {
    let among_many = Listeners { unrelated_patterns: 10_000, ..PLAIN };
    for messages in [1, 20] {
        assert_eq!(allocations(PLAIN, 100, messages), allocations(among_many, 100, messages));
    }
}

#[test]
fn a_compression_allocates_its_frame_and_no_more() {
    let compress = |payload: &[u8]| {
        let mut draft = Draft::new(Topic::new("t").expect("a valid name"), Kind::Text, payload);
        draft.deflate = true;
        let message = Message::new(draft, Position { epoch: Epoch::new(1), offset: 1 }, 1);
        let before = counting::allocations();
        message.frame(FormatId::RAW_DEFLATE);
        counting::allocations() - before
    };
    // The thread's compressor, and its buffer.
    assert!(compress(&[b'x'; 4096]) > 1);
    for len in [128, 1_000, 4_096] {
        assert_eq!(compress(&vec![b'x'; len]), 1, "{len} bytes");
    }
}

/// How often a pass of `messages` to `subscribers` allocates, and a pass before it has made the topic known.
fn allocations(listeners: Listeners, subscribers: u64, messages: u64) -> u64 {
    let Listeners { format, by_pattern, unrelated_patterns } = listeners;
    let topic = Topic::new("ticker.BTC-USD").expect("a valid name");
    let pattern = |text: &str| Pattern::new(text).expect("a valid pattern");
    let limits = ShardLimits {
        outbox: OutboxLimits { bytes_max: 64 * 1024, messages_max: 1_000, control_bytes_max: 16 * 1024 },
        subscriptions_max: 1,
    };
    let mut shard = Shard::new(limits, Epoch::new(1), |_| TopicSettings::default());
    for _ in 0..subscribers {
        let id = shard.connect(format, format.plain() != FormatId::RAW);
        if by_pattern {
            shard.subscribe_pattern(id, &pattern("ticker.*"), Wish::AsTopic, [])
        } else {
            shard.subscribe(id, &topic, Wish::AsTopic, 0)
        }
        .expect("within the bounds");
    }
    for index in 0..unrelated_patterns {
        let id = shard.connect(format, false);
        let other = pattern(&format!("ticker.T{index}.*"));
        shard.subscribe_pattern(id, &other, Wish::AsTopic, []).expect("within the bounds");
    }
    let message = |offset| {
        let mut draft = Draft::new(topic.clone(), Kind::Json, br#"{"bid":"64000.10"}"#);
        draft.deflate = true;
        Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
    };
    let mut report = Report::default();
    let now = Instant::now();
    // The first message is announced, and the pass after it begins with a mark.
    carry_out(&mut shard, now, vec![message(1)], &mut report);
    let expect = report.deliveries + subscribers * messages;
    let messages: Vec<_> = (2..2 + messages).map(message).collect();
    // Encoded by whoever reads them first.
    messages.iter().for_each(|message| drop(message.frame(format).clone()));

    let before = counting::allocations();
    carry_out(&mut shard, now, messages, &mut report);
    let allocations = counting::allocations() - before;

    assert_eq!(report.deliveries, expect);
    allocations
}

fn carry_out(shard: &mut Shard, now: Instant, messages: Vec<Arc<Message>>, report: &mut Report) {
    let mut pass = shard.begin(now, 1, messages);
    while shard.deliver(&mut pass, 256, &mut Healthy, report) == Progress::More {}
}
