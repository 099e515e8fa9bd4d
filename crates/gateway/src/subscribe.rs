//! From a wish to a subscription: the registry's interest, the shard's tie, and how it begins.
//!
//! Interest is registered before the place is read, and the tie is made before anything else runs on this thread: no
//! message falls between what is replayed and what comes live.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use fanfare_fanout::{Announce, Beginning, Left, Shard, SubscribeError, SubscriberId, Wish};
use fanfare_registry::{JoinError, Joined};
use fanfare_wire::command::{Policy, Start, Wanted};
use fanfare_wire::event::{self, ErrorCode, Subscribed};
use fanfare_wire::{Name, Pattern, Position, Topic, TopicError};

use crate::admission::{self, Bound};
use crate::client::Client;
use crate::error::ApiError;
use crate::query::Query;
use crate::transport::disconnect::DisconnectReason;
use crate::worker::Worker;

/// A subscription that was made.
#[derive(Debug)]
pub(crate) struct Begun<'a> {
    /// What the client is told.
    pub(crate) acknowledgement: Subscribed<'a>,
    /// What it gets after that.
    pub(crate) beginnings: Vec<Beginning>,
    /// Answers a place that was named for a topic.
    pub(crate) recovered: Option<bool>,
    /// The topic's place; of a pattern, nothing.
    pub(crate) position: Option<Position>,
}

/// Why a subscription is refused: for programs, and for people.
pub(crate) type Refusal = (ErrorCode, &'static str);

/// Subscribes to each for itself, as one request: its acknowledgements, what follows them, and how many topics its
/// wildcards have gone through.
pub(crate) fn subscribe_to_all<'a>(
    worker: &Worker,
    id: SubscriberId,
    client: &Client,
    wanted: &'a [Wanted<'_>],
) -> (Vec<Subscribed<'a>>, Vec<Beginning>, usize) {
    let max = worker.shared.config().limits.wildcard_topics;
    let mut matches = 0;
    let (mut acknowledgements, mut beginnings) = (Vec::with_capacity(wanted.len()), Vec::new());
    for (wanted, begun) in wanted.iter().zip(subscribe_to_each(worker, id, client, wanted)) {
        matches += walked(&begun, max);
        acknowledgements.push(match begun {
            Ok(begun) => {
                beginnings.extend(begun.beginnings);
                begun.acknowledgement
            }
            Err((code, message)) => {
                Subscribed::Refused { topic: clipped(&wanted.topic), error: event::Refusal { code, message } }
            }
        });
    }
    (acknowledgements, beginnings, matches)
}

/// The same, one by one. Once the wildcards of a request have matched `Limits::wildcard_topics` topics, further ones are
/// refused: the topics of each are gone through at once, and others wait meanwhile.
pub(crate) fn subscribe_to_each<'a>(
    worker: &Worker,
    id: SubscriberId,
    client: &Client,
    wanted: &'a [Wanted<'_>],
) -> impl Iterator<Item = Result<Begun<'a>, Refusal>> {
    let max = worker.shared.config().limits.wildcard_topics;
    let mut left = max;
    wanted.iter().map(move |wanted| {
        if left == 0 && wanted.topic.contains(['*', '>']) {
            let (code, _) = admission::counted(worker, Bound::WildcardTopics).refusal();
            return Err((code, "more topics match than one request may bring"));
        }
        let begun = subscribe(worker, id, client, wanted);
        left = left.saturating_sub(walked(&begun, max));
        begun
    })
}

/// How many topics a wildcard has gone through: as many as it may where it matches more.
fn walked(begun: &Result<Begun<'_>, Refusal>, max: usize) -> usize {
    match begun {
        Ok(Begun { acknowledgement: Subscribed::Matched { matched, .. }, .. }) => *matched,
        Err(refusal) if *refusal == Bound::WildcardTopics.refusal() => max,
        _ => 0,
    }
}

/// A refused name is somebody's input of any length.
pub(crate) fn clipped(name: &str) -> &str {
    name.char_indices().nth(Topic::BYTES_MAX).map_or(name, |(end, _)| &name[..end])
}

