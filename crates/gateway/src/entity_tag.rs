//! Whether a client has what it asks for already: `If-None-Match` (RFC 9110 §13.1.2).
//!
//! Tags are compared weakly: a proxy that compresses an answer makes its tag weak, and clients send it back so.

use hyper::HeaderMap;
use hyper::header::IF_NONE_MATCH;

/// Whether the headers of a request name this tag, which is quoted and has no comma.
pub(crate) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let is_same = |known: &str| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag;
    let lists = headers.get_all(IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
    lists.flat_map(|tags| tags.split(',')).any(|known| is_same(known.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn a_tag_is_found_in_lists_and_weak() {
        fn check(lists: &[&'static str], expect: bool) {
            let headers = lists.iter().map(|tags| (IF_NONE_MATCH, HeaderValue::from_static(tags)));
            assert_eq!(is_known(&headers.collect(), "\"a\""), expect, "{lists:?}");
        }
        check(&["\"a\""], true);
        check(&["\"b\", \"a\""], true);
        check(&["\"b\"", "\"c\",W/\"a\""], true);
        check(&["W/\"a\""], true);
        check(&["*"], true);
        check(&["\"b\""], false);
        check(&["\"b\"", "W/\"b\""], false);
        check(&["a"], false);
        check(&[""], false);
        check(&[], false);
    }
}
