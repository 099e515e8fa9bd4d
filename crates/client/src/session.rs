//! One connection over the native format: many topics on one WebSocket, `fanfare.v1.json`, exactly as the server speaks.
//!
//! For those who come back by themselves, or never. A [`Subscription`](crate::Subscription) does it for everybody else.
//! Commands wait for their reply. What arrives before it is kept, in order, for [`Session::next`].
//!
//! # Owner        the caller, by `&mut`
//! # Bounds       32 MiB of events kept during commands

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use crate::connection::Address;
use crate::frame::{self, Acknowledgement, Data, Received, Reply};
pub use crate::frame::{Event, Message};
use crate::payload;
use crate::publisher::Published;
use crate::refusal::{HttpRefusal, Refusal};
use crate::topic_request::TopicRequest;
use crate::websocket::{Incoming, MESSAGE_BYTES_MAX, ReceiveError, Socket};

pub(crate) const SUBPROTOCOL: &str = "fanfare.v1.json";

/// Room for one message of any length, and for some 100,000 short ones.
const KEPT_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

/// Receives the messages of its topics. Made by [`Client::session`](crate::Client::session).
pub struct Session {
    socket: Socket,
    timeout: Duration,
    client_id: String,
    acknowledgements: Vec<Acknowledgement>,
    /// Arrived while a command waited for its reply.
    kept: VecDeque<Event>,
    kept_bytes: usize,
    last_id: u64,
}

/// Why there is no session, or no raw subscription.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// No connection.
    #[error("cannot connect to {authority}: {source}")]
    Connect {
        /// Host and port.
        authority: String,
        /// From the operating system.
        source: io::Error,
    },
    /// The server answered the handshake with something other than 101.
    #[error(transparent)]
    Refused(#[from] HttpRefusal),
    /// What answered is not a WebSocket server, or not one of this protocol.
    #[error("no handshake: {0}")]
    Handshake(String),
    /// Connected, but not subscribed in time.
    #[error("not subscribed within {0:?}")]
    Timeout(Duration),
    /// The server refused every topic.
    #[error("{}", refusals(.0))]
    Topics(Vec<Acknowledgement>),
    /// Connected, but the first subscribe failed.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The server said no; the session goes on.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The data of a publish is not one JSON value; nothing was sent.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// No reply in time. The command may still take effect.
    #[error("no reply within {0:?}")]
    Timeout(Duration),
    /// More arrived before the reply than is kept. Nothing is lost; take the events and the reply will be passed over.
    #[error("too many events before the reply: take them with next()")]
    Overrun,
    /// The server closed; [`Session::next`] says with which code.
    #[error("the server closed the session")]
    Closed,
    /// The connection is gone.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Command<'a> {
    Subscribe { id: u64, topics: &'a [TopicRequest] },
    Unsubscribe { id: u64, topics: &'a [&'a str] },
    Publish { id: u64, topic: &'a str, data: &'a RawValue },
    Ping { id: u64 },
}

impl Session {
    pub(crate) async fn open(
        address: &Address,
        limit: Duration,
        topics: &[TopicRequest],
    ) -> Result<Self, SubscribeError> {
        let socket = Socket::open(address, "/ws", Some(SUBPROTOCOL), limit).await?;
        let mut session = Self {
            socket,
            timeout: limit,
            client_id: String::new(),
            acknowledgements: Vec::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            last_id: 0,
        };
        let acknowledgements = session.send_subscribe(topics).await?;
        if !acknowledgements.is_empty() && acknowledgements.iter().all(|topic| topic.result.is_err()) {
            return Err(SubscribeError::Topics(acknowledgements));
        }
        // Refusals come before the messages of the other topics: `next` is what every caller looks at.
        for Acknowledgement { topic, result } in acknowledgements.iter().rev() {
            if let Err(refusal) = result {
                let refused = Event::Refused { topic: topic.clone(), refusal: refusal.clone() };
                session.kept_bytes += weight(&refused);
                session.kept.push_front(refused);
            }
        }
        session.acknowledgements = acknowledgements;
        Ok(session)
    }

    /// Waits for the next event. Cancel safe: an event is returned by this call or by the next one.
    ///
    /// ```no_run
    /// # async fn follow(mut session: fanfare_client::session::Session) -> Result<(), fanfare_client::ReceiveError> {
    /// use fanfare_client::session::Event;
    ///
    /// loop {
    ///     match session.next().await? {
    ///         Event::Message(message) => println!("{} {}", message.topic, message.offset),
    ///         Event::Gap { topic, from, to, .. } => println!("{topic}: {from} to {to} are lost"),
    ///         Event::Closed(closed) => return Ok(println!("closed with {}: {}", closed.code, closed.reason)),
    ///         _ => {}
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ReceiveError`], also for every call after [`Event::Closed`].
    pub async fn next(&mut self) -> Result<Event, ReceiveError> {
        if let Some(event) = self.kept.pop_front() {
            self.kept_bytes -= weight(&event);
            return Ok(event);
        }
        loop {
            if let Received::Event(event) = self.receive().await? {
                return Ok(event);
            }
        }
    }

    /// Subscribes to more topics; the acknowledgements are in the order of the topics.
    ///
    /// ```no_run
    /// # async fn more(mut session: fanfare_client::session::Session) -> Result<(), fanfare_client::session::CommandError> {
    /// for topic in session.subscribe(["ticker.ETH-USD", "trades.*"]).await? {
    ///     match topic.result {
    ///         Ok(acknowledged) => println!("{} at {:?}", topic.topic, acknowledged.offset),
    ///         Err(refusal) => println!("{} refused: {refusal}", topic.topic),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CommandError`]; a topic's own refusal is in its acknowledgement.
    pub async fn subscribe<T: Into<TopicRequest>>(
        &mut self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Vec<Acknowledgement>, CommandError> {
        let topics: Vec<TopicRequest> = topics.into_iter().map(Into::into).collect();
        self.send_subscribe(&topics).await
    }

    async fn send_subscribe(
        &mut self,
        topics: &[TopicRequest],
    ) -> Result<Vec<Acknowledgement>, CommandError> {
        let id = self.new_id();
        match self.command(id, &Command::Subscribe { id, topics }).await? {
            Reply::Subscribed(topics) => Ok(topics),
            other => Err(unfit(&other)),
        }
    }

    /// Leaves topics, named as they were subscribed to; returns those the server has let go.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn unsubscribe(&mut self, topics: &[&str]) -> Result<Vec<String>, CommandError> {
        let id = self.new_id();
        match self.command(id, &Command::Unsubscribe { id, topics }).await? {
            Reply::Unsubscribed(topics) => Ok(topics),
            other => Err(unfit(&other)),
        }
    }

