//! Reads the tree into the index when the mirror starts.
//!
//! The tree is the truth: what is found is taken in, oldest use first. Blocks, for seconds with 10^6 files, while the
//! mirror already serves; fills wait for it, because only then is it known how much room there is (I8).

use std::fs::Metadata;
use std::io;
use std::time::{Duration, Instant};

use super::index::{Found, Index};
use super::store::{Store, heat, stamp};
use crate::oci::{Algorithm, Digest};

/// What the scan found.
#[derive(Debug)]
pub struct Scanned {
    /// Published files.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Fills that can be resumed.
    pub leftovers: usize,
    /// How long it took.
    pub took: Duration,
}

/// What a file under `blobs/` says of itself.
pub fn found(meta: &Metadata, index: &Index) -> io::Result<Found> {
    let used = index.time(meta.modified()?);
    // Not every file system knows when a file was made.
    let since = meta.created().map_or(used, |made| index.time(made));
    Ok(Found { size: meta.len(), used, since, stamp: stamp(meta), heat: Some(heat(meta)) })
}

/// Takes in all files of the tree.
pub fn scan(store: &Store, index: &Index) -> io::Result<Scanned> {
    let started = Instant::now();
    let mut objects: Vec<(Digest, Found)> = Vec::new();
    for algorithm in Algorithm::ALL {
        for entry in store.list(&store.blobs(algorithm))? {
            let entry = entry?;
            let Some(digest) = entry.file_name().to_str().and_then(|hex| Digest::from_parts(algorithm, hex).ok()) else {
                tracing::warn!(path = %entry.path().display(), "not a cached file; left alone");
                continue;
            };
            match store.look(&entry) {
                Ok(meta) if meta.is_file() => {
                    objects.push((digest, found(&meta, index)?));
                }
                Ok(_) => tracing::warn!(path = %entry.path().display(), "not a file; left alone"),
                // Gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    objects.sort_unstable_by_key(|(_, found)| found.used);
    let bytes = objects.iter().map(|(_, found)| found.size).sum();
    for (digest, found) in &objects {
        index.insert_found(digest, *found);
    }
    for entry in store.list(&store.quarantine_dir())? {
        let entry = entry?;
        if let Some(digest) = entry.file_name().to_str().and_then(Digest::from_file_name) {
            index.insert_quarantined(digest, store.look(&entry)?.len());
        }
    }
    let mut leftovers = 0;
    for entry in store.list(&store.ingest_dir())? {
        let entry = entry?;
        // Everything else in there is being written just now.
        if let Some(digest) = entry.file_name().to_str().and_then(Digest::from_file_name) {
            let trimmed = store.trim_ingest(&digest);
            if let Err(error) = &trimmed {
                tracing::warn!(%digest, %error, "cannot give back what an unfinished download had set aside");
            }
            index.insert_leftover(digest, trimmed.or_else(|_| store.look(&entry).map(|meta| meta.len()))?);
            leftovers += 1;
        }
    }
    Ok(Scanned { objects: objects.len(), bytes, leftovers, took: started.elapsed() })
}
