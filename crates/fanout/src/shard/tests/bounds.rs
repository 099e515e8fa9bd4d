//! What is bounded: an outbox, subscriptions, answers that nobody reads, and all outboxes together.

use super::*;
use crate::outbox::Flushed;

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
