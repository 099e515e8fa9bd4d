//! Who is to be connected, and when: a queue for each thing that makes subscribers connect.
//!
//! # Owner        a crowd, so one thread

use std::collections::VecDeque;

use crate::scene::Scene;
use crate::subscriber::Past;

/// A subscriber that is to be connected.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) group: usize,
    pub(crate) past: Past,
}

/// Subscribers that connect one after another.
#[derive(Debug)]
pub(crate) struct Dials {
    start: Start,
    per_second: f64,
    queue: VecDeque<Dial>,
    taken: u64,
}

/// When the first of them connects.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    At(u64),
    /// So many nanoseconds into the window.
    InWindow(u64),
}

impl Dials {
    pub(crate) fn new(start: Start, per_second: f64) -> Self {
        Self { start, per_second, queue: VecDeque::new(), taken: 0 }
    }

    pub(crate) fn push(&mut self, dial: Dial) {
        self.queue.push_back(dial);
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Those that wait, cleared.
    pub(crate) fn take_all(&mut self) -> VecDeque<Dial> {
        std::mem::take(&mut self.queue)
    }

    /// Whether one waits and the first was due.
    pub(crate) fn is_active(&self, scene: &Scene, now_ns: u64) -> bool {
        !self.queue.is_empty() && self.start_ns(scene).is_some_and(|start_ns| start_ns <= now_ns)
    }

    /// The next one, if it is due.
    pub(crate) fn take_due(&mut self, scene: &Scene, now_ns: u64) -> Option<Dial> {
        let passed_ns = now_ns.checked_sub(self.start_ns(scene)?)?;
        let due = ((passed_ns as f64 / 1e9 * self.per_second) as u64).saturating_add(1);
        if self.taken >= due {
            return None;
        }
        let dial = self.queue.pop_front()?;
        self.taken += 1;
        Some(dial)
    }

    fn start_ns(&self, scene: &Scene) -> Option<u64> {
        match self.start {
            Start::At(start_ns) => Some(start_ns),
            Start::InWindow(after_ns) => scene.in_window(after_ns),
        }
    }
}
