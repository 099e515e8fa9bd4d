//! A poll that waits: a subscriber without a socket, which is woken when something comes.
//!
//! It hears only that there is something, and then reads the registry again: so what it answers does not depend on when
//! it was woken.

use std::rc::Rc;

use fanfare_fanout::SubscriberId;
use fanfare_wire::command::Start;
use fanfare_wire::{FormatId, Name};
use tokio::sync::Notify;

use crate::client::Client;
use crate::query::wanted;
use crate::subscribe::{self, Refusal};
use crate::worker::Worker;

/// Waits for messages of some topics. Its subscriptions end with it.
pub(crate) struct Waiter {
    worker: Rc<Worker>,
    id: SubscriberId,
    woken: Rc<Notify>,
}

impl Waiter {
    /// Subscribes. What is published from now on wakes the waiter.
    pub(crate) fn new(worker: &Rc<Worker>, client: &Client, names: &[Name]) -> Result<Self, Refusal> {
        let id = worker.shard.borrow_mut().connect(FormatId::LONG_POLL, false);
        let woken = Rc::new(Notify::new());
        worker.polls.borrow_mut().insert(id, Rc::clone(&woken));
        worker.counters().waiting_polls.add(1);
        // From here on, whatever happens, dropping it takes everything back.
        let waiter = Self { worker: Rc::clone(worker), id, woken };
        let wanted: Vec<_> = names.iter().map(|name| wanted(name, Start::Live)).collect();
        subscribe::subscribe_to_each(worker, id, client, &wanted).try_for_each(|begun| begun.map(drop))?;
        Ok(waiter)
    }

    /// Until something was published since the last call, or nothing is certain.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut left = Vec::new();
        self.worker.shard.borrow_mut().disconnect(self.id, &mut left);
        self.worker.polls.borrow_mut().remove(&self.id);
        self.worker.leave(&left);
        self.worker.counters().waiting_polls.subtract(1);
    }
}
