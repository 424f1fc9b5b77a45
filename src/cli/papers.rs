//! What the commands show to an admin interface that speaks TLS, and whom they believe.
//!
//! The system's roots, those of `--admin-ca`, and, where the mirror's own configuration is read, the certificate that it
//! names: whoever can read that file is on the mirror's machine. Verification cannot be turned off. Used by [`super::endpoint`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config;
use crate::listen::tls::first_name;

/// Files for TLS with the admin interface.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Papers {
    /// For an admin interface at https://: trust the authorities in this PEM file as well
    #[arg(long = "admin-ca", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Show the admin interface this client certificate, a PEM file that includes the intermediates
    #[arg(long = "admin-cert", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// The key of that certificate, a PEM file
    #[arg(long = "admin-key", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// The certificate that the mirror shows by its own configuration.
    #[arg(skip)]
    own: Option<PathBuf>,
}

impl Papers {
    /// These, and what the mirror's configuration says of it.
    pub fn with(&self, admin: &config::Admin) -> Self {
        let own = admin.tls.as_ref().and_then(|tls| tls.certificates.first()).map(|pair| pair.cert.clone());
        Self { own, ..self.clone() }
    }

    /// Connects to `host`, which is `HOST:PORT`. `configured`: that is where the configuration says, by address; the
    /// certificate is then for whatever name stands in it.
    pub async fn connect(&self, host: &str, configured: bool) -> anyhow::Result<TlsStream<TcpStream>> {
        let own = self.own.as_deref().map(certificates).transpose()?.unwrap_or_default();
        let by_config = own.first().filter(|_| configured).and_then(|certificate| first_name(certificate));
        let name = match by_config {
            Some(name) => name,
            None => {
                let bare = host.rsplit_once(':').map_or(host, |(name, _)| name);
                bare.trim_start_matches('[').trim_end_matches(']').to_owned()
            }
        };
        let name = ServerName::try_from(name.clone()).with_context(|| format!("{name:?} is no name of a server"))?;
        let connector = TlsConnector::from(Arc::new(self.config(own)?));
        Ok(connector.connect(name, TcpStream::connect(host).await?).await?)
    }

    fn config(&self, own: Vec<CertificateDer<'static>>) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(own);
        if let Some(file) = &self.ca {
            for root in certificates(file)? {
                roots.add(root).with_context(|| file.display().to_string())?;
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(roots);
        let mut config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let shown = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| anyhow!("{}: it holds no private key in PEM form: {error}", key.display()))?;
                let chain = certificates(cert)?;
                builder.with_client_auth_cert(chain, shown).with_context(|| {
                    format!("the key {} and the certificate {} are of no use together", key.display(), cert.display())
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The certificates of a PEM file, at least one.
fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().with_context(|| file.display().to_string())?;
    if found.is_empty() {
        bail!("{} holds no certificate in PEM form", file.display());
    }
    Ok(found)
}
