//! One run of a scenario: connect the subscribers, publish through warm-up and window, wait for the rest.
//!
//! ```text
//!     connect ── settle ── warm-up ──┬── window ──┬── drain ── hold
//!                                    CPU and counts are sampled here and here
//! ```
//!
//! Who is to be there first is subscribed before the first message is published; others may come, go and come back on the
//! way. What each is owed is exact ([`track`](crate::track)). Loss counts over everything, latency and CPU over the window.
//!
//! # Owner        the main thread

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::adapter::Adapter;
use crate::args::Target;
use crate::crowd::{Crowd, SETTLE};
use crate::dials::Dial;
use crate::load::{self, Shares};
use crate::outgoing::Outgoing;
use crate::process::Watch;
use crate::progress::Meter;
use crate::publisher::{self, Feed, Published, Publisher, Recipe};
use crate::reader::Reading;
use crate::recorder::{Counters, Tally, Window};
use crate::recording::{Playback, Recorded};
use crate::report::{self, Edge, Findings};
use crate::scenario::{Format, Publishers, Scenario};
use crate::scene::{Scene, Topic};
use crate::schedule::{Clock, Schedule, nanoseconds};
use crate::series::{Live, Series};
use crate::subscriber::Past;

const TICK: Duration = Duration::from_millis(20);
const REACH_WAIT: Duration = Duration::from_secs(3);
/// Connections that make no headway for so long are given up.
const CONNECT_STALL: Duration = Duration::from_secs(10);
/// Publishers start their threads and connections in it: so long, and a little for each connection.
const PREPARE: Duration = Duration::from_millis(100);
const PREPARE_EACH: Duration = Duration::from_millis(1);
/// A message that comes twice may come the second time after the last was delivered.
const LINGER: Duration = Duration::from_millis(100);
/// A server whose connections ended is asked no more often whether it is there.
const PROBE_EVERY_NS: u64 = 200_000_000;
/// Beside the subscribers' files: event loops, standard streams.
const FILES_BESIDE: u64 = 64;

/// Where a run goes to.
#[derive(Debug, Clone)]
pub(crate) struct Against {
    pub(crate) url: Target,
    pub(crate) adapter: Adapter,
    /// Where messages are published, if that is another address.
    pub(crate) publish: Option<SocketAddr>,
    /// The server's processes, to measure them.
    pub(crate) pids: Vec<u32>,
    pub(crate) reader: Reading,
}

/// Runs a scenario that was checked, with the recording that it names; `shown` says meanwhile which run it is. `interrupted`
/// ends it early, and what there is by then is told.
pub(crate) fn run(
    scenario: &Scenario,
    recorded: Option<Arc<Recorded>>,
    against: &Against,
    shown: String,
    interrupted: &Arc<AtomicBool>,
) -> anyhow::Result<report::Run> {
    Ok(Progress::start(scenario, recorded, against, shown, interrupted)?.finish()?.into_run())
}

struct Progress {
    scene: Arc<Scene>,
    target: report::Target,
    /// The server's processes, if they are known.
    server: Option<Watch>,
    pids: Vec<u32>,
    shares: Shares,
    recorded: Option<Arc<Recorded>>,
    live: Live,
    meter: Meter,
    series: Series,
    crowds: Vec<JoinHandle<io::Result<Vec<Tally>>>>,
    interrupted: Arc<AtomicBool>,
    resident_before: Option<u64>,
    /// Messages were still arriving when the drain ended.
    cut_off: bool,
    /// Why the run is at its end before its time.
    partial: Option<String>,
    probed_ns: u64,
    ended: u64,
}

