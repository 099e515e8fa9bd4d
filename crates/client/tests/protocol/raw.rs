//! The raw subscription.

use fanfare_client::{Closed, RawEvent, ReceiveError, Start, SubscribeError};
use fastwebsockets::OpCode;
use tokio::join;

use crate::peer::{Server, header};

#[tokio::test]
async fn payloads_come_as_they_were_posted_and_then_the_close() {
    let server = Server::bind().await;
    let client = server.client();
    let last = r#"{"bid":"64000.10", "ask":"64000.20"}"#;
    let first = [last];
    let (subscription, (head, mut peer)) =
        join!(client.subscribe_raw("ticker.BTC-USD", Start::Last), server.accept_websocket(&first));
    let mut subscription = subscription.unwrap();
    assert!(head.starts_with("GET /topics/ticker.BTC-USD?from=last HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "sec-websocket-protocol"), None);

    peer.send_frame(true, OpCode::Binary, b"\x00\xff").await;
    peer.send_frame(true, OpCode::Text, b"").await;
    peer.send_close(1012, "restart").await;

    assert_eq!(subscription.next().await.unwrap(), RawEvent::Text(last.into()));
    assert_eq!(subscription.next().await.unwrap(), RawEvent::Binary(b"\x00\xff"[..].into()));
    assert_eq!(subscription.next().await.unwrap(), RawEvent::Text("".into()));
    let closed = Closed { code: 1012, reason: "restart".into() };
    assert_eq!(subscription.next().await.unwrap(), RawEvent::Closed(closed));
    assert_eq!(peer.recv_close().await, 1012);
    assert!(matches!(subscription.next().await, Err(ReceiveError::Ended)));
}

#[tokio::test]
async fn a_close_without_a_code_is_1005() {
    let server = Server::bind().await;
    let client = server.client();
    let (subscription, (_, mut peer)) =
        join!(client.subscribe_raw("a", Start::Live), server.accept_websocket(&[]));
    peer.send_frame(true, OpCode::Close, b"").await;
    let closed = Closed { code: 1005, reason: String::new() };
    assert_eq!(subscription.unwrap().next().await.unwrap(), RawEvent::Closed(closed));
}

#[tokio::test]
async fn a_text_is_published_and_the_subscription_closed() {
    let server = Server::bind().await;
    let client = server.client();
    let (subscription, (head, mut peer)) =
        join!(client.subscribe_raw("chat.1", Start::Live), server.accept_websocket(&[]));
    assert!(head.starts_with("GET /topics/chat.1?from=live HTTP/1.1\r\n"), "{head}");
    let mut subscription = subscription.unwrap();

    subscription.publish("hello").await.unwrap();
    assert_eq!(peer.recv_text().await, "hello");
    let (closed, ()) = join!(subscription.close(), async {
        assert_eq!(peer.recv_close().await, 1000);
        peer.send_close(1000, "").await;
    });
    closed.unwrap();
}

#[tokio::test]
async fn a_pattern_is_the_servers_to_refuse() {
    let server = Server::bind().await;
    let client = server.client();
    let (subscription, ()) = join!(client.subscribe_raw("ticker.*", Start::Live), async {
        let mut peer = server.accept().await;
        let request = peer.request().await;
        assert!(
            request.head.starts_with("GET /topics/ticker.%2A?from=live HTTP/1.1\r\n"),
            "{}",
            request.head
        );
        let body = r#"{"error":{"code":"bad_topic","message":"one topic, no wildcard"}}"#;
        peer.answer("400 Bad Request", "", body).await;
    });
    let error = subscription.err().unwrap();
    assert_eq!(error.to_string(), "refused with 400: one topic, no wildcard (bad_topic)");
    assert!(matches!(error, SubscribeError::Refused(_)));
}
