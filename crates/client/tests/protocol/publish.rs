//! Publishing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare_client::{BackOff, Item, Payload, PublishError, Published, PublishedBatch, Publisher};
use tokio::join;

use crate::peer::{Server, header};

const PLACE: &str = r#"{"topic":"ticker.BTC-USD","epoch":"k3x9","offset":1043}"#;
const TICK: &str = r#"{"bid":"64000.10","ask":"64000.20"}"#;

fn place(offset: u64) -> Published {
    Published { epoch: "k3x9".into(), offset }
}

#[tokio::test]
async fn a_publish_posts_the_payload_as_it_is() {
    let server = Server::bind().await;
    let mut publisher = server.client().publisher();
    let payload = Payload::json(TICK).key("BTC").event("ticker").idempotency_key("7f3c");

    let (published, request) = join!(publisher.publish("ticker.BTC-USD", payload), async {
        let mut peer = server.accept().await;
        let request = peer.request().await;
        peer.answer("200 OK", "", PLACE).await;
        request
    });

    assert_eq!(published.unwrap(), place(1043));
    assert!(request.head.starts_with("POST /topics/ticker.BTC-USD HTTP/1.1\r\n"), "{}", request.head);
    for (name, value) in [
        ("host", Some(server.host().as_str())),
        ("content-type", Some("application/json")),
        ("fanfare-key", Some("BTC")),
        ("fanfare-event", Some("ticker")),
        ("idempotency-key", Some("7f3c")),
        ("transfer-encoding", None),
    ] {
        assert_eq!(header(&request.head, name), value, "{name}");
    }
    assert_eq!(request.body, TICK);
}

#[tokio::test]
async fn publishes_share_a_connection_and_say_only_what_they_were_told() {
    let server = Server::bind().await;
    let mut publisher = server.client().publisher();

    let client = async {
        publisher.publish("a", Payload::new("plain")).await.unwrap();
        publisher.publish("a", Payload::text("text")).await.unwrap();
        publisher.publish("no such/topic", Payload::binary("bytes")).await.unwrap();
    };
    let ((), ()) = join!(client, async {
        let mut peer = server.accept().await;
        for (path, content_type, body) in [
            ("/topics/a", None, "plain"),
            ("/topics/a", Some("text/plain"), "text"),
            ("/topics/no%20such%2Ftopic", Some("application/octet-stream"), "bytes"),
        ] {
            let request = peer.request().await;
            assert_eq!(request.head.split(' ').nth(1), Some(path));
            assert_eq!(header(&request.head, "content-type"), content_type);
            assert_eq!(request.body, body);
            peer.answer("200 OK", "", PLACE).await;
        }
    });
}

#[tokio::test]
async fn lines_are_one_request() {
    let server = Server::bind().await;
    let mut publisher = server.client().publisher();
    let lines = Payload::ndjson("{\"n\":1}\n\n{\"n\":2}\n");

    let (batch, ()) = join!(publisher.publish_lines("log.web", lines), async {
        let mut peer = server.accept().await;
        let request = peer.request().await;
        assert!(
            request.head.starts_with("POST /topics/log.web?split=lines HTTP/1.1\r\n"),
            "{}",
            request.head
        );
        assert_eq!(header(&request.head, "content-type"), Some("application/x-ndjson"));
        assert_eq!(request.body, "{\"n\":1}\n\n{\"n\":2}\n");
        let answer = r#"{"topic":"log.web","epoch":"k3x9","first":1024,"offset":1043,"count":20}"#;
        peer.answer("200 OK", "", answer).await;
    });
    assert_eq!(batch.unwrap(), PublishedBatch { epoch: "k3x9".into(), first: 1024, offset: 1043, count: 20 });
}

