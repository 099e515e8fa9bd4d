//! The public paths.

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use fanfare_wire::command::Start;
use fanfare_wire::{FormatId, Kind, Message, Topic};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH};
use hyper::{Method, Request, Response, StatusCode, Version};
use percent_encoding::percent_decode_str;

use crate::demo;
use crate::error::{ApiError, Body, text};
use crate::handshake::{self, NATIVE_JSON};
use crate::javascript;
use crate::publish;
use crate::session::Endpoint;
use crate::transport::http_stream;
use crate::worker::Worker;

/// What a connection becomes.
#[derive(Debug)]
pub(crate) enum Upgrade {
    /// Once its 101 is written.
    WebSocket(Endpoint),
    /// In place of a response, which is written by the transport.
    Stream(http_stream::Request),
}

/// Where a request leaves it for the connection.
#[derive(Default)]
pub(crate) struct UpgradeSlot(RefCell<Option<Upgrade>>);

impl UpgradeSlot {
    pub(crate) fn take(&self) -> Option<Upgrade> {
        self.0.borrow_mut().take()
    }

    fn set(&self, upgrade: Upgrade) {
        *self.0.borrow_mut() = Some(upgrade);
    }
}

/// Tells hyper to leave the connection as it is, nothing written: it has become a stream.
#[derive(Debug, thiserror::Error)]
#[error("the connection has become a stream")]
pub(crate) struct Taken;

/// Answers one request. What goes wrong is an answer, too.
pub(crate) async fn route(
    worker: Rc<Worker>,
    upgrade: Rc<UpgradeSlot>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Taken> {
    let path = request.uri().path().to_owned();
    let answer = match path.as_str() {
        "/healthz" => get_only(&request).map(|()| text(StatusCode::OK, "ok\n")),
        "/readyz" => get_only(&request).map(|()| readiness(worker.shared.is_draining())),
        "/fanfare.js" => get_only(&request).map(|()| javascript::module(&request)),
        "/ws" => native(&worker, &upgrade, request),
        "/publish" if request.method() != Method::POST => Err(ApiError::method_not_allowed("POST")),
        "/publish" => counted(&worker, publish::many(&worker, request)).await,
        path => match path.strip_prefix("/topics/") {
            Some(topic) => self::topic(&worker, &upgrade, topic, request).await,
            None => demo(&worker, path),
        },
    };
    if matches!(*upgrade.0.borrow(), Some(Upgrade::Stream(_))) {
        return Err(Taken);
    }
    Ok(answer.unwrap_or_else(|error| error.response()))
}

/// 200 while new connections are welcome.
pub(crate) fn readiness(draining: bool) -> Response<Body> {
    if draining {
        text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        text(StatusCode::OK, "ready\n")
    }
}

/// `/topics/{topic}`
async fn topic(
    worker: &Worker,
    upgrade: &UpgradeSlot,
    name: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let name = percent_decode_str(name).decode_utf8();
    let name = name.map_err(|_| ApiError::from(fanfare_wire::TopicError::Character))?;
    if handshake::is_upgrade(&request) {
        return raw(worker, upgrade, &name, request);
    }
    match *request.method() {
        Method::POST => {
            let split_lines = match parameter(&request, "split").as_deref() {
                None => false,
                Some("lines") => true,
                Some(_) => return Err(ApiError::bad_request("split can be \"lines\"")),
            };
            counted(worker, publish::to_topic(worker, &name, split_lines, request)).await
        }
        Method::GET | Method::HEAD => {
            let topic = Topic::new(&name)?;
            match stream_format(&request) {
                Some(format) if request.method() == Method::GET => stream(upgrade, format, topic, &request),
                _ => last_value(worker, &topic, &request),
            }
        }
        _ => Err(ApiError::method_not_allowed("GET, HEAD, POST")),
    }
}

/// `GET /topics/{topic}` with an upgrade: the raw WebSocket.
fn raw(
    worker: &Worker,
    upgrade: &UpgradeSlot,
    name: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let endpoint = Topic::new(name)
        .map_err(ApiError::from)
        .and_then(|topic| Ok(Endpoint::Raw { topic, start: start(&request)? }));
    switch(worker, upgrade, &mut request, &[], endpoint)
}

/// What `Accept` asks for, if it is a stream.
fn stream_format(request: &Request<Incoming>) -> Option<FormatId> {
    let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).find_map(|range| match range.split(';').next()?.trim() {
        "text/event-stream" => Some(FormatId::EVENT_STREAM),
        "application/x-ndjson" => Some(FormatId::NDJSON),
        _ => None,
    })
}

/// `GET /topics/{topic}` with `Accept: text/event-stream` or `application/x-ndjson`.
fn stream(
    upgrade: &UpgradeSlot,
    format: FormatId,
    topic: Topic,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    if request.version() != Version::HTTP_11 {
        return Err(ApiError::bad_request("a stream needs HTTP/1.1"));
    }
    let start = match last_event_id(request)? {
        Some(place) => place,
        None => start(request)?,
    };
    upgrade.set(Upgrade::Stream(http_stream::Request { format, topic, start }));
    // It is never seen: the stream's own head goes out in its place.
    Ok(Response::new(Full::default()))
}

