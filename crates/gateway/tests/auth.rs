//! Who may: keys, tokens and origins, good and forged, over every way in.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::config_file::ConfigFile;
use support::metrics::{closes, metric, until_metric};
use support::peer::{Answer, HANDSHAKE, Peer, TEXT, chunk, masked, request, request_text};
use support::stream::{EVENTS, LINES, Stream};
use support::tokens::{Signer, base64url, claims, in_seconds, sha256};
use support::{Gateway, fanfare};
use tempfile::TempDir;

/// An API key, as somebody has chosen it.
const KEY: &str = "correct-horse-battery-staple";

/// A configuration with one key, which may everything below `a`; and `public` for everybody.
fn with_key(more: &str) -> ConfigFile {
    ConfigFile::new(format!(
        "[[api_keys]]\nname = \"feeds\"\nsha256 = \"{}\"\npublish = [\"a.>\"]\nsubscribe = [\"a.>\"]\n{more}",
        sha256(KEY)
    ))
}

/// A gateway with files beside its configuration.
fn with_files(files: &[(&str, Vec<u8>)], config: &str, args: &[&str]) -> (Gateway, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let path = folder.path().join("fanfare.toml");
    std::fs::write(&path, config).unwrap();
    let args = [&["--config", path.to_str().unwrap()], args].concat();
    (Gateway::start(&args), folder)
}

/// A gateway that checks tokens with the keys of `signers`, named `k0`, `k1`, …
fn with_signers(signers: &[&Signer], config: &str, args: &[&str]) -> (Gateway, TempDir) {
    let names: Vec<_> = (0..signers.len()).map(|index| format!("k{index}.key")).collect();
    let files: Vec<_> =
        names.iter().zip(signers).map(|(name, signer)| (name.as_str(), signer.file())).collect();
    let mut text = config.to_owned();
    for (index, signer) in signers.iter().enumerate() {
        let file = if signer.algorithm.starts_with("HS") { "secret_file" } else { "public_key_file" };
        text += &format!(
            "\n[[token_keys]]\nid = \"k{index}\"\nalgorithm = \"{}\"\n{file} = \"k{index}.key\"\n",
            signer.algorithm
        );
    }
    with_files(&files, &text, args)
}

/// A secret that is long enough.
fn signer() -> Signer {
    Signer::secret("HS256", *b"0123456789abcdef0123456789abcdef")
}

fn bearer(credential: &str) -> String {
    format!("Bearer {credential}")
}

fn get(gateway: &Gateway, target: &str, credential: Option<&str>) -> Answer {
    let value = credential.map(bearer);
    let headers: Vec<_> = value.iter().map(|value| ("authorization", value.as_str())).collect();
    request(gateway.address, "GET", target, &headers, "")
}

fn post(gateway: &Gateway, topic: &str, credential: Option<&str>) -> Answer {
    let value = credential.map(bearer);
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(value.iter().map(|value| ("authorization", value.as_str())));
    request(gateway.address, "POST", &format!("/topics/{topic}"), &headers, "{}")
}

