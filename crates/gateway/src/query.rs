//! What stands in a request's query, read strictly: a wrong value is an error, not a default.

use std::borrow::Cow;
use std::time::Duration;

use fanfare_wire::command::{Start, Wanted};
use fanfare_wire::event::ErrorCode;
use fanfare_wire::{Name, Pattern};
use hyper::{Request, StatusCode};

use crate::error::ApiError;

/// The parameters of one request.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let Some(query) = request.uri().query() else { return Self(Vec::new()) };
        let pairs = form_urlencoded::parse(query.as_bytes());
        Self(pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
    }

    /// The first parameter of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let number = self.get(name).map(str::parse).transpose();
        number.map_err(|_| ApiError::bad_request(format!("{name} is a whole number")))
    }

    /// `wait`, in seconds; no more than `longest`.
    pub(crate) fn wait(&self, longest: Duration) -> Result<Duration, ApiError> {
        Ok(Duration::from_secs(self.number("wait")?.unwrap_or_default()).min(longest))
    }

    /// `max`, at least 1 and no more than `most`.
    pub(crate) fn max(&self, most: usize) -> Result<usize, ApiError> {
        match self.number("max")? {
            Some(0) => Err(ApiError::bad_request("max is at least 1")),
            Some(max) => Ok(usize::try_from(max).unwrap_or(most).min(most)),
            None => Ok(most),
        }
    }

    /// `match`: a pattern; without it, all topics.
    pub(crate) fn pattern(&self) -> Result<Pattern, ApiError> {
        Ok(Pattern::new(self.get("match").unwrap_or(">"))?)
    }

    /// Every `topic`: names and wildcards, each once; at least one, at most `most`.
    pub(crate) fn names(&self, most: usize) -> Result<Vec<Name>, ApiError> {
        let mut names = Vec::new();
        for name in self.all("topic") {
            let name = Name::parse(name).map_err(|error| {
                let shown: String = name.chars().take(40).collect();
                ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::BadTopic, format!("{shown:?}: {error}"))
            })?;
            if names.len() == most {
                let message = format!("at most {most} topics in one request");
                return Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Limit, message));
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            return Err(ApiError::bad_request("topic is missing: ?topic=a&topic=b.*"));
        }
        Ok(names)
    }

    /// `from=last|live|earliest`, or `epoch=` and `offset=`.
    pub(crate) fn start(&self) -> Result<Start<'static>, ApiError> {
        match (self.get("from"), self.get("epoch"), self.number("offset")?) {
            (None | Some("last"), None, None) => Ok(Start::Last),
            (Some("live"), None, None) => Ok(Start::Live),
            (Some("earliest"), None, None) => Ok(Start::Earliest),
            (None, Some(epoch), Some(offset)) => {
                Ok(Start::After { epoch: Cow::Owned(epoch.to_owned()), offset })
            }
            (None, _, _) => Err(ApiError::bad_request("epoch and offset belong together")),
            (Some("last" | "live" | "earliest"), _, _) => {
                Err(ApiError::bad_request("from and a position exclude each other"))
            }
            (Some(_), _, _) => Err(ApiError::bad_request("from is last, live or earliest")),
        }
    }

    /// A place after its epoch, as it stands in ids and cursors: `EPOCH:NUMBER`. An empty one is none.
    pub(crate) fn place(text: &str, name: &str) -> Result<Option<(String, u64)>, ApiError> {
        let refuse = || ApiError::bad_request(format!("{name} is EPOCH:NUMBER, as the server gave it"));
        if text.is_empty() {
            return Ok(None);
        }
        let (epoch, number) = text.split_once(':').ok_or_else(refuse)?;
        // A sign is no digit.
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse());
        }
        Ok(Some((epoch.to_owned(), number.parse().map_err(|_| refuse())?)))
    }
}

/// A subscription without wishes.
pub(crate) fn wanted(name: &Name, start: Start<'static>) -> Wanted<'static> {
    let topic = Cow::Owned(name.as_str().to_owned());
    Wanted { topic, start, positions: Vec::new(), policy: None, interval: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&Request::get(format!("/x?{text}")).body(()).unwrap())
    }

    #[test]
    fn names_are_checked_and_counted() {
        fn check(text: &str, expect: Result<&[&str], &str>) {
            match (query(text).names(3), expect) {
                (Ok(names), Ok(expect)) => {
                    assert_eq!(names.iter().map(Name::as_str).collect::<Vec<_>>(), expect, "{text}");
                }
                (Err(error), Err(expect)) => assert!(error.message.contains(expect), "{text}: {error}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
        check("topic=a&topic=b.*&topic=a", Ok(&["a", "b.*"]));
        check("topic=%3E", Ok(&[">"]));
        check("", Err("topic is missing"));
        check("topic=a..b", Err("empty segment"));
        check("topic=a&topic=b&topic=c&topic=d", Err("at most 3"));
    }

    #[test]
    fn places_are_read_strictly() {
        fn check(text: &str, expect: Option<Option<(&str, u64)>>) {
            let got = Query::place(text, "cursor").ok();
            let got =
                got.as_ref().map(|place| place.as_ref().map(|(epoch, number)| (epoch.as_str(), *number)));
            assert_eq!(got, expect, "{text}");
        }
        check("", Some(None));
        check("k3x9:17", Some(Some(("k3x9", 17))));
        check(":0", Some(Some(("", 0))));
        for bad in ["k3x9", "k3x9:", "k3x9:-1", "k3x9:+1", "k3x9:18446744073709551616", "k3x9:1:2", "k:x"] {
            check(bad, None);
        }
    }

    #[test]
    fn numbers_are_bounded() {
        assert_eq!(query("max=5000").max(100).unwrap(), 100);
        assert_eq!(query("").max(100).unwrap(), 100);
        assert!(query("max=0").max(100).is_err() && query("max=-1").max(100).is_err());
        let longest = Duration::from_secs(60);
        assert_eq!(query("wait=99999").wait(longest).unwrap(), longest);
        assert!(query("wait=soon").wait(longest).is_err());
    }
}
