//! The public paths.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_wire::command::Start;
use fanfare_wire::{FormatId, Name, Topic};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONNECTION, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use percent_encoding::percent_decode_str;

use crate::admission;
use crate::auth;
use crate::auth::grant::{Grant, Holder};
use crate::auth::origins::Readers;
use crate::client::Client;
use crate::connection::Permit;
use crate::demo;
use crate::error::{ApiError, Body, text};
use crate::framing;
use crate::handshake::{self, Accepted, NATIVE_JSON};
use crate::javascript;
use crate::poll;
use crate::publish;
use crate::query::{Query, wanted};
use crate::request_id::{self, RequestId};
use crate::session::Endpoint;
use crate::subscribe;
use crate::topics;
use crate::transport::http_stream;
use crate::worker::Worker;

/// The longest time between two heartbeats that a client can ask for.
const HEARTBEAT_MAX: Duration = Duration::from_secs(60);

/// What a connection becomes.
#[derive(Debug)]
pub(crate) enum Upgrade {
    /// Once its 101 is written.
    WebSocket(Endpoint, FormatId, Client),
    /// In place of a response, which is written by the transport.
    Stream(http_stream::Request),
}

/// Where a request leaves it for the connection, and finds what the connection has.
pub(crate) struct UpgradeSlot {
    upgrade: RefCell<Option<Upgrade>>,
    permit: RefCell<Option<Permit>>,
    /// An answer says that it is the connection's last.
    last: Cell<bool>,
}

impl UpgradeSlot {
    pub(crate) fn new(permit: Permit) -> Self {
        Self { upgrade: RefCell::default(), permit: RefCell::new(Some(permit)), last: Cell::new(false) }
    }

    /// When the requests are over. A connection that becomes nothing else keeps its permit to the end.
    pub(crate) fn take(&self) -> Option<(Upgrade, Permit)> {
        let upgrade = self.upgrade.take()?;
        Some((upgrade, self.permit.take()?))
    }

    /// Looks whether a refusal is to be the last answer.
    fn note(&self, response: &Response<Body>) {
        if response.headers().get(CONNECTION).is_some_and(|value| value == "close") {
            self.last.set(true);
        }
    }

    /// Whether nothing follows the answer that is being written.
    pub(crate) fn is_last(&self) -> bool {
        self.last.get()
    }

    /// The next request on the connection may be somebody else's.
    fn give_back(&self) {
        if let Some(permit) = &*self.permit.borrow() {
            permit.leave();
        }
    }

    fn set(&self, upgrade: Upgrade) {
        *self.upgrade.borrow_mut() = Some(upgrade);
    }
}

/// Tells hyper to leave the connection as it is, nothing written: it has become a stream.
#[derive(Debug, thiserror::Error)]
#[error("the connection has become a stream")]
pub(crate) struct Taken;

/// Answers one request. What goes wrong is an answer, too.
///
/// hyper moves this future: what is seldom or waits for long is boxed, so that a publish is small.
pub(crate) async fn route(
    worker: Rc<Worker>,
    upgrade: Rc<UpgradeSlot>,
    client: Client,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Taken> {
    let id = RequestId::given(request.headers());
    if let Err(refused) = framing::check(&request) {
        upgrade.note(&refused);
        return Ok(request_id::name(&worker, &client.address, id, &request, Ok(*refused)));
    }
    let is_admitted = match admit(&worker, &upgrade, &client, &request) {
        Ok(is_admitted) => is_admitted,
        Err(error) => return Ok(request_id::name(&worker, &client.address, id, &request, Err(error))),
    };
    let path = request.uri().path().to_owned();
    let address = client.address;
    let (readers, answer) = match path.as_str() {
        "/healthz" => (None, get_only(&request).map(|()| text(StatusCode::OK, "ok\n"))),
        "/readyz" => (None, get_only(&request).map(|()| readiness(worker.shared.is_draining()))),
        "/fanfare.js" => (None, get_only(&request).map(|()| javascript::module(&request))),
        path if is_for_some(path) => {
            let (readers, answer) = protocol(&worker, &upgrade, path, client, &mut request).await;
            (Some(readers), answer)
        }
        path => (None, demo(&worker, path)),
    };
    match &mut *upgrade.upgrade.borrow_mut() {
        Some(Upgrade::Stream(stream)) => {
            stream.id = id;
            return Err(Taken);
        }
        None if is_admitted => upgrade.give_back(),
        _ => {}
    }
    let mut response = request_id::name(&worker, &address, id, &request, answer);
    if let Some(readers) = readers {
        readers.mark(&mut response);
    }
    if worker.leaving.get() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // The next request goes elsewhere: none is to meet the end of this connection.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if !response.status().is_success() {
        upgrade.note(&response);
    }
    Ok(response)
}

