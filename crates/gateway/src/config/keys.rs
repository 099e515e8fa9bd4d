//! The keys that are neither limits nor tables, in one table: each is also a flag and an environment variable.

use std::net::{IpAddr, SocketAddr};

use fanfare_registry::ShardSet;
use ipnet::IpNet;
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
    /// What a reload does with it.
    pub reload: Reload,
    /// Its value, as one would write it in a flag. None is a secret. Nothing, if it is not set.
    shown: fn(&Config) -> Option<String>,
    set: fn(&mut Config, &str) -> Result<(), String>,
}

/// What a reload does with a key.
#[derive(Debug, Clone, Copy)]
pub enum Reload {
    /// It changes what is in force.
    Applies,
    /// The value with which the process began stays: this sets it.
    NeedsRestart(fn(from: &Config, into: &mut Config)),
}

/// Stands for a secret wherever the configuration is shown.
pub const REDACTED: &str = "(redacted)";

impl Key {
    /// Its value, as one would write it in a flag. Nothing, if it is not set.
    pub fn shown(&self, config: &Config) -> Option<String> {
        (self.shown)(config)
    }

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
        reload: Reload::NeedsRestart(|from, into| into.listen = from.listen),
        shown: |config| Some(config.listen.to_string()),
        set: |config, text| address(text).map(|address| config.listen = address),
    },
    Key {
        name: "admin",
        kind: Kind::Text,
        help: "Operators' address: metrics, health [default: 127.0.0.1:9090]",
        reload: Reload::NeedsRestart(|from, into| into.admin = from.admin),
        shown: |config| Some(config.admin.to_string()),
        set: |config, text| address(text).map(|address| config.admin = address),
    },
    Key {
        name: "admin_host",
        kind: Kind::Text,
        help: "Host name of the operators' address, besides IP addresses and localhost",
        reload: Reload::Applies,
        shown: |config| config.admin_host.clone(),
        set: |config, text| {
            config.admin_host = Some(text.to_ascii_lowercase());
            Ok(())
        },
    },
    Key {
        name: "workers",
        kind: Kind::Text,
        help: "Workers, each a thread with its own listener [default: one per core]",
        reload: Reload::NeedsRestart(|from, into| into.workers = from.workers),
        shown: |config| Some(config.workers.to_string()),
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
        reload: Reload::NeedsRestart(|from, into| into.writer = from.writer),
        shown: |config| {
            let text = match config.writer {
                WriterChoice::Auto => "auto",
                WriterChoice::Ring => "ring",
                WriterChoice::Inline => "inline",
            };
            Some(text.into())
        },
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
        name: "trusted_proxies",
        kind: Kind::List,
        help: "Addresses and networks whose X-Forwarded-For, or PROXY header, is believed [default: none]",
        reload: Reload::Applies,
        shown: |config| {
            let networks: Vec<_> = config.trusted_proxies.iter().map(IpNet::to_string).collect();
            Some(networks.join(","))
        },
        set: |config, text| networks(text).map(|networks| config.trusted_proxies = networks),
    },
    Key {
        name: "proxy_protocol",
        kind: Kind::Switch,
        help: "Connections of trusted proxies begin with a PROXY protocol header [default: false]",
        reload: Reload::Applies,
        shown: |config| Some(config.proxy_protocol.to_string()),
        set: |config, text| switch(text).map(|on| config.proxy_protocol = on),
    },
    Key {
        name: "tls_certificate",
        kind: Kind::Text,
        help: "A PEM file with the certificate and its chain: the public address speaks TLS, and nothing else",
        reload: Reload::Applies,
        shown: |config| config.tls_certificate.as_ref().map(|path| path.display().to_string()),
        set: |config, text| {
            config.tls_certificate = Some(text.into());
            Ok(())
        },
    },
    Key {
        name: "tls_key",
        kind: Kind::Text,
        help: "A PEM file with the certificate's private key, unencrypted",
        reload: Reload::Applies,
        shown: |config| config.tls_key.as_ref().map(|path| path.display().to_string()),
        set: |config, text| {
            config.tls_key = Some(text.into());
            Ok(())
        },
    },
    Key {
        name: "log_format",
        kind: Kind::Text,
        help: "How lines of the log look: text or json [default: text]",
        reload: Reload::NeedsRestart(|from, into| into.log_format = from.log_format),
        shown: |config| {
            let text = match config.log_format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            };
            Some(text.into())
        },
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
        reload: Reload::Applies,
        shown: |config| config.insecure.then(|| "true".into()),
        set: |config, text| {
            config.insecure = switch(text)?;
            Ok(())
        },
    },
    Key {
        name: "origins",
        kind: Kind::List,
        help: "Origins whose pages may come, such as https://app.example,https://*.example.org",
        reload: Reload::Applies,
        shown: |config| (!config.auth.origins.is_empty()).then(|| config.auth.origins.join(",")),
        set: |config, text| {
            config.auth.origins = list(text);
            config.auth.origins.iter().try_for_each(|origin| origins::check(origin))
        },
    },
    Key {
        name: "jwks",
        kind: Kind::Text,
        help: "Keys that tokens are checked with: a path or a URL of a JSON Web Key Set",
        reload: Reload::Applies,
        shown: |config| config.auth.jwks.clone(),
        set: |config, text| {
            config.auth.jwks = Some(text.to_owned());
            Ok(())
        },
    },
    Key {
        name: "jwks_ca",
        kind: Kind::Text,
        help: "Certificates (PEM) of who vouches for the host of jwks [default: the web's]",
        reload: Reload::Applies,
        shown: |config| config.auth.jwks_ca.as_ref().map(|path| path.display().to_string()),
        set: |config, text| {
            config.auth.jwks_ca = Some(text.into());
            Ok(())
        },
    },
    Key {
        name: "jwks_refresh",
        kind: Kind::Text,
        help: "Between two fetches of jwks from a URL [default: 5m]",
        reload: Reload::Applies,
        shown: |config| Some(units::shown::Time(config.auth.jwks_refresh)),
        set: |config, text| {
            config.auth.jwks_refresh = units::Time(text)?;
            Ok(())
        },
    },
    Key {
        name: "token_audience",
        kind: Kind::List,
        help: "A token's aud has one of these [default: it has no aud]",
        reload: Reload::Applies,
        shown: |config| {
            (!config.auth.token_audience.is_empty()).then(|| config.auth.token_audience.join(","))
        },
        set: |config, text| {
            config.auth.token_audience = list(text);
            Ok(())
        },
    },
    Key {
        name: "token_issuer",
        kind: Kind::List,
        help: "A token's iss is one of these [default: not checked]",
        reload: Reload::Applies,
        shown: |config| (!config.auth.token_issuer.is_empty()).then(|| config.auth.token_issuer.join(",")),
        set: |config, text| {
            config.auth.token_issuer = list(text);
            Ok(())
        },
    },
    Key {
        name: "token_leeway",
        kind: Kind::Text,
        help: "How far ahead the clock of whoever makes tokens may be: for nbf and iat [default: 5s]",
        reload: Reload::Applies,
        shown: |config| Some(units::shown::Time(config.auth.token_leeway)),
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

fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

/// Networks separated by commas; an address alone is a network of one.
fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(|word| network(word).ok_or_else(|| not_a_network(word))).collect()
}

fn network(word: &str) -> Option<IpNet> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some(IpNet::from(address.to_canonical()));
    }
    let network: IpNet = word.parse().ok()?;
    // Peers are canonical: an IPv4 network that is written as one of IPv6 would never have any of them.
    let is_mapped = network.addr() != network.addr().to_canonical();
    (network.addr() == network.network() && !is_mapped).then_some(network)
}

fn not_a_network(word: &str) -> String {
    format!("{word:?} is not an address or a network such as 10.0.0.0/8, with zeroes behind its prefix")
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
