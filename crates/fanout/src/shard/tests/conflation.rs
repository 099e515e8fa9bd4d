//! Who gets the newest of each key, and who gets everything.

use super::*;
use crate::outbox::Flushed;
use fanfare_wire::websocket::{OpCode, frame};

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
