//! How messages are written to a server, and how its answers are read: by its adapter, over HTTP, plain TCP or a WebSocket.

use crate::adapter::template::Values;
use crate::adapter::{Adapter, PublishTransport, Template, Websocket, request_head};
use crate::http::{self, Parsed};
use crate::scenario::Via;
use crate::websocket::{CLOSE, KEY, PING, PONG, TEXT, accept, masked_frame};

/// One way to publish.
#[derive(Debug)]
pub(crate) struct Outgoing {
    adapter: Adapter,
    authority: String,
    wire: Wire,
}

#[derive(Debug, Clone)]
enum Wire {
    Http,
    Tcp,
    Websocket(Websocket),
}

/// Some of a batch's messages in one request, and how many they are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) bytes: Vec<u8>,
    pub(crate) messages: usize,
}

/// What the server says next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing whole yet.
    Nothing,
    /// The oldest request is answered.
    Answer { accepted: bool, status: u16, last: bool, epoch: Option<String> },
    /// These bytes are to be sent back.
    Reply(Vec<u8>),
    /// Something that answers nothing.
    Other,
    /// It cannot be followed, or is the end.
    End,
}

impl Outgoing {
    pub(crate) fn new(adapter: &Adapter, via: Via, authority: &str) -> Result<Self, String> {
        let wire = match (via, &adapter.publish.websocket, adapter.publish.transport) {
            (Via::Websocket, Some(websocket), _) => Wire::Websocket(websocket.clone()),
            (Via::Websocket, None, _) => {
                return Err(format!("{} cannot be published to over a WebSocket", adapter.shown()));
            }
            (Via::Http, _, PublishTransport::Http) => Wire::Http,
            (Via::Http, _, PublishTransport::Tcp) => Wire::Tcp,
        };
        Ok(Self { adapter: adapter.clone(), authority: authority.to_owned(), wire })
    }

    /// Requests that may wait for their answers on one connection.
    pub(crate) fn in_flight_max(&self) -> usize {
        match (&self.wire, self.adapter.publish.pipeline) {
            (Wire::Http, 1..) => self.adapter.publish.pipeline,
            _ => usize::MAX,
        }
    }

    /// Requests are answered.
    pub(crate) fn is_answered(&self) -> bool {
        !matches!(self.wire, Wire::Tcp) || self.adapter.publish.acknowledged.is_some()
    }

    /// What is sent on a new connection, and whether something must be heard before requests.
    pub(crate) fn greeting(&self) -> (Vec<u8>, bool) {
        let values = Values { number: 1, ..Values::default() };
        match &self.wire {
            Wire::Http => (Vec::new(), false),
            Wire::Tcp => {
                let publish = &self.adapter.publish;
                (publish.hello.rendered(&values), publish.hello_answer.is_some())
            }
            Wire::Websocket(websocket) => {
                let mut headers = websocket.headers.clone();
                for (name, value) in [
                    ("Connection", "Upgrade"),
                    ("Upgrade", "websocket"),
                    ("Sec-WebSocket-Version", "13"),
                    ("Sec-WebSocket-Key", KEY),
                ] {
                    let value = Template::parse(value).expect("a text without braces is a template");
                    headers.insert(name.to_owned(), value);
                }
                (request_head(("GET", &websocket.path), &self.authority, &headers, &values, None), true)
            }
        }
    }

    /// Whether the greeting is answered; moves `received` past the answer. `Err` if it is not what it should be.
    pub(crate) fn is_greeted(&self, received: &mut Vec<u8>) -> Result<bool, ()> {
        match &self.wire {
            Wire::Http => Ok(true),
            Wire::Tcp => {
                let answer = self.adapter.publish.hello_answer.as_ref();
                let answer = answer.map(|answer| answer.rendered(&Values::default())).unwrap_or_default();
                let end = memchr::memmem::find(received, &answer).map(|at| at + answer.len());
                match end {
                    Some(end) => {
                        received.drain(..end);
                        Ok(true)
                    }
                    None if received.len() > http::HEAD_BYTES_MAX => Err(()),
                    None => Ok(false),
                }
            }
            Wire::Websocket(_) => match http::head(received) {
                Parsed::Partial => Ok(false),
                Parsed::Malformed(_) => Err(()),
                Parsed::Whole(head, length) => {
                    let key = accept(KEY);
                    let accepted = http::header(head, "sec-websocket-accept") == Some(key.as_str());
                    received.drain(..length);
                    if accepted { Ok(true) } else { Err(()) }
                }
            },
        }
    }

