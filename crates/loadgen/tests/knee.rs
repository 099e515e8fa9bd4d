//! `fanfare-load knee` against its own floor and against a server that makes mistakes, with few messages.
//!
//! Whatever the machine does meanwhile, the steps are those that are looked for: bounds are far from what is measured, and
//! requests are so few that one that is late is still in its window.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not inside a test function, where it is allowed"
)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::thread;

use peer::{Mistake, Peer};
use running::Floor;
use serde_json::{Value, json};

#[expect(dead_code, reason = "of its mistakes, two matter here")]
mod peer;
mod running;
mod valid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_fanfare-load");

/// One request a second in the first step, and twice as many in each one after it.
const SMALL: &str =
    "--subscribers 5 --batch 20 --from 20 --factor 2 --warmup 0s --duration 2s --drain 20s --json";

fn command(url: &str, flags: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["knee", "--url", url]).args(flags.split_whitespace());
    command
}

/// The exit code, and the report, which is as the schema says.
fn found(output: &Output) -> (i32, Value) {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no report: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(valid::faults(&report), [""; 0]);
    (output.status.code().unwrap(), report)
}

fn knee(url: &str, flags: &str) -> (i32, Value) {
    found(&command(url, &format!("{flags} {SMALL}")).output().unwrap())
}

fn rates(report: &Value) -> Vec<f64> {
    let steps = report["runs"].as_array().unwrap().iter();
    steps.map(|step| step["publish"]["asked_per_second"].as_f64().unwrap()).collect()
}

#[test]
fn a_bound_that_holds_to_the_end_has_no_step_that_broke() {
    let floor = Floor::start(&[]);
    let flags = format!("--p99 60s --steps-max 3 --pid {}", floor.process.id());
    let (code, report) = knee(&floor.url, &flags);
    assert_eq!((code, &report["passed"], &report["partial"]), (0, &json!(true), &Value::Null), "{report:#}");
    assert_eq!(rates(&report), [20.0, 40.0, 80.0]);
    let knee = &report["knee"];
    assert_eq!(knee["bounds"], json!({"p99_us": 60e6, "lost": 0}));
    assert_eq!(knee["broke"], Value::Null);
    let last = &report["runs"][2];
    assert_eq!((&knee["held"]["run"], &knee["held"]["rate"]), (&json!(2), &json!(80.0)));
    assert_eq!(knee["held"]["delivered_per_second"], last["delivered_per_second"]);
    assert_eq!(knee["held"]["cpu_us_per_delivery"], last["server"]["cpu_us_per_delivery"]);
    assert!(knee["held"]["cpu_us_per_delivery"].as_f64().unwrap() > 0.0);
    assert_eq!(last["delivery"]["delivered"], 2 * 80 * 5);
}

#[test]
fn a_bound_that_breaks_at_once_has_none_that_held() {
    let floor = Floor::start(&[]);
    let (code, report) = knee(&floor.url, "--p99 0.001ms");
    assert_eq!((code, &report["passed"], &report["partial"]), (1, &json!(false), &Value::Null), "{report:#}");
    assert_eq!(rates(&report), [20.0]);
    let knee = &report["knee"];
    assert_eq!((&knee["held"], &knee["broke"]["run"]), (&Value::Null, &json!(0)));
    let why = knee["broke"]["why"].as_str().unwrap();
    assert!(why.starts_with("p99 ") && why.contains(" > 1.00 µs"), "{why}");
}

#[test]
fn losses_break_a_step_unless_they_are_within_the_bound() {
    // One message reaches none of the five.
    let run = |lost: &str| {
        let flags =
            "--subscribers 5 --rate 8 --format json --warmup 0s --duration 1s --drain 300ms --p99 60s --json";
        let peer = Peer::start(Mistake::Lose);
        let mut command = command(&format!("http://{}", peer.address), flags);
        found(&command.args(["--lost", lost]).output().unwrap())
    };
    let (code, report) = run("4");
    assert_eq!(code, 1, "{report:#}");
    assert!(report["knee"]["broke"]["why"].as_str().unwrap().contains("lost 5 > 4"), "{report:#}");
    // What the offsets tell is no matter of a bound.
    let (_, report) = run("5");
    let why = report["knee"]["broke"]["why"].as_str().unwrap();
    assert!(!why.contains("lost") && why.contains("5 messages missing without a gap"), "{why}");
}

