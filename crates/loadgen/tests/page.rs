//! The page of a report, and what a browser makes of it.
//!
//! With Chromium in the path (or at `FANFARE_CHROMIUM`) pages are opened; without it only their text is looked at, and the
//! test says so.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not inside a test function, where it is allowed"
)]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use running::Floor;
use serde_json::{Value, json};

mod running;

const SEVERAL: &str = include_str!("fixtures/several.json");
const KNEE: &str = include_str!("fixtures/knee.json");
const BARE: &str = include_str!("fixtures/bare.json");
const PATIENCE: Duration = Duration::from_secs(300);

fn folder() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Writes the page of `report`; where it is, and its text.
fn page(name: &str, report: &str) -> (PathBuf, String) {
    let (json, html) = (folder().join(format!("{name}.json")), folder().join(format!("{name}.html")));
    fs::write(&json, report).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare-load"));
    let output = command.arg("page").arg(&json).arg("--out").arg(&html).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(&html).unwrap();
    (html, text)
}

fn chromium() -> Option<PathBuf> {
    let named = env::var_os("FANFARE_CHROMIUM").map(PathBuf::from);
    named.or_else(|| {
        let folders = env::var_os("PATH")?;
        let names = ["chromium", "chromium-browser", "google-chrome"];
        env::split_paths(&folders)
            .flat_map(|folder| names.map(|name| folder.join(name)))
            .find(|path| path.is_file())
    })
}

/// What is in `main` once the page's script has run; none without a browser.
fn opened(name: &str, report: &str) -> Option<String> {
    let (html, _) = page(name, report);
    let Some(chromium) = chromium() else {
        eprintln!("not opened, as there is no Chromium: {}", html.display());
        return None;
    };
    let profile = folder().join(format!("{name}-profile"));
    let mut command = Command::new(chromium);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
    ]);
    command.args([
        "--window-size=1200,900",
        "--virtual-time-budget=5000",
        "--enable-logging=stderr",
        "--v=0",
    ]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg("--dump-dom");
    let output = ended(command.arg(format!("file://{}", html.display())));
    let _ = fs::remove_dir_all(profile);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let complaints: Vec<_> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "the page complains: {complaints:?}");
    let dom = String::from_utf8(output.stdout).unwrap();
    let main = dom.split_once("<main").expect("there is a main").1.split_once("</main>").unwrap().0;
    for sign in ["NaN", "undefined", "[object", "Infinity"] {
        assert!(!main.contains(sign), "{sign} in {main}");
    }
    Some(main.to_owned())
}

fn ended(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (id, (sender, receiver)) = (child.id(), mpsc::sync_channel(1));
    thread::spawn(move || sender.send(child.wait_with_output()));
    receiver
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| {
            let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
            panic!("the browser did not end within {PATIENCE:?}")
        })
        .unwrap()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[test]
fn a_page_shows_all_runs_and_why_they_failed() {
    let Some(main) = opened("several", SEVERAL) else { return };
    assert!(main.contains("<h1>Failed</h1>"));
    assert!(main.contains("1 of 4 runs failed, 1 is partial."));
    assert!(
        main.contains(
            "412 messages lost; 412 messages missing without a gap; 3 subscribers were disconnected"
        )
    );
    assert!(main.contains("partial: the server ended 4.2 s into the window"));
    assert!(main.contains("In storm the generator itself was at its limit"));
    let summary = main.split_once("What each run delivered").unwrap().1.split_once("</table>").unwrap().0;
    assert_eq!(count(summary, "role=\"rowheader\""), 4);
    for text in ["125,400", "2.72\u{a0}µs", "8.86\u{a0}ms", "291,040", "busy", ">412<"] {
        assert!(summary.contains(&text.replace('\u{a0}', "&nbsp;")), "{text} is not in {summary}");
    }
    // Delivered, published, latency, percentiles, CPU, memory; of one run what was missing, too.
    assert_eq!(count(&main, "role=\"img\""), 4 * 6 + 1);
    assert_eq!(count(&main, "<desc"), 4 * 6 + 1);
    assert!(count(&main, "class=\"line line-") > 4 * 6);
    assert!(main.contains("Groups of subscribers") && main.contains(">trickle<"));
    assert!(main.contains("fanfare-load run loadtest/scenarios/ticker.toml"));
    assert!(main.contains("'out page.html'"));
}

