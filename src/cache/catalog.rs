//! What images are here and what they are made of: tags, manifests, and the parts that each manifest names.
//!
//! Every question that a command asks is answered by a look-up or by walking what was asked for, at 10^6 objects, too:
//! each object knows the manifests that name it, each manifest its repositories, each digest its tags. Where all tags
//! have to be gone through, the lock is let go in between.
//!
//! Built from the records and manifests on disk after the start, kept up to date by the pulls; for people (`ls`,
//! `explain`, `purge`), for pins, for quotas, and so that the use of a manifest counts as a use of its layers. Parts
//! are numbers of the [`super::index`], 4 bytes each. Of what is served, only content that is not everybody's
//! depends on it ([`holding`]). Its lock is taken before the index's, never after.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use parking_lot::Mutex;

use super::evict::Id;
use super::index::{Class, Index, Known};
use super::owners::Owners;
use super::records::TagRecord;
use crate::oci::{Descriptor, Digest, Manifest, Platform, Platforms, Reference, Scope, Tag};

mod above;
mod crowd;
mod holding;
mod tags;

pub use above::Pruned;
pub use crowd::Candidate;

/// A part of an image, as its manifest names it.
#[derive(Clone, Debug)]
pub struct Part {
    /// What.
    pub digest: Digest,
    /// A manifest of an index, rather than a config or layer.
    pub is_manifest: bool,
    /// For what machine, where an index says.
    pub platform: Option<Arc<Platform>>,
    /// What the index knows of it.
    pub known: Known,
}

/// A tag that is known.
#[derive(Clone, Debug)]
pub struct Tagged {
    /// Where.
    pub scope: Scope,
    /// Its name.
    pub tag: Tag,
    /// What it stands for.
    pub record: TagRecord,
}

/// How much is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Repositories with a tag or a manifest.
    pub repositories: usize,
    /// Tags in all of them.
    pub tags: usize,
    /// Manifests of which it is known what they are made of.
    pub manifests: usize,
    /// What they name, each as often as it is named.
    pub parts: usize,
    /// How much they may name before the first of them go.
    pub most_parts: usize,
}

/// Tags looked at under one lock.
const CHUNK: usize = 1024;

/// A part, as its manifest names it.
#[derive(Clone, Copy, Debug)]
struct Edge {
    id: Id,
    /// Its slot in `owners`, by which it is removed there.
    slot: Id,
    /// A number of `platforms`.
    platform: Option<NonZeroU32>,
    is_manifest: bool,
    /// A repository that has the manifest has this, too ([`Manifest::owns`]).
    is_own: bool,
}

#[derive(Debug)]
struct Image {
    parts: Box<[Edge]>,
}

#[derive(Debug)]
struct Repo {
    number: Id,
    scope: Scope,
    tags: BTreeMap<Tag, TagRecord>,
    /// Its manifests, each with its slot in `homes`.
    manifests: HashMap<Id, Id>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By `UPSTREAM/REPOSITORY`.
    repos: BTreeMap<String, Repo>,
    /// Their names by number.
    names: HashMap<Id, String>,
    numbers: Id,
    /// How many tags there are.
    tags: usize,
    /// Every tag by digest and repository.
    tagged: BTreeMap<(Digest, Id), BTreeSet<Tag>>,
    /// What tags stood for that was not here when they were noted, and when that was, in that order. For the next pruning.
    lost: VecDeque<(Digest, u32)>,
    images: HashMap<Id, Image>,
    /// Parts of all of them, each as often as it is named.
    parts: usize,
    /// How many of these there shall be; see [`crowd`].
    most: usize,
    /// The manifests that name an object.
    owners: Owners,
    /// The repositories that have a manifest.
    homes: Owners,
    platforms: KnownPlatforms,
}

/// Real indexes have fewer platforms than this, and shorter names than [`LONGEST`]. Upstreams choose them, so they are
/// bounded.
const PLATFORMS: usize = 1024;
/// See [`PLATFORMS`]; in bytes.
const LONGEST: usize = 256;

/// The few platforms there are, by number from 1.
#[derive(Debug, Default)]
struct KnownPlatforms {
    all: Vec<Arc<Platform>>,
    numbers: HashMap<Arc<Platform>, NonZeroU32>,
}

