//! From the names of images to everything that they need: looked through, and checked to be here.
//!
//! Anybody can write a small bundle that names the same again and again. So what a repository has is looked through once,
//! however many of its images have it, and how often the same is looked through for one repository after the other is
//! bounded. Blocks; used by [`super::images`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::super::document::{Descriptor, Document, MAX_MANIFESTS, platform_of_config};
use super::custody::Kept;
use super::named::{List, Root};
use super::staged::{MAX_DEPTH, Staged, small};
use super::{ImportError, Options, docker};
use crate::cache::Cache;
use crate::oci::{Digest, MediaType, Platform, Platforms, Scope, UpstreamName};

/// Manifests of one repository, each once, children first.
pub(super) type Manifests = Vec<(Digest, MediaType)>;

/// What manifests that are looked through again may cost, in bytes: each has its own, and [`EACH`]. That is 16 000 of
/// ordinary ones, as of an image for twenty platforms that 800 repositories have.
const MOST_AGAIN: u64 = 256 << 20;

/// What a record costs, which is waited for until it is on the disk.
const EACH: u64 = 16 << 10;

/// The longest text that tells an image's platforms, in bytes; an index may list any number.
const TOLD: usize = 512;

/// The platforms of an image that was looked through, as they are told; or what is wrong with it.
type Outcome = Result<Arc<str>, String>;

pub(super) struct Walk<'a> {
    cache: &'a Cache,
    staged: &'a Staged,
    built: &'a docker::Built,
    options: &'a Options,
    /// Whose images are looked through.
    scope: Option<Scope>,
    /// What the repositories before that have.
    done: Vec<(Scope, Manifests)>,
    /// Manifests of the repository at hand that were looked through, or are. An index may list one as often as it
    /// likes, and itself be listed so, and any number of images may be one.
    seen: HashSet<Digest>,
    /// Of these, how many came with the image, or list, at hand.
    new: usize,
    /// Its images that were looked through, by what the exporter chose of each.
    images: HashMap<Digest, HashMap<Option<String>, Outcome>>,
    /// Of what the cache keeps, which looks at a file each time it is asked.
    sizes: HashMap<Digest, u64>,
    /// What the repository has, children first.
    manifests: Manifests,
    /// The same, to be found.
    listed: HashSet<Digest>,
    /// What waits to be stored with the manifests, and is none of them.
    blobs: BTreeSet<Digest>,
    /// What was looked through again has cost; see [`MOST_AGAIN`].
    again: u64,
    /// The upstream of what is walked through, if it is not everybody's.
    private: Option<UpstreamName>,
    /// Everything that an image needs.
    kept: Kept,
}

/// What all images need.
pub(super) struct Needed {
    /// What each repository has.
    pub manifests: Vec<(Scope, Manifests)>,
    /// What looks like a manifest, and is only a blob of one.
    pub blobs: BTreeSet<Digest>,
    pub kept: Kept,
}

impl<'a> Walk<'a> {
    pub fn new(cache: &'a Cache, staged: &'a Staged, built: &'a docker::Built, options: &'a Options) -> Self {
        Self {
            cache,
            staged,
            built,
            options,
            scope: None,
            done: Vec::new(),
            seen: HashSet::new(),
            new: 0,
            images: HashMap::new(),
            sizes: HashMap::new(),
            manifests: Vec::new(),
            listed: HashSet::new(),
            blobs: BTreeSet::new(),
            again: 0,
            private: None,
            kept: Kept::default(),
        }
    }

    /// What is looked through from now on is this repository's. Those of one repository come one after the other.
    fn enter(&mut self, scope: &Scope) {
        self.new = 0;
        if self.scope.as_ref() == Some(scope) {
            return;
        }
        self.leave();
        self.scope = Some(scope.clone());
        self.private = self.cache.confined.is_private(&scope.upstream).then(|| scope.upstream.clone());
    }

    fn leave(&mut self) {
        self.seen.clear();
        self.images.clear();
        self.listed.clear();
        let manifests = std::mem::take(&mut self.manifests);
        self.done.extend(self.scope.take().map(|scope| (scope, manifests)));
    }

    /// When all images were looked through.
    pub fn end(mut self) -> Needed {
        self.leave();
        Needed { manifests: self.done, blobs: self.blobs, kept: self.kept }
    }

    /// Whether to go on is pointless, since the bundle asks for too much.
    pub fn is_spent(&self) -> bool {
        self.again > MOST_AGAIN
    }

    /// Looks through an image; the platforms that it has, to be told.
    pub fn image(&mut self, root: &Root) -> Result<Arc<str>, ImportError> {
        self.enter(&root.image.scope);
        let choice = root.platforms.as_ref().map(ToString::to_string);
        if let Some(known) = self.images.get(&root.digest) {
            if let Some(outcome) = known.get(&choice) {
                return outcome.clone().map_err(ImportError::Bad);
            }
            self.once_more(&root.digest)?;
        }
        let outcome = match self.whole_image(root) {
            Ok(platforms) => Ok(platforms),
            Err(ImportError::Bad(problem)) => Err(problem),
            Err(error) => return Err(error),
        };
        self.images.entry(root.digest).or_default().insert(choice, outcome.clone());
        outcome.map_err(ImportError::Bad)
    }

    /// Looks through what refers to a manifest.
    pub fn list(&mut self, list: &List) -> Result<(), ImportError> {
        self.enter(&list.scope);
        list.entries.iter().try_for_each(|entry| self.below(&entry.digest, 1))
    }

