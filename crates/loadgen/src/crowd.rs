//! The event loop of many subscribers: dials them at their rates, hands each what its socket received, and cuts off or lets
//! go those whose time has come.
//!
//! A run has one [`Crowd`] per thread. All subscribers of a crowd share one read buffer. Slow ones leave the event loop
//! once they are subscribed: who trickles is read a little at a time, who stops and goes now and then, and who never reads
//! not before the run is over.
//!
//! # Owner        one thread each
//! # Bounds       [`DIALING_MAX`] connections being made; [`LOOK_MAX_NS`] to look at what the stalled were sent

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mio::net::TcpStream;
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use crate::dials::{Dial, Dials, Start};
use crate::pace::{self, Allowance, Pace};
use crate::reader::{Reader, Sockets, What};
use crate::recorder::{Counters, Recorder, Tally, Window};
use crate::scene::Scene;
use crate::schedule::nanoseconds;
use crate::subscriber::{Ended, Past, Subscriber};
use crate::websocket::{self, KEY};

/// What one who trickles can read at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// Fewer than a listen backlog holds.
const DIALING_MAX: usize = 256;
const TURN_MAX: Duration = Duration::from_millis(100);
const RECENT_EVERY_NS: u64 = 250_000_000;
const TRICKLE_EVERY: Duration = Duration::from_millis(50);
/// A thread that was held up makes good for so much.
const TRICKLE_BURST_NS: u64 = 100_000_000;
/// How often those who come and go are looked after.
const CHURN_EVERY: Duration = Duration::from_millis(10);
const LOOK_MAX_NS: u64 = 3_000_000_000;
/// Nothing came for so long: nothing more was waiting.
const LOOK_QUIET_NS: u64 = 300_000_000;
/// Where a subscription is not acknowledged, it has surely begun so long after the answer to its request.
pub(crate) const SETTLE: Duration = Duration::from_millis(300);
/// Who was cut off and could not come back tries again after so long.
const RETRY_NS: u64 = 500_000_000;

/// Linux gives a destination address 28,232 ports by default; past this many another loopback address is dialled.
const CONNECTIONS_PER_ADDRESS: usize = 25_000;

/// Some of the subscribers, on one thread.
#[derive(Debug)]
pub(crate) struct Crowd {
    scene: Arc<Scene>,
    /// Those who join, by group, then those who come in the place of others, by group, then those cut off, by event.
    dials: Vec<Dials>,
    /// Since when those wait that try again.
    retries: VecDeque<(u64, Dial)>,
    /// Connections made so far, and how many of the whole run come before the first of them.
    dialled: usize,
    before: usize,
    /// Of all this thread's subscribers.
    size: usize,
    /// This one's part of all threads' subscribers.
    share: f64,
    reader: Reader,
    subscribers: Slab<Subscriber>,
    dialing: usize,
    slow: Vec<(usize, Slow)>,
    slow_ns: u64,
    /// Who may not be sure yet that it is subscribed, since when, and when it will be.
    unsure: VecDeque<(u64, usize, u64)>,
    /// Of each group, how many have left and where the next is looked for.
    left: Vec<(u64, usize)>,
    happened: Vec<bool>,
    recorders: Vec<Recorder>,
    accept: String,
}

#[derive(Debug)]
enum Slow {
    Trickle(Allowance),
    StopAndGo,
}

