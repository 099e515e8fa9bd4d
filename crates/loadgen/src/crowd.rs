//! The event loop of many subscribers: dials them at its rate, and hands each what its socket received.
//!
//! A run has one [`Crowd`] per thread. All subscribers of a crowd share one read buffer. Slow ones leave the event loop
//! once they are subscribed: who trickles is read a little at a time, and who stalls not before the run is over.
//!
//! # Owner        one thread each
//! # Bounds       [`DIALING_MAX`] connections being made; [`LOOK_MAX_NS`] to look at what the stalled were sent

use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mio::net::TcpStream;
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use crate::args::{Format, ReaderKind};
use crate::pace::{Allowance, ByPace, Pace};
use crate::reader::{Reader, Sockets, What};
use crate::recorder::{Counters, Recorder, Tally, Window};
use crate::schedule::{Clock, nanoseconds};
use crate::subscriber::{Ended, Subscriber};
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
const LOOK_MAX_NS: u64 = 3_000_000_000;
/// Nothing came for so long: nothing more was waiting.
const LOOK_QUIET_NS: u64 = 300_000_000;

/// Linux gives a destination address 28,232 ports by default; past this many another loopback address is dialled.
const CONNECTIONS_PER_ADDRESS: usize = 25_000;

/// What all threads of a run know.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) clock: Clock,
    pub(crate) address: SocketAddr,
    pub(crate) authority: String,
    pub(crate) format: Format,
    pub(crate) topics: Vec<String>,
    pub(crate) payload_bytes: usize,
    /// Bytes per second of those who trickle.
    pub(crate) trickle_rate: f64,
    /// `SO_RCVBUF` of slow subscribers.
    pub(crate) receive_buffer: Option<usize>,
    pub(crate) reader: ReaderKind,
    pub(crate) window: Arc<Window>,
    /// Set when the connections that are not made by now are to be given up.
    pub(crate) give_up: AtomicBool,
    /// Set at the end of the run.
    pub(crate) stop: AtomicBool,
    /// Subscribers that came to be subscribed to each topic and read. Publishing begins when no more do.
    pub(crate) subscribed: Vec<AtomicU64>,
    /// Subscribers that came to be subscribed and read no more.
    pub(crate) stalled: AtomicU64,
}

/// Some of the subscribers, on one thread.
#[derive(Debug)]
pub(crate) struct Crowd {
    scene: Arc<Scene>,
    /// Subscribers not dialled yet, by topic and pace, and how many of the whole run come before the first of them.
    to_dial: std::vec::IntoIter<(usize, Pace)>,
    dialled: usize,
    before: usize,
    dials_per_second: f64,
    reader: Reader,
    subscribers: Slab<Subscriber>,
    dialing: usize,
    trickling: Vec<(usize, Allowance)>,
    trickled_ns: u64,
    recorders: ByPace<Recorder>,
    accept: String,
}

impl Crowd {
    /// A subscriber for each topic and pace of `parts`; `before` subscribers of the run belong to other threads.
    pub(crate) fn new(
        scene: Arc<Scene>,
        counters: &ByPace<Arc<Counters>>,
        parts: Vec<(usize, Pace)>,
        before: usize,
        dials_per_second: f64,
    ) -> io::Result<Self> {
        let recorder =
            |pace, window: &Arc<Window>| Recorder::new(Arc::clone(window), Arc::clone(counters.of(pace)));
        // What a slow reader reads in the window was due before it.
        let always = Arc::new(Window::always());
        Ok(Self {
            subscribers: Slab::with_capacity(parts.len()),
            to_dial: parts.into_iter(),
            dialled: 0,
            before,
            dials_per_second,
            reader: Reader::new(scene.reader, scene.clock)?,
            dialing: 0,
            trickling: Vec::new(),
            trickled_ns: 0,
            recorders: ByPace {
                full: recorder(Pace::Full, &scene.window),
                trickle: recorder(Pace::Trickle, &always),
                stalled: recorder(Pace::Stalled, &always),
            },
            accept: websocket::accept(KEY),
            scene,
        })
    }

