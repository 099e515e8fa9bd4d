//! Whose pages may come: a browser says in `Origin` which page a request is from, and no page can make it say anything
//! else (RFC 6454; WHATWG Fetch).
//!
//! | `origins` | a WebSocket handshake | any other request |
//! |---|---|---|
//! | given | from one of them, from the gateway's own host, or with no `Origin` | likewise; the answer names that origin |
//! | not given, but who may is configured | from the gateway's own host, or with no `Origin` | any page may read the answer |
//! | neither | any page | any page may read the answer |
//!
//! Programs send no `Origin`, and neither do browsers for what they fetch and a page cannot read: images, scripts, links. The
//! answer to that says that pages of other origins may not embed it, either (WHATWG Fetch, "Cross-Origin-Resource-Policy").
//!
//! A credential is never one that the browser adds by itself, so a page of another origin has none but its own, and no answer
//! allows a browser's own (`Access-Control-Allow-Credentials`).

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderMap,
    HeaderName, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Request, Response, StatusCode};

use super::failure::Failure;
use crate::error::Body;
use crate::handshake::is_upgrade;

/// What no page of another origin may embed.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The configured origins.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    /// `None`: nothing is said of origins.
    allowed: Option<Box<[String]>>,
    /// Something says who may: a page of another host has no business on a WebSocket, unless its origin is given.
    has_auth: bool,
}

/// Which pages may read an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readers {
    /// All.
    All,
    /// Those of this origin; another request may have another answer.
    Origin(Box<HeaderValue>),
    /// None but those of the gateway's own host: the request names no origin. Another one may.
    None,
}

impl Origins {
    pub(crate) fn new(allowed: &[String], has_auth: bool) -> Self {
        let allowed =
            (!allowed.is_empty()).then(|| allowed.iter().map(|origin| origin.to_ascii_lowercase()).collect());
        Self { allowed, has_auth }
    }

    /// The answer to a request that only asks what may be sent.
    pub(crate) fn preflight<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        if self.has_auth || self.allowed.is_some() { preflight_answer(request) } else { None }
    }

    /// Says who may read the answer to a request, if it may be answered at all.
    pub(crate) fn check<B>(&self, request: &Request<B>) -> Result<Readers, Failure> {
        let headers = request.headers();
        if self.allowed.is_none() && !(self.has_auth && is_upgrade(request)) {
            return Ok(Readers::All);
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return Ok(Readers::None) };
        let text = origin.to_str().ok().filter(|_| origins.next().is_none()).ok_or(Failure::Origin)?;
        let is_listed = || self.allowed.iter().flatten().any(|allowed| matches(allowed, text));
        if is_own(headers, text) || is_listed() {
            Ok(Readers::Origin(Box::new(origin.clone())))
        } else {
            Err(Failure::Origin)
        }
    }
}

impl Readers {
    /// What a head written as text says about it, each line with its end.
    pub(crate) fn lines(&self) -> String {
        let origin = match self {
            Self::All => return "access-control-allow-origin: *\r\n".into(),
            Self::Origin(origin) => origin.to_str().unwrap_or_default(),
            Self::None => return "vary: origin\r\ncross-origin-resource-policy: same-origin\r\n".into(),
        };
        format!("access-control-allow-origin: {origin}\r\nvary: origin\r\n")
    }

    /// Says it in an answer, with what a page may see of it.
    pub(crate) fn mark(&self, response: &mut Response<Body>) {
        /// Headers of ours that are not seen by a page otherwise.
        const SEEN: &str = "age, etag, fanfare-offset, fanfare-age-ms, fanfare-status, idempotent-replayed, \
                            retry-after, x-request-id";
        let headers = response.headers_mut();
        let origin = match self {
            Self::All => HeaderValue::from_static("*"),
            Self::Origin(origin) => (**origin).clone(),
            Self::None => {
                headers.insert(VARY, HeaderValue::from_static("origin"));
                headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
                return;
            }
        };
        if *self != Self::All {
            headers.insert(VARY, HeaderValue::from_static("origin"));
        }
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(SEEN));
    }
}

