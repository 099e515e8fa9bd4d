//! What the gateway says of itself, and what the kernel says of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::peer::request;
use super::{Gateway, PATIENCE};

/// Every sample of the page, by its name with its labels.
pub fn metrics(gateway: &Gateway) -> BTreeMap<String, f64> {
    let answer = request(gateway.admin, "GET", "/metrics", &[], "");
    assert_eq!(answer.status, 200, "{answer:?}");
    let samples = answer.text().lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
            (name.to_owned(), value.parse().unwrap_or_else(|error| panic!("{error}: {line}")))
        })
        .collect()
}

/// One sample.
pub fn metric(gateway: &Gateway, name: &str) -> f64 {
    let all = metrics(gateway);
    *all.get(name).unwrap_or_else(|| panic!("no {name} among {all:?}"))
}

/// Closes so far for one reason.
pub fn closes(gateway: &Gateway, reason: &str) -> f64 {
    metric(gateway, &format!("fanfare_closes_total{{reason=\"{reason}\"}}"))
}

/// Waits until a sample is as it should be.
pub fn until_metric(gateway: &Gateway, name: &str, mut is_right: impl FnMut(f64) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let value = metric(gateway, name);
        if is_right(value) {
            return;
        }
        assert!(Instant::now() < deadline, "{name} stays {value}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `condition` holds.
pub fn eventually(mut condition: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it never came to that: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The memory of the process that is in RAM now.
pub fn resident_bytes(gateway: &Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says it");
    let kibibytes: usize = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    kibibytes * 1024
}

/// Open files of the process.
pub fn open_files(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("it runs").count()
}
