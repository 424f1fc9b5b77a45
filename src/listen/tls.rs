//! TLS towards clients, and towards operators: the certificates that are shown, and their replacement while connections go on.
//!
//! A connection keeps the keys it began with. New ones are taken when their files change, which is looked for every two
//! seconds by content, so that a symlink that is moved (as Kubernetes does it) is as good as a file that is written; and
//! when the configuration is read again. Files that do not go together change nothing: what was in use stays in use.

mod files;
mod names;
mod setup;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config;
use crate::metrics::Metrics;
use crate::oci::Digest;

pub use setup::TlsError;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What connections that speak TLS are given. Shared by all listeners of an interface.
#[derive(Debug)]
pub struct Tls {
    /// Whose it is.
    interface: Interface,
    /// For the next connection.
    current: RwLock<Arc<ServerConfig>>,
    source: Mutex<Source>,
    http2: bool,
    handshake_timeout: Duration,
    metrics: Arc<Metrics>,
}

/// The two that speak TLS: each with certificates of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// `[server]`, where clients pull.
    Server,
    /// `[admin]`.
    Admin,
}

impl Interface {
    /// The table of the configuration, as errors name it.
    const fn table(self) -> &'static str {
        match self {
            Self::Server => "server.tls",
            Self::Admin => "admin.tls",
        }
    }

    /// The section of the configuration.
    const fn section(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Admin => "admin",
        }
    }

    /// The label of its certificate at this place.
    fn label(self, index: usize) -> String {
        match self {
            Self::Server => index.to_string(),
            Self::Admin => format!("admin {index}"),
        }
    }
}

/// Says whether the files of a configuration can be used; and if so, which of them clients will refuse all the same, one
/// line each. Blocking (I11).
pub fn check(config: &config::Tls, interface: Interface) -> Result<Vec<String>, TlsError> {
    let made = setup::server_config(config, &files::read(config), false, interface)?;
    let refused = made.expiries.iter().filter_map(|expiry| {
        let file = expiry.file.display();
        Some(format!("{}.cert: {file}: the certificate {}; clients will refuse it", interface.table(), expiry.problem(now())?))
    });
    Ok(refused.collect())
}

/// Everything that [`check`] fails for. Blocking (I11).
pub fn problems(config: &config::Tls, interface: Interface) -> Vec<TlsError> {
    setup::problems(config, &files::read(config), interface)
}

/// The first DNS name that stands in a certificate: what a client calls a server that has it.
pub fn first_name(certificate: &CertificateDer<'_>) -> Option<String> {
    names::dns_names(certificate)?.into_iter().next()
}

/// Where the certificates come from.
#[derive(Debug)]
struct Source {
    config: config::Tls,
    /// How many there are, for those that are no longer shown.
    shown: usize,
    /// The files as they were when they were last tried.
    tried: Digest,
    /// Whether those are in use.
    good: bool,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Secured<S> {
    /// The connection.
    pub stream: TlsStream<S>,
    /// The client's own certificate, verified; `None` if it showed none.
    pub certificate: Option<CertificateDer<'static>>,
    /// Whether HTTP/2 was agreed on (RFC 7301).
    pub http2: bool,
}

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client took too long.
    #[error("the handshake took too long")]
    TimedOut,
    /// The client has no certificate, or one that is not good here.
    #[error("the client's certificate: {0}")]
    Certificate(io::Error),
    /// Whatever else: no TLS at all, no version in common, a client that does not trust the certificate.
    #[error("{0}")]
    Failed(io::Error),
}

