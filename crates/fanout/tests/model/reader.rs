//! A client that reads its bytes frame by frame, and knows what it was promised.
//!
//! Answers carry a number, so each is a mark in the stream: the promise behind it begins to hold, or ends, where the answer
//! is read. Between the answers the offsets of a topic increase, and each hole is filled by a gap, or by conflation: then a
//! newer message with the key of what is missing has to come.

use std::collections::BTreeMap;
use std::time::Instant;

use fanfare_fanout::{SlowPolicy, Wish};
use fanfare_wire::FormatId;
use fanfare_wire::websocket::OpCode;
use serde_json::Value;

use super::frames::{self, Frame};
use super::topics::{On, Tie};
use super::{Seen, Topics};

/// The least and the most that a subscription was given, as the offset of its last message.
pub(crate) type Given = (u64, u64);

/// How a topic begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Follow {
    pub(crate) topic: usize,
    /// The first offset.
    pub(crate) next: u64,
    /// Messages up to here are replay.
    pub(crate) start: u64,
    /// The client is told that it is stale.
    pub(crate) stale: bool,
}

/// What an answer means to the client, from where it is read.
#[derive(Debug, Clone)]
pub(crate) enum Promise {
    /// Nothing.
    Answer,
    /// These topics are new; those of a pattern are announced first.
    Subscribed { tie: Tie, follows: Vec<Follow> },
    /// Of these topics no message follows. Of those that something else brings everything was given up to here.
    Unsubscribed { on: On, ended: Vec<(usize, Given)>, handed_over: Vec<(usize, Given)> },
}

/// What a client made of some bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) bytes: usize,
    /// How many of `bytes` were of gap frames.
    pub(crate) gap_bytes: usize,
    /// How many of `bytes` were of replays, which wait as references.
    pub(crate) replay_bytes: usize,
    pub(crate) messages: u64,
    /// How many messages the gaps announced.
    pub(crate) lost: u64,
}

/// The number of the last ping or pong that was sent, and of the last one that was read.
#[derive(Debug, Default)]
struct Numbers {
    sent: u64,
    read: u64,
}

/// What a client knows of a topic.
#[derive(Debug)]
struct Topic {
    next: u64,
    start: u64,
    /// The oldest message of each key that was passed over, and of which no newer one came yet.
    passed_over: BTreeMap<Option<String>, u64>,
    is_stale: Option<bool>,
    /// The beginning says that it is stale.
    begins_stale: bool,
    /// When its last message came.
    came_at: Option<Instant>,
}

impl Topic {
    fn new(follow: &Follow) -> Self {
        Self {
            next: follow.next,
            start: follow.start,
            passed_over: BTreeMap::new(),
            is_stale: None,
            begins_stale: follow.stale,
            came_at: None,
        }
    }

    fn pass_over(&mut self, topic: usize, offsets: std::ops::Range<u64>, topics: &Topics) {
        for offset in offsets {
            assert!(offset > self.start, "message {offset} of topic {topic} is missing in its replay");
            let key = topics.message(topic, offset).key().map(str::to_owned);
            self.passed_over.entry(key).or_insert(offset);
        }
    }
}

/// One client.
pub(crate) struct Reader {
    format: FormatId,
    /// Its socket takes everything at once: what it reads was sent just now.
    on_time: bool,
    /// And a pace is kept exactly: so many messages can be held that none goes out early.
    keeps_pace: bool,
    /// A frame that is not whole yet.
    unread: Vec<u8>,
    promises: Vec<Promise>,
    answers_read: usize,
    ties: Vec<Tie>,
    /// The topics that came, as far as this client has read.
    topics: BTreeMap<usize, Topic>,
    /// Topics of a pattern that are still to be announced.
    awaited: BTreeMap<usize, Follow>,
    marked: u64,
    pings: Numbers,
    pongs: Numbers,
    /// Once the server began to close: what each topic was given by then, unless it threw away what waited.
    closing: Option<Option<BTreeMap<usize, Given>>>,
    is_evicted: bool,
    closed: bool,
    pub(crate) total: Kept,
    pub(crate) seen: Seen,
}

