//! A key set from an `https` URL: whose word on its host is taken, and whose is not.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::io::{Error, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;
use support::metrics::{eventually, metric, until_metric};
use support::peer::request;
use support::tls::Authority;
use support::tokens::{Signer, claims};
use support::{Gateway, PATIENCE, fanfare};
use tempfile::TempDir;

const FETCHED: &str = "fanfare_jwks_fetches_total{result=\"ok\"}";
const FAILED: &str = "fanfare_jwks_fetches_total{result=\"failed\"}";

/// A server that has a set with the key of one signer, and shakes hands first.
struct Keeper {
    signer: Signer,
    port: u16,
    tls: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Keeper {
    fn start(authority: &Authority) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (signer, tls) = (Signer::p256(), Arc::new(Mutex::new(authority.server())));
        let set = json!({ "keys": [signer.jwk("k")] }).to_string();
        let shown = Arc::clone(&tls);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let tls = Arc::clone(&shown.lock().unwrap());
                // Who does not believe it leaves.
                let _ = answer(stream, tls, &set);
            }
        });
        Self { signer, port, tls }
    }

    /// Has the certificate of another authority from now on.
    fn show(&self, authority: &Authority) {
        *self.tls.lock().unwrap() = authority.server();
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}/keys", self.port)
    }

    /// What becomes of a publish with a token that its key has signed.
    fn try_token(&self, gateway: &Gateway) -> u16 {
        let token = format!("Bearer {}", self.signer.token("k", &claims(json!({}))));
        let headers = [("content-type", "application/json"), ("authorization", token.as_str())];
        request(gateway.address, "POST", "/topics/a.b", &headers, "{}").status
    }
}

fn answer(stream: TcpStream, tls: Arc<ServerConfig>, set: &str) -> Result<(), Error> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let session = ServerConnection::new(tls).map_err(Error::other)?;
    let mut stream = StreamOwned::new(session, stream);
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{set}", set.len())?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// A configuration, and the files beside it.
struct Folder(TempDir);

impl Folder {
    /// With a file of authorities, and a configuration that names it.
    fn new(authorities: &[&Authority], url: &str, more: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.trust(authorities);
        let config = format!("jwks = \"{url}\"\njwks_ca = \"ca.pem\"\n{more}");
        std::fs::write(folder.config(), config).unwrap();
        folder
    }

    fn trust(&self, authorities: &[&Authority]) {
        let files = authorities.iter().map(|authority| std::fs::read(authority.ca()).unwrap());
        std::fs::write(self.ca(), files.collect::<Vec<_>>().concat()).unwrap();
    }

    fn ca(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    fn config(&self) -> String {
        self.0.path().join("fanfare.toml").to_str().unwrap().to_owned()
    }

    fn start(&self) -> Gateway {
        Gateway::start(&["--config", &self.config()])
    }
}

fn reload(gateway: &Gateway, result: &str) {
    let reloads = format!("fanfare_config_reloads_total{{result=\"{result}\"}}");
    let before = metric(gateway, &reloads);
    gateway.signal("HUP");
    until_metric(gateway, &reloads, |now| now > before);
}

// === who is believed ===

#[test]
fn a_set_comes_from_a_host_that_an_authority_of_ones_own_vouches_for() {
    let (authority, other) = (Authority::new(), Authority::new());
    let keeper = Keeper::start(&authority);
    // One of several in the file is enough.
    let folder = Folder::new(&[&other, &authority], &keeper.url(), "");
    let gateway = folder.start();
    until_metric(&gateway, FETCHED, |count| count == 1.0);
    assert_eq!((keeper.try_token(&gateway), metric(&gateway, FAILED)), (200, 0.0));
}

#[test]
fn a_host_that_another_authority_vouches_for_is_not_believed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let keeper = Keeper::start(&other);
    let often = "jwks_refresh = \"300ms\"\n[limits]\njwks_pause = \"200ms\"";
    let folder = Folder::new(&[&authority], &keeper.url(), often);
    let gateway = folder.start();
    // It goes on, and tries again.
    until_metric(&gateway, FAILED, |count| count >= 2.0);
    assert_eq!((keeper.try_token(&gateway), metric(&gateway, FETCHED)), (401, 0.0));
    assert_eq!(request(gateway.address, "GET", "/readyz", &[], "").status, 200);
    keeper.show(&authority);
    until_metric(&gateway, FETCHED, |count| count >= 1.0);
    assert_eq!(keeper.try_token(&gateway), 200);
    // What it had when it was believed stays.
    keeper.show(&other);
    let before = metric(&gateway, FAILED);
    until_metric(&gateway, FAILED, |count| count >= before + 2.0);
    assert_eq!(keeper.try_token(&gateway), 200);
}

#[test]
fn without_an_authority_of_ones_own_only_those_of_browsers_count() {
    let keeper = Keeper::start(&Authority::new());
    let gateway = Gateway::start(&["--jwks", &keeper.url()]);
    until_metric(&gateway, FAILED, |count| count >= 1.0);
    assert_eq!((keeper.try_token(&gateway), metric(&gateway, FETCHED)), (401, 0.0));
}