impl KnownPlatforms {
    fn number(&mut self, descriptor: &Descriptor) -> Option<NonZeroU32> {
        let platform = descriptor.platform.as_ref()?;
        if let Some(known) = self.numbers.get(platform) {
            return Some(*known);
        }
        if self.all.len() >= PLATFORMS || platform.to_string().len() > LONGEST {
            return None;
        }
        let platform = Arc::new(platform.clone());
        self.all.push(platform.clone());
        let number = NonZeroU32::new(u32::try_from(self.all.len()).ok()?)?;
        self.numbers.insert(platform, number);
        Some(number)
    }

    fn get(&self, number: NonZeroU32) -> Option<Arc<Platform>> {
        self.all.get(number.get() as usize - 1).cloned()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Catalog {
    index: Arc<Index>,
    inner: Mutex<Inner>,
}

impl Inner {
    fn repo(&mut self, scope: &Scope) -> &mut Repo {
        let new = || {
            self.numbers += 1;
            self.names.insert(self.numbers, scope.to_string());
            Repo { number: self.numbers, scope: scope.clone(), tags: BTreeMap::new(), manifests: HashMap::new() }
        };
        self.repos.entry(scope.to_string()).or_insert_with(new)
    }

    /// Repositories by their numbers.
    fn home(&self, number: Id) -> Option<&Repo> {
        self.repos.get(self.names.get(&number)?)
    }

    fn put_tag(&mut self, scope: &Scope, tag: &Tag, record: Option<TagRecord>) {
        let repo = self.repo(scope);
        let number = repo.number;
        let digest = record.as_ref().map(|record| record.digest);
        let before = match record {
            Some(record) => repo.tags.insert(tag.clone(), record),
            None => repo.tags.remove(tag),
        };
        let is_empty = repo.tags.is_empty() && repo.manifests.is_empty();
        if let Some(before) = before {
            if let Entry::Occupied(mut tags) = self.tagged.entry((before.digest, number)) {
                tags.get_mut().remove(tag);
                if tags.get().is_empty() {
                    tags.remove();
                }
            }
            self.tags -= 1;
        }
        if let Some(digest) = digest {
            self.tagged.entry((digest, number)).or_default().insert(tag.clone());
            self.tags += 1;
        } else if is_empty {
            self.forget_repo(number);
        }
    }

    fn forget_repo(&mut self, number: Id) {
        if let Some(name) = self.names.remove(&number) {
            self.repos.remove(&name);
        }
    }

    /// The tags that stand for a digest.
    fn tags_of(&self, digest: &Digest) -> impl Iterator<Item = Tagged> {
        let all = self.tagged.range((*digest, 0)..=(*digest, Id::MAX));
        all.flat_map(|((_, number), tags)| tags.iter().map(|tag| (*number, tag))).filter_map(|(number, tag)| {
            let repo = self.home(number)?;
            Some(Tagged { scope: repo.scope.clone(), tag: tag.clone(), record: repo.tags.get(tag)?.clone() })
        })
    }
}

impl Catalog {
    /// An empty catalog over `index`.
    pub fn new(index: Arc<Index>) -> Self {
        let inner = Inner { most: crowd::most(index.limits().max_size), ..Inner::default() };
        Self { index, inner: Mutex::new(inner) }
    }

    /// Notes what a tag stands for, or that it is gone.
    pub fn set_tag(&self, scope: &Scope, tag: &Tag, record: Option<TagRecord>) {
        if let Some(record) = &record {
            self.note_lost(&record.digest);
        }
        self.inner.lock().put_tag(scope, tag, record);
    }

    /// As [`Catalog::set_tag`], for a record found at the start: what is known already is newer.
    pub fn found_tag(&self, scope: &Scope, tag: Tag, record: TagRecord) {
        self.note_lost(&record.digest);
        let mut inner = self.inner.lock();
        if !inner.repo(scope).tags.contains_key(&tag) {
            inner.put_tag(scope, &tag, Some(record));
        }
    }

    /// Notes that a repository has a manifest; it counts for `class` from now on, and so do its parts.
    pub fn set_manifest(&self, scope: &Scope, digest: &Digest, class: Class) {
        let now = self.index.now();
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let mut state = self.index.lock();
        let id = match state.objects.find(digest) {
            Some(id) if inner.repo(scope).manifests.contains_key(&id) => id,
            _ => {
                let id = state.refer_manifest(digest, class, now);
                let number = inner.repo(scope).number;
                let slot = inner.homes.add(id, number);
                inner.repo(scope).manifests.insert(id, slot);
                id
            }
        };
        state.classify(id, class);
        if class > 0
            && let Some(image) = inner.images.get(&id)
        {
            image.parts.iter().for_each(|part| state.classify(part.id, class));
        }
    }

    /// Notes what a manifest is made of. `false`: that was known.
    pub fn set_parts(&self, digest: &Digest, manifest: &Manifest) -> bool {
        let now = self.index.now();
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let mut state = self.index.lock();
        if state.objects.find(digest).is_some_and(|id| inner.images.contains_key(&id)) {
            return false;
        }
        let own = state.refer_manifest(digest, 0, now);
        let class = state.objects.get(own).class;
        let descriptors = manifest.manifests.iter().map(|d| (d, true)).chain(manifest.blobs.iter().map(|d| (d, false)));
        let parts = descriptors.map(|(descriptor, is_manifest)| {
            let id = state.refer(&descriptor.digest, descriptor.size, class);
            let is_own = !is_manifest && manifest.owns(descriptor);
            let slot = if is_own { inner.owners.add_own(id, own) } else { inner.owners.add(id, own) };
            Edge { id, slot, platform: inner.platforms.number(descriptor), is_manifest, is_own }
        });
        let parts: Box<[Edge]> = parts.collect();
        inner.parts += parts.len();
        inner.images.insert(own, Image { parts });
        true
    }

    /// A manifest was served: what it is made of is in use, whether the client asked for it or has it already. The
    /// manifests of an index are asked for by themselves.
    pub fn touch_parts(&self, digest: &Digest) {
        let now = self.index.now();
        let inner = self.inner.lock();
        let mut state = self.index.lock();
        let Some(image) = state.objects.find(digest).and_then(|id| inner.images.get(&id)) else { return };
        for part in image.parts.iter().filter(|part| !part.is_manifest) {
            state.touch(part.id, now);
        }
    }

    /// What a manifest is made of; `None` if that is not known.
    pub fn parts(&self, digest: &Digest) -> Option<Vec<Part>> {
        let inner = self.inner.lock();
        let state = self.index.lock();
        let image = inner.images.get(&state.objects.find(digest)?)?;
        let part = |edge: &Edge| Part {
            digest: state.objects.digest(edge.id),
            is_manifest: edge.is_manifest,
            platform: edge.platform.and_then(|number| inner.platforms.get(number)),
            known: state.known(edge.id),
        };
        Some(image.parts.iter().map(part).collect())
    }

    /// Everything below a manifest, itself first, each once; of an index only `platforms`, and attestations, which are small
    /// and do not say here which of the images they are about.
    pub fn closure(&self, root: &Digest, platforms: &Platforms) -> Vec<Part> {
        let known = self.index.known(root);
        let Some(known) = known else { return Vec::new() };
        let mut all = vec![Part { digest: *root, is_manifest: true, platform: None, known }];
        let mut seen = HashSet::from([*root]);
        let mut at = 0;
        while at < all.len() {
            if all[at].is_manifest {
                let wants = |platform: &Platform| platform.is_unknown() || platforms.wants(platform);
                let wanted = |part: &Part| part.platform.as_ref().is_none_or(|platform| wants(platform));
                let digest = all[at].digest;
                all.extend(self.parts(&digest).into_iter().flatten().filter(wanted).filter(|part| seen.insert(part.digest)));
            }
            at += 1;
        }
        all
    }

    /// The digest of an image, if it is known.
    pub fn resolve(&self, scope: &Scope, reference: &Reference) -> Option<(Digest, Option<TagRecord>)> {
        match reference {
            Reference::Digest(digest) => Some((*digest, None)),
            Reference::Tag(tag) => {
                let inner = self.inner.lock();
                let record = inner.repos.get(&scope.to_string())?.tags.get(tag)?.clone();
                Some((record.digest, Some(record)))
            }
        }
    }

    /// Whether a manifest of this digest is known, whatever of it is here.
    pub fn is_manifest(&self, digest: &Digest) -> bool {
        let inner = self.inner.lock();
        self.index.lock().objects.find(digest).is_some_and(|id| inner.images.contains_key(&id))
    }

    /// How many of everything there are.
    pub fn totals(&self) -> Totals {
        let inner = self.inner.lock();
        Totals {
            repositories: inner.repos.len(),
            tags: inner.tags,
            manifests: inner.images.len(),
            parts: inner.parts,
            most_parts: inner.most,
        }
    }
}
