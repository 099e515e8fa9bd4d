//! Publishing over HTTP: from a request's body to drafts; the answer is `answer`.
//!
//! | endpoint | messages |
//! |---|---|
//! | `POST /topics/{topic}` | the body |
//! | `POST /topics/{topic}?split=lines` | each non-empty line: all are published, or none |
//! | `POST /publish` | each item, for itself: a bad one does not spoil the others |
//!
//! Everything after the body has arrived is done without waiting: 4xx and 503 mean that nothing was published.

mod answer;

use std::borrow::Cow;
use std::time::Instant;

use bytes::Bytes;
use fanfare_registry::Admitted;
use fanfare_wire::envelope::{self, Item, ItemError};
use fanfare_wire::event::ErrorCode;
use fanfare_wire::{Draft, Kind, Topic};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::task::yield_now;

use crate::admission;
use crate::auth;
use crate::body::{self, Lines};
use crate::client::Client;
use crate::drain::Phase;
use crate::error::{ApiError, Body, json, json_text};
use crate::idempotency::{Answer, KEY_BYTES_MAX};
use crate::limits::Limits;
use crate::server::Shared;
use crate::worker::Worker;
use answer::{Lined, REPLAYED, Results, placed, placed_bytes};

const EVENT: HeaderName = HeaderName::from_static("fanfare-event");
const KEY: HeaderName = HeaderName::from_static("fanfare-key");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// `POST /topics/{topic}`
pub(crate) async fn to_topic(
    worker: &Worker,
    client: &Client,
    topic: &str,
    split_lines: bool,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let topic = Topic::new(topic)?;
    client.check_publish(&topic)?;
    let headers = std::mem::take(request.headers_mut());
    let attributes = Attributes::read(&headers)?;
    admission::publisher(worker, client)?;
    let body = read(worker, client, request.body_mut()).await?;
    let publisher = Publisher { worker, client };
    let drafts = if split_lines {
        publisher.line_drafts(&topic, &attributes, &body)?
    } else {
        vec![publisher.draft(&topic, attributes.kind(&body)?, &body, attributes.event, attributes.key)?]
    };
    let answer = publisher.publish(&topic, drafts, attributes.idempotency_key)?;
    let Admitted { epoch, first, last, .. } = answer.admitted;
    // A repeat is answered for what was published, whatever its body is.
    let count = last + 1 - first;
    let mut response = if split_lines {
        json(StatusCode::OK, &Lined { topic: topic.as_str(), epoch, first, offset: last, count })
    } else {
        let mut text = Vec::with_capacity(placed_bytes(&topic, last));
        placed(&topic, epoch, last, &mut text);
        json_text(StatusCode::OK, text)
    };
    if answer.replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// `POST /publish`
pub(crate) async fn many(
    worker: &Worker,
    client: &Client,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    client.check_publisher()?;
    let headers = std::mem::take(request.headers_mut());
    let attributes = Attributes::read(&headers)?;
    admission::publisher(worker, client)?;
    let body = request.body_mut();
    let publisher = Publisher { worker, client };
    let mut results = Results::new(worker.shared.config().limits.body_messages);
    match attributes.essence().as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl"
            if body.size_hint().exact().is_none() =>
        {
            stream(&publisher, &attributes, body, &mut results).await;
        }
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
            let body = read(worker, client, body).await?;
            let lines = body::lines(&body).map(<[u8]>::trim_ascii);
            let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
            check_count(lines.len(), &worker.shared)?;
            publisher.items(lines, &attributes, &mut results, Past::IsRefused).await;
        }
        "application/json" => {
            let body = read(worker, client, body).await?;
            let elements =
                envelope::elements(&body).map_err(|ItemError(message)| ApiError::bad_request(message))?;
            check_count(elements.len(), &worker.shared)?;
            let texts = elements.iter().map(|element| element.get().as_bytes());
            publisher.items(texts, &attributes, &mut results, Past::IsRefused).await;
        }
        _ => {
            let message = "the content type here is application/x-ndjson or application/json";
            let code = ErrorCode::UnsupportedMediaType;
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code, message));
        }
    }
    Ok(results.response())
}