impl Reader {
    pub(crate) fn new(format: FormatId, on_time: bool, keeps_pace: bool) -> Self {
        Self {
            format,
            on_time,
            keeps_pace,
            unread: Vec::new(),
            promises: Vec::new(),
            answers_read: 0,
            ties: Vec::new(),
            topics: BTreeMap::new(),
            awaited: BTreeMap::new(),
            marked: 0,
            pings: Numbers::default(),
            pongs: Numbers::default(),
            closing: None,
            is_evicted: false,
            closed: false,
            total: Kept::default(),
            seen: Seen::default(),
        }
    }

    // === what the server says it did ===

    /// The number of the next answer.
    pub(crate) fn next_answer(&self) -> usize {
        self.promises.len()
    }

    pub(crate) fn promise(&mut self, promise: Promise) {
        self.promises.push(promise);
    }

    /// What it reads from now on may have been sent earlier.
    pub(crate) fn is_late(&mut self) {
        (self.on_time, self.keeps_pace) = (false, false);
    }

    /// What is held goes out before its time: an end or a hand-over comes behind it.
    pub(crate) fn goes_early(&mut self) {
        self.keeps_pace = false;
    }

    /// Numbers a ping or a pong. A later one may replace it while it waits.
    pub(crate) fn expect_heartbeat(&mut self, kind: OpCode) -> u64 {
        let numbers = self.numbers(kind);
        numbers.sent += 1;
        numbers.sent
    }

    fn numbers(&mut self, kind: OpCode) -> &mut Numbers {
        if kind == OpCode::Ping { &mut self.pings } else { &mut self.pongs }
    }

    /// The server closes the connection after what it has `given`, or throws away what waits (`None`).
    pub(crate) fn expect_close(&mut self, given: Option<BTreeMap<usize, Given>>) {
        self.closing = Some(given);
        self.goes_early();
    }

    /// The server gave up in the middle of a pass: what was to take the place of older messages may not have entered.
    pub(crate) fn expect_eviction(&mut self) {
        self.is_evicted = true;
    }

    // === what arrives ===

    /// Whether a frame has begun and is not whole.
    pub(crate) fn is_mid_frame(&self) -> bool {
        !self.unread.is_empty()
    }

    pub(crate) fn read(&mut self, bytes: &[u8], topics: &Topics, now: Instant) -> Kept {
        let mut kept = Kept { bytes: bytes.len(), ..Kept::default() };
        let mut before = self.unread.len();
        self.unread.extend_from_slice(bytes);
        let mut unread = std::mem::take(&mut self.unread);
        let mut read = 0;
        while let Some((frame, len)) = frames::first(self.format, &unread[read..]) {
            assert!(!self.closed, "a frame after the last one");
            let new = len - before;
            match frame {
                Frame::Answer(number) => self.read_answer(number, topics),
                Frame::Raw(payload) => {
                    let mut parts = payload.split(':');
                    let topic = topics.find(parts.next().unwrap_or_default());
                    let offset = parts.next().and_then(|offset| offset.parse().ok()).expect("a place");
                    self.read_message(topic, offset, &payload, topics, now, new, &mut kept);
                }
                Frame::Native(value) => self.read_native(&value, topics, now, new, &mut kept),
                Frame::Mark(epoch, sequence) => self.read_mark(&epoch, sequence, topics),
                Frame::Heartbeat(kind, number) => self.read_heartbeat(kind, number),
                Frame::Close => self.read_close(),
            }
            before = 0;
            read += len;
        }
        unread.drain(..read);
        self.unread = unread;
        self.total.bytes += kept.bytes;
        self.total.messages += kept.messages;
        self.total.lost += kept.lost;
        kept
    }

