//! From an image to all that it needs, as far as the cache folder has it.
//!
//! Notes every blob once and looks at nothing but manifests. Called by [`super::plan`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Read as _};

use crate::cache::store::StoreError;
use crate::cache::tree::Tree;
use crate::oci::{Digest, ImageRef, MAX_MANIFEST, MediaType, Platforms, Scope, UpstreamName};
use crate::transfer::bundle;
use crate::transfer::document::{Descriptor, Document, MAX_MANIFESTS, platform_of_config};

/// Goes through images from the top, and notes every blob once, parents after their children.
pub(super) struct Walk<'a> {
    tree: &'a Tree,
    private: &'a BTreeSet<UpstreamName>,
    pub seen: HashSet<Digest>,
    pub blobs: Vec<(Digest, u64)>,
    /// Manifests of the last image, each once: what may have referrers.
    pub subjects: Vec<Digest>,
    /// The same, to be looked up: an index may list one as often as it likes, and itself be listed so.
    visited: HashSet<Digest>,
    /// The first file that could not be read of those that say whose content is. Nothing may be exported then: not that
    /// content, and not the rest, as if this were not here.
    pub unreadable: Option<StoreError>,
}

impl<'a> Walk<'a> {
    /// `private`: the upstreams whose content is not everybody's.
    pub fn new(tree: &'a Tree, private: &'a BTreeSet<UpstreamName>) -> Self {
        let (seen, blobs) = (HashSet::new(), Vec::new());
        Self { tree, private, seen, blobs, subjects: Vec::new(), visited: HashSet::new(), unreadable: None }
    }

    /// An image and all it needs: its descriptor, and which platforms of it.
    pub fn image(
        &mut self,
        image: &ImageRef,
        digest: &Digest,
        platforms: Option<&Platforms>,
    ) -> Result<(Descriptor, Platforms), String> {
        self.forget();
        match platforms {
            Some(platforms) => {
                let descriptor = self.attempt(|walk, added| walk.manifest(&image.scope, digest, platforms, 0, added))?;
                Ok((descriptor, platforms.clone()))
            }
            None => match self.attempt(|walk, added| walk.manifest(&image.scope, digest, &Platforms::default(), 0, added)) {
                Ok(descriptor) => Ok((descriptor, Platforms::default())),
                Err(problem) => self.what_is_here(image, digest).ok_or(problem),
            },
        }
    }

    /// Of an index, the platforms that are here whole.
    fn what_is_here(&mut self, image: &ImageRef, digest: &Digest) -> Option<(Descriptor, Platforms)> {
        let document = Document::parse(&small(self.tree, digest).ok()??, None).ok()?;
        let mut here = Vec::new();
        for platform in document.platforms().0 {
            let one = Platforms(vec![platform.clone()]);
            self.forget();
            if self.attempt(|walk, added| walk.manifest(&image.scope, digest, &one, 0, added)).is_ok() {
                here.push(platform);
            }
        }
        here.sort();
        let here = Platforms(here);
        if here.is_all() {
            return None;
        }
        self.forget();
        let descriptor = self.attempt(|walk, added| walk.manifest(&image.scope, digest, &here, 0, added)).ok()?;
        Some((descriptor, here))
    }

    /// Another image begins.
    fn forget(&mut self) {
        self.subjects.clear();
        self.visited.clear();
    }

    /// Takes back what `walk` noted if it fails.
    fn attempt<T>(&mut self, walk: impl FnOnce(&mut Self, &mut Vec<Digest>) -> Result<T, String>) -> Result<T, String> {
        let (mark, before, mut added) = (self.blobs.len(), self.subjects.len(), Vec::new());
        let walked = walk(self, &mut added);
        if walked.is_err() {
            self.blobs.truncate(mark);
            for manifest in self.subjects.drain(before..) {
                self.visited.remove(&manifest);
            }
            for digest in &added {
                self.seen.remove(digest);
            }
        }
        walked
    }

