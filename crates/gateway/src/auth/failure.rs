//! Why a credential is refused: what the client is told, and what is counted.
//!
//! A client is told no more than that its credential is not valid; the label says why.

use fanfare_wire::event::ErrorCode;
use hyper::StatusCode;

use crate::error::ApiError;

/// Why nobody is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Several credentials in one request.
    Several,
    /// Neither a token nor a key: its form or its length says so.
    Malformed,
    /// No such API key.
    UnknownKey,
    /// No key to check the token with has its `kid`, or its algorithm if it names none.
    UnknownTokenKey,
    /// Its header names another algorithm than the key is for.
    Algorithm,
    /// Its header brings a key along, or has extensions that must be understood.
    Header,
    /// It was not signed with the key.
    Signature,
    /// `exp` is over.
    Expired,
    /// `nbf` or `iat` is to come.
    NotYet,
    /// `aud` is not what is expected.
    Audience,
    /// `iss` is not what is expected.
    Issuer,
    /// Claims are missing, twice there, or not of their form.
    Claims,
    /// An operator has revoked it.
    Revoked,
    /// A page of another origin.
    Origin,
}

/// How many labels there are.
pub(crate) const FAILURES: usize = ALL_FAILURES.len();

/// Every label, in the order of the variants.
pub(crate) const ALL_FAILURES: [&str; 14] = [
    "several",
    "malformed",
    "unknown_key",
    "unknown_token_key",
    "algorithm",
    "header",
    "signature",
    "expired",
    "not_yet",
    "audience",
    "issuer",
    "claims",
    "revoked",
    "origin",
];

impl Failure {
    /// The row in [`ALL_FAILURES`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// For people. What helps whoever has a valid token, and nobody else.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Several => "more than one credential in a request",
            Self::Expired => "the token has expired",
            Self::Revoked => "the credential is revoked",
            Self::Origin => "pages of this origin are not allowed",
            _ => "the credential is not valid",
        }
    }
}

/// What tells a client that a credential is needed, and how it is shown (RFC 6750, section 3).
pub(crate) const NEEDS_CREDENTIAL: &str = "Bearer";

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Several => Self::bad_request(failure.text()),
            Failure::Origin => Self::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, failure.text()),
            _ => Self {
                authenticate: Some(r#"Bearer error="invalid_token""#),
                ..Self::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, failure.text())
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_variant_has_the_last_label() {
        assert_eq!(ALL_FAILURES[Failure::Origin.index()], "origin");
        assert_eq!(ALL_FAILURES[Failure::Expired.index()], "expired");
        assert_eq!(Failure::Origin.index() + 1, FAILURES);
    }
}
