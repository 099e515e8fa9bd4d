//! Messages of one topic in one wire format, joined into one contiguous buffer.
//!
//! ```text
//!   bytes  [ mark | frame 41 | frame 42 | frame 43 ]
//!   ends                     ^          ^          ^       messages(1..3) is the slice from the first end on
//! ```
//! The mark, in formats that have one, belongs to the first message: whoever does not get that one gets no mark, either.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fanfare_wire::{Epoch, FormatId, Message, Topic};
use smallvec::SmallVec;

/// The shared frames of a pass. Outboxes hold it by `Rc`: the count is the shard's own and touches no shared line.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) topic: Topic,
    pub(crate) epoch: Epoch,
    /// The conflation key of a batch of one message.
    pub(crate) key: Option<Box<str>>,
    /// When its pass began. Of a replay, nothing: its messages are as old as they are asked for.
    pub(crate) at: Option<Instant>,
    bytes: Bytes,
    /// Where each message ends, and its offset.
    marks: SmallVec<[Mark; 1]>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    end: u32,
    offset: u64,
}

/// The batches of one topic and format in a pass. One is the rule.
pub(crate) type Batches = SmallVec<[Rc<Batch>; 1]>;

/// A batch is closed once its frames reach this many bytes, so that joining copies little and a slow socket's remainder
/// stays small. A single larger message is a batch of its own, and is not copied.
pub(crate) const JOINED_BYTES_MAX: usize = 64 * 1024;

impl Batch {
    /// Splits `messages`, all of one topic and in order, into batches, the first of which begins with `mark`.
    pub(crate) fn join(
        format: FormatId,
        mark: Option<&Bytes>,
        messages: &[Arc<Message>],
        at: Option<Instant>,
    ) -> Batches {
        let mut batches = SmallVec::new();
        let mut rest = messages;
        let mut mark = mark;
        while let Some(first) = rest.first() {
            let mut bytes = 0;
            let count = rest
                .iter()
                .take_while(|message| {
                    let joins = bytes == 0
                        || message.epoch() == first.epoch()
                            && bytes + message.frame(format).len() <= JOINED_BYTES_MAX;
                    bytes += message.frame(format).len();
                    joins
                })
                .count();
            let (joined, later) = rest.split_at(count);
            batches.push(Rc::new(Self { at, ..Self::new(first, format, mark.take(), joined) }));
            rest = later;
        }
        batches
    }

    /// A message as it is: its frame is shared, not copied.
    pub(crate) fn single(format: FormatId, message: &Message) -> Self {
        let bytes = message.frame(format).clone();
        let mut marks = SmallVec::new();
        marks.push(Mark { end: bytes.len() as u32, offset: message.offset() });
        let key = message.key().map(Into::into);
        Self { topic: message.topic().clone(), epoch: message.epoch(), key, at: None, bytes, marks }
    }

    /// The newest message of each key, in the order of their offsets.
    pub(crate) fn newest(format: FormatId, messages: &[Arc<Message>], at: Option<Instant>) -> Vec<Rc<Self>> {
        let mut keys = std::collections::HashSet::<_, ahash::RandomState>::default();
        let newest = messages.iter().rev().filter(|message| keys.insert(message.key()));
        let mut newest: Vec<_> =
            newest.map(|message| Rc::new(Self { at, ..Self::single(format, message) })).collect();
        newest.reverse();
        newest
    }

    fn new(first: &Message, format: FormatId, mark: Option<&Bytes>, messages: &[Arc<Message>]) -> Self {
        let mark = mark.map_or(&b""[..], |mark| &mark[..]);
        let bytes = match messages {
            [one] if mark.is_empty() => one.frame(format).clone(),
            many => {
                let frames: usize = many.iter().map(|message| message.frame(format).len()).sum();
                let mut joined = Vec::with_capacity(mark.len() + frames);
                joined.extend_from_slice(mark);
                for message in many {
                    joined.extend_from_slice(message.frame(format));
                }
                joined.into()
            }
        };
        let mut end = mark.len() as u32;
        let mut marks = SmallVec::with_capacity(messages.len());
        for message in messages {
            end += message.frame(format).len() as u32;
            marks.push(Mark { end, offset: message.offset() });
        }
        Self { topic: first.topic().clone(), epoch: first.epoch(), key: None, at: None, bytes, marks }
    }

    /// How many messages.
    pub(crate) fn len(&self) -> u32 {
        self.marks.len() as u32
    }

    /// The last message's offset.
    pub(crate) fn last_offset(&self) -> u64 {
        self.marks.last().map_or(0, |mark| mark.offset)
    }

    /// The offset of message `index`.
    pub(crate) fn offset(&self, index: u32) -> u64 {
        self.marks[index as usize].offset
    }

