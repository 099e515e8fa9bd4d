//! One subscriber: connects, upgrades, subscribes to one topic, and from then on checks what it receives.
//!
//! It reads no socket itself: the [`Crowd`](crate::crowd::Crowd) does, into a buffer that all share. So at rest it is
//! a socket, the few bytes of its [`Scanner`] and its [`Track`].
//!
//! # Bounds       at rest below 256 bytes

use std::io::{ErrorKind, Write as _};

use mio::net::TcpStream;

use crate::args::Format;
use crate::crowd::Scene;
use crate::http::{self, Parsed};
use crate::payload::{Native, Stamp};
use crate::recorder::{Recorder, Track};
use crate::scanner::{Frame, Scanner};
use crate::websocket::{BINARY, CLOSE, KEY, PING, PONG, TEXT, masked_frame};

#[derive(Debug)]
pub(crate) struct Subscriber {
    socket: TcpStream,
    topic: usize,
    phase: Phase,
    scanner: Scanner,
    track: Track,
}

#[derive(Debug)]
enum Phase {
    Connecting,
    /// The request is sent; holds a head that came in pieces.
    Upgrading(Vec<u8>),
    /// The subscribe command is sent.
    Subscribing,
    Subscribed,
}

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Closed(Option<u16>),
    EndOfStream,
    Socket(ErrorKind),
    Refused(u16),
    NotSubscribed(String),
    Violation(&'static str),
    GivenUp,
}

impl Subscriber {
    /// A subscriber of `topic` whose connection is being made.
    pub(crate) fn connecting(socket: TcpStream, topic: usize) -> Self {
        Self { socket, topic, phase: Phase::Connecting, scanner: Scanner::default(), track: Track::default() }
    }

    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub(crate) fn topic(&self) -> usize {
        self.topic
    }

    /// Its topic, and how many different messages it received.
    pub(crate) fn received(&self) -> (usize, u64) {
        (self.topic, self.track.unique())
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
        let path = match scene.format {
            Format::Raw => format!("/topics/{}?from=live", scene.topics[self.topic]),
            Format::Json => "/ws".to_owned(),
        };
        let protocol = match scene.format {
            Format::Raw => "",
            Format::Json => "Sec-WebSocket-Protocol: fanfare.v1.json\r\n",
        };
        let host = &scene.authority;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{protocol}\r\n"
        );
        self.phase = Phase::Upgrading(Vec::new());
        self.write(request.as_bytes())
    }

    /// Says that it leaves.
    pub(crate) fn close(&mut self) {
        // The server may be gone already; then there is nobody to tell.
        let _ = self.write(&masked_frame(CLOSE, &1000_u16.to_be_bytes()));
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
        let Phase::Upgrading(pieces) = &mut self.phase else {
            return self.scan(received, now_ns, scene, recorder);
        };
        pieces.extend_from_slice(received);
        let pieces = std::mem::take(pieces);
        match http::head(&pieces) {
            Parsed::Partial => {
                self.phase = Phase::Upgrading(pieces);
                Ok(())
            }
            Parsed::Malformed(why) => Err(Ended::Violation(why)),
            Parsed::Whole(head, length) => {
                match http::status(head) {
                    Some(101) => {}
                    Some(status) => return Err(Ended::Refused(status)),
                    None => return Err(Ended::Violation("no status line")),
                }
                if http::header(head, "sec-websocket-accept") != Some(accept) {
                    return Err(Ended::Violation("a wrong Sec-WebSocket-Accept"));
                }
                self.upgraded(scene)?;
                self.scan(&pieces[length..], now_ns, scene, recorder)
            }
        }
    }

    fn upgraded(&mut self, scene: &Scene) -> Result<(), Ended> {
        match scene.format {
            Format::Raw => {
                self.phase = Phase::Subscribed;
                Ok(())
            }
            Format::Json => {
                self.phase = Phase::Subscribing;
                let topic = &scene.topics[self.topic];
                let command = format!(
                    r#"{{"type":"subscribe","id":1,"topics":[{{"topic":"{topic}","from":"live"}}]}}"#
                );
                self.write(&masked_frame(TEXT, command.as_bytes()))
            }
        }
    }

    fn scan(
        &mut self,
        mut input: &[u8],
        now_ns: u64,
        scene: &Scene,
        recorder: &mut Recorder,
    ) -> Result<(), Ended> {
        while let Some(frame) =
            self.scanner.next(&mut input).map_err(|violation| Ended::Violation(violation.0))?
        {
            match frame.opcode {
                TEXT | BINARY => match scene.format {
                    Format::Raw => self.payload(&frame.bytes, frame.length, now_ns, scene, recorder),
                    Format::Json => self.native(&frame, now_ns, scene, recorder)?,
                },
                PING => {
                    // A socket that takes no pong is one the server will close; that is then counted.
                    let _ = self.write(&masked_frame(PONG, &frame.bytes));
                }
                CLOSE => {
                    let code = frame.bytes.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                    let _ = self.write(&masked_frame(CLOSE, frame.bytes.get(..2).unwrap_or_default()));
                    return Err(Ended::Closed(code));
                }
                PONG => {}
                _ => return Err(Ended::Violation("an unknown opcode")),
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
        frame: &Frame<'_>,
        now_ns: u64,
        scene: &Scene,
        recorder: &mut Recorder,
    ) -> Result<(), Ended> {
        let Some(message) = Native::read(&frame.bytes) else {
            return self.control(frame, recorder);
        };
        if message.topic != scene.topics[self.topic].as_bytes() {
            recorder.tally.malformed += 1;
            return Ok(());
        }
        recorder.offset(&mut self.track, message.offset);
        let envelope = frame.bytes.len() - message.data.len() + 1;
        self.payload(message.data, frame.length - envelope as u64, now_ns, scene, recorder);
        Ok(())
    }

    /// A frame with a `type`. Those that say nothing of use here are passed over, as every client should.
    fn control(&mut self, frame: &Frame<'_>, recorder: &mut Recorder) -> Result<(), Ended> {
        let Ok(control) = serde_json::from_slice::<serde_json::Value>(&frame.bytes) else {
            recorder.tally.malformed += 1;
            return Ok(());
        };
        match (control["type"].as_str(), &self.phase) {
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
                recorder.gap(end("from"), end("to"));
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
    }
}
