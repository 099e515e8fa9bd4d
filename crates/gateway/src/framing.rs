//! Requests that hyper takes, and that something in front of the gateway may take for others.
//!
//! Where two readers of one stream disagree about where a request ends or whom it is for, a second request can be smuggled
//! past the first of them. Such a request is refused, and its connection closed: what follows is read by nobody.

use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::{Request, Response, Version};

use crate::error::{ApiError, Body};

/// Refuses what is not framed as RFC 9112 wants it, in sections 3.2 (one `Host`) and 6.1 (`chunked`, once, and nothing else).
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), Box<Response<Body>>> {
    let headers = request.headers();
    let message = if !is_plainly_chunked(headers) {
        "Transfer-Encoding can be chunked, once"
    } else if !names_one_host(headers, request.version()) {
        "a request names one host"
    } else {
        return Ok(());
    };
    let mut response = ApiError::bad_request(message).response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Err(response.into())
}

fn is_plainly_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    }
}

fn names_one_host(headers: &HeaderMap, version: Version) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => version < Version::HTTP_11,
        (Some(host), None) => host.as_bytes().iter().all(|byte| is_of_a_host(*byte)),
        _ => false,
    }
}

/// RFC 3986, section 3.2, but for the user.
fn is_of_a_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_can_be_read_in_one_way() {
        fn check(version: Version, headers: &[(&str, &str)], is_taken: bool) {
            let request = Request::post("/topics/a").version(version);
            let request =
                headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            assert_eq!(super::check(&request.body(()).unwrap()).is_ok(), is_taken, "{headers:?}");
        }
        let new = |headers: &[(&str, &str)], is_taken| check(Version::HTTP_11, headers, is_taken);
        new(&[("host", "a.example:8080")], true);
        new(&[("host", "[::1]:8080"), ("transfer-encoding", "Chunked")], true);
        new(&[("host", "")], true);
        new(&[], false);
        new(&[("host", "a"), ("host", "a")], false);
        for host in ["a b", "a/b", "user@a", "a?b", "a#b", "\u{e4}"] {
            new(&[("host", host)], false);
        }
        for coding in ["gzip, chunked", "chunked, chunked", ", chunked", "identity", ""] {
            new(&[("host", "a"), ("transfer-encoding", coding)], false);
        }
        new(&[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false);
        check(Version::HTTP_10, &[], true);
        check(Version::HTTP_10, &[("host", "a"), ("host", "b")], false);
    }
}
