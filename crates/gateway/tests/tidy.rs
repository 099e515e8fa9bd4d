//! What the documents promise about the tree, read off the tree.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use fanfare_gateway::config::{KEYS, Reload};
use fanfare_gateway::limits::LIMITS;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate is two levels deep").into()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files of the workspace's own crates.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("crates"), root().join("benches")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50, "the sources are not where they were");
    found
}

/// The files whose code, comments and unit tests not counted, has `text`; as paths from the root.
fn files_with(text: &str) -> BTreeSet<String> {
    let has = |path: &PathBuf| {
        let source = std::fs::read_to_string(path).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap();
        code.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| line.contains(text))
    };
    let name = |path: PathBuf| path.strip_prefix(root()).unwrap().display().to_string();
    sources().into_iter().filter(has).map(name).filter(|name| !name.ends_with("tidy.rs")).collect()
}

#[test]
fn every_module_says_what_it_is() {
    for path in sources() {
        let source = std::fs::read_to_string(&path).unwrap();
        assert!(source.starts_with("//! "), "{} has no module doc", path.display());
    }
}

#[test]
fn crates_depend_in_one_direction() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let mut dependencies: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let normal = node["deps"].as_array().unwrap().iter().filter(|dependency| {
            dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null())
        });
        let names_of = normal.map(|dependency| names[dependency["pkg"].as_str().unwrap()]).collect();
        dependencies.insert(names[node["id"].as_str().unwrap()], names_of);
    }
    let ours = |name: &str| -> BTreeSet<&str> {
        dependencies[name].iter().copied().filter(|name| name.starts_with("fanfare-")).collect()
    };
    let expect = |name: &str, allowed: &[&str]| {
        assert_eq!(ours(name), allowed.iter().copied().collect(), "dependencies of {name}");
    };
    expect("fanfare-wire", &[]);
    expect("fanfare-market", &[]);
    expect("fanfare-registry", &["fanfare-wire"]);
    expect("fanfare-fanout", &["fanfare-wire"]);
    expect("fanfare-client", &[]);
    expect("fanfare-loadgen", &["fanfare-market"]);
    expect(
        "fanfare-gateway",
        &["fanfare-client", "fanfare-fanout", "fanfare-market", "fanfare-registry", "fanfare-wire"],
    );
    for name in ["fanfare-wire", "fanfare-registry", "fanfare-fanout", "fanfare-market"] {
        let mut reached = BTreeSet::new();
        let mut next = vec![name];
        while let Some(name) = next.pop() {
            if reached.insert(name) {
                next.extend(dependencies[name].iter().copied());
            }
        }
        for forbidden in ["tokio", "mio", "hyper", "socket2"] {
            assert!(!reached.contains(forbidden), "{name} reaches {forbidden}");
        }
    }
}

#[test]
fn only_the_edges_read_a_clock() {
    let is_test = |file: &String| file.ends_with("/tests.rs") || file.contains("/tests/");
    for text in ["Instant::now", "SystemTime::now"] {
        for file in files_with(text).into_iter().filter(|file| !is_test(file)) {
            let inner = ["crates/wire/src", "crates/registry/src", "crates/fanout/src", "crates/market/src"];
            assert!(!inner.iter().any(|folder| file.starts_with(folder)), "{file} has {text}");
        }
    }
}

#[test]
fn foreign_types_stay_where_they_are_wrapped() {
    for file in files_with("fastwebsockets::") {
        let allowed = file == "crates/gateway/src/handshake.rs"
            || file.starts_with("crates/client/")
            || file.contains("/tests/");
        assert!(allowed, "{file} uses fastwebsockets");
    }
    assert_eq!(files_with("dashmap::"), ["crates/registry/src/registry.rs".to_owned()].into());
}

#[test]
fn unsafe_code_stays_in_its_files() {
    let allowed = [
        "crates/gateway/src/writer/ring.rs",
        "crates/loadgen/src/floor/ring.rs",
        "crates/loadgen/src/reader/ring.rs",
    ];
    let unsafe_files = files_with("unsafe_code").into_iter().filter(|file| !file.contains("/tests/"));
    let unsafe_files: Vec<_> = unsafe_files.filter(|file| !file.starts_with("crates/market")).collect();
    assert_eq!(unsafe_files, allowed, "docs/ARCHITECTURE.md says where it may be");
}

#[test]
fn every_limit_is_documented() {
    let document = read("docs/OPERATING.md");
    let documented: BTreeMap<&str, &str> = rows(&document, "## Limits").collect();
    let limits: BTreeMap<&str, &str> = LIMITS.iter().map(|row| (row.name, row.default)).collect();
    assert_eq!(documented, limits, "docs/OPERATING.md and limits.rs differ");
}

#[test]
fn the_operators_document_has_its_contents_at_its_top() {
    let document = read("docs/OPERATING.md");
    let headings: Vec<&str> = document.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let anchor = |heading: &str| -> String {
        let kept = heading.chars().filter(|char| char.is_alphanumeric() || " -".contains(*char));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let expected: Vec<String> =
        headings.iter().map(|heading| format!("- [{heading}](#{})", anchor(heading))).collect();
    let contents: Vec<&str> = document
        .lines()
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("- "))
        .collect();
    assert_eq!(contents, expected, "docs/OPERATING.md: its contents and its headings differ");
}