#[test]
fn a_knee_shows_what_held_and_what_broke() {
    let Some(main) = opened("knee", KNEE) else { return };
    assert!(main.contains("<h1>Held 3,200 messages/s</h1>"));
    assert!(main.contains("CPU each, with p99&nbsp;≤&nbsp;50&nbsp;ms and nothing lost."));
    assert!(main.contains("The next step did not hold: p99 59 ms &gt; 50 ms."));
    assert!(main.contains("7 of 8 steps held: 57,150,000 messages arrived, once and in order, none lost."));
    assert_eq!(
        (count(&main, ">Broke<"), count(&main, ">Held<"), count(&main, "badge failed")),
        (2, 14, 0),
        "in the table and at the step"
    );
    let bend = main.split_once("Where it bends").unwrap().1.split_once("The steps").unwrap().0;
    assert_eq!((count(bend, "role=\"img\""), count(bend, "<circle")), (3, 24));
    assert_eq!((count(bend, ">held<"), count(bend, ">broke<"), count(bend, "class=\"bound\"")), (3, 3, 1));
    assert_eq!(count(&main, "<details class=\"run\""), 8);
    assert_eq!(count(&main, "open=\"\""), 2, "the step that held and the one that broke");

    // Steps from the one that broke on are meant to; one before it is not.
    let mut lossy = parsed(KNEE);
    lossy["runs"][7]["problems"] = json!(["9 messages lost"]);
    let Some(main) = opened("knee-lossy", &lossy.to_string()) else { return };
    assert!(main.contains("<h1>Held 3,200 messages/s</h1>"));
    lossy["runs"][2]["problems"] = json!(["9 messages lost"]);
    let Some(main) = opened("knee-failed", &lossy.to_string()) else { return };
    assert!(main.contains("<h1>Failed</h1>"));
}

#[test]
fn what_was_not_measured_is_no_number() {
    let Some(main) = opened("bare", BARE) else { return };
    assert!(main.contains("<h1>Partial</h1>"));
    assert!(main.contains("Its process was not watched."));
    assert!(main.contains("Nothing was measured."));
    // Even of a report that lacks nearly everything there is a page.
    let mut empty = parsed(BARE)["runs"][0].clone();
    empty.as_object_mut().unwrap().values_mut().for_each(|value| *value = Value::Null);
    let runs = json!([{}, {"series": [{}], "groups": [{}, {}]}, empty]);
    let nothing = json!({"schema": "fanfare-load-report/1", "machine": null, "knee": null, "runs": runs});
    let Some(main) = opened("nothing", &nothing.to_string()) else { return };
    assert!(main.contains("How it was measured"));
}

#[test]
fn texts_from_elsewhere_stay_texts() {
    let hostile = "</script><img src=x onerror=\"document.body.remove()\"><!--\u{2028}";
    let mut report = parsed(SEVERAL);
    report["machine"]["cpu"] = json!(hostile);
    report["command"] = json!([hostile]);
    let run = &mut report["runs"][2];
    run["scenario"] =
        json!({"name": hostile, "title": hostile, "about": hostile, hostile: {hostile: [hostile]}});
    run["target"] = json!({"url": hostile, "adapter": hostile, "server": hostile});
    run["problems"] = json!([hostile]);
    run["partial"] = json!(hostile);
    run["connections"]["failures"] = json!({hostile: 3});
    run["connections"]["disconnects"] = json!({hostile: 3});
    run["groups"] = json!([{"name": hostile, "format": hostile, "pace": hostile}, {"name": hostile}]);
    run["generator"]["bottleneck"] = json!([hostile]);
    run["generator"]["threads"][0]["name"] = json!(hostile);
    run["series"][0]["stage"] = json!(hostile);
    let (_, text) = page("hostile-text", &report.to_string());
    assert!(!text.contains("<img") && !text.contains('\u{2028}'));
    assert_eq!(count(&text, "</script>"), 2, "one for the report, one for the program");
    let Some(main) = opened("hostile", &report.to_string()) else { return };
    assert!(!main.contains("<img"));
    assert!(count(&main, "&lt;/script&gt;&lt;img src=x") > 15);
}

#[test]
fn a_run_leaves_its_page() {
    let floor = Floor::start(&[]);
    let html = folder().join("left.html");
    let flags = "quick --subscribers 5 --rate 100 --warmup 0s --duration 100ms --report";
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare-load"));
    let run = command.args(flags.split(' ')).arg(&html).args(["--url", &floor.url]).output().unwrap();
    assert!(run.status.success());
    let text = fs::read_to_string(html).unwrap();
    let data = text.split_once("id=\"report\">").unwrap().1.split_once("</script>").unwrap().0;
    assert_eq!(parsed(data)["runs"][0]["delivery"]["delivered"], 50);
}

#[test]
fn what_is_no_report_has_no_page() {
    let path = folder().join("no-report.json");
    fs::write(&path, "{\"tool\": \"another\"}").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_fanfare-load")).arg("page").arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(
        String::from_utf8(output.stderr).unwrap().contains("no-report.json is no report of fanfare-load")
    );
}
