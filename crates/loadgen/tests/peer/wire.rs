//! How the peer says things in each format: a frame of the native WebSocket, or chunks of a stream.

/// The format of one subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    WebSocket,
    /// Events of one topic.
    Sse,
    Ndjson,
    /// Events of several topics.
    Events,
}

impl Wire {
    /// What the request's head asks for; `None`: it publishes.
    pub(crate) fn asked(head: &str) -> Option<Self> {
        match () {
            () if !head.starts_with("GET ") => None,
            () if head.starts_with("GET /ws ") => Some(Self::WebSocket),
            () if head.starts_with("GET /events?") => Some(Self::Events),
            () if head.contains("Accept: text/event-stream") => Some(Self::Sse),
            () => Some(Self::Ndjson),
        }
    }

    /// The head of a stream and its first bytes.
    pub(crate) fn head(self) -> Vec<u8> {
        let (media_type, first) = match self {
            Self::Ndjson => ("application/x-ndjson", "\n"),
            _ => ("text/event-stream", "retry: 2000\n:ok\n"),
        };
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ntransfer-encoding: chunked\r\n\r\n");
        [head.into_bytes(), chunks(first)].concat()
    }

    /// A `subscribed` whose topic is `result`, where the format has one.
    pub(crate) fn subscribed(self, result: &str) -> Vec<u8> {
        match self {
            Self::WebSocket => {
                frame(0x1, format!(r#"{{"type":"subscribed","id":1,"topics":[{result}]}}"#).as_bytes())
            }
            Self::Events => {
                chunks(&format!("id: e:0\nevent: subscribed\ndata: {{\"topics\":[{result}]}}\n\n"))
            }
            Self::Sse | Self::Ndjson => Vec::new(),
        }
    }

    pub(crate) fn message(self, topic: &str, offset: u64, data: &str) -> Vec<u8> {
        let native = format!(r#"{{"topic":"{topic}","offset":{offset},"data":{data}}}"#);
        match self {
            Self::WebSocket => frame(0x1, native.as_bytes()),
            Self::Sse => chunks(&format!("id: e:{offset}\ndata: {data}\n\n:\n")),
            Self::Ndjson => chunks(&format!("{native}\n\n")),
            Self::Events => chunks(&format!("data: {native}\n\n")),
        }
    }

    pub(crate) fn gap(self, offset: u64) -> Vec<u8> {
        let gap = format!(r#""topic":"x","epoch":"e","from":{offset},"to":{offset},"reason":"slow"}}"#);
        match self {
            Self::WebSocket => frame(0x1, format!(r#"{{"type":"gap",{gap}"#).as_bytes()),
            Self::Sse | Self::Events => chunks(&format!("event: gap\ndata: {{{gap}\n\n")),
            Self::Ndjson => chunks(&format!("{{\"type\":\"gap\",{gap}\n")),
        }
    }

    pub(crate) fn close(self) -> Vec<u8> {
        match self {
            Self::WebSocket => frame(0x8, &[&4101_u16.to_be_bytes()[..], b"slow"].concat()),
            Self::Sse | Self::Ndjson | Self::Events => b"0\r\n\r\n".to_vec(),
        }
    }
}

pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    let mut frame = vec![0x80 | opcode];
    match length {
        ..126 => frame.push(length as u8),
        _ => frame.extend([[126].as_slice(), &length.to_be_bytes()].concat()),
    }
    frame.extend(payload);
    frame
}

/// Chunks that end where nothing else does.
fn chunks(contents: &str) -> Vec<u8> {
    let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
    contents.as_bytes().chunks(61).flat_map(chunk).collect()
}
