//! `fanfare hash-key [--random]`: what the configuration says of an API key.
//!
//! The key is read from standard input, so that it stands in no list of processes and in no history of a shell.

use std::fmt::Write;
use std::io::{Read, stdin};

use anyhow::{Context, bail};
use aws_lc_rs::rand;

use crate::auth::api_keys::{KEY_BYTES, sha256};

/// What stands before the digits of a key that was made here, so that whoever finds one knows what it is.
const PREFIX: &str = "fanfare_";

/// Prints one line, `sha256 = "…"`, or two with the key above it.
pub fn run(random: bool) -> anyhow::Result<()> {
    let key = if random { make()? } else { read()? };
    if !KEY_BYTES.contains(&key.len()) {
        bail!("a key has {} to {} bytes", KEY_BYTES.start(), KEY_BYTES.end());
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) || key.contains([',', '"']) {
        bail!(
            "a key has no spaces, commas and quotation marks, and nothing beyond ASCII: it stands in headers"
        );
    }
    if key.bytes().filter(|byte| *byte == b'.').count() == 2 {
        bail!("a key with two dots would be taken for a token");
    }
    if random {
        println!("{key}");
    }
    println!("sha256 = \"{}\"", hex(&sha256(key.as_bytes())));
    Ok(())
}

fn make() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("there is no randomness"))?;
    Ok(format!("{PREFIX}{}", hex(&bytes)))
}

/// The key, without the end of its line.
fn read() -> anyhow::Result<String> {
    let mut key = String::new();
    let most = *KEY_BYTES.end() as u64 + 2;
    stdin().lock().take(most).read_to_string(&mut key).context("standard input")?;
    Ok(key.trim_end_matches(['\r', '\n']).to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string has no way to fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
