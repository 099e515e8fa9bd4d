//! The configuration: where it comes from, and what happens to a bad one.

mod support;

use support::config_file::ConfigFile;
use support::metrics::until_metric;
use support::peer::Peer;
use support::tls::Authority;
use support::{Gateway, fanfare};

/// Starts `fanfare serve` with a configuration that must be refused, and returns what it said about it.
fn refused(environment: &[(&str, &str)], args: &[&str]) -> Vec<String> {
    let output = fanfare().arg("serve").args(args).envs(environment.iter().copied()).output();
    let output = output.expect("the program starts");
    let text = String::from_utf8(output.stderr).expect("errors are text");
    assert_eq!(output.status.code(), Some(2), "{environment:?} {args:?}: {text}");
    assert!(output.stdout.is_empty(), "{environment:?} {args:?}: it says that it listens");
    text.lines().map(str::to_owned).collect()
}

/// Checks that there is one line per error and that it starts so.
fn check_refused(environment: &[(&str, &str)], args: &[&str], expect: &[&str]) {
    let lines = refused(environment, args);
    assert_eq!(lines.len(), expect.len(), "{environment:?} {args:?}: {lines:#?}");
    for (line, expect) in lines.iter().zip(expect) {
        assert!(line.starts_with(expect), "{environment:?} {args:?}: {line}");
        assert!(!line.trim_end().ends_with(':'), "{line:?} does not say what is wrong");
    }
}

#[test]
fn a_bad_flag_names_its_key_before_anything_listens() {
    let check = |args: &[&str], expect: &str| check_refused(&[], args, &[expect]);
    check(&["--listen", "nowhere"], "listen: \"nowhere\"");
    check(&["--listen", "127.0.0.1"], "listen: \"127.0.0.1\"");
    check(&["--listen", "127.0.0.1:65536"], "listen: ");
    check(&["--admin", "localhost:1"], "admin: ");
    check(&["--workers", "0"], "workers: \"0\"");
    check(&["--workers", "1000"], "workers: ");
    check(&["--workers", "two"], "workers: ");
    check(&["--writer", "fast"], "writer: \"fast\"");
    check(&["--outbox-bytes", "64KB"], "outbox_bytes: \"64KB\"");
    check(&["--outbox-bytes", "1.5MiB"], "outbox_bytes: ");
    check(&["--outbox-bytes", "0"], "outbox_bytes: ");
    check(&["--tls-unsent-bytes", "0"], "tls_unsent_bytes: \"0\"");
    check(&["--outbox-bytes", "99999999999GiB"], "outbox_bytes: ");
    check(&["--connections=-1"], "connections: \"-1\"");
    check(&["--connections", ""], "connections: ");
    check(&["--ping-interval", "25"], "ping_interval: \"25\"");
    check(&["--ping-interval", "1d"], "ping_interval: ");

    // The address of another gateway: it would be an error of another kind if it came to that.
    let other = Gateway::start(&[]);
    check(&["--listen", &other.address.to_string(), "--workers", "0"], "workers: ");
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let check = |args: &[&str], expect: &str| check_refused(&[], args, &[expect]);
    check(&["--ping-interval", "10s"], "limits.pong_timeout: ");
    check(&["--pong-timeout", "25s"], "limits.pong_timeout: ");
    check(&["--message-bytes", "2MiB"], "limits.message_bytes: ");
    check(&["--inflight-body-bytes", "512KiB"], "limits.body_bytes: ");
    check(&["--inbox-bytes", "512KiB"], "limits.body_bytes: ");
    check(&["--inbox-messages", "100"], "limits.body_messages: ");
    check(&["--header-bytes", "4KiB"], "limits.header_bytes: ");
    check(&["--tls-unsent-bytes", "1023"], "limits.tls_unsent_bytes: at least 1KiB");
    check(&["--listen", "127.0.0.1:9000", "--admin", "127.0.0.1:9000"], "admin: ");
}

