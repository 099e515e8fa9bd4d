//! One subscriber: connects, asks for one topic, and from then on checks what it receives.
//!
//! It reads no socket itself: the [`Crowd`](crate::crowd::Crowd) does, into a buffer that all share. So at rest it is
//! a socket, the few bytes of its [`Incoming`] and its [`Track`].
//!
//! # Bounds       at rest below 256 bytes

use std::io::{ErrorKind, Write as _};

use mio::net::TcpStream;
use serde_json::Value;

use crate::args::Format;
use crate::crowd::Scene;
use crate::http::{self, Parsed};
use crate::incoming::{Incoming, Item};
use crate::pace::Pace;
use crate::payload::{Native, Stamp};
use crate::recorder::{Outcome, Recorder, Track};
use crate::request;
use crate::websocket::{CLOSE, PONG, TEXT, masked_frame};

#[derive(Debug)]
pub(crate) struct Subscriber {
    socket: TcpStream,
    topic: usize,
    pace: Pace,
    phase: Phase,
    incoming: Incoming,
    track: Track,
}

#[derive(Debug)]
enum Phase {
    Connecting,
    /// The request is sent; holds a head that came in pieces.
    Asking(Vec<u8>),
    /// The subscribe command is sent, or the request has said it all; the acknowledgement is not there.
    Subscribing,
    Subscribed,
}

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Closed(Option<u16>),
    LastChunk,
    EndOfStream,
    Socket(ErrorKind),
    Refused(u16),
    NotSubscribed(String),
    Violation(&'static str),
    GivenUp,
}

impl Subscriber {
    /// A subscriber of `topic` whose connection is being made.
    pub(crate) fn connecting(socket: TcpStream, topic: usize, pace: Pace, format: Format) -> Self {
        let incoming = Incoming::new(format);
        Self { socket, topic, pace, phase: Phase::Connecting, incoming, track: Track::default() }
    }

    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub(crate) fn topic(&self) -> usize {
        self.topic
    }

    pub(crate) fn pace(&self) -> Pace {
        self.pace
    }

    /// What it received.
    pub(crate) fn outcome(&self) -> Outcome {
        self.track.outcome(self.topic)
    }