    /// Publishes one JSON message over this connection.
    ///
    /// ```no_run
    /// # async fn say(mut session: fanfare_client::session::Session) -> Result<(), fanfare_client::session::CommandError> {
    /// let published = session.publish("chat.1", br#"{"text":"hello"}"#).await?;
    /// println!("at {}", published.offset);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CommandError::Json`] if `data` is not one JSON value; after a [`CommandError::Timeout`] the message may have
    /// been published.
    pub async fn publish(&mut self, topic: &str, data: &[u8]) -> Result<Published, CommandError> {
        let data = payload::one_line(data)?;
        let id = self.new_id();
        match self.command(id, &Command::Publish { id, topic, data: &data }).await? {
            Reply::Published(published) => Ok(published),
            other => Err(unfit(&other)),
        }
    }

    /// Asks for a sign of life; returns the server's clock in milliseconds since 1970.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn ping(&mut self) -> Result<u64, CommandError> {
        let id = self.new_id();
        match self.command(id, &Command::Ping { id }).await? {
            Reply::Pong { time } => Ok(time),
            other => Err(unfit(&other)),
        }
    }

    /// What the server answered to the topics this session was opened with.
    pub fn acknowledgements(&self) -> &[Acknowledgement] {
        &self.acknowledgements
    }

    /// The server's name for this connection, as in its logs.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Closes with 1000 and waits for the server's close within the client's timeout. Dropping a session instead
    /// closes the connection without a word.
    ///
    /// # Errors
    /// If the server does not answer the close.
    pub async fn close(self) -> Result<(), ReceiveError> {
        self.socket.close().await
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Sends a command and waits for the reply with its id, keeping the events before it.
    async fn command(&mut self, id: u64, command: &Command<'_>) -> Result<Reply, CommandError> {
        let text = serde_json::to_vec(command)?;
        let limit = self.timeout;
        let waiting = async {
            self.socket.send_text(text).await?;
            while self.kept_bytes <= KEPT_BYTES_MAX {
                match self.receive().await? {
                    Received::Reply { id: of, reply: Reply::Refused(refusal) } if of == id => {
                        return Err(CommandError::Refused(refusal));
                    }
                    Received::Reply { id: of, reply } if of == id => return Ok(reply),
                    Received::Event(event) => {
                        let closed = matches!(event, Event::Closed(_));
                        self.kept_bytes += weight(&event);
                        self.kept.push_back(event);
                        if closed {
                            return Err(CommandError::Closed);
                        }
                    }
                    // Another id: a reply whose command has given up waiting.
                    Received::Reply { .. } | Received::Welcome { .. } | Received::Unknown => {}
                }
            }
            Err(CommandError::Overrun)
        };
        timeout(limit, waiting).await.unwrap_or(Err(CommandError::Timeout(limit)))
    }

    async fn receive(&mut self) -> Result<Received, ReceiveError> {
        let received = match self.socket.recv().await? {
            Incoming::Text(frame) => frame::read(&frame).inspect_err(|_| self.socket.abandon(1002))?,
            Incoming::Binary(_) => {
                self.socket.abandon(1003);
                return Err(ReceiveError::Protocol("a binary frame".to_owned()));
            }
            Incoming::Closed(closed) => Received::Event(Event::Closed(closed)),
        };
        if let Received::Welcome { client, ping, .. } = &received {
            self.client_id.clone_from(client);
            if let Some(interval) = ping {
                self.socket.expect_pings_every(*interval);
            }
        }
        Ok(received)
    }
}

/// What a kept event costs, roughly.
fn weight(event: &Event) -> usize {
    const EVENT_BYTES: usize = 256;
    let data = match event {
        Event::Message(message) => match &message.data {
            Data::Json(bytes) | Data::Binary(bytes) => bytes.len(),
        },
        _ => 0,
    };
    EVENT_BYTES + data
}

fn unfit(reply: &Reply) -> CommandError {
    ReceiveError::Protocol(format!("a reply to something else: {reply:?}")).into()
}

pub(crate) fn refusals(acknowledgements: &[Acknowledgement]) -> String {
    let refusals = acknowledgements.iter().filter_map(|topic| {
        topic.result.as_ref().err().map(|refusal| format!("{:?} refused: {refusal}", topic.topic))
    });
    refusals.collect::<Vec<_>>().join("; ")
}
