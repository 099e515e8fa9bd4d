//! The shard against a recording sink.

mod bounds;
mod conflation;
mod describe;
mod pacing;
mod passes;
mod patterns;
mod recorder;
mod settings;
mod silence;

use super::*;
use crate::pass::{Progress, Report};
use crate::slow_consumer::SlowPolicy;
use fanfare_wire::{Draft, Epoch, Kind, Message, Position};
use recorder::Recorder;
use std::sync::Arc;
use std::time::Instant;

const LIMITS: ShardLimits = ShardLimits {
    outbox: OutboxLimits { bytes_max: 100, messages_max: 4, control_bytes_max: 50 },
    subscriptions_max: 3,
};

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

/// A message whose payload is its place: `"a3"` is the third of topic `a`.
fn message(place: &str) -> Arc<Message> {
    let (name, offset) = place.split_at(1);
    let draft = Draft::new(topic(name), Kind::Text, place.as_bytes());
    let offset = offset.parse().unwrap();
    Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
}

fn messages(places: &[&str]) -> Vec<Arc<Message>> {
    places.iter().map(|place| message(place)).collect()
}

/// A message with a key: `"a3x"` is the third of topic `a`, with the key `x`.
fn keyed(place: &str) -> Arc<Message> {
    let mut draft = Draft::new(topic(&place[..1]), Kind::Text, &place.as_bytes()[..2]);
    draft.key = (place.len() > 2).then(|| place[2..].into());
    let offset = place[1..2].parse().unwrap();
    Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
}

fn shard() -> Shard {
    shard_with(|_| SlowPolicy::Disconnect)
}

/// A shard whose topics have policies by their names.
fn shard_with(policy: impl Fn(&str) -> SlowPolicy + 'static) -> Shard {
    let settings =
        move |topic: &Topic| TopicSettings { policy: policy(topic.as_str()), ..TopicSettings::default() };
    Shard::new(LIMITS, Epoch::new(1), settings)
}

const STALE_AFTER: Duration = Duration::from_secs(5);

/// A shard whose topics can be stale.
fn shard_of_silence() -> Shard {
    let settings = |_: &Topic| TopicSettings { stale_after: Some(STALE_AFTER), ..TopicSettings::default() };
    Shard::new(LIMITS, Epoch::new(1), settings)
}

/// Topic `a` drops its oldest, the others are strict.
fn a_drops(name: &str) -> SlowPolicy {
    if name == "a" { SlowPolicy::DropOldest } else { SlowPolicy::Disconnect }
}

/// A new subscriber of strict topics, from their start.
fn join(shard: &mut Shard, topics: &[&str]) -> SubscriberId {
    let id = shard.connect(FormatId::RAW, false);
    for name in topics {
        assert_eq!(shard.subscribe(id, &topic(name), Wish::AsTopic, 0), Ok(true));
    }
    id
}

/// A new subscriber that reads `format`, from the topics' start.
fn join_as(shard: &mut Shard, format: FormatId, topics: &[&str]) -> SubscriberId {
    let id = shard.connect(format, format != FormatId::RAW);
    for name in topics {
        shard.subscribe(id, &topic(name), Wish::AsTopic, 0).unwrap();
    }
    id
}

/// A new subscriber of a pattern. `starts` are places of its topics: `"a3"`.
fn join_pattern(shard: &mut Shard, format: FormatId, pattern: &str, starts: &[&str]) -> SubscriberId {
    let id = shard.connect(format, format != FormatId::RAW);
    assert_eq!(tie_pattern(shard, id, pattern, Wish::AsTopic, starts), Ok(true));
    id
}

fn tie_pattern(
    shard: &mut Shard,
    id: SubscriberId,
    pattern: &str,
    wish: Wish,
    starts: &[&str],
) -> Result<bool, SubscribeError> {
    let starts = starts.iter().map(|place| (topic(&place[..1]), place[1..].parse().unwrap()));
    shard.subscribe_pattern(id, &Pattern::new(pattern).unwrap(), wish, starts)
}

const SECOND: Duration = Duration::from_secs(1);

/// A new subscriber of topics, at most once per interval.
fn join_paced(shard: &mut Shard, format: FormatId, topics: &[&str], interval: Duration) -> SubscriberId {
    let id = shard.connect(format, format != FormatId::RAW);
    for name in topics {
        shard.subscribe(id, &topic(name), Wish::Paced, 0).unwrap();
        shard.pace(id, &Name::Topic(topic(name)), interval);
    }
    id
}

/// Unties a subscriber from a topic. Returns whether it was the last.
fn unsubscribe(shard: &mut Shard, id: SubscriberId, name: &str) -> Option<bool> {
    let Unsubscribed { left, torn, .. } = shard.unsubscribe(id, &Name::Topic(topic(name)))?;
    assert_eq!((left.name, torn), (Name::Topic(topic(name)), false));
    Some(left.last)
}

fn tie(name: &str, last: bool) -> Left {
    Left { name: Name::Topic(topic(name)), last }
}

/// Retained messages of a topic that was subscribed by its name.
fn beginning(name: &str, messages: Vec<Arc<Message>>) -> Beginning {
    Beginning { topic: topic(name), announce: None, stale: None, messages }
}

/// Carries out a whole pass.
fn deliver(shard: &mut Shard, places: &[&str], sink: &mut Recorder) -> Report {
    deliver_at(shard, Instant::now(), places, sink)
}

fn deliver_at(shard: &mut Shard, now: Instant, places: &[&str], sink: &mut Recorder) -> Report {
    let mut report = Report::default();
    let mut pass = shard.begin(now, 0, messages(places));
    assert_eq!(shard.deliver(&mut pass, usize::MAX, sink, &mut report), Progress::Done);
    report
}

/// Carries out a pass of messages with keys.
fn deliver_keyed(shard: &mut Shard, now: Instant, places: &[&str], sink: &mut Recorder) -> Report {
    let mut report = Report::default();
    let mut pass = shard.begin(now, 0, places.iter().map(|place| keyed(place)));
    assert_eq!(shard.deliver(&mut pass, usize::MAX, sink, &mut report), Progress::Done);
    report
}

/// Tells of topics that have become stale.
fn be_silent(shard: &mut Shard, now: Instant, sink: &mut Recorder) -> bool {
    let Some(mut pass) = shard.begin_silence(now) else { return false };
    let mut report = Report::default();
    assert_eq!(shard.deliver(&mut pass, usize::MAX, sink, &mut report), Progress::Done);
    true
}
