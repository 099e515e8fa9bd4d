//! SIGHUP: the configuration is read again while everybody stays.

mod support;

use serde_json::{Value, json};
use support::config_file::ConfigFile;
use support::metrics::{eventually, metric, metrics, until_metric};
use support::peer::{Peer, publish, request};
use support::stream::{EVENTS, Stream};
use support::{Gateway, fanfare};
use tempfile::NamedTempFile;

const OK: &str = "fanfare_config_reloads_total{result=\"ok\"}";
const FAILED: &str = "fanfare_config_reloads_total{result=\"failed\"}";
const LAST: &str = "fanfare_config_last_reload_success";

/// Signals, and waits until that has come to its end in one way or the other.
fn reload(gateway: &Gateway, result: &str) {
    let before = metric(gateway, result);
    gateway.signal("HUP");
    until_metric(gateway, result, |now| now == before + 1.0);
}

fn max_message(gateway: &Gateway) -> u64 {
    Peer::websocket(gateway.address, "/ws").json()["max_message"].as_u64().expect("a number")
}

/// What a new subscriber is told of a topic's policy.
fn policy(gateway: &Gateway, topic: &str) -> Value {
    Peer::subscribed(gateway.address, &[topic]).1["topics"][0]["policy"].clone()
}

fn oldest(gateway: &Gateway, topic: &str) -> Value {
    request(gateway.address, "GET", &format!("/topics/{topic}/info"), &[], "").json()["oldest"].clone()
}

fn text(log: &NamedTempFile) -> String {
    std::fs::read_to_string(log.path()).expect("it is text")
}

fn closes(gateway: &Gateway) -> f64 {
    metrics(gateway).iter().filter(|(name, _)| name.starts_with("fanfare_closes_total")).map(|(_, n)| n).sum()
}

