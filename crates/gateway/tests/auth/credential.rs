//! Where a credential may be shown, and where none may ever be seen.

use std::path::Path;

use serde_json::json;

use crate::gateways::{KEY, failures, signer, with_key, with_signers};
use crate::requests::{bearer, get, handshake, post};
use crate::support::config_file::ConfigFile;
use crate::support::metrics::closes;
use crate::support::peer::request;
use crate::support::stream::Stream;
use crate::support::tokens::{claims, sha256};
use crate::support::{Gateway, fanfare};

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
