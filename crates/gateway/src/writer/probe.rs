//! Whether this kernel, and whoever confines this process, lets it have rings that do what is expected of them.

use std::io::{Error, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use fanfare_fanout::{SubscriberId, Write, WriteBytes, Written};

use super::ring::{Answer, Ring};

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    /// Seccomp, as of many container runtimes, or `kernel.io_uring_disabled`.
    #[error("io_uring is forbidden here: {0}")]
    Forbidden(Error),
    #[error("this kernel has no io_uring")]
    Missing,
    /// Linux before 6.1, mostly.
    #[error("this kernel's io_uring is too old: {0}")]
    TooOld(Error),
    #[error("io_uring cannot be opened: {0}")]
    Failed(Error),
    #[error("io_uring {0}")]
    Misbehaves(&'static str),
}

impl From<Error> for Unavailable {
    fn from(error: Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::Missing,
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden(error),
            Some(libc::EINVAL) => Self::TooOld(error),
            _ => Self::Failed(error),
        }
    }
}

/// Opens a ring, and sends through it.
///
/// On a thread of its own, because the end of a ring interrupts what the thread that had it waits for.
pub(crate) fn probe() -> Result<(), Unavailable> {
    let probing = std::thread::spawn(try_one);
    probing.join().unwrap_or(Err(Unavailable::Misbehaves("makes the probe panic")))
}

fn try_one() -> Result<(), Unavailable> {
    let id = SubscriberId { slot: 0, generation: 1 };
    let (ours, mut theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let mut ring = Ring::new(1)?;
    ring.add(id, ours.as_fd())?;
    let bytes = [b'x'; 4096];
    let mut last = None;
    while last.is_none() {
        let write = Write { to: id, bytes: WriteBytes::One(&bytes) };
        ring.write_all(std::iter::once(write), |_, answer| last = Some(answer))?;
    }
    if !matches!(last, Some(Answer::Refused(Written::Blocked | Written::Bytes(_)))) {
        return Err(Unavailable::Misbehaves("does not say when a socket is full"));
    }
    // A peer that waits for its end must get it when the socket is closed, not some time later.
    ring.remove(id)?;
    drop(ours);
    match read_all(&mut theirs) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(Unavailable::Misbehaves("keeps sockets open that are closed"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads to the end of what there is.
fn read_all(socket: &mut UnixStream) -> Result<(), Error> {
    let mut scratch = [0; 4096];
    while socket.read(&mut scratch)? > 0 {}
    Ok(())
}
