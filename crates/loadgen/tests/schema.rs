//! `report.schema.json`, and what it lets pass.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not inside a test function, where it is allowed"
)]

use std::process::Command;

use serde_json::{Value, json};
use valid::{faults, schema};

mod valid;

const SAMPLES: [&str; 3] = [
    include_str!("fixtures/several.json"),
    include_str!("fixtures/knee.json"),
    include_str!("fixtures/bare.json"),
];

fn sample(at: usize) -> Value {
    serde_json::from_str(SAMPLES[at]).unwrap()
}

#[test]
fn the_program_prints_its_schema() {
    let output = Command::new(env!("CARGO_BIN_EXE_fanfare-load")).arg("schema").output().unwrap();
    assert!(output.status.success());
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), schema());
}

#[test]
fn reports_are_as_the_schema_says() {
    for at in 0..SAMPLES.len() {
        assert_eq!(faults(&sample(at)), [""; 0], "sample {at}");
    }
}

#[test]
fn what_is_not_as_the_schema_says_is_refused() {
    let check = |pointer: &str, value: Value, expect: &str| {
        let mut report = sample(0);
        *report.pointer_mut(pointer).unwrap() = value;
        assert_eq!(faults(&report), [format!("{pointer} {expect}")]);
    };
    check("/schema", json!("fanfare-load-report/2"), "is another");
    check("/passed", json!(null), "has another type");
    check("/runs/0/latency_us/p99", json!("8 ms"), "has another type");
    check("/runs/0/delivery/lost", json!(-1), "is too small");
    check("/runs/1/delivery/lost", json!(0.5), "has another type");
    check("/runs/0/series/3/stage", json!("asleep"), "is none of them");
    check("/runs/2/publish/posts_by_status/200", json!("many"), "has another type");
    check("/runs/0/server", json!(7), "is of no kind that it may be");
    check("/runs/0/groups/0", json!(null), "has another type");

    let mut report = sample(1);
    let run = report["runs"][0].as_object_mut().unwrap();
    run.remove("cut_off");
    run.insert("colour".to_owned(), json!("red"));
    run["scenario"]["colour"] = json!("what a file may say is open");
    assert_eq!(faults(&report), ["/runs/0 lacks cut_off", "/runs/0/colour is unknown"]);
}

#[test]
fn every_property_is_described_and_must_be_there() {
    fn visit(schema: &Value, at: &str, count: &mut usize) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            *count += 1;
            let told = property["description"].is_string() || property["$ref"].is_string();
            assert!(told, "{at}/{name} has no description");
            assert!(
                schema["required"].as_array().unwrap().contains(&json!(name)),
                "{at}/{name} may be absent"
            );
        }
        match schema {
            Value::Object(inner) => {
                inner.iter().for_each(|(name, inner)| visit(inner, &format!("{at}/{name}"), count))
            }
            Value::Array(inner) => inner.iter().for_each(|inner| visit(inner, at, count)),
            _ => {}
        }
    }
    let mut count = 0;
    visit(&schema(), "", &mut count);
    assert!(count > 100, "{count} properties");
}