/// The body. Who is slow to send it may be over by its end.
async fn read(worker: &Worker, client: &Client, body: &mut Incoming) -> Result<Bytes, ApiError> {
    let still = || auth::is_over(worker, client).map_err(|failure| auth::refuse(worker, failure));
    body::read(body, &worker.shared, still).await
}

/// A publish stream: a chunked NDJSON body that stays open. Each line goes out as it arrives; the answer comes at its
/// end. What was published before an error stays published, so the error is the last result and the status is 200.
async fn stream(
    publisher: &Publisher<'_>,
    attributes: &Attributes<'_>,
    body: &mut Incoming,
    results: &mut Results,
) {
    let shared = &publisher.worker.shared;
    let mut phase = shared.phase(publisher.worker.index);
    let mut lines = Lines::new(body, shared);
    let mut ready: Vec<Bytes> = Vec::new();
    loop {
        let line = tokio::select! {
            biased;
            line = lines.next() => line,
            // A drain ends the stream between two lines, with its answer.
            _ = phase.wait_for(|phase| *phase >= Phase::Closing) => Ok(None),
        };
        let end = match line {
            Ok(Some(line)) => {
                ready.push(line);
                None
            }
            Ok(None) => Some(None),
            Err(error) => Some(Some(error)),
        };
        // The stream may be open for longer than its sender may.
        if let Err(failure) = auth::is_over(publisher.worker, publisher.client) {
            return results.push_error(None, &auth::refuse(publisher.worker, failure));
        }
        // What arrived together is published together, a bounded number at a time.
        if end.is_some() || !lines.is_ready() || ready.len() >= STREAM_LINES_MAX {
            let texts = ready.iter().map(|line| line.trim_ascii()).filter(|line| !line.is_empty());
            publisher.items(texts, attributes, results, Past::Waits).await;
            ready.clear();
        }
        match end {
            None => {}
            Some(None) => return,
            Some(Some(error)) => return results.push_error(None, &error),
        }
    }
}

/// How many lines of a publish stream are taken into the topics at once.
const STREAM_LINES_MAX: usize = 256;

fn check_count(count: usize, shared: &Shared) -> Result<(), ApiError> {
    let max = shared.config().limits.body_messages;
    if count > max {
        return Err(ApiError::too_large(format!("at most {max} messages in one request")));
    }
    Ok(())
}

fn non_empty_lines(body: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = (1..).zip(body::lines(body));
    let lines = lines.map(|(number, line)| (number, line.strip_suffix(b"\r").unwrap_or(line)));
    lines.filter(|(_, line)| !line.is_empty())
}

/// What the request's headers say about its messages.
struct Attributes<'a> {
    content_type: Option<&'a str>,
    event: Option<&'a str>,
    key: Option<&'a str>,
    idempotency_key: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    fn read(headers: &'a HeaderMap) -> Result<Self, ApiError> {
        let mut attributes = Self { content_type: None, event: None, key: None, idempotency_key: None };
        // Once over all of them: a request has few. Of one that stands twice the first counts.
        for (name, value) in headers {
            let attribute = if name == CONTENT_TYPE {
                &mut attributes.content_type
            } else if name == EVENT {
                &mut attributes.event
            } else if name == KEY {
                &mut attributes.key
            } else if name == IDEMPOTENCY_KEY {
                &mut attributes.idempotency_key
            } else if name == CONTENT_ENCODING && value != "identity" {
                let code = ErrorCode::UnsupportedMediaType;
                let message = "an encoded body is not taken";
                return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code, message));
            } else {
                continue;
            };
            let text = std::str::from_utf8(value.as_bytes());
            let text = text.map_err(|_| ApiError::bad_request(format!("the header {name} is not UTF-8")))?;
            attribute.get_or_insert(text);
        }
        let refuse = |ItemError(message)| ApiError::bad_request(message);
        envelope::check_event(attributes.event).map_err(refuse)?;
        envelope::check_key(attributes.key).map_err(refuse)?;
        if attributes.idempotency_key.is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
            return Err(ApiError::bad_request(format!("Idempotency-Key has 1 to {KEY_BYTES_MAX} bytes")));
        }
        Ok(attributes)
    }

    fn kind(&self, payload: &[u8]) -> Result<Kind, ApiError> {
        Ok(Kind::of(self.content_type, payload)?)
    }

    fn essence(&self) -> String {
        self.content_type
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    }
}

