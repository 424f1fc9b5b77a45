//! What of a bundle is in the cache already, and the manifests that wait for the rest: in an unlinked file, so that memory
//! holds a digest per blob and never content. None of it goes to make room for the rest. Filled by [`super::archive`], read by [`super::walk`] and
//! [`super::images`].

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::super::document::Document;
use crate::cache::Cache;
use crate::cache::index::Hold;
use crate::oci::{Digest, MAX_MANIFEST};

/// How deep indexes may be nested.
pub const MAX_DEPTH: u32 = 4;

/// Where what was taken in is.
#[derive(Debug)]
pub struct Staged {
    spool: Option<File>,
    spooled: HashMap<Digest, (u64, u32)>,
    spool_len: u64,
    notes: Arc<Notes>,
    hold: Hold,
    /// Blobs that were in the cache already.
    pub known: usize,
}

/// What was published for a bundle: told by the reader and by the threads behind it.
#[derive(Debug, Default)]
pub struct Notes {
    published: Mutex<Vec<Digest>>,
    bytes: AtomicU64,
}

impl Notes {
    /// Notes that something was published.
    pub fn add(&self, digest: Digest, size: u64) {
        self.published.lock().push(digest);
        self.bytes.fetch_add(size, Ordering::Relaxed);
    }
}

impl Staged {
    /// Nothing yet. What others publish for it they add to `notes`.
    pub fn new(cache: &Cache, notes: Arc<Notes>) -> Self {
        Self { spool: None, spooled: HashMap::new(), spool_len: 0, notes, hold: cache.hold(), known: 0 }
    }

    /// The bundle's images need this: what is here of it, or comes, stays until the import has ended.
    pub fn hold(&self, digest: &Digest) {
        self.hold.add(digest);
    }

    /// The size of a blob that the bundle's images need, if the cache has it; then it stays, too.
    pub fn keeps(&self, cache: &Cache, digest: &Digest) -> Option<u64> {
        self.hold(digest);
        cache.keeps(digest)
    }

    /// What is here of an image stays, too; how many bytes that are more than before.
    pub fn keep_image(&self, cache: &Cache, digest: &Digest, depth: u32) -> u64 {
        let mut bytes = self.keep_if_here(cache, digest);
        // One that is not here, or was looked through, has nothing below it to be kept.
        if bytes == 0 || depth > MAX_DEPTH {
            return bytes;
        }
        let Ok(Some(manifest)) = small(cache, self, digest) else { return bytes };
        let Ok(document) = Document::parse(&manifest, None) else { return bytes };
        for child in &document.manifests {
            bytes += match child.media_type.is_manifest() {
                true => self.keep_image(cache, &child.digest, depth + 1),
                false => self.keep_if_here(cache, &child.digest),
            };
        }
        bytes + document.blobs.iter().map(|blob| self.keep_if_here(cache, &blob.digest)).sum::<u64>()
    }

    fn keep_if_here(&self, cache: &Cache, digest: &Digest) -> u64 {
        if self.hold.add(digest) { cache.has(digest).unwrap_or(0) } else { 0 }
    }

    /// What was published for this bundle.
    pub fn published(&self) -> Vec<Digest> {
        self.notes.published.lock().clone()
    }

    /// Bytes of what was published.
    pub fn bytes(&self) -> u64 {
        self.notes.bytes.load(Ordering::Relaxed)
    }

    /// Notes that something was published.
    pub fn note(&self, digest: Digest, size: u64) {
        self.notes.add(digest, size);
    }

    /// A manifest that waits.
    pub fn spooled(&self, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
        let (Some((at, len)), Some(spool)) = (self.spooled.get(digest), &self.spool) else { return Ok(None) };
        let mut bytes = vec![0; *len as usize];
        spool.read_exact_at(&mut bytes, *at)?;
        Ok(Some(bytes))
    }

    /// The size of a manifest that waits.
    pub fn spooled_size(&self, digest: &Digest) -> Option<u64> {
        self.spooled.get(digest).map(|(_, len)| u64::from(*len))
    }

    /// Keeps a manifest until everything that it needs is there.
    pub fn spool(&mut self, cache: &Cache, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        let spool = match &mut self.spool {
            Some(spool) => spool,
            none => none.insert(cache.store().scratch()?),
        };
        spool.write_all_at(bytes, self.spool_len)?;
        self.spooled.insert(digest, (self.spool_len, bytes.len() as u32));
        self.spool_len += bytes.len() as u64;
        Ok(())
    }
}

/// A whole published or spooled small object. A published one that is damaged is set apart: the next import brings it anew.
pub fn small(cache: &Cache, staged: &Staged, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
    if let Some(bytes) = staged.spooled(digest)? {
        return Ok(Some(bytes));
    }
    let Some((file, size)) = cache.store().read(digest)? else { return Ok(None) };
    if size > MAX_MANIFEST {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST).read_to_end(&mut bytes)?;
    if Digest::of(digest.algorithm(), &bytes) != *digest {
        cache.check(digest);
        return Ok(None);
    }
    Ok(Some(bytes))
}
