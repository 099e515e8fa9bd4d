//! `fanfare demo`: a gateway, a market and a log that post to it over HTTP, and a page that shows the prices moving and
//! the lines coming.

mod log;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use fanfare_client::{Client, Payload, PublishError, Publisher};
use fanfare_market::Market;
use fanfare_wire::{Name, Pattern};
use http_body_util::Full;
use hyper::Response;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use log::Log;
use tokio::time::sleep;

use crate::config::{Config, ConfigError};
use crate::error::Body;
use crate::server::{Server, Stop};

/// The pages that a demo gateway serves beside the protocol.
pub struct Demo {
    /// `["ticker.BTC-USD", …]`
    topics: Bytes,
}

impl Demo {
    /// The pages for a market of `symbols` symbols.
    pub fn new(symbols: usize) -> Self {
        let market = Market::new(symbols, 0);
        let topics: Vec<String> = market.symbols().map(topic).collect();
        Self { topics: serde_json::to_vec(&topics).unwrap_or_default().into() }
    }

    /// The file under `path`, with its content type.
    pub(crate) fn page(&self, path: &str) -> Option<(&'static str, Bytes)> {
        let file = match path {
            "/" => ("text/html; charset=utf-8", &include_bytes!("demo/page/index.html")[..]),
            "/demo/page.css" => ("text/css; charset=utf-8", &include_bytes!("demo/page/page.css")[..]),
            "/demo/market.js" => {
                ("text/javascript; charset=utf-8", &include_bytes!("demo/page/market.js")[..])
            }
            "/demo/dom.js" => ("text/javascript; charset=utf-8", &include_bytes!("demo/page/dom.js")[..]),
            "/demo/logs.js" => ("text/javascript; charset=utf-8", &include_bytes!("demo/page/logs.js")[..]),
            "/demo/page.js" => ("text/javascript; charset=utf-8", &include_bytes!("demo/page/page.js")[..]),
            "/demo/icon.svg" => ("image/svg+xml", &include_bytes!("demo/page/icon.svg")[..]),
            "/demo/symbols.json" => return Some(("application/json", self.topics.clone())),
            _ => return None,
        };
        Some((file.0, Bytes::from_static(file.1)))
    }
}

fn topic(symbol: &str) -> String {
    format!("ticker.{symbol}")
}

/// Not every browser counts a WebSocket to the page's own host as `'self'`.
const CONTENT_POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:";

