//! The configuration: one TOML file, flags and environment variables of the same names.
//!
//! A flag wins over the environment, the environment over the file, the file over the default. Whatever is wrong is
//! reported as one line per error that names the key, before anything listens.

mod auth;
mod keys;
mod print;
mod topics;
mod warnings;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use fanfare_registry::ShardSet;
use ipnet::IpNet;
use toml::{Table, Value};

use crate::limits::{LIMITS, Limits};
use crate::tls;
use crate::writer;
pub use auth::{ApiKeyRule, AuthRules, Scope, TokenKeyRule};
use auth::{api_key, scope, token_key};
pub use keys::{KEYS, Key, Kind, REDACTED, Reload};
use keys::{text_of, unknown};
use topics::topic_rule;
pub use topics::{TopicRule, TopicSettings};

/// The keys of the file that are tables.
const TABLES: [&str; 5] = ["limits", "topics", "api_keys", "token_keys", "anonymous"];

/// What the gateway was told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The public address.
    pub listen: SocketAddr,
    /// The address for operators: metrics, health.
    pub admin: SocketAddr,
    /// A name of that address, besides IP addresses and `localhost`: a request for another one is a stranger's.
    pub admin_host: Option<String>,
    /// How many workers; each is a thread with its own listener, runtime and shard.
    pub workers: usize,
    /// How passes are written to sockets.
    pub writer: WriterChoice,
    /// Whose word on where a client comes from is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// Their connections begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// A PEM file: the certificate of the public address, and its chain. With it the address speaks TLS only.
    pub tls_certificate: Option<PathBuf>,
    /// A PEM file: the certificate's private key.
    pub tls_key: Option<PathBuf>,
    /// How lines of the log look.
    pub log_format: LogFormat,
    /// Every bound.
    pub limits: Limits,
    /// Rules for topics; the first match wins.
    pub topics: Vec<TopicRule>,
    /// Who may.
    pub auth: AuthRules,
    /// Everybody may everything, and not only from this machine.
    pub insecure: bool,
    /// The configuration file's: where the files that it names are looked for.
    pub(crate) folder: PathBuf,
}

/// How passes are written to sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriterChoice {
    /// Through io_uring where that is to be had.
    #[default]
    Auto,
    /// Through io_uring.
    Ring,
    /// By a system call for each socket.
    Inline,
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object per line.
    Json,
}

/// Where a configuration comes from, to be read again.
#[derive(Clone, Default)]
pub struct Source {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// What flags and the environment said: names of keys, with a limit under its bare name, and their values as text.
    pub overrides: Vec<(String, String)>,
}

impl Source {
    /// Reads the file as it is now, under what flags and the environment said.
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.file.as_deref(), &self.overrides)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A value may be a secret.
        let names: Vec<_> = self.overrides.iter().map(|(name, _)| name).collect();
        f.debug_struct("Source").field("file", &self.file).field("overrides", &names).finish()
    }
}

/// What is wrong with a configuration: one line per error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin: SocketAddr::from(([127, 0, 0, 1], 9090)),
            admin_host: None,
            workers: std::thread::available_parallelism().map_or(1, usize::from).min(ShardSet::SHARDS_MAX),
            writer: WriterChoice::default(),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            tls_certificate: None,
            tls_key: None,
            log_format: LogFormat::default(),
            limits: Limits::default(),
            topics: Vec::new(),
            auth: AuthRules::default(),
            insecure: false,
            folder: PathBuf::new(),
        }
    }
}

impl Config {
    /// Reads the file, if there is one, and applies `overrides`: names of keys, with a limit under its bare name, and
    /// their values as text.
    pub fn load(file: Option<&Path>, overrides: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let mut errors = Vec::new();
        if let Some(path) = file {
            config.folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
            match std::fs::read_to_string(path) {
                Ok(text) => config.read_toml(&text, &mut errors),
                Err(error) => errors.push(format!("{}: {error}", path.display())),
            }
        }
        for (name, value) in overrides {
            if let Err(error) = config.set(name, value) {
                errors.push(format!("{name}: {error}"));
            }
        }
        config.check(&mut errors);
        if errors.is_empty() { Ok(config) } else { Err(ConfigError(errors)) }
    }

