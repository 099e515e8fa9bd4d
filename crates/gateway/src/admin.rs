//! The operators' listener: metrics and health, on an address of its own.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::process_collector::ProcessCollector;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::error::{ApiError, Body, text};
use crate::metrics::Page;
use crate::routes::readiness;
use crate::server::Shared;

/// Requests served at once; one more waits in the listener's backlog.
const CONNECTIONS_MAX: usize = 64;

/// Serves until the process ends.
pub(crate) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let registry = Registry::new();
    let collectors: [Box<dyn prometheus::core::Collector>; 2] =
        [Box::new(Page::new(Arc::clone(&shared))), Box::new(ProcessCollector::for_self())];
    for collector in collectors {
        if let Err(error) = registry.register(collector) {
            tracing::error!(%error, "a collector is not registered");
        }
    }
    let registry = Rc::new(registry);
    let permits = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (shared, registry) = (Arc::clone(&shared), Rc::clone(&registry));
                let timeout = shared.config().limits.header_timeout;
                spawn_local(async move {
                    let service = service_fn(move |request| {
                        let (shared, registry) = (Arc::clone(&shared), Rc::clone(&registry));
                        async move {
                            let answer = match request.uri().path() {
                                "/revocations" => {
                                    let max = shared.config().limits.revocations;
                                    shared.revocations.answer(request, max).await
                                }
                                _ => answer(&shared, &registry, &request),
                            };
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
                sleep(shared.config().limits.accept_pause).await;
            }
        }
    }
}

fn answer(
    shared: &Shared,
    registry: &Registry,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed("GET, HEAD"));
    }
    match request.uri().path() {
        "/healthz" => Ok(text(StatusCode::OK, "ok\n")),
        "/readyz" => Ok(readiness(shared.is_draining())),
        "/metrics" => {
            let page = TextEncoder::new().encode_to_string(&registry.gather()).map_err(|error| {
                tracing::error!(%error, "the metrics cannot be written");
                ApiError::unavailable("the metrics cannot be written")
            })?;
            let mut response = Response::new(Full::from(page));
            let version = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, version);
            Ok(response)
        }
        _ => Err(ApiError::not_found()),
    }
}
