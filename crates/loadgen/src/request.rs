//! How a subscriber asks for its topics, and what the answer's head must say: one way for each format, and one for all
//! servers that are known by their adapter.

use std::fmt::Write as _;

use crate::adapter::template::Values;
use crate::adapter::{SubscribeTransport, request_head};
use crate::http;
use crate::scenario::Format;
use crate::scene::Scene;
use crate::subscriber::{Ended, Tracks};
use crate::track::Track;
use crate::websocket::KEY;

/// Messages in the answer to a poll, and how long it may wait for one, in seconds.
const POLL: &str = "wait=25&max=1000";

/// What a subscriber asks for.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) format: Format,
    pub(crate) tracks: &'a Tracks,
    /// It goes on from where its tracks are.
    pub(crate) resumes: bool,
    /// The last event's id, or the last answer's cursor.
    pub(crate) cursor: Option<&'a str>,
}

impl Asked<'_> {
    /// The request for messages from now on, or from where it was; over `/ws` the topics are asked for later.
    pub(crate) fn request(&self, scene: &Scene) -> Vec<u8> {
        if let Some(subscribe) = &scene.adapter.subscribe {
            let values = Values { topic: self.first(scene), ..Values::default() };
            let mut headers = subscribe.headers.clone();
            let fixed: &[_] = match subscribe.transport {
                SubscribeTransport::Websocket => &[
                    ("Connection", "Upgrade"),
                    ("Upgrade", "websocket"),
                    ("Sec-WebSocket-Version", "13"),
                    ("Sec-WebSocket-Key", KEY),
                ],
                SubscribeTransport::EventStream => &[("Accept", "text/event-stream")],
            };
            for (name, value) in fixed {
                headers.entry((*name).to_owned()).or_insert_with(|| literal(value));
            }
            return request_head(("GET", &subscribe.path), &scene.authority, &headers, &values, None);
        }
        let headers = match self.format {
            Format::Raw | Format::Json => {
                let protocol = if self.format == Format::Json {
                    "Sec-WebSocket-Protocol: fanfare.v1.json\r\n"
                } else {
                    ""
                };
                format!(
                    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: {KEY}\r\n{protocol}"
                )
            }
            Format::Sse | Format::Ndjson => format!("Accept: {}\r\n", media_type(self.format)),
            Format::Events => {
                let last = self.cursor.filter(|_| self.resumes);
                let last = last.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
                format!("Accept: text/event-stream\r\n{last}")
            }
            Format::Poll => String::new(),
        };
        let authorization = scene.adapter.authorization.as_ref();
        let authorization =
            authorization.map_or_else(String::new, |value| format!("Authorization: {value}\r\n"));
        let (path, host) = (self.path(scene), &scene.authority);
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}{headers}\r\n").into_bytes()
    }

    fn path(&self, scene: &Scene) -> String {
        let mut path = match self.format {
            Format::Json => return "/ws".to_owned(),
            Format::Raw | Format::Sse | Format::Ndjson => {
                let topic = self.first(scene);
                return match self.place(&self.tracks[0], scene) {
                    Some((epoch, offset)) => format!("/topics/{topic}?epoch={epoch}&offset={offset}"),
                    None => format!("/topics/{topic}?from=live"),
                };
            }
            Format::Events => "/events".to_owned(),
            Format::Poll => "/poll".to_owned(),
        };
        for (at, track) in self.tracks.iter().enumerate() {
            let mark = if at == 0 { '?' } else { '&' };
            write!(path, "{mark}topic={}", scene.topics[track.topic()].name).expect("a String takes it");
        }
        let rest = match (self.format, self.cursor) {
            (Format::Poll, Some(cursor)) => format!("&{POLL}&cursor={cursor}"),
            (Format::Poll, None) => format!("&{POLL}"),
            _ => "&from=live".to_owned(),
        };
        path + &rest
    }

    /// The command that asks for the topics over `/ws`.
    pub(crate) fn command(&self, scene: &Scene) -> String {
        let topic = |track: &Track| {
            let name = &scene.topics[track.topic()].name;
            match self.place(track, scene) {
                Some((epoch, offset)) => {
                    format!(r#"{{"topic":"{name}","epoch":"{epoch}","offset":{offset}}}"#)
                }
                None => format!(r#"{{"topic":"{name}","from":"live"}}"#),
            }
        };
        let topics: Vec<_> = self.tracks.iter().map(topic).collect();
        format!(r#"{{"type":"subscribe","id":1,"topics":[{}]}}"#, topics.join(","))
    }

    /// Where it goes on, if it does and that is known.
    fn place<'s>(&self, track: &Track, scene: &'s Scene) -> Option<(&'s str, u64)> {
        let epoch = scene.topics[track.topic()].epoch.get().filter(|_| self.resumes)?;
        Some((epoch, track.offset?))
    }

    fn first<'s>(&self, scene: &'s Scene) -> &'s str {
        &scene.topics[self.tracks[0].topic()].name
    }

    /// Whether a head answers [`request`](Self::request); `accept` answers [`KEY`].
    pub(crate) fn check(&self, scene: &Scene, head: &str, accept: &str) -> Result<(), Ended> {
        let subscribe = scene.adapter.subscribe.as_ref();
        let websocket = match subscribe {
            Some(subscribe) => subscribe.transport == SubscribeTransport::Websocket,
            None => self.format.is_websocket(),
        };
        check(self.format, websocket, subscribe.is_some(), head, accept)
    }
}

