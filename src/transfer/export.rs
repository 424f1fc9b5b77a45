//! From a cache folder into a bundle.
//!
//! First a plan: which images, and of each every blob, found and measured; what is missing is told before a byte is
//! written. Then the bytes, in an order that depends on the images alone: index, signature, and for each image its
//! config, layers and manifests. Memory holds a digest per blob, never content. Blocks; reads a running mirror's
//! folder as well as a stopped one's.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::bundle::{self, Index, Locked};
use super::document::{Descriptor, Document, platform_of_config};
use super::platform::Platforms;
use super::prefetch::{cosign_suffixes, cosign_tag};
use super::reference::{ImageRef, Wish};
use super::sign::{SignError, Signer};
use super::tar;
use crate::cache::tree::{Tagged, Tree};
use crate::oci::{Digest, MAX_MANIFEST, MediaType, Reference, Scope};

/// One read of a blob.
const CHUNK: usize = 1 << 20;

/// Why nothing was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The cache does not have what was asked for.
    #[error("{}", .0.join("\n"))]
    Missing(Vec<String>),
    /// A blob went while it was exported.
    #[error(
        "{0} was evicted or damaged while it was exported: run the export again, with more room in the cache (cache.max_size)"
    )]
    Gone(Digest),
    /// The key cannot be used.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Reading or writing failed.
    #[error("cannot export: {0}")]
    Io(#[from] io::Error),
}

/// What goes into a bundle.
#[derive(Debug)]
pub struct Plan {
    /// The list of images: all of them, also those that the other side has.
    index: Index,
    /// Docker's list of the same images, as far as it can say it: for `docker load`, and for tools that read images of
    /// Docker's own formats from nothing else.
    docker: Vec<DockerImage>,
    /// What the other side lacks, in order.
    blobs: Vec<(Digest, u64)>,
    /// The lock file's lines.
    pub lock: Vec<Locked>,
    /// Bytes of all blobs in the bundle.
    pub bytes: u64,
    /// Bytes of those that the other side has.
    pub spared: u64,
}

impl Plan {
    /// Blobs in the bundle.
    pub fn blobs(&self) -> usize {
        self.blobs.len()
    }
}

/// One entry of Docker's `manifest.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
    #[serde(skip)]
    needs: Vec<Digest>,
}

/// Looks everything up. `wishes` empty: every tag of the cache. `since`: what the other side has.
/// `platforms`: those that every image must have; `None` takes of each index what is here whole.
pub fn plan(tree: &Tree, wishes: &[Wish], platforms: Option<&Platforms>, since: &[Locked]) -> Result<Plan, ExportError> {
    let (images, mut missing) = choose(tree, wishes)?;
    let mut had = Walk::new(tree);
    for locked in since {
        // What has been evicted here since is carried again: that costs bytes, and breaks nothing.
        let _ = had.image(&locked.image, &locked.digest, Some(&locked.platforms));
        had.forget_problems();
    }
    let mut walk = Walk::new(tree);
    let mut manifests = Vec::new();
    let mut lock = Vec::new();
    let mut docker = Vec::new();
    let mut names: HashSet<String> = images.iter().map(|(image, _)| image.to_string()).collect();
    for (image, digest) in images {
        match walk.image(&image, &digest, platforms) {
            Ok((mut descriptor, platforms)) => {
                let name = image.to_string();
                docker.extend(docker_image(tree, &image, &digest, &platforms));
                descriptor.annotations.insert(bundle::REF_NAME.into(), name.clone());
                descriptor.annotations.insert(bundle::IMAGE_NAME.into(), name);
                descriptor.annotations.insert(bundle::PLATFORMS.into(), platforms.to_string());
                manifests.push(descriptor);
                let signatures = signatures(tree, &image.scope, &walk.subjects, &names);
                manifests.extend(walk.referrers(&image.scope));
                for (image, digest) in signatures {
                    if let Ok((mut descriptor, platforms)) = walk.image(&image, &digest, None) {
                        let name = image.to_string();
                        descriptor.annotations.insert(bundle::REF_NAME.into(), name.clone());
                        descriptor.annotations.insert(bundle::PLATFORMS.into(), platforms.to_string());
                        manifests.push(descriptor);
                        names.insert(name);
                        lock.push(Locked { image, digest, platforms });
                    }
                }
                lock.push(Locked { image, digest, platforms });
            }
            Err(problem) => missing.push(format!("{image}: {problem}; fetch it with: roadstead prefetch {image}")),
        }
    }
    if !missing.is_empty() {
        return Err(ExportError::Missing(missing));
    }
    let (spared, blobs): (Vec<_>, Vec<_>) = walk.blobs.into_iter().partition(|(digest, _)| had.seen.contains(digest));
    let carried: HashSet<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    docker.retain(|image| image.needs.iter().all(|digest| carried.contains(digest)));
    let total = |blobs: &[(Digest, u64)]| blobs.iter().map(|(_, size)| size).sum::<u64>();
    let (bytes, spared) = (total(&blobs), total(&spared));
    let annotations = BTreeMap::from([(bundle::VERSION.into(), "1".into()), (bundle::BYTES.into(), bytes.to_string())]);
    let index = Index { schema_version: 2, media_type: MediaType::OCI_INDEX, manifests, annotations };
    Ok(Plan { index, docker, blobs, lock, bytes, spared })
}

