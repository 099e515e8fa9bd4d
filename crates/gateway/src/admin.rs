//! The operators' listener: metrics, health, and what may be looked at and done, on an address of its own.
//!
//! [`ROWS`] has a row for each path. It runs on the control plane; what only a worker knows is [asked](crate::ask) of it.
//! Nobody is asked who they are: the address is to be private. What a browser on the same machine could be tricked into is
//! refused: a request from a page has `Origin`, and one for a name that was made to point here has that name as `Host`.

mod connections;
mod revocations;
mod topics;

use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::process_collector::ProcessCollector;
use prometheus::{Registry, TextEncoder};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::error::{ApiError, Body, json, text};
use crate::metrics::Page;
use crate::query::Query;
use crate::routes::readiness;
use crate::server::Shared;
use crate::units;

/// Requests served at once; one more waits in the listener's backlog.
const CONNECTIONS_MAX: usize = 64;

/// One thing that can be asked for.
struct Row {
    /// `GET` is for `HEAD`, too.
    method: &'static str,
    /// A segment in braces stands for any.
    path: &'static str,
    about: &'static str,
    /// Whether it is for whoever reaches the address: scrapes and probes, by any name.
    open: bool,
    endpoint: Endpoint,
}

#[derive(Clone, Copy)]
enum Endpoint {
    Contents,
    Health,
    Readiness,
    Metrics,
    Connections,
    CloseShare,
    CloseOne,
    Topics,
    Revocations,
    Revoke,
    Lift,
    Drain,
}

const fn get(path: &'static str, endpoint: Endpoint, about: &'static str) -> Row {
    Row { method: "GET", path, about, open: false, endpoint }
}

const fn post(path: &'static str, endpoint: Endpoint, about: &'static str) -> Row {
    Row { method: "POST", path, about, open: false, endpoint }
}

const ROWS: &[Row] = &[
    get("/", Endpoint::Contents, "this list"),
    Row { open: true, ..get("/healthz", Endpoint::Health, "200 while the process serves") },
    Row { open: true, ..get("/readyz", Endpoint::Readiness, "200 while new connections are welcome") },
    Row { open: true, ..get("/metrics", Endpoint::Metrics, "metrics, in the Prometheus text format") },
    get("/connections", Endpoint::Connections, "subscribers: ?sort=lag|bytes|age, ?max=100"),
    post("/connections/close", Endpoint::CloseShare, "sends a share elsewhere: ?share=0.1, ?window=30s"),
    post("/connections/{client}/close", Endpoint::CloseOne, "sends one elsewhere"),
    get("/topics", Endpoint::Topics, "topics: ?sort=rate|subscribers|bytes, ?max=100, ?seconds=1"),
    get("/revocations", Endpoint::Revocations, "credentials that are revoked"),
    post(
        "/revocations",
        Endpoint::Revoke,
        "revokes: {\"subject\":…}, {\"token\":…} or {\"key\":…}, \"until\"",
    ),
    post("/revocations/lift", Endpoint::Lift, "takes a revocation back: the same without \"until\""),
    post("/drain", Endpoint::Drain, "begins the drain, as SIGTERM does"),
];

/// What the listener knows.
struct Admin {
    shared: Arc<Shared>,
    metrics: Registry,
    /// One look at all topics at a time, and one share of connections.
    looking: Semaphore,
    closing: Arc<Semaphore>,
}

/// Serves until the process ends.
pub(crate) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let metrics = Registry::new();
    let collectors: [Box<dyn prometheus::core::Collector>; 2] =
        [Box::new(Page::new(Arc::clone(&shared))), Box::new(ProcessCollector::for_self())];
    for collector in collectors {
        if let Err(error) = metrics.register(collector) {
            tracing::error!(%error, "a collector is not registered");
        }
    }
    let (looking, closing) = (Semaphore::new(1), Arc::new(Semaphore::new(1)));
    let admin = Rc::new(Admin { shared, metrics, looking, closing });
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let admin = Rc::clone(&admin);
                let timeout = admin.shared.config().limits.header_timeout;
                spawn_local(async move {
                    let service = service_fn(move |mut request| {
                        let admin = Rc::clone(&admin);
                        async move {
                            let answer = admin.answer(&mut request).await;
                            Ok::<_, Infallible>(answer.unwrap_or_else(|error| error.response()))
                        }
                    });
                    // A broken request is its sender's business.
                    let _ = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(timeout)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting operators pauses");
                sleep(admin.shared.config().limits.accept_pause).await;
            }
        }
    }
}

impl Admin {
    async fn answer(&self, request: &mut Request<Incoming>) -> Result<Response<Body>, ApiError> {
        let path = request.uri().path().to_owned();
        let (row, argument) = find(request.method(), &path)?;
        if !row.open {
            self.check_sender(request)?;
        }
        let query = Query::of(request);
        let shared = &self.shared;
        match row.endpoint {
            Endpoint::Contents => Ok(contents()),
            Endpoint::Health => Ok(text(StatusCode::OK, "ok\n")),
            Endpoint::Readiness => Ok(readiness(shared.is_draining())),
            Endpoint::Metrics => self.metrics(),
            Endpoint::Connections => connections::list(shared, &query).await,
            Endpoint::CloseShare => connections::close_share(shared, &query, &self.closing).await,
            Endpoint::CloseOne => connections::close_one(shared, argument).await,
            Endpoint::Topics => topics::list(shared, &query, &self.looking).await,
            Endpoint::Revocations => Ok(revocations::list(shared)),
            Endpoint::Revoke => revocations::revoke(shared, request.body_mut()).await,
            Endpoint::Lift => revocations::lift(shared, request.body_mut()).await,
            Endpoint::Drain => {
                tracing::info!("an operator asks for a drain");
                shared.drain_asked.notify_one();
                Ok(json(StatusCode::ACCEPTED, &serde_json::json!({"draining": true})))
            }
        }
    }

