//! A client without manners: it sends any bytes, right or wrong, and says exactly what came back.
//!
//! It shares no code with the gateway or its client library, and blocks: a test reads like the talk on the wire. Every
//! wait ends after [`PATIENCE`](super::PATIENCE) with a failed test.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::PATIENCE;

/// First bytes of frames: final, of that kind.
pub const CONTINUATION: u8 = 0x80;
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;
/// Takes the final bit away from a first byte.
pub const MORE: u8 = 0x7f;
/// Says that the message is compressed.
pub const COMPRESSED: u8 = 0x40;

/// The key of the example in RFC 6455, and the rest of a whole handshake.
pub const HANDSHAKE: &str = "host: fanfare\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// One connection.
pub struct Peer {
    pub stream: TcpStream,
    /// Around what goes over the stream.
    tls: Option<Box<rustls::ClientConnection>>,
    /// It said that this was all, before the connection ended.
    told: bool,
    received: Vec<u8>,
    /// permessage-deflate was offered and accepted.
    deflate: bool,
    /// How many frames were compressed.
    pub inflated: usize,
}

/// A frame of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// As it stood on the wire.
    pub first: u8,
    pub payload: Vec<u8>,
}

/// An answer to an HTTP request.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A frame as a client sends it, with any first byte.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = *b"KEY!";
    let mut frame = header(first, payload.len() as u64);
    frame.extend(key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// The first bytes of a client's frame that claims to have `len` bytes, up to its masking key.
pub fn header(first: u8, len: u64) -> Vec<u8> {
    let mut header = vec![first];
    match len {
        0..=125 => header.push(0x80 | len as u8),
        126..=0xffff => {
            header.push(0x80 | 126);
            header.extend((len as u16).to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend(len.to_be_bytes());
        }
    }
    header
}

/// One request on a connection of its own.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Answer {
    Peer::connect(address).request(method, target, headers, body)
}

/// Publishes `body` to a topic.
pub fn publish(address: SocketAddr, topic: &str, content_type: &str, body: impl AsRef<[u8]>) -> Answer {
    request(address, "POST", &format!("/topics/{topic}"), &[("content-type", content_type)], body)
}

/// The text of a request, whole.
pub fn request_text(method: &str, target: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nhost: fanfare\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let body = body.as_ref();
    if method != "GET" && method != "HEAD" {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

/// One chunk of a chunked body.
pub fn chunk(data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

impl Peer {
    // === opening ===

    pub fn connect(address: SocketAddr) -> Self {
        Self::from_stream(TcpStream::connect(address).expect("the gateway listens"))
    }

    /// Connects with a receive buffer of about `bytes`: so much arrives while the test does not read.
    pub fn connect_with_room(address: SocketAddr, bytes: usize) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("a buffer's size can be set");
        socket.connect(&address.into()).expect("the gateway listens");
        Self::from_stream(socket.into())
    }

    /// Connects from an address of this machine's own, such as 127.0.0.2.
    pub fn connect_from(source: &str, address: SocketAddr) -> Self {
        let source: IpAddr = source.parse().expect("an address");
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(source, 0).into()).expect("every 127.x.x.x is ours");
        socket.connect(&address.into()).expect("the gateway listens");
        Self::from_stream(socket.into())
    }

    fn from_stream(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time above zero");
        stream.set_nodelay(true).expect("TCP has it");
        Self { stream, tls: None, told: false, received: Vec::new(), deflate: false, inflated: 0 }
    }

    /// Goes on under TLS, once hands are shaken.
    pub fn secured(self, config: &Arc<rustls::ClientConfig>) -> Self {
        self.try_secured(config).expect("hands are shaken")
    }

    /// Likewise, if the gateway does.
    pub fn try_secured(mut self, config: &Arc<rustls::ClientConfig>) -> std::io::Result<Self> {
        let name = self.stream.peer_addr()?.ip().into();
        let mut tls = rustls::ClientConnection::new(Arc::clone(config), name).expect("a name is a name");
        while tls.is_handshaking() {
            tls.complete_io(&mut self.stream)?;
        }
        self.tls = Some(Box::new(tls));
        Ok(self)
    }

    /// Has both sides go on with other keys.
    pub fn change_keys(&mut self) {
        let tls = self.tls.as_mut().expect("hands are shaken");
        tls.refresh_traffic_keys().expect("TLS 1.3 has it");
    }

    /// The gateway's certificate, in DER.
    pub fn certificate(&self) -> Vec<u8> {
        let chain = self.tls.as_ref().and_then(|tls| tls.peer_certificates()).expect("hands are shaken");
        chain[0].to_vec()
    }

    /// The same connection for another thread, which only sends.
    pub fn second_hand(&self) -> Self {
        Self::from_stream(self.stream.try_clone().expect("a socket can be shared"))
    }

    /// A WebSocket on `target`.
    pub fn websocket(address: SocketAddr, target: &str) -> Self {
        Self::connect(address).upgraded(target)
    }

    /// The raw WebSocket of a topic that has no value yet, once the subscription is there: the 101 comes before it.
    pub fn raw(address: SocketAddr, topic: &str) -> Self {
        Self::websocket(address, &format!("/topics/{topic}")).listening()
    }

    /// Waits until the gateway has carried out what came before, of which nothing is answered.
    pub fn listening(mut self) -> Self {
        self.send(masked(PING, b"listening"));
        let pong = self.frame();
        assert_eq!((pong.first, &*pong.payload), (PONG, &b"listening"[..]));
        self
    }

    /// Makes the connection a WebSocket.
    pub fn upgraded(mut self, target: &str) -> Self {
        self.send(format!("GET {target} HTTP/1.1\r\n{HANDSHAKE}\r\n"));
        let answer = self.answer();
        assert_eq!(answer.status, 101, "{answer:?}");
        self
    }

    /// A WebSocket under permessage-deflate. Its frames are inflated.
    pub fn deflated(address: SocketAddr, target: &str) -> Self {
        let mut peer = Self::connect(address);
        let offer = "sec-websocket-extensions: permessage-deflate\r\n";
        peer.send(format!("GET {target} HTTP/1.1\r\n{HANDSHAKE}{offer}\r\n"));
        let answer = peer.answer();
        let accepted = answer.header("sec-websocket-extensions").unwrap_or_else(|| panic!("{answer:?}"));
        assert_eq!(accepted, "permessage-deflate; server_no_context_takeover; client_no_context_takeover");
        peer.deflate = true;
        peer
    }

    /// `/ws`, up to its welcome. Says which worker has it.
    pub fn native(address: SocketAddr) -> (Self, String) {
        Self::connect(address).upgraded("/ws").welcomed()
    }

    /// Reads the welcome, and says which worker it comes from.
    pub fn welcomed(mut self) -> (Self, String) {
        let welcome = self.json();
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        let client = welcome["client"].as_str().expect("the welcome names the client");
        let worker = client.split('-').next().expect("split has a first part").to_owned();
        (self, worker)
    }

    /// `/ws` on a worker by its name.
    pub fn native_on(address: SocketAddr, worker: &str) -> Self {
        loop {
            // The kernel chooses the worker by a hash of the ports: a few attempts find it.
            let (peer, found) = Self::native(address);
            if found == worker {
                return peer;
            }
        }
    }

    /// `/ws` with these topics, up to the acknowledgement.
    pub fn subscribed(address: SocketAddr, topics: &[&str]) -> (Self, Value) {
        let (mut peer, _) = Self::native(address);
        let acknowledgement = peer.subscribe(topics);
        (peer, acknowledgement)
    }

    /// A subscriber of `topic` on each of the two workers.
    pub fn on_each_worker(address: SocketAddr, topic: &str) -> [Self; 2] {
        let (mut first, worker) = Self::native(address);
        let mut second = loop {
            // The kernel chooses the worker by a hash of the ports: a few attempts find the other one.
            let (peer, other) = Self::native(address);
            if other != worker {
                break peer;
            }
        };
        first.subscribe(&[topic]);
        second.subscribe(&[topic]);
        [first, second]
    }

    // === sending ===

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        assert!(self.try_send(bytes), "the gateway reads");
    }

    /// Sends what the server still takes: it may have closed in the middle of it.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).write_all(bytes.as_ref()).is_ok(),
            None => self.stream.write_all(bytes.as_ref()).is_ok(),
        }
    }

    /// Sends a text frame.
    pub fn say(&mut self, text: &str) {
        self.send(masked(TEXT, text.as_bytes()));
    }

    /// Subscribes, and returns the acknowledgement.
    pub fn subscribe(&mut self, topics: &[&str]) -> Value {
        self.say(&serde_json::json!({"type": "subscribe", "id": 1, "topics": topics}).to_string());
        let acknowledgement = self.json();
        assert_eq!(acknowledgement["type"], "subscribed", "{acknowledgement}");
        acknowledgement
    }

    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answer {
        self.send(request_text(method, target, headers, body));
        self.answer_to(method)
    }

    /// Says that nothing more will be sent.
    pub fn end(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    // === receiving ===

    /// Reads what is there. `false` at the end of the connection, however it came.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        loop {
            let read = match &mut self.tls {
                Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read(&mut buffer),
                None => self.stream.read(&mut buffer),
            };
            match read {
                Ok(count) => {
                    self.told |= count == 0 && self.tls.is_some();
                    self.received.extend_from_slice(&buffer[..count]);
                    return count > 0;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof && self.tls.is_some() => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    /// The next `count` bytes; `None` if the connection ends before.
    pub fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.received.len() < count {
            if !self.fill() {
                return None;
            }
        }
        Some(self.received.drain(..count).collect())
    }

    /// The next answer to something with a body in its answer.
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    fn answer_to(&mut self, method: &str) -> Answer {
        self.try_answer_to(method).expect("an answer comes before the end")
    }

    /// The next answer; `None` if the connection ends before.
    pub fn try_answer(&mut self) -> Option<Answer> {
        self.try_answer_to("GET")
    }

    fn try_answer_to(&mut self, method: &str) -> Option<Answer> {
        let end = loop {
            let found = self.received.windows(4).position(|window| window == b"\r\n\r\n");
            match found {
                Some(position) => break position + 4,
                None if self.fill() => {}
                None => return None,
            }
        };
        let head = String::from_utf8(self.take(end)?).expect("a header is text");
        let mut lines = head.lines();
        let status_line = lines.next().expect("there is a status line");
        let (version, rest) = status_line.split_once(' ').expect("a status line has parts");
        assert!(version.starts_with("HTTP/1."), "{head}");
        let status = rest[..3].parse().expect("a status is a number");
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        let len = answer.header("content-length").map_or(0, |len| len.parse().expect("a length is a number"));
        if method != "HEAD" && status != 304 && status >= 200 {
            answer.body = self.take(len)?;
        }
        Some(answer)
    }

    /// The next frame, whatever it is; `None` at the end of the connection.
    pub fn next(&mut self) -> Option<Frame> {
        let head = self.take(2)?;
        assert_eq!(head[1] & 0x80, 0, "a server masks nothing");
        let len = match head[1] {
            126 => u64::from(u16::from_be_bytes(self.take(2)?.try_into().expect("two bytes"))),
            127 => u64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes")),
            len => u64::from(len),
        };
        let frame = Frame { first: head[0], payload: self.take(len as usize)? };
        Some(if self.deflate { self.inflate(frame) } else { frame })
    }

    fn inflate(&mut self, mut frame: Frame) -> Frame {
        if frame.first & COMPRESSED != 0 {
            assert!(matches!(frame.first & !COMPRESSED, TEXT | BINARY), "{frame:?}");
            // What the server left out (RFC 7692, section 7.2.2), and an empty last block.
            frame.payload.extend([0, 0, 0xff, 0xff, 3, 0]);
            frame.payload = miniz_oxide::inflate::decompress_to_vec(&frame.payload).expect("deflate data");
            frame.first &= !COMPRESSED;
            self.inflated += 1;
        }
        frame
    }

    /// The next frame but for pings of the server, which are answered on the way.
    pub fn frame(&mut self) -> Frame {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let frame = self.next().expect("a frame comes before the end");
            if frame.first != PING {
                return frame;
            }
            assert!(Instant::now() < deadline, "nothing but pings came");
            self.try_send(masked(PONG, &frame.payload));
        }
    }

    /// The next frame, which is text.
    pub fn text(&mut self) -> String {
        let frame = self.frame();
        assert_eq!(frame.first, TEXT, "{frame:?}");
        String::from_utf8(frame.payload).expect("text is UTF-8")
    }

    /// The next frame, which is JSON.
    pub fn json(&mut self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:.200}"))
    }

    /// Waits for the close frame and the end behind it, whatever comes before, and says the code.
    pub fn close_code(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some(frame) = self.next() {
            assert_eq!(code, None, "a frame behind the close frame: {frame:?}");
            if frame.first == CLOSE {
                code = frame.code();
                // A server that is answered need not wait for the end of its patience.
                self.try_send(masked(CLOSE, &frame.payload));
            }
        }
        code
    }

    /// The next line, without its CR LF; `None` if the connection ends before.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.received.windows(2).position(|window| window == b"\r\n") {
                let line = self.take(end + 2)?;
                return Some(String::from_utf8(line[..end].to_vec()).expect("a line is text"));
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// The next byte; `None` at the end of the connection.
    pub fn next_byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// Waits for the end of the connection.
    pub fn ended(&mut self) {
        while self.fill() {}
    }

    /// Whether the connection ended with TLS's own words for that, and not by a cut.
    pub fn was_told_the_end(&mut self) -> bool {
        self.ended();
        self.told
    }

    /// The statuses of the answers so far, whatever else there is, once there are `count` or the connection has ended.
    pub fn statuses(&mut self, count: usize) -> Vec<u16> {
        loop {
            let text = String::from_utf8_lossy(&self.received);
            let found = text.split("HTTP/1.").skip(1).filter_map(|answer| answer.get(2..5)?.parse().ok());
            let found: Vec<u16> = found.collect();
            if found.len() >= count || !self.fill() {
                return found;
            }
        }
    }

    /// Asks something that is answered in turn: what came before it has been carried out, and `before` is what came.
    pub fn fence(&mut self) -> Vec<Value> {
        self.say(r#"{"type":"ping","id":424242}"#);
        let mut before = Vec::new();
        loop {
            let value = self.json();
            if value["type"] == "pong" && value["id"] == 424_242 {
                return before;
            }
            before.push(value);
        }
    }
}

impl Frame {
    /// The code of a close frame.
    pub fn code(&self) -> Option<u16> {
        assert_eq!(self.first, CLOSE, "{self:?}");
        let reason = self.payload.get(2..).unwrap_or_default();
        assert!(std::str::from_utf8(reason).is_ok(), "a reason is text: {self:?}");
        Some(u16::from_be_bytes(self.payload.get(..2)?.try_into().expect("two bytes")))
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of an error, whose shape is checked.
    pub fn error_code(&self) -> String {
        let body = self.json();
        let message = body["error"]["message"].as_str().unwrap_or_else(|| panic!("no words: {self:?}"));
        assert!(!message.is_empty(), "{self:?}");
        let expect = serde_json::json!({"error": {"code": body["error"]["code"], "message": message}});
        assert_eq!(body, expect, "an error has a code and a message");
        body["error"]["code"].as_str().unwrap_or_else(|| panic!("no code: {self:?}")).to_owned()
    }

    /// Checks that the answer asks for patience of some seconds.
    pub fn assert_retry_after(&self) {
        let seconds: u64 = self.header("retry-after").and_then(|text| text.parse().ok()).unwrap_or(0);
        assert!((1..=60).contains(&seconds), "{self:?}");
    }
}
