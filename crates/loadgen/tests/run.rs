//! The program as its user sees it: against its own floor, against a server that makes mistakes, and with wrong input.
//!
//! Counts are exact, because the schedule is: a run of 1.2 s at 100 messages/s has 120 of them, however slow the machine.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not inside a test function, where it is allowed"
)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use peer::{Mistake, Peer};
use serde_json::Value;

mod peer;

const PROGRAM: &str = env!("CARGO_BIN_EXE_fanfare-load");

/// 120 messages.
const SHORT: &str = "--rate 100 --warmup 200ms --duration 1s --drain 10s --connect-rate 5000 --json";

struct Floor {
    process: Child,
    url: String,
}

impl Floor {
    fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["floor", "--listen", "127.0.0.1:0"]).args(flags).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        Self { url: format!("http://{address}"), process }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn quick(url: &str, flags: &str) -> Output {
    let flags = flags.split_whitespace();
    Command::new(PROGRAM).args(["quick", "--url", url]).args(flags).output().unwrap()
}

/// The exit code and the report of a run with `--json`.
fn report(url: &str, flags: &str) -> (i32, Value) {
    let output = quick(url, &format!("{flags} {SHORT}"));
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no report: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), report)
}

#[test]
fn every_message_reaches_every_subscriber_of_the_floor() {
    let floor = Floor::start(&[]);
    let (code, report) = report(&floor.url, &format!("--subscribers 50 --pid {}", floor.process.id()));
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["passed"], true);
    assert_eq!(report["connections"]["connected"], 50);
    assert_eq!(report["publish"]["acknowledged"], 120);
    assert_eq!(report["publish"]["posts_by_status"]["200"], 120);
    assert_eq!(report["delivery"]["expected"], 6_000);
    assert_eq!(report["delivery"]["delivered"], 6_000);
    assert_eq!(report["delivery"]["lost"], 0);
    assert_eq!(report["latency_us"]["count"], 5_000, "latency counts in the window only");
    assert!(report["server"]["cpu_us_per_delivery"].as_f64().unwrap() > 0.0);
}

#[test]
fn batches_over_a_market_reach_the_subscribers_of_each_topic() {
    for join in [&[][..], &["--join"]] {
        let floor = Floor::start(join);
        let flags =
            "--subscribers 50 --topics 7 --batch 10 --ticker --threads 2 --publishers 2 --payload 300";
        let (code, report) = report(&floor.url, flags);
        assert_eq!(code, 0, "{report:#}");
        // Two publishers' shares of 12 posts are rounded up each.
        let posts = report["publish"]["posts"].as_u64().unwrap();
        assert!((12..=13).contains(&posts), "{posts} posts");
        assert_eq!(report["publish"]["acknowledged"], posts * 10);
        assert_eq!(report["delivery"]["delivered"], report["delivery"]["expected"]);
        assert!(report["delivery"]["delivered"].as_u64().unwrap() > 0);
    }
}

#[test]
fn connections_without_messages_pass() {
    let floor = Floor::start(&[]);
    let flags = "quick --subscribers 20 --rate 0 --warmup 0s --duration 100ms --url";
    let output = Command::new(PROGRAM).args(flags.split(' ')).arg(&floor.url).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("20 of 20") && text.ends_with("passed\n"), "{text}");
}

#[test]
fn native_subscribers_wait_for_their_ack_and_answer_pings() {
    let peer = Peer::start(Mistake::Nothing);
    let (code, report) =
        report(&format!("http://{}", peer.address), "--subscribers 9 --topics 2 --format json");
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["delivery"]["expected"], 60 * 5 + 60 * 4);
    assert_eq!(report["delivery"]["delivered"], 60 * 5 + 60 * 4);
    assert_eq!(report["delivery"]["malformed"], 0);
    assert_eq!(peer.pongs.load(SeqCst), 9);
}

