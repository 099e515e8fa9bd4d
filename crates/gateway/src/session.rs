//! What the server knows of one client, and how it answers: a state machine without I/O.
//!
//! A session turns a client's messages into calls of the shard and the registry. Frames it queues are written by whoever
//! drives it.

use std::borrow::Cow;
use std::time::Duration;

use fanfare_wire::command::{self, Command, Wanted};
use fanfare_wire::event::{ErrorCode, Event};
use fanfare_wire::websocket::{self, OpCode, frame};
use fanfare_wire::{Draft, FormatId, Kind, Name, Topic, envelope};

use crate::admission::{self, Bound};
use crate::auth;
use crate::clock::unix_ms;
use crate::connection::Connection;
use crate::error::ApiError;
use crate::subscribe;
use crate::transport::disconnect::DisconnectReason;
use crate::worker::{Worker, client_name};

/// What kind of WebSocket was asked for in the handshake.
#[derive(Debug, Clone)]
pub(crate) enum Endpoint {
    /// `/topics/{topic}`: payloads as posted, one topic.
    Raw { topic: Topic, wanted: Wanted<'static> },
    /// `/ws`: native JSON, many topics; now and then a heartbeat, if it is asked for.
    Native { heartbeat: Option<Duration> },
}

impl Endpoint {
    pub(crate) fn format(&self) -> FormatId {
        match self {
            Self::Raw { .. } => FormatId::RAW,
            Self::Native { .. } => FormatId::JSON,
        }
    }
}

/// A client's end, for the worker to carry out.
type End = Result<(), DisconnectReason>;

/// One client. Idle ones are many: how it began is not kept.
pub(crate) enum Session {
    /// What the client sends is published to the topic.
    Raw(Topic),
    Native,
}

impl Session {
    pub(crate) fn new(worker: &Worker, endpoint: Endpoint) -> Self {
        match endpoint {
            // Its subscribers here share one name.
            Endpoint::Raw { topic, .. } => Self::Raw(worker.shard.borrow().shared_name(topic)),
            Endpoint::Native { .. } => Self::Native,
        }
    }

    /// The first frames.
    pub(crate) fn open(worker: &Worker, connection: &Connection, endpoint: &Endpoint) -> End {
        match endpoint {
            Endpoint::Raw { wanted, .. } => {
                let begun = subscribe::subscribe(worker, connection.id, &connection.client, wanted);
                let begun = begun.map_err(|_| DisconnectReason::Refused)?;
                if begun.recovered == Some(false) {
                    // The format has no words for what is lost.
                    return Err(DisconnectReason::Gap);
                }
                Ok(worker.shard.borrow_mut().replay(connection.id, begun.beginnings)?)
            }
            Endpoint::Native { heartbeat } => {
                if let Some(interval) = heartbeat {
                    worker.liveness.borrow_mut().beat(*interval, connection.id);
                }
                let config = worker.shared.config();
                let limits = &config.limits;
                let client = client_name(worker.index, connection.id);
                let (ping, max_message) = (limits.ping_interval.as_secs(), limits.message_bytes);
                answer(worker, connection, &Event::Welcome { client: &client, ping, max_message })
            }
        }
    }

