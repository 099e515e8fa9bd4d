//! Sends of a step, submitted to the kernel in one system call.
//!
//! Sockets are registered under their subscriber's slot, so that a send looks up no file descriptor. Each send says
//! `MSG_DONTWAIT`: the kernel then either carries it out or refuses it while it is submitted, and never keeps it for
//! later. So the call that submits the sends of a step also brings all answers, and nothing is under way when it returns.
//!
//! ```text
//!   writes ─► submission queue ─► io_uring_enter ─► completion queue ─► those that were not taken whole
//!             STEP_MAX entries                      twice as many: it cannot overflow
//! ```
//!
//! # Owner        one worker's thread; not `Send`
//! # Invariants
//! - [`write_all`](Ring::write_all) returns when the kernel has answered everything it was given: it holds no pointer then.
//! - A slot is used for the subscriber it was registered for, and for nobody else.
#![expect(unsafe_code, reason = "the kernel is given pointers: docs/adr/0013-passes-through-io-uring.md")]

use std::io::{Error, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

use fanfare_fanout::{STEP_MAX, SubscriberId, Write, WriteBytes, Written};
use io_uring::types::Fixed;
use io_uring::{IoUring, opcode, squeue};

use super::inline::written;

/// A broken pipe is an answer, not a signal.
const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// So often a submission is tried again that a signal or a want of memory stopped.
const TRIES_MAX: usize = 1_000;

/// What the log is given to write why the process ends.
const LAST_WORDS: Duration = Duration::from_millis(100);

pub(super) struct Ring {
    ring: IoUring,
    /// How many slots there are.
    slots: u32,
    /// Whose socket is registered, by slot.
    known: Vec<Option<u32>>,
    /// The headers of vectored sends. What they point to is only looked at within the call that set it.
    headers: Box<[libc::msghdr]>,
}

/// What became of a write, when it was not taken whole.
pub(super) enum Answer<'a> {
    /// What the socket did instead.
    Refused(Written),
    /// The socket is not known here: nothing was tried.
    Unknown(Write<'a>),
}

impl Ring {
    /// A ring for the thread that calls it, with room for so many sockets.
    pub(super) fn new(slots: u32) -> Result<Self, Error> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .dontfork()
            .build(STEP_MAX as u32)?;
        ring.submitter().register_files_sparse(slots)?;
        // SAFETY: a `msghdr` is numbers and pointers, for all of which zero is a value.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        Ok(Self { ring, slots, known: Vec::new(), headers: vec![header; STEP_MAX].into() })
    }

    /// Registers a socket.
    pub(super) fn add(&mut self, id: SubscriberId, socket: BorrowedFd<'_>) -> Result<(), Error> {
        let slot = id.slot as usize;
        if id.slot >= self.slots {
            return Err(ErrorKind::QuotaExceeded.into());
        }
        self.ring.submitter().register_files_update(id.slot, &[socket.as_raw_fd()])?;
        if self.known.len() <= slot {
            self.known.resize(slot + 1, None);
        }
        self.known[slot] = Some(id.generation);
        Ok(())
    }

    /// Lets go of a socket, if it is registered.
    pub(super) fn remove(&mut self, id: SubscriberId) -> Result<(), Error> {
        if knows(&self.known, id) {
            self.known[id.slot as usize] = None;
            self.ring.submitter().register_files_update(id.slot, &[-1])?;
        }
        Ok(())
    }

    /// Carries out `writes`, which are at most [`STEP_MAX`], and says of those that were not taken whole what became of
    /// them, by their places. Returns whether there was anything to submit. After an error, which a ring does not recover from, some of them were not tried, and are
    /// said to be blocked.
    pub(super) fn write_all<'a>(
        &mut self,
        writes: impl Iterator<Item = Write<'a>>,
        mut answer: impl FnMut(usize, Answer<'a>),
    ) -> Result<bool, Error> {
        // A panic in a caller's closure may have left some behind.
        if !self.ring.submission().is_empty() || !self.ring.completion().is_empty() {
            return Err(Error::other("the queues are not empty"));
        }
        let mut open = [false; STEP_MAX];
        let mut count = 0;
        let mut queue = self.ring.submission();
        for (place, write) in writes.enumerate() {
            let header = self.headers.get_mut(place).filter(|_| knows(&self.known, write.to));
            let Some(header) = header else {
                answer(place, Answer::Unknown(write));
                continue;
            };
            let entry = entry(place, write, header);
            // SAFETY: the bytes, and the slices that name them, are borrowed for `'a`, which is longer than this call, and
            // the header is borrowed with `self`. The kernel is done with all of them when `submit` returns. Were this
            // call to end before that by a panic, the entries would never be submitted: the check above sees them.
            if unsafe { queue.push(&entry) }.is_err() {
                answer(place, Answer::Unknown(write));
                continue;
            }
            open[place] = true;
            count += 1;
        }
        drop(queue);
        let submitted = self.submit(count);
        for completion in self.ring.completion() {
            let (place, length) = ((completion.user_data() >> 32) as usize, completion.user_data() as u32);
            open[place] = false;
            let result = completion.result();
            if u32::try_from(result) != Ok(length) {
                let result = usize::try_from(result).map_err(|_| Error::from_raw_os_error(-result));
                answer(place, Answer::Refused(written(result)));
            }
        }
        if submitted.is_err() {
            let untried = (0..STEP_MAX).filter(|place| open[*place]);
            untried.for_each(|place| answer(place, Answer::Refused(Written::Blocked)));
        }
        submitted.map(|()| count > 0)
    }

    /// Hands the queue's `count` entries to the kernel and waits for as many answers. They come at once: a send that may
    /// not wait is carried out by the call that submits it.
    fn submit(&mut self, count: usize) -> Result<(), Error> {
        let mut tries = 0;
        while self.ring.completion().len() < count {
            let Err(error) = self.ring.submit_and_wait(count) else { continue };
            tries += 1;
            let passes = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY));
            if passes && tries < TRIES_MAX {
                continue;
            }
            let untried = self.ring.submission().len();
            if self.ring.completion().len() + untried < count {
                // The kernel may still read what the caller is about to free, and cannot be asked when it is done.
                tracing::error!(%error, "io_uring does not answer");
                // The log has a thread of its own, which may have to wait for its reader: this one does not.
                std::thread::sleep(LAST_WORDS);
                std::process::abort();
            }
            return Err(error);
        }
        Ok(())
    }
}

fn knows(known: &[Option<u32>], id: SubscriberId) -> bool {
    known.get(id.slot as usize) == Some(&Some(id.generation))
}

/// The send of a write. Its answer brings back the write's place and how long it was.
fn entry(place: usize, write: Write<'_>, header: &mut libc::msghdr) -> squeue::Entry {
    let socket = Fixed(write.to.slot);
    let length = write.bytes.len();
    let entry = match write.bytes {
        WriteBytes::One(bytes) => {
            opcode::Send::new(socket, bytes.as_ptr(), length as u32).flags(FLAGS).build()
        }
        WriteBytes::Several(slices) => {
            // A slice for I/O is an `iovec`, and a send writes to neither.
            header.msg_iov = slices.as_ptr().cast_mut().cast();
            header.msg_iovlen = slices.len() as _;
            opcode::SendMsg::new(socket, ptr::from_ref(header)).flags(FLAGS as u32).build()
        }
    };
    entry.user_data((place as u64) << 32 | u64::from(length as u32))
}

#[cfg(test)]
mod tests;