#[test]
fn every_mistake_of_a_server_is_noticed() {
    const SUBSCRIBERS: u64 = 3;
    let check = |mistake, counts: &[(&str, &str, u64); 2]| {
        let peer = Peer::start(mistake);
        // What never comes is waited for in vain.
        let flags =
            "--subscribers 3 --format json --rate 100 --warmup 0s --duration 200ms --drain 300ms --json";
        let output = quick(&format!("http://{}", peer.address), flags);
        assert_eq!(output.status.code(), Some(1), "{mistake:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        for (section, name, expect) in counts {
            assert_eq!(report[section][name], *expect, "{mistake:?}: {name} in {report:#}");
        }
    };
    let delivery = |name, expect| ("delivery", name, expect);
    let all_disconnected = ("connections", "disconnected", SUBSCRIBERS);
    let rows = [
        (Mistake::Lose, [delivery("lost", SUBSCRIBERS), delivery("gaps", 0)]),
        (Mistake::Announce, [delivery("lost", SUBSCRIBERS), delivery("gap_messages", SUBSCRIBERS)]),
        (Mistake::Repeat, [delivery("lost", 0), delivery("repeated", SUBSCRIBERS)]),
        (Mistake::Swap, [delivery("lost", 0), delivery("out_of_order", SUBSCRIBERS)]),
        (Mistake::OffsetBack, [delivery("lost", 0), delivery("offsets_back", SUBSCRIBERS)]),
        (Mistake::Shorten, [delivery("malformed", SUBSCRIBERS), delivery("lost", SUBSCRIBERS)]),
        (Mistake::Close, [all_disconnected, delivery("lost", 16 * SUBSCRIBERS)]),
        (Mistake::Hang, [all_disconnected, delivery("lost", 16 * SUBSCRIBERS)]),
    ];
    thread::scope(|scope| {
        rows.iter().for_each(|(mistake, counts)| drop(scope.spawn(|| check(*mistake, counts))));
    });
}

#[test]
fn a_disconnect_is_told_by_its_code() {
    let flags = "--subscribers 2 --format json --rate 50 --warmup 0s --duration 200ms --drain 0s";
    let text = |mistake| {
        let output = quick(&format!("http://{}", Peer::start(mistake).address), flags);
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(text(Mistake::Close).contains("2: 4101 (2)"));
    assert!(text(Mistake::Hang).contains("2: end of stream (2)"));
}

#[test]
fn a_message_that_was_refused_is_not_expected() {
    let peer = Peer::start(Mistake::Refuse);
    let (code, report) = report(&format!("http://{}", peer.address), "--subscribers 3 --format json");
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["publish"]["posts_by_status"]["503"], 1);
    assert_eq!(report["delivery"]["expected"], 119 * 3);
    assert_eq!(report["delivery"]["lost"], 0);
}

#[test]
fn without_any_subscriber_the_run_fails_with_the_reason() {
    let peer = Peer::start(Mistake::Forbid);
    let output = quick(&format!("http://{}", peer.address), "--subscribers 3 --format json");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("no subscriber could connect") && text.contains("not subscribed: forbidden (3)"),
        "{text}"
    );
}

#[test]
fn a_server_that_is_down_is_exit_1_with_its_address() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = quick(&format!("http://{free}"), "--subscribers 1");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&format!("cannot reach http://{free}")), "{text}");
}

#[test]
fn a_wrong_command_line_is_exit_2() {
    for flags in ["--colour red", "--duration 10", "--payload 8", "--publishers 3", "--batch 0"] {
        assert_eq!(quick("http://127.0.0.1:9", flags).status.code(), Some(2), "{flags}");
    }
    assert_eq!(quick("ftp://127.0.0.1", "").status.code(), Some(2));
}

#[test]
fn an_interrupted_run_still_reports_and_checks() {
    let floor = Floor::start(&[]);
    let mut command = Command::new(PROGRAM);
    command.args(["quick", "--subscribers", "5", "--duration", "10m", "--json", "--url", &floor.url]);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The first two lines of progress: it publishes by the second.
    let lines = BufReader::new(process.stderr.take().unwrap()).lines();
    assert_eq!(lines.take(2).flatten().count(), 2);
    let interrupt = format!("kill -INT {}", process.id());
    assert!(Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    let output = process.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["interrupted"], true);
    assert!(report["delivery"]["delivered"].as_u64().unwrap() > 0);
    assert_eq!(report["delivery"]["lost"], 0);
}