impl Crowd {
    /// The subscribers `dials`, by group, that are a `share` of all; `before` subscribers of the run belong to other threads.
    pub(crate) fn new(
        scene: Arc<Scene>,
        counters: &[Arc<Counters>],
        parts: Vec<Vec<Dial>>,
        before: usize,
        share: f64,
    ) -> io::Result<Self> {
        // What a slow reader reads in the window was due before it.
        let always = Arc::new(Window::always());
        let groups = &scene.scenario.subscribers;
        let recorders = groups.iter().zip(counters).map(|(group, counters)| {
            let window = if group.pace == Pace::Full { &scene.window } else { &always };
            Recorder::new(Arc::clone(window), Arc::clone(counters))
        });
        let now_ns = scene.clock.now_ns();
        let size = parts.iter().map(Vec::len).sum();
        let mut dials: Vec<_> = groups
            .iter()
            .map(|group| {
                let start = group.join_at.map_or(Start::At(now_ns), |at| Start::InWindow(nanoseconds(at.0)));
                Dials::new(start, group.connect_rate * share)
            })
            .collect();
        let mut recorders: Vec<_> = recorders.collect();
        for (group, part) in parts.into_iter().enumerate() {
            recorders[group].tally.asked = part.len() as u64;
            part.into_iter().for_each(|dial| dials[group].push(dial));
        }
        // The rate of those who come is that of those who leave.
        dials.extend(groups.iter().map(|_| Dials::new(Start::At(0), f64::INFINITY)));
        let events = scene.scenario.events.iter();
        dials.extend(
            events.map(|event| {
                Dials::new(Start::InWindow(nanoseconds(event.at.0)), event.reconnect_rate * share)
            }),
        );
        Ok(Self {
            recorders,
            subscribers: Slab::with_capacity(size),
            dials,
            retries: VecDeque::new(),
            dialled: 0,
            before,
            size: size.max(1),
            share,
            reader: Reader::new(scene.reader, scene.clock)?,
            dialing: 0,
            slow: Vec::new(),
            slow_ns: 0,
            unsure: VecDeque::new(),
            left: vec![(0, 0); groups.len()],
            happened: vec![false; scene.scenario.events.len()],
            accept: websocket::accept(KEY),
            scene,
        })
    }

