//! What is said of subscribers for whom something waits.

use super::*;
use crate::describe::Described;

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
