//! `GET /poll`: messages of many topics, taken with a cursor that misses nothing.
//!
//! ```text
//!   GET /poll?topic=a&topic=b.*&cursor=k3x9wm0q:70211&wait=25
//!   200 {"cursor":"k3x9wm0q:70218","gap":false,"messages":[…]}
//! ```
//! `wait=0` is interval polling: the answer comes at once. Else it waits until there is something.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_registry::{JoinError, Polled};
use fanfare_wire::{FormatId, Message, Name};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::{sleep, timeout_at};

use crate::admission::{self, Bound};
use crate::auth;
use crate::client::Client;
use crate::drain::Phase;
use crate::error::{ApiError, Body};
use crate::query::Query;
use crate::server::Shared;
use crate::subscribe::{self, Refusal};
use crate::transport::long_poll::Waiter;
use crate::worker::Worker;

/// How long a message that has woken a poll may take to be read, before it is tried again.
const READ_AGAIN: Duration = Duration::from_millis(1);

/// `GET /poll`
pub(crate) async fn poll(
    worker: &Rc<Worker>,
    client: &Client,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    if request.method() != Method::GET {
        return Err(ApiError::method_not_allowed("GET"));
    }
    let query = Query::of(request);
    let (names, max, wait, bytes_max) = {
        // Not held for as long as the poll waits.
        let limits = &worker.shared.config().limits;
        let (max, wait) = (query.max(limits.poll_messages)?, query.wait(limits.poll_wait)?);
        (subscribe::names(worker, &query)?, max, wait, limits.poll_bytes)
    };
    names.iter().try_for_each(|name| client.check_subscribe(name))?;
    let cursor = Query::place(query.get("cursor").unwrap_or_default(), "cursor")?;
    let read = || {
        let cursor = cursor.as_ref().map(|(epoch, sequence)| (epoch.as_str(), *sequence));
        worker.shared.dispatch.registry.since(&names, cursor, max, Instant::now())
    };
    let has_news = |polled: &Polled| cursor.is_none() || polled.gap || !polled.messages.is_empty();
    let refused = |error: JoinError| ApiError::from(subscribe::met(worker, error));
    let walks = names.iter().any(|name| matches!(name, Name::Pattern(_)));
    if walks {
        admission::read(worker, client).await?;
    }
    let polled = read();
    if walks {
        let topics = match &polled {
            Ok(polled) => polled.topics,
            // That many were gone through until it was known.
            Err(_) => worker.shared.config().limits.wildcard_topics,
        };
        admission::has_read(worker, client, topics);
    }
    let polled = polled.map_err(refused)?;
    let mut polled = if wait.is_zero() || has_news(&polled) {
        polled
    } else {
        wait_for(worker, client, &names, wait, || {
            let polled = read().map_err(refused)?;
            Ok(has_news(&polled).then_some(polled))
        })
        .await?
        // What has come without being asked for moves the cursor all the same.
        .map_or_else(|| read().map_err(refused), Ok)?
    };
    let is_missed = cursor.is_some() && !polled.gap;
    fit(&mut polled, is_missed, bytes_max);
    let response = response(worker, &polled)?;
    worker.counters().polls.add(1);
    Ok(response)
}

/// Reads until there is something, at the latest until `wait` is over or the drain closes connections. A client that may no
/// more is told so.
pub(crate) async fn wait_for<T>(
    worker: &Rc<Worker>,
    client: &Client,
    names: &[Name],
    wait: Duration,
    mut read: impl FnMut() -> Result<Option<T>, ApiError>,
) -> Result<Option<T>, ApiError> {
    let deadline = Instant::now() + wait;
    let expires = client.grant().and_then(|grant| grant.expires);
    let deadline = tokio::time::Instant::from(expires.map_or(deadline, |expires| expires.min(deadline)));
    let _place = admission::waiting_poll(worker, client)?;
    let waiter = Waiter::new(worker, client, names).map_err(refusal)?;
    let mut phase = worker.shared.phase(worker.index);
    let registry = &worker.shared.dispatch.registry;
    // What wakes may be ahead of the watermark, as long as others hand over messages with smaller sequences: no other wake
    // follows, so it is read again until the watermark is there.
    let mut published = registry.published();
    loop {
        auth::is_over(worker, client).map_err(|failure| auth::refuse(worker, failure))?;
        let is_behind = registry.watermark() < published;
        // After the subscription: what came before it is read, what comes later wakes.
        if let Some(found) = read()? {
            return Ok(Some(found));
        }
        if is_behind && tokio::time::Instant::now() < deadline {
            sleep(READ_AGAIN).await;
            continue;
        }
        let woken = async {
            tokio::select! {
                () = waiter.woken() => true,
                _ = phase.wait_for(|phase| *phase >= Phase::Closing) => false,
            }
        };
        if !timeout_at(deadline, woken).await.unwrap_or(false) {
            auth::is_over(worker, client).map_err(|failure| auth::refuse(worker, failure))?;
            return Ok(None);
        }
        published = registry.published();
    }
}

pub(crate) fn refusal((code, message): Refusal) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
}

/// Leaves as many messages as fit `bytes_max`, one at least. Of what was missed they are the oldest, and the next poll goes on
/// behind them; of last values the newest, as when there are too many.
fn fit(polled: &mut Polled, is_missed: bool, bytes_max: usize) {
    let mut bytes = 0;
    let mut fits = |message: &&Arc<Message>| {
        bytes += message.frame(FormatId::LONG_POLL).len();
        bytes <= bytes_max
    };
    let messages = &mut polled.messages;
    if is_missed {
        let count = messages.iter().take_while(&mut fits).count().max(1);
        if count < messages.len() {
            messages.truncate(count);
            polled.sequence = messages.last().map_or(polled.sequence, |message| message.sequence());
        }
    } else {
        let count = messages.iter().rev().take_while(&mut fits).count().max(1);
        messages.drain(..messages.len().saturating_sub(count));
    }
}

/// The body of an answer, counted until it is written or its connection is gone: readers may be slow.
struct Counted {
    body: Vec<u8>,
    shared: Arc<Shared>,
}

impl Counted {
    fn new(body: Vec<u8>, worker: &Worker) -> Result<Self, Bound> {
        let shared = &worker.shared;
        let before = shared.inflight_poll_bytes.fetch_add(body.len(), Relaxed);
        let counted = Self { body, shared: Arc::clone(shared) };
        if before + counted.body.len() > shared.config().limits.inflight_poll_bytes {
            return Err(admission::counted(worker, Bound::PollBytes));
        }
        Ok(counted)
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.inflight_poll_bytes.fetch_sub(self.body.len(), Relaxed);
    }
}

fn response(worker: &Worker, polled: &Polled) -> Result<Response<Body>, ApiError> {
    let epoch = worker.shared.dispatch.registry.epoch();
    let frames = polled.messages.iter().map(|message| message.frame(FormatId::LONG_POLL));
    let bytes: usize = frames.clone().map(|frame| frame.len() + 1).sum();
    let head = format!(r#"{{"cursor":"{epoch}:{}","gap":{},"messages":["#, polled.sequence, polled.gap);
    let mut body = Vec::with_capacity(head.len() + bytes + 2);
    body.extend_from_slice(head.as_bytes());
    for (index, frame) in frames.enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(frame);
    }
    body.extend_from_slice(b"]}");
    let body = Bytes::from_owner(Counted::new(body, worker)?);
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