/// Whether a path is for those who may, and not for everybody.
fn is_for_some(path: &str) -> bool {
    matches!(path, "/ws" | "/events" | "/poll" | "/topics" | "/publish") || path.starts_with("/topics/")
}

/// Answers those who may, and says which pages may read that.
async fn protocol(
    worker: &Rc<Worker>,
    upgrade: &UpgradeSlot,
    path: &str,
    client: Client,
    request: &mut Request<Incoming>,
) -> (Readers, Result<Response<Body>, ApiError>) {
    let (checked, preflight) = {
        let origins = &worker.shared.config().who.origins;
        (origins.check(request), origins.preflight(request))
    };
    let readers = match checked {
        Ok(readers) => readers,
        Err(failure) => return (Readers::None, refused(worker, request, auth::refuse(worker, failure))),
    };
    if let Some(response) = preflight {
        return (readers, Ok(response));
    }
    if let Err(failure) = auth::admit(worker, &client, request) {
        return (readers, refused(worker, request, auth::refuse(worker, failure)));
    }
    let answer = match path {
        "/ws" => native(worker, upgrade, client, request),
        "/events" => events(worker, upgrade, client, &readers, request),
        "/poll" => Box::pin(poll::poll(worker, &client, request)).await,
        "/topics" => match get_only(request) {
            Ok(()) => Box::pin(topics::list(worker, &client, request)).await,
            Err(error) => Err(error),
        },
        "/publish" if request.method() != Method::POST => Err(ApiError::method_not_allowed("POST")),
        "/publish" => Box::pin(counted(worker, publish::many(worker, &client, request))).await,
        path => {
            let topic = path.strip_prefix("/topics/").unwrap_or(path);
            self::topic(worker, upgrade, client, &readers, topic, request).await
        }
    };
    (readers, answer)
}

/// The answer to who may not. A handshake is one that was refused.
fn refused<B>(worker: &Worker, request: &Request<B>, error: ApiError) -> Result<Response<Body>, ApiError> {
    if !handshake::is_upgrade(request) {
        return Err(error);
    }
    worker.counters().refused_handshakes.add(1);
    Ok(handshake::Refused::from(error).response())
}

