//! The outbox alone: what leaves it, whatever the socket takes.

use super::*;
use crate::replay::Beginning;
use crate::slow_consumer::SlowPolicy;
use fanfare_wire::{Draft, FormatId, Kind, Message, Position};
use std::sync::Arc;

const LIMITS: OutboxLimits = OutboxLimits { bytes_max: 100, messages_max: 10, control_bytes_max: 20 };

/// Messages of three payload bytes (five frame bytes) with the offsets `first..=last`.
fn batch(topic: u32, first: u64, last: u64) -> Rc<Batch> {
    let messages: Vec<_> = (first..=last)
        .map(|offset| {
            let payload = format!("{topic}{offset:02}");
            let topic = Topic::new(&topic.to_string()).unwrap();
            let draft = Draft::new(topic, Kind::Text, payload.as_bytes());
            Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
        })
        .collect();
    Rc::clone(&Batch::join(FormatId::RAW, None, &messages, None)[0])
}

/// Queues what is left of a batch after `sent` bytes.
fn push(outbox: &mut Outbox, batch: Rc<Batch>, from: u32, sent: usize) {
    outbox.push_messages(&batch, from, batch.len(), sent, SlowPolicy::DropOldest);
}

/// Drops the oldest message that may be dropped.
fn drop_one(outbox: &mut Outbox, may_drop: impl Fn(&Batch) -> bool) -> bool {
    let may_drop = |entry: &Entry| match entry {
        Entry::Messages { batch, class: Class::Live(_), .. } => may_drop(batch),
        _ => false,
    };
    let first = outbox.first_whole();
    (first..outbox.queue.len()).any(|index| outbox.drop_at(index, may_drop, GapReason::Slow))
}

/// All that waits, frames as their payload; a gap as `<topic:from-to>`.
fn waiting(outbox: &mut Outbox) -> String {
    for entry in &mut outbox.queue {
        if let Entry::Gap(gap) = entry {
            gap.frame = Some(format!("<{}:{}-{}>", gap.topic, gap.from, gap.to).into());
        }
    }
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let (count, total) = outbox.fill(&mut slices);
    let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
    assert_eq!(bytes.len(), total);
    String::from_utf8(bytes.into_iter().filter(|byte| *byte != 0x81 && *byte != 3).collect()).unwrap()
}

fn check_sums(outbox: &Outbox) {
    let (mut bytes, mut messages) = (0, 0);
    for (index, entry) in outbox.queue.iter().enumerate() {
        if let Entry::Messages { batch, from, to, class: Class::Live(_), .. } = entry {
            bytes += batch.messages(*from, *to).len() - if index == 0 { outbox.head_sent } else { 0 };
            messages += (to - from) as usize;
        }
    }
    assert_eq!((outbox.bytes, outbox.messages), (bytes, messages));
}

#[test]
fn frames_leave_in_order_whatever_the_socket_takes() {
    for step in 1..30 {
        let mut outbox = Outbox::default();
        push(&mut outbox, batch(1, 1, 3), 0, 2);
        outbox.push_control(Bytes::from_static(b"ack"), &LIMITS).unwrap();
        push(&mut outbox, batch(2, 7, 9), 1, 0);
        let mut messages = 0;
        let mut taken = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let (count, total) = outbox.fill(&mut slices);
            let written = step.min(total);
            taken.extend(slices[..count].iter().flat_map(|slice| slice.to_vec()).take(written));
            messages += outbox.advance(written).messages;
            check_sums(&outbox);
        }
        assert_eq!(taken, b"101\x81\x03102\x81\x03103ack\x81\x03208\x81\x03209", "step {step}");
        assert_eq!(messages, 5, "step {step}");
        assert_eq!(outbox.bytes(), 0, "step {step}");
    }
}