    /// One frame of the client.
    pub(crate) fn handle(
        &self,
        worker: &Worker,
        connection: &Connection,
        event: websocket::Event<'_>,
    ) -> End {
        connection.awaiting_pong.set(false);
        match (event, self) {
            (websocket::Event::Ping(payload), _) => {
                worker.shard.borrow_mut().push_pong(connection.id, frame(OpCode::Pong, payload));
                Ok(())
            }
            (websocket::Event::Pong(_), _) => Ok(()),
            (websocket::Event::Close(close), _) => {
                Err(DisconnectReason::PeerClosed(close.map(|(code, _)| code)))
            }
            (websocket::Event::Text(text), Self::Native) => native(worker, connection, text),
            (websocket::Event::Binary(_), Self::Native) => Err(DisconnectReason::WrongType),
            (websocket::Event::Text(text), Self::Raw(topic)) => {
                publish_raw(worker, connection, topic, Kind::Text, text.as_bytes())
            }
            (websocket::Event::Binary(payload), Self::Raw(topic)) => {
                publish_raw(worker, connection, topic, Kind::Binary, payload)
            }
        }
    }
}

// === raw ===

/// A data frame on a topic's own WebSocket is published to it. The format has no way to say that it was not: the
/// connection ends with a code that says try again.
fn publish_raw(worker: &Worker, connection: &Connection, topic: &Topic, kind: Kind, payload: &[u8]) -> End {
    if connection.client.check_publish(topic).is_err() {
        worker.counters().refused_publishes.add(1);
        return Err(DisconnectReason::Forbidden);
    }
    if admission::publish(worker, &connection.client, topic, 1).is_err() {
        worker.counters().refused_publishes.add(1);
        return Err(DisconnectReason::RateLimited);
    }
    match worker.publish(topic, vec![Draft::new(topic.clone(), kind, payload)]) {
        Ok(_) => {
            worker.counters().publishes.add(1);
            Ok(())
        }
        Err(error) => {
            count_refusal(worker, &error.into());
            Err(DisconnectReason::Refused)
        }
    }
}

// === native ===

fn native(worker: &Worker, connection: &Connection, text: &str) -> End {
    match command::parse(text) {
        Ok(Command::Subscribe { id, topics }) => subscribe(worker, connection, id, &topics),
        Ok(Command::Unsubscribe { id, topics }) => unsubscribe(worker, connection, id, &topics),
        Ok(Command::Auth { id, token }) => authenticate(worker, connection, id, &token),
        Ok(Command::Ping { id }) => answer(worker, connection, &Event::Pong { id, time: unix_ms() }),
        Ok(Command::Publish { id, topic, data, event, key }) => {
            let published = publish(worker, connection, &topic, data.get(), event, key);
            match published {
                Ok((epoch, offset)) => answer(worker, connection, &Event::Published { id, epoch, offset }),
                Err(error) => {
                    count_refusal(worker, &error);
                    let (code, message) = (error.code, error.message.as_str());
                    answer(worker, connection, &Event::Error { id, code, message })
                }
            }
        }
        Err(error) => {
            let (id, message) = (error.id, error.message.as_str());
            answer(worker, connection, &Event::Error { id, code: ErrorCode::BadRequest, message })
        }
    }
}

/// Makes the client what its new credential is good for. One that is not valid changes nothing: what it had before goes on
/// for as long as it would have. A subscription that the new one does not allow ends the connection: it is not the client's to
/// guess which messages will come no more.
fn authenticate(worker: &Worker, connection: &Connection, id: Option<u64>, token: &str) -> End {
    let grant = match auth::check(worker, token) {
        Ok(grant) => grant,
        Err(failure) => {
            let error = auth::refuse(worker, failure);
            return answer(
                worker,
                connection,
                &Event::Error { id, code: error.code, message: &error.message },
            );
        }
    };
    if !worker.shard.borrow().names(connection.id).all(|name| grant.may_subscribe(name)) {
        return Err(DisconnectReason::Forbidden);
    }
    {
        let mut expiries = worker.expiries.borrow_mut();
        if let Some(before) = connection.client.grant() {
            expiries.remove(&before, connection.id);
        }
        expiries.add(&grant, connection.id);
    }
    connection.client.admit(grant);
    admission::subscriber(worker, &connection.client, &connection.permit)
        .map_err(|_| DisconnectReason::ConnectionLimit)?;
    answer(worker, connection, &Event::Authenticated { id })
}

/// Subscribes to each topic for itself. The acknowledgement is queued before any message of the topics: nothing can come
/// between, because nothing here waits.
fn subscribe(worker: &Worker, connection: &Connection, id: Option<u64>, topics: &[Wanted<'_>]) -> End {
    let max = worker.shared.config().limits.subscriptions;
    if topics.len() > max {
        worker.counters().refused(Bound::Subscriptions);
        let message = format!("at most {max} topics in one request");
        return answer(worker, connection, &Event::Error { id, code: ErrorCode::Limit, message: &message });
    }
    let (topics, beginnings, matched) =
        subscribe::subscribe_to_all(worker, connection.id, &connection.client, topics);
    admission::matched(worker, connection, matched);
    answer(worker, connection, &Event::Subscribed { id, topics })?;
    Ok(worker.shard.borrow_mut().replay(connection.id, beginnings)?)
}

fn unsubscribe(worker: &Worker, connection: &Connection, id: Option<u64>, topics: &[Cow<'_, str>]) -> End {
    let (mut ended, mut matched) = (Vec::new(), 0);
    for topic in topics {
        let Ok(name) = Name::parse(topic) else { continue };
        if let Some(end) = subscribe::unsubscribe(worker, connection.id, &name) {
            matched += end?;
            ended.push(&**topic);
        }
    }
    admission::matched(worker, connection, matched);
    answer(worker, connection, &Event::Unsubscribed { id, topics: ended })
}

fn publish(
    worker: &Worker,
    connection: &Connection,
    topic: &str,
    data: &str,
    event: Option<Cow<'_, str>>,
    key: Option<Cow<'_, str>>,
) -> Result<(fanfare_wire::Epoch, u64), ApiError> {
    let refuse = |envelope::ItemError(message)| ApiError::bad_request(message);
    let topic = Topic::new(topic)?;
    connection.client.check_publish(&topic)?;
    envelope::check_event(event.as_deref()).map_err(refuse)?;
    envelope::check_key(key.as_deref()).map_err(refuse)?;
    let mut draft = Draft::new(topic.clone(), Kind::Json, data.as_bytes());
    draft.event = event.map(|event| event.into_owned().into());
    draft.key = key.map(|key| key.into_owned().into());
    admission::publish(worker, &connection.client, &topic, 1)?;
    let admitted = worker.publish(&topic, vec![draft])?;
    worker.counters().publishes.add(1);
    Ok((admitted.epoch, admitted.last))
}

fn count_refusal(worker: &Worker, error: &ApiError) {
    let counters = worker.counters();
    counters.refused_publishes.add(1);
    counters.failed_publishes.add(u64::from(error.status.is_server_error()));
}

/// Queues an answer. Answers are written when the commands that came together are through, or here when they would not
/// fit: a client is judged by what its socket refuses. One that asks and does not read is closed.
fn answer(worker: &Worker, connection: &Connection, event: &Event<'_>) -> End {
    let push = || worker.shard.borrow_mut().push_control(connection.id, event.frame());
    if push().is_ok() {
        return Ok(());
    }
    worker.flush(connection.id);
    push().map_err(DisconnectReason::from)
}
