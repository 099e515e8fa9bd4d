//! The name of a request: its sender's, or one of ours.
//!
//! It stands in the line that says why the request was refused, and in the answer if the sender gave one or the answer is
//! an error. Whoever publishes without one and is answered 200 pays one look into the header.

use std::fmt;

use hyper::Response;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

const NAME: HeaderName = HeaderName::from_static("x-request-id");

/// The most bytes of a name.
const BYTES_MAX: usize = 64;

/// A well-formed name.
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// The sender's; if that cannot be one, another. `None` if there is none.
    pub(crate) fn given(headers: &HeaderMap) -> Option<Self> {
        let given = headers.get(NAME)?;
        Some(if is_well_formed(given.as_bytes()) { Self(given.clone()) } else { Self::drawn() })
    }

    /// Drawn by lot.
    pub(crate) fn drawn() -> Self {
        let id = format!("{:016x}", fastrand::u64(..));
        Self(HeaderValue::try_from(id).expect("hexadecimal digits are a value"))
    }

    /// Puts it into an answer.
    pub(crate) fn name<B>(self, response: &mut Response<B>) {
        response.headers_mut().insert(NAME, self.0);
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
