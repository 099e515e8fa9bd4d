//! A WebSocket, client side (RFC 6455): the handshake, whole messages in, frames out.
//!
//! fastwebsockets parses, checks and masks; this file decides when. A frame half read is never lost, because the future
//! that reads it belongs to the socket and not to the call that waits for it:
//!
//! ```text
//!   recv() ──polls──► reading: one future, kept between calls ──► reader: WebSocket over the read half
//!   send() ──► unsent: bytes of masked frames ──write──► write half
//! ```
//!
//! # Bounds       [`MESSAGE_BYTES_MAX`] for a message and its fragments; one frame and its pongs in `unsent`
//! # Invariants   bytes leave `unsent` only when the socket has taken them

use std::future::{Future, poll_fn};
use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket, WebSocketError, handshake};
use http_body_util::Full;
use hyper::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, Chain, Join, ReadHalf, Sink, WriteHalf};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::{Address, Connection, Upgraded};
use crate::refusal::HttpRefusal;
use crate::session::SubscribeError;
use crate::stream::Stream;

/// The longest message read; 256 times the server's default for a payload.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Until the server says how often it pings.
const SILENCE_DEFAULT: Duration = Duration::from_secs(75);

/// No code was in the close frame (RFC 6455 §7.1.5).
const NO_CODE: u16 = 1005;

/// The server closed the subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The close frame's code; 1005 if it had none. 4100–4199: come back after a delay; 4200–4299: now; 4500–4999: do
    /// not come back.
    pub code: u16,
    /// The close frame's text.
    pub reason: String,
}

/// Why nothing more can be received. The connection is gone.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The connection ended without a close frame.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// Nothing arrived for so long, not even a ping.
    #[error("nothing received for {0:?}")]
    Silent(Duration),
    /// The server took nothing for so long.
    #[error("nothing sent for {0:?}")]
    Stalled(Duration),
    /// The server broke the protocol.
    #[error("not the protocol: {0}")]
    Protocol(String),
    /// The subscription has ended: this was said before, as `Closed` or as another error.
    #[error("the subscription has ended")]
    Ended,
}

/// A whole message, or the end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// UTF-8, checked.
    Text(Bytes),
    Binary(Bytes),
    Closed(Closed),
}

