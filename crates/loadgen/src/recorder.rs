//! What the subscribers saw: which messages came, in what order, and how late.
//!
//! Each subscriber has a [`Track`] of its topic's sequence; each thread of subscribers has one [`Recorder`] that counts
//! for all of them, and [`Counters`] that the progress line reads meanwhile.
//!
//! # Owner        a recorder: its thread; counters and window: shared
//! # Bounds       a track is 32 bytes, whatever was lost

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use hdrhistogram::Histogram;

use crate::payload::Stamp;

/// One minute: later than that is as good as lost.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// A histogram of nanoseconds up to a minute, exact to `digits` digits.
pub(crate) fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, digits).expect("the bounds are constant and valid")
}

/// What one subscriber has received of its topic.
///
/// `seen` remembers the last 64 sequence numbers, as a bit each, the newest lowest. So a message that fills a hole is
/// told from one that came twice; one that comes after more than 64 newer ones counts as repeated, and its hole as lost.
#[derive(Debug, Default, Clone)]
pub(crate) struct Track {
    /// One past the newest.
    next: u64,
    seen: u64,
    unique: u64,
    /// The last offset, in formats that have one.
    offset: u64,
}

/// How a message stands to those before it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Newest,
    OutOfOrder,
    Repeated,
}

impl Track {
    /// Takes note of message `sequence`.
    pub(crate) fn arrive(&mut self, sequence: u64) -> Arrival {
        if sequence >= self.next {
            let step = sequence + 1 - self.next;
            self.seen = if step < 64 { self.seen << step | 1 } else { 1 };
            self.next = sequence + 1;
            self.unique += 1;
            return Arrival::Newest;
        }
        let age = self.next - 1 - sequence;
        if age >= 64 || self.seen & 1 << age != 0 {
            return Arrival::Repeated;
        }
        self.seen |= 1 << age;
        self.unique += 1;
        Arrival::OutOfOrder
    }

    /// Messages older than the newest that have not come.
    pub(crate) fn holes(&self) -> u64 {
        self.next - self.unique
    }

    /// Different messages received.
    pub(crate) fn unique(&self) -> u64 {
        self.unique
    }

    /// What there is to say at the end, of a subscriber of `topic`.
    pub(crate) fn outcome(&self, topic: usize) -> Outcome {
        Outcome { topic, unique: self.unique, next: self.next }
    }

    /// Takes note of an offset: how far it is above the last one, if it is. What came before the first offset is not known.
    fn advance(&mut self, offset: u64) -> Option<u64> {
        let step =
            if self.offset == 0 { 1 } else { offset.checked_sub(self.offset).filter(|&step| step > 0)? };
        self.offset = offset;
        Some(step)
    }

    /// Takes note that offsets from `from` up to `to` will not come.
    fn skip(&mut self, from: u64, to: u64) {
        if self.offset == 0 || from <= self.offset + 1 {
            self.offset = self.offset.max(to);
        }
    }
}

/// What one subscriber received of its topic in all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) topic: usize,
    /// Different messages.
    pub(crate) unique: u64,
    /// One past the newest sequence number.
    pub(crate) next: u64,
}

/// The time between warm-up and drain, in nanoseconds of the run's clock. Latency counts for messages due in it.
#[derive(Debug)]
pub(crate) struct Window {
    from_ns: AtomicU64,
    until_ns: AtomicU64,
}

impl Window {
    /// Not yet: it begins with [`open`](Self::open).
    pub(crate) fn ahead() -> Self {
        Self { from_ns: AtomicU64::new(u64::MAX), until_ns: AtomicU64::new(u64::MAX) }
    }

    /// From the beginning to the end.
    pub(crate) fn always() -> Self {
        Self { from_ns: AtomicU64::new(0), until_ns: AtomicU64::new(u64::MAX) }
    }

    pub(crate) fn open(&self, from_ns: u64, until_ns: u64) {
        self.until_ns.store(until_ns, Relaxed);
        self.from_ns.store(from_ns, Relaxed);
    }

    /// Ends it at `now_ns` if that is earlier than planned.
    pub(crate) fn cut(&self, now_ns: u64) {
        self.until_ns.fetch_min(now_ns, Relaxed);
    }

    /// How long it was open at `now_ns`.
    pub(crate) fn seconds(&self, now_ns: u64) -> f64 {
        let until_ns = self.until_ns.load(Relaxed).min(now_ns);
        until_ns.saturating_sub(self.from_ns.load(Relaxed)) as f64 / 1e9
    }

