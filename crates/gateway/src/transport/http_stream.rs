//! A response that does not end: server-sent events or lines of JSON, in HTTP chunks.
//!
//! The request's socket is taken back from hyper before it has written anything, the response's head goes out, and from
//! then on the connection is a subscriber like any other: frames of a pass are written by the worker.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use fanfare_fanout::Beginning;
use fanfare_wire::command::{Start, Wanted};
use fanfare_wire::event::{Event, GapReason};
use fanfare_wire::{FormatId, Position, Topic, chunk};

use super::disconnect::DisconnectReason;
use super::write_waiting;
use crate::auth::origins::Readers;
use crate::client::Client;
use crate::connection::{Connection, Permit};
use crate::error::{ApiError, retry_seconds};
use crate::poll;
use crate::request_id::{self, RequestId};
use crate::socket::Socket;
use crate::subscribe;
use crate::transport;
use crate::worker::Worker;

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) format: FormatId,
    /// Topics and wildcards, checked already. Formats of one topic have one.
    pub(crate) wanted: Vec<Wanted<'static>>,
    /// An event now and then, for clients that cannot see comments.
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) client: Client,
    /// Which pages may read it.
    pub(crate) readers: Readers,
    /// The request's name, if it has one.
    pub(crate) id: Option<RequestId>,
}

/// Makes a stream and its beginning. What is returned is all that stays of it in memory while it is idle.
pub(crate) fn open(worker: Rc<Worker>, socket: Socket, request: Request, permit: Permit) -> HttpStream {
    let connection = worker.connect(socket, request.format, request.client.clone(), permit);
    transport::begin(&worker, &connection, || begin(&worker, &connection, &request));
    HttpStream { worker, connection, shut: false, polled: false }
}

/// A stream's task, to its end.
pub(crate) struct HttpStream {
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    /// Our side is closed: everything is written.
    shut: bool,
    /// Inside of a poll: who is dropped there has panicked.
    polled: bool,
}

impl Drop for HttpStream {
    fn drop(&mut self) {
        if self.polled {
            self.worker.give_up(&self.connection);
        }
    }
}

impl Future for HttpStream {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let stream = self.get_mut();
        stream.polled = true;
        let gone_on = stream.go_on(context);
        stream.polled = false;
        gone_on
    }
}

impl HttpStream {
    /// Goes on with whatever can go on. Ready when the connection is over.
    fn go_on(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Self { worker, connection, shut, .. } = self;
        connection.set_waker(context.waker());
        if connection.expired.get()
            || !listen(worker, connection, context)
            || !write_waiting(worker, connection, context)
        {
            let reason = connection.closing.get().unwrap_or(DisconnectReason::PeerGone);
            worker.disconnect(connection, reason);
            return Poll::Ready(());
        }
        let is_over = connection.closing.get().is_some() && !worker.shard.borrow().is_waiting(connection.id);
        if is_over && !*shut {
            // The peer's end is awaited, so that it gets to read ours.
            *shut = connection.socket.poll_shutdown(context).is_ready();
        }
        Poll::Pending
    }
}

fn begin(worker: &Worker, connection: &Connection, request: &Request) {
    let opened = match request.format {
        FormatId::EVENTS => open_many(worker, connection, request),
        _ => open_one(worker, connection, request),
    };
    if let Some(interval) = request.heartbeat {
        worker.liveness.borrow_mut().beat(interval, connection.id);
    }
    if let Err(reason) = opened {
        worker.close(connection, reason);
    }
}

/// A stream of one topic: messages name their place, and nothing else is said unless something is lost.
fn open_one(worker: &Worker, connection: &Connection, request: &Request) -> Result<(), DisconnectReason> {
    let Some(wanted) = request.wanted.first() else { return Ok(()) };
    let begun = match subscribe::subscribe(worker, connection.id, &connection.client, wanted) {
        Ok(begun) => begun,
        Err(refusal) => {
            refuse(worker, connection, request, DisconnectReason::Refused, &poll::refusal(refusal));
            return Ok(());
        }
    };
    let mut head = head(connection.format, &request.readers);
    if let (Some(false), Some(position)) = (begun.recovered, begun.position)
        && let Some(gap) = gap(connection.format, &begun.beginnings, position, &wanted.start)
    {
        head.extend_from_slice(&gap);
    }
    worker.shard.borrow_mut().push_control(connection.id, head.into())?;
    Ok(worker.shard.borrow_mut().replay(connection.id, begun.beginnings)?)
}