    /// Dials and reads until the run stops.
    pub(crate) fn run(mut self) -> io::Result<Vec<Tally>> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut recent_ns = self.scene.clock.now_ns();
        let churns = self.scene.scenario.subscribers.iter().any(|group| group.churn > 0.0);
        let moves = churns || !self.happened.is_empty();
        while !self.scene.stop.load(Relaxed) {
            let now_ns = self.scene.clock.now_ns();
            self.settle(now_ns);
            self.happen(now_ns);
            self.churn(now_ns);
            let dials = self.dial_due(now_ns);
            let turn = match () {
                () if dials => Duration::from_millis(1),
                () if moves => CHURN_EVERY,
                () if !self.slow.is_empty() || !self.unsure.is_empty() => TRICKLE_EVERY,
                () => TURN_MAX,
            };
            self.turn(turn, &mut buffer)?;
            let now_ns = self.scene.clock.now_ns();
            if now_ns - recent_ns >= RECENT_EVERY_NS {
                recent_ns = now_ns;
                self.recorders.iter_mut().for_each(Recorder::publish_recent);
            }
            if self.scene.ledgers.get().is_some() {
                self.tell_what_is_missing();
            }
            if self.scene.give_up.load(Relaxed) && self.dialing + self.waiting() > 0 {
                self.give_up();
            }
        }
        self.look_at_the_stalled(&mut buffer)?;
        Ok(self.leave())
    }

    /// Waits at most for `turn`, reads what there is, and lets the run see it. Whether a stalled subscriber was among those
    /// with something to read.
    fn turn(&mut self, turn: Duration, buffer: &mut [u8]) -> io::Result<bool> {
        self.reader.wait(turn)?;
        let mut stalled = false;
        while let Some(arrival) = self.reader.next(&mut self.subscribers) {
            let key = arrival.key;
            let Some(subscriber) = self.subscribers.get_mut(key) else { continue };
            stalled |= subscriber.settings(&self.scene).pace == Pace::Never;
            let was_open = subscriber.is_open();
            let recorder = &mut self.recorders[subscriber.group];
            let handled = match arrival.what {
                What::Connected => subscriber.connect(&self.scene),
                What::Bytes(bytes) => {
                    subscriber.handle_bytes(bytes, arrival.at_ns, &self.scene, &self.accept, recorder)
                }
                What::End => Err(Ended::EndOfStream),
                What::Failed(kind) => Err(Ended::Socket(kind)),
            };
            // One that opened may have ended in the same read.
            let is_new = subscriber.is_open() && !was_open;
            let opened = if is_new { self.opened(key) } else { Ok(()) };
            if let Err(ended) = handled.and(opened) {
                self.end(key, &ended);
            }
        }
        self.read_slowly(buffer);
        self.recorders.iter().for_each(Recorder::publish_counts);
        Ok(stalled)
    }

    fn pace(&self, subscriber: &Subscriber) -> Pace {
        subscriber.settings(&self.scene).pace
    }

    fn waiting(&self) -> usize {
        self.dials.iter().map(Dials::len).sum::<usize>() + self.retries.len()
    }

    /// Makes the connections that are due; whether more are to come soon.
    fn dial_due(&mut self, now_ns: u64) -> bool {
        let scene = Arc::clone(&self.scene);
        while self.dialing < DIALING_MAX
            && self.retries.front().is_some_and(|(failed_ns, _)| now_ns - failed_ns >= RETRY_NS)
            && let Some((_, dial)) = self.retries.pop_front()
        {
            self.dial(dial, now_ns);
        }
        for at in 0..self.dials.len() {
            while self.dialing < DIALING_MAX
                && let Some(dial) = self.dials[at].take_due(&scene, now_ns)
            {
                self.dial(dial, now_ns);
            }
        }
        self.dials.iter().any(|dials| dials.is_active(&scene, now_ns))
    }

    fn dial(&mut self, dial: Dial, now_ns: u64) {
        let address = address_of(self.scene.address, self.before + self.dialled % self.size);
        self.dialled += 1;
        let Dial { group, past } = dial;
        match self.connect(group, address) {
            Ok((socket, key)) => {
                let subscriber = Subscriber::connecting(socket, group, past, &self.scene);
                assert_eq!(self.subscribers.insert(subscriber), key, "nothing was entered meanwhile");
                self.dialing += 1;
            }
            Err(error) => self.fail(Dial { group, past }, &Ended::Socket(error.kind()), now_ns),
        }
    }

    /// A connection that is being made, and the key it is registered with.
    fn connect(&mut self, group: usize, address: SocketAddr) -> io::Result<(TcpStream, usize)> {
        let mut socket = match self.scene.scenario.subscribers[group].receive_buffer {
            Some(bytes) => connect_with_buffer(address, bytes)?,
            None => TcpStream::connect(address)?,
        };
        let key = self.subscribers.vacant_key();
        self.reader.add(key, &mut socket)?;
        Ok((socket, key))
    }

    /// A subscriber is subscribed; one that is slow is not told any more when its socket has something.
    fn opened(&mut self, key: usize) -> Result<(), Ended> {
        self.dialing -= 1;
        let now_ns = self.scene.clock.now_ns();
        let subscriber = &mut self.subscribers[key];
        let group = subscriber.group;
        let pace = subscriber.settings(&self.scene).pace;
        let recorder = &mut self.recorders[group];
        subscriber.since_ns = now_ns;
        if subscriber.was_acknowledged(&self.scene) {
            subscriber.is_sure(&self.scene);
        } else {
            self.unsure.push_back((now_ns + nanoseconds(SETTLE), key, now_ns));
        }
        if subscriber.past().again {
            recorder.tally.reconnected += 1;
        } else {
            recorder.tally.joined += 1;
            recorder.counters.joined.fetch_add(1, Relaxed);
        }
        recorder.counters.open.fetch_add(1, Relaxed);
        match pace {
            Pace::Full => {
                self.reader.stream(key);
                return Ok(());
            }
            Pace::Trickle => self.slow.push((key, Slow::Trickle(Allowance::from(now_ns)))),
            Pace::StopAndGo => self.slow.push((key, Slow::StopAndGo)),
            Pace::Never => {}
        }
        let paused = self.reader.pause(key, subscriber.socket());
        paused.map_err(|error| Ended::Socket(error.kind()))
    }

    /// Those are sure now whose time for it has passed.
    fn settle(&mut self, now_ns: u64) {
        while let Some(&(sure_ns, key, since_ns)) = self.unsure.front()
            && sure_ns <= now_ns
        {
            self.unsure.pop_front();
            // Another may have come in its place.
            if let Some(subscriber) = self.subscribers.get_mut(key).filter(|found| found.since_ns == since_ns)
            {
                subscriber.is_sure(&self.scene);
            }
        }
    }

    /// Cuts off those whom an event cuts off.
    fn happen(&mut self, now_ns: u64) {
        let scene = Arc::clone(&self.scene);
        for (at, event) in scene.scenario.events.iter().enumerate() {
            let is_due = scene.in_window(nanoseconds(event.at.0)).is_some_and(|at_ns| at_ns <= now_ns);
            if !is_due || std::mem::replace(&mut self.happened[at], true) {
                continue;
            }
            let is_hit = |subscriber: &Subscriber| {
                subscriber.is_open() && scene.scenario.subscribers[subscriber.group].name == event.group
            };
            let hit: Vec<_> = self
                .subscribers
                .iter()
                .filter(|(_, subscriber)| is_hit(subscriber))
                .map(|(key, _)| key)
                .collect();
            let count = (hit.len() as f64 * event.disconnect).round() as usize;
            // Spread evenly, so that those of every topic are among them.
            let chosen = hit
                .iter()
                .enumerate()
                .filter(|(place, _)| (place + 1) * count / hit.len() > place * count / hit.len());
            for (_, &key) in chosen {
                let subscriber = self.let_go(key);
                let group = subscriber.group;
                let mut past = subscriber.into_past();
                // It can go on only from a place that it knows.
                if event.resume && scene.adapter.tells_offsets {
                    past.resumes = true;
                } else {
                    past = self.part(group, &past);
                }
                past.again = true;
                let from = 2 * scene.scenario.subscribers.len();
                self.dials[from + at].push(Dial { group, past });
            }
        }
    }

    /// Lets those leave that are due to, and others come in their place.
    fn churn(&mut self, now_ns: u64) {
        let scene = Arc::clone(&self.scene);
        let began_ns = scene.began_ns.load(Relaxed);
        for (group, settings) in scene.scenario.subscribers.iter().enumerate() {
            let now_ns = now_ns.min(scene.window.until_ns());
            if settings.churn == 0.0 || now_ns <= began_ns {
                continue;
            }
            let due = ((now_ns - began_ns) as f64 / 1e9 * settings.churn * self.share) as u64;
            while self.left[group].0 < due {
                let Some(key) = self.next_to_leave(group) else { break };
                self.left[group].0 += 1;
                self.subscribers[key].close();
                let past = self.let_go(key).into_past();
                let past = self.part(group, &past);
                self.recorders[group].tally.asked += 1;
                self.dials[scene.scenario.subscribers.len() + group].push(Dial { group, past });
            }
        }
    }

    /// The next one of a group that is subscribed, in turn.
    fn next_to_leave(&mut self, group: usize) -> Option<usize> {
        let cursor = self.left[group].1;
        let is_one = |key: &usize| {
            self.subscribers
                .get(*key)
                .is_some_and(|subscriber| subscriber.group == group && subscriber.is_open())
        };
        let key = (cursor..self.subscribers.capacity()).find(is_one).or_else(|| (0..cursor).find(is_one))?;
        self.left[group].1 = key + 1;
        Some(key)
    }

    /// Removes a subscriber that is subscribed.
    fn let_go(&mut self, key: usize) -> Subscriber {
        let subscriber = self.subscribers.remove(key);
        self.reader.remove(key);
        self.slow.retain(|(slow, _)| *slow != key);
        self.recorders[subscriber.group].counters.open.fetch_sub(1, Relaxed);
        subscriber
    }

    /// Notes what a subscriber had that leaves by its own; what one has that comes in its place.
    fn part(&mut self, group: usize, past: &Past) -> Past {
        let outcomes = past.tracks.iter().map(|track| track.outcome(true));
        self.recorders[group].tally.outcomes.extend(outcomes);
        Past::none(&self.scene, past.tracks.iter().map(crate::track::Track::topic))
    }

    /// Reads until the socket has no more. A read that leaves room in the buffer took all there was; only a connection
    /// that is closing is read to its end, because its end gives no second event.
    fn read(&mut self, key: usize, closing: bool, buffer: &mut [u8]) -> Result<(), Ended> {
        loop {
            match self.read_once(key, buffer)? {
                Some(length) if length == buffer.len() || closing => {}
                _ => return Ok(()),
            }
        }
    }

    /// Reads once and handles what came: how much, or `None` if there was nothing.
    fn read_once(&mut self, key: usize, buffer: &mut [u8]) -> Result<Option<usize>, Ended> {
        let subscriber = &mut self.subscribers[key];
        let length = loop {
            match subscriber.socket().read(buffer) {
                Ok(0) => return Err(Ended::EndOfStream),
                Ok(length) => break length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Ended::Socket(error.kind())),
            }
        };
        let now_ns = self.scene.clock.now_ns();
        let recorder = &mut self.recorders[subscriber.group];
        subscriber.handle_bytes(&buffer[..length], now_ns, &self.scene, &self.accept, recorder)?;
        Ok(Some(length))
    }

    /// Lets the slow read what they may, now and then.
    fn read_slowly(&mut self, buffer: &mut [u8]) {
        let now_ns = self.scene.clock.now_ns();
        if now_ns - self.slow_ns < nanoseconds(TRICKLE_EVERY) {
            return;
        }
        self.slow_ns = now_ns;
        let mut all = std::mem::take(&mut self.slow);
        all.retain_mut(|(key, slow)| {
            let settings = self.subscribers[*key].settings(&self.scene);
            let read = match slow {
                Slow::Trickle(allowance) => {
                    let may =
                        allowance.at(now_ns, settings.bytes_per_second, TRICKLE_BURST_NS).min(buffer.len());
                    if may == 0 {
                        return true;
                    }
                    self.read_once(*key, &mut buffer[..may])
                        .map(|length| allowance.spend(length.unwrap_or(0)))
                }
                Slow::StopAndGo => {
                    let (go_ns, stop_ns) = (nanoseconds(settings.go.0), nanoseconds(settings.stop.0));
                    if !pace::goes(now_ns, *key, go_ns, stop_ns) {
                        return true;
                    }
                    self.read(*key, true, buffer)
                }
            };
            match read {
                Ok(()) => true,
                Err(ended) => {
                    self.end(*key, &ended);
                    false
                }
            }
        });
        self.slow = all;
    }

    /// Counts who misses something, once it is known what was published.
    fn tell_what_is_missing(&mut self) {
        let scene = Arc::clone(&self.scene);
        let Some(ledgers) = scene.ledgers.get() else { return };
        let conflating = scene.scenario.topics.conflating;
        let mut incomplete = vec![0; self.recorders.len()];
        for (_, subscriber) in &self.subscribers {
            let misses = || {
                let mut tracks = subscriber.past().tracks.iter();
                tracks.any(|track| !track.is_complete(&ledgers[track.topic()], conflating))
            };
            if self.pace(subscriber) != Pace::Never && (!subscriber.is_open() || misses()) {
                incomplete[subscriber.group] += 1;
            }
        }
        let retries = self.retries.iter().map(|(_, dial)| dial.group);
        retries.for_each(|group| incomplete[group] += 1);
        // Those on their way; the count of a group is wanted only as none or some.
        let waiting: usize = self.dials.iter().map(Dials::len).sum();
        for (recorder, count) in self.recorders.iter().zip(incomplete) {
            recorder.counters.incomplete.store(count + waiting as u64, Relaxed);
        }
    }

    /// Reads what the stalled were sent, to learn which of them the server has closed. Their messages count for nothing.
    fn look_at_the_stalled(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut stalled = 0;
        for (key, subscriber) in &mut self.subscribers {
            if subscriber.is_open() && subscriber.settings(&self.scene).pace == Pace::Never {
                self.reader.resume(key, subscriber.socket())?;
                stalled += 1;
            }
        }
        let began_ns = self.scene.clock.now_ns();
        let (mut now_ns, mut heard_ns) = (began_ns, began_ns);
        while stalled > 0 && now_ns - began_ns < LOOK_MAX_NS && now_ns - heard_ns < LOOK_QUIET_NS {
            let heard = self.turn(TRICKLE_EVERY, buffer)?;
            now_ns = self.scene.clock.now_ns();
            if heard {
                heard_ns = now_ns;
            }
        }
        Ok(())
    }

    /// The server ended a connection.
    fn end(&mut self, key: usize, ended: &Ended) {
        if self.subscribers[key].is_open() {
            let subscriber = self.let_go(key);
            let strict = subscriber.settings(&self.scene).is_strict();
            let recorder = &mut self.recorders[subscriber.group];
            recorder.counters.ended.fetch_add(1, Relaxed);
            *recorder.tally.disconnects.entry(ended.label()).or_default() += 1;
            self.conclude(&subscriber, !strict);
        } else {
            self.dialing -= 1;
            let subscriber = self.subscribers.remove(key);
            self.reader.remove(key);
            let (group, now_ns) = (subscriber.group, self.scene.clock.now_ns());
            self.fail(Dial { group, past: subscriber.into_past() }, ended, now_ns);
        }
    }

    /// Notes what a subscriber has in the end. Who never reads has nothing that counts.
    fn conclude(&mut self, subscriber: &Subscriber, left: bool) {
        if self.pace(subscriber) != Pace::Never {
            let outcomes = subscriber.past().tracks.iter().map(|track| track.outcome(left));
            self.recorders[subscriber.group].tally.outcomes.extend(outcomes);
        }
    }

    fn fail(&mut self, dial: Dial, ended: &Ended, now_ns: u64) {
        let recorder = &mut self.recorders[dial.group];
        *recorder.tally.failures.entry(ended.label()).or_default() += 1;
        if dial.past.again {
            self.retries.push_back((now_ns, dial));
        } else {
            recorder.counters.failed.fetch_add(1, Relaxed);
        }
    }

    fn give_up(&mut self) {
        let is_waiting = |subscriber: &Subscriber| !subscriber.is_open();
        let waiting: Vec<_> =
            self.subscribers.iter().filter(|(_, found)| is_waiting(found)).map(|(key, _)| key).collect();
        waiting.into_iter().for_each(|key| self.end(key, &Ended::GivenUp));
        let now_ns = self.scene.clock.now_ns();
        for at in 0..self.dials.len() {
            for dial in self.dials[at].take_all() {
                self.fail(dial, &Ended::GivenUp, now_ns);
            }
        }
    }

    fn leave(mut self) -> Vec<Tally> {
        self.give_up();
        for (_, Dial { group, past }) in std::mem::take(&mut self.retries) {
            // Cut off by the run, it could not come back.
            let tally = &mut self.recorders[group].tally;
            *tally.disconnects.entry("did not come back".to_owned()).or_default() += 1;
            tally.outcomes.extend(past.tracks.iter().map(|track| track.outcome(false)));
        }
        let open: Vec<_> = self.subscribers.drain().filter(Subscriber::is_open).collect();
        for mut subscriber in open {
            subscriber.close();
            self.conclude(&subscriber, false);
        }
        self.recorders.into_iter().map(|recorder| recorder.tally).collect()
    }
}

