//! The configuration as a file would say it, with what is left out there: the defaults, the environment, the flags.
//!
//! Whoever reads it in again has the same configuration, but for secrets, which do not leave.

use std::fmt::Write;

use fanfare_fanout::SlowPolicy;
use fanfare_wire::Pattern;
use jsonwebtoken::AlgorithmFamily;

use super::Config;
use super::keys::{KEYS, Kind, REDACTED};
use crate::limits::{LIMITS, Unit};
use crate::units::shown;

impl Config {
    /// All of it as TOML, secrets as [`REDACTED`].
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for key in KEYS {
            let Some(value) = key.shown(self) else { continue };
            line(&mut text, key.name, &toml_value(&value, key.kind));
        }
        text.push_str("\n[limits]\n");
        for row in LIMITS {
            let value = row.shown(&self.limits);
            line(&mut text, row.name, &if row.unit == Unit::Count { value } else { quoted(&value) });
        }
        let auth = &self.auth;
        for key in &auth.api_keys {
            text.push_str("\n[[api_keys]]\n");
            line(&mut text, "name", &quoted(&key.name));
            line(&mut text, "sha256", &quoted(REDACTED));
            scope(&mut text, &key.publish, &key.subscribe);
        }
        for key in &auth.token_keys {
            let is_secret = key.algorithm.family() == AlgorithmFamily::Hmac;
            text.push_str("\n[[token_keys]]\n");
            line(&mut text, "id", &quoted(&key.id));
            line(&mut text, "algorithm", &quoted(&format!("{:?}", key.algorithm)));
            let file = if is_secret { "secret_file" } else { "public_key_file" };
            line(&mut text, file, &quoted(&key.file.display().to_string()));
        }
        if let Some(anonymous) = &auth.anonymous {
            text.push_str("\n[anonymous]\n");
            scope(&mut text, &anonymous.publish, &anonymous.subscribe);
        }
        for rule in &self.topics {
            let settings = self.settings_by(Some(rule));
            text.push_str("\n[[topics]]\n");
            line(&mut text, "match", &quoted(rule.pattern.as_str()));
            let slow = match settings.slow {
                SlowPolicy::Disconnect => "disconnect",
                SlowPolicy::DropOldest => "drop-oldest",
                SlowPolicy::Conflate => "conflate",
            };
            line(&mut text, "slow", &quoted(slow));
            line(&mut text, "last_value", &settings.retention.last_value.to_string());
            let replay = settings.retention.replay.map_or_else(
                || "false".to_owned(),
                |replay| {
                    let (age, bytes) = (shown::Time(replay.age_max), shown::Bytes(replay.bytes_max));
                    let (age, bytes) = (quoted(&age), quoted(&bytes));
                    format!("{{ messages = {}, age = {age}, bytes = {bytes} }}", replay.messages_max)
                },
            );
            line(&mut text, "replay", &replay);
            if let Some(stale_after) = settings.stale_after {
                line(&mut text, "stale_after", &quoted(&shown::Time(stale_after)));
            }
            line(&mut text, "deflate", &settings.deflate.to_string());
        }
        text
    }
}

fn scope(text: &mut String, publish: &[Pattern], subscribe: &[Pattern]) {
    for (name, patterns) in [("publish", publish), ("subscribe", subscribe)] {
        let patterns: Vec<_> = patterns.iter().map(|pattern| quoted(pattern.as_str())).collect();
        line(text, name, &format!("[{}]", patterns.join(", ")));
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    // A string takes whatever is written to it.
    let _ = writeln!(text, "{name} = {value}");
}

fn toml_value(value: &str, kind: Kind) -> String {
    match kind {
        Kind::Text if value.parse::<u32>().is_ok() => value.to_owned(),
        Kind::List => {
            let items: Vec<_> = value.split(',').filter(|item| !item.is_empty()).map(quoted).collect();
            format!("[{}]", items.join(", "))
        }
        Kind::Switch => value.to_owned(),
        Kind::Text => quoted(value),
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_as_the_same_and_names_every_key() {
        let text = r#"
            listen = "0.0.0.0:80"
            workers = 3
            [limits]
            outbox_bytes = "128KiB"
            ping_interval = "90s"
            drain_grace = "1500ms"
            connections = 7
            [[topics]]
            match = "ticker.>"
            slow = "drop-oldest"
            replay = { messages = 5, age = "2h" }
            stale_after = "10s"
            [[topics]]
            match = "echo"
            slow = "conflate"
            last_value = false
            replay = false
            deflate = true
        "#;
        let read = |text: &str| {
            let mut config = Config::default();
            let mut errors = Vec::new();
            config.read_toml(text, &mut errors);
            (config, errors)
        };
        let (config, _) = read(text);
        let printed = config.to_toml();
        let (again, errors) = read(&printed);
        assert_eq!(errors, [""; 0], "{printed}");
        assert_eq!(again.to_toml(), printed);
        for line in [
            "listen = \"0.0.0.0:80\"",
            "workers = 3",
            "ping_interval = \"90s\"",
            "drain_grace = \"1500ms\"",
            "outbox_budget = \"256MiB\"",
            "replay = { messages = 5, age = \"2h\", bytes = \"1MiB\" }",
            "replay = false",
            "stale_after = \"10s\"",
            "slow = \"conflate\"",
        ] {
            assert!(printed.lines().any(|printed| printed == line), "no {line} in\n{printed}");
        }
        // A key that is not set has nothing to show.
        let keys = KEYS.iter().filter(|key| key.shown(&config).is_some()).map(|key| key.name);
        for name in keys.chain(LIMITS.iter().map(|row| row.name)) {
            let names = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(" = "));
            assert!(printed.lines().any(names), "no {name} in\n{printed}");
        }
    }

    #[test]
    fn a_value_is_written_by_its_kind() {
        fn check(value: &str, kind: Kind, expect: &str) {
            assert_eq!(toml_value(value, kind), expect);
        }
        check("3", Kind::Text, "3");
        check("127.0.0.1:1", Kind::Text, "\"127.0.0.1:1\"");
        check("true", Kind::Switch, "true");
        check("a,b", Kind::List, "[\"a\", \"b\"]");
        check("", Kind::List, "[]");
    }
}
