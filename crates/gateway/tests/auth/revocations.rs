//! What operators take back: tokens, holders and keys.

use serde_json::{Value, json};

use crate::gateways::{KEY, failures, key_of_feeds, signer, with_signers};
use crate::requests::{bearer, get, native, post};
use crate::support::Gateway;
use crate::support::metrics::{metric, until_metric};
use crate::support::peer::{Answer, Peer, request, request_text};
use crate::support::tokens::{claims, in_seconds};

fn operator(gateway: &Gateway, method: &str, path: &str, body: &str) -> Answer {
    let mut peer = Peer::connect(gateway.admin);
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}", body.len());
    peer.send(format!("{head}\r\n\r\n{body}"));
    peer.answer()
}

#[test]
fn what_is_revoked_ends_and_stays_out() {
    let signer = signer();
    let (gateway, _folder) = with_signers(&[&signer], &key_of_feeds(), &["--revocations", "3"]);
    let token = |subject: &str, id: &str| signer.token("k0", &claims(json!({"sub": subject, "jti": id})));
    let ask = |method: &str, path: &str, body: &str| operator(&gateway, method, path, body);
    let revoke = |body: Value| ask("POST", "/revocations", &body.to_string());
    // On both workers.
    let mut anns: Vec<_> = (0..8).map(|_| native(&gateway, &token("ann", "1"))).collect();
    let (mut bob, mut other_bob) =
        (native(&gateway, &token("bob", "2")), native(&gateway, &token("bob", "3")));
    let mut feeds = native(&gateway, KEY);
    let mut poll = Peer::connect(gateway.address);
    let cursor = get(&gateway, "/poll?topic=a.b", Some(KEY)).json()["cursor"].as_str().unwrap().to_owned();
    let target = format!("/poll?topic=a.b&cursor={cursor}&wait=30&access_token={KEY}");
    poll.send(request_text("GET", &target, &[], ""));
    until_metric(&gateway, "fanfare_waiting_polls", |polls| polls == 1.0);

    assert_eq!(revoke(json!({"subject": "ann"})).status, 200);
    for ann in &mut anns {
        assert_eq!(ann.close_code(), Some(4501));
    }
    assert_eq!(post(&gateway, "a.b", Some(&token("ann", "9"))).status, 401);
    assert_eq!(revoke(json!({"token": "2", "until": in_seconds(3600)})).status, 200);
    assert_eq!(bob.close_code(), Some(4501));
    assert_eq!(post(&gateway, "a.b", Some(&token("bob", "2"))).status, 401);
    assert_eq!(revoke(json!({"key": "feeds"})).status, 200);
    assert_eq!(feeds.close_code(), Some(4501));
    assert_eq!(poll.answer().status, 401);
    assert_eq!(post(&gateway, "a.b", Some(KEY)).status, 401);
    until_metric(&gateway, "fanfare_closes_total{reason=\"revoked\"}", |closes| closes == 10.0);
    assert!(failures(&gateway, "revoked") >= 4.0);
    assert!(other_bob.fence().is_empty(), "somebody else is undisturbed");

    // There is room for three.
    let full = revoke(json!({"subject": "carl"}));
    assert_eq!((full.status, &*full.error_code()), (503, "limit"));
    assert_eq!(metric(&gateway, "fanfare_revocations"), 3.0);
    let list = ask("GET", "/revocations", "").json();
    assert_eq!(list["revocations"].as_array().unwrap().len(), 3, "{list}");
    assert!(list.to_string().contains(r#"{"subject":"ann"}"#), "{list}");
    assert_eq!(ask("POST", "/revocations/lift", r#"{"subject":"ann"}"#).status, 200);
    assert_eq!(ask("POST", "/revocations/lift", r#"{"subject":"ann"}"#).status, 404);
    assert_eq!(post(&gateway, "a.b", Some(&token("ann", "9"))).status, 200);
    for bad in [json!({}), json!({"subject": "a", "key": "b"}), json!({"token": "x", "until": 1}), json!([])]
    {
        assert_eq!(revoke(bad).status, 400);
    }
    assert_eq!(ask("PUT", "/revocations", "{}").header("allow"), Some("GET, HEAD, POST"));
    // What a page could make somebody's browser send is not for it.
    assert_eq!(request(gateway.admin, "POST", "/revocations", &[], r#"{"key":"feeds"}"#).status, 403);
    // It is nothing for the public.
    assert_eq!(request(gateway.address, "POST", "/revocations", &[], "{}").status, 404);
}

#[test]
fn what_is_revoked_in_the_middle_of_a_body_publishes_nothing() {
    let signer = signer();
    let (gateway, _folder) = with_signers(&[&signer], &key_of_feeds(), &[]);
    let holders = [KEY.to_owned(), signer.token("k0", &claims(json!({"sub": "ann"})))];
    let targets = [
        ("/topics/a.b", "text/plain", "half a message"),
        ("/topics/a.b?split=lines", "text/plain", "one line\nand half of one"),
        ("/publish", "application/json", r#"{"topic":"a.b","data":1}"#),
        ("/publish", "application/x-ndjson", "{\"topic\":\"a.b\",\"data\":1}\n"),
    ];
    let mut peers = Vec::new();
    for (credential, (target, content_type, body)) in
        holders.iter().flat_map(|holder| targets.map(|target| (holder, target)))
    {
        let mut peer = Peer::connect(gateway.address);
        let bearer = bearer(credential);
        let headers = [("authorization", &*bearer), ("content-type", content_type)];
        let text = request_text("POST", target, &headers, body);
        let (first, last) = text.split_at(text.len() - 1);
        peer.send(first);
        peers.push((peer, last.to_owned()));
    }
    // The heads are through, and the bodies wait for their last bytes.
    let held = 2 * targets.iter().map(|(_, _, body)| body.len() - 1).sum::<usize>();
    until_metric(&gateway, "fanfare_inflight_body_bytes", |bytes| bytes == held as f64);
    for who in [r#"{"key":"feeds"}"#, r#"{"subject":"ann"}"#] {
        assert_eq!(operator(&gateway, "POST", "/revocations", who).status, 200);
    }
    for (mut peer, last) in peers {
        peer.send(last);
        let answer = peer.answer();
        assert_eq!((answer.status, &*answer.error_code()), (401, "unauthorized"), "{answer:?}");
    }
    assert_eq!((failures(&gateway, "revoked"), metric(&gateway, "fanfare_messages_total")), (8.0, 0.0));
}
