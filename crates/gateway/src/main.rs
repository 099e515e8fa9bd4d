//! `fanfare`: the gateway as a program.
//!
//! Exit codes: 0 after a whole drain, 1 when something failed, 2 for a bad command line or configuration.

use std::io::{self, Write};
use std::process::ExitCode;

use fanfare_gateway::args::{self, Action};
use fanfare_gateway::config::{Config, ConfigError, LogFormat, Source};
use fanfare_gateway::limits::Limits;
use fanfare_gateway::log::Log;
use fanfare_gateway::server::Server;
use fanfare_gateway::{commands, demo, open_files};

/// Handshakes leave short-lived buffers between long-lived sessions; this allocator keeps the two apart.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let action = match args::action(&args::command().get_matches()) {
        Ok(action) => action,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            return ExitCode::from(2);
        }
    };
    let log = match &action {
        Action::Serve { config, .. } | Action::Demo { config, .. } => {
            Log::start(config.log_format, config.limits.log_lines)
        }
        _ => Log::start(LogFormat::Text, Limits::default().log_lines),
    };
    let done = match action {
        Action::Serve { config, source } => serve(*config, source),
        Action::CheckConfig { config, print } => commands::check_config::run(&config, print),
        Action::Publish(publish) => commands::publish::run(&publish),
        Action::HashKey { random } => commands::hash_key::run(random),
        Action::Subscribe(subscribe) => commands::subscribe::run(&subscribe),
        Action::Healthcheck(admin) => commands::healthcheck::run(admin),
        Action::Demo { config, address_is_given, symbols, rate } => {
            demo::run(*config, address_is_given, symbols, rate)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // As the log does: whoever should read it may have stopped.
        Err(error) => match error.downcast_ref::<ConfigError>() {
            Some(error) => {
                log.say(&error.to_string());
                ExitCode::from(2)
            }
            None => {
                log.say(&format!("fanfare: {error:#}"));
                ExitCode::FAILURE
            }
        },
    }
}

fn serve(config: Config, source: Source) -> anyhow::Result<()> {
    open_files::raise(&config);
    let workers = config.workers;
    let server = Server::bind(config, None)?.reloading(source);
    for warning in server.warnings() {
        tracing::warn!("{warning}");
    }
    let (address, admin) = (server.address, server.admin_address);
    server.serve(|_| {
        // One line that a supervisor or a test can wait for. Who does not may have closed the output.
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(io::stdout(), "fanfare {version} listening on {address}, operators on {admin}");
        tracing::info!(%address, %admin, workers, "serving");
    })
}
