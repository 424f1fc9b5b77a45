//! TLS towards upstreams: which roots are believed, and which certificate the mirror shows.
//!
//! The provider is given by hand: a process-wide default would panic as soon as a second one were linked. Verification
//! cannot be turned off; an upstream with a certificate of its own gets a `ca` file. A client certificate says who the mirror
//! is, as a password does: it is shown to the upstream's own address and to nobody that this names (I9).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::{self, Finding, KeyPair};
use crate::oci::UpstreamName;

/// Why an upstream's TLS cannot be set up. Names the file, never what stands in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or holds something else than it should.
    #[error("`{key}` file {file}: {problem}", file = .file.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A key and a certificate are not of a kind.
    #[error("the `client_key` {key} does not belong to the `client_cert` {cert}", key = .0.key.display(), cert = .0.cert.display())]
    Mismatch(KeyPair),
    /// The TLS library refuses its own defaults.
    #[error("TLS: {0}")]
    Setup(#[from] rustls::Error),
}

impl TlsError {
    /// The same, for who knows where the keys of an `upstream` stand.
    pub fn finding(&self, upstream: &UpstreamName) -> Finding {
        let of = |key: &str, message: String| Finding::new(&["upstream", upstream.as_str(), key], message);
        match self {
            Self::File { key, file, problem } => of(key, format!("{}: {problem}", file.display())),
            Self::Mismatch(_) => of("client_key", self.to_string()),
            Self::Setup(_) => Finding::new(&["upstream", upstream.as_str()], self),
        }
    }
}

/// How connections of one upstream are encrypted.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    /// To its own address.
    pub(super) own: Arc<ClientConfig>,
    /// To all others: what it names, and proxies.
    pub(super) others: Arc<ClientConfig>,
}

impl Tls {
    /// Believes the system's roots and those in `ca`, shows its own address the client certificate if there is one, and
    /// speaks HTTP/1.1 alone.
    ///
    /// Reads files: not to be called on the reactor (I11).
    pub(super) fn of(config: &config::Upstream) -> Result<Self, TlsError> {
        let roots = Arc::new(roots(config.ca.as_deref())?);
        let others = client_config(Arc::clone(&roots), None)?;
        let own = match &config.client {
            Some(pair) => client_config(roots, Some(pair))?,
            None => Arc::clone(&others),
        };
        Ok(Self { own, others })
    }

    /// Believes the system's roots, and shows nobody a certificate. Reads files, too.
    pub(super) fn anonymous() -> Result<Self, TlsError> {
        client_config(Arc::new(roots(None)?), None).map(|config| Self { own: Arc::clone(&config), others: config })
    }
}

/// What is wrong with the certificates that an upstream's configuration names. Reads files.
pub fn problems(config: &config::Upstream) -> Vec<TlsError> {
    let Some(pair) = &config.client else { return Vec::new() };
    match (certificates("client_cert", &pair.cert), private_key(&pair.key)) {
        // Roots are read of the system, too, which is no business of the configuration.
        (Ok(_), Ok(_)) => client_config(Arc::new(RootCertStore::empty()), Some(pair)).err().into_iter().collect(),
        (chain, key) => chain.err().into_iter().chain(key.err()).collect(),
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "a root certificate of the system cannot be read");
    }
    let mut roots = RootCertStore::empty();
    // Systems ship roots that no library accepts; those are passed over, as everybody does.
    roots.add_parsable_certificates(native.certs);
    if let Some(file) = ca {
        for certificate in certificates("ca", file)? {
            roots.add(certificate).map_err(|error| problem("ca", file, error))?;
        }
    }
    if roots.is_empty() {
        tracing::warn!("no root certificates found: install ca-certificates, or set `ca`; no https upstream can be reached");
    }
    Ok(roots)
}

fn client_config(roots: Arc<RootCertStore>, shown: Option<&KeyPair>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = certificates("client_cert", &pair.cert)?;
            let key = private_key(&pair.key)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => TlsError::Mismatch(pair.clone()),
                rustls::Error::InvalidCertificate(error) => {
                    problem("client_cert", &pair.cert, format!("its first certificate is wrong: {error:?}"))
                }
                error => problem("client_key", &pair.key, error),
            })?
        }
    };
    // Over HTTP/2 one window per connection bounds a download to window ÷ round trip; a connection per blob is faster.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The certificates of a PEM file, at least one.
fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let told = |error| match error {
        pem::Error::Io(error) => problem(key, file, error),
        error => problem(key, file, error),
    };
    match read.map_err(told)? {
        none if none.is_empty() => Err(problem(key, file, "it holds no PEM certificate")),
        certificates => Ok(certificates),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| {
        let why = match error {
            pem::Error::Io(error) => error.to_string(),
            error => format!("it holds no private key in PEM form that is not encrypted: {error}"),
        };
        problem("client_key", file, why)
    })
}

fn problem(key: &'static str, file: &Path, problem: impl ToString) -> TlsError {
    TlsError::File { key, file: file.to_owned(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_ca_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "nothing here").unwrap();
        for path in [&empty, &folder.path().join("missing.pem")] {
            let error = roots(Some(path)).unwrap_err().to_string();
            assert!(error.contains("`ca`") && error.contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn a_client_certificate_that_cannot_be_used_is_told_with_key_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let made = rcgen::generate_simple_self_signed(["mirror.example".to_owned()]).unwrap();
        let cert = write("a.crt", &made.cert.pem());
        let key = write("a.key", &made.signing_key.serialize_pem());
        let other = write("b.key", &rcgen::KeyPair::generate().unwrap().serialize_pem());
        let (empty, missing) = (write("empty", "nothing"), folder.path().join("missing"));
        let attempt = |cert: &Path, key: &Path| {
            let pair = KeyPair { cert: cert.to_owned(), key: key.to_owned() };
            client_config(Arc::new(RootCertStore::empty()), Some(&pair)).map(drop).map_err(|error| error.to_string())
        };
        attempt(&cert, &key).unwrap();
        for (cert, key, named, file) in [
            (&empty, &key, "`client_cert`", &empty),
            (&missing, &key, "`client_cert`", &missing),
            (&cert, &empty, "`client_key`", &empty),
            (&cert, &missing, "`client_key`", &missing),
            (&cert, &other, "does not belong to", &other),
        ] {
            let error = attempt(cert, key).unwrap_err();
            assert!(error.contains(named) && error.contains(file.to_str().unwrap()), "{error}");
            assert!(!error.contains("PRIVATE KEY"), "{error}");
        }
    }
}
