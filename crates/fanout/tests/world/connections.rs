//! How clients come, read or stop reading, and go, by themselves or because the shard reports that they have to.

use std::collections::BTreeMap;

use fanfare_fanout::{Eviction, Left, SlowPolicy};
use fanfare_wire::FormatId;

use super::{Client, KEYS_MAX, World};
use crate::model::{Reader, Tie, frames};

const CLIENTS_MAX: usize = 12;

impl World {
    pub(super) fn connect(&mut self) {
        if self.clients.len() >= CLIENTS_MAX {
            return;
        }
        let format = self.random.pick(self.formats);
        let healthy = self.random.chance(self.healthy_percent);
        let room = if healthy { None } else { Some(self.random.below(400)) };
        self.add_client(format, healthy, room);
    }

    fn add_client(&mut self, format: FormatId, healthy: bool, room: Option<usize>) {
        let id = self.shard.connect(format, format.plain() != FormatId::RAW);
        self.sockets.open(id, room);
        self.trace(|| format!("  {id:?}, healthy: {healthy}, {}", format.format().name()));
        self.clients.push(Client {
            id,
            format,
            healthy,
            ties: Vec::new(),
            starts: BTreeMap::new(),
            unsubscribed: 0,
            reader: Reader::new(format, healthy, healthy && self.limits.outbox.messages_max > KEYS_MAX),
            awaits_writable: false,
            owes_flush: false,
            closing: false,
        });
    }

    /// A client without a socket, which is woken when there is something.
    pub(super) fn poll(&mut self) {
        if self.clients.len() >= CLIENTS_MAX {
            return;
        }
        self.add_client(FormatId::LONG_POLL, true, None);
        for _ in 0..1 + self.random.below(2) {
            let on = self.any_name();
            self.subscribe_to(self.clients.len() - 1, on);
        }
    }

    pub(super) fn end_poll(&mut self) {
        if let Some(poll) = self.clients.iter().position(Client::is_poll) {
            self.disconnect(poll);
        }
    }

    pub(super) fn make_room(&mut self) {
        let Some(client) = self.any_client() else { return };
        let more = self.random.below(200);
        let socket = self.sockets.of(self.clients[client].id);
        socket.room = socket.room.map(|room| room + more);
    }

    /// The worker hears of it only if it was told to listen.
    pub(super) fn writable(&mut self) {
        let Some(client) = self.any_client() else { return };
        let id = self.clients[client].id;
        let more = self.random.pick(&[1, 10, 100, 1_000, 10_000]);
        let socket = self.sockets.of(id);
        socket.room = socket.room.map(|room| room + more);
        if self.clients[client].awaits_writable {
            self.flush(id);
        }
    }

    pub(super) fn stall(&mut self) {
        let Some(client) = self.any_client() else { return };
        let socket = self.sockets.of(self.clients[client].id);
        socket.room = socket.room.map(|_| 0);
    }

    pub(super) fn kill(&mut self) {
        if let Some(client) = self.any_client()
            && !self.peaceful
        {
            self.sockets.of(self.clients[client].id).dead = true;
        }
    }

    /// A client closes its connection, or the gateway does.
    pub(super) fn leave(&mut self) {
        let Some(client) = self.any_client() else { return };
        match self.random.below(3) {
            _ if self.peaceful => {}
            0 => self.disconnect(client),
            way => self.close(client, way == 1),
        }
    }

    pub(super) fn handle_report(&mut self) {
        for id in std::mem::take(&mut self.report.blocked) {
            if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
                client.awaits_writable = true;
            }
        }
        for id in std::mem::take(&mut self.report.woken) {
            assert!(self.to_wake.contains(&id), "{id:?} is woken, and there is nothing");
            self.woken.insert(id);
            self.seen.polls_woken += 1;
        }
        for (id, eviction) in std::mem::take(&mut self.report.evicted) {
            self.trace(|| format!("  {id:?} is evicted: {eviction:?}"));
            let at = self.clients.iter().position(|client| client.id == id);
            let at = at.expect("only the connected are evicted, and once");
            let client = &self.clients[at];
            let mut policies = Vec::new();
            for &topic in client.starts.keys() {
                let tie = self.topics.effective(&client.ties, topic).expect("it reaches the client");
                policies.push(self.topics.policy(tie, topic));
            }
            match eviction {
                Eviction::PeerGone => {
                    assert!(self.sockets.of(id).dead, "{id:?} is alive");
                    self.seen.peers_gone += 1;
                    self.disconnect(at);
                    continue;
                }
                Eviction::SlowConsumer => {
                    // Too many notices are answers that nobody reads.
                    let strict = policies.contains(&SlowPolicy::Disconnect);
                    assert!(strict || client.format.plain() != FormatId::RAW, "nothing strict here");
                    self.seen.slow_consumers += 1;
                }
                Eviction::Gap => {
                    let lenient = policies.iter().any(|policy| *policy != SlowPolicy::Disconnect);
                    assert!(client.format.plain() == FormatId::RAW && lenient);
                    self.seen.evictions_for_a_gap += 1;
                }
                Eviction::Budget => {
                    assert!(self.topics.shed, "nobody asked for it");
                    self.seen.evictions_for_the_budget += 1;
                }
            }
            assert!(!client.healthy || client.owes_flush, "{id:?} reads everything: {eviction:?}");
            self.clients[at].reader.expect_eviction();
            let discard = self.random.chance(50);
            self.close(at, discard);
        }
    }

    pub(super) fn close(&mut self, at: usize, discard: bool) {
        let id = self.clients[at].id;
        let given = self.given_all(at);
        let client = &mut self.clients[at];
        if !client.closing {
            client.reader.expect_close(if discard { None } else { Some(given) });
        }
        client.closing = true;
        client.starts.clear();
        let ties = std::mem::take(&mut client.ties);
        let mut left = Vec::new();
        self.trace(|| format!("  {id:?} closes, discard: {discard}"));
        self.shard.close(id, frames::last(self.clients[at].format), discard, &mut left);
        self.take_back(&ties, left);
        self.seen.closed_and_discarded += u64::from(discard);
        self.flush(id);
    }

    pub(super) fn disconnect(&mut self, at: usize) {
        let mut client = self.clients.swap_remove(at);
        self.trace(|| format!("  {:?} disconnects", client.id));
        let mut left = Vec::new();
        self.shard.disconnect(client.id, &mut left);
        self.take_back(&std::mem::take(&mut client.ties), left);
        self.read(&mut client);
        self.to_wake.remove(&client.id);
        self.sockets.shut(client.id);
        self.gone.push(client.id);
        self.seen.deliveries += client.reader.total.messages;
        self.seen.messages_lost += client.reader.total.lost;
        self.seen.add(&client.reader.seen);
    }

    /// Takes interest back in what nobody here wants any more.
    fn take_back(&mut self, ties: &[Tie], left: Vec<Left>) {
        assert_eq!(left.len(), ties.len());
        for (tie, left) in ties.iter().zip(left) {
            assert_eq!(self.topics.find_name(&left.name), tie.on);
            assert_eq!(left.last, !self.is_wanted(tie.on));
            if left.last {
                self.topics.leave(tie.on);
            }
        }
    }
}
