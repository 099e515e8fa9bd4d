//! `fanfare publish` and `fanfare subscribe`, the two journeys from a shell, and what an operator asks: `fanfare check-config`,
//! `fanfare healthcheck` and `fanfare hash-key`.
//!
//! The first two talk to a gateway over its public protocol, with the client library, and go on through its restarts.

pub mod check_config;
pub mod hash_key;
pub mod healthcheck;
pub mod publish;
pub mod subscribe;

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use fanfare_client::Client;

/// Who one is for the gateway.
#[derive(Debug, PartialEq, Eq)]
pub enum Credential {
    /// Nobody in particular.
    None,
    /// Whose token or API key this is.
    Token(Secret),
    /// Whose token or API key is in the file.
    File(PathBuf),
}

/// What is in no log.
#[derive(PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The gateway at `url`, for somebody with this credential; for `https`, also the file with who may vouch for it.
fn client(url: &str, ca: Option<&Path>, credential: &Credential) -> anyhow::Result<Client> {
    let client = match ca {
        Some(path) => {
            let authorities = std::fs::read(path).with_context(|| format!("--ca {}", path.display()))?;
            Client::secure(url, &authorities).context("--url and --ca")?
        }
        None => Client::new(url).context("--url")?,
    };
    match credential {
        Credential::None => Ok(client),
        Credential::Token(Secret(token)) => client.with_token(token).context("--token"),
        Credential::File(path) => {
            let token = std::fs::read_to_string(path);
            let token = token.with_context(|| format!("--token-file {}", path.display()))?;
            client.with_token(token.trim()).context("--token-file")
        }
    }
}

/// One line for whoever watches, if anybody does: a closed standard error ends nothing.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "fanfare: {line}");
}
