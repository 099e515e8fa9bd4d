//! The alerts and the dashboard of `deploy/`, as Prometheus understands them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::tools::{self, Tool};
use crate::{command, script};

/// Neither takes more than a moment.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn fire_when_they_should() -> Result<(), Failed> {
    let folder = deploy("prometheus");
    for (what, file) in [("check", "alerts.yml"), ("test", "alerts_test.yml")] {
        promtool(what, &folder.join(file))?;
    }
    Ok(())
}

/// Each query of the dashboard is one, as a rule that records it.
pub(crate) fn dashboard_queries_are_queries() -> Result<(), Failed> {
    let dashboard: Value = serde_json::from_slice(&std::fs::read(deploy("grafana").join("fanfare.json"))?)?;
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    let panels = dashboard["panels"].as_array().ok_or("no panels")?.iter();
    let asked = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let noted = dashboard["annotations"]["list"].as_array().ok_or("no annotations")?;
    for (index, query) in asked.chain(noted).enumerate() {
        // What Grafana fills in.
        let query = query["expr"].as_str().ok_or("no query")?.replace("$__rate_interval", "1m");
        // A JSON string is a YAML string, too.
        writeln!(rules, "  - {{record: query_{index}, expr: {}}}", serde_json::to_string(&query)?)?;
    }
    let file = tools::folder("prometheus")?.join("dashboard.yml");
    std::fs::write(&file, rules)?;
    promtool("check", &file)
}

fn deploy(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(folder)
}

fn promtool(what: &str, rules: &Path) -> Result<(), Failed> {
    let mut promtool = command(Tool::Promtool.path()?);
    promtool.args([what, "rules"]).arg(rules);
    let log = tools::folder("log")?.join(rules.with_extension("log").file_name().unwrap_or_default());
    script::run(&mut promtool, &log, PATIENCE)
}
