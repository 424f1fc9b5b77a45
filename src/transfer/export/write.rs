//! A plan's bytes: as a tar, or as a folder.
//!
//! What is written, or linked, has been hashed on its way. Blocks.

use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::Path;

use super::{ExportError, Plan, blob_name};
use crate::cache::tree::Tree;
use crate::oci::{Algorithm, Digest, Hasher};
use crate::transfer::output::{sync_folder, temporary};
use crate::transfer::sign::Signer;
use crate::transfer::{bundle, tar};

/// One read of a blob.
const CHUNK: usize = 1 << 20;

impl Plan {
    fn index_bytes(&self) -> Vec<u8> {
        // Of strings and numbers: always possible.
        serde_json::to_vec(&self.index).unwrap_or_default()
    }

    /// Those of the blobs, each once.
    fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        Algorithm::ALL.into_iter().filter(|algorithm| self.blobs.iter().any(|(digest, _)| digest.algorithm() == *algorithm))
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
        for algorithm in self.algorithms() {
            archive.folder(&format!("blobs/{}/", algorithm.name()))?;
        }
        for (digest, size) in &self.blobs {
            let (file, _) = tree.read(digest)?.ok_or(ExportError::Gone(*digest))?;
            archive.begin(&blob_name(digest), *size)?;
            pass_on(file, digest, *size, |bytes| {
                progress(bytes.len() as u64);
                archive.content(bytes)
            })?;
            archive.pad(*size)?;
        }
        Ok(archive.finish()?)
    }

    /// Writes the bundle as a folder: hard links where the file system allows, copies elsewhere. Gives the number of
    /// links. The index comes last: a folder that has one is whole. What is there already, and sound, is left as it is.
    pub fn write_folder(
        &self,
        tree: &Tree,
        signer: Option<&Signer>,
        folder: &Path,
        mut progress: impl FnMut(u64),
    ) -> Result<usize, ExportError> {
        let mut links = 0;
        for algorithm in self.algorithms() {
            fs::create_dir_all(folder.join("blobs").join(algorithm.name()))?;
        }
        for (digest, size) in &self.blobs {
            let to = folder.join(blob_name(digest));
            let is_here = File::open(&to).is_ok_and(|file| pass_on(file, digest, *size, |_| Ok(())).is_ok());
            if is_here {
                progress(*size);
            } else {
                links += usize::from(carry(tree, digest, *size, &to, &mut progress)?);
            }
        }
        for algorithm in self.algorithms() {
            File::open(folder.join("blobs").join(algorithm.name()))?.sync_all()?;
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

/// Hands a blob's bytes on. Blames who has the file, at the end, if they are not what its name says: what is damaged must
/// not leave the site.
fn pass_on(mut file: File, digest: &Digest, size: u64, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), ExportError> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; CHUNK];
    let mut left = size;
    while left > 0 {
        let want = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        match file.read(&mut buffer[..want])? {
            0 => return Err(ExportError::Damaged(*digest)),
            read => {
                hasher.update(&buffer[..read]);
                take(&buffer[..read])?;
                left -= read as u64;
            }
        }
    }
    if hasher.finish() == *digest { Ok(()) } else { Err(ExportError::Damaged(*digest)) }
}

/// Brings a blob into a folder, which has it under its name when it is known to be sound. Whether as a link.
fn carry(tree: &Tree, digest: &Digest, size: u64, to: &Path, progress: &mut impl FnMut(u64)) -> Result<bool, ExportError> {
    let partial = temporary(to);
    let carried = (|| {
        // What an export that was interrupted has left.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let (file, _) = tree.read(digest)?.ok_or(ExportError::Gone(*digest))?;
        if fs::hard_link(tree.path(digest), &partial).is_ok() {
            pass_on(File::open(&partial)?, digest, size, |bytes| {
                progress(bytes.len() as u64);
                Ok(())
            })?;
            return Ok(true);
        }
        let mut out = File::create(&partial)?;
        pass_on(file, digest, size, |bytes| {
            progress(bytes.len() as u64);
            out.write_all(bytes)
        })?;
        out.sync_data()?;
        Ok(false)
    })();
    match carried {
        Ok(linked) => fs::rename(&partial, to).map(|()| linked).map_err(ExportError::from),
        Err(error) => {
            let _ = fs::remove_file(&partial);
            Err(error)
        }
    }
}

/// Writes a small file in one step, and what has been named beside it before.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = temporary(path);
    let mut file = File::create(&partial)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(partial, path)?;
    sync_folder(path)
}
