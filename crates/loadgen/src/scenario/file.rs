//! Reading a scenario: from a file, or one of those that are bundled; and what is told when it is wrong.

use std::fmt;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::{Scenario, bundled};

/// Why a file is not taken, in one sentence that names it and the key.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

/// The scenario called `name`: a file if there is one or it looks like a path, else a bundled one.
pub(crate) fn load(name: &str) -> Result<Scenario, Refused> {
    let path = Path::new(name);
    let (text, shown) = match bundled::text(name) {
        Some(text) if !path.is_file() => (text.to_owned(), format!("scenario {name}")),
        None if !name.contains(['/', '.']) && !path.is_file() => {
            let near = nearest(name, bundled::names());
            let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
            return Err(Refused(format!("there is no scenario {name}{hint} (fanfare-load list)")));
        }
        _ => match std::fs::read_to_string(path) {
            Ok(text) => (text, name.to_owned()),
            Err(error) => return Err(Refused(format!("cannot read {name}: {error}"))),
        },
    };
    let mut scenario: Scenario = toml_value(&text, &shown)?;
    if scenario.name.is_empty() {
        scenario.name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    }
    scenario.check().map_err(|problem| Refused(format!("{shown}: {problem}")))?;
    Ok(scenario)
}

/// What a TOML file holds; `shown` is what it is called.
pub(crate) fn toml_value<T: DeserializeOwned>(text: &str, shown: &str) -> Result<T, Refused> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let line = line.map_or_else(String::new, |line| format!(" line {line}"));
        let key = key_at(text, &error);
        let message = error.message();
        Refused(format!("{shown}{line}: {key}{}", unknown_key(message).unwrap_or_else(|| message.to_owned())))
    })
}

/// The key whose value an error is about, if it stands on the same line.
fn key_at(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text[..start].rsplit('\n').next().unwrap_or_default();
    let inner = line.rsplit(['{', ',']).next().unwrap_or_default();
    match inner.split_once('=') {
        Some((key, _)) => format!("{}: ", key.trim()),
        None => String::new(),
    }
}

/// `unknown field `x`, expected one of `a`, `b`` in our words, with the key that is nearest.
fn unknown_key(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2);
    Some(match nearest(key, known.clone()) {
        Some(near) => format!("unknown key {key}; did you mean {near}?"),
        None => format!("unknown key {key}; known are {}", known.collect::<Vec<_>>().join(", ")),
    })
}

/// The one of `known` that is spelled most alike, if any is near.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|known| (distance(word, known), known)).min()?;
    (near.0 <= word.len().max(near.1.len()) / 2).then_some(near.1)
}

/// How many letters must be changed, added or left out to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<_> = b.chars().collect();
    let mut row: Vec<_> = (0..=b.len()).collect();
    for (at, letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in b.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_file_is_refused_with_its_line_and_the_key() {
        let check = |text: &str, expect: &str| {
            let found = toml_value::<Scenario>(text, "x.toml").unwrap_err().to_string();
            assert_eq!(found, expect, "{text}");
        };
        check("titel = \"x\"", "x.toml line 1: unknown key titel; did you mean title?");
        check(
            "title = \"x\"\n[stages]\nwarmpu = \"1s\"",
            "x.toml line 3: unknown key warmpu; did you mean warmup?",
        );
        check(
            "[stages]\nquarks = 1",
            "x.toml line 2: unknown key quarks; known are warmup, window, drain, hold",
        );
        check(
            "stages = { window = \"10\" }",
            "x.toml line 1: window: expected a number and a unit: 500ms, 10s or 2m",
        );
        check("[[subscribers]]\ncount = 1", "x.toml line 1: missing field `name`");
    }

    #[test]
    fn the_nearest_word_is_the_one_with_the_fewest_changes() {
        let check = |word, expect| {
            assert_eq!(nearest(word, ["rate", "batch", "payload"].into_iter()), expect, "{word}");
        };
        check("ratte", Some("rate"));
        check("pailoat", Some("payload"));
        check("zzzzzz", None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
