//! One run: connect all subscribers, publish through warm-up and window, wait for the rest, report.
//!
//! ```text
//!     connect ── settle ── warm-up ──┬── window ──┬── drain ── report
//!                                    CPU and counts are sampled here and here
//! ```
//!
//! All subscribers are subscribed before the first message is published and none joins later. So what must arrive is
//! exact: over all topics, the messages acknowledged times the subscribers that read. Loss counts over everything, latency
//! and CPU over the window.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use fanfare_market::Market;

use crate::args::Quick;
use crate::crowd::{self, Crowd, Scene};
use crate::pace::{self, ByPace};
use crate::process::{self, Sample};
use crate::progress::{Live, Meter};
use crate::publisher::{self, Published, Publisher, Recipe};
use crate::recorder::{Counters, Tally, Window};
use crate::report::{self, Edge, Findings, Report, page};
use crate::schedule::{Clock, Schedule, nanoseconds};

const TICK: Duration = Duration::from_millis(20);
const REACH_WAIT: Duration = Duration::from_secs(3);
/// Connections that make no headway for so long are given up.
const CONNECT_STALL: Duration = Duration::from_secs(10);
/// A raw subscriber sees its upgrade before it can know that it is subscribed.
const SETTLE: Duration = Duration::from_millis(300);
/// Publishers start their threads and connections in it.
const PREPARE: Duration = Duration::from_millis(100);
/// A message that comes twice may come the second time after the last was delivered.
const LINGER: Duration = Duration::from_millis(100);
/// Beside the subscribers' files: event loops, publishers, standard streams.
const FILES_BESIDE: u64 = 64;

