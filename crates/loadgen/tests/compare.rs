//! `fanfare-load compare` as its user sees it.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not inside a test function, where it is allowed"
)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

fn sample() -> Value {
    serde_json::from_str(include_str!("fixtures/several.json")).unwrap()
}

/// A file with `text`, of its own for each test.
fn file(name: &str, text: &str) -> PathBuf {
    let path = path_of(name);
    fs::write(&path, text).unwrap();
    path
}

/// A report of the sample, in which `change` was made.
fn report(name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let mut report = sample();
    change(&mut report);
    file(name, &report.to_string())
}

/// The exit code, and what is said on both outputs. Flags name files with an @.
fn compare(paths: &[&PathBuf], flags: &str) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare-load"));
    let mut words: Vec<_> = paths.iter().map(|path| path.as_os_str().to_owned()).collect();
    for flag in flags.split_whitespace() {
        match flag.strip_prefix('@') {
            Some(name) => words.push(path_of(name).into_os_string()),
            None => words.push(flag.into()),
        }
    }
    let output = command.arg("compare").args(words).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn path_of(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("compare-{name}.json"))
}

/// The lines of one run's figures, blanks between words made one.
fn figures(text: &str, run: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| !line.starts_with(run)).skip(1);
    let lines = lines.take_while(|line| line.starts_with("  "));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn what_changed_is_told_in_words() {
    let before = report("words-before", |_| {});
    let after = report("words-after", |report| {
        let run = &mut report["runs"][0];
        run["delivered_per_second"] = json!(62_700.0);
        run["latency_us"]["p50"] = json!(1_000.0);
        run["server"]["cpu_us_per_delivery"] = json!(2.73);
        run["server"]["kernel_socket_bytes_per_connection"] = json!(null);
        run["delivery"]["lost"] = json!(2_131);
        report["machine"]["cores"] = json!(64);
        report["runs"][1]["scenario"]["name"] = json!("board");
        report["runs"][2]["target"]["adapter"] = json!("peer");
    });
    let (code, text) = compare(&[&before, &after], "");
    assert_eq!(code, 0, "{text}");
    let expect = [
        "delivered per second 125,400 -> 62,700 x 0.500 WORSE",
        "p50 2.42 ms -> 1.00 ms x 0.412 better",
        "p99 8.86 ms -> 8.86 ms x 1.000 the same",
        "CPU per delivery 2.72 µs -> 2.73 µs x 1.004 the same",
        "memory per connection 2.00 KiB -> 2.00 KiB x 1.000 the same",
        "kernel memory per connection 1.84 KiB -> not measured",
        "lost 0% -> 0.100% WORSE",
    ];
    assert_eq!(figures(&text, "ticker: 5,000 subscribers, 200 messages/s"), expect, "{text}");
    for words in [
        "caution: before, a run is partial: the server ended 4.2 s into the window",
        "caution: now, the generator was busy: these are lower bounds",
        "caution: now, a run failed: 412 messages lost",
        "caution: the servers differ: fanfare (fanfare/0.1.0); now peer (fanfare/0.1.0)",
        "caution: the machines differ: AMD EPYC 9B14, 2 cores, Linux 6.18.0; now AMD EPYC 9B14, 64 cores",
        "only before: scoreboard: 10,000 subscribers, 20 messages/s",
        "only now: board: 10,000 subscribers, 20 messages/s",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

#[test]
fn a_bound_that_is_passed_is_exit_1() {
    let before = report("bound-before", |_| {});
    let cpu = |factor: f64| {
        move |report: &mut Value| {
            let cost = &mut report["runs"][0]["server"]["cpu_us_per_delivery"];
            *cost = json!(cost.as_f64().unwrap() * factor);
        }
    };
    let after = report("bound-after", cpu(1.2));
    assert_eq!(compare(&[&before, &after], "").0, 0);
    assert_eq!(compare(&[&before, &after], "--fail-above 1.3").0, 0);
    let (code, text) = compare(&[&before, &after], "--fail-above 1.1");
    assert_eq!(code, 1);
    let told =
        "FAILED: ticker: 5,000 subscribers, 200 messages/s: CPU per delivery is 1.20 times what it was";
    assert!(text.contains(told), "{text}");

    let slow = report("bound-slow", |report| report["runs"][0]["latency_us"]["p99"] = json!(1e6));
    assert!(compare(&[&before, &slow], "--fail-above 1.1").1.contains("p99 is 113 times what it was"));
    let blind = report("bound-blind", |report| report["runs"][0]["server"] = json!(null));
    let (code, text) = compare(&[&before, &blind], "--fail-above 1.1");
    assert!(code == 1 && text.contains("CPU per delivery is not measured any more"), "{text}");
    assert_eq!(compare(&[&blind, &before], "--fail-above 1.1").0, 0);

    // Of three rounds the middle one counts.
    for (name, factor) in [("round-1", 1.0), ("round-2", 9.0), ("round-3", 1.05)] {
        report(name, cpu(factor));
    }
    let (code, text) = compare(&[&before], "--with @round-1 @round-2 @round-3 --fail-above 1.1");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("ticker: 5,000 subscribers, 200 messages/s (medians of 1 and 3)"), "{text}");
    assert_eq!(figures(&text, "ticker")[3], "CPU per delivery 2.72 µs -> 2.86 µs x 1.050 WORSE");
}

#[test]
fn programs_get_json() {
    let before = report("json-before", |_| {});
    let (code, text) = compare(&[&before, &before], "--json --fail-above 1.1");
    assert_eq!(code, 0);
    let comparison: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(comparison["passed"], true);
    assert_eq!(comparison["runs"].as_array().unwrap().len(), 4);
    let figure = &comparison["runs"][3]["figures"][2];
    let expect = json!({"figure": "p99", "before": 8856.0, "after": 8856.0, "ratio": 1.0, "verdict": "same"});
    assert_eq!(figure, &expect);
}

#[test]
fn what_cannot_be_compared_is_exit_1_and_says_why() {
    let good = report("good", |_| {});
    let check = |other: &PathBuf, expect: &str| {
        let (code, text) = compare(&[&good, other], "");
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(expect), "{expect} is not in {text}");
    };
    check(&file("broken", "{\"schema\""), "compare-broken.json is not JSON");
    check(&file("other", "{}"), "compare-other.json is no report of fanfare-load");
    check(&file("list", "[1]"), "compare-list.json is no report of fanfare-load");
    check(
        &report("newer", |report| report["schema"] = json!("fanfare-load-report/9")),
        "fanfare-load-report/9",
    );
    let bent = report("bent", |report| report["runs"][0]["delivery"]["lost"] = json!("none"));
    check(&bent, "compare-bent.json does not have the form of a report");
    check(&PathBuf::from("/nowhere.json"), "cannot read /nowhere.json");
    check(&report("empty", |report| report["runs"] = json!([])), "no run is in both");
    assert_eq!(compare(&[&good], "").0, 2);
    assert_eq!(compare(&[&good, &good], "--fail-above 0").0, 2);
}
