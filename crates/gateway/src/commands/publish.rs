//! `fanfare publish TOPIC [MESSAGE]`: a message, or standard input line by line.
//!
//! Lines that arrive together leave together. Each request has an idempotency key, so one whose answer was lost is
//! repeated without publishing twice.

use std::io::BufRead;
use std::time::Duration;

use anyhow::Context;
use fanfare_client::{Client, Payload, PublishError, Publisher};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::sleep;

use super::BackOff;

/// What to publish, and where.
#[derive(Debug)]
pub struct Publish {
    /// The gateway, `http://host:port`.
    pub url: String,
    /// To which topic.
    pub topic: String,
    /// One message; standard input if there is none.
    pub message: Option<String>,
    /// The messages' content type: decided by the gateway if there is none.
    pub content_type: Option<String>,
}

/// Lines read ahead of publishing.
const LINES_MAX: usize = 1024;
/// Bytes of lines in one request, well below what a gateway takes.
const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// Publishes until the input ends.
pub fn run(publish: &Publish) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut publisher = Client::new(&publish.url).context("--url")?.publisher();
        match &publish.message {
            Some(message) => send(&mut publisher, publish, message.clone().into_bytes(), false).await,
            None => send_lines(&mut publisher, publish, read_lines()).await,
        }
    })
}

/// Reads standard input on a thread of its own, which waits when publishing falls behind.
fn read_lines() -> Receiver<Vec<u8>> {
    let (sender, lines) = channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().split(b'\n') {
            // Nobody reads any more, or nothing is there: either way this was all.
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

async fn send_lines(
    publisher: &mut Publisher,
    publish: &Publish,
    mut lines: Receiver<Vec<u8>>,
) -> anyhow::Result<()> {
    while let Some(line) = lines.recv().await {
        let mut body = line;
        body.push(b'\n');
        while body.len() < REQUEST_BYTES_MAX
            && let Ok(line) = lines.try_recv()
        {
            body.extend_from_slice(&line);
            body.push(b'\n');
        }
        // A gateway refuses a request without a message.
        if !body.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            send(publisher, publish, body, true).await?;
        }
    }
    Ok(())
}

/// Publishes one body, again and again until it is answered. A refusal that will not change ends it.
async fn send(
    publisher: &mut Publisher,
    publish: &Publish,
    body: Vec<u8>,
    lines: bool,
) -> anyhow::Result<()> {
    let mut payload = Payload::new(body).idempotency_key(format!("{:032x}", fastrand::u128(..)));
    if let Some(content_type) = &publish.content_type {
        payload = payload.content_type(content_type.clone());
    }
    let mut back_off = BackOff::default();
    loop {
        let sent = if lines {
            publisher.publish_lines(&publish.topic, payload.clone()).await.map(drop)
        } else {
            publisher.publish(&publish.topic, payload.clone()).await.map(drop)
        };
        let Err(error) = sent else { return Ok(()) };
        let pause = match &error {
            PublishError::Request(_) => anyhow::bail!(error),
            PublishError::Refused(refusal) if !is_passing(refusal.status) => anyhow::bail!(error),
            PublishError::Refused(refusal) => back_off.next(refusal.retry_after),
            _ => back_off.next(None),
        };
        eprintln!("fanfare: {error}; again in {:.1} s", pause.as_secs_f64());
        sleep(pause.max(Duration::from_millis(10))).await;
    }
}

/// Whether a repeat may be answered otherwise.
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..)
}
