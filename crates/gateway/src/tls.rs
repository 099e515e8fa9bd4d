//! TLS on the public listener: the certificate, handshakes, and what a handshake can come to.
//!
//! | | | why |
//! |---|---|---|
//! | versions | 1.2 and 1.3 | what is older is broken (RFC 8996) |
//! | ALPN | `http/1.1` | a WebSocket needs it; a client that offers only `h2` is refused, one that offers nothing is not |
//! | resumption | one stateless ticket per TLS 1.3 handshake, no session cache | a crowd that comes back costs no memory here, and a second ticket would serve a second connection, which few clients open |
//! | early data | none | a publish could be replayed |
//! | records | up to 16 KiB, the most there is | a record costs 22 bytes and a tag to check, and most messages fit one |
//!
//! A reload reads the certificate again: whoever is connected stays so, and a handshake under way goes on with what it began with.
//! Tickets end with the certificate they were given under, so that whoever comes later sees the new one.

mod validity;

use std::io::{Error, ErrorKind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{InvalidMessage, ServerConfig};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::pem;
use crate::socket::{Socket, TlsSocket};
use crate::worker::Worker;
use validity::Validity;

/// What handshakes are made with, and what is known of it.
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    /// Of the certificate itself, the chain behind it not counted; nothing, if it cannot be read.
    validity: Option<Validity>,
}

impl Tls {
    /// When its certificate ends, as Unix time.
    pub(crate) fn ends(&self) -> Option<i64> {
        self.validity.as_ref().map(Validity::ends)
    }

    /// What clients have against the certificate at `now`, as a line that names the key of the configuration.
    pub(crate) fn warning(&self, config: &Config, now: SystemTime) -> Option<String> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let fault = match &self.validity {
            Some(validity) => validity.fault(i64::try_from(now).unwrap_or(i64::MAX))?,
            None => "when it ends cannot be read".into(),
        };
        Some(wrong("tls_certificate", &config.path(config.tls_certificate.as_ref()?), fault))
    }
}

/// What is wrong with the certificate and its key, if the configuration names them: one line that names the key of the
/// configuration, and nothing of what is in the files.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    read(config).map(drop)
}

/// What handshakes are made with, of the certificate and the key that the configuration names; nothing, if it names none.
pub(crate) fn read(config: &Config) -> Result<Option<Tls>, String> {
    match (&config.tls_certificate, &config.tls_key) {
        (None, None) => Ok(None),
        (Some(_), None) => Err("tls_key: missing, while there is a tls_certificate".into()),
        (None, Some(_)) => Err("tls_certificate: missing, while there is a tls_key".into()),
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (&config.path(certificate), &config.path(key));
            let chain = pem::certificates(certificate)
                .map_err(|error| wrong("tls_certificate", certificate, error))?;
            let read = pem::private_key(key).map_err(|error| wrong("tls_key", key, error))?;
            let validity = chain.first().and_then(Validity::read);
            let config = server_config(chain, read).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => wrong("tls_key", key, "not the certificate's key"),
                rustls::Error::General(_) => wrong("tls_key", key, "not a key that can sign"),
                _ => wrong("tls_certificate", certificate, "not a certificate"),
            })?;
            Ok(Some(Tls { config, validity }))
        }
    }
}

