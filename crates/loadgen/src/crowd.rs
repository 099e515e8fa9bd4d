//! The event loop of many subscribers: dials them at its rate, and hands each what its socket received.
//!
//! A run has one [`Crowd`] per thread. All subscribers of a crowd share one read buffer.
//!
//! # Owner        one thread each
//! # Bounds       [`DIALING_MAX`] connections being made

use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::args::Format;
use crate::recorder::{Counters, Recorder, Tally, Window};
use crate::schedule::Clock;
use crate::subscriber::{Ended, Subscriber};
use crate::websocket::{self, KEY};

const BUFFER_BYTES: usize = 256 * 1024;
const EVENTS_MAX: usize = 1024;
/// Fewer than a listen backlog holds.
const DIALING_MAX: usize = 256;
const TURN_MAX: Duration = Duration::from_millis(100);
const RECENT_EVERY_NS: u64 = 250_000_000;

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
    pub(crate) window: Arc<Window>,
    /// Set when the connections that are not made by now are to be given up.
    pub(crate) give_up: AtomicBool,
    /// Set at the end of the run.
    pub(crate) stop: AtomicBool,
    /// Subscribers that came to be subscribed to each topic. Publishing begins when no more do.
    pub(crate) subscribed: Vec<AtomicU64>,
}

/// What a thread of subscribers leaves behind.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) tally: Tally,
    /// For each subscriber: its topic, and how many different messages it received.
    pub(crate) unique: Vec<(usize, u64)>,
}

/// Some of the subscribers, on one thread.
#[derive(Debug)]
pub(crate) struct Crowd {
    scene: Arc<Scene>,
    counters: Arc<Counters>,
    /// The topics of subscribers not dialled yet, and how many of the whole run come before the first of them.
    to_dial: std::vec::IntoIter<usize>,
    dialled: usize,
    before: usize,
    dials_per_second: f64,
    poll: Poll,
    subscribers: Slab<Subscriber>,
    dialing: usize,
    recorder: Recorder,
    unique: Vec<(usize, u64)>,
    accept: String,
}

impl Crowd {
    /// One subscriber for each of `topics`; `before` subscribers of the run belong to other threads.
    pub(crate) fn new(
        scene: Arc<Scene>,
        counters: Arc<Counters>,
        topics: Vec<usize>,
        before: usize,
        dials_per_second: f64,
    ) -> io::Result<Self> {
        Ok(Self {
            subscribers: Slab::with_capacity(topics.len()),
            unique: Vec::with_capacity(topics.len()),
            to_dial: topics.into_iter(),
            dialled: 0,
            before,
            dials_per_second,
            poll: Poll::new()?,
            dialing: 0,
            recorder: Recorder::new(Arc::clone(&scene.window), Arc::clone(&counters)),
            accept: websocket::accept(KEY),
            scene,
            counters,
        })
    }

    /// Dials and reads until the run stops.
    pub(crate) fn run(mut self) -> io::Result<Received> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; BUFFER_BYTES];
        let began_ns = self.scene.clock.now_ns();
        let mut recent_ns = began_ns;
        while !self.scene.stop.load(Relaxed) {
            self.dial_due(began_ns);
            let turn = if self.to_dial.len() > 0 { Duration::from_millis(1) } else { TURN_MAX };
            match self.poll.poll(&mut events, Some(turn)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                let readable = event.is_readable();
                self.handle_event(event.token().0, readable, event.is_read_closed(), &mut buffer);
            }
            self.recorder.publish_counts();
            let now_ns = self.scene.clock.now_ns();
            if now_ns - recent_ns >= RECENT_EVERY_NS {
                recent_ns = now_ns;
                self.recorder.publish_recent();
            }
            if self.scene.give_up.load(Relaxed) && self.dialing + self.to_dial.len() > 0 {
                self.give_up();
            }
        }
        Ok(self.leave())
    }

    fn dial_due(&mut self, began_ns: u64) {
        let seconds = (self.scene.clock.now_ns() - began_ns) as f64 / 1e9;
        let due = (seconds * self.dials_per_second) as usize + 1;
        while self.dialled < due && self.dialing < DIALING_MAX {
            let Some(topic) = self.to_dial.next() else { return };
            let address = address_of(self.scene.address, self.before + self.dialled);
            self.dialled += 1;
            if let Err(error) = self.dial(topic, address) {
                self.fail(&Ended::Socket(error.kind()));
            }
        }
    }

    fn dial(&mut self, topic: usize, address: SocketAddr) -> io::Result<()> {
        let mut socket = TcpStream::connect(address)?;
        let entry = self.subscribers.vacant_entry();
        self.poll.registry().register(
            &mut socket,
            Token(entry.key()),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        entry.insert(Subscriber::connecting(socket, topic));
        self.dialing += 1;
        Ok(())
    }

    fn handle_event(&mut self, key: usize, readable: bool, closing: bool, buffer: &mut [u8]) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        let was_open = subscriber.is_open();
        let outcome = subscriber
            .connect(&self.scene)
            .and_then(|()| if readable { self.read(key, closing, buffer) } else { Ok(()) });
        let Some(subscriber) = self.subscribers.get(key) else { return };
        let is_open = subscriber.is_open();
        if is_open && !was_open {
            self.dialing -= 1;
            self.scene.subscribed[subscriber.topic()].fetch_add(1, Relaxed);
            self.counters.open.fetch_add(1, Relaxed);
        }
        if let Err(ended) = outcome {
            self.end(key, &ended);
        }
    }

    /// Reads until the socket has no more. A read that leaves room in the buffer took all there was; only a connection
    /// that is closing is read to its end, because its end gives no second event.
    fn read(&mut self, key: usize, closing: bool, buffer: &mut [u8]) -> Result<(), Ended> {
        let subscriber = &mut self.subscribers[key];
        loop {
            match subscriber.socket().read(buffer) {
                Ok(0) => return Err(Ended::EndOfStream),
                Ok(length) => {
                    let now_ns = self.scene.clock.now_ns();
                    let received = &buffer[..length];
                    subscriber.handle_bytes(
                        received,
                        now_ns,
                        &self.scene,
                        &self.accept,
                        &mut self.recorder,
                    )?;
                    if length < buffer.len() && !closing {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Ended::Socket(error.kind())),
            }
        }
    }

    fn end(&mut self, key: usize, ended: &Ended) {
        let subscriber = self.subscribers.remove(key);
        if subscriber.is_open() {
            self.counters.open.fetch_sub(1, Relaxed);
            *self.recorder.tally.disconnects.entry(ended.label()).or_default() += 1;
            self.unique.push(subscriber.received());
        } else {
            self.dialing -= 1;
            self.fail(ended);
        }
    }

    fn fail(&mut self, ended: &Ended) {
        self.counters.failed.fetch_add(1, Relaxed);
        *self.recorder.tally.failures.entry(ended.label()).or_default() += 1;
    }

    fn give_up(&mut self) {
        let waiting: Vec<_> = self
            .subscribers
            .iter()
            .filter(|(_, subscriber)| !subscriber.is_open())
            .map(|(key, _)| key)
            .collect();
        waiting.into_iter().for_each(|key| self.end(key, &Ended::GivenUp));
        (0..self.to_dial.len()).for_each(|_| self.fail(&Ended::GivenUp));
        self.to_dial = Vec::new().into_iter();
    }

    fn leave(mut self) -> Received {
        for mut subscriber in self.subscribers.drain().filter(Subscriber::is_open) {
            subscriber.close();
            self.unique.push(subscriber.received());
        }
        self.recorder.publish_counts();
        Received { tally: self.recorder.tally, unique: self.unique }
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