#[test]
fn a_bad_command_line_is_refused() {
    for args in [&["--outbox", "1KiB"][..], &["--workers"], &["extra"], &["--workers", "1", "--workers", "2"]]
    {
        let lines = refused(&[], args);
        assert!(lines[0].starts_with("error: "), "{lines:?}");
    }
    for args in [&[][..], &["sing"]] {
        assert_eq!(fanfare().args(args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
    for flag in ["--version", "--help"] {
        let output = fanfare().arg(flag).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{flag}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("fanfare"), "{flag}");
    }
    let help = fanfare().args(["serve", "--help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).contains("--outbox-bytes"));
}

#[test]
fn a_bad_file_names_each_key_on_a_line_of_its_own() {
    let check = |text: &str, expect: &[&str]| {
        let file = ConfigFile::new(text);
        check_refused(&[], &["--config", file.path()], expect);
    };
    check("listne = \"127.0.0.1:1\"", &["listne: unknown key"]);
    check("outbox_bytes = \"64KiB\"", &["outbox_bytes: unknown key"]);
    check("listen = 8080", &["listen: \"8080\""]);
    check("workers = true", &["workers: neither"]);
    check("limits = 1", &["limits: "]);
    check("topics = 1", &["topics: "]);
    check("topics = [1]", &["topics[0]: "]);
    check("[limits]\noutbox = 1", &["limits.outbox: unknown key"]);
    check("[limits]\nping_interval = 25", &["limits.ping_interval: "]);
    check("[limits]\nping_interval = 2.5", &["limits.ping_interval: "]);
    check("[[topics]]\nmatch = \"a..b\"", &["topics[0].match: "]);
    check("[[topics]]\nslow = \"disconnect\"", &["topics[0].match: missing"]);
    check("[[topics]]\nmatch = \"a\"\nslow = \"never\"", &["topics[0].slow: \"never\""]);
    check("[[topics]]\nmatch = \"a\"\nlast_value = 1", &["topics[0].last_value: "]);
    check("[[topics]]\nmatch = \"a\"\n[[topics]]\nmatch = \"b\"\nkeep = 1", &["topics[1].keep: unknown key"]);
    check("workers = 1\nworkers = 2", &["TOML parse error"]);
    check("workers = [", &["TOML parse error"]);
    check("\0", &["TOML parse error"]);
    // The keys of a table come in the order of their names.
    check(
        "admin = 1\nworkers = 0\n[limits]\nconnections = \"many\"\ntopics = 0\n[[topics]]\nmatch = \"*a\"",
        &["admin: ", "limits.connections: ", "limits.topics: ", "topics[0].match: ", "workers: "],
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    check_refused(&[], &["--config", "/nowhere/fanfare.toml"], &["/nowhere/fanfare.toml: "]);
    check_refused(&[("FANFARE_CONFIG", "/nowhere/else.toml")], &[], &["/nowhere/else.toml: "]);
    check_refused(&[], &["--config", "/"], &["/: "]);
    let binary = ConfigFile::new(b"\xff\xfe");
    check_refused(&[], &["--config", binary.path()], &[binary.path()]);
}

#[test]
fn errors_of_all_sources_are_told_together() {
    let file = ConfigFile::new("[limits]\nconnections = \"few\"");
    check_refused(
        &[("FANFARE_OUTBOX_BYTES", "much"), ("FANFARE_LISTEN", "here")],
        &["--config", file.path(), "--ping-interval", "soon", "--topics", "none"],
        &["limits.connections: ", "listen: ", "topics: ", "outbox_bytes: ", "ping_interval: "],
    );
}

#[test]
fn a_demo_names_what_it_cannot_do_before_anything_listens() {
    let any = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let check = |text: &str, args: &[&str], expect: &[&str]| {
        let file = ConfigFile::new(text);
        let output = fanfare().arg("demo").args(any).args(["--config", file.path()]).args(args).output();
        let output = output.expect("the program starts");
        let said = String::from_utf8(output.stderr).expect("errors are text");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{text}: {said}");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), expect.len(), "{text}: {said}");
        assert!(lines.iter().zip(expect).all(|(line, expect)| line.starts_with(expect)), "{text}: {said}");
    };
    let anonymous = ["anonymous: the demo's market, log and page show no credential"];
    let key = format!("[[api_keys]]\nname = \"a\"\nsha256 = \"{}\"\npublish = [\">\"]\n", "ab".repeat(32));
    check(&key, &[], &anonymous);
    let token_key = "[[token_keys]]\nid = \"a\"\nalgorithm = \"HS256\"\nsecret_file = \"secret\"";
    check(token_key, &[], &anonymous);
    check("jwks = \"keys.json\"", &[], &anonymous);
    check("[anonymous]", &[], &anonymous);
    let [both, prices] = ["[\"ticker.*\", \"logs.>\"]", "[\"ticker.*\"]"];
    check(&format!("[anonymous]\nsubscribe = {both}"), &[], &anonymous);
    check(&format!("[anonymous]\nsubscribe = {both}\npublish = {prices}"), &[], &anonymous);
    check(&format!("[anonymous]\nsubscribe = {prices}\npublish = {both}"), &[], &anonymous);
    let authority = Authority::new();
    let flags = authority.flags();
    let tls = flags.each_ref().map(String::as_str);
    check("", &tls, &["tls_certificate: the demo speaks no TLS"]);
    check(&key, &tls, &["tls_certificate: ", "anonymous: "]);

    // Where everybody may what the demo does, it is done.
    let file = ConfigFile::new(format!("{key}[anonymous]\nsubscribe = {both}\npublish = [\">\"]"));
    let demo = Gateway::demo(&["--config", file.path()]);
    until_metric(&demo, "fanfare_messages_total", |messages| messages > 20.0);
}

/// Runs `fanfare check-config`: its exit code, and the lines of its output and of its errors.
fn checked(environment: &[(&str, &str)], args: &[&str]) -> (Option<i32>, Vec<String>, Vec<String>) {
    let output = fanfare().arg("check-config").args(args).envs(environment.iter().copied()).output();
    let output = output.expect("the program starts");
    let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect();
    (output.status.code(), lines(&output.stdout), lines(&output.stderr))
}

#[test]
fn a_configuration_can_be_checked_without_listening() {
    // Another gateway has the address: nothing listens, so that is no matter.
    let other = Gateway::start(&[]);
    let listen = other.address.to_string();
    let few = ["--listen", &listen, "--connections", "10"];
    assert_eq!(checked(&[], &few), (Some(0), vec!["the configuration is right".into()], vec![]));

    let file = ConfigFile::new("listne = \"127.0.0.1:1\"\n[limits]\nconnections = 10");
    let (code, output, errors) = checked(&[("FANFARE_WORKERS", "none")], &["--config", file.path()]);
    assert_eq!((code, output), (Some(2), vec![]));
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert_eq!(errors[0], "listne: unknown key; did you mean listen?");
    assert!(errors[1].starts_with("workers: \"none\""), "{errors:?}");
}

#[test]
fn what_is_legal_and_odd_is_warned_of() {
    let check = |args: &[&str], expect: &str| {
        let (code, _, errors) = checked(&[("FANFARE_CONNECTIONS", "10")], args);
        assert_eq!((code, errors.len()), (Some(0), 1), "{errors:?}");
        assert!(errors[0].starts_with(expect), "{errors:?}");
    };
    check(&["--drain-timeout", "20s"], "warning: limits.drain_timeout: ");
    check(&["--ping-interval", "80s"], "warning: limits.ping_interval: ");
    check(&["--connections", "4000000000"], "warning: limits.connections: needs 4000000256 open files");
}

#[test]
fn a_printed_configuration_is_whole_and_can_be_read_again() {
    let file = ConfigFile::new(
        "workers = 3\n[limits]\nconnections = 10\n[[topics]]\nmatch = \"a.>\"\nslow = \"conflate\"",
    );
    let args = ["--config", file.path(), "--outbox-bytes", "128KiB", "--print"];
    let (code, printed, errors) = checked(&[("FANFARE_PING_INTERVAL", "30s")], &args);
    assert_eq!((code, errors), (Some(0), vec![]));
    for line in [
        "workers = 3",
        "admin = \"127.0.0.1:9090\"",
        "[limits]",
        "outbox_bytes = \"128KiB\"",
        "ping_interval = \"30s\"",
        "pong_timeout = \"20s\"",
        "[[topics]]",
        "match = \"a.>\"",
        "replay = { messages = 1000, age = \"60s\", bytes = \"1MiB\" }",
    ] {
        assert!(printed.iter().any(|printed| printed == line), "no {line} in {printed:#?}");
    }
    let again = ConfigFile::new(printed.join("\n"));
    assert_eq!(checked(&[], &["--config", again.path(), "--print"]), (Some(0), printed, vec![]));
}

/// What the welcome says of the configuration.
fn max_message(gateway: &Gateway) -> u64 {
    Peer::websocket(gateway.address, "/ws").json()["max_message"].as_u64().expect("a number")
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let file = ConfigFile::new("[limits]\nmessage_bytes = \"1KiB\"\nping_interval = \"30s\"");
    let config = ["--config", file.path()];
    let flag = ["--config", file.path(), "--message-bytes", "3KiB"];
    let environment = [("FANFARE_MESSAGE_BYTES", "2KiB")];
    assert_eq!(max_message(&Gateway::start(&[])), 65_536);
    assert_eq!(max_message(&Gateway::start(&config)), 1024);
    assert_eq!(max_message(&Gateway::start_in(&environment, &config)), 2048);
    assert_eq!(max_message(&Gateway::start_in(&environment, &flag)), 3072);

    let gateway = Gateway::start_in(&[("FANFARE_CONFIG", file.path())], &["--pong-timeout", "5s"]);
    let welcome = Peer::websocket(gateway.address, "/ws").json();
    assert_eq!((&welcome["max_message"], &welcome["ping"]), (&1024.into(), &30.into()));
}

#[test]
fn the_first_rule_that_matches_a_topic_holds() {
    let file = ConfigFile::new(
        "[[topics]]\nmatch = \"ticker.strict\"\n[[topics]]\nmatch = \"ticker.>\"\nslow = \"drop-oldest\"\n\
         [[topics]]\nmatch = \">\"\nslow = \"disconnect\"\n",
    );
    let gateway = Gateway::start(&["--config", file.path()]);
    let topics = ["ticker.strict", "ticker.BTC", "ticker.BTC.spot", "ticker", "other"];
    let (_, acknowledgement) = Peer::subscribed(gateway.address, &topics);
    let policies: Vec<_> =
        acknowledgement["topics"].as_array().unwrap().iter().map(|topic| topic["policy"].as_str()).collect();
    assert_eq!(policies, [None, Some("drop-oldest"), Some("drop-oldest"), None, None]);
}