impl Tls {
    /// Reads the certificates. Blocking (I11). `http2`: whether clients are offered it.
    pub fn load(
        config: &config::Tls,
        interface: Interface,
        http2: bool,
        handshake_timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, TlsError> {
        let files = files::read(config);
        let made = setup::server_config(config, &files, http2, interface)?;
        let source = Source { config: config.clone(), shown: made.expiries.len(), tried: files.digest(), good: true };
        let (current, source) = (RwLock::new(made.config), Mutex::new(source));
        let tls = Self { interface, current, source, http2, handshake_timeout, metrics };
        tls.tell(&made.expiries, 0);
        Ok(Arc::new(tls))
    }

    /// Looks at the files, and takes what has changed; `config`: the files may be others, too, and what failed before is
    /// tried again. Says whether new certificates are in use. An error leaves the old ones in use, and is counted.
    /// Blocking (I11).
    pub fn reload(&self, config: Option<&config::Tls>) -> Result<bool, TlsError> {
        let mut source = self.source.lock();
        let wanted = config.unwrap_or(&source.config).clone();
        let files = files::read(&wanted);
        let digest = files.digest();
        let same = digest == source.tried && wanted == source.config;
        if same && (source.good || config.is_none()) {
            return Ok(false);
        }
        (source.tried, source.good) = (digest, false);
        let made = setup::server_config(&wanted, &files, self.http2, self.interface)
            .inspect_err(|_| self.metrics.tls_reload_failures_total.inc())?;
        *self.current.write() = made.config;
        (source.config, source.good) = (wanted, true);
        self.tell(&made.expiries, std::mem::replace(&mut source.shown, made.expiries.len()));
        Ok(true)
    }

    /// Whether [`Tls::reload`] would take this configuration; if not, it is counted as it is there. Blocking (I11).
    pub fn check(&self, wanted: &config::Tls) -> Result<(), TlsError> {
        check(wanted, self.interface).map(drop).inspect_err(|_| self.metrics.tls_reload_failures_total.inc())
    }

    /// The table of the configuration that it is of.
    pub fn table(&self) -> &'static str {
        self.interface.table()
    }

    /// Follows the files for ever.
    pub async fn watch(self: Arc<Self>) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let this = self.clone();
            match tokio::task::spawn_blocking(move || this.reload(None)).await {
                Ok(Ok(true)) => tracing::info!(of = self.interface.table(), "new TLS certificates are in use"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the TLS certificates were changed and cannot be used; the old ones stay")
                }
                Err(_) => return,
            }
        }
    }

    /// Agrees on TLS with a client. Not cancel-safe: what was agreed on is lost with the connection.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Result<Secured<S>, HandshakeError> {
        let current = self.current.read().clone();
        let handshake = TlsAcceptor::from(current).accept(stream);
        let stream = match tokio::time::timeout(self.handshake_timeout, handshake).await {
            Err(_) => return Err(HandshakeError::TimedOut),
            Ok(Err(error)) => return Err(refusal(error)),
            Ok(Ok(stream)) => stream,
        };
        let session = stream.get_ref().1;
        let certificate = session.peer_certificates().and_then(|chain| chain.first()).map(|own| own.clone().into_owned());
        // A resumed session brings its certificate along from the day when it was verified.
        if session.handshake_kind() == Some(HandshakeKind::Resumed)
            && let Some(certificate) = &certificate
            && names::validity(certificate).is_none_or(|(_, end)| end < now())
        {
            return Err(HandshakeError::Certificate(io::Error::other("it has expired since the session began")));
        }
        let http2 = session.alpn_protocol() == Some(setup::HTTP2);
        Ok(Secured { stream, certificate, http2 })
    }

    /// Shows the certificates' ends, instead of those of the `shown` that there were, and warns of those that no client
    /// will accept.
    fn tell(&self, expiries: &[setup::Expiry], shown: usize) {
        for gone in expiries.len()..shown {
            let _ = self.metrics.tls_certificate_expiry_seconds.remove_label_values(&[&self.interface.label(gone)]);
        }
        for (index, expiry) in expiries.iter().enumerate() {
            let label = self.interface.label(index);
            self.metrics.tls_certificate_expiry_seconds.with_label_values(&[label.as_str()]).set(expiry.ends);
            if let Some(problem) = expiry.problem(now()) {
                tracing::warn!(file = %expiry.file.display(), "the TLS certificate {problem}; clients will refuse it");
            }
        }
    }
}

fn refusal(error: io::Error) -> HandshakeError {
    use rustls::Error as E;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<E>()) {
        Some(E::NoCertificatesPresented | E::InvalidCertificate(_) | E::UnsupportedNameType) => {
            HandshakeError::Certificate(error)
        }
        _ => HandshakeError::Failed(error),
    }
}

/// As certificates have it.
fn now() -> i64 {
    i64::try_from(crate::clock::seconds(SystemTime::now())).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
