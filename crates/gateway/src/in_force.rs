//! What is in force: the configuration, and what is built from it.
//!
//! It is built whole before any of it takes the place of what was in force, and takes it at once: a reload applies, or it
//! changes nothing.

use std::ops::Deref;

use crate::config::{Config, ConfigError};

/// The configuration, and what was built from it. Reads like the configuration.
pub(crate) struct InForce {
    config: Config,
    /// How many reloads came before; past its end it stays there.
    pub(crate) reload: u16,
}

impl InForce {
    /// Builds everything that may fail: files are read here, and nowhere later.
    #[expect(clippy::unnecessary_wraps, reason = "what is built from files can fail")]
    pub(crate) fn build(config: Config, reload: u16) -> Result<Self, ConfigError> {
        Ok(Self { config, reload })
    }
}

impl Deref for InForce {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}