type Reader = WebSocket<Join<Chain<Cursor<Bytes>, ReadHalf<Stream>>, Sink>>;
type Reading = Pin<Box<dyn Future<Output = (Reader, Result<Frame<'static>, WebSocketError>)> + Send>>;

/// See the [module](self).
pub(crate) struct Socket {
    reading: Reading,
    write_half: WriteHalf<Stream>,
    unsent: BytesMut,
    /// The first fragments of a message, and whether it is text.
    fragments: Option<(OpCode, BytesMut)>,
    ended: bool,
    timeout: Duration,
    silence_max: Duration,
    /// When the wait for the next frame is over; kept when a `recv` is dropped, so that calling it often changes nothing.
    silent_at: Option<Instant>,
}

impl Socket {
    /// Connects and shakes hands, within `limit`.
    pub(crate) async fn open(
        address: &Address,
        path: &str,
        subprotocol: Option<&str>,
        limit: Duration,
    ) -> Result<Self, SubscribeError> {
        match timeout(limit, Self::shake_hands(address, path, subprotocol, limit)).await {
            Ok(socket) => socket,
            Err(_) => Err(SubscribeError::Timeout(limit)),
        }
    }

    async fn shake_hands(
        address: &Address,
        path: &str,
        subprotocol: Option<&str>,
        limit: Duration,
    ) -> Result<Self, SubscribeError> {
        let key = handshake::generate_key();
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(HOST, address.authority())
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_KEY, &key)
            .header(SEC_WEBSOCKET_VERSION, "13");
        if let Some(subprotocol) = subprotocol {
            request = request.header(SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        let request =
            request.body(Full::default()).map_err(|error| SubscribeError::Handshake(error.to_string()))?;

        let connection = Connection::open(address).await.map_err(|source| SubscribeError::Connect {
            authority: address.authority().to_owned(),
            source,
        })?;
        match connection.upgrade(request).await {
            Ok(Upgraded::Yes { headers, stream, read_ahead }) => {
                check_answer(&headers, &key, subprotocol).map_err(SubscribeError::Handshake)?;
                Ok(Self::new(stream, read_ahead, limit))
            }
            Ok(Upgraded::No(answer)) => Err(HttpRefusal::read(&answer).into()),
            Err(error) => Err(SubscribeError::Handshake(error.to_string())),
        }
    }

    fn new(stream: Stream, read_ahead: Bytes, timeout: Duration) -> Self {
        let (read_half, write_half) = tokio::io::split(stream);
        // The reader answers nothing by itself: pongs and closes take the one way out, after what is unsent.
        let stream = tokio::io::join(Cursor::new(read_ahead).chain(read_half), tokio::io::sink());
        let mut reader = WebSocket::after_handshake(stream, Role::Client);
        reader.set_auto_close(false);
        reader.set_auto_pong(false);
        reader.set_max_message_size(MESSAGE_BYTES_MAX);
        Self {
            reading: read(reader),
            write_half,
            unsent: BytesMut::new(),
            fragments: None,
            ended: false,
            timeout,
            silence_max: SILENCE_DEFAULT,
            silent_at: None,
        }
    }

    /// Sets how long the server may say nothing, from how often it pings.
    pub(crate) fn expect_pings_every(&mut self, interval: Duration) {
        self.silence_max = interval * 3;
    }

    /// Sets how long the server may say nothing, not even a ping.
    pub(crate) fn expect_frames_within(&mut self, silence: Duration) {
        self.silence_max = silence;
    }

    /// Whether something waits for the next `recv`.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Has a text frame go out with the next `recv`. The caller bounds how many.
    pub(crate) fn queue_text(&mut self, text: Vec<u8>) {
        self.queue(Frame::text(text.into()));
    }

    /// Waits for the next whole message; answers pings and a close on the way. Cancel safe.
    pub(crate) async fn recv(&mut self) -> Result<Incoming, ReceiveError> {
        if self.ended {
            return Err(ReceiveError::Ended);
        }
        let received = self.recv_open().await;
        if received.is_err() || matches!(received, Ok(Incoming::Closed(_))) {
            self.ended = true;
        }
        received
    }

    async fn recv_open(&mut self) -> Result<Incoming, ReceiveError> {
        loop {
            self.flush().await?;
            let silent_at = *self.silent_at.get_or_insert_with(|| Instant::now() + self.silence_max);
            if silent_at <= Instant::now() {
                // The caller was away. One turn of the reactor: what arrived meanwhile becomes visible.
                tokio::task::yield_now().await;
            }
            let frame = match timeout_at(silent_at, self.frame()).await {
                Ok(Ok(frame)) => frame,
                Ok(Err(error)) => return Err(self.give_up(&error)),
                Err(_) => return Err(ReceiveError::Silent(self.silence_max)),
            };
            self.silent_at = None;
            let payload = into_bytes(frame.payload);
            match frame.opcode {
                OpCode::Ping => self.queue(Frame::pong(Payload::Borrowed(&payload))),
                OpCode::Pong => {}
                OpCode::Close => {
                    let Some(closed) = Closed::read(&payload) else {
                        return Err(self.give_up(&WebSocketError::InvalidCloseFrame));
                    };
                    self.queue(Frame::close_raw(Payload::Borrowed(&payload)));
                    // A courtesy: the server has closed, whether or not it still reads.
                    let _ = self.flush().await;
                    return Ok(Incoming::Closed(closed));
                }
                OpCode::Text | OpCode::Binary | OpCode::Continuation => {
                    match self.assemble(frame.opcode, frame.fin, payload) {
                        Ok(None) => {}
                        Ok(Some((OpCode::Text, message))) => return Ok(Incoming::Text(message)),
                        Ok(Some((_, message))) => return Ok(Incoming::Binary(message)),
                        Err(error) => return Err(self.give_up(&error)),
                    }
                }
            }
        }
    }

    async fn frame(&mut self) -> Result<Frame<'static>, WebSocketError> {
        let (reader, frame) = poll_fn(|context| self.reading.as_mut().poll(context)).await;
        self.reading = read(reader);
        frame
    }

    /// Returns a message when its last fragment is there. The parser has checked the UTF-8 of unfragmented text.
    fn assemble(
        &mut self,
        opcode: OpCode,
        last: bool,
        payload: Bytes,
    ) -> Result<Option<(OpCode, Bytes)>, WebSocketError> {
        let (opcode, mut message) = match (self.fragments.take(), opcode) {
            (None, OpCode::Continuation) => return Err(WebSocketError::InvalidContinuationFrame),
            (None, opcode) if last => return Ok(Some((opcode, payload))),
            (None, opcode) => (opcode, BytesMut::new()),
            (Some(fragments), OpCode::Continuation) => fragments,
            (Some(_), _) => return Err(WebSocketError::InvalidFragment),
        };
        if message.len() + payload.len() > MESSAGE_BYTES_MAX {
            return Err(WebSocketError::FrameTooLarge);
        }
        message.extend_from_slice(&payload);
        if !last {
            self.fragments = Some((opcode, message));
            return Ok(None);
        }
        if opcode == OpCode::Text && std::str::from_utf8(&message).is_err() {
            return Err(WebSocketError::InvalidUTF8);
        }
        Ok(Some((opcode, message.freeze())))
    }

    /// Sends one text frame. Cancel safe: the frame goes out whole, now or before the next one, or not at all.
    pub(crate) async fn send_text(&mut self, text: Vec<u8>) -> Result<(), ReceiveError> {
        if self.ended {
            return Err(ReceiveError::Ended);
        }
        let sent = async {
            self.flush().await?;
            self.queue(Frame::text(text.into()));
            self.flush().await
        }
        .await;
        self.ended = sent.is_err();
        sent
    }

    /// Closes with 1000 and waits for the server's close, dropping what arrives before it.
    pub(crate) async fn close(mut self) -> Result<(), ReceiveError> {
        if self.ended {
            return Ok(());
        }
        let limit = self.timeout;
        let closing = async {
            self.flush().await?;
            self.queue(Frame::close(1000, b""));
            self.flush().await?;
            while !matches!(self.recv().await?, Incoming::Closed(_)) {}
            Ok(())
        };
        timeout(limit, closing).await.unwrap_or(Err(ReceiveError::Silent(limit)))
    }

    fn queue(&mut self, mut frame: Frame<'_>) {
        frame.mask();
        let mut encoded = Vec::new();
        let encoded = frame.write(&mut encoded);
        self.unsent.extend_from_slice(encoded);
    }

    async fn flush(&mut self) -> Result<(), ReceiveError> {
        let Self { write_half, unsent, timeout: limit, .. } = self;
        if unsent.is_empty() {
            return Ok(());
        }
        let writing = async {
            while !unsent.is_empty() {
                // Cancel safe: it advances `unsent` by what the socket took.
                if write_half.write_buf(unsent).await? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            write_half.flush().await
        };
        match timeout(*limit, writing).await {
            Ok(written) => written.map_err(|error: io::Error| ReceiveError::Lost(error.to_string())),
            Err(_) => Err(ReceiveError::Stalled(*limit)),
        }
    }

    fn give_up(&mut self, error: &WebSocketError) -> ReceiveError {
        match error {
            WebSocketError::IoError(_) | WebSocketError::UnexpectedEOF | WebSocketError::ConnectionClosed => {
                return ReceiveError::Lost(error.to_string());
            }
            WebSocketError::InvalidUTF8 => self.abandon(1007),
            WebSocketError::FrameTooLarge => self.abandon(1009),
            _ => self.abandon(1002),
        }
        ReceiveError::Protocol(error.to_string())
    }

    /// Ends this side, and tells the server why if the socket takes it at once.
    pub(crate) fn abandon(&mut self, code: u16) {
        self.ended = true;
        self.queue(Frame::close(code, b""));
        let mut context = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut self.write_half).poll_write(&mut context, &self.unsent);
    }
}

impl Closed {
    /// `None`: half a code (RFC 6455 §5.5.1).
    fn read(payload: &[u8]) -> Option<Self> {
        match payload {
            [] => Some(Self { code: NO_CODE, reason: String::new() }),
            [_] => None,
            [high, low, reason @ ..] => Some(Self {
                code: u16::from_be_bytes([*high, *low]),
                reason: String::from_utf8_lossy(reason).into_owned(),
            }),
        }
    }
}

/// What the server must have said for this to be a WebSocket (RFC 6455 §4.1).
fn check_answer(headers: &HeaderMap, key: &str, subprotocol: Option<&str>) -> Result<(), String> {
    let says = |name: &HeaderName, wanted: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    if !says(&UPGRADE, "websocket") || !says(&CONNECTION, "upgrade") {
        return Err("the 101 upgrades to something else".to_owned());
    }
    if headers.get(SEC_WEBSOCKET_ACCEPT) != accept(key).as_ref() {
        return Err("Sec-WebSocket-Accept does not fit the key".to_owned());
    }
    match subprotocol {
        Some(subprotocol) if !says(&SEC_WEBSOCKET_PROTOCOL, subprotocol) => {
            Err(format!("the server does not speak {subprotocol}"))
        }
        _ => Ok(()),
    }
}

/// What a server answers to `key`: fastwebsockets computes it for servers only, so it is asked as one.
fn accept(key: &str) -> Option<HeaderValue> {
    let request = Request::builder().header(SEC_WEBSOCKET_KEY, key).header(SEC_WEBSOCKET_VERSION, "13");
    let (mut response, _) = fastwebsockets::upgrade::upgrade(request.body(()).ok()?).ok()?;
    response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT)
}

fn into_bytes(payload: Payload<'_>) -> Bytes {
    match payload {
        Payload::Bytes(bytes) => bytes.freeze(),
        other => Vec::from(other).into(),
    }
}

fn read(mut reader: Reader) -> Reading {
    Box::pin(async move {
        let frame = reader.read_frame().await;
        (reader, frame)
    })
}
