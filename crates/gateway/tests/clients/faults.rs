//! Faults that need a program to make: lost packets, a balancer to smuggle past, a clock that jumps.
//!
//! Those that need nothing are in tests/abuse.

use std::path::{Path, PathBuf};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::script::Script;
use crate::story;
use crate::support::Gateway;
use crate::support::metrics::{closes, eventually, metric, open_files, until_metric};
use crate::support::namespace::{drop_packets, in_a_network_of_its_own, pass, run};
use crate::support::peer::{Answer, HANDSHAKE, Peer, publish, request, request_text};
use crate::tools::Tool;

pub(crate) fn stories() -> Vec<Trial> {
    use Tool::{Faketime, FiuRun, HaProxy, Nft, Nginx, Python};
    vec![
        smuggled_past("haproxy::lets_nothing_be_smuggled", "haproxy", &[Python, HaProxy]),
        smuggled_past("nginx::lets_nothing_be_smuggled", "nginx", &[Python, Nginx]),
        smuggled_past("envoy::lets_nothing_be_smuggled", "envoy", &[Python]),
        story("network::who_vanishes_without_a_word_is_given_up", &[Nft], who_vanishes),
        story("network::lost_packets_lose_no_message", &[Nft], lost_packets),
        story("network::a_wall_that_goes_away_again_costs_nothing", &[Nft], a_wall_for_a_while),
        story("network::sockets_ended_from_outside_leave_nothing_behind", &[Nft], ended_from_outside),
        story("network::packets_of_576_bytes_carry_everything", &[Nft], small_packets),
        story("process::system_calls_that_fail_end_a_connection_at_most", &[FiuRun], failing_calls),
        story("clock::a_day_more_or_less_changes_nothing", &[Faketime], a_day_more_or_less),
    ]
}

fn smuggled_past(name: &'static str, front: &'static str, tools: &'static [Tool]) -> Trial {
    story(name, tools, move || {
        let gateway = Gateway::start(&["--header-timeout", "2s", "--body-timeout", "2s"]);
        Script::of(&gateway, "python/smuggling.py", tools)?.told_as(front).run()
    })
}

