//! The files of one TLS configuration, read at one time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config;
use crate::oci::{Algorithm, Digest, Hasher};

/// What stands in each file, or why it cannot be read.
#[derive(Debug)]
pub(super) struct Files(BTreeMap<PathBuf, Result<Vec<u8>, String>>);

/// Reads them all. Blocking.
pub(super) fn read(config: &config::Tls) -> Files {
    let pairs = config.certificates.iter().flat_map(|pair| [&pair.cert, &pair.key]);
    let paths = pairs.chain(config.clients.as_ref().map(|clients| &clients.ca));
    Files(paths.map(|path| (path.clone(), std::fs::read(path).map_err(|error| error.to_string()))).collect())
}

impl Files {
    /// The content of one of them.
    pub fn get(&self, path: &Path) -> Result<&[u8], String> {
        match self.0.get(path) {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err("it was not read".to_owned()),
        }
    }

    /// The same for the same contents, and for nothing else.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for (path, content) in &self.0 {
            let (kind, bytes) = match content {
                Ok(bytes) => (0, bytes.as_slice()),
                Err(reason) => (1, reason.as_bytes()),
            };
            for part in [path.as_os_str().as_encoded_bytes(), &[kind], bytes] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        hasher.finish()
    }
}
