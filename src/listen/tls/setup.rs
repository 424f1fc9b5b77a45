//! From files to what rustls needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};

use super::Interface;
use super::files::Files;
use super::names::{self, Names};
use crate::config::{self, ClientAuth, Finding, KeyPair, TlsVersion};

/// The name of HTTP/2 in ALPN (RFC 9113, 3.2).
pub(super) const HTTP2: &[u8] = b"h2";

/// Why the certificates cannot be used. Names the file, never what stands in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, or not what it should be.
    #[error("{table}.{key}: {file}: {problem}", file = .file.display())]
    File {
        /// Of which interface.
        table: &'static str,
        /// The key that names it.
        key: &'static str,
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A key and a certificate are not of a kind.
    #[error("{0}: {told}", told = mismatch(.1))]
    Mismatch(&'static str, KeyPair),
    /// The TLS library refuses its own defaults.
    #[error("TLS: {0}")]
    Setup(#[from] rustls::Error),
}

impl TlsError {
    /// The same, for who knows where the key stands. A key may stand in the table, or in its list of certificates.
    pub fn finding(&self, interface: Interface) -> Finding {
        let section = interface.section();
        let of = |key: &'static str, file: &Path, message: String| {
            let finding = Finding::new(&[section, "tls", key], message).naming(file);
            finding.or_at(&[section, "tls", "certificates", key])
        };
        match self {
            Self::File { key, file, problem, .. } => of(key, file, format!("{}: {problem}", file.display())),
            Self::Mismatch(_, pair) => of("key", &pair.key, mismatch(pair)),
            Self::Setup(_) => Finding::new(&[section, "tls"], self),
        }
    }
}

fn mismatch(KeyPair { cert, key }: &KeyPair) -> String {
    format!("the key {} does not belong to the certificate {}; replace both", key.display(), cert.display())
}

/// A configuration of rustls, and the life of its certificates in their order.
pub(super) struct Made {
    pub config: Arc<ServerConfig>,
    pub expiries: Vec<Expiry>,
}

/// When a certificate is valid, in seconds since 1970.
pub(super) struct Expiry {
    pub file: PathBuf,
    pub begins: i64,
    pub ends: i64,
}

impl Expiry {
    /// What is wrong with it at this time.
    pub fn problem(&self, now: i64) -> Option<&'static str> {
        match now {
            now if self.ends < now => Some("has expired"),
            now if self.begins > now => Some("is not valid yet"),
            _ => None,
        }
    }
}

pub(super) fn server_config(config: &config::Tls, files: &Files, http2: bool, interface: Interface) -> Result<Made, TlsError> {
    let table = interface.table();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut names = Names::default();
    let mut expiries = Vec::new();
    for pair in &config.certificates {
        let Shown { chain, own, expiry } = shown(pair, files, table)?;
        expiries.push(expiry);
        let key = private_key(pair, files, table)?;
        names.add(own, Arc::new(certified(pair, chain, key, &provider, table)?));
    }
    let versions: &[_] = match config.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
    let builder = match &config.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(verifier(clients, files, provider, table)?),
    };
    let mut made = builder.with_cert_resolver(Arc::new(names));
    made.alpn_protocols = if http2 { vec![HTTP2.to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    // Sessions are resumed by tickets, under keys that end with this configuration: a client that was verified by other
    // roots is verified again. Nothing is kept here for a client that has left.
    made.ticketer = aws_lc_rs::Ticketer::new()?;
    made.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Made { config: Arc::new(made), expiries })
}

/// All that [`server_config`] fails for, each file by itself.
pub(super) fn problems(config: &config::Tls, files: &Files, interface: Interface) -> Vec<TlsError> {
    let (table, provider) = (interface.table(), Arc::new(aws_lc_rs::default_provider()));
    let mut problems = Vec::new();
    for pair in &config.certificates {
        match (shown(pair, files, table), private_key(pair, files, table)) {
            (Ok(Shown { chain, .. }), Ok(key)) => problems.extend(certified(pair, chain, key, &provider, table).err()),
            (chain, key) => problems.extend(chain.err().into_iter().chain(key.err())),
        }
    }
    problems.extend(config.clients.as_ref().and_then(|clients| verifier(clients, files, provider, table).err()));
    problems
}

/// What a client is shown.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    own: Vec<String>,
    expiry: Expiry,
}

fn shown(pair: &KeyPair, files: &Files, table: &'static str) -> Result<Shown, TlsError> {
    let chain = certificates(&pair.cert, (table, "cert"), files)?;
    let problem = |problem: &str| TlsError::File { table, key: "cert", file: pair.cert.clone(), problem: problem.to_owned() };
    let leaf = chain.first().ok_or_else(|| problem("it holds no certificate in PEM form"))?;
    let own = names::dns_names(leaf).ok_or_else(|| problem("its first certificate is no X.509 certificate"))?;
    let (begins, ends) = names::validity(leaf).ok_or_else(|| problem("its first certificate has no dates"))?;
    Ok(Shown { own, expiry: Expiry { file: pair.cert.clone(), begins, ends }, chain })
}

fn verifier(
    clients: &ClientAuth,
    files: &Files,
    provider: Arc<CryptoProvider>,
    table: &'static str,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let problem = |problem: String| TlsError::File { table, key: "client_ca", file: clients.ca.clone(), problem };
    let mut roots = RootCertStore::empty();
    for root in certificates(&clients.ca, (table, "client_ca"), files)? {
        roots.add(root).map_err(|error| problem(error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let verifier = if clients.required { verifier } else { verifier.allow_unauthenticated() };
    // An empty file fails here: nobody could come in.
    verifier.build().map_err(|error| problem(error.to_string()))
}

fn certificates(
    file: &Path,
    (table, key): (&'static str, &'static str),
    files: &Files,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let problem = |problem: String| TlsError::File { table, key, file: file.to_owned(), problem };
    let text = files.get(file).map_err(problem)?;
    CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|error| problem(format!("it is no PEM file: {error}")))
}

fn private_key(pair: &KeyPair, files: &Files, table: &'static str) -> Result<PrivateKeyDer<'static>, TlsError> {
    let problem = |problem: String| TlsError::File { table, key: "key", file: pair.key.clone(), problem };
    let text = files.get(&pair.key).map_err(problem)?;
    PrivateKeyDer::from_pem_slice(text).map_err(|error| {
        problem(match error {
            pem::Error::NoItemsFound => "it holds no private key in PEM form that is not encrypted".to_owned(),
            error => format!("it is no PEM file: {error}"),
        })
    })
}

fn certified(
    pair: &KeyPair,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
    table: &'static str,
) -> Result<CertifiedKey, TlsError> {
    let problem = |key, file: &Path, problem: String| TlsError::File { table, key, file: file.to_owned(), problem };
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch(table, pair.clone()),
        rustls::Error::InvalidCertificate(error) => {
            problem("cert", &pair.cert, format!("its first certificate is wrong: {error:?}"))
        }
        error => problem("key", &pair.key, error.to_string()),
    })
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").finish_non_exhaustive()
    }
}
