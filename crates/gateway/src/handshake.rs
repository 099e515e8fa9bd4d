//! From an HTTP request to a WebSocket (RFC 6455, section 4.2), strictly.
//!
//! fastwebsockets computes the answer; what it does not look at is checked here first.

use fanfare_wire::event::ErrorCode;
use fanfare_wire::websocket::extension::{self, Answer};
use http_body_util::Full;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_PROTOCOL, TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode, Version};

use crate::auth::SUBPROTOCOL;
use crate::error::{ApiError, Body};

/// The subprotocol of `/ws`.
pub(crate) const NATIVE_JSON: &str = "fanfare.v1.json";

/// Whether the request wants to become a WebSocket at all; malformed ones included.
pub(crate) fn is_upgrade<B>(request: &Request<B>) -> bool {
    has_token(request.headers(), UPGRADE, "websocket")
}

/// A handshake that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The 101.
    pub(crate) response: Response<Body>,
    /// permessage-deflate was negotiated.
    pub(crate) deflate: bool,
}

/// Checks the request and makes the 101. `subprotocols` are those this endpoint speaks; none asked for is fine. `deflate`
/// says whether permessage-deflate is for anybody.
pub(crate) fn accept<B>(
    request: &mut Request<B>,
    subprotocols: &[&'static str],
    deflate: bool,
) -> Result<Accepted, Refused> {
    if request.method() != Method::GET {
        return Err(ApiError::method_not_allowed("GET").into());
    }
    if request.version() != Version::HTTP_11 {
        return Err(ApiError::bad_request("a WebSocket needs HTTP/1.1").into());
    }
    let headers = request.headers();
    if !is_upgrade(request) || !has_token(headers, CONNECTION, "upgrade") {
        return Err(ApiError::bad_request("not a WebSocket handshake").into());
    }
    // A proxy would take a body for frames, or frames for a body.
    if headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|len| len != "0") {
        return Err(ApiError::bad_request("a WebSocket handshake has no body").into());
    }
    if header(headers, "sec-websocket-version") != Some("13") {
        return Err(Refused { error: upgrade_required(), version: true });
    }
    if !header(headers, "sec-websocket-key").is_some_and(is_key) {
        return Err(ApiError::bad_request("Sec-WebSocket-Key is not 16 bytes in base64").into());
    }
    let subprotocol = choose(headers, subprotocols)?;
    let extension = if deflate { negotiate(headers)? } else { None };
    let (response, _) = fastwebsockets::upgrade::upgrade(request)
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    let mut response = response.map(|_| Full::default());
    if let Some(subprotocol) = subprotocol {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    if let Some(answer) = extension {
        response.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(answer.text()));
    }
    Ok(Accepted { response, deflate: extension.is_some() })
}

/// A handshake that was not accepted.
#[derive(Debug)]
pub(crate) struct Refused {
    error: ApiError,
    /// Says which version is spoken.
    version: bool,
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self { error, version: false }
    }
}

impl Refused {
    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = self.error.response();
        if self.version {
            let name = HeaderName::from_static("sec-websocket-version");
            response.headers_mut().insert(name, HeaderValue::from_static("13"));
        }
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

/// 426, with the version this server speaks.
pub(crate) fn upgrade_required() -> ApiError {
    let message = "this server speaks WebSocket version 13";
    ApiError::new(StatusCode::UPGRADE_REQUIRED, ErrorCode::BadRequest, message)
}

/// The client's order wins. Offered but none known is an error; none offered is none chosen. A credential among them is
/// nothing to choose.
fn choose(headers: &HeaderMap, known: &[&'static str]) -> Result<Option<&'static str>, ApiError> {
    let offered = tokens(headers, SEC_WEBSOCKET_PROTOCOL);
    let mut offered = offered.filter(|name| !name.starts_with(SUBPROTOCOL)).peekable();
    if offered.peek().is_none() {
        return Ok(None);
    }
    match offered.find_map(|name| known.iter().find(|known| **known == name)) {
        Some(&name) => Ok(Some(name)),
        None if known.is_empty() => Err(ApiError::bad_request("no subprotocol is spoken here")),
        None => Err(ApiError::bad_request(format!("subprotocols spoken here: {}", known.join(", ")))),
    }
}

/// permessage-deflate, if the client offers what can be kept.
fn negotiate(headers: &HeaderMap) -> Result<Option<Answer>, ApiError> {
    let lines = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    // What is not text is in no token, either.
    let lines = lines.map(|line| line.to_str().unwrap_or("\0"));
    extension::negotiate(lines).map_err(|malformed| ApiError::bad_request(malformed.to_string()))
}

/// 16 bytes in base64: 22 digits and two paddings.
fn is_key(key: &str) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with("==") && key.as_bytes()[..22].iter().all(is_digit)
}

/// The header's value if it is there once and is text.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value.trim())
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|value| value.eq_ignore_ascii_case(token))
}

