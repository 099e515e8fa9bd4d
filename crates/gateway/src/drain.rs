//! Leaving without loss.
//!
//! | phase | begins | the public listener | subscribers |
//! |---|---|---|---|
//! | `Serving` | at the start | open | stay |
//! | `Grace` | with SIGTERM | open, `/readyz` is 503 | stay |
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
    let hard_end = Instant::now() + worker.shared.config().limits.drain_timeout;
    let _ = phase.wait_for(|phase| *phase >= Phase::Closing).await;
    let window_end = (Instant::now() + worker.shared.config().limits.drain_window).min(hard_end);
    // Those whose turn has come, fractions included: few connections are spread as evenly as many. Newcomers of the grace
    // are closed with the others, because all are counted anew in each step.
    let mut due = 0.0;
    while worker.open.get() > 0 && Instant::now() < hard_end {
        let steps_left = window_end.saturating_duration_since(Instant::now()).div_duration_f64(STEP);
        due += open_sessions(&worker) as f64 / steps_left.max(1.0);
        close_some(&worker, due as usize);
        due = due.fract();
        sleep(STEP).await;
    }
    worker.finished.notify_one();
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
