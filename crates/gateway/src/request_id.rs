//! The name of a request: its sender's, or one of ours.
//!
//! It stands in the line that says why the request was refused, and in the answer if the sender gave one or the answer is
//! an error. Whoever publishes without one and is answered 200 pays one look into the header.

use std::fmt;
use std::net::IpAddr;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};

use crate::error::{ApiError, Body};
use crate::log::Shown;
use crate::log::rate::Kind;
use crate::worker::Worker;

const NAME: HeaderName = HeaderName::from_static("x-request-id");

/// The most bytes of a name.
const BYTES_MAX: usize = 64;

/// Gives an answer its name, and a refusal its line. `given` is what the request's header had: a publish takes that away.
pub(crate) fn name<B>(
    worker: &Worker,
    address: &IpAddr,
    given: Option<RequestId>,
    request: &Request<B>,
    answer: Result<Response<Body>, ApiError>,
) -> Response<Body> {
    let (mut response, code) = match answer {
        Ok(response) => (response, None),
        Err(error) => (error.response(), Some(error.code.as_str())),
    };
    let (path, status) = (request.uri().path(), response.status());
    // Probes have got what they asked for.
    let refused = (status.is_client_error() || status.is_server_error()) && path != "/readyz";
    let Some(id) = given.or_else(|| refused.then(RequestId::drawn)) else { return response };
    if refused {
        log(worker, &id, address, request.method().as_str(), path, status, code);
    }
    response.headers_mut().insert(NAME, *id.0);
    response
}

/// Gives a refusal its line where the answer is written as text. Returns the line of its head, with its end.
pub(crate) fn line(
    worker: &Worker,
    address: &IpAddr,
    given: Option<&RequestId>,
    path: &str,
    error: &ApiError,
) -> String {
    let mut drawn = None;
    let id = given.unwrap_or_else(|| drawn.insert(RequestId::drawn()));
    log(worker, id, address, "GET", path, error.status, Some(error.code.as_str()));
    format!("{NAME}: {id}\r\n")
}

fn log(
    worker: &Worker,
    id: &RequestId,
    address: &IpAddr,
    method: &str,
    path: &str,
    status: StatusCode,
    code: Option<&str>,
) {
    if let Some(suppressed) = worker.shared.may_log(Kind::Refused) {
        let (path, method) = (Shown(path.as_bytes()), Shown(method.as_bytes()));
        let status = status.as_u16();
        tracing::info!(request = %id, %address, %method, %path, status, code, suppressed, "refused");
    }
}

/// A well-formed name. In a box: most requests have none, and their futures have room for it.
#[derive(Debug)]
pub(crate) struct RequestId(Box<HeaderValue>);

impl RequestId {
    /// The sender's; if that cannot be one, another. `None` if there is none.
    pub(crate) fn given(headers: &HeaderMap) -> Option<Self> {
        // Requests have few headers, most of them with standard names: to look at each is cheaper than to hash this one.
        let (_, given) = headers.iter().find(|(name, _)| *name == NAME)?;
        Some(if is_well_formed(given.as_bytes()) { Self(Box::new(given.clone())) } else { Self::drawn() })
    }

    /// Drawn by lot.
    fn drawn() -> Self {
        let id = format!("{:016x}", fastrand::u64(..));
        Self(Box::new(HeaderValue::try_from(id).expect("hexadecimal digits are a value")))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

fn is_well_formed(id: &[u8]) -> bool {
    let is_fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=BYTES_MAX).contains(&id.len()) && id.iter().all(is_fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_if_it_can_stand_in_a_line() {
        fn check(given: &[u8], taken: bool) {
            let mut headers = HeaderMap::new();
            headers.insert(NAME, HeaderValue::from_bytes(given).unwrap());
            let id = RequestId::given(&headers).unwrap().to_string();
            assert_eq!(id.as_bytes() == given, taken, "{id}");
            assert!(is_well_formed(id.as_bytes()), "{id}");
        }
        check(b"a", true);
        check(b"0AZaz._-9", true);
        check(&[b'x'; 64], true);
        check(&[b'x'; 65], false);
        check(b"", false);
        check(b"a b", false);
        check(b"a\"", false);
        check(b"\xff", false);
        assert!(RequestId::given(&HeaderMap::new()).is_none());
    }
}