fn wrong(name: &str, path: &Path, what: impl AsRef<str>) -> String {
    format!("{name}: {}: {}", path.display(), what.as_ref())
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("the provider has suites of both versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Shakes hands within `Limits::tls_handshake_timeout`.
pub(crate) async fn shake_hands(worker: &Rc<Worker>, stream: TcpStream) -> Result<Socket, Handshake> {
    let in_force = worker.shared.config();
    let tls = in_force.tls.as_ref().ok_or(Handshake::Gone)?;
    let (acceptor, limit) =
        (TlsAcceptor::from(Arc::clone(&tls.config)), in_force.limits.tls_handshake_timeout);
    drop(in_force);
    match timeout(limit, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Ok(Socket::Tls(Box::new(TlsSocket::new(stream, Rc::clone(worker))))),
        Ok(Err(error)) => Err(Handshake::failed(&error)),
        Err(_) => Err(Handshake::Timeout),
    }
}

/// What a handshake came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// Requests may come.
    Done,
    /// It took longer than `Limits::tls_handshake_timeout`.
    Timeout,
    /// The peer ended in the middle of it, or the drain ended it.
    Gone,
    /// What came was not TLS: plain HTTP, mostly.
    NotTls,
    /// No version, cipher or protocol in common.
    Incompatible,
    /// The client did not want us: it does not trust the certificate, mostly.
    Refused,
    /// The peer broke the protocol.
    Broken,
}

impl Handshake {
    /// The values of the metric's label, each in its place.
    pub(crate) const LABELS: [&'static str; 7] =
        ["done", "timeout", "gone", "not_tls", "incompatible", "refused", "broken"];

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// What a failed one came to.
    pub(crate) fn failed(error: &Error) -> Self {
        match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => Self::NotTls,
            Some(rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol) => {
                Self::Incompatible
            }
            Some(rustls::Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion)) => Self::Incompatible,
            Some(rustls::Error::AlertReceived(_)) => Self::Refused,
            Some(_) => Self::Broken,
            None if error.kind() == ErrorKind::InvalidData => Self::Broken,
            None => Self::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConnection};
    use std::io::{Read, Write};
    use std::net::Ipv4Addr;

    /// Writes a new certificate that signs for itself, and its key. Returns it.
    fn issue(config: &Config) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(config.tls_certificate.as_ref().unwrap(), made.cert.pem()).unwrap();
        std::fs::write(config.tls_key.as_ref().unwrap(), made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    }

    fn carry(from: &mut Connection, to: &mut Connection) {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            to.read_tls(&mut bytes).unwrap();
            to.process_new_packets().unwrap();
        }
    }

    /// The server's side and the client's.
    fn shake_hands(tls: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> (Connection, Connection) {
        let server = ServerConnection::new(Arc::clone(tls)).unwrap();
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        let client = ClientConnection::new(Arc::clone(client), name).unwrap();
        let (mut server, mut client) = (Connection::from(server), Connection::from(client));
        while server.is_handshaking() || client.is_handshaking() {
            carry(&mut client, &mut server);
            carry(&mut server, &mut client);
        }
        (server, client)
    }

    #[test]
    fn another_certificate_is_for_those_who_come_later_and_drops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            tls_certificate: Some(folder.path().join("certificate")),
            tls_key: Some(folder.path().join("key")),
            ..Config::default()
        };
        let first = issue(&config);
        let tls = read(&config).unwrap().unwrap().config;
        let second = issue(&config);
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates([first.clone(), second.clone()]);
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Arc::new(client);
        // What is in the files counts when it is read.
        let (mut server, mut connected) = shake_hands(&tls, &client);
        assert_eq!(connected.peer_certificates().unwrap(), [first]);

        let tls = read(&config).unwrap().unwrap().config;
        // The client has a ticket of the first certificate, which is worth nothing now.
        let (_, later) = shake_hands(&tls, &client);
        assert_eq!(later.peer_certificates().unwrap(), std::slice::from_ref(&second));
        assert_eq!(later.handshake_kind(), Some(rustls::HandshakeKind::Full));
        // One of the second is.
        let (_, again) = shake_hands(&tls, &client);
        assert_eq!(again.handshake_kind(), Some(rustls::HandshakeKind::Resumed));

        // Who was connected goes on.
        server.writer().write_all(b"still here").unwrap();
        carry(&mut server, &mut connected);
        let mut heard = [0; 10];
        connected.reader().read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"still here");

        std::fs::write(folder.path().join("key"), "").unwrap();
        assert!(read(&config).err().unwrap().starts_with("tls_key: "));
    }

    #[test]
    fn files_are_looked_for_beside_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fanfare.toml");
        std::fs::write(&file, "tls_certificate = \"certificate\"\ntls_key = \"key\"\n").unwrap();
        let there = |name: &str| Some(folder.path().join(name));
        issue(&Config { tls_certificate: there("certificate"), tls_key: there("key"), ..Config::default() });
        let config = Config::load(Some(&file), &[]).unwrap();
        assert!(read(&config).unwrap().is_some());
    }

    #[test]
    fn a_certificate_whose_end_cannot_be_read_is_served_and_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            tls_certificate: Some(folder.path().join("certificate")),
            tls_key: Some(folder.path().join("key")),
            ..Config::default()
        };
        let mut forged = issue(&config).to_vec();
        let tls = read(&config).unwrap().unwrap();
        assert!(tls.ends().is_some() && tls.warning(&config, SystemTime::now()).is_none());
        // The year in which those of this library end.
        let end = forged.windows(4).position(|digits| digits == b"4096").unwrap();
        forged[end] = b'x';
        let text = base64::engine::general_purpose::STANDARD.encode(forged);
        let text = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        std::fs::write(config.tls_certificate.as_ref().unwrap(), text).unwrap();
        let tls = read(&config).unwrap().unwrap();
        assert_eq!(tls.ends(), None);
        let warning = tls.warning(&config, SystemTime::now()).unwrap();
        assert!(warning.starts_with("tls_certificate: ") && warning.ends_with("cannot be read"), "{warning}");
    }
}