#[test]
fn a_reload_changes_limits_and_policies_and_closes_nobody() {
    let file = ConfigFile::new("[limits]\nmessage_bytes = \"1KiB\"\n");
    // A flag wins over the file each time.
    let gateway = Gateway::start(&["--config", file.path(), "--subscriptions", "3"]);
    let (mut native, acknowledgement) = Peer::subscribed(gateway.address, &["a"]);
    assert_eq!(acknowledgement["topics"][0]["policy"], Value::Null);
    let mut raw = Peer::raw(gateway.address, "a");
    let mut stream = Stream::open(gateway.address, "/topics/a", &[EVENTS]);
    for number in 1..=5 {
        assert_eq!(publish(gateway.address, "a", "application/json", number.to_string()).status, 200);
        assert_eq!(native.json()["offset"], number);
        assert_eq!((raw.text(), stream.next().data), (number.to_string(), number.to_string()));
    }
    assert_eq!((max_message(&gateway), oldest(&gateway, "a")), (1024, json!(1)));
    assert_eq!(publish(gateway.address, "b", "text/plain", [b'x'; 1500]).status, 413);

    let before = closes(&gateway);
    file.rewrite(
        "[limits]\nmessage_bytes = \"2KiB\"\nsubscriptions = 9\ntopics = 2\n[[topics]]\nmatch = \"a\"\n\
         slow = \"conflate\"\nreplay = { messages = 2 }\nstale_after = \"300ms\"\n",
    );
    reload(&gateway, OK);
    assert_eq!((metric(&gateway, LAST), metric(&gateway, FAILED)), (1.0, 0.0));
    assert_eq!(oldest(&gateway, "a"), json!(4), "what the ring held beyond its bound is gone");
    assert_eq!(publish(gateway.address, "b", "text/plain", [b'x'; 1500]).status, 200);
    assert_eq!(publish(gateway.address, "c", "text/plain", "x").error_code(), "limit");
    // Those who are there hear of silence, which was none before.
    let told = native.json();
    assert_eq!((&told["type"], &told["status"]), (&json!("status"), &json!("stale")), "{told}");
    assert_eq!(publish(gateway.address, "a", "application/json", "6").status, 200);
    assert_eq!(native.json()["status"], "live");
    assert_eq!((native.json()["offset"].clone(), raw.text()), (json!(6), "6".into()));
    // Its worker may not have looked in time to tell of the silence.
    let event = std::iter::repeat_with(|| stream.next()).find(|event| event.name != "status");
    assert_eq!(event.expect("it goes on").data, "6");
    assert_eq!(closes(&gateway), before, "a reload closes nobody");

    assert_eq!((max_message(&gateway), policy(&gateway, "a")), (2048, json!("conflate")));
    let refused = native.subscribe(&["b", "b2", "b3"]);
    assert_eq!(refused["topics"][2]["error"]["code"], "limit", "the flag says 3: {refused}");
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let file = ConfigFile::new("[limits]\nmessage_bytes = \"1KiB\"\n");
    let (gateway, log) = Gateway::start_logged(&[("FANFARE_LOG", "info")], &["--config", file.path()]);
    let (mut peer, _) = Peer::subscribed(gateway.address, &["a"]);
    assert_eq!(metric(&gateway, LAST), 1.0);
    for (number, bad) in [
        "[limits]\nmessage_bytes = \"2KiB\"\nconections = 1",
        "workers = [",
        "[limits]\nmessage_bytes = \"8MiB\"",
    ]
    .iter()
    .enumerate()
    {
        file.rewrite(bad);
        reload(&gateway, FAILED);
        assert_eq!((metric(&gateway, LAST), metric(&gateway, OK)), (0.0, 0.0));
        assert_eq!((metric(&gateway, FAILED), max_message(&gateway)), (number as f64 + 1.0, 1024));
    }
    let told = text(&log);
    for line in [
        "limits.conections: unknown key; did you mean connections?",
        "TOML parse error",
        "limits.message_bytes: larger",
    ] {
        assert!(told.contains(line), "{told}");
    }
    assert_eq!(publish(gateway.address, "a", "application/json", "1").status, 200);
    assert_eq!(peer.json()["offset"], 1);
    // The way back is a good file.
    file.rewrite("[limits]\nmessage_bytes = \"2KiB\"\n");
    reload(&gateway, OK);
    assert_eq!((metric(&gateway, LAST), max_message(&gateway)), (1.0, 2048));
}

