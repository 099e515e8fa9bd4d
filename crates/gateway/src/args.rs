//! The command line: subcommands, and a flag and environment variable for each key of the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use fanfare_client::Start;

use crate::commands::publish::{Input, Publish};
use crate::commands::subscribe::Subscribe;
use crate::config::{Config, ConfigError, KEYS, Kind, Source};
use crate::limits::LIMITS;

/// What the command line asks for.
#[derive(Debug)]
pub enum Action {
    /// `fanfare serve`
    Serve {
        /// What it is to do.
        config: Box<Config>,
        /// To read it again.
        source: Source,
    },
    /// `fanfare check-config`
    CheckConfig {
        /// As for `serve`.
        config: Box<Config>,
        /// Whether it is to be shown.
        print: bool,
    },
    /// `fanfare demo`
    Demo {
        /// As for `serve`.
        config: Box<Config>,
        /// Whether the address was named: if not, a free port will do.
        address_is_given: bool,
        /// How many symbols the market has.
        symbols: usize,
        /// Prices posted per second.
        rate: f64,
    },
    /// `fanfare publish`
    Publish(Publish),
    /// `fanfare subscribe`
    Subscribe(Subscribe),
    /// `fanfare healthcheck`, of the gateway with this operators' address.
    Healthcheck(SocketAddr),
}

/// The whole command line.
pub fn command() -> Command {
    Command::new("fanfare")
        .about("A pub/sub broadcast gateway: publishers POST, subscribers listen over WebSocket")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(publish())
        .subcommand(subscribe())
        .subcommand(healthcheck())
        .subcommand(with_config(Command::new("serve").about("Serve until SIGTERM")))
        .subcommand(
            with_config(Command::new("check-config").about("Say whether serve would take a configuration"))
                .arg(
                    Arg::new("print")
                        .long("print")
                        .action(ArgAction::SetTrue)
                        .help("Show all of it as TOML, with its defaults and without secrets"),
                ),
        )
        .subcommand(
            with_config(
                Command::new("demo").about("Serve a live market that never was, and a page that shows it"),
            )
            .arg(
                Arg::new("symbols")
                    .long("symbols")
                    .value_name("N")
                    .help("Symbols of the market")
                    .value_parser(value_parser!(u16).range(1..=256))
                    .default_value("20"),
            )
            .arg(
                Arg::new("rate")
                    .long("rate")
                    .value_name("N")
                    .help("Prices posted per second")
                    .value_parser(value_parser!(u16).range(1..=2000))
                    .default_value("40"),
            ),
        )
}

fn publish() -> Command {
    Command::new("publish")
        .about("Publish a message, or a file or standard input line by line")
        .arg(Arg::new("topic").value_name("TOPIC").required(true))
        .arg(Arg::new("message").value_name("MESSAGE").help("One message, instead of standard input"))
        .arg(
            Arg::new("file")
                .long("file")
                .value_name("PATH")
                .help("A file whose lines are the messages; - is standard input")
                .value_parser(value_parser!(PathBuf))
                .conflicts_with("message"),
        )
        .arg(url())
        .arg(ca())
        .arg(Arg::new("content-type").long("content-type").value_name("TYPE").help(
            "What the messages are, such as application/json [default: text if it is UTF-8, else binary]",
        ))
}

fn subscribe() -> Command {
    Command::new("subscribe")
        .about("Print messages as they come, and come back for what was missed")
        .arg(
            Arg::new("topics")
                .value_name("TOPIC")
                .help("Topics, and wildcards in quotes: 'logs.*' covers one more segment, 'logs.>' all below")
                .required(true)
                .num_args(1..),
        )
        .arg(url())
        .arg(ca())
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("PLACE")
                .help("Where to begin: with the last message, with what comes, or with all that is kept")
                .value_parser(["last", "live", "earliest"])
                .default_value("last"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help(
            "Print whole messages with topic and offset, and gaps and the like, one JSON object a line",
        ))
}

fn healthcheck() -> Command {
    Command::new("healthcheck")
        .about("Ask the gateway of this host whether it is alive: exit code 0 or 1")
        .arg(
            Arg::new("admin")
                .long("admin")
                .env("FANFARE_ADMIN")
                .value_name("ADDRESS")
                .help("Its operators' address")
                .value_parser(value_parser!(SocketAddr))
                .default_value("127.0.0.1:9090"),
        )
}

fn ca() -> Arg {
    Arg::new("ca")
        .long("ca")
        .env("FANFARE_CA")
        .value_name("PATH")
        .help("A PEM file with the authorities that may vouch for the gateway, for an https URL")
        .value_parser(value_parser!(PathBuf))
}

fn url() -> Arg {
    Arg::new("url")
        .long("url")
        .env("FANFARE_URL")
        .value_name("URL")
        .help("The gateway")
        .default_value("http://127.0.0.1:8080")
}