    pub(crate) fn contains(&self, at_ns: u64) -> bool {
        at_ns >= self.from_ns.load(Relaxed) && at_ns < self.until_ns.load(Relaxed)
    }
}

/// What one thread of subscribers tells while it runs. All of it lags by at most one turn of the thread's loop.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Subscribers that are subscribed.
    pub(crate) open: AtomicU64,
    /// Subscribers that never were.
    pub(crate) failed: AtomicU64,
    /// Frames with a message, repeated ones too.
    pub(crate) delivered: AtomicU64,
    /// Different messages.
    pub(crate) unique: AtomicU64,
    /// Messages older than the newest that have not come.
    pub(crate) holes: AtomicU64,
    /// Latencies since the progress line last took them.
    pub(crate) recent: Mutex<Histogram<u64>>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        let recent = Mutex::new(histogram(2));
        Self { open: zero(), failed: zero(), delivered: zero(), unique: zero(), holes: zero(), recent }
    }
}

/// What a thread of subscribers, or all of them together, received.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) delivered: u64,
    pub(crate) repeated: u64,
    pub(crate) out_of_order: u64,
    /// Frames that are no message of this run, or not of the subscriber's topic, or not of the right length.
    pub(crate) malformed: u64,
    /// Offsets that were not above the one before.
    pub(crate) offsets_back: u64,
    /// Offsets that were jumped over although no gap said so.
    pub(crate) unannounced: u64,
    /// Gaps that the server announced, and how many messages they spanned.
    pub(crate) gaps: u64,
    pub(crate) gap_messages: u64,
    /// Subscribers whose connection the server ended, by close code or by what happened.
    pub(crate) disconnects: BTreeMap<String, u64>,
    /// Subscribers that could not subscribe, by reason.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Messages due in the window, nanoseconds from when they were due.
    pub(crate) latency: Histogram<u64>,
    /// One for each subscriber that was subscribed.
    pub(crate) outcomes: Vec<Outcome>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            delivered: 0,
            repeated: 0,
            out_of_order: 0,
            malformed: 0,
            offsets_back: 0,
            unannounced: 0,
            gaps: 0,
            gap_messages: 0,
            disconnects: BTreeMap::new(),
            failures: BTreeMap::new(),
            latency: histogram(3),
            outcomes: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.repeated += other.repeated;
        self.out_of_order += other.out_of_order;
        self.malformed += other.malformed;
        self.offsets_back += other.offsets_back;
        self.unannounced += other.unannounced;
        self.gaps += other.gaps;
        self.gap_messages += other.gap_messages;
        for (sum, part) in
            [(&mut self.disconnects, &other.disconnects), (&mut self.failures, &other.failures)]
        {
            part.iter().for_each(|(label, count)| *sum.entry(label.clone()).or_default() += count);
        }
        self.latency.add(&other.latency).expect("all latency histograms have the same bounds");
        self.outcomes.extend_from_slice(&other.outcomes);
    }
}

/// Counts for the subscribers of one thread.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) tally: Tally,
    unique: u64,
    holes: u64,
    recent: Histogram<u64>,
    window: Arc<Window>,
    pub(crate) counters: Arc<Counters>,
}

impl Recorder {
    pub(crate) fn new(window: Arc<Window>, counters: Arc<Counters>) -> Self {
        Self { tally: Tally::new(), unique: 0, holes: 0, recent: histogram(2), window, counters }
    }

    /// A message reached the subscriber of `track` at `now_ns`.
    pub(crate) fn message(&mut self, track: &mut Track, stamp: Stamp, now_ns: u64) {
        let (holes, unique) = (track.holes(), track.unique());
        match track.arrive(stamp.sequence) {
            Arrival::Newest => {}
            Arrival::OutOfOrder => self.tally.out_of_order += 1,
            Arrival::Repeated => self.tally.repeated += 1,
        }
        self.tally.delivered += 1;
        self.unique += track.unique() - unique;
        self.holes = self.holes + track.holes() - holes;
        let latency_ns = now_ns.saturating_sub(stamp.intended_ns);
        if self.window.contains(stamp.intended_ns) {
            self.tally.latency.saturating_record(latency_ns);
        }
        self.recent.saturating_record(latency_ns);
    }

    /// The offset that came with a message.
    pub(crate) fn offset(&mut self, track: &mut Track, offset: u64) {
        match track.advance(offset) {
            Some(step) => self.tally.unannounced += step - 1,
            None => self.tally.offsets_back += 1,
        }
    }

