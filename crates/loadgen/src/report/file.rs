//! Reports that were kept as files, and their schema.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Value, value::RawValue};

/// What a report says it is, in its `schema`.
const SCHEMA_NAME: &str = "fanfare-load-report/1";
const SCHEMA: &str = include_str!("../../report.schema.json");

/// The report in `path`: JSON that says it is one, of a form that is known here.
pub(crate) fn read(path: &Path) -> anyhow::Result<Value> {
    Ok(checked(path)?.1)
}

/// The same as it is written there, in its order.
pub(crate) fn read_raw(path: &Path) -> anyhow::Result<Box<RawValue>> {
    Ok(RawValue::from_string(checked(path)?.0)?)
}

fn checked(path: &Path) -> anyhow::Result<(String, Value)> {
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let report: Value = serde_json::from_str(&text).with_context(|| format!("{name} is not JSON"))?;
    match report["schema"].as_str() {
        Some(SCHEMA_NAME) => Ok((text, report)),
        Some(other) => bail!("{name} is a {other}; only {SCHEMA_NAME} is known here"),
        None => bail!("{name} is no report of fanfare-load: it has no schema"),
    }
}

pub(crate) fn print_schema() -> anyhow::Result<()> {
    io::stdout().write_all(SCHEMA.as_bytes()).context("cannot write the schema")
}