    fn read_native(&mut self, value: &Value, topics: &Topics, now: Instant, new: usize, kept: &mut Kept) {
        if value["type"] == "heartbeat" {
            return;
        }
        let topic =
            topics.find(value["topic"].as_str().expect("every other native frame here names its topic"));
        let number = |key: &str| value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"));
        if let Some(epoch) = value.get("epoch") {
            assert_eq!(*epoch, topics.epoch(topic).to_string());
        }
        match value["type"].as_str() {
            None => {
                let data = value["data"].as_str().expect("payloads here are text");
                self.read_message(topic, number("offset"), data, topics, now, new, kept);
            }
            Some("gap") => {
                kept.gap_bytes += new;
                kept.lost += self.read_gap(topic, number("from"), number("to"), &value["reason"], topics);
            }
            Some("topic") => {
                if self.read_topic(topic, number("offset"), topics) {
                    kept.replay_bytes += new;
                }
            }
            Some("status") => {
                if self.read_status(topic, value["status"] == "stale", topics) {
                    kept.replay_bytes += new;
                }
            }
            Some(other) => panic!("nothing here says {other}"),
        }
    }

    fn read_answer(&mut self, number: usize, topics: &Topics) {
        assert_eq!(number, self.answers_read, "answers come in order and each once");
        self.answers_read += 1;
        match self.promises[number].clone() {
            Promise::Answer => {}
            Promise::Subscribed { tie, follows } => {
                let announced = matches!(tie.on, On::Pattern(_)) && self.format.plain() != FormatId::RAW;
                self.ties.push(tie);
                for follow in follows {
                    let is_new = if announced {
                        self.awaited.insert(follow.topic, follow).is_none()
                    } else {
                        self.topics.insert(follow.topic, Topic::new(&follow)).is_none()
                    };
                    assert!(is_new, "topic {} came already", follow.topic);
                }
            }
            Promise::Unsubscribed { on, ended, handed_over } => {
                let place = self.ties.iter().position(|tie| tie.on == on).expect("only a subscription ends");
                for (topic, given) in handed_over {
                    self.seen.handovers += 1;
                    // From one pace to another, what is held stays so.
                    let mut ties = self.ties.iter().filter(|tie| topics.covers(tie.on, topic)).take(2);
                    self.check_topic(topic, given, !ties.all(|tie| tie.wish == Wish::Paced));
                    if let Some(known) = self.topics.get_mut(&topic) {
                        known.came_at = None;
                    }
                }
                for (topic, given) in ended {
                    // What is held goes with the subscription.
                    let paced =
                        topics.effective(&self.ties, topic).is_some_and(|tie| tie.wish == Wish::Paced);
                    self.check_topic(topic, given, !paced);
                    self.topics.remove(&topic);
                }
                self.ties.remove(place);
            }
        }
    }

    /// Reads of a topic's existence. Returns whether that was part of a beginning.
    fn read_topic(&mut self, topic: usize, offset: u64, topics: &Topics) -> bool {
        let tie = topics.effective(&self.ties, topic).expect("the topic is subscribed");
        assert!(matches!(tie.on, On::Pattern(_)), "topic {topic} is announced, and came by its name");
        let (follow, begins) = match self.awaited.remove(&topic) {
            Some(follow) => (follow, true),
            None => (Follow { topic, next: 1, start: 0, stale: false }, false),
        };
        assert_eq!(offset, follow.start, "where topic {topic} begins");
        let before = self.topics.insert(topic, Topic::new(&follow));
        // Of a topic without messages its name may have told before the pattern does.
        let is_first = before.is_none_or(|known| known.next == 1 && !begins);
        assert!(is_first, "topic {topic} is announced twice");
        self.seen.births += u64::from(!begins);
        self.seen.announced_topics += u64::from(begins);
        begins
    }

    /// Reads that a topic is stale, or live again. Returns whether that was part of a beginning.
    fn read_status(&mut self, topic: usize, is_stale: bool, topics: &Topics) -> bool {
        assert!(topics.settings(topic).stale_after.is_some(), "topic {topic} cannot be stale");
        let known = self.topics.get_mut(&topic).expect("only what came can be stale");
        let begins = std::mem::take(&mut known.begins_stale);
        assert!(
            topics.swept || known.is_stale != Some(is_stale),
            "topic {topic} is stale: {is_stale}, twice"
        );
        known.is_stale = Some(is_stale);
        *(if is_stale { &mut self.seen.stale } else { &mut self.seen.live }) += 1;
        begins
    }

