//! Who gets in, and how much of it: the bounds that a client can meet from outside.
//!
//! | asked | about | refused with |
//! |---|---|---|
//! | at accept ([`connection`]) | the process and the worker | a prebuilt 503 |
//! | when the address is known ([`address`]) | one address | a prebuilt 429, or an answer if a trusted proxy brings the request |
//! | when it becomes a subscriber ([`subscriber`]) | one holder of a credential | 429 |
//! | when a poll waits ([`waiting_poll`]) | one address or holder, if a trusted proxy brings the poll | 429 |
//! | at a publish ([`publish`]) | one publisher, one topic | 429, `rate_limited`, 4102 on a raw WebSocket |
//! | at a poll with a wildcard and a list of topics ([`read`]), and for what it has gone through ([`has_read`]) | one reader | 429 |
//! | at a message of a WebSocket, or a ping ([`command`]), and for the topics it matched ([`matched`]) | one connection | 4102 |
//!
//! An address is that of one client, as well as can be told: loopback and trusted proxies are many clients, and have no
//! bounds of their own; of an IPv6 address the first half counts, because that is the least that a customer is given.
//!
//! Limits are read when they are met: another configuration holds from the next question on.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Instant;

use ahash::RandomState;
use fanfare_wire::Topic;
use fanfare_wire::event::ErrorCode;
use hyper::StatusCode;
use parking_lot::Mutex;
use tokio::task::yield_now;

use crate::client::Client;
use crate::config::Config;
use crate::connection::{Connection, Permit};
use crate::error::{ApiError, RETRY_SECONDS};
use crate::rate::{Meters, Rate};
use crate::subscribe::Refusal;
use crate::worker::Worker;

/// What the process knows of those who came, in bounded space.
pub(crate) struct Admission {
    /// What time is counted from.
    started: Instant,
    /// Open connections of each address, and of each holder of a credential.
    places: Places,
    /// Connections that came from each address, over time.
    handshakes: Meters,
    /// Messages of each publisher.
    publishers: Meters,
    /// Messages to each topic.
    topics: Meters,
    /// What each reader's requests have gone through.
    readers: Meters,
}

impl Admission {
    pub(crate) fn new(rate_entries: usize) -> Self {
        Self {
            started: Instant::now(),
            places: Places::new(),
            handshakes: Meters::new(rate_entries),
            publishers: Meters::new(rate_entries),
            topics: Meters::new(rate_entries),
            readers: Meters::new(rate_entries),
        }
    }

    /// The time, as meters take it.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Gives back what a connection had of its owner.
    pub(crate) fn leave(&self, owner: Key) {
        self.places.leave(owner.get());
    }

    /// Addresses and holders with open connections.
    pub(crate) fn addresses(&self) -> usize {
        self.places.len()
    }

    /// How often somebody who still had to wait was forgotten.
    pub(crate) fn evictions(&self) -> u64 {
        [&self.handshakes, &self.publishers, &self.topics, &self.readers]
            .iter()
            .map(|meters| meters.evictions())
            .sum()
    }
}

// === questions ===

/// A connection of anybody, before anything of it is read.
pub(crate) fn connection(worker: &Rc<Worker>) -> Result<Permit, Bound> {
    let permit = Permit::take(worker).ok_or(Bound::Connections)?;
    if let Some(rate) = worker.shared.config().limits.handshakes_per_second {
        let mut meter = worker.handshakes.get();
        if !meter.take(worker.shared.admission.now(), 1, rate) {
            return Err(Bound::Handshakes);
        }
        worker.handshakes.set(meter);
    }
    Ok(permit)
}

/// One connection more of this address, for as long as `permit` lives or until it is given back. A connection has one address:
/// the first that counts.
pub(crate) fn address(worker: &Worker, address: IpAddr, permit: &Permit) -> Result<(), Bound> {
    let config = worker.shared.config();
    if permit.owner().is_some() {
        return Ok(());
    }
    let Some(key) = bounded(&config, address) else { return Ok(()) };
    let admission = &worker.shared.admission;
    if let Some(rate) = config.limits.address_handshakes_per_second
        && !admission.handshakes.take(key, admission.now(), 1, rate)
    {
        return Err(Bound::AddressHandshakes);
    }
    if !admission.places.enter(key.get(), config.limits.address_connections) {
        return Err(Bound::AddressConnections);
    }
    permit.belong_to(key);
    Ok(())
}

