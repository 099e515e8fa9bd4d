//! Which certificates are taken, when another one is, and when they end.

use crate::secure::Secure;
use crate::support::config_file::ConfigFile;
use crate::support::metrics::{eventually, metric, metrics, until_metric};
use crate::support::peer::Peer;
use crate::support::tls::Authority;
use crate::support::{Gateway, fanfare};

const ENDS: &str = "fanfare_tls_certificate_expiry_timestamp_seconds";

#[test]
fn a_pair_that_is_none_is_a_wrong_configuration() {
    let one = Authority::new();
    let other = Authority::new();
    let nonsense = ConfigFile::new("no PEM at all\n");
    let cut = ConfigFile::new("-----BEGIN PRIVATE KEY-----\nc2VjcmV0c2VjcmV0c2VjcmV0\n");
    let forged = ConfigFile::new("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n");
    let (certificate, key, others) = (one.certificate(), one.key(), other.key());
    let check = |certificate: Option<&str>, key: Option<&str>, expect: &str| {
        let mut command = fanfare();
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        for (flag, path) in [("--tls-certificate", certificate), ("--tls-key", key)] {
            command.args(path.iter().flat_map(|path| [flag, path]));
        }
        let output = command.output().expect("the program runs");
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with(expect), "{error}");
        assert!(!error.contains("c2Vj") && !error.contains("secret"), "the key is in it: {error}");
    };
    check(Some(&certificate), None, "tls_key: missing");
    check(None, Some(&key), "tls_certificate: missing");
    check(Some("/nowhere.pem"), Some(&key), "tls_certificate: /nowhere.pem: No such file");
    check(Some(&certificate), Some("/nowhere.pem"), "tls_key: /nowhere.pem: No such file");
    check(Some(&key), Some(&key), "tls_certificate: ");
    check(Some(&certificate), Some(&certificate), "tls_key: ");
    check(Some(nonsense.path()), Some(&key), "tls_certificate: ");
    check(Some(&certificate), Some(nonsense.path()), "tls_key: ");
    check(Some(&certificate), Some(cut.path()), "tls_key: ");
    check(Some(&certificate), Some(forged.path()), "tls_key: ");
    check(Some(&certificate), Some(&others), "tls_key: ");
}

#[test]
fn a_reload_brings_another_certificate_for_those_who_come_later_and_closes_nobody() {
    const DONE: &str = "fanfare_config_reloads_total{result=\"ok\"}";
    const FAILED: &str = "fanfare_config_reloads_total{result=\"failed\"}";
    let secure = Secure::start(&[]);
    let mut subscriber = secure.subscribed(&["a"]);
    let first = subscriber.certificate();
    let second = secure.authority.issue();
    secure.gateway.signal("HUP");
    until_metric(&secure.gateway, DONE, |reloads| reloads == 1.0);
    assert_eq!(secure.peer().certificate(), second);
    assert_ne!(first, second);
    // A file that is none leaves the one before in force.
    std::fs::write(secure.authority.certificate(), "nothing").expect("a file can be written");
    secure.gateway.signal("HUP");
    until_metric(&secure.gateway, FAILED, |reloads| reloads == 1.0);
    assert_eq!(secure.peer().certificate(), second);
    secure.post("a", "1");
    assert_eq!(subscriber.json()["data"], 1);
}

#[test]
fn the_end_of_the_certificate_that_is_served_is_told() {
    let secure = Secure::start(&[]);
    assert_eq!(metric(&secure.gateway, ENDS), 67_090_118_400.0, "the year 4096");
    secure.authority.issue_until(2100);
    assert_eq!(metric(&secure.gateway, ENDS), 67_090_118_400.0, "what is in the file is not served yet");
    secure.gateway.signal("HUP");
    until_metric(&secure.gateway, ENDS, |seconds| seconds == 4_102_444_800.0);
    // Who speaks no TLS has none.
    assert!(!metrics(&Gateway::start(&[])).contains_key(ENDS));
}

#[test]
fn a_certificate_that_has_ended_is_served_and_warned_of() {
    const DONE: &str = "fanfare_config_reloads_total{result=\"ok\"}";
    let authority = Authority::new();
    let ended = authority.issue_until(2000);
    let flags = authority.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let warning = format!("tls_certificate: {}: it ended on Jan  1 00:00:00 2000", authority.certificate());
    let checked = || {
        let output =
            fanfare().arg("check-config").args(&flags).args(["--connections", "10"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = checked();
    assert!(text.starts_with(&format!("warning: {warning}")) && text.lines().count() == 1, "{text}");

    let (gateway, log) = Gateway::start_logged(&[("FANFARE_LOG", "warn")], &flags);
    let warnings = || std::fs::read_to_string(log.path()).unwrap().matches(&warning).count();
    eventually(|| warnings() == 1, "the warning at the start");
    assert_eq!(metric(&gateway, ENDS), 946_684_800.0);
    let client = authority.client(&["http/1.1"]);
    let refused = Peer::connect(gateway.address).try_secured(&client).err().expect("nobody believes it");
    assert!(refused.to_string().contains("expired"), "{refused}");
    // A reload says it again, until there is another one.
    gateway.signal("HUP");
    until_metric(&gateway, DONE, |reloads| reloads == 1.0);
    eventually(|| warnings() == 2, "the warning of a reload");
    let next = authority.issue();
    gateway.signal("HUP");
    until_metric(&gateway, DONE, |reloads| reloads == 2.0);
    let peer = Peer::connect(gateway.address).secured(&client);
    assert!(peer.certificate() == next && next != ended);
    assert_eq!((warnings(), checked()), (2, String::new()));
}
