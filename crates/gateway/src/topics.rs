//! What can be asked about topics: their last values, and what is known of them.

use std::rc::Rc;
use std::time::Instant;

use fanfare_registry::{Info, Last};
use fanfare_wire::event::{ErrorCode, Status};
use fanfare_wire::{Epoch, Kind, Message, Name, Pattern, Position, Topic};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AGE, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;

use crate::admission;
use crate::client::Client;
use crate::clock::milliseconds;
use crate::entity_tag;
use crate::error::{ApiError, Body, json};
use crate::poll;
use crate::query::Query;
use crate::worker::Worker;

const OFFSET: HeaderName = HeaderName::from_static("fanfare-offset");
const AGE_MS: HeaderName = HeaderName::from_static("fanfare-age-ms");
const STATUS: HeaderName = HeaderName::from_static("fanfare-status");

/// `GET /topics/{topic}`: the retained message, as posted, under an entity tag that is its place. With `wait`, a client that
/// has it already waits for the next.
pub(crate) async fn last_value(
    worker: &Rc<Worker>,
    client: &Client,
    topic: &Topic,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let wait = Query::of(request).wait(worker.shared.config().limits.poll_wait)?;
    let read = || worker.shared.dispatch.registry.last(topic, Instant::now());
    let is_known = |last: &Last| entity_tag::is_known(request.headers(), &tag(&last.message));
    let mut last = read();
    if !wait.is_zero() && last.as_ref().is_none_or(is_known) {
        let names = [Name::Topic(topic.clone())];
        let news = || Ok(read().filter(|last| !is_known(last)));
        last = poll::wait_for(worker, client, &names, wait, news).await?.or_else(read);
        worker.counters().polls.add(1);
    }
    let last =
        last.ok_or_else(|| ApiError { message: "the topic has no value".into(), ..ApiError::not_found() })?;
    let mut response = Response::new(Full::default());
    if is_known(&last) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *response.body_mut() = Full::from(last.message.payload().to_vec());
        response.headers_mut().insert(CONTENT_TYPE, content_type(&last.message));
    }
    describe(&mut response, worker, topic, &last);
    Ok(response)
}

/// The headers of a last value. A frozen price must not look fresh: its age is among them.
fn describe(response: &mut Response<Body>, worker: &Worker, topic: &Topic, last: &Last) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(AGE, HeaderValue::from(last.age.as_secs()));
    headers.insert(AGE_MS, HeaderValue::from(milliseconds(last.age)));
    headers.insert(OFFSET, HeaderValue::from(last.message.offset()));
    if let Some(stale_after) = worker.shared.config().settings(topic).stale_after {
        let status = if last.age >= stale_after { Status::Stale } else { Status::Live };
        headers.insert(STATUS, HeaderValue::from_static(status.as_str()));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag(&last.message)) {
        headers.insert(ETAG, tag);
    }
}

fn tag(message: &Message) -> String {
    format!("\"{}:{}\"", message.epoch(), message.offset())
}

fn content_type(message: &Message) -> HeaderValue {
    HeaderValue::from_static(match message.kind() {
        Kind::Json => "application/json",
        Kind::Text => "text/plain; charset=utf-8",
        Kind::Binary => "application/octet-stream",
    })
}

/// `GET /topics/{topic}/info`
pub(crate) fn info(worker: &Worker, topic: &Topic) -> Result<Response<Body>, ApiError> {
    #[derive(Serialize)]
    struct Shown<'a> {
        topic: &'a str,
        epoch: Epoch,
        offset: u64,
        oldest: Option<u64>,
        subscribers: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        age_ms: Option<u64>,
    }
    let info = worker.shared.dispatch.registry.info(topic, Instant::now());
    let info = info.ok_or_else(|| ApiError { message: "no such topic".into(), ..ApiError::not_found() })?;
    let Info { position: Position { epoch, offset }, oldest, subscribers, age, .. } = info;
    let shown =
        Shown { topic: topic.as_str(), epoch, offset, oldest, subscribers, age_ms: age.map(milliseconds) };
    Ok(uncached(json(StatusCode::OK, &shown)))
}

/// `GET /topics?match=PATTERN&after=NAME&max=100`: a page of the topics that the client may subscribe to, in the order of
/// their segments.
pub(crate) async fn list(
    worker: &Worker,
    client: &Client,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    #[derive(Serialize)]
    struct Place<'a> {
        topic: &'a str,
        epoch: Epoch,
        offset: u64,
    }
    #[derive(Serialize)]
    struct Page<'a> {
        topics: Vec<Place<'a>>,
        /// Where the next page begins, if there may be one.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<&'a str>,
    }
    client.check_subscriber()?;
    let query = Query::of(request);
    let (pattern, max) = (query.pattern()?, query.max(worker.shared.config().limits.list_topics)?);
    let after = query.get("after").filter(|after| !after.is_empty());
    if after.is_some_and(|after| Topic::new(after).is_err()) {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::BadTopic, "after is a topic's name"));
    }
    admission::read(worker, client).await?;
    let topics = allowed(worker, client, &pattern, after, max);
    let next = topics.last().filter(|_| topics.len() == max).map(|(topic, _)| topic.as_str());
    let places = topics.iter().map(|(topic, position)| {
        let Position { epoch, offset } = *position;
        Place { topic: topic.as_str(), epoch, offset }
    });
    Ok(uncached(json(StatusCode::OK, &Page { topics: places.collect(), next })))
}

/// The first `max` topics of `pattern` behind `after` that the client may subscribe to.
fn allowed(
    worker: &Worker,
    client: &Client,
    pattern: &Pattern,
    after: Option<&str>,
    max: usize,
) -> Vec<(Topic, Position)> {
    let registry = &worker.shared.dispatch.registry;
    let grant = client.grant();
    let granted = grant.iter().flat_map(|grant| &grant.subscribe);
    let mut both: Vec<_> = granted.filter_map(|granted| granted.intersection(pattern)).collect();
    both.dedup();
    let mut topics: Vec<_> = both.iter().flat_map(|pattern| registry.list(pattern, after, max)).collect();
    admission::has_read(worker, client, topics.len());
    if both.len() == 1 {
        return topics;
    }
    topics.sort_by(|(one, _), (other, _)| one.as_str().split('.').cmp(other.as_str().split('.')));
    topics.dedup_by(|(one, _), (other, _)| one == other);
    topics.truncate(max);
    topics
}

fn uncached(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