/// One subscriber more of whoever has shown a credential, for as long as `permit` lives. It is not one of its address any
/// more: behind one address there may be many holders. Asked once the credential has been checked.
pub(crate) fn subscriber(worker: &Worker, client: &Client, permit: &Permit) -> Result<(), Bound> {
    let Some(holder) = client.holder().filter(|holder| permit.owner() != Some(*holder)) else {
        return Ok(());
    };
    let max = worker.shared.config().limits.token_connections;
    if !worker.shared.admission.places.enter(holder.get(), max) {
        return Err(counted(worker, Bound::TokenConnections));
    }
    permit.belong_to(holder);
    Ok(())
}

/// A place for a poll that waits, for as long as it waits. On a connection of its own it has one; a trusted proxy's connection
/// counts for nobody, so that the poll counts for whoever sent it.
pub(crate) fn waiting_poll<'a>(worker: &'a Worker, client: &Client) -> Result<Option<Place<'a>>, Bound> {
    if !client.is_forwarded {
        return Ok(None);
    }
    let config = worker.shared.config();
    let limits = &config.limits;
    let (owner, max, bound) = match (client.holder(), bounded(&config, client.address)) {
        (Some(holder), _) => (holder, limits.token_connections, Bound::TokenConnections),
        (None, Some(address)) => (address, limits.address_connections, Bound::AddressConnections),
        (None, None) => return Ok(None),
    };
    let admission = &worker.shared.admission;
    if !admission.places.enter(owner.get(), max) {
        return Err(counted(worker, bound));
    }
    Ok(Some(Place { admission, owner }))
}

/// A place of an owner without a connection of its own.
pub(crate) struct Place<'a> {
    admission: &'a Admission,
    owner: Key,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.admission.leave(self.owner);
    }
}

/// Whether this client may publish at all now: asked before a body is read.
pub(crate) fn publisher(worker: &Worker, client: &Client) -> Result<(), Bound> {
    let config = worker.shared.config();
    let admission = &worker.shared.admission;
    if let Some(rate) = config.limits.publishes_per_second
        && let Some(key) = client_key(&config, client)
        && !admission.publishers.has_room(key, admission.now(), rate)
    {
        return Err(counted(worker, Bound::Publishes));
    }
    Ok(())
}

/// So many messages of this client to this topic.
pub(crate) fn publish(worker: &Worker, client: &Client, topic: &Topic, count: usize) -> Result<(), Bound> {
    let config = worker.shared.config();
    let limits = &config.limits;
    let publisher = limits.publishes_per_second.zip(client_key(&config, client));
    if publisher.is_none() && limits.topic_publishes_per_second.is_none() {
        return Ok(());
    }
    let admission = &worker.shared.admission;
    let (now, count) = (admission.now(), count as u64);
    // Who is refused for a topic has not published.
    if let Some((rate, key)) = publisher
        && !admission.publishers.has_room(key, now, rate)
    {
        return Err(counted(worker, Bound::Publishes));
    }
    if let Some(rate) = limits.topic_publishes_per_second
        && !admission.topics.take(topic.as_str(), now, count, rate)
    {
        return Err(counted(worker, Bound::TopicPublishes));
    }
    if let Some((rate, key)) = publisher {
        admission.publishers.take(key, now, count, rate);
    }
    Ok(())
}

/// One request that goes through topics: a list, or a poll with a wildcard. Others have their turn before it does.
pub(crate) async fn read(worker: &Worker, client: &Client) -> Result<(), Bound> {
    let taken = {
        let config = worker.shared.config();
        let admission = &worker.shared.admission;
        let reader = config.limits.reads_per_second.zip(client_key(&config, client));
        reader.is_none_or(|(rate, key)| admission.readers.take(key, admission.now(), 1, rate))
    };
    if !taken {
        return Err(counted(worker, Bound::Reads));
    }
    // Requests that came together are answered in one turn of their connection.
    yield_now().await;
    Ok(())
}

/// What such a request cost beyond itself.
pub(crate) fn has_read(worker: &Worker, client: &Client, topics: usize) {
    let more = price(topics);
    let config = worker.shared.config();
    if more > 0
        && let Some((rate, key)) = config.limits.reads_per_second.zip(client_key(&config, client))
    {
        let admission = &worker.shared.admission;
        admission.readers.owe(key, admission.now(), more, rate);
    }
}

/// One message of a WebSocket, however many fragments it has, or one control frame. `rate` is `Limits::commands_per_second`,
/// and `now` is of [`Admission::now`]: of many frames at once, both are read once.
pub(crate) fn command(worker: &Worker, connection: &Connection, now: u64, rate: Rate) -> Result<(), Bound> {
    let mut meter = connection.commands.get();
    if !meter.take(now, 1, rate) {
        return Err(counted(worker, Bound::Commands));
    }
    connection.commands.set(meter);
    Ok(())
}

