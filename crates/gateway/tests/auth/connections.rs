//! What becomes of a connection when its credential comes late, expires or is exchanged, and how many a holder has.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::gateways::{signer, with_signers};
use crate::requests::{bearer, get, handshake, native, post};
use crate::support::metrics::until_metric;
use crate::support::peer::{Peer, chunk, request_text};
use crate::support::stream::Stream;
use crate::support::tokens::{Signer, claims, in_seconds};

#[test]
fn a_connection_ends_with_its_token_unless_another_one_comes() {
    let signer = signer();
    let (gateway, _folder) = with_signers(&[&signer], "", &[]);
    let short = || signer.token("k0", &claims(json!({"exp": in_seconds(2), "jti": fastrand_id()})));
    let begun = Instant::now();
    let mut refreshed = native(&gateway, &short());
    refreshed.subscribe(&["a.b"]);
    let mut native_one = native(&gateway, &short());
    native_one.subscribe(&["a.b"]);
    let raw = handshake(&gateway, &format!("/topics/a.b?access_token={}", short()), &[]);
    assert_eq!(raw.0.status, 101);
    let mut raw = raw.1;
    let mut stream =
        Stream::open(gateway.address, &format!("/events?topic=a.b&access_token={}", short()), &[]);
    let mut poll = Peer::connect(gateway.address);
    let cursor =
        get(&gateway, "/poll?topic=a.b", Some(&short())).json()["cursor"].as_str().unwrap().to_owned();
    let target = format!("/poll?topic=a.b&cursor={cursor}&wait=30&access_token={}", short());
    poll.send(request_text("GET", &target, &[], ""));
    // A stream of publishes, too.
    let mut publisher = Peer::connect(gateway.address);
    let head = format!(
        "POST /publish HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n",
        bearer(&short())
    );
    publisher.send(head);
    publisher.send(chunk("{\"topic\":\"a.p\",\"data\":1}\n"));

    let longer = signer.token("k0", &claims(json!({})));
    refreshed.say(&json!({"type": "auth", "id": 7, "token": longer}).to_string());
    assert_eq!(refreshed.json(), json!({"type": "authenticated", "id": 7}));

    assert_eq!(native_one.close_code(), Some(4501));
    assert_eq!(raw.close_code(), Some(4501));
    while stream.event().is_some() {}
    let answer = poll.answer();
    assert_eq!((answer.status, &*answer.error_code()), (401, "unauthorized"));
    publisher.send(chunk("{\"topic\":\"a.p\",\"data\":2}\n"));
    let results = publisher.answer().json();
    assert_eq!(results["results"][1]["error"]["code"], "unauthorized", "{results}");
    assert!(begun.elapsed() > Duration::from_secs(1), "they ended at once");
    until_metric(&gateway, "fanfare_closes_total{reason=\"token_expired\"}", |closes| closes == 3.0);

    // The one that came back in time gets what is published now.
    assert_eq!(post(&gateway, "a.b", Some(&longer)).status, 200);
    assert_eq!(refreshed.json()["topic"], "a.b");
}

/// Tells tokens apart that are the same otherwise.
fn fastrand_id() -> String {
    format!("{:x}", in_seconds(0)) + &format!("{:p}", Box::into_raw(Box::new(0u8)))
}

#[test]
fn a_token_may_come_after_the_handshake() {
    let signer = signer();
    let (gateway, _folder) = with_signers(&[&signer], "", &["--auth-timeout", "1s"]);
    let say = |peer: &mut Peer, token: &str| {
        peer.say(&json!({"type": "auth", "token": token}).to_string());
        peer.json()
    };
    let (mut peer, _) = Peer::native(gateway.address);
    let wrong = say(&mut peer, "a.b.c");
    assert_eq!((&wrong["type"], &wrong["code"]), (&"error".into(), &"unauthorized".into()));
    assert_eq!(say(&mut peer, &signer.token("k0", &claims(json!({})))), json!({"type": "authenticated"}));
    assert!(peer.subscribe(&["a.b"])["topics"][0]["error"].is_null());
    // A bad one takes nothing away, and the first deadline is over.
    assert_eq!(say(&mut peer, "a.b.c")["code"], "unauthorized");
    let (mut nobody, _) = Peer::native(gateway.address);
    assert_eq!(nobody.close_code(), Some(4501));
    assert!(peer.fence().is_empty());
    // One that allows less than what is subscribed to ends it.
    let narrow = signer.token("k0", &claims(json!({"sub_topics": ["a.c"]})));
    peer.say(&json!({"type": "auth", "token": narrow}).to_string());
    assert_eq!(peer.close_code(), Some(4503));
}

#[test]
fn the_connections_of_a_holder_are_counted_however_it_came() {
    let signer = signer();
    let (gateway, _folder) = with_signers(&[&signer], "", &["--token-connections", "2"]);
    let token = signer.token("k0", &claims(json!({"sub": "ann"})));
    let (first, _second) = (native(&gateway, &token), native(&gateway, &token));
    let (answer, _) = handshake(&gateway, "/ws", &[("authorization", &bearer(&token))]);
    assert_eq!(answer.status, 429);
    let (mut late, _) = Peer::native(gateway.address);
    late.say(&json!({"type": "auth", "token": token}).to_string());
    assert_eq!(late.close_code(), Some(4504));
    drop(first);
    until_metric(&gateway, "fanfare_connections{transport=\"json\"}", |count| count == 1.0);
    let (mut late, _) = Peer::native(gateway.address);
    late.say(&json!({"type": "auth", "token": token}).to_string());
    assert_eq!(late.json()["type"], "authenticated");
}

#[test]
fn a_reload_exchanges_who_may_and_closes_nobody() {
    let (old, new) = (signer(), Signer::secret("HS256", [9; 32]));
    let (gateway, folder) = with_signers(&[&old], "", &[]);
    let token = old.token("k0", &claims(json!({})));
    let mut peer = native(&gateway, &token);
    peer.subscribe(&["a.b"]);
    assert_eq!(post(&gateway, "a.b", Some(&token)).status, 200);
    assert_eq!(peer.json()["offset"], 1);
    let reloads = "fanfare_config_reloads_total{result=\"ok\"}";
    // A file that is no key changes nothing.
    std::fs::write(folder.path().join("k0.key"), "short").unwrap();
    gateway.signal("HUP");
    until_metric(&gateway, "fanfare_config_reloads_total{result=\"failed\"}", |count| count == 1.0);
    assert_eq!(post(&gateway, "a.b", Some(&token)).status, 200);
    // Another key: what was remembered of the old one is forgotten with it.
    std::fs::write(folder.path().join("k0.key"), new.file()).unwrap();
    gateway.signal("HUP");
    until_metric(&gateway, reloads, |count| count == 1.0);
    assert_eq!(post(&gateway, "a.b", Some(&token)).status, 401);
    assert_eq!(post(&gateway, "a.b", Some(&new.token("k0", &claims(json!({}))))).status, 200);
    let offsets = [peer.json()["offset"].clone(), peer.json()["offset"].clone()];
    assert_eq!(offsets, [json!(2), json!(3)], "who was connected stays");
}