#[test]
fn dropping_leaves_a_gap_in_place() {
    let mut outbox = Outbox::default();
    push(&mut outbox, batch(1, 1, 3), 0, 0);
    push(&mut outbox, batch(2, 7, 8), 0, 0);
    push(&mut outbox, batch(1, 4, 5), 0, 0);
    assert!(drop_one(&mut outbox, |_| true));
    assert_eq!(waiting(&mut outbox), "<1:1-1>102103207208104105");
    assert!(drop_one(&mut outbox, |batch| batch.topic.as_str() == "2"));
    assert_eq!(waiting(&mut outbox), "<1:1-1>102103<2:7-7>208104105");
    for _ in 0..3 {
        assert!(drop_one(&mut outbox, |batch| batch.topic.as_str() == "1"));
        check_sums(&outbox);
    }
    assert_eq!(waiting(&mut outbox), "<1:1-4><2:7-7>208105");
    assert!(drop_one(&mut outbox, |_| true));
    assert!(drop_one(&mut outbox, |_| true));
    assert!(!drop_one(&mut outbox, |_| true));
    assert_eq!(waiting(&mut outbox), "<1:1-5><2:7-8>");
    outbox.note_gap(&batch(1, 5, 9), 1);
    assert_eq!(waiting(&mut outbox), "<1:1-9><2:7-8>");
}

#[test]
fn a_half_written_message_is_finished() {
    let mut outbox = Outbox::default();
    push(&mut outbox, batch(1, 1, 3), 0, 1);
    assert!(drop_one(&mut outbox, |_| true));
    check_sums(&outbox);
    assert_eq!(waiting(&mut outbox), "101<1:2-2>103");
    assert!(drop_one(&mut outbox, |_| true));
    assert!(!drop_one(&mut outbox, |_| true));
    assert_eq!(waiting(&mut outbox), "101<1:2-3>");
    outbox.push_pong("pong".into());
    assert_eq!(waiting(&mut outbox), "101pong<1:2-3>");
    outbox.push_last("bye".into(), true);
    check_sums(&outbox);
    assert_eq!(waiting(&mut outbox), "101bye");
}

#[test]
fn a_gap_never_reaches_over_a_message() {
    let mut outbox = Outbox::default();
    push(&mut outbox, batch(1, 1, 1), 0, 0);
    outbox.note_gap(&batch(1, 2, 2), 0);
    push(&mut outbox, batch(1, 3, 3), 0, 0);
    outbox.note_gap(&batch(1, 4, 4), 0);
    outbox.note_gap(&batch(1, 5, 6), 0);
    assert_eq!(waiting(&mut outbox), "101<1:2-2>103<1:4-6>");
}

