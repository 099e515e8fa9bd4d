//! Fetches a key set from its URL, on the control plane: one request at a time, so that no worker waits for it.
//!
//! | | |
//! |---|---|
//! | at the start, for another URL, and under other authorities | at once |
//! | after a success | `jwks_refresh` later; after `Limits::jwks_pause`, if a token has named a key that is not there |
//! | after a failure | a second later, then twice as long each time, up to `Limits::jwks_pause` |
//!
//! No redirect is followed: the set comes from where the configuration says, or not at all.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::{TokenKeys, read};
use crate::config::Config;
use crate::limits::Limits;
use crate::log::Shown;
use crate::pem;
use crate::server::Shared;

/// How often it is looked whether it is time, and whether something else is configured.
const TICK: Duration = Duration::from_millis(100);

/// The shortest time to another attempt after one that failed.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// Fetches until the process ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut next = Next::default();
    loop {
        let config = Arc::clone(&*shared.config());
        let auth = Arc::clone(&config.who);
        let (limits, set) = (&config.limits, &auth.key_set);
        let Some(target) = &set.target else {
            sleep(TICK).await;
            continue;
        };
        if !next.is_for(target) {
            next = Next { target: Some(Arc::clone(target)), ..Next::default() };
        }
        if !next.is_due(Instant::now(), config.auth.jwks_refresh, limits.jwks_pause) {
            tokio::select! {
                () = sleep(TICK) => {}
                () = set.asked.notified() => next.asked = true,
            }
            continue;
        }
        let fetched = Box::pin(fetch(target, limits)).await;
        let [succeeded, failed] = &shared.key_set_fetches;
        match &fetched {
            Ok(keys) => {
                succeeded.fetch_add(1, Relaxed);
                set.replace(Arc::clone(keys));
                // Meanwhile the configuration may have been replaced.
                let current = Arc::clone(&shared.config().who);
                if !Arc::ptr_eq(&current, &auth)
                    && current.key_set.target.as_ref().is_some_and(|now| next.is_for(now))
                {
                    current.key_set.replace(Arc::clone(keys));
                }
            }
            Err(error) => {
                failed.fetch_add(1, Relaxed);
                // Some of it may be the other side's words.
                let error = Shown(error.as_bytes());
                tracing::warn!(%error, "the key set cannot be fetched: the keys that were there stay");
            }
        }
        next.note(Instant::now(), fetched.is_ok());
    }
}

/// When it is time again.
#[derive(Default)]
struct Next {
    /// For which target.
    target: Option<Arc<Target>>,
    last: Option<Instant>,
    /// Failures since the last success.
    failures: u32,
    /// A token has named a key that is not there.
    asked: bool,
}

impl Next {
    fn is_for(&self, target: &Arc<Target>) -> bool {
        self.target.as_ref().is_some_and(|known| Arc::ptr_eq(known, target))
    }

    fn is_due(&self, now: Instant, refresh: Duration, pause: Duration) -> bool {
        let wait = match self.failures {
            0 if self.asked => pause.min(refresh),
            0 => refresh,
            failures => RETRY_MIN.saturating_mul(1 << (failures - 1).min(16)).min(pause),
        };
        self.last.is_none_or(|last| now.duration_since(last) >= wait)
    }

    fn note(&mut self, now: Instant, succeeded: bool) {
        self.last = Some(now);
        self.asked = false;
        self.failures = if succeeded { 0 } else { self.failures.saturating_add(1) };
    }
}

/// Where a URL leads, and whom a connection there trusts.
pub(super) struct Target {
    pub(super) url: String,
    /// Of an `https` URL.
    pub(super) trust: Option<Trust>,
    /// For the `Host` header.
    authority: String,
    host: String,
    port: u16,
    path: String,
}

impl Target {
    /// What is wrong with the URL, or with the authorities that are to be trusted there, is a line each that names its key.
    pub(super) fn new(url: &str, config: &Config, errors: &mut Vec<String>) -> Option<Self> {
        let target = Self::read(url).map_err(|error| format!("jwks: {url:?}: {error}"));
        let trust = url.starts_with("https://").then(|| Trust::read(config)).transpose();
        match (target, trust) {
            (Ok(target), Ok(trust)) => Some(Self { trust, ..target }),
            (target, trust) => {
                errors.extend(target.err().into_iter().chain(trust.err()));
                None
            }
        }
    }

