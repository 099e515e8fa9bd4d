//! Where the credential of a request is.
//!
//! | in | as | of |
//! |---|---|---|
//! | the header `Authorization` | `Bearer CREDENTIAL` (RFC 6750, section 2.1) | any request |
//! | the query | `access_token=CREDENTIAL` | any request |
//! | `Sec-WebSocket-Protocol` | `fanfare.bearer.CREDENTIAL`, one among those offered | a WebSocket handshake |
//!
//! Which of them it was makes no difference; two of them are none. Cookies are not read, so that nothing that a browser
//! sends by itself is a credential.

use std::borrow::Cow;

use hyper::Request;
use hyper::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};

use super::failure::Failure;
use crate::handshake::{is_upgrade, tokens};

/// What stands before the credential in a subprotocol.
pub(crate) const SUBPROTOCOL: &str = "fanfare.bearer.";

/// The credential of a request, if it has one.
pub(crate) fn of<B>(request: &Request<B>) -> Result<Option<Cow<'_, str>>, Failure> {
    let headers = request.headers();
    let mut found = None;
    let mut take = |credential: Cow<'_, str>| match found.replace(credential.into_owned()) {
        None => Ok(()),
        Some(_) => Err(Failure::Several),
    };
    for value in headers.get_all(AUTHORIZATION) {
        take(bearer(value.as_bytes()).ok_or(Failure::Malformed)?.into())?;
    }
    if let Some(query) = request.uri().query().filter(|query| query.contains("access_token")) {
        for (_, value) in form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "access_token") {
            take(value)?;
        }
    }
    if is_upgrade(request) {
        let offered = tokens(headers, SEC_WEBSOCKET_PROTOCOL);
        for credential in offered.filter_map(|offered| offered.strip_prefix(SUBPROTOCOL)) {
            take(credential.into())?;
        }
    }
    Ok(found.map(Cow::Owned))
}

/// `Bearer CREDENTIAL`; the scheme's name in any case (RFC 9110, section 11.1).
fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, credential) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, headers: &[(&str, &str)], expect: Result<Option<&str>, Failure>) {
        let mut request = Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let got = of(&request);
        assert_eq!(
            got.as_ref().map(Option::as_deref).map_err(|error| *error),
            expect,
            "{target} {headers:?}"
        );
    }

    #[test]
    fn a_credential_is_found_where_it_may_be() {
        let websocket = ("upgrade", "websocket");
        check("/ws", &[], Ok(None));
        check("/ws", &[("authorization", "Bearer abc")], Ok(Some("abc")));
        check("/ws", &[("authorization", "bearer  abc ")], Ok(Some("abc")));
        check("/ws?access_token=a%2Bc&topic=x", &[], Ok(Some("a+c")));
        let offered = ("sec-websocket-protocol", "fanfare.v1.json, fanfare.bearer.abc");
        check("/ws", &[websocket, offered], Ok(Some("abc")));
        check("/ws", &[offered], Ok(None));
        check("/ws", &[("cookie", "access_token=abc")], Ok(None));
        // An empty one is one, and not valid.
        check("/ws?access_token=", &[], Ok(Some("")));
    }

    #[test]
    fn what_is_no_credential_or_more_than_one_is_refused() {
        let websocket = ("upgrade", "websocket");
        let bearer = ("authorization", "Bearer abc");
        check("/ws", &[("authorization", "Basic YTpi")], Err(Failure::Malformed));
        check("/ws", &[("authorization", "abc")], Err(Failure::Malformed));
        check("/ws", &[("authorization", "Bearer")], Err(Failure::Malformed));
        check("/ws", &[bearer, bearer], Err(Failure::Several));
        check("/ws?access_token=abc", &[bearer], Err(Failure::Several));
        check("/ws?access_token=abc&access_token=abc", &[], Err(Failure::Several));
        let offered = ("sec-websocket-protocol", "fanfare.bearer.abc");
        check("/ws", &[websocket, bearer, offered], Err(Failure::Several));
        check("/ws", &[websocket, offered, offered], Err(Failure::Several));
    }
}