#[test]
fn a_gap_never_reaches_over_what_becomes_messages() {
    let replay = |topic: &str| {
        let messages = vec![];
        let beginning =
            Beginning { topic: Topic::new(topic).unwrap(), announce: None, stale: None, messages };
        Replay::new(FormatId::RAW, vec![beginning])
    };
    type Fill<'a> = &'a dyn Fn(&mut Outbox);
    let rows: [(&str, Fill<'_>, usize); 4] = [
        ("conflated messages", &|outbox| _ = outbox.conflate(&batch(1, 2, 2)), 2),
        ("those of another topic", &|outbox| _ = outbox.conflate(&batch(2, 2, 2)), 1),
        ("a replay", &|outbox| outbox.push_replay(replay("1")), 2),
        ("that of another topic", &|outbox| outbox.push_replay(replay("2")), 1),
    ];
    for (case, fill, expect) in rows {
        let mut outbox = Outbox::default();
        outbox.note_gap(&batch(1, 1, 1), 0);
        fill(&mut outbox);
        outbox.note_gap(&batch(1, 3, 3), 0);
        let gaps = outbox.queue.iter().filter(|entry| matches!(entry, Entry::Gap(_)));
        assert_eq!(gaps.count(), expect, "over {case}");
    }
}

#[test]
fn a_gap_does_not_grow_into_the_next_subscription() {
    let mut outbox = Outbox::default();
    push(&mut outbox, batch(1, 1, 2), 0, 0);
    outbox.note_gap(&batch(2, 4, 4), 0);
    for topic in ["1", "2"] {
        outbox.end_subscription(&Topic::new(topic).unwrap());
    }
    outbox.push_control("ack".into(), &LIMITS).unwrap();
    push(&mut outbox, batch(1, 7, 7), 0, 0);
    outbox.note_gap(&batch(2, 5, 5), 0);
    assert_eq!(waiting(&mut outbox), "101102<2:4-4>ack107<2:5-5>");
    for expect in
        ["<1:1-1>102<2:4-4>ack107<2:5-5>", "<1:1-2><2:4-4>ack107<2:5-5>", "<1:1-2><2:4-4>ack<1:7-7><2:5-5>"]
    {
        assert!(drop_one(&mut outbox, |_| true));
        assert_eq!(waiting(&mut outbox), expect);
    }
}

#[test]
fn a_gap_behind_a_full_write_is_not_lost() {
    for ahead in SLICES_MAX - 1..=SLICES_MAX + 1 {
        let mut outbox = Outbox::default();
        for _ in 0..ahead {
            push(&mut outbox, batch(1, 1, 1), 0, 0);
        }
        outbox.note_gap(&batch(2, 3, 5), 0);
        let mut taken = Vec::new();
        while !outbox.is_empty() {
            outbox.make_ready(FormatId::JSON);
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let (count, total) = outbox.fill(&mut slices);
            taken.extend(slices[..count].iter().flat_map(|slice| slice.to_vec()));
            outbox.advance(total);
        }
        let gap = r#""from":3,"to":5,"reason":"slow"}"#;
        assert!(taken.ends_with(gap.as_bytes()), "{ahead} entries ahead");
    }
}

#[test]
fn a_pong_waits_for_one_message_at_most() {
    let mut outbox = Outbox::default();
    push(&mut outbox, batch(1, 1, 3), 0, 1);
    outbox.push_pong("pong1".into());
    assert_eq!(waiting(&mut outbox), "101pong1102103");
    outbox.advance(4);
    assert_eq!(waiting(&mut outbox), "pong1102103");
    outbox.push_pong("pong2".into());
    check_sums(&outbox);
    assert_eq!(waiting(&mut outbox), "pong1pong2102103");
}

#[test]
fn nothing_enters_behind_the_last_frame() {
    for sent in [0, 1, 3] {
        let mut outbox = Outbox::default();
        outbox.push_last("bye".into(), false);
        outbox.advance(sent);
        outbox.push_control("ack".into(), &LIMITS).unwrap();
        outbox.push_pong("pong".into());
        outbox.push_last("bye".into(), true);
        assert_eq!(waiting(&mut outbox), "bye"[sent..]);
        assert_eq!(outbox.bytes(), 3 - sent);
    }
}

#[test]
fn pings_are_answered_in_order_and_within_a_bound() {
    let mut outbox = Outbox::default();
    push(&mut outbox, batch(1, 1, 1), 0, 0);
    for frame in ["pong1", "?ping1", "pong2"] {
        outbox.push_pong(frame.into());
    }
    assert_eq!(waiting(&mut outbox), "pong1?ping1pong2101");
    outbox.advance(1);
    for number in 3..100 {
        outbox.push_pong(format!("pong{number}").into());
    }
    outbox.push_pong("?ping2".into());
    let text = waiting(&mut outbox);
    assert!(text.starts_with("ong1?ping1pong2pong3pong4"), "{text}");
    assert!(text.ends_with("pong16pong99?ping2101"), "{text}");
    assert_eq!(outbox.queue.len(), 1 + PONGS_MAX + 1 + 2, "the half-written one not counted");
}

#[test]
fn a_replay_is_whole_and_outside_the_bounds() {
    for step in [1, 7, 64, 1_000] {
        let messages: Vec<_> = (1..=100)
            .map(|offset| {
                let draft = Draft::new(Topic::new("1").unwrap(), Kind::Text, b"old");
                Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
            })
            .collect();
        let mut outbox = Outbox::default();
        outbox.push_control("ack".into(), &LIMITS).unwrap();
        let topic = Topic::new("1").unwrap();
        let beginning = Beginning { topic, announce: None, stale: None, messages };
        outbox.push_replay(Replay::new(FormatId::RAW, vec![beginning]));
        assert_eq!(outbox.bytes(), 3 + 96 + 800, "references, not messages");
        push(&mut outbox, batch(1, 101, 103), 0, 0);
        assert!(drop_one(&mut outbox, |_| true), "the oldest live message goes, no replayed one");
        outbox.note_gap(&batch(1, 104, 104), 0);
        let (mut taken, mut delivered) = (String::new(), 0);
        while !outbox.is_empty() {
            outbox.unfold_replay();
            assert!(outbox.queue.len() <= READY_STEP + 6, "a few at a time");
            let text = waiting(&mut outbox);
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let (_, total) = outbox.fill(&mut slices);
            if step >= total {
                taken.push_str(&text);
            }
            delivered += outbox.advance(step.min(total)).messages;
            check_sums(&outbox);
        }
        assert_eq!((delivered, outbox.bytes()), (102, 0), "step {step}");
        if step == 1_000 {
            assert_eq!(taken, format!("ack{}<1:101-101>\u{4}1102\u{4}1103<1:104-104>", "old".repeat(100)));
        }
    }
}

/// What a flush writes, `room` bytes of it.
fn write(outbox: &mut Outbox, room: usize) -> String {
    outbox.make_ready(FormatId::RAW);
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let (count, total) = outbox.fill(&mut slices);
    let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
    outbox.advance(room.min(total));
    let taken = bytes.into_iter().take(room).filter(|byte| *byte != 0x81 && *byte != 3);
    String::from_utf8(taken.collect()).unwrap()
}

#[test]
fn a_newer_message_takes_an_older_ones_place() {
    let mut outbox = Outbox::default();
    push(&mut outbox, batch(9, 1, 1), 0, 2);
    for (topic, offset) in [(1, 1), (2, 1), (1, 2), (3, 1), (1, 3)] {
        outbox.conflate(&batch(topic, offset, offset));
    }
    assert_eq!((outbox.conflated(), outbox.bytes()), (3, 3 + 15));
    assert_eq!(write(&mut outbox, 3), "901", "the half-written message is finished first");
    // What is on its way is not replaced; what comes meanwhile stands at the back.
    assert_eq!(write(&mut outbox, 7), "103");
    outbox.conflate(&batch(2, 2, 2));
    outbox.conflate(&batch(1, 4, 4));
    assert_eq!(write(&mut outbox, 1_000), "201301");
    assert_eq!(write(&mut outbox, 1_000), "202104");
    assert!(outbox.is_empty() && outbox.bytes() == 0 && outbox.conflation.is_none());
}

#[test]
fn the_end_of_a_subscription_ends_conflation() {
    let mut outbox = Outbox::default();
    push(&mut outbox, batch(9, 1, 1), 0, 2);
    outbox.conflate(&batch(1, 1, 1));
    outbox.end_subscription(&Topic::new("1").unwrap());
    outbox.push_control("ack".into(), &LIMITS).unwrap();
    outbox.conflate(&batch(1, 2, 2));
    assert_eq!(write(&mut outbox, 1_000), "901101ack");
    assert_eq!(write(&mut outbox, 1_000), "102");
    assert_eq!(outbox.bytes(), 0);
}

#[test]
fn what_is_conflated_can_be_dropped_with_a_gap() {
    let mut outbox = Outbox::default();
    push(&mut outbox, batch(9, 1, 1), 0, 2);
    outbox.conflate(&batch(1, 1, 1));
    outbox.conflate(&batch(2, 1, 1));
    assert!(outbox.drop_conflated());
    assert_eq!(waiting(&mut outbox), "901<1:1-1>");
    push(&mut outbox, batch(3, 1, 3), 0, 0);
    assert_eq!(outbox.shed(8), 3, "the oldest first, and the half-written one stays");
    assert_eq!(waiting(&mut outbox), "901<1:1-1><2:1-1><3:1-2>303");
    check_sums(&outbox);
}

#[test]
fn bounds_hold_but_for_the_first_batch() {
    let mut outbox = Outbox::default();
    assert!(outbox.fits(1_000_000, 1_000, &LIMITS));
    push(&mut outbox, batch(1, 1, 5), 0, 0);
    assert!(outbox.fits(75, 5, &LIMITS));
    assert!(!outbox.fits(76, 5, &LIMITS));
    assert!(!outbox.fits(75, 6, &LIMITS));
    assert_eq!(outbox.push_control(vec![b'x'; 15].into(), &LIMITS), Ok(()));
    assert_eq!(outbox.push_control(vec![b'x'; 6].into(), &LIMITS), Err(ControlFull));
}

#[test]
fn an_empty_outbox_gives_its_memory_back() {
    let mut outbox = Outbox::default();
    for offset in 0..100 {
        push(&mut outbox, batch(1, offset, offset), 0, 0);
    }
    let total = outbox.bytes();
    outbox.advance(total);
    assert_eq!(outbox.queue.capacity(), 0);

    push(&mut outbox, batch(1, 100, 100), 0, 0);
    outbox.rest();
    assert_eq!(outbox.queue.len(), 1, "what waits stays");
    outbox.advance(outbox.bytes());
    assert_ne!(outbox.queue.capacity(), 0, "the next pass need not allocate");
    outbox.rest();
    assert_eq!(outbox.queue.capacity(), 0);
}