    /// Refuses what comes from a page in somebody's browser.
    fn check_sender(&self, request: &Request<Incoming>) -> Result<(), ApiError> {
        if request.headers().contains_key(ORIGIN) {
            return Err(ApiError::forbidden("not for pages: the request has an Origin"));
        }
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if is_ours(host, self.shared.config().admin_host.as_deref()) {
            return Ok(());
        }
        let message = "Host is neither an IP address, nor localhost, nor what admin_host says";
        Err(ApiError::forbidden(message))
    }

    fn metrics(&self) -> Result<Response<Body>, ApiError> {
        let page = TextEncoder::new().encode_to_string(&self.metrics.gather()).map_err(|error| {
            tracing::error!(%error, "the metrics cannot be written");
            ApiError::unavailable("the metrics cannot be written")
        })?;
        let mut response = Response::new(Full::from(page));
        let version = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, version);
        Ok(response)
    }
}

/// The row for a request, and what stands in its braces.
fn find<'a>(method: &Method, path: &'a str) -> Result<(&'static Row, &'a str), ApiError> {
    let mut here = ROWS.iter().filter_map(|row| Some((row, argument(row.path, path)?))).peekable();
    here.peek().ok_or_else(ApiError::not_found)?;
    let methods: Vec<_> = here.clone().map(|(row, _)| row.method).collect();
    let allow = match (methods.contains(&"GET"), methods.contains(&"POST")) {
        (true, true) => "GET, HEAD, POST",
        (true, false) => "GET, HEAD",
        (false, _) => "POST",
    };
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    here.find(|(row, _)| row.method == method).ok_or_else(|| ApiError::method_not_allowed(allow))
}

/// What stands in a pattern's braces; nothing, if it has none. `None` if the path is another one.
fn argument<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let (mut argument, mut parts) = ("", path.split('/'));
    for expect in pattern.split('/') {
        let part = parts.next()?;
        if expect.starts_with('{') && !part.is_empty() {
            argument = part;
        } else if part != expect {
            return None;
        }
    }
    parts.next().is_none().then_some(argument)
}

/// Whether a request's `Host` is one that nobody else can make point here.
fn is_ours(host: &str, name: Option<&str>) -> bool {
    // An IPv6 address stands in brackets.
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host,
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    address.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || name.is_some_and(|name| host.eq_ignore_ascii_case(name))
}

/// `GET /`
fn contents() -> Response<Body> {
    #[derive(Serialize)]
    struct Line {
        method: &'static str,
        path: &'static str,
        about: &'static str,
    }
    #[derive(Serialize)]
    struct Contents {
        version: &'static str,
        paths: Vec<Line>,
    }
    let paths = ROWS.iter().map(|row| Line { method: row.method, path: row.path, about: row.about });
    json(StatusCode::OK, &Contents { version: env!("CARGO_PKG_VERSION"), paths: paths.collect() })
}

/// A parameter that is one of some words; the first of them without it.
fn choice<T: Copy>(query: &Query, name: &str, words: &[(&str, T)]) -> Result<T, ApiError> {
    let chosen = match query.get(name) {
        None => words.first(),
        Some(given) => words.iter().find(|(word, _)| *word == given),
    };
    chosen.map(|(_, chosen)| *chosen).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        ApiError::bad_request(format!("{name} is one of {}", words.join(", ")))
    })
}

/// A parameter that is a time, as in the configuration.
fn time(query: &Query, name: &str, default: Duration) -> Result<Duration, ApiError> {
    let Some(text) = query.get(name) else { return Ok(default) };
    units::Time(text).map_err(|error| ApiError::bad_request(format!("{name}: {error}")))
}

/// `max`, 100 without it.
fn max(query: &Query, most: usize) -> Result<usize, ApiError> {
    Ok(if query.get("max").is_some() { query.max(most)? } else { most.min(100) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_finds_its_row() {
        fn check(method: Method, path: &str, expect: Result<(&str, &str), u16>) {
            let found = find(&method, path);
            let found = found.map(|(row, argument)| (row.path, argument));
            assert_eq!(found.map_err(|error| error.status.as_u16()), expect, "{method} {path}");
        }
        check(Method::GET, "/", Ok(("/", "")));
        check(Method::HEAD, "/metrics", Ok(("/metrics", "")));
        check(Method::POST, "/metrics", Err(405));
        check(Method::POST, "/connections/close", Ok(("/connections/close", "")));
        check(Method::GET, "/connections/close", Err(405));
        check(Method::POST, "/connections/0-1-2/close", Ok(("/connections/{client}/close", "0-1-2")));
        check(Method::POST, "/connections//close", Err(404));
        check(Method::POST, "/connections/a/b/close", Err(404));
        check(Method::GET, "/connections/", Err(404));
        check(Method::GET, "/topics/a", Err(404));
        check(Method::GET, "", Err(404));
    }

    #[test]
    fn a_host_that_somebody_else_can_point_here_is_not_ours() {
        fn check(host: &str, expect: bool) {
            assert_eq!(is_ours(host, Some("ops.example.com")), expect, "{host}");
        }
        check("127.0.0.1:9090", true);
        check("127.0.0.1", true);
        check("[::1]:9090", true);
        check("[::1]", true);
        check("LOCALHOST:9090", true);
        check("ops.example.com:9090", true);
        check("OPS.example.com", true);
        check("example.com", false);
        check("127.0.0.1.example.com", false);
        check("localhost.example.com:9090", false);
        check("", false);
        check(":9090", false);
        assert!(!is_ours("ops.example.com", None));
    }
}
