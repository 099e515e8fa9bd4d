//! `/fanfare.js`: the client for browsers, as one module that every gateway serves.
//!
//! It belongs to the gateway's version, so it is asked for anew each time and answered by its tag.

use std::sync::LazyLock;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Request, Response, StatusCode};

use crate::entity_tag;
use crate::error::Body;

const MODULE: &[u8] = include_bytes!("javascript/fanfare.js");

/// FNV-1a of the bytes: the same on every node of every kind.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let hash = MODULE.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("\"{hash:016x}\"")
});

/// Answers a GET or a HEAD.
pub(crate) fn module<B>(request: &Request<B>) -> Response<Body> {
    let mut response = Response::new(Full::default());
    if entity_tag::is_known(request.headers(), &TAG) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *response.body_mut() = Full::new(Bytes::from_static(MODULE));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
    }
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Pages of other hosts import it, too.
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(tag) = HeaderValue::from_str(&TAG) {
        headers.insert(ETAG, tag);
    }
    response
}