/// Answers what a browser asks before it sends a request that a form could not. Where nothing is said of anybody, it is not
/// answered: a foreign page may not more than a form may.
fn preflight_answer<B>(request: &Request<B>) -> Option<Response<Body>> {
    if request.method() != Method::OPTIONS || !request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST"));
    let allowed = "authorization, content-type, fanfare-event, fanfare-key, idempotency-key, if-none-match, last-event-id, \
                   x-request-id";
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    Some(response)
}

/// Checks an origin of the configuration: as a browser writes it, but for a `*.` that stands for any labels.
pub(crate) fn check(origin: &str) -> Result<(), String> {
    let error = |what| format!("{origin:?} {what}");
    let (scheme, authority) =
        origin.split_once("://").ok_or_else(|| error("does not begin with a scheme such as https://"))?;
    let host = authority.strip_prefix("*.").unwrap_or(authority);
    let (host, port) = match host.rsplit_once(':') {
        // The colons of an IPv6 address are within brackets.
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    if scheme.is_empty()
        || host.is_empty()
        || host.starts_with('.')
        || host.contains(['*', '/', '@', '?', '#', ' '])
    {
        return Err(error("is not SCHEME://HOST or SCHEME://HOST:PORT"));
    }
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(error("has no port at its end"));
    }
    match (scheme, port) {
        ("http", Some("80")) | ("https", Some("443")) => Err(error("has the port that browsers leave out")),
        _ => Ok(()),
    }
}

/// Whether `origin`, as a browser writes it, is meant by `allowed`.
fn matches(allowed: &str, origin: &str) -> bool {
    let Some((scheme, rest)) = allowed.split_once("*.") else { return allowed == origin };
    let labels = origin
        .strip_prefix(scheme)
        .and_then(|host| host.strip_suffix(rest))
        .and_then(|labels| labels.strip_suffix('.'));
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
    };
    labels.is_some_and(|labels| labels.split('.').all(is_label))
}

