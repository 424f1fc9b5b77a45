//! Reads records and manifests into the catalog after the start, and keeps house every minute: expiry, lost records,
//! free space.
//!
//! Blocks; runs while the mirror serves. What pulls note meanwhile is newer than what is found here, and stays.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::de::DeserializeOwned;

use super::catalog::Totals;
use super::index::{CHUNK, Sum};
use super::records::{ManifestRecord, TagRecord};
use super::{Cache, read};
use crate::clock::Timestamp;
use crate::metrics::Removal;
use crate::oci::{Digest, ImageRef, MAX_MANIFEST, Manifest, MediaType, Reference, Scope};

/// Counts what cannot be read at the start. Only the first is logged by itself: a disk that fails would fill the log.
#[derive(Default)]
struct Unread(u64);

impl Unread {
    /// What was read, or nothing. That a file has gone is no failure of the disk.
    fn note<T>(&mut self, path: &Path, read: io::Result<T>) -> Option<T> {
        match read {
            Ok(read) => Some(read),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    if self.0 == 0 {
                        tracing::warn!(path = %path.display(), %error, "cannot read a record");
                    }
                    self.0 += 1;
                }
                None
            }
        }
    }
}

impl Cache {
    /// A small JSON file. A damaged one is as good as none, one that cannot be read is not.
    fn record<T: DeserializeOwned>(&self, path: &Path) -> io::Result<Option<T>> {
        match self.store.read_small(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn tag_record(&self, path: &Path) -> io::Result<Option<TagRecord>> {
        let found = self.record::<TagRecord<Timestamp>>(path)?;
        Ok(found.map(|found| found.timed(|date| self.clock().moment(date))))
    }

    /// Reads what pins protect, so that it is protected before anything can be evicted. An error: something that a pin
    /// needs could not be read, and may be unprotected; all else is protected.
    pub(super) fn survey_pins(&self) -> io::Result<()> {
        let mut failed = Ok(());
        for ImageRef { scope, reference } in self.pins.all().iter().map(|pin| pin.image.clone()) {
            let root = match reference {
                Reference::Digest(digest) => digest,
                Reference::Tag(tag) => {
                    let found = match self.tag_record(&self.records.tag_path(&scope, &tag)) {
                        Ok(Some(found)) => found,
                        Ok(None) => continue,
                        Err(error) => {
                            failed = Err(error);
                            continue;
                        }
                    };
                    let digest = found.digest;
                    self.catalog.found_tag(&scope, tag, found);
                    digest
                }
            };
            // What they are made of, and not that the repository has them: that is for records to say.
            failed = failed.and(self.survey_parts(&root, None));
            for part in self.catalog.parts(&root).into_iter().flatten().filter(|part| part.is_manifest) {
                failed = failed.and(self.survey_parts(&part.digest, None));
            }
        }
        self.reprotect();
        failed
    }

    /// Reads all records, and all manifests they name.
    pub(super) fn survey(&self) {
        let (started, mut unread) = (Instant::now(), Unread::default());
        for upstream in self.listed(self.records.root(), &mut unread) {
            if let Some(name) = upstream.file_name().to_str().and_then(|name| name.parse().ok()) {
                self.survey_folder(&name, &upstream.path(), "", &mut unread);
            }
        }
        self.reprotect();
        self.confine_known();
        let Totals { repositories, tags, manifests, .. } = self.catalog.totals();
        if unread.0 > 0 {
            tracing::error!(
                files = unread.0,
                "what could not be read is not listed until it is pulled again, or the mirror is restarted"
            );
        }
        tracing::info!(
            repositories,
            tags,
            manifests,
            duration_ms = started.elapsed().as_millis() as u64,
            "cache catalog is complete"
        );
    }

    fn listed(&self, folder: &Path, unread: &mut Unread) -> impl Iterator<Item = fs::DirEntry> + use<> {
        unread.note(folder, self.store.list(folder)).into_iter().flatten().flatten()
    }

    fn survey_folder(&self, upstream: &crate::oci::UpstreamName, folder: &Path, repository: &str, unread: &mut Unread) {
        let scope = repository.parse().ok().map(|repository| Scope { upstream: upstream.clone(), repository });
        for entry in self.listed(folder, unread) {
            let name = entry.file_name();
            match (name.to_str(), &scope) {
                (Some("_tags"), Some(scope)) => self.survey_tags(scope, &entry.path(), unread),
                (Some("_manifests"), Some(scope)) => self.survey_manifests(scope, &entry.path(), unread),
                (Some(name), _) if !name.starts_with('_') && entry.file_type().is_ok_and(|kind| kind.is_dir()) => {
                    let inner = if repository.is_empty() { name.to_owned() } else { format!("{repository}/{name}") };
                    self.survey_folder(upstream, &entry.path(), &inner, unread);
                }
                _ => {}
            }
        }
    }

    fn survey_tags(&self, scope: &Scope, folder: &Path, unread: &mut Unread) {
        for entry in self.listed(folder, unread) {
            let tag = entry.file_name().to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok());
            let Some(tag) = tag else { continue };
            let path = entry.path();
            if let Some(found) = unread.note(&path, self.tag_record(&path)).flatten() {
                self.catalog.found_tag(scope, tag, found);
            }
        }
    }

    fn survey_manifests(&self, scope: &Scope, folder: &Path, unread: &mut Unread) {
        for entry in self.listed(folder, unread) {
            let digest = entry.file_name().to_str().and_then(|name| Digest::from_file_name(name.strip_suffix(".json")?));
            if let Some(digest) = digest {
                let path = entry.path();
                let record = unread.note(&path, self.record::<ManifestRecord>(&path)).flatten();
                let media_type = record.as_ref().map(|record| record.media_type.as_str());
                unread.note(&path, self.survey_manifest(scope, &digest, media_type));
                // What pins protect is known by now. An earlier process may have had more room.
                if self.is_to_thin_out() {
                    self.thin_out();
                }
            }
        }
    }

    /// Tells the catalog what a manifest is made of that came by another way than a pull.
    pub async fn learn_manifest(self: &Arc<Self>, scope: &Scope, digest: &Digest, media_type: &MediaType) {
        let (scope, digest, media_type) = (scope.clone(), *digest, media_type.clone());
        let learnt = self.blocking(move |cache| {
            // Of one that cannot be read, the next pull says what it is made of.
            let _ = cache.survey_manifest(&scope, &digest, Some(media_type.as_str()));
            cache.reprotect_manifest(&digest);
            cache.mind_the_crowd();
        });
        let _ = learnt.await;
    }

    /// Reads one manifest of a repository, if it is here.
    pub(super) fn survey_manifest(&self, scope: &Scope, digest: &Digest, media_type: Option<&str>) -> io::Result<()> {
        self.catalog.set_manifest(scope, digest, self.class(scope));
        self.survey_parts(digest, media_type)
    }

    /// Reads what one manifest is made of, if it is here, and compares the sizes of its parts with what it says.
    fn survey_parts(&self, digest: &Digest, media_type: Option<&str>) -> io::Result<()> {
        if self.catalog.is_manifest(digest) {
            return Ok(());
        }
        let Some((file, size)) = self.store.read(digest)? else { return Ok(()) };
        let bytes = read::whole(&file, size.min(MAX_MANIFEST))?;
        let Ok(manifest) = Manifest::parse(&bytes, media_type) else { return Ok(()) };
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            // A request for it, or the verification, sets it apart.
            return Ok(());
        }
        self.catalog.set_parts(digest, &manifest);
        manifest.manifests.iter().chain(&manifest.blobs).for_each(|part| self.check_size(&part.digest, part.size));
        Ok(())
    }

