//! From a cache folder into a bundle.
//!
//! First a plan: which images, and of each every blob, found and measured ([`walk`]); what is missing is told before a byte
//! is written. Then the bytes ([`mod@write`]), in an order that depends on the images alone: index, signature, and for each image
//! its config, layers and manifests. Memory holds a digest per blob, never content. Blocks; reads a running mirror's
//! folder as well as a stopped one's.

mod walk;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;

use serde::Serialize;

use super::bundle::{self, Index, Locked};
use super::document::{Descriptor, Document};
use super::sign::SignError;
use crate::cache::store::StoreError;
use crate::cache::tree::{Tagged, Tree};
use crate::config::Wish;
use crate::oci::{Digest, ImageRef, MediaType, Platforms, Reference, Scope, Tag, UpstreamName};
use walk::{Walk, small};
pub use write::replace;

/// Why nothing was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The cache does not have what was asked for.
    #[error("{}", .0.join("\n"))]
    Missing(Vec<String>),
    /// A blob went while it was exported.
    #[error("{0} was evicted while it was exported: run the export again, with more room in the cache (cache.max_size)")]
    Gone(Digest),
    /// A file of the cache is not what its name says.
    #[error(
        "the cache's file of {0} is damaged: roadstead verify sets it aside, roadstead prefetch of its image fetches it anew"
    )]
    Damaged(Digest),
    /// The key cannot be used.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The cache folder cannot be read: which images it has, or whose content is.
    #[error("cannot export: {0}")]
    Unreadable(#[from] StoreError),
    /// Reading or writing failed.
    #[error("cannot export: {0}")]
    Io(#[from] io::Error),
}

/// Something that is to be exported.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which images.
    pub wish: Wish,
    /// Of those for several platforms only these, which each must have. `None`: as for all others.
    pub platforms: Option<Platforms>,
}

impl From<Wish> for Wanted {
    fn from(wish: Wish) -> Self {
        Self { wish, platforms: None }
    }
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

/// Looks everything up. `wanted` empty: every tag of the cache. `since`: what the other side has.
/// `platforms`: those that every image must have of which `wanted` does not say it; `None` takes of each index what is here whole.
/// `private`: the upstreams whose content is not everybody's.
pub fn plan(
    tree: &Tree,
    wanted: &[Wanted],
    platforms: Option<&Platforms>,
    since: &[Locked],
    private: &BTreeSet<UpstreamName>,
) -> Result<Plan, ExportError> {
    let (images, mut missing) = choose(tree, wanted)?;
    let (mut had, mut known) = (Walk::new(tree, private), HashMap::new());
    for locked in since {
        let before = had.blobs.len();
        // What has been evicted here since is carried again: that costs bytes, and breaks nothing.
        let _ = had.image(&locked.image, &locked.digest, Some(&locked.platforms));
        known.extend(had.blobs[before..].iter().map(|(digest, _)| (*digest, locked.digest)));
    }
    let mut walk = Walk::new(tree, private);
    let mut manifests = Vec::new();
    let mut lock = Vec::new();
    let mut docker = Vec::new();
    let mut names: HashSet<String> = images.iter().map(|chosen| chosen.image.to_string()).collect();
    for Chosen { image, digest, own } in images {
        let own = own.filter(|_| !is_for_one(tree, &digest));
        let platforms = own.as_ref().or(platforms);
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
            Err(problem) => missing.push(format!("{image}: {problem}; fetch it with: {}", fetching(&image, platforms))),
        }
    }
    if let Some(error) = walk.unreadable {
        return Err(error.into());
    }
    if !missing.is_empty() {
        return Err(ExportError::Missing(missing));
    }
    let (spared, blobs): (Vec<_>, Vec<_>) = walk.blobs.into_iter().partition(|(digest, _)| known.contains_key(digest));
    let base: BTreeSet<&Digest> = spared.iter().filter_map(|(digest, _)| known.get(digest)).collect();
    let carried: HashSet<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    docker.retain(|image| image.needs.iter().all(|digest| carried.contains(digest)));
    let total = |blobs: &[(Digest, u64)]| blobs.iter().map(|(_, size)| size).sum::<u64>();
    let (bytes, spared) = (total(&blobs), total(&spared));
    let mut annotations = BTreeMap::from([(bundle::VERSION.into(), "1".into()), (bundle::BYTES.into(), bytes.to_string())]);
    if !base.is_empty() {
        let base: Vec<String> = base.into_iter().map(Digest::to_string).collect();
        annotations.insert(bundle::BASE.into(), base.join(","));
    }
    let index = Index { schema_version: 2, media_type: MediaType::OCI_INDEX, manifests, annotations };
    Ok(Plan { index, docker, blobs, lock, bytes, spared })
}

