//! Patterns of many topics, and topics and patterns that appear at the same moment.

mod support;

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use fanfare_registry::Registry;
use fanfare_wire::command::Start;

use support::{LIMITS, Mailboxes, drafts, pattern, ring, topic};

const ROUNDS: usize = 5_000;

#[test]
fn a_topic_born_beside_a_pattern_has_its_interest_from_the_first_message_or_the_joining_on() {
    let (registry, mailboxes) = (Registry::new(LIMITS, |_| ring(9)), Mailboxes::new(2, usize::MAX));
    let (mut pattern_first, mut topic_first) = (0, 0);
    for round in 0..ROUNDS {
        let name = topic(&format!("r{round}.x"));
        let start = Barrier::new(3);
        let joined = thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                for count in 1..=3 {
                    registry
                        .admit(0, &name, drafts(&name, count), Instant::now(), &mailboxes)
                        .expect("there is room");
                }
            });
            // Another pattern wants the same topic for another shard: the two must not undo each other.
            scope.spawn(|| {
                let other = pattern(&format!("r{round}.>"));
                start.wait();
                registry.join_pattern(&other, 1, |_| Start::Live, Instant::now()).expect("there is room");
                registry.leave_pattern(&other, 1, true);
            });
            start.wait();
            let pattern = pattern(&format!("r{round}.*"));
            registry.join_pattern(&pattern, 0, |_| Start::Earliest, Instant::now()).expect("there is room")
        });
        let mut offsets = Vec::new();
        let mut position = 0;
        if let Some((joined, begin)) = joined.first() {
            assert_eq!(*joined, name);
            offsets.extend(begin.replay.iter().map(|message| message.offset()));
            position = begin.position.offset;
        }
        *(if joined.is_empty() { &mut pattern_first } else { &mut topic_first }) += 1;
        // Nothing before the position is there, although another pattern's interest changed meanwhile.
        offsets.extend(mailboxes.take_offsets(0));
        assert_eq!(offsets, [1, 2, 3, 4, 5, 6], "round {round}, joined at {position}");
        mailboxes.take(1);
        registry.admit(1, &name, drafts(&name, 1), Instant::now(), &mailboxes).expect("there is room");
        let live = (mailboxes.take_offsets(0), mailboxes.take_offsets(1));
        assert_eq!(live, (vec![7], vec![]), "round {round}: of both shards, the one that stayed");
    }
    assert!(pattern_first > 0 && topic_first > 0, "{pattern_first} and {topic_first}");
}

#[test]
fn the_last_to_leave_a_pattern_leaves_all_its_topics() {
    let (registry, mailboxes) = (Registry::new(LIMITS, |_| ring(9)), Mailboxes::new(2, usize::MAX));
    let topics: Vec<_> = (0..LIMITS.wildcard_topics_max).map(|index| topic(&format!("t.{index}"))).collect();
    let publish = || {
        for name in &topics {
            registry.admit(0, name, drafts(name, 1), Instant::now(), &mailboxes).expect("there is room");
        }
        [mailboxes.take(0).len(), mailboxes.take(1).len()]
    };
    assert_eq!(publish(), [0, 0]);
    for shard in [0, 0, 1] {
        let joined = registry.join_pattern(&pattern("t.*"), shard, |_| Start::Last, Instant::now());
        assert_eq!(joined.expect("just as many as may be").len(), topics.len());
    }
    registry.leave_pattern(&pattern("t.*"), 0, false);
    assert_eq!(publish(), [topics.len(), topics.len()]);
    registry.leave_pattern(&pattern("t.*"), 0, true);
    assert_eq!(publish(), [0, topics.len()]);
    registry.leave_pattern(&pattern("t.*"), 1, true);
    assert_eq!((publish(), registry.patterns()), ([0, 0], 0));
}