/// `Last-Event-ID: epoch:offset`, which browsers send when they come back, or `?last_event_id=`. An empty one is none.
fn last_event_id(request: &Request<Incoming>) -> Result<Option<Start<'static>>, ApiError> {
    let refuse = || ApiError::bad_request("Last-Event-ID is EPOCH:OFFSET, as the stream's ids are");
    let id = match request.headers().get("last-event-id") {
        Some(id) => Some(id.to_str().map_err(|_| refuse())?.to_owned()),
        None => parameter(request, "last_event_id"),
    };
    let Some(id) = id.filter(|id| !id.is_empty()) else { return Ok(None) };
    let (epoch, offset) = id.split_once(':').ok_or_else(refuse)?;
    let offset = offset.parse().map_err(|_| refuse())?;
    Ok(Some(Start::After { epoch: Cow::Owned(epoch.to_owned()), offset }))
}

/// `GET /ws`
fn native(
    worker: &Worker,
    upgrade: &UpgradeSlot,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    if !handshake::is_upgrade(&request) {
        return Err(match *request.method() {
            Method::GET => handshake::upgrade_required(),
            _ => ApiError::method_not_allowed("GET"),
        });
    }
    switch(worker, upgrade, &mut request, &[NATIVE_JSON], Ok(Endpoint::Native))
}

fn switch(
    worker: &Worker,
    upgrade: &UpgradeSlot,
    request: &mut Request<Incoming>,
    subprotocols: &[&'static str],
    endpoint: Result<Endpoint, ApiError>,
) -> Result<Response<Body>, ApiError> {
    let accepted = endpoint.map_err(handshake::Refused::from).and_then(|endpoint| {
        let response = handshake::accept(request, subprotocols)?;
        Ok((endpoint, response))
    });
    match accepted {
        Ok((endpoint, response)) => {
            upgrade.set(Upgrade::WebSocket(endpoint));
            Ok(response)
        }
        Err(refused) => {
            worker.counters().refused_handshakes.add(1);
            Ok(refused.response())
        }
    }
}

/// `from=last|live|earliest`, or `epoch=` and `offset=`.
fn start(request: &Request<Incoming>) -> Result<Start<'static>, ApiError> {
    let offset = parameter(request, "offset");
    match (parameter(request, "from").as_deref(), parameter(request, "epoch"), offset) {
        (None | Some("last"), None, None) => Ok(Start::Last),
        (Some("live"), None, None) => Ok(Start::Live),
        (Some("earliest"), None, None) => Ok(Start::Earliest),
        (None, Some(epoch), Some(offset)) => match offset.parse() {
            Ok(offset) => Ok(Start::After { epoch: Cow::Owned(epoch), offset }),
            Err(_) => Err(ApiError::bad_request("offset is a whole number")),
        },
        (None, _, _) => Err(ApiError::bad_request("epoch and offset belong together")),
        (Some("last" | "live" | "earliest"), _, _) => {
            Err(ApiError::bad_request("from and a position exclude each other"))
        }
        (Some(_), _, _) => Err(ApiError::bad_request("from is last, live or earliest")),
    }
}

/// The retained message, as posted, under an entity tag that is its place.
fn last_value(
    worker: &Worker,
    topic: &Topic,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let last = worker.shared.dispatch.registry.last(topic);
    let last =
        last.ok_or_else(|| ApiError { message: "the topic has no value".into(), ..ApiError::not_found() })?;
    let tag = format!("\"{}:{}\"", last.epoch(), last.offset());
    let matches =
        |tags: &HeaderValue| tags.to_str().is_ok_and(|tags| tags.split(',').any(|known| known.trim() == tag));
    let mut response = Response::new(Full::default());
    if request.headers().get(IF_NONE_MATCH).is_some_and(matches) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *response.body_mut() = payload(&last);
        response.headers_mut().insert(CONTENT_TYPE, content_type(&last));
    }
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("fanfare-offset"), HeaderValue::from(last.offset()));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    Ok(response)
}

fn payload(message: &Message) -> Body {
    Full::from(message.payload().to_vec())
}

fn content_type(message: &Message) -> HeaderValue {
    HeaderValue::from_static(match message.kind() {
        Kind::Json => "application/json",
        Kind::Text => "text/plain; charset=utf-8",
        Kind::Binary => "application/octet-stream",
    })
}

/// Runs a publish, and counts it and its time.
async fn counted(
    worker: &Worker,
    publish: impl Future<Output = Result<Response<Body>, ApiError>>,
) -> Result<Response<Body>, ApiError> {
    let start = Instant::now();
    let answer = publish.await;
    let counters = worker.counters();
    if answer.is_ok() {
        counters.publishes.add(1)
    } else {
        counters.refused_publishes.add(1)
    }
    counters.publish_seconds.observe(start.elapsed());
    answer
}

fn demo(worker: &Worker, path: &str) -> Result<Response<Body>, ApiError> {
    let demo = worker.shared.demo.as_ref().and_then(|demo| demo.page(path));
    let (content_type, bytes) = demo.ok_or_else(ApiError::not_found)?;
    Ok(demo::response(content_type, bytes))
}

fn get_only<B>(request: &Request<B>) -> Result<(), ApiError> {
    match *request.method() {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(ApiError::method_not_allowed("GET, HEAD")),
    }
}

/// The first parameter of that name in the query.
fn parameter<B>(request: &Request<B>, name: &str) -> Option<String> {
    let query = request.uri().query()?;
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
