//! TLS towards upstreams: which roots are believed.
//!
//! The provider is given by hand: a process-wide default would panic as soon as a second one were linked. Verification
//! cannot be turned off; an upstream with a certificate of its own gets a `ca` file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Why an upstream's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The `ca` file cannot be read or holds something that is no certificate.
    #[error("`ca` file {file}: {problem}", file = .file.display())]
    Ca {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The TLS library refuses its own defaults.
    #[error("TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// A client configuration that believes the system's roots and those in `ca`, and speaks HTTP/1.1 alone.
///
/// Reads files: not to be called on the reactor (I11).
pub(super) fn client_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "a root certificate of the system cannot be read");
    }
    let mut roots = RootCertStore::empty();
    // Systems ship roots that no library accepts; those are passed over, as everybody does.
    roots.add_parsable_certificates(native.certs);
    if let Some(file) = ca {
        let problem = |problem: String| TlsError::Ca { file: file.to_owned(), problem };
        let mut found = false;
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| problem(error.to_string()))? {
            let certificate = certificate.map_err(|error| problem(error.to_string()))?;
            roots.add(certificate).map_err(|error| problem(error.to_string()))?;
            found = true;
        }
        if !found {
            return Err(problem("it holds no PEM certificate".to_owned()));
        }
    }
    if roots.is_empty() {
        tracing::warn!("no root certificates found: install ca-certificates, or set `ca`; no https upstream can be reached");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    // Over HTTP/2 one window per connection bounds a download to window ÷ round trip; a connection per blob is faster.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
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
            let error = client_config(Some(path)).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }
}
