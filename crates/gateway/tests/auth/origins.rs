//! Pages of other origins.

use crate::gateways::{failures, with_key};
use crate::requests::handshake;
use crate::support::Gateway;
use crate::support::peer::request;
use crate::support::stream::Stream;

#[test]
fn pages_of_other_origins_are_kept_out_where_it_is_said() {
    let config = with_key("[anonymous]\nsubscribe = [\"public.>\"]");
    let origins = "https://good.com,https://*.example.com:8443";
    let gateway = Gateway::start(&["--config", config.path(), "--origins", origins]);
    let check = |origin: &str, allowed: bool| {
        let (answer, _) = handshake(&gateway, "/ws", &[("origin", origin)]);
        assert_eq!(answer.status, if allowed { 101 } else { 403 }, "{origin}");
        let headers = [("origin", origin)];
        let answer = request(gateway.address, "GET", "/poll?topic=public.a", &headers, "");
        assert_eq!(answer.status, if allowed { 200 } else { 403 }, "{origin}");
        let readable = answer.header("access-control-allow-origin");
        assert_eq!(readable, allowed.then_some(origin));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert!(!allowed || answer.header("vary") == Some("origin"));
    };
    for good in
        ["https://good.com", "https://a.example.com:8443", "https://a.b.example.com:8443", "http://fanfare"]
    {
        check(good, true);
    }
    for evil in [
        "https://evil-good.com",
        "https://good.com.evil",
        "null",
        "https://good.com:8443",
        "http://good.com",
        "https://GOOD.com",
        "https://example.com:8443",
        "https://a.example.com",
        "https://evil.com",
    ] {
        check(evil, false);
    }
    assert!(failures(&gateway, "origin") >= 18.0);
    // Who is no page is asked nothing.
    assert_eq!(handshake(&gateway, "/ws", &[]).0.status, 101);
    let stream = Stream::open(gateway.address, "/events?topic=public.a", &[("origin", "https://good.com")]);
    assert_eq!(stream.head.header("access-control-allow-origin"), Some("https://good.com"));
    // Refusals can be read, too.
    let answer = request(gateway.address, "GET", "/poll?topic=a.b", &[("origin", "https://good.com")], "");
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (401, Some("https://good.com"))
    );
    // Before a POST with a key, a browser asks.
    let asked = [
        ("origin", "https://good.com"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    let answer = request(gateway.address, "OPTIONS", "/topics/a.b", &asked, "");
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (204, Some("https://good.com"))
    );
    assert!(answer.header("access-control-allow-headers").unwrap().contains("authorization"));
    let asked = [("origin", "https://evil.com"), ("access-control-request-method", "POST")];
    assert_eq!(request(gateway.address, "OPTIONS", "/topics/a.b", &asked, "").status, 403);
    let open = Gateway::start(&[]);
    assert_eq!(
        request(open.address, "OPTIONS", "/topics/a.b", &asked, "").status,
        405,
        "more than a form may"
    );
}

#[test]
fn where_nothing_is_said_of_origins_a_websocket_is_for_ones_own_pages() {
    let foreign = [("origin", "https://foreign.test")];
    let open = Gateway::start(&[]);
    assert_eq!(handshake(&open, "/ws", &foreign).0.status, 101);
    assert_eq!(
        request(open.address, "GET", "/topics", &foreign, "").header("access-control-allow-origin"),
        Some("*")
    );
    let config = with_key("[anonymous]\nsubscribe = [\">\"]");
    let closed = Gateway::start(&["--config", config.path()]);
    assert_eq!(handshake(&closed, "/ws", &foreign).0.status, 403);
    assert_eq!(handshake(&closed, "/topics/a", &foreign).0.status, 403);
    assert_eq!(handshake(&closed, "/ws", &[("origin", "http://fanfare")]).0.status, 101);
    let answer = request(closed.address, "GET", "/poll?topic=a", &foreign, "");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")));
}
