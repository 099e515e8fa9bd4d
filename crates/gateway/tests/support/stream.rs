//! A response that does not end, read as a browser reads server-sent events, or line by line.

use std::net::SocketAddr;

use serde_json::Value;

use super::peer::{Answer, Peer, request_text};

pub const EVENTS: (&str, &str) = ("accept", "text/event-stream");
pub const LINES: (&str, &str) = ("accept", "application/x-ndjson");

/// One response.
pub struct Stream {
    pub peer: Peer,
    pub head: Answer,
    text: Vec<u8>,
    last_id: String,
}

/// What a browser hands to a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The last id that came with it or before it.
    pub last_id: String,
    /// `message` if nothing else was said.
    pub name: String,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Stream {
    pub fn open(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Self {
        Self::on(Peer::connect(address), target, headers)
    }

    /// Asks on a connection that is there already.
    pub fn on(mut peer: Peer, target: &str, headers: &[(&str, &str)]) -> Self {
        peer.send(request_text("GET", target, headers, ""));
        let head = peer.answer();
        assert_eq!(head.status, 200, "{target} {headers:?}: {head:?}");
        assert_eq!(head.header("transfer-encoding"), Some("chunked"), "{head:?}");
        Self { peer, head, text: Vec::new(), last_id: String::new() }
    }

    /// The next chunk's content; `None` for the last one, or at the end of the connection.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let length = self.peer.line()?;
        let length = usize::from_str_radix(&length, 16).unwrap_or_else(|_| panic!("no length: {length:?}"));
        let mut content = self.peer.take(length + 2)?;
        assert!(content.ends_with(b"\r\n"), "a chunk's end is where its length says");
        content.truncate(length);
        (length > 0).then_some(content)
    }

    /// The next line of the text, wherever its chunks are cut; `None` at the end.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Some(String::from_utf8(line[..end].to_vec()).expect("a line is text"));
            }
            let chunk = self.chunk()?;
            self.text.extend(chunk);
        }
    }

    /// The next line that is not empty; `None` at the end.
    pub fn object(&mut self) -> Option<String> {
        loop {
            let line = self.line()?;
            if !line.is_empty() {
                return Some(line);
            }
        }
    }

    /// The next event, by the rules of WHATWG HTML, section 9.2.6; `None` at the end.
    pub fn event(&mut self) -> Option<Event> {
        let (mut name, mut data) = (String::new(), None::<String>);
        loop {
            let line = self.line()?;
            assert!(!line.contains('\r'), "a carriage return would end the line: {line:?}");
            if line.is_empty() {
                if let Some(data) = data.take() {
                    let name = if name.is_empty() { "message".to_owned() } else { name };
                    return Some(Event { last_id: self.last_id.clone(), name, data });
                }
                name.clear();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => name = value.to_owned(),
                "data" => match &mut data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => data = Some(value.to_owned()),
                },
                "id" => self.last_id = value.to_owned(),
                "" | "retry" => {}
                other => panic!("a browser knows no field {other:?}"),
            }
        }
    }

    /// The next event that is not the end.
    pub fn next(&mut self) -> Event {
        self.event().expect("an event comes before the end")
    }
}
