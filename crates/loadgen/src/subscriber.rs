//! One subscriber: connects, asks for its topics, and from then on checks what it receives.
//!
//! It reads no socket itself: the [`Crowd`](crate::crowd::Crowd) does, into a buffer that all share. So at rest it is
//! a socket, the few bytes of its [`Incoming`] and its [`Track`]s.
//!
//! # Bounds       at rest below 384 bytes, and a track for each topic but the first

use std::io::{ErrorKind, Write as _};
use std::sync::atomic::Ordering::Relaxed;

use mio::net::TcpStream;
use serde_json::Value;
use smallvec::SmallVec;

use crate::foreign::{Foreign, Said};
use crate::http::{self, Parsed};
use crate::incoming::{Incoming, Item};
use crate::payload::{Native, Stamp};
use crate::polls::{self, Polled};
use crate::recorder::Recorder;
use crate::request::Asked;
use crate::scenario::{Format, Subscribers};
use crate::scene::Scene;
use crate::track::Track;
use crate::websocket::{CLOSE, PONG, TEXT, masked_frame};

/// By topic; most subscribers have one.
pub(crate) type Tracks = SmallVec<[Track; 1]>;

#[derive(Debug)]
pub(crate) struct Subscriber {
    socket: TcpStream,
    /// Its place among the scenario's groups.
    pub(crate) group: usize,
    format: Format,
    phase: Phase,
    stream: Stream,
    past: Past,
    /// When it came to be subscribed.
    pub(crate) since_ns: u64,
}

/// What a subscriber had when its connection was cut, or nothing yet.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) tracks: Tracks,
    /// It was subscribed before.
    pub(crate) again: bool,
    /// It goes on from where its tracks are.
    pub(crate) resumes: bool,
    /// The last event's id, or the last answer's cursor.
    pub(crate) cursor: Option<Box<str>>,
}

#[derive(Debug)]
enum Stream {
    Native(Incoming),
    /// From when the request is answered on.
    Foreign(Option<Box<Foreign>>),
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

impl Past {
    /// A subscriber that was never there.
    pub(crate) fn none(scene: &Scene, topics: impl Iterator<Item = usize>) -> Self {
        let tracks = topics.map(|topic| Track::new(topic, scene.topics[topic].ordered)).collect();
        Self { tracks, again: false, resumes: false, cursor: None }
    }

    fn track_of(&mut self, topic: usize) -> Option<&mut Track> {
        let at = self.tracks.binary_search_by_key(&topic, Track::topic).ok()?;
        Some(&mut self.tracks[at])
    }

