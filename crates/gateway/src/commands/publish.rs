//! `fanfare publish TOPIC [MESSAGE | --file PATH]`: a message, or a file or standard input line by line.
//!
//! Lines that arrive together leave together. Each request has an idempotency key, so one whose answer was lost is
//! repeated without publishing twice, for as long as the gateway keeps the key.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use fanfare_client::{BackOff, Payload, Publisher};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Credential, client, say};
use crate::interrupts::Interrupts;

/// What to publish, and where.
#[derive(Debug)]
pub struct Publish {
    /// The gateway, `http://host:port` or `https://host:port`.
    pub url: String,
    /// Who may vouch for it: a PEM file, for `https://…`.
    pub ca: Option<PathBuf>,
    /// As whom.
    pub credential: Credential,
    /// To which topic.
    pub topic: String,
    /// What.
    pub input: Input,
    /// The messages' content type: decided by the gateway if there is none.
    pub content_type: Option<String>,
}

/// Where the messages come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// The command line: one message.
    Message(String),
    /// A file: each line is a message.
    File(PathBuf),
    /// Standard input: each line is a message.
    Stdin,
}

/// Lines read ahead of publishing, and in one request.
const LINES_MAX: usize = 1024;
/// Bytes of lines in one request, well below what a gateway takes.
const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// The longest line; a gateway takes far less.
const LINE_BYTES_MAX: u64 = 16 << 20;
/// How long what was read may take to go out after an interrupt.
const PARTING: Duration = Duration::from_secs(3);

/// Publishes until the input ends, or until an interrupt: then what was read goes out, and no more is read.
pub fn run(publish: &Publish) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let publisher = client(&publish.url, publish.ca.as_deref(), &publish.credential)?.publisher();
        // However long the gateway is away: a pipe has nobody to ask what to do.
        let mut publisher = publisher
            .with_retries(BackOff::default(), None)
            .on_retry(|error, pause| say(&format!("{error}; again in {:.1} s", pause.as_secs_f64())));
        let lines = match &publish.input {
            Input::Message(message) => Err(message),
            Input::File(path) => Ok(read_file(path)?),
            Input::Stdin => Ok(read_lines(|| io::stdin().lock())),
        };
        let (stop, stopped) = oneshot::channel();
        let mut publishing = pin!(async {
            match lines {
                Err(message) => send(&mut publisher, publish, message.clone().into_bytes(), false).await,
                Ok(lines) => send_lines(&mut publisher, publish, lines, stopped).await,
            }
        });
        let mut interrupts = Interrupts::new()?;
        tokio::select! {
            done = &mut publishing => return done,
            () = interrupts.next() => {}
        }
        // Nobody listens when there is only one message.
        let _ = stop.send(());
        tokio::select! {
            done = timeout(PARTING, publishing) => done.ok(),
            () = interrupts.next() => None,
        }
        .unwrap_or_else(|| anyhow::bail!("interrupted: what was read last may not be published"))
    })
}

fn read_file(path: &Path) -> anyhow::Result<Receiver<io::Result<Vec<u8>>>> {
    let file = File::open(path).with_context(|| format!("--file {}", path.display()))?;
    Ok(read_lines(move || BufReader::new(file)))
}

/// Reads on a thread of its own, which waits when publishing falls behind. An error is the last line.
fn read_lines<R: BufRead>(open: impl FnOnce() -> R + Send + 'static) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, lines) = channel(LINES_MAX);
    std::thread::spawn(move || {
        let mut input = open();
        loop {
            let line = read_line(&mut input);
            let is_last = !matches!(line, Ok(Some(_)));
            let Some(line) = line.transpose() else { return };
            if sender.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    lines
}

/// A line without its end; `None` after the last one.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if input.take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 > LINE_BYTES_MAX {
        return Err(io::Error::other(format!("a line of more than {LINE_BYTES_MAX} bytes")));
    }
    Ok(Some(line))
}

async fn send_lines(
    publisher: &mut Publisher,
    publish: &Publish,
    mut lines: Receiver<io::Result<Vec<u8>>>,
    mut stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let mut failed = None;
    loop {
        let first = tokio::select! {
            biased;
            // What was read before is still received.
            _ = &mut stopped, if !lines.is_closed() => {
                lines.close();
                continue;
            }
            line = lines.recv() => line,
        };
        let mut next = first;
        let mut body = Vec::new();
        let mut count = 0;
        while let Some(line) = next {
            count += 1;
            match line {
                Ok(line) => body.extend_from_slice(&line),
                Err(error) => failed = Some(error),
            }
            body.push(b'\n');
            let has_room = count < LINES_MAX && body.len() < REQUEST_BYTES_MAX;
            next = if has_room { lines.try_recv().ok() } else { None };
        }
        if body.is_empty() {
            break;
        }
        // A gateway refuses a request without a message.
        if !body.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            send(publisher, publish, body, true).await?;
        }
    }
    match failed {
        Some(error) => Err(error).context("cannot read on"),
        None => Ok(()),
    }
}

/// Publishes one body, again and again until it is answered. A refusal that will not change ends it.
async fn send(
    publisher: &mut Publisher,
    publish: &Publish,
    body: Vec<u8>,
    is_lines: bool,
) -> anyhow::Result<()> {
    let mut payload = Payload::new(body);
    if let Some(content_type) = &publish.content_type {
        payload = payload.content_type(content_type.clone());
    }
    if is_lines {
        publisher.publish_lines(&publish.topic, payload).await?;
    } else {
        publisher.publish(&publish.topic, payload).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_a_newline_or_at_the_end() {
        let mut input = &b"one\n\ntwo\r\nthree"[..];
        for expect in [Some("one"), Some(""), Some("two\r"), Some("three"), None] {
            assert_eq!(read_line(&mut input).unwrap().as_deref(), expect.map(str::as_bytes));
        }
    }

    #[test]
    fn an_endless_line_is_an_error() {
        let mut input = BufReader::new(io::repeat(b'x'));
        assert!(read_line(&mut input).is_err());
    }
}
