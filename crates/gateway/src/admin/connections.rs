//! Subscribers as operators see them: the worst of them, and how they are sent elsewhere.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_fanout::{Described, SubscriberId};
use fanfare_wire::FormatId;
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{spawn_local, yield_now};
use tokio::time::sleep;

use super::{choice, max, time};
use crate::ask::{ask, ask_all};
use crate::clock::{milliseconds, unix_ms};
use crate::connection::Connection;
use crate::error::{ApiError, Body, json};
use crate::query::Query;
use crate::server::Shared;
use crate::transport::disconnect::DisconnectReason;
use crate::worker::{Worker, client_name, client_of};

/// So many connections are looked at before others have their turn.
const LOOK_STEP: usize = 1024;

/// How often some connections of a share are closed.
const CLOSE_STEP: Duration = Duration::from_millis(50);

/// What comes first.
#[derive(Debug, Clone, Copy)]
enum Sort {
    /// For how long the oldest message waits.
    Lag,
    /// What waits.
    Bytes,
    /// For how long it is connected.
    Age,
}

/// A subscriber in the list.
#[derive(Serialize)]
struct Shown {
    client: String,
    transport: &'static str,
    compressed: bool,
    address: String,
    connected_ms: u64,
    subscriptions: usize,
    outbox_bytes: usize,
    outbox_messages: usize,
    /// For how long the oldest message waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    outbox_age_ms: Option<u64>,
    /// Why it is being closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    closing: Option<&'static str>,
    #[serde(skip)]
    key: Key,
}

/// What is sorted by, the largest first.
type Key = (u64, u64);

/// `GET /connections`
pub(super) async fn list(shared: &Shared, query: &Query) -> Result<Response<Body>, ApiError> {
    #[derive(Serialize)]
    struct List {
        /// All there are, shown or not.
        connections: usize,
        shown: Vec<Shown>,
    }
    let sort = choice(query, "sort", &[("lag", Sort::Lag), ("bytes", Sort::Bytes), ("age", Sort::Age)])?;
    let max = max(query, shared.config().limits.list_connections)?;
    let worst = ask_all(shared, |_| async move |worker: Rc<Worker>| worst(&worker, sort, max).await).await?;
    let connections = worst.iter().map(|(count, _)| count).sum();
    let mut shown: Vec<_> = worst.into_iter().flat_map(|(_, shown)| shown).collect();
    shown.sort_unstable_by_key(|shown| Reverse(shown.key));
    shown.truncate(max);
    Ok(json(StatusCode::OK, &List { connections, shown }))
}

/// A worker's own share of the list, and how many there are.
async fn worst(worker: &Worker, sort: Sort, max: usize) -> (usize, Vec<Shown>) {
    let now = Instant::now();
    let mut count = 0;
    let mut worst: BinaryHeap<Reverse<(Key, SubscriberId)>> = BinaryHeap::with_capacity(max + 1);
    let mut slot = 0;
    loop {
        {
            let connections = worker.connections.borrow();
            if slot >= connections.slots() {
                break;
            }
            let shard = worker.shard.borrow();
            for connection in connections.within(slot..slot + LOOK_STEP) {
                count += 1;
                let Some(described) = shard.describe(connection.id) else { continue };
                worst.push(Reverse((key(sort, connection, &described, now), connection.id)));
                if worst.len() > max {
                    worst.pop();
                }
            }
        }
        slot += LOOK_STEP;
        yield_now().await;
    }
    let (connections, shard) = (worker.connections.borrow(), worker.shard.borrow());
    let shown = worst.into_iter().filter_map(|Reverse((key, id))| {
        // It may be gone by now.
        let (connection, described) = (connections.get(id)?, shard.describe(id)?);
        Some(Shown {
            client: client_name(worker.index, id),
            transport: transport(connection.format),
            compressed: connection.format != connection.format.plain(),
            address: connection.client.address.to_string(),
            connected_ms: unix_ms().saturating_sub(connection.since_ms),
            subscriptions: described.subscriptions,
            outbox_bytes: described.bytes,
            outbox_messages: described.messages,
            outbox_age_ms: described.oldest.map(|oldest| milliseconds(now.saturating_duration_since(oldest))),
            closing: connection.closing.get().map(DisconnectReason::label),
            key,
        })
    });
    (count, shown.collect())
}

fn key(sort: Sort, connection: &Connection, described: &Described, now: Instant) -> Key {
    let micros = |since: Instant| {
        let time = now.saturating_duration_since(since);
        u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
    };
    let (lag, bytes) = (described.oldest.map_or(0, micros), described.bytes as u64);
    match sort {
        Sort::Lag => (lag, bytes),
        Sort::Bytes => (bytes, lag),
        // Not the age: each worker looks at a moment of its own.
        Sort::Age => (u64::MAX - connection.since_ms, bytes),
    }
}

