//! Reading through io_uring: each socket has one standing order, a multishot receive, and one call into the kernel
//! brings what many of them received.
//!
//! A receive takes a buffer of the ring that all sockets of the thread share, and the buffer goes back once its bytes
//! were handled. Sockets that are not streamed (the handshake, slow readers that are looked at) are only polled, and
//! read with a plain call: nothing is received ahead of what their owner wants. Sockets are not registered as fixed
//! files: a standing order looks its socket up once.
//!
//! Nothing waits for more to come: a wait ends with the first completion. The clock is read once per wait, after it:
//! all its bytes are in memory by then, and none came later.
//!
//! # Bounds       [`BUFFERS`] of [`BUFFER_BYTES`]; a receive that finds none left is ordered again after they went back
//! # Invariants   an order carries its key's generation, so what was ordered for an earlier socket is told apart

#![allow(unsafe_code, reason = "the queues and the buffers are shared with the kernel")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use mio::net::TcpStream;
use rustix::event::PollFlags;
use rustix::io::Errno;

use super::{Arrival, Sockets, What};
use crate::schedule::Clock;

const SUBMISSIONS: u32 = 512;
const COMPLETIONS: u32 = 4096;
/// A power of two.
const BUFFERS: u16 = 512;
/// A page and three cache lines, so that the fronts of the buffers don't all fall on the same lines of the cache.
const BUFFER_BYTES: usize = 4096 + 192;
const GROUP: u16 = 0;
/// What one plain read of a polled socket takes.
const READ_BYTES: usize = 64 * 1024;
const PAGE_BYTES: usize = 4096;
/// The completion of a cancellation, which nobody waits for.
const NOBODY: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Ring {
    clock: Clock,
    ring: Box<Queues>,
    enabled: bool,
    sockets: Vec<Socket>,
    /// Given before the next wait.
    to_order: Vec<Order>,
    to_cancel: Vec<Order>,
    completions: Vec<cqueue::Entry>,
    taken: usize,
    at_ns: u64,
    /// A polled socket that may have more than the last read took.
    unread: Option<Order>,
    /// The buffer that was handed out last.
    lent: Option<u16>,
    read_buffer: Vec<u8>,
}

/// What is known of a key's socket.
#[derive(Debug, Clone, Copy)]
struct Socket {
    fd: RawFd,
    generation: u32,
    way: Way,
    /// An order stands in the kernel.
    ordered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Connecting,
    Polled,
    Streamed,
}

/// One order, as completions carry it: a key and the generation of its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Order {
    key: u32,
    generation: u32,
}

impl Ring {
    pub(super) fn new(clock: Clock) -> io::Result<Self> {
        Ok(Self {
            clock,
            ring: Box::new(Queues::new()?),
            enabled: false,
            sockets: Vec::new(),
            to_order: Vec::new(),
            to_cancel: Vec::new(),
            completions: Vec::with_capacity(COMPLETIONS as usize),
            taken: 0,
            at_ns: 0,
            unread: None,
            lent: None,
            read_buffer: vec![0; READ_BYTES],
        })
    }

    pub(super) fn add(&mut self, key: usize, socket: &TcpStream) {
        let absent = Socket { fd: -1, generation: 0, way: Way::Connecting, ordered: false };
        if key >= self.sockets.len() {
            self.sockets.resize(key + 1, absent);
        }
        self.sockets[key].fd = socket.as_raw_fd();
        self.order_as(key, Way::Connecting);
    }

    pub(super) fn stream(&mut self, key: usize) {
        self.withdraw(key);
        self.order_as(key, Way::Streamed);
    }

    pub(super) fn pause(&mut self, key: usize) {
        self.withdraw(key);
    }

    pub(super) fn resume(&mut self, key: usize) {
        self.order_as(key, Way::Polled);
    }

    pub(super) fn remove(&mut self, key: usize) {
        self.withdraw(key);
    }

    pub(super) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.return_lent();
        if !self.enabled {
            // The thread that does this is the one that waits from now on.
            self.ring.queues.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        self.give_orders()?;
        self.ring.wait(timeout)?;
        self.completions.clear();
        self.taken = 0;
        self.completions.extend(self.ring.queues.completion());
        self.at_ns = self.clock.now_ns();
        Ok(())
    }