fn text(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

/// Reads the command line that clap took.
pub fn action(matches: &ArgMatches) -> Result<Action, ConfigError> {
    match matches.subcommand() {
        Some(("demo", matches)) => Ok(Action::Demo {
            config: Box::new(source(matches).load()?),
            address_is_given: matches.contains_id("listen"),
            symbols: usize::from(matches.get_one::<u16>("symbols").copied().unwrap_or(20)),
            rate: f64::from(matches.get_one::<u16>("rate").copied().unwrap_or(40)),
        }),
        Some(("publish", matches)) => Ok(Action::Publish(Publish {
            url: text(matches, "url").unwrap_or_default(),
            ca: matches.get_one("ca").cloned(),
            topic: text(matches, "topic").unwrap_or_default(),
            input: match (text(matches, "message"), matches.get_one::<PathBuf>("file")) {
                (Some(message), _) => Input::Message(message),
                (None, Some(path)) if path.as_os_str() != "-" => Input::File(path.clone()),
                (None, _) => Input::Stdin,
            },
            content_type: text(matches, "content-type"),
        })),
        Some(("subscribe", matches)) => Ok(Action::Subscribe(Subscribe {
            url: text(matches, "url").unwrap_or_default(),
            ca: matches.get_one("ca").cloned(),
            topics: matches.get_many("topics").map(|topics| topics.cloned().collect()).unwrap_or_default(),
            start: match text(matches, "from").as_deref() {
                Some("live") => Start::Live,
                Some("earliest") => Start::Earliest,
                _ => Start::Last,
            },
            json: matches.get_flag("json"),
        })),
        Some(("healthcheck", matches)) => {
            let admin = matches.get_one::<SocketAddr>("admin").copied();
            Ok(Action::Healthcheck(admin.expect("it has a default")))
        }
        Some(("check-config", matches)) => Ok(Action::CheckConfig {
            config: Box::new(source(matches).load()?),
            print: matches.get_flag("print"),
        }),
        Some((_, matches)) => {
            let source = source(matches);
            Ok(Action::Serve { config: Box::new(source.load()?), source })
        }
        None => Err(ConfigError(vec!["a subcommand is missing".into()])),
    }
}

fn source(matches: &ArgMatches) -> Source {
    let names = KEYS.iter().map(|key| key.name).chain(LIMITS.iter().map(|row| row.name));
    let overrides =
        names.filter_map(|name| Some((name.to_owned(), matches.get_one::<String>(name)?.clone()))).collect();
    Source { file: matches.get_one("config").cloned(), overrides }
}

fn with_config(command: Command) -> Command {
    let config = Arg::new("config")
        .long("config")
        .env("FANFARE_CONFIG")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("Configuration file (TOML)");
    let keys = KEYS.iter().map(|row| {
        let arg = key(row.name, row.help.to_owned()).hide_env(true);
        match row.kind {
            // `--name`, or `--name=false`.
            Kind::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            Kind::Text | Kind::List => arg,
        }
    });
    let limits = LIMITS.iter().map(|row| {
        key(row.name, format!("{} [default: {}]", row.help, row.default))
            .help_heading("Limits")
            .hide_env(true)
            .hide_short_help(true)
    });
    command
        .arg(config)
        .args(keys)
        .args(limits)
        .after_help("Every flag is also an environment variable: --outbox-bytes is FANFARE_OUTBOX_BYTES.")
}

/// A key's flag and environment variable. Its value is checked with the rest of the configuration, so that it is refused
/// in the same words wherever it came from.
fn key(name: &'static str, help: String) -> Arg {
    Arg::new(name)
        .long(name.replace('_', "-"))
        .env(format!("FANFARE_{}", name.to_uppercase()))
        .value_name("VALUE")
        .help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Action, ConfigError> {
        action(&command().try_get_matches_from(args).unwrap())
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn flags_reach_the_configuration() {
        let Ok(Action::Serve { config, .. }) =
            read(&["fanfare", "serve", "--workers", "3", "--outbox-bytes", "1MiB"])
        else {
            panic!("not a serve");
        };
        assert_eq!((config.workers, config.limits.outbox_bytes), (3, 1 << 20));
    }

    #[test]
    fn what_is_published_is_a_message_a_file_or_standard_input() {
        for (args, expect) in [
            (&["x"][..], Input::Message("x".into())),
            (&["-"], Input::Message("-".into())),
            (&[], Input::Stdin),
            (&["--file", "-"], Input::Stdin),
            (&["--file", "a.log"], Input::File("a.log".into())),
        ] {
            let Ok(Action::Publish(publish)) = read(&[&["fanfare", "publish", "logs.web"], args].concat())
            else {
                panic!("not a publish");
            };
            assert_eq!(publish.input, expect, "{args:?}");
        }
        let both = ["fanfare", "publish", "logs.web", "x", "--file", "a.log"];
        let error = command().try_get_matches_from(both).unwrap_err().to_string();
        assert!(error.contains("'[MESSAGE]' cannot be used with '--file <PATH>'"), "{error}");
    }

    #[test]
    fn a_bad_value_names_its_key() {
        let error = read(&["fanfare", "serve", "--listen", "nowhere", "--topics", "0"]).unwrap_err();
        assert_eq!(error.0.len(), 2);
        assert!(error.0[0].starts_with("listen: \"nowhere\""), "{error}");
        assert!(error.0[1].starts_with("topics: \"0\""), "{error}");
    }
}
