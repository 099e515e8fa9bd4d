//! What patterns bring: from when on, beside names, and until when.

use super::*;
use crate::outbox::Flushed;

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
