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
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, squeue};
use peer::{Mistake, Peer};
use running::Floor;
use serde_json::Value;

mod peer;
mod running;
mod valid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_fanfare-load");

/// 120 messages.
const SHORT: &str = "--rate 100 --warmup 200ms --duration 1s --drain 10s --connect-rate 5000 --json";

fn quick(url: &str, flags: &str) -> Output {
    let flags = flags.split_whitespace();
    Command::new(PROGRAM).args(["quick", "--url", url]).args(flags).output().unwrap()
}

/// Containers often forbid it; what needs it is then not tested.
fn has_io_uring() -> bool {
    let mut builder = IoUring::<squeue::Entry, cqueue::Entry>::builder();
    builder.setup_single_issuer().setup_defer_taskrun().build(1).is_ok()
}

/// The exit code and the only run of the report of a run with `--json`, which is as the schema says.
fn report(url: &str, flags: &str) -> (i32, Value) {
    found(&quick(url, &format!("{flags} {SHORT}")))
}

fn found(output: &Output) -> (i32, Value) {
    let mut report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no report: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(valid::faults(&report), [""; 0]);
    assert_eq!(report["runs"].as_array().unwrap().len(), 1);
    (output.status.code().unwrap(), report["runs"][0].take())
}

/// What is said of a group.
fn group<'r>(report: &'r Value, name: &str) -> &'r Value {
    report["groups"].as_array().unwrap().iter().find(|group| group["name"] == name).unwrap()
}

#[test]
fn every_message_reaches_every_subscriber_of_the_floor() {
    let check = |writer: &str, reader: &str| {
        let floor = Floor::start(&["--writer", writer]);
        let flags = format!("--subscribers 50 --reader {reader} --pid {}", floor.process.id());
        let (code, report) = report(&floor.url, &flags);
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
    };
    check("send", "epoll");
    if has_io_uring() {
        check("io-uring", "io-uring");
    }
}

