//! `fanfare check-config`: whether `fanfare serve` would take a configuration. Nothing listens.

use std::io::Write;

use crate::config::Config;
use crate::in_force::InForce;
use crate::open_files;

/// Says that it is right, warns of what is legal and odd on standard error, and with `print` shows it.
///
/// # Errors
/// A [`ConfigError`](crate::config::ConfigError) for a file that is named and is not what it should be.
pub fn run(config: &Config, print: bool) -> anyhow::Result<()> {
    let in_force = InForce::build(config.clone(), None)?;
    for warning in in_force.warnings().into_iter().chain(open_files::warning(config)) {
        eprintln!("warning: {warning}");
    }
    let text = if print { config.to_toml() } else { "the configuration is right\n".into() };
    // A reader that has left needs no answer.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
