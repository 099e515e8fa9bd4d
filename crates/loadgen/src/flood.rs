//! A flood: connections that are opened, send one request, and are closed once it is answered.
//!
//! Opened on a schedule, whatever becomes of them, or as fast as they are answered. Requests are sent by turns, so that each may
//! have a token of its own. It floods this machine only.
//!
//! # Bounds       [`OPEN_MAX`] connections are open at once, and it ends after `--duration`

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;
use slab::Slab;

use crate::args::Flood;
use crate::run;
use crate::scenario::Refused;

/// Connections that wait for their answers. While there are so many, no other is opened, and what was due is opened later.
const OPEN_MAX: usize = 4000;

/// Connections that are opened before answers are looked for.
const AT_ONCE: usize = 64;

/// The longest wait for an answer before the schedule is looked at again.
const TICK: Duration = Duration::from_millis(1);

/// What became of a flood.
#[derive(Debug, Serialize)]
struct Flooded {
    seconds: f64,
    opened: u64,
    opened_per_second: f64,
    /// By status; `none` for those that ended without an answer.
    answers: BTreeMap<String, u64>,
}

/// Floods, and says what was answered. `false` if nothing was.
pub(crate) fn run(options: &Flood) -> anyhow::Result<bool> {
    let address = options.url.resolve()?;
    if !address.ip().is_loopback() {
        return Err(Refused(format!(
            "{address} is not of this machine: floods are for 127.0.0.0/8 and [::1]"
        ))
        .into());
    }
    let text = std::fs::read(&options.requests)
        .with_context(|| format!("cannot read {}", options.requests.display()))?;
    let requests = heads(&text);
    if requests.is_empty() {
        let problem = format!("{}: no request that ends with an empty line", options.requests.display());
        return Err(Refused(problem).into());
    }
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the limit of open files")?;
    let flooded = Flooding::new(address, requests)?.run(options)?;
    if options.json {
        println!("{}", serde_json::to_string(&flooded)?);
    } else {
        let answers: Vec<_> =
            flooded.answers.iter().map(|(status, count)| format!("{status} ({count})")).collect();
        let (opened, rate) = (flooded.opened, flooded.opened_per_second);
        println!("opened {opened}, {rate:.0}/s   answers: {}", answers.join(", "));
    }
    Ok(flooded.answers.keys().any(|status| status != NONE))
}

const NONE: &str = "none";

/// Requests one behind another, each with its empty line.
fn heads(text: &[u8]) -> Vec<&[u8]> {
    let ends = memchr::memmem::find_iter(text, b"\r\n\r\n").map(|at| at + 4);
    let mut from = 0;
    ends.map(|end| &text[std::mem::replace(&mut from, end)..end]).collect()
}

struct Flooding<'a> {
    address: SocketAddr,
    requests: std::iter::Cycle<std::vec::IntoIter<&'a [u8]>>,
    poll: Poll,
    open: Slab<Open<'a>>,
    answers: BTreeMap<String, u64>,
}

/// A connection without its answer.
struct Open<'a> {
    socket: TcpStream,
    /// What is not sent yet: all of it, until there is a connection.
    unsent: &'a [u8],
}

impl<'a> Flooding<'a> {
    fn new(address: SocketAddr, requests: Vec<&'a [u8]>) -> anyhow::Result<Self> {
        let requests = requests.into_iter().cycle();
        Ok(Self { address, requests, poll: Poll::new()?, open: Slab::new(), answers: BTreeMap::new() })
    }

    fn run(mut self, options: &Flood) -> anyhow::Result<Flooded> {
        let interrupted = run::interrupt_flag()?;
        let mut events = Events::with_capacity(1024);
        let (begun, mut opened) = (Instant::now(), 0);
        while begun.elapsed() < options.duration.0 && !interrupted.load(std::sync::atomic::Ordering::Relaxed)
        {
            let due = match options.rate {
                Some(rate) => (begun.elapsed().as_secs_f64() * rate) as u64 - opened,
                None => options.at_a_time.saturating_sub(self.open.len()) as u64,
            };
            let room = OPEN_MAX.saturating_sub(self.open.len()).min(AT_ONCE) as u64;
            for _ in 0..due.min(room) {
                self.open_one()?;
                opened += 1;
            }
            // Who is behind does not wait.
            let wait = if due > room && room > 0 { Duration::ZERO } else { TICK };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => events.iter().for_each(|event| self.handle(event)),
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Flooded { seconds, opened, opened_per_second: opened as f64 / seconds, answers: self.answers })
    }

    fn open_one(&mut self) -> anyhow::Result<()> {
        let mut socket = TcpStream::connect(self.address).context("cannot open a connection")?;
        let entry = self.open.vacant_entry();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(entry.key()), interest)?;
        let key = entry.key();
        entry.insert(Open { socket, unsent: self.requests.next().unwrap_or_default() });
        // Over loopback, there may be a connection already.
        self.send(key);
        Ok(())
    }

    fn send(&mut self, key: usize) {
        let Some(Open { socket, unsent }) = self.open.get_mut(key) else { return };
        while !unsent.is_empty() {
            match socket.write(unsent) {
                Ok(count) => *unsent = &unsent[count..],
                // Not yet, or never: then there is an end to be read.
                Err(_) => return,
            }
        }
    }

    fn handle(&mut self, event: &Event) {
        let Token(key) = event.token();
        self.send(key);
        let Some(Open { socket, .. }) = self.open.get_mut(key) else { return };
        let mut buffer = [0; 4096];
        let status = match socket.read(&mut buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return,
            Ok(count) => status(&buffer[..count]),
            Err(_) => NONE,
        };
        // An answer begins with its status, and the rest is of no interest.
        *self.answers.entry(status.to_owned()).or_default() += 1;
        self.open.remove(key);
    }
}

fn status(answer: &[u8]) -> &str {
    answer.get(9..12).and_then(|status| std::str::from_utf8(status).ok()).unwrap_or(NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_stand_one_behind_another() {
        let check = |text: &str, expect: &[&str]| {
            let found: Vec<_> = heads(text.as_bytes()).into_iter().map(String::from_utf8_lossy).collect();
            assert_eq!(found, expect, "{text:?}");
        };
        check("", &[]);
        check("GET / HTTP/1.1\r\n", &[]);
        check("GET / HTTP/1.1\r\n\r\n", &["GET / HTTP/1.1\r\n\r\n"]);
        check("A\r\nb: c\r\n\r\nD\r\n\r\nE", &["A\r\nb: c\r\n\r\n", "D\r\n\r\n"]);
    }

    #[test]
    fn an_answer_begins_with_its_status() {
        assert_eq!(status(b"HTTP/1.1 426 Upgrade Required\r\n"), "426");
        assert_eq!(status(b"HTTP/1.1"), NONE);
        assert_eq!(status(b""), NONE);
    }
}
