//! Publishing over HTTP, one request at a time on one keep-alive connection.
//!
//! The connection is opened by the first publish and again when the server has closed it. A request of which nothing
//! was sent moves to the new connection. One that was sent and got no answer is repeated only if it carries an
//! idempotency key; otherwise its fate is unknown and the caller is told so.
//!
//! A publisher [with retries](Publisher::with_retries) gives every message a key, and sends it again until it is answered.
//!
//! # Owner        the caller; a program that publishes in parallel has several publishers
//! # Bounds       the client's timeout for one try, connecting included, and the patience for all; answers of 4 MiB

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::back_off::{BackOff, Pauses};
use crate::connection::{self, Address, Answer, Connection, ExchangeError};
use crate::payload::{Item, Payload};
use crate::refusal::{HttpRefusal, Refusal};

/// Publishes over one connection. Made by [`Client::publisher`](crate::Client::publisher).
pub struct Publisher {
    address: Address,
    timeout: Duration,
    /// Between two publishes. A publish takes it out, so one that is dropped closes its connection.
    idle: Option<Connection>,
    retries: Option<Retries>,
}

struct Retries {
    back_off: BackOff,
    patience: Option<Duration>,
    tell: Option<Tell>,
}

type Tell = Box<dyn FnMut(&PublishError, Duration) + Send>;

/// The place a message got.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Published {
    /// The life of the topic's count.
    pub epoch: String,
    /// Counts from 1.
    pub offset: u64,
}

/// The places of the lines of one body.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PublishedBatch {
    /// The life of the topic's count.
    pub epoch: String,
    /// Of the first message.
    pub first: u64,
    /// Of the last message.
    pub offset: u64,
    /// Messages published.
    pub count: u64,
}

/// Why a publish did not succeed. [`is_surely_unpublished`](Self::is_surely_unpublished) tells whether to repeat it.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No connection, so nothing was sent.
    #[error("cannot connect to {authority}: {source}")]
    Connect {
        /// Host and port.
        authority: String,
        /// From the operating system.
        source: io::Error,
    },
    /// A content type, key or name that cannot stand in a header. Nothing was sent.
    #[error("not a request: {0}")]
    Request(#[from] hyper::http::Error),
    /// The server said no: 4xx, 429 and 503 mean surely not published.
    #[error(transparent)]
    Refused(#[from] HttpRefusal),
    /// No answer in time. The message may have been published.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection was lost after the request was sent. The message may have been published.
    #[error("no answer: {0}")]
    Lost(String),
    /// An answer that is not this protocol's. The message may have been published.
    #[error("an answer that is not Fanfare's: {0}")]
    Answer(String),
}

impl PublishError {
    /// Whether a repeat cannot publish the message twice.
    pub fn is_surely_unpublished(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Request(_) => true,
            Self::Refused(refusal) => matches!(refusal.status, 400..=499 | 503),
            Self::Timeout(_) | Self::Lost(_) | Self::Answer(_) => false,
        }
    }

    /// Whether a repeat may succeed.
    fn is_passing(&self) -> bool {
        match self {
            Self::Request(_) => false,
            Self::Refused(refusal) => refusal.is_passing(),
            Self::Connect { .. } | Self::Timeout(_) | Self::Lost(_) | Self::Answer(_) => true,
        }
    }
}

impl Publisher {
    pub(crate) fn new(address: Address, timeout: Duration) -> Self {
        Self { address, timeout, idle: None, retries: None }
    }

