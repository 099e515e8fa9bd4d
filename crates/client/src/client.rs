//! Where the server is, and how long to wait for it.

use std::time::Duration;

use hyper::Uri;
use hyper::http::uri::InvalidUri;

use crate::connection::Address;
use crate::publisher::Publisher;
use crate::raw::RawSubscription;
use crate::session::{Session, SubscribeError};
use crate::stream::{self, Trust};
use crate::subscription::Subscription;
use crate::topic_request::{Start, TopicRequest};

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// A server's address. Cheap to clone; each publisher and each subscription made from it has a connection of its own.
///
/// ```
/// use std::time::Duration;
///
/// use fanfare_client::Client;
///
/// let client = Client::new("http://127.0.0.1:8080")?.with_timeout(Duration::from_secs(2));
/// # Ok::<(), fanfare_client::UrlError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    address: Address,
    timeout: Duration,
}

/// A base URL this client cannot use.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// It is not a URL at all.
    #[error("{url:?} is not a URL: {source}")]
    Malformed {
        /// As given.
        url: String,
        /// What is wrong with it.
        source: InvalidUri,
    },
    /// `https`, and nobody to trust.
    #[error("{0:?} needs an authority that vouches for the server")]
    NoAuthority(String),
    /// `http`, and somebody to trust.
    #[error("{0:?} is not under TLS, so there is nobody to vouch for it")]
    NoTls(String),
    /// No certificate in what should be an authority's.
    #[error("the authority is not a certificate in PEM form")]
    BadAuthority,
    /// Anything but `http` and `https`, or no scheme.
    #[error("{0:?} does not begin with http:// or https://")]
    Scheme(String),
    /// A user, a path or a query.
    #[error("{0:?} says more than http://HOST:PORT")]
    NotABase(String),
}

impl Client {
    /// Takes `http://HOST`, `http://HOST:PORT`, with or without the last slash.
    ///
    /// # Errors
    /// [`UrlError`] for anything else; nothing is resolved or connected here.
    pub fn new(base_url: &str) -> Result<Self, UrlError> {
        Self::with_trust(base_url, None)
    }

    /// Takes `https://HOST` or `https://HOST:PORT`, and the certificates of the authorities that may vouch for the server,
    /// in PEM form. WebSockets are under TLS, too.
    ///
    /// # Errors
    /// [`UrlError`] for anything else; nothing is resolved or connected here.
    pub fn secure(base_url: &str, authorities: &[u8]) -> Result<Self, UrlError> {
        Self::with_trust(base_url, Some(stream::trust(authorities).ok_or(UrlError::BadAuthority)?))
    }

    fn with_trust(base_url: &str, trust: Option<Trust>) -> Result<Self, UrlError> {
        let url = || base_url.to_owned();
        let uri: Uri = base_url.parse().map_err(|source| UrlError::Malformed { url: url(), source })?;
        let port = match (uri.scheme_str(), &trust) {
            (Some("http"), None) => 80,
            (Some("https"), Some(_)) => 443,
            (Some("http"), Some(_)) => return Err(UrlError::NoTls(url())),
            (Some("https"), None) => return Err(UrlError::NoAuthority(url())),
            _ => return Err(UrlError::Scheme(url())),
        };
        let authority = uri.authority().ok_or_else(|| UrlError::NotABase(url()))?;
        if uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(UrlError::NotABase(url()));
        }
        let port = uri.port_u16().unwrap_or(port);
        let address = Address::new(authority.as_str(), authority.host(), port, trust);
        Ok(Self { address, timeout: TIMEOUT_DEFAULT })
    }

    /// Bounds every request, handshake and command of what is made from this client, connecting included.
    /// Default: 10 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A publisher. It connects when it first publishes.
    pub fn publisher(&self) -> Publisher {
        Publisher::new(self.address.clone(), self.timeout)
    }

    /// Subscribes to topics: names, wildcards, or [`TopicRequest`]s. The subscription connects when it is first asked for
    /// an event, and comes back by itself from then on.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use fanfare_client::{Client, Event, Start, TopicRequest};
    ///
    /// let client = Client::new("http://127.0.0.1:8080")?;
    /// let logs = TopicRequest::new("logs.>").start(Start::Earliest);
    /// let mut subscription = client.subscribe(["ticker.BTC-USD".into(), logs]);
    /// loop {
    ///     if let Event::Message(message) = subscription.next().await? {
    ///         println!("{} at {}", message.topic, message.offset);
    ///     }
    /// }
    /// # }
    /// ```
    pub fn subscribe<T: Into<TopicRequest>>(&self, topics: impl IntoIterator<Item = T>) -> Subscription {
        let topics = topics.into_iter().map(Into::into).collect();
        Subscription::new(self.address.clone(), self.timeout, topics)
    }

    /// Opens one connection, subscribes to `topics` on it and waits for the acknowledgement: what a
    /// [`Subscription`] does again and again, for those who want to see each connection by itself.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use fanfare_client::session::Event;
    /// use fanfare_client::{Client, Start, TopicRequest};
    ///
    /// let client = Client::new("http://127.0.0.1:8080")?;
    /// let live = TopicRequest::new("trades.*").start(Start::Live);
    /// let mut session = client.session(["ticker.BTC-USD".into(), live]).await?;
    /// if let Event::Message(message) = session.next().await? {
    ///     println!("{} at {}", message.topic, message.offset);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the connection fails, and if the server refuses *every* topic. When it refuses some, the refusals are in
    /// [`Session::acknowledgements`] and are the first events.
    pub async fn session<T: Into<TopicRequest>>(
        &self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Session, SubscribeError> {
        let topics: Vec<TopicRequest> = topics.into_iter().map(Into::into).collect();
        Session::open(&self.address, self.timeout, &topics).await
    }

    /// Opens a raw subscription to one topic: its payloads as they were posted, without topic, offset or gaps.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use fanfare_client::{Client, RawEvent, Start};
    ///
    /// let client = Client::new("http://127.0.0.1:8080")?;
    /// let mut subscription = client.subscribe_raw("ticker.BTC-USD", Start::Last).await?;
    /// while let RawEvent::Text(payload) = subscription.next().await? {
    ///     println!("{}", payload.escape_ascii());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the connection fails or the server refuses the topic.
    pub async fn subscribe_raw(&self, topic: &str, start: Start) -> Result<RawSubscription, SubscribeError> {
        RawSubscription::open(&self.address, self.timeout, topic, start).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_a_scheme_a_host_and_a_port() {
        for url in
            ["http://localhost", "http://127.0.0.1:8080", "http://[::1]:8080/", "HTTP://example.org:80/"]
        {
            assert!(Client::new(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn an_unusable_url_says_what_is_wrong_with_it() {
        for (url, message) in [
            ("https://example.org", "needs an authority"),
            ("wss://example.org", "does not begin with http://"),
            ("ws://example.org", "does not begin with http://"),
            ("localhost:8080", "does not begin with http://"),
            ("/topics", "does not begin with http://"),
            ("", "is not a URL"),
            ("http://exa mple.org", "is not a URL"),
            ("http://example.org/prefix", "says more than http://HOST:PORT"),
            ("http://example.org/?a=b", "says more than http://HOST:PORT"),
            ("http://user@example.org/", "says more than http://HOST:PORT"),
        ] {
            let error = Client::new(url).expect_err(url).to_string();
            assert!(error.contains(message), "{url}: {error}");
        }
    }
}
