//! The floor: a server that does nothing but the writes, so that its CPU per delivery is what the sockets cost here.
//!
//! One thread and one event loop. A POST's frame is built once; then it is written to all sockets of the topic, with a
//! plain loop of `send` or through io_uring ([`Writer`]), and after it comes the answer. It checks nothing that it
//! doesn't need, keeps no message and no queue, and drops a subscriber whose socket takes less than a whole frame.
//!
//! # Bounds       a request is at most [`REQUEST_BYTES_MAX`]

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read as _, Write as _};

use anyhow::Context as _;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;

use crate::args::{Floor, WriterKind};
use crate::http::{self, Parsed};
use crate::websocket::{self, CLOSE, TEXT, write_frame};

use ring::Ring;
use writer::Writer;

mod ring;
mod writer;

const LISTENER: Token = Token(usize::MAX);
const REQUEST_BYTES_MAX: usize = 16 << 20;
const READ_BYTES: usize = 64 * 1024;

/// Serves until the process is ended.
pub(crate) fn run(options: &Floor) -> anyhow::Result<()> {
    let files = rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the limit of open files")?;
    let writer = match options.writer {
        WriterKind::Send => Writer::Send,
        WriterKind::IoUring => Writer::Ring(Box::new(Ring::new(files).context(
            "the kernel has no io_uring for this process (it needs Linux 6.1, and a sandbox may forbid it); \
             --writer send works everywhere",
        )?)),
    };
    let mut listener =
        TcpListener::bind(options.listen).with_context(|| format!("cannot listen on {}", options.listen))?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("listening on {}", listener.local_addr()?);
    io::stdout().flush()?;

    let mut server = Server { join: options.join, writer, connections: Slab::new(), topics: HashMap::new() };
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            match event.token() {
                LISTENER => server.accept(&listener, poll.registry())?,
                Token(key) => server.handle_readable(key, &mut buffer)?,
            }
        }
    }
}

struct Server {
    join: bool,
    writer: Writer,
    connections: Slab<Connection>,
    topics: HashMap<String, Topic>,
}

#[derive(Default)]
struct Topic {
    subscribers: Vec<usize>,
    offset: u64,
}

struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
    /// The topic it is subscribed to.
    topic: Option<String>,
}

/// What a connection asked for.
enum Request {
    Subscribe { topic: String, key: String },
    Publish { topic: String, split: bool, body: std::ops::Range<usize> },
}

impl Server {
    fn accept(&mut self, listener: &TcpListener, registry: &Registry) -> io::Result<()> {
        loop {
            let mut socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nodelay(true)?;
            let entry = self.connections.vacant_entry();
            registry.register(&mut socket, Token(entry.key()), Interest::READABLE)?;
            let connection = Connection { socket, received: Vec::new(), topic: None };
            self.writer.add(entry.key(), &connection)?;
            entry.insert(connection);
        }
    }

