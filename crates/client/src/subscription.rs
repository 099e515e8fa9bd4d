//! A subscription that outlives its connections: topics and wildcards, resumed from where they were.
//!
//! ```text
//!              ┌────────────── pause: back-off, or what the server asked for ◄──────────────┐
//!              ▼                                                                            │
//!   Waiting ──► Connecting ──► Open: welcome ─► subscribe ─► frames ──► Places ──► events   │
//!                   │             └── close, loss, silence, no acknowledgement ─────────────┤
//!                   └── refused, unreachable ───────────────────────────────────────────────┘
//! ```
//!
//! Everything happens within [`Subscription::next`]; what is half done when it is dropped goes on with the next call.
//!
//! # Owner        the caller, by `&mut`
//! # Bounds       the events of one frame; one subscribe command in flight per `max_message` of topics; see also `places`
//! # Invariants   a command is queued only when nothing of an earlier one is unsent

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::back_off::{BackOff, Pauses};
use crate::connection::Address;
use crate::event::{Event, Status};
use crate::frame::{self, Acknowledgement, Received, Reply};
use crate::pattern::covers;
use crate::places::{Places, announces_gaps};
use crate::refusal::{HttpRefusal, Refusal};
use crate::session::{SUBPROTOCOL, SubscribeError, refusals};
use crate::topic_request::{Place, TopicRequest};
use crate::wanted::{self, Wanted, is_wanted};
use crate::websocket::{Closed, Incoming, ReceiveError, Socket};

/// How often the server is asked to say something.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(15);
/// Topics whose places are kept, some 20 MB at most.
const POSITIONS_MAX_DEFAULT: usize = 65_536;
/// The longest command, if the server does not say what it takes.
const COMMAND_BYTES_MAX: usize = 65_536;

/// Receives the messages of its topics, over as many connections as it takes. Made by
/// [`Client::subscribe`](crate::Client::subscribe).
///
/// - After a reconnect every topic goes on from the last message that was handed out. A message is handed out once.
/// - What was lost is said: [`Event::Gap`], or [`Event::Reset`] when a topic had to begin anew.
/// - A connection on which nothing arrives for 2.5 heartbeats is given up.
/// - It ends, with an error, only when the server says that coming back is of no use: close codes 4500 to 4999 and those
///   of a broken protocol, a 4xx in the handshake other than 408 and 429, every topic refused for good.
///
/// The `with_…` settings are for before the first [`next`](Self::next).
pub struct Subscription {
    address: Address,
    timeout: Duration,
    heartbeat: Option<Duration>,
    wanted: Vec<Wanted>,
    /// To be unsubscribed from on this connection.
    leaving: Vec<String>,
    places: Places,
    pauses: Pauses,
    events: VecDeque<Event>,
    state: State,
}

enum State {
    /// Until then there is nothing to do.
    Waiting(Instant),
    Connecting(Pin<Box<dyn Future<Output = Result<Socket, SubscribeError>> + Send>>),
    Open(Box<Open>),
    /// To be said once.
    Failed(SubscriptionError),
    Ended,
}

/// What is known of a connection.
struct Open {
    socket: Socket,
    /// The longest command it takes. `None`: no welcome yet.
    command_bytes_max: Option<usize>,
    last_id: u64,
    /// What was asked for in subscribe commands that have no answer yet.
    unanswered: HashMap<u64, Vec<String>>,
    /// When the wait for a welcome or an answer is over.
    answer_by: Option<Instant>,
    /// When to ask again for what was refused.
    ask_again_at: Option<Instant>,
    /// Since the first acknowledgement.
    subscribed_at: Option<Instant>,
    /// From a `bye`.
    advised: Option<Duration>,
}

/// How soon to come back.
enum Return {
    /// With full jitter.
    Soon,
    /// Not at once.
    Later,
    /// When the server says.
    Advised(Duration),
}

/// Why a subscription has ended.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    /// The server closed with a code that says stop.
    #[error("closed with {code} {reason}", code = .0.code, reason = .0.reason)]
    Closed(Closed),
    /// The server refused the handshake, and will again.
    #[error(transparent)]
    Refused(HttpRefusal),
    /// The server refused every topic, for good.
    #[error("{}", refusals(.0))]
    Topics(Vec<Acknowledgement>),
    /// The subscription has ended: this was said before.
    #[error("the subscription has ended")]
    Ended,
}