#[test]
fn who_has_another_name_an_ended_certificate_or_no_tls_is_not_believed() {
    let authority = Authority::new();
    let check = |url: &str, why: &str| {
        let folder = Folder::new(&[&authority], url, "[limits]\njwks_timeout = \"500ms\"");
        let flags = ["--config", &folder.config()];
        let (gateway, log) = Gateway::start_logged(&[("FANFARE_LOG", "warn")], &flags);
        until_metric(&gateway, FAILED, |count| count >= 1.0);
        eventually(|| std::fs::read_to_string(log.path()).unwrap().contains(why), why);
        assert_eq!(metric(&gateway, FETCHED), 0.0, "{url}");
        assert_eq!(request(gateway.address, "GET", "/readyz", &[], "").status, 200);
    };
    let keeper = Keeper::start(&authority);
    check(&format!("https://localhost:{}/keys", keeper.port), "not valid for name");
    authority.issue_until(2000);
    keeper.show(&authority);
    check(&keeper.url(), "certificate expired");
    // Nobody accepts: it takes the connection, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    check(&format!("https://{}/keys", silent.local_addr().unwrap()), "no answer in time");
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = plain.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in plain.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        }
    });
    check(&format!("https://{address}/keys"), "corrupt message");
}

// === the configuration ===

#[test]
fn other_authorities_have_the_set_fetched_at_once_and_its_keys_stay() {
    let (authority, other) = (Authority::new(), Authority::new());
    let keeper = Keeper::start(&authority);
    let folder = Folder::new(&[&authority], &keeper.url(), "jwks_refresh = \"24h\"");
    let gateway = folder.start();
    until_metric(&gateway, FETCHED, |count| count == 1.0);
    folder.trust(&[&other]);
    reload(&gateway, "ok");
    until_metric(&gateway, FAILED, |count| count >= 1.0);
    assert_eq!((keeper.try_token(&gateway), metric(&gateway, FETCHED)), (200, 1.0));
    folder.trust(&[&other, &authority]);
    reload(&gateway, "ok");
    until_metric(&gateway, FETCHED, |count| count == 2.0);
    assert_eq!(keeper.try_token(&gateway), 200);
}

/// What may be in a file of authorities that is none, and what is said of it.
fn bad_files() -> Vec<(Vec<u8>, &'static str)> {
    let certificate = std::fs::read_to_string(Authority::new().ca()).unwrap();
    let key = std::fs::read_to_string(Authority::new().key()).unwrap();
    let forged = "-----BEGIN CERTIFICATE-----\ncGxhbnRlZA==\n-----END CERTIFICATE-----\n";
    vec![
        (Vec::new(), "nothing of the kind in it"),
        (b"planted words\n".into(), "nothing of the kind in it"),
        (b"planted\xff\xfe\0\n".into(), "nothing of the kind in it"),
        (key.into(), "nothing of the kind in it"),
        (b"-----BEGIN planted\n".into(), "not in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nplanted!\n-----END CERTIFICATE-----\n".into(), "not in PEM form"),
        (certificate[..certificate.len() / 2].into(), "not in PEM form"),
        (forged.into(), "certificate 1 in it is none"),
        ((certificate + forged).into(), "certificate 2 in it is none"),
    ]
}

#[test]
fn authorities_that_are_none_are_a_wrong_configuration() {
    let folder = Folder::new(&[], "https://127.0.0.1:1/keys", "");
    let config = folder.config();
    let check = |args: &[&str], expect: &str| {
        for command in ["serve", "check-config"] {
            let flags = [command, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
            let output = fanfare().args(flags).args(args).output().expect("the program runs");
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{args:?}: {text}");
            assert!(text.starts_with(expect) && output.stdout.is_empty(), "{args:?}: {text}");
            assert!(!text.contains("planted") && !text.contains("cGxh"), "the file is in it: {text}");
        }
    };
    let path = folder.ca();
    for (file, expect) in bad_files() {
        std::fs::write(&path, file).unwrap();
        check(&["--config", &config], &format!("jwks_ca: {}: {expect}", path.display()));
    }
    std::fs::remove_file(&path).unwrap();
    check(&["--config", &config], &format!("jwks_ca: {}: No such file", path.display()));
    std::fs::create_dir(&path).unwrap();
    check(&["--config", &config], &format!("jwks_ca: {}: Is a directory", path.display()));
    // With nothing to vouch for.
    let authority = Authority::new();
    let (ca, key_set) = (authority.ca(), "jwks_ca: jwks is no https:// URL");
    check(&["--jwks-ca", &ca], key_set);
    check(&["--jwks-ca", &ca, "--jwks", "http://127.0.0.1:1/keys"], key_set);
    check(&["--jwks-ca", &ca, "--jwks", "https.json"], key_set);
}

#[test]
fn a_reload_with_authorities_that_are_none_changes_nothing() {
    let authority = Authority::new();
    let keeper = Keeper::start(&authority);
    let folder = Folder::new(&[&authority], &keeper.url(), "");
    let gateway = folder.start();
    until_metric(&gateway, FETCHED, |count| count == 1.0);
    for (file, _) in bad_files() {
        std::fs::write(folder.ca(), file).unwrap();
        reload(&gateway, "failed");
        assert_eq!(keeper.try_token(&gateway), 200);
    }
    std::fs::remove_file(folder.ca()).unwrap();
    reload(&gateway, "failed");
    assert_eq!((keeper.try_token(&gateway), metric(&gateway, FAILED)), (200, 0.0));
}

#[test]
fn a_checked_configuration_shows_where_its_authorities_are() {
    let folder = Folder::new(&[&Authority::new()], "https://127.0.0.1:1/keys", "");
    let output = fanfare().args(["check-config", "--print", "--config", &folder.config()]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{printed}");
    assert!(printed.lines().any(|line| line == "jwks_ca = \"ca.pem\""), "{printed}");
}
