//! The process: its workers, and the control plane beside them.
//!
//! The control plane is the thread that started the process: operators' requests, signals and sweeps run here, so that
//! none of them ever holds up a worker.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use arc_swap::{ArcSwap, Guard};
use fanfare_registry::{Registry, RegistryLimits};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use crate::accept;
use crate::admin;
use crate::admission::Admission;
use crate::alone::Alone;
use crate::ask::{self, Asked, Asker};
use crate::auth::jwks;
use crate::auth::revocations::Revocations;
use crate::config::{Config, Source};
use crate::demo::Demo;
use crate::dispatch::{AllInboxes, Dispatch};
use crate::drain::Phase;
use crate::idempotency::IdempotencyStore;
use crate::in_force::InForce;
use crate::inbox::Inbox;
use crate::interrupts::Interrupts;
use crate::log::rate::{Kind, LogRate, Suppressed};
use crate::metrics::Counters;
use crate::reload::{self, Reloads};
use crate::worker::Worker;
use crate::writer;

/// What all threads of the process share.
pub(crate) struct Shared {
    /// The registry asks it, too.
    in_force: Arc<ArcSwap<InForce>>,
    pub(crate) revocations: Revocations,
    /// Fetches of a key set: those that succeeded, and those that did not.
    pub(crate) key_set_fetches: [AtomicU64; 2],
    /// Workers are to have rings.
    pub(crate) with_rings: bool,
    pub(crate) dispatch: Dispatch,
    pub(crate) idempotency: IdempotencyStore,
    /// One per worker; only it writes.
    pub(crate) counters: Vec<Counters>,
    /// Open connections, for `Limits::connections`. Touched at accept and close only.
    pub(crate) connections: Alone<AtomicUsize>,
    /// Addresses, publishers, topics and readers, and what they have taken of their bounds.
    pub(crate) admission: Admission,
    /// Request bodies being received, for `Limits::inflight_body_bytes`.
    pub(crate) inflight_body_bytes: Alone<AtomicUsize>,
    /// Answers to polls that are not written yet, for `Limits::inflight_poll_bytes`.
    pub(crate) inflight_poll_bytes: Alone<AtomicUsize>,
    /// Where the control plane asks workers, one for each.
    pub(crate) askers: Vec<Asker>,
    /// Lines of the log that clients can cause.
    pub(crate) log_rate: LogRate,
    /// An operator asks for the end.
    pub(crate) drain_asked: Notify,
    /// Where the process stands, for each worker its own: each request waits for it, and what waits takes a lock.
    phases: Vec<watch::Sender<Phase>>,
    pub(crate) reloads: Reloads,
    /// The pages of `fanfare demo`.
    pub(crate) demo: Option<Demo>,
}

impl Shared {
    /// The configuration in force. Whoever keeps it goes on with it when another one takes its place: a request does, a
    /// connection does not.
    pub(crate) fn config(&self) -> Guard<Arc<InForce>> {
        self.in_force.load()
    }

    /// Lets it take the place of what is in force, all of it at once.
    pub(crate) fn put_in_force(&self, next: InForce) {
        self.in_force.store(Arc::new(next));
    }

    /// Whether a line that a client caused may be written.
    pub(crate) fn may_log(&self, kind: Kind) -> Option<Suppressed> {
        self.log_rate.permit(kind, self.config().limits.log_rate)
    }

    /// What waits in all outboxes, as of each worker's last step.
    pub(crate) fn outbox_bytes(&self) -> u64 {
        self.counters.iter().map(|counters| counters.outbox_bytes.read()).sum()
    }

    /// Where the process stands, for tasks of that worker.
    pub(crate) fn phase(&self, worker: usize) -> watch::Receiver<Phase> {
        self.phases[worker].subscribe()
    }

    fn enter(&self, phase: Phase) {
        for worker in &self.phases {
            worker.send_replace(phase);
        }
    }

    /// Whether a signal to end has come.
    pub(crate) fn is_draining(&self) -> bool {
        self.phases.first().is_some_and(|phase| *phase.borrow() >= Phase::Grace)
    }
}

/// A gateway that listens, and has not begun to serve.
pub struct Server {
    pub(crate) shared: Arc<Shared>,
    listeners: Vec<std::net::TcpListener>,
    /// What is asked of each worker.
    asked: Vec<Asked>,
    admin: std::net::TcpListener,
    source: Option<Source>,
    /// The public address, with its real port.
    pub address: SocketAddr,
    /// The operators' address, with its real port.
    pub admin_address: SocketAddr,
}

/// Ends a running server as a signal would.
pub struct Stop(oneshot::Sender<()>);

impl Stop {
    /// Begins the drain.
    pub fn stop(self) {
        // A server that is already over is as stopped as can be.
        let _ = self.0.send(());
    }
}

