//! Certificates and keys in PEM files (RFC 7468).
//!
//! What is wrong with a file is said without a word of it: it may hold a key.

use std::path::Path;

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// All certificates of a file, in their order; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(wrong)?.collect();
    let certificates = certificates.map_err(wrong)?;
    if certificates.is_empty() { Err(wrong(Error::NoItemsFound)) } else { Ok(certificates) }
}

/// The first private key of a file.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(wrong)
}

/// What the file does not have. The library's own text may quote it.
fn wrong(error: Error) -> String {
    match error {
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound => "nothing of the kind in it in PEM form, unencrypted".into(),
        _ => "not in PEM form".into(),
    }
}