/// Asks about the address of a subscriber that a trusted proxy brings: of the connection, only the proxy's was known. Asked
/// before its credential is looked at, so that guesses meet the bounds of addresses. Whether the connection has a place of that
/// address now: what is answered and over counts for nobody, and gives it back.
fn admit(
    worker: &Worker,
    upgrade: &UpgradeSlot,
    client: &Client,
    request: &Request<Incoming>,
) -> Result<bool, ApiError> {
    let subscribes = || {
        let path = request.uri().path();
        let is_of_topics = path == "/ws" || path.starts_with("/topics/");
        let becomes_other = || handshake::is_upgrade(request) || stream_format(request).is_some();
        request.method() == Method::GET && (path == "/events" || is_of_topics && becomes_other())
    };
    match &*upgrade.permit.borrow() {
        Some(permit) if client.is_forwarded && subscribes() => {
            let before = permit.owner();
            let admitted = admission::address(worker, client.address, permit);
            admitted.inspect_err(|bound| worker.counters().refused(*bound))?;
            Ok(permit.owner() != before)
        }
        _ => Ok(false),
    }
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
    worker: &Rc<Worker>,
    upgrade: &UpgradeSlot,
    client: Client,
    readers: &Readers,
    name: &str,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    // A slash is in no topic's name.
    let (name, info) = name.strip_suffix("/info").map_or((name, false), |name| (name, true));
    let name = match name.contains('%') {
        true => percent_decode_str(name).decode_utf8(),
        false => Ok(name.into()),
    };
    let name = name.map_err(|_| ApiError::from(fanfare_wire::TopicError::Character))?;
    if info {
        get_only(request)?;
        let topic = Topic::new(&name)?;
        client.check_subscribe(&Name::Topic(topic.clone()))?;
        return topics::info(worker, &topic);
    }
    if handshake::is_upgrade(request) {
        return raw(worker, upgrade, client, &name, request);
    }
    match *request.method() {
        Method::POST => {
            let split_lines = match Query::of(request).get("split") {
                None => false,
                Some("lines") => true,
                Some(_) => return Err(ApiError::bad_request("split can be \"lines\"")),
            };
            counted(worker, publish::to_topic(worker, &client, &name, split_lines, request)).await
        }
        Method::GET | Method::HEAD => {
            let topic = Topic::new(&name)?;
            client.check_subscribe(&Name::Topic(topic.clone()))?;
            match stream_format(request) {
                Some(format) if request.method() == Method::GET => {
                    stream(worker, upgrade, client, readers, format, topic, request)
                }
                _ => Box::pin(topics::last_value(worker, &client, &topic, request)).await,
            }
        }
        _ => Err(ApiError::method_not_allowed("GET, HEAD, POST")),
    }
}

/// `GET /topics/{topic}` with an upgrade: the raw WebSocket.
fn raw(
    worker: &Worker,
    upgrade: &UpgradeSlot,
    client: Client,
    name: &str,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let endpoint = Topic::new(name).map_err(ApiError::from).and_then(|topic| {
        let name = Name::Topic(topic.clone());
        client.check_subscribe(&name)?;
        let wanted = wanted(&name, Query::of(request).start()?);
        Ok(Endpoint::Raw { topic, wanted })
    });
    switch(worker, upgrade, client, request, &[], endpoint)
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
    worker: &Worker,
    upgrade: &UpgradeSlot,
    client: Client,
    readers: &Readers,
    format: FormatId,
    topic: Topic,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let start = match last_event_id(request)? {
        Some((epoch, offset)) => Start::After { epoch: epoch.into(), offset },
        None => Query::of(request).start()?,
    };
    let wanted = vec![wanted(&Name::Topic(topic), start)];
    become_stream(
        worker,
        upgrade,
        http_stream::Request { format, wanted, heartbeat: None, client, readers: readers.clone(), id: None },
        request,
    )
}

/// `GET /events?topic=a&topic=b.*`
fn events(
    worker: &Worker,
    upgrade: &UpgradeSlot,
    client: Client,
    readers: &Readers,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    if request.method() != Method::GET {
        return Err(ApiError::method_not_allowed("GET"));
    }
    let query = Query::of(request);
    let names = subscribe::names(worker, &query)?;
    // One that it may is enough for a stream; the others are refused in it.
    if !names.iter().any(|name| client.may_subscribe(name).is_ok()) {
        names.iter().try_for_each(|name| client.check_subscribe(name))?;
    }
    let start = match last_event_id(request)? {
        Some((epoch, sequence)) => Start::Since { epoch: epoch.into(), sequence },
        None => match query.start()? {
            Start::After { .. } => {
                return Err(ApiError::bad_request("a stream of many topics resumes by id"));
            }
            start => start,
        },
    };
    let wanted = names.iter().map(|name| wanted(name, start.clone())).collect();
    let heartbeat = heartbeat(request)?;
    become_stream(
        worker,
        upgrade,
        http_stream::Request {
            format: FormatId::EVENTS,
            wanted,
            heartbeat,
            client,
            readers: readers.clone(),
            id: None,
        },
        request,
    )
}

