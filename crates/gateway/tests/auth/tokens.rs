//! Which tokens are good, and for what; forged ones; and keys that are none.

use serde_json::{Value, json};

use crate::gateways::{failures, signer, with_signers};
use crate::requests::{bearer, get, handshake, native, post};
use crate::support::metrics::metric;
use crate::support::peer::{Peer, request_text};
use crate::support::tokens::{Signer, base64url, claims, in_seconds};
use crate::support::{Gateway, fanfare};

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
    // The address of another gateway: it would be an error of another kind if it came to that.
    let other = Gateway::start(&[]);
    let taken = other.address.to_string();
    let check = |config: &str, expect: &str| {
        let path = folder.path().join("fanfare.toml");
        std::fs::write(&path, config).unwrap();
        let args = ["serve", "--listen", &taken, "--config", path.to_str().unwrap()];
        let output = fanfare().args(args).output().unwrap();
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