    /// Keeps what a reload does not change, and returns the names of the keys that would have to.
    pub(crate) fn keep(&mut self, in_force: &Self) -> Vec<&'static str> {
        let mut kept = Vec::new();
        for key in KEYS {
            if let Reload::NeedsRestart(keep) = key.reload {
                if key.shown(self) != key.shown(in_force) {
                    kept.push(key.name);
                }
                keep(in_force, self);
            }
        }
        for row in LIMITS.iter().filter(|row| !row.reloads) {
            if row.shown(&self.limits) != row.shown(&in_force.limits) {
                kept.push(row.name);
            }
            row.keep(&in_force.limits, &mut self.limits);
        }
        kept
    }

    /// What is wrong with it as a whole.
    pub(crate) fn checked(self) -> Result<Self, ConfigError> {
        let mut errors = Vec::new();
        self.check(&mut errors);
        if errors.is_empty() { Ok(self) } else { Err(ConfigError(errors)) }
    }

    /// Whether any topic may be compressed: else nobody is offered it.
    pub fn deflates(&self) -> bool {
        self.topics.iter().any(|rule| rule.deflate)
    }

    /// A file that the configuration names.
    pub fn path(&self, file: &Path) -> PathBuf {
        self.folder.join(file)
    }

    /// Whether a peer is a proxy whose word is taken. Mapped addresses are to be canonical.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }

    fn read_toml(&mut self, text: &str, errors: &mut Vec<String>) {
        let table = match text.parse::<Table>() {
            Ok(table) => table,
            Err(error) => {
                return errors.push(error.to_string().trim_end().replace('\n', " "));
            }
        };
        for (name, value) in &table {
            match (name.as_str(), value) {
                ("limits", Value::Table(limits)) => self.read_limits(limits, errors),
                ("topics", Value::Array(rules)) => {
                    read_tables("topics", rules, topic_rule, &mut self.topics, errors);
                }
                ("api_keys", Value::Array(keys)) => {
                    read_tables("api_keys", keys, api_key, &mut self.auth.api_keys, errors);
                }
                ("token_keys", Value::Array(keys)) => {
                    read_tables("token_keys", keys, token_key, &mut self.auth.token_keys, errors);
                }
                ("anonymous", Value::Table(table)) => match scope(table) {
                    Ok(scope) => self.auth.anonymous = Some(scope),
                    Err(error) => errors.push(format!("anonymous.{error}")),
                },
                ("anonymous", _) => errors.push("anonymous: not a table".into()),
                ("api_keys" | "token_keys", _) => errors.push(format!("{name}: not an array of tables")),
                ("limits", _) => errors.push("limits: not a table".into()),
                ("topics", _) => errors.push("topics: not an array of tables".into()),
                (name, value) => {
                    let set = match KEYS.iter().find(|key| key.name == name) {
                        Some(key) => text_of(value, key.kind).and_then(|text| key.set(self, &text)),
                        None => Err(unknown(name, KEYS.iter().map(|key| key.name).chain(TABLES))),
                    };
                    if let Err(error) = set {
                        errors.push(format!("{name}: {error}"));
                    }
                }
            }
        }
    }

    fn read_limits(&mut self, limits: &Table, errors: &mut Vec<String>) {
        for (name, value) in limits {
            let set = match LIMITS.iter().find(|row| row.name == name) {
                Some(row) => text_of(value, Kind::Text).and_then(|text| row.set(&mut self.limits, &text)),
                None => Err(unknown(name, LIMITS.iter().map(|row| row.name))),
            };
            if let Err(error) = set {
                errors.push(format!("limits.{name}: {error}"));
            }
        }
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        if let Some(key) = KEYS.iter().find(|key| key.name == name) {
            return key.set(self, text);
        }
        let row = LIMITS.iter().find(|row| row.name == name).ok_or("unknown key")?;
        row.set(&mut self.limits, text)
    }

    /// What each key cannot see alone.
    fn check(&self, errors: &mut Vec<String>) {
        let limits = &self.limits;
        if limits.pong_timeout >= limits.ping_interval {
            errors.push("limits.pong_timeout: not shorter than limits.ping_interval".into());
        }
        if limits.message_bytes > limits.body_bytes {
            errors.push("limits.message_bytes: larger than limits.body_bytes".into());
        }
        if limits.body_bytes > limits.inflight_body_bytes {
            errors.push("limits.body_bytes: larger than limits.inflight_body_bytes".into());
        }
        if limits.poll_bytes > limits.inflight_poll_bytes {
            errors.push("limits.poll_bytes: larger than limits.inflight_poll_bytes".into());
        }
        if limits.body_bytes > limits.inbox_bytes {
            errors.push(
                "limits.body_bytes: larger than limits.inbox_bytes, which a full body could then never enter"
                    .into(),
            );
        }
        if limits.body_messages > limits.inbox_messages {
            errors.push("limits.body_messages: larger than limits.inbox_messages, which a full body could then never enter".into());
        }
        if limits.message_bytes > u32::MAX as usize / 2 {
            errors.push("limits.message_bytes: at most 2GiB".into());
        }
        if limits.header_bytes < 8192 {
            errors.push("limits.header_bytes: at least 8KiB".into());
        }
        // A change of keys has to fit before the first byte of a message, or the connection could write nothing more; and
        // each record costs a call of the system.
        if limits.tls_unsent_bytes < 1024 {
            errors.push("limits.tls_unsent_bytes: at least 1KiB".into());
        }
        if self.listen == self.admin && self.listen.port() != 0 {
            errors.push("admin: the same address as listen".into());
        }
        if self.proxy_protocol && self.trusted_proxies.is_empty() {
            errors.push("proxy_protocol: nobody is trusted to speak it; see trusted_proxies".into());
        }
        if let Err(error) = tls::check(self) {
            errors.push(error);
        }
        self.auth.check(errors);
        if !self.auth.are_given() && !self.insecure && !self.listen.ip().to_canonical().is_loopback() {
            errors.push(
                "listen: without api_keys, token_keys, jwks or anonymous, everybody who reaches it may publish and \
                 subscribe; outside of this machine that needs insecure = true (--insecure)"
                    .into(),
            );
        }
        if self.writer == WriterChoice::Ring
            && let Err(reason) = writer::probe()
        {
            errors.push(format!("writer: {reason}"));
        }
    }
}

