//! How a thread reads its many subscribers: it is told what connections became, and given the bytes that came.
//!
//! ```text
//!     add ── Connected ── Bytes … ──┬── stream ── Bytes … ── remove     who reads at full pace
//!                                   └── pause ─────── resume ── …       who is slow is read by its owner, or not at all
//! ```
//!
//! One loop of `wait` and `next` serves both ways: [`Epoll`] works everywhere, [`Ring`] costs less where the kernel
//! allows it. A key is the caller's; what was under way for a key that was removed is never handed out.
//!
//! # Acknowledgements
//!
//! Where a client only reads, Linux sends an acknowledgement for each small message the moment it is read, and on one
//! machine the way of that segment up to the server's socket is the reader's time: more than half of it. With
//! [`Acks::Second`] who is streamed acknowledges every second segment (RFC 9293, section 3.8.6.3), as one that also talks
//! does by itself. The kernel drops that mode whenever an acknowledgement had to wait for its timer; it is set anew every
//! so many reads.
//!
//! # Owner        one thread, the one that first waits

use std::io::{self, ErrorKind};
use std::time::Duration;

use mio::net::TcpStream;
use socket2::SockRef;

use crate::args::{Acks, ReaderKind};
use crate::schedule::Clock;

use epoll::Epoll;
use ring::Ring;

mod epoll;
mod ring;

/// A system call each time, so not for every read.
const READS_PER_ACK_MODE: u8 = 8;

/// How sockets are to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) kind: ReaderKind,
    pub(crate) acks: Acks,
}

/// Reads the sockets of one thread.
#[derive(Debug)]
pub(crate) struct Reader {
    way: Way,
    acks: Acks,
    /// By key: reads until the mode of acknowledging is set; zero for those whose mode is the kernel's.
    reads_left: Vec<u8>,
}

#[derive(Debug)]
enum Way {
    Epoll(Epoll),
    Ring(Ring),
}

