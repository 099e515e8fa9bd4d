//! The bundled scenarios against the real gateway: smaller and shorter, and all of them pass.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;

mod valid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_fanfare-load");

/// A gateway on a port of its own, ended with the test.
struct Gateway {
    process: Child,
    url: String,
}

impl Gateway {
    /// Builds it if need be, as a test of all of the workspace does, which then has nothing to build: no test of another crate is
    /// told where a program is.
    fn start() -> Self {
        let profile = Path::new(PROGRAM).parent().unwrap();
        let release: &[_] = if profile.ends_with("release") { &["--release"] } else { &[] };
        let mut build = Command::new(env!("CARGO"));
        // A test of the gateway's that needs its program.
        build.args(["test", "--quiet", "--offline", "--workspace", "--no-run", "--test", "life"]);
        assert!(build.args(release).status().unwrap().success());
        let mut command = Command::new(profile.join("fanfare"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "2"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            line.split_whitespace().find_map(|word| {
                let word = word.trim_start_matches("http://").trim_end_matches([',', '/', ')']);
                word.starts_with("127.0.0.1:").then(|| word.to_owned())
            })
        });
        thread::spawn(move || lines.for_each(drop));
        Self { url: format!("http://{}", address.unwrap()), process }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn run(gateway: &Gateway, flags: &[&str], scenarios: &[String]) -> Value {
    let mut command = Command::new(PROGRAM);
    command.arg("run").args(scenarios).args(flags).args(["--json", "-", "--url", &gateway.url]);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {told}"));
    assert_eq!(valid::faults(&report), [""; 0]);
    assert_eq!(output.status.code(), Some(0), "{:#}", summary(&report));
    report
}

fn summary(report: &Value) -> Value {
    let runs = report["runs"].as_array().unwrap().iter();
    runs.map(|run| {
        serde_json::json!([run["scenario"]["name"], run["problems"], run["partial"], run["groups"]])
    })
    .collect()
}

#[test]
fn every_bundled_scenario_passes_when_it_is_small() {
    let list = Command::new(PROGRAM).arg("list").output().unwrap();
    let names = String::from_utf8(list.stdout).unwrap();
    let names: Vec<_> = names.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert!(names.len() >= 14, "{names:?}");
    let gateway = Gateway::start();
    let report = run(&gateway, &["--scale", "0.02", "--time-scale", "0.25"], &names);
    assert_eq!((&report["schema"], &report["passed"]), (&"fanfare-load-report/1".into(), &true.into()));
    let runs = report["runs"].as_array().unwrap();
    let found: Vec<_> = runs.iter().map(|run| run["scenario"]["name"].as_str().unwrap()).collect();
    assert_eq!(found, names);
    for run in runs {
        let name = run["scenario"]["name"].as_str().unwrap();
        assert_eq!(run["passed"], true, "{name}");
        let delivered = run["delivery"]["delivered"].as_u64().unwrap();
        assert_eq!(delivered > 0, name != "idle", "{name} delivered {delivered}");
        assert!(!run["series"].as_array().unwrap().is_empty(), "{name}");
        let reconnected = run["connections"]["reconnected"].as_u64().unwrap();
        assert_eq!(reconnected > 0, name.ends_with("-storm"), "{name}: {reconnected} came back");
    }
}

#[test]
fn whoever_goes_on_gets_what_was_missed_in_every_format_that_tells_offsets() {
    let group = |format: &str| {
        format!(
            "[[subscribers]]\nname = \"{format}\"\ncount = 20\nformat = \"{format}\"\n\
             [[events]]\nat = \"500ms\"\ngroup = \"{format}\"\ndisconnect = 1.0\nreconnect_rate = 20\nresume = true\n"
        )
    };
    let groups: String = ["json", "sse", "ndjson", "events", "poll"].map(group).concat();
    // The last one comes back after a second, when a hundred messages have passed.
    let text = format!(
        "stages = {{ warmup = \"500ms\", window = \"3s\", drain = \"20s\" }}\ntopics = {{ count = 4 }}\n{groups}\
         [[publishers]]\nname = \"feed\"\nrate = 100\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resume.toml");
    std::fs::write(&path, text).unwrap();
    let gateway = Gateway::start();
    let report = run(&gateway, &[], &[path.to_str().unwrap().to_owned()]);
    for group in report["runs"][0]["groups"].as_array().unwrap() {
        assert_eq!(group["connections"]["reconnected"], 20, "{group:#}");
        // 350 messages over four topics, and five subscribers of each.
        assert_eq!(group["delivery"]["expected"], 350 * 5, "{group:#}");
        assert_eq!(group["delivery"]["delivered"], 350 * 5, "{group:#}");
        assert_eq!(group["delivery"]["gaps"], 0, "{group:#}");
    }
}
