//! `/revocations`: credentials that are no longer good, though nothing else says so.
//!
//! ```text
//!   POST /revocations {"subject":"…"}     every token with this `sub`
//!   POST /revocations {"token":"…"}       the token with this `jti`
//!   POST /revocations {"key":"…"}         the API key of this name
//! ```
//! with `"until"`, in seconds since 1970, when it may be forgotten: the `exp` of the last token that it is about. Without, it
//! holds until it is taken back, or until the process ends.

use fanfare_wire::event::ErrorCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::auth::revocations::{Until, Who};
use crate::body;
use crate::clock;
use crate::error::{ApiError, Body, json};
use crate::server::Shared;

/// The longest request: names have no reason to be longer.
const BODY_BYTES_MAX: usize = 8 * 1024;

/// `GET /revocations`
pub(super) fn list(shared: &Shared) -> Response<Body> {
    #[derive(Serialize)]
    struct Revocation {
        #[serde(flatten)]
        who: Who,
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Until,
    }
    #[derive(Serialize)]
    struct List {
        revocations: Vec<Revocation>,
    }
    let all = shared.revocations.list(clock::unix().as_secs()).into_iter();
    let revocations = all.map(|(who, until)| Revocation { who, until }).collect();
    json(StatusCode::OK, &List { revocations })
}

/// `POST /revocations`
pub(super) async fn revoke(shared: &Shared, body: &mut Incoming) -> Result<Response<Body>, ApiError> {
    let (who, until) = read(shared, body).await?;
    let now = clock::unix().as_secs();
    if until.is_some_and(|until| until <= now) {
        return Err(ApiError::bad_request("\"until\" is over: seconds since 1970"));
    }
    if !shared.revocations.add(who, until, now, shared.config().limits.revocations) {
        let message = "there are as many revocations as there may be";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Limit, message));
    }
    Ok(list(shared))
}

/// `POST /revocations/lift`
pub(super) async fn lift(shared: &Shared, body: &mut Incoming) -> Result<Response<Body>, ApiError> {
    let (who, _) = read(shared, body).await?;
    if !shared.revocations.remove(&who) {
        return Err(ApiError { message: "no such revocation".into(), ..ApiError::not_found() });
    }
    Ok(list(shared))
}

/// A body that does not come may not keep one of the few places on the operators' address.
async fn read(shared: &Shared, body: &mut Incoming) -> Result<(Who, Until), ApiError> {
    let limit = shared.config().limits.body_timeout;
    let body = timeout(limit, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let body = body
        .map_err(|_| body::too_slow())?
        .map_err(|_| ApiError::bad_request("the body is not a short JSON object"))?
        .to_bytes();
    parse(&body).map_err(ApiError::bad_request)
}

fn parse(body: &[u8]) -> Result<(Who, Until), &'static str> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields {
        subject: Option<Box<str>>,
        token: Option<Box<str>>,
        key: Option<Box<str>>,
        until: Until,
    }
    const EXPECTED: &str =
        "expected: {\"subject\":\"…\"}, {\"token\":\"…\"} or {\"key\":\"…\"}, with \"until\" or without";
    let fields: Fields = serde_json::from_slice(body).map_err(|_| EXPECTED)?;
    let who = match (fields.subject, fields.token, fields.key) {
        (Some(name), None, None) => Who::Subject(name),
        (None, Some(name), None) => Who::Token(name),
        (None, None, Some(name)) => Who::Key(name),
        _ => return Err(EXPECTED),
    };
    Ok((who, fields.until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_strictly() {
        for bad in [
            "",
            "[1]",
            "{}",
            r#"{"subject":"a","key":"b"}"#,
            r#"{"subject":"a","untill":1}"#,
            r#"{"until":1}"#,
            r#"{"subject":1}"#,
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(parse(br#"{"token":"x","until":7}"#), Ok((Who::Token("x".into()), Some(7))));
    }
}
