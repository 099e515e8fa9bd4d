//! How a server is subscribed to and published to, as data.
//!
//! The bundled adapter `fanfare` publishes through the same templates as any other; its subscribers speak formats with
//! offsets and gaps, which are code ([`request`](crate::request), [`incoming`](crate::incoming)). All other servers are
//! subscribed to by their adapter alone, and messages are found by their stamps ([`stamps`](crate::stamps)).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::scenario::{Refused, toml_value};
pub(crate) use template::Template;
use template::Values;

pub(crate) mod template;

const FANFARE: &str = include_str!("../adapters/fanfare.toml");

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adapter {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) title: String,
    /// Only the bundled adapter does: then the formats are Fanfare's own.
    #[serde(default)]
    pub(crate) tells_offsets: bool,
    /// `None` where subscribing is code.
    pub(crate) subscribe: Option<Subscribe>,
    pub(crate) publish: Publish,
    /// Why this server cannot take part in a scenario.
    #[serde(default)]
    pub(crate) cannot: BTreeMap<String, String>,
    /// What every request's `Authorization` says. Requests of this adapter's templates have it among their headers.
    #[serde(skip)]
    pub(crate) authorization: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subscribe {
    pub(crate) transport: SubscribeTransport,
    pub(crate) path: Template,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Template>,
    #[serde(default)]
    pub(crate) opcode: Opcode,
    #[serde(default)]
    pub(crate) send: Vec<Send>,
    pub(crate) ready: Option<Template>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SubscribeTransport {
    Websocket,
    EventStream,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Opcode {
    #[default]
    Text,
    Binary,
}

/// A frame to send: at once, or after something was seen.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Send {
    Now(Template),
    After(SendAfter),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendAfter {
    pub(crate) after: Template,
    pub(crate) frame: Template,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Publish {
    pub(crate) transport: PublishTransport,
    /// Another port than the subscribers'; 0: the same.
    #[serde(default)]
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) method: Option<String>,
    #[serde(default)]
    pub(crate) path: Template,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Template>,
    #[serde(default)]
    pub(crate) body: Template,
    /// Any 2xx, if none is named.
    #[serde(default)]
    pub(crate) success: Vec<u16>,
    /// Requests that may wait for their answers on one connection; 0: as many as are due.
    #[serde(default = "one_at_a_time")]
    pub(crate) pipeline: usize,
    pub(crate) batch: Option<Batch>,
    #[serde(default)]
    pub(crate) hello: Template,
    pub(crate) hello_answer: Option<Template>,
    #[serde(default)]
    pub(crate) message: Template,
    #[serde(default)]
    pub(crate) after: Template,
    pub(crate) acknowledged: Option<Template>,
    /// How clients publish over a WebSocket, where they can.
    pub(crate) websocket: Option<Websocket>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PublishTransport {
    Http,
    Tcp,
}

/// How several messages go in one request.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batch {
    pub(crate) path: Option<Template>,
    pub(crate) headers: Option<BTreeMap<String, Template>>,
    pub(crate) body: Template,
    #[serde(default)]
    pub(crate) join: Template,
    #[serde(default)]
    pub(crate) before: Template,
    #[serde(default)]
    pub(crate) after: Template,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Websocket {
    pub(crate) path: Template,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Template>,
    /// A text frame for each message.
    pub(crate) message: Template,
    /// Each occurrence in what comes answers one message.
    pub(crate) acknowledged: Template,
    /// Each occurrence refuses one.
    pub(crate) refused: Option<Template>,
}

impl Adapter {
    /// Has every HTTP request and handshake show a token.
    pub(crate) fn authorize(&mut self, token: &str) -> Result<(), String> {
        // What a template reads as something else is in no token.
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}' | b'\\');
        if token.is_empty() || !token.bytes().all(is_plain) {
            return Err("--token: one word of ASCII without braces is expected".into());
        }
        let authorization = format!("Bearer {token}");
        let value = Template::parse(&authorization).map_err(|error| format!("--token: {error}"))?;
        let publish = &mut self.publish;
        let of_batch = publish.batch.as_mut().and_then(|batch| batch.headers.as_mut());
        let of_websocket = publish.websocket.as_mut().map(|websocket| &mut websocket.headers);
        let of_subscribe = self.subscribe.as_mut().map(|subscribe| &mut subscribe.headers);
        let all = [Some(&mut publish.headers), of_batch, of_websocket, of_subscribe];
        for headers in all.into_iter().flatten() {
            headers.insert("Authorization".to_owned(), value.clone());
        }
        self.authorization = Some(authorization);
        Ok(())
    }

    /// Fanfare's own.
    pub(crate) fn fanfare() -> Self {
        toml_value(FANFARE, "the bundled adapter").expect("a test reads it")
    }

    /// The one in a file.
    pub(crate) fn load(file: &str) -> Result<Self, Refused> {
        let text =
            std::fs::read_to_string(file).map_err(|error| Refused(format!("cannot read {file}: {error}")))?;
        let adapter: Self = toml_value(&text, file)?;
        adapter.check().map_err(|problem| Refused(format!("{file}: {problem}")))?;
        Ok(adapter)
    }

    fn check(&self) -> Result<(), String> {
        let publish = &self.publish;
        match () {
            () if self.subscribe.is_none() && !self.tells_offsets => Err("subscribe is missing".to_owned()),
            () if publish.transport == PublishTransport::Tcp && publish.message.is_empty() => {
                Err("publish.message is missing".to_owned())
            }
            () if publish.transport == PublishTransport::Http && publish.path.is_empty() => {
                Err("publish.path is missing".to_owned())
            }
            () => Ok(()),
        }
    }

    pub(crate) fn shown(&self) -> &str {
        if self.title.is_empty() { &self.name } else { &self.title }
    }
}

impl Subscribe {
    /// Each topic is asked for in a frame of its own, so one connection can have several.
    pub(crate) fn takes_several_topics(&self) -> bool {
        self.send.iter().any(|send| send.frame().names_topic())
    }
}

impl Send {
    pub(crate) fn after(&self) -> Option<&Template> {
        match self {
            Self::Now(_) => None,
            Self::After(send) => Some(&send.after),
        }
    }

    pub(crate) fn frame(&self) -> &Template {
        match self {
            Self::Now(frame) => frame,
            Self::After(send) => &send.frame,
        }
    }
}

/// The request line and headers of an HTTP request that ends with its head, or goes on with `body_bytes` bytes.
pub(crate) fn request_head(
    (method, path): (&str, &Template),
    host: &str,
    headers: &BTreeMap<String, Template>,
    values: &Values<'_>,
    body_bytes: Option<usize>,
) -> Vec<u8> {
    let mut head = format!("{method} ").into_bytes();
    path.render(values, &mut head);
    head.extend_from_slice(b" HTTP/1.1\r\n");
    if !headers.keys().any(|name| name.eq_ignore_ascii_case("host")) {
        head.extend_from_slice(format!("Host: {host}\r\n").as_bytes());
    }
    for (name, value) in headers {
        head.extend_from_slice(format!("{name}: ").as_bytes());
        value.render(values, &mut head);
        head.extend_from_slice(b"\r\n");
    }
    if let Some(bytes) = body_bytes {
        head.extend_from_slice(format!("Content-Length: {bytes}\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn one_at_a_time() -> usize {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_shows_the_token() {
        let mut adapter = Adapter::fanfare();
        assert!(adapter.authorize("two words").is_err() && adapter.authorize("{topic}").is_err());
        adapter.authorize("a.b.c").unwrap();
        let publish = &adapter.publish;
        let batch = publish.batch.as_ref().and_then(|batch| batch.headers.as_ref()).unwrap();
        for headers in [&publish.headers, batch, &publish.websocket.as_ref().unwrap().headers] {
            let head = request_head(("GET", &publish.path), "h:1", headers, &Values::default(), None);
            assert!(String::from_utf8(head).unwrap().contains("\r\nAuthorization: Bearer a.b.c\r\n"));
        }
    }

    #[test]
    fn the_bundled_adapter_can_be_read() {
        let adapter = Adapter::fanfare();
        assert_eq!(adapter.check(), Ok(()));
        assert!(adapter.tells_offsets && adapter.publish.websocket.is_some());
        let values = Values { topic: "a.b", ..Values::default() };
        let head =
            request_head(("POST", &adapter.publish.path), "h:1", &adapter.publish.headers, &values, Some(2));
        let expect = "POST /topics/a.b HTTP/1.1\r\nHost: h:1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(String::from_utf8(head).unwrap(), expect);
    }

    #[test]
    fn those_of_the_other_servers_can_be_read() {
        let peers = concat!(env!("CARGO_MANIFEST_DIR"), "/../../loadtest/peers");
        let files = std::fs::read_dir(peers).unwrap().map(|entry| entry.unwrap().path().join("adapter.toml"));
        let files: Vec<_> = files.filter(|path| path.is_file()).collect();
        assert!(!files.is_empty());
        for file in files {
            let adapter = Adapter::load(file.to_str().unwrap()).unwrap();
            let folder = file.parent().unwrap().file_name().unwrap();
            assert_eq!(folder, adapter.name.as_str());
            assert!(adapter.subscribe.is_some() && !adapter.title.is_empty(), "{}", adapter.name);
        }
    }

    #[test]
    fn an_adapter_says_how_each_frame_is_sent() {
        let text = r#"
            name = "x"
            [subscribe]
            transport = "websocket"
            path = "/app"
            send = ['hello', { after = "welcome", frame = 'join {topic}' }]
            ready = "joined"
            [publish]
            transport = "tcp"
            message = 'PUB {topic} {payload.bytes}\r\n{payload}\r\n'
            [cannot]
            recovery-storm = "keeps no messages"
        "#;
        let adapter: Adapter = toml_value(text, "x").unwrap();
        assert_eq!(adapter.check(), Ok(()));
        let subscribe = adapter.subscribe.unwrap();
        assert!(subscribe.takes_several_topics());
        assert!(subscribe.send[0].after().is_none() && subscribe.send[1].after().is_some());
        assert_eq!(adapter.cannot["recovery-storm"], "keeps no messages");
    }

    #[test]
    fn a_wrong_adapter_is_refused_with_its_key() {
        let check = |text: &str, expect: &str| {
            let found = toml_value::<Adapter>(text, "a.toml").map_err(|refused| refused.0);
            let found = found.and_then(|adapter| adapter.check()).unwrap_err();
            assert!(found.contains(expect), "{text}: {found}");
        };
        let publish = "[publish]\ntransport = \"http\"\n";
        check(&format!("name = \"x\"\n{publish}paht = \"/\""), "did you mean path?");
        check(&format!("name = \"x\"\n{publish}path = \"/{{topik}}\""), "unknown field {topik}");
        check(&format!("name = \"x\"\n{publish}path = \"/\""), "subscribe is missing");
        check(&format!("name = \"x\"\ntells_offsets = true\n{publish}"), "publish.path is missing");
    }
}