    #[expect(clippy::too_many_arguments, reason = "what a message is, and where it goes")]
    fn read_message(
        &mut self,
        topic: usize,
        offset: u64,
        payload: &str,
        topics: &Topics,
        now: Instant,
        new: usize,
        kept: &mut Kept,
    ) {
        kept.messages += 1;
        let Some(&tie) = topics.effective(&self.ties, topic) else {
            panic!("message {offset} of topic {topic}, which is not subscribed here");
        };
        self.expect_topic(topic, &tie);
        self.seen.covered_twice +=
            u64::from(self.ties.iter().filter(|tie| topics.covers(tie.on, topic)).count() > 1);
        let known = self.topics.get_mut(&topic).expect("it was put there above");
        let message = topics.message(topic, offset);
        assert!(offset >= known.next, "message {offset} of topic {topic}, and {} is the next", known.next);
        if offset > known.next {
            let conflates = topics.policies(&tie, topic).any(|policy| policy == SlowPolicy::Conflate);
            let spared = self.on_time && tie.wish != Wish::Paced;
            assert!(conflates && !spared, "message {offset} of topic {topic}, and {} is missing", known.next);
            self.seen.passed_over += offset - known.next;
            known.pass_over(topic, known.next..offset, topics);
        }
        known.passed_over.remove(&message.key().map(str::to_owned));
        known.next = offset + 1;
        assert_eq!(payload.as_bytes(), message.payload(), "as it was published");
        if offset <= known.start {
            kept.replay_bytes += new;
            return;
        }
        if tie.wish == Wish::Paced {
            self.seen.paced += 1;
            if let Some(before) = known.came_at.filter(|before| self.keeps_pace && *before < now) {
                assert!(now - before >= tie.interval, "topic {topic} came {:?} ago", now - before);
            }
        } else {
            let told = known.is_stale != Some(true) || topics.swept;
            assert!(told, "message {offset} of topic {topic}, which is said to be stale");
        }
        known.came_at = Some(now);
    }

    /// A topic that did not exist when it was subscribed begins with its first message. A pattern announces it.
    fn expect_topic(&mut self, topic: usize, tie: &Tie) {
        let is_told = matches!(tie.on, On::Pattern(_)) && self.format.plain() != FormatId::RAW;
        assert!(!is_told || self.topics.contains_key(&topic), "topic {topic} was not announced");
        let unborn = Follow { topic, next: 1, start: 0, stale: false };
        self.topics.entry(topic).or_insert_with(|| Topic::new(&unborn));
    }

    fn read_gap(&mut self, topic: usize, from: u64, to: u64, reason: &Value, topics: &Topics) -> u64 {
        let tie = *topics.effective(&self.ties, topic).expect("the topic is subscribed");
        let mut policies = topics.policies(&tie, topic);
        assert!(policies.any(|policy| policy != SlowPolicy::Disconnect), "a strict topic has no gaps");
        let conflates = topics.policies(&tie, topic).any(|policy| policy == SlowPolicy::Conflate);
        assert!(reason == "slow" || topics.shed, "nothing was evicted");
        assert!(!self.on_time, "gap {from}-{to} of topic {topic}, and everything was read at once");
        self.expect_topic(topic, &tie);
        let known = self.topics.get_mut(&topic).expect("it was put there above");
        assert!(from <= to && from >= known.next, "the gap {from}-{to} of topic {topic}");
        let (_, begun) = topics.given(topic);
        assert!(to <= begun, "the gap {from}-{to} is of messages still to come: {begun}");
        if from > known.next {
            assert!(conflates, "a gap of topic {topic} begins where its messages end");
            known.pass_over(topic, known.next..from, topics);
        }
        assert!(from > known.start, "the gap {from}-{to} of topic {topic} is in its replay");
        for offset in from..=to {
            known.passed_over.remove(&topics.message(topic, offset).key().map(str::to_owned));
        }
        known.next = to + 1;
        self.seen.gaps += 1;
        self.seen.gaps_of_conflation += u64::from(conflates);
        self.seen.evicted_gaps += u64::from(reason == "evicted");
        to + 1 - from
    }

