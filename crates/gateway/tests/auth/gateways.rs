//! Gateways that let in who shows a credential.

use tempfile::TempDir;

use crate::support::Gateway;
use crate::support::config_file::ConfigFile;
use crate::support::metrics::metric;
use crate::support::tokens::{Signer, sha256};

/// An API key, as somebody has chosen it.
pub(crate) const KEY: &str = "correct-horse-battery-staple";

/// What a configuration says of [`KEY`]: it may everything below `a`.
pub(crate) fn key_of_feeds() -> String {
    format!(
        "[[api_keys]]\nname = \"feeds\"\nsha256 = \"{}\"\npublish = [\"a.>\"]\nsubscribe = [\"a.>\"]\n",
        sha256(KEY)
    )
}

/// A configuration with that key.
pub(crate) fn with_key(more: &str) -> ConfigFile {
    ConfigFile::new(key_of_feeds() + more)
}

/// A gateway with files beside its configuration.
pub(crate) fn with_files(files: &[(&str, Vec<u8>)], config: &str, args: &[&str]) -> (Gateway, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let path = folder.path().join("fanfare.toml");
    std::fs::write(&path, config).unwrap();
    let args = [&["--config", path.to_str().unwrap()], args].concat();
    (Gateway::start(&args), folder)
}

/// A gateway that checks tokens with the keys of `signers`, named `k0`, `k1`, …
pub(crate) fn with_signers(signers: &[&Signer], config: &str, args: &[&str]) -> (Gateway, TempDir) {
    let names: Vec<_> = (0..signers.len()).map(|index| format!("k{index}.key")).collect();
    let files: Vec<_> =
        names.iter().zip(signers).map(|(name, signer)| (name.as_str(), signer.file())).collect();
    let mut text = config.to_owned();
    for (index, signer) in signers.iter().enumerate() {
        let file = if signer.algorithm.starts_with("HS") { "secret_file" } else { "public_key_file" };
        text += &format!(
            "\n[[token_keys]]\nid = \"k{index}\"\nalgorithm = \"{}\"\n{file} = \"k{index}.key\"\n",
            signer.algorithm
        );
    }
    with_files(&files, &text, args)
}

/// A secret that is long enough.
pub(crate) fn signer() -> Signer {
    Signer::secret("HS256", *b"0123456789abcdef0123456789abcdef")
}

pub(crate) fn failures(gateway: &Gateway, reason: &str) -> f64 {
    metric(gateway, &format!("fanfare_auth_failures_total{{reason=\"{reason}\"}}"))
}
