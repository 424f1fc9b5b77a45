//! The names in a client's certificate.

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Whom a verified client certificate names (RFC 5280). One that was not verified never becomes one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// DNS names among its subject alternative names, in lower case.
    pub dns: Vec<String>,
    /// URIs among them, as SPIFFE identities are.
    pub uris: Vec<String>,
    /// Mail addresses among them.
    pub emails: Vec<String>,
}

impl ClientCertificate {
    /// Reads the names. `None` if these bytes are no certificate, or its names are not text: then nobody is named.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        // The last one is the most specific one (RFC 4514, 2.1).
        let common_name = match certificate.subject().iter_common_name().last() {
            Some(name) => Some(name.as_str().ok()?.to_owned()),
            None => None,
        };
        let mut read = Self { common_name, ..Self::default() };
        let names = certificate.subject_alternative_name().ok()?.map_or(&[][..], |extension| &extension.value.general_names);
        for name in names {
            match name {
                GeneralName::DNSName(name) => read.dns.push(name.to_ascii_lowercase()),
                GeneralName::URI(uri) => read.uris.push((*uri).to_owned()),
                GeneralName::RFC822Name(address) => read.emails.push((*address).to_owned()),
                _ => {}
            }
        }
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    #[test]
    fn the_names_of_a_certificate() {
        let mut params = CertificateParams::new(vec!["Node-1.Example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "node 1");
        params.subject_alt_names.push(SanType::URI("spiffe://example/node/1".try_into().unwrap()));
        params.subject_alt_names.push(SanType::Rfc822Name("ops@example".try_into().unwrap()));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let expected = ClientCertificate {
            common_name: Some("node 1".to_owned()),
            dns: vec!["node-1.example".to_owned()],
            uris: vec!["spiffe://example/node/1".to_owned()],
            emails: vec!["ops@example".to_owned()],
        };
        assert_eq!(ClientCertificate::parse(certificate.der()), Some(expected));
        assert_eq!(ClientCertificate::parse(&certificate.der()[..100]), None);
        assert_eq!(ClientCertificate::parse(b""), None);
    }
}