#[tokio::test]
async fn of_many_messages_a_bad_one_does_not_spoil_the_others() {
    let server = Server::bind().await;
    let mut publisher = server.client().publisher();
    let items = [
        Item::new("ticker.BTC-USD", br#"{"bid":"64000.10"}"#).unwrap(),
        Item::new("bad topic", b"[1,\n2]").unwrap(),
        Item::new("ticker.ETH-USD", br#"{"bid":"3100.00"}"#).unwrap().key("ETH").event("ticker"),
    ];

    let (results, request) = join!(publisher.publish_many(&items), async {
        let mut peer = server.accept().await;
        let request = peer.request().await;
        let answer = r#"{"errors":true,"results":[
            {"topic":"ticker.BTC-USD","epoch":"k3x9","offset":1043},
            {"topic":"bad topic","error":{"code":"bad_topic","message":"no spaces"}},
            {"topic":"ticker.ETH-USD","epoch":"k3x9","offset":7}]}"#;
        peer.answer("200 OK", "", answer).await;
        request
    });

    assert!(request.head.starts_with("POST /publish HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(header(&request.head, "content-type"), Some("application/x-ndjson"));
    assert_eq!(
        request.body,
        "{\"topic\":\"ticker.BTC-USD\",\"data\":{\"bid\":\"64000.10\"}}\n\
         {\"topic\":\"bad topic\",\"data\":[1, 2]}\n\
         {\"topic\":\"ticker.ETH-USD\",\"data\":{\"bid\":\"3100.00\"},\"key\":\"ETH\",\"event\":\"ticker\"}\n"
    );
    let results = results.unwrap();
    assert_eq!(results[0], Ok(place(1043)));
    assert_eq!(results[1].as_ref().unwrap_err().code, "bad_topic");
    assert_eq!(results[2], Ok(place(7)));
}

#[tokio::test]
async fn a_refusal_carries_the_servers_words_and_whether_to_repeat() {
    let server = Server::bind().await;
    let mut publisher = server.client().publisher();
    let rows = [
        ("400 Bad Request", "", r#"{"error":{"code":"bad_topic","message":"no"}}"#, "bad_topic", None, true),
        (
            "503 Service Unavailable",
            "retry-after: 3\r\n",
            r#"{"error":{"code":"unavailable","message":"full"}}"#,
            "unavailable",
            Some(3),
            true,
        ),
        ("502 Bad Gateway", "connection: close\r\n", "<h1>Bad Gateway</h1>", "", None, false),
    ];

    let client = async {
        for (status, _, _, code, seconds, unpublished) in rows {
            let error = publisher.publish("a", Payload::json(TICK)).await.unwrap_err();
            assert_eq!(error.is_surely_unpublished(), unpublished, "{status}");
            let PublishError::Refused(refusal) = error else { panic!("{error:?}") };
            assert!(status.starts_with(&refusal.status.to_string()));
            assert_eq!(refusal.code, code);
            assert_eq!(refusal.retry_after, seconds.map(Duration::from_secs));
        }
    };
    let ((), ()) = join!(client, async {
        let mut peer = server.accept().await;
        for (status, headers, body, ..) in rows {
            peer.request().await;
            peer.answer(status, headers, body).await;
        }
    });
}

#[tokio::test]
async fn a_200_from_something_else_is_an_error_that_leaves_the_fate_open() {
    let server = Server::bind().await;
    let mut publisher = server.client().publisher();
    let (published, ()) = join!(publisher.publish("a", Payload::json(TICK)), async {
        let mut peer = server.accept().await;
        peer.request().await;
        peer.answer("200 OK", "", "<h1>Welcome</h1>").await;
    });
    let error = published.unwrap_err();
    assert!(matches!(error, PublishError::Answer(_)), "{error:?}");
    assert!(!error.is_surely_unpublished());
}

#[tokio::test]
async fn an_answer_past_its_bound_is_not_read() {
    let server = Server::bind().await;
    let mut publisher = server.client().publisher();
    let (published, ()) = join!(publisher.publish("a", Payload::json(TICK)), async {
        let mut peer = server.accept().await;
        peer.request().await;
        peer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n400001\r\n").await;
        peer.write(&vec![b' '; 0x40_0001]).await;
    });
    assert!(published.unwrap_err().to_string().contains("longer than"));
}

#[tokio::test]
async fn a_silent_server_ends_the_wait_and_the_next_publish_has_a_new_connection() {
    let server = Server::bind().await;
    let mut publisher = server.impatient_client().publisher();

    let mut silent = None;
    let (published, ()) = join!(publisher.publish("a", Payload::json(TICK)), async {
        let mut peer = server.accept().await;
        peer.request().await;
        silent = Some(peer);
    });
    let error = published.unwrap_err();
    assert!(matches!(error, PublishError::Timeout(_)), "{error:?}");
    assert!(!error.is_surely_unpublished());

    let (published, ()) = join!(publisher.publish("a", Payload::json(TICK)), async {
        assert!(silent.take().unwrap().is_closed_by_client().await);
        let mut peer = server.accept().await;
        peer.request().await;
        peer.answer("200 OK", "", PLACE).await;
    });
    assert_eq!(published.unwrap(), place(1043));
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_before_anything_is_sent() {
    let server = Server::bind().await;
    let mut publisher = server.client().publisher();
    for _ in 0..50 {
        let (published, peer) = join!(publisher.publish("a", Payload::json(TICK)), async {
            let mut peer = server.accept().await;
            peer.request().await;
            peer.answer("200 OK", "", PLACE).await;
            peer
        });
        published.unwrap();
        // Without `connection: close`, and the next publish follows before the reactor has had a turn.
        drop(peer);
    }
}

#[tokio::test]
async fn a_request_without_an_answer_is_repeated_only_with_an_idempotency_key() {
    for key in [None, Some("7f3c")] {
        let server = Server::bind().await;
        let mut publisher = server.client().publisher();
        let payload = Payload { idempotency_key: key.map(str::to_owned), ..Payload::json(TICK) };

        let client = async {
            publisher.publish("a", payload.clone()).await.unwrap();
            publisher.publish("a", payload).await
        };
        let (published, ()) = join!(client, async {
            let mut peer = server.accept().await;
            peer.request().await;
            peer.answer("200 OK", "", PLACE).await;
            let unanswered = peer.request().await;
            drop(peer);
            if key.is_some() {
                let mut peer = server.accept().await;
                let repeated = peer.request().await;
                assert_eq!((repeated.head, repeated.body), (unanswered.head, unanswered.body));
                peer.answer("200 OK", "idempotent-replayed: true\r\n", PLACE).await;
            }
        });
        match key {
            Some(_) => assert_eq!(published.unwrap(), place(1043)),
            None => assert!(matches!(published, Err(PublishError::Lost(_))), "{published:?}"),
        }
    }
}

#[tokio::test]
async fn a_dropped_publish_closes_its_connection() {
    let server = Server::bind().await;
    let mut publisher = server.client().publisher();
    let mut peer = tokio::select! {
        _ = publisher.publish("a", Payload::json(TICK)) => panic!("answered by nobody"),
        peer = async { let mut peer = server.accept().await; peer.request().await; peer } => peer,
    };
    assert!(peer.is_closed_by_client().await);
}

#[tokio::test]
async fn nobody_listening_is_surely_unpublished() {
    let server = Server::bind().await;
    let mut publisher = server.client().publisher();
    drop(server);
    let error = publisher.publish("a", Payload::json(TICK)).await.unwrap_err();
    assert!(matches!(error, PublishError::Connect { .. }), "{error:?}");
    assert!(error.is_surely_unpublished());
}

#[tokio::test]
async fn a_name_that_cannot_be_a_header_is_not_sent() {
    let server = Server::bind().await;
    let payload = Payload::json(TICK).event("a\r\nb");
    let error = server.client().publisher().publish("a", payload).await.unwrap_err();
    assert!(matches!(error, PublishError::Request(_)), "{error:?}");
}

#[test]
fn a_publisher_works_on_a_local_runtime_and_moves_between_threads() {
    fn assert_send<T: Send>(value: T) -> T {
        value
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.unwrap().block_on(async {
        let server = Server::bind().await;
        let mut publisher = assert_send(server.client().publisher());
        let publishing = async move { assert_send(publisher.publish("a", Payload::json(TICK))).await };
        let publishing = tokio::task::spawn_local(publishing);
        let mut peer = server.accept().await;
        peer.request().await;
        peer.answer("200 OK", "", PLACE).await;
        assert_eq!(publishing.await.unwrap().unwrap(), place(1043));
    });
}

const BRISK: BackOff = BackOff { base: Duration::from_millis(1), cap: Duration::from_millis(1) };

/// A publisher that repeats, and a list of why it did.
fn persistent(server: &Server, patience: Option<Duration>) -> (Publisher, Arc<Mutex<Vec<String>>>) {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let tell = Arc::clone(&told);
    let publisher = server.impatient_client().publisher().with_retries(BRISK, patience);
    (publisher.on_retry(move |error, _| tell.lock().unwrap().push(error.to_string())), told)
}

#[tokio::test]
async fn with_retries_a_message_is_sent_until_it_is_answered_always_under_one_key() {
    let server = Server::bind().await;
    let (mut publisher, told) = persistent(&server, None);
    let client = async {
        assert_eq!(publisher.publish("a", Payload::json(TICK)).await.unwrap(), place(1043));
        let own_key = Payload::json(TICK).idempotency_key("7f3c");
        assert_eq!(publisher.publish("a", own_key).await.unwrap(), place(1043));
    };
    let ((), keys) = join!(client, async {
        let mut keys = Vec::new();
        let mut key_of = |head: &str| keys.push(header(head, "idempotency-key").unwrap().to_owned());
        // Cut off, silent, busy, broken, at last an answer.
        let mut peer = server.accept().await;
        key_of(&peer.request().await.head);
        drop(peer);
        let mut silent = server.accept().await;
        key_of(&silent.request().await.head);
        assert!(silent.is_closed_by_client().await);
        let mut peer = server.accept().await;
        for (status, headers) in [("503 Service Unavailable", "retry-after: 0\r\n"), ("500 Oops", "")] {
            key_of(&peer.request().await.head);
            peer.answer(status, headers, "").await;
        }
        key_of(&peer.request().await.head);
        peer.answer("200 OK", "idempotent-replayed: true\r\n", PLACE).await;
        key_of(&peer.request().await.head);
        peer.answer("200 OK", "", PLACE).await;
        keys
    });
    assert!(keys[..5].iter().all(|key| *key == keys[0] && key.len() == 32), "{keys:?}");
    assert_eq!(keys[5], "7f3c");
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told[1], "no answer within 50ms");
}

#[tokio::test]
async fn each_message_has_a_key_of_its_own() {
    let server = Server::bind().await;
    let (mut publisher, _) = persistent(&server, None);
    let items = [Item::new("a", b"1").unwrap(), Item::new("a", b"1").unwrap().idempotency_key("mine")];
    let (results, bodies) = join!(publisher.publish_many(&items), async {
        let mut bodies = Vec::new();
        for status in ["503 Service Unavailable", "200 OK"] {
            let mut peer = server.accept().await;
            let request = peer.request().await;
            assert_eq!(header(&request.head, "idempotency-key"), None);
            bodies.push(request.body);
            let results = r#"{"errors":false,"results":[{"topic":"a","epoch":"k3x9","offset":1},{"topic":"a","epoch":"k3x9","offset":2}]}"#;
            peer.answer(status, "connection: close\r\n", results).await;
        }
        bodies
    });
    assert_eq!(results.unwrap(), [Ok(place(1)), Ok(place(2))]);
    assert_eq!(bodies[0], bodies[1]);
    let (first, second) = bodies[0].split_once('\n').unwrap();
    assert!(first.starts_with(r#"{"topic":"a","data":1,"id":""#), "{first}");
    assert_eq!(second, "{\"topic\":\"a\",\"data\":1,\"id\":\"mine\"}\n");
}

#[tokio::test]
async fn a_refusal_that_will_not_change_is_not_repeated() {
    let server = Server::bind().await;
    let (mut publisher, told) = persistent(&server, None);
    let (published, ()) = join!(publisher.publish("a", Payload::json("{")), async {
        let mut peer = server.accept().await;
        peer.request().await;
        peer.answer("400 Bad Request", "", r#"{"error":{"code":"bad_request","message":"no"}}"#).await;
    });
    assert!(matches!(published, Err(PublishError::Refused(_))), "{published:?}");
    assert!(told.lock().unwrap().is_empty());
}

#[tokio::test]
async fn patience_ends_with_the_last_error() {
    let server = Server::bind().await;
    let (mut publisher, told) = persistent(&server, Some(Duration::from_millis(20)));
    drop(server);
    let error = publisher.publish("a", Payload::json(TICK)).await.unwrap_err();
    assert!(matches!(error, PublishError::Connect { .. }), "{error:?}");
    assert!(!told.lock().unwrap().is_empty());
}
