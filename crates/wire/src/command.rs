//! What clients say on the native JSON WebSocket: one JSON object per text frame.
//!
//! Unknown keys are ignored, so that a newer client can talk to an older server. `data` is cut out as the bytes that
//! arrived.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::raw;

/// The least and the most times a second that a client can ask for.
const MAX_HZ_LEAST: f64 = 0.1;
const MAX_HZ_MOST: f64 = 100.0;

/// One request of a client. `id` is echoed in the answer.
pub enum Command<'a> {
    /// Wants the messages of these topics.
    Subscribe {
        /// Echoed in the answer.
        id: Option<u64>,
        /// Each is answered for itself: one bad topic does not spoil the others.
        topics: Vec<Wanted<'a>>,
    },
    /// Wants no more of these topics.
    Unsubscribe {
        /// Echoed in the answer.
        id: Option<u64>,
        /// Names as they were subscribed.
        topics: Vec<Cow<'a, str>>,
    },
    /// Says who it is, or says it anew.
    Auth {
        /// Echoed in the answer.
        id: Option<u64>,
        /// A token or a key, not checked yet.
        token: Cow<'a, str>,
    },
    /// Asks for the server's time.
    Ping {
        /// Echoed in the answer.
        id: Option<u64>,
    },
    /// Publishes one message.
    Publish {
        /// Echoed in the answer.
        id: Option<u64>,
        /// Where to.
        topic: Cow<'a, str>,
        /// The payload, as it stood in the frame.
        data: &'a RawValue,
        /// Event name.
        event: Option<Cow<'a, str>>,
        /// Conflation key.
        key: Option<Cow<'a, str>>,
    },
}

/// A token is not for logs.
impl fmt::Debug for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscribe { id, topics } => {
                f.debug_struct("Subscribe").field("id", id).field("topics", topics).finish()
            }
            Self::Unsubscribe { id, topics } => {
                f.debug_struct("Unsubscribe").field("id", id).field("topics", topics).finish()
            }
            Self::Auth { id, .. } => f.debug_struct("Auth").field("id", id).finish_non_exhaustive(),
            Self::Ping { id } => f.debug_struct("Ping").field("id", id).finish(),
            Self::Publish { id, topic, data, event, key } => {
                let mut shown = f.debug_struct("Publish");
                shown.field("id", id).field("topic", topic).field("data", data);
                shown.field("event", event).field("key", key).finish()
            }
        }
    }
}

/// One topic of a `subscribe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Topic name or pattern, not checked yet.
    pub topic: Cow<'a, str>,
    /// Where to start.
    pub start: Start<'a>,
    /// Places in topics of a pattern, each of which starts there instead.
    pub positions: Vec<(String, Start<'a>)>,
    /// What is to happen when the client is slow, if not what the topic's configuration says.
    pub policy: Option<Policy>,
    /// The shortest time between two messages of a topic, from `max_hz`.
    pub interval: Option<Duration>,
}

/// A client's wish for when it is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Every message, or the end of the connection.
    Queue,
    /// The newest message of each key.
    Latest,
}

/// Where a new subscription starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start<'a> {
    /// The retained last message, then live.
    #[default]
    Last,
    /// Live only.
    Live,
    /// All that is kept, then live.
    Earliest,
    /// Everything after this place, then live.
    After {
        /// The epoch the client saw.
        epoch: Cow<'a, str>,
        /// The last offset the client has.
        offset: u64,
    },
    /// Everything after this sequence of the node, then live: for streams of many topics.
    Since {
        /// The node's epoch that the client saw.
        epoch: Cow<'a, str>,
        /// The last sequence up to which the client has everything.
        sequence: u64,
    },
}

/// Why a frame is no command. The connection stays; the client gets an `error`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    /// The request's id, where it could be read.
    pub id: Option<u64>,
    /// What to tell the client.
    pub message: String,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    id: Option<u64>,
    #[serde(borrow)]
    topics: Option<Vec<Entry<'a>>>,
    #[serde(borrow)]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "raw::present")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    token: Option<Cow<'a, str>>,
}

/// A topic by name, or with its wishes.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a topic is a string or an object with \"topic\"")]
enum Entry<'a> {
    Name(#[serde(borrow)] Cow<'a, str>),
    Wish {
        #[serde(borrow)]
        topic: Cow<'a, str>,
        #[serde(borrow)]
        from: Option<Cow<'a, str>>,
        #[serde(borrow)]
        epoch: Option<Cow<'a, str>>,
        offset: Option<u64>,
        positions: Option<BTreeMap<String, Place>>,
        #[serde(borrow)]
        policy: Option<Cow<'a, str>>,
        max_hz: Option<f64>,
    },
}

#[derive(Deserialize)]
struct Place {
    epoch: String,
    offset: u64,
}

