//! Sends through io_uring: a batch of them with one call into the kernel, to sockets that are registered with it.
//!
//! Every send is tried at once and never waited for (`MSG_DONTWAIT`), and every completion is looked at: to the kernel
//! a send that took half of a frame is a success.
//!
//! What was tried and left out: completions of whole sends can be left away (`IOSQE_CQE_SKIP_SUCCESS`, with
//! `MSG_WAITALL` a short one is a failure and so still reported), but then nothing says when the kernel is done with the
//! frame; and a send without copying (`send_zc`) pins pages, which pays for far larger frames.
//!
//! # Owner        the thread that made it
//! # Bounds       [`BATCH`] sends with one call; as many sockets as the process may have open files

#![allow(unsafe_code, reason = "the kernel is given addresses")]

use std::io;
use std::os::fd::AsRawFd as _;

use io_uring::types::Fixed;
use io_uring::{IoUring, opcode};
use mio::net::TcpStream;
use rustix::io::Errno;
use rustix::net::SendFlags;

const BATCH: usize = 256;
/// What the kernel takes at most.
const SOCKETS_MAX: u64 = 1 << 20;

pub(super) struct Ring {
    queues: IoUring,
}

impl Ring {
    /// A ring for up to `sockets`.
    pub(super) fn new(sockets: u64) -> io::Result<Self> {
        let queues = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .build(BATCH as u32)?;
        queues.submitter().register_files_sparse(sockets.min(SOCKETS_MAX) as u32)?;
        Ok(Self { queues })
    }

    /// Registers the socket of `key`.
    pub(super) fn add(&mut self, key: usize, socket: &TcpStream) -> io::Result<()> {
        self.queues.submitter().register_files_update(key as u32, &[socket.as_raw_fd()]).map(drop)
    }

    /// Forgets the socket of `key`. While the ring knows it, closing it closes nothing.
    pub(super) fn remove(&mut self, key: usize) -> io::Result<()> {
        self.queues.submitter().register_files_update(key as u32, &[-1]).map(drop)
    }

    /// Sends `bytes` to the sockets of all `keys`; those that didn't take all are added to `full`.
    pub(super) fn send_all(&mut self, keys: &[usize], bytes: &[u8], full: &mut Vec<usize>) {
        let flags = (SendFlags::DONTWAIT | SendFlags::NOSIGNAL).bits() as i32;
        for batch in keys.chunks(BATCH) {
            for &key in batch {
                let send = opcode::Send::new(Fixed(key as u32), bytes.as_ptr(), bytes.len() as u32);
                let entry = send.flags(flags).build().user_data(key as u64);
                // SAFETY: the kernel only reads `bytes`, and `complete` returns when each send of the batch is over.
                unsafe { self.queues.submission().push(&entry) }
                    .expect("the queue is empty before a batch and as long as one");
            }
            self.complete(batch.len(), bytes.len(), full);
        }
    }

    /// Submits what is queued and takes `count` completions.
    fn complete(&mut self, count: usize, whole: usize, full: &mut Vec<usize>) {
        let mut missing = count;
        while missing > 0 {
            match self.queues.submit_and_wait(missing) {
                Ok(_) => {}
                Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INTR | Errno::AGAIN)) => {}
                // Sends that stand in the kernel cannot be taken back, and their frame is about to go.
                Err(error) => {
                    eprintln!("fanfare-load: io_uring: {error}");
                    std::process::abort();
                }
            }
            for completion in self.queues.completion() {
                missing -= 1;
                if usize::try_from(completion.result()) != Ok(whole) {
                    full.push(completion.user_data() as usize);
                }
            }
        }
    }
}
