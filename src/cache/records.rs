//! What is known of names: which digest a tag had and when that was confirmed, which type a manifest has, what
//! refers to it, and which tags about it there are not. Small JSON files under `repos/`; what is often asked for is kept
//! in memory once read.
//!
//! A record is a hint that can be lost at any time, never a proof: a damaged one is as good as none, and the bytes a
//! record leads to are checked by their digest. Folder names that begin with `_` cannot collide with a repository's
//! components. Called by `pull`; file access goes to the blocking pool (I11).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use moka::Entry;
use moka::ops::compute::{CompResult, Op};
use moka::sync::Cache as Memory;
use parking_lot::RwLock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;

use super::Cache;
use crate::clock::{Moment, Timestamp};
use crate::oci::{Digest, MediaType, Scope, Tag};

mod referrers;

use referrers::Lists;
pub use referrers::ReferrersRecord;

/// Records kept in memory; a few hundred bytes each.
const IN_MEMORY: u64 = 100_000;

/// What a tag was, when it was last confirmed. On disk with a [`Timestamp`], as the other records that have a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct TagRecord<T = Moment> {
    /// The manifest it named. That manifest was in the cache when this was written.
    pub digest: Digest,
    /// When the upstream was last asked and said so. Not when that was written: freshness runs from the question
    /// (RFC 9111 §4.2.3).
    pub checked_at: T,
    /// It came in a bundle: an offline mirror serves it as fresh, because there is nothing fresher.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
}

/// What a manifest is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct ManifestRecord {
    /// Its media type, as the upstream and the bytes agree on it.
    pub media_type: MediaType,
}

/// That a repository had none of a tag that would be about one of its manifests ([`Tag::subject`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct AbsenceRecord<T = Moment> {
    /// When the upstream was last asked and said so.
    pub checked_at: T,
}

impl<T> TagRecord<T> {
    pub(super) fn timed<U>(self, time: impl FnOnce(T) -> U) -> TagRecord<U> {
        let Self { digest, checked_at, imported } = self;
        TagRecord { digest, checked_at: time(checked_at), imported }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TagKey(pub Scope, pub Tag);

/// All records of one cache.
#[derive(Debug)]
pub struct Records {
    root: PathBuf,
    /// `None`: there is no file, so that a cold tag asks the disk once.
    pub(super) tags: Memory<TagKey, Option<Arc<TagRecord>>>,
    lists: Lists,
    /// Shared by those who write records, so that no folder goes before its first record has come. Blocks.
    folders: RwLock<()>,
}

impl Records {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, tags: Memory::new(IN_MEMORY), lists: Lists::default(), folders: RwLock::default() }
    }

    /// As a new process would find them.
    #[cfg(test)]
    pub(super) fn reread(&self) {
        self.tags.invalidate_all();
        self.lists.forget();
    }

    fn folder(&self, scope: &Scope) -> PathBuf {
        self.root.join(scope.upstream.as_str()).join(scope.repository.as_str())
    }

    pub(super) fn root(&self) -> &std::path::Path {
        &self.root
    }

    pub(super) fn manifest_path(&self, scope: &Scope, digest: &Digest) -> PathBuf {
        self.digest_path(scope, "_manifests", digest, "")
    }