#[test]
fn batches_over_a_market_reach_the_subscribers_of_each_topic() {
    let ring = if has_io_uring() { "io-uring" } else { "send" };
    for flags in [&[][..], &["--join"], &["--writer", ring], &["--writer", ring, "--join"]] {
        let floor = Floor::start(flags);
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
fn streams_of_events_and_lines_reach_every_subscriber() {
    let check = |format: &str| {
        let peer = Peer::start(Mistake::Nothing);
        let flags = format!("--subscribers 9 --topics 2 --threads 2 --payload 1500 --format {format}");
        let (code, report) = report(&format!("http://{}", peer.address), &flags);
        assert_eq!(code, 0, "{report:#}");
        assert_eq!(report["delivery"]["expected"], 60 * 5 + 60 * 4);
        assert_eq!(report["delivery"]["delivered"], 60 * 5 + 60 * 4);
        assert_eq!(report["latency_us"]["count"], 50 * 5 + 50 * 4);
    };
    thread::scope(|scope| {
        ["sse", "ndjson", "events"].iter().for_each(|format| drop(scope.spawn(|| check(format))));
    });
}

/// 20 messages.
const MISTAKEN: &str = "--rate 100 --warmup 0s --duration 200ms --drain 300ms --json";

#[test]
fn every_mistake_of_a_server_is_noticed() {
    const SUBSCRIBERS: u64 = 3;
    let check = |mistake, format, counts: &[(&str, &str, u64); 3]| {
        let peer = Peer::start(mistake);
        // What never comes is waited for in vain.
        let flags = format!("--subscribers 3 --format {format} {MISTAKEN}");
        let output = quick(&format!("http://{}", peer.address), &flags);
        let (code, report) = found(&output);
        assert_eq!(code, 1, "{mistake:?}");
        for (section, name, expect) in counts {
            assert_eq!(report[section][name], *expect, "{format}, {mistake:?}: {name} in {report:#}");
        }
    };
    let delivery = |name, expect| ("delivery", name, expect);
    let lost = |messages| delivery("lost", messages * SUBSCRIBERS);
    let unannounced = |messages| delivery("unannounced", messages * SUBSCRIBERS);
    let all_disconnected = ("connections", "disconnected", SUBSCRIBERS);
    let rows = [
        (Mistake::Lose, [lost(1), delivery("gaps", 0), unannounced(1)]),
        (Mistake::Announce, [lost(0), delivery("gap_messages", SUBSCRIBERS), unannounced(0)]),
        (Mistake::Repeat, [lost(0), delivery("repeated", SUBSCRIBERS), unannounced(0)]),
        (Mistake::Swap, [lost(0), delivery("out_of_order", SUBSCRIBERS), unannounced(0)]),
        (Mistake::OffsetBack, [lost(0), delivery("offsets_back", SUBSCRIBERS), unannounced(0)]),
        (Mistake::Shorten, [lost(1), delivery("malformed", SUBSCRIBERS), unannounced(0)]),
        (Mistake::Close, [lost(16), all_disconnected, unannounced(0)]),
        (Mistake::Hang, [lost(16), all_disconnected, unannounced(0)]),
    ];
    for format in ["json", "sse", "ndjson", "events"] {
        thread::scope(|scope| {
            rows.iter().for_each(|(mistake, counts)| drop(scope.spawn(|| check(*mistake, format, counts))));
        });
    }
}

#[test]
fn a_disconnect_is_told_by_its_code() {
    let text = |format, mistake| {
        let flags =
            format!("--subscribers 2 --format {format} --rate 50 --warmup 0s --duration 200ms --drain 0s");
        let output = quick(&format!("http://{}", Peer::start(mistake).address), &flags);
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(text("json", Mistake::Close).contains("2: 4101 (2)"));
    assert!(text("json", Mistake::Hang).contains("2: end of stream (2)"));
    assert!(text("sse", Mistake::Close).contains("2: last chunk (2)"));
    assert!(text("ndjson", Mistake::Hang).contains("2: end of stream (2)"));
}

#[test]
fn stalled_subscribers_are_kept_apart_and_their_closes_are_counted() {
    let check = |mistake, format, expect: (i32, u64, &str)| {
        let peer = Peer::start(mistake);
        let flags =
            format!("--subscribers 6 --stalled 2 --receive-buffer 65536 --format {format} {MISTAKEN}");
        let output = quick(&format!("http://{}", peer.address), &flags);
        let (found, report) = found(&output);
        let (code, closed, label) = expect;
        assert_eq!(found, code, "{report:#}");
        assert_eq!(report["connections"]["connected"], 6);
        assert_eq!(report["delivery"]["expected"], 20 * 4, "{report:#}");
        let stalled = &group(&report, "stalled")["connections"];
        assert_eq!(stalled["connected"], 2);
        assert_eq!(stalled["disconnected"], closed, "{report:#}");
        assert_eq!(stalled["disconnects"][label].as_u64().unwrap_or(0), closed, "{report:#}");
        assert_eq!(peer.pongs.load(SeqCst), if format == "json" { 6 } else { 0 });
    };
    let rows = [
        (Mistake::Nothing, "json", (0, 0, "")),
        (Mistake::Close, "json", (1, 2, "4101")),
        (Mistake::Close, "sse", (1, 2, "last chunk")),
        (Mistake::Hang, "ndjson", (1, 2, "end of stream")),
    ];
    thread::scope(|scope| {
        rows.iter().for_each(|row| drop(scope.spawn(|| check(row.0, row.1, row.2))));
    });
}

#[test]
fn who_trickles_reads_at_its_rate_and_is_checked() {
    let run = |mistake, flags: &str| {
        let peer = Peer::start(mistake);
        let flags = format!("--subscribers 5 --trickle 2 --format json {flags} {MISTAKEN}");
        let output = quick(&format!("http://{}", peer.address), &flags);
        found(&output)
    };
    let check = |found: &(i32, Value), code, expect: (u64, u64)| {
        let trickle = group(&found.1, "trickle");
        let count = |name: &str| trickle["delivery"][name].as_u64().unwrap();
        let counts = (count("lost"), count("conflated"));
        assert_eq!((found.0, counts), (code, expect), "{:#}", found.1);
        assert_eq!(count("out_of_order") + count("repeated") + count("offsets_back"), 0);
    };
    // 20 messages of about 170 bytes each.
    check(&run(Mistake::Nothing, "--trickle-rate 100000"), 0, (0, 0));
    check(&run(Mistake::Lose, "--trickle-rate 100000"), 1, (2, 0));
    check(&run(Mistake::Lose, "--trickle-rate 100000 --conflating"), 0, (0, 2));
    let slow = run(Mistake::Nothing, "--trickle-rate 2000 --conflating");
    let trickle = &group(&slow.1, "trickle")["delivery"];
    let bytes = trickle["delivered"].as_u64().unwrap() * 170 / 2;
    assert!((200..2_000).contains(&bytes), "about {bytes} bytes in half a second: {:#}", slow.1);
    assert!(slow.0 == 1 && trickle["lost"].as_u64().unwrap() > 0, "what is newer than all that it read");
    assert_eq!(group(&slow.1, "full")["delivery"]["lost"], 0);
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
    let (code, report) = found(&output);
    assert_eq!((code, &report["partial"]), (1, &Value::from("interrupted")), "{report:#}");
    assert_eq!(report["problems"].as_array().unwrap().len(), 0);
    assert!(report["delivery"]["delivered"].as_u64().unwrap() > 0);
    assert_eq!(report["delivery"]["lost"], 0);
}

/// A file with `text`, and its path.
fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

fn signal(process: &Child, name: &str) {
    let kill = format!("kill -{name} {}", process.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Starts a run, and waits for the first line of its progress that tells of the window.
fn started(flags: &str) -> Child {
    let mut command = Command::new(PROGRAM);
    let mut process =
        command.args(flags.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("% window")), "it ended before the window");
    // Nothing else that it tells may block it.
    thread::spawn(move || lines.for_each(drop));
    process
}

#[test]
fn a_stall_shows_in_every_message_that_was_due_in_it() {
    const SUBSCRIBERS: f64 = 4.0;
    const RATE: f64 = 200.0;
    let floor = Floor::start(&[]);
    let flags = format!(
        "quick --subscribers {SUBSCRIBERS} --rate {RATE} --warmup 0s --duration 6s --drain 30s --json --url {}",
        floor.url
    );
    let run = started(&flags);
    let began = Instant::now();
    signal(&floor.process, "STOP");
    thread::sleep(Duration::from_millis(1_500));
    let stalled = began.elapsed().as_secs_f64();
    signal(&floor.process, "CONT");
    let (code, report) = found(&run.wait_with_output().unwrap());
    assert_eq!(code, 0, "{report:#}");
    // The schedule is open: whatever the server does, all is sent that is due.
    assert_eq!(report["publish"]["sent"], 6.0 * RATE);
    assert_eq!(report["latency_us"]["count"], 6.0 * RATE * SUBSCRIBERS);
    // A message that was due with half a second of the stall ahead came that late.
    let steps = report["latency_distribution"].as_array().unwrap();
    let late = steps.iter().filter(|step| step["up_to_us"].as_f64().unwrap() > 550_000.0);
    let late: u64 = late.map(|step| step["count"].as_u64().unwrap()).sum();
    let due = (stalled.min(5.0) - 0.6) * RATE * SUBSCRIBERS;
    assert!(late as f64 >= due * 0.9, "{late} of {due} are late");
}

#[test]
fn a_server_that_ends_half_way_leaves_a_partial_report_at_once() {
    let mut floor = Floor::start(&[]);
    // Waited out, it would take twenty minutes.
    let flags =
        format!("quick --subscribers 5 --duration 10m --drain 10m --warmup 0s --json --url {}", floor.url);
    let run = started(&flags);
    floor.process.kill().unwrap();
    floor.process.wait().unwrap();
    let (code, report) = found(&run.wait_with_output().unwrap());
    assert_eq!(code, 1);
    let partial = report["partial"].as_str().unwrap();
    assert!(partial.starts_with("the server ended ") && partial.ends_with(" s into the window"), "{partial}");
    assert_eq!(report["passed"], false);
    assert!(report["delivery"]["delivered"].as_u64().unwrap() > 0);
}

#[test]
fn a_report_that_cannot_be_written_is_still_told() {
    let floor = Floor::start(&[]);
    let flags = "--subscribers 2 --rate 100 --warmup 0s --duration 100ms --json /dev/full";
    let output = quick(&floor.url, flags);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("passed\n"));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot write /dev/full"));
}

#[test]
fn a_server_is_measured_by_its_adapter_alone() {
    let floor = Floor::start(&[]);
    let (_folder, adapter) = file(
        "adapter.toml",
        "name = 'floor'\n[subscribe]\ntransport = 'websocket'\npath = '/topics/{topic}'\n\
         [publish]\ntransport = 'http'\npath = '/topics/{topic}'\nbody = '{payload}'\n[cannot]\nchat = 'no rooms'\n",
    );
    for batch in [1, 3] {
        let flags = format!("--subscribers 9 --topics 2 --batch {batch} --payload 3000 --adapter {adapter}");
        let (code, report) = report(&floor.url, &flags);
        assert_eq!(code, 0, "{report:#}");
        assert_eq!(report["target"]["adapter"], "floor");
        let expected = report["delivery"]["expected"].as_u64().unwrap();
        // 120 messages to four or five each; a batch of three more may be due.
        assert!((500..=560).contains(&expected), "{report:#}");
        assert_eq!(report["delivery"]["delivered"], expected);
        assert_eq!(report["delivery"]["lost"], 0);
    }
    let mut command = Command::new(PROGRAM);
    let output = command.args(["run", "chat", "--adapter", &adapter, "--url", &floor.url]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("floor cannot run chat: no rooms"));
}

#[test]
fn a_recording_is_published_again() {
    let floor = Floor::start(&[]);
    let line = |at: u64| {
        format!("{{\"time\":{},\"symbol\":\"S{}\",\"bid\":{at}}}\n", 1_700_000_000_000 + at, at % 30)
    };
    let text: String = (0..200).map(|at| line(at * 10)).collect();
    let (_folder, path) = file("ticks.ndjson", &text);
    for speed in ["10x", "max"] {
        let flags = format!(
            "replay {path} --topic symbol --speed {speed} --subscribers 6 --json --url {}",
            floor.url
        );
        let output = Command::new(PROGRAM).args(flags.split(' ')).output().unwrap();
        let (code, report) = found(&output);
        assert_eq!(code, 0, "{report:#}");
        assert_eq!(report["publish"]["acknowledged"], 200);
        // Two subscribers for each of three topics.
        assert_eq!(report["delivery"]["expected"], 400);
        assert_eq!(report["delivery"]["delivered"], 400);
        assert_eq!(report["latency_us"]["count"], 400);
    }
    let output = Command::new(PROGRAM).args(["replay", &path, "--topic", "sym"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no field sym; there are"));
}

#[test]
fn a_wrong_scenario_is_exit_2_with_the_file_and_the_key() {
    let check = |text: &str, expect: &str| {
        let (_folder, path) = file("mine.toml", text);
        let output = Command::new(PROGRAM).args(["run", &path]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("mine.toml") && told.contains(expect), "{told}");
    };
    check("[stages]\nwarmpu = \"1s\"", "line 2: unknown key warmpu; did you mean warmup?");
    check("[[subscribers]]\nname = \"a\"\ncount = 1\ntopics_each = 2", "subscribers \"a\": topics_each");
    let output = Command::new(PROGRAM).args(["run", "tikcer"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("did you mean ticker?"));
}