/// Subscribes to a topic or a pattern, if the client may.
pub(crate) fn subscribe<'a>(
    worker: &Worker,
    id: SubscriberId,
    client: &Client,
    wanted: &'a Wanted<'_>,
) -> Result<Begun<'a>, Refusal> {
    let name = Name::parse(&wanted.topic).map_err(|error| (ErrorCode::BadTopic, advice(error)))?;
    client.may_subscribe(&name)?;
    let wish = match (wanted.interval, wanted.policy) {
        (Some(_), _) => Wish::Paced,
        (None, Some(Policy::Latest)) => Wish::Latest,
        (None, Some(Policy::Queue)) => Wish::Queue,
        (None, None) => Wish::AsTopic,
    };
    let begun = match &name {
        Name::Topic(topic) => {
            if !wanted.positions.is_empty() {
                return Err((ErrorCode::BadRequest, "\"positions\" belong to a wildcard"));
            }
            subscribe_to_topic(worker, id, topic, wanted, wish)?
        }
        Name::Pattern(pattern) => subscribe_to_pattern(worker, id, pattern, wanted, wish)?,
    };
    if let Some(interval) = wanted.interval {
        worker.shard.borrow_mut().pace(id, &name, interval);
        worker.paced.notify_one();
    }
    match begun.recovered {
        Some(true) => worker.counters().recoveries_whole.add(1),
        Some(false) => worker.counters().recoveries_partial.add(1),
        None => {}
    }
    worker.count_topics();
    Ok(begun)
}

fn subscribe_to_topic<'a>(
    worker: &Worker,
    id: SubscriberId,
    topic: &Topic,
    wanted: &'a Wanted<'_>,
    wish: Wish,
) -> Result<Begun<'a>, Refusal> {
    let registry = &worker.shared.dispatch.registry;
    let now = Instant::now();
    let mut shard = worker.shard.borrow_mut();
    if shard.is_subscribed(id, topic) {
        // A connection gets one copy of a topic: a second subscription is acknowledged, and replays nothing.
        let info = registry.info(topic, now).ok_or((ErrorCode::Unavailable, "the topic is gone"))?;
        let Position { epoch, offset } = info.position;
        let acknowledgement = Subscribed::Accepted {
            topic: &wanted.topic,
            epoch,
            offset,
            recovered: None,
            replay: 0,
            policy: told(worker, &mut shard, topic, wish, now),
        };
        let position = Some(info.position);
        return Ok(Begun { acknowledgement, beginnings: Vec::new(), recovered: None, position });
    }
    shard.may_subscribe(id).map_err(|error| refusal(worker, error))?;
    let joined = registry
        .join(topic, worker.index, &wanted.start, now)
        .map_err(|error| met(worker, error).refusal())?;
    let Joined { position, mut replay, mut recovered, age } = joined;
    // The checks above are all that can refuse.
    if !shard.subscribe(id, topic, wish, position.offset).unwrap_or(false) {
        // A pattern of this connection brings the topic already: what came before is not to come behind that.
        recovered = recovered.map(|recovered| recovered && (is_shared(&wanted.start) || replay.is_empty()));
        replay.clear();
    }
    let stale = shard.note_age(topic, age, now);
    let acknowledgement = Subscribed::Accepted {
        topic: &wanted.topic,
        epoch: position.epoch,
        offset: position.offset,
        recovered,
        replay: replay.len(),
        policy: told(worker, &mut shard, topic, wish, now),
    };
    let beginning = Beginning { topic: topic.clone(), announce: None, stale, messages: replay };
    Ok(Begun { acknowledgement, beginnings: vec![beginning], recovered, position: Some(position) })
}

fn subscribe_to_pattern<'a>(
    worker: &Worker,
    id: SubscriberId,
    pattern: &Pattern,
    wanted: &'a Wanted<'_>,
    wish: Wish,
) -> Result<Begun<'a>, Refusal> {
    let registry = &worker.shared.dispatch.registry;
    let now = Instant::now();
    let mut shard = worker.shard.borrow_mut();
    if shard.is_subscribed_to_pattern(id, pattern) {
        let matched = registry.count(pattern);
        let acknowledgement = Subscribed::Matched { topic: &wanted.topic, matched, recovered: None };
        return Ok(Begun { acknowledgement, beginnings: Vec::new(), recovered: None, position: None });
    }
    shard.may_subscribe(id).map_err(|error| refusal(worker, error))?;
    let positions: HashMap<&str, &Start<'_>> =
        wanted.positions.iter().map(|(topic, start)| (topic.as_str(), start)).collect();
    let start = |topic: &Topic| (*positions.get(topic.as_str()).unwrap_or(&&wanted.start)).clone();
    let joined = registry
        .join_pattern(pattern, worker.index, start, now)
        .map_err(|error| met(worker, error).refusal())?;
    let matched = joined.len();
    let new: Vec<bool> = joined.iter().map(|(topic, _)| !shard.is_covered(id, topic)).collect();
    let recovered = joined.iter().zip(&new).filter(|((_, joined), new)| {
        // What another subscription brings already begins as that did.
        joined.recovered == Some(true) && (**new || is_shared(&wanted.start) || joined.replay.is_empty())
    });
    let recovered: HashSet<&str> = recovered.map(|((topic, _), _)| topic.as_str()).collect();
    let recovered = match &wanted.start {
        // A topic that is forgotten is not among those that match, and may have had messages behind that place.
        Start::Since { epoch, sequence } => {
            let is_known = epoch.parse() == Ok(registry.epoch())
                && (registry.forgotten_through()..=registry.watermark()).contains(sequence);
            Some(is_known && recovered.len() == matched)
        }
        _ if positions.is_empty() => None,
        // A place in a topic that is forgotten cannot be recovered.
        _ => Some(positions.keys().all(|topic| recovered.contains(topic))),
    };
    let starts = joined.iter().map(|(topic, joined)| (topic.clone(), joined.position.offset));
    // The checks above are all that can refuse.
    let _ = shard.subscribe_pattern(id, pattern, wish, starts);
    let beginnings = joined.into_iter().zip(new).filter(|(_, new)| *new).map(|((topic, joined), _)| {
        let Joined { position, replay, recovered, age } = joined;
        let stale = shard.note_age(&topic, age, now);
        let policy = told(worker, &mut shard, &topic, wish, now);
        Beginning { topic, announce: Some(Announce { position, recovered, policy }), stale, messages: replay }
    });
    let beginnings = beginnings.collect();
    let acknowledgement = Subscribed::Matched { topic: &wanted.topic, matched, recovered };
    Ok(Begun { acknowledgement, beginnings, recovered, position: None })
}