impl Sockets for Slab<Subscriber> {
    fn socket(&mut self, key: usize) -> Option<&mut TcpStream> {
        self.get_mut(key).map(Subscriber::socket)
    }
}

/// A connection whose receive buffer is set before the handshake, so that the window is never larger. The kernel keeps
/// twice as much.
fn connect_with_buffer(address: SocketAddr, bytes: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_recv_buffer_size(bytes)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// Where the connection `index` of a run goes to: 127.0.0.1, .2, .3 … when one address has too few ports.
fn address_of(address: SocketAddr, index: usize) -> SocketAddr {
    if address.ip() != IpAddr::V4(Ipv4Addr::LOCALHOST) {
        return address;
    }
    let last = u8::try_from(1 + index / CONNECTIONS_PER_ADDRESS).unwrap_or(254);
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_past_what_one_address_has_ports_for_go_to_the_next() {
        let check = |from: &str, index, to: &str| {
            assert_eq!(address_of(from.parse().unwrap(), index), to.parse().unwrap());
        };
        check("127.0.0.1:80", 24_999, "127.0.0.1:80");
        check("127.0.0.1:80", 25_000, "127.0.0.2:80");
        check("127.0.0.1:80", 75_000, "127.0.0.4:80");
        check("[::1]:80", 75_000, "[::1]:80");
        check("127.0.0.9:80", 75_000, "127.0.0.9:80");
    }
}