    /// Dials and reads until the run stops.
    pub(crate) fn run(mut self) -> io::Result<ByPace<Tally>> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let began_ns = self.scene.clock.now_ns();
        let mut recent_ns = began_ns;
        while !self.scene.stop.load(Relaxed) {
            self.dial_due(began_ns);
            let turn = match () {
                () if self.to_dial.len() > 0 => Duration::from_millis(1),
                () if !self.trickling.is_empty() => TRICKLE_EVERY,
                () => TURN_MAX,
            };
            self.turn(turn, &mut buffer)?;
            let now_ns = self.scene.clock.now_ns();
            if now_ns - recent_ns >= RECENT_EVERY_NS {
                recent_ns = now_ns;
                self.recorders.full.publish_recent();
            }
            if self.scene.give_up.load(Relaxed) && self.dialing + self.to_dial.len() > 0 {
                self.give_up();
            }
        }
        self.look_at_the_stalled(&mut buffer)?;
        Ok(self.leave())
    }

    /// Waits at most for `turn`, reads what there is, and lets the progress line see it. Whether a stalled subscriber
    /// was among those with something to read.
    fn turn(&mut self, turn: Duration, buffer: &mut [u8]) -> io::Result<bool> {
        self.reader.wait(turn)?;
        let mut stalled = false;
        while let Some(arrival) = self.reader.next(&mut self.subscribers) {
            let key = arrival.key;
            let Some(subscriber) = self.subscribers.get_mut(key) else { continue };
            stalled |= subscriber.pace() == Pace::Stalled;
            let was_open = subscriber.is_open();
            let recorder = self.recorders.of_mut(subscriber.pace());
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
        self.trickle(buffer);
        self.recorders.iter().for_each(Recorder::publish_counts);
        Ok(stalled)
    }

    fn dial_due(&mut self, began_ns: u64) {
        let seconds = (self.scene.clock.now_ns() - began_ns) as f64 / 1e9;
        let due = (seconds * self.dials_per_second) as usize + 1;
        while self.dialled < due && self.dialing < DIALING_MAX {
            let Some((topic, pace)) = self.to_dial.next() else { return };
            let address = address_of(self.scene.address, self.before + self.dialled);
            self.dialled += 1;
            if let Err(error) = self.dial(topic, pace, address) {
                self.fail(pace, &Ended::Socket(error.kind()));
            }
        }
    }

    fn dial(&mut self, topic: usize, pace: Pace, address: SocketAddr) -> io::Result<()> {
        let mut socket = match self.scene.receive_buffer {
            Some(bytes) if pace != Pace::Full => connect_with_buffer(address, bytes)?,
            _ => TcpStream::connect(address)?,
        };
        let entry = self.subscribers.vacant_entry();
        self.reader.add(entry.key(), &mut socket)?;
        entry.insert(Subscriber::connecting(socket, topic, pace, self.scene.format));
        self.dialing += 1;
        Ok(())
    }

    /// A subscriber is subscribed; one that is slow is not told any more when its socket has something.
    fn opened(&mut self, key: usize) -> Result<(), Ended> {
        self.dialing -= 1;
        let subscriber = &mut self.subscribers[key];
        let pace = subscriber.pace();
        match pace {
            Pace::Stalled => &self.scene.stalled,
            Pace::Full | Pace::Trickle => &self.scene.subscribed[subscriber.topic()],
        }
        .fetch_add(1, Relaxed);
        self.recorders.of(pace).counters.open.fetch_add(1, Relaxed);
        if pace == Pace::Trickle {
            self.trickling.push((key, Allowance::from(self.scene.clock.now_ns())));
        }
        if pace == Pace::Full {
            self.reader.stream(key);
            return Ok(());
        }
        let paused = self.reader.pause(key, subscriber.socket());
        paused.map_err(|error| Ended::Socket(error.kind()))
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
        let recorder = self.recorders.of_mut(subscriber.pace());
        subscriber.handle_bytes(&buffer[..length], now_ns, &self.scene, &self.accept, recorder)?;
        Ok(Some(length))
    }

    /// Lets those who trickle read what they may, now and then.
    fn trickle(&mut self, buffer: &mut [u8]) {
        let now_ns = self.scene.clock.now_ns();
        if now_ns - self.trickled_ns < nanoseconds(TRICKLE_EVERY) {
            return;
        }
        self.trickled_ns = now_ns;
        let mut trickling = std::mem::take(&mut self.trickling);
        trickling.retain_mut(|(key, allowance)| {
            let may = allowance.at(now_ns, self.scene.trickle_rate, TRICKLE_BURST_NS).min(buffer.len());
            if may == 0 {
                return true;
            }
            match self.read_once(*key, &mut buffer[..may]) {
                Ok(length) => {
                    allowance.spend(length.unwrap_or(0));
                    true
                }
                Err(ended) => {
                    self.end(*key, &ended);
                    false
                }
            }
        });
        self.trickling = trickling;
    }

    /// Reads what the stalled were sent, to learn which of them the server has closed. Their messages count for nothing.
    fn look_at_the_stalled(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut stalled = 0;
        for (key, subscriber) in &mut self.subscribers {
            if subscriber.is_open() && subscriber.pace() == Pace::Stalled {
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

    fn end(&mut self, key: usize, ended: &Ended) {
        let subscriber = self.subscribers.remove(key);
        self.reader.remove(key);
        self.trickling.retain(|(trickling, _)| *trickling != key);
        let recorder = self.recorders.of_mut(subscriber.pace());
        if subscriber.is_open() {
            recorder.counters.open.fetch_sub(1, Relaxed);
            *recorder.tally.disconnects.entry(ended.label()).or_default() += 1;
            recorder.tally.outcomes.push(subscriber.outcome());
        } else {
            self.dialing -= 1;
            self.fail(subscriber.pace(), ended);
        }
    }

    fn fail(&mut self, pace: Pace, ended: &Ended) {
        let recorder = self.recorders.of_mut(pace);
        recorder.counters.failed.fetch_add(1, Relaxed);
        *recorder.tally.failures.entry(ended.label()).or_default() += 1;
    }

    fn give_up(&mut self) {
        let waiting: Vec<_> = self
            .subscribers
            .iter()
            .filter(|(_, subscriber)| !subscriber.is_open())
            .map(|(key, _)| key)
            .collect();
        waiting.into_iter().for_each(|key| self.end(key, &Ended::GivenUp));
        for (_, pace) in std::mem::take(&mut self.to_dial) {
            self.fail(pace, &Ended::GivenUp);
        }
    }

    fn leave(mut self) -> ByPace<Tally> {
        for mut subscriber in self.subscribers.drain().filter(Subscriber::is_open) {
            subscriber.close(self.scene.format);
            self.recorders.of_mut(subscriber.pace()).tally.outcomes.push(subscriber.outcome());
        }
        self.recorders.map(|recorder| recorder.tally)
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

/// How many subscribers each topic gets: by `weights`, which sum to 1, the remainders to the largest parts left over.
pub(crate) fn shares(subscribers: usize, weights: &[f64]) -> Vec<usize> {
    let exact = |topic: usize| weights[topic] * subscribers as f64;
    let mut shares: Vec<_> = (0..weights.len()).map(|topic| exact(topic) as usize).collect();
    let mut by_remainder: Vec<_> = (0..weights.len()).collect();
    by_remainder.sort_by(|&a, &b| exact(b).fract().total_cmp(&exact(a).fract()));
    let left = subscribers.saturating_sub(shares.iter().sum());
    by_remainder.into_iter().cycle().take(left).for_each(|topic| shares[topic] += 1);
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_weights_and_add_up() {
        let check = |subscribers, weights: &[f64], expect: &[usize]| {
            assert_eq!(shares(subscribers, weights), expect, "{subscribers} over {weights:?}");
        };
        check(10, &[1.0], &[10]);
        check(7, &[0.5, 0.5], &[4, 3]);
        check(10, &[0.6, 0.3, 0.1], &[6, 3, 1]);
        check(0, &[0.5, 0.5], &[0, 0]);
        check(1, &[0.2, 0.5, 0.3], &[0, 1, 0]);
    }

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