/// Reads an array of tables, each for itself.
fn read_tables<T>(
    name: &str,
    tables: &[Value],
    read: impl Fn(&Table) -> Result<T, String>,
    into: &mut Vec<T>,
    errors: &mut Vec<String>,
) {
    for (index, table) in tables.iter().enumerate() {
        match table.as_table().map(&read) {
            Some(Ok(row)) => into.push(row),
            Some(Err(error)) => errors.push(format!("{name}[{index}].{error}")),
            None => errors.push(format!("{name}[{index}]: not a table")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_fanout::SlowPolicy;
    use fanfare_registry::{ReplayLimits, Retention};
    use fanfare_wire::Topic;
    use std::time::Duration;

    fn read(text: &str) -> Result<Config, Vec<String>> {
        let mut config = Config::default();
        let mut errors = Vec::new();
        config.read_toml(text, &mut errors);
        config.check(&mut errors);
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }

    #[test]
    fn a_file_is_read() {
        let config = read(
            r#"
            listen = "0.0.0.0:80"
            insecure = true
            workers = 3
            [limits]
            outbox_bytes = "128KiB"
            connections = 7
            [[topics]]
            match = "ticker.>"
            slow = "drop-oldest"
            replay = { messages = 5, age = "1s" }
            [[topics]]
            match = "echo"
            last_value = false
            replay = false
            deflate = true
            "#,
        )
        .unwrap();
        assert_eq!((config.listen.port(), config.workers, config.limits.connections), (80, 3, 7));
        assert_eq!(config.limits.outbox_bytes, 128 << 10);
        let settings = |name: &str| config.settings(&Topic::new(name).unwrap());
        let ticker = settings("ticker.A");
        assert_eq!((ticker.slow, ticker.retention.last_value), (SlowPolicy::DropOldest, true));
        let replay = ReplayLimits { messages_max: 5, age_max: Duration::from_secs(1), bytes_max: 1 << 20 };
        assert_eq!(ticker.retention.replay, Some(replay));
        assert_eq!(settings("echo").retention, Retention { last_value: false, replay: None });
        assert!(settings("echo").deflate && !ticker.deflate && config.deflates());
        let other = settings("other");
        assert_eq!((other.slow, other.retention.last_value), (SlowPolicy::Disconnect, true));
        assert_eq!(other.retention.replay.map(|replay| replay.messages_max), Some(1_000));
    }

    #[test]
    fn each_error_names_its_key() {
        fn check(text: &str, expect: &[&str]) {
            let errors = read(text).expect_err(text);
            assert_eq!(errors.len(), expect.len(), "{errors:?}");
            for (error, expect) in errors.iter().zip(expect) {
                assert!(error.starts_with(expect) && !error.contains('\n'), "{error}");
            }
        }
        check("listne = 1", &["listne: unknown key; did you mean listen?"]);
        check("zzz = 1", &["zzz: unknown key"]);
        check("[limit]\nconnections = 1", &["limit: unknown key; did you mean limits?"]);
        check("listen = 1", &["listen: \"1\" is not an address"]);
        check("workers = 0", &["workers: "]);
        check("workers = 1000", &["workers: at most 128"]);
        check("log_format = \"xml\"", &["log_format: \"xml\" is neither text nor json"]);
        check("log_format = true", &["log_format: neither a string"]);
        check("workers = [", &["TOML parse error"]);
        check("limits = 1", &["limits: not a table"]);
        check(
            "[limits]\noutbox = 1\nping_interval = 5",
            &["limits.outbox: unknown key; did you mean outbox_bytes?", "limits.ping_interval: "],
        );
        check("[limits]\npong_timeout = \"1m\"", &["limits.pong_timeout: not shorter"]);
        check("[limits]\nmessage_bytes = \"2MiB\"", &["limits.message_bytes: larger"]);
        check("[[topics]]\nslow = \"disconnect\"", &["topics[0].match: missing"]);
        check("[[topics]]\nmatch = \"a..b\"", &["topics[0].match: \"a..b\""]);
        check("[[topics]]\nmatch = \"a\"\nslow = \"never\"", &["topics[0].slow: \"never\""]);
        check("[[topics]]\nmatch = \"a\"\nlast = 1", &["topics[0].last: unknown key"]);
        check("[[topics]]\nmatch = \"a\"\ndeflate = 6", &["topics[0].deflate: neither true nor false"]);
        check("[[topics]]\nmatch = \"a\"\nreplay = 1", &["topics[0].replay: neither"]);
        check("[[topics]]\nmatch = \"a\"\nreplay = { age = 1 }", &["topics[0].replay.age: \"1\""]);
    }

    #[test]
    fn who_may_is_read() {
        let hash = "ab".repeat(32);
        let config = read(&format!(
            r#"
            listen = "0.0.0.0:80"
            token_audience = "fanfare"
            token_issuer = ["a", "b"]
            origins = "https://a.example, https://*.b.example"
            [[api_keys]]
            name = "feeds"
            sha256 = "{hash}"
            publish = ["ticker.>"]
            [[token_keys]]
            id = "2026"
            algorithm = "EdDSA"
            public_key_file = "token.pem"
            [anonymous]
            subscribe = ["public.>"]
            "#
        ))
        .unwrap();
        let auth = &config.auth;
        assert_eq!((auth.api_keys[0].sha256, &*auth.api_keys[0].name), ([0xab; 32], "feeds"));
        assert_eq!((auth.token_audience.len(), auth.token_issuer.len(), auth.origins.len()), (1, 2, 2));
        assert_eq!(auth.token_keys[0].file, Path::new("token.pem"));
        assert!(auth.are_given() && auth.anonymous.as_ref().unwrap().publish.is_empty());
        assert!(!format!("{config:?}").contains("171"), "a hash is shown");
    }

    #[test]
    fn what_is_wrong_with_who_may_is_named() {
        fn check(text: &str, expect: &str) {
            let errors = read(text).expect_err(text);
            assert!(errors.len() == 1 && errors[0].starts_with(expect), "{text}: {errors:?}");
        }
        let hash = "ab".repeat(32);
        check("listen = \"0.0.0.0:80\"", "listen: without api_keys");
        check("listen = \"[::]:80\"", "listen: without api_keys");
        check("api_keys = 1", "api_keys: not an array of tables");
        check("anonymous = 1", "anonymous: not a table");
        check("[anonymous]\nread = []", "anonymous.read: unknown key");
        check("[anonymous]\nsubscribe = [\"a..b\"]", "anonymous.subscribe: \"a..b\"");
        check("[anonymous]\nsubscribe = \"a\"", "anonymous.subscribe: not an array");
        check("[[api_keys]]\nname = \"a\"", "api_keys[0].sha256: missing");
        check("[[api_keys]]\nname = \"a\"\nsha256 = \"abc\"", "api_keys[0].sha256: not 64");
        check(&format!("[[api_keys]]\nsha256 = \"{hash}\""), "api_keys[0].name: missing");
        let key = |name: &str| format!("[[api_keys]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n");
        check(&(key("a") + &key("b")), "api_keys[1].sha256: another key has it");
        let key = |rest: &str| format!("[[token_keys]]\nid = \"a\"\n{rest}");
        check(&key("algorithm = \"none\""), "token_keys[0].algorithm: \"none\" is not one of");
        check(&key("algorithm = \"HS256\""), "token_keys[0].secret_file: missing");
        check(&key("algorithm = \"RS256\""), "token_keys[0].public_key_file: missing");
        check(
            &key("algorithm = \"HS256\"\npublic_key_file = \"x\""),
            "token_keys[0].public_key_file: HS256 has",
        );
        check(&key("algorithm = \"ES256\"\nsecret_file = \"x\""), "token_keys[0].secret_file: ES256 has");
        check("jwks_ca = \"ca.pem\"", "jwks_ca: jwks is no");
        check("origins = [\"good.example\"]", "origins: \"good.example\"");
    }

    #[test]
    fn overrides_win() {
        let overrides =
            [("workers".to_owned(), "5".to_owned()), ("ping_interval".to_owned(), "40s".to_owned())];
        let config = Config::load(None, &overrides).unwrap();
        assert_eq!((config.workers, config.limits.ping_interval.as_secs()), (5, 40));
        let error = Config::load(None, &[("ping_interval".into(), "soon".into())]).unwrap_err();
        assert!(error.0[0].starts_with("ping_interval: \"soon\""), "{error}");
    }
}
