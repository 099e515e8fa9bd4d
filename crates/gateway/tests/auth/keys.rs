//! What a key is good for, and what is made of one that is none.

use crate::gateways::{KEY, failures, with_key};
use crate::requests::{bearer, error_codes, get, handshake, native, post};
use crate::support::config_file::ConfigFile;
use crate::support::peer::request;
use crate::support::stream::Stream;
use crate::support::tokens::sha256;
use crate::support::{Gateway, fanfare};

#[test]
fn a_key_may_what_its_patterns_say_and_nothing_else() {
    let config = with_key("");
    let gateway = Gateway::start(&["--config", config.path()]);
    let check = |target: &str, status: u16| {
        let answer = get(&gateway, target, Some(KEY));
        assert_eq!(answer.status, status, "{target}: {answer:?}");
        if status == 403 {
            assert_eq!(answer.error_code(), "forbidden", "{target}");
        }
    };
    assert_eq!(post(&gateway, "a.b", Some(KEY)).status, 200);
    assert_eq!(post(&gateway, "ab.c", Some(KEY)).status, 403);
    check("/topics/a.b", 200);
    check("/topics/a%2eb", 200);
    check("/topics/a.b/info", 200);
    check("/poll?topic=a.b", 200);
    check("/poll?topic=a.*&topic=a.%3E", 200);
    // Whether they exist makes no difference.
    for topic in ["a", "b", "ab.c", "A.b", "aa.b", "b%2ea"] {
        check(&format!("/topics/{topic}"), 403);
        check(&format!("/topics/{topic}/info"), 403);
        check(&format!("/poll?topic={topic}"), 403);
    }
    check("/poll?topic=%3E", 403);
    check("/poll?topic=*.b", 403);
    check("/poll?topic=a.b&topic=b", 403);
    check("/events?topic=b&topic=%3E", 403);
    check("/topics/a..b", 400);
    check("/topics/a.b%00", 400);
    check("/topics/..%2fa.b", 400);
}

