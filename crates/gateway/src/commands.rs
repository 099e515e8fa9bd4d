//! `fanfare publish` and `fanfare subscribe`, the two journeys from a shell, and `fanfare check-config`.
//!
//! The first two talk to a gateway over its public protocol, with the client library, and go on through its restarts.

pub mod check_config;
pub mod publish;
pub mod subscribe;

use std::io::Write;

use tokio::signal::unix::{Signal, SignalKind, signal};

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