    /// The requests that publish `payloads` to `topic`; `number` counts the messages of a connection.
    pub(crate) fn requests(&self, topic: &str, payloads: &[Vec<u8>], number: &mut u64) -> Vec<Request> {
        let publish = &self.adapter.publish;
        match (&self.wire, &publish.batch) {
            (Wire::Http, Some(batch)) if payloads.len() > 1 => {
                let mut body = Vec::new();
                let all = Values { topic, ..Values::default() };
                batch.before.render(&all, &mut body);
                for (at, payload) in payloads.iter().enumerate() {
                    if at > 0 {
                        batch.join.render(&all, &mut body);
                    }
                    batch.body.render(&next(topic, payload, number), &mut body);
                }
                batch.after.render(&all, &mut body);
                let path = batch.path.as_ref().unwrap_or(&publish.path);
                let headers = batch.headers.as_ref().unwrap_or(&publish.headers);
                let mut bytes =
                    request_head((self.method(), path), &self.authority, headers, &all, Some(body.len()));
                bytes.extend_from_slice(&body);
                vec![Request { bytes, messages: payloads.len() }]
            }
            (Wire::Http, _) => {
                let one = |payload: &Vec<u8>| {
                    let values = next(topic, payload, number);
                    let body = publish.body.rendered(&values);
                    let (path, headers) = (&publish.path, &publish.headers);
                    let mut bytes = request_head(
                        (self.method(), path),
                        &self.authority,
                        headers,
                        &values,
                        Some(body.len()),
                    );
                    bytes.extend_from_slice(&body);
                    Request { bytes, messages: 1 }
                };
                payloads.iter().map(one).collect()
            }
            (Wire::Tcp, _) => {
                let mut bytes = Vec::new();
                for payload in payloads {
                    publish.message.render(&next(topic, payload, number), &mut bytes);
                }
                publish.after.render(&Values { topic, ..Values::default() }, &mut bytes);
                vec![Request { bytes, messages: payloads.len() }]
            }
            (Wire::Websocket(websocket), _) => {
                let one = |payload: &Vec<u8>| {
                    let bytes =
                        masked_frame(TEXT, &websocket.message.rendered(&next(topic, payload, number)));
                    Request { bytes, messages: 1 }
                };
                payloads.iter().map(one).collect()
            }
        }
    }

    fn method(&self) -> &str {
        self.adapter.publish.method.as_deref().unwrap_or("POST")
    }

    /// What the bytes at the front of `received` say, and how many they are.
    pub(crate) fn hear(&self, received: &[u8]) -> (Heard, usize) {
        match &self.wire {
            Wire::Http => match http::answer(received) {
                Parsed::Partial => (Heard::Nothing, 0),
                Parsed::Malformed(_) => (Heard::End, 0),
                Parsed::Whole(answer, length) => {
                    let success = &self.adapter.publish.success;
                    let accepted = match success.is_empty() {
                        true => (200..300).contains(&answer.status),
                        false => success.contains(&answer.status),
                    };
                    let body = &received[answer.head_bytes..length];
                    let epoch = if self.adapter.tells_offsets && accepted { epoch_of(body) } else { None };
                    (Heard::Answer { accepted, status: answer.status, last: answer.last, epoch }, length)
                }
            },
            Wire::Tcp => {
                let Some(acknowledged) = &self.adapter.publish.acknowledged else {
                    return (Heard::Nothing, received.len());
                };
                let text = acknowledged.rendered(&Values::default());
                match memchr::memmem::find(received, &text) {
                    Some(at) => {
                        let answer = Heard::Answer { accepted: true, status: 200, last: false, epoch: None };
                        (answer, at + text.len())
                    }
                    // What may be the beginning of one stays.
                    None => (Heard::Nothing, received.len().saturating_sub(text.len().saturating_sub(1))),
                }
            }
            Wire::Websocket(websocket) => hear_frame(websocket, received),
        }
    }
}