impl Progress {
    /// Starts the subscribers' threads.
    fn start(
        scenario: &Scenario,
        recorded: Option<Arc<Recorded>>,
        against: &Against,
        shown: String,
        interrupted: &Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let address = against.url.resolve()?;
        TcpStream::connect_timeout(&address, REACH_WAIT)
            .with_context(|| format!("cannot reach {}", against.url))?;
        let files = scenario.subscribers() + scenario.publishers.iter().map(load::connections).sum::<usize>();
        raise_file_limit(files as u64 + FILES_BESIDE)?;
        let (mut names, shares) = load::topics(scenario);
        if let Some(recorded) = &recorded {
            names.clone_from(&recorded.topics);
        }
        let ordered = load::is_ordered(scenario);
        let port = against.adapter.publish.port;
        let publish_address = match against.publish {
            Some(publish) => publish,
            None if port != 0 => SocketAddr::new(address.ip(), port),
            None => address,
        };
        let scene = Arc::new(Scene {
            clock: Clock::start(),
            address,
            authority: against.url.authority.clone(),
            publish_address,
            scenario: scenario.clone(),
            adapter: against.adapter.clone(),
            topics: names.into_iter().map(|name| Topic::new(name, ordered)).collect(),
            payload_bytes: load::payload_lengths(scenario),
            reader: against.reader,
            window: Arc::new(Window::ahead()),
            began_ns: AtomicU64::new(u64::MAX),
            give_up: AtomicBool::new(false),
            ledgers: std::sync::OnceLock::new(),
            stop: AtomicBool::new(false),
        });
        let server = (!against.pids.is_empty()).then(|| Watch::new(against.pids.clone()));
        let resident = |watch: &Watch| {
            watch.resident_bytes().with_context(|| format!("cannot watch process {:?}", against.pids))
        };
        let resident_before = server.as_ref().map(resident).transpose()?;
        let series = Series::new(server.clone(), scene.clock.now_ns());
        let (crowds, live) = start_crowds(&scene, &shares)?;
        let target = report::Target {
            url: against.url.to_string(),
            adapter: against.adapter.name.clone(),
            server: against.adapter.shown().to_owned(),
        };
        Ok(Self {
            scene,
            target,
            server,
            pids: against.pids.clone(),
            shares,
            recorded,
            live,
            meter: Meter::new(shown, scenario.subscribers() as u64),
            series,
            crowds,
            interrupted: Arc::clone(interrupted),
            resident_before,
            cut_off: false,
            partial: None,
            probed_ns: 0,
            ended: 0,
        })
    }

    fn finish(mut self) -> anyhow::Result<Findings> {
        let connect_seconds = self.connect();
        let connected = self.live.sum(|counters| &counters.joined);
        if load::first(&self.scene.scenario) > 0 && connected == 0 && self.partial.is_none() {
            let mut all = Tally::new();
            self.stop_crowds()?.iter().for_each(|tally| all.add(tally));
            self.meter.clear();
            bail!(
                "no subscriber could connect to {}: {}",
                self.target.url,
                report::most_frequent(&all.failures)
            );
        }
        self.pause("settle", SETTLE);
        let resident_connected = self.server.as_ref().and_then(|watch| watch.resident_bytes().ok());
        let kernel_connected = self.server.as_ref().and_then(|watch| watch.kernel_socket_bytes().ok());

        let stages = self.scene.scenario.stages.clone();
        let connections: usize = self.scene.scenario.publishers.iter().map(load::connections).sum();
        let prepare = PREPARE + PREPARE_EACH * u32::try_from(connections).unwrap_or(u32::MAX);
        let now_ns = self.scene.clock.now_ns();
        let start_ns = now_ns + nanoseconds(prepare);
        let from_ns = start_ns + nanoseconds(stages.warmup.0);
        let until_ns = from_ns + nanoseconds(stages.window.0);
        self.scene.window.open(from_ns, until_ns);
        self.scene.began_ns.store(start_ns, Relaxed);
        let publishers = self.start_publishers(start_ns, until_ns)?;
        let mut edges = None;
        if self.wait("warm-up", now_ns, from_ns) {
            let from = self.edge()?;
            self.wait("window", from_ns, until_ns);
            self.scene.window.cut(self.scene.clock.now_ns());
            edges = Some((from, self.edge()?));
        }
        // Who does not read makes it grow meanwhile.
        let kernel_window = self.server.as_ref().and_then(|watch| watch.kernel_socket_bytes().ok());
        let now_ns = self.scene.clock.now_ns();
        self.scene.window.cut(now_ns);
        let window_seconds = self.scene.window.seconds(now_ns);
        let until = stages.warmup.0 + Duration::from_secs_f64(window_seconds);
        let mut due_in_window = self.scene.scenario.due_between(stages.warmup.0, until);
        let published = self.drain(publishers)?;
        if self.recorded.is_some() {
            due_in_window = (published.sent + published.skipped) as f64;
        }
        self.pause("hold", stages.hold.0);
        let resident_peak = self.server.as_ref().and_then(|watch| watch.resident_bytes_peak().ok());
        let tallies = self.stop_crowds()?;
        self.meter.clear();
        Ok(Findings {
            scenario: self.scene.scenario.clone(),
            target: self.target,
            pids: self.pids,
            connected,
            connect_seconds,
            tallies,
            ledgers: self.scene.take_ledgers(),
            published,
            edges,
            window_seconds,
            due_in_window,
            resident_before: self.resident_before,
            resident_connected,
            resident_peak,
            kernel_socket_bytes: kernel_connected.max(kernel_window),
            cut_off: self.cut_off,
            partial: self.partial,
            series: self.series.points,
        })
    }

