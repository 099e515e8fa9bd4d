//! What who shows nothing may: what is for everybody, and on a gateway without keys everything.

use serde_json::json;

use crate::gateways::with_key;
use crate::requests::{error_codes, get, handshake, post};
use crate::support::config_file::ConfigFile;
use crate::support::metrics::until_metric;
use crate::support::peer::{Peer, TEXT, masked, request};
use crate::support::stream::{EVENTS, LINES};
use crate::support::{Gateway, fanfare};

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
    assert_eq!(error_codes(&acknowledgement["topics"]), [None, Some("unauthorized"), None]);
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
