//! The cache folder as it lies on the disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use roadstead::oci::{Algorithm, Digest, Hasher};
use tempfile::TempDir;

use crate::support::image::Blob;
use crate::support::until;

/// A mirror's cache folder; it is removed with the last of these.
#[derive(Clone, Debug)]
pub struct Files(Arc<TempDir>);

impl Files {
    pub(super) fn new(folder: Arc<TempDir>) -> Self {
        Self(folder)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// Where a blob is, or would be, published.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// Whether a blob is published.
    pub fn has(&self, blob: &Blob) -> bool {
        self.path(&blob.digest).exists()
    }

    /// Waits until a blob is published.
    pub async fn get(&self, blob: &Blob) {
        until(&format!("{} under blobs/", blob.digest), || self.has(blob)).await;
    }

    /// Everything under `blobs/`. Fails unless each is a file that hashes to its name (I1).
    pub fn blobs(&self) -> Vec<Digest> {
        let mut digests = Vec::new();
        for algorithm in Algorithm::ALL {
            let folder = self.root().join("blobs").join(algorithm.name());
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries {
                let path = entry.expect("an entry").path();
                let name = path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
                let digest = Digest::from_parts(algorithm, name).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let mut hasher = Hasher::new(algorithm);
                hasher.update(&std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
                assert_eq!(hasher.finish(), digest, "{} is not what its name says", path.display());
                digests.push(digest);
            }
        }
        digests
    }

    /// The bytes of all files in `blobs/` and `ingest/`.
    pub fn size(&self) -> u64 {
        ["blobs", "ingest"].iter().map(|folder| size(&self.root().join(folder))).sum()
    }

    /// How many fills lie in `ingest/`.
    pub fn ingests(&self) -> usize {
        std::fs::read_dir(self.root().join("ingest")).map_or(0, |entries| entries.count())
    }
}

/// The bytes of all files below `path`. One that goes while this looks counts nothing.
fn size(path: &Path) -> u64 {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries.filter_map(Result::ok).map(|entry| size(&entry.path())).sum()
}
