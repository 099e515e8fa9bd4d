//! What became of the slow subscribers. Nothing of it is in the other figures, save in the server's CPU and memory.

use std::collections::BTreeMap;

use serde::Serialize;

use super::delivery::{Delivery, ended_on_newest};
use super::{Findings, Quantiles};
use crate::args::Quick;

/// Subscribers that read at a low rate.
#[derive(Debug, Serialize)]
pub(super) struct Trickle {
    asked: u64,
    pub(super) connected: u64,
    bytes_per_second: f64,
    pub(super) delivery: Delivery,
    /// The last message is the newest of its topic.
    pub(super) ended_on_newest: u64,
    /// From when a message was due to when it was read, for all that was read.
    pub(super) age_us: Quantiles,
    pub(super) disconnects: BTreeMap<String, u64>,
}

/// Subscribers that never read.
#[derive(Debug, Serialize)]
pub(super) struct Stalled {
    asked: u64,
    pub(super) connected: u64,
    /// Found when the run was over.
    pub(super) closed_by_server: u64,
    pub(super) closes: BTreeMap<String, u64>,
}

impl Trickle {
    pub(super) fn new(options: &Quick, findings: &Findings) -> Option<Self> {
        let (tally, published) = (&findings.tallies.trickle, &findings.published);
        (options.trickle > 0).then(|| Self {
            asked: options.trickle as u64,
            connected: tally.outcomes.len() as u64,
            bytes_per_second: options.trickle_rate,
            delivery: Delivery::new(tally, published, options.conflating),
            ended_on_newest: ended_on_newest(&tally.outcomes, published),
            age_us: Quantiles::of(&tally.latency),
            disconnects: tally.disconnects.clone(),
        })
    }

    pub(super) fn faults(&self, conflating: bool) -> Vec<(u64, &'static str)> {
        let mut faults = self.delivery.faults(conflating).to_vec();
        if conflating {
            faults.push((self.connected - self.ended_on_newest, "did not end on the newest message"));
            faults.push((self.disconnects.values().sum(), "were disconnected"));
        }
        faults
    }
}

impl Stalled {
    pub(super) fn new(options: &Quick, findings: &Findings) -> Option<Self> {
        let tally = &findings.tallies.stalled;
        (options.stalled > 0).then(|| Self {
            asked: options.stalled as u64,
            connected: tally.outcomes.len() as u64,
            closed_by_server: tally.disconnects.values().sum(),
            closes: tally.disconnects.clone(),
        })
    }
}