fn check(format: Format, websocket: bool, foreign: bool, head: &str, accept: &str) -> Result<(), Ended> {
    match http::status(head) {
        Some(status) if status == if websocket { 101 } else { 200 } => {}
        Some(status) => return Err(Ended::Refused(status)),
        None => return Err(Ended::Violation("no status line")),
    }
    if websocket {
        let accepted = http::header(head, "sec-websocket-accept") == Some(accept);
        return if accepted { Ok(()) } else { Err(Ended::Violation("a wrong Sec-WebSocket-Accept")) };
    }
    let has = |name, start| http::header(head, name).is_some_and(|value| value.starts_with(start));
    match () {
        () if foreign => Ok(()),
        () if !has("content-type", media_type(format)) => Err(Ended::Violation("another content type")),
        () if !has("transfer-encoding", "chunked") => Err(Ended::Violation("a stream without chunks")),
        () => Ok(()),
    }
}

fn literal(text: &str) -> crate::adapter::Template {
    crate::adapter::Template::parse(text).expect("a text without braces is a template")
}

fn media_type(format: Format) -> &'static str {
    if format == Format::Ndjson { "application/x-ndjson" } else { "text/event-stream" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_must_be_what_was_asked_for() {
        let check = |format: Format, head: &str, expect: Result<(), Ended>| {
            let found = check(format, format.is_websocket(), false, &head.replace('|', "\r\n"), "yes");
            assert_eq!(found, expect, "{format}: {head}");
        };
        let upgraded = "HTTP/1.1 101 Switching Protocols|Sec-WebSocket-Accept: yes||";
        let lines = "HTTP/1.1 200 OK|Content-Type: application/x-ndjson|Transfer-Encoding: chunked||";
        check(Format::Raw, upgraded, Ok(()));
        check(Format::Ndjson, lines, Ok(()));
        check(
            Format::Json,
            &upgraded.replace("yes", "no"),
            Err(Ended::Violation("a wrong Sec-WebSocket-Accept")),
        );
        check(Format::Ndjson, upgraded, Err(Ended::Refused(101)));
        check(Format::Sse, lines, Err(Ended::Violation("another content type")));
        check(Format::Events, "HTTP/1.1 404 Not Found||", Err(Ended::Refused(404)));
        let whole = "HTTP/1.1 200 OK|Content-Type: text/event-stream|Content-Length: 5||";
        check(Format::Sse, whole, Err(Ended::Violation("a stream without chunks")));
        check(Format::Sse, "SMTP||", Err(Ended::Violation("no status line")));
    }
}