    /// The server announced that `from..=to` is missing.
    pub(crate) fn gap(&mut self, track: &mut Track, from: u64, to: u64) {
        track.skip(from, to);
        self.tally.gaps += 1;
        self.tally.gap_messages += (to + 1).saturating_sub(from);
    }

    /// Lets the progress line see the counts.
    pub(crate) fn publish_counts(&self) {
        self.counters.delivered.store(self.tally.delivered, Relaxed);
        self.counters.unique.store(self.unique, Relaxed);
        self.counters.holes.store(self.holes, Relaxed);
    }

    /// Hands the latencies since the last call to the progress line.
    pub(crate) fn publish_recent(&mut self) {
        let mut recent = self.counters.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.add(&self.recent).expect("both have the same bounds");
        self.recent.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(sequences: impl IntoIterator<Item = u64>) -> (Track, Tally) {
        let window = Arc::new(Window::ahead());
        window.open(0, 1_000);
        let mut recorder = Recorder::new(window, Arc::new(Counters::new()));
        let mut track = Track::default();
        for sequence in sequences {
            recorder.message(&mut track, Stamp { intended_ns: sequence, sequence }, sequence + 500);
        }
        assert_eq!((recorder.holes, recorder.unique), (track.holes(), track.unique()));
        (track, recorder.tally)
    }

    #[test]
    fn lost_repeated_and_out_of_order_messages_are_told_apart() {
        let check = |sequences: &[u64], unique, holes, repeated, out_of_order| {
            let (track, tally) = recorded(sequences.iter().copied());
            let found = (track.unique(), track.holes(), tally.repeated, tally.out_of_order);
            assert_eq!(found, (unique, holes, repeated, out_of_order), "{sequences:?}");
            assert_eq!(tally.delivered, sequences.len() as u64);
        };
        check(&[], 0, 0, 0, 0);
        check(&[0, 1, 2, 3], 4, 0, 0, 0);
        check(&[0, 2, 3], 3, 1, 0, 0);
        check(&[3], 1, 3, 0, 0);
        check(&[0, 1, 1, 2, 0], 3, 0, 2, 0);
        check(&[0, 2, 1, 3], 4, 0, 0, 1);
        check(&[0, 2, 1, 1], 3, 0, 1, 1);
        check(&[3, 2, 1, 0], 4, 0, 0, 3);
        check(&[0, 100, 99, 99, 36], 3, 98, 2, 1);
        check(&[63, 0], 2, 62, 0, 1);
        check(&[64, 0], 1, 64, 1, 0);
    }

    #[test]
    fn latency_counts_only_for_messages_due_in_the_window() {
        let (_, tally) = recorded([0, 998, 999, 1_000, 1_001]);
        assert_eq!((tally.delivered, tally.latency.len()), (5, 3));
        assert_eq!(tally.latency.max(), 500);
    }

    #[test]
    fn offsets_that_do_not_rise_and_jumps_without_a_gap_are_counted() {
        enum Sign {
            Offset(u64),
            Gap(u64, u64),
        }
        use Sign::{Gap, Offset};
        let check = |signs: &[Sign], offsets_back, unannounced| {
            let mut recorder = Recorder::new(Arc::new(Window::ahead()), Arc::new(Counters::new()));
            let mut track = Track::default();
            for sign in signs {
                match *sign {
                    Offset(offset) => recorder.offset(&mut track, offset),
                    Gap(from, to) => recorder.gap(&mut track, from, to),
                }
            }
            let tally = recorder.tally;
            assert_eq!((tally.offsets_back, tally.unannounced), (offsets_back, unannounced));
        };
        check(&[1, 2, 5, 5, 4, 6].map(Offset), 2, 2);
        check(&[Offset(900), Offset(901)], 0, 0);
        check(&[Offset(1), Gap(2, 4), Offset(5)], 0, 0);
        check(&[Offset(1), Gap(2, 4), Offset(6)], 0, 1);
        check(&[Offset(1), Gap(2, 4), Offset(4)], 1, 0);
        check(&[Offset(1), Gap(3, 4), Offset(5)], 0, 3);
        check(&[Gap(1, 4), Offset(5)], 0, 0);
    }

    #[test]
    fn tallies_add_up() {
        let (_, mut sum) = recorded([0, 1, 1]);
        let (_, mut other) = recorded([0, 2, 1]);
        sum.disconnects.insert("4101".into(), 1);
        other.disconnects.insert("4101".into(), 2);
        sum.add(&other);
        assert_eq!((sum.delivered, sum.repeated, sum.out_of_order), (6, 1, 1));
        assert_eq!((sum.disconnects["4101"], sum.latency.len()), (3, 6));
    }
}