#[test]
fn what_needs_a_restart_is_documented() {
    let document = read("docs/OPERATING.md");
    let documented: BTreeSet<&str> = rows(&document, "## Reloading").map(|(name, _)| name).collect();
    let keys = KEYS.iter().filter(|key| matches!(key.reload, Reload::NeedsRestart(_))).map(|key| key.name);
    let limits = LIMITS.iter().filter(|row| !row.reloads).map(|row| row.name);
    assert_eq!(documented, keys.chain(limits).collect(), "docs/OPERATING.md and the tables of keys differ");
}

/// The first two cells of the table's rows under a heading.
fn rows<'a>(document: &'a str, heading: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let table = document.split_once(heading).expect("the heading is there").1;
    let table =
        table.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    table.skip(2).map(|line| {
        let mut cells = line.split('|').skip(1).map(|cell| cell.trim().trim_matches('`'));
        (cells.next().unwrap(), cells.next().unwrap())
    })
}

#[test]
fn every_metric_is_documented() {
    // Under TLS, it has one more.
    let authority = support::tls::Authority::new();
    let gateway = support::Gateway::start(&authority.flags().each_ref().map(String::as_str));
    let mut stream = TcpStream::connect(gateway.admin).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let served: BTreeMap<&str, &str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| name.starts_with("fanfare_"))
        .collect();
    let document = read("docs/METRICS.md");
    let documented: BTreeMap<&str, &str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `fanfare_"))
        .map(|line| {
            let mut cells = line.split(" | ");
            let name = cells.next().unwrap().trim_end_matches('`').split('{').next().unwrap();
            (name, cells.next().unwrap())
        })
        .collect();
    let served: BTreeMap<&str, &str> =
        served.into_iter().map(|(name, kind)| (name.strip_prefix("fanfare_").unwrap(), kind)).collect();
    assert_eq!(documented, served, "docs/METRICS.md and /metrics differ");
    assert!(served.len() > 20);
}

#[test]
fn every_decision_is_listed() {
    let list = read("docs/adr/README.md");
    for entry in std::fs::read_dir(root().join("docs/adr")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "README.md" || list.contains(&format!("({name})")),
            "{name} is not in docs/adr/README.md"
        );
    }
}

#[test]
fn every_fault_has_a_state_and_its_tests_exist() {
    let document = read("docs/FAULTS.md");
    let stories: String = files_of("crates/gateway/tests/clients").into_iter().map(read).collect();
    let sources = sources();
    // By its file, its folder or the program's own list, and its name.
    let exists = |test: &str| {
        let (place, name) = test.rsplit_once("::").unwrap();
        let place = place.rsplit("::").next().unwrap();
        let is_there = |path: &PathBuf| {
            path.file_stem().is_some_and(|stem| stem == place)
                && std::fs::read_to_string(path).unwrap().contains(&format!("fn {name}("))
        };
        stories.contains(&format!("\"{test}\"")) || sources.iter().any(is_there)
    };
    let (mut ids, mut named) = (BTreeSet::new(), BTreeSet::new());
    for row in document.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [id, _, _, counted, state] = cells[..] else { panic!("five cells: {row}") };
        assert!(ids.insert(id), "{id} twice");
        let known = ["CI", "on demand", "not applicable: "].iter().any(|known| state.starts_with(known));
        assert!(known, "{id} has no state");
        for test in state.split('`').skip(1).step_by(2) {
            if let Some(path) = test.strip_prefix("tests/") {
                let path = root().join("crates/gateway/tests").join(path);
                assert!(path.exists(), "{id}: there is no {test}");
            } else if let Some(target) = test.strip_prefix("fuzz_targets/") {
                assert!(root().join("fuzz/fuzz_targets").join(target).exists(), "{id}: there is no {test}");
            } else if test.contains("::") {
                assert!(exists(test), "{id}: there is no {test}");
                named.insert(test.rsplit("::").next().unwrap());
            }
        }
        for metric in counted.split('`').filter(|word| word.starts_with("fanfare_")) {
            let metric = metric.split('{').next().unwrap();
            let documented = read("docs/METRICS.md").contains(&format!("| `{metric}"));
            assert!(documented, "{id}: there is no {metric}");
        }
    }
    assert!(ids.len() > 70);
    let on_demand = files_of("crates/gateway/tests/abuse").into_iter().map(read).collect::<String>();
    for part in on_demand.split("#[ignore = \"on demand: make abuse\"]\nfn ").skip(1) {
        let name = part.split('(').next().unwrap();
        assert!(named.contains(name), "docs/FAULTS.md does not say where {name} belongs");
    }
}

/// The Rust files of a folder, as paths from the root.
fn files_of(folder: &str) -> Vec<PathBuf> {
    let folder = root().join(folder);
    sources().into_iter().filter(|path| path.starts_with(&folder)).collect()
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let mut documents = vec![PathBuf::from("README.md"), PathBuf::from("CHANGELOG.md")];
    for folder in ["docs", "docs/adr"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path.strip_prefix(root()).unwrap().into());
            }
        }
    }
    for document in documents {
        let text = read(&document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = root().join(document.parent().unwrap()).join(target);
            assert!(path.exists(), "{}: {link} leads nowhere", document.display());
        }
    }
}