/// Whether a page is of the host that it asks. The scheme may differ: TLS may end before the gateway.
fn is_own(headers: &HeaderMap, origin: &str) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(Ok(host)), None) = (hosts.next().map(HeaderValue::to_str), hosts.next()) else { return false };
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    !authority.is_empty() && authority.eq_ignore_ascii_case(host.strip_suffix(default).unwrap_or(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_listed_exactly_or_below_a_wildcard() {
        let listed =
            ["https://good.com", "https://*.example.com", "http://localhost:3000", "https://*.a.test:8443"];
        let origins = Origins::new(&listed.map(String::from), true);
        let check = |origin: &str, expect: bool| {
            let request =
                Request::get("/events").header("host", "gateway.test:8080").header("origin", origin);
            let readers = origins.check(&request.body(()).unwrap());
            assert_eq!(readers.is_ok(), expect, "{origin}");
        };
        check("https://good.com", true);
        check("http://good.com", false);
        check("https://good.com:444", false);
        check("https://good.com:443", false);
        check("https://good.com/", false);
        check("https://GOOD.com", false);
        check("https://evil-good.com", false);
        check("https://good.com.evil", false);
        check("https://sub.good.com", false);
        check("https://good.com@evil.com", false);
        check("null", false);
        check("", false);
        check("https://a.example.com", true);
        check("https://a.b.example.com", true);
        check("https://example.com", false);
        check("https://.example.com", false);
        check("https://a..example.com", false);
        check("https://evil.com/.example.com", false);
        check("https://evil.com#.example.com", false);
        check("https://evil.com:1@x.example.com", false);
        check("https://evilexample.com", false);
        check("http://a.example.com", false);
        check("https://a.example.com:8443", false);
        check("https://b.a.test:8443", true);
        check("https://b.a.test", false);
        check("http://localhost:3000", true);
        check("http://localhost:3001", false);
        // The gateway's own.
        check("http://gateway.test:8080", true);
        check("https://gateway.test:8080", true);
        check("http://gateway.test", false);
    }

    #[test]
    fn what_is_said_of_origins_decides_who_may_come() {
        fn check(
            origins: &[&str],
            has_auth: bool,
            headers: &[(&str, &str)],
            expect: Result<Readers, Failure>,
        ) {
            let origins = Origins::new(
                &origins.iter().map(|origin| (*origin).to_owned()).collect::<Vec<_>>(),
                has_auth,
            );
            let mut request = Request::get("/ws").header("host", "own.test");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            assert_eq!(origins.check(&request.body(()).unwrap()), expect, "{origins:?} {headers:?}");
        }
        let (websocket, foreign, own) =
            (("upgrade", "websocket"), ("origin", "https://foreign.test"), ("origin", "https://own.test"));
        let only =
            |origin: (&str, &'static str)| Ok(Readers::Origin(Box::new(HeaderValue::from_static(origin.1))));
        check(&[], false, &[websocket, foreign], Ok(Readers::All));
        check(&[], true, &[foreign], Ok(Readers::All));
        check(&[], true, &[websocket, foreign], Err(Failure::Origin));
        check(&[], true, &[websocket, own], only(own));
        check(&[], true, &[websocket], Ok(Readers::None));
        check(&["https://foreign.test"], true, &[websocket, foreign], only(foreign));
        check(&["https://foreign.test"], false, &[foreign], only(foreign));
        check(&["https://else.test"], false, &[foreign], Err(Failure::Origin));
        check(&["https://else.test"], false, &[], Ok(Readers::None));
        check(&["https://foreign.test"], true, &[foreign, foreign], Err(Failure::Origin));
    }

    #[test]
    fn an_answer_to_no_origin_is_not_to_be_embedded_elsewhere() {
        fn check(readers: &Readers, expect: &[(&str, &str)]) {
            let mut response = Response::new(Body::default());
            readers.mark(&mut response);
            response.headers_mut().remove(ACCESS_CONTROL_EXPOSE_HEADERS);
            let said: Vec<_> = response
                .headers()
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
                .collect();
            let lines = readers.lines();
            let lines: Vec<_> = lines.lines().map(|line| line.split_once(": ").unwrap()).collect();
            for said in [said, lines] {
                assert!(
                    said.len() == expect.len() && expect.iter().all(|row| said.contains(row)),
                    "{said:?}"
                );
            }
        }
        let origin = HeaderValue::from_static("https://a.test");
        check(&Readers::All, &[("access-control-allow-origin", "*")]);
        check(
            &Readers::Origin(Box::new(origin)),
            &[("access-control-allow-origin", "https://a.test"), ("vary", "origin")],
        );
        check(&Readers::None, &[("vary", "origin"), ("cross-origin-resource-policy", "same-origin")]);
    }

    #[test]
    fn the_default_port_is_the_same_host() {
        let check = |origin: &str, host: &'static str, expect: bool| {
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            assert_eq!(is_own(&headers, origin), expect, "{origin} {host}");
        };
        check("https://a.test", "a.test:443", true);
        check("https://a.test", "A.test", true);
        check("http://a.test", "a.test:443", false);
        check("https://a.test.evil", "a.test", false);
        check("https://", "", false);
        check("null", "null", false);
    }

    #[test]
    fn origins_of_the_configuration_are_as_browsers_write_them() {
        for good in [
            "https://a.b",
            "http://localhost:3000",
            "https://*.a.b:8443",
            "http://[::1]:3000",
            "http://[::1]",
            "app://x",
        ] {
            assert_eq!(check(good), Ok(()));
        }
        for bad in [
            "a.b",
            "*",
            "null",
            "https://",
            "https://*",
            "https://*.",
            "https://a.b/",
            "https://a.b:443",
            "http://a.b:x",
            "https://x.*.b",
            "https://..b",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