impl Server {
    /// Reads what the configuration names, and opens the listeners.
    ///
    /// # Errors
    /// A [`ConfigError`](crate::config::ConfigError) for what is named and cannot be read.
    pub fn bind(config: Config, demo: Option<Demo>) -> anyhow::Result<Self> {
        let in_force = InForce::build(config, None)?;
        let config: &Config = &in_force;
        let with_rings = writer::choose(config.writer);
        let limits = &config.limits;
        let public = || format!("cannot listen on {}", config.listen);
        if config.workers > 1 && config.listen.port() != 0 {
            // Listeners that share a port would share it with another gateway of this user, too, and each would get some
            // of the clients: one that shares nothing tells whether it is free.
            drop(accept::listen(config.listen, limits, false).with_context(public)?);
        }
        let first = accept::listen(config.listen, limits, config.workers > 1).with_context(public)?;
        // With port 0 the others follow where the first one went.
        let address = first.local_addr().with_context(public)?;
        let mut listeners = vec![first];
        for _ in 1..config.workers {
            listeners.push(accept::listen(address, limits, true).with_context(public)?);
        }
        let operators = || format!("cannot listen on {} for operators", config.admin);
        let admin = accept::listen(config.admin, limits, false).with_context(operators)?;
        let admin_address = admin.local_addr().with_context(operators)?;
        let (askers, asked) = ask::channels(config.workers);
        let (inboxes, workers) = (inboxes(config), config.workers);
        let idempotency = IdempotencyStore::new(limits.idempotency_keys, limits.idempotency_age);
        let rate_entries = limits.rate_entries;
        let in_force = Arc::new(ArcSwap::from_pointee(in_force));
        let shared = Arc::new(Shared {
            with_rings,
            dispatch: Dispatch { registry: registry(&in_force), inboxes },
            idempotency,
            counters: (0..workers).map(|_| Counters::default()).collect(),
            connections: Alone::default(),
            admission: Admission::new(rate_entries),
            inflight_body_bytes: Alone::default(),
            inflight_poll_bytes: Alone::default(),
            askers,
            log_rate: LogRate::default(),
            drain_asked: Notify::new(),
            phases: (0..workers).map(|_| watch::Sender::new(Phase::Serving)).collect(),
            reloads: Reloads::default(),
            demo,
            in_force,
            revocations: Revocations::default(),
            key_set_fetches: Default::default(),
        });
        Ok(Self { shared, listeners, asked, admin, source: None, address, admin_address })
    }

    /// Reads its configuration from there again at each SIGHUP. Without it, that signal ends the process.
    pub fn reloading(self, source: Source) -> Self {
        Self { source: Some(source), ..self }
    }

    /// What is legal in its configuration, and hardly what anybody wants. A line each.
    pub fn warnings(&self) -> Vec<String> {
        self.shared.config().warnings()
    }

    /// Serves until a signal or `stop` ends it, and the drain after that.
    pub fn serve(self, on_ready: impl FnOnce(Stop)) -> anyhow::Result<()> {
        let runtime = runtime().context("cannot start the control plane")?;
        let (stop, stopped) = oneshot::channel();
        runtime.block_on(async {
            // Before anything is announced: a signal must find its handler.
            let interrupts = Interrupts::new().context("cannot handle signals")?;
            let shared = || Arc::clone(&self.shared);
            let mut vital = JoinSet::new();
            if let Some(source) = self.source {
                let hangups = signal(SignalKind::hangup()).context("cannot handle signals")?;
                vital.spawn_local(reload::run(shared(), source, hangups));
            }
            let admin = tokio::net::TcpListener::from_std(self.admin)?;
            vital.spawn_local(admin::run(shared(), admin));
            vital.spawn_local(sweep(shared()));
            vital.spawn_local(jwks::run(shared()));
            let workers = start_workers(&self.shared, self.listeners, self.asked)?;
            on_ready(Stop(stop));
            control(&self.shared, interrupts, stopped, vital, workers).await
        })
    }
}

/// Forgets idle topics, now and then.
async fn sweep(shared: Arc<Shared>) {
    loop {
        let idle = shared.config().limits.topic_idle;
        if timeout(idle, shared.reloads.heard.notified()).await.is_ok() {
            // The time may be another one.
            continue;
        }
        let topics = shared.dispatch.registry.sweep();
        if topics > 0 {
            tracing::info!(topics, "idle topics are forgotten");
        }
    }
}

/// The bounds of the registry.
pub(crate) fn registry_limits(config: &Config) -> RegistryLimits {
    RegistryLimits {
        topics_max: config.limits.topics,
        retained_bytes_max: config.limits.retained_bytes,
        lanes: config.workers,
        wildcard_topics_max: config.limits.wildcard_topics,
        patterns_max: config.limits.patterns,
    }
}

fn registry(in_force: &Arc<ArcSwap<InForce>>) -> Registry {
    let rules = Arc::clone(in_force);
    Registry::new(registry_limits(&in_force.load()), move |topic| rules.load().settings(topic).retention)
}

fn inboxes(config: &Config) -> AllInboxes {
    AllInboxes((0..config.workers).map(|_| Inbox::new(&config.limits)).collect())
}

/// So many tasks run before the runtime looks for new events.
const TASKS_PER_LOOK: u32 = 31;