    fn manifest(
        &mut self,
        scope: &Scope,
        digest: &Digest,
        platforms: &Platforms,
        depth: u32,
        added: &mut Vec<Digest>,
    ) -> Result<Descriptor, String> {
        let bytes = small(self.tree, digest)
            .map_err(|error| error.to_string())?
            .ok_or_else(|| format!("its manifest {digest} is not in the cache"))?;
        self.may_have(scope, digest)?;
        let recorded = self.tree.manifest_record(scope, digest).map(|record| record.media_type);
        let document = Document::parse(&bytes, recorded.as_ref().map(MediaType::as_str))
            .map_err(|error| format!("manifest {digest}: {error}"))?;
        if document.lacks(platforms) {
            return Err(format!("it has no {platforms}, only {}", document.platforms()));
        }
        if depth > 3 {
            return Err(format!("manifest {digest} is nested too deep"));
        }
        if self.visited.insert(*digest) {
            self.subjects.push(*digest);
        }
        if self.subjects.len() > MAX_MANIFESTS {
            return Err(format!("it has more than {MAX_MANIFESTS} manifests"));
        }
        for child in document.wanted(platforms) {
            // An index may list things that are no manifests.
            match child.media_type.is_manifest() {
                true => self.below(scope, &child.digest, depth + 1, added)?,
                false => self.blob(scope, child, added)?,
            }
        }
        if depth == 0 && !platforms.is_all() && document.manifests.is_empty() {
            let config = document.blobs.first().map(|config| small(self.tree, &config.digest)).transpose();
            let platform = config.ok().flatten().flatten().and_then(|config| platform_of_config(&config));
            if let Some(platform) = platform.filter(|platform| !platforms.wants(platform)) {
                return Err(format!("it has no {platforms}, only {platform}"));
            }
        }
        for blob in &document.blobs {
            self.blob(scope, blob, added)?;
        }
        let size = bytes.len() as u64;
        self.note(*digest, size, added);
        Ok(Descriptor {
            media_type: document.media_type,
            digest: *digest,
            size,
            platform: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
        })
    }

    /// A manifest that another one lists, if it was not visited yet.
    fn below(&mut self, scope: &Scope, digest: &Digest, depth: u32, added: &mut Vec<Digest>) -> Result<(), String> {
        if self.visited.contains(digest) {
            return Ok(());
        }
        self.manifest(scope, digest, &Platforms::default(), depth, added).map(drop)
    }

    fn blob(&mut self, scope: &Scope, blob: &Descriptor, added: &mut Vec<Digest>) -> Result<(), String> {
        if !self.seen.contains(&blob.digest) {
            match self.tree.find(&blob.digest) {
                Some((size, _)) if size == blob.size => {}
                Some((size, _)) => {
                    return Err(format!("blob {} has {size} bytes, its manifest says {}", blob.digest, blob.size));
                }
                None => return Err(format!("blob {} ({} bytes) is not in the cache", blob.digest, blob.size)),
            }
        }
        self.may_have(scope, &blob.digest)?;
        self.note(blob.digest, blob.size, added);
        Ok(())
    }

    /// An image has what its upstream has given, or has said to have: not what came through a private one alone, whatever its
    /// manifest names. The other side believes the bundle. Asked of what was found, because a mark is there before its content.
    fn may_have(&mut self, scope: &Scope, digest: &Digest) -> Result<(), String> {
        if self.private.is_empty() {
            return Ok(());
        }
        let confined = self.tree.confined(digest).map_err(|error| {
            let problem = error.to_string();
            self.unreadable.get_or_insert(error);
            problem
        })?;
        match confined {
            None => Ok(()),
            Some(holders) if self.private.contains(&scope.upstream) && holders.contains(&scope.upstream) => Ok(()),
            Some(_) => {
                Err(format!("{digest} came through an upstream that is not everybody's, and {scope} has not said to have it"))
            }
        }
    }

    fn note(&mut self, digest: Digest, size: u64, added: &mut Vec<Digest>) {
        if self.seen.insert(digest) {
            self.blobs.push((digest, size));
            added.push(digest);
        }
    }

    /// The lists of what refers to the last image's manifests, as far as they and all in them are here.
    pub fn referrers(&mut self, scope: &Scope) -> Vec<Descriptor> {
        let subjects = std::mem::take(&mut self.subjects);
        self.visited.clear();
        let mut lists = Vec::new();
        for subject in subjects {
            let Some(record) = self.tree.referrers(scope, &subject) else { continue };
            let Ok(document) = Document::parse(record.body.as_bytes(), Some(MediaType::OCI_INDEX.as_str())) else { continue };
            let children = &document.manifests;
            let whole =
                self.attempt(|walk, added| children.iter().try_for_each(|child| walk.below(scope, &child.digest, 1, added)));
            if children.is_empty() || whole.is_err() {
                continue;
            }
            // The list travels inside the index: it is small, and it is no blob of the cache.
            let annotations = BTreeMap::from([(bundle::SUBJECT.to_owned(), scope.image(subject).to_string())]);
            lists.extend(document.manifests.into_iter().map(|child| {
                let mut descriptor = child;
                descriptor.annotations.extend(annotations.clone());
                descriptor
            }));
        }
        self.forget();
        lists
    }
}

/// A small object's bytes, checked.
pub(super) fn small(tree: &Tree, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
    let Some((file, size)) = tree.read(digest)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes)?;
    let right = bytes.len() as u64 == size && Digest::of(digest.algorithm(), &bytes) == *digest;
    Ok(right.then_some(bytes))
}
