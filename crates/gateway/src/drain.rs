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
    let (mut turns, mut before) = (Turns::default(), Instant::now());
    while worker.open.get() > 0 && Instant::now() < hard_end {
        let now = Instant::now();
        let left = window_end.saturating_duration_since(now);
        close_some(&worker, turns.next(open_sessions(&worker), now - before, left));
        before = now;
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
    /// How many of `open` connections are closed when `elapsed` has passed since the last step and `left` is left of the
    /// window. They are counted anew in each: so newcomers are closed with the others. A step that comes late closes as many
    /// more: the rate is the same however long steps take.
    fn next(&mut self, open: usize, elapsed: Duration, left: Duration) -> usize {
        let share = if left.is_zero() { 1.0 } else { elapsed.div_duration_f64(elapsed + left) };
        self.due += open as f64 * share;
        // The last one is one, however fractions were rounded on the way.
        let whole = if left.is_zero() { open } else { self.due as usize };
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

    /// Lets `crowd` go over a window of as many milliseconds as `steps` take together; `newcomers` come in the middle. Returns
    /// how many were closed after each step, all together.
    fn closes(crowd: usize, steps: &[u64], newcomers: usize) -> Vec<usize> {
        let window: u64 = steps.iter().sum();
        let (mut open, mut closed, mut at, mut turns) = (crowd, 0, 0, Turns::default());
        let mut closes = Vec::new();
        for (place, step) in steps.iter().enumerate() {
            at += step;
            let (elapsed, left) = (Duration::from_millis(*step), Duration::from_millis(window - at));
            let now = turns.next(open, elapsed, left);
            (open, closed) = (open - now, closed + now);
            closes.push(closed);
            open += if place + 1 == steps.len() / 2 { newcomers } else { 0 };
        }
        assert_eq!(open, 0, "of {crowd} in {steps:?}");
        closes
    }

    #[test]
    fn closes_are_flat_over_the_window_however_long_steps_take() {
        let (even, busy): (Vec<_>, Vec<_>) =
            ((0..600).map(|_| 50).collect(), (0..600).map(|n| 50 + n % 7).collect());
        let uneven: Vec<_> = (0..100).map(|n| if n % 13 == 0 { 700 } else { 51 }).collect();
        for steps in [even, busy, uneven, vec![50, 50], vec![1]] {
            let window: u64 = steps.iter().sum();
            for crowd in [0, 1, 3, 60, 599, 5_000, 100_000] {
                let mut at = 0;
                for (step, closed) in steps.iter().zip(closes(crowd, &steps, 0)) {
                    at += step;
                    let expect = crowd as f64 * at as f64 / window as f64;
                    assert!(
                        (closed as f64 - expect).abs() <= 1.0,
                        "{closed} and not {expect} of {crowd} at {at} ms"
                    );
                }
            }
        }
    }

    #[test]
    fn newcomers_are_spread_over_what_is_left() {
        let closes = closes(100, &[50; 100], 50);
        assert!((49..=50).contains(&closes[49]) && (98..=100).contains(&closes[74]), "{closes:?}");
    }

    #[test]
    fn what_is_late_goes_at_once() {
        let (mut turns, step) = (Turns::default(), STEP);
        assert_eq!((turns.next(7, step, Duration::ZERO), turns.next(0, step, Duration::ZERO)), (7, 0));
    }
}