    /// Waits until all who are to be there first are subscribed or have failed; the seconds it took.
    fn connect(&mut self) -> f64 {
        let began_ns = self.scene.clock.now_ns();
        let all = load::first(&self.scene.scenario) as u64;
        let (mut settled, mut moved_ns) = (0, began_ns);
        loop {
            let now = self.live.sum(|counters| &counters.joined) + self.live.sum(|counters| &counters.failed);
            let now_ns = self.scene.clock.now_ns();
            if now >= all {
                return (now_ns - began_ns) as f64 / 1e9;
            }
            if now > settled {
                (settled, moved_ns) = (now, now_ns);
            }
            if now_ns - moved_ns > nanoseconds(CONNECT_STALL) {
                self.scene.give_up.store(true, Relaxed);
            }
            // A thread of subscribers that ended early has an error to tell.
            if !self.goes_on() || self.crowds.iter().any(JoinHandle::is_finished) {
                return (now_ns - began_ns) as f64 / 1e9;
            }
            self.show("connect", now as f64 / all as f64);
            thread::sleep(TICK);
        }
    }

    fn start_publishers(
        &mut self,
        start_ns: u64,
        until_ns: u64,
    ) -> anyhow::Result<Vec<JoinHandle<rustix::io::Result<Published>>>> {
        let scene = Arc::clone(&self.scene);
        let mut threads = Vec::new();
        for group in &scene.scenario.publishers {
            for at in 0..group.threads {
                let topics = publisher::topics_of(at, group.threads, scene.topics.len());
                let share: f64 = topics.iter().map(|&topic| self.shares.weights[topic]).sum();
                let feed = match (&group.recording, &self.recorded) {
                    (Some(recording), Some(recorded)) => Feed::Recorded(
                        Playback::new(start_ns, until_ns, recording.speed),
                        Arc::clone(recorded),
                    ),
                    _ => Feed::Made(schedule(group, at, share, start_ns, until_ns)),
                };
                let recipe = Recipe {
                    connections: load::connections_each(group, topics.len()),
                    topics,
                    weights: (!self.shares.even).then(|| self.shares.weights.clone()),
                    batch: group.batch,
                    payload_bytes: group.payload,
                    spread: group.spread,
                    seed: scene.scenario.seed + threads.len() as u64,
                };
                let progress = Arc::new(publisher::Progress::default());
                self.live.publishers.push(Arc::clone(&progress));
                let authority = match scene.publish_address == scene.address {
                    true => scene.authority.clone(),
                    false => scene.publish_address.to_string(),
                };
                let outgoing =
                    Outgoing::new(&scene.adapter, group.via, &authority).map_err(anyhow::Error::msg)?;
                let publisher = Publisher::new(Arc::clone(&scene), progress, outgoing, feed, recipe)?;
                let name = format!("publisher-{}", threads.len());
                threads.push(thread::Builder::new().name(name).spawn(|| publisher.run())?);
            }
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
        let until_ns = began_ns + nanoseconds(self.scene.scenario.stages.drain.0);
        let died = self.partial.as_ref().is_some_and(|partial| partial != INTERRUPTED);
        while !died && self.scene.clock.now_ns() < until_ns && !self.is_complete() {
            // A run that was interrupted has its rest, too; one whose server ended has none.
            if self.has_died() {
                break;
            }
            let done = (self.scene.clock.now_ns() - began_ns) as f64 / (until_ns - began_ns) as f64;
            self.show("drain", done);
            thread::sleep(TICK);
        }
        let incomplete = !self.is_complete();
        let delivered = self.live.sum(|counters| &counters.delivered);
        thread::sleep(LINGER);
        self.cut_off = !died && incomplete && self.live.sum(|counters| &counters.delivered) > delivered;
        self.live.publishers.iter().for_each(|progress| progress.abandon.store(true, Relaxed));
        let mut published = Published::new();
        for thread in publishers {
            published.add(&joined(thread)?);
        }
        Ok(published)
    }

    /// Every request is answered, and nobody misses anything.
    fn is_complete(&self) -> bool {
        if !self.live.is_published() {
            return false;
        }
        self.scene.ledgers.get_or_init(|| self.scene.take_ledgers());
        self.live.sum(|counters| &counters.incomplete) == 0
    }

    /// What the crowds found, by group.
    fn stop_crowds(&mut self) -> anyhow::Result<Vec<Tally>> {
        self.scene.stop.store(true, Relaxed);
        let mut all: Vec<_> = self.scene.scenario.subscribers.iter().map(|_| Tally::new()).collect();
        for thread in self.crowds.drain(..) {
            let part = joined(thread)?;
            all.iter_mut().zip(&part).for_each(|(sum, part)| sum.add(part));
        }
        Ok(all)
    }

    /// The server, this process and the deliveries at this moment.
    fn edge(&self) -> io::Result<Edge> {
        Ok(Edge {
            // A server that ended meanwhile is told by its disconnects.
            server: self.server.as_ref().and_then(|watch| watch.sample().ok()),
            generator: Watch::own().sample()?,
            delivered: self.live.sum(|counters| &counters.delivered),
        })
    }

    /// Whether nothing ends the run before its time.
    fn goes_on(&mut self) -> bool {
        if self.partial.is_none() && self.interrupted.load(Relaxed) {
            self.partial = Some(INTERRUPTED.to_owned());
        }
        self.partial.is_none() && !self.has_died()
    }

    /// Whether the server ended: connections did, and no new one can be made.
    fn has_died(&mut self) -> bool {
        let now_ns = self.scene.clock.now_ns();
        let ended = self.live.sum(|counters| &counters.ended)
            + self.live.sum(|counters| &counters.failed)
            + self.live.published(|progress| &progress.broken);
        if ended == self.ended || now_ns - self.probed_ns < PROBE_EVERY_NS {
            return false;
        }
        self.probed_ns = now_ns;
        let refused = |address| {
            let tried = TcpStream::connect_timeout(address, REACH_WAIT);
            tried.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        };
        if !refused(&self.scene.address) {
            // It is there: it ended connections for another reason.
            self.ended = ended;
            return false;
        }
        let when = match self.scene.window.begins_ns() {
            Some(from_ns) if now_ns >= from_ns => {
                format!("{:.1} s into the window", (now_ns - from_ns) as f64 / 1e9)
            }
            Some(_) => "in the warm-up".to_owned(),
            None => "before anything was published".to_owned(),
        };
        self.partial.get_or_insert_with(|| format!("the server ended {when}"));
        true
    }

    /// Waits for `until_ns`; `false` if the run ended before.
    fn wait(&mut self, stage: &str, from_ns: u64, until_ns: u64) -> bool {
        loop {
            if !self.goes_on() {
                return false;
            }
            let now_ns = self.scene.clock.now_ns();
            // A recording may be at its end before the window is.
            let played = stage == "window" && self.recorded.is_some() && self.live.is_published();
            if now_ns >= until_ns || played {
                return true;
            }
            self.show(stage, (now_ns - from_ns) as f64 / (until_ns - from_ns) as f64);
            thread::sleep(TICK.min(Duration::from_nanos(until_ns - now_ns)));
        }
    }

    fn pause(&mut self, stage: &str, pause: Duration) {
        let now_ns = self.scene.clock.now_ns();
        self.wait(stage, now_ns, now_ns + nanoseconds(pause));
    }

    fn show(&mut self, stage: &str, done: f64) {
        self.series.sample(stage, &self.live, self.scene.clock.now_ns());
        let mut formats = self.scene.scenario.subscribers.iter().map(|group| group.format);
        let tells_gaps = self.scene.adapter.tells_offsets && formats.any(|format| format != Format::Raw);
        let gaps = tells_gaps.then(|| self.live.sum(|counters| &counters.gaps));
        self.meter.show(stage, done, self.series.points.last(), gaps);
    }
}

const INTERRUPTED: &str = "interrupted";

/// When thread `at` of a group publishes, which has `share` of its messages.
fn schedule(group: &Publishers, at: usize, share: f64, start_ns: u64, until_ns: u64) -> Schedule {
    let posts = |rate: f64| rate / group.batch as f64;
    // Not all threads' first messages are due at the same moment.
    let shift_ns = match group.burst_every {
        Some(_) => 0,
        None => (at as f64 * 1e9 / posts(group.rate).max(1.0)) as u64,
    };
    let schedule = Schedule::new(start_ns + shift_ns, until_ns, posts(group.rate) * share);
    let schedule = match group.ramp_to {
        Some(rate) => schedule.ramp_to(posts(rate) * share),
        None => schedule,
    };
    match group.burst_every {
        Some(every) => schedule.in_bursts(nanoseconds(every.0)),
        None => schedule,
    }
}

type Crowds = Vec<JoinHandle<io::Result<Vec<Tally>>>>;

fn start_crowds(scene: &Arc<Scene>, shares: &Shares) -> anyhow::Result<(Crowds, Live)> {
    let scenario = &scene.scenario;
    let threads = scenario.threads;
    let all: Vec<_> = scenario.subscribers.iter().map(|group| shares.deal(group)).collect();
    let mut live = Live { told: load::told(scenario), ..Live::default() };
    let (mut crowds, mut before) = (Vec::new(), 0);
    for at in 0..threads {
        // Every so many-th subscriber, so that each thread has some of every group and topic.
        let dial = |group: usize, topics: &Vec<usize>| Dial {
            group,
            past: Past::none(scene, topics.iter().copied()),
        };
        let mine = all.iter().enumerate().map(|(group, dealt)| {
            dealt.iter().skip(at).step_by(threads).map(|topics| dial(group, topics)).collect()
        });
        let mine: Vec<Vec<_>> = mine.collect();
        let size: usize = mine.iter().map(Vec::len).sum();
        let counters: Vec<_> = all.iter().map(|_| Arc::new(Counters::new())).collect();
        let crowd = Crowd::new(Arc::clone(scene), &counters, mine, before, 1.0 / threads as f64)?;
        before += size;
        live.subscribers.push(counters);
        crowds.push(thread::Builder::new().name(format!("subscriber-{at}")).spawn(|| crowd.run())?);
    }
    Ok((crowds, live))
}

/// Becomes true with the first Ctrl-C or SIGTERM; the second Ctrl-C ends the process.
pub(crate) fn interrupt_flag() -> io::Result<Arc<AtomicBool>> {
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
