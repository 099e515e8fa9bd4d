//! Log lines of a shop that never was: requests, queries, sign-ins and charges, and now and then something goes wrong.
//!
//! Levels are drawn for each line, and are not even: trouble comes in bursts of a few lines of one service.

use fastrand::Rng;
use serde::Serialize;

use crate::clock;

/// What each topic is published under, `logs.` before it.
const SERVICES: [&str; 4] = ["web", "api", "db", "auth"];

/// Out of a hundred lines of a service without trouble.
const DEBUG_PERCENT: u32 = 12;
const WARN_PERCENT: u32 = 5;

/// Out of a hundred lines, how many begin a burst of trouble, and how many lines that has at most.
const TROUBLE_PERCENT: u32 = 2;
const TROUBLE_LINES_MAX: u32 = 5;

/// Writes one line after the other.
pub(super) struct Log {
    random: Rng,
    /// The service in trouble, and for how many more lines.
    trouble: (usize, u32),
}

/// One line: `{"time":1735689600123,"level":"info","host":"web-2","text":"GET /cart 200 in 12 ms"}`.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    #[serde(skip)]
    pub(super) topic: String,
    /// Milliseconds since 1970.
    time: u64,
    level: &'static str,
    host: String,
    text: String,
}

impl Log {
    /// The same seed gives the same lines, but for their times.
    pub(super) fn new(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed), trouble: (0, 0) }
    }

    /// The topics of all lines.
    #[cfg(test)]
    fn topics() -> impl Iterator<Item = String> {
        SERVICES.iter().map(|service| format!("logs.{service}"))
    }

    /// The next line, written now.
    pub(super) fn line(&mut self) -> Line {
        let random = &mut self.random;
        let percent = random.u32(..100);
        if self.trouble.1 == 0 && percent < TROUBLE_PERCENT {
            self.trouble = (random.usize(..SERVICES.len()), random.u32(2..=TROUBLE_LINES_MAX));
        }
        let (service, level) = if self.trouble.1 > 0 {
            self.trouble.1 -= 1;
            (self.trouble.0, if random.bool() { "error" } else { "warn" })
        } else {
            let level = match random.u32(..100) {
                draw if draw < DEBUG_PERCENT => "debug",
                draw if draw < DEBUG_PERCENT + WARN_PERCENT => "warn",
                _ => "info",
            };
            // The web server says the most.
            (random.usize(..SERVICES.len() + 2).saturating_sub(2), level)
        };
        let service = SERVICES[service];
        let time = clock::unix();
        Line {
            topic: format!("logs.{service}"),
            time: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            level,
            host: format!("{service}-{}", random.u32(1..=3)),
            text: text(service, level, random),
        }
    }
}

fn text(service: &str, level: &str, random: &mut Rng) -> String {
    let order = random.u32(100_000..999_999);
    let user = random.u32(1_000..9_999);
    let ms = 2 + random.u32(..12) * random.u32(1..9);
    let slow = random.u32(900..6_000);
    match (service, level) {
        ("web", "debug") => format!("keep-alive connection reused, {} idle", random.u32(2..40)),
        ("web", "info") => {
            let path = page(random, order);
            let status = if random.u32(..12) == 0 { 304 } else { 200 };
            format!("GET {path} {status} in {ms} ms")
        }
        ("web", "warn") => format!("GET {} 200 in {slow} ms, slower than 800 ms", page(random, order)),
        ("web", _) => format!("GET {} 502: upstream api-{} refused", page(random, order), random.u32(1..=3)),
        ("api", "debug") => format!("cache hit product:{}", order % 1000),
        ("api", "info") => match random.u32(..3) {
            0 => format!("order {order} placed by user {user}, {} items", random.u32(1..6)),
            1 => format!("order {order} shipped from warehouse {}", random.u32(1..4)),
            _ => format!("charge for order {order} accepted in {ms} ms"),
        },
        ("api", "warn") => format!("charge for order {order} retried, attempt {}", random.u32(2..4)),
        ("api", _) => format!("charge for order {order} failed: card declined"),
        ("db", "debug") => format!("plan cached for SELECT orders, {ms} rows"),
        ("db", "info") => match random.u32(..3) {
            0 => format!("checkpoint complete: {} pages in {ms} ms", random.u32(40..900)),
            1 => format!("connection from api-{} authorised", random.u32(1..=3)),
            _ => format!("vacuum of orders removed {} rows", random.u32(10..4_000)),
        },
        ("db", "warn") => format!("query took {slow} ms: SELECT * FROM orders WHERE user_id = {user}"),
        ("db", _) => format!("deadlock on orders: transaction {order} rolled back"),
        (_, "debug") => format!("session of user {user} extended by 30 min"),
        (_, "info") => {
            format!("user {user} signed in with {}", if random.bool() { "passkey" } else { "password" })
        }
        (_, "warn") => format!("user {user}: wrong password, attempt {}", random.u32(2..5)),
        _ => format!("user {user} locked out after 5 attempts"),
    }
}

fn page(random: &mut Rng, order: u32) -> String {
    match random.u32(..5) {
        0 => "/".to_owned(),
        1 => "/cart".to_owned(),
        2 => format!("/orders/{order}"),
        3 => "/search?q=kettle".to_owned(),
        _ => format!("/products/{}", order % 1000),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_service_writes_and_most_lines_are_no_trouble() {
        let mut log = Log::new(7);
        let (mut topics, mut levels) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..10_000 {
            let line = log.line();
            assert!(!line.text.is_empty() && line.text.len() < 100, "{line:?}");
            *levels.entry(line.level).or_insert(0) += 1;
            *topics.entry(line.topic).or_insert(0) += 1;
        }
        assert!(Log::topics().all(|topic| topics[&topic] > 1_000), "{topics:?}");
        let trouble = levels["warn"] + levels["error"];
        assert!((500..2_500).contains(&trouble) && levels["error"] > 100, "{levels:?}");
        assert!(levels["info"] > 6_000 && levels["debug"] > 500, "{levels:?}");
    }
}