/// A look takes so many events at most. What a publish hands to its worker is behind the tasks of these, and not of all that is
/// ready in the process.
const EVENTS_PER_LOOK: usize = 64;

fn runtime() -> std::io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .event_interval(TASKS_PER_LOOK)
        // What another thread woke goes first: that is the fan-out, for what was published over there.
        .global_queue_interval(1)
        .max_io_events_per_tick(EVENTS_PER_LOOK)
        // No more than were run since the look before: the queue of tasks does not grow.
        .max_io_events_per_busy_tick(TASKS_PER_LOOK as usize)
        .build_local(LocalOptions::default())
}

/// A worker's thread.
type WorkerThread = JoinHandle<anyhow::Result<()>>;

fn start_workers(
    shared: &Arc<Shared>,
    listeners: Vec<std::net::TcpListener>,
    asked: Vec<Asked>,
) -> anyhow::Result<Vec<WorkerThread>> {
    let mut workers = Vec::new();
    for (index, (listener, asked)) in listeners.into_iter().zip(asked).enumerate() {
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        let run = move || {
            let runtime = runtime().context("cannot start a worker's runtime")?;
            let worker = Worker::new(index, shared).context("cannot open a worker's writer")?;
            runtime.block_on(worker.run(listener, asked))?;
            Ok(())
        };
        workers.push(thread.spawn(run).context("cannot start a worker")?);
    }
    Ok(workers)
}

/// How often it is looked whether the workers are still there.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// Waits for the first signal, leads the drain, and waits for the workers. A second signal ends the process at once.
async fn control(
    shared: &Shared,
    mut interrupts: Interrupts,
    stopped: oneshot::Receiver<()>,
    mut vital: JoinSet<()>,
    workers: Vec<WorkerThread>,
) -> anyhow::Result<()> {
    tokio::select! {
        () = interrupts.next() => {}
        // A handle that was dropped will not stop anything.
        () = shared.drain_asked.notified() => {}
        () = async { if stopped.await.is_err() { pending().await } } => {}
        () = any_ended(&workers) => {
            anyhow::bail!("a worker ended: {}", end_of(workers));
        }
        error = any_panicked(&mut vital) => anyhow::bail!("the control plane ended: {error}"),
    }
    tracing::info!("draining");
    shared.enter(Phase::Grace);
    tokio::select! {
        () = drain(shared, &workers) => {}
        () = interrupts.next() => anyhow::bail!("ended by a second signal"),
    }
    for worker in workers {
        worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
    }
    tracing::info!("drained");
    Ok(())
}

async fn drain(shared: &Shared, workers: &[WorkerThread]) {
    sleep(shared.config().limits.drain_grace).await;
    shared.enter(Phase::Closing);
    while !workers.iter().all(JoinHandle::is_finished) {
        sleep(WATCH_INTERVAL).await;
    }
}

/// A gateway without one of its workers is a trap for a part of its clients: better none.
async fn any_ended(workers: &[WorkerThread]) {
    while !workers.iter().any(JoinHandle::is_finished) {
        sleep(WATCH_INTERVAL).await;
    }
}

/// Likewise one where nobody can ask, reload or forget any more.
async fn any_panicked(vital: &mut JoinSet<()>) -> JoinError {
    loop {
        match vital.join_next().await {
            Some(Err(error)) => return error,
            Some(Ok(())) => {}
            None => pending().await,
        }
    }
}

fn end_of(workers: Vec<WorkerThread>) -> String {
    let ended = workers.into_iter().find(JoinHandle::is_finished).map(JoinHandle::join);
    match ended {
        Some(Ok(Err(error))) => format!("{error:#}"),
        Some(Err(_)) => "it panicked".into(),
        _ => "without a word".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_ends_with_its_first_worker() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config { listen: any, admin: any, workers: 1, ..Config::default() };
        let server = Server::bind(config, None).unwrap();
        let workers = vec![
            std::thread::spawn(|| {
                loop {
                    std::thread::park();
                }
            }),
            std::thread::spawn(|| panic!("in a pass")),
        ];
        let ended = runtime().unwrap().block_on(async {
            let (_stop, stopped) = oneshot::channel();
            control(&server.shared, Interrupts::new().unwrap(), stopped, JoinSet::new(), workers).await
        });
        assert_eq!(ended.unwrap_err().to_string(), "a worker ended: it panicked");
    }

    #[test]
    fn the_process_ends_with_its_control_plane() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config { listen: any, admin: any, workers: 1, ..Config::default() };
        let server = Server::bind(config, None).unwrap();
        let ended = runtime().unwrap().block_on(async {
            let (_stop, stopped) = oneshot::channel();
            let mut vital = JoinSet::new();
            vital.spawn_local(async {});
            vital.spawn_local(async { panic!("in a sweep") });
            control(&server.shared, Interrupts::new().unwrap(), stopped, vital, Vec::new()).await
        });
        let ended = ended.unwrap_err().to_string();
        assert!(ended.starts_with("the control plane ended: ") && ended.contains("in a sweep"), "{ended}");
    }
}
