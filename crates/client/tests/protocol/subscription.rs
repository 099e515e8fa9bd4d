//! A subscription over its connections: what it asks for, what it makes of the answers, and when it comes back.

use std::time::Duration;

use fanfare_client::{
    BackOff, Data, Event, Message, Place, Policy, Start, Status, Subscription, SubscriptionError,
    TopicRequest, UNANNOUNCED,
};
use fastwebsockets::OpCode;
use tokio::join;
use tokio::time::{Instant, pause, resume, sleep};

use crate::peer::{Server, WebSocketPeer, header};

const WELCOME: &str = r#"{"type":"welcome","client":"0-1-7","ping":25,"max_message":65536}"#;

/// Comes back at once.
const AT_ONCE: BackOff = BackOff { base: Duration::ZERO, cap: Duration::ZERO };

fn message(topic: &str, epoch: &str, offset: u64) -> Event {
    let data = Data::Json(offset.to_string().into());
    Event::Message(Message { topic: topic.into(), epoch: epoch.into(), offset, event: None, data })
}

fn gap(topic: &str, from: u64, to: u64, reason: &str) -> Event {
    Event::Gap { topic: topic.into(), epoch: "k3x9".into(), from, to, reason: reason.into() }
}

fn subscribe<const N: usize>(server: &Server, topics: [TopicRequest; N]) -> Subscription {
    server.client().subscribe(topics).with_back_off(AT_ONCE)
}

