//! What is in force: the configuration, and what is built from it.
//!
//! It is built whole before any of it takes the place of what was in force, and takes it at once: a reload applies, or it
//! changes nothing.

use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use crate::auth::Auth;
use crate::config::{Config, ConfigError};
use crate::tls::{self, Tls};

/// The configuration, and what was built from it. Reads like the configuration.
pub(crate) struct InForce {
    config: Config,
    /// What the public listener shakes hands with, if it speaks TLS.
    pub(crate) tls: Option<Tls>,
    /// Who may.
    pub(crate) who: Arc<Auth>,
    /// How many reloads came before; past its end it stays there.
    pub(crate) reload: u16,
}

impl InForce {
    /// Builds everything that may fail: files are read here, and nowhere later. What was fetched for `previous` is taken on.
    pub(crate) fn build(config: Config, previous: Option<&Self>) -> Result<Self, ConfigError> {
        let tls = tls::read(&config).map_err(|error| ConfigError(vec![error]))?;
        let who = Arc::new(Auth::new(&config, previous.map(|previous| &*previous.who))?);
        let reload = previous.map_or(0, |previous| previous.reload.saturating_add(1));
        Ok(Self { config, tls, who, reload })
    }

    /// What is legal, and hardly what anybody wants: in the configuration, and in what was built from it. A line each.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.config.warnings();
        warnings.extend(self.tls.as_ref().and_then(|tls| tls.warning(&self.config, SystemTime::now())));
        warnings
    }
}

impl Deref for InForce {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}