/// The elements of a header that is a list.
pub(crate) fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn request(change: impl FnOnce(&mut Request<()>)) -> Request<()> {
        let mut request = Request::get("/ws")
            .header("host", "x")
            .header("upgrade", "websocket")
            .header("connection", "keep-alive, Upgrade")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", KEY)
            .body(())
            .unwrap();
        change(&mut request);
        request
    }

    fn set(name: &'static str, value: &'static str) -> impl FnOnce(&mut Request<()>) {
        move |request| {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
    }

    #[test]
    fn a_good_handshake_gets_the_answer_of_the_rfc() {
        let response = accept(&mut request(|_| {}), &[NATIVE_JSON], false).unwrap().response;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()["connection"], "upgrade");
        assert!(!response.headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
    }

    #[test]
    fn bad_handshakes_are_refused() {
        fn check(change: impl FnOnce(&mut Request<()>), status: u16) {
            let refused = accept(&mut request(change), &[NATIVE_JSON], true).err().unwrap();
            assert_eq!(refused.response().status(), status, "{refused:?}");
            assert_eq!(refused.response().headers()["connection"], "close");
        }
        check(|request| *request.method_mut() = Method::POST, 405);
        check(|request| *request.version_mut() = Version::HTTP_10, 400);
        check(set("upgrade", "h2c"), 400);
        check(set("connection", "keep-alive"), 400);
        check(set("sec-websocket-version", "8"), 426);
        check(set("sec-websocket-key", "short"), 400);
        check(set("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZ===="), 400);
        check(set("sec-websocket-protocol", "mqtt"), 400);
        check(set("sec-websocket-extensions", "permessage-deflate; =1"), 400);
        check(set("content-length", "5"), 400);
        check(set("transfer-encoding", "chunked"), 400);
        check(
            |request| {
                request.headers_mut().append("sec-websocket-key", HeaderValue::from_static(KEY));
            },
            400,
        );
        let refused = accept(&mut request(set("sec-websocket-version", "8")), &[], false).err().unwrap();
        assert_eq!(refused.response().headers()["sec-websocket-version"], "13");
    }

    #[test]
    fn the_clients_first_known_subprotocol_is_echoed() {
        let mut request = request(set("sec-websocket-protocol", "mqtt, fanfare.v1.json"));
        let response = accept(&mut request, &[NATIVE_JSON], false).unwrap().response;
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], NATIVE_JSON);
    }

    #[test]
    fn a_credential_is_no_subprotocol_to_speak() {
        let check = |offered: &'static str, expect: Option<&str>| {
            let mut request = request(set("sec-websocket-protocol", offered));
            let response = accept(&mut request, &[NATIVE_JSON], false).unwrap().response;
            let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
            assert_eq!(chosen.map(|chosen| chosen.to_str().unwrap()), expect, "{offered}");
        };
        check("fanfare.bearer.a.b.c, fanfare.v1.json", Some(NATIVE_JSON));
        check("fanfare.bearer.a.b.c", None);
    }

    #[test]
    fn an_extension_is_for_those_who_offer_it_where_there_is_one() {
        let check = |lines: &[&'static str], deflate, expect: Option<&str>| {
            let mut request = request(|request| {
                for line in lines {
                    request.headers_mut().append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(line));
                }
            });
            let Accepted { response, deflate } = accept(&mut request, &[], deflate).unwrap();
            let answer = response.headers().get(SEC_WEBSOCKET_EXTENSIONS);
            assert_eq!(answer.map(|answer| answer.to_str().unwrap()), expect, "{lines:?}");
            assert_eq!(deflate, expect.is_some());
        };
        let answer = Some(Answer::Plain.text());
        check(&[], true, None);
        check(&["permessage-deflate"], false, None);
        check(&["not; a = list ="], false, None);
        check(&["permessage-deflate; client_max_window_bits"], true, answer);
        check(&["permessage-deflate; server_max_window_bits=9"], true, None);
        check(&["permessage-deflate; server_max_window_bits=9", "x, permessage-deflate"], true, answer);
        check(&["permessage-deflate; server_max_window_bits=12"], true, Some(Answer::Window.text()));
    }
}
