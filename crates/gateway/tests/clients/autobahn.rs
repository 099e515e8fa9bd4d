//! The Autobahn cases for WebSocket servers, by their port `kosoku`.
//!
//! A case expects its messages back. Here each is published to the topic whose raw WebSocket the case is connected to,
//! so it comes back through the whole fan-out.

use std::collections::BTreeMap;
use std::fs;

use libtest_mimic::Failed;
use serde::Deserialize;
use serde_json::from_slice;

use crate::script;
use crate::support::config_file::ConfigFile;
use crate::support::{Gateway, PATIENCE};
use crate::tools::{self, Tool};

/// What a run says of one case.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    behavior: String,
    behavior_close: String,
}

/// How a case may end other than `OK`, and why that is right.
type Exception = (&'static [&'static str], &'static str);

const EXCEPTIONS: [Exception; 3] = [
    // They offer nothing but a window of 512 bytes, which would not do for what everybody else gets.
    (&["13.3.5", "13.5.5"], "UNIMPLEMENTED"),
    // A fault closes the connection at once. What was on its way to the client then is thrown away; the strict verdict is
    // for servers that send it first.
    (&["3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"], "NON-STRICT"),
    // Nothing is right or wrong about these.
    (&["7.1.6", "7.13.1", "7.13.2"], "INFORMATIONAL"),
];

/// Frames, fragments, UTF-8, close handshakes.
pub(crate) fn behaviour() -> Result<(), Failed> {
    let groups = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"];
    let selection: Vec<&str> = groups.iter().flat_map(|group| ["--include", group]).collect();
    check("behaviour", &selection, 247, &[])
}

/// Messages of up to 16 MiB, in up to 65,536 fragments, and a thousand small ones.
pub(crate) fn large_and_many_messages() -> Result<(), Failed> {
    let limits = [
        ["--message-bytes", "16MiB"],
        ["--fragments", "100000"],
        ["--body-bytes", "16MiB"],
        ["--inbox-bytes", "64MiB"],
        ["--outbox-bytes", "64MiB"],
    ];
    check("large", &["--include", "9.*"], 54, limits.as_flattened())
}

/// permessage-deflate with several kinds of data (12) and of offers (13): a thousand messages of 4 KiB each, some of 8 KiB in
/// fragments and of 64 KiB. Data that does not become shorter is left out: it comes back as it is, as RFC 7692 allows, and the
/// suite's port cannot take it.
pub(crate) fn compression() -> Result<(), Failed> {
    let config = ConfigFile::new("[[topics]]\nmatch = \">\"\ndeflate = true\n");
    let limits = [["--config", config.path()], ["--outbox-bytes", "1MiB"]];
    let cases = ["12.1.5", "12.2.5", "12.3.5", "12.4.5", "12.1.9", "12.1.11", "12.3.11", "13.*.5"];
    let selection: Vec<&str> = cases.iter().flat_map(|cases| ["--include", cases]).collect();
    check("compression", &selection, 14, limits.as_flattened())
}

fn check(name: &str, selection: &[&str], cases: usize, limits: &[&str]) -> Result<(), Failed> {
    // A case that counts what it gets is irritated by a ping of the server.
    let flags: Vec<&str> = limits.iter().chain(&["--ping-interval", "1h"]).copied().collect();
    let gateway = Gateway::start(&flags);
    let report = tools::folder("autobahn")?.join(name);
    // Old verdicts must not pass for new ones.
    let _ = fs::remove_dir_all(&report);
    let log = tools::folder("log")?.join(format!("autobahn-{name}.log"));
    let mut kosoku = crate::command(Tool::Python.path()?.with_file_name("kosoku"));
    kosoku.arg("--outdir").arg(&report).args(selection).arg(gateway.ws_url("/topics/echo?from=live"));
    // Its exit code says whether there are failures; the verdicts say which.
    let ended = script::run(&mut kosoku, &log, 3 * PATIENCE);
    let Ok(index) = fs::read(report.join("index.json")) else { return ended };
    let agents: BTreeMap<String, BTreeMap<String, Verdict>> = from_slice(&index)?;
    let verdicts: Vec<(String, Verdict)> = agents.into_values().flatten().collect();
    if verdicts.len() != cases {
        return Err(format!("{} cases instead of {cases}", verdicts.len()).into());
    }
    let wrong: Vec<String> = verdicts
        .iter()
        .filter(|(case, verdict)| {
            !is_right(case, &verdict.behavior) || !is_right(case, &verdict.behavior_close)
        })
        .map(|(case, verdict)| format!("{case}: {}, close {}", verdict.behavior, verdict.behavior_close))
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("{}\nreport: {}", wrong.join("\n"), report.join("index.html").display()).into())
    }
}

fn is_right(case: &str, verdict: &str) -> bool {
    verdict == "OK" || EXCEPTIONS.iter().any(|(cases, excused)| verdict == *excused && cases.contains(&case))
}
