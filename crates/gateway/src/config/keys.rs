//! The keys that are neither limits nor tables, in one table: each is also a flag and an environment variable.

use std::net::SocketAddr;

use fanfare_registry::ShardSet;
use toml::Value;

use super::{Config, LogFormat, WriterChoice};
use crate::auth::origins;
use crate::units;

/// How a key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string, or a whole number.
    Text,
    /// `true` or `false`; as a flag, its bare name means `true`.
    Switch,
    /// An array of strings; as a flag, separated by commas.
    List,
}

/// A row of the table.
#[derive(Debug)]
pub struct Key {
    /// Its name, in `snake_case`.
    pub name: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// What it says, in one sentence.
    pub help: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
}

impl Key {
    /// Reads `text` into `config`.
    pub fn set(&self, config: &mut Config, text: &str) -> Result<(), String> {
        (self.set)(config, text)
    }
}

/// All keys that are neither limits nor tables.
pub const KEYS: &[Key] = &[
    Key {
        name: "listen",
        kind: Kind::Text,
        help: "Public address [default: 127.0.0.1:8080]",
        set: |config, text| address(text).map(|address| config.listen = address),
    },
    Key {
        name: "admin",
        kind: Kind::Text,
        help: "Operators' address: metrics, health [default: 127.0.0.1:9090]",
        set: |config, text| address(text).map(|address| config.admin = address),
    },
    Key {
        name: "admin_host",
        kind: Kind::Text,
        help: "Host name of the operators' address, besides IP addresses and localhost",
        set: |config, text| {
            config.admin_host = Some(text.to_ascii_lowercase());
            Ok(())
        },
    },
    Key {
        name: "workers",
        kind: Kind::Text,
        help: "Workers, each a thread with its own listener [default: one per core]",
        set: |config, text| {
            config.workers = units::Count(text)?;
            if config.workers > ShardSet::SHARDS_MAX {
                return Err(format!("at most {} workers", ShardSet::SHARDS_MAX));
            }
            Ok(())
        },
    },
    Key {
        name: "writer",
        kind: Kind::Text,
        help: "How passes are written to sockets: ring (io_uring), inline, or auto [default: auto]",
        set: |config, text| {
            config.writer = match text {
                "auto" => WriterChoice::Auto,
                "ring" => WriterChoice::Ring,
                "inline" => WriterChoice::Inline,
                _ => return Err(format!("{text:?} is not auto, ring or inline")),
            };
            Ok(())
        },
    },
    Key {
        name: "tls_certificate",
        kind: Kind::Text,
        help: "A PEM file with the certificate and its chain: the public address speaks TLS, and nothing else",
        set: |config, text| {
            config.tls_certificate = Some(text.into());
            Ok(())
        },
    },
    Key {
        name: "tls_key",
        kind: Kind::Text,
        help: "A PEM file with the certificate's private key, unencrypted",
        set: |config, text| {
            config.tls_key = Some(text.into());
            Ok(())
        },
    },
    Key {
        name: "log_format",
        kind: Kind::Text,
        help: "How lines of the log look: text or json [default: text]",
        set: |config, text| {
            config.log_format = match text {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(format!("{text:?} is neither text nor json")),
            };
            Ok(())
        },
    },
    Key {
        name: "insecure",
        kind: Kind::Switch,
        help: "Serve everybody on an address that others reach, though nothing says who may",
        set: |config, text| {
            config.insecure = text.parse().map_err(|_| "neither true nor false")?;
            Ok(())
        },
    },
    Key {
        name: "origins",
        kind: Kind::List,
        help: "Origins whose pages may come, such as https://app.example,https://*.example.org",
        set: |config, text| {
            config.auth.origins = list(text);
            config.auth.origins.iter().try_for_each(|origin| origins::check(origin))
        },
    },
    Key {
        name: "jwks",
        kind: Kind::Text,
        help: "Keys that tokens are checked with: a path or a URL of a JSON Web Key Set",
        set: |config, text| {
            config.auth.jwks = Some(text.to_owned());
            Ok(())
        },
    },
    Key {
        name: "jwks_ca",
        kind: Kind::Text,
        help: "Certificates (PEM) of who vouches for the host of jwks [default: the web's]",
        set: |config, text| {
            config.auth.jwks_ca = Some(text.into());
            Ok(())
        },
    },
    Key {
        name: "jwks_refresh",
        kind: Kind::Text,
        help: "Between two fetches of jwks from a URL [default: 5m]",
        set: |config, text| {
            config.auth.jwks_refresh = units::Time(text)?;
            Ok(())
        },
    },
    Key {
        name: "token_audience",
        kind: Kind::List,
        help: "A token's aud has one of these [default: it has no aud]",
        set: |config, text| {
            config.auth.token_audience = list(text);
            Ok(())
        },
    },
    Key {
        name: "token_issuer",
        kind: Kind::List,
        help: "A token's iss is one of these [default: not checked]",
        set: |config, text| {
            config.auth.token_issuer = list(text);
            Ok(())
        },
    },
    Key {
        name: "token_leeway",
        kind: Kind::Text,
        help: "How far ahead the clock of whoever makes tokens may be: for nbf and iat [default: 5s]",
        set: |config, text| {
            config.auth.token_leeway = units::Time(text)?;
            Ok(())
        },
    },
];

/// What stands between commas.
fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address with a port, such as 127.0.0.1:8080"))
}

/// A value of the file, as one would write it in a flag.
pub(super) fn text_of(value: &Value, kind: Kind) -> Result<String, String> {
    match (value, kind) {
        (Value::String(text), Kind::Text | Kind::List) => Ok(text.clone()),
        (Value::Integer(number), Kind::Text) => Ok(number.to_string()),
        (Value::Boolean(on), Kind::Switch) => Ok(on.to_string()),
        (Value::Array(values), Kind::List) => {
            let texts: Option<Vec<_>> = values.iter().map(Value::as_str).collect();
            texts.map(|texts| texts.join(",")).ok_or_else(|| "not an array of strings".into())
        }
        (_, Kind::Text) => Err("neither a string nor a whole number".into()),
        (_, Kind::Switch) => Err("neither true nor false".into()),
        (_, Kind::List) => Err("neither a string nor an array of strings".into()),
    }
}

/// What is said of a key that is none, with the one that it resembles.
pub(super) fn unknown<'a>(key: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    /// From here on two names are alike: a letter or two of a word, or another ending.
    const ALIKE: f64 = 0.8;
    let known = known.into_iter().map(|known| (strsim::jaro_winkler(key, known), known));
    match known.max_by(|one, other| one.0.total_cmp(&other.0)) {
        Some((likeness, known)) if likeness >= ALIKE => format!("unknown key; did you mean {known}?"),
        _ => "unknown key".into(),
    }
}