    /// Accounts for a manifest that was looked through before: for another repository, or for another choice of platforms.
    fn once_more(&mut self, digest: &Digest) -> Result<(), ImportError> {
        self.again += EACH + self.size(digest).unwrap_or(0);
        if self.is_spent() {
            return Err(ImportError::Bad(
                "it gives the same manifests to too many repositories; export fewer of them, or into several bundles".into(),
            ));
        }
        Ok(())
    }

    fn whole_image(&mut self, root: &Root) -> Result<Arc<str>, ImportError> {
        let platforms = self.tree(&root.digest, Some(root), 0)?;
        let has = |wish: &Platform| platforms.0.iter().any(|here| wish.takes(here));
        let mut told = platforms.to_string();
        if told.len() > TOLD {
            told.truncate(told.floor_char_boundary(TOLD));
            told.push('…');
        }
        if let Some(lacking) = self.options.platforms.0.iter().find(|wish| !has(wish)) {
            return Err(ImportError::Bad(format!("it is not for {lacking}, only for {told}")));
        }
        Ok(told.into())
    }

    /// A manifest that another one lists, and all below it, if it was not looked through yet.
    fn below(&mut self, digest: &Digest, depth: u32) -> Result<(), ImportError> {
        if self.seen.contains(digest) {
            return Ok(());
        }
        self.tree(digest, None, depth).map(drop)
    }

    /// A manifest and all below it, checked to be here; the platforms that it has.
    fn tree(&mut self, digest: &Digest, root: Option<&Root>, depth: u32) -> Result<Platforms, ImportError> {
        let bad = |problem: String| Err(ImportError::Bad(problem));
        if self.seen.insert(*digest) {
            self.new += 1;
            if self.kept.contains(digest) {
                self.once_more(digest)?;
            }
        }
        if self.new > MAX_MANIFESTS {
            return bad(format!("it has more than {MAX_MANIFESTS} manifests"));
        }
        if depth > MAX_DEPTH {
            return bad(format!("manifest {digest} is nested too deep"));
        }
        self.staged.hold(digest);
        let bytes = match self.built.manifests.get(digest) {
            Some(bytes) => Some(bytes.to_vec()),
            None => small(self.cache, self.staged, digest)?,
        };
        let Some(bytes) = bytes else {
            return bad(format!(
                "manifest {digest} is neither in the bundle nor in the cache; export it again without --since, or since an older lock"
            ));
        };
        let document = Document::parse(&bytes, None).map_err(|error| ImportError::Bad(format!("{digest}: {error}")))?;
        if document.manifests.is_empty() && document.blobs.is_empty() {
            return bad(format!(
                "{digest} is of the unknown media type {} and refers to nothing: it is no image",
                document.media_type
            ));
        }
        self.kept.insert(*digest, self.private.as_ref());
        let (mut here, mut told, mut is_empty) = (Vec::new(), BTreeSet::new(), true);
        let chosen = root.and_then(|root| root.platforms.clone());
        let wanted = document.wanted(&chosen.clone().unwrap_or_default());
        for child in wanted {
            if !child.media_type.is_manifest() {
                // One of a kind that is unknown here, if it waits.
                let waits = self.blob(child)?;
                if waits {
                    self.has(child.digest, child.media_type.clone());
                }
                is_empty &= !waits;
                continue;
            }
            // Others leave out of an index what they did not copy; what they did copy must be whole.
            let absent = self.size(&child.digest).is_none();
            if absent && chosen.is_none() {
                continue;
            }
            self.below(&child.digest, depth + 1)?;
            is_empty = false;
            let platform = child.platform.clone().filter(|platform| !platform.is_unknown());
            here.extend(platform.filter(|platform| told.insert(platform.clone())));
        }
        if is_empty && !document.manifests.is_empty() {
            return bad(format!("of the index {digest} no image is in the bundle"));
        }
        for blob in &document.blobs {
            // An artifact may hold a manifest, which makes it none of the repository's.
            if self.blob(blob)? {
                self.blobs.insert(blob.digest);
            }
        }
        if document.manifests.is_empty()
            && depth == 0
            && let Some(config) = document.blobs.first()
        {
            let config = small(self.cache, self.staged, &config.digest)?;
            here.extend(config.and_then(|config| platform_of_config(&config)));
        }
        self.has(*digest, document.media_type);
        Ok(Platforms(here))
    }

    fn has(&mut self, digest: Digest, media_type: MediaType) {
        if self.listed.insert(digest) {
            self.manifests.push((digest, media_type));
        }
    }

    /// Checks a blob to be here; whether it waits to be published, because it looks like a manifest.
    fn blob(&mut self, blob: &Descriptor) -> Result<bool, ImportError> {
        match self.size(&blob.digest) {
            Some(size) if size == blob.size => {
                self.kept.insert(blob.digest, self.private.as_ref());
                Ok(self.staged.spooled_size(&blob.digest).is_some())
            }
            Some(size) => {
                Err(ImportError::Bad(format!("blob {} has {size} bytes, its manifest says {}", blob.digest, blob.size)))
            }
            None => Err(ImportError::Bad(format!(
                "blob {} ({} bytes) is neither in the bundle nor in the cache; export it again without --since, or since an older lock",
                blob.digest, blob.size
            ))),
        }
    }

    fn size(&mut self, digest: &Digest) -> Option<u64> {
        let built = self.built.manifests.get(digest).map(|bytes| bytes.len() as u64);
        if let Some(size) = built.or_else(|| self.staged.spooled_size(digest)).or_else(|| self.sizes.get(digest).copied()) {
            return Some(size);
        }
        let kept = self.staged.keeps(self.cache, digest)?;
        self.sizes.insert(*digest, kept);
        Some(kept)
    }
}