/// Runs and reports; `false` if something was lost or went wrong.
pub(crate) fn run(options: &Quick) -> anyhow::Result<bool> {
    let findings = Run::start(options)?.finish()?;
    let report = Report::new(options, &findings);
    let json = || serde_json::to_string_pretty(&report);
    match options.json.as_deref() {
        Some(file) if file == Path::new("-") => println!("{}", json()?),
        Some(file) => {
            print!("{}", report.text());
            fs::write(file, json()? + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        }
        None => print!("{}", report.text()),
    }
    if let Some(file) = &options.report {
        let page = page::render(&report.for_page(options))?;
        fs::write(file, page).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(report.passed)
}

struct Run<'a> {
    options: &'a Quick,
    scene: Arc<Scene>,
    weights: Vec<f64>,
    live: Live,
    meter: Meter,
    crowds: Vec<JoinHandle<io::Result<ByPace<Tally>>>>,
    interrupted: Arc<AtomicBool>,
    resident_before: Option<u64>,
    /// Messages were still arriving when the drain ended.
    cut_off: bool,
}

impl<'a> Run<'a> {
    /// Starts the subscribers' threads.
    fn start(options: &'a Quick) -> anyhow::Result<Self> {
        let interrupted = interrupt_flag()?;
        let address = options.url.resolve()?;
        TcpStream::connect_timeout(&address, REACH_WAIT)
            .with_context(|| format!("cannot reach {}", options.url))?;
        raise_file_limit(options.subscribers as u64 + FILES_BESIDE)?;
        let (topics, weights) = topics_of(options);
        let scene = Arc::new(Scene {
            clock: Clock::start(),
            address,
            authority: options.url.authority.clone(),
            format: options.format,
            subscribed: topics.iter().map(|_| AtomicU64::new(0)).collect(),
            topics,
            payload_bytes: options.payload,
            trickle_rate: options.trickle_rate,
            receive_buffer: options.receive_buffer,
            stalled: AtomicU64::new(0),
            window: Arc::new(Window::ahead()),
            give_up: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let resident =
            |pid| process::resident_bytes(pid).with_context(|| format!("cannot watch process {pid}"));
        let resident_before = options.pid.map(resident).transpose()?;
        let (crowds, subscribers) = start_crowds(options, &scene, &weights)?;
        let live = Live { subscribers, publishers: Vec::new() };
        Ok(Self {
            options,
            scene,
            weights,
            live,
            meter: Meter::new(options.subscribers as u64, options.pid),
            crowds,
            interrupted,
            resident_before,
            cut_off: false,
        })
    }

    fn finish(mut self) -> anyhow::Result<Findings> {
        let connect_seconds = self.connect();
        let connected: Vec<u64> = self.scene.subscribed.iter().map(|count| count.load(Relaxed)).collect();
        let stalled = self.scene.stalled.load(Relaxed);
        if self.options.subscribers > 0 && connected.iter().sum::<u64>() + stalled == 0 {
            let failures = report::failures(&self.stop_crowds()?);
            bail!(
                "no subscriber could connect to {}: {}",
                self.options.url,
                report::most_frequent(&failures)
            );
        }
        self.pause("settle", SETTLE);
        let resident_connected = self.options.pid.and_then(|pid| process::resident_bytes(pid).ok());

        let now_ns = self.scene.clock.now_ns();
        let start_ns = now_ns + nanoseconds(PREPARE);
        let from_ns = start_ns + nanoseconds(self.options.warmup);
        let until_ns = from_ns + nanoseconds(self.options.duration);
        self.scene.window.open(from_ns, until_ns);
        let publishers = self.start_publishers(start_ns, until_ns, &connected)?;
        let mut edges = None;
        if self.wait("warm-up", now_ns, from_ns) {
            let from = self.edge()?;
            self.wait("measuring", from_ns, until_ns);
            self.scene.window.cut(self.scene.clock.now_ns());
            edges = Some((from, self.edge()?));
        }
        let published = self.drain(publishers)?;
        self.pause("hold", self.options.hold);
        let tallies = self.stop_crowds()?;
        self.meter.clear();
        Ok(Findings {
            connected: connected.iter().sum::<u64>() + stalled,
            connect_seconds,
            tallies,
            published,
            edges,
            window_seconds: self.scene.window.seconds(self.scene.clock.now_ns()),
            resident_before: self.resident_before,
            resident_connected,
            cut_off: self.cut_off,
            interrupted: self.interrupted.load(Relaxed),
        })
    }

    /// Waits until every subscriber is subscribed or has failed; the seconds it took.
    fn connect(&mut self) -> f64 {
        let began_ns = self.scene.clock.now_ns();
        let all = self.options.subscribers as u64;
        let (mut settled, mut moved_ns) = (0, began_ns);
        loop {
            let subscribed: u64 = self.scene.subscribed.iter().map(|count| count.load(Relaxed)).sum();
            let now =
                subscribed + self.scene.stalled.load(Relaxed) + self.live.sum(|counters| &counters.failed);
            let now_ns = self.scene.clock.now_ns();
            if now >= all {
                return (now_ns - began_ns) as f64 / 1e9;
            }
            if now > settled {
                (settled, moved_ns) = (now, now_ns);
            }
            if now_ns - moved_ns > nanoseconds(CONNECT_STALL) || self.interrupted.load(Relaxed) {
                self.scene.give_up.store(true, Relaxed);
            }
            // A thread of subscribers that ended early has an error to tell.
            if self.crowds.iter().any(JoinHandle::is_finished) {
                return (now_ns - began_ns) as f64 / 1e9;
            }
            self.meter.show("connect", now as f64 / all as f64, &self.live);
            thread::sleep(TICK);
        }
    }

    fn start_publishers(
        &mut self,
        start_ns: u64,
        until_ns: u64,
        connected: &[u64],
    ) -> anyhow::Result<Vec<JoinHandle<rustix::io::Result<Published>>>> {
        let options = self.options;
        let posts_per_second = options.rate / options.batch as f64;
        let mut threads = Vec::new();
        for at in 0..options.publishers {
            let topics = publisher::topics_of(at, options.publishers, self.scene.topics.len());
            let share: f64 = topics.iter().map(|&topic| self.weights[topic]).sum();
            // Not all publishers' first messages are due at the same moment.
            let shift_ns = (at as f64 * 1e9 / posts_per_second.max(1.0)) as u64;
            let schedule = Schedule::new(start_ns + shift_ns, until_ns, posts_per_second * share);
            let recipe = Recipe {
                topics,
                drawn: options.ticker,
                batch: options.batch,
                payload_bytes: options.payload,
                seed: options.seed + at as u64,
                subscribers: connected.to_vec(),
            };
            let progress = Arc::new(publisher::Progress::default());
            self.live.publishers.push(Arc::clone(&progress));
            let publisher = Publisher::new(Arc::clone(&self.scene), progress, schedule, recipe);
            let thread = thread::Builder::new().name(format!("publisher-{at}")).spawn(|| publisher.run())?;
            threads.push(thread);
        }
        Ok(threads)
    }

    /// Stops publishing, and waits until all is answered and delivered, or the time for it is over.
    fn drain(
        &mut self,
        publishers: Vec<JoinHandle<rustix::io::Result<Published>>>,
    ) -> anyhow::Result<Published> {
        self.live.publishers.iter().for_each(|progress| progress.stop.store(true, Relaxed));
        let began_ns = self.scene.clock.now_ns();
        let until_ns = began_ns + nanoseconds(self.options.drain);
        let conflating = self.options.conflating;
        while self.scene.clock.now_ns() < until_ns && !self.live.is_complete(conflating) {
            let done = (self.scene.clock.now_ns() - began_ns) as f64 / (until_ns - began_ns) as f64;
            self.meter.show("drain", done, &self.live);
            thread::sleep(TICK);
        }
        let incomplete = !self.live.is_complete(conflating);
        let delivered = self.live.sum(|counters| &counters.delivered);
        thread::sleep(LINGER);
        self.cut_off = incomplete && self.live.sum(|counters| &counters.delivered) > delivered;
        self.live.publishers.iter().for_each(|progress| progress.abandon.store(true, Relaxed));
        let mut published = Published::new(self.scene.topics.len());
        for thread in publishers {
            published.add(&joined(thread)?);
        }
        Ok(published)
    }

    fn stop_crowds(&mut self) -> anyhow::Result<ByPace<Tally>> {
        self.scene.stop.store(true, Relaxed);
        let mut all = ByPace::new(Tally::new);
        for thread in self.crowds.drain(..) {
            let part = joined(thread)?;
            all.full.add(&part.full);
            all.trickle.add(&part.trickle);
            all.stalled.add(&part.stalled);
        }
        Ok(all)
    }

    /// The server, this process and the deliveries at this moment.
    fn edge(&self) -> io::Result<Edge> {
        Ok(Edge {
            // A server that ended meanwhile is told by its disconnects.
            server: self.options.pid.and_then(|pid| Sample::take(pid).ok()),
            generator: Sample::take(std::process::id())?,
            delivered: self.live.sum(|counters| &counters.delivered),
        })
    }

    /// Waits for `until_ns`; `false` if the run was interrupted before.
    fn wait(&mut self, stage: &str, from_ns: u64, until_ns: u64) -> bool {
        loop {
            if self.interrupted.load(Relaxed) {
                return false;
            }
            let now_ns = self.scene.clock.now_ns();
            if now_ns >= until_ns {
                return true;
            }
            let done = (now_ns - from_ns) as f64 / (until_ns - from_ns) as f64;
            self.meter.show(stage, done, &self.live);
            thread::sleep(TICK.min(Duration::from_nanos(until_ns - now_ns)));
        }
    }

    fn pause(&mut self, stage: &str, pause: Duration) {
        let now_ns = self.scene.clock.now_ns();
        self.wait(stage, now_ns, now_ns + nanoseconds(pause));
    }
}

/// The topics' names and the share of messages and subscribers that each gets.
fn topics_of(options: &Quick) -> (Vec<String>, Vec<f64>) {
    if options.ticker {
        let market = Market::new(options.topics, options.seed);
        return (
            market.symbols().map(|symbol| format!("ticker.{symbol}")).collect(),
            market.weights().to_vec(),
        );
    }
    let names = (0..options.topics).map(|topic| format!("load.{topic}")).collect();
    (names, vec![1.0 / options.topics as f64; options.topics])
}

type Crowds = (Vec<JoinHandle<io::Result<ByPace<Tally>>>>, Vec<ByPace<Arc<Counters>>>);

fn start_crowds(options: &Quick, scene: &Arc<Scene>, weights: &[f64]) -> anyhow::Result<Crowds> {
    let shares = crowd::shares(options.subscribers, weights);
    let topics = shares.iter().enumerate().flat_map(|(topic, &share)| std::iter::repeat_n(topic, share));
    let parts: Vec<_> =
        topics.zip(pace::paces(options.subscribers, options.stalled, options.trickle)).collect();
    let dials_per_second = options.connect_rate / options.threads as f64;
    let (mut threads, mut all_counters) = (Vec::new(), Vec::new());
    for at in 0..options.threads {
        // Every so many-th subscriber, so that each thread has some of every topic.
        let mine: Vec<_> = parts.iter().copied().skip(at).step_by(options.threads).collect();
        let before = (0..at).map(|other| parts.len().saturating_sub(other).div_ceil(options.threads)).sum();
        let counters = ByPace::new(|| Arc::new(Counters::new()));
        let crowd = Crowd::new(Arc::clone(scene), &counters, mine, before, dials_per_second)?;
        all_counters.push(counters);
        threads.push(thread::Builder::new().name(format!("subscriber-{at}")).spawn(|| crowd.run())?);
    }
    Ok((threads, all_counters))
}

/// Becomes true with the first Ctrl-C or SIGTERM; the second Ctrl-C ends the process.
fn interrupt_flag() -> io::Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    // In this order: the second signal finds the flag that the first one set.
    signal_hook::flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&flag))?;
    signal_hook::flag::register(SIGINT, Arc::clone(&flag))?;
    signal_hook::flag::register(SIGTERM, Arc::clone(&flag))?;
    Ok(flag)
}

fn raise_file_limit(needed: u64) -> anyhow::Result<()> {
    let limit = rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the limit of open files")?;
    ensure!(limit >= needed, "this run needs {needed} open files, the limit is {limit} (ulimit -n)");
    Ok(())
}

fn joined<T, E: Into<anyhow::Error>>(thread: JoinHandle<Result<T, E>>) -> anyhow::Result<T> {
    match thread.join() {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