/// Open files once both workers are there, and nobody else.
fn files_at_rest(gateway: &Gateway) -> usize {
    drop(Peer::on_each_worker(gateway.address, "first"));
    until_metric(gateway, r#"fanfare_connections{transport="json"}"#, |open| open == 0.0);
    open_files(gateway)
}

fn port(peer: &Peer) -> u16 {
    peer.stream.local_addr().expect("it is connected").port()
}

/// Everything between these clients and the gateway is lost.
fn wall_off(peers: &[&Peer]) {
    let ports: Vec<String> = peers.iter().map(|peer| port(peer).to_string()).collect();
    let ports = ports.join(", ");
    drop_packets(&format!("tcp sport {{ {ports} }}"));
}

/// Half-open connections: the client is gone, and no packet says so.
fn who_vanishes() -> Result<(), Failed> {
    in_a_network_of_its_own(|| {
        let times = ["--ping-interval", "800ms", "--pong-timeout", "700ms", "--user-timeout", "2s"];
        let gateway =
            Gateway::start(&[&times[..], &["--close-timeout", "200ms", "--body-timeout", "1s"]].concat());
        let files = files_at_rest(&gateway);
        let (native, _) = Peer::subscribed(gateway.address, &["a"]);
        let raw = Peer::raw(gateway.address, "a");
        let mut half = Peer::connect(gateway.address);
        half.send("POST /topics/a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf ");
        until_metric(&gateway, "fanfare_inflight_body_bytes", |bytes| bytes > 0.0);
        wall_off(&[&native, &raw, &half]);
        publish(gateway.address, "a", "text/plain", "nobody hears it");
        for transport in ["json", "raw", "http"] {
            let open = format!("fanfare_connections{{transport=\"{transport}\"}}");
            until_metric(&gateway, &open, |open| open == 0.0);
        }
        assert_eq!(metric(&gateway, "fanfare_subscribed_topics"), 0.0);
        assert_eq!(metric(&gateway, "fanfare_outbox_bytes"), 0.0);
        eventually(|| open_files(&gateway) <= files, "no file is left open");
        assert_eq!(publish(gateway.address, "a", "text/plain", "x").status, 200);
        assert!(pass() > 0, "the wall was none");
    });
    Ok(())
}

fn lost_packets() -> Result<(), Failed> {
    in_a_network_of_its_own(|| {
        let gateway = Gateway::start(&[]);
        let mut peers: Vec<Peer> = (0..10).map(|_| Peer::raw(gateway.address, "a")).collect();
        let mut publisher = Peer::connect(gateway.address);
        drop_packets(&format!("tcp sport {} numgen random mod 100 < 5", gateway.address.port()));
        for number in 0..100 {
            let answer = publisher.request("POST", "/topics/a", &[], number.to_string());
            assert_eq!(answer.json()["offset"], number + 1);
        }
        for peer in &mut peers {
            for number in 0..100 {
                assert_eq!(peer.text(), number.to_string());
            }
        }
        assert_eq!(closes(&gateway, "slow_consumer") + closes(&gateway, "no_pong"), 0.0);
        assert!(pass() > 0, "nothing was lost");
    });
    Ok(())
}

fn a_wall_for_a_while() -> Result<(), Failed> {
    in_a_network_of_its_own(|| {
        let gateway = Gateway::start(&[]);
        let mut peer = Peer::raw(gateway.address, "a");
        for round in 0..3 {
            wall_off(&[&peer]);
            drop_packets(&format!("tcp dport {}", port(&peer)));
            for number in 0..10 {
                publish(gateway.address, "a", "text/plain", format!("{round}.{number}"));
            }
            assert!(pass() > 0, "the wall was none");
            for number in 0..10 {
                assert_eq!(peer.text(), format!("{round}.{number}"));
            }
        }
        assert_eq!(metric(&gateway, "fanfare_dropped_messages_total"), 0.0);
    });
    Ok(())
}

fn ended_from_outside() -> Result<(), Failed> {
    in_a_network_of_its_own(|| {
        let gateway = Gateway::start(&[]);
        let files = files_at_rest(&gateway);
        let crowd: Vec<Peer> = (0..20).map(|_| Peer::raw(gateway.address, "a")).collect();
        let (mut neighbour, _) = Peer::subscribed(gateway.address, &["a"]);
        for peer in &crowd {
            run("ss", &["--kill", "--tcp", &format!("dport = {}", port(peer))]);
        }
        until_metric(&gateway, r#"fanfare_connections{transport="raw"}"#, |open| open == 0.0);
        publish(gateway.address, "a", "text/plain", "x");
        assert_eq!(neighbour.json()["data"], "x");
        drop(neighbour);
        eventually(|| open_files(&gateway) <= files, "no file is left open");
    });
    Ok(())
}

fn small_packets() -> Result<(), Failed> {
    in_a_network_of_its_own(|| {
        run("ip", &["link", "set", "lo", "mtu", "576"]);
        let gateway = Gateway::start(&[]);
        let mut peer = Peer::raw(gateway.address, "a");
        for length in [1, 500, 600, 5_000, 65_536] {
            let payload = "x".repeat(length);
            assert_eq!(publish(gateway.address, "a", "text/plain", &payload).status, 200);
            assert!(peer.text() == payload, "{length} bytes come as others");
        }
    });
    Ok(())
}

/// Two in a hundred of the calls that read and write sockets fail, each for some reason that it may have.
fn failing_calls() -> Result<(), Failed> {
    let libraries = "/usr/lib/fiu/fiu_run_preload.so /usr/lib/fiu/fiu_posix_preload.so";
    if !libraries.split(' ').all(|library| Path::new(library).exists()) {
        return Err("libfiu is not where Debian has it".into());
    }
    // Not those that open the listeners, for it would not start, nor those by which its threads wake each other: of these the
    // runtime knows no failure but the end.
    let calls = ["io/net/recv", "io/net/send", "io/rw/writev"];
    let calls = calls.map(|call| format!("enable_random name=posix/{call},probability=0.02"));
    let environment = [("LD_PRELOAD", libraries), ("FIU_ENABLE", &calls.join("\n"))];
    // The ring makes none of these calls.
    let flags = ["--writer", "inline", "--header-timeout", "1s", "--body-timeout", "1s"];
    // Who was overlooked at its end is found by its silence.
    let pings = ["--ping-interval", "2s", "--pong-timeout", "1s", "--close-timeout", "200ms"];
    let gateway = Gateway::start_in(&environment, &[&flags[..], &pings].concat());
    let ask = |address, request: &[u8]| -> Option<(Peer, Answer)> {
        let mut peer = Peer::connect(address);
        peer.try_send(request);
        let answer = peer.try_answer()?;
        Some((peer, answer))
    };
    let handshake = format!("GET /topics/a HTTP/1.1\r\n{HANDSHAKE}\r\n");
    let post = request_text("POST", "/topics/a", &[("content-type", "text/plain")], "x");
    let (mut subscribers, mut answers, mut failures) = (Vec::new(), 0, 0);
    for round in 0..400 {
        if round % 8 == 0 {
            subscribers.extend(ask(gateway.address, handshake.as_bytes()));
        }
        match ask(gateway.address, &post) {
            Some((_, answer)) if answer.status == 200 => answers += 1,
            // A call that says falsely that nothing is there leaves the request where it is.
            Some((_, answer)) => assert_eq!(answer.status, 408, "{answer:?}"),
            None => failures += 1,
        }
    }
    assert!(answers > 200 && failures > 0 && subscribers.len() > 20, "{answers} {failures}");
    drop(subscribers);
    // The page may fail as well; what it says in the end is that nobody is left, and that nothing panicked.
    let page = || loop {
        if let Some((_, answer)) = ask(gateway.admin, &request_text("GET", "/metrics", &[], "")) {
            break answer.text().to_owned();
        }
    };
    eventually(
        || {
            let page = page();
            ["raw", "http"].iter().all(|transport| {
                page.contains(&format!("\nfanfare_connections{{transport=\"{transport}\"}} 0\n"))
            })
        },
        "nobody is left",
    );
    assert!(page().contains("\nfanfare_panics_total 0\n"));
    Ok(())
}

/// The wall clock jumps a day ahead, and two back, under a gateway that serves.
fn a_day_more_or_less() -> Result<(), Failed> {
    let library = faketime_library().ok_or("libfaketime is not where Debian has it")?;
    let offset = tempfile::NamedTempFile::new()?;
    let set = |text: &str| std::fs::write(offset.path(), text);
    set("+0")?;
    let environment = [
        ("LD_PRELOAD", library.to_str().ok_or("a path that is text")?),
        ("FAKETIME_TIMESTAMP_FILE", offset.path().to_str().ok_or("a path that is text")?),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_NO_CACHE", "1"),
    ];
    let times = ["--ping-interval", "800ms", "--pong-timeout", "700ms", "--replay-age", "1h"];
    let gateway = Gateway::start_in(&environment, &times);
    let (mut peer, _) = Peer::native(gateway.address);
    peer.subscribe(&["a", "b.*"]);
    let time = |peer: &mut Peer| -> u64 {
        peer.say(r#"{"type":"ping","id":7}"#);
        loop {
            let value = peer.json();
            if value["type"] == "pong" {
                return value["time"].as_u64().expect("a pong has the time");
            }
        }
    };
    let headers = [("idempotency-key", "k"), ("content-type", "text/plain")];
    let post = || request(gateway.address, "POST", "/topics/a", &headers, "once");
    let first = post().json();
    assert_eq!(peer.json()["offset"], 1);
    let start = time(&mut peer);
    const DAY_MS: i64 = 24 * 3600 * 1000;
    for (jump, days) in [("+86400", 1), ("-86400", -1), ("+0", 0)] {
        set(jump)?;
        // The clock that clients see has jumped, so the test does something.
        eventually(
            || {
                let passed = time(&mut peer) as i64 - start as i64 - days * DAY_MS;
                (0..DAY_MS / 24).contains(&passed)
            },
            "the clock jumps",
        );
        // What was published keeps its place and its age, a key is remembered, and pings go on.
        assert_eq!(post().json(), first, "{jump}");
        let last = request(gateway.address, "GET", "/topics/a", &[], "");
        let age: u64 = last.header("fanfare-age-ms").and_then(|age| age.parse().ok()).ok_or("no age")?;
        assert!(age < 600_000, "{jump}: {age} ms old");
        let (mut newcomer, _) = Peer::native(gateway.address);
        newcomer.say(r#"{"type":"subscribe","id":1,"topics":[{"topic":"a","from":"earliest"}]}"#);
        assert_eq!(newcomer.json()["type"], "subscribed");
        assert_eq!((&newcomer.json()["data"], newcomer.fence()), (&Value::from("once"), Vec::new()));
        publish(gateway.address, "b.c", "text/plain", jump);
        while peer.json()["data"] != jump {}
    }
    for reason in ["no_pong", "slow_consumer", "draining", "internal"] {
        assert_eq!(closes(&gateway, reason), 0.0, "{reason}");
    }
    Ok(())
}

fn faketime_library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let candidates = folders.flatten().map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    candidates.chain([Path::new("/usr/lib/faketime/libfaketimeMT.so.1").into()]).find(|path| path.exists())
}
