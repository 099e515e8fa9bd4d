//! What is in force: the configuration, and what is built from it.
//!
//! It is built whole before any of it takes the place of what was in force, and takes it at once: a reload applies, or it
//! changes nothing.

use std::ops::Deref;
use std::sync::Arc;

use rustls::ServerConfig;

use crate::config::{Config, ConfigError};
use crate::tls;

/// The configuration, and what was built from it. Reads like the configuration.
pub(crate) struct InForce {
    config: Config,
    /// What the public listener shakes hands with, if it speaks TLS.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// How many reloads came before; past its end it stays there.
    pub(crate) reload: u16,
}

impl InForce {
    /// Builds everything that may fail: files are read here, and nowhere later.
    pub(crate) fn build(config: Config, reload: u16) -> Result<Self, ConfigError> {
        let tls = tls::read(&config).map_err(|error| ConfigError(vec![error]))?;
        Ok(Self { config, tls, reload })
    }
}

impl Deref for InForce {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}
