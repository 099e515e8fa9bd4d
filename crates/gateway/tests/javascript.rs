//! `/fanfare.js`, as a browser asks for it. What it does is told by the stories in `clients`.

mod support;

use support::Gateway;
use support::peer::{Answer, request};

const PATH: &str = "/fanfare.js";

fn ask(gateway: &Gateway, method: &str, headers: &[(&str, &str)]) -> Answer {
    request(gateway.address, method, PATH, headers, "")
}

#[test]
fn every_gateway_serves_the_client() {
    let gateway = Gateway::start(&[]);
    let answer = ask(&gateway, "GET", &[("origin", "https://elsewhere.test")]);
    assert_eq!(answer.status, 200);
    for (name, value) in [
        ("content-type", "text/javascript; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("access-control-allow-origin", "*"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert!(answer.text().contains("export class Fanfare "));

    let again = Gateway::start(&[]);
    assert_eq!(ask(&again, "GET", &[]).header("etag"), answer.header("etag"), "the same on every node");
}

#[test]
fn who_has_it_is_told_so() {
    let gateway = Gateway::start(&[]);
    let tag = ask(&gateway, "GET", &[]).header("etag").expect("it has a tag").to_owned();
    for (known, status) in [
        (tag.clone(), 304),
        (format!("\"x\", W/{tag}"), 304),
        ("\"0000000000000000\"".to_owned(), 200),
        (tag.trim_matches('"').to_owned(), 200),
    ] {
        let answer = ask(&gateway, "GET", &[("if-none-match", &known)]);
        assert_eq!(answer.status, status, "{known}");
        assert_eq!(answer.header("etag"), Some(tag.as_str()), "{known}");
        assert_eq!(answer.text().is_empty(), status == 304, "{known}");
    }
}

#[test]
fn it_is_only_read() {
    let gateway = Gateway::start(&[]);
    for method in ["POST", "PUT", "DELETE"] {
        let answer = ask(&gateway, method, &[]);
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
}
