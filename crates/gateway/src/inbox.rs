//! What other threads hand to a worker: a bounded batch of messages, taken whole.
//!
//! Any thread pushes, only the worker takes. Its fan-out task is woken by the first push after it went to sleep, and by no
//! other.
//!
//! # Bounds       `Limits::inbox_messages`, `Limits::inbox_bytes`; room is reserved before an offset is used

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Instant;

use fanfare_registry::{BatchSize, InboxFull};
use fanfare_wire::Message;
use parking_lot::Mutex;

use crate::limits::Limits;

/// The hand-over point of one worker.
pub(crate) struct Inbox {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    messages_max: usize,
    bytes_max: usize,
    queue: Vec<Handover>,
    /// Queued and reserved together.
    messages: usize,
    bytes: usize,
    reserved_messages: usize,
    reserved_bytes: usize,
    sleeper: Option<Waker>,
    /// The worker is to look round, whether there are messages or not.
    called: bool,
}

/// The messages of one publish.
pub(crate) struct Handover {
    pub(crate) messages: Vec<Arc<Message>>,
    /// When they got their offsets.
    pub(crate) admitted: Instant,
}

impl Inbox {
    pub(crate) fn new(limits: &Limits) -> Self {
        let inbox = Self { state: Mutex::default() };
        inbox.set_bounds(limits);
        inbox
    }

    /// Other bounds hold from now on. What is past them already stays, and nothing comes to it.
    pub(crate) fn set_bounds(&self, limits: &Limits) {
        let mut state = self.state.lock();
        (state.messages_max, state.bytes_max) = (limits.inbox_messages, limits.inbox_bytes);
    }

    /// Makes room.
    pub(crate) fn reserve(&self, size: BatchSize) -> Result<(), InboxFull> {
        let mut state = self.state.lock();
        if state.messages + size.messages > state.messages_max || state.bytes + size.bytes > state.bytes_max {
            return Err(InboxFull);
        }
        state.messages += size.messages;
        state.bytes += size.bytes;
        state.reserved_messages += size.messages;
        state.reserved_bytes += size.bytes;
        Ok(())
    }

    /// Gives room back that was not used.
    pub(crate) fn release(&self, size: BatchSize) {
        let mut state = self.state.lock();
        state.messages -= size.messages;
        state.bytes -= size.bytes;
        state.reserved_messages -= size.messages;
        state.reserved_bytes -= size.bytes;
    }

    /// Fills room that was made. Returns whether the inbox was empty: the worker may sleep.
    pub(crate) fn push(&self, messages: Vec<Arc<Message>>, size: BatchSize) -> bool {
        let mut state = self.state.lock();
        state.reserved_messages -= size.messages;
        state.reserved_bytes -= size.bytes;
        state.queue.push(Handover { messages, admitted: Instant::now() });
        state.queue.len() == 1
    }

    /// Wakes the worker if it sleeps. Any thread, without holding a topic's lock.
    pub(crate) fn wake(&self) {
        let sleeper = self.state.lock().sleeper.take();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Wakes the worker, though nothing may be there for it.
    pub(crate) fn call(&self) {
        self.state.lock().called = true;
        self.wake();
    }

    /// Waits until there is something, or somebody calls.
    pub(crate) async fn wait(&self) {
        poll_fn(|context| {
            let mut state = self.state.lock();
            if state.queue.is_empty() && !std::mem::take(&mut state.called) {
                state.sleeper = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Takes everything in exchange for `empty`, whose memory is used again.
    pub(crate) fn take(&self, empty: &mut Vec<Handover>) {
        debug_assert!(empty.is_empty());
        let mut state = self.state.lock();
        std::mem::swap(&mut state.queue, empty);
        state.messages = state.reserved_messages;
        state.bytes = state.reserved_bytes;
    }

    /// What waits now: messages and payload bytes.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.messages, state.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_wire::{Draft, Epoch, Kind, Position, Topic};
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    fn inbox(messages: usize, bytes: usize) -> Inbox {
        Inbox::new(&Limits { inbox_messages: messages, inbox_bytes: bytes, ..Limits::default() })
    }

    fn size(messages: usize, bytes: usize) -> BatchSize {
        BatchSize { messages, bytes }
    }

    fn message() -> Arc<Message> {
        let draft = Draft::new(Topic::new("t").unwrap(), Kind::Text, b"x");
        Arc::new(Message::new(draft, Position { epoch: Epoch::new(1), offset: 1 }, 1))
    }

    #[test]
    fn room_is_bounded_by_messages_and_bytes() {
        let inbox = inbox(3, 10);
        assert_eq!(inbox.reserve(size(2, 4)), Ok(()));
        assert_eq!(inbox.reserve(size(2, 1)), Err(InboxFull));
        assert_eq!(inbox.reserve(size(1, 7)), Err(InboxFull));
        assert_eq!(inbox.reserve(size(1, 6)), Ok(()));
        inbox.release(size(1, 6));
        assert_eq!(inbox.depth(), (2, 4));
        inbox.set_bounds(&Limits { inbox_messages: 1, ..Limits::default() });
        assert_eq!(inbox.reserve(size(1, 1)), Err(InboxFull), "it is past the new bound, and stays");
        inbox.set_bounds(&Limits { inbox_messages: 3, ..Limits::default() });
        assert_eq!((inbox.reserve(size(1, 1)), inbox.depth()), (Ok(()), (3, 5)));
    }

    #[test]
    fn the_first_push_wakes_the_worker_and_so_does_a_call() {
        let inbox = inbox(3, 10);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let is_ready = || pin!(inbox.wait()).poll(&mut Context::from_waker(&waker)).is_ready();
        let wakes = || woken.0.swap(0, Ordering::Relaxed);
        assert!(!is_ready());
        for first in [true, false] {
            inbox.reserve(size(1, 1)).unwrap();
            assert_eq!(inbox.push(vec![message()], size(1, 1)), first);
            inbox.wake();
        }
        assert_eq!((wakes(), is_ready()), (1, true));
        inbox.take(&mut Vec::new());
        assert!(!is_ready());
        inbox.call();
        assert_eq!((wakes(), is_ready(), is_ready()), (1, true, false), "a call is answered once");
        inbox.call();
        inbox.call();
        assert_eq!((wakes(), is_ready(), is_ready()), (1, true, false));
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn taking_keeps_what_is_only_reserved() {
        let inbox = inbox(3, 10);
        inbox.reserve(size(1, 1)).unwrap();
        inbox.reserve(size(2, 2)).unwrap();
        assert!(inbox.push(vec![message()], size(1, 1)));
        let mut taken = Vec::new();
        inbox.take(&mut taken);
        assert_eq!((taken.len(), inbox.depth()), (1, (2, 2)));
        assert!(inbox.push(vec![message(), message()], size(2, 2)));
        taken.clear();
        inbox.take(&mut taken);
        assert_eq!((taken[0].messages.len(), inbox.depth()), (2, (0, 0)));
    }
}
