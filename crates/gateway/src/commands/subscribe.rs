//! `fanfare subscribe TOPIC…`: prints messages as they come, and comes back for what it missed.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use fanfare_client::session::{Event, Message, Session};
use fanfare_client::{Acknowledged, Acknowledgement, Client, Data, Start, SubscribeError, TopicRequest};
use tokio::time::sleep;

use super::BackOff;

/// What to listen to, and how to print it.
#[derive(Debug)]
pub struct Subscribe {
    /// The gateway, `http://host:port`.
    pub url: String,
    /// At least one.
    pub topics: Vec<String>,
    /// Where to begin.
    pub start: Start,
    /// Whole native messages instead of payloads.
    pub json: bool,
}

/// A connection that lasted so long ends a row of failures.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// Prints until standard output is closed or the gateway says stop.
pub fn run(subscribe: &Subscribe) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(&subscribe.url).context("--url")?;
        let mut places = Places::default();
        let mut back_off = BackOff::default();
        loop {
            let began = Instant::now();
            let end = match client.session(places.requests(subscribe)).await {
                Ok(mut session) => listen(&mut session, subscribe, &mut places).await,
                Err(error) => refused(error),
            };
            let (why, advised) = match end {
                End::OutputClosed => return Ok(()),
                End::Final(error) => return Err(error),
                End::Again(why, advised) => (why, advised),
            };
            if began.elapsed() >= STABLE_AFTER {
                back_off.reset();
            }
            let pause = back_off.next(advised);
            eprintln!("fanfare: {why}; again in {:.1} s", pause.as_secs_f64());
            sleep(pause).await;
        }
    })
}

/// How a connection ended.
enum End {
    /// Nobody reads what is printed.
    OutputClosed,
    /// It is of no use to come back.
    Final(anyhow::Error),
    /// Come back, after the pause that the server asked for if it did.
    Again(String, Option<Duration>),
}

fn refused(error: SubscribeError) -> End {
    match &error {
        SubscribeError::Topics(_) => End::Final(error.into()),
        SubscribeError::Refused(refusal) if (400..500).contains(&refusal.status) && refusal.status != 429 => {
            End::Final(error.into())
        }
        SubscribeError::Refused(refusal) => End::Again(error.to_string(), refusal.retry_after),
        _ => End::Again(error.to_string(), None),
    }
}

async fn listen(session: &mut Session, subscribe: &Subscribe, places: &mut Places) -> End {
    places.acknowledge(session.acknowledgements());
    let mut advised = None;
    loop {
        let printed = match session.next().await {
            Ok(Event::Message(message)) => {
                places.reached(&message);
                print(&message, subscribe)
            }
            Ok(Event::Gap { topic, from, to, reason, .. }) => {
                eprintln!("fanfare: messages {from} to {to} of {topic} are lost ({reason})");
                Ok(())
            }
            Ok(Event::Refused { topic, refusal }) => {
                eprintln!("fanfare: {topic}: {refusal}");
                Ok(())
            }
            Ok(Event::Bye { retry, .. }) => {
                advised = retry;
                Ok(())
            }
            Ok(Event::Closed(closed)) => {
                let why = format!("closed with {} {}", closed.code, closed.reason);
                return match closed.code {
                    4500..=4999 | 1002 | 1003 | 1007 | 1009 => End::Final(anyhow::anyhow!(why)),
                    _ => End::Again(why, advised),
                };
            }
            Ok(_) => Ok(()),
            Err(error) => return End::Again(error.to_string(), advised),
        };
        if printed.is_err() {
            return End::OutputClosed;
        }
    }
}

/// The last message of each topic that was printed.
#[derive(Default)]
struct Places(HashMap<String, (String, u64)>);

impl Places {
    fn requests(&self, subscribe: &Subscribe) -> Vec<TopicRequest> {
        let request = |topic: &String| {
            let request = TopicRequest::new(topic.as_str());
            match self.0.get(topic) {
                Some((epoch, offset)) => request.resume(epoch.as_str(), *offset),
                None => request.start(subscribe.start),
            }
        };
        subscribe.topics.iter().map(request).collect()
    }

    /// Where each topic stands before its replay; what could not be brought back is said.
    fn acknowledge(&mut self, acknowledgements: &[Acknowledgement]) {
        for Acknowledgement { topic, result } in acknowledgements {
            let Ok(Acknowledged { epoch: Some(epoch), offset: Some(offset), replay, recovered, .. }) = result
            else {
                continue;
            };
            if *recovered == Some(false) {
                eprintln!("fanfare: {topic}: messages since the last one are not kept any more");
            }
            self.0.insert(topic.clone(), (epoch.clone(), offset.saturating_sub(*replay)));
        }
    }

    fn reached(&mut self, message: &Message) {
        if let Some((_, offset)) = self.0.get_mut(&message.topic) {
            *offset = message.offset;
        }
    }
}

fn print(message: &Message, subscribe: &Subscribe) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if subscribe.json {
        let topic = &message.topic;
        write!(out, r#"{{"topic":"{topic}","offset":{},"#, message.offset)?;
        if let Some(event) = &message.event {
            write!(out, r#""event":{},"#, serde_json::Value::from(event.as_str()))?;
        }
        match &message.data {
            Data::Json(json) => {
                out.write_all(br#""data":"#)?;
                out.write_all(json)?;
            }
            Data::Binary(bytes) => write!(out, r#""bytes":{}"#, bytes.len())?,
        }
        out.write_all(b"}\n")?;
    } else {
        // With one topic everybody knows which.
        if subscribe.topics.len() > 1 {
            write!(out, "{}\t", message.topic)?;
        }
        match &message.data {
            Data::Json(json) => match serde_json::from_slice::<String>(json) {
                // What was posted as text.
                Ok(text) => out.write_all(text.as_bytes())?,
                Err(_) => out.write_all(json)?,
            },
            Data::Binary(bytes) => out.write_all(bytes)?,
        }
        out.write_all(b"\n")?;
    }
    out.flush()
}
