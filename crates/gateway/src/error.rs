//! A refused request: status, code and words.

use std::ops::RangeInclusive;

use bytes::Bytes;
use fanfare_registry::AdmitError;
use fanfare_wire::event::ErrorCode;
use fanfare_wire::{PayloadError, TopicError};
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// The body of every answer: whole, in memory.
pub(crate) type Body = Full<Bytes>;

/// Why a request is not carried out. 4xx and 503 mean that surely nothing was published.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// For 405.
    pub(crate) allow: Option<&'static str>,
    /// For 401.
    pub(crate) authenticate: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), allow: None, authenticate: None }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message)
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, "no such path")
    }

    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("allowed here: {allow}");
        let error = Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::MethodNotAllowed, message);
        Self { allow: Some(allow), ..error }
    }

    /// The answer.
    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = json_text(self.status, self.body());
        if self.is_for_now() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_seconds()));
        }
        if let Some(allow) = self.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(authenticate) = self.authenticate {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(authenticate));
            // Each guess takes a connection of its own, and meets the bounds of those.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The same as it stands on the wire, where hyper writes nothing: the connection's last answer. `lines` are further lines
    /// of its head, each with its end.
    pub(crate) fn last_answer(&self, retry_seconds: u16, lines: &str) -> String {
        let body = String::from_utf8(self.body()).unwrap_or_default();
        let retry =
            if self.is_for_now() { format!("{RETRY_AFTER}: {retry_seconds}\r\n") } else { String::new() };
        format!(
            "HTTP/1.1 {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{retry}{lines}\r\n{body}",
            self.status,
            body.len()
        )
    }

    /// Whether it may be otherwise later.
    fn is_for_now(&self) -> bool {
        matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
    }

    fn body(&self) -> Vec<u8> {
        serde_json::to_vec(&ErrorBody { error: self.into() }).unwrap_or_default()
    }
}

/// The seconds after which somebody refused may come back.
pub(crate) const RETRY_SECONDS: RangeInclusive<u16> = 1..=5;

/// Some of them. Drawn anew each time, so that those refused together do not come back together.
pub(crate) fn retry_seconds() -> u16 {
    fastrand::u16(RETRY_SECONDS)
}

/// `{"error":{"code":…,"message":…}}`
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorObject<'a>,
}

/// The error of a request, or of one item of it.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorObject<'a> {
    code: ErrorCode,
    message: &'a str,
}

impl<'a> From<&'a ApiError> for ErrorObject<'a> {
    fn from(error: &'a ApiError) -> Self {
        Self { code: error.code, message: &error.message }
    }
}

impl From<TopicError> for ApiError {
    fn from(error: TopicError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadTopic, error.to_string())
    }
}

impl From<PayloadError> for ApiError {
    fn from(error: PayloadError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<AdmitError> for ApiError {
    fn from(error: AdmitError) -> Self {
        match error {
            AdmitError::Busy(_) => Self::unavailable(error.to_string()),
            AdmitError::TooManyTopics => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Limit, error.to_string())
            }
        }
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    json_text(status, serde_json::to_vec(body).unwrap_or_default())
}

/// A JSON answer that is written already.
pub(crate) fn json_text(status: StatusCode, text: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A plain answer.
pub(crate) fn text(status: StatusCode, body: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
