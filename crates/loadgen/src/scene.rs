//! What all threads of a run know, and what they tell each other.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::adapter::Adapter;
use crate::ledger::Ledger;
use crate::reader::Reading;
use crate::recorder::Window;
use crate::scenario::Scenario;
use crate::schedule::Clock;

#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) clock: Clock,
    pub(crate) address: SocketAddr,
    pub(crate) authority: String,
    pub(crate) publish_address: SocketAddr,
    pub(crate) scenario: Scenario,
    pub(crate) adapter: Adapter,
    pub(crate) topics: Vec<Topic>,
    /// The lengths that a payload may have; empty: any.
    pub(crate) payload_bytes: Vec<usize>,
    pub(crate) reader: Reading,
    pub(crate) window: Arc<Window>,
    /// When publishing began; `u64::MAX` before.
    pub(crate) began_ns: AtomicU64,
    /// Set when the connections that are not made by now are to be given up.
    pub(crate) give_up: AtomicBool,
    /// Set when publishing is over and every POST is answered: from now on subscribers tell what they miss.
    pub(crate) ledgers: OnceLock<Vec<Ledger>>,
    /// Set at the end of the run.
    pub(crate) stop: AtomicBool,
}

/// One topic of a run.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    /// Its messages come from one connection.
    pub(crate) ordered: bool,
    /// The sequence number of the next message.
    pub(crate) next: AtomicU64,
    /// Sequence numbers, from and one past the last, that were not acknowledged.
    pub(crate) refused: Mutex<Vec<(u64, u64)>>,
    /// Of its offsets, once anybody was told.
    pub(crate) epoch: OnceLock<String>,
}

impl Scene {
    /// The moment `after` nanoseconds into the window, if the window's beginning is known.
    pub(crate) fn in_window(&self, after_ns: u64) -> Option<u64> {
        self.window.begins_ns().map(|from_ns| from_ns + after_ns)
    }

    /// Whether a payload may have so many bytes.
    pub(crate) fn is_payload_length(&self, bytes: usize) -> bool {
        self.payload_bytes.is_empty() || self.payload_bytes.contains(&bytes)
    }

    /// What was published to each topic up to now.
    pub(crate) fn take_ledgers(&self) -> Vec<Ledger> {
        let ledger = |topic: &Topic| {
            let refused = topic.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Ledger::new(topic.next.load(Relaxed), refused)
        };
        self.topics.iter().map(ledger).collect()
    }
}

impl Topic {
    pub(crate) fn new(name: String, ordered: bool) -> Self {
        Self { name, ordered, next: AtomicU64::new(0), refused: Mutex::default(), epoch: OnceLock::new() }
    }

    /// `count` messages from `first` on are not acknowledged.
    pub(crate) fn refuse(&self, first: u64, count: u64) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match refused.last_mut() {
            Some((_, until)) if *until == first => *until += count,
            _ => refused.push((first, first + count)),
        }
    }
}