/// A stream of many topics: begins with what a native client is told, and from where on it can be resumed.
fn open_many(worker: &Worker, connection: &Connection, request: &Request) -> Result<(), DisconnectReason> {
    let format = connection.format.format();
    let registry = &worker.shared.dispatch.registry;
    // Read before the first place is: what comes later is replayed, or comes live.
    let through = registry.watermark();
    let (topics, beginnings, _) =
        subscribe::subscribe_to_all(worker, connection.id, &connection.client, &request.wanted);
    let mut head = head(connection.format, &request.readers);
    head.extend(format.mark(registry.epoch(), through).unwrap_or_default());
    head.extend(format.event(&Event::Subscribed { id: None, topics }).unwrap_or_default());
    worker.shard.borrow_mut().push_control(connection.id, head.into())?;
    Ok(worker.shard.borrow_mut().replay(connection.id, beginnings)?)
}

/// Answers the request after all, as nothing is written yet, and ends the connection.
fn refuse(
    worker: &Worker,
    connection: &Connection,
    request: &Request,
    reason: DisconnectReason,
    error: &ApiError,
) {
    let path = match (request.format, request.wanted.first()) {
        (FormatId::EVENTS, _) | (_, None) => "/events".into(),
        (_, Some(wanted)) => format!("/topics/{}", wanted.topic),
    };
    let address = &connection.client.address;
    let line = request_id::line(worker, address, request.id.as_ref(), &path, error);
    let lines = line + &request.readers.lines();
    worker.close_with(connection, reason, error.last_answer(retry_seconds(), &lines).into());
}

/// Everything before the first message: no proxy may keep, change or hold back what follows.
fn head(format: FormatId, readers: &Readers) -> Vec<u8> {
    let (content_type, first) = match format {
        // Browsers wait two seconds before they come back; the comment makes the stream's start visible at once.
        FormatId::EVENT_STREAM | FormatId::EVENTS => ("text/event-stream", &b"retry: 2000\n:ok\n"[..]),
        _ => ("application/x-ndjson", &b"\n"[..]),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncache-control: no-cache, no-transform\r\n\
         x-accel-buffering: no\r\n{}connection: close\r\ntransfer-encoding: chunked\r\n\r\n",
        readers.lines()
    );
    [head.as_bytes(), &chunk::chunk(first)].concat()
}

/// Says what a client that named a place does not get. In another epoch that begins with the first message.
fn gap(format: FormatId, beginnings: &[Beginning], head: Position, start: &Start<'_>) -> Option<Bytes> {
    let beginning = beginnings.first()?;
    let topic: &Topic = &beginning.topic;
    let Position { epoch, offset } = head;
    let (from, reason) = match start {
        Start::After { epoch: known, offset: seen } if known.parse() == Ok(epoch) && *seen < offset => {
            (seen + 1, GapReason::Evicted)
        }
        _ => (1, GapReason::Reset),
    };
    let to = beginning.messages.first().map_or(offset, |first| first.offset() - 1);
    // A count that has just begun anew may have lost nothing; the client still has to forget the old one.
    let to = to.max(from - 1);
    format.format().event(&Event::Gap { topic, epoch, from, to, reason })
}

/// Waits for the peer's end. What it says meanwhile, such as a next request, is not read by anybody. `false` at the end.
fn listen(worker: &Worker, connection: &Connection, context: &mut Context<'_>) -> bool {
    loop {
        match connection.socket.poll_read_ready(context) {
            Poll::Pending => return true,
            Poll::Ready(Err(_)) => return false,
            Poll::Ready(Ok(())) => {}
        }
        match connection.socket.try_read(&mut worker.scratch.borrow_mut()) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
}