    fn read(url: &str) -> Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "not a URL")?;
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("it has a user");
        }
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        Ok(Self {
            url: url.to_owned(),
            trust: None,
            authority: authority.as_str().to_owned(),
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: authority.port_u16().unwrap_or(default),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

/// Whom a connection to an `https` URL trusts.
pub(super) struct Trust {
    roots: Arc<RootCertStore>,
    /// How it is made, so that it does.
    tls: Arc<ClientConfig>,
}

impl Trust {
    fn read(config: &Config) -> Result<Self, String> {
        let roots = Arc::new(roots(config)?);
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("the provider has them");
        let tls = builder.with_root_certificates(Arc::clone(&roots)).with_no_client_auth();
        Ok(Self { roots, tls: Arc::new(tls) })
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.roots.roots == other.roots.roots
    }
}

/// Those that `jwks_ca` has, and nobody else; without it, those whom browsers trust.
fn roots(config: &Config) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(path) = &config.auth.jwks_ca else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    let path = config.path(path);
    let wrong = |what: String| format!("jwks_ca: {}: {what}", path.display());
    for (index, certificate) in pem::certificates(&path).map_err(wrong)?.into_iter().enumerate() {
        // Left out in silence, it would only be missed when a fetch fails.
        let added = roots.add(certificate);
        added.map_err(|_| wrong(format!("certificate {} in it is none", index + 1)))?;
    }
    Ok(roots)
}

async fn fetch(target: &Target, limits: &Limits) -> Result<TokenKeys, String> {
    let exchange = async {
        let address = (target.host.as_str(), target.port);
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        match &target.trust {
            None => Box::pin(get(stream, target, limits.jwks_bytes)).await,
            Some(trust) => {
                let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
                let stream = TlsConnector::from(Arc::clone(&trust.tls)).connect(name, stream).await;
                let stream = stream.map_err(|error| error.to_string())?;
                Box::pin(get(stream, target, limits.jwks_bytes)).await
            }
        }
    };
    let body = timeout(limits.jwks_timeout, exchange).await.map_err(|_| "no answer in time")??;
    read(&body).map_err(str::to_owned)
}

/// One GET on a connection of its own, which ends with it.
async fn get<S>(stream: S, target: &Target, bytes_max: usize) -> Result<Bytes, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::get(&target.path)
        .header(HOST, &target.authority)
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer is {}", response.status()));
        }
        let body = Limited::new(response.into_body(), bytes_max).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes())
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        body = &mut exchange => body,
        // What it has read is still to be taken.
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH: Duration = Duration::from_secs(300);
    const PAUSE: Duration = Duration::from_secs(30);

    #[test]
    fn it_is_fetched_as_often_as_it_must_and_no_more() {
        let start = Instant::now();
        let mut next = Next::default();
        let check =
            |next: &Next, seconds: u64| next.is_due(start + Duration::from_secs(seconds), REFRESH, PAUSE);
        assert!(check(&next, 0));
        next.note(start, true);
        assert!(!check(&next, 299) && check(&next, 300));
        next.asked = true;
        assert!(!check(&next, 29) && check(&next, 30));
        next.note(start, false);
        assert!(!check(&next, 0) && check(&next, 1));
        next.note(start, false);
        next.asked = true;
        assert!(!check(&next, 1) && check(&next, 2));
        (0..1000).for_each(|_| next.note(start, false));
        assert!(!check(&next, 29) && check(&next, 30));
    }

    #[test]
    fn urls_are_read() {
        let read =
            |url| Target::read(url).map(|target| (target.authority, target.host, target.port, target.path));
        let expect = |authority: &str, host: &str, port, path: &str| {
            Ok((authority.into(), host.into(), port, path.into()))
        };
        assert_eq!(read("http://a.test/keys?x=1"), expect("a.test", "a.test", 80, "/keys?x=1"));
        assert_eq!(read("https://a.test"), expect("a.test", "a.test", 443, "/"));
        assert_eq!(read("https://[::1]:8443/k"), expect("[::1]:8443", "::1", 8443, "/k"));
        assert!(read("https://user:word@a.test/").is_err() && read("https://").is_err());
    }

    #[test]
    fn authorities_of_ones_own_are_trusted_in_place_of_those_of_browsers() {
        let authority = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert;
        let (one, other) = (authority("one.test"), authority("other.test"));
        let folder = tempfile::tempdir().unwrap();
        let check = |text: &str, expect: Result<usize, &str>| {
            std::fs::write(folder.path().join("ca.pem"), text).unwrap();
            let mut config = Config { folder: folder.path().into(), ..Config::default() };
            config.auth.jwks_ca = Some("ca.pem".into());
            let path = format!("jwks_ca: {}: ", folder.path().join("ca.pem").display());
            let roots = roots(&config).map(|roots| roots.len());
            assert_eq!(roots, expect.map_err(|error| path + error), "{text}");
        };
        assert!(roots(&Config::default()).unwrap().len() > 100);
        check(&one.pem(), Ok(1));
        check(&format!("one\n{}\n\nother\n{}", one.pem(), other.pem()), Ok(2));
        check("", Err("nothing of the kind in it in PEM form, unencrypted"));
        let none = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        check(none, Err("certificate 1 in it is none"));
        check(&(one.pem() + none), Err("certificate 2 in it is none"));
        check(&one.pem()[..100], Err("not in PEM form"));
    }
}