/// An image in Docker's words: of one platform, with a tag.
fn docker_image(tree: &Tree, image: &ImageRef, digest: &Digest, platforms: &Platforms) -> Option<DockerImage> {
    let Reference::Tag(_) = image.reference else { return None };
    let read = |digest: &Digest| Document::parse(&small(tree, digest).ok()??, None).ok();
    let mut document = read(digest)?;
    if !document.manifests.is_empty() {
        let is_real = |child: &&Descriptor| child.platform.as_ref().is_some_and(|platform| platform.os != "unknown");
        let children: Vec<Digest> = document.wanted(platforms).into_iter().filter(is_real).map(|child| child.digest).collect();
        let [only] = children[..] else { return None };
        document = read(&only)?;
    }
    let (config, layers) = document.blobs.split_first()?;
    let is_image = ["application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json"];
    is_image.contains(&config.media_type.as_str()).then(|| DockerImage {
        config: blob_name(&config.digest),
        repo_tags: vec![image.to_string()],
        layers: layers.iter().map(|layer| blob_name(&layer.digest)).collect(),
        needs: document.blobs.iter().map(|blob| blob.digest).collect(),
    })
}

/// What cosign keeps in tags of their own about these manifests.
fn signatures(tree: &Tree, scope: &Scope, subjects: &[Digest], names: &HashSet<String>) -> Vec<(ImageRef, Digest)> {
    let mut found = Vec::new();
    for (subject, suffix) in subjects.iter().flat_map(|subject| cosign_suffixes().map(|suffix| (subject, suffix))) {
        let Ok(tag) = cosign_tag(subject, suffix) else { continue };
        let Some(digest) = tree.tag(scope, &tag) else { continue };
        let image = ImageRef { scope: scope.clone(), reference: Reference::Tag(tag) };
        if !names.contains(&image.to_string()) {
            found.push((image, digest));
        }
    }
    found
}

/// Images, and what each of them is.
type Chosen = Vec<(ImageRef, Digest)>;

/// The images that were asked for, by name and once each, and what is not here.
fn choose(tree: &Tree, wishes: &[Wish]) -> Result<(Chosen, Vec<String>), ExportError> {
    let mut images = BTreeMap::new();
    let mut missing = Vec::new();
    let all = tree.tags()?;
    let image = |tagged: &Tagged| ImageRef { scope: tagged.scope.clone(), reference: Reference::Tag(tagged.tag.clone()) };
    if wishes.is_empty() {
        // A tag whose manifest was evicted is a memory, not an image.
        let here = all.iter().filter(|tagged| tree.find(&tagged.digest).is_some());
        images.extend(here.map(|tagged| (image(tagged).to_string(), (image(tagged), tagged.digest))));
        if images.is_empty() {
            missing.push("the cache has no tag; fill it with: roadstead prefetch IMAGE…".into());
        }
    }
    for wish in wishes {
        let before = images.len();
        match wish {
            Wish::One(one) => {
                let digest = match &one.reference {
                    Reference::Digest(digest) => Some(*digest),
                    Reference::Tag(tag) => tree.tag(&one.scope, tag),
                };
                images.extend(digest.map(|digest| (one.to_string(), (one.clone(), digest))));
                if digest.is_none() {
                    missing.push(format!("{one} is not in the cache; fetch it with: roadstead prefetch {one}"));
                }
            }
            Wish::Tags(scope, glob) => {
                let matcher = globset::Glob::new(glob).map_err(io::Error::other)?.compile_matcher();
                let matching = all.iter().filter(|tagged| tagged.scope == *scope && matcher.is_match(tagged.tag.as_str()));
                images.extend(matching.map(|tagged| (image(tagged).to_string(), (image(tagged), tagged.digest))));
                if images.len() == before
                    && !all.iter().any(|tagged| tagged.scope == *scope && matcher.is_match(tagged.tag.as_str()))
                {
                    missing.push(format!("no tag in the cache matches {wish}; fetch them with: roadstead prefetch '{wish}'"));
                }
            }
        }
    }
    Ok((images.into_values().collect(), missing))
}

/// Goes through images from the top, and notes every blob once, parents after their children.
struct Walk<'a> {
    tree: &'a Tree,
    seen: HashSet<Digest>,
    blobs: Vec<(Digest, u64)>,
    /// Manifests of the last image: what may have referrers.
    subjects: Vec<Digest>,
}