/// Asks for a WebSocket, and returns the answer and what becomes of the connection.
fn handshake(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> (Answer, Peer) {
    let mut peer = Peer::connect(gateway.address);
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    peer.send(format!("GET {target} HTTP/1.1\r\n{HANDSHAKE}{lines}\r\n"));
    (peer.answer(), peer)
}

/// `/ws` with a credential, up to its welcome.
fn native(gateway: &Gateway, credential: &str) -> Peer {
    let (answer, peer) = handshake(gateway, "/ws", &[("authorization", &bearer(credential))]);
    assert_eq!(answer.status, 101, "{answer:?}");
    peer.welcomed().0
}

fn failures(gateway: &Gateway, reason: &str) -> f64 {
    metric(gateway, &format!("fanfare_auth_failures_total{{reason=\"{reason}\"}}"))
}

// === keys ===

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
fn who_shows_nothing_may_what_is_for_everybody() {
    let config = with_key("[anonymous]\nsubscribe = [\"public.>\"]");
    let gateway = Gateway::start(&["--config", config.path()]);
    assert_eq!(get(&gateway, "/poll?topic=public.a", None).status, 200);
    for answer in [
        post(&gateway, "public.a", None),
        get(&gateway, "/topics/a.b", None),
        get(&gateway, "/events?topic=a.b", None),
    ] {
        assert_eq!((answer.status, &*answer.error_code()), (401, "unauthorized"));
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    for open in ["/healthz", "/readyz", "/fanfare.js"] {
        assert_eq!(get(&gateway, open, None).status, 200, "{open}");
    }
    let (_, acknowledgement) = Peer::subscribed(gateway.address, &["public.*", "a.b", "public.a"]);
    let codes: Vec<_> = acknowledgement["topics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|topic| topic["error"]["code"].as_str())
        .collect();
    assert_eq!(codes, [None, Some("unauthorized"), None]);
}

#[test]
fn with_keys_and_nothing_for_everybody_nobody_may_anything() {
    let config = with_key("");
    let gateway = Gateway::start(&["--config", config.path(), "--auth-timeout", "300ms"]);
    let publish = |target: &str| {
        request(gateway.address, "POST", target, &[("content-type", "application/json")], "{}")
    };
    for answer in [
        publish("/topics/a.b"),
        publish("/publish"),
        get(&gateway, "/topics/a.b", None),
        get(&gateway, "/topics", None),
        get(&gateway, "/topics/a.b/info", None),
        get(&gateway, "/events?topic=a.b", None),
        get(&gateway, "/poll?topic=a.b", None),
        request(gateway.address, "GET", "/topics/a.b", &[EVENTS], ""),
        request(gateway.address, "GET", "/topics/a.b", &[LINES], ""),
        handshake(&gateway, "/topics/a.b", &[]).0,
    ] {
        assert_eq!((answer.status, &*answer.error_code()), (401, "unauthorized"));
    }
    // On `/ws` there is time to say who one is, and it ends.
    let (mut peer, _) = Peer::native(gateway.address);
    let acknowledgement = peer.subscribe(&["a.b"]);
    assert_eq!(acknowledgement["topics"][0]["error"]["code"], "unauthorized");
    peer.say(r#"{"type":"publish","id":2,"topic":"a.b","data":1}"#);
    assert_eq!(peer.json()["code"], "unauthorized");
    assert_eq!(peer.close_code(), Some(4501));
    until_metric(&gateway, "fanfare_closes_total{reason=\"auth_timeout\"}", |closes| closes == 1.0);
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
    let codes: Vec<_> =
        results.as_array().unwrap().iter().map(|result| result["error"]["code"].as_str()).collect();
    assert_eq!(codes, [None, Some("forbidden"), None, Some("forbidden"), Some("forbidden")]);

    let mut peer = native(&gateway, KEY);
    let acknowledgement = peer.subscribe(&["a.>", "b", ">", "a.b"]);
    let codes: Vec<_> = acknowledgement["topics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|topic| topic["error"]["code"].as_str())
        .collect();
    assert_eq!(codes, [None, Some("forbidden"), Some("forbidden"), None]);
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
fn a_raw_websocket_ends_with_what_one_may_not_publish() {
    let config = ConfigFile::new("[anonymous]\nsubscribe = [\"a.b\"]");
    let gateway = Gateway::start(&["--config", config.path()]);
    let mut peer = Peer::raw(gateway.address, "a.b");
    peer.send(masked(TEXT, b"x"));
    assert_eq!(peer.close_code(), Some(4503));
    until_metric(&gateway, "fanfare_closes_total{reason=\"forbidden\"}", |closes| closes == 1.0);
    let (answer, _) = handshake(&gateway, "/topics/a.c", &[]);
    assert_eq!(answer.status, 401);
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

// === the address ===

#[test]
fn without_auth_only_this_machine_is_served_unless_it_is_said() {
    let serve = |command: &str, args: &[&str]| {
        let output = fanfare().arg(command).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for command in ["serve", "demo"] {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let (code, text) = serve(command, &["--listen", address]);
            assert_eq!(code, Some(2), "{command} {address}: {text}");
            assert!(text.starts_with("listen: without api_keys") && text.contains("--insecure"), "{text}");
        }
    }
    // With the word, or with keys, it comes as far as to an address that is not this machine's.
    let (code, text) = serve("serve", &["--listen", "192.0.2.1:0", "--insecure"]);
    assert!(code == Some(1) && text.contains("cannot listen"), "{text}");
    let config = with_key("");
    let (code, text) = serve("serve", &["--listen", "192.0.2.1:0", "--config", config.path()]);
    assert!(code == Some(1) && text.contains("cannot listen"), "{text}");
    assert_eq!(serve("serve", &["--insecure=perhaps"]).0, Some(2));
}

// === where a credential is ===

#[test]
fn a_credential_may_be_in_three_places_and_only_in_one() {
    let config = with_key("");
    let gateway = Gateway::start(&["--config", config.path()]);
    let (authorization, query) = (("authorization", &*bearer(KEY)), format!("/ws?access_token={KEY}"));
    let offered = format!("fanfare.bearer.{KEY}, fanfare.v1.json");
    let only_offered = format!("fanfare.bearer.{KEY}");
    let (offered, only_offered) =
        (("sec-websocket-protocol", &*offered), ("sec-websocket-protocol", &*only_offered));
    for (target, headers) in
        [("/ws", &[authorization][..]), (&query, &[]), ("/ws", &[offered]), ("/ws", &[only_offered])]
    {
        let (answer, peer) = handshake(&gateway, target, headers);
        assert_eq!(answer.status, 101, "{target} {headers:?}: {answer:?}");
        let chosen = answer.header("sec-websocket-protocol");
        assert_eq!(chosen, (headers == [offered]).then_some("fanfare.v1.json"));
        assert!(answer.headers.iter().all(|(_, value)| !value.contains(KEY)), "it is echoed: {answer:?}");
        let mut peer = peer.welcomed().0;
        assert_eq!(peer.subscribe(&["a.b"])["topics"][0]["topic"], "a.b");
    }
    let twice = format!("/ws?access_token={KEY}&access_token={KEY}");
    for (target, headers) in [
        (&*query, &[authorization][..]),
        ("/ws", &[authorization, authorization]),
        ("/ws", &[authorization, offered]),
        (&query, &[offered]),
        (&twice, &[]),
    ] {
        let (answer, _) = handshake(&gateway, target, headers);
        assert_eq!((answer.status, &*answer.error_code()), (400, "bad_request"), "{target} {headers:?}");
    }
    assert_eq!(failures(&gateway, "several"), 5.0);
    // A cookie is none.
    let (answer, _) = handshake(&gateway, "/topics/a.b", &[("cookie", &format!("access_token={KEY}"))]);
    assert_eq!(answer.status, 401);
    assert_eq!(get(&gateway, &format!("/poll?topic=a.b&access_token={KEY}"), None).status, 200);
    let mut stream = Stream::open(gateway.address, &format!("/events?topic=a.b&access_token={KEY}"), &[]);
    assert!(stream.line().is_some());
}

// === tokens ===

#[test]
fn tokens_of_every_algorithm_are_taken() {
    let signers = [
        signer(),
        Signer::secret("HS384", [7; 48]),
        Signer::secret("HS512", [7; 64]),
        Signer::rsa("RS256"),
        Signer::rsa("PS512"),
        Signer::p256(),
        Signer::p384(),
        Signer::ed25519(),
    ];
    let all: Vec<_> = signers.iter().collect();
    let (gateway, _folder) = with_signers(&all, "", &[]);
    for (index, signer) in signers.iter().enumerate() {
        let token = signer.token(&format!("k{index}"), &claims(json!({})));
        // The second time, it is remembered.
        for _ in 0..2 {
            let answer = post(&gateway, "a.b", Some(&token));
            assert_eq!(answer.status, 200, "{}: {answer:?}", signer.algorithm);
        }
        assert_eq!(post(&gateway, "b", Some(&token)).status, 403);
        // Without a name, the algorithm finds the key.
        let header = json!({"alg": signer.algorithm}).to_string();
        let nameless = signer.forge(&header, &claims(json!({})).to_string());
        assert_eq!(post(&gateway, "a.b", Some(&nameless)).status, 200, "{}", signer.algorithm);
        // One character of the signature, or of the claims.
        let (message, signature) = token.rsplit_once('.').unwrap();
        let first = if signature.starts_with('A') { 'B' } else { 'A' };
        let broken = format!("{message}.{first}{}", &signature[1..]);
        assert_eq!(post(&gateway, "a.b", Some(&broken)).status, 401, "{}", signer.algorithm);
    }
    assert_eq!(metric(&gateway, "fanfare_token_keys"), 8.0);
}

#[test]
fn forged_tokens_are_refused_and_counted_by_what_is_wrong() {
    let (rsa, secret, ec, foreign) = (Signer::rsa("RS256"), signer(), Signer::p256(), Signer::rsa("RS256"));
    let config = "token_audience = [\"fanfare\"]\ntoken_issuer = [\"issuer\"]";
    let (gateway, _folder) = with_signers(&[&rsa, &secret, &ec], config, &[]);
    let good = |others: Value| {
        let mut all = json!({"aud": "fanfare", "iss": "issuer"});
        all.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
        claims(all)
    };
    let text = good(json!({})).to_string();
    let check = |token: &str, reason: &str| {
        let before = failures(&gateway, reason);
        let answer = post(&gateway, "a.b", Some(token));
        assert_eq!((answer.status, &*answer.error_code()), (401, "unauthorized"), "{reason}: {token:.300}");
        assert_eq!(failures(&gateway, reason), before + 1.0, "not {reason}: {token:.300}");
        // No other way in is more lenient.
        let (answer, _) = handshake(&gateway, &format!("/ws?access_token={token}"), &[]);
        assert!(answer.status == 401 || token.len() > 8000, "{reason}: {answer:?}");
    };
    assert_eq!(post(&gateway, "a.b", Some(&rsa.token("k0", &good(json!({}))))).status, 200);
    let list = json!({"aud": ["else", "fanfare"], "nbf": in_seconds(-5), "iat": in_seconds(-5)});
    assert_eq!(post(&gateway, "a.b", Some(&rsa.token("k0", &good(list)))).status, 200);

    // No algorithm, in every spelling.
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let unsigned =
            |header: &str| format!("{}.{}.", base64url(header.as_bytes()), base64url(text.as_bytes()));
        check(&unsigned(&format!(r#"{{"alg":"{none}","kid":"k0"}}"#)), "malformed");
        check(&unsigned(&format!(r#"{{"alg":"{none}"}}"#)), "malformed");
    }
    check(
        &format!("{}.{}.", base64url(br#"{"alg":"RS256","kid":"k0"}"#), base64url(text.as_bytes())),
        "signature",
    );
    check(&format!("{}.{}.AAAA", base64url(br#"{"kid":"k0"}"#), base64url(text.as_bytes())), "malformed");

    // The public key, which everybody may know, as a secret.
    let pem = rsa.file();
    for secret in [pem.clone(), pem.trim_ascii_end().to_vec()] {
        let confused = Signer::secret("HS256", secret);
        check(&confused.token("k0", &good(json!({}))), "algorithm");
        check(&confused.token("k1", &good(json!({}))), "signature");
        check(&confused.forge(r#"{"alg":"HS256"}"#, &text), "signature");
    }
    // The right key under another algorithm's name.
    check(&rsa.forge(r#"{"alg":"PS256","kid":"k0"}"#, &text), "algorithm");
    check(&rsa.forge(r#"{"alg":"RS384","kid":"k0"}"#, &text), "algorithm");
    check(&ec.forge(r#"{"alg":"RS256","kid":"k2"}"#, &text), "algorithm");
    check(&rsa.forge(r#"{"alg":"ES256","kid":"k2"}"#, &text), "signature");
    check(&foreign.token("k0", &good(json!({}))), "signature");

    // What chooses the key.
    for kid in
        ["k9", "", "../k0", "/dev/null", "k0.key", "k0' OR '1'='1", "http://127.0.0.1:1/", "k0\u{0}", "K0"]
    {
        check(&rsa.token(kid, &good(json!({}))), "unknown_token_key");
    }
    check(&rsa.forge(r#"{"alg":"RS256","kid":["k0"]}"#, &text), "malformed");
    check(&foreign.forge(r#"{"alg":"EdDSA"}"#, &text), "unknown_token_key");

    // A key that comes along, or its address.
    let header = |more: Value| {
        let mut header = json!({"alg": "RS256", "kid": "k0"});
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        header.to_string()
    };
    for more in [
        json!({"jku": "http://127.0.0.1:1/keys"}),
        json!({"x5u": "http://127.0.0.1:1/certificate"}),
        json!({"x5c": ["MIIB"]}),
        json!({"jwk": Signer::p256().jwk("k0")}),
        json!({"crit": ["exp"]}),
        json!({"crit": ["b64"], "b64": false}),
    ] {
        check(&foreign.forge(&header(more.clone()), &text), "header");
        check(&rsa.forge(&header(more), &text), "header");
    }

    // Claims.
    let claimed = |others: Value| rsa.token("k0", &good(others));
    check(&claimed(json!({"exp": in_seconds(-1)})), "expired");
    check(&claimed(json!({"exp": in_seconds(-3600)})), "expired");
    check(&claimed(json!({"exp": 0})), "expired");
    check(&claimed(json!({"exp": null})), "claims");
    check(&claimed(json!({"exp": "tomorrow"})), "claims");
    check(&claimed(json!({"exp": -1})), "claims");
    check(&claimed(json!({"nbf": in_seconds(60)})), "not_yet");
    check(&claimed(json!({"nbf": "yesterday"})), "claims");
    check(&claimed(json!({"iat": in_seconds(60)})), "not_yet");
    check(&claimed(json!({"aud": null})), "audience");
    check(&claimed(json!({"aud": "fanfare2"})), "audience");
    check(&claimed(json!({"aud": []})), "audience");
    check(&claimed(json!({"aud": {"fanfare": 1}})), "audience");
    check(&claimed(json!({"iss": null})), "issuer");
    check(&claimed(json!({"iss": "Issuer"})), "issuer");
    check(&claimed(json!({"sub_topics": "a.>"})), "claims");
    check(&claimed(json!({"sub_topics": [1]})), "claims");
    check(&claimed(json!({"sub_topics": ["a.>", "a..b"]})), "claims");
    check(&claimed(json!({"pub_topics": ["$sys.x"]})), "claims");
    check(&claimed(json!({"pub_topics": ["a.>.b"]})), "claims");
    check(&claimed(json!({"pub_topics": ["a b"]})), "claims");
    check(&claimed(json!({"sub": 7})), "claims");
    for twice in [r#""exp":1"#, r#""pub_topics":[">"]"#, r#""aud":"else""#, r#""iss":"else""#] {
        check(&rsa.forge(&header(json!({})), &text.replacen('{', &format!("{{{twice},"), 1)), "claims");
    }
    check(&rsa.forge(r#"{"alg":"RS256","alg":"HS256","kid":"k0"}"#, &text), "malformed");
    check(&rsa.forge(&header(json!({})), "[]"), "claims");
    check(&rsa.forge(&header(json!({})), "\u{0}"), "claims");

    // Forms.
    check("..", "malformed");
    check("a.b.c", "malformed");
    check(&format!("{}=", claimed(json!({}))), "malformed");
    let long = claimed(json!({"sub": "x".repeat(5000)}));
    check(&long, "malformed");
    // Which goes for the largest that a header takes, too, and not for more than that.
    let huge = "x".repeat(1 << 20);
    let mut peer = Peer::connect(gateway.address);
    peer.try_send(request_text("GET", "/topics/a.b", &[("authorization", &bearer(&huge))], ""));
    assert!(peer.try_answer().is_none_or(|answer| answer.status == 431));

    // Nothing of all this is remembered.
    assert_eq!(metric(&gateway, "fanfare_tokens_cached"), 2.0);
}

#[test]
fn what_a_token_does_not_say_it_does_not_allow() {
    let signer = signer();
    let (gateway, _folder) = with_signers(&[&signer], "", &[]);
    let token = signer.token("k0", &claims(json!({"sub_topics": null, "pub_topics": ["a.b"]})));
    assert_eq!(post(&gateway, "a.b", Some(&token)).status, 200);
    assert_eq!(get(&gateway, "/topics/a.b", Some(&token)).status, 403);
    assert_eq!(get(&gateway, "/topics", Some(&token)).status, 403);
    // A wildcard of the token's covers a wildcard that lies in it, not one that is larger.
    let token = signer.token("k0", &claims(json!({"sub_topics": ["a.*", "b.*.c"], "pub_topics": null})));
    let mut peer = native(&gateway, &token);
    let acknowledgement =
        peer.subscribe(&["a.*", "a.x", "b.*.c", "a.>", "*.x", "b.>", "a", "a.x.y", "b.x.>"]);
    let allowed: Vec<_> =
        acknowledgement["topics"].as_array().unwrap().iter().map(|topic| topic["error"].is_null()).collect();
    assert_eq!(allowed, [true, true, true, false, false, false, false, false, false]);
    // An audience that nobody here is.
    let token = signer.token("k0", &claims(json!({"aud": "somebody else"})));
    assert_eq!(post(&gateway, "a.b", Some(&token)).status, 401);
    assert_eq!(failures(&gateway, "audience"), 1.0);
}

#[test]
fn files_of_keys_that_are_none_are_named_before_anything_listens() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("short.key", &[b'x'; 31]);
    write("text.key", b"not a key, and planted-secret-words");
    write("p384.key", &Signer::p384().file());
    write("set.json", br#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#);
    let check = |config: &str, expect: &str| {
        let path = folder.path().join("fanfare.toml");
        std::fs::write(&path, config).unwrap();
        let output = fanfare().args(["serve", "--config", path.to_str().unwrap()]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.starts_with(expect) && text.lines().count() == 1 && !text.contains("planted"), "{text}");
    };
    let key = |algorithm: &str, file: &str| {
        let kind = if algorithm.starts_with("HS") { "secret_file" } else { "public_key_file" };
        format!("[[token_keys]]\nid = \"a\"\nalgorithm = \"{algorithm}\"\n{kind} = \"{file}\"")
    };
    check(&key("HS256", "nowhere.key"), "token_keys[0]: ");
    check(&key("HS256", "short.key"), "token_keys[0]: ");
    check(&key("RS256", "text.key"), "token_keys[0]: ");
    check(&key("ES256", "p384.key"), "token_keys[0]: ");
    check(&key("EdDSA", "p384.key"), "token_keys[0]: ");
    check("jwks = \"nowhere.json\"", "jwks: ");
    check("jwks = \"text.key\"", "jwks: ");
    check("jwks = \"set.json\"", "jwks: ");
}

#[test]
fn the_programs_commands_show_a_token() {
    let config = with_key("");
    let gateway = Gateway::start(&["--config", config.path()]);
    let url = gateway.url("");
    let file = ConfigFile::new(format!("{KEY}\n"));
    let run = |args: &[&str], environment: &[(&str, &str)]| {
        let mut command = fanfare();
        command.args(["publish", "a.b", "x", "--url", &url]).args(args).envs(environment.iter().copied());
        command.output().unwrap().status.success()
    };
    assert!(run(&["--token", KEY], &[]));
    assert!(run(&["--token-file", file.path()], &[]));
    assert!(run(&[], &[("FANFARE_TOKEN", KEY)]));
    assert!(!run(&[], &[]));
    assert!(!run(&["--token", "wrong-wrong-wrong-wrong"], &[]));
    assert!(!run(&["--token", "line\nbreak"], &[]));
    let mut subscribe = fanfare();
    subscribe.args(["subscribe", "a.b", "--url", &url, "--token", KEY]).stdout(std::process::Stdio::piped());
    let mut child = subscribe.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
        .unwrap();
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(line, "x\n");
}

// === over time ===

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
fn without_auth_a_credential_is_not_looked_at() {
    let gateway = Gateway::start(&[]);
    assert_eq!(post(&gateway, "a.b", Some("whatever")).status, 200);
    for header in ["Basic YTpi", "whatever", ""] {
        let answer = request(gateway.address, "POST", "/topics/a.b", &[("authorization", header)], "x");
        assert_eq!(answer.status, 200, "{header}");
    }
    let (mut peer, _) = Peer::native(gateway.address);
    peer.say(r#"{"type":"auth","id":1,"token":"whatever"}"#);
    assert_eq!(peer.json(), json!({"type": "authenticated", "id": 1}));
}

#[test]
fn what_is_revoked_ends_and_stays_out() {
    let signer = signer();
    let config = format!(
        "[[api_keys]]\nname = \"feeds\"\nsha256 = \"{}\"\npublish = [\"a.>\"]\nsubscribe = [\"a.>\"]\n",
        sha256(KEY)
    );
    let (gateway, _folder) = with_signers(&[&signer], &config, &["--revocations", "3"]);
    let token = |subject: &str, id: &str| signer.token("k0", &claims(json!({"sub": subject, "jti": id})));
    let ask = |method: &str, path: &str, body: &str| {
        let mut peer = Peer::connect(gateway.admin);
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}", body.len());
        peer.send(format!("{head}\r\n\r\n{body}"));
        peer.answer()
    };
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

#[test]
fn what_is_printed_of_a_configuration_has_no_key() {
    let config = with_key("[anonymous]\nsubscribe = [\"public.>\"]");
    let check = |args: &[&str]| {
        let output = fanfare().args(["check-config", "--config", config.path()]).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = check(&["--print", "--listen", "0.0.0.0:80"]);
    assert!(
        code == Some(0) && text.contains("name = \"feeds\"") && text.contains("subscribe = [\"public.>\"]"),
        "{text}"
    );
    assert!(!text.contains(&sha256(KEY)), "{text}");
    assert_eq!(check(&["--jwks", "nowhere.json"]).0, Some(2));
}

// === origins ===

#[test]
fn pages_of_other_origins_are_kept_out_where_it_is_said() {
    let config = with_key("[anonymous]\nsubscribe = [\"public.>\"]");
    let origins = "https://good.com,https://*.example.com:8443";
    let gateway = Gateway::start(&["--config", config.path(), "--origins", origins]);
    let check = |origin: &str, allowed: bool| {
        let (answer, _) = handshake(&gateway, "/ws", &[("origin", origin)]);
        assert_eq!(answer.status, if allowed { 101 } else { 403 }, "{origin}");
        let headers = [("origin", origin)];
        let answer = request(gateway.address, "GET", "/poll?topic=public.a", &headers, "");
        assert_eq!(answer.status, if allowed { 200 } else { 403 }, "{origin}");
        let readable = answer.header("access-control-allow-origin");
        assert_eq!(readable, allowed.then_some(origin));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert!(!allowed || answer.header("vary") == Some("origin"));
    };
    for good in
        ["https://good.com", "https://a.example.com:8443", "https://a.b.example.com:8443", "http://fanfare"]
    {
        check(good, true);
    }
    for evil in [
        "https://evil-good.com",
        "https://good.com.evil",
        "null",
        "https://good.com:8443",
        "http://good.com",
        "https://GOOD.com",
        "https://example.com:8443",
        "https://a.example.com",
        "https://evil.com",
    ] {
        check(evil, false);
    }
    assert!(failures(&gateway, "origin") >= 18.0);
    // Who is no page is asked nothing.
    assert_eq!(handshake(&gateway, "/ws", &[]).0.status, 101);
    let stream = Stream::open(gateway.address, "/events?topic=public.a", &[("origin", "https://good.com")]);
    assert_eq!(stream.head.header("access-control-allow-origin"), Some("https://good.com"));
    // Refusals can be read, too.
    let answer = request(gateway.address, "GET", "/poll?topic=a.b", &[("origin", "https://good.com")], "");
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (401, Some("https://good.com"))
    );
    // Before a POST with a key, a browser asks.
    let asked = [
        ("origin", "https://good.com"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    let answer = request(gateway.address, "OPTIONS", "/topics/a.b", &asked, "");
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (204, Some("https://good.com"))
    );
    assert!(answer.header("access-control-allow-headers").unwrap().contains("authorization"));
    let asked = [("origin", "https://evil.com"), ("access-control-request-method", "POST")];
    assert_eq!(request(gateway.address, "OPTIONS", "/topics/a.b", &asked, "").status, 403);
    let open = Gateway::start(&[]);
    assert_eq!(
        request(open.address, "OPTIONS", "/topics/a.b", &asked, "").status,
        405,
        "more than a form may"
    );
}

#[test]
fn where_nothing_is_said_of_origins_a_websocket_is_for_ones_own_pages() {
    let foreign = [("origin", "https://foreign.test")];
    let open = Gateway::start(&[]);
    assert_eq!(handshake(&open, "/ws", &foreign).0.status, 101);
    assert_eq!(
        request(open.address, "GET", "/topics", &foreign, "").header("access-control-allow-origin"),
        Some("*")
    );
    let config = with_key("[anonymous]\nsubscribe = [\">\"]");
    let closed = Gateway::start(&["--config", config.path()]);
    assert_eq!(handshake(&closed, "/ws", &foreign).0.status, 403);
    assert_eq!(handshake(&closed, "/topics/a", &foreign).0.status, 403);
    assert_eq!(handshake(&closed, "/ws", &[("origin", "http://fanfare")]).0.status, 101);
    let answer = request(closed.address, "GET", "/poll?topic=a", &foreign, "");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")));
}

// === what is said ===

#[test]
fn no_credential_is_in_logs_and_metrics() {
    let signer = signer();
    let (gateway, folder) = with_signers(&[&signer], "", &[]);
    let token = signer.token("k0", &claims(json!({"sub": "planted-subject"})));
    post(&gateway, "a.b", Some(&token));
    post(&gateway, "a.b", Some("planted-key-planted-key"));
    let page = request(gateway.admin, "GET", "/metrics", &[], "").text().to_owned();
    assert!(!page.contains("planted") && !page.contains(&token));
    assert!(closes(&gateway, "revoked") == 0.0 && Path::new(folder.path()).exists());
}

// === key sets ===

/// A server that has a key set, or whatever else it is given to answer.
struct Keeper {
    url: String,
    answer: std::sync::Arc<std::sync::Mutex<String>>,
    asked: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Keeper {
    fn start(answer: String) -> Self {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let keeper = Self {
            url: format!("http://{}/keys", listener.local_addr().unwrap()),
            answer: std::sync::Arc::new(std::sync::Mutex::new(answer)),
            asked: std::sync::Arc::default(),
        };
        let (answer, asked) = (keeper.answer.clone(), keeper.asked.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                    request.push(byte[0]);
                }
                asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let _ = stream.write_all(answer.lock().unwrap().as_bytes());
            }
        });
        keeper
    }

    fn answer(&self, answer: String) {
        *self.answer.lock().unwrap() = answer;
    }
}

fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn http(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

const FETCHED: &str = "fanfare_jwks_fetches_total{result=\"ok\"}";
const FAILED: &str = "fanfare_jwks_fetches_total{result=\"failed\"}";

#[test]
fn keys_come_from_a_file_each_for_its_algorithm() {
    let (one, other, secret) = (Signer::p256(), Signer::p256(), signer());
    let mut encryption = other.jwk("e");
    encryption["use"] = "enc".into();
    let symmetric = json!({"kty": "oct", "kid": "s", "k": base64url(&secret.file())});
    let mut misused = other.jwk("m");
    misused["alg"] = "RS256".into();
    let set = key_set(&[one.jwk("a"), encryption, symmetric, misused, json!({"kty": "new", "kid": "n"})]);
    let (gateway, _folder) = with_files(&[("set.json", set.into_bytes())], "jwks = \"set.json\"", &[]);
    assert_eq!(metric(&gateway, "fanfare_token_keys"), 1.0);
    let check = |signer: &Signer, id: &str, status: u16| {
        let answer = post(&gateway, "a.b", Some(&signer.token(id, &claims(json!({})))));
        assert_eq!(answer.status, status, "{id}");
    };
    check(&one, "a", 200);
    check(&other, "a", 401);
    check(&other, "e", 401);
    check(&secret, "s", 401);
    check(&other, "m", 401);
}

#[test]
fn keys_are_fetched_exchanged_and_kept_when_they_cannot_be() {
    let (old, new) = (Signer::p256(), Signer::p256());
    // At first there is no answer at all: the gateway is ready all the same, and lets nobody in.
    let keeper = Keeper::start("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".into());
    let config =
        format!("jwks = \"{}\"\njwks_refresh = \"1h\"\n[limits]\njwks_pause = \"200ms\"", keeper.url);
    let (gateway, _folder) = with_files(&[], &config, &[]);
    let try_with =
        |signer: &Signer, id: &str| post(&gateway, "a.b", Some(&signer.token(id, &claims(json!({}))))).status;
    assert_eq!(get(&gateway, "/readyz", None).status, 200);
    until_metric(&gateway, FAILED, |count| count >= 1.0);
    assert_eq!(try_with(&old, "old"), 401);
    keeper.answer(http(&key_set(&[old.jwk("old")])));
    until_metric(&gateway, FETCHED, |count| count == 1.0);
    assert_eq!(try_with(&old, "old"), 200);

    // A new key is there before it signs for the first time, or is found when it does.
    assert_eq!(try_with(&new, "new"), 401);
    keeper.answer(http(&key_set(&[old.jwk("old"), new.jwk("new")])));
    let deadline = Instant::now() + support::PATIENCE;
    while try_with(&new, "new") != 200 {
        assert!(Instant::now() < deadline, "the new key never comes");
        std::thread::sleep(Duration::from_millis(20));
    }
    // One that is gone is gone, though its token was remembered.
    let token = old.token("old", &claims(json!({})));
    assert_eq!(post(&gateway, "a.b", Some(&token)).status, 200);
    keeper.answer(http(&key_set(&[new.jwk("new")])));
    assert_eq!(try_with(&new, "another"), 401);
    let deadline = Instant::now() + support::PATIENCE;
    while post(&gateway, "a.b", Some(&token)).status != 401 {
        assert!(Instant::now() < deadline, "the old key stays");
        std::thread::sleep(Duration::from_millis(20));
    }
    // What is no set, too long, elsewhere, or never ends, changes nothing.
    let long = format!("{}{}", " ".repeat(300 << 10), key_set(&[old.jwk("old")]));
    for bad in [
        http("{}"),
        http("not JSON"),
        http(&key_set(&[])),
        http(&long),
        format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", keeper.url),
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".into(),
        "garbage".into(),
    ] {
        keeper.answer(bad.clone());
        let before = metric(&gateway, FAILED);
        try_with(&new, "unknown");
        until_metric(&gateway, FAILED, |count| count > before);
        assert_eq!(try_with(&new, "new"), 200, "{bad:.60}");
    }
    // A flood of unknown names is no flood of requests.
    keeper.answer(http(&key_set(&[new.jwk("new")])));
    let (asked, begun) = (keeper.asked.load(std::sync::atomic::Ordering::SeqCst), Instant::now());
    for _ in 0..200 {
        assert_eq!(try_with(&new, "unknown"), 401);
    }
    let most = 2 + begun.elapsed().as_millis() as usize / 200;
    assert!(keeper.asked.load(std::sync::atomic::Ordering::SeqCst) - asked <= most);
}
