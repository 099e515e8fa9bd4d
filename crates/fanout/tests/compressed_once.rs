//! However many read a compressed format, a message is compressed once in it.

mod healthy;

use std::sync::Arc;
use std::time::Instant;

use fanfare_fanout::{OutboxLimits, Progress, Report, Shard, ShardLimits, TopicSettings, Wish};
use fanfare_wire::websocket::deflate::{self, Counts};
use fanfare_wire::{Draft, Epoch, FormatId, Kind, Message, Position, Topic};
use healthy::Healthy;

#[test]
fn a_message_is_compressed_once_for_all_its_subscribers() {
    const EACH: u64 = 1_000;
    const FORMATS: [FormatId; 4] =
        [FormatId::RAW, FormatId::JSON, FormatId::RAW_DEFLATE, FormatId::JSON_DEFLATE];
    let topic = Topic::new("ticker.BTC-USD").expect("a valid name");
    let limits = ShardLimits {
        outbox: OutboxLimits { bytes_max: 64 * 1024, messages_max: 1_000, control_bytes_max: 16 * 1024 },
        subscriptions_max: 1,
    };
    // Two shards, as two workers have them: what one compressed, the other finds.
    let mut shards = [1, 2].map(|node| Shard::new(limits, Epoch::new(node), |_| TopicSettings::default()));
    for shard in &mut shards {
        for format in FORMATS.iter().cycle().take(FORMATS.len() * EACH as usize) {
            let id = shard.connect(*format, format.plain() != FormatId::RAW);
            shard.subscribe(id, &topic, Wish::AsTopic, 0).expect("within the bounds");
        }
    }
    let payload = format!("[{}1]", r#"["64000.10","0.5"],"#.repeat(20));
    let message = |offset| {
        let mut draft = Draft::new(topic.clone(), Kind::Json, payload.as_bytes());
        draft.deflate = true;
        Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
    };
    let mut report = Report::default();
    let mut deliver = |messages: &[Arc<Message>]| {
        for shard in &mut shards {
            let mut pass = shard.begin(Instant::now(), 1, messages.iter().cloned());
            while shard.deliver(&mut pass, 256, &mut Healthy, &mut report) == Progress::More {}
        }
    };
    assert_eq!(deflate::take_counts(), Counts::default());
    deliver(&[message(1)]);
    assert_eq!(deflate::take_counts().messages, 2, "one in each compressed format");
    deliver(&[message(2), message(3), message(4)]);
    let counts = deflate::take_counts();
    assert_eq!(counts.messages, 6, "{counts:?}");
    assert!(counts.bytes_out * 3 < counts.bytes_in, "{counts:?}");
    assert_eq!(report.deliveries, 4 * 2 * 4 * EACH);
}
