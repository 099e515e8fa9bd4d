//! What a pass brings, to whom and in how many writes, and who comes, goes or is woken meanwhile.

use super::*;
use crate::outbox::Flushed;

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
