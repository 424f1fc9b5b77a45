use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::config::TlsVersion;

/// A folder with the files of one certificate.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("a", 4096);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes `NAME.crt` and `NAME.key`; the certificate ends with this year.
    fn write(&self, name: &str, year: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![format!("{name}.example"), format!("*.{name}.example")]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        std::fs::write(self.path(&format!("{name}.crt")), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn config(&self, names: &[&str]) -> config::Tls {
        let pair =
            |name: &&str| config::KeyPair { cert: self.path(&format!("{name}.crt")), key: self.path(&format!("{name}.key")) };
        config::Tls { certificates: names.iter().map(pair).collect(), clients: None, min_version: TlsVersion::V1_2 }
    }

    fn load(&self, names: &[&str]) -> Result<Arc<Tls>, TlsError> {
        Tls::load(&self.config(names), Interface::Server, true, Duration::from_secs(10), Arc::new(Metrics::new()))
    }
}

fn in_use(tls: &Tls) -> Arc<ServerConfig> {
    tls.current.read().clone()
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_with_key_and_file() {
    let files = Files::new();
    files.write("b", 4096);
    let fails = |what: &str| {
        let error = files.load(&["a"]).unwrap_err().to_string();
        assert!(error.contains("server.tls") && error.contains(what), "{error}");
        assert!(!error.contains("PRIVATE KEY"), "{error}");
        error
    };
    let (cert, key) = (files.path("a.crt"), files.path("a.key"));
    let shown = |path: &Path| path.display().to_string();
    let good = (std::fs::read(&cert).unwrap(), std::fs::read(&key).unwrap());

    std::fs::copy(files.path("b.key"), &key).unwrap();
    assert!(fails(&shown(&key)).contains("does not belong to the certificate"));
    std::fs::write(&key, "nothing").unwrap();
    assert!(fails(&shown(&key)).contains("server.tls.key"));
    // Half of it is there.
    std::fs::write(&key, &good.1[..good.1.len() / 2]).unwrap();
    fails(&shown(&key));
    std::fs::write(&key, &good.1).unwrap();
    std::fs::write(&cert, &good.0[..good.0.len() / 2]).unwrap();
    fails(&shown(&cert));
    std::fs::write(&cert, "").unwrap();
    assert!(fails(&shown(&cert)).contains("server.tls.cert"));
    std::fs::remove_file(&cert).unwrap();
    assert!(fails(&shown(&cert)).contains("No such file"));
    std::fs::write(&cert, &good.0).unwrap();
    files.load(&["a"]).unwrap();
}

#[test]
fn only_good_files_replace_what_is_in_use() {
    let files = Files::new();
    let tls = files.load(&["a"]).unwrap();
    let first = in_use(&tls);
    assert!(!tls.reload(None).unwrap());
    assert!(!tls.reload(Some(&files.config(&["a"]))).unwrap());
    assert!(Arc::ptr_eq(&first, &in_use(&tls)), "what has not changed keeps its tickets");

    files.write("b", 4096);
    std::fs::copy(files.path("b.crt"), files.path("a.crt")).unwrap();
    assert!(matches!(tls.reload(None), Err(TlsError::Mismatch(..))));
    assert!(!tls.reload(None).unwrap(), "told and counted once");
    assert_eq!(tls.metrics.tls_reload_failures_total.get(), 1);
    assert!(tls.reload(Some(&files.config(&["a"]))).is_err(), "an operator who asks is told again");
    assert!(Arc::ptr_eq(&first, &in_use(&tls)));

    std::fs::copy(files.path("b.key"), files.path("a.key")).unwrap();
    assert!(tls.reload(None).unwrap());
    let second = in_use(&tls);
    assert!(!Arc::ptr_eq(&first, &second));

    // As Kubernetes does it: the folder behind the names is another one.
    let mounted = |name: &str| files.path("mount").join(name);
    for (number, year) in [("1", 4096), ("2", 4097)] {
        files.write("c", year);
        let folder = mounted(number);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::rename(files.path("c.crt"), folder.join("tls.crt")).unwrap();
        std::fs::rename(files.path("c.key"), folder.join("tls.key")).unwrap();
    }
    let swap = |number: &str| {
        std::os::unix::fs::symlink(number, mounted("..next")).unwrap();
        std::fs::rename(mounted("..next"), mounted("..data")).unwrap();
    };
    swap("1");
    let pair = config::KeyPair { cert: mounted("..data/tls.crt"), key: mounted("..data/tls.key") };
    let wanted = config::Tls { certificates: vec![pair], clients: None, min_version: TlsVersion::V1_3 };
    assert!(tls.reload(Some(&wanted)).unwrap(), "other files, too");
    assert!(!tls.reload(None).unwrap());
    let expiry = || tls.metrics.tls_certificate_expiry_seconds.with_label_values(&["0"]).get();
    let before = expiry();
    swap("2");
    assert!(tls.reload(None).unwrap());
    assert!(expiry() > before);
}

#[test]
fn an_expired_certificate_is_used_all_the_same() {
    let files = Files::new();
    files.write("a", 2001);
    files.write("b", 4096);
    let tls = files.load(&["a", "b"]).unwrap();
    let expiry = |index: &str| tls.metrics.tls_certificate_expiry_seconds.with_label_values(&[index]).get();
    assert_eq!(expiry("0"), 978_307_200);
    assert!(expiry("1") > now());
    tls.reload(Some(&files.config(&["b"]))).unwrap();
    assert_eq!(tls.metrics.tls_certificate_expiry_seconds.with_label_values(&["1"]).get(), 0, "what is gone is not shown");
}