#[derive(Deserialize)]
struct IdOnly {
    id: Option<u64>,
}

/// Reads one text frame.
pub fn parse(text: &str) -> Result<Command<'_>, CommandError> {
    // serde would also read a struct from an array of its fields.
    if !text.trim_start().starts_with('{') {
        return Err(CommandError { id: None, message: "not a command: a JSON object is expected".into() });
    }
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| CommandError {
        id: serde_json::from_str::<IdOnly>(text).ok().and_then(|only| only.id),
        message: format!("not a command: {}", raw::clipped(&error)),
    })?;
    let id = fields.id;
    let refuse = |message: String| CommandError { id, message };
    let missing = |key: &str| refuse(format!("\"{key}\" is missing"));
    match fields.kind.as_deref() {
        Some("subscribe") => {
            let entries = fields.topics.ok_or_else(|| missing("topics"))?;
            let topics = entries.into_iter().map(wanted).collect::<Result<_, _>>().map_err(refuse)?;
            Ok(Command::Subscribe { id, topics })
        }
        Some("unsubscribe") => {
            let entries = fields.topics.ok_or_else(|| missing("topics"))?;
            let name = |entry| match entry {
                Entry::Name(topic) | Entry::Wish { topic, .. } => topic,
            };
            Ok(Command::Unsubscribe { id, topics: entries.into_iter().map(name).collect() })
        }
        Some("auth") => Ok(Command::Auth { id, token: fields.token.ok_or_else(|| missing("token"))? }),
        Some("ping") => Ok(Command::Ping { id }),
        Some("publish") => Ok(Command::Publish {
            id,
            topic: fields.topic.ok_or_else(|| missing("topic"))?,
            data: fields.data.ok_or_else(|| missing("data"))?,
            event: fields.event,
            key: fields.key,
        }),
        Some(other) => Err(refuse(format!("unknown type {:?}", other.chars().take(32).collect::<String>()))),
        None => Err(missing("type")),
    }
}