    pub(super) fn next(&mut self, sockets: &mut impl Sockets) -> Option<Arrival<'_>> {
        self.return_lent();
        loop {
            if let Some(order) = self.unread.take() {
                if let Some((key, read)) = self.read(order, sockets) {
                    let what = match read {
                        Ok(0) => What::End,
                        Ok(length) => What::Bytes(&self.read_buffer[..length]),
                        Err(kind) => What::Failed(kind),
                    };
                    return Some(Arrival { key, at_ns: self.clock.now_ns(), what });
                }
                continue;
            }
            let completion = self.completions.get(self.taken)?;
            self.taken += 1;
            let (flags, result) = (completion.flags(), completion.result());
            let buffer = cqueue::buffer_select(flags);
            let order = Order::from(completion.user_data());
            let Some(way) = self.completed(order, cqueue::more(flags)) else {
                if let Some(buffer) = buffer {
                    self.ring.give_back(buffer);
                }
                continue;
            };
            let (key, at_ns) = (order.key as usize, self.at_ns);
            let arrival = |what| Some(Arrival { key, at_ns, what });
            match (way, buffer, usize::try_from(result)) {
                (Way::Connecting, _, _) => {
                    self.sockets[key].way = Way::Polled;
                    return arrival(What::Connected);
                }
                (Way::Polled, _, Ok(_)) => self.unread = Some(order),
                (_, Some(buffer), Ok(length)) if length > 0 => {
                    self.lent = Some(buffer);
                    return arrival(What::Bytes(self.ring.buffer(buffer, length)));
                }
                (_, Some(buffer), _) => {
                    self.ring.give_back(buffer);
                    return arrival(What::End);
                }
                (_, None, Ok(_)) => return arrival(What::End),
                (_, None, Err(_)) => {
                    let errno = Errno::from_raw_os_error(-result);
                    if errno != Errno::NOBUFS {
                        return arrival(What::Failed(errno.kind()));
                    }
                }
            }
        }
    }

    /// Notes that an order was carried out, and has to be given anew unless there is `more` to come of it. `None`: it was
    /// for a socket that is not there any more.
    fn completed(&mut self, order: Order, more: bool) -> Option<Way> {
        let socket = self.sockets.get_mut(order.key as usize)?;
        if socket.generation != order.generation {
            return None;
        }
        if !more {
            socket.ordered = false;
            self.to_order.push(order);
        }
        Some(socket.way)
    }

    /// Reads a polled socket once: how much, or why not. `None` if there is nothing, or nobody.
    fn read(
        &mut self,
        order: Order,
        sockets: &mut impl Sockets,
    ) -> Option<(usize, Result<usize, ErrorKind>)> {
        let key = order.key as usize;
        if self.sockets[key].generation != order.generation {
            return None;
        }
        let socket = sockets.socket(key)?;
        loop {
            match socket.read(&mut self.read_buffer) {
                Ok(length) => {
                    if length == self.read_buffer.len() {
                        self.unread = Some(order);
                    }
                    return Some((key, Ok(length)));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Some((key, Err(error.kind()))),
            }
        }
    }

    fn return_lent(&mut self) {
        if let Some(buffer) = self.lent.take() {
            self.ring.give_back(buffer);
        }
    }

    fn order_as(&mut self, key: usize, way: Way) {
        let socket = &mut self.sockets[key];
        socket.way = way;
        self.to_order.push(Order { key: key as u32, generation: socket.generation });
    }

    /// What was ordered for `key` so far is of no use any more.
    fn withdraw(&mut self, key: usize) {
        let socket = &mut self.sockets[key];
        let order = Order { key: key as u32, generation: socket.generation };
        socket.generation = socket.generation.wrapping_add(1);
        if std::mem::take(&mut socket.ordered) {
            self.to_cancel.push(order);
        }
    }

    fn give_orders(&mut self) -> io::Result<()> {
        for order in self.to_cancel.drain(..) {
            self.ring.push(&opcode::AsyncCancel::new(order.into()).build().user_data(NOBODY))?;
        }
        for order in self.to_order.drain(..) {
            let socket = &mut self.sockets[order.key as usize];
            if socket.generation != order.generation {
                continue;
            }
            let poll =
                |flags: PollFlags| opcode::PollAdd::new(Fd(socket.fd), u32::from(flags.bits())).build();
            let entry = match socket.way {
                Way::Connecting => poll(PollFlags::OUT),
                Way::Polled => poll(PollFlags::IN),
                Way::Streamed => opcode::RecvMulti::new(Fd(socket.fd), GROUP).build(),
            };
            socket.ordered = true;
            self.ring.push(&entry.user_data(order.into()))?;
        }
        Ok(())
    }
}