/// What the fields of a message stand for, the next one of a connection.
fn next<'v>(topic: &'v str, payload: &'v [u8], number: &mut u64) -> Values<'v> {
    *number += 1;
    Values { topic, payload, number: *number }
}

/// One whole frame at the front of `received`.
fn hear_frame(websocket: &Websocket, received: &[u8]) -> (Heard, usize) {
    let Some((&[first, second], rest)) = received.split_first_chunk() else { return (Heard::Nothing, 0) };
    let extended = match second {
        126 => 2,
        127 => 8,
        0..126 => 0,
        _ => return (Heard::End, 0),
    };
    let Some((length, rest)) = rest.split_at_checked(extended) else { return (Heard::Nothing, 0) };
    let length = match extended {
        0 => u64::from(second),
        _ => length.iter().fold(0, |length, &byte| length << 8 | u64::from(byte)),
    };
    let Some(payload) = usize::try_from(length).ok().and_then(|length| rest.get(..length)) else {
        return (Heard::Nothing, 0);
    };
    let sees = |text: &Template| {
        let text = text.rendered(&Values::default());
        !text.is_empty() && memchr::memmem::find(payload, &text).is_some()
    };
    let heard = match first & 0x0f {
        PING => Heard::Reply(masked_frame(PONG, payload)),
        CLOSE => Heard::End,
        _ if sees(&websocket.acknowledged) => {
            Heard::Answer { accepted: true, status: 200, last: false, epoch: epoch_of(payload) }
        }
        _ if websocket.refused.as_ref().is_some_and(sees) => {
            Heard::Answer { accepted: false, status: 400, last: false, epoch: None }
        }
        _ => Heard::Other,
    };
    (heard, 2 + extended + payload.len())
}

