//! A plan's bytes: as a tar, or as a folder.
//!
//! What is written has been hashed on its way, or is a link to a file of the cache. Blocks.

use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use super::{ExportError, Plan, blob_name};
use crate::cache::tree::Tree;
use crate::transfer::sign::Signer;
use crate::transfer::{bundle, tar};

/// One read of a blob.
const CHUNK: usize = 1 << 20;

impl Plan {
    fn index_bytes(&self) -> Vec<u8> {
        // Of strings and numbers: always possible.
        serde_json::to_vec(&self.index).unwrap_or_default()
    }

    /// Writes the bundle as a tar. `progress` is told the bytes of each blob as it goes.
    pub fn write<W: Write>(
        &self,
        tree: &Tree,
        signer: Option<&Signer>,
        out: W,
        mut progress: impl FnMut(u64),
    ) -> Result<W, ExportError> {
        let mut archive = tar::Writer::new(out);
        let index = self.index_bytes();
        archive.file(bundle::LAYOUT, bundle::LAYOUT_CONTENT)?;
        archive.file(bundle::INDEX, &index)?;
        if let Some(signer) = signer {
            archive.file(bundle::SIGNATURE, signer.sign(&index).as_bytes())?;
        }
        if !self.docker.is_empty() {
            archive.file(bundle::DOCKER_MANIFEST, &serde_json::to_vec(&self.docker).map_err(io::Error::from)?)?;
        }
        archive.folder("blobs/")?;
        for algorithm in crate::oci::Algorithm::ALL {
            if self.blobs.iter().any(|(digest, _)| digest.algorithm() == algorithm) {
                archive.folder(&format!("blobs/{}/", algorithm.name()))?;
            }
        }
        let mut buffer = vec![0; CHUNK];
        for (digest, size) in &self.blobs {
            let (mut file, now) = tree.read(digest)?.ok_or(ExportError::Gone(*digest))?;
            if now != *size {
                return Err(ExportError::Gone(*digest));
            }
            // A damaged file must not leave the site: it is hashed on its way out.
            let mut hasher = crate::oci::Hasher::new(digest.algorithm());
            archive.begin(&blob_name(digest), *size)?;
            let mut left = *size;
            while left > 0 {
                let want = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
                let read = file.read(&mut buffer[..want])?;
                if read == 0 {
                    return Err(ExportError::Gone(*digest));
                }
                hasher.update(&buffer[..read]);
                archive.content(&buffer[..read])?;
                left -= read as u64;
                progress(read as u64);
            }
            if hasher.finish() != *digest {
                return Err(ExportError::Gone(*digest));
            }
            archive.pad(*size)?;
        }
        Ok(archive.finish()?)
    }

    /// Writes the bundle as a folder: hard links where the file system allows, copies elsewhere. Gives the number of
    /// links. The index comes last: a folder that has one is whole.
    pub fn write_folder(
        &self,
        tree: &Tree,
        signer: Option<&Signer>,
        folder: &Path,
        mut progress: impl FnMut(u64),
    ) -> Result<usize, ExportError> {
        let mut links = 0;
        for (digest, size) in &self.blobs {
            let to = folder.join(blob_name(digest));
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            if fs::metadata(&to).is_ok_and(|meta| meta.len() == *size) {
                progress(*size);
                continue;
            }
            let from = tree.path(digest);
            match fs::hard_link(&from, &to) {
                Ok(()) => links += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ExportError::Gone(*digest)),
                Err(_) => {
                    let temporary = PathBuf::from(format!("{}.partial", to.display()));
                    fs::copy(&from, &temporary)?;
                    fs::rename(&temporary, &to)?;
                }
            }
            progress(*size);
        }
        let index = self.index_bytes();
        replace(&folder.join(bundle::LAYOUT), bundle::LAYOUT_CONTENT)?;
        match signer {
            Some(signer) => replace(&folder.join(bundle::SIGNATURE), signer.sign(&index).as_bytes())?,
            None => match fs::remove_file(folder.join(bundle::SIGNATURE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            },
        }
        replace(&folder.join(bundle::INDEX), &index)?;
        Ok(links)
    }
}

/// Writes a small file in one step.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = PathBuf::from(format!("{}.partial", path.display()));
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(temporary, path)
}