/// As `fanfare_connections` has it.
fn transport(format: FormatId) -> &'static str {
    match format.plain() {
        FormatId::RAW => "raw",
        FormatId::JSON => "json",
        _ => "stream",
    }
}

/// `POST /connections/{client}/close`
pub(super) async fn close_one(shared: &Shared, client: &str) -> Result<Response<Body>, ApiError> {
    let nobody = || ApiError { message: "no such connection".into(), ..ApiError::not_found() };
    let (worker, id) = client_of(client).ok_or_else(nobody)?;
    let close = async move |worker: Rc<Worker>| {
        let connection = worker.connections.borrow().get(id).cloned();
        let connection = connection.filter(|connection| connection.closing.get().is_none());
        connection.is_some_and(|connection| {
            worker.close(&connection, DisconnectReason::Operator);
            true
        })
    };
    if !ask(shared, worker, close).await? {
        return Err(nobody());
    }
    tracing::info!(%client, "an operator closed a connection");
    Ok(json(StatusCode::OK, &serde_json::json!({"closing": 1})))
}

/// `POST /connections/close?share=0.1&window=30s`: which ones is drawn by lot, and the closes are spread over the window.
pub(super) async fn close_share(
    shared: &Shared,
    query: &Query,
    one_at_a_time: &Arc<Semaphore>,
) -> Result<Response<Body>, ApiError> {
    let share = query.get("share").and_then(|share| share.parse().ok());
    let share = share.filter(|share: &f64| *share > 0.0 && *share <= 1.0);
    let share = share.ok_or_else(|| ApiError::bad_request("share is above 0 and at most 1"))?;
    let window = time(query, "window", shared.config().limits.drain_window)?;
    if window > WINDOW_MAX {
        return Err(ApiError::bad_request("window is at most 1h"));
    }
    let permit = Arc::clone(one_at_a_time).try_acquire_owned();
    let permit = Arc::new(permit.map_err(|_| ApiError::unavailable("another share is being closed"))?);
    let open = ask_all(shared, |_| async |worker: Rc<Worker>| open(&worker).len()).await?;
    let counts = apportion(&open, share);
    let closing: usize = counts.iter().sum();
    ask_all(shared, |index| {
        let (permit, count) = (Arc::clone(&permit), counts.get(index).copied().unwrap_or_default());
        async move |worker: Rc<Worker>| drop(spawn_local(close_some(worker, count, window, permit)))
    })
    .await?;
    let window_ms = milliseconds(window);
    tracing::info!(closing, window_ms, "an operator closes a share of the connections");
    Ok(json(StatusCode::ACCEPTED, &serde_json::json!({"closing": closing, "window_ms": window_ms})))
}

/// The longest time over which a share is closed.
const WINDOW_MAX: Duration = Duration::from_secs(3600);

/// How many each worker closes, so that together they are the share of all, rounded up.
fn apportion(open: &[usize], share: f64) -> Vec<usize> {
    let all: usize = open.iter().sum();
    let wanted = ((all as f64 * share).ceil() as usize).min(all);
    let (mut before, mut given) = (0, 0);
    let counts = open.iter().map(|count| {
        before += count;
        let through = (wanted * before).checked_div(all).unwrap_or_default();
        through - std::mem::replace(&mut given, through)
    });
    counts.collect()
}

/// Sessions that are not being closed.
fn open(worker: &Worker) -> Vec<SubscriberId> {
    let connections = worker.connections.borrow();
    let open = connections.every(0, 1).filter(|connection| connection.closing.get().is_none());
    open.map(|connection| connection.id).collect()
}

async fn close_some(
    worker: Rc<Worker>,
    count: usize,
    window: Duration,
    _until_the_end: Arc<OwnedSemaphorePermit>,
) {
    let chosen = fastrand::choose_multiple(open(&worker), count);
    let start = Instant::now();
    let mut closed = 0;
    while closed < chosen.len() {
        sleep(CLOSE_STEP).await;
        let passed = start.elapsed().div_duration_f64(window).min(1.0);
        let due = (chosen.len() as f64 * passed) as usize;
        for id in chosen.get(closed..due).unwrap_or_default() {
            let connection = worker.connections.borrow().get(*id).cloned();
            if let Some(connection) = connection {
                worker.close(&connection, DisconnectReason::Operator);
            }
        }
        closed = closed.max(due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_apportioned_without_a_remainder() {
        fn check(open: &[usize], share: f64, expect: &[usize]) {
            assert_eq!(apportion(open, share), expect, "{share} of {open:?}");
        }
        check(&[10, 10], 0.1, &[1, 1]);
        check(&[1, 0, 1], 1.0, &[1, 0, 1]);
        check(&[3, 3, 3, 3], 0.25, &[0, 1, 1, 1]);
        check(&[0, 5], 0.01, &[0, 1]);
        check(&[0, 0], 0.5, &[0, 0]);
        check(&[], 0.5, &[]);
        check(&[1000, 1], 1.0, &[1000, 1]);
    }
}