#[test]
fn a_rate_that_is_not_accepted_breaks_a_step() {
    let peer = Peer::start(Mistake::Refuse);
    let flags = "--subscribers 3 --format json --rate 8 --warmup 0s --duration 1s --p99 60s --json";
    let output = command(&format!("http://{}", peer.address), flags).output().unwrap();
    let (code, report) = found(&output);
    assert_eq!(code, 1);
    let why = report["knee"]["broke"]["why"].as_str().unwrap();
    assert!(why.contains("1 messages were not acknowledged, 1 posts with 503"), "{why}");
}

#[test]
fn the_steps_are_of_a_scenario_and_in_the_order_of_their_rates() {
    let floor = Floor::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("two.toml");
    let text = "stages = { warmup = \"0s\", window = \"1s\", drain = \"20s\" }\n\
        [[subscribers]]\nname = \"all\"\ncount = 4\n\
        [[publishers]]\nname = \"a\"\nrate = 30\nbatch = 30\nramp_to = 9000\n\
        [[publishers]]\nname = \"b\"\nrate = 10\nbatch = 10\n";
    std::fs::write(&path, text).unwrap();
    let flags = format!("{} --p99 60s --steps-max 2 --factor 2 --json", path.display());
    let (code, report) = found(&command(&floor.url, &flags).output().unwrap());
    assert_eq!((code, rates(&report)), (0, vec![40.0, 80.0]), "{report:#}");
    let feeds = report["runs"][1]["scenario"]["publishers"].as_array().unwrap();
    let rates: Vec<_> = feeds.iter().map(|feed| (feed["rate"].clone(), feed["ramp_to"].clone())).collect();
    assert_eq!(rates, [(json!(60.0), Value::Null), (json!(20.0), Value::Null)]);
}

#[test]
fn an_interrupted_search_tells_its_steps() {
    let floor = Floor::start(&[]);
    let flags =
        "--subscribers 3 --rate 10 --batch 10 --factor 1.001 --duration 2500ms --warmup 0s --p99 60s --json";
    let mut process =
        command(&floor.url, flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The line of the window of a step after the first: of each step there is at least one.
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("step 2, 10 messages/s")), "it ended before");
    thread::spawn(move || lines.for_each(drop));
    let interrupt = format!("kill -INT {}", process.id());
    assert!(Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    let (code, report) = found(&process.wait_with_output().unwrap());
    assert_eq!((code, &report["partial"], &report["passed"]), (1, &json!("interrupted"), &json!(false)));
    assert_eq!(report["knee"]["held"]["run"], 0);
    assert_eq!(report["knee"]["broke"], Value::Null);
}

#[test]
fn the_text_has_a_row_for_each_step() {
    let floor = Floor::start(&[]);
    let flags =
        "--subscribers 5 --batch 20 --from 40 --factor 2 --warmup 0s --duration 1s --p99 60s --steps-max 2";
    let output = command(&floor.url, flags).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("bounds       p99 ≤ 60.0 s, lost ≤ 0"), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("  held")).count(), 2, "{text}");
    let held = text.lines().find(|line| line.starts_with("held ")).unwrap();
    assert!(held.contains(" 80 messages/s, ") && held.ends_with(" deliveries/s (step 2)"), "{text}");
    assert!(text.ends_with("result       passed\n"), "{text}");
}

#[test]
fn what_has_no_knee_is_refused() {
    let check = |flags: &str, code: i32, expect: &str| {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let output = command(&format!("http://{free}"), flags).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.contains(expect)), (Some(code), true), "{flags}: {text}");
    };
    check("", 1, "cannot reach");
    check("idle", 2, "idle publishes nothing");
    check("tikcer", 2, "did you mean ticker?");
    check("ticker --subscribers 3", 2, "cannot be used with");
    check("--subscribers 0", 2, "no subscribers");
    check("--factor 1", 2, "--factor");
    check("--steps-max 0", 2, "--steps-max");
    check("--p99 0s", 2, "--p99");
    check("--from=-1", 2, "--from");
    check("--payload 3", 2, "--payload");
}
