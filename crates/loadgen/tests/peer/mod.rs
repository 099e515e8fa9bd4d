//! A tiny server that speaks all formats with offsets and makes one mistake on request: what a checker must notice.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;
use sha1::{Digest, Sha1};
use wire::{Wire, frame};

mod wire;

/// The mistake, made at the fifth message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    Nothing,
    /// It reaches nobody.
    Lose,
    /// It reaches nobody, and that is said.
    Announce,
    /// It comes twice, with an offset each.
    Repeat,
    /// It comes after the sixth, offsets in order.
    Swap,
    /// Its offset is that of the one before.
    OffsetBack,
    /// Subscribers are closed with 4101 or the last chunk instead.
    Close,
    /// Subscribers' connections end without a close frame.
    Hang,
    /// It is not accepted: 503.
    Refuse,
    /// Its frame is a byte short.
    Shorten,
    /// Subscriptions are answered with an error.
    Forbid,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) pongs: Arc<AtomicU64>,
}

struct State {
    mistake: Mistake,
    subscribers: Mutex<Vec<(String, Wire, TcpStream)>>,
    count: AtomicU64,
    /// The last one of each topic.
    offsets: Mutex<HashMap<String, u64>>,
    held: Mutex<Option<String>>,
    pongs: Arc<AtomicU64>,
}

impl Peer {
    /// Serves on a port of its own until the process ends.
    pub(crate) fn start(mistake: Mistake) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pongs = Arc::new(AtomicU64::new(0));
        let state = Arc::new(State {
            mistake,
            subscribers: Mutex::default(),
            count: AtomicU64::new(0),
            offsets: Mutex::default(),
            held: Mutex::default(),
            pongs: Arc::clone(&pongs),
        });
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                // A client that leaves ends its thread with an error, as it should.
                thread::spawn(move || state.serve(&socket));
            }
        });
        Self { address, pongs }
    }
}

impl State {
    fn serve(&self, socket: &TcpStream) -> std::io::Result<()> {
        socket.set_nodelay(true)?;
        let mut reader = BufReader::new(socket);
        let mut writer = socket;
        while let Some(head) = read_head(&mut reader)? {
            match Wire::asked(&head) {
                Some(Wire::WebSocket) => return self.subscribe(&head, &mut reader, writer),
                Some(wire) => return self.stream(wire, &head, &mut reader, writer),
                None => {}
            }
            let length = value(&head, "Content-Length: ").parse().unwrap();
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let topic = head.split(' ').nth(1).unwrap().trim_start_matches("/topics/");
            let status = self.publish(topic, &String::from_utf8(body).unwrap());
            write!(writer, "HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}")?;
        }
        Ok(())
    }

