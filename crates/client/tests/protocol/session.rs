//! The native session: the frames of the protocol, as its document has them.

use std::time::Duration;

use fanfare_client::session::{CommandError, Event, Message, Session};
use fanfare_client::{Closed, Data, ReceiveError, Start, SubscribeError, TopicRequest};
use fastwebsockets::OpCode;
use tokio::io::AsyncWriteExt;
use tokio::join;

use crate::peer::{Server, WebSocketPeer, header, switching_protocols, text_frame};

const WELCOME: &str = r#"{"type":"welcome","client":"c1f0e9a2","ping":25,"max_message":65536}"#;
const SUBSCRIBED: &str =
    r#"{"type":"subscribed","id":1,"topics":[{"topic":"x","epoch":"k3x9","offset":1,"replay":0}]}"#;

fn message(topic: &str, offset: u64, data: &str) -> Event {
    let data = Data::Json(data.to_owned().into());
    Event::Message(Message { topic: topic.into(), offset, event: None, data })
}

/// A session with `x`, and the server's end of it.
async fn subscribed(server: &Server) -> (Session, WebSocketPeer) {
    let client = server.client();
    let (session, peer) = join!(client.session(["x"]), async {
        let (_, mut peer) = server.accept_websocket(&[WELCOME]).await;
        assert_eq!(peer.recv_text().await, r#"{"type":"subscribe","id":1,"topics":["x"]}"#);
        peer.send(SUBSCRIBED).await;
        peer
    });
    (session.unwrap(), peer)
}

#[tokio::test]
async fn a_session_replays_and_then_goes_live() {
    let server = Server::bind().await;
    let client = server.client();
    let topics = [
        "ticker.BTC-USD".into(),
        TopicRequest::new("ticker.ETH-USD").resume("k3x9", 1999),
        TopicRequest::new("trades.*").start(Start::Live),
        "private.x".into(),
    ];

    let (session, mut peer) = join!(client.session(topics), async {
        let (head, mut peer) = server.accept_websocket(&[WELCOME]).await;
        assert!(head.starts_with("GET /ws HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "host"), Some(server.host().as_str()));
        assert_eq!(header(&head, "sec-websocket-protocol"), Some("fanfare.v1.json"));
        assert_eq!(
            peer.recv_text().await,
            r#"{"type":"subscribe","id":1,"topics":["ticker.BTC-USD",{"topic":"ticker.ETH-USD","epoch":"k3x9","offset":1999},{"topic":"trades.*","from":"live"},"private.x"]}"#
        );
        peer.send(
            r#"{"type":"subscribed","id":1,"topics":[{"topic":"ticker.BTC-USD","epoch":"k3x9","offset":1042,"replay":1,"policy":"conflate"},{"topic":"ticker.ETH-USD","epoch":"k3x9","offset":2001,"recovered":true,"replay":2},{"topic":"trades.*","matched":14},{"topic":"private.x","error":{"code":"forbidden","message":"not allowed"}}]}"#,
        )
        .await;
        peer
    });
    let mut session = session.unwrap();

    assert_eq!(session.client_id(), "c1f0e9a2");
    let acknowledged = |at: usize| session.acknowledgements()[at].result.as_ref();
    assert_eq!(acknowledged(0).unwrap().policy.as_deref(), Some("conflate"));
    assert_eq!(acknowledged(1).unwrap().recovered, Some(true));
    assert_eq!(acknowledged(2).unwrap().matched, Some(14));
    assert_eq!(acknowledged(3).unwrap_err().code, "forbidden");

    peer.send(r#"{"topic":"ticker.BTC-USD","offset":1042,"data":{"bid":"64000.10","ask":"64000.20"}}"#).await;
    peer.send(r#"{"topic":"ticker.BTC-USD","offset":1043,"data":{"bid":"64000.30","ask":"64000.40"}}"#).await;

    let Event::Refused { topic, refusal } = session.next().await.unwrap() else { panic!("not refused") };
    assert_eq!((topic.as_str(), refusal.code.as_str()), ("private.x", "forbidden"));
    for (offset, data) in
        [(1042, r#"{"bid":"64000.10","ask":"64000.20"}"#), (1043, r#"{"bid":"64000.30","ask":"64000.40"}"#)]
    {
        assert_eq!(session.next().await.unwrap(), message("ticker.BTC-USD", offset, data));
    }
}

#[tokio::test]
async fn what_comes_with_the_handshake_is_not_lost() {
    let server = Server::bind().await;
    let client = server.client();
    let first = [WELCOME, SUBSCRIBED, r#"{"topic":"x","offset":2,"data":true}"#];
    let (session, (_, _peer)) = join!(client.session(["x"]), server.accept_websocket(&first));
    assert_eq!(session.unwrap().next().await.unwrap(), message("x", 2, "true"));
}

#[tokio::test]
async fn a_session_to_refused_topics_only_is_none() {
    let server = Server::bind().await;
    let client = server.client();
    let (session, _peer) = join!(client.session(["bad topic"]), async {
        let (_, mut peer) = server.accept_websocket(&[WELCOME]).await;
        peer.recv_text().await;
        peer.send(r#"{"type":"subscribed","id":1,"topics":[{"topic":"bad topic","error":{"code":"bad_topic","message":"no spaces"}}]}"#).await;
        peer
    });
    let error = session.err().unwrap();
    assert!(matches!(error, SubscribeError::Topics(_)), "{error:?}");
    assert_eq!(error.to_string(), r#""bad topic" refused: no spaces (bad_topic)"#);
}

#[tokio::test]
async fn a_gap_a_farewell_and_a_close_code_reach_the_caller() {
    let server = Server::bind().await;
    let (mut session, mut peer) = subscribed(&server).await;
    peer.send(r#"{"type":"gap","topic":"x","epoch":"k3x9","from":1044,"to":1051,"reason":"slow"}"#).await;
    peer.send(r#"{"type":"of a later version","topic":"x"}"#).await;
    peer.send(r#"{"type":"bye","code":4200,"reason":"draining","retry_ms":3200}"#).await;
    peer.send_close(4200, "draining").await;

    let gap = session.next().await.unwrap();
    assert!(matches!(gap, Event::Gap { from: 1044, to: 1051, .. }), "{gap:?}");
    assert_eq!(
        session.next().await.unwrap(),
        Event::Bye { code: 4200, reason: "draining".into(), retry: Some(Duration::from_millis(3200)) }
    );
    assert_eq!(
        session.next().await.unwrap(),
        Event::Closed(Closed { code: 4200, reason: "draining".into() })
    );
    assert_eq!(peer.recv_close().await, 4200);
    assert!(matches!(session.next().await, Err(ReceiveError::Ended)));
    assert!(matches!(session.ping().await, Err(CommandError::Receive(ReceiveError::Ended))));
}

#[tokio::test]
async fn commands_have_their_reply_and_events_keep_their_order() {
    let server = Server::bind().await;
    let (mut session, mut peer) = subscribed(&server).await;
    peer.send(r#"{"topic":"x","offset":2,"data":2}"#).await;

    let client = async {
        let more = session.subscribe(&["y", "trades.>"]).await.unwrap();
        assert_eq!(more[0].result.as_ref().unwrap().offset, Some(7));
        assert_eq!(more[1].result.as_ref().unwrap_err().code, "limit");

        let published = session.publish("chat.1", b"{\"text\":\n\"1.10\"}").await.unwrap();
        assert_eq!((published.epoch.as_str(), published.offset), ("k3x9", 9));
        assert!(matches!(session.publish("chat.1", b"{").await, Err(CommandError::Json(_))));
        let refused = session.publish("private.x", b"1").await;
        assert!(matches!(refused, Err(CommandError::Refused(_))), "{refused:?}");

        assert_eq!(session.unsubscribe(&["x"]).await.unwrap(), ["x"]);
        assert_eq!(session.ping().await.unwrap(), 1_735_689_600_123);
    };
    let script = async {
        for (command, reply) in [
            (
                r#"{"type":"subscribe","id":2,"topics":["y","trades.>"]}"#,
                r#"{"type":"subscribed","id":2,"topics":[{"topic":"y","epoch":"k3x9","offset":7,"replay":0},{"topic":"trades.>","error":{"code":"limit","message":"too many"}}]}"#,
            ),
            (
                r#"{"type":"publish","id":3,"topic":"chat.1","data":{"text": "1.10"}}"#,
                r#"{"type":"published","id":3,"epoch":"k3x9","offset":9}"#,
            ),
            (
                r#"{"type":"publish","id":4,"topic":"private.x","data":1}"#,
                r#"{"type":"error","id":4,"code":"forbidden","message":"not allowed"}"#,
            ),
            (
                r#"{"type":"unsubscribe","id":5,"topics":["x"]}"#,
                r#"{"type":"unsubscribed","id":5,"topics":["x"]}"#,
            ),
            (r#"{"type":"ping","id":6}"#, r#"{"type":"pong","id":6,"time":1735689600123}"#),
        ] {
            assert_eq!(peer.recv_text().await, command);
            let id: u64 =
                command.split(&[':', ','][..]).nth(3).unwrap().trim_end_matches('}').parse().unwrap();
            peer.send(&format!(r#"{{"topic":"x","offset":{0}0,"data":{0}}}"#, id)).await;
            peer.send(reply).await;
        }
        peer.send(r#"{"topic":"y","offset":8,"data":8}"#).await;
    };
    let ((), ()) = join!(client, script);

    assert_eq!(session.next().await.unwrap(), message("x", 2, "2"));
    for id in 2..=6 {
        assert_eq!(session.next().await.unwrap(), message("x", id * 10, &id.to_string()));
    }
    assert_eq!(session.next().await.unwrap(), message("y", 8, "8"));
}

#[tokio::test]
async fn a_late_reply_is_passed_over() {
    let server = Server::bind().await;
    let client = server.impatient_client();
    let (session, mut peer) = join!(client.session(["x"]), async {
        let (_, mut peer) = server.accept_websocket(&[WELCOME, SUBSCRIBED]).await;
        peer.recv_text().await;
        peer
    });
    let mut session = session.unwrap();

    assert!(matches!(session.ping().await, Err(CommandError::Timeout(_))));
    let (time, ()) = join!(session.ping(), async {
        peer.recv_text().await;
        peer.recv_text().await;
        peer.send(r#"{"type":"pong","id":2,"time":1}"#).await;
        peer.send(r#"{"type":"pong","id":3,"time":2}"#).await;
    });
    assert_eq!(time.unwrap(), 2);
}

#[tokio::test]
async fn a_close_during_a_command_is_still_an_event() {
    let server = Server::bind().await;
    let (mut session, mut peer) = subscribed(&server).await;
    let (time, ()) = join!(session.ping(), async {
        peer.recv_text().await;
        peer.send_close(4101, "slow consumer").await;
    });
    assert!(matches!(time, Err(CommandError::Closed)), "{time:?}");
    assert_eq!(
        session.next().await.unwrap(),
        Event::Closed(Closed { code: 4101, reason: "slow consumer".into() })
    );
    assert!(matches!(session.next().await, Err(ReceiveError::Ended)));
}

#[tokio::test]
async fn a_ping_is_answered_with_its_payload() {
    let server = Server::bind().await;
    let (mut session, mut peer) = subscribed(&server).await;
    let (event, ()) = join!(session.next(), async {
        peer.send_frame(true, OpCode::Ping, b"are you there").await;
        assert_eq!(peer.recv().await, (OpCode::Pong, "are you there".into()));
        peer.send_frame(true, OpCode::Pong, b"never asked for").await;
        peer.send(r#"{"topic":"x","offset":2,"data":2}"#).await;
    });
    assert_eq!(event.unwrap(), message("x", 2, "2"));
}

#[tokio::test]
async fn a_dropped_next_loses_nothing_wherever_the_frame_was_cut() {
    let server = Server::bind().await;
    let (mut session, peer) = subscribed(&server).await;
    let mut stream = peer.into_stream();
    let data = "7".repeat(300);
    let frame = text_frame(&format!(r#"{{"topic":"x","offset":2,"data":{data}}}"#));

    for byte in &frame[..frame.len() - 1] {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::select! {
            biased;
            event = session.next() => panic!("{event:?} from half a frame"),
            () = tokio::task::yield_now() => {}
        }
    }
    stream.write_all(&frame[frame.len() - 1..]).await.unwrap();
    assert_eq!(session.next().await.unwrap(), message("x", 2, &data));
}

#[tokio::test]
async fn fragments_are_one_message_with_control_frames_between_them() {
    let server = Server::bind().await;
    let (mut session, mut peer) = subscribed(&server).await;
    // The cut is within the two bytes of é.
    peer.send_frame(false, OpCode::Text, b"{\"topic\":\"x\",\"offset\":2,\"data\":\"\xc3").await;
    peer.send_frame(true, OpCode::Ping, b"").await;
    peer.send_frame(false, OpCode::Continuation, b"\xa9").await;
    peer.send_frame(true, OpCode::Continuation, b"\"}").await;
    assert_eq!(session.next().await.unwrap(), message("x", 2, "\"é\""));
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_told_so_and_left() {
    for (frames, code) in [
        (&[(true, OpCode::Continuation, &b"x"[..])][..], 1002),
        (&[(false, OpCode::Text, b"x"), (true, OpCode::Text, b"y")], 1002),
        (&[(true, OpCode::Text, b"\xff")], 1007),
        (&[(false, OpCode::Text, b"\xc3"), (true, OpCode::Continuation, b"x")], 1007),
        (&[(true, OpCode::Text, b"{}")], 1002),
        (&[(true, OpCode::Binary, b"{}")], 1003),
        (&[(true, OpCode::Close, b"x")], 1002),
    ] {
        let server = Server::bind().await;
        let (mut session, mut peer) = subscribed(&server).await;
        for (fin, opcode, payload) in frames {
            peer.send_frame(*fin, *opcode, payload).await;
        }
        let error = session.next().await.unwrap_err();
        assert!(matches!(error, ReceiveError::Protocol(_)), "{error:?}");
        assert_eq!(peer.recv_close().await, code, "{error}");
        assert!(matches!(session.next().await, Err(ReceiveError::Ended)));
    }
}

#[tokio::test]
async fn a_frame_too_long_to_read_is_refused_by_its_header() {
    let server = Server::bind().await;
    let (mut session, peer) = subscribed(&server).await;
    let mut stream = peer.into_stream();
    stream.write_all(&[0x81, 127, 0, 0, 0, 0, 0x01, 0, 0, 0]).await.unwrap();
    let error = session.next().await.unwrap_err();
    assert!(matches!(error, ReceiveError::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn a_lost_connection_is_no_close() {
    let server = Server::bind().await;
    let (mut session, peer) = subscribed(&server).await;
    drop(peer);
    assert!(matches!(session.next().await, Err(ReceiveError::Lost(_))));
    assert!(matches!(session.next().await, Err(ReceiveError::Ended)));
}

#[tokio::test]
async fn a_server_silent_for_three_pings_is_given_up_however_often_next_is_dropped() {
    let server = Server::bind().await;
    let (mut session, _peer) = subscribed(&server).await;
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let error = loop {
        tokio::select! {
            event = session.next() => break event.unwrap_err(),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    };
    assert!(matches!(error, ReceiveError::Silent(_)), "{error:?}");
    assert_eq!(started.elapsed().as_secs(), 75);
}

#[tokio::test]
async fn closing_waits_for_the_servers_close() {
    let server = Server::bind().await;
    let (session, mut peer) = subscribed(&server).await;
    let (closed, ()) = join!(session.close(), async {
        peer.send(r#"{"topic":"x","offset":2,"data":2}"#).await;
        assert_eq!(peer.recv_close().await, 1000);
        peer.send_close(1000, "").await;
    });
    closed.unwrap();
}

#[tokio::test]
async fn a_refused_handshake_carries_the_servers_words() {
    let server = Server::bind().await;
    let client = server.client();
    let (session, ()) = join!(client.session(["x"]), async {
        let mut peer = server.accept().await;
        peer.request().await;
        let body = r#"{"error":{"code":"unavailable","message":"draining"}}"#;
        peer.answer("503 Service Unavailable", "retry-after: 2\r\n", body).await;
    });
    let error = session.err().unwrap();
    let SubscribeError::Refused(refusal) = error else { panic!("{error:?}") };
    assert_eq!(refusal.to_string(), "refused with 503: draining (unavailable)");
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(2)));
}

#[tokio::test]
async fn a_101_that_does_not_fit_the_request_is_no_handshake() {
    for (line, instead) in [
        ("sec-websocket-accept: ", "sec-websocket-accept: x"),
        ("upgrade: websocket", "upgrade: h2c"),
        ("sec-websocket-protocol: fanfare.v1.json", "sec-websocket-protocol: another"),
        ("sec-websocket-protocol: fanfare.v1.json\r\n", ""),
    ] {
        let server = Server::bind().await;
        let client = server.client();
        let (session, _peer) = join!(client.session(["x"]), async {
            let mut peer = server.accept().await;
            let answer = switching_protocols(&peer.request().await.head);
            assert!(answer.contains(line));
            peer.write(answer.replace(line, instead).as_bytes()).await;
            peer
        });
        let error = session.err().unwrap();
        assert!(matches!(error, SubscribeError::Handshake(_)), "{instead}: {error:?}");
    }
}

#[tokio::test]
async fn a_proxys_longer_connection_header_is_a_handshake_still() {
    let server = Server::bind().await;
    let client = server.client();
    let (session, _peer) = join!(client.session(["x"]), async {
        let mut peer = server.accept().await;
        let answer = switching_protocols(&peer.request().await.head);
        let answer = answer.replace("connection: upgrade", "connection: keep-alive, Upgrade");
        peer.write(answer.as_bytes()).await;
        let mut peer = peer.into_websocket();
        peer.send(SUBSCRIBED).await;
        peer
    });
    assert!(session.is_ok());
}

#[tokio::test]
async fn a_server_that_never_answers_ends_the_wait() {
    let server = Server::bind().await;
    let client = server.impatient_client();
    let (before_the_handshake, _peer) = join!(client.session(["x"]), server.accept());
    assert!(matches!(before_the_handshake, Err(SubscribeError::Timeout(_))));
    let (before_the_reply, _peer) = join!(client.session(["x"]), server.accept_websocket(&[WELCOME]));
    assert!(matches!(before_the_reply, Err(SubscribeError::Command(CommandError::Timeout(_)))));
}

#[test]
fn a_session_works_on_a_local_runtime_and_moves_between_threads() {
    fn assert_send<T: Send>(value: T) -> T {
        value
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.unwrap().block_on(async {
        let server = Server::bind().await;
        let (session, mut peer) = subscribed(&server).await;
        let mut session = assert_send(session);
        peer.send(r#"{"topic":"x","offset":2,"data":2}"#).await;
        let event = tokio::task::spawn_local(async move { assert_send(session.next()).await }).await.unwrap();
        assert_eq!(event.unwrap(), message("x", 2, "2"));
    });
}