#[test]
fn a_bad_key_is_never_taken_for_no_key() {
    let config = with_key("[anonymous]\nsubscribe = [\"public.>\"]\npublish = [\"public.>\"]");
    let gateway = Gateway::start(&["--config", config.path()]);
    assert_eq!(post(&gateway, "public.x", None).status, 200);
    let (short, long) = ("x".repeat(15), "x".repeat(257));
    for bad in [
        "",
        "wrong",
        "correct-horse-battery-stapl",
        "correct-horse-battery-staple2",
        &short,
        &long,
        "a.b",
        "a.b.c",
        "...",
    ] {
        for answer in [post(&gateway, "public.x", Some(bad)), get(&gateway, "/topics/public.x", Some(bad))] {
            assert_eq!((answer.status, &*answer.error_code()), (401, "unauthorized"), "{bad}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
            assert_eq!(answer.header("connection"), Some("close"), "a guess takes a connection of its own");
        }
        let (answer, _) = handshake(&gateway, "/ws", &[("authorization", &bearer(bad))]);
        assert_eq!(answer.status, 401, "{bad}");
    }
    assert!(failures(&gateway, "unknown_key") >= 2.0 && failures(&gateway, "malformed") >= 2.0);
}

#[test]
fn an_idempotency_key_is_its_publishers_own() {
    let other = "another-key-of-somebody-else";
    let config = with_key(&format!(
        "[[api_keys]]\nname = \"others\"\nsha256 = \"{}\"\npublish = [\"a.>\"]\n[anonymous]\npublish = [\"a.>\"]\n",
        sha256(other)
    ));
    let gateway = Gateway::start(&["--config", config.path()]);
    let publish = |credential: Option<&str>| {
        let value = credential.map(bearer);
        let mut headers = vec![("content-type", "application/json"), ("idempotency-key", "1")];
        headers.extend(value.iter().map(|value| ("authorization", value.as_str())));
        let answer = request(gateway.address, "POST", "/topics/a.b", &headers, "1");
        (answer.json()["offset"].as_u64(), answer.header("idempotent-replayed").is_some())
    };
    assert_eq!(publish(Some(KEY)), (Some(1), false));
    assert_eq!(publish(Some(other)), (Some(2), false));
    assert_eq!(publish(None), (Some(3), false));
    assert_eq!(publish(Some(KEY)), (Some(1), true));
    assert_eq!(publish(Some(other)), (Some(2), true));
    assert_eq!(publish(None), (Some(3), true));
}

#[test]
fn many_at_once_are_judged_one_by_one() {
    let config = with_key("");
    let gateway = Gateway::start(&["--config", config.path()]);
    let items = "{\"topic\":\"a.b\",\"data\":1}\n{\"topic\":\"b\",\"data\":1}\n{\"topics\":[\"a.c\",\"c\"],\"data\":1}\n\
                 {\"topic\":\"b\",\"data\":1,\"id\":\"x\"}\n";
    let (kind, key) = (("content-type", "application/x-ndjson"), bearer(KEY));
    let answer = request(gateway.address, "POST", "/publish", &[kind, ("authorization", &key)], items);
    let results = answer.json()["results"].clone();
    let expect = [None, Some("forbidden"), None, Some("forbidden"), Some("forbidden")];
    assert_eq!(error_codes(&results), expect);

    let mut peer = native(&gateway, KEY);
    let acknowledgement = peer.subscribe(&["a.>", "b", ">", "a.b"]);
    assert_eq!(error_codes(&acknowledgement["topics"]), [None, Some("forbidden"), Some("forbidden"), None]);
    peer.fence();
    peer.say(r#"{"type":"publish","id":2,"topic":"b","data":1}"#);
    assert_eq!(peer.json()["code"], "forbidden");

    let target = "/events?topic=a.b&topic=b";
    let mut stream = Stream::open(gateway.address, target, &[("authorization", &key)]);
    let subscribed =
        std::iter::from_fn(|| Some(stream.next())).find(|event| event.name == "subscribed").unwrap().json();
    assert_eq!(subscribed["topics"][1]["error"]["code"], "forbidden");
}

#[test]
fn the_list_has_only_what_one_may_subscribe_to() {
    let config = ConfigFile::new(format!(
        "[anonymous]\npublish = [\">\"]\n[[api_keys]]\nname = \"reader\"\nsha256 = \"{}\"\n\
         subscribe = [\"b.*\", \"a.>\", \"c\", \"*.x\"]",
        sha256(KEY)
    ));
    let gateway = Gateway::start(&["--config", config.path()]);
    for topic in ["a.1", "a.2.3", "a.x", "b.1", "b.2.3", "b.x", "c", "d", "d.x", "a"] {
        assert_eq!(post(&gateway, topic, None).status, 200);
    }
    let list = |query: &str| {
        let page = get(&gateway, &format!("/topics{query}"), Some(KEY)).json();
        let topics: Vec<_> = page["topics"]
            .as_array()
            .unwrap()
            .iter()
            .map(|topic| topic["topic"].as_str().unwrap().to_owned())
            .collect();
        (topics.join(" "), page["next"].as_str().map(str::to_owned))
    };
    assert_eq!(list(""), ("a.1 a.2.3 a.x b.1 b.x c d.x".into(), None));
    assert_eq!(list("?match=b.%3E"), ("b.1 b.x".into(), None));
    assert_eq!(list("?max=3"), ("a.1 a.2.3 a.x".into(), Some("a.x".into())));
    assert_eq!(list("?max=3&after=a.x"), ("b.1 b.x c".into(), Some("c".into())));
    assert_eq!(list("?match=e"), (String::new(), None));
    // Who may only publish has nothing to see.
    assert_eq!(get(&gateway, "/topics", None).status, 401);
}

#[test]
fn a_key_is_made_and_hashed_by_the_program() {
    let run = |args: &[&str], input: &str| {
        use std::io::Write;
        use std::process::Stdio;
        let mut command = fanfare();
        command
            .arg("hash-key")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(run(&[], &format!("{KEY}\n")), (true, format!("sha256 = \"{}\"\n", sha256(KEY))));
    for bad in ["short", "has a space in its middle", "a.key.with-just-two-dots"] {
        assert_eq!(run(&[], bad), (false, String::new()), "{bad}");
    }
    let (done, made) = run(&["--random"], "");
    let (key, line) = made.split_once('\n').unwrap();
    assert!(
        done && key.starts_with("fanfare_") && line.trim() == format!("sha256 = \"{}\"", sha256(key)),
        "{made}"
    );
    assert_ne!(run(&["--random"], "").1, made);
}
