//! Leaving without loss.
//!
//! | phase | begins | the public listener | subscribers |
//! |---|---|---|---|
//! | `Serving` | at the start | open | stay |
//! | `Grace` | with SIGTERM | open, `/readyz` is 503, answers end their connection | stay |
//! | `Closing` | `Limits::drain_grace` later | closed | are told and closed, spread over `Limits::drain_window` |
//!
//! A worker ends when its last connection is gone, or `Limits::drain_timeout` after the signal.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::transport::disconnect::DisconnectReason;
use crate::worker::Worker;

/// Where the process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    Grace,
    Closing,
}

/// How often some connections are closed during the window.
const STEP: Duration = Duration::from_millis(50);

/// Carries out the drain of one worker.
pub(crate) async fn run(worker: Rc<Worker>) {
    let mut phase = worker.shared.phase(worker.index);
    if phase.wait_for(|phase| *phase >= Phase::Grace).await.is_err() {
        return;
    }
    worker.leaving.set(true);
    let hard_end = Instant::now() + worker.shared.config().limits.drain_timeout;
    let _ = phase.wait_for(|phase| *phase >= Phase::Closing).await;
    let window_end = (Instant::now() + worker.shared.config().limits.drain_window).min(hard_end);
    let mut turns = Turns::default();
    while worker.open.get() > 0 && Instant::now() < hard_end {
        let steps_left = window_end.saturating_duration_since(Instant::now()).div_duration_f64(STEP);
        close_some(&worker, turns.next(open_sessions(&worker), steps_left));
        sleep(STEP).await;
    }
    worker.finished.notify_one();
}

/// Whose turn has come, fractions included: few connections are spread as evenly as many.
#[derive(Default)]
struct Turns {
    due: f64,
}

impl Turns {
    /// How many of `open` connections are closed in this step. They are counted anew in each: so newcomers are closed with the
    /// others.
    fn next(&mut self, open: usize, steps_left: f64) -> usize {
        self.due += open as f64 / steps_left.max(1.0);
        let whole = self.due as usize;
        self.due = self.due.fract();
        whole
    }
}

/// Sessions that were not told yet.
fn open_sessions(worker: &Worker) -> usize {
    let connections = worker.connections.borrow();
    connections.every(0, 1).filter(|connection| connection.closing.get().is_none()).count()
}

fn close_some(worker: &Worker, count: usize) {
    let chosen: Vec<_> = {
        let connections = worker.connections.borrow();
        let open = connections.every(0, 1).filter(|connection| connection.closing.get().is_none());
        open.take(count).cloned().collect()
    };
    for connection in chosen {
        worker.close(&connection, DisconnectReason::Draining);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `crowd` are closed in each of `steps`; `newcomers` come in the middle.
    fn closes(crowd: usize, steps: usize, newcomers: usize) -> Vec<usize> {
        let (mut open, mut turns) = (crowd, Turns::default());
        let closes = (0..steps).map(|step| {
            open += if step == steps / 2 { newcomers } else { 0 };
            let closed = turns.next(open, (steps - step) as f64);
            open -= closed;
            closed
        });
        let closes = closes.collect();
        assert_eq!(open, 0, "of {crowd} in {steps} steps");
        closes
    }

    #[test]
    fn closes_are_flat_over_the_window() {
        for (crowd, steps) in
            [(5_000, 600), (1, 600), (3, 40), (599, 600), (601, 600), (60, 40), (100_000, 7)]
        {
            let closes = closes(crowd, steps, 0);
            let even = crowd / steps;
            assert!(closes.iter().all(|closed| (even..=even + 1).contains(closed)), "{closes:?}");
            // Nor do those that are one more come together: each tenth of the window has its tenth.
            for (tenth, slot) in closes.chunks(steps.div_ceil(10)).enumerate() {
                let expect = crowd * slot.len() / steps;
                let got: usize = slot.iter().sum();
                assert!(got.abs_diff(expect) <= 1, "{got} and not {expect} of {crowd} in tenth {tenth}");
            }
        }
    }

    #[test]
    fn newcomers_are_spread_over_what_is_left() {
        let closes = closes(100, 100, 50);
        assert!(closes[..50].iter().all(|closed| *closed == 1), "{closes:?}");
        assert!(closes[50..].iter().all(|closed| *closed == 2), "{closes:?}");
    }

    #[test]
    fn what_is_late_goes_at_once() {
        let mut turns = Turns::default();
        assert_eq!((turns.next(7, 0.3), turns.next(0, 0.0)), (7, 0));
    }
}