/// The `epoch` in an answer of Fanfare's.
fn epoch_of(body: &[u8]) -> Option<String> {
    let before = br#""epoch":""#;
    let rest = &body[memchr::memmem::find(body, before)? + before.len()..];
    let epoch = &rest[..memchr::memchr(b'"', rest)?];
    String::from_utf8(epoch.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::toml_value;
    use crate::websocket::write_frame;

    fn outgoing(text: &str) -> Outgoing {
        let adapter: Adapter = toml_value(&format!("name = 'x'\n[publish]\n{text}"), "x").unwrap();
        Outgoing::new(&adapter, Via::Http, "h:1").unwrap()
    }

    fn written(outgoing: &Outgoing, payloads: &[&str]) -> Vec<(String, usize)> {
        let payloads: Vec<_> = payloads.iter().map(|payload| payload.as_bytes().to_vec()).collect();
        let requests = outgoing.requests("a.b", &payloads, &mut 0).into_iter();
        requests.map(|request| (String::from_utf8(request.bytes).unwrap(), request.messages)).collect()
    }

    #[test]
    fn a_batch_is_one_request_where_the_adapter_says_how() {
        let fanfare = Outgoing::new(&Adapter::fanfare(), Via::Http, "h:1").unwrap();
        let head =
            "POST /topics/a.b?split=lines HTTP/1.1\r\nHost: h:1\r\nContent-Type: application/x-ndjson\r\n";
        let expect = format!("{head}Content-Length: 5\r\n\r\n{{}}\n{{}}");
        assert_eq!(written(&fanfare, &["{}", "{}"]), [(expect, 2)]);
        let plain = outgoing("transport = 'http'\npath = '/p'\nbody = '{payload}'");
        let one =
            |body: &str| (format!("POST /p HTTP/1.1\r\nHost: h:1\r\nContent-Length: 1\r\n\r\n{body}"), 1);
        assert_eq!(written(&plain, &["1", "2"]), [one("1"), one("2")]);
        let array = outgoing(
            "transport = 'http'\npath = '/p'\nmethod = 'PUT'\nbody = '{payload}'\n\
             batch = { body = '{payload}', join = ',', before = '[', after = ']' }",
        );
        let expect = "PUT /p HTTP/1.1\r\nHost: h:1\r\nContent-Length: 5\r\n\r\n[1,2]".to_owned();
        assert_eq!(written(&array, &["1", "2"]), [(expect, 2)]);
    }

    #[test]
    fn lines_over_tcp_are_acknowledged_by_the_batch() {
        let nats = outgoing(
            r"transport = 'tcp'
              hello = 'CONNECT {{}}\r\nPING\r\n'
              hello_answer = 'PONG\r\n'
              message = 'PUB {topic} {payload.bytes}\r\n{payload}\r\n'
              after = 'PING\r\n'
              acknowledged = 'PONG\r\n'",
        );
        assert_eq!(nats.greeting(), (b"CONNECT {}\r\nPING\r\n".to_vec(), true));
        let mut received = b"INFO {}\r\nPO".to_vec();
        assert_eq!(nats.is_greeted(&mut received), Ok(false));
        received.extend(b"NG\r\nrest");
        assert_eq!((nats.is_greeted(&mut received), &received[..]), (Ok(true), &b"rest"[..]));
        let expect = "PUB a.b 1\r\nx\r\nPUB a.b 2\r\nyy\r\nPING\r\n".to_owned();
        assert_eq!(written(&nats, &["x", "yy"]), [(expect, 2)]);
        let answer = || Heard::Answer { accepted: true, status: 200, last: false, epoch: None };
        assert_eq!(nats.hear(b"+OK\r\nPONG\r\nPONG"), (answer(), 11));
        assert_eq!(nats.hear(b"+OK\r\nPON"), (Heard::Nothing, 3));
    }

    #[test]
    fn a_websocket_has_an_answer_for_each_message() {
        let fanfare = Outgoing::new(&Adapter::fanfare(), Via::Websocket, "h:1").unwrap();
        let (greeting, waits) = fanfare.greeting();
        assert!(waits && String::from_utf8(greeting).unwrap().starts_with("GET /ws HTTP/1.1\r\n"));
        let mut received =
            format!("HTTP/1.1 101 x\r\nSec-WebSocket-Accept: {}\r\n\r\n", accept(KEY)).into_bytes();
        assert_eq!(fanfare.is_greeted(&mut received), Ok(true));
        assert_eq!(fanfare.requests("a", &[b"1".to_vec(), b"2".to_vec()], &mut 0).len(), 2);
        let check = |opcode, text: &str, expect: &dyn Fn(&Heard) -> bool| {
            let mut frame = Vec::new();
            write_frame(&mut frame, opcode, text.as_bytes());
            let (heard, used) = fanfare.hear(&frame);
            assert!(expect(&heard) && used == frame.len(), "{text}: {heard:?}");
            for cut in 0..frame.len() {
                assert_eq!(fanfare.hear(&frame[..cut]), (Heard::Nothing, 0));
            }
        };
        let epoch = Some("e1".to_owned());
        check(TEXT, r#"{"type":"published","id":2,"epoch":"e1","offset":3}"#, &|heard| {
            *heard == Heard::Answer { accepted: true, status: 200, last: false, epoch: epoch.clone() }
        });
        let refused = |heard: &Heard| matches!(heard, Heard::Answer { accepted: false, .. });
        check(TEXT, &format!(r#"{{"type":"error","message":"{}"}}"#, "x".repeat(200)), &refused);
        check(TEXT, r#"{"type":"welcome"}"#, &|heard| *heard == Heard::Other);
        check(PING, "p", &|heard| *heard == Heard::Reply(masked_frame(PONG, b"p")));
    }

    #[test]
    fn what_counts_as_accepted_is_in_the_adapter() {
        let check = |success: &str, status, expect| {
            let outgoing = outgoing(&format!("transport = 'http'\npath = '/'\n{success}"));
            let text = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
            let (heard, _) = outgoing.hear(text.as_bytes());
            assert_eq!(heard, Heard::Answer { accepted: expect, status, last: false, epoch: None });
        };
        check("", 204, true);
        check("", 302, false);
        check("success = [202]", 202, true);
        check("success = [202]", 200, false);
    }
}