fn wanted(entry: Entry<'_>) -> Result<Wanted<'_>, String> {
    let (topic, from, epoch, offset, positions, policy, max_hz) = match entry {
        Entry::Name(topic) => (topic, None, None, None, None, None, None),
        Entry::Wish { topic, from, epoch, offset, positions, policy, max_hz } => {
            (topic, from, epoch, offset, positions, policy, max_hz)
        }
    };
    let start = match (from.as_deref(), epoch, offset) {
        (None, Some(epoch), Some(offset)) => Start::After { epoch, offset },
        (None | Some("last"), None, None) => Start::Last,
        (Some("live"), None, None) => Start::Live,
        (Some("earliest"), None, None) => Start::Earliest,
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            return Err("\"from\" and a position exclude each other".into());
        }
        (None, _, _) => return Err("\"epoch\" and \"offset\" belong together".into()),
        (Some(_), None, None) => return Err("\"from\" is last, live or earliest".into()),
    };
    let policy = match policy.as_deref() {
        None => None,
        Some("queue") => Some(Policy::Queue),
        Some("latest") => Some(Policy::Latest),
        Some(_) => return Err("\"policy\" is queue or latest".into()),
    };
    let interval = match max_hz {
        None => None,
        Some(hz) if (MAX_HZ_LEAST..=MAX_HZ_MOST).contains(&hz) => Some(Duration::from_secs_f64(1.0 / hz)),
        Some(_) => return Err(format!("\"max_hz\" is {MAX_HZ_LEAST} to {MAX_HZ_MOST}")),
    };
    if interval.is_some() && policy == Some(Policy::Queue) {
        return Err("\"max_hz\" leaves messages out: it does not go with \"queue\"".into());
    }
    let place = |(topic, Place { epoch, offset })| (topic, Start::After { epoch: epoch.into(), offset });
    let positions = positions.unwrap_or_default().into_iter().map(place).collect();
    Ok(Wanted { topic, start, positions, policy, interval })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscribed(text: &str) -> Vec<(String, Start<'_>)> {
        match parse(text) {
            Ok(Command::Subscribe { topics, .. }) => {
                topics.into_iter().map(|wanted| (wanted.topic.into_owned(), wanted.start)).collect()
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn subscriptions_say_where_to_start() {
        fn check(topic: &str, expect: Start<'_>) {
            let text = format!(r#"{{"type":"subscribe","id":1,"topics":[{topic}]}}"#);
            assert_eq!(subscribed(&text), [("a.b".to_owned(), expect)], "{topic}");
        }
        check(r#""a.b""#, Start::Last);
        check(r#""a\u002eb""#, Start::Last);
        check(r#"{"topic":"a.b"}"#, Start::Last);
        check(r#"{"topic":"a.b","from":"last"}"#, Start::Last);
        check(r#"{"topic":"a.b","from":"live"}"#, Start::Live);
        check(r#"{"topic":"a.b","from":"earliest","later":1}"#, Start::Earliest);
        check(
            r#"{"topic":"a.b","epoch":"k3x9","offset":7}"#,
            Start::After { epoch: "k3x9".into(), offset: 7 },
        );
    }

    #[test]
    fn wishes_of_a_subscription_are_read() {
        let text = r#"{"type":"subscribe","topics":[{"topic":"a.*","policy":"latest","max_hz":4,
            "positions":{"a.b":{"epoch":"k3x9","offset":7}}}]}"#;
        let Ok(Command::Subscribe { topics, .. }) = parse(text) else { panic!("not a subscribe") };
        let place = ("a.b".to_owned(), Start::After { epoch: "k3x9".into(), offset: 7 });
        let expect = Wanted {
            topic: "a.*".into(),
            start: Start::Last,
            positions: vec![place],
            policy: Some(Policy::Latest),
            interval: Some(Duration::from_millis(250)),
        };
        assert_eq!(topics, [expect]);
    }

    #[test]
    fn commands_are_read() {
        assert!(matches!(parse(r#"{"type":"ping","id":3}"#), Ok(Command::Ping { id: Some(3) })));
        assert!(matches!(parse(r#" {"type":"ping"} "#), Ok(Command::Ping { id: None })));
        let auth = parse(r#"{"type":"auth","id":7,"token":"a.b.c"}"#).unwrap();
        assert!(matches!(&auth, Command::Auth { id: Some(7), token } if token == "a.b.c"));
        assert_eq!(format!("{auth:?}"), "Auth { id: Some(7), .. }");
        let publish = r#"{"type":"publish","id":5,"topic":"chat.1","data":{"x": 1.0 },"key":"k"}"#;
        let Ok(Command::Publish { id: Some(5), topic, data, event: None, key: Some(key) }) = parse(publish)
        else {
            panic!("not a publish");
        };
        assert_eq!((&*topic, data.get(), &*key), ("chat.1", r#"{"x": 1.0 }"#, "k"));
        let unsubscribe = r#"{"type":"unsubscribe","topics":["a",{"topic":"b"}]}"#;
        let Ok(Command::Unsubscribe { id: None, topics }) = parse(unsubscribe) else {
            panic!("not an unsubscribe");
        };
        assert_eq!(topics, ["a", "b"]);
    }

    #[test]
    fn an_error_is_short_whatever_the_command() {
        let text = format!(r#"{{"type":"ping","id":"{}"}}"#, "\u{7f}".repeat(60_000));
        assert!(parse(&text).unwrap_err().message.len() < 1_000);
    }

    #[test]
    fn a_bad_command_is_told_why_with_its_id() {
        fn check(text: &str, id: Option<u64>, message: &str) {
            let error = parse(text).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert_eq!(error.id, id, "{text}");
            assert!(error.message.contains(message), "{text}: {}", error.message);
        }
        check("", None, "not a command");
        check("[1]", None, "not a command");
        check("{}", None, "\"type\" is missing");
        check(r#"{"type":"dance","id":9}"#, Some(9), "unknown type \"dance\"");
        check(r#"{"type":"subscribe","id":9}"#, Some(9), "\"topics\" is missing");
        check(r#"{"type":"subscribe","id":9,"topics":[7]}"#, Some(9), "a topic is a string");
        check(
            r#"{"type":"subscribe","id":9,"topics":[{"topic":"a","from":"x"}]}"#,
            Some(9),
            "\"from\" is last",
        );
        check(r#"{"type":"subscribe","topics":[{"topic":"a","offset":1}]}"#, None, "belong together");
        check(
            r#"{"type":"subscribe","topics":[{"topic":"a","from":"live","offset":1,"epoch":"e"}]}"#,
            None,
            "exclude each other",
        );
        for hz in ["0", "-1", "1e9", "0.01"] {
            let text = format!(r#"{{"type":"subscribe","topics":[{{"topic":"a","max_hz":{hz}}}]}}"#);
            check(&text, None, "\"max_hz\" is 0.1 to 100");
        }
        check(r#"{"type":"subscribe","topics":[{"topic":"a","policy":"no"}]}"#, None, "queue or latest");
        check(
            r#"{"type":"subscribe","topics":[{"topic":"a","policy":"queue","max_hz":1}]}"#,
            None,
            "does not go with",
        );
        check(r#"{"type":"auth","id":2}"#, Some(2), "\"token\" is missing");
        check(r#"{"type":"publish","id":2,"topic":"a"}"#, Some(2), "\"data\" is missing");
        check(r#"{"type":"ping","id":-1}"#, None, "not a command");
        check(&format!(r#"{{"type":"publish","id":2,"data":{}"#, "[".repeat(10_000)), None, "not a command");
    }
}
