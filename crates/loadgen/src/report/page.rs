//! The report as a page: one HTML file that needs nothing else, with the report's JSON inside of it.
//!
//! A script of the page's own draws everything from the JSON. Names and texts come from files and from servers: in the
//! file they cannot end the JSON's element, and on the page they only ever become text.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use super::file;

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPTS: [&str; 5] = [
    include_str!("page/format.js"),
    include_str!("page/chart.js"),
    include_str!("page/figures.js"),
    include_str!("page/run.js"),
    include_str!("page/page.js"),
];

/// The page of a report in the form of `report.schema.json`.
pub(crate) fn render(report: &impl Serialize) -> serde_json::Result<String> {
    let data = inert(&serde_json::to_string(report)?);
    // The data goes in last: what looks like a place for something stays as it is there.
    let page = TEMPLATE.replace("@style@", STYLE).replace("@script@", &SCRIPTS.concat());
    Ok(page.replacen("@data@", &data, 1))
}

/// Writes the page of the report in `report` to `out`, or to standard output.
pub(crate) fn write(report: &Path, out: Option<&Path>) -> anyhow::Result<()> {
    let page = render(&file::read_raw(report)?)?;
    match out {
        Some(out) => fs::write(out, page).with_context(|| format!("cannot write {}", out.display())),
        None => io::stdout().write_all(page.as_bytes()).context("cannot write the page"),
    }
}

/// JSON that ends no element, begins none, and has no line ends that older scripts do not know. All of these can only be
/// in its strings.
fn inert(json: &str) -> String {
    let mut inert = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                inert.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => inert.push(character),
        }
    }
    inert
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_cannot_leave_the_json() {
        let check = |text: &str, expect: &str| assert_eq!(inert(text), expect);
        check(r#"{"a":[1,-2.5e3]}"#, r#"{"a":[1,-2.5e3]}"#);
        check("\"</script><!--\"", r#""\u003c/script\u003e\u003c!--""#);
        check("\"\u{2028}é&\u{2029}\"", r#""\u2028é\u0026\u2029""#);
    }

    #[test]
    fn the_page_has_the_report_once_and_nothing_from_elsewhere() {
        let report = serde_json::json!({"runs": [], "partial": "@data@ @script@ </script>"});
        let page = render(&report).unwrap();
        let (_, rest) = page.split_once("id=\"report\">").unwrap();
        let (data, _) = rest.split_once("</script>").unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(data).unwrap(), report);
        for text in ["src=", "@import", "url(", "innerHTML", "insertAdjacentHTML", "eval(", "@style@"] {
            assert!(!page.contains(text), "{text}");
        }
        let without_namespaces = page.replace("http://www.w3.org/", "");
        assert!(!without_namespaces.contains("http://") && !without_namespaces.contains("https://"));
    }
}