impl<'a> Walk<'a> {
    fn new(tree: &'a Tree) -> Self {
        Self { tree, seen: HashSet::new(), blobs: Vec::new(), subjects: Vec::new() }
    }

    fn forget_problems(&mut self) {
        self.subjects.clear();
    }

    /// An image and all it needs: its descriptor, and which platforms of it.
    fn image(
        &mut self,
        image: &ImageRef,
        digest: &Digest,
        platforms: Option<&Platforms>,
    ) -> Result<(Descriptor, Platforms), String> {
        self.subjects.clear();
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
            self.subjects.clear();
            if self.attempt(|walk, added| walk.manifest(&image.scope, digest, &one, 0, added)).is_ok() {
                here.push(platform);
            }
        }
        here.sort();
        let here = Platforms(here);
        if here.is_all() {
            return None;
        }
        self.subjects.clear();
        let descriptor = self.attempt(|walk, added| walk.manifest(&image.scope, digest, &here, 0, added)).ok()?;
        Some((descriptor, here))
    }

    /// Takes back what `walk` noted if it fails.
    fn attempt<T>(&mut self, walk: impl FnOnce(&mut Self, &mut Vec<Digest>) -> Result<T, String>) -> Result<T, String> {
        let (mark, mut added) = (self.blobs.len(), Vec::new());
        let walked = walk(self, &mut added);
        if walked.is_err() {
            self.blobs.truncate(mark);
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
        let recorded = self.tree.manifest_record(scope, digest).map(|record| record.media_type);
        let document = Document::parse(&bytes, recorded.as_ref().map(MediaType::as_str))
            .map_err(|error| format!("manifest {digest}: {error}"))?;
        if document.lacks(platforms) {
            return Err(format!("it has no {platforms}, only {}", document.platforms()));
        }
        if depth > 3 {
            return Err(format!("manifest {digest} is nested too deep"));
        }
        self.subjects.push(*digest);
        for child in document.wanted(platforms) {
            // An index may list things that are no manifests.
            match is_manifest(child) {
                true => drop(self.manifest(scope, &child.digest, &Platforms::default(), depth + 1, added)?),
                false => self.blob(child, added)?,
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
            self.blob(blob, added)?;
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

    fn blob(&mut self, blob: &Descriptor, added: &mut Vec<Digest>) -> Result<(), String> {
        if self.seen.contains(&blob.digest) {
            return Ok(());
        }
        match self.tree.find(&blob.digest) {
            Some((size, _)) if size == blob.size => self.note(blob.digest, size, added),
            Some((size, _)) => return Err(format!("blob {} has {size} bytes, its manifest says {}", blob.digest, blob.size)),
            None => return Err(format!("blob {} ({} bytes) is not in the cache", blob.digest, blob.size)),
        }
        Ok(())
    }

    fn note(&mut self, digest: Digest, size: u64, added: &mut Vec<Digest>) {
        if self.seen.insert(digest) {
            self.blobs.push((digest, size));
            added.push(digest);
        }
    }

    /// The lists of what refers to the last image's manifests, as far as they and all in them are here.
    fn referrers(&mut self, scope: &Scope) -> Vec<Descriptor> {
        let subjects = std::mem::take(&mut self.subjects);
        let mut lists = Vec::new();
        for subject in subjects {
            let Some(record) = self.tree.referrers(scope, &subject) else { continue };
            let Ok(document) = Document::parse(record.body.as_bytes(), Some(MediaType::OCI_INDEX.as_str())) else { continue };
            let children = &document.manifests;
            let whole = self.attempt(|walk, added| {
                children
                    .iter()
                    .try_for_each(|child| walk.manifest(scope, &child.digest, &Platforms::default(), 1, added).map(drop))
            });
            if children.is_empty() || whole.is_err() {
                continue;
            }
            // The list travels inside the index: it is small, and it is no blob of the cache.
            let annotations = BTreeMap::from([(bundle::SUBJECT.to_owned(), format!("{scope}@{subject}"))]);
            lists.extend(document.manifests.into_iter().map(|child| {
                let mut descriptor = child;
                descriptor.annotations.extend(annotations.clone());
                descriptor
            }));
        }
        self.subjects.clear();
        lists
    }
}

/// Whether an index's child is a manifest.
pub(super) fn is_manifest(child: &Descriptor) -> bool {
    let known = [
        MediaType::OCI_INDEX,
        MediaType::OCI_MANIFEST,
        MediaType::OCI_ARTIFACT,
        MediaType::DOCKER_LIST,
        MediaType::DOCKER_MANIFEST,
    ];
    known.contains(&child.media_type)
}

/// A small object's bytes, checked.
fn small(tree: &Tree, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
    let Some((file, size)) = tree.read(digest)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes)?;
    let right = bytes.len() as u64 == size && Digest::of(digest.algorithm(), &bytes) == *digest;
    Ok(right.then_some(bytes))
}

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

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}