    fn track_named(&mut self, name: &str, scene: &Scene) -> Option<&mut Track> {
        // A server has its own way to say the one topic of a stream.
        if self.tracks.len() == 1 {
            return self.tracks.first_mut();
        }
        self.tracks.iter_mut().find(|track| scene.topics[track.topic()].name == name)
    }
}

impl Subscriber {
    /// A subscriber whose connection is being made.
    pub(crate) fn connecting(socket: TcpStream, group: usize, past: Past, scene: &Scene) -> Self {
        let format = scene.scenario.subscribers[group].format;
        let stream = match scene.adapter.subscribe {
            Some(_) => Stream::Foreign(None),
            None => Stream::Native(Incoming::new(format)),
        };
        Self { socket, group, format, phase: Phase::Connecting, stream, past, since_ns: u64::MAX }
    }

    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub(crate) fn settings<'s>(&self, scene: &'s Scene) -> &'s Subscribers {
        &scene.scenario.subscribers[self.group]
    }

    pub(crate) fn past(&self) -> &Past {
        &self.past
    }

    /// What it has when its connection is cut.
    pub(crate) fn into_past(mut self) -> Past {
        if let Stream::Native(incoming) = &self.stream
            && let Some(id) = incoming.last_id()
        {
            self.past.cursor = Some(id.into());
        }
        self.past
    }

    /// It is subscribed, and what is published now must reach it.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Subscribed)
    }

    /// The subscription was acknowledged, so it has surely begun.
    pub(crate) fn was_acknowledged(&self, scene: &Scene) -> bool {
        match &scene.adapter.subscribe {
            Some(subscribe) => subscribe.ready.is_some(),
            None => self.format.acknowledges(),
        }
    }

    /// From now on all that is published is owed.
    pub(crate) fn is_sure(&mut self, scene: &Scene) {
        for track in &mut self.past.tracks {
            track.owed_from(scene.topics[track.topic()].next.load(Relaxed));
        }
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
        let request = self.asked().request(scene);
        self.phase = if self.format == Format::Poll { Phase::Subscribing } else { Phase::Asking(Vec::new()) };
        self.write(&request)
    }

    fn asked(&self) -> Asked<'_> {
        let Past { tracks, resumes, cursor, .. } = &self.past;
        Asked { format: self.format, tracks, resumes: *resumes, cursor: cursor.as_deref() }
    }

    /// Says that it leaves, where there is a way to say it.
    pub(crate) fn close(&mut self) {
        if self.format.is_websocket() {
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
                self.asked().check(scene, head, accept)?;
                self.answered(scene, head)?;
                self.scan(&pieces[length..], now_ns, scene, recorder)
            }
        }
    }

    fn answered(&mut self, scene: &Scene, head: &str) -> Result<(), Ended> {
        self.phase = Phase::Subscribing;
        if let Some(subscribe) = &scene.adapter.subscribe {
            let topics: Vec<_> =
                self.past.tracks.iter().map(|track| scene.topics[track.topic()].name.as_str()).collect();
            self.stream = Stream::Foreign(Some(Box::new(Foreign::new(subscribe, head, &topics))));
            return self.greet();
        }
        match self.format {
            Format::Raw | Format::Sse | Format::Ndjson => self.phase = Phase::Subscribed,
            Format::Json => {
                let command = self.asked().command(scene);
                self.write(&masked_frame(TEXT, command.as_bytes()))?;
            }
            Format::Events | Format::Poll => {}
        }
        Ok(())
    }

    /// Sends what can be sent to a server that is known by its adapter.
    fn greet(&mut self) -> Result<(), Ended> {
        let Stream::Foreign(Some(foreign)) = &mut self.stream else { return Ok(()) };
        let frames = foreign.take_frames();
        if foreign.is_ready() {
            self.phase = Phase::Subscribed;
        }
        if frames.is_empty() { Ok(()) } else { self.write(&frames) }
    }

    fn scan(
        &mut self,
        mut input: &[u8],
        now_ns: u64,
        scene: &Scene,
        recorder: &mut Recorder,
    ) -> Result<(), Ended> {
        if matches!(self.stream, Stream::Foreign(_)) {
            return self.scan_foreign(input, now_ns, recorder);
        }
        while let Stream::Native(incoming) = &mut self.stream
            && let Some(item) =
                incoming.next(&mut input).map_err(|violation| Ended::Violation(violation.0))?
        {
            match item {
                Item::Payload { offset, length, bytes } => {
                    let track = &mut self.past.tracks[0];
                    if let Some(offset) = offset {
                        recorder.offset(track, offset);
                    }
                    self.payload(&bytes, length, now_ns, scene, recorder);
                }
                Item::Native { length, bytes } => self.native(&bytes, length, now_ns, scene, recorder)?,
                Item::Control(kind, bytes) => self.control(Some(kind), &bytes, scene, recorder)?,
                Item::Polled(polled) => self.polled(&polled, now_ns, scene, recorder)?,
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

    fn scan_foreign(&mut self, mut input: &[u8], now_ns: u64, recorder: &mut Recorder) -> Result<(), Ended> {
        let violation = |violation: crate::scanner::Violation| Ended::Violation(violation.0);
        while let Stream::Foreign(Some(foreign)) = &mut self.stream
            && let Some(said) = foreign.next(&mut input).map_err(violation)?
        {
            match said {
                Said::Bytes(bytes) => {
                    let (past, since_ns) = (&mut self.past, self.since_ns);
                    foreign.stamps.find(bytes, |stamp| match past.track_of(stamp.topic) {
                        Some(track) => recorder.message(track, stamp, since_ns, now_ns),
                        None => recorder.tally.malformed += 1,
                    });
                    if !foreign.is_ready() {
                        foreign.hear(bytes).map_err(violation)?;
                        self.greet()?;
                    }
                }
                Said::Ping(bytes) => {
                    let _ = self.write(&masked_frame(PONG, &bytes));
                }
                Said::Close(code) => return Err(Ended::Closed(code)),
                Said::Last => return Err(Ended::LastChunk),
            }
        }
        Ok(())
    }

    fn payload(&mut self, payload: &[u8], length: u64, now_ns: u64, scene: &Scene, recorder: &mut Recorder) {
        let is_length = |length| usize::try_from(length).is_ok_and(|length| scene.is_payload_length(length));
        let stamp = Stamp::read(payload).filter(|_| is_length(length));
        let since_ns = self.since_ns;
        match stamp.and_then(|stamp| Some((self.past.track_of(stamp.topic)?, stamp))) {
            Some((track, stamp)) => recorder.message(track, stamp, since_ns, now_ns),
            None => recorder.tally.malformed += 1,
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
            return self.control(None, bytes, scene, recorder);
        };
        // The stamp says which topic it is without a search; the name must agree.
        let stamped = Stamp::read(message.data).map(|stamp| stamp.topic);
        let topic = stamped.unwrap_or_else(|| self.past.tracks[0].topic());
        let (format, again) = (self.format, self.past.again);
        let track =
            self.past.track_of(topic).filter(|_| scene.topics[topic].name.as_bytes() == message.topic);
        let Some(track) = track else {
            recorder.tally.malformed += 1;
            return Ok(());
        };
        // An id says up to where everything came; what came past it comes once more (docs/PROTOCOL.md).
        if format == Format::Events && again && track.offset.is_some_and(|offset| message.offset <= offset) {
            return Ok(());
        }
        recorder.offset(track, message.offset);
        let envelope = bytes.len() - message.data.len() + 1;
        self.payload(message.data, length - envelope as u64, now_ns, scene, recorder);
        Ok(())
    }

    /// Takes an answer to a poll, and asks again.
    fn polled(
        &mut self,
        polled: &Polled,
        now_ns: u64,
        scene: &Scene,
        recorder: &mut Recorder,
    ) -> Result<(), Ended> {
        if polled.status != 200 {
            return Err(Ended::Refused(polled.status));
        }
        let Ok(answer) = serde_json::from_slice::<polls::Answer<'_>>(&polled.body) else {
            return Err(Ended::Violation("an answer that is not as polls are answered"));
        };
        // The first answer has the last values: they were published before.
        let is_first = matches!(self.phase, Phase::Subscribing) && !self.past.resumes;
        self.past.cursor = Some(answer.cursor.into());
        self.phase = Phase::Subscribed;
        for message in &answer.messages {
            let Some(track) = self.past.track_named(message.topic, scene) else {
                recorder.tally.malformed += 1;
                continue;
            };
            if is_first {
                track.begin_behind(message.offset);
                continue;
            }
            if answer.gap
                && let Some(last) = track.offset
                && message.offset > last + 1
            {
                recorder.gap(track, last + 1, message.offset - 1);
            }
            recorder.offset(track, message.offset);
            let data = message.data.map_or("", |data| data.get());
            self.payload(data.as_bytes(), data.len() as u64, now_ns, scene, recorder);
        }
        let request = self.asked().request(scene);
        self.write(&request)
    }

    /// A control object; `kind` where it does not say it itself in `type`. Those that say nothing of use here are passed
    /// over, as every client should.
    fn control(
        &mut self,
        kind: Option<&str>,
        bytes: &[u8],
        scene: &Scene,
        recorder: &mut Recorder,
    ) -> Result<(), Ended> {
        let Ok(control) = serde_json::from_slice::<Value>(bytes) else {
            recorder.tally.malformed += 1;
            return Ok(());
        };
        match (kind.or_else(|| control["type"].as_str()), &self.phase) {
            (None, _) => recorder.tally.malformed += 1,
            (Some("subscribed"), Phase::Subscribing) => {
                for topic in control["topics"].as_array().into_iter().flatten() {
                    if let Some(code) = topic["error"]["code"].as_str() {
                        return Err(Ended::NotSubscribed(code.to_owned()));
                    }
                    self.subscribed(topic, scene, recorder);
                }
                self.phase = Phase::Subscribed;
            }
            (Some("error"), Phase::Subscribing) => {
                return Err(Ended::NotSubscribed(control["code"].as_str().unwrap_or("error").to_owned()));
            }
            (Some("gap"), _) => {
                let end = |name: &str| control[name].as_u64().unwrap_or(0);
                if let Some(track) = self.past.track_named(control["topic"].as_str().unwrap_or(""), scene) {
                    recorder.gap(track, end("from"), end("to"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The acknowledgement of one topic: where it begins, and whether all that was missed will come.
    fn subscribed(&mut self, topic: &Value, scene: &Scene, recorder: &mut Recorder) {
        let (Some(name), Some(offset)) = (topic["topic"].as_str(), topic["offset"].as_u64()) else { return };
        let Some(track) = self.past.track_named(name, scene) else { return };
        if let Some(epoch) = topic["epoch"].as_str() {
            scene.topics[track.topic()].epoch.get_or_init(|| epoch.to_owned());
        }
        let begins = offset.saturating_sub(topic["replay"].as_u64().unwrap_or(0));
        match track.offset {
            Some(last) if topic["recovered"] == Value::Bool(false) && begins > last => {
                recorder.gap(track, last + 1, begins);
            }
            _ => track.begin_behind(begins),
        }
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
        assert!(size_of::<Subscriber>() <= 384, "{} bytes", size_of::<Subscriber>());
        assert!(size_of::<Incoming>() <= 144, "{} bytes", size_of::<Incoming>());
    }
}