    /// Sends again what may succeed later (no connection, no answer, 408, 429, 5xx), after pauses as `back_off` says or as
    /// the server asks, until it is answered or `patience` is over. Every message gets an idempotency key of its own,
    /// unless it has one, so it is published once however often it was sent.
    ///
    /// The gateway keeps keys for two minutes and in memory. Patience of less than that, less the client's
    /// [timeout](crate::Client::with_timeout), never doubles a message while the gateway runs; 100 s is a good one. With
    /// more, or with `None` for no end, a message whose answer was lost may be published a second time after two minutes
    /// or a restart of the gateway: at least once, instead of once.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// use fanfare_client::{BackOff, Client, Payload};
    ///
    /// let publisher = Client::new("http://127.0.0.1:8080")?.publisher();
    /// let mut publisher = publisher.with_retries(BackOff::default(), Some(Duration::from_secs(100)));
    /// publisher.publish("ticker.BTC-USD", Payload::json(r#"{"bid":"64000.10"}"#)).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_retries(mut self, back_off: BackOff, patience: Option<Duration>) -> Self {
        self.retries = Some(Retries { back_off, patience, tell: None });
        self
    }

    /// Has `tell` called before each pause of [`with_retries`](Self::with_retries), with what went wrong and how long the
    /// pause is. Without retries it does nothing.
    #[must_use]
    pub fn on_retry(mut self, tell: impl FnMut(&PublishError, Duration) + Send + 'static) -> Self {
        if let Some(retries) = &mut self.retries {
            retries.tell = Some(Box::new(tell));
        }
        self
    }

    /// Publishes one message and waits until the server has given it its place.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use fanfare_client::{Client, Payload};
    ///
    /// let mut publisher = Client::new("http://127.0.0.1:8080")?.publisher();
    /// let published = publisher.publish("ticker.BTC-USD", Payload::json(r#"{"bid":"64000.10"}"#)).await?;
    /// println!("{}:{}", published.epoch, published.offset);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`PublishError`]; the publisher stays usable after each.
    pub async fn publish(&mut self, topic: &str, payload: Payload) -> Result<Published, PublishError> {
        self.post(&connection::topic_path(topic), payload).await
    }

    /// Publishes each non-empty line of the payload as one message (`?split=lines`).
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use fanfare_client::{Client, Payload};
    ///
    /// let mut publisher = Client::new("http://127.0.0.1:8080")?.publisher();
    /// let batch = publisher.publish_lines("log.web", Payload::ndjson("{\"n\":1}\n{\"n\":2}\n")).await?;
    /// println!("{} messages up to {}", batch.count, batch.offset);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_lines(
        &mut self,
        topic: &str,
        lines: Payload,
    ) -> Result<PublishedBatch, PublishError> {
        self.post(&(connection::topic_path(topic) + "?split=lines"), lines).await
    }

    /// Publishes JSON messages of any topics in one request (`POST /publish`). The results are in the order of the
    /// items, and a refused item does not spoil the others.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use fanfare_client::{Client, Item};
    ///
    /// let mut publisher = Client::new("http://127.0.0.1:8080")?.publisher();
    /// let items = [Item::new("ticker.BTC-USD", br#"{"bid":"64000.10"}"#)?, Item::new("bad topic", b"1")?];
    /// for result in publisher.publish_many(&items).await? {
    ///     match result {
    ///         Ok(published) => println!("at {}", published.offset),
    ///         Err(refusal) => println!("refused: {refusal}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`publish`](Self::publish), for the request as a whole.
    pub async fn publish_many(
        &mut self,
        items: &[Item],
    ) -> Result<Vec<Result<Published, Refusal>>, PublishError> {
        #[derive(Deserialize)]
        struct Results {
            results: Vec<One>,
        }
        #[derive(Deserialize)]
        struct One {
            #[serde(flatten)]
            published: Option<Published>,
            error: Option<Refusal>,
        }

        let mut body = Vec::new();
        for item in items {
            let line = if self.retries.is_some() { &item.clone().with_id() } else { item };
            serde_json::to_writer(&mut body, line).expect("strings and checked JSON, into memory");
            body.push(b'\n');
        }
        let body = Payload::ndjson(body);
        let repeatable = self.retries.is_some() || items.iter().all(Item::has_id);
        let Results { results } = self.send("/publish", body, repeatable).await?;
        if results.len() != items.len() {
            let message = format!("{} results of {} messages", results.len(), items.len());
            return Err(PublishError::Answer(message));
        }
        let result = |one: One| match (one.published, one.error) {
            (Some(published), None) => Ok(Ok(published)),
            (_, Some(refusal)) => Ok(Err(refusal)),
            (None, None) => Err(PublishError::Answer("a result with neither place nor error".to_owned())),
        };
        results.into_iter().map(result).collect()
    }

    async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        mut payload: Payload,
    ) -> Result<T, PublishError> {
        if self.retries.is_some() {
            payload.idempotency_key.get_or_insert_with(new_key);
        }
        let repeatable = payload.idempotency_key.is_some();
        self.send(path, payload, repeatable).await
    }

    /// Sends until it is answered, if there are retries; else once.
    async fn send<T: DeserializeOwned>(
        &mut self,
        path: &str,
        payload: Payload,
        repeatable: bool,
    ) -> Result<T, PublishError> {
        let Some(Retries { back_off, patience, .. }) = &self.retries else {
            return self.send_once(path, payload, repeatable).await;
        };
        let (mut pauses, patience, began) = (Pauses::new(*back_off), *patience, Instant::now());
        loop {
            let error = match self.send_once(path, payload.clone(), repeatable).await {
                Err(error) if error.is_passing() => error,
                done => return done,
            };
            let pause = match &error {
                PublishError::Refused(HttpRefusal { retry_after: Some(pause), .. }) => pauses.advised(*pause),
                PublishError::Refused(_) => pauses.later(),
                _ => pauses.soon(),
            };
            if patience.is_some_and(|patience| began.elapsed() + pause > patience) {
                return Err(error);
            }
            if let Some(Retries { tell: Some(tell), .. }) = &mut self.retries {
                tell(&error, pause);
            }
            sleep(pause).await;
        }
    }

    async fn send_once<T: DeserializeOwned>(
        &mut self,
        path: &str,
        payload: Payload,
        repeatable: bool,
    ) -> Result<T, PublishError> {
        let request = request(&self.address, path, payload)?;
        let timeout = self.timeout;
        match tokio::time::timeout(timeout, self.exchange(request, repeatable)).await {
            Ok(answer) => read(&answer?),
            Err(_) => Err(PublishError::Timeout(timeout)),
        }
    }

    /// On the idle connection if it is still open, else, and if that one turns out to be closed, on a new one.
    async fn exchange(
        &mut self,
        mut request: Request<Full<Bytes>>,
        repeatable: bool,
    ) -> Result<Answer, PublishError> {
        if let Some(mut connection) = self.idle.take()
            && connection.is_open().await
        {
            let spare = repeatable.then(|| request.clone());
            match connection.exchange(request).await {
                Ok(answer) => {
                    self.idle = Some(connection);
                    return Ok(answer);
                }
                Err(ExchangeError::NotSent(unsent)) => request = *unsent,
                Err(error) => request = spare.ok_or_else(|| PublishError::Lost(error.to_string()))?,
            }
        }
        let mut connection = Connection::open(&self.address).await.map_err(|source| {
            PublishError::Connect { authority: self.address.authority().to_owned(), source }
        })?;
        let answer =
            connection.exchange(request).await.map_err(|error| PublishError::Lost(error.to_string()))?;
        self.idle = Some(connection);
        Ok(answer)
    }
}

/// An idempotency key that nobody else has.
pub(crate) fn new_key() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn request(
    address: &Address,
    path: &str,
    payload: Payload,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let mut request = address.request(Method::POST, path);
    let headers = [
        (CONTENT_TYPE.as_str(), payload.content_type.as_deref()),
        ("fanfare-key", payload.key.as_deref()),
        ("fanfare-event", payload.event.as_deref()),
        ("idempotency-key", payload.idempotency_key.as_deref()),
    ];
    for (name, value) in headers {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    request.body(Full::new(payload.bytes))
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, PublishError> {
    if answer.status == StatusCode::OK {
        return serde_json::from_slice(&answer.body).map_err(|error| PublishError::Answer(error.to_string()));
    }
    Err(HttpRefusal::read(answer).into())
}
