//! Keys that come as a set: from a file, or from a server that may say anything.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::gateways::{signer, with_files};
use crate::requests::{get, post};
use crate::support;
use crate::support::metrics::{metric, until_metric};
use crate::support::tokens::{Signer, base64url, claims};

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