    fn subscribe(&self, head: &str, reader: &mut impl Read, mut writer: &TcpStream) -> std::io::Result<()> {
        let key = value(head, "Sec-WebSocket-Key: ").to_owned() + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
        let accept = base64::engine::general_purpose::STANDARD.encode(Sha1::digest(key));
        // The head and the first frame leave together, and in two pieces that end in the middle of a line.
        let mut first = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: fanfare.v1.json\r\n\r\n"
        )
        .into_bytes();
        first.extend(frame(0x1, br#"{"type":"welcome","client":"c1","ping":25,"max_message":65536}"#));
        writer.write_all(&first[..50])?;
        writer.write_all(&first[50..])?;
        let (opcode, command) = read_frame(reader)?;
        assert_eq!(opcode, 0x1);
        let command: serde_json::Value = serde_json::from_slice(&command)?;
        let topic = command["topics"][0]["topic"].as_str().unwrap();
        assert_eq!(
            (command["type"].as_str(), command["topics"][0]["from"].as_str()),
            (Some("subscribe"), Some("live"))
        );
        self.join(Wire::WebSocket, topic, writer)?;
        writer.write_all(&frame(0x9, b"are you there"))?;
        loop {
            let (opcode, payload) = read_frame(reader)?;
            if opcode == 0xa {
                assert_eq!(payload, b"are you there");
                self.pongs.fetch_add(1, SeqCst);
            }
        }
    }

    /// Answers with the head in two pieces, then waits for the client's end.
    fn stream(
        &self,
        wire: Wire,
        head: &str,
        reader: &mut impl Read,
        mut writer: &TcpStream,
    ) -> std::io::Result<()> {
        let target = head.split(' ').nth(1).unwrap();
        let topic = target.strip_prefix("/topics/").and_then(|rest| rest.strip_suffix("?from=live"));
        let several =
            || target.strip_prefix("/events?topic=").and_then(|rest| rest.strip_suffix("&from=live"));
        let answer = wire.head();
        writer.write_all(&answer[..50])?;
        writer.write_all(&answer[50..])?;
        self.join(wire, topic.or_else(several).unwrap(), writer)?;
        assert_eq!(reader.read(&mut [0])?, 0, "a stream's client says nothing more");
        Ok(())
    }

    fn join(&self, wire: Wire, topic: &str, mut writer: &TcpStream) -> std::io::Result<()> {
        let result = match self.mistake {
            Mistake::Forbid => r#""error":{"code":"forbidden","message":"not allowed"}"#,
            _ => r#""epoch":"e","offset":0"#,
        };
        self.subscribers.lock().unwrap().push((topic.to_owned(), wire, writer.try_clone()?));
        writer.write_all(&wire.subscribed(&format!(r#"{{"topic":"{topic}",{result}}}"#)))
    }

    fn publish(&self, topic: &str, body: &str) -> &'static str {
        let fifth = self.count.fetch_add(1, SeqCst) == 4;
        let mistake = if fifth { self.mistake } else { Mistake::Nothing };
        let accepted = "200 OK";
        match mistake {
            Mistake::Nothing | Mistake::Forbid => self.deliver(topic, body, 1),
            Mistake::Lose => drop(self.next_offset(topic, 1)),
            Mistake::Announce => {
                let offset = self.next_offset(topic, 1);
                self.write_all(topic, |wire| wire.gap(offset));
            }
            Mistake::Repeat => (0..2).for_each(|_| self.deliver(topic, body, 1)),
            Mistake::Swap => *self.held.lock().unwrap() = Some(body.to_owned()),
            Mistake::OffsetBack => self.deliver(topic, body, 0),
            Mistake::Close => self.write_all(topic, Wire::close),
            Mistake::Hang => {
                for (_, _, socket) in self.subscribers.lock().unwrap().drain(..) {
                    socket.shutdown(std::net::Shutdown::Write).unwrap();
                }
            }
            Mistake::Refuse => return "503 Service Unavailable",
            Mistake::Shorten => self.deliver(topic, &body[..body.len() - 1], 1),
        }
        if !fifth && let Some(held) = self.held.lock().unwrap().take() {
            self.deliver(topic, &held, 1);
        }
        accepted
    }

    fn deliver(&self, topic: &str, data: &str, step: u64) {
        let offset = self.next_offset(topic, step);
        self.write_all(topic, |wire| wire.message(topic, offset, data));
    }

    fn next_offset(&self, topic: &str, step: u64) -> u64 {
        let mut offsets = self.offsets.lock().unwrap();
        let offset = offsets.entry(topic.to_owned()).or_default();
        *offset += step;
        *offset
    }

    fn write_all(&self, topic: &str, bytes: impl Fn(Wire) -> Vec<u8>) {
        for (subscribed, wire, socket) in self.subscribers.lock().unwrap().iter_mut() {
            if subscribed == topic {
                // One that was closed on purpose takes no more.
                let _ = socket.write_all(&bytes(*wire));
            }
        }
    }
}

/// Opcode and payload of a masked frame below 126 bytes.
fn read_frame(reader: &mut impl Read) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 6];
    reader.read_exact(&mut head)?;
    assert_eq!(head[1] & 0x80, 0x80, "what a client sends is masked");
    let mut payload = vec![0; usize::from(head[1] & 0x7f)];
    reader.read_exact(&mut payload)?;
    payload.iter_mut().zip(head[2..].iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok((head[0] & 0x0f, payload))
}

/// A request's head; `None` at the end of the stream.
fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

fn value<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines().find_map(|line| line.strip_prefix(name)).unwrap()
}
