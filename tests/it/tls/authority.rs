//! A certificate authority of a test, and files of what it signs.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};

/// A root.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key in PEM.
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut root = CertificateParams::new(Vec::new()).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap())
    }

    /// The root in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server's, for these names.
    pub fn server(&self, names: &[&str]) -> Pair {
        self.sign(CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap())
    }

    /// A client's.
    pub fn client(&self, name: &str) -> Pair {
        self.client_named(name, &[])
    }

    /// A client's, that is also named by these URIs.
    pub fn client_named(&self, name: &str, uris: &[&str]) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair { cert: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// A folder of certificates.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `NAME.crt` and `NAME.key`.
    pub fn write(&self, name: &str, pair: &Pair) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(&format!("{name}.crt")), &pair.cert).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), &pair.key).unwrap();
    }

    /// `{ cert, key }` of [`Folder::write`].
    pub fn table(&self, name: &str) -> toml::Table {
        let text = |path: &Path| toml::Value::from(path.to_str().unwrap());
        let (cert, key) = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        toml::Table::from_iter([("cert".to_owned(), text(&cert)), ("key".to_owned(), text(&key))])
    }
}
