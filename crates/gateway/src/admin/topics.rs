//! Topics as operators see them: the busiest, those with the most subscribers, and the largest.
//!
//! How busy a topic is, is not counted by anybody: all topics are looked at twice, and their offsets compared.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use fanfare_registry::Info;
use fanfare_wire::{Pattern, Position, Topic};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::{choice, max};
use crate::clock::milliseconds;
use crate::error::{ApiError, Body, json};
use crate::query::Query;
use crate::server::Shared;

/// So many topics are looked at before others have their turn.
const LOOK_STEP: usize = 1024;

/// The longest time between two looks, in seconds.
const SECONDS_MAX: u64 = 10;

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sort {
    Rate,
    Subscribers,
    Bytes,
}

/// A topic in the list.
#[derive(Serialize)]
struct Shown {
    topic: String,
    /// Messages per second between the two looks.
    rate: f64,
    subscribers: usize,
    retained_bytes: usize,
    offset: u64,
    /// Since its last message, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<u64>,
}

/// `GET /topics?sort=rate|subscribers|bytes&max=100&seconds=1`
pub(super) async fn list(
    shared: &Shared,
    query: &Query,
    one_at_a_time: &Semaphore,
) -> Result<Response<Body>, ApiError> {
    #[derive(Serialize)]
    struct List {
        /// All there are, shown or not.
        topics: usize,
        shown: Vec<Shown>,
    }
    let words = [("rate", Sort::Rate), ("subscribers", Sort::Subscribers), ("bytes", Sort::Bytes)];
    let sort = choice(query, "sort", &words)?;
    let max = max(query, shared.config().limits.list_topics)?;
    let seconds = query.number("seconds")?.unwrap_or(1);
    if !(1..=SECONDS_MAX).contains(&seconds) {
        return Err(ApiError::bad_request(format!("seconds is 1 to {SECONDS_MAX}")));
    }
    let _permit = one_at_a_time.try_acquire();
    let _permit = _permit.map_err(|_| ApiError::unavailable("another look at all topics is under way"))?;
    let mut before = HashMap::new();
    let first = look(shared, |topic, position| {
        before.insert(topic, position);
    })
    .await?;
    sleep(Duration::from_secs(seconds)).await;
    let mut found: Vec<(f64, Topic)> = Vec::new();
    let second = look(shared, |topic, position| {
        found.push((news(before.get(&topic), position), topic));
    })
    .await?;
    let between = second.duration_since(first).as_secs_f64();
    let topics = found.len();
    let shown = match sort {
        Sort::Rate => {
            found.sort_unstable_by(|one, other| other.0.total_cmp(&one.0));
            found.truncate(max);
            describe(shared, found, between).await
        }
        Sort::Subscribers | Sort::Bytes => {
            let mut shown = describe(shared, found, between).await;
            let key = |shown: &Shown| match sort {
                Sort::Subscribers => shown.subscribers,
                _ => shown.retained_bytes,
            };
            shown.sort_unstable_by_key(|shown| Reverse(key(shown)));
            shown.truncate(max);
            shown
        }
    };
    Ok(json(StatusCode::OK, &List { topics, shown }))
}

/// How many messages came since the first look. A topic that was not there, or counts anew, began in between.
fn news(before: Option<&Position>, after: Position) -> f64 {
    match before {
        Some(before) if before.epoch == after.epoch => after.offset.saturating_sub(before.offset) as f64,
        _ => after.offset as f64,
    }
}

/// Hands each topic and its place to `see`, and says when it began.
async fn look(shared: &Shared, mut see: impl FnMut(Topic, Position)) -> Result<Instant, ApiError> {
    let began = Instant::now();
    let all = Pattern::new(">")?;
    let mut after: Option<String> = None;
    loop {
        let page = shared.dispatch.registry.list(&all, after.as_deref(), LOOK_STEP);
        let is_last = page.len() < LOOK_STEP;
        after = page.last().map(|(topic, _)| topic.as_str().to_owned());
        page.into_iter().for_each(|(topic, position)| see(topic, position));
        if is_last {
            return Ok(began);
        }
        yield_now().await;
    }
}

async fn describe(shared: &Shared, found: Vec<(f64, Topic)>, between: f64) -> Vec<Shown> {
    let mut shown = Vec::with_capacity(found.len());
    for (index, (messages, topic)) in found.into_iter().enumerate() {
        if index % LOOK_STEP == LOOK_STEP - 1 {
            yield_now().await;
        }
        // It may be forgotten by now.
        let Some(info) = shared.dispatch.registry.info(&topic, Instant::now()) else { continue };
        let Info { position, retained_bytes, subscribers, age, .. } = info;
        shown.push(Shown {
            topic: topic.as_str().to_owned(),
            rate: (messages / between * 10.0).round() / 10.0,
            subscribers,
            retained_bytes,
            offset: position.offset,
            age_ms: age.map(milliseconds),
        });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_wire::Epoch;

    #[test]
    fn what_is_new_is_counted_within_an_epoch() {
        fn check(before: Option<(u64, u64)>, after: (u64, u64), expect: f64) {
            let position = |(epoch, offset)| Position { epoch: Epoch::new(epoch), offset };
            assert_eq!(news(before.map(position).as_ref(), position(after)), expect, "{before:?} {after:?}");
        }
        check(Some((1, 5)), (1, 8), 3.0);
        check(Some((1, 5)), (1, 5), 0.0);
        check(Some((1, 5)), (2, 2), 2.0);
        check(None, (1, 4), 4.0);
    }
}
