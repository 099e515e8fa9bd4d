//! Why the server closes a client: code, text, advice and metric label come from here.

use fanfare_fanout::Eviction;
use fanfare_wire::websocket::{CloseCode, Fault};

/// The end of a connection, as the server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DisconnectReason {
    /// The peer sent a close frame; it is answered with its own code.
    PeerClosed(Option<CloseCode>),
    /// The socket ended without one.
    PeerGone,
    /// The peer's bytes broke RFC 6455 or a bound.
    Fault(Fault),
    /// A binary frame where only JSON text is read.
    WrongType,
    /// The topic of a stream or a raw WebSocket cannot be subscribed to, or a frame that the client published there could
    /// not be taken.
    Refused,
    /// The outbox is full.
    SlowConsumer,
    /// Messages were dropped, and the format cannot say which.
    Gap,
    /// All outboxes together were past their budget, and this one was among the largest.
    Budget,
    /// A ping stayed unanswered, or a stream's socket took nothing for as long.
    NoPong,
    /// More frames or messages than `Limits` let through.
    RateLimited,
    /// The holder of the credential that was shown has as many connections as it may.
    ConnectionLimit,
    /// The server leaves.
    Draining,
    /// An operator sends the client elsewhere.
    Operator,
    /// The connection's task panicked.
    Internal,
    /// Nobody may anything without a credential, and none came in time.
    AuthTimeout,
    /// The token's time is over, and no newer one came.
    TokenExpired,
    /// An operator has revoked the token or the key.
    Revoked,
    /// What the client does or is subscribed to, it may not.
    Forbidden,
}

/// How many labels there are.
pub(crate) const LABELS: usize = ALL_LABELS.len();

/// Every label, in the order of [`DisconnectReason::index`].
pub(crate) const ALL_LABELS: [&str; 20] = [
    "peer_closed",
    "peer_gone",
    "protocol_error",
    "bad_utf8",
    "too_big",
    "wrong_type",
    "refused",
    "slow_consumer",
    "gap",
    "no_pong",
    "draining",
    "budget",
    "operator",
    "internal",
    "rate_limited",
    "connection_limit",
    "auth_timeout",
    "token_expired",
    "revoked",
    "forbidden",
];

impl DisconnectReason {
    /// The code of the close frame. A raw WebSocket says a drain in the code all libraries know.
    pub(crate) fn code(self, native: bool) -> CloseCode {
        match self {
            Self::PeerClosed(code) => code.unwrap_or(CloseCode::NORMAL),
            Self::PeerGone => CloseCode::GOING_AWAY,
            Self::Fault(fault) => fault.close_code(),
            Self::WrongType => CloseCode::UNSUPPORTED_DATA,
            Self::Refused => CloseCode::TRY_AGAIN_LATER,
            Self::Budget => CloseCode(4100),
            Self::SlowConsumer => CloseCode(4101),
            Self::RateLimited => CloseCode(4102),
            Self::ConnectionLimit => CloseCode(4504),
            Self::Gap => CloseCode(4203),
            Self::NoPong => CloseCode(4201),
            Self::Draining | Self::Operator if native => CloseCode(4200),
            Self::Draining | Self::Operator => CloseCode::RESTART,
            Self::Internal => CloseCode::INTERNAL_ERROR,
            Self::AuthTimeout | Self::TokenExpired | Self::Revoked => CloseCode(4501),
            Self::Forbidden => CloseCode(4503),
        }
    }

    /// The reason of the close frame: plain words, fewer than 123 bytes.
    pub(crate) fn text(self) -> String {
        match self {
            Self::PeerClosed(_) | Self::PeerGone => String::new(),
            Self::Fault(fault) => fault.to_string(),
            Self::WrongType => "only text frames are read here".into(),
            Self::Refused => "there is no room for it now".into(),
            Self::SlowConsumer => "slow consumer".into(),
            Self::Budget => "over capacity: the server is short of memory".into(),
            Self::Gap => "messages were lost, resync".into(),
            Self::NoPong => "no pong".into(),
            Self::RateLimited => "rate limited".into(),
            Self::ConnectionLimit => "connection limit".into(),
            Self::Draining => "draining".into(),
            Self::Operator => "operator".into(),
            Self::Internal => "a fault of the server".into(),
            Self::AuthTimeout => "no token or key came".into(),
            Self::TokenExpired => "token expired".into(),
            Self::Revoked => "revoked".into(),
            Self::Forbidden => "not allowed".into(),
        }
    }

    /// The value of the label `reason` of `fanfare_closes_total`.
    pub(crate) fn label(self) -> &'static str {
        ALL_LABELS[self.index()]
    }

    /// The row in [`ALL_LABELS`].
    pub(crate) fn index(self) -> usize {
        match self {
            Self::PeerClosed(_) => 0,
            Self::PeerGone => 1,
            Self::Fault(fault) => match fault.close_code() {
                CloseCode::INVALID_PAYLOAD => 3,
                CloseCode::TOO_BIG => 4,
                _ => 2,
            },
            Self::WrongType => 5,
            Self::Refused => 6,
            Self::SlowConsumer => 7,
            Self::Gap => 8,
            Self::NoPong => 9,
            Self::Draining => 10,
            Self::Budget => 11,
            Self::Operator => 12,
            Self::Internal => 13,
            Self::RateLimited => 14,
            Self::ConnectionLimit => 15,
            Self::AuthTimeout => 16,
            Self::TokenExpired => 17,
            Self::Revoked => 18,
            Self::Forbidden => 19,
        }
    }

    /// Whether something is wrong with the connection: the log says so.
    pub(crate) fn is_fault(self) -> bool {
        !matches!(self, Self::PeerClosed(_) | Self::PeerGone | Self::Draining | Self::Operator)
    }

    /// Whether a client that can be told in band is, and when to come back: nothing is wrong with it.
    pub(crate) fn is_farewell(self) -> bool {
        matches!(self, Self::Draining | Self::Operator)
    }

    /// Whether what waits in the outbox is thrown away: the peer does not read it, or it makes no sense any more.
    pub(crate) fn discards(self) -> bool {
        !matches!(
            self,
            Self::PeerClosed(_) | Self::Draining | Self::Operator | Self::Refused | Self::WrongType
        )
    }
}

impl From<Eviction> for DisconnectReason {
    fn from(eviction: Eviction) -> Self {
        match eviction {
            Eviction::SlowConsumer => Self::SlowConsumer,
            Eviction::Gap => Self::Gap,
            Eviction::Budget => Self::Budget,
            Eviction::PeerGone => Self::PeerGone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_counted_by_their_kind() {
        fn check(fault: Fault, label: &str, code: u16) {
            let reason = DisconnectReason::Fault(fault);
            assert_eq!(
                (reason.label(), reason.code(true), reason.code(false)),
                (label, CloseCode(code), CloseCode(code))
            );
        }
        check(Fault::Unmasked, "protocol_error", 1002);
        check(Fault::TextNotUtf8, "bad_utf8", 1007);
        check(Fault::MessageTooBig, "too_big", 1009);
    }

    #[test]
    fn who_is_sent_elsewhere_has_a_code_for_each_kind_of_client() {
        for (reason, label) in
            [(DisconnectReason::Draining, "draining"), (DisconnectReason::Operator, "operator")]
        {
            assert_eq!(reason.code(true), CloseCode(4200));
            assert_eq!(reason.code(false), CloseCode::RESTART);
            assert_eq!((reason.label(), &*reason.text()), (label, label));
        }
    }

    #[test]
    fn every_label_has_one_place() {
        let mut labels = ALL_LABELS.to_vec();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), LABELS);
    }
}