    /// How many messages at the front have an offset up to `offset`.
    pub(crate) fn through(&self, offset: u64) -> u32 {
        // Nearly always all or none: the batch a subscriber joined in the middle of is the exception.
        if self.marks.first().is_some_and(|mark| mark.offset > offset) {
            return 0;
        }
        self.marks.partition_point(|mark| mark.offset <= offset) as u32
    }

    /// The frames of messages `from..`.
    #[inline]
    pub(crate) fn rest(&self, from: u32) -> &[u8] {
        &self.bytes[self.start(from)..]
    }

    /// The frames of messages `from..to`.
    pub(crate) fn messages(&self, from: u32, to: u32) -> &[u8] {
        &self.bytes[self.start(from)..self.start(to)]
    }

    /// How many bytes come before message `index`.
    #[inline]
    pub(crate) fn start(&self, index: u32) -> usize {
        match index {
            0 => 0,
            _ => self.marks[index as usize - 1].end as usize,
        }
    }

    /// The message that the byte at `position` belongs to, or the number of messages at the end.
    pub(crate) fn index_at(&self, position: usize) -> u32 {
        self.marks.partition_point(|mark| mark.end as usize <= position) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_wire::{Draft, Kind, Position};

    fn messages(sizes: &[usize]) -> Vec<Arc<Message>> {
        sizes
            .iter()
            .zip(1..)
            .map(|(&size, offset)| {
                let draft = Draft::new(Topic::new("t").unwrap(), Kind::Text, &vec![b'x'; size]);
                Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
            })
            .collect()
    }

    #[test]
    fn frames_join_up_to_a_bound() {
        fn check(sizes: &[usize], expect: &[u32]) {
            let batches = Batch::join(FormatId::RAW, None, &messages(sizes), None);
            assert_eq!(batches.iter().map(|batch| batch.len()).collect::<Vec<_>>(), expect, "{sizes:?}");
        }
        check(&[], &[]);
        check(&[10], &[1]);
        check(&[10, 10, 10], &[3]);
        check(&[60_000, 10_000, 10], &[1, 2]);
        check(&[100_000, 100_000], &[1, 1]);
        check(&[30_000, 30_000, 30_000], &[2, 1]);
    }

    #[test]
    fn a_batch_is_cut_at_messages() {
        let batches = Batch::join(FormatId::RAW, None, &messages(&[1, 2, 3]), None);
        let batch = &batches[0];
        assert_eq!(batch.messages(0, 3), b"\x81\x01x\x81\x02xx\x81\x03xxx");
        assert_eq!(batch.messages(1, 2), b"\x81\x02xx");
        assert_eq!(batch.messages(3, 3), b"");
        assert_eq!((batch.through(0), batch.through(2), batch.through(9)), (0, 2, 3));
        let indexes: Vec<u32> = [0, 2, 3, 6, 7, 12].map(|position| batch.index_at(position)).to_vec();
        assert_eq!(indexes, [0, 0, 1, 1, 2, 3]);
        assert_eq!((1..=3).map(|offset| batch.offset(offset - 1)).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_mark_belongs_to_the_first_message() {
        let batches = Batch::join(FormatId::RAW, Some(&"mark".into()), &messages(&[1, 2, 70_000]), None);
        assert_eq!(batches.len(), 2);
        assert_eq!(batches[0].messages(0, 2), b"mark\x81\x01x\x81\x02xx");
        assert_eq!(batches[0].messages(1, 2), b"\x81\x02xx");
        assert_eq!((batches[0].index_at(6), batches[0].index_at(7)), (0, 1));
        assert_eq!(batches[1].messages(0, 1)[..2], [0x81, 127]);
    }

    #[test]
    fn the_newest_of_each_key_are_in_order() {
        let keyed = |(offset, key): (u64, Option<&str>)| {
            let mut draft = Draft::new(Topic::new("t").unwrap(), Kind::Text, b"x");
            draft.key = key.map(Into::into);
            Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset))
        };
        let messages = [(1, Some("a")), (2, Some("b")), (3, Some("a")), (4, None), (5, None), (6, Some("c"))];
        let newest = Batch::newest(FormatId::RAW, &messages.map(keyed), None);
        assert_eq!(newest.iter().map(|batch| batch.offset(0)).collect::<Vec<_>>(), [2, 3, 5, 6]);
    }

    #[test]
    fn a_lone_message_is_not_copied() {
        let messages = messages(&[9]);
        let batch = &Batch::join(FormatId::RAW, None, &messages, None)[0];
        assert_eq!(batch.bytes.as_ptr(), messages[0].frame(FormatId::RAW).as_ptr());
    }
}