    /// Everything up to a mark came before it, was announced lost, or became newer.
    fn read_mark(&mut self, epoch: &str, sequence: u64, topics: &Topics) {
        assert_eq!(epoch, super::NODE.to_string());
        assert!(sequence >= self.marked, "marks go back");
        self.seen.marks += u64::from(sequence > self.marked);
        self.marked = sequence;
        for topic in 0..topics.len() {
            if topics.effective(&self.ties, topic).is_none() {
                continue;
            }
            let (next, oldest) = match (self.topics.get(&topic), self.awaited.get(&topic)) {
                (Some(known), _) => (known.next, known.passed_over.values().min().copied()),
                (None, Some(follow)) => (follow.next, None),
                (None, None) => (1, None),
            };
            for offset in
                [Some(next).filter(|next| *next <= topics.last(topic)), oldest].into_iter().flatten()
            {
                let missing = topics.message(topic, offset).sequence();
                assert!(missing > sequence, "the mark {sequence}, and {offset} of topic {topic} is missing");
            }
        }
    }

    fn read_heartbeat(&mut self, kind: OpCode, number: u64) {
        let Numbers { sent, read } = self.numbers(kind);
        assert!(number > *read, "{kind:?} {number} after {read}");
        assert!(number <= *sent, "{kind:?} {number} was never sent");
        *read = number;
    }

    fn read_close(&mut self) {
        self.closed = true;
        let given = self.closing.take().expect("only a connection that is being closed has a last frame");
        if let Some(given) = given {
            self.check_complete(&given);
        }
    }

    // === at the end ===

    /// Whether the client was last told that the topic is stale.
    pub(crate) fn is_told_stale(&self, topic: usize) -> bool {
        self.topics.get(&topic).is_some_and(|known| known.is_stale == Some(true))
    }

    /// Nothing waits for this client any more: it has everything it was promised.
    pub(crate) fn finish(&self, given: &BTreeMap<usize, Given>) {
        assert!(self.unread.is_empty(), "a frame is cut off");
        assert!(self.closing.is_none(), "the last frame never came");
        if !self.closed {
            self.check_complete(given);
        }
    }

    fn check_complete(&self, given: &BTreeMap<usize, Given>) {
        assert_eq!(self.answers_read, self.promises.len(), "every answer came");
        assert_eq!(self.pings.read, self.pings.sent, "the last ping came");
        assert_eq!(self.pongs.read, self.pongs.sent, "the last pong came");
        assert!(self.awaited.is_empty(), "{:?} were never announced", self.awaited.keys());
        assert!(self.topics.keys().all(|topic| given.contains_key(topic)), "what ended is forgotten");
        given.iter().for_each(|(topic, given)| self.check_topic(*topic, *given, true));
    }

    /// Checks that a topic was given all it had to, and nothing from the future.
    fn check_topic(&self, topic: usize, (least, most): Given, complete: bool) {
        let Some(known) = self.topics.get(&topic) else {
            assert!(least == 0 || !complete, "topic {topic} never came, and {least} was delivered");
            return;
        };
        let last = known.next - 1;
        let paced = self.ties.iter().any(|tie| tie.wish == Wish::Paced);
        let complete = complete && !(self.is_evicted && paced);
        assert!(last >= least || !complete, "topic {topic} ends at {last}, and {least} was delivered");
        assert!(last <= most, "topic {topic} ends at {last}, and only {most} was in a pass");
        let passed_over = &known.passed_over;
        let complete = complete && !self.is_evicted;
        assert!(
            passed_over.is_empty() || !complete,
            "the newest of {passed_over:?} of topic {topic} is missing"
        );
    }
}