impl Subscription {
    pub(crate) fn new(address: Address, timeout: Duration, topics: Vec<TopicRequest>) -> Self {
        let mut subscription = Self {
            address,
            timeout,
            heartbeat: Some(HEARTBEAT_DEFAULT),
            wanted: Vec::new(),
            leaving: Vec::new(),
            places: Places::new(POSITIONS_MAX_DEFAULT),
            pauses: Pauses::new(BackOff::default()),
            events: VecDeque::new(),
            state: State::Waiting(Instant::now()),
        };
        topics.into_iter().for_each(|request| subscription.add(request));
        subscription
    }

    /// Sets the pauses between connections. Default: [`BackOff::default`]. A connection that lasted longer than its
    /// `cap` ends a row of failures.
    #[must_use]
    pub fn with_back_off(mut self, back_off: BackOff) -> Self {
        self.pauses = Pauses::new(back_off);
        self
    }

    /// Sets how often the server is asked to say something, in whole seconds from 1 to 60. After 2.5 times as long
    /// without a frame the connection is given up. Default: 15 s. With `None` the server is not asked, and given up after
    /// three of its pings' intervals.
    #[must_use]
    pub fn with_heartbeat(mut self, interval: Option<Duration>) -> Self {
        self.heartbeat = interval.map(|interval| Duration::from_secs(interval.as_secs().clamp(1, 60)));
        self
    }

    /// Sets of how many topics, named or covered by wildcards, the place is kept. Default: 65,536, some 20 MB. The
    /// messages of one more come without epoch, and may be missing or repeated after a reconnect.
    #[must_use]
    pub fn with_positions_max(mut self, topics: usize) -> Self {
        self.places.limit(topics);
        self
    }

