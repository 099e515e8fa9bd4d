//! What a panic costs: in a connection's task that connection, in what all share the worker.
//!
//! A task panics here because the test holds what it needs to borrow.
#![expect(clippy::await_holding_refcell_ref, reason = "it is how the tasks are made to panic")]

use fanfare_wire::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::beside::{beside_a_worker, beside_a_worker_of, connect, read_until};
use super::*;
use crate::config::{AuthRules, Config, Scope};

const HANDSHAKE: &str = "GET /topics/a HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const STREAM: &str = "GET /topics/a HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n";

/// Everything up to the end.
async fn rest(client: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset says as well that it is over.
    let _ = client.read_to_end(&mut rest).await;
    rest
}

#[test]
fn a_panic_in_a_subscribers_task_ends_its_connection_and_no_other() {
    let ended = beside_a_worker(|worker, address| async move {
        let mut neighbour = connect(address, HANDSHAKE, "\r\n\r\n").await;
        let mut socket = connect(address, HANDSHAKE, "\r\n\r\n").await;
        let mut stream = connect(address, STREAM, ":ok\n\r\n").await;
        assert_eq!((worker.open.get(), worker.shard.borrow().topics()), (3, 1));

        let held = worker.scratch.borrow_mut();
        socket.write_all(b"\x89\x80KEY!").await.unwrap();
        let farewell = rest(&mut socket).await;
        // A ping may have come before.
        let farewell = farewell.strip_prefix(b"\x89\0").unwrap_or(&farewell);
        assert_eq!((farewell[0], &farewell[2..4]), (0x88, &1011u16.to_be_bytes()[..]), "{farewell:?}");
        stream.write_all(b"what is read is thrown away").await.unwrap();
        assert!(rest(&mut stream).await.ends_with(b"0\r\n\r\n"));
        drop(held);

        let counters = worker.counters();
        let closes = counters.closes[DisconnectReason::Internal.index()].read();
        assert_eq!((counters.panics.read(), closes, worker.open.get()), (2, 2, 1));
        assert_eq!((counters.raw_connections.read(), counters.stream_connections.read()), (1, 0));
        let topic = Topic::new("a").unwrap();
        worker.publish(&topic, vec![Draft::new(topic.clone(), Kind::Text, b"x")]).unwrap();
        read_until(&mut neighbour, "\x01x").await;
        drop(neighbour);
        while worker.open.get() > 0 {
            yield_now().await;
        }
        assert_eq!((worker.shard.borrow().topics(), counters.raw_connections.read()), (0, 0));
    });
    assert!(ended.is_none(), "{ended:?}");
}

#[test]
fn a_panic_at_the_beginning_of_a_subscriber_leaves_nothing_of_it() {
    let anonymous = Some(Scope { publish: Vec::new(), subscribe: Vec::new() });
    let auth = AuthRules { anonymous, ..AuthRules::default() };
    let ended = beside_a_worker_of(Config { auth, ..Config::default() }, |worker, address| async move {
        let held = worker.tokens.borrow_mut();
        // A frame that comes together with the handshake is read before the connection has a task.
        let auth = r#"{"type":"auth","token":"a.b.c"}"#;
        let ws = HANDSHAKE.replace("/topics/a", "/ws");
        let request = [ws.as_bytes(), &[0x81, 0x80 | auth.len() as u8, 0, 0, 0, 0], auth.as_bytes()].concat();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&request).await.unwrap();
        read_until(&mut client, "\r\n\r\n").await;
        let farewell = rest(&mut client).await;
        assert_eq!((farewell[0], &farewell[2..4]), (0x88, &1011u16.to_be_bytes()[..]), "{farewell:?}");
        drop(held);

        let counters = worker.counters();
        let closes = counters.closes[DisconnectReason::Internal.index()].read();
        assert_eq!((counters.panics.read(), closes, worker.open.get()), (1, 1, 0));
        assert_eq!((counters.json_connections.read(), counters.http_connections.read()), (0, 0));
        assert_eq!(worker.connections.borrow().every(0, 1).count(), 0);
        connect(address, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", "ok\n").await;
    });
    assert!(ended.is_none(), "{ended:?}");
}

#[test]
fn a_panic_in_a_request_ends_its_connection_and_no_other() {
    let ended = beside_a_worker(|worker, address| async move {
        let held = worker.scratch.borrow_mut();
        // What is left of a refused body is read into what is held.
        let post = "POST /topics/a HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n";
        let mut client = connect(address, post, "}}").await;
        client.write_all(b"more").await.unwrap();
        assert_eq!(rest(&mut client).await, b"");
        while worker.open.get() > 0 {
            yield_now().await;
        }
        drop(held);
        let counters = worker.counters();
        assert_eq!((counters.panics.read(), counters.http_connections.read()), (1, 0));
        connect(address, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", "ok\n").await;
    });
    assert!(ended.is_none(), "{ended:?}");
}

#[test]
fn a_panic_in_a_task_that_all_need_ends_the_worker() {
    let ended = beside_a_worker(|worker, _| async move {
        let _held = worker.liveness.borrow_mut();
        pending().await
    });
    assert_eq!(ended.unwrap().unwrap_err().to_string(), "a task of it panicked");
}

#[test]
fn a_panic_in_a_pass_ends_the_worker() {
    let ended = beside_a_worker(|worker, _| async move {
        let topic = Topic::new("a").unwrap();
        worker.publish(&topic, vec![Draft::new(topic.clone(), Kind::Text, b"x")]).unwrap();
        // The pings need what is held, too, and may come first.
        let _held = worker.report.borrow_mut();
        pending().await
    });
    assert_eq!(ended.unwrap().unwrap_err().to_string(), "a task of it panicked");
}