/// Whether it is an image of which there is no other for another platform.
fn is_for_one(tree: &Tree, digest: &Digest) -> bool {
    let document = small(tree, digest).ok().flatten().and_then(|bytes| Document::parse(&bytes, None).ok());
    document.is_some_and(|document| document.platforms().is_all())
}

/// The command that brings an image into the cache.
fn fetching(image: &ImageRef, platforms: Option<&Platforms>) -> String {
    match platforms.filter(|platforms| !platforms.is_all()) {
        Some(platforms) => format!("roadstead prefetch {image} --platform {platforms}"),
        None => format!("roadstead prefetch {image}"),
    }
}

/// An image in Docker's words: of one platform, with a tag.
fn docker_image(tree: &Tree, image: &ImageRef, digest: &Digest, platforms: &Platforms) -> Option<DockerImage> {
    let Reference::Tag(_) = image.reference else { return None };
    let read = |digest: &Digest| Document::parse(&small(tree, digest).ok()??, None).ok();
    let mut document = read(digest)?;
    if !document.manifests.is_empty() {
        let is_real = |child: &&Descriptor| child.platform.as_ref().is_some_and(|platform| !platform.is_unknown());
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
    for (subject, suffix) in subjects.iter().flat_map(|subject| Tag::COSIGN.map(|suffix| (subject, suffix))) {
        let Ok(tag) = Tag::of_cosign(subject, suffix) else { continue };
        let Some(digest) = tree.tag(scope, &tag) else { continue };
        let image = scope.image(tag);
        if !names.contains(&image.to_string()) {
            found.push((image, digest));
        }
    }
    found
}

/// An image, what it is, and its own platforms.
struct Chosen {
    image: ImageRef,
    digest: Digest,
    own: Option<Platforms>,
}

/// The images that were asked for, by name and once each, and what is not here.
fn choose(tree: &Tree, wanted: &[Wanted]) -> Result<(Vec<Chosen>, Vec<String>), ExportError> {
    let mut images = BTreeMap::new();
    let mut missing = Vec::new();
    let all = tree.tags()?;
    let mut take = |image: ImageRef, digest: Digest, own: Option<&Platforms>| {
        images.insert(image.to_string(), Chosen { image, digest, own: own.cloned() });
    };
    let image = |tagged: &Tagged| tagged.scope.image(tagged.tag.clone());
    if wanted.is_empty() {
        // A tag whose manifest was evicted is a memory, not an image.
        let mut here = all.iter().filter(|tagged| tree.find(&tagged.digest).is_some()).peekable();
        if here.peek().is_none() {
            missing.push("the cache has no tag; fill it with: roadstead prefetch IMAGE…".into());
        }
        here.for_each(|tagged| take(image(tagged), tagged.digest, None));
    }
    for Wanted { wish, platforms } in wanted {
        match wish {
            Wish::One(one) => {
                let digest = match &one.reference {
                    Reference::Digest(digest) => Some(*digest),
                    Reference::Tag(tag) => tree.tag(&one.scope, tag),
                };
                match digest {
                    Some(digest) => take(one.clone(), digest, platforms.as_ref()),
                    None => {
                        let fetching = fetching(one, platforms.as_ref());
                        missing.push(format!("{one} is not in the cache; fetch it with: {fetching}"));
                    }
                }
            }
            Wish::Tags(scope, tags) => {
                let is_meant = |tagged: &&Tagged| tagged.scope == *scope && tags.is_match(tagged.tag.as_str());
                let mut matching = all.iter().filter(is_meant).peekable();
                if matching.peek().is_none() {
                    missing.push(format!("no tag in the cache matches {wish}; fetch them with: roadstead prefetch '{wish}'"));
                }
                matching.for_each(|tagged| take(image(tagged), tagged.digest, platforms.as_ref()));
            }
        }
    }
    Ok((images.into_values().collect(), missing))
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}