#[test]
fn what_needs_a_restart_stays_and_is_named() {
    let file =
        ConfigFile::new("[limits]\nping_interval = \"30s\"\nmessage_bytes = \"1KiB\"\nlog_lines = 512\n");
    let (gateway, log) = Gateway::start_logged(&[("FANFARE_LOG", "info")], &["--config", file.path()]);
    file.rewrite(
        "writer = \"inline\"\n[limits]\nping_interval = \"1h\"\nmessage_bytes = \"2KiB\"\nlog_lines = 513\n",
    );
    reload(&gateway, OK);
    let welcome = Peer::websocket(gateway.address, "/ws").json();
    assert_eq!((&welcome["ping"], &welcome["max_message"]), (&json!(30), &json!(2048)));
    let told = text(&log);
    let named = |key: &str| told.lines().any(|line| line.contains("needs a restart") && line.contains(key));
    assert!(named("ping_interval") && named("writer") && named("log_lines"), "{told}");
    assert!(!named("message_bytes"), "{told}");
    assert_eq!(metric(&gateway, r#"fanfare_limit{limit="log_lines"}"#), 512.0);
    // It is odd, but it is not in force.
    assert!(!told.contains("limits.ping_interval: past"), "{told}");
}

#[test]
fn fewer_connections_than_there_are_close_none_of_them() {
    let file = ConfigFile::new("");
    let gateway = Gateway::start(&["--config", file.path()]);
    let mut peers: Vec<_> = (0..4).map(|_| Peer::subscribed(gateway.address, &["a"]).0).collect();
    file.rewrite("[limits]\nconnections = 2\n");
    reload(&gateway, OK);
    let refused = || Peer::connect(gateway.address).try_answer().is_some_and(|answer| answer.status == 503);
    eventually(refused, "a newcomer is refused");
    peers.iter_mut().for_each(|peer| assert_eq!(peer.fence(), [Value::Null; 0]));
    drop(peers);
    file.rewrite("");
    reload(&gateway, OK);
    assert_eq!(publish(gateway.address, "a", "application/json", "1").status, 200);
}

#[test]
fn reloads_under_load_lose_nothing_and_keep_the_order() {
    const MESSAGES: u64 = 600;
    let rules = |policy: &str, messages: u64| {
        format!(
            "[limits]\noutbox_messages = {messages}\n[[topics]]\nmatch = \"a\"\nslow = \"{policy}\"\nreplay = {{ messages = {messages} }}\n"
        )
    };
    let file = ConfigFile::new(rules("disconnect", 1_000));
    let gateway = Gateway::start(&["--config", file.path()]);
    let mut readers = Peer::on_each_worker(gateway.address, "a");
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut peer = Peer::connect(gateway.address);
            for number in 1..=MESSAGES {
                let answer = peer.request(
                    "POST",
                    "/topics/a",
                    &[("content-type", "application/json")],
                    number.to_string(),
                );
                assert_eq!(answer.json()["offset"], number);
            }
        });
        for reader in &mut readers {
            scope
                .spawn(move || (1..=MESSAGES).for_each(|number| assert_eq!(reader.json()["offset"], number)));
        }
        for (policy, messages) in
            [("conflate", 900), ("drop-oldest", 800), ("conflate", 700), ("disconnect", 900)]
        {
            file.rewrite(rules(policy, messages));
            reload(&gateway, OK);
        }
        publisher.join().expect("it has published");
    });
    assert_eq!(oldest(&gateway, "a"), json!(1), "the ring was always long enough");
}

#[test]
fn no_secret_is_told() {
    let file = ConfigFile::new("");
    let environment = [("FANFARE_LOG", "trace")];
    let (gateway, log) = Gateway::start_logged(&environment, &["--config", file.path()]);
    let secrets =
        ["planted-in-header", "planted-in-query", "planted-in-protocol", "planted-in-payload", "planted-key"];
    let [header, query, protocol, payload, key] = secrets;
    let bearer = format!("Bearer {header}");
    let target = format!("/topics/a?access_token={query}");
    let headers = [("authorization", &*bearer), ("idempotency-key", key), ("content-type", "text/plain")];
    request(gateway.address, "POST", &target, &headers, payload);
    let mut peer = Peer::connect(gateway.address);
    let upgrade = format!("fanfare.v1.json, fanfare.bearer.{protocol}");
    peer.send(format!(
        "GET /ws?access_token={query} HTTP/1.1\r\n{}sec-websocket-protocol: {upgrade}\r\n\r\n",
        support::peer::HANDSHAKE
    ));
    peer.answer();
    peer.say(&format!(r#"{{"type":"auth","token":"{header}"}}"#));
    peer.next();
    // A key of nobody's, with a value that may be a secret: the error names the key alone.
    file.rewrite(format!("jwt_secrte = \"{header}\"\n[limits]\nsecret = \"{payload}\"\n"));
    reload(&gateway, FAILED);
    let page = request(gateway.admin, "GET", "/metrics", &[], "");
    let check =
        fanfare().args(["check-config", "--config", file.path(), "--print"]).output().expect("it runs");
    assert_eq!(check.status.code(), Some(2));
    let checked = String::from_utf8_lossy(&[check.stdout, check.stderr].concat()).into_owned();
    assert!(checked.contains("jwt_secrte: unknown key"), "{checked}");
    let told = text(&log);
    assert!(told.contains("jwt_secrte: unknown key"), "the log is read: {told}");
    for secret in secrets {
        for (place, text) in [("the log", &*told), ("the metrics", page.text()), ("check-config", &*checked)]
        {
            assert!(!text.contains(secret), "{secret} is in {place}: {text}");
        }
    }
}
