//! A cache folder as it lies on disk, for readers that have no mirror: `export`, `wanted`.
//!
//! Takes no lock and writes nothing, so that it also reads the folder of a running mirror: published files never
//! change (I2), and records are replaced in one step. What it has listed may be evicted a moment later.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;

use super::confined::{self, Holders};
use super::records::{ManifestRecord, ReferrersRecord, TagRecord};
use super::store::{StoreError, VERSION};
use crate::clock::Timestamp;
use crate::oci::{Digest, Repository, Scope, Tag, UpstreamName};

/// A cache folder.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

/// A tag that was pulled or imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    /// Whose tag.
    pub scope: Scope,
    /// The tag.
    pub tag: Tag,
    /// What it names.
    pub digest: Digest,
}

impl Tree {
    /// The folder at `root`, which must hold a cache.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let path = root.join("VERSION");
        match fs::read_to_string(&path) {
            Ok(text) if text.trim() == VERSION => Ok(Self { root: root.into() }),
            Ok(text) => Err(StoreError::Version { path: root.into(), found: text.trim().to_owned() }),
            Err(source) => Err(StoreError::Io { action: "read", path, source }),
        }
    }

    /// Where a published file is, if it is.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// Opens a published file; its size is in bytes. `None` where there is none.
    pub fn read(&self, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        match File::open(self.path(digest)) {
            Ok(file) => file.metadata().map(|meta| Some((file, meta.len()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// To which upstreams content is confined ([`super::confined`]); `None`: it is everybody's. An error says nothing of
    /// that: the content is somebody's. To be asked once the content was found, since it is confined before it comes.
    pub fn confined(&self, digest: &Digest) -> Result<Option<Holders>, StoreError> {
        let path = self.root.join("private").join(digest.file_name());
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(confined::parse(&text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io { action: "read", path, source }),
        }
    }

    /// The size in bytes of a published file, and when it was last used (to the minute).
    pub fn find(&self, digest: &Digest) -> Option<(u64, SystemTime)> {
        let meta = fs::metadata(self.path(digest)).ok()?;
        Some((meta.len(), meta.modified().ok()?))
    }

    /// Every tag, in order of its name.
    pub fn tags(&self) -> Result<Vec<Tagged>, StoreError> {
        let mut tags = Vec::new();
        let repos = self.root.join("repos");
        for upstream in entries(&repos)? {
            if let Ok(name) = upstream.parse::<UpstreamName>() {
                self.walk(&repos.join(&upstream), &name, "", &mut tags)?;
            }
        }
        tags.sort_by(|a, b| {
            (&a.scope.upstream, &a.scope.repository, &a.tag).cmp(&(&b.scope.upstream, &b.scope.repository, &b.tag))
        });
        Ok(tags)
    }

    /// The upstreams of which something was kept.
    pub fn upstreams(&self) -> Result<Vec<UpstreamName>, StoreError> {
        Ok(entries(&self.root.join("repos"))?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// What a tag names.
    pub fn tag(&self, scope: &Scope, tag: &Tag) -> Option<Digest> {
        let record: TagRecord<Timestamp> = self.record(scope, "_tags", tag.as_str())?;
        Some(record.digest)
    }

    /// What a manifest was recorded as in a repository.
    pub fn manifest_record(&self, scope: &Scope, digest: &Digest) -> Option<ManifestRecord> {
        self.record(scope, "_manifests", &digest.file_name())
    }

    /// The whole list of what refers to a manifest, as it was last seen.
    pub fn referrers(&self, scope: &Scope, digest: &Digest) -> Option<ReferrersRecord<Timestamp>> {
        self.record(scope, "_referrers", &digest.file_name())
    }

    fn record<T: DeserializeOwned>(&self, scope: &Scope, folder: &str, name: &str) -> Option<T> {
        let folder = self.root.join("repos").join(scope.upstream.as_str()).join(scope.repository.as_str()).join(folder);
        // A damaged record is as good as none.
        serde_json::from_slice(&fs::read(folder.join(format!("{name}.json"))).ok()?).ok()
    }

    fn walk(&self, folder: &Path, upstream: &UpstreamName, repository: &str, tags: &mut Vec<Tagged>) -> Result<(), StoreError> {
        for name in entries(folder)? {
            if name == "_tags" {
                let Ok(repository) = repository.parse::<Repository>() else { continue };
                let scope = Scope { upstream: upstream.clone(), repository };
                for file in entries(&folder.join(name))? {
                    let tag = file.strip_suffix(".json").and_then(|tag| tag.parse::<Tag>().ok());
                    let Some(tag) = tag else { continue };
                    if let Some(digest) = self.tag(&scope, &tag) {
                        tags.push(Tagged { scope: scope.clone(), tag, digest });
                    }
                }
            } else if !name.starts_with('_') {
                let below = if repository.is_empty() { name.clone() } else { format!("{repository}/{name}") };
                self.walk(&folder.join(name), upstream, &below, tags)?;
            }
        }
        Ok(())
    }
}

/// The names in a folder, in order; none where there is no such folder.
fn entries(folder: &Path) -> Result<Vec<String>, StoreError> {
    let listed = fs::read_dir(folder).and_then(|listed| listed.map(|entry| Ok(entry?.file_name())).collect());
    let listed: Vec<OsString> = match listed {
        Ok(listed) => listed,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(source) => return Err(StoreError::Io { action: "list", path: folder.into(), source }),
    };
    // Ours are all text.
    let mut names: Vec<String> = listed.into_iter().filter_map(|name| name.into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}
