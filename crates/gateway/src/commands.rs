//! `fanfare publish` and `fanfare subscribe`, the two journeys from a shell, and what an operator asks: `fanfare check-config` and
//! `fanfare healthcheck`.
//!
//! The first two talk to a gateway over its public protocol, with the client library, and go on through its restarts.

pub mod check_config;
pub mod healthcheck;
pub mod publish;
pub mod subscribe;

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use fanfare_client::Client;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The gateway at `url`, and for `https` the file with who may vouch for it.
fn client(url: &str, ca: Option<&Path>) -> anyhow::Result<Client> {
    match ca {
        Some(path) => {
            let authorities = std::fs::read(path).with_context(|| format!("--ca {}", path.display()))?;
            Client::secure(url, &authorities).context("--url and --ca")
        }
        None => Client::new(url).context("--url"),
    }
}

/// SIGINT and SIGTERM: somebody wants it to end.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Takes the signals from now on. Within a runtime.
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// One line for whoever watches, if anybody does: a closed standard error ends nothing.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "fanfare: {line}");
}
