//! The shard against a recording sink.

use super::*;
use crate::describe::Described;
use crate::outbox::Flushed;
use crate::pass::{Progress, Report};
use crate::sink::{Sink, Written};
use crate::slow_consumer::SlowPolicy;
use fanfare_wire::websocket::{OpCode, frame};
use fanfare_wire::{Draft, Epoch, Kind, Message, Position};
use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

const LIMITS: ShardLimits = ShardLimits {
    outbox: OutboxLimits { bytes_max: 100, messages_max: 4, control_bytes_max: 50 },
    subscriptions_max: 3,
};

/// What left the shard, write by write: the slot and the payloads, with spaces between the frames of one slice and
/// bars between slices. A socket without a row in `room` takes everything.
#[derive(Default)]
struct Recorder {
    writes: Vec<(u32, String)>,
    /// All bytes that a socket took.
    taken: HashMap<u32, Vec<u8>>,
    room: HashMap<u32, usize>,
    gone: Vec<u32>,
}

impl Sink for Recorder {
    fn write(&mut self, to: SubscriberId, bytes: &[u8]) -> Written {
        self.write_vectored(to, &[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, to: SubscriberId, slices: &[IoSlice<'_>]) -> Written {
        if self.gone.contains(&to.slot) {
            return Written::PeerGone;
        }
        let total = slices.iter().map(|slice| slice.len()).sum();
        assert_ne!(total, 0, "a write of nothing");
        let room = self.room.get_mut(&to.slot).map(|room| std::mem::take(room).min(total));
        let written = room.unwrap_or(total);
        let bytes = slices.iter().flat_map(|slice| slice.iter()).take(written);
        self.taken.entry(to.slot).or_default().extend(bytes);
        match written {
            0 => Written::Blocked,
            written if written == total => {
                let slices: Vec<_> = slices.iter().map(|slice| payloads(slice)).collect();
                self.writes.push((to.slot, slices.join("|")));
                Written::Bytes(written)
            }
            written => Written::Bytes(written),
        }
    }
}

impl Recorder {
    /// What the client read since the last call.
    fn read(&mut self, id: SubscriberId) -> String {
        let bytes = self.taken.remove(&id.slot).unwrap_or_default();
        payloads(&bytes)
    }
}

/// The payloads of whole short frames, or of chunks. Native messages are their payload, gaps are `<a1-3 slow>`, topics
/// `(a 0)`, statuses `(a stale)`, marks `=7`, and what is behind a cut frame `…`.
fn payloads(mut bytes: &[u8]) -> String {
    let mut payloads = Vec::new();
    while let [first, len, rest @ ..] = bytes {
        if *first >= 0x80 {
            let (payload, rest) = rest.split_at(usize::from(*len));
            payloads.push(in_short(None, std::str::from_utf8(payload).unwrap()));
            bytes = rest;
            continue;
        }
        let text = std::str::from_utf8(bytes).ok().and_then(|text| text.split_once("\r\n"));
        let Some((size, rest)) = text.filter(|(size, _)| usize::from_str_radix(size, 16).is_ok()) else {
            payloads.push("…".into());
            break;
        };
        let (chunk, rest) = rest.split_at(usize::from_str_radix(size, 16).unwrap());
        let (event, data) = chunk.split_once("data: ").unwrap_or((chunk, ""));
        payloads.push(match event.trim_end().split_once(": ") {
            Some(("id", place)) => format!("={}", place.split_once(':').unwrap().1),
            event => in_short(event.map(|(_, event)| event), data),
        });
        bytes = rest.strip_prefix("\r\n").unwrap().as_bytes();
    }
    payloads.join(" ")
}

fn in_short(event: Option<&str>, text: &str) -> String {
    let Ok(serde_json::Value::Object(value)) = serde_json::from_str(text) else { return text.to_owned() };
    let text = |key: &str| value.get(key).map(|value| value.to_string().replace('"', "")).unwrap_or_default();
    match event.or_else(|| value.get("type").and_then(|kind| kind.as_str())) {
        Some("gap") => format!("<{}{}-{} {}>", text("topic"), text("from"), text("to"), text("reason")),
        Some("topic") => format!("({} {})", text("topic"), text("offset")),
        Some("status") => format!("({} {})", text("topic"), text("status")),
        _ => text("data"),
    }
}

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

/// Unties a subscriber from a topic. Returns whether it was the last.
fn unsubscribe(shard: &mut Shard, id: SubscriberId, name: &str) -> Option<bool> {
    let Unsubscribed { left, torn } = shard.unsubscribe(id, &Name::Topic(topic(name)))?;
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

#[test]
fn messages_of_one_topic_are_one_write() {
    let (mut shard, mut sink) = (shard(), Recorder::default());
    join(&mut shard, &["a"]);
    let report = deliver(&mut shard, &["a1", "b1", "a2", "a3"], &mut sink);
    assert_eq!(sink.writes, [(0, "a1 a2 a3".into())]);
    assert_eq!((report.writes, report.deliveries, report.bytes), (1, 3, 12));
}

#[test]
fn a_subscriber_of_several_topics_gets_one_vectored_write() {
    let (mut shard, mut sink) = (shard(), Recorder::default());
    join(&mut shard, &["a", "b", "c"]);
    join(&mut shard, &["b"]);
    let report = deliver(&mut shard, &["b1", "a1", "b2"], &mut sink);
    assert_eq!(sink.writes, [(1, "b1 b2".into()), (0, "b1 b2|a1".into())]);
    assert_eq!((report.writes, report.deliveries), (2, 5));
    assert_eq!(shard.outbox_bytes(), 0);
}

#[test]
fn messages_up_to_the_start_are_skipped() {
    fn check(start: u64, expect: &[(u32, String)]) {
        let (mut shard, mut sink) = (shard(), Recorder::default());
        let id = shard.connect(FormatId::RAW, false);
        shard.subscribe(id, &topic("a"), Wish::AsTopic, start).unwrap();
        deliver(&mut shard, &["a4", "a5", "a6"], &mut sink);
        assert_eq!(sink.writes, expect, "after {start}");
    }
    check(3, &[(0, "a4 a5 a6".into())]);
    check(4, &[(0, "a5 a6".into())]);
    check(5, &[(0, "a6".into())]);
    check(6, &[]);
    check(9, &[]);
}

#[test]
fn a_newcomer_during_a_pass_gets_nothing_of_it() {
    let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
    for _ in 0..3 {
        join(&mut shard, &["a"]);
    }
    let mut pass = shard.begin(Instant::now(), 0, messages(&["a1"]));
    assert_eq!(shard.deliver(&mut pass, 1, &mut sink, &mut report), Progress::More);
    let newcomer = join(&mut shard, &["a"]);
    assert_eq!(shard.deliver(&mut pass, 9, &mut sink, &mut report), Progress::Done);
    assert!(sink.writes.iter().all(|(slot, _)| *slot != newcomer.slot));
    assert_eq!(report.deliveries, 3);
    deliver(&mut shard, &["a2"], &mut sink);
    assert!(sink.writes.contains(&(newcomer.slot, "a2".into())));
}

#[test]
fn a_leaver_during_a_pass_shifts_nobody() {
    const SUBSCRIBERS: usize = 5;
    type Leave = fn(&mut Shard, SubscriberId);
    let ways: [Leave; 3] = [
        |shard, id| assert_eq!(unsubscribe(shard, id, "a"), Some(false)),
        |shard, id| shard.disconnect(id, &mut Vec::new()),
        |shard, id| shard.close(id, "bye".into(), true, &mut Vec::new()),
    ];
    for (way, leave) in ways.iter().enumerate() {
        for steps in 0..=SUBSCRIBERS {
            for leaver in 0..SUBSCRIBERS {
                let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
                let ids: Vec<_> = (0..SUBSCRIBERS).map(|_| join(&mut shard, &["a"])).collect();
                let mut pass = shard.begin(Instant::now(), 0, messages(&["a1"]));
                let _ = shard.deliver(&mut pass, steps, &mut sink, &mut report);
                leave(&mut shard, ids[leaver]);
                while shard.deliver(&mut pass, 1, &mut sink, &mut report) == Progress::More {}
                deliver(&mut shard, &["a2"], &mut sink);
                for id in ids.iter().filter(|id| **id != ids[leaver]) {
                    let got: Vec<_> = sink.writes.iter().filter(|(slot, _)| *slot == id.slot).collect();
                    let case = format!("way {way}, {leaver} leaves after {steps} turns, {id:?}");
                    assert_eq!(got, [&(id.slot, "a1".into()), &(id.slot, "a2".into())], "{case}");
                }
            }
        }
    }
}

#[test]
fn the_last_to_leave_during_a_pass_takes_the_topic_along() {
    let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
    let id = join(&mut shard, &["a"]);
    let mut pass = shard.begin(Instant::now(), 0, messages(&["a1"]));
    assert_eq!(unsubscribe(&mut shard, id, "a"), Some(true));
    assert_eq!(shard.deliver(&mut pass, 9, &mut sink, &mut report), Progress::Done);
    assert_eq!((shard.topics(), sink.writes.len()), (0, 0));
}

#[test]
fn interest_ends_with_the_last_subscriber() {
    let mut shard = shard();
    let (one, two, three) =
        (join(&mut shard, &["a", "b"]), join(&mut shard, &["a", "b"]), join(&mut shard, &["b", "c"]));
    assert_eq!(unsubscribe(&mut shard, one, "c"), None);
    assert_eq!(unsubscribe(&mut shard, one, "a"), Some(false));
    assert_eq!(unsubscribe(&mut shard, one, "a"), None);
    assert_eq!(unsubscribe(&mut shard, two, "a"), Some(true));
    let mut left = Vec::new();
    shard.disconnect(two, &mut left);
    assert_eq!(left, [tie("b", false)]);
    shard.close(three, "bye".into(), false, &mut left);
    assert_eq!(left, [tie("b", false), tie("b", false), tie("c", true)]);
    shard.disconnect(one, &mut left);
    assert_eq!(left[3..], [tie("b", true)]);
    assert_eq!((shard.topics(), shard.len()), (0, 1));
}

#[test]
fn the_first_turn_moves_from_pass_to_pass() {
    for subscribers in 2..40 {
        let (mut shard, mut sink) = (shard(), Recorder::default());
        for _ in 0..subscribers {
            join(&mut shard, &["a"]);
        }
        let mut first_turns = vec![0; subscribers];
        for _ in 0..subscribers {
            sink.writes.clear();
            deliver(&mut shard, &["a1"], &mut sink);
            first_turns[sink.writes[0].0 as usize] += 1;
        }
        assert_eq!(first_turns, vec![1; subscribers], "everybody is first once");
    }
}

#[test]
fn an_old_id_does_nothing() {
    let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
    let old = join(&mut shard, &["a"]);
    shard.disconnect(old, &mut Vec::new());
    let new = join(&mut shard, &["a"]);
    assert_eq!(old.slot, new.slot);

    let (name, mut left) = (topic("a"), Vec::new());
    assert_eq!(shard.subscribe(old, &topic("b"), Wish::AsTopic, 0), Err(SubscribeError::Closing));
    assert_eq!(shard.may_subscribe(old), Err(SubscribeError::Closing));
    assert!(!shard.is_subscribed(old, &name));
    assert_eq!(unsubscribe(&mut shard, old, "a"), None);
    assert_eq!(shard.push_control(old, "ack".into()), Ok(()));
    shard.push_pong(old, "pong".into());
    assert_eq!(shard.replay(old, vec![beginning("a", messages(&["a1"]))]), Ok(()));
    shard.close(old, "bye".into(), true, &mut left);
    shard.disconnect(old, &mut left);
    assert_eq!(shard.flush(old, &mut sink, &mut report), Flushed::Empty);

    assert_eq!((left.len(), shard.len(), shard.topics(), shard.outbox_bytes()), (0, 1, 1, 0));
    assert!(!shard.is_waiting(old) && !shard.is_waiting(new) && shard.is_subscribed(new, &name));
}

#[test]
fn a_big_pass_over_several_topics_spares_the_healthy() {
    let (mut shard, mut sink) = (shard(), Recorder::default());
    join(&mut shard, &["a", "b", "c"]);
    let report = deliver(&mut shard, &["a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2", "c3"], &mut sink);
    assert_eq!(report.evicted, []);
    let got: Vec<_> = sink.writes.iter().map(|(_, payloads)| payloads.as_str()).collect();
    assert_eq!(got.join("|"), "a1 a2 a3|b1 b2 b3|c1 c2 c3");
}

#[test]
fn a_full_outbox_goes_by_the_policy_of_the_topic() {
    use SlowPolicy::{Disconnect, DropOldest};
    fn check(format: FormatId, policy: SlowPolicy, evicted: Option<Eviction>, dropped: u64) {
        let (mut shard, mut sink) = (shard_with(move |_| policy), Recorder::default());
        let id = shard.connect(format, format == FormatId::JSON);
        shard.subscribe(id, &topic("a"), Wish::AsTopic, 0).unwrap();
        sink.room.insert(id.slot, 0);
        let mut report = Report::default();
        for place in ["a1", "a2", "a3", "a4", "a5", "a6"] {
            let more = deliver(&mut shard, &[place], &mut sink);
            report.dropped += more.dropped;
            report.blocked.extend(more.blocked);
            report.evicted.extend(more.evicted);
        }
        let case = format!("{format:?} {policy:?}");
        let evictions: Vec<_> = evicted.into_iter().map(|eviction| (id, eviction)).collect();
        assert_eq!(report.blocked, [id], "{case}");
        assert_eq!(report.evicted, evictions, "{case}: once");
        assert_eq!(report.dropped, dropped, "{case}");
    }
    check(FormatId::JSON, Disconnect, Some(Eviction::SlowConsumer), 0);
    check(FormatId::RAW, Disconnect, Some(Eviction::SlowConsumer), 0);
    // A raw client cannot be told what it misses.
    check(FormatId::RAW, DropOldest, Some(Eviction::Gap), 0);
    // Two frames of this size are within the bound of bytes.
    check(FormatId::JSON, DropOldest, None, 4);
}

#[test]
fn one_burst_spares_who_had_taken_everything() {
    let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
    let id = join(&mut shard, &["a"]);
    sink.room.insert(id.slot, 10);
    let large = |offset| {
        let draft = Draft::new(topic("a"), Kind::Text, &[b'x'; 60_000]);
        Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
    };
    // Far over the bound, and too much for one batch.
    let mut pass = shard.begin(Instant::now(), 0, (1..=5).map(large));
    assert_eq!(shard.deliver(&mut pass, usize::MAX, &mut sink, &mut report), Progress::Done);
    assert_eq!((report.evicted.len(), report.blocked.len()), (0, 1));
    // The next message finds it still over the bound.
    let mut pass = shard.begin(Instant::now(), 0, [large(6)]);
    assert_eq!(shard.deliver(&mut pass, usize::MAX, &mut sink, &mut report), Progress::Done);
    assert_eq!(report.evicted, [(id, Eviction::SlowConsumer)]);
}

#[test]
fn what_was_dropped_is_announced_before_the_next_message() {
    let (mut shard, mut sink, mut report) =
        (shard_with(|_| SlowPolicy::DropOldest), Recorder::default(), Report::default());
    let id = shard.connect(FormatId::JSON, true);
    shard.subscribe(id, &topic("a"), Wish::AsTopic, 0).unwrap();
    sink.room.insert(id.slot, 0);
    for place in ["a1", "a2", "a3"] {
        deliver(&mut shard, &[place], &mut sink);
    }
    sink.room.clear();
    assert_eq!(shard.flush(id, &mut sink, &mut report), Flushed::Empty);
    assert_eq!(sink.writes[0].1, "<a1-1 slow>|a2|a3");
}

#[test]
fn a_strict_message_takes_the_room_of_those_that_may_be_dropped() {
    let (mut shard, mut sink) = (shard_with(a_drops), Recorder::default());
    let id = shard.connect(FormatId::JSON, true);
    shard.subscribe(id, &topic("a"), Wish::AsTopic, 0).unwrap();
    shard.subscribe(id, &topic("b"), Wish::AsTopic, 0).unwrap();
    sink.room.insert(id.slot, 0);
    let mut dropped = 0;
    for place in ["a1", "b1", "b2"] {
        let report = deliver(&mut shard, &[place], &mut sink);
        assert_eq!(report.evicted, [], "{place}");
        dropped += report.dropped;
    }
    assert_eq!(dropped, 1);
    let report = deliver(&mut shard, &["b3"], &mut sink);
    assert_eq!(report.evicted, [(id, Eviction::SlowConsumer)]);
}

#[test]
fn a_dead_peer_is_reported_once() {
    let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
    let id = join(&mut shard, &["a"]);
    sink.gone.push(id.slot);
    assert_eq!(deliver(&mut shard, &["a1"], &mut sink).evicted, [(id, Eviction::PeerGone)]);
    assert_eq!(deliver(&mut shard, &["a2"], &mut sink).evicted, []);
    shard.push_pong(id, "pong".into());
    assert_eq!(shard.flush(id, &mut sink, &mut report), Flushed::PeerGone);
    assert_eq!(report.evicted, []);
}

#[test]
fn subscriptions_have_a_bound() {
    let mut shard = shard();
    let id = join(&mut shard, &["a", "b", "c"]);
    let mut subscribe = |name| shard.subscribe(id, &topic(name), Wish::AsTopic, 0);
    assert_eq!(subscribe("d"), Err(SubscribeError::TooMany));
    assert_eq!(subscribe("c"), Ok(false), "what is tied already needs no room");
    assert_eq!(shard.topics(), 3, "a refused topic leaves nothing behind");
    unsubscribe(&mut shard, id, "a");
    assert_eq!(shard.subscribe(id, &topic("d"), Wish::AsTopic, 0), Ok(true));
}

#[test]
fn a_client_that_asks_without_reading_is_given_up() {
    let mut shard = shard();
    let id = join(&mut shard, &[]);
    assert_eq!(shard.push_control(id, vec![b'x'; 60].into()), Ok(()), "an empty outbox takes any answer");
    assert_eq!(shard.push_control(id, "x".into()), Err(Eviction::SlowConsumer));
    assert_eq!(shard.outbox_bytes(), 60);
}

// === patterns ===

fn unsubscribe_pattern(shard: &mut Shard, id: SubscriberId, pattern: &str) -> Unsubscribed {
    shard.unsubscribe(id, &Name::Pattern(Pattern::new(pattern).unwrap())).unwrap()
}

#[test]
fn a_pattern_begins_behind_its_replay() {
    let (mut shard, mut sink) = (shard(), Recorder::default());
    let id = join_pattern(&mut shard, FormatId::RAW, "*", &["a3", "b7"]);
    deliver(&mut shard, &["a2", "b7", "a3", "a4", "c1"], &mut sink);
    assert_eq!(sink.read(id), "a4 c1");
    deliver(&mut shard, &["a5", "b8"], &mut sink);
    assert_eq!(sink.read(id), "a5 b8");
    // It was forgotten and came back: its offsets begin again.
    deliver(&mut shard, &["b1"], &mut sink);
    assert_eq!(sink.read(id), "b1");
}

#[test]
fn a_topic_born_later_reaches_its_pattern_from_the_first_message() {
    let (mut shard, mut sink) = (shard(), Recorder::default());
    let [json, events] =
        [FormatId::JSON, FormatId::EVENTS].map(|format| join_pattern(&mut shard, format, "*", &[]));
    let raw = join_pattern(&mut shard, FormatId::RAW, "*", &[]);
    let by_name = join_as(&mut shard, FormatId::JSON, &["a"]);
    let other = join_pattern(&mut shard, FormatId::JSON, "b.*", &[]);
    // In the inbox when they came, and announced in their beginning.
    let later = join_pattern(&mut shard, FormatId::JSON, "*", &["a1"]);
    deliver(&mut shard, &["a1", "a2"], &mut sink);
    deliver(&mut shard, &["a3"], &mut sink);
    let read = [json, events, raw, by_name, other, later].map(|id| sink.read(id));
    assert_eq!(read, ["(a 0) a1 a2 a3", "(a 0) a1 a2 a3", "a1 a2 a3", "a1 a2 a3", "", "a2 a3"]);
    assert_eq!((shard.topics(), shard.patterns()), (1, 2));
}

#[test]
fn a_second_pattern_in_a_pass_leaves_the_first_ones_starts() {
    let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
    let id = join_pattern(&mut shard, FormatId::RAW, "*", &["a3"]);
    let mut pass = shard.begin(Instant::now(), 0, messages(&["a3", "a4"]));
    // The second knows of a message that is in the inbox, and that the first brings.
    assert_eq!(tie_pattern(&mut shard, id, ">", Wish::AsTopic, &["a5"]), Ok(true));
    assert_eq!(shard.deliver(&mut pass, usize::MAX, &mut sink, &mut report), Progress::Done);
    deliver(&mut shard, &["a5", "a6"], &mut sink);
    assert_eq!(sink.read(id), "a4 a5 a6");
}

#[test]
fn who_takes_over_a_topic_begins_where_the_other_did() {
    let (mut shard, mut sink) = (shard(), Recorder::default());
    let [to_pattern, to_name] = [0, 1].map(|_| shard.connect(FormatId::RAW, false));
    shard.subscribe(to_pattern, &topic("a"), Wish::AsTopic, 3).unwrap();
    tie_pattern(&mut shard, to_pattern, "*", Wish::AsTopic, &["a5"]).unwrap();
    assert_eq!(unsubscribe(&mut shard, to_pattern, "a"), Some(true));
    tie_pattern(&mut shard, to_name, "*", Wish::AsTopic, &["a3"]).unwrap();
    assert_eq!(shard.subscribe(to_name, &topic("a"), Wish::AsTopic, 5), Ok(false), "it comes already");
    assert!(!unsubscribe_pattern(&mut shard, to_name, "*").torn);
    deliver(&mut shard, &["a3", "a4", "a5", "a6"], &mut sink);
    assert_eq!([sink.read(to_pattern), sink.read(to_name)], ["a4 a5 a6", "a4 a5 a6"]);
}

#[test]
fn a_topic_that_changes_hands_in_a_pass_is_torn() {
    // Which of the two ends, and whether the topic is in the pass.
    for (first_ends, in_pass) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
        let id = join_as(&mut shard, FormatId::RAW, &["a"]);
        tie_pattern(&mut shard, id, "*", Wish::AsTopic, &[]).unwrap();
        let mut pass = shard.begin(Instant::now(), 0, messages(&[if in_pass { "a1" } else { "b1" }]));
        let name =
            if first_ends { Name::Topic(topic("a")) } else { Name::Pattern(Pattern::new("*").unwrap()) };
        let unsubscribed = shard.unsubscribe(id, &name).unwrap();
        assert_eq!(
            unsubscribed.torn,
            first_ends && in_pass,
            "the first ends: {first_ends}, in pass: {in_pass}"
        );
        assert_eq!(unsubscribed.left, Left { name, last: true });
        assert_eq!(shard.deliver(&mut pass, usize::MAX, &mut sink, &mut report), Progress::Done);
        deliver(&mut shard, &["a2"], &mut sink);
        assert!(sink.read(id).ends_with("a2"), "the other goes on");
    }
}

#[test]
fn a_topic_that_changes_hands_stays_in_order() {
    let (mut shard, mut sink) = (shard(), Recorder::default());
    let id = shard.connect(FormatId::RAW, false);
    tie_pattern(&mut shard, id, "*", Wish::Latest, &[]).unwrap();
    shard.subscribe(id, &topic("a"), Wish::AsTopic, 0).unwrap();
    sink.room.insert(id.slot, 0);
    deliver(&mut shard, &["a1"], &mut sink);
    deliver(&mut shard, &["a2"], &mut sink);
    // From one that conflates to one that does not, and back.
    assert!(!unsubscribe_pattern(&mut shard, id, "*").torn);
    deliver(&mut shard, &["a3"], &mut sink);
    tie_pattern(&mut shard, id, ">", Wish::Latest, &[]).unwrap();
    assert_eq!(unsubscribe(&mut shard, id, "a"), Some(true));
    deliver(&mut shard, &["a4"], &mut sink);
    sink.room.clear();
    assert_eq!(shard.flush(id, &mut sink, &mut Report::default()), Flushed::Empty);
    assert_eq!(sink.read(id), "a2 a3 a4");
}

#[test]
fn a_replay_of_words_that_a_format_does_not_have_is_nothing() {
    let (mut shard, mut sink) = (shard(), Recorder::default());
    let id = join_as(&mut shard, FormatId::RAW, &["a"]);
    let beginning = Beginning { stale: Some(STALE_AFTER), ..beginning("a", Vec::new()) };
    shard.replay(id, vec![beginning]).unwrap();
    assert_eq!(shard.flush(id, &mut sink, &mut Report::default()), Flushed::Empty);
    assert_eq!((sink.writes.len(), shard.is_waiting(id), shard.outbox_bytes()), (0, false, 0));
}

#[test]
fn words_before_the_messages_make_nobody_slow() {
    use SlowPolicy::{Conflate, Disconnect, DropOldest};
    for policy in [Disconnect, DropOldest, Conflate] {
        let (mut shard, mut sink, mut report) =
            (shard_with(move |_| policy), Recorder::default(), Report::default());
        join_pattern(&mut shard, FormatId::EVENTS, "*", &[]);
        let large = |offset| {
            let draft = Draft::new(topic("a"), Kind::Text, &[b'x'; 60_000]);
            Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
        };
        // Far over the bound, and too much for one batch.
        let mut pass = shard.begin(Instant::now(), 0, (1..=5).map(large));
        assert_eq!(shard.deliver(&mut pass, usize::MAX, &mut sink, &mut report), Progress::Done);
        assert_eq!((report.evicted.len(), report.dropped, report.conflated), (0, 0, 0), "{policy:?}");
        assert_eq!((report.deliveries, shard.outbox_bytes()), (5, 0), "{policy:?}");
    }
}

#[test]
fn topics_that_are_born_together_spare_the_healthy() {
    let (mut shard, mut sink) = (shard(), Recorder::default());
    let id = join_pattern(&mut shard, FormatId::JSON, "*", &[]);
    // Each announcement alone is over the bound of answers.
    let report = deliver(&mut shard, &["a1", "b1", "c1"], &mut sink);
    assert_eq!((report.evicted, report.deliveries), (vec![], 3));
    assert_eq!(sink.read(id), "(a 0) a1 (b 0) b1 (c 0) c1");
    deliver(&mut shard, &["d1"], &mut sink);
    assert_eq!(sink.writes.pop(), Some((0, "(d 0)|d1".into())), "one vectored write");
}

// === marks ===

#[test]
fn a_mark_says_what_came_before() {
    let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
    let id = join_as(&mut shard, FormatId::EVENTS, &["a", "b"]);
    let later = shard.connect(FormatId::EVENTS, true);
    shard.subscribe(later, &topic("a"), Wish::AsTopic, 3).unwrap();
    let conflates = shard.connect(FormatId::EVENTS, true);
    shard.subscribe(conflates, &topic("a"), Wish::Latest, 0).unwrap();
    sink.room.insert(conflates.slot, 0);
    let mut read = Vec::new();
    for (through, places) in
        [(2, &["a1", "b1"][..]), (5, &["a2"]), (7, &["b2", "a3", "a4"]), (8, &["b3"]), (9, &["a5"])]
    {
        let mut pass = shard.begin(Instant::now(), through, messages(places));
        assert_eq!(shard.deliver(&mut pass, usize::MAX, &mut sink, &mut report), Progress::Done);
        read.push(sink.read(id));
    }
    // What the pass itself brings is not yet there for all: the mark is of the pass before.
    assert_eq!(read, ["a1 b1", "=2 a2", "=5 b2 =5 a3 a4", "=7 b3", "=8 a5"]);
    assert_eq!(sink.read(later), "a4 =8 a5", "a mark belongs to the first message");
    sink.room.clear();
    shard.flush(conflates, &mut sink, &mut report);
    assert_eq!(sink.read(conflates), "a5", "what took the place of others has no mark");
}

// === conflation and pace ===

/// A message with a key: `"a3x"` is the third of topic `a`, with the key `x`.
fn keyed(place: &str) -> Arc<Message> {
    let mut draft = Draft::new(topic(&place[..1]), Kind::Text, &place.as_bytes()[..2]);
    draft.key = (place.len() > 2).then(|| place[2..].into());
    let offset = place[1..2].parse().unwrap();
    Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
}

/// Carries out a pass of messages with keys.
fn deliver_keyed(shard: &mut Shard, now: Instant, places: &[&str], sink: &mut Recorder) -> Report {
    let mut report = Report::default();
    let mut pass = shard.begin(now, 0, places.iter().map(|place| keyed(place)));
    assert_eq!(shard.deliver(&mut pass, usize::MAX, sink, &mut report), Progress::Done);
    report
}

/// A new subscriber of topics, at most once per interval.
fn join_paced(shard: &mut Shard, format: FormatId, topics: &[&str], interval: Duration) -> SubscriberId {
    let id = shard.connect(format, format != FormatId::RAW);
    for name in topics {
        shard.subscribe(id, &topic(name), Wish::Paced, 0).unwrap();
        shard.pace(id, &Name::Topic(topic(name)), interval);
    }
    id
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_slow_get_the_newest_of_each_key_and_the_healthy_everything() {
    for format in [FormatId::RAW, FormatId::JSON, FormatId::EVENTS] {
        let mut shard = shard_with(|_| SlowPolicy::Conflate);
        let (mut sink, mut report, now) = (Recorder::default(), Report::default(), Instant::now());
        let [healthy, slow] = [0, 1].map(|_| join_as(&mut shard, format, &["a"]));
        sink.room.insert(slow.slot, 3);
        // Three bytes of the first message are gone: it is finished as it is.
        for places in [&["a1x", "a2y", "a3x"][..], &["a4x"], &["a5y", "a6y", "a7x"], &["a8"]] {
            report.conflated += deliver_keyed(&mut shard, now, places, &mut sink).conflated;
        }
        assert_eq!(sink.read(healthy), "a1 a2 a3 a4 a5 a6 a7 a8");
        sink.room.clear();
        assert_eq!(shard.flush(slow, &mut sink, &mut report), Flushed::Empty);
        assert_eq!(sink.read(slow), "a1 a6 a7 a8", "{}", format.format().name());
        assert_eq!((report.conflated, shard.outbox_bytes()), (4, 0), "a2, a3, a4 and a5");
    }
}

#[test]
fn a_wish_goes_before_the_topics_policy() {
    use SlowPolicy::{Conflate, Disconnect, DropOldest};
    fn check(policy: SlowPolicy, wish: Wish, evicted: bool, expect: &str) {
        let (mut shard, mut sink, now) = (shard_with(move |_| policy), Recorder::default(), Instant::now());
        let mut report = Report::default();
        let id = shard.connect(FormatId::JSON, true);
        shard.subscribe(id, &topic("a"), wish, 0).unwrap();
        sink.room.insert(id.slot, 0);
        for place in ["a1", "a2", "a3", "a4"] {
            report.evicted.extend(deliver_keyed(&mut shard, now, &[place], &mut sink).evicted);
        }
        sink.room.clear();
        shard.flush(id, &mut sink, &mut report);
        assert_eq!(
            (!report.evicted.is_empty(), sink.read(id).as_str()),
            (evicted, expect),
            "{policy:?} {wish:?}"
        );
    }
    check(Conflate, Wish::AsTopic, false, "a4");
    check(Conflate, Wish::Queue, true, "a1 a2");
    check(Conflate, Wish::Latest, false, "a4");
    check(Disconnect, Wish::AsTopic, true, "a1 a2");
    check(Disconnect, Wish::Latest, false, "a4");
    check(DropOldest, Wish::Queue, false, "<a1-2 slow> a3 a4");
    check(DropOldest, Wish::Latest, false, "a4");
}

#[test]
fn more_keys_than_the_bound_lose_nothing_for_the_healthy() {
    for format in [FormatId::RAW, FormatId::JSON] {
        let (mut shard, mut sink, now) = (shard(), Recorder::default(), Instant::now());
        let id = join_paced(&mut shard, format, &["a"], SECOND);
        let report = deliver_keyed(&mut shard, now, &["a1u", "a2v", "a3w", "a4x", "a5y"], &mut sink);
        assert_eq!((report.dropped, report.evicted), (0, vec![]));
        assert_eq!(sink.read(id), "a1 a2 a3 a4 a5");
        // Held past the bound, all go out early.
        for places in [["a6u", "a7v"], ["a8w", "a9x"]] {
            deliver_keyed(&mut shard, now, &places, &mut sink);
            assert_eq!(sink.read(id), "");
        }
        let late = Arc::new(Message::new(
            Draft::new(topic("a"), Kind::Text, b"a10"),
            Position { epoch: Epoch::new(1), offset: 10 },
            10,
        ));
        let mut report = Report::default();
        let mut pass = shard.begin(now, 0, [late]);
        assert_eq!(shard.deliver(&mut pass, usize::MAX, &mut sink, &mut report), Progress::Done);
        assert_eq!((report.dropped, report.evicted), (0, vec![]));
        assert_eq!((sink.read(id).as_str(), shard.outbox_bytes()), ("a6 a7 a8 a9 a10", 0));
    }
}

#[test]
fn a_pace_lets_through_one_per_interval_and_ends_on_the_newest() {
    for format in [FormatId::RAW, FormatId::JSON] {
        let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
        let (start, ms) = (Instant::now(), Duration::from_millis(1));
        let id = join_paced(&mut shard, format, &["a", "b"], SECOND);
        // A message of each key every 100 ms; the timers are looked at every millisecond.
        let mut read = Vec::new();
        for step in 0..4_000 {
            let now = start + step * ms;
            if step % 100 == 0 && step < 2_000 {
                let offset = u64::from(step / 100);
                for (key, payload) in [("x", 2 * offset), ("y", 2 * offset + 1)] {
                    let mut draft = Draft::new(topic("a"), Kind::Text, format!("{payload}").as_bytes());
                    draft.key = Some(key.into());
                    let position = Position { epoch: Epoch::new(1), offset: payload + 1 };
                    let message = Arc::new(Message::new(draft, position, payload + 1));
                    let mut pass = shard.begin(now, 0, [message]);
                    assert_eq!(shard.deliver(&mut pass, usize::MAX, &mut sink, &mut report), Progress::Done);
                }
                assert!(shard.outbox_bytes() > 0, "held bytes count");
            }
            let next = shard.release_held(now, &mut sink, &mut report);
            assert!(next.is_none_or(|next| next > now));
            let got = sink.read(id);
            if !got.is_empty() {
                read.push((step, got));
            }
        }
        let expect = [(0, "0"), (1_000, "20 21"), (2_000, "38 39")];
        assert_eq!(read, expect.map(|(step, read)| (step, read.to_owned())));
        assert_eq!((shard.next_release(), shard.outbox_bytes()), (None, 0));
        assert_eq!((report.deliveries, report.conflated), (5, 35));
    }
}

#[test]
fn a_message_at_its_time_does_not_wait() {
    let (mut shard, mut sink, now) = (shard(), Recorder::default(), Instant::now());
    let id = join_paced(&mut shard, FormatId::RAW, &["a"], SECOND);
    for (at, place, expect) in [(0, "a1", "a1"), (1_000, "a2", "a2"), (1_999, "a3", ""), (5_000, "a4", "")] {
        deliver_at(&mut shard, now + Duration::from_millis(at), &[place], &mut sink);
        assert_eq!(sink.read(id), expect, "{place} after {at} ms");
    }
    // The timer was not carried out yet: order comes first.
    assert_eq!(shard.next_release(), Some(now + 2 * SECOND));
    assert_eq!(shard.release_held(now + 5 * SECOND, &mut sink, &mut Report::default()), None);
    assert_eq!(sink.read(id), "a4");
}

#[test]
fn a_timer_of_an_ended_subscription_releases_nothing() {
    let (mut shard, mut sink, now) = (shard(), Recorder::default(), Instant::now());
    let id = join_paced(&mut shard, FormatId::RAW, &["a"], SECOND);
    deliver_at(&mut shard, now, &["a1"], &mut sink);
    deliver_at(&mut shard, now, &["a2"], &mut sink);
    assert_eq!(unsubscribe(&mut shard, id, "a"), Some(true));
    shard.subscribe(id, &topic("a"), Wish::Paced, 2).unwrap();
    shard.pace(id, &Name::Topic(topic("a")), SECOND);
    let later = now + SECOND / 2;
    deliver_at(&mut shard, later, &["a3"], &mut sink);
    deliver_at(&mut shard, later, &["a4"], &mut sink);
    assert_eq!(sink.read(id), "a1 a3", "what was held went with its subscription");
    let mut report = Report::default();
    assert_eq!(shard.release_held(now + SECOND, &mut sink, &mut report), Some(later + SECOND));
    assert_eq!(sink.read(id), "");
    assert_eq!(shard.release_held(later + SECOND, &mut sink, &mut report), None);
    assert_eq!(sink.read(id), "a4");
}

#[test]
fn many_topics_keep_their_pace() {
    let (mut shard, mut sink, now) = (shard(), Recorder::default(), Instant::now());
    let id = shard.connect(FormatId::RAW, false);
    tie_pattern(&mut shard, id, "*", Wish::Paced, &[]).unwrap();
    shard.pace(id, &Name::Pattern(Pattern::new("*").unwrap()), SECOND);
    let first = ["a1", "b1", "c1", "d1", "e1"];
    deliver_at(&mut shard, now, &first, &mut sink);
    deliver_at(&mut shard, now, &["e2"], &mut sink);
    assert_eq!(sink.read(id), "a1 b1 c1 d1 e1");
    // More topics than the bound of messages: times that have passed are forgotten, but not this one's.
    shard.release_held(now + SECOND, &mut sink, &mut Report::default());
    deliver_at(&mut shard, now + SECOND, &["e3"], &mut sink);
    assert_eq!(sink.read(id), "e2");
}

#[test]
fn what_is_held_goes_out_when_something_else_takes_over() {
    let (mut shard, mut sink, now) = (shard(), Recorder::default(), Instant::now());
    let id = join_paced(&mut shard, FormatId::RAW, &["a", "b"], SECOND);
    tie_pattern(&mut shard, id, "*", Wish::AsTopic, &[]).unwrap();
    deliver_at(&mut shard, now, &["a1", "b1"], &mut sink);
    deliver_at(&mut shard, now, &["a2", "b2"], &mut sink);
    assert_eq!((sink.read(id).as_str(), shard.outbox_bytes()), ("a1 b1", 8));
    // The pace of the other topic goes on.
    assert_eq!(unsubscribe(&mut shard, id, "a"), Some(true));
    deliver_at(&mut shard, now, &["a3", "b3"], &mut sink);
    let mut report = Report::default();
    shard.flush(id, &mut sink, &mut report);
    assert_eq!(sink.read(id), "a2 a3");
    shard.release_held(now + SECOND, &mut sink, &mut report);
    assert_eq!((sink.read(id).as_str(), shard.outbox_bytes()), ("b3", 0));
}

#[test]
fn what_is_gathered_does_not_stand_behind_what_becomes_newer() {
    let (mut shard, mut sink) = (shard_with(|_| SlowPolicy::Conflate), Recorder::default());
    let id = join(&mut shard, &["a", "b"]);
    // The answer is not flushed yet, though the socket takes everything.
    shard.push_control(id, frame(OpCode::Text, b"ack")).unwrap();
    deliver(&mut shard, &["a1"], &mut sink);
    deliver(&mut shard, &["a2", "b1"], &mut sink);
    deliver(&mut shard, &["a3"], &mut sink);
    shard.flush(id, &mut sink, &mut Report::default());
    assert_eq!(sink.read(id), "ack a3 b1");
}

// === the budget ===

#[test]
fn the_largest_outboxes_pay() {
    use SlowPolicy::{Conflate, Disconnect, DropOldest};
    // Its policy; whether it takes gaps; whether it is large; and what becomes of it.
    let rows = [
        (DropOldest, FormatId::JSON, true, "<a1-2 evicted> a3", false),
        (Conflate, FormatId::JSON, true, "<a1-2 evicted> a3", false),
        (Disconnect, FormatId::JSON, true, "a1 a2 a3", true),
        (DropOldest, FormatId::RAW, true, "a1 a2 a3", true),
        (DropOldest, FormatId::JSON, false, "a3", false),
    ];
    for (policy, format, is_large, expect, evicted) in rows {
        let limits = ShardLimits { outbox: OutboxLimits { bytes_max: 1_000, ..LIMITS.outbox }, ..LIMITS };
        let settings = move |_: &Topic| TopicSettings { policy, ..TopicSettings::default() };
        let mut shard = Shard::new(limits, Epoch::new(1), settings);
        let (mut sink, mut report, now) = (Recorder::default(), Report::default(), Instant::now());
        let id = join_as(&mut shard, format, &["a"]);
        let (places, bound) = if is_large { (&["a1x", "a2y", "a3z"][..], 50) } else { (&["a3x"][..], 50) };
        sink.room.insert(id.slot, 0);
        places.iter().for_each(|place| drop(deliver_keyed(&mut shard, now, &[place], &mut sink)));
        let bound = if format == FormatId::RAW { 10 } else { bound };
        shard.shed(bound, &mut report);
        let case = format!("{policy:?} {} {is_large}", format.format().name());
        let evictions: Vec<_> = evicted.then_some((id, Eviction::Budget)).into_iter().collect();
        assert_eq!(report.evicted, evictions, "{case}");
        assert!(evicted || shard.outbox_bytes() <= bound, "{case}");
        shard.shed(bound, &mut report);
        assert_eq!(report.evicted.len(), evictions.len(), "{case}: once");
        assert_eq!(report.dropped, if expect.starts_with('<') { 2 } else { 0 }, "{case}");
        sink.room.clear();
        shard.flush(id, &mut sink, &mut report);
        assert_eq!((sink.read(id).as_str(), shard.outbox_bytes()), (expect, 0), "{case}");
    }
}

#[test]
fn who_reads_everything_pays_nothing() {
    let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
    let [gathers, _other] = [0, 1].map(|_| join(&mut shard, &["a", "b"]));
    let paces = join_paced(&mut shard, FormatId::RAW, &["c"], SECOND);
    deliver(&mut shard, &["c1"], &mut sink);
    // Held for its time, and gathered for the end of the pass.
    let mut pass = shard.begin(Instant::now(), 0, messages(&["c2", "a1", "b1"]));
    assert_eq!(shard.deliver(&mut pass, 2, &mut sink, &mut report), Progress::More);
    assert!(shard.outbox_bytes() > 4);
    shard.shed(0, &mut report);
    assert_eq!((report.evicted.len(), report.dropped), (0, 0));
    while shard.deliver(&mut pass, 1, &mut sink, &mut report) == Progress::More {}
    assert_eq!([sink.read(gathers), sink.read(paces)], ["a1 b1", "c1"]);
}

// === silence ===

/// Tells of topics that have become stale.
fn be_silent(shard: &mut Shard, now: Instant, sink: &mut Recorder) -> bool {
    let Some(mut pass) = shard.begin_silence(now) else { return false };
    let mut report = Report::default();
    assert_eq!(shard.deliver(&mut pass, usize::MAX, sink, &mut report), Progress::Done);
    true
}

#[test]
fn silence_is_told_once_and_its_end_before_the_next_message() {
    let (mut shard, mut sink) = (shard_of_silence(), Recorder::default());
    let (now, ms) = (Instant::now(), Duration::from_millis(1));
    let by_name = join_as(&mut shard, FormatId::JSON, &["a"]);
    let by_pattern = join_pattern(&mut shard, FormatId::JSON, "*", &[]);
    let raw = join_as(&mut shard, FormatId::RAW, &["a"]);
    let read = move |sink: &mut Recorder| [sink.read(by_name), sink.read(by_pattern), sink.read(raw)];
    deliver_at(&mut shard, now, &["a1"], &mut sink);
    assert_eq!(read(&mut sink), ["a1", "(a 0) a1", "a1"]);
    // It spoke again in time, so the first look finds nothing.
    deliver_at(&mut shard, now + STALE_AFTER - ms, &["a2"], &mut sink);
    assert!(!be_silent(&mut shard, now + STALE_AFTER, &mut sink));
    read(&mut sink);
    let late = now + 2 * STALE_AFTER;
    assert!(!be_silent(&mut shard, late - 2 * ms, &mut sink));
    assert!(be_silent(&mut shard, late - ms, &mut sink));
    assert!(!be_silent(&mut shard, late, &mut sink));
    assert_eq!(read(&mut sink), ["(a stale)", "(a stale)", ""], "and nobody is told twice");
    deliver_at(&mut shard, late, &["a3", "a4"], &mut sink);
    deliver_at(&mut shard, late, &["a5"], &mut sink);
    assert_eq!(read(&mut sink), ["(a live) a3 a4 a5", "(a live) a3 a4 a5", "a3 a4 a5"]);
    assert!(be_silent(&mut shard, late + STALE_AFTER, &mut sink));
}

#[test]
fn a_newcomer_hears_of_silence_once() {
    let (mut shard, mut sink, now) = (shard_of_silence(), Recorder::default(), Instant::now());
    let old = join_as(&mut shard, FormatId::JSON, &["a"]);
    assert_eq!(shard.note_age(&topic("a"), Some(STALE_AFTER), now), Some(STALE_AFTER), "from its beginning");
    assert!(!be_silent(&mut shard, now + STALE_AFTER, &mut sink));
    deliver_at(&mut shard, now, &["a1"], &mut sink);
    assert_eq!(sink.read(old), "(a live) a1");
    // It has become stale, and nobody was told yet.
    let newcomer = join_as(&mut shard, FormatId::JSON, &["a"]);
    assert_eq!(shard.note_age(&topic("a"), Some(STALE_AFTER), now + STALE_AFTER), None);
    assert!(be_silent(&mut shard, now + STALE_AFTER, &mut sink));
    assert_eq!([sink.read(old), sink.read(newcomer)], ["(a stale)", "(a stale)"]);
}

#[test]
fn a_newcomers_view_changes_nothing_for_those_who_were_told() {
    let (mut shard, mut sink, now) = (shard_of_silence(), Recorder::default(), Instant::now());
    let old = join_as(&mut shard, FormatId::JSON, &["a"]);
    shard.note_age(&topic("a"), Some(STALE_AFTER), now);
    // A message is in the inbox when somebody comes.
    let newcomer = shard.connect(FormatId::JSON, true);
    shard.subscribe(newcomer, &topic("a"), Wish::AsTopic, 1).unwrap();
    assert_eq!(shard.note_age(&topic("a"), Some(Duration::ZERO), now), None);
    deliver_at(&mut shard, now, &["a1"], &mut sink);
    assert_eq!([sink.read(old), sink.read(newcomer)], ["(a live) a1", ""]);
}

#[test]
fn a_sweep_forgets_what_only_patterns_brought() {
    let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
    let id = join_pattern(&mut shard, FormatId::RAW, "*", &[]);
    join(&mut shard, &["b"]);
    deliver(&mut shard, &["a1", "b1", "c1"], &mut sink);
    shard.sweep();
    assert_eq!(shard.topics(), 3, "they spoke since the last one");
    let mut pass = shard.begin(Instant::now(), 0, messages(&["a2"]));
    shard.sweep();
    shard.sweep();
    shard.sweep();
    assert_eq!(shard.topics(), 2, "one is in the pass, one has a subscriber");
    assert_eq!(shard.deliver(&mut pass, usize::MAX, &mut sink, &mut report), Progress::Done);
    deliver(&mut shard, &["c2"], &mut sink);
    assert_eq!(sink.read(id), "a1 b1 c1 a2 c2");
}

#[test]
fn a_sweep_leaves_what_is_to_become_stale() {
    let (mut shard, mut sink, now) = (shard_of_silence(), Recorder::default(), Instant::now());
    let id = join_pattern(&mut shard, FormatId::JSON, "*", &[]);
    deliver_at(&mut shard, now, &["a1"], &mut sink);
    (0..3).for_each(|_| shard.sweep());
    assert!(be_silent(&mut shard, now + STALE_AFTER, &mut sink));
    assert_eq!(sink.read(id), "(a 0) a1 (a stale)");
    (0..2).for_each(|_| shard.sweep());
    assert_eq!(shard.topics(), 0);
}

// === polls ===

#[test]
fn a_poll_is_woken_by_what_is_new_to_it() {
    let (mut shard, mut sink, mut report) = (shard_of_silence(), Recorder::default(), Report::default());
    let now = Instant::now();
    let poll = shard.connect(FormatId::LONG_POLL, false);
    shard.subscribe(poll, &topic("a"), Wish::AsTopic, 3).unwrap();
    assert_eq!(deliver_at(&mut shard, now, &["a2", "a3"], &mut sink).woken, []);
    assert_eq!(deliver_at(&mut shard, now, &["b1"], &mut sink).woken, []);
    assert_eq!(deliver_at(&mut shard, now, &["a3", "a4"], &mut sink).woken, [poll]);
    let mut pass = shard.begin_silence(now + STALE_AFTER).unwrap();
    assert_eq!(shard.deliver(&mut pass, usize::MAX, &mut sink, &mut report), Progress::Done);
    assert_eq!((report.woken, sink.writes), (vec![], vec![]), "silence is no message");
}

// === what is said of subscribers ===

#[test]
fn who_waits_is_described_with_the_age_of_the_oldest() {
    use SlowPolicy::{Conflate, Disconnect, DropOldest};
    fn check(policy: SlowPolicy, expect: (usize, Option<u64>)) {
        let (mut shard, mut sink) = (shard_with(move |_| policy), Recorder::default());
        let (slow, fast) = (join_as(&mut shard, FormatId::JSON, &["a", "b"]), join(&mut shard, &["a"]));
        let start = Instant::now();
        sink.room.insert(slow.slot, 0);
        for (seconds, place) in [(1, "a1"), (2, "a2"), (3, "a3")] {
            deliver_at(&mut shard, start + Duration::from_secs(seconds), &[place], &mut sink);
        }
        let described = shard.describe(slow).unwrap();
        let oldest = |seconds| start + Duration::from_secs(seconds);
        assert_eq!((described.messages, described.oldest), (expect.0, expect.1.map(oldest)), "{policy:?}");
        assert_eq!(described.subscriptions, 2);
        assert_eq!((described.bytes > 0, described.bytes), (true, shard.outbox_bytes()), "{policy:?}");
        assert_eq!(shard.oldest_waiting(0..shard.slots()), described.oldest);
        let Described { messages, bytes, oldest, .. } = shard.describe(fast).unwrap();
        assert_eq!((messages, bytes, oldest), (0, 0, None));
        shard.disconnect(slow, &mut Vec::new());
        assert_eq!((shard.describe(slow), shard.oldest_waiting(0..shard.slots())), (None, None));
    }
    // Two frames of this size are within the bound of bytes; a third evicts, and leaves them.
    check(Disconnect, (2, Some(1)));
    // The first is dropped, and so is not the oldest.
    check(DropOldest, (2, Some(2)));
    // Only the newest is there.
    check(Conflate, (1, Some(3)));
}

#[test]
fn a_replay_that_waits_has_no_age() {
    let (mut shard, mut sink, mut report) = (shard(), Recorder::default(), Report::default());
    let id = join(&mut shard, &["a"]);
    sink.room.insert(id.slot, 0);
    shard.replay(id, vec![beginning("a", messages(&["a1", "a2"]))]).unwrap();
    shard.flush(id, &mut sink, &mut report);
    let described = shard.describe(id).unwrap();
    assert_eq!((described.messages, described.oldest), (2, None));
}

// === other settings ===

type Rules = std::rc::Rc<std::cell::Cell<TopicSettings>>;

/// A shard whose topics have all the same settings, which can be changed.
fn shard_that_changes(policy: SlowPolicy) -> (Shard, Rules) {
    let rules = Rules::new(TopicSettings { policy, ..TopicSettings::default() }.into());
    let settings = std::rc::Rc::clone(&rules);
    (Shard::new(LIMITS, Epoch::new(1), move |_: &Topic| settings.get()), rules)
}

fn reload(shard: &mut Shard, rules: &Rules, now: Instant, change: impl FnOnce(&mut TopicSettings)) {
    let mut settings = rules.get();
    change(&mut settings);
    settings.reload += 1;
    rules.set(settings);
    let mut next = Some(0);
    while let Some(from) = next {
        next = shard.review_some(from, 1, now, |_| None);
    }
}

#[test]
fn who_was_not_told_of_conflation_is_told_of_each_loss() {
    let (mut shard, rules) = shard_that_changes(SlowPolicy::Disconnect);
    let (mut sink, now) = (Recorder::default(), Instant::now());
    let before =
        [join_as(&mut shard, FormatId::JSON, &["a"]), join_pattern(&mut shard, FormatId::JSON, "*", &["a0"])];
    deliver(&mut shard, &["a1"], &mut sink);
    before.iter().for_each(|id| drop(sink.read(*id)));
    reload(&mut shard, &rules, now, |settings| settings.policy = SlowPolicy::Conflate);
    let after =
        [join_as(&mut shard, FormatId::JSON, &["a"]), join_pattern(&mut shard, FormatId::JSON, "*", &["a1"])];
    for id in before.iter().chain(&after) {
        sink.room.insert(id.slot, 0);
    }
    let mut report = Report::default();
    // Two fit into an outbox.
    for place in ["a2", "a3", "a4", "a5"] {
        let Report { evicted, .. } = deliver(&mut shard, &[place], &mut sink);
        assert_eq!(evicted, []);
    }
    sink.room.clear();
    for id in before {
        shard.flush(id, &mut sink, &mut report);
        assert_eq!(sink.read(id), "<a2-3 slow> a4 a5", "{id:?}");
    }
    for id in after {
        shard.flush(id, &mut sink, &mut report);
        assert_eq!(sink.read(id), "a5", "{id:?}");
    }
    // What is born later is told to all, with its policy.
    deliver(&mut shard, &["b1"], &mut sink);
    sink.room.extend(before.iter().chain(&after).map(|id| (id.slot, 0)));
    for place in ["b2", "b3", "b4", "b5"] {
        deliver(&mut shard, &[place], &mut sink);
    }
    sink.room.clear();
    for (by_pattern, expect) in [(before[1], "(b 0) b1 b5"), (after[1], "(b 0) b1 b5")] {
        shard.flush(by_pattern, &mut sink, &mut report);
        assert_eq!(sink.read(by_pattern), expect, "{by_pattern:?}");
    }
}

#[test]
fn what_waits_by_an_old_policy_stays_in_order_under_a_new_one() {
    use SlowPolicy::{Conflate, Disconnect, DropOldest};
    let (mut shard, rules) = shard_that_changes(Conflate);
    let (mut sink, mut report, now) = (Recorder::default(), Report::default(), Instant::now());
    let id = join_as(&mut shard, FormatId::JSON, &["a"]);
    sink.room.insert(id.slot, 0);
    deliver(&mut shard, &["a1"], &mut sink);
    deliver(&mut shard, &["a2"], &mut sink);
    for (policy, place) in [(Disconnect, "a3"), (DropOldest, "a4"), (Conflate, "a5")] {
        reload(&mut shard, &rules, now, |settings| settings.policy = policy);
        deliver(&mut shard, &[place], &mut sink);
    }
    // A subscription of its own wish comes behind: nothing of it may stand before what waited.
    assert_eq!(unsubscribe(&mut shard, id, "a"), Some(true));
    shard.push_control(id, frame(OpCode::Text, b"ack")).unwrap();
    shard.subscribe(id, &topic("a"), Wish::Latest, 5).unwrap();
    deliver(&mut shard, &["a6"], &mut sink);
    deliver(&mut shard, &["a7"], &mut sink);
    sink.room.clear();
    shard.flush(id, &mut sink, &mut report);
    assert_eq!(sink.read(id), "a2 a3 <a4-4 slow> a5 ack a7");
}

#[test]
fn smaller_bounds_are_asked_for_with_the_next_message() {
    let (mut shard, mut sink) = (shard_with(a_drops), Recorder::default());
    let id = join_as(&mut shard, FormatId::JSON, &["a"]);
    sink.room.insert(id.slot, 0);
    deliver(&mut shard, &["a1"], &mut sink);
    deliver(&mut shard, &["a2"], &mut sink);
    let waits = shard.outbox_bytes();
    let outbox = OutboxLimits { messages_max: 1, ..LIMITS.outbox };
    shard.set_limits(ShardLimits { outbox, subscriptions_max: 1 });
    assert_eq!((shard.outbox_bytes(), shard.may_subscribe(id)), (waits, Err(SubscribeError::TooMany)));
    let report = deliver(&mut shard, &["a3"], &mut sink);
    assert_eq!((report.dropped, report.evicted), (2, vec![]));
    sink.room.clear();
    shard.flush(id, &mut sink, &mut Report::default());
    assert_eq!(sink.read(id), "<a1-2 slow> a3");
}

#[test]
fn silence_goes_by_the_new_time() {
    let (mut shard, rules) = shard_that_changes(SlowPolicy::Disconnect);
    let (mut sink, start) = (Recorder::default(), Instant::now());
    let after = |seconds| start + Duration::from_secs(seconds);
    let id = join_as(&mut shard, FormatId::JSON, &["a", "b"]);
    deliver_at(&mut shard, start, &["a1", "b1"], &mut sink);
    sink.read(id);
    // Nobody has noted when they spoke: that is asked.
    rules.set(TopicSettings { stale_after: Some(STALE_AFTER), reload: 1, ..rules.get() });
    let age = |name: &Topic| (*name == topic("a")).then(|| Duration::from_secs(2));
    assert_eq!(shard.review_some(0, 9, after(2), age), None);
    assert!(!be_silent(&mut shard, after(4), &mut sink));
    reload(&mut shard, &rules, after(4), |settings| settings.stale_after = Some(2 * STALE_AFTER));
    assert!(!be_silent(&mut shard, after(9), &mut sink), "it is longer now");
    reload(&mut shard, &rules, after(9), |settings| settings.stale_after = Some(STALE_AFTER / 5));
    assert!(be_silent(&mut shard, after(9), &mut sink), "and shorter now");
    assert_eq!(sink.read(id), "(a stale)");
    reload(&mut shard, &rules, after(9), |settings| settings.stale_after = None);
    deliver_at(&mut shard, after(10), &["a2", "b2"], &mut sink);
    deliver_at(&mut shard, after(10), &["a3", "b3"], &mut sink);
    assert_eq!(sink.read(id), "(a live) a2 b2 a3 b3", "who was told that it is stale is told that it speaks");
    assert!(!be_silent(&mut shard, after(99), &mut sink));
}
