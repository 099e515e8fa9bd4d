//! SIGHUP: the configuration is read again, and takes the place of the one in force, or leaves everything as it is.
//!
//! ```text
//!   read, check ─► keep what needs a restart ─► InForce::build ─► swapped ─► bounds ─► topics, some at a time
//!        └──────────────────── an error: logged, counted, nothing has changed
//! ```
//! No connection is closed. What is shared and bounded changes here, on the control plane; what a worker owns it changes
//! itself, between two passes.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use fanfare_fanout::{OutboxLimits, ShardLimits};
use tokio::signal::unix::Signal;
use tokio::sync::{Notify, watch};
use tokio::task::yield_now;

use crate::config::{Config, ConfigError, Source};
use crate::in_force::InForce;
use crate::open_files;
use crate::server::{Shared, registry_limits};
use crate::worker::Worker;

/// Topics that are looked at before others have their turn.
const TOPICS_PER_STEP: usize = 256;

/// The reloads so far, and who waits for them.
pub(crate) struct Reloads {
    pub(crate) done: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) last_failed: AtomicBool,
    /// Tells each worker, how many it heard of.
    workers: watch::Sender<u64>,
    /// Tells the control plane.
    pub(crate) heard: Notify,
}

impl Default for Reloads {
    fn default() -> Self {
        Self {
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last_failed: AtomicBool::new(false),
            workers: watch::Sender::new(0),
            heard: Notify::new(),
        }
    }
}

/// Reloads at each signal, until the process ends.
pub(crate) async fn run(shared: Arc<Shared>, source: Source, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        let reloads = &shared.reloads;
        match read(&shared, &source) {
            Ok((next, kept)) => {
                for key in kept {
                    tracing::warn!(key, "this key needs a restart: its old value stays");
                }
                for warning in next.warnings() {
                    tracing::warn!("{warning}");
                }
                apply(&shared, next).await;
                reloads.done.fetch_add(1, Relaxed);
                reloads.last_failed.store(false, Relaxed);
                tracing::info!("the configuration is reloaded");
            }
            Err(ConfigError(errors)) => {
                for error in errors {
                    tracing::error!("{error}");
                }
                reloads.failed.fetch_add(1, Relaxed);
                reloads.last_failed.store(true, Relaxed);
                tracing::error!("the configuration is not reloaded: the old one stays");
            }
        }
    }
}

/// All that can fail: what is to be in force, and the keys that would have to wait for a restart.
fn read(shared: &Shared, source: &Source) -> Result<(InForce, Vec<&'static str>), ConfigError> {
    let mut config = source.load()?;
    let in_force = shared.config();
    let kept = config.keep(&in_force);
    let next = InForce::build(config.checked()?, in_force.reload.saturating_add(1))?;
    if next.tls.is_some() != in_force.tls.is_some() {
        return Err(ConfigError(vec!["tls_certificate: TLS is turned on or off by a restart".into()]));
    }
    Ok((next, kept))
}

/// All that cannot.
async fn apply(shared: &Shared, next: InForce) {
    shared.put_in_force(next);
    let config = shared.config();
    open_files::raise(&config);
    shared.dispatch.inboxes.0.iter().for_each(|inbox| inbox.set_bounds(&config.limits));
    let (keys, age) = (config.limits.idempotency_keys, config.limits.idempotency_age);
    let limits = registry_limits(&config);
    // A guard is not held for long.
    drop(config);
    shared.reloads.heard.notify_waiters();
    shared.reloads.workers.send_modify(|reloads| *reloads += 1);
    while shared.idempotency.set_bounds(keys, age, Instant::now(), TOPICS_PER_STEP) {
        yield_now().await;
    }
    let registry = &shared.dispatch.registry;
    registry.set_limits(&limits);
    let mut after = None;
    while let Some(last) = registry.review(after.as_ref(), TOPICS_PER_STEP, Instant::now()) {
        after = Some(last);
        yield_now().await;
    }
    while registry.shrink(limits.retained_bytes_max, TOPICS_PER_STEP) {
        yield_now().await;
    }
}

/// The bounds of a worker's shard.
pub(crate) fn shard_limits(config: &Config) -> ShardLimits {
    let limits = &config.limits;
    let outbox = OutboxLimits {
        bytes_max: limits.outbox_bytes,
        messages_max: limits.outbox_messages,
        control_bytes_max: limits.control_bytes,
    };
    ShardLimits { outbox, subscriptions_max: limits.subscriptions }
}

/// Lets a worker know. It carries the reload out itself: see [`review`].
pub(crate) async fn follow(worker: Rc<Worker>) {
    let mut reloads = worker.shared.reloads.workers.subscribe();
    // The first time for one that came while the worker was made.
    loop {
        let limits = shard_limits(&worker.shared.config());
        worker.shard.borrow_mut().set_limits(limits);
        worker.reviewed.set(Some(0));
        worker.inbox().call();
        if reloads.changed().await.is_err() {
            return;
        }
    }
}

/// Between two passes: applies what changed to some of the worker's topics.
pub(crate) fn review(worker: &Worker) {
    let Some(from) = worker.reviewed.take() else { return };
    let now = Instant::now();
    let registry = &worker.shared.dispatch.registry;
    let age = |topic: &_| registry.info(topic, now).and_then(|info| info.age);
    let next = worker.shard.borrow_mut().review_some(from, TOPICS_PER_STEP, now, age);
    worker.reviewed.set(next);
    if next.is_some() {
        // The rest has its turn when others had theirs.
        worker.inbox().call();
    }
}