    /// Waits for the next event; connects, and comes back, on the way. Cancel safe: an event is returned by this call or
    /// by the next one.
    ///
    /// Call it all the time: pings are answered only here. A subscription that is not asked for a minute is closed by the
    /// server, and comes back with the next call.
    ///
    /// ```no_run
    /// # async fn follow(mut subscription: fanfare_client::Subscription) -> Result<(), fanfare_client::SubscriptionError> {
    /// use fanfare_client::Event;
    ///
    /// loop {
    ///     match subscription.next().await? {
    ///         Event::Message(message) => println!("{} {}", message.topic, message.offset),
    ///         Event::Gap { topic, from, to, .. } => println!("{topic}: {from} to {to} are lost"),
    ///         Event::Reset { topic, .. } => println!("{topic} begins anew"),
    ///         Event::Disconnected { reason, retry_in } => println!("{reason}; again in {retry_in:?}"),
    ///         _ => {}
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`SubscriptionError`]: coming back is of no use. Also for every later call.
    pub async fn next(&mut self) -> Result<Event, SubscriptionError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            match &mut self.state {
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    self.state = State::Connecting(self.connect());
                }
                State::Connecting(connecting) => match connecting.await {
                    Ok(socket) => self.opened(socket),
                    Err(error) => self.not_opened(error),
                },
                State::Open(_) => self.receive().await,
                State::Failed(_) => {
                    if let State::Failed(error) = std::mem::replace(&mut self.state, State::Ended) {
                        return Err(error);
                    }
                }
                State::Ended => return Err(SubscriptionError::Ended),
            }
        }
    }

    /// Subscribes to one more topic or wildcard, or to one of them in another way. The command goes out with the next
    /// [`next`](Self::next), whose events have the answer: [`Event::Subscribed`] or [`Event::Refused`].
    ///
    /// ```no_run
    /// # fn more(subscription: &mut fanfare_client::Subscription) {
    /// use fanfare_client::{Policy, TopicRequest};
    ///
    /// subscription.add("trades.*");
    /// subscription.add(TopicRequest::new("ticker.>").policy(Policy::Latest));
    /// subscription.remove("trades.*");
    /// # }
    /// ```
    pub fn add(&mut self, request: impl Into<TopicRequest>) {
        let mut request = request.into();
        if let Some(place) = request.place.take() {
            self.places.resume(&request.topic, &place);
        }
        for (topic, place) in std::mem::take(&mut request.positions) {
            self.places.resume(&topic, &place);
        }
        self.leaving.retain(|topic| *topic != request.topic);
        let wanted = Wanted::new(request);
        match self.wanted.iter_mut().find(|old| old.request.topic == wanted.request.topic) {
            Some(old) => *old = wanted,
            None => self.wanted.push(wanted),
        }
    }

    /// Leaves a topic or wildcard, named as it was subscribed to, and forgets the places in it. Messages that are under
    /// way are not handed out any more. Goes out with the next [`next`](Self::next).
    pub fn remove(&mut self, topic: &str) {
        let before = self.wanted.len();
        self.wanted.retain(|wanted| wanted.request.topic != topic);
        if self.wanted.len() == before {
            return;
        }
        if matches!(self.state, State::Open(_)) {
            self.leaving.push(topic.to_owned());
        }
        let wanted = &self.wanted;
        self.places.forget(|known| covers(topic, known) && !is_wanted(wanted, known));
        self.events.retain(|event| match event {
            Event::Message(message) => is_wanted(wanted, &message.topic),
            _ => true,
        });
    }

    /// The topics and wildcards that were asked for.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.wanted.iter().map(|wanted| wanted.request.topic.as_str())
    }

    /// Where the topic would go on after a reconnect: after the last message handed out.
    pub fn place(&self, topic: &str) -> Option<Place> {
        self.places.place(topic).map(|place| self.handed_out(topic, place))
    }

    /// All places: with them another run goes on where this one has ended, through
    /// [`TopicRequest::resume`] and [`TopicRequest::positions`]. In no order.
    pub fn positions(&self) -> impl Iterator<Item = (&str, Place)> {
        self.places.all().map(|(topic, place)| (topic, self.handed_out(topic, place)))
    }

    /// What waits in `events`, of one frame at most, is not handed out yet.
    fn handed_out(&self, topic: &str, mut place: Place) -> Place {
        let next = self.events.iter().find_map(|event| match event {
            Event::Message(message) if message.topic == topic => Some(message.offset),
            Event::Gap { topic: of, from, .. } if of == topic => Some(*from),
            _ => None,
        });
        place.offset = next.map_or(place.offset, |next| next.saturating_sub(1));
        place
    }

    /// Closes the connection with 1000, if there is one, and waits for the server's close within the client's timeout.
    /// Dropping a subscription closes it without a word.
    ///
    /// # Errors
    /// If the server does not answer the close.
    pub async fn close(self) -> Result<(), ReceiveError> {
        match self.state {
            State::Open(open) => open.socket.close().await,
            _ => Ok(()),
        }
    }

    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Socket, SubscribeError>> + Send>> {
        let (address, limit) = (self.address.clone(), self.timeout);
        let path = match self.heartbeat {
            Some(interval) => format!("/ws?heartbeat={}", interval.as_secs()),
            None => "/ws".to_owned(),
        };
        Box::pin(async move { Socket::open(&address, &path, Some(SUBPROTOCOL), limit).await })
    }

    fn opened(&mut self, mut socket: Socket) {
        if let Some(interval) = self.heartbeat {
            socket.expect_frames_within(interval.mul_f64(2.5));
        }
        self.places.reconnected();
        self.leaving.clear();
        for wanted in &mut self.wanted {
            wanted.asked = false;
            wanted.refused = None;
        }
        self.state = State::Open(Box::new(Open {
            socket,
            command_bytes_max: None,
            last_id: 0,
            unanswered: HashMap::new(),
            answer_by: Some(Instant::now() + self.timeout),
            ask_again_at: None,
            subscribed_at: None,
            advised: None,
        }));
    }

    fn not_opened(&mut self, error: SubscribeError) {
        let how = match error {
            SubscribeError::Refused(refusal) if !refusal.is_passing() => {
                self.state = State::Failed(SubscriptionError::Refused(refusal));
                return;
            }
            SubscribeError::Refused(HttpRefusal { retry_after: Some(pause), .. }) => Return::Advised(pause),
            SubscribeError::Refused(_) => Return::Later,
            _ => Return::Soon,
        };
        self.disconnected(error.to_string(), &how);
    }

    fn disconnected(&mut self, reason: String, how: &Return) {
        if let State::Open(open) = &self.state
            && open.subscribed_at.is_some_and(|since| since.elapsed() > self.pauses.cap())
        {
            self.pauses.reset();
        }
        let retry_in = match how {
            Return::Soon => self.pauses.soon(),
            Return::Later => self.pauses.later(),
            Return::Advised(pause) => self.pauses.advised(*pause),
        };
        self.state = State::Waiting(Instant::now() + retry_in);
        self.events.push_back(Event::Disconnected { reason, retry_in });
    }

    /// Sends what is to be sent and takes one frame. Nothing is taken from `self` across the await.
    async fn receive(&mut self) {
        let State::Open(open) = &mut self.state else { return };
        if open.ask_again_at.is_some_and(|at| at <= Instant::now()) {
            open.ask_again_at = None;
            for wanted in &mut self.wanted {
                if wanted.refused.as_ref().is_some_and(Refusal::is_passing) {
                    (wanted.asked, wanted.refused) = (false, None);
                }
            }
        }
        if let Some(command_bytes_max) = open.command_bytes_max
            && !open.socket.has_unsent()
        {
            open.send_commands(command_bytes_max, &mut self.wanted, &mut self.leaving, &self.places);
            if !open.unanswered.is_empty() && open.answer_by.is_none() {
                open.answer_by = Some(Instant::now() + self.timeout);
            }
        }
        let wake_at = [open.answer_by, open.ask_again_at].into_iter().flatten().min();
        if wake_at.is_some_and(|at| at <= Instant::now()) {
            // The caller was away. One turn of the reactor: an answer that is there becomes visible.
            tokio::task::yield_now().await;
        }
        let received = match wake_at {
            Some(at) => match timeout_at(at, open.socket.recv()).await {
                Ok(received) => received,
                Err(_) if open.answer_by.is_some_and(|by| by <= Instant::now()) => {
                    let reason = format!("no answer within {:?}", self.timeout);
                    return self.disconnected(reason, &Return::Soon);
                }
                Err(_) => return,
            },
            None => open.socket.recv().await,
        };
        match received {
            Ok(Incoming::Text(text)) => match frame::read(&text) {
                Ok(received) => self.take(received),
                Err(error) => self.give_up(1002, &error),
            },
            Ok(Incoming::Binary(_)) => {
                self.give_up(1003, &ReceiveError::Protocol("a binary frame".to_owned()));
            }
            Ok(Incoming::Closed(closed)) => self.closed(closed),
            Err(error) => {
                let how = match (&error, open.advised) {
                    (_, Some(pause)) => Return::Advised(pause),
                    (ReceiveError::Protocol(_), None) => Return::Later,
                    _ => Return::Soon,
                };
                self.disconnected(error.to_string(), &how);
            }
        }
    }

    fn give_up(&mut self, code: u16, error: &ReceiveError) {
        if let State::Open(open) = &mut self.state {
            open.socket.abandon(code);
        }
        self.disconnected(error.to_string(), &Return::Later);
    }

    fn closed(&mut self, closed: Closed) {
        let advised = match &self.state {
            State::Open(open) => open.advised,
            _ => None,
        };
        let how = match closed.code {
            4500..=4999 | 1002 | 1003 | 1007 | 1009 => {
                self.state = State::Failed(SubscriptionError::Closed(closed));
                return;
            }
            4100..=4199 | 1013 if advised.is_none() => Return::Later,
            _ => advised.map_or(Return::Soon, Return::Advised),
        };
        let reason = format!("closed with {} {}", closed.code, closed.reason);
        self.disconnected(reason.trim_end().to_owned(), &how);
    }

    fn take(&mut self, received: Received) {
        let State::Open(open) = &mut self.state else { return };
        match received {
            Received::Welcome { client, ping, max_message } => {
                if self.heartbeat.is_none()
                    && let Some(interval) = ping
                {
                    open.socket.expect_pings_every(interval);
                }
                open.command_bytes_max = Some(max_message.unwrap_or(COMMAND_BYTES_MAX));
                open.answer_by = None;
                self.events.push_back(Event::Connected { client });
            }
            Received::Reply { id, reply } => {
                // An unsubscribe's has no topics here.
                let Some(topics) = open.unanswered.remove(&id) else { return };
                open.answer_by = None;
                let answers = match reply {
                    Reply::Subscribed(answers) => answers,
                    Reply::Refused(refusal) => {
                        let refused = |topic| Acknowledgement { topic, result: Err(refusal.clone()) };
                        topics.into_iter().map(refused).collect()
                    }
                    _ => return,
                };
                self.acknowledged(answers);
            }
            Received::Event(event) => self.take_event(event),
            Received::Unknown => {}
        }
    }

    fn take_event(&mut self, event: frame::Event) {
        let (before, event) = match event {
            frame::Event::Message(message) => {
                if !self.places.is_known(&message.topic) && !is_wanted(&self.wanted, &message.topic) {
                    return;
                }
                self.places.message(message)
            }
            frame::Event::Gap { topic, epoch, from, to, reason } if is_wanted(&self.wanted, &topic) => {
                self.places.gap(topic, &epoch, from, to, reason)
            }
            frame::Event::Topic { topic, epoch, offset, recovered, policy } => {
                let of = |wanted: &&Wanted| wanted.is_pattern && covers(&wanted.request.topic, &topic);
                let Some(start) = self.wanted.iter().find(of).map(|wanted| wanted.start) else { return };
                let conflates = self.wanted.iter().filter(of).any(|wanted| wanted.request.conflates());
                let dense = !conflates && announces_gaps(policy.as_deref());
                (None, self.places.announced(topic, &epoch, offset, recovered, start, dense))
            }
            frame::Event::Status { topic, status, age } if is_wanted(&self.wanted, &topic) => {
                (None, Status::read(&status).map(|status| Event::Status { topic, status, age }))
            }
            frame::Event::Error(refusal) => (None, Some(Event::Error(refusal))),
            frame::Event::Bye { retry, .. } => {
                if let State::Open(open) = &mut self.state {
                    open.advised = retry;
                }
                (None, None)
            }
            _ => (None, None),
        };
        self.events.extend(before);
        self.events.extend(event);
    }

    fn acknowledged(&mut self, answers: Vec<Acknowledgement>) {
        let State::Open(open) = &mut self.state else { return };
        let mut refused = Vec::new();
        // Answers come in the order of the topics, so each is found near the one before.
        let mut near = 0;
        for Acknowledgement { topic, result } in answers {
            let (head, tail) = self.wanted.split_at(near);
            let Some(at) = tail
                .iter()
                .position(|wanted| wanted.request.topic == topic)
                .map(|at| near + at)
                .or_else(|| head.iter().position(|wanted| wanted.request.topic == topic))
            else {
                continue;
            };
            near = at;
            let wanted = &mut self.wanted[at];
            match result {
                Ok(acknowledged) => {
                    wanted.accepted = true;
                    open.subscribed_at.get_or_insert_with(Instant::now);
                    let reset = self.places.acknowledged(&wanted.request, &acknowledged);
                    self.events.push_back(Event::Subscribed { topic, acknowledged });
                    self.events.extend(reset);
                }
                Err(refusal) => {
                    wanted.refused = Some(refusal.clone());
                    refused.push((topic, refusal));
                }
            }
        }
        if refused.is_empty() {
            return;
        }
        let passing =
            self.wanted.iter().filter_map(|wanted| wanted.refused.as_ref()).any(Refusal::is_passing);
        if self.wanted.iter().all(|wanted| wanted.refused.is_some()) && !passing {
            let answer = |wanted: &Wanted| Acknowledgement {
                topic: wanted.request.topic.clone(),
                result: wanted.refused.clone().map_or_else(|| Ok(frame::Acknowledged::default()), Err),
            };
            self.state = State::Failed(SubscriptionError::Topics(self.wanted.iter().map(answer).collect()));
            return;
        }
        if passing {
            open.ask_again_at.get_or_insert_with(|| Instant::now() + self.pauses.later());
        }
        self.events.extend(refused.into_iter().map(|(topic, refusal)| Event::Refused { topic, refusal }));
    }
}

impl Open {
    /// Queues commands for all that is not asked for, and for what is to be left.
    fn send_commands(
        &mut self,
        bytes_max: usize,
        wanted: &mut [Wanted],
        leaving: &mut Vec<String>,
        places: &Places,
    ) {
        for topics in wanted::unsubscribes(leaving.drain(..), bytes_max) {
            self.send("unsubscribe", &topics);
        }
        for (topics, names) in wanted::subscribes(wanted, bytes_max, places) {
            let id = self.send("subscribe", &topics);
            self.unanswered.insert(id, names);
        }
    }

    fn send(&mut self, command: &str, topics: &str) -> u64 {
        self.last_id += 1;
        let text = format!(r#"{{"type":"{command}","id":{},"topics":[{topics}]}}"#, self.last_id);
        self.socket.queue_text(text.into_bytes());
        self.last_id
    }
}