/// Makes drafts and publishes them, and counts both.
struct Publisher<'a> {
    worker: &'a Worker,
    client: &'a Client,
}

impl Publisher<'_> {
    fn draft(
        &self,
        topic: &Topic,
        kind: Kind,
        payload: &[u8],
        event: Option<&str>,
        key: Option<&str>,
    ) -> Result<Draft, ApiError> {
        let max = self.worker.shared.config().limits.message_bytes;
        if payload.len() > max {
            return Err(ApiError::too_large(format!("a message has at most {max} bytes")));
        }
        let mut draft = Draft::new(topic.clone(), kind, payload);
        draft.event = event.map(Into::into);
        draft.key = key.map(Into::into);
        Ok(draft)
    }

    fn line_drafts(
        &self,
        topic: &Topic,
        attributes: &Attributes<'_>,
        body: &[u8],
    ) -> Result<Vec<Draft>, ApiError> {
        let mut drafts = Vec::new();
        for (number, line) in non_empty_lines(body) {
            let draft = attributes
                .kind(line)
                .and_then(|kind| self.draft(topic, kind, line, attributes.event, attributes.key))
                .map_err(|error| ApiError {
                    message: format!("line {number}: {}", error.message),
                    ..error
                })?;
            drafts.push(draft);
            check_count(drafts.len(), &self.worker.shared)?;
        }
        if drafts.is_empty() {
            return Err(ApiError::bad_request("no line has a message"));
        }
        Ok(drafts)
    }

    fn publish(&self, topic: &Topic, drafts: Vec<Draft>, key: Option<&str>) -> Result<Answer, ApiError> {
        let publish = || {
            admission::publish(self.worker, self.client, topic, drafts.len())?;
            Ok(self.worker.publish(topic, drafts)?)
        };
        match key {
            None => publish().map(|admitted| Answer { admitted, replayed: false }),
            Some(key) => {
                let holder = self.client.holder();
                self.worker.shared.idempotency.once(topic, holder, key, Instant::now(), publish)
            }
        }
    }

    /// Publishes items in their order. Neighbours of one topic enter it together.
    async fn items<'b>(
        &self,
        items: impl IntoIterator<Item = &'b [u8]>,
        attributes: &Attributes<'_>,
        results: &mut Results,
        past: Past,
    ) {
        let mut run = Run { publisher: self, topic: None, drafts: Vec::new() };
        let mut spread = Spread::default();
        for text in items {
            let mut item = envelope::parse(text).map_err(|ItemError(message)| ApiError::bad_request(message));
            if let Ok(parsed) = &item {
                let mut fits = self.fits(&mut spread, parsed);
                if !fits && past == Past::Waits {
                    run.end(results);
                    yield_now().await;
                    spread = Spread::default();
                    fits = self.fits(&mut spread, parsed);
                }
                if !fits {
                    item = Err(self.spread_too_far());
                }
            }
            let number = results.items;
            results.items += 1;
            match item {
                Ok(item) => self.item(&item, number, attributes, &mut run, results),
                Err(error) => {
                    run.end(results);
                    results.push_error(None, &error);
                }
            }
        }
        run.end(results);
    }

    fn fits(&self, spread: &mut Spread, item: &Item<'_>) -> bool {
        spread.takes(item, &self.worker.shared.config().limits)
    }

    fn spread_too_far(&self) -> ApiError {
        let limits = &self.worker.shared.config().limits;
        let (messages, bytes) = (limits.body_messages, limits.body_bytes);
        ApiError::too_large(format!(
            "the items of a request have at most {messages} topics, and {bytes} bytes over all of them"
        ))
    }

    fn item(
        &self,
        item: &Item<'_>,
        number: usize,
        attributes: &Attributes<'_>,
        run: &mut Run<'_>,
        results: &mut Results,
    ) {
        // A key of the whole request stands for one per item.
        let key = match (&item.id, attributes.idempotency_key) {
            (Some(id), _) => Some(Cow::Borrowed(&**id)),
            (None, Some(key)) => Some(Cow::Owned(format!("{key}/{number}"))),
            (None, None) => None,
        };
        for name in &item.topics {
            let draft = Topic::new(name).map_err(ApiError::from).and_then(|topic| {
                self.client.check_publish(&topic)?;
                self.draft(&topic, item.kind, &item.payload, item.event.as_deref(), item.key.as_deref())
            });
            match (draft, &key) {
                (Ok(draft), None) => run.add(draft, results),
                (Ok(draft), Some(key)) => {
                    run.end(results);
                    let topic = draft.topic.clone();
                    if key.is_empty() || key.len() > KEY_BYTES_MAX {
                        let error = ApiError::bad_request(format!("\"id\" has 1 to {KEY_BYTES_MAX} bytes"));
                        results.push_error(Some(name), &error);
                        continue;
                    }
                    match self.publish(&topic, vec![draft], Some(key)) {
                        Ok(answer) => results.push(&topic, &answer),
                        Err(error) => results.push_error(Some(name), &error),
                    }
                }
                (Err(error), _) => {
                    run.end(results);
                    results.push_error(Some(name), &error);
                }
            }
        }
    }
}