/// A page's answer. Nothing on it comes from another host, and nothing in it is inline.
pub(crate) fn response(content_type: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Runs the demo until a signal ends it. When the usual ports are taken and no address was named, free ones do.
pub fn run(mut config: Config, address_is_given: bool, symbols: usize, rate: f64) -> anyhow::Result<()> {
    check(&config)?;
    // Nobody wants to wait for a balancer and for thousands of clients here.
    config.limits.drain_grace = config.limits.drain_grace.min(Duration::from_millis(100));
    config.limits.drain_window = config.limits.drain_window.min(Duration::from_secs(1));
    let free_ports = Config {
        listen: SocketAddr::new(config.listen.ip(), 0),
        admin: SocketAddr::new(config.admin.ip(), 0),
        ..config.clone()
    };
    let server = match Server::bind(config, Some(Demo::new(symbols))) {
        Err(error) if !address_is_given && !error.is::<ConfigError>() => {
            Server::bind(free_ports, Some(Demo::new(symbols)))?
        }
        bound => bound?,
    };
    let (address, admin) = (server.address, server.admin_address);
    server.serve(|stop| {
        // As in `main`: who started it may not want to know.
        let _ = writeln!(
            io::stdout(),
            "A live market of {symbols} symbols is on  http://{address}/  and a log on  http://{address}/#logs\n\
             Move a price yourself:\n  \
             curl -X POST http://{address}/topics/ticker.BTC-USD -H 'content-type: application/json' \
             -d '{{\"symbol\":\"BTC-USD\",\"bid\":\"1.00\",\"ask\":\"1.01\",\"last\":\"1.00\",\"volume\":\"1\"}}'\n\
             Metrics are on  http://{admin}/metrics   ·   Ctrl-C ends it."
        );
        post_from_a_thread(address, symbols, rate, stop);
    })
}

/// What is published, and what the page subscribes to.
const TOPICS: [&str; 2] = ["ticker.*", "logs.*"];

/// What a gateway may be told and its demo cannot do: the market, the log and the page show no credential and speak no TLS.
fn check(config: &Config) -> Result<(), ConfigError> {
    let mut errors = Vec::new();
    if config.tls_certificate.is_some() {
        errors.push("tls_certificate: the demo speaks no TLS: leave it out".into());
    }
    let names = TOPICS.map(|name| Name::parse(name).expect("it is a pattern"));
    let cover =
        |patterns: &[Pattern]| names.iter().all(|name| patterns.iter().any(|pattern| pattern.covers(name)));
    let anonymous = config.auth.anonymous.as_ref();
    if config.auth.are_given()
        && !anonymous.is_some_and(|scope| cover(&scope.publish) && cover(&scope.subscribe))
    {
        let [prices, lines] = TOPICS;
        errors.push(format!(
            "anonymous: the demo's market, log and page show no credential: let its publish and its subscribe have \
             {prices:?} and {lines:?}, or leave out api_keys, token_keys, jwks and anonymous"
        ));
    }
    if errors.is_empty() { Ok(()) } else { Err(ConfigError(errors)) }
}

/// The market and the log are publishers like any other: a thread of their own that knows the gateway's address and
/// nothing else.
fn post_from_a_thread(address: SocketAddr, symbols: usize, rate: f64, stop: Stop) {
    std::thread::spawn(move || {
        if let Err(error) = post(address, symbols, rate) {
            tracing::error!("the market ended: {error:#}");
        }
        stop.stop();
    });
}

/// Longest pause after an answer that says try again.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// First pause after such an answer.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Longest time without a trade, or a line.
const GAP_MAX: Duration = Duration::from_secs(2);

/// Lines a second, of all topics.
const LOG_RATE: f64 = 5.0;

fn post(address: SocketAddr, symbols: usize, rate: f64) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(&format!("http://{address}")).context("the gateway's own address")?;
        let market = post_market(Post::new(&client), symbols, rate);
        let log = post_log(Post::new(&client));
        tokio::try_join!(market, log).map(|_| ())
    })
}

async fn post_market(mut post: Post, symbols: usize, rate: f64) -> anyhow::Result<()> {
    let mut market = Market::new(symbols, fastrand::u64(..));
    // Every symbol has a price from the start.
    let mut opening = 0..symbols;
    loop {
        let tick = match opening.next() {
            Some(index) => market.tick_of(index),
            None => market.tick(),
        };
        let topic = topic(tick.symbol);
        let mut price = Vec::new();
        tick.write_json(&mut price);
        post.publish(&topic, price).await?;
        if opening.is_empty() {
            sleep(gap(rate)).await;
        }
    }
}

async fn post_log(mut post: Post) -> anyhow::Result<()> {
    let mut log = Log::new(fastrand::u64(..));
    loop {
        let line = log.line();
        post.publish(&line.topic, serde_json::to_vec(&line)?).await?;
        sleep(gap(LOG_RATE)).await;
    }
}

/// Trades come as they come: the time between two of a steady stream is exponentially distributed.
fn gap(rate: f64) -> Duration {
    Duration::from_secs_f64(-(1.0 - fastrand::f64()).ln() / rate).min(GAP_MAX)
}

/// A publisher that goes on when the gateway is busy.
struct Post {
    publisher: Publisher,
    pause: Duration,
}

impl Post {
    fn new(client: &Client) -> Self {
        Self { publisher: client.publisher(), pause: PAUSE_MIN }
    }

    /// Publishes once, and pauses if that was not to be. What will never be is an error.
    async fn publish(&mut self, topic: &str, json: Vec<u8>) -> anyhow::Result<()> {
        match self.publisher.publish(topic, Payload::json(json)).await {
            Ok(_) => self.pause = PAUSE_MIN,
            Err(error @ PublishError::Request(_)) => anyhow::bail!(error),
            Err(PublishError::Refused(refusal)) if matches!(refusal.status, 400..=407 | 409..=428) => {
                anyhow::bail!(refusal)
            }
            // Busy, slow or leaving: a market goes on later.
            Err(_) => {
                sleep(self.pause.mul_f64(fastrand::f64())).await;
                self.pause = (self.pause * 2).min(PAUSE_MAX);
            }
        }
        Ok(())
    }
}
