//! One HTTP/1.1 connection, driven by whoever waits on it.
//!
//! No task runs beside it: each wait polls the connection and then what it waits for. What the server did in between (it
//! may have closed an idle connection) is noticed by [`Connection::is_open`] before the next request.
//!
//! # Bounds       [`ANSWER_BYTES_MAX`]; every caller puts a timeout around its wait

use std::fmt::Write as _;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HeaderMap;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::stream::{Stream, Trust};

/// The longest answer read: some 40,000 results of a `POST /publish`.
pub(crate) const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Where to connect, and the `Host` to name there.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    authority: String,
    host: String,
    port: u16,
    /// Then it is under TLS.
    trust: Option<Trust>,
}

impl Address {
    pub(crate) fn new(authority: &str, host: &str, port: u16, trust: Option<Trust>) -> Self {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Self { authority: authority.to_owned(), host: host.to_owned(), port, trust }
    }

    /// For the `Host` header and for error messages.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    async fn connect(&self) -> io::Result<Stream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        // Requests and frames are small and somebody waits for each.
        stream.set_nodelay(true)?;
        match &self.trust {
            Some(trust) => Stream::secure(stream, trust, &self.host).await,
            None => Ok(Stream::Plain(stream)),
        }
    }
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// How an upgrade ended.
pub(crate) enum Upgraded {
    /// 101: the socket, and what the server sent after its answer.
    Yes { headers: HeaderMap, stream: Stream, read_ahead: Bytes },
    /// Any other answer.
    No(Answer),
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The connection closed before a byte of it was sent.
    #[error("the connection was closed")]
    NotSent(Box<Request<Full<Bytes>>>),
    /// The connection closed, or broke, after some of it was sent.
    #[error("the connection was lost: {0}")]
    Lost(String),
    #[error("the answer is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
}

/// See the [module](self).
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
}

/// The half of a connection that does the I/O.
struct Driver {
    connection: Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>,
    /// It must not be polled again.
    ended: bool,
}

impl Connection {
    pub(crate) async fn open(address: &Address) -> io::Result<Self> {
        let stream = address.connect().await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self { sender, driver: Driver { connection: Box::new(connection), ended: false } })
    }

    /// Whether the next request can go out on this connection, as far as anybody can know.
    pub(crate) async fn is_open(&mut self) -> bool {
        // One turn of the reactor: a close that arrived while nobody polled becomes visible to the poll below.
        tokio::task::yield_now().await;
        matches!(self.driver.run(self.sender.ready()).await, Some(Ok(()))) && !self.driver.ended
    }

    pub(crate) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, ExchangeError> {
        let response = self.send(request).await?;
        self.read(response).await
    }

    pub(crate) async fn upgrade(mut self, request: Request<Full<Bytes>>) -> Result<Upgraded, ExchangeError> {
        let response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return self.read(response).await.map(Upgraded::No);
        }
        // After a 101 hyper has no more to do, and gives the socket back.
        if !self.driver.ended {
            let _: Option<()> = self.driver.run(pending()).await;
        }
        let parts = self.driver.connection.into_parts();
        Ok(Upgraded::Yes {
            headers: response.into_parts().0.headers,
            stream: parts.io.into_inner(),
            read_ahead: parts.read_buf,
        })
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ExchangeError> {
        match self.driver.run(self.sender.try_send_request(request)).await {
            Some(Ok(response)) => Ok(response),
            Some(Err(mut error)) => Err(match error.take_message() {
                Some(request) => ExchangeError::NotSent(Box::new(request)),
                None => ExchangeError::Lost(chain(error.error())),
            }),
            None => Err(ExchangeError::Lost("it ended before the answer".to_owned())),
        }
    }

    async fn read(&mut self, response: Response<Incoming>) -> Result<Answer, ExchangeError> {
        let (head, body) = response.into_parts();
        let body = match self.driver.run(Limited::new(body, ANSWER_BYTES_MAX).collect()).await {
            Some(Ok(collected)) => collected.to_bytes(),
            Some(Err(error)) if error.is::<LengthLimitError>() => return Err(ExchangeError::TooLong),
            Some(Err(error)) => return Err(ExchangeError::Lost(chain(&*error))),
            None => return Err(ExchangeError::Lost("it ended within the answer".to_owned())),
        };
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

impl Driver {
    /// Waits for `work` while doing the connection's I/O. `None`: the connection ended and `work` is not done.
    async fn run<F: Future>(&mut self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.poll(context);
            match work.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if self.ended => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        // The connection's own error says less than the one `work` gets.
        if !self.ended && Pin::new(&mut self.connection).poll(context).is_ready() {
            self.ended = true;
        }
    }
}

/// An error and its causes on one line; hyper's own text names only the first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

/// `/topics/` and the topic. What cannot stand in a path is percent-encoded (RFC 3986 §2.1), so that it is the server
/// who refuses it.
pub(crate) fn topic_path(topic: &str) -> String {
    let mut path = String::with_capacity("/topics/".len() + topic.len());
    path.push_str("/topics/");
    for byte in topic.bytes() {
        match byte {
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'_'
            | b'='
            | b'@'
            | b','
            | b'.'
            | b';'
            | b':'
            | b'!'
            | b'-' => {
                path.push(char::from(byte));
            }
            _ => {
                let _ = write!(path, "%{byte:02X}");
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_stands_in_a_path_as_it_is_and_anything_else_is_encoded() {
        for (topic, path) in [
            ("ticker.BTC-USD", "/topics/ticker.BTC-USD"),
            ("a_=@,.;:!-Z9", "/topics/a_=@,.;:!-Z9"),
            ("bad topic", "/topics/bad%20topic"),
            ("a/b?c#d%", "/topics/a%2Fb%3Fc%23d%25"),
            ("ticker.>", "/topics/ticker.%3E"),
            ("é", "/topics/%C3%A9"),
            ("", "/topics/"),
        ] {
            assert_eq!(topic_path(topic), path);
        }
    }
}