impl From<Order> for u64 {
    fn from(order: Order) -> Self {
        Self::from(order.generation) << 32 | Self::from(order.key)
    }
}

impl From<u64> for Order {
    fn from(user_data: u64) -> Self {
        Self { key: user_data as u32, generation: (user_data >> 32) as u32 }
    }
}

/// The queues, and the buffers that the kernel receives into.
struct Queues {
    queues: IoUring,
    /// Describes the buffers that the kernel may take next.
    free: Memory,
    tail: u16,
    bytes: Memory,
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues").finish_non_exhaustive()
    }
}

impl Queues {
    fn new() -> io::Result<Self> {
        let queues = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_r_disabled()
            .build(SUBMISSIONS)?;
        let free = Memory::new(usize::from(BUFFERS) * size_of::<BufRingEntry>());
        let bytes = Memory::new(usize::from(BUFFERS) * BUFFER_BYTES);
        // SAFETY: `free` is page-aligned, has an entry for each buffer, and is freed only after it is unregistered.
        unsafe {
            queues.submitter().register_buf_ring_with_flags(free.at.as_ptr() as u64, BUFFERS, GROUP, 0)?;
        }
        let mut this = Self { queues, free, tail: 0, bytes };
        (0..BUFFERS).for_each(|buffer| this.give_back(buffer));
        Ok(this)
    }

    /// Hands a buffer to the kernel, after all that it has.
    fn give_back(&mut self, buffer: u16) {
        let base = self.free.at.as_ptr().cast::<BufRingEntry>();
        let address = self.buffer_at(buffer).as_ptr() as u64;
        // SAFETY: the place is inside of `free`, and the kernel does not look at it before the tail has passed it: of
        // BUFFERS places, only the buffers that the kernel has are in use. The tail lies where no entry's fields do.
        unsafe {
            let entry = &mut *base.add(usize::from(self.tail % BUFFERS));
            entry.set_addr(address);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(base).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    /// The first `length` bytes of a buffer that the kernel has filled and not got back.
    fn buffer(&self, buffer: u16, length: usize) -> &[u8] {
        let at = self.buffer_at(buffer);
        // SAFETY: it lies inside of `bytes`, which began as zeros; the kernel writes into it only after `give_back`,
        // which needs `&mut self`.
        unsafe { slice::from_raw_parts(at.as_ptr(), length.min(BUFFER_BYTES)) }
    }

    fn buffer_at(&self, buffer: u16) -> NonNull<u8> {
        // The remainder is the buffer itself, and inside of the memory whatever the kernel says.
        let offset = usize::from(buffer % BUFFERS) * BUFFER_BYTES;
        // SAFETY: the offset is inside of `bytes`.
        unsafe { self.bytes.at.add(offset) }
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: an order names a socket that is open while the order is handed over, which is before anybody else
            // runs, and memory only by the group of buffers, which live as long as the ring.
            if unsafe { self.queues.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.queues.submit()?;
        }
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec::from(timeout);
        let waited = self.queues.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout));
        match waited.map_err(|error| (Errno::from_io_error(&error), error)) {
            // Busy: completions have to be taken before more is submitted.
            Ok(_) | Err((Some(Errno::TIME | Errno::INTR | Errno::BUSY), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        // Closing the queues takes its time in the kernel. Without the group nothing is received any more.
        if self.queues.submitter().unregister_buf_ring(GROUP).is_err() {
            self.free.leak();
            self.bytes.leak();
        }
    }
}

/// Zeroed memory from the start of a page.
struct Memory {
    at: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it is plain memory that belongs to its owner.
unsafe impl Send for Memory {}

impl Memory {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.max(1), PAGE_BYTES)
            .expect("the sizes are constants far below the limit");
        // SAFETY: the size is not zero.
        let at = unsafe { alloc_zeroed(layout) };
        Self { at: NonNull::new(at).unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }

    /// Never frees it.
    fn leak(&mut self) {
        std::mem::forget(std::mem::replace(self, Self::new(1)));
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(self.at.as_ptr(), self.layout) }
    }
}