/// What a command cost beyond its message: so many topics were gone through.
pub(crate) fn matched(worker: &Worker, connection: &Connection, topics: usize) {
    let more = price(topics);
    if more > 0
        && let Some(rate) = worker.shared.config().limits.commands_per_second
    {
        let mut meter = connection.commands.get();
        meter.owe(worker.shared.admission.now(), more, rate);
        connection.commands.set(meter);
    }
}

/// So many topics cost as much as a message or a request for itself.
const TOPICS_OF_ONE: usize = 100;

/// What going through so many topics costs, beyond what went through them.
fn price(topics: usize) -> u64 {
    (topics / TOPICS_OF_ONE) as u64
}

/// The bound, once it is counted.
pub(crate) fn counted(worker: &Worker, bound: Bound) -> Bound {
    worker.counters().refused(bound);
    bound
}

// === addresses ===

/// Who counts as one: an address, or the holder of a credential.
pub(crate) type Key = NonZeroU64;

/// The key of a holder, which no address has but by an accident of 64 bits.
pub(crate) fn holder_key(holder: impl Hash) -> Key {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    HASHER.hash_one(holder).try_into().unwrap_or(Key::MAX)
}

/// Whose messages and reads a client's are, if they count.
fn client_key(config: &Config, client: &Client) -> Option<Key> {
    client.holder().or_else(|| bounded(config, client.address))
}

/// The key of an address that has bounds of its own.
fn bounded(config: &Config, address: IpAddr) -> Option<Key> {
    if address.is_loopback() || config.trusts(address) {
        return None;
    }
    NonZeroU64::new(match address {
        // Where IPv6 has no networks.
        IpAddr::V4(address) => 1 << 32 | u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    })
}

/// How many shards share the places, each under its own lock.
const SHARDS: usize = 64;

/// How many are open of each: as many entries as there are open connections, at most.
struct Places([Mutex<HashMap<u64, u32, RandomState>>; SHARDS]);

impl Places {
    fn new() -> Self {
        let hasher = RandomState::new();
        Self(std::array::from_fn(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))))
    }

    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, u32, RandomState>> {
        // The networks of neighbours differ in their last bits, or, in IPv6, in the middle.
        &self.0[(key ^ key >> 16 ^ key >> 32) as usize % SHARDS]
    }

    /// One more, up to `max`.
    fn enter(&self, key: u64, max: usize) -> bool {
        let mut shard = self.shard(key).lock();
        let open = shard.entry(key).or_default();
        if *open as usize >= max {
            return false;
        }
        *open += 1;
        true
    }

    /// One less.
    fn leave(&self, key: u64) {
        let mut shard = self.shard(key).lock();
        let Some(open) = shard.get_mut(&key) else { return };
        *open -= 1;
        if *open == 0 {
            shard.remove(&key);
            // After a crowd, its memory is given back.
            if shard.capacity() > 64 + 4 * shard.len() {
                let room = 2 * shard.len();
                shard.shrink_to(room);
            }
        }
    }

    fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.lock().len()).sum()
    }
}

// === refusals ===

/// How many bounds there are.
pub(crate) const BOUNDS: usize = Bound::ALL.len();

macro_rules! bounds {
    ($($bound:ident = $label:literal, $status:literal, $code:ident, $message:literal;)*) => {
        /// A bound that somebody met.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Bound {
            $(#[doc = $message] $bound,)*
        }

        impl Bound {
            /// Every bound, in the order of its number.
            pub(crate) const ALL: &[Self] = &[$(Self::$bound),*];

            /// The value of the label `limit` of `fanfare_refusals_total`: the row of `limits`, and `files`.
            pub(crate) const fn label(self) -> &'static str {
                match self {
                    $(Self::$bound => $label,)*
                }
            }

            /// The status, the code and the words of the answer.
            const fn words(self) -> (u16, ErrorCode, &'static str) {
                match self {
                    $(Self::$bound => ($status, ErrorCode::$code, $message),)*
                }
            }
        }
    };
}