/// Takes a connection up to the answer to its subscribe command.
async fn connect(
    server: &Server,
    subscription: &mut Subscription,
    command: &str,
    answer: &str,
) -> WebSocketPeer {
    let (connected, (head, mut peer)) = join!(subscription.next(), server.accept_websocket(&[WELCOME]));
    assert!(head.starts_with("GET /ws?heartbeat=15 HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "sec-websocket-protocol"), Some("fanfare.v1.json"));
    assert_eq!(connected.unwrap(), Event::Connected { client: "0-1-7".into() });
    let topics = answer.matches(r#"{"topic":"#).count();
    let (subscribed, ()) = join!(subscription.next(), async {
        assert_eq!(peer.recv_text().await, command);
        peer.send(answer).await;
    });
    assert!(matches!(subscribed, Ok(Event::Subscribed { .. })), "{subscribed:?}");
    for _ in 1..topics {
        let subscribed = subscription.next().await;
        assert!(matches!(subscribed, Ok(Event::Subscribed { .. })), "{subscribed:?}");
    }
    peer
}

/// A connection that was subscribed to `x`, at offset 1, which dense offsets follow.
async fn connect_to_x(server: &Server) -> (Subscription, WebSocketPeer) {
    let mut subscription = subscribe(server, ["x".into()]);
    let peer = connect(
        server,
        &mut subscription,
        r#"{"type":"subscribe","id":1,"topics":["x"]}"#,
        r#"{"type":"subscribed","id":1,"topics":[{"topic":"x","epoch":"k3x9","offset":1}]}"#,
    )
    .await;
    (subscription, peer)
}

async fn send(peer: &mut WebSocketPeer, topic: &str, offset: u64) {
    peer.send(&format!(r#"{{"topic":"{topic}","offset":{offset},"data":{offset}}}"#)).await;
}

async fn expect(subscription: &mut Subscription, events: &[Event]) {
    for event in events {
        assert_eq!(subscription.next().await.unwrap(), *event);
    }
}

/// The next event is the loss of the connection.
async fn expect_disconnected(subscription: &mut Subscription) -> (String, Duration) {
    match subscription.next().await {
        Ok(Event::Disconnected { reason, retry_in }) => (reason, retry_in),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn topics_and_wildcards_are_acknowledged_announced_and_delivered() {
    let server = Server::bind().await;
    let trades = TopicRequest::new("trades.*").start(Start::Live);
    let mut subscription = subscribe(&server, ["ticker.BTC-USD".into(), trades]);
    let mut peer = connect(
        &server,
        &mut subscription,
        r#"{"type":"subscribe","id":1,"topics":["ticker.BTC-USD",{"topic":"trades.*","from":"live"}]}"#,
        r#"{"type":"subscribed","id":1,"topics":[{"topic":"ticker.BTC-USD","epoch":"k3x9","offset":7,"replay":1,"policy":"conflate"},{"topic":"trades.*","matched":1}]}"#,
    )
    .await;

    send(&mut peer, "ticker.BTC-USD", 7).await;
    peer.send(r#"{"type":"topic","topic":"trades.x","epoch":"0c7v","offset":42}"#).await;
    send(&mut peer, "trades.x", 43).await;
    peer.send(r#"{"type":"topic","topic":"trades.new","epoch":"mm31","offset":0}"#).await;
    send(&mut peer, "trades.new", 1).await;
    peer.send(r#"{"type":"heartbeat","time":1735689605000}"#).await;
    peer.send(r#"{"type":"of a later version"}"#).await;
    peer.send(r#"{"topic":"trades.x","offset":44,"event":"tick","data64":"AP8="}"#).await;

    let announced =
        |topic: &str, epoch: &str, offset| Event::Topic { topic: topic.into(), epoch: epoch.into(), offset };
    let binary = Message {
        topic: "trades.x".into(),
        epoch: "0c7v".into(),
        offset: 44,
        event: Some("tick".into()),
        data: Data::Binary(vec![0, 255].into()),
    };
    let events = [
        message("ticker.BTC-USD", "k3x9", 7),
        announced("trades.x", "0c7v", 42),
        message("trades.x", "0c7v", 43),
        announced("trades.new", "mm31", 0),
        message("trades.new", "mm31", 1),
        Event::Message(binary),
    ];
    expect(&mut subscription, &events).await;
    let mut positions: Vec<_> =
        subscription.positions().map(|(topic, place)| (topic, place.offset)).collect();
    positions.sort_unstable();
    assert_eq!(positions, [("ticker.BTC-USD", 7), ("trades.new", 1), ("trades.x", 44)]);
}

#[tokio::test]
async fn after_a_reconnect_everything_goes_on_from_where_it_was_and_repeats_are_dropped() {
    let server = Server::bind().await;
    let mut subscription = subscribe(&server, ["x".into(), TopicRequest::new("trades.>").start(Start::Live)]);
    let mut peer = connect(
        &server,
        &mut subscription,
        r#"{"type":"subscribe","id":1,"topics":["x",{"topic":"trades.>","from":"live"}]}"#,
        r#"{"type":"subscribed","id":1,"topics":[{"topic":"x","epoch":"k3x9","offset":1},{"topic":"trades.>","matched":2}]}"#,
    )
    .await;
    for (topic, offset) in [("a", 4), ("b.c", 8)] {
        let announcement =
            format!(r#"{{"type":"topic","topic":"trades.{topic}","epoch":"k3x9","offset":{offset}}}"#);
        peer.send(&announcement).await;
        assert!(matches!(subscription.next().await, Ok(Event::Topic { .. })));
    }
    send(&mut peer, "x", 2).await;
    send(&mut peer, "trades.a", 5).await;
    expect(&mut subscription, &[message("x", "k3x9", 2), message("trades.a", "k3x9", 5)]).await;
    drop(peer);
    expect_disconnected(&mut subscription).await;

    // What a topic had that was born meanwhile is wanted whole.
    let mut peer = connect(
        &server,
        &mut subscription,
        r#"{"type":"subscribe","id":1,"topics":[{"topic":"x","epoch":"k3x9","offset":2},{"topic":"trades.>","from":"earliest","positions":{"trades.a":{"epoch":"k3x9","offset":5},"trades.b.c":{"epoch":"k3x9","offset":8}}}]}"#,
        r#"{"type":"subscribed","id":1,"topics":[{"topic":"x","epoch":"k3x9","offset":4,"recovered":true,"replay":2},{"topic":"trades.>","matched":3,"recovered":true}]}"#,
    )
    .await;
    // A server may send a little more than was missed.
    for offset in 1..=4 {
        send(&mut peer, "x", offset).await;
    }
    peer.send(r#"{"type":"topic","topic":"trades.a","epoch":"k3x9","offset":6,"recovered":true}"#).await;
    send(&mut peer, "trades.a", 5).await;
    send(&mut peer, "trades.a", 6).await;
    peer.send(r#"{"type":"topic","topic":"trades.b.c","epoch":"k3x9","offset":8,"recovered":true}"#).await;
    peer.send(r#"{"type":"topic","topic":"trades.new","epoch":"k3x9","offset":2}"#).await;
    send(&mut peer, "trades.new", 1).await;
    send(&mut peer, "trades.new", 2).await;
    send(&mut peer, "trades.b.c", 9).await;

    let events = [
        message("x", "k3x9", 3),
        message("x", "k3x9", 4),
        message("trades.a", "k3x9", 6),
        Event::Topic { topic: "trades.new".into(), epoch: "k3x9".into(), offset: 2 },
        message("trades.new", "k3x9", 1),
        message("trades.new", "k3x9", 2),
        message("trades.b.c", "k3x9", 9),
    ];
    expect(&mut subscription, &events).await;
}

#[tokio::test]
async fn what_cannot_be_continued_is_reset_and_begins_anew() {
    let server = Server::bind().await;
    let resumed = TopicRequest::new("a.*").positions([
        ("a.b", Place { epoch: "k3x9".into(), offset: 9 }),
        ("a.c", Place { epoch: "k3x9".into(), offset: 9 }),
    ]);
    let mut subscription = subscribe(&server, [TopicRequest::new("x").resume("k3x9", 1000), resumed]);
    let mut peer = connect(
        &server,
        &mut subscription,
        r#"{"type":"subscribe","id":1,"topics":[{"topic":"x","epoch":"k3x9","offset":1000},{"topic":"a.*","positions":{"a.b":{"epoch":"k3x9","offset":9},"a.c":{"epoch":"k3x9","offset":9}}}]}"#,
        r#"{"type":"subscribed","id":1,"topics":[{"topic":"a.*","matched":2,"recovered":false},{"topic":"x","epoch":"0c7v","offset":3,"recovered":false,"replay":1}]}"#,
    )
    .await;
    let reset =
        |topic: &str, epoch: &str, offset| Event::Reset { topic: topic.into(), epoch: epoch.into(), offset };
    send(&mut peer, "x", 3).await;
    peer.send(r#"{"type":"topic","topic":"a.b","epoch":"k3x9","offset":200,"recovered":false}"#).await;
    send(&mut peer, "a.b", 200).await;
    peer.send(r#"{"type":"topic","topic":"a.c","epoch":"k3x9","offset":9,"recovered":true}"#).await;
    send(&mut peer, "a.c", 9).await;
    // Forgotten by the server, and born again.
    peer.send(r#"{"type":"topic","topic":"a.c","epoch":"mm31","offset":0}"#).await;
    send(&mut peer, "a.c", 1).await;
    let events = [
        reset("x", "0c7v", 3),
        message("x", "0c7v", 3),
        reset("a.b", "k3x9", 200),
        message("a.b", "k3x9", 200),
        reset("a.c", "mm31", 0),
        message("a.c", "mm31", 1),
    ];
    expect(&mut subscription, &events).await;
    assert_eq!(subscription.place("x"), Some(Place { epoch: "0c7v".into(), offset: 3 }));
}

#[tokio::test]
async fn gaps_are_told_whether_announced_or_not() {
    let server = Server::bind().await;
    let (mut subscription, mut peer) = connect_to_x(&server).await;
    send(&mut peer, "x", 2).await;
    send(&mut peer, "x", 5).await;
    peer.send(r#"{"type":"gap","topic":"x","epoch":"k3x9","from":6,"to":9,"reason":"slow"}"#).await;
    send(&mut peer, "x", 10).await;
    // Told before, and in part.
    peer.send(r#"{"type":"gap","topic":"x","epoch":"k3x9","from":6,"to":9,"reason":"slow"}"#).await;
    peer.send(r#"{"type":"gap","topic":"x","epoch":"k3x9","from":9,"to":12,"reason":"evicted"}"#).await;
    peer.send(r#"{"type":"gap","topic":"x","epoch":"k3x9","from":14,"to":14,"reason":"slow"}"#).await;
    send(&mut peer, "x", 15).await;
    let events = [
        message("x", "k3x9", 2),
        gap("x", 3, 4, UNANNOUNCED),
        message("x", "k3x9", 5),
        gap("x", 6, 9, "slow"),
        message("x", "k3x9", 10),
        gap("x", 11, 12, "evicted"),
        gap("x", 13, 13, UNANNOUNCED),
        gap("x", 14, 14, "slow"),
        message("x", "k3x9", 15),
    ];
    expect(&mut subscription, &events).await;
}

#[tokio::test]
async fn where_messages_are_conflated_offsets_jump_without_a_gap() {
    let server = Server::bind().await;
    let sparing = TopicRequest::new("max").max_hz(0.5);
    let newest = TopicRequest::new("newest").policy(Policy::Latest);
    let mut subscription = subscribe(&server, ["conflated".into(), sparing, newest, "w.*".into()]);
    let mut peer = connect(
        &server,
        &mut subscription,
        r#"{"type":"subscribe","id":1,"topics":["conflated",{"topic":"max","max_hz":0.5},{"topic":"newest","policy":"latest"},"w.*"]}"#,
        r#"{"type":"subscribed","id":1,"topics":[{"topic":"conflated","epoch":"k3x9","offset":1,"policy":"conflate"},{"topic":"max","epoch":"k3x9","offset":1},{"topic":"newest","epoch":"k3x9","offset":1},{"topic":"w.*","matched":1}]}"#,
    )
    .await;
    peer.send(r#"{"type":"topic","topic":"w.x","epoch":"k3x9","offset":0,"policy":"conflate"}"#).await;
    assert!(matches!(subscription.next().await, Ok(Event::Topic { .. })));
    for topic in ["conflated", "max", "newest", "w.x"] {
        send(&mut peer, topic, 5).await;
        send(&mut peer, topic, 9).await;
        expect(&mut subscription, &[message(topic, "k3x9", 5), message(topic, "k3x9", 9)]).await;
    }
}

#[tokio::test]
async fn a_topic_by_name_and_by_wildcard_is_one() {
    let server = Server::bind().await;
    let mut subscription =
        subscribe(&server, ["a.b".into(), TopicRequest::new("a.>").start(Start::Earliest)]);
    let mut peer = connect(
        &server,
        &mut subscription,
        r#"{"type":"subscribe","id":1,"topics":["a.b",{"topic":"a.>","from":"earliest"}]}"#,
        r#"{"type":"subscribed","id":1,"topics":[{"topic":"a.b","epoch":"k3x9","offset":2,"replay":1},{"topic":"a.>","matched":1}]}"#,
    )
    .await;
    send(&mut peer, "a.b", 2).await;
    peer.send(r#"{"type":"topic","topic":"a.b","epoch":"k3x9","offset":2}"#).await;
    send(&mut peer, "a.b", 2).await;
    send(&mut peer, "a.b", 4).await;
    let events = [message("a.b", "k3x9", 2), gap("a.b", 3, 3, UNANNOUNCED), message("a.b", "k3x9", 4)];
    expect(&mut subscription, &events).await;
}

#[tokio::test]
async fn a_topic_that_falls_silent_is_said_to_be_stale() {
    let server = Server::bind().await;
    let (mut subscription, mut peer) = connect_to_x(&server).await;
    peer.send(r#"{"type":"status","topic":"x","status":"stale","age_ms":5200}"#).await;
    peer.send(r#"{"type":"status","topic":"x","status":"of a later version","age_ms":1}"#).await;
    peer.send(r#"{"type":"status","topic":"x","status":"live","age_ms":9100}"#).await;
    let status =
        |status, age_ms| Event::Status { topic: "x".into(), status, age: Duration::from_millis(age_ms) };
    expect(&mut subscription, &[status(Status::Stale, 5200), status(Status::Live, 9100)]).await;
}

#[tokio::test]
async fn a_code_that_says_stop_ends_it() {
    for code in [4500, 4501, 4503, 4504, 1002, 1009] {
        let server = Server::bind().await;
        let (mut subscription, mut peer) = connect_to_x(&server).await;
        peer.send_close(code, "enough").await;
        let error = subscription.next().await.unwrap_err();
        assert_eq!(error.to_string(), format!("closed with {code} enough"));
        assert!(matches!(error, SubscriptionError::Closed(_)), "{error:?}");
        assert!(matches!(subscription.next().await, Err(SubscriptionError::Ended)));
    }
}

#[tokio::test]
async fn every_other_end_is_a_beginning_and_the_code_says_how_soon() {
    for (code, soonest_ms, latest_ms) in
        [(4101, 500, 1000), (1013, 500, 1000), (4200, 0, 250), (4203, 0, 250), (1012, 0, 250), (1001, 0, 250)]
    {
        let server = Server::bind().await;
        let (subscription, mut peer) = connect_to_x(&server).await;
        let mut subscription = subscription.with_back_off(BackOff::default());
        peer.send_close(code, "").await;
        let (reason, retry_in) = expect_disconnected(&mut subscription).await;
        assert_eq!(reason, format!("closed with {code}"));
        let bounds = Duration::from_millis(soonest_ms)..=Duration::from_millis(latest_ms);
        assert!(bounds.contains(&retry_in), "{code}: {retry_in:?}");
    }
}

#[tokio::test]
async fn a_farewell_says_when_to_come_back() {
    for has_close in [true, false] {
        let server = Server::bind().await;
        let (mut subscription, mut peer) = connect_to_x(&server).await;
        peer.send(r#"{"type":"bye","code":4200,"reason":"draining","retry_ms":3200}"#).await;
        if has_close {
            peer.send_close(4200, "draining").await;
        } else {
            drop(peer);
        }
        let (_, retry_in) = expect_disconnected(&mut subscription).await;
        assert_eq!(retry_in, Duration::from_millis(3200));

        pause();
        tokio::select! {
            biased;
            event = subscription.next() => panic!("{event:?} before its time"),
            () = sleep(Duration::from_millis(3199)) => {}
        }
        resume();
        connect(
            &server,
            &mut subscription,
            r#"{"type":"subscribe","id":1,"topics":[{"topic":"x","epoch":"k3x9","offset":1}]}"#,
            r#"{"type":"subscribed","id":1,"topics":[{"topic":"x","epoch":"k3x9","offset":1,"recovered":true}]}"#,
        )
        .await;
    }
}

#[tokio::test]
async fn a_silent_connection_is_given_up_after_two_and_a_half_heartbeats() {
    for (interval, path, silence_ms) in [
        (Some(15), "/ws?heartbeat=15", 37_500),
        (Some(4), "/ws?heartbeat=4", 10_000),
        (Some(600), "/ws?heartbeat=60", 150_000),
        (None, "/ws", 75_000),
    ] {
        let server = Server::bind().await;
        let subscription = subscribe(&server, ["x".into()]);
        let mut subscription = subscription.with_heartbeat(interval.map(Duration::from_secs));
        let (connected, (head, mut peer)) = join!(subscription.next(), server.accept_websocket(&[WELCOME]));
        connected.unwrap();
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
        let (_, ()) = join!(subscription.next(), async {
            peer.recv_text().await;
            peer.send(r#"{"type":"subscribed","id":1,"topics":[{"topic":"x","epoch":"k3x9","offset":1}]}"#)
                .await;
        });

        pause();
        let began = Instant::now();
        // However often it is asked.
        let (reason, _) = loop {
            tokio::select! {
                lost = expect_disconnected(&mut subscription) => break lost,
                () = sleep(Duration::from_secs(1)) => {}
            }
        };
        resume();
        assert!(reason.starts_with("nothing received for"), "{reason}");
        let silence = began.elapsed();
        let expect = Duration::from_millis(silence_ms);
        assert!(silence >= expect && silence < expect + Duration::from_millis(50), "{silence:?}");
    }
}

#[tokio::test]
async fn anything_at_all_is_a_sign_of_life() {
    let server = Server::bind().await;
    let (mut subscription, mut peer) = connect_to_x(&server).await;
    for sign in 0..4 {
        pause();
        tokio::select! {
            biased;
            event = subscription.next() => panic!("{event:?}"),
            () = sleep(Duration::from_secs(30)) => {}
        }
        resume();
        if sign % 2 == 0 {
            peer.send(r#"{"type":"heartbeat","time":1735689605000}"#).await;
        } else {
            peer.send_frame(true, OpCode::Ping, b"").await;
        }
        tokio::select! {
            event = subscription.next() => panic!("{event:?}"),
            () = sleep(Duration::from_millis(20)) => {}
        }
    }
}

#[tokio::test]
async fn what_came_while_nobody_asked_is_not_silence() {
    let server = Server::bind().await;
    let (mut subscription, mut peer) = connect_to_x(&server).await;
    tokio::select! {
        event = subscription.next() => panic!("{event:?}"),
        () = sleep(Duration::from_millis(1)) => {}
    }
    pause();
    tokio::time::advance(Duration::from_secs(100)).await;
    resume();
    // Arrives without a turn of the reactor.
    send(&mut peer, "x", 2).await;
    expect(&mut subscription, &[message("x", "k3x9", 2)]).await;

    // Neither is it an answer that never came.
    subscription.add("y");
    tokio::select! {
        event = subscription.next() => panic!("{event:?}"),
        _ = peer.recv_text() => {}
    }
    pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    resume();
    peer.send(r#"{"type":"subscribed","id":2,"topics":[{"topic":"y","epoch":"k3x9","offset":1}]}"#).await;
    assert!(matches!(subscription.next().await, Ok(Event::Subscribed { .. })));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_left() {
    let server = Server::bind().await;
    let mut subscription = server.impatient_client().subscribe(["x"]).with_back_off(AT_ONCE);
    let silent = join!(subscription.next(), server.accept());
    assert!(matches!(silent.0, Ok(Event::Disconnected { .. })), "{:?}", silent.0);
    // No welcome.
    let (event, (_, _peer)) = join!(subscription.next(), server.accept_websocket(&[]));
    assert!(matches!(event, Ok(Event::Disconnected { .. })), "{event:?}");
    // No acknowledgement.
    let (_, (_, _peer)) = join!(subscription.next(), server.accept_websocket(&[WELCOME]));
    let (reason, _) = expect_disconnected(&mut subscription).await;
    assert_eq!(reason, "no answer within 50ms");
}

#[tokio::test]
async fn a_refused_handshake_ends_it_or_not() {
    for (status, headers, ends, retry_in) in [
        ("401 Unauthorized", "", true, None),
        ("404 Not Found", "", true, None),
        ("429 Too Many Requests", "retry-after: 7\r\n", false, Some(7)),
        ("503 Service Unavailable", "retry-after: 2\r\n", false, Some(2)),
        ("502 Bad Gateway", "", false, None),
    ] {
        let server = Server::bind().await;
        let mut subscription = server.client().subscribe(["x"]);
        let (event, ()) = join!(subscription.next(), async {
            let mut peer = server.accept().await;
            peer.request().await;
            peer.answer(status, headers, r#"{"error":{"code":"x","message":"no"}}"#).await;
        });
        match event {
            Err(SubscriptionError::Refused(refusal)) => {
                assert!(ends && status.starts_with(&refusal.status.to_string()), "{status}");
            }
            Ok(Event::Disconnected { retry_in: pause, .. }) => {
                assert!(!ends, "{status}");
                assert!(retry_in.is_none_or(|seconds| pause == Duration::from_secs(seconds)), "{pause:?}");
            }
            other => panic!("{status}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn nobody_listening_is_tried_again() {
    let server = Server::bind().await;
    let mut subscription = subscribe(&server, ["x".into()]);
    drop(server);
    for _ in 0..3 {
        let (reason, _) = expect_disconnected(&mut subscription).await;
        assert!(reason.starts_with("cannot connect to 127.0.0.1"), "{reason}");
    }
}

#[tokio::test]
async fn topics_refused_for_good_end_it_when_there_are_no_others() {
    let refused = r#"{"topic":"bad topic","error":{"code":"bad_topic","message":"no spaces"}}"#;
    let server = Server::bind().await;
    let mut subscription = subscribe(&server, ["bad topic".into()]);
    let (_, (_, mut peer)) = join!(subscription.next(), server.accept_websocket(&[WELCOME]));
    let (error, ()) = join!(subscription.next(), async {
        peer.recv_text().await;
        peer.send(&format!(r#"{{"type":"subscribed","id":1,"topics":[{refused}]}}"#)).await;
    });
    assert_eq!(error.unwrap_err().to_string(), r#""bad topic" refused: no spaces (bad_topic)"#);

    // An error for the whole command is one for each topic.
    let mut subscription = subscribe(&server, ["x".into(), "y".into()]);
    let (_, (_, mut peer)) = join!(subscription.next(), server.accept_websocket(&[WELCOME]));
    let (error, ()) = join!(subscription.next(), async {
        peer.recv_text().await;
        peer.send(r#"{"type":"error","id":1,"code":"bad_request","message":"no"}"#).await;
    });
    assert_eq!(
        error.unwrap_err().to_string(),
        r#""x" refused: no (bad_request); "y" refused: no (bad_request)"#
    );

    let mut subscription = subscribe(&server, ["bad topic".into(), "x".into()]);
    let (_, (_, mut peer)) = join!(subscription.next(), server.accept_websocket(&[WELCOME]));
    let (event, ()) = join!(subscription.next(), async {
        peer.recv_text().await;
        peer.send(&format!(
            r#"{{"type":"subscribed","id":1,"topics":[{refused},{{"topic":"x","epoch":"k3x9","offset":1}}]}}"#
        ))
        .await;
    });
    assert!(matches!(event, Ok(Event::Subscribed { topic, .. }) if topic == "x"));
    let event = subscription.next().await;
    assert!(matches!(event, Ok(Event::Refused { ref topic, .. }) if topic == "bad topic"), "{event:?}");
}

#[tokio::test]
async fn a_topic_refused_for_now_is_asked_for_again() {
    let server = Server::bind().await;
    let mut subscription = subscribe(&server, ["x".into()]);
    let (_, (_, mut peer)) = join!(subscription.next(), server.accept_websocket(&[WELCOME]));
    let (event, ()) = join!(subscription.next(), async {
        peer.recv_text().await;
        peer.send(r#"{"type":"subscribed","id":1,"topics":[{"topic":"x","error":{"code":"unavailable","message":"busy"}}]}"#).await;
    });
    assert!(matches!(event, Ok(Event::Refused { .. })), "{event:?}");
    let (event, ()) = join!(subscription.next(), async {
        assert_eq!(peer.recv_text().await, r#"{"type":"subscribe","id":2,"topics":["x"]}"#);
        peer.send(r#"{"type":"subscribed","id":2,"topics":[{"topic":"x","epoch":"k3x9","offset":1}]}"#).await;
    });
    assert!(matches!(event, Ok(Event::Subscribed { .. })), "{event:?}");
}

#[tokio::test]
async fn topics_come_and_go_on_a_connection() {
    let server = Server::bind().await;
    let (mut subscription, mut peer) = connect_to_x(&server).await;
    subscription.add("y");
    subscription.add(TopicRequest::new("z").resume("k3x9", 7));
    subscription.remove("x");
    let (event, ()) = join!(subscription.next(), async {
        assert_eq!(peer.recv_text().await, r#"{"type":"unsubscribe","id":2,"topics":["x"]}"#);
        assert_eq!(
            peer.recv_text().await,
            r#"{"type":"subscribe","id":3,"topics":["y",{"topic":"z","epoch":"k3x9","offset":7}]}"#
        );
        // Still under way.
        send(&mut peer, "x", 2).await;
        peer.send(r#"{"type":"unsubscribed","id":2,"topics":["x"]}"#).await;
        peer.send(r#"{"type":"subscribed","id":3,"topics":[{"topic":"y","epoch":"k3x9","offset":1},{"topic":"z","epoch":"k3x9","offset":7,"recovered":true}]}"#).await;
        send(&mut peer, "y", 2).await;
    });
    assert!(matches!(event, Ok(Event::Subscribed { topic, .. }) if topic == "y"));
    assert!(matches!(subscription.next().await, Ok(Event::Subscribed { topic, .. }) if topic == "z"));
    expect(&mut subscription, &[message("y", "k3x9", 2)]).await;
    assert_eq!(subscription.topics().collect::<Vec<_>>(), ["y", "z"]);
    assert_eq!(subscription.place("x"), None);
    drop(peer);
    expect_disconnected(&mut subscription).await;
    connect(
        &server,
        &mut subscription,
        r#"{"type":"subscribe","id":1,"topics":[{"topic":"y","epoch":"k3x9","offset":2},{"topic":"z","epoch":"k3x9","offset":7}]}"#,
        r#"{"type":"subscribed","id":1,"topics":[{"topic":"y","epoch":"k3x9","offset":2,"recovered":true},{"topic":"z","epoch":"k3x9","offset":7,"recovered":true}]}"#,
    )
    .await;
}

#[tokio::test]
async fn one_topic_too_many_passes_without_being_kept_track_of() {
    let server = Server::bind().await;
    let mut subscription = subscribe(&server, ["a.*".into()]).with_positions_max(1);
    let mut peer = connect(
        &server,
        &mut subscription,
        r#"{"type":"subscribe","id":1,"topics":["a.*"]}"#,
        r#"{"type":"subscribed","id":1,"topics":[{"topic":"a.*","matched":2}]}"#,
    )
    .await;
    for (topic, epoch) in [("a.kept", "k3x9"), ("a.passed", "")] {
        peer.send(&format!(r#"{{"type":"topic","topic":"{topic}","epoch":"k3x9","offset":0}}"#)).await;
        assert!(matches!(subscription.next().await, Ok(Event::Topic { .. })));
        send(&mut peer, topic, 1).await;
        expect(&mut subscription, &[message(topic, epoch, 1)]).await;
    }
    drop(peer);
    expect_disconnected(&mut subscription).await;
    // Nothing is asked from the earliest on: that would repeat what has passed.
    connect(
        &server,
        &mut subscription,
        r#"{"type":"subscribe","id":1,"topics":[{"topic":"a.*","positions":{"a.kept":{"epoch":"k3x9","offset":1}}}]}"#,
        r#"{"type":"subscribed","id":1,"topics":[{"topic":"a.*","matched":2,"recovered":true}]}"#,
    )
    .await;
}

#[tokio::test]
async fn a_dropped_next_goes_on_wherever_it_was() {
    let server = Server::bind().await;
    let mut subscription = subscribe(&server, ["x".into()]);
    // One poll at a time.
    let driven = async {
        loop {
            tokio::select! {
                biased;
                event = subscription.next() => match event {
                    Ok(Event::Message(message)) => break message.offset,
                    other => assert!(matches!(other, Ok(Event::Connected { .. } | Event::Subscribed { .. })), "{other:?}"),
                },
                () = tokio::task::yield_now() => {}
            }
        }
    };
    let (offset, _peer) = join!(driven, async {
        let (_, mut peer) = server.accept_websocket(&[WELCOME]).await;
        assert_eq!(peer.recv_text().await, r#"{"type":"subscribe","id":1,"topics":["x"]}"#);
        peer.send(r#"{"type":"subscribed","id":1,"topics":[{"topic":"x","epoch":"k3x9","offset":1}]}"#).await;
        send(&mut peer, "x", 2).await;
        peer
    });
    assert_eq!(offset, 2);
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_told_so_and_tried_again() {
    for (opcode, payload, code) in
        [(OpCode::Text, &b"{}"[..], 1002), (OpCode::Binary, b"{}", 1003), (OpCode::Text, b"\xff", 1007)]
    {
        let server = Server::bind().await;
        let (mut subscription, mut peer) = connect_to_x(&server).await;
        peer.send_frame(true, opcode, payload).await;
        expect_disconnected(&mut subscription).await;
        assert_eq!(peer.recv_close().await, code);
    }
}

#[tokio::test]
async fn closing_waits_for_the_servers_close() {
    let server = Server::bind().await;
    let (subscription, mut peer) = connect_to_x(&server).await;
    let (closed, ()) = join!(subscription.close(), async {
        assert_eq!(peer.recv_close().await, 1000);
        peer.send_close(1000, "").await;
    });
    closed.unwrap();
}

#[test]
fn a_subscription_moves_between_threads() {
    fn assert_send<T: Send>(_: &T) {}
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::bind().await;
        let mut subscription = subscribe(&server, ["x".into()]);
        assert_send(&subscription);
        assert_send(&subscription.next());
    });
}
