//! `fanfare subscribe TOPIC…`: prints messages as they come, and comes back for what it missed.
//!
//! Messages go to standard output. What else there is to know is one line of standard error, or with `--json` an object
//! with `type` among the messages. Whether there is a connection is standard error's business in any case.

use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;

use fanfare_client::{Data, Event, Message, Start, Status, Subscription, TopicRequest};
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::runtime::{Builder, Runtime};

use super::{Credential, client, say};
use crate::interrupts::Interrupts;

/// What to listen to, and how to print it.
#[derive(Debug)]
pub struct Subscribe {
    /// The gateway, `http://host:port` or `https://host:port`.
    pub url: String,
    /// Who may vouch for it: a PEM file, for `https://…`.
    pub ca: Option<PathBuf>,
    /// As whom.
    pub credential: Credential,
    /// Topics and wildcards, at least one.
    pub topics: Vec<String>,
    /// Where to begin.
    pub start: Start,
    /// Whole native messages instead of payloads.
    pub json: bool,
}

/// Prints until standard output is closed, a signal ends it, or the gateway says stop.
pub fn run(subscribe: &Subscribe) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let client = client(&subscribe.url, subscribe.ca.as_deref(), &subscribe.credential)?;
    end_on_interrupt(Builder::new_current_thread().enable_all().build()?)?;
    let requests = subscribe.topics.iter().map(|topic| TopicRequest::new(topic).start(subscribe.start));
    runtime.block_on(print_all(client.subscribe(requests), subscribe))
}

/// Ends the process, quietly, at a signal or when nobody reads its output any more. On a thread of its own: printing
/// blocks for as long as the reader likes.
fn end_on_interrupt(runtime: Runtime) -> io::Result<()> {
    let mut interrupts = {
        let _within = runtime.enter();
        Interrupts::new()?
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = interrupts.next() => {}
                () = output_closed() => {}
            }
        });
        std::process::exit(0);
    });
    Ok(())
}

/// Waits until the reader of standard output is gone, if that is a pipe; else for ever.
async fn output_closed() {
    // By its path, the pipe is opened once more: tokio makes what it watches non-blocking, which is not for our output.
    let Ok(output) = pipe::OpenOptions::new().open_sender("/proc/self/fd/1") else {
        return std::future::pending().await;
    };
    if output.ready(Interest::ERROR).await.is_err() {
        std::future::pending().await
    }
}

async fn print_all(mut subscription: Subscription, subscribe: &Subscribe) -> anyhow::Result<()> {
    // With one topic everybody knows which.
    let names_topic = subscribe.topics.len() > 1 || subscribe.topics[0].contains(['*', '>']);
    loop {
        let event = subscription.next().await?;
        let json = if subscribe.json { event.to_json() } else { None };
        let printed = match (json, &event) {
            (Some(json), _) => print_line(&[&json]),
            (None, Event::Message(message)) => print(message, names_topic),
            (None, event) => {
                describe(event).iter().for_each(|line| say(line));
                Ok(())
            }
        };
        if printed.is_err() {
            // Nobody reads.
            return Ok(());
        }
    }
}

/// A line for people; `None`: not worth one.
fn describe(event: &Event) -> Option<String> {
    Some(match event {
        Event::Gap { topic, from, to, reason, .. } if from == to => {
            format!("{topic}: message {from} is lost ({reason})")
        }
        Event::Gap { topic, from, to, reason, .. } => {
            format!("{topic}: messages {from} to {to} are lost ({reason})")
        }
        Event::Reset { topic, .. } => {
            format!("{topic}: begins anew; messages since the last one are not kept any more")
        }
        Event::Status { topic, status: Status::Stale, age } => {
            format!("{topic}: stale, the last message was {:.1} s ago", age.as_secs_f64())
        }
        Event::Status { topic, status: Status::Live, .. } => format!("{topic}: live again"),
        Event::Refused { topic, refusal } => format!("{topic}: {refusal}"),
        Event::Error(refusal) => format!("the gateway says: {refusal}"),
        Event::Disconnected { reason, retry_in } => {
            format!("{reason}; again in {:.1} s", retry_in.as_secs_f64())
        }
        _ => return None,
    })
}

fn print(message: &Message, names_topic: bool) -> io::Result<()> {
    let text;
    let payload: &[u8] = match &message.data {
        Data::Json(json) => match serde_json::from_slice::<String>(json) {
            // What was posted as text.
            Ok(posted) => {
                text = posted;
                text.as_bytes()
            }
            Err(_) => json,
        },
        Data::Binary(bytes) => bytes,
    };
    if names_topic { print_line(&[message.topic.as_bytes(), b"\t", payload]) } else { print_line(&[payload]) }
}

fn print_line(parts: &[&[u8]]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for part in parts {
        out.write_all(part)?;
    }
    out.write_all(b"\n")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_no_message_is_one_readable_line() {
        let gap = |from, to| Event::Gap {
            topic: "logs.web".into(),
            epoch: "k3x9".into(),
            from,
            to,
            reason: "slow".into(),
        };
        let status = |status| Event::Status { topic: "x".into(), status, age: Duration::from_millis(5210) };
        for (event, line) in [
            (gap(4, 5), Some("logs.web: messages 4 to 5 are lost (slow)")),
            (gap(4, 4), Some("logs.web: message 4 is lost (slow)")),
            (status(Status::Stale), Some("x: stale, the last message was 5.2 s ago")),
            (status(Status::Live), Some("x: live again")),
            (
                Event::Disconnected {
                    reason: "closed with 4200".into(),
                    retry_in: Duration::from_millis(3200),
                },
                Some("closed with 4200; again in 3.2 s"),
            ),
            (Event::Connected { client: "0-1-7".into() }, None),
            (Event::Topic { topic: "logs.db".into(), epoch: "k3x9".into(), offset: 0 }, None),
        ] {
            assert_eq!(describe(&event).as_deref(), line);
        }
    }
}