/// What came of one connection.
#[derive(Debug)]
pub(crate) struct Arrival<'r> {
    pub(crate) key: usize,
    /// When this program had it: never before the bytes were in its memory, and never made later by waiting for others.
    pub(crate) at_ns: u64,
    pub(crate) what: What<'r>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What<'r> {
    /// The connection stands or has failed.
    Connected,
    Bytes(&'r [u8]),
    End,
    Failed(ErrorKind),
}

/// The sockets by their keys; `None` for one that has ended.
pub(crate) trait Sockets {
    fn socket(&mut self, key: usize) -> Option<&mut TcpStream>;
}

impl Reader {
    /// A reader of the asked kind. Where the kernel has or permits no io_uring, `Auto` means epoll.
    pub(crate) fn new(reading: Reading, clock: Clock) -> io::Result<Self> {
        let way = match reading.kind {
            ReaderKind::Epoll => Way::Epoll(Epoll::new(clock)?),
            ReaderKind::IoUring => Way::Ring(Ring::new(clock)?),
            ReaderKind::Auto => match Ring::new(clock) {
                Ok(ring) => Way::Ring(ring),
                Err(_) => Way::Epoll(Epoll::new(clock)?),
            },
        };
        Ok(Self { way, acks: reading.acks, reads_left: Vec::new() })
    }

    /// Begins with a socket whose connection is being made.
    pub(crate) fn add(&mut self, key: usize, socket: &mut TcpStream) -> io::Result<()> {
        if key >= self.reads_left.len() {
            self.reads_left.resize(key + 1, 0);
        }
        self.reads_left[key] = 0;
        match &mut self.way {
            Way::Epoll(epoll) => epoll.add(key, socket)?,
            Way::Ring(ring) => ring.add(key, socket),
        }
        Ok(())
    }

    /// What comes for `key` may be received ahead from now on, into the reader's own memory.
    pub(crate) fn stream(&mut self, key: usize) {
        self.reads_left[key] = match self.acks {
            Acks::Each => 0,
            Acks::Second => 1,
        };
        if let Way::Ring(ring) = &mut self.way {
            ring.stream(key);
        }
    }

    /// Leaves `key` alone, which was never streamed: its bytes stay in its socket.
    pub(crate) fn pause(&mut self, key: usize, socket: &mut TcpStream) -> io::Result<()> {
        match &mut self.way {
            Way::Epoll(epoll) => epoll.pause(socket)?,
            Way::Ring(ring) => ring.pause(key),
        }
        Ok(())
    }

    /// Goes on with one that was paused.
    pub(crate) fn resume(&mut self, key: usize, socket: &mut TcpStream) -> io::Result<()> {
        match &mut self.way {
            Way::Epoll(epoll) => epoll.resume(key, socket)?,
            Way::Ring(ring) => ring.resume(key),
        }
        Ok(())
    }

    /// Forgets `key`, whose socket is about to be closed.
    pub(crate) fn remove(&mut self, key: usize) {
        if let Way::Ring(ring) = &mut self.way {
            ring.remove(key);
        }
    }

    /// Waits until something came, at most for `timeout`. Everything of the last wait has to be taken before.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        match &mut self.way {
            Way::Epoll(epoll) => epoll.wait(timeout),
            Way::Ring(ring) => ring.wait(timeout),
        }
    }

    /// The next of what came; `None` when all is taken.
    pub(crate) fn next(&mut self, sockets: &mut impl Sockets) -> Option<Arrival<'_>> {
        let arrival = match &mut self.way {
            Way::Epoll(epoll) => epoll.next(sockets),
            Way::Ring(ring) => ring.next(sockets),
        }?;
        if let (What::Bytes(_), left @ 1..) = (&arrival.what, &mut self.reads_left[arrival.key]) {
            *left -= 1;
            if *left == 0 {
                *left = READS_PER_ACK_MODE;
                if let Some(socket) = sockets.socket(arrival.key) {
                    // Without it everything works the same and costs more.
                    let _ = SockRef::from(&*socket).set_tcp_quickack(false);
                }
            }
        }
        Some(arrival)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{self, TcpListener};

    use slab::Slab;

    impl Sockets for Slab<TcpStream> {
        fn socket(&mut self, key: usize) -> Option<&mut TcpStream> {
            self.get_mut(key)
        }
    }

    /// Some subscribers, and the server's ends of their connections.
    struct Crowd {
        reader: Reader,
        listener: TcpListener,
        sockets: Slab<TcpStream>,
        ends: Vec<Option<net::TcpStream>>,
    }

    /// What came for one key, in words and bytes.
    #[derive(Debug, Default, Clone, PartialEq, Eq)]
    struct Came {
        connected: usize,
        bytes: Vec<u8>,
        ended: bool,
    }

    impl Crowd {
        fn new(reading: Reading) -> Option<Self> {
            // Containers often forbid io_uring.
            let reader = Reader::new(reading, Clock::start()).ok()?;
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            Some(Self { reader, listener, sockets: Slab::new(), ends: Vec::new() })
        }

        /// Connects one more and waits until the reader says so.
        fn connect(&mut self) -> usize {
            let mut socket = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let entry = self.sockets.vacant_entry();
            let key = entry.key();
            self.reader.add(key, &mut socket).unwrap();
            entry.insert(socket);
            self.ends.resize_with(self.ends.len().max(key + 1), || None);
            self.ends[key] = Some(self.listener.accept().unwrap().0);
            self.until(|came| came[key].connected > 0);
            key
        }

        fn send(&mut self, key: usize, bytes: &[u8]) {
            self.ends[key].as_mut().unwrap().write_all(bytes).unwrap();
        }

        /// Reads until what came is enough; what came since the call.
        fn until(&mut self, enough: impl Fn(&[Came]) -> bool) -> Vec<Came> {
            let mut came = vec![Came::default(); self.ends.len()];
            for _ in 0..2_000 {
                self.turn(&mut came);
                if enough(&came) {
                    return came;
                }
            }
            panic!("it never came: {came:?}")
        }

        fn turn(&mut self, came: &mut [Came]) {
            self.reader.wait(Duration::from_millis(10)).unwrap();
            while let Some(arrival) = self.reader.next(&mut self.sockets) {
                let came = &mut came[arrival.key];
                match arrival.what {
                    What::Connected => came.connected += 1,
                    What::Bytes(bytes) => came.bytes.extend_from_slice(bytes),
                    What::End => came.ended = true,
                    What::Failed(kind) => panic!("{kind}"),
                }
            }
        }
    }

    fn each_kind(check: impl Fn(Crowd)) {
        for (kind, acks) in [(ReaderKind::Epoll, Acks::Second), (ReaderKind::IoUring, Acks::Each)] {
            Crowd::new(Reading { kind, acks }).into_iter().for_each(&check);
        }
    }

    #[test]
    fn everything_comes_in_order_however_much_it_is() {
        each_kind(|mut crowd| {
            // Several times what the shared buffers hold, while nobody reads.
            let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
            let keys: Vec<_> = (0..30).map(|_| crowd.connect()).collect();
            keys.iter().for_each(|&key| crowd.reader.stream(key));
            let ends: Vec<_> =
                crowd.ends.iter().map(|end| end.as_ref().unwrap().try_clone().unwrap()).collect();
            std::thread::scope(|scope| {
                for mut end in ends {
                    let bytes = &bytes;
                    scope.spawn(move || end.write_all(bytes).unwrap());
                }
                let came = crowd.until(|came| came.iter().all(|came| came.bytes.len() >= bytes.len()));
                assert!(came.iter().all(|came| came.bytes == bytes && !came.ended));
            });
        });
    }

    #[test]
    fn the_end_comes_after_the_last_bytes_streamed_or_not() {
        each_kind(|mut crowd| {
            let (streamed, plain) = (crowd.connect(), crowd.connect());
            crowd.reader.stream(streamed);
            for key in [streamed, plain] {
                crowd.send(key, b"last");
                crowd.ends[key] = None;
            }
            let came = crowd.until(|came| came.iter().all(|came| came.ended));
            assert!(came.iter().all(|came| came.bytes == b"last"), "{came:?}");
        });
    }

    #[test]
    fn a_paused_socket_keeps_its_bytes_until_it_is_resumed() {
        each_kind(|mut crowd| {
            let (paused, other) = (crowd.connect(), crowd.connect());
            crowd.send(paused, b"head");
            crowd.until(|came| came[paused].bytes == b"head");
            crowd.reader.pause(paused, &mut crowd.sockets[paused]).unwrap();
            crowd.send(paused, b"later");
            crowd.send(other, b"now");
            let came = crowd.until(|came| came[other].bytes == b"now");
            assert_eq!(came[paused], Came::default());
            let mut part = [0; 2];
            crowd.sockets[paused].read_exact(&mut part).unwrap();
            assert_eq!(&part, b"la", "its owner reads it");
            crowd.reader.resume(paused, &mut crowd.sockets[paused]).unwrap();
            crowd.until(|came| came[paused].bytes == b"ter");
        });
    }

    #[test]
    fn a_key_that_is_used_again_hears_nothing_of_the_socket_before() {
        each_kind(|mut crowd| {
            for round in 0..20_u8 {
                let (key, other) = (crowd.connect(), crowd.connect());
                crowd.reader.stream(key);
                crowd.send(key, &[round, 1]);
                crowd.until(|came| came[key].bytes == [round, 1]);
                // On its way when the socket goes.
                crowd.send(key, b"old");
                let mut end = crowd.ends[key].take().unwrap();
                crowd.reader.remove(key);
                crowd.sockets.remove(key);
                assert_eq!(crowd.connect(), key);
                crowd.send(key, b"new");
                let came = crowd.until(|came| !came[key].bytes.is_empty());
                assert_eq!(came[key].bytes, b"new");
                // The old one is closed, although an order stood in the kernel.
                end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let closed = end.read(&mut [0; 8]);
                assert!(
                    !matches!(&closed, Err(error) if error.kind() == ErrorKind::WouldBlock),
                    "{closed:?}"
                );
                for key in [key, other] {
                    crowd.reader.remove(key);
                    crowd.sockets.remove(key);
                }
            }
        });
    }
}
