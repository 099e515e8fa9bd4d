//! A response that does not end: server-sent events or lines of JSON, in HTTP chunks.
//!
//! The request's socket is taken back from hyper before it has written anything, the response's head goes out, and from
//! then on the connection is a subscriber like any other: frames of a pass are written by the worker.

use std::net::Shutdown;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use fanfare_wire::FormatId;
use fanfare_wire::command::Start;
use fanfare_wire::{Topic, chunk};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::disconnect::DisconnectReason;
use super::write_waiting;
use crate::connection::{Connection, Permit};
use crate::session;
use crate::worker::Worker;

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) format: FormatId,
    pub(crate) topic: Topic,
    pub(crate) start: Start<'static>,
}

/// Runs a stream to its end.
pub(crate) async fn run(worker: Rc<Worker>, stream: TcpStream, request: Request, permit: Permit) {
    let connection = worker.connect(stream, request.format, permit);
    if let Err(reason) = open(&worker, &connection, &request) {
        worker.close(&connection, reason);
    }
    drop(request);
    let mut shut = false;
    let reason = std::future::poll_fn(|context| poll(&worker, &connection, &mut shut, context)).await;
    worker.disconnect(&connection, reason);
}

/// The response's head, the first bytes, and the subscription.
fn open(worker: &Worker, connection: &Connection, request: &Request) -> Result<(), DisconnectReason> {
    let head = head(request.format);
    worker.shard.borrow_mut().push_control(connection.id, head)?;
    session::subscribe_one(worker, connection, &request.topic, &request.start)
        .map_err(|_| DisconnectReason::Refused)
}

/// Everything before the first message: no proxy may keep, change or hold back what follows.
fn head(format: FormatId) -> Bytes {
    let (content_type, first) = match format {
        // Browsers wait two seconds before they come back; the comment makes the stream's start visible at once.
        FormatId::EVENT_STREAM => ("text/event-stream", &b"retry: 2000\n:ok\n"[..]),
        _ => ("application/x-ndjson", &b"\n"[..]),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncache-control: no-cache, no-transform\r\n\
         x-accel-buffering: no\r\naccess-control-allow-origin: *\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    [head.as_bytes(), &chunk::chunk(first)].concat().into()
}

fn poll(
    worker: &Worker,
    connection: &Connection,
    shut: &mut bool,
    context: &mut Context<'_>,
) -> Poll<DisconnectReason> {
    connection.set_waker(context.waker());
    let reason = || connection.closing.get().unwrap_or(DisconnectReason::PeerGone);
    if connection.expired.get()
        || !listen(worker, connection, context)
        || !write_waiting(worker, connection, context)
    {
        return Poll::Ready(reason());
    }
    let is_over = connection.closing.get().is_some() && !worker.shard.borrow().is_waiting(connection.id);
    if is_over && !std::mem::replace(shut, true) {
        // The peer's end is awaited, so that it gets to read ours.
        let _ = SockRef::from(&connection.stream).shutdown(Shutdown::Write);
    }
    Poll::Pending
}

/// Waits for the peer's end. What it says meanwhile, such as a next request, is not read by anybody. `false` at the end.
fn listen(worker: &Worker, connection: &Connection, context: &mut Context<'_>) -> bool {
    loop {
        match connection.stream.poll_read_ready(context) {
            Poll::Pending => return true,
            Poll::Ready(Err(_)) => return false,
            Poll::Ready(Ok(())) => {}
        }
        match connection.stream.try_read(&mut worker.scratch.borrow_mut()) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
}