    fn handle_readable(&mut self, key: usize, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            // Dropped by an event before this one.
            let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
            match connection.socket.read(buffer) {
                Ok(0) => return self.drop_connection(key),
                Ok(length) => {
                    let alive = match &connection.topic {
                        Some(_) => buffer[0] & 0x0f != CLOSE,
                        None => {
                            connection.received.extend_from_slice(&buffer[..length]);
                            self.serve(key)?
                        }
                    };
                    if !alive {
                        return self.drop_connection(key);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.drop_connection(key),
            }
        }
    }

    /// Serves all requests that are whole; `false` if the connection is of no use any more.
    fn serve(&mut self, key: usize) -> io::Result<bool> {
        let mut received = std::mem::take(&mut self.connections[key].received);
        let mut used = 0;
        loop {
            match request(&received[used..]) {
                Parsed::Partial => break,
                Parsed::Malformed(why) => {
                    let answer = format!(
                        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{why}",
                        why.len()
                    );
                    // It is dropped next, whether it took the answer or not.
                    let _ = self.connections[key].socket.write(answer.as_bytes());
                    return Ok(false);
                }
                Parsed::Whole(Request::Subscribe { topic, key: websocket_key }, length) => {
                    used += length;
                    if !self.subscribe(key, topic, &websocket_key) {
                        return Ok(false);
                    }
                }
                Parsed::Whole(Request::Publish { topic, split, body }, length) => {
                    let body = used + body.start..used + body.end;
                    used += length;
                    let offset = self.publish(topic, split, &received[body])?;
                    let body = format!(r#"{{"offset":{offset}}}"#);
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    if !self.connections[key].write_whole(answer.as_bytes()) {
                        return Ok(false);
                    }
                }
            }
        }
        received.drain(..used);
        // A subscriber's buffer is not needed again, and they are many.
        if self.connections[key].topic.is_none() {
            self.connections[key].received = received;
        }
        Ok(true)
    }

    fn subscribe(&mut self, key: usize, topic: String, websocket_key: &str) -> bool {
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            websocket::accept(websocket_key)
        );
        self.topics.entry(topic.clone()).or_default().subscribers.push(key);
        let connection = &mut self.connections[key];
        connection.topic = Some(topic);
        connection.write_whole(answer.as_bytes())
    }

    /// Writes the messages of a POST to every subscriber of the topic; the offset of the last one.
    fn publish(&mut self, topic: String, split: bool, body: &[u8]) -> io::Result<u64> {
        let topic = self.topics.entry(topic).or_default();
        let lines = body.split(|&byte| byte == b'\n' && split).filter(|line| !split || !line.is_empty());
        let mut frame = Vec::with_capacity(body.len() + 16);
        let mut full = Vec::new();
        for line in lines {
            if !self.join {
                frame.clear();
            }
            write_frame(&mut frame, TEXT, line);
            topic.offset += 1;
            if !self.join {
                self.writer.write_all(&mut self.connections, &topic.subscribers, &frame, &mut full);
            }
        }
        if self.join {
            self.writer.write_all(&mut self.connections, &topic.subscribers, &frame, &mut full);
        }
        let offset = topic.offset;
        full.sort_unstable();
        full.dedup();
        full.into_iter().try_for_each(|key| self.drop_connection(key))?;
        Ok(offset)
    }

    fn drop_connection(&mut self, key: usize) -> io::Result<()> {
        self.writer.remove(key)?;
        let connection = self.connections.remove(key);
        if let Some(topic) = connection.topic.and_then(|topic| self.topics.get_mut(&topic)) {
            topic.subscribers.retain(|&subscriber| subscriber != key);
        }
        Ok(())
    }
}

impl Connection {
    fn write_whole(&mut self, bytes: &[u8]) -> bool {
        matches!(self.socket.write(bytes), Ok(written) if written == bytes.len())
    }
}

fn request(received: &[u8]) -> Parsed<Request> {
    let (head, head_bytes) = match http::head(received) {
        Parsed::Whole(head, bytes) => (head, bytes),
        Parsed::Partial => return Parsed::Partial,
        Parsed::Malformed(why) => return Parsed::Malformed(why),
    };
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some(topic) = path.strip_prefix("/topics/") else { return Parsed::Malformed("not /topics/TOPIC") };
    let topic = topic.to_owned();
    if method == "GET" {
        let Some(key) = http::header(head, "sec-websocket-key") else {
            return Parsed::Malformed("not a WebSocket request");
        };
        return Parsed::Whole(Request::Subscribe { topic, key: key.to_owned() }, head_bytes);
    }
    match http::header(head, "content-length").and_then(|value| value.parse::<usize>().ok()) {
        Some(body_bytes) if method == "POST" && body_bytes <= REQUEST_BYTES_MAX => {
            let whole = head_bytes + body_bytes;
            if received.len() < whole {
                return Parsed::Partial;
            }
            let split = query == "split=lines";
            Parsed::Whole(Request::Publish { topic, split, body: head_bytes..whole }, whole)
        }
        _ => Parsed::Malformed("neither a WebSocket nor a POST with Content-Length"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_when_its_body_is_there() {
        let text = b"POST /topics/a.b?split=lines HTTP/1.1\r\nContent-Length: 5\r\n\r\n{}\n{}POST /";
        assert!(matches!(request(&text[..64]), Parsed::Partial));
        let Parsed::Whole(Request::Publish { topic, split, body }, length) = request(text) else {
            panic!("it is a whole POST")
        };
        assert_eq!(
            (topic.as_str(), split, &text[body], length),
            ("a.b", true, &b"{}\n{}"[..], text.len() - 6)
        );
    }

    #[test]
    fn what_the_floor_does_not_speak_is_malformed() {
        let check = |text: &str| assert!(matches!(request(text.as_bytes()), Parsed::Malformed(_)), "{text}");
        check("GET /healthz HTTP/1.1\r\n\r\n");
        check("GET /topics/a HTTP/1.1\r\n\r\n");
        check("POST /topics/a HTTP/1.1\r\n\r\n");
        check("PUT /topics/a HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
        check("POST /topics/a HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n");
    }
}
