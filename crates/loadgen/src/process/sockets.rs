//! The kernel's memory for the TCP sockets of some processes.
//!
//! A process's descriptors name the sockets by their inodes; the kernel tells the memory of all TCP sockets with their
//! inodes (`sock_diag(7)`, as `ss -m` asks it). The two are joined here. The three structures that are needed are read by
//! their offsets: they are the kernel's interface and don't change.
//!
//! # Bounds       [`ANSWERS_MAX`] reads of an answer, each waited for [`ANSWER_WAIT`] at most

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

const ANSWERS_MAX: usize = 100_000;
const ANSWER_WAIT: Duration = Duration::from_secs(2);
const ANSWER_BYTES: usize = 64 * 1024;

/// `struct nlmsghdr`, and what its type can be.
const HEADER_BYTES: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;

/// `struct inet_diag_msg`.
const SOCKET_BYTES: usize = 72;
const INODE_AT: usize = 68;
/// `INET_DIAG_SKMEMINFO`, and the places in it that are memory in use: received, kept in advance, to be sent, options,
/// not looked at yet. The others are bounds, drops, and what is counted under "to be sent" too.
const MEMORY: u16 = 7;
const IN_USE: [usize; 5] = [0, 4, 5, 6, 7];

/// What the TCP sockets of `pids` hold now.
pub(super) fn kernel_bytes(pids: &[u32]) -> io::Result<u64> {
    let mut inodes = HashSet::new();
    for pid in pids {
        inodes_of(*pid, &mut inodes)?;
    }
    let mut bytes = 0;
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        for_each(family, |socket| {
            if inodes.contains(&socket.inode) {
                bytes += socket.bytes;
            }
        })?;
    }
    Ok(bytes)
}

fn inodes_of(pid: u32, inodes: &mut HashSet<u32>) -> io::Result<()> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor may be closed while it is looked at.
        if let Ok(link) = std::fs::read_link(entry?.path()) {
            inodes.extend(link.to_str().and_then(inode_of));
        }
    }
    Ok(())
}

fn inode_of(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// One TCP socket.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    inode: u32,
    bytes: u64,
}

/// Asks the kernel for all TCP sockets of `family`.
fn for_each(family: AddressFamily, mut found: impl FnMut(Socket)) -> io::Result<()> {
    let (kind, flags) = (SocketType::DGRAM, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, Some(netlink::SOCK_DIAG))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WAIT))?;
    rustix::net::send(&socket, &request(family), SendFlags::empty())?;
    let mut buffer = vec![0; ANSWER_BYTES];
    for _ in 0..ANSWERS_MAX {
        let (_, length) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if parse(buffer.get(..length).unwrap_or_default(), &mut found)? {
            return Ok(());
        }
    }
    Err(io::Error::other("the kernel's list of sockets has no end"))
}

/// `nlmsghdr` and `inet_diag_req_v2`: TCP in all states, with its memory.
fn request(family: AddressFamily) -> [u8; 72] {
    let mut request = [0; 72];
    request[..4].copy_from_slice(&72_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request[16] = family.as_raw() as u8;
    request[17] = rustix::net::ipproto::TCP.as_raw().get() as u8;
    request[18] = 1 << (MEMORY - 1);
    request[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
    request
}

/// Reads the messages of an answer; whether it was the last.
fn parse(mut answer: &[u8], found: &mut impl FnMut(Socket)) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (u32_at(answer, 0), u16_at(answer, 4)) {
        let length = length as usize;
        let Some(body) = answer.get(HEADER_BYTES..length) else {
            return Err(io::Error::other("a message of the kernel that is cut off"));
        };
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = u32_at(body, 0).unwrap_or_default() as i32;
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            SOCK_DIAG_BY_FAMILY => {
                if let (Some(inode), Some(bytes)) = (u32_at(body, INODE_AT), memory(body)) {
                    found(Socket { inode, bytes });
                }
            }
            _ => {}
        }
        answer = answer.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

/// The memory in use among the attributes of a socket.
fn memory(body: &[u8]) -> Option<u64> {
    let mut attributes = body.get(SOCKET_BYTES..)?;
    loop {
        let (length, kind) = (usize::from(u16_at(attributes, 0)?), u16_at(attributes, 2)?);
        let value = attributes.get(4..length)?;
        if kind == MEMORY {
            return Some(IN_USE.iter().filter_map(|place| u32_at(value, place * 4)).map(u64::from).sum());
        }
        attributes = attributes.get(aligned(length)..)?;
    }
}

/// Messages and attributes begin at every fourth byte.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    fn socket(inode: u32, attributes: &[u8]) -> Vec<u8> {
        let mut body = vec![0; INODE_AT];
        body.extend(inode.to_ne_bytes());
        body.extend(attributes);
        message(SOCK_DIAG_BY_FAMILY, &body)
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = 4 + value.len() as u16;
        let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        attribute.extend(value);
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        attribute
    }

    fn parsed(answer: &[u8]) -> (Option<bool>, Vec<Socket>) {
        let mut found = Vec::new();
        let done = parse(answer, &mut |socket| found.push(socket)).ok();
        (done, found)
    }

    #[test]
    fn the_memory_is_found_among_other_attributes() {
        let counts: Vec<u8> = [1_u32, 1000, 20, 2000, 300, 4000, 50_000, 600_000, 7]
            .iter()
            .flat_map(|n| n.to_ne_bytes())
            .collect();
        let attributes = [attribute(8, &[1]), attribute(MEMORY, &counts)].concat();
        let answer =
            [socket(7, &attributes), socket(8, &attribute(8, &[1])), message(DONE, &[0; 4])].concat();
        assert_eq!(parsed(&answer), (Some(true), vec![Socket { inode: 7, bytes: 654_301 }]));
        assert_eq!(parsed(&answer[..answer.len() - 20]).0, Some(false), "more is to come");
    }

    #[test]
    fn no_bytes_make_it_panic_or_go_round_for_ever() {
        let attributes = [attribute(8, &[1]), attribute(MEMORY, &[1; 36])].concat();
        let answer = [socket(7, &attributes), message(ERROR, &(-2_i32).to_ne_bytes())].concat();
        for cut in 0..answer.len() {
            let _ = parsed(&answer[..cut]);
            for byte in [0, 1, 3, 4, 15, 255] {
                let mut wrong = answer.clone();
                wrong[cut] = byte;
                let _ = parsed(&wrong);
            }
        }
        assert_eq!(parsed(&answer).0, None, "an error of the kernel");
    }

    #[test]
    fn a_link_names_a_socket_or_not() {
        let check = |link, expect| assert_eq!(inode_of(link), expect, "{link}");
        check("socket:[12]", Some(12));
        check("pipe:[12]", None);
        check("socket:[x]", None);
        check("/dev/null", None);
    }

    #[test]
    fn what_a_socket_has_not_read_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _server = listener.accept().unwrap();
        client.write_all(&[0; 30_000]).unwrap();
        let own = [std::process::id()];
        let held = kernel_bytes(&own).unwrap();
        assert!(held >= 30_000, "{held} bytes");
        assert_eq!(kernel_bytes(&[]).unwrap(), 0);
    }
}
