//! What `deploy/` has for Prometheus and Grafana asks only for what a gateway says.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use support::Gateway;
use support::peer::request;
use support::tls::Authority;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/grafana/fanfare.json")).expect("the dashboard is JSON")
}

/// All panels but the rows' titles.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().expect("a dashboard has panels");
    panels.iter().filter(|panel| panel["type"] != "row").collect()
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    let words = words.filter(|word| word.starts_with("fanfare_") || word.starts_with("process_"));
    words.map(str::to_owned).collect()
}

/// Every name that a gateway serves samples under; under TLS, it has one more.
fn served() -> BTreeSet<String> {
    let authority = Authority::new();
    let gateway = Gateway::start(&authority.flags().each_ref().map(String::as_str));
    let page = request(gateway.admin, "GET", "/metrics", &[], "");
    let samples = page.text().lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

#[test]
fn every_metric_that_is_asked_for_exists() {
    let served = served();
    for file in
        ["deploy/prometheus/alerts.yml", "deploy/prometheus/alerts_test.yml", "deploy/grafana/fanfare.json"]
    {
        let asked = names(&read(file));
        let missing: Vec<_> = asked.difference(&served).collect();
        assert!(missing.is_empty(), "{file} asks for {missing:?}");
        assert!(asked.len() > 20, "{file}: {asked:?}");
    }
    let document = read("docs/METRICS.md");
    for name in served.iter().filter(|name| name.starts_with("process_")) {
        assert!(document.contains(&format!("| `{name}` |")), "docs/METRICS.md has no {name}");
    }
}

#[test]
fn every_label_that_is_asked_for_has_that_value() {
    let gateway = Gateway::start(&[]);
    let page = request(gateway.admin, "GET", "/metrics", &[], "").text().to_owned();
    for file in ["deploy/prometheus/alerts.yml", "deploy/grafana/fanfare.json"] {
        let text = read(file).replace("\\\"", "\"");
        for (label, value) in
            text.split(['{', ',', ' ', '}']).filter_map(|word| word.trim_end_matches('"').split_once("=\""))
        {
            if ["job", "instance"].contains(&label) {
                continue;
            }
            assert!(page.contains(&format!("{label}=\"{value}\"")), "{file}: {label}=\"{value}\"");
        }
        for values in text.split("reason=~\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            for value in values.split('|') {
                assert!(page.contains(&format!("reason=\"{value}\"")), "{file}: {value}");
            }
        }
    }
}

#[test]
fn every_panel_says_what_it_shows() {
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    let mut ids = BTreeSet::new();
    for panel in &panels {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let title = text(&panel["title"]);
        let unit = text(&panel["fieldConfig"]["defaults"]["unit"]);
        assert!(!title.is_empty() && !unit.is_empty(), "{panel}");
        assert!(text(&panel["description"]).ends_with(['.', ':']), "{title} has no description");
        assert!(ids.insert(panel["id"].as_u64()), "{title}: its id is another's");
        let targets = panel["targets"].as_array().unwrap_or_else(|| panic!("{title} asks for nothing"));
        assert!(!targets.is_empty(), "{title} asks for nothing");
        for target in targets {
            let asked = text(&target["expr"]);
            assert!(!names(&asked).is_empty() || asked.starts_with("sum(up{"), "{title}: {asked}");
            assert!(asked.contains("job=\"$job\""), "{title} asks for gateways of all jobs: {asked}");
        }
    }
    let rows: Vec<_> = dashboard["panels"].as_array().unwrap().iter().collect();
    let rows = rows.iter().filter(|panel| panel["type"] == "row").map(|row| row["title"].as_str().unwrap());
    let expect =
        ["At a glance", "Traffic", "Latency", "Connections", "Slow consumers", "Resources", "Refusals"];
    assert_eq!(rows.collect::<Vec<_>>(), expect);
}

#[test]
fn every_alert_is_tested_and_has_advice() {
    let rules = read("deploy/prometheus/alerts.yml");
    let alerts: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    let document = read("docs/OPERATING.md");
    let section = document.split_once("## Alerts, and what to do").expect("the section is there").1;
    let section = section.split("\n## ").next().unwrap();
    let advised: BTreeSet<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `Fanfare"))
        .map(|line| line.split('`').next().unwrap())
        .collect();
    let alerted: BTreeSet<&str> = alerts.iter().map(|name| name.strip_prefix("Fanfare").unwrap()).collect();
    assert_eq!(advised, alerted, "docs/OPERATING.md and the alerts differ");
    let tests = read("deploy/prometheus/alerts_test.yml");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "nothing tests that {alert} fires");
    }
}