    /// What is due every minute. On the blocking pool.
    pub(super) async fn keep_house(self: &Arc<Self>) {
        let expired = self.blocking(|cache| {
            let Sum { objects, bytes } = cache.expire();
            if objects > 0 {
                tracing::info!(objects, size_bytes = bytes, "removed what was unused for longer than its quota allows");
            }
            cache.thin_out();
        });
        let _ = expired.await;
        self.prune_records().await;
        let kept = self.blocking(|cache| {
            cache.prune_confined();
            cache.index.retry();
            cache.retry_condemned();
            // Only complains where a fill would, too.
            let _ = cache.keep_limits(&mut |_| {});
        });
        let _ = kept.await;
    }

    /// Removes what was unused for longer than its quota allows; what that was.
    pub(super) fn expire(&self) -> Sum {
        let (mut from, mut expired) = (Some(0), Sum::default());
        while let Some(at) = from {
            let (victims, next) = self.index.expire(at, CHUNK);
            from = next;
            for victim in victims {
                if !self.unlink(victim).unwrap_or(false) {
                    continue;
                }
                self.memory.forget(&victim.digest);
                self.count_eviction(&victim, Removal::Expired);
                expired.add(victim.size);
            }
        }
        expired
    }

    /// What [`Cache::expire`] would remove.
    pub(super) fn count_expired(&self) -> Sum {
        let (mut from, mut expired) = (Some(0), Sum::default());
        while let Some(at) = from {
            from = self.index.count_expired(at, CHUNK, &mut expired);
        }
        expired
    }
}
