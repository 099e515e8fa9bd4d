//! The ring against the kernel: socket pairs that take everything, a part, nothing, or are closed.

#[path = "../../../../fanout/tests/counting/mod.rs"]
mod counting;

use std::io::{IoSlice, Read, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::*;

fn id(slot: u32, generation: u32) -> SubscriberId {
    SubscriberId { slot, generation }
}

fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, theirs)
}

/// A ring with one socket in slot 0, and the other end of that.
fn ring_with_one() -> (Ring, UnixStream, UnixStream) {
    let mut ring = Ring::new(8).unwrap();
    let (ours, theirs) = pair();
    ring.add(id(0, 1), ours.as_fd()).unwrap();
    (ring, ours, theirs)
}

/// A ring with a socket in as many slots as a step has, and both ends of each.
fn full_ring(generation: u32) -> (Ring, Vec<(UnixStream, UnixStream)>) {
    let mut ring = Ring::new(STEP_MAX as u32).unwrap();
    let pairs: Vec<_> = (0..STEP_MAX).map(|_| pair()).collect();
    for (slot, (ours, _)) in pairs.iter().enumerate() {
        ring.add(id(slot as u32, generation), ours.as_fd()).unwrap();
    }
    (ring, pairs)
}

/// What became of each write that was not taken whole; `None` is one of a stranger.
fn write(ring: &mut Ring, writes: &[(SubscriberId, &[u8])]) -> Vec<(usize, Option<Written>)> {
    let mut answers = Vec::new();
    let writes = writes.iter().map(|&(to, bytes)| Write { to, bytes: WriteBytes::One(bytes) });
    ring.write_all(writes, |place, answer| {
        answers.push((
            place,
            match answer {
                Answer::Refused(written) => Some(written),
                Answer::Unknown(_) => None,
            },
        ));
    })
    .unwrap();
    assert!(ring.ring.submission().is_empty() && ring.ring.completion().is_empty());
    answers.sort_by_key(|(place, _)| *place);
    answers
}

fn read(socket: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ended = socket.read_to_end(&mut bytes);
    assert!(ended.is_ok() || ended.unwrap_err().kind() == ErrorKind::WouldBlock);
    bytes
}

#[test]
fn each_socket_gets_its_bytes_and_nobody_is_named() {
    let (mut ring, mut pairs) = full_ring(7);
    for round in 0..3 {
        let texts: Vec<_> = (0..STEP_MAX).map(|slot| format!("{slot} in {round}")).collect();
        let writes: Vec<_> =
            texts.iter().enumerate().map(|(slot, text)| (id(slot as u32, 7), text.as_bytes())).collect();
        assert_eq!(write(&mut ring, &writes), []);
        for ((_, theirs), text) in pairs.iter_mut().zip(&texts) {
            assert_eq!(read(theirs), text.as_bytes());
        }
    }
}

#[test]
fn pieces_arrive_as_one() {
    let (mut ring, _ours, mut theirs) = ring_with_one();
    let (other, mut others) = pair();
    ring.add(id(1, 2), other.as_fd()).unwrap();
    let [a, b, c] = [&b"one "[..], b"two ", b"three"].map(IoSlice::new);
    let (first, second) = ([a, b, c], [c, a]);
    let writes = [(id(0, 1), &first[..]), (id(1, 2), &second[..])];
    let writes = writes.map(|(to, slices)| Write { to, bytes: WriteBytes::Several(slices) });
    ring.write_all(writes.into_iter(), |_, _| panic!("both take everything")).unwrap();
    assert_eq!((read(&mut theirs), read(&mut others)), (b"one two three".into(), b"threeone ".into()));
}

#[test]
fn a_full_socket_takes_a_part_then_nothing_then_the_rest() {
    let (mut ring, _ours, mut theirs) = ring_with_one();
    let bytes: Vec<u8> = (0..4_000_000_u32).map(|number| (number % 251) as u8).collect();
    let mut sent = match write(&mut ring, &[(id(0, 1), &bytes)])[..] {
        [(0, Some(Written::Bytes(sent)))] => sent,
        ref other => panic!("{other:?}"),
    };
    assert!((1..bytes.len()).contains(&sent), "{sent}");
    assert_eq!(write(&mut ring, &[(id(0, 1), &bytes[sent..])]), [(0, Some(Written::Blocked))]);
    let mut received = Vec::new();
    while sent < bytes.len() {
        received.extend(read(&mut theirs));
        match write(&mut ring, &[(id(0, 1), &bytes[sent..])])[..] {
            [] => sent = bytes.len(),
            [(0, Some(Written::Bytes(more)))] => sent += more,
            ref other => panic!("{other:?}"),
        }
    }
    received.extend(read(&mut theirs));
    assert!(received == bytes, "{} of {} bytes, or others", received.len(), bytes.len());
}

#[test]
fn a_peer_that_is_gone_is_said_to_be() {
    let (mut ring, _ours, theirs) = ring_with_one();
    drop(theirs);
    // And no signal comes.
    assert_eq!(write(&mut ring, &[(id(0, 1), b"x")]), [(0, Some(Written::PeerGone))]);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ring.add(id(1, 1), ours.as_fd()).unwrap();
    theirs.write_all(b"?").unwrap();
    ours.peek(&mut [0]).unwrap();
    socket2::SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).unwrap();
    // Reset, and the byte above unread.
    drop(theirs);
    assert_eq!(write(&mut ring, &[(id(1, 1), b"x")]), [(0, Some(Written::PeerGone))]);
}