    /// It is subscribed, and what is published now must reach it.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Subscribed)
    }

    /// Sends the request once the connection stands.
    pub(crate) fn connect(&mut self, scene: &Scene) -> Result<(), Ended> {
        if !matches!(self.phase, Phase::Connecting) {
            return Ok(());
        }
        if let Ok(Some(error)) | Err(error) = self.socket.take_error() {
            return Err(Ended::Socket(error.kind()));
        }
        match self.socket.peer_addr() {
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
            Err(error) => return Err(Ended::Socket(error.kind())),
            Ok(_) => {}
        }
        let request = request::request(scene.format, &scene.topics[self.topic], &scene.authority);
        self.phase = Phase::Asking(Vec::new());
        self.write(request.as_bytes())
    }

    /// Says that it leaves, where there is a way to say it.
    pub(crate) fn close(&mut self, format: Format) {
        if format.is_websocket() {
            // The server may be gone already; then there is nobody to tell.
            let _ = self.write(&masked_frame(CLOSE, &1000_u16.to_be_bytes()));
        }
    }

    /// Writes a few bytes into an empty socket; one that doesn't take them is broken.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        match self.socket.write(bytes) {
            Ok(written) if written == bytes.len() => Ok(()),
            Ok(_) => Err(Ended::Socket(ErrorKind::WriteZero)),
            Err(error) => Err(Ended::Socket(error.kind())),
        }
    }

    /// Goes on with what the socket received at `now_ns`.
    pub(crate) fn handle_bytes(
        &mut self,
        received: &[u8],
        now_ns: u64,
        scene: &Scene,
        accept: &str,
        recorder: &mut Recorder,
    ) -> Result<(), Ended> {
        let Phase::Asking(pieces) = &mut self.phase else {
            return self.scan(received, now_ns, scene, recorder);
        };
        pieces.extend_from_slice(received);
        let pieces = std::mem::take(pieces);
        match http::head(&pieces) {
            Parsed::Partial => {
                self.phase = Phase::Asking(pieces);
                Ok(())
            }
            Parsed::Malformed(why) => Err(Ended::Violation(why)),
            Parsed::Whole(head, length) => {
                request::check(scene.format, head, accept)?;
                self.answered(scene)?;
                self.scan(&pieces[length..], now_ns, scene, recorder)
            }
        }
    }

    fn answered(&mut self, scene: &Scene) -> Result<(), Ended> {
        self.phase = match scene.format {
            Format::Raw | Format::Sse | Format::Ndjson => Phase::Subscribed,
            Format::Json | Format::Events => Phase::Subscribing,
        };
        if scene.format == Format::Json {
            let topic = &scene.topics[self.topic];
            let command =
                format!(r#"{{"type":"subscribe","id":1,"topics":[{{"topic":"{topic}","from":"live"}}]}}"#);
            self.write(&masked_frame(TEXT, command.as_bytes()))?;
        }
        Ok(())
    }

    fn scan(
        &mut self,
        mut input: &[u8],
        now_ns: u64,
        scene: &Scene,
        recorder: &mut Recorder,
    ) -> Result<(), Ended> {
        while let Some(item) =
            self.incoming.next(&mut input).map_err(|violation| Ended::Violation(violation.0))?
        {
            match item {
                Item::Payload { offset, length, bytes } => {
                    if let Some(offset) = offset {
                        recorder.offset(&mut self.track, offset);
                    }
                    self.payload(&bytes, length, now_ns, scene, recorder);
                }
                Item::Native { length, bytes } => self.native(&bytes, length, now_ns, scene, recorder)?,
                Item::Control(kind, bytes) => self.control(Some(kind), &bytes, recorder)?,
                Item::Malformed => recorder.tally.malformed += 1,
                Item::Ping(bytes) => {
                    // A socket that takes no pong is one the server will close; that is then counted.
                    let _ = self.write(&masked_frame(PONG, &bytes));
                }
                Item::Close(code) => {
                    let echo = code.map_or_else(Vec::new, |code| code.to_be_bytes().to_vec());
                    let _ = self.write(&masked_frame(CLOSE, &echo));
                    return Err(Ended::Closed(code));
                }
                Item::Last => return Err(Ended::LastChunk),
            }
        }
        Ok(())
    }

    fn payload(&mut self, payload: &[u8], length: u64, now_ns: u64, scene: &Scene, recorder: &mut Recorder) {
        match Stamp::read(payload) {
            Some(stamp) if length == scene.payload_bytes as u64 => {
                recorder.message(&mut self.track, stamp, now_ns)
            }
            _ => recorder.tally.malformed += 1,
        }
    }

    fn native(
        &mut self,
        bytes: &[u8],
        length: u64,
        now_ns: u64,
        scene: &Scene,
        recorder: &mut Recorder,
    ) -> Result<(), Ended> {
        let Some(message) = Native::read(bytes) else {
            return self.control(None, bytes, recorder);
        };
        if message.topic != scene.topics[self.topic].as_bytes() {
            recorder.tally.malformed += 1;
            return Ok(());
        }
        recorder.offset(&mut self.track, message.offset);
        let envelope = bytes.len() - message.data.len() + 1;
        self.payload(message.data, length - envelope as u64, now_ns, scene, recorder);
        Ok(())
    }

    /// A control object; `kind` where it does not say it itself in `type`. Those that say nothing of use here are passed
    /// over, as every client should.
    fn control(&mut self, kind: Option<&str>, bytes: &[u8], recorder: &mut Recorder) -> Result<(), Ended> {
        let Ok(control) = serde_json::from_slice::<Value>(bytes) else {
            recorder.tally.malformed += 1;
            return Ok(());
        };
        match (kind.or_else(|| control["type"].as_str()), &self.phase) {
            (None, _) => recorder.tally.malformed += 1,
            (Some("subscribed"), Phase::Subscribing) => {
                match control["topics"][0]["error"]["code"].as_str() {
                    Some(code) => return Err(Ended::NotSubscribed(code.to_owned())),
                    None => self.phase = Phase::Subscribed,
                }
            }
            (Some("error"), Phase::Subscribing) => {
                return Err(Ended::NotSubscribed(control["code"].as_str().unwrap_or("error").to_owned()));
            }
            (Some("gap"), _) => {
                let end = |name: &str| control[name].as_u64().unwrap_or(0);
                recorder.gap(&mut self.track, end("from"), end("to"));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Ended {
    /// What the report calls it.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Closed(Some(code)) => code.to_string(),
            Self::Closed(None) => "close without code".to_owned(),
            Self::LastChunk => "last chunk".to_owned(),
            Self::EndOfStream => "end of stream".to_owned(),
            Self::Socket(kind) => kind.to_string(),
            Self::Refused(status) => format!("status {status}"),
            Self::NotSubscribed(code) => format!("not subscribed: {code}"),
            Self::Violation(what) => format!("violation: {what}"),
            Self::GivenUp => "timed out".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_at_rest_is_small() {
        assert!(size_of::<Subscriber>() <= 256, "{} bytes", size_of::<Subscriber>());
        assert!(size_of::<Incoming>() <= 128, "{} bytes", size_of::<Incoming>());
    }
}