    /// Removes the lists of what refers to a manifest, whatever they were filtered by, and what is known of the tags about
    /// it that there are not. Blocks.
    pub(super) fn forget_referrers(&self, scope: &Scope, digest: &Digest) {
        let begins = digest.file_name();
        for folder in ["_referrers", "_absent"] {
            let Ok(entries) = std::fs::read_dir(self.folder(scope).join(folder)) else { continue };
            for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&begins)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Blocks. As [`Cache::remove_tag`]; a tag whose file cannot be removed is not forgotten.
    pub(super) fn forget_tag(&self, scope: &Scope, tag: &Tag) -> io::Result<()> {
        let key = TagKey(scope.clone(), tag.clone());
        self.tags.insert(key.clone(), None);
        match std::fs::remove_file(self.tag_path(scope, tag)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // The file is read again.
                self.tags.invalidate(&key);
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Removes the folders of a repository that are empty, and then those above it. Blocks.
    pub(super) fn remove_empty(&self, scope: &Scope) {
        let _removing = self.folders.write();
        let folder = self.folder(scope);
        for inner in ["_tags", "_manifests", "_referrers", "_absent"] {
            let _ = std::fs::remove_dir(folder.join(inner));
        }
        let repositories = folder.ancestors().take_while(|folder| *folder != self.root);
        // The first in which there is something ends it.
        let _ = repositories.map(std::fs::remove_dir).take_while(Result::is_ok).count();
    }

    pub(super) fn tag_path(&self, scope: &Scope, tag: &Tag) -> PathBuf {
        self.folder(scope).join("_tags").join(format!("{tag}.json"))
    }

    fn absence_path(&self, scope: &Scope, tag: &Tag) -> PathBuf {
        self.folder(scope).join("_absent").join(format!("{tag}.json"))
    }

    fn digest_path(&self, scope: &Scope, folder: &str, digest: &Digest, suffix: &str) -> PathBuf {
        self.folder(scope).join(folder).join(format!("{}{suffix}.json", digest.file_name()))
    }
}

impl Cache {
    /// What is known of a tag.
    pub async fn tag(self: &Arc<Self>, scope: &Scope, tag: &Tag) -> Option<Arc<TagRecord>> {
        let key = TagKey(scope.clone(), tag.clone());
        if let Some(known) = self.records.tags.get(&key) {
            return known;
        }
        let found: Option<TagRecord<Timestamp>> = self.read_record(self.records.tag_path(scope, tag)).await;
        let found = found.map(|found| Arc::new(found.timed(|date| self.clock().moment(date))));
        // A record written while the file was read is newer than what was read.
        self.records.tags.get_with(key, || found)
    }

    /// Writes down what a tag is, whatever was known of it. After an error that holds until the process ends.
    pub async fn set_tag(self: &Arc<Self>, scope: &Scope, tag: &Tag, record: TagRecord) -> io::Result<()> {
        self.put_tag(scope, tag, record, |_| true).await
    }

    /// Writes down what a check of a tag has found, unless a later check is known: of several at one time the one that
    /// asked last counts, whichever ends last. What was asked for after `now` was written under a wrong clock.
    pub async fn confirm_tag(self: &Arc<Self>, scope: &Scope, tag: &Tag, record: TagRecord, now: Moment) {
        // Reads it from its file, if it is not in memory.
        let _ = self.tag(scope, tag).await;
        let asked = record.checked_at;
        // One that cannot be written down is asked for again by the next process.
        let _ = self.put_tag(scope, tag, record, |known| known.checked_at <= asked || known.checked_at > now).await;
    }

    async fn put_tag(
        self: &Arc<Self>,
        scope: &Scope,
        tag: &Tag,
        record: TagRecord,
        replaces: impl Fn(&TagRecord) -> bool,
    ) -> io::Result<()> {
        let (record, mut moved) = (Arc::new(record), true);
        let entry = self.records.tags.entry(TagKey(scope.clone(), tag.clone()));
        let put = entry.and_compute_with(|known| match known.and_then(Entry::into_value) {
            Some(known) if !replaces(&known) => Op::Nop,
            known => {
                moved = known.is_none_or(|known| known.digest != record.digest);
                Op::Put(Some(record.clone()))
            }
        });
        if matches!(put, CompResult::Unchanged(_)) {
            return Ok(());
        }
        self.settle_tag(scope, tag, Some(record), moved).await
    }

    /// Forgets a tag that the upstream no longer has. Its manifest stays, by digest.
    pub async fn remove_tag(self: &Arc<Self>, scope: &Scope, tag: &Tag) {
        self.records.tags.insert(TagKey(scope.clone(), tag.clone()), None);
        let _ = self.settle_tag(scope, tag, None, true).await;
    }

    /// Brings catalog and file to what memory says of a tag. `moved`: it stands for another manifest than before.
    pub(super) async fn settle_tag(
        self: &Arc<Self>,
        scope: &Scope,
        tag: &Tag,
        mut known: Option<Arc<TagRecord>>,
        mut moved: bool,
    ) -> io::Result<()> {
        let key = TagKey(scope.clone(), tag.clone());
        loop {
            self.catalog.set_tag(scope, tag, known.as_deref().cloned());
            let path = self.records.tag_path(scope, tag);
            let written = if let Some(record) = &known {
                if moved {
                    let (scope, tag) = (scope.clone(), tag.clone());
                    let _ = self.blocking(move |cache| cache.reprotect_tag(&scope, &tag)).await;
                }
                let record = TagRecord::clone(record).timed(|moment| self.clock().date(moment));
                // A new confirmation of the same digest may be lost in a crash: the tag is checked again then.
                self.write_record(path, &record, moved).await
            } else {
                let _ = spawn_blocking(move || std::fs::remove_file(path)).await;
                Ok(())
            };
            // A change that came meanwhile may have written its file before this one did.
            match self.records.tags.get(&key) {
                Some(latest) if latest != known => {
                    moved = latest.as_ref().map(|record| record.digest) != known.as_ref().map(|record| record.digest);
                    known = latest;
                }
                _ => return written,
            }
        }
    }

    /// The tags of a repository that were pulled through this mirror, in order.
    pub async fn tags(self: &Arc<Self>, scope: &Scope) -> Vec<Tag> {
        let folder = self.records.folder(scope).join("_tags");
        let listed = spawn_blocking(move || {
            let mut tags: Vec<Tag> = std::fs::read_dir(folder)?
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".json")?.parse().ok())
                .collect();
            tags.sort_unstable();
            io::Result::Ok(tags)
        });
        listed.await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// What a manifest was recorded as in a repository.
    pub async fn manifest_record(self: &Arc<Self>, scope: &Scope, digest: &Digest) -> Option<ManifestRecord> {
        self.read_record(self.records.digest_path(scope, "_manifests", digest, "")).await
    }

    /// Writes down what a manifest is, and that the repository has it. One that is lost is learnt again.
    pub async fn set_manifest_record(self: &Arc<Self>, scope: &Scope, digest: &Digest, record: &ManifestRecord) {
        let _ = self.keep_manifest_record(scope, digest, record).await;
    }

    /// As [`Cache::set_manifest_record`], for what nobody may ever say again: after an error the next process does not
    /// know it.
    pub async fn keep_manifest_record(
        self: &Arc<Self>,
        scope: &Scope,
        digest: &Digest,
        record: &ManifestRecord,
    ) -> io::Result<()> {
        self.catalog.set_manifest(scope, digest, self.class(scope));
        self.write_record(self.records.digest_path(scope, "_manifests", digest, ""), record, true).await
    }

    /// What the upstream last said of a tag about a manifest, if that was that there is none.
    pub async fn absence(self: &Arc<Self>, scope: &Scope, tag: &Tag) -> Option<AbsenceRecord> {
        let found: AbsenceRecord<Timestamp> = self.read_record(self.records.absence_path(scope, tag)).await?;
        Some(AbsenceRecord { checked_at: self.clock().moment(found.checked_at) })
    }

    /// Writes down that there is no such tag, if it would be about a manifest of this repository: it goes with that
    /// manifest, and of what is not here there could be as many as there are digests.
    pub async fn set_absence(self: &Arc<Self>, scope: &Scope, tag: &Tag, record: &AbsenceRecord) {
        let Some(subject) = tag.subject() else { return };
        if self.has_subject(scope, &subject).await {
            let record = AbsenceRecord { checked_at: self.clock().date(record.checked_at) };
            let _ = self.write_record(self.records.absence_path(scope, tag), &record, false).await;
        }
    }

    /// Whether a repository has the manifest that something is about, so that what is written down about it goes with it.
    async fn has_subject(self: &Arc<Self>, scope: &Scope, subject: &Digest) -> bool {
        if self.catalog.has_manifest(scope, subject) {
            return true;
        }
        // The manifest came through another repository, and this one has a tag or an index that names it. That is no proof
        // of what a private upstream has there, and the record would be one.
        let named = || self.catalog.holds_manifest(scope, subject) || self.catalog.names_manifest(scope, subject);
        let known = !self.confined.is_private(&scope.upstream) && self.catalog.is_manifest(subject) && named();
        let Some(media_type) = self.media_type(subject).filter(|_| known) else { return false };
        self.set_manifest_record(scope, subject, &ManifestRecord { media_type }).await;
        true
    }

    /// The upstream has named a manifest for this tag.
    pub async fn forget_absence(self: &Arc<Self>, scope: &Scope, tag: &Tag) {
        if tag.subject().is_some() {
            let path = self.records.absence_path(scope, tag);
            let _ = spawn_blocking(move || std::fs::remove_file(path)).await;
        }
    }

    async fn read_record<T: DeserializeOwned + Send + 'static>(self: &Arc<Self>, path: PathBuf) -> Option<T> {
        let read = self.blocking(move |cache| {
            let bytes = match cache.store.read_small(&path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    if error.kind() != io::ErrorKind::NotFound {
                        tracing::warn!(path = %path.display(), %error, "cannot read a record");
                    }
                    return None;
                }
            };
            serde_json::from_slice(&bytes)
                .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "a damaged record is ignored"))
                .ok()
        });
        read.await.ok().flatten()
    }

    async fn write_record<T: Serialize>(self: &Arc<Self>, path: PathBuf, record: &T, durable: bool) -> io::Result<()> {
        let json = serde_json::to_vec(record)?;
        let written = self.blocking(move |cache| {
            let _writing = cache.records.folders.read();
            let written = match cache.store.replace(&path, &json, durable) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => path
                    .parent()
                    .map_or(Ok(()), std::fs::create_dir_all)
                    .and_then(|()| cache.store.replace(&path, &json, durable)),
                other => other,
            };
            written.inspect_err(|error| {
                tracing::warn!(path = %path.display(), %error, "cannot write a record; it is kept in memory");
            })
        });
        written.await?
    }
}
