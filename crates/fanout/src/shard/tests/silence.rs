//! Who is told that a topic has become stale, and that it speaks again.

use super::*;

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
