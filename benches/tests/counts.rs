//! What a delivery and a publish cost in instructions, and that it does not grow with what else there is.
//!
//! Instructions are counted by callgrind, so a busy machine does not matter. Another compiler or processor may: the bounds
//! leave room for that, and not for work that grows.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The program, built as what is shipped. `None` without valgrind, which only CI must have.
static SCALING: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let valgrind = Command::new("valgrind").arg("--version").output();
    if valgrind.is_err() {
        assert!(std::env::var_os("CI").is_none(), "valgrind is missing, and CI must have it");
        eprintln!("skipped: there is no valgrind");
        return None;
    }
    // Cargo makes this one, `tmp` in the target directory, for integration tests.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target directory");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--package", env!("CARGO_PKG_NAME"), "--bin", "scaling"])
        .arg("--target-dir")
        .arg(target)
        .status();
    assert!(built.expect("cargo can be run").success());
    Some(target.join("release/scaling"))
});

/// Instructions of each of `rounds` rounds.
fn count(what: &str, of: &[usize], rounds: usize) -> Option<f64> {
    let scaling = SCALING.as_ref()?;
    let numbers = of.iter().chain([&rounds]).map(usize::to_string);
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=scaling::measured*"])
        .arg(scaling)
        .arg(what)
        .args(numbers)
        .output()
        .expect("valgrind can be run");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let (_, collected) = text.rsplit_once("Collected : ").expect("callgrind says what it collected");
    let total: f64 =
        collected.split_whitespace().next().and_then(|total| total.parse().ok()).expect("a number");
    assert!(total > 0.0, "nothing was measured");
    Some(total / rounds as f64)
}

/// Instructions of one delivery.
fn delivery(subscribers: usize, topics: usize, patterns: usize) -> Option<f64> {
    Some(count("deliver", &[subscribers, topics, patterns], 10)? / subscribers as f64)
}

/// Instructions of one publish.
fn publish(shards: usize, topics: usize, patterns: usize) -> Option<f64> {
    count("admit", &[shards, topics, patterns], 500)
}

#[test]
fn a_delivery_costs_the_same_beside_many_subscribers_topics_and_patterns() {
    let Some(one) = delivery(1_000, 1, 0) else { return };
    assert!(one < 160.0, "{one} instructions");
    for (subscribers, topics, patterns) in [(10_000, 1, 0), (1_000, 5_000, 0), (1_000, 1, 10_000)] {
        let Some(many) = delivery(subscribers, topics, patterns) else { return };
        assert!(
            many < 1.03 * one,
            "{many} instructions beside {one}: {subscribers} subscribers, {topics} topics, {patterns} patterns"
        );
    }
}

#[test]
fn a_publish_costs_the_same_beside_many_topics_and_patterns() {
    let Some(one) = publish(1, 1, 0) else { return };
    assert!(one < 2_500.0, "{one} instructions");
    for (topics, patterns) in [(5_000, 0), (1, 10_000)] {
        let Some(many) = publish(1, topics, patterns) else { return };
        assert!(many < 1.05 * one, "{many} instructions beside {one}: {topics} topics, {patterns} patterns");
    }
}

#[test]
fn a_further_shard_costs_a_list_and_no_more() {
    let (Some(one), Some(sixteen)) = (publish(1, 1, 0), publish(16, 1, 0)) else { return };
    let each = (sixteen - one) / 15.0;
    assert!(each < 240.0, "{each} instructions for each further shard");
    let Some(watermark) = count("watermark", &[64], 100) else { return };
    assert!(watermark < 450.0, "{watermark} instructions over 64 lanes");
}