/// What a subscriber is told of a topic that it was tied to. That is asked after the tie was made, and what holds is not
/// older than what is told: so a reload in this moment promises nobody too much.
fn told(worker: &Worker, shard: &mut Shard, topic: &Topic, wish: Wish, now: Instant) -> Option<&'static str> {
    let policy = wish.policy(worker.shared.config().settings(topic).slow);
    let registry = &worker.shared.dispatch.registry;
    shard.review(topic, now, |topic| registry.info(topic, now).and_then(|info| info.age));
    policy.announced()
}

/// Ends a subscription. `None` if there is none; else how many topics it brought, if the connection can go on.
pub(crate) fn unsubscribe(
    worker: &Worker,
    id: SubscriberId,
    name: &Name,
) -> Option<Result<usize, DisconnectReason>> {
    let unsubscribed = worker.shard.borrow_mut().unsubscribe(id, name)?;
    worker.leave(&[unsubscribed.left]);
    // What another subscription of it misses in this very moment is not known.
    Some(if unsubscribed.torn { Err(DisconnectReason::Gap) } else { Ok(unsubscribed.topics) })
}

/// Takes back what [`subscribe`] registered.
pub(crate) fn leave(worker: &Worker, ties: &[Left]) {
    let registry = &worker.shared.dispatch.registry;
    for Left { name, last } in ties {
        match name {
            Name::Topic(topic) => registry.leave(topic, worker.index, *last),
            Name::Pattern(pattern) => registry.leave_pattern(pattern, worker.index, *last),
        }
    }
}

/// Whether all subscriptions of a stream begin at this place.
fn is_shared(start: &Start<'_>) -> bool {
    matches!(start, Start::Since { .. })
}

fn refusal(worker: &Worker, error: SubscribeError) -> Refusal {
    match error {
        SubscribeError::TooMany => admission::counted(worker, Bound::Subscriptions).refusal(),
        SubscribeError::Closing => (ErrorCode::Unavailable, "the connection is closing"),
    }
}

/// The bound that was met, once it is counted.
pub(crate) fn met(worker: &Worker, error: JoinError) -> Bound {
    let bound = match error {
        JoinError::TooManyTopics => Bound::Topics,
        JoinError::TooManyMatches => Bound::WildcardTopics,
        JoinError::TooManyPatterns => Bound::Patterns,
    };
    admission::counted(worker, bound)
}

/// The names that a request asks for, each once: `Limits::subscriptions` at most.
pub(crate) fn names(worker: &Worker, query: &Query) -> Result<Vec<Name>, ApiError> {
    let names = query.names(worker.shared.config().limits.subscriptions);
    names.inspect_err(|error| {
        if error.code == ErrorCode::Limit {
            worker.counters().refused(Bound::Subscriptions);
        }
    })
}

fn advice(error: TopicError) -> &'static str {
    match error {
        TopicError::Length => "a topic name has 1 to 200 bytes",
        TopicError::Character => "a topic name consists of A-Z a-z 0-9 and _ = @ , . ; : ! -",
        TopicError::EmptySegment => "a topic name has no empty segment",
        TopicError::Wildcard => "* stands for a whole segment, > for the last ones",
    }
}
