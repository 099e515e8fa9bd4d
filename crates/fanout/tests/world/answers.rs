//! What goes to one client outside of passes: answers, heartbeats, and flushes of its outbox.

use fanfare_fanout::{Eviction, Flushed, SubscriberId};
use fanfare_wire::FormatId;
use fanfare_wire::event::Event;
use fanfare_wire::websocket::OpCode;

use super::{Client, World};
use crate::model::{Promise, frames};

impl World {
    pub(super) fn answer(&mut self) {
        let Some(client) = self.any_client() else { return };
        let id = self.clients[client].id;
        // An event of the server's own, which brings a mark.
        if self.random.chance(40) {
            match self.shard.push_event(id, &Event::Heartbeat { time: 0 }) {
                Ok(()) => {}
                Err(_) => {
                    self.seen.refused_answers += 1;
                    self.close(client, true);
                }
            }
        } else {
            self.push_answer(client, Promise::Answer);
        }
        self.after_push(id);
    }

    pub(super) fn heartbeat(&mut self) {
        let kind = self.random.pick(&[OpCode::Ping, OpCode::Pong]);
        let Some(client) = self.any_client() else { return };
        let client = &mut self.clients[client];
        let id = client.id;
        if client.format == FormatId::EVENTS {
            return;
        }
        // After the close frame nothing may come: what is pushed then goes nowhere.
        let number = if client.closing { 0 } else { client.reader.expect_heartbeat(kind) };
        self.shard.push_pong(id, frames::heartbeat(kind, number));
        self.after_push(id);
    }

    pub(super) fn flush_owed(&mut self) {
        let owing: Vec<_> = self.clients.iter().filter(|client| client.owes_flush).map(|c| c.id).collect();
        for id in owing {
            self.flush(id);
        }
    }

    /// Queues an answer. A client that does not read its answers is closed.
    pub(super) fn push_answer(&mut self, client: usize, promise: Promise) {
        let Client { id, closing, format, .. } = self.clients[client];
        let number = self.clients[client].reader.next_answer();
        let filler = self.random.below(60);
        match self.shard.push_control(id, frames::answer(format, number, filler)) {
            // Nothing follows the last frame.
            Ok(()) if closing => {}
            Ok(()) => self.clients[client].reader.promise(promise),
            Err(eviction) => {
                assert_eq!(eviction, Eviction::SlowConsumer);
                assert!(self.shard.is_waiting(id), "an empty outbox takes any answer");
                self.seen.refused_answers += 1;
                self.close(client, true);
            }
        }
    }

    /// The caller of a push flushes: mostly at once, sometimes after other things have happened.
    pub(super) fn after_push(&mut self, id: SubscriberId) {
        self.handle_report();
        if self.random.chance(75) {
            self.flush(id);
        } else if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.owes_flush = true;
            client.reader.is_late();
        }
    }

    pub(super) fn flush(&mut self, id: SubscriberId) {
        let writes = self.random.pick(&[1, 4, usize::MAX, usize::MAX]);
        let flushed = self.shard.flush_some(id, writes, &mut self.sockets, &mut self.report);
        self.handle_report();
        let Some(at) = self.clients.iter().position(|client| client.id == id) else { return };
        let client = &mut self.clients[at];
        client.owes_flush = false;
        match flushed {
            Flushed::Empty => client.awaits_writable = false,
            Flushed::More => {
                // The rest follows in a later turn; until then the socket is not known to be full.
                client.owes_flush = true;
                client.awaits_writable = false;
                client.reader.is_late();
                self.seen.interrupted_flushes += 1;
            }
            Flushed::Blocked => assert!(client.awaits_writable, "{id:?} blocked, and nobody was told"),
            Flushed::PeerGone => self.disconnect(at),
        }
    }
}
