//! The sockets of one worker's subscribers, and who has to be woken for them.
//!
//! # Owner        one worker's thread; not `Send`

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

use fanfare_fanout::SubscriberId;
use fanfare_wire::FormatId;

use crate::admission::Key;
use crate::client::Client;
use crate::clock::unix_ms;
use crate::rate::Meter;
use crate::socket::Socket;
use crate::transport::disconnect::DisconnectReason;
use crate::worker::Worker;

/// One subscriber's socket. The session's task reads it; the worker's writer writes it.
pub(crate) struct Connection {
    pub(crate) id: SubscriberId,
    pub(crate) socket: Socket,
    /// How it sees messages; its transport follows from that.
    pub(crate) format: FormatId,
    pub(crate) client: Client,
    /// When it became a subscriber, as Unix time in milliseconds: half of an `Instant`, and there are many.
    pub(crate) since_ms: u64,
    /// Set when the server decides to close; what ends the connection first is its reason.
    pub(crate) closing: Cell<Option<DisconnectReason>>,
    /// The time for closing is over.
    pub(crate) expired: Cell<bool>,
    /// A ping is out, and nothing came since; or a stream's socket has taken nothing since its heartbeat.
    pub(crate) awaiting_pong: Cell<bool>,
    /// What the client has sent, for `Limits::commands_per_second`.
    pub(crate) commands: Cell<Meter>,
    /// The session's task.
    waker: RefCell<Option<Waker>>,
    /// Its place in `Limits::connections`, and in its owner's.
    pub(crate) permit: Permit,
}

impl Connection {
    pub(crate) fn new(
        id: SubscriberId,
        socket: Socket,
        format: FormatId,
        client: Client,
        permit: Permit,
    ) -> Self {
        Self {
            id,
            socket,
            format,
            client,
            since_ms: unix_ms(),
            closing: Cell::new(None),
            expired: Cell::new(false),
            awaiting_pong: Cell::new(false),
            commands: Cell::default(),
            waker: RefCell::new(None),
            permit,
        }
    }

    /// Remembers whom to wake. Cheap when it is the same task as before, and it always is.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        let mut current = self.waker.borrow_mut();
        if !current.as_ref().is_some_and(|current| current.will_wake(waker)) {
            *current = Some(waker.clone());
        }
    }

    /// Lets the session's task look at its socket, its outbox and its end.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// The connections of a worker, by their subscriber's slot.
#[derive(Default)]
pub(crate) struct Connections {
    slots: Vec<Option<Rc<Connection>>>,
}

impl Connections {
    pub(crate) fn insert(&mut self, connection: Rc<Connection>) {
        let slot = connection.id.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(connection);
    }

    pub(crate) fn remove(&mut self, id: SubscriberId) {
        if self.get(id).is_some() {
            self.slots[id.slot as usize] = None;
        }
    }

    pub(crate) fn get(&self, id: SubscriberId) -> Option<&Rc<Connection>> {
        self.slots.get(id.slot as usize)?.as_ref().filter(|connection| connection.id == id)
    }

    /// Those in some slots, of [`Self::slots`] in all.
    pub(crate) fn within(&self, slots: Range<usize>) -> impl Iterator<Item = &Rc<Connection>> {
        self.slots.iter().skip(slots.start).take(slots.len()).flatten()
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Every `step`-th slot from `first` on.
    pub(crate) fn every(&self, first: usize, step: usize) -> impl Iterator<Item = &Rc<Connection>> {
        self.slots.iter().skip(first).step_by(step).flatten()
    }
}

/// A place among `Limits::connections`, from accept to close, whatever the connection becomes meanwhile.
pub(crate) struct Permit {
    worker: Rc<Worker>,
    /// And one among those of an address, or of the holder of a credential.
    owner: Cell<Option<Key>>,
}

impl Permit {
    /// `None` at the bound.
    pub(crate) fn take(worker: &Rc<Worker>) -> Option<Self> {
        worker.open.set(worker.open.get() + 1);
        let before = worker.shared.connections.fetch_add(1, Relaxed);
        let permit = Self { worker: Rc::clone(worker), owner: Cell::default() };
        (before < worker.shared.config().limits.connections).then_some(permit)
    }

    /// Whose connection it is, if that counts.
    pub(crate) fn owner(&self) -> Option<Key> {
        self.owner.get()
    }

    /// Takes over a place of this owner, and gives back that of another.
    pub(crate) fn belong_to(&self, owner: Key) {
        self.leave();
        self.owner.set(Some(owner));
    }

    /// Gives back the place of its owner: it is nobody's connection now.
    pub(crate) fn leave(&self) {
        if let Some(owner) = self.owner.take() {
            self.worker.shared.admission.leave(owner);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.leave();
        self.worker.open.set(self.worker.open.get() - 1);
        self.worker.shared.connections.fetch_sub(1, Relaxed);
    }
}
