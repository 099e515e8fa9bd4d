//! The floor as its subscribers see it, with each of its writers: what they get byte for byte, and who is dropped.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not inside a test function, where it is allowed"
)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use io_uring::{IoUring, cqueue, squeue};
use running::Floor;

mod running;

impl Floor {
    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.url.strip_prefix("http://").unwrap()).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    }

    fn subscribe(&self) -> TcpStream {
        let mut socket = self.connect();
        socket
            .write_all(b"GET /topics/t HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            .unwrap();
        let answer = head(&mut socket);
        assert!(
            answer.starts_with("HTTP/1.1 101") && answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            "{answer}"
        );
        socket
    }
}

/// The ways to write that there are here; containers often forbid io_uring.
fn writers() -> Vec<&'static str> {
    let has_ring = IoUring::<squeue::Entry, cqueue::Entry>::builder()
        .setup_defer_taskrun()
        .setup_single_issuer()
        .build(1)
        .is_ok();
    ["send", "io-uring"].into_iter().take(1 + usize::from(has_ring)).collect()
}

/// Reads up to the empty line and not a byte further.
fn head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Posts the lines of `body` and waits for the answer: the offset it tells.
fn post(publisher: &mut TcpStream, body: &[u8]) -> String {
    let request = format!("POST /topics/t?split=lines HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    publisher.write_all(request.as_bytes()).unwrap();
    publisher.write_all(body).unwrap();
    let head = head(publisher);
    let length: usize =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
    let mut answer = vec![0; length];
    publisher.read_exact(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[test]
fn subscribers_that_come_and_go_get_what_was_posted_meanwhile() {
    for writer in writers() {
        for join in [&[][..], &["--join"]] {
            let floor = Floor::start(&[&["--writer", writer], join].concat());
            let mut publisher = floor.connect();
            // More than go into one batch of sends.
            let mut subscribers: Vec<_> = (0..300).map(|_| floor.subscribe()).collect();
            for round in 0..5 {
                let answer = post(&mut publisher, format!("one {round}\ntwo {round}\n").as_bytes());
                assert_eq!(answer, format!(r#"{{"offset":{}}}"#, 2 * round + 2));
                let expect = format!("\u{81}\u{5}one {round}\u{81}\u{5}two {round}");
                let expect: Vec<u8> = expect.chars().map(|c| c as u8).collect();
                for subscriber in &mut subscribers {
                    let mut received = vec![0; expect.len()];
                    subscriber.read_exact(&mut received).unwrap();
                    assert_eq!(received, expect, "{writer} {join:?}");
                }
                subscribers.drain(100..150);
                subscribers.extend((0..50).map(|_| floor.subscribe()));
            }
        }
    }
}

#[test]
fn a_subscriber_whose_socket_is_full_is_dropped_and_the_others_are_not() {
    const POSTS: usize = 400;
    for writer in writers() {
        let floor = Floor::start(&["--writer", writer]);
        let mut publisher = floor.connect();
        let (mut stalled, mut healthy) = (floor.subscribe(), floor.subscribe());
        let body = vec![b'x'; 60_000];
        let frame = [&[0x81, 126][..], &60_000_u16.to_be_bytes(), &body].concat();
        let mut received = vec![0; frame.len()];
        for _ in 0..POSTS {
            post(&mut publisher, &body);
            healthy.read_exact(&mut received).unwrap();
            assert!(received == frame, "{writer}: another frame than was posted");
        }
        // It is closed, and before that has whole frames and at most a part of one.
        let mut stalled_bytes = 0;
        loop {
            match stalled.read(&mut received) {
                Ok(0) => break,
                Ok(length) => stalled_bytes += length,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{writer}: {error}"),
            }
        }
        assert!(stalled_bytes < POSTS * frame.len(), "{writer}: {stalled_bytes} bytes");
    }
}