#[test]
fn the_trouble_of_some_is_not_that_of_others() {
    let mut ring = Ring::new(8).unwrap();
    let (healthy, mut reader) = pair();
    let (full, _unread) = pair();
    let (gone, reset) = pair();
    drop(reset);
    for (slot, socket) in [&healthy, &full, &gone].into_iter().enumerate() {
        ring.add(id(slot as u32, 1), socket.as_fd()).unwrap();
    }
    let large = vec![0; 4_000_000];
    assert_eq!(write(&mut ring, &[(id(1, 1), &large)]).len(), 1);
    let writes: [(_, &[u8]); 4] =
        [(id(2, 1), b"gone"), (id(1, 1), b"full"), (id(5, 1), b"stranger"), (id(0, 1), b"healthy")];
    let expect = [(0, Some(Written::PeerGone)), (1, Some(Written::Blocked)), (2, None)];
    assert_eq!(write(&mut ring, &writes), expect);
    assert_eq!(read(&mut reader), b"healthy");
}

#[test]
fn a_slot_is_for_whom_it_was_registered() {
    let (mut ring, ours, mut theirs) = ring_with_one();
    // An older user of the slot, a later one, a slot never used, and one past the end.
    for stranger in [id(0, 0), id(0, 2), id(1, 1), id(7, 1), id(u32::MAX, 1)] {
        assert_eq!(write(&mut ring, &[(stranger, b"x")]), [(0, None)], "{stranger:?}");
        ring.remove(stranger).unwrap();
    }
    assert!(ring.add(id(8, 1), ours.as_fd()).is_err(), "there are eight slots");
    assert_eq!(write(&mut ring, &[(id(0, 1), b"still here")]), []);
    ring.remove(id(0, 1)).unwrap();
    assert_eq!(write(&mut ring, &[(id(0, 1), b"x")]), [(0, None)]);

    // The next user gets its own bytes, also when it comes before the one before is removed.
    let (next, mut nexts) = pair();
    ring.add(id(0, 2), ours.as_fd()).unwrap();
    ring.add(id(0, 3), next.as_fd()).unwrap();
    ring.remove(id(0, 2)).unwrap();
    assert_eq!(write(&mut ring, &[(id(0, 2), b"x")]), [(0, None)]);
    assert_eq!(write(&mut ring, &[(id(0, 3), b"mine")]), []);
    assert_eq!((read(&mut theirs), read(&mut nexts)), (b"still here".into(), b"mine".into()));
}

#[test]
fn a_socket_that_is_removed_and_closed_is_closed_at_once() {
    let (mut ring, ours, mut theirs) = ring_with_one();
    assert_eq!(write(&mut ring, &[(id(0, 1), b"bye")]), []);
    ring.remove(id(0, 1)).unwrap();
    drop(ours);
    let mut bytes = Vec::new();
    theirs.read_to_end(&mut bytes).expect("the end is there, not only the bytes");
    assert_eq!(bytes, b"bye");
}

#[test]
fn what_a_panic_left_behind_is_never_submitted() {
    let (mut ring, _ours, mut theirs) = ring_with_one();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let bytes = vec![b'x'; 100];
        let writes = [Some(&bytes), None].into_iter().map(|bytes| {
            let bytes = bytes.expect("the first is there, the second is not");
            Write { to: id(0, 1), bytes: WriteBytes::One(bytes) }
        });
        ring.write_all(writes, |_, _| {})
    }));
    assert!(panicked.is_err());
    let write = Write { to: id(0, 1), bytes: WriteBytes::One(b"later") };
    assert!(ring.write_all(std::iter::once(write), |_, _| {}).is_err(), "the ring is given up");
    drop(ring);
    assert_eq!(read(&mut theirs), b"");
}

#[test]
fn more_than_a_step_is_written_by_others() {
    let (mut ring, _ours, mut theirs) = ring_with_one();
    let writes = vec![(id(0, 1), &b"x"[..]); STEP_MAX + 1];
    assert_eq!(write(&mut ring, &writes), [(STEP_MAX, None)]);
    assert_eq!(read(&mut theirs).len(), STEP_MAX);
}

#[test]
fn a_submission_does_not_allocate() {
    let (mut ring, mut pairs) = full_ring(1);
    let pieces = [&b"one "[..], b"two"].map(IoSlice::new);
    let one = WriteBytes::One(b"one two");
    let before = counting::allocations();
    for _ in 0..10 {
        let writes = (0..STEP_MAX).map(|slot| Write {
            to: id(slot as u32, 1),
            bytes: if slot % 2 == 0 { one } else { WriteBytes::Several(&pieces) },
        });
        ring.write_all(writes, |_, _| panic!("all take everything")).unwrap();
    }
    assert_eq!(counting::allocations(), before);
    pairs.iter_mut().for_each(|(_, theirs)| assert_eq!(read(theirs), b"one two".repeat(10)));
    assert!(counting::allocations() > before, "nothing is counted");
}
