//! One message of a key per interval, what is held until then, and what lets it go early.

use super::*;

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
