//! What the subscribers saw: which messages came, in what order, and how late.
//!
//! Each subscriber has a [`Track`] of each of its topics; each thread of subscribers has one [`Recorder`] for each group,
//! and [`Counters`] that the run looks at meanwhile.
//!
//! # Owner        a recorder: its thread; counters and window: shared

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use hdrhistogram::Histogram;

use crate::payload::Stamp;
use crate::track::{Arrival, Outcome, Track};

/// One minute: later than that is as good as lost.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// A histogram of nanoseconds up to a minute, exact to `digits` digits.
pub(crate) fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, digits).expect("the bounds are constant and valid")
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

    /// When it begins, once that is known.
    pub(crate) fn begins_ns(&self) -> Option<u64> {
        Some(self.from_ns.load(Relaxed)).filter(|&from_ns| from_ns < u64::MAX)
    }

    pub(crate) fn until_ns(&self) -> u64 {
        self.until_ns.load(Relaxed)
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

/// What one thread of subscribers tells of one group while it runs. All of it lags by at most one turn of the thread's loop.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Subscribers that are subscribed now.
    pub(crate) open: AtomicU64,
    /// Subscribers that were subscribed for the first time.
    pub(crate) joined: AtomicU64,
    /// Subscribers that never were.
    pub(crate) failed: AtomicU64,
    /// Connections that the server ended.
    pub(crate) ended: AtomicU64,
    /// Frames with a message, repeated ones too.
    pub(crate) delivered: AtomicU64,
    /// Messages older than the newest that have not come.
    pub(crate) holes: AtomicU64,
    /// Gaps that the server announced.
    pub(crate) gaps: AtomicU64,
    /// Subscribers that miss something once publishing is over; `u64::MAX` before it was looked.
    pub(crate) incomplete: AtomicU64,
    /// Latencies since they were last taken.
    pub(crate) recent: Mutex<Histogram<u64>>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            open: zero(),
            joined: zero(),
            failed: zero(),
            ended: zero(),
            delivered: zero(),
            holes: zero(),
            gaps: zero(),
            incomplete: AtomicU64::new(u64::MAX),
            recent: Mutex::new(histogram(2)),
        }
    }
}

/// What a thread of subscribers, or all of them together, received.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Subscribers that were to connect for the first time.
    pub(crate) asked: u64,
    /// Subscribers that were subscribed for the first time.
    pub(crate) joined: u64,
    /// Subscribers that were cut off and came back.
    pub(crate) reconnected: u64,
    pub(crate) delivered: u64,
    pub(crate) repeated: u64,
    pub(crate) out_of_order: u64,
    /// Frames that are no message of this run, or not of the subscriber's topics, or not of the right length.
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
    /// One for each topic of each subscriber that was subscribed and read.
    pub(crate) outcomes: Vec<Outcome>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            asked: 0,
            joined: 0,
            reconnected: 0,
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
        self.asked += other.asked;
        self.joined += other.joined;
        self.reconnected += other.reconnected;
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

/// Counts for the subscribers of one group on one thread.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) tally: Tally,
    holes: u64,
    recent: Histogram<u64>,
    window: Arc<Window>,
    pub(crate) counters: Arc<Counters>,
}

impl Recorder {
    pub(crate) fn new(window: Arc<Window>, counters: Arc<Counters>) -> Self {
        Self { tally: Tally::new(), holes: 0, recent: histogram(2), window, counters }
    }

    /// A message reached the subscriber of `track`, which is subscribed since `since_ns`, at `now_ns`. One that was due
    /// before is a replay, and says nothing of latency.
    pub(crate) fn message(&mut self, track: &mut Track, stamp: Stamp, since_ns: u64, now_ns: u64) {
        let holes = track.holes();
        match track.arrive(stamp.sequence) {
            Arrival::Newest | Arrival::Early => {}
            Arrival::OutOfOrder => self.tally.out_of_order += 1,
            Arrival::Repeated => self.tally.repeated += 1,
        }
        self.tally.delivered += 1;
        self.holes = (self.holes + track.holes()).saturating_sub(holes);
        if stamp.intended_ns < since_ns {
            return;
        }
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

    /// Lets the run see the counts.
    pub(crate) fn publish_counts(&self) {
        self.counters.delivered.store(self.tally.delivered, Relaxed);
        self.counters.holes.store(self.holes, Relaxed);
        self.counters.gaps.store(self.tally.gaps, Relaxed);
    }

    /// Hands over the latencies since the last call.
    pub(crate) fn publish_recent(&mut self) {
        let mut recent = self.counters.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.add(&self.recent).expect("both have the same bounds");
        self.recent.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(sequences: impl IntoIterator<Item = u64>, since_ns: u64) -> Tally {
        let window = Arc::new(Window::ahead());
        window.open(0, 1_000);
        let mut recorder = Recorder::new(window, Arc::new(Counters::new()));
        let mut track = Track::new(0, true);
        track.owed_from(0);
        for sequence in sequences {
            let stamp = Stamp { intended_ns: sequence, topic: 0, sequence };
            recorder.message(&mut track, stamp, since_ns, sequence + 500);
        }
        assert_eq!(recorder.holes, track.holes());
        recorder.tally
    }

    #[test]
    fn latency_counts_only_for_messages_due_in_the_window_that_are_no_replay() {
        let check = |since_ns, expect| {
            let tally = recorded([0, 998, 999, 1_000, 1_001], since_ns);
            assert_eq!((tally.delivered, tally.latency.len()), (5, expect));
            assert_eq!(tally.latency.max(), 500);
        };
        check(0, 3);
        check(999, 1);
    }

    #[test]
    fn tallies_add_up() {
        let mut sum = recorded([0, 1, 1], 0);
        let mut other = recorded([0, 2, 1], 0);
        sum.disconnects.insert("4101".into(), 1);
        other.disconnects.insert("4101".into(), 2);
        sum.add(&other);
        assert_eq!((sum.delivered, sum.repeated, sum.out_of_order), (6, 1, 1));
        assert_eq!((sum.disconnects["4101"], sum.latency.len()), (3, 6));
    }
}