bounds! {
    Connections = "connections", 503, Limit, "too many connections";
    Handshakes = "handshakes_per_second", 503, RateLimited, "too many new connections at once";
    Files = "files", 503, Limit, "the server is out of file descriptors";
    AddressConnections = "address_connections", 429, Limit, "too many connections from this address";
    AddressHandshakes = "address_handshakes_per_second", 429, RateLimited, "too many new connections from this address at once";
    TokenConnections = "token_connections", 429, Limit, "too many connections with this credential";
    ProxyHeaderTimeout = "proxy_header_timeout", 408, Timeout, "no PROXY header came";
    FirstRequestTimeout = "first_request_timeout", 408, Timeout, "no request came";
    HeaderTimeout = "header_timeout", 408, Timeout, "the request came too slowly";
    Subscriptions = "subscriptions", 400, Limit, "the connection has as many subscriptions as it may";
    Patterns = "patterns", 503, Limit, "the gateway has as many wildcards as it may";
    WildcardTopics = "wildcard_topics", 400, Limit, "more topics match than a wildcard may bring";
    Topics = "topics", 503, Limit, "the gateway has as many topics as it may";
    PollBytes = "inflight_poll_bytes", 503, Unavailable, "too many answers to polls at once";
    HeaderBytes = "header_bytes", 431, TooLarge, "the request's header is too long";
    Commands = "commands_per_second", 429, RateLimited, "too many messages at once";
    Publishes = "publishes_per_second", 429, RateLimited, "too many messages at once";
    TopicPublishes = "topic_publishes_per_second", 429, RateLimited, "too many messages of this topic at once";
    Reads = "reads_per_second", 429, RateLimited, "too many polls and lists at once";
}

/// What is written where nothing was read, for each bound and each of [`RETRY_SECONDS`].
static ANSWERS: LazyLock<Vec<Vec<String>>> = LazyLock::new(|| {
    Bound::ALL
        .iter()
        .map(|bound| RETRY_SECONDS.map(|seconds| ApiError::from(*bound).last_answer(seconds, "")).collect())
        .collect()
});

impl Bound {
    /// Why a part of a request is refused.
    pub(crate) fn refusal(self) -> Refusal {
        let (_, code, message) = self.words();
        (code, message)
    }

    /// A whole answer, after which the connection is closed.
    pub(crate) fn answer(self) -> &'static [u8] {
        let answers = &ANSWERS[self as usize];
        answers[fastrand::usize(..answers.len())].as_bytes()
    }
}

impl From<Bound> for ApiError {
    fn from(bound: Bound) -> Self {
        let (status, code, message) = bound.words();
        Self::new(StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE), code, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LIMITS;

    #[test]
    fn each_bound_is_a_row_of_the_limits() {
        for bound in Bound::ALL {
            let is_row = LIMITS.iter().any(|row| row.name == bound.label());
            assert!(is_row || *bound == Bound::Files, "{}", bound.label());
        }
    }

    #[test]
    fn a_refusal_is_a_whole_answer() {
        for bound in Bound::ALL {
            let text = std::str::from_utf8(bound.answer()).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{text}");
            let error: serde_json::Value = serde_json::from_str(body).unwrap();
            assert!(error["error"]["code"].is_string() && error["error"]["message"].is_string(), "{text}");
            let status = &head["HTTP/1.1 ".len()..][..3];
            assert_eq!(head.contains("\r\nretry-after: "), matches!(status, "429" | "503"), "{text}");
        }
        let retries: std::collections::HashSet<_> =
            (0..200).map(|_| Bound::Connections.answer().as_ptr()).collect();
        assert_eq!(retries.len(), 5, "the times to come back are spread");
    }

    #[test]
    fn one_client_is_one_address() {
        let overrides = [("trusted_proxies".to_owned(), "10.0.0.0/8".to_owned())];
        let config = Config::load(None, &overrides).unwrap();
        let key = |address: &str| bounded(&config, address.parse().unwrap());
        let same =
            |one: &str, other: &str| assert_eq!(key(one).unwrap(), key(other).unwrap(), "{one} {other}");
        let differ =
            |one: &str, other: &str| assert_ne!(key(one).unwrap(), key(other).unwrap(), "{one} {other}");
        same("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff");
        differ("2001:db8::1", "2001:db8:0:1::1");
        differ("192.0.2.1", "192.0.2.2");
        differ("0.0.0.0", "0.0.0.1");
        for exempt in ["127.0.0.1", "127.9.9.9", "::1", "10.1.2.3"] {
            assert_eq!(key(exempt), None, "{exempt}");
        }
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let places = Places::new();
        assert!(places.enter(1, 2) && places.enter(1, 2) && !places.enter(1, 2));
        assert!(places.enter(2, 2));
        places.leave(1);
        assert!(places.enter(1, 2) && !places.enter(1, 2));
        assert_eq!(places.len(), 2);
        for key in [1, 1, 2, 7] {
            places.leave(key);
        }
        assert_eq!(places.len(), 0);

        (0..100_000).for_each(|key| assert!(places.enter(key, 1)));
        (0..100_000).for_each(|key| places.leave(key));
        let room: usize = places.0.iter().map(|shard| shard.lock().capacity()).sum();
        assert!(room < 64 * 100, "room for {room} stays");
    }
}