/// What becomes of an item that is too much together with those before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Past {
    /// Of one body.
    IsRefused,
    /// Of a stream, which has no end: it is too much for one turn only.
    Waits,
}

/// What items become. The data of an item exists once per topic, and all is made in one turn: it is bounded like what one
/// body brings.
#[derive(Default)]
struct Spread {
    messages: usize,
    bytes: usize,
}

impl Spread {
    /// Adds an item, if it fits.
    fn takes(&mut self, item: &Item<'_>, limits: &Limits) -> bool {
        let messages = self.messages.saturating_add(item.topics.len());
        let bytes = item.payload.len().saturating_mul(item.topics.len());
        let bytes = self.bytes.saturating_add(bytes);
        let fits = messages <= limits.body_messages && bytes <= limits.body_bytes;
        if fits {
            *self = Self { messages, bytes };
        }
        fits
    }
}

/// Successive drafts of one topic. [`Spread`] bounds them.
struct Run<'a> {
    publisher: &'a Publisher<'a>,
    topic: Option<Topic>,
    drafts: Vec<Draft>,
}

impl Run<'_> {
    fn add(&mut self, draft: Draft, results: &mut Results) {
        if self.topic.as_ref() != Some(&draft.topic) {
            self.end(results);
            self.topic = Some(draft.topic.clone());
        }
        self.drafts.push(draft);
    }

    fn end(&mut self, results: &mut Results) {
        let Some(topic) = self.topic.take() else { return };
        let drafts = std::mem::take(&mut self.drafts);
        let count = drafts.len();
        match self.publisher.publish(&topic, drafts, None) {
            Ok(answer) => {
                for offset in answer.admitted.first..=answer.admitted.last {
                    let admitted = Admitted { last: offset, ..answer.admitted };
                    results.push(&topic, &Answer { admitted, replayed: false });
                }
            }
            Err(error) => (0..count).for_each(|_| results.push_error(Some(topic.as_str()), &error)),
        }
    }
}
