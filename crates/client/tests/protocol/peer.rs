//! The other side of a connection, by hand: what it reads and writes is in the test.

use std::time::Duration;

use bytes::Bytes;
use fanfare_client::Client;
use fastwebsockets::{Frame, OpCode, Role, WebSocket};
use hyper::Request as HttpRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A listener on a port of its own.
pub(crate) struct Server {
    listener: TcpListener,
}

/// One accepted connection, speaking HTTP.
pub(crate) struct Peer {
    stream: TcpStream,
    read: Vec<u8>,
}

/// A request as it stood on the wire.
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: String,
}

/// One accepted connection, speaking WebSocket.
pub(crate) struct WebSocketPeer {
    socket: WebSocket<TcpStream>,
}

impl Server {
    pub(crate) async fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn host(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&format!("http://{}", self.host())).unwrap()
    }

    pub(crate) fn impatient_client(&self) -> Client {
        self.client().with_timeout(Duration::from_millis(50))
    }

    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = within_patience(self.listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { stream, read: Vec::new() }
    }

    /// Accepts, upgrades, sends `first` in the same segment as the 101.
    pub(crate) async fn accept_websocket(&self, first: &[&str]) -> (String, WebSocketPeer) {
        let mut peer = self.accept().await;
        let request = peer.request().await;
        let mut bytes = switching_protocols(&request.head).into_bytes();
        for text in first {
            bytes.extend(text_frame(text));
        }
        peer.write(&bytes).await;
        (request.head, peer.into_websocket())
    }
}

impl Peer {
    pub(crate) async fn request(&mut self) -> Request {
        let head_end = loop {
            if let Some(at) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.fill().await, "closed within a request");
        };
        let head = String::from_utf8(self.read.drain(..head_end).collect()).unwrap();
        let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        while self.read.len() < length {
            assert!(self.fill().await, "closed within a body");
        }
        let body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        Request { head, body }
    }

    pub(crate) async fn answer(&mut self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
        self.write(answer.as_bytes()).await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Whether the client has closed and sent nothing more.
    pub(crate) async fn is_closed_by_client(&mut self) -> bool {
        !self.fill().await && self.read.is_empty()
    }

    pub(crate) fn into_websocket(self) -> WebSocketPeer {
        assert!(self.read.is_empty());
        let mut socket = WebSocket::after_handshake(self.stream, Role::Server);
        socket.set_auto_close(false);
        socket.set_auto_pong(false);
        WebSocketPeer { socket }
    }

    async fn fill(&mut self) -> bool {
        // A reset is a close, too: the client drops a connection it gives up.
        within_patience(self.stream.read_buf(&mut self.read)).await.is_ok_and(|count| count > 0)
    }
}

impl WebSocketPeer {
    pub(crate) async fn send(&mut self, text: &str) {
        self.socket.write_frame(Frame::text(text.as_bytes().into())).await.unwrap();
    }

    pub(crate) async fn send_frame(&mut self, fin: bool, opcode: OpCode, payload: &[u8]) {
        self.socket.write_frame(Frame::new(fin, opcode, None, payload.into())).await.unwrap();
    }

    pub(crate) async fn send_close(&mut self, code: u16, reason: &str) {
        self.socket.write_frame(Frame::close(code, reason.as_bytes())).await.unwrap();
    }

    pub(crate) async fn recv(&mut self) -> (OpCode, Bytes) {
        let frame = within_patience(self.socket.read_frame()).await.unwrap();
        assert!(frame.fin);
        (frame.opcode, Bytes::from(frame.payload.to_vec()))
    }

    pub(crate) async fn recv_text(&mut self) -> String {
        let (opcode, payload) = self.recv().await;
        assert_eq!(opcode, OpCode::Text);
        String::from_utf8(payload.to_vec()).unwrap()
    }

    pub(crate) async fn recv_close(&mut self) -> u16 {
        let (opcode, payload) = self.recv().await;
        assert_eq!(opcode, OpCode::Close);
        u16::from_be_bytes([payload[0], payload[1]])
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.socket.into_inner()
    }
}

/// A client that does not do what the test expects fails it, instead of keeping it.
async fn within_patience<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(5), work).await.expect("the client does nothing")
}

/// The 101 that a request deserves.
pub(crate) fn switching_protocols(head: &str) -> String {
    let key = header(head, "sec-websocket-key").unwrap();
    let request = HttpRequest::builder()
        .header("sec-websocket-key", key)
        .header("sec-websocket-version", header(head, "sec-websocket-version").unwrap());
    let (response, _) = fastwebsockets::upgrade::upgrade(request.body(()).unwrap()).unwrap();
    let accept = response.headers()["sec-websocket-accept"].to_str().unwrap().to_owned();
    let subprotocol = header(head, "sec-websocket-protocol")
        .map(|name| format!("sec-websocket-protocol: {name}\r\n"))
        .unwrap_or_default();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {accept}\r\n{subprotocol}\r\n"
    )
}

/// An unmasked text frame of fewer than 126 bytes, or of fewer than 64 KiB.
pub(crate) fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u8::try_from(text.len()) {
        Ok(length @ ..126) => frame.push(length),
        _ => {
            frame.push(126);
            frame.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend(text.as_bytes());
    frame
}

pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
