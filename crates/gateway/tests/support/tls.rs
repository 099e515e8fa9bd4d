//! An authority of a test's own, and certificates for `127.0.0.1`.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;

/// Who signs the gateway's certificate. Its files are gone with it.
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// An authority, and a first certificate.
    pub fn new() -> Self {
        let folder = TempDir::new().expect("a folder can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("it signs for itself");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("a file can be written");
        let authority = Self { folder, issuer: Issuer::new(params, key) };
        authority.issue();
        authority
    }

    /// Another certificate with another key, in the place of those that are there. Returns it in DER.
    pub fn issue(&self) -> Vec<u8> {
        self.issue_until(4096)
    }

    /// The same; it ends when that year begins.
    pub fn issue_until(&self, year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("an address is a name");
        params.distinguished_name.push(DnType::CommonName, "a gateway of a test");
        params.use_authority_key_identifier_extension = true;
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        std::fs::write(self.file("certificate.pem"), certificate.pem()).expect("a file can be written");
        std::fs::write(self.file("key.pem"), key.serialize_pem()).expect("a file can be written");
        certificate.der().to_vec()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).to_str().expect("the path is text").to_owned()
    }

    /// The authority's own certificate, for clients.
    pub fn ca(&self) -> String {
        self.path("ca.pem")
    }

    pub fn certificate(&self) -> String {
        self.path("certificate.pem")
    }

    pub fn key(&self) -> String {
        self.path("key.pem")
    }

    /// Flags of a gateway that shakes hands with what is in the files.
    pub fn flags(&self) -> [String; 4] {
        ["--tls-certificate".into(), self.certificate(), "--tls-key".into(), self.key()]
    }

    /// A client that trusts the authority, and offers these protocols.
    pub fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        client_that_trusts(self.roots(), &[&TLS13, &TLS12], protocols)
    }

    /// One that speaks TLS 1.2 at most.
    pub fn old_client(&self) -> Arc<ClientConfig> {
        client_that_trusts(self.roots(), &[&TLS12], &["http/1.1"])
    }

    /// A client that trusts nobody.
    pub fn distrustful_client(&self) -> Arc<ClientConfig> {
        client_that_trusts(RootCertStore::empty(), &[&TLS13, &TLS12], &[])
    }

    /// What a server of a test's own shakes hands with: what is in the files now.
    pub fn server(&self) -> Arc<ServerConfig> {
        let certificate = CertificateDer::from_pem_file(self.certificate()).expect("the file is there");
        let key = PrivateKeyDer::from_pem_file(self.key()).expect("the file is there");
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(&[&TLS13, &TLS12]);
        let builder = builder.expect("the provider has suites of both versions").with_no_client_auth();
        Arc::new(builder.with_single_cert(vec![certificate], key).expect("they are a pair"))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.ca()).expect("the file is there");
        roots.add(ca).expect("it is a certificate");
        roots
    }
}

fn client_that_trusts(
    roots: RootCertStore,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let builder = builder.expect("the provider has suites of both versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}
