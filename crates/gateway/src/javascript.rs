//! `/fanfare.js`: the client for browsers, as one module that every gateway serves.
//!
//! It belongs to the gateway's version, so it is asked for anew each time and answered by its tag.

use std::sync::LazyLock;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Request, Response, StatusCode};

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
    if request.headers().get_all(IF_NONE_MATCH).iter().any(|tags| names(tags, &TAG)) {
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

/// Weak comparison (RFC 9110 §13.1.2): a proxy that compresses makes the tag weak.
fn names(tags: &HeaderValue, tag: &str) -> bool {
    let same = |known: &str| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag;
    tags.to_str().is_ok_and(|tags| tags.split(',').any(|known| same(known.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_in_a_list_and_weak() {
        for (tags, expect) in [
            ("\"a\"", true),
            ("\"b\", \"a\"", true),
            ("W/\"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
            ("", false),
        ] {
            assert_eq!(names(&HeaderValue::from_static(tags), "\"a\""), expect, "{tags}");
        }
    }
}
