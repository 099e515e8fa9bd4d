//! Other policies, bounds and times, put in force while something waits.

use super::*;
use fanfare_wire::websocket::{OpCode, frame};

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
