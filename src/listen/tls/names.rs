//! Which certificate a client is shown: the one for the name that it asks for (RFC 6066, 3), else the first.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Certificates by the names that stand in them.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// In lower case; those with a `*.` stand for one further component each (RFC 6125, 6.4.3).
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// In the order of the configuration.
    all: Vec<Arc<CertifiedKey>>,
}

impl Names {
    pub fn add(&mut self, names: Vec<String>, key: Arc<CertifiedKey>) {
        for name in names {
            self.by_name.entry(name).or_default().push(key.clone());
        }
        self.all.push(key);
    }

    /// The certificates for a name, the best ones first; those of no use to the client are among them.
    fn find(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let name = name.map(str::to_ascii_lowercase);
        let exact = name.as_ref().and_then(|name| self.by_name.get(name));
        let wild = || {
            let (_, parent) = name.as_ref()?.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        };
        exact.or_else(wild).unwrap_or(&self.all)
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = self.find(hello.server_name());
        // One name may have a certificate for modern clients and one for others.
        let usable = found.iter().find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some());
        usable.or(found.first()).cloned()
    }
}

/// The DNS names of a certificate in lower case. `None` if it is none.
pub(super) fn dns_names(der: &[u8]) -> Option<Vec<String>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()?.map_or(&[][..], |extension| &extension.value.general_names);
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Some(dns.collect())
}

/// When a certificate begins and ends to be valid, in seconds since 1970. `None` if it is none.
pub(super) fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}