fn become_stream(
    worker: &Worker,
    upgrade: &UpgradeSlot,
    stream: http_stream::Request,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    if request.version() != Version::HTTP_11 {
        return Err(ApiError::bad_request("a stream needs HTTP/1.1"));
    }
    subscriber(worker, upgrade, &stream.client)?;
    upgrade.set(Upgrade::Stream(stream));
    // It is never seen: the stream's own head goes out in its place.
    Ok(Response::new(Full::default()))
}

/// `Last-Event-ID`, which browsers send when they come back, or `?last_event_id=`. An empty one is none.
fn last_event_id(request: &Request<Incoming>) -> Result<Option<(String, u64)>, ApiError> {
    const NAME: &str = "Last-Event-ID";
    match request.headers().get("last-event-id") {
        Some(id) => Query::place(id.to_str().unwrap_or("?"), NAME),
        None => Query::place(Query::of(request).get("last_event_id").unwrap_or_default(), NAME),
    }
}

/// `GET /ws`
fn native(
    worker: &Worker,
    upgrade: &UpgradeSlot,
    client: Client,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    if !handshake::is_upgrade(request) {
        return Err(match *request.method() {
            Method::GET => handshake::upgrade_required(),
            _ => ApiError::method_not_allowed("GET"),
        });
    }
    if client.grant().is_none_or(|grant| grant.is_empty() && grant.holder == Holder::Anybody) {
        // It may come in to say who it is.
        let deadline = Instant::now() + worker.shared.config().limits.auth_timeout;
        client.admit(Arc::new(Grant::nothing(Some(deadline))));
    }
    let endpoint = heartbeat(request).map(|heartbeat| Endpoint::Native { heartbeat });
    switch(worker, upgrade, client, request, &[NATIVE_JSON], endpoint)
}

fn switch(
    worker: &Worker,
    upgrade: &UpgradeSlot,
    client: Client,
    request: &mut Request<Incoming>,
    subprotocols: &[&'static str],
    endpoint: Result<Endpoint, ApiError>,
) -> Result<Response<Body>, ApiError> {
    let accepted = endpoint.map_err(handshake::Refused::from).and_then(|endpoint| {
        let accepted = handshake::accept(request, subprotocols, worker.shared.config().deflates())?;
        subscriber(worker, upgrade, &client)?;
        Ok((endpoint, accepted))
    });
    match accepted {
        Ok((endpoint, Accepted { response, deflate })) => {
            let plain = endpoint.format();
            let format = plain.deflated().filter(|_| deflate).unwrap_or(plain);
            upgrade.set(Upgrade::WebSocket(endpoint, format, client));
            Ok(response)
        }
        Err(refused) => {
            worker.counters().refused_handshakes.add(1);
            Ok(refused.response())
        }
    }
}

/// Asks about the holder of a credential that is about to become a subscriber.
fn subscriber(worker: &Worker, upgrade: &UpgradeSlot, client: &Client) -> Result<(), ApiError> {
    match &*upgrade.permit.borrow() {
        Some(permit) => Ok(admission::subscriber(worker, client, permit)?),
        None => Ok(()),
    }
}

/// `heartbeat`, in whole seconds.
fn heartbeat(request: &Request<Incoming>) -> Result<Option<Duration>, ApiError> {
    let Some(seconds) = Query::of(request).number("heartbeat")? else { return Ok(None) };
    let interval = Duration::from_secs(seconds);
    if interval.is_zero() || interval > HEARTBEAT_MAX {
        return Err(ApiError::bad_request("heartbeat is 1 to 60 seconds"));
    }
    Ok(Some(interval))
}

/// Runs a publish, and counts it and its time.
async fn counted(
    worker: &Worker,
    publish: impl Future<Output = Result<Response<Body>, ApiError>>,
) -> Result<Response<Body>, ApiError> {
    let start = Instant::now();
    let answer = publish.await;
    let counters = worker.counters();
    match &answer {
        Ok(_) => counters.publishes.add(1),
        Err(error) => {
            counters.refused_publishes.add(1);
            counters.failed_publishes.add(u64::from(error.status.is_server_error()));
        }
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
