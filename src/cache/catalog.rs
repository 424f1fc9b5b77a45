//! What images are here and what they are made of: tags, manifests, and the parts that each manifest names.
//!
//! Built from the records and manifests on disk after the start, kept up to date by the pulls; for people (`ls`,
//! `explain`, `purge`), for pins, for quotas, and so that the use of a manifest counts as a use of its layers. Parts
//! are numbers of the [`super::index`], 4 bytes each. Nothing that is served depends on it. Its lock is taken before
//! the index's, never after.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use super::evict::Id;
use super::index::{Class, Index, Known, seconds};
use super::records::TagRecord;
use super::selector::Selector;
use crate::oci::{Descriptor, Digest, Manifest, Reference, Scope, Tag, UpstreamName};

/// A part of an image, as its manifest names it.
#[derive(Clone, Debug)]
pub struct Part {
    /// What.
    pub digest: Digest,
    /// A manifest of an index, rather than a config or layer.
    pub is_manifest: bool,
    /// `os/architecture[/variant]`, where an index says.
    pub platform: Option<Arc<str>>,
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

#[derive(Clone, Debug)]
struct Edge {
    id: Id,
    is_manifest: bool,
    platform: Option<Arc<str>>,
}

#[derive(Debug)]
struct Image {
    parts: Box<[Edge]>,
}

#[derive(Debug)]
struct Repo {
    scope: Scope,
    tags: BTreeMap<Tag, TagRecord>,
    manifests: HashSet<Id>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By `UPSTREAM/REPOSITORY`.
    repos: BTreeMap<String, Repo>,
    images: HashMap<Id, Image>,
    platforms: HashSet<Arc<str>>,
}

/// See the module.
#[derive(Debug)]
pub struct Catalog {
    index: Arc<Index>,
    inner: Mutex<Inner>,
}

impl Inner {
    fn repo(&mut self, scope: &Scope) -> &mut Repo {
        let new = || Repo { scope: scope.clone(), tags: BTreeMap::new(), manifests: HashSet::new() };
        self.repos.entry(scope.to_string()).or_insert_with(new)
    }

    fn platform(&mut self, descriptor: &Descriptor) -> Option<Arc<str>> {
        let name = descriptor.platform.as_ref()?.to_string();
        if let Some(known) = self.platforms.get(name.as_str()) {
            return Some(known.clone());
        }
        let name: Arc<str> = name.into();
        self.platforms.insert(name.clone());
        Some(name)
    }
}

impl Catalog {
    /// An empty catalog over `index`.
    pub fn new(index: Arc<Index>) -> Self {
        Self { index, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Notes what a tag stands for, or that it is gone.
    pub fn set_tag(&self, scope: &Scope, tag: &Tag, record: Option<TagRecord>) {
        let mut inner = self.lock();
        let repo = inner.repo(scope);
        match record {
            Some(record) => drop(repo.tags.insert(tag.clone(), record)),
            None => drop(repo.tags.remove(tag)),
        }
    }

    /// As [`Catalog::set_tag`], for a record found at the start: what is known already is newer.
    pub fn found_tag(&self, scope: &Scope, tag: Tag, record: TagRecord) {
        self.lock().repo(scope).tags.entry(tag).or_insert(record);
    }

    /// Notes that a repository has a manifest; it counts for `class` from now on, and so do its parts.
    pub fn set_manifest(&self, scope: &Scope, digest: &Digest, class: Class) {
        let mut inner = self.lock();
        let mut state = self.index.lock();
        let id = match state.objects.find(digest) {
            Some(id) if inner.repo(scope).manifests.contains(&id) => id,
            _ => {
                let id = state.refer(digest, 0, class);
                inner.repo(scope).manifests.insert(id);
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
        let mut inner = self.lock();
        let known = |inner: &Inner, index: &Index| {
            let state = index.lock();
            state.objects.find(digest).is_some_and(|id| inner.images.contains_key(&id))
        };
        if known(&inner, &self.index) {
            return false;
        }
        let descriptors = manifest.manifests.iter().map(|d| (d, true)).chain(manifest.blobs.iter().map(|d| (d, false)));
        let descriptors: Vec<_> =
            descriptors.map(|(descriptor, is_manifest)| (descriptor, is_manifest, inner.platform(descriptor))).collect();
        let mut state = self.index.lock();
        let own = state.refer(digest, 0, 0);
        let class = state.objects.get(own).class;
        let parts = descriptors.into_iter().map(|(descriptor, is_manifest, platform)| Edge {
            id: state.refer(&descriptor.digest, descriptor.size, class),
            is_manifest,
            platform,
        });
        let parts = parts.collect();
        drop(state);
        inner.images.insert(own, Image { parts });
        true
    }

    /// A manifest was served: what it is made of is in use, whether the client asked for it or has it already. The
    /// manifests of an index are asked for by themselves.
    pub fn touch_parts(&self, digest: &Digest) {
        let now = seconds(SystemTime::now());
        let inner = self.lock();
        let mut state = self.index.lock();
        let Some(image) = state.objects.find(digest).and_then(|id| inner.images.get(&id)) else { return };
        image.parts.iter().filter(|part| !part.is_manifest).for_each(|part| state.touch(part.id, now));
    }

    /// What a manifest is made of; `None` if that is not known.
    pub fn parts(&self, digest: &Digest) -> Option<Vec<Part>> {
        let inner = self.lock();
        let state = self.index.lock();
        let image = inner.images.get(&state.objects.find(digest)?)?;
        let part = |edge: &Edge| Part {
            digest: state.objects.digest(edge.id),
            is_manifest: edge.is_manifest,
            platform: edge.platform.clone(),
            known: state.known(edge.id),
        };
        Some(image.parts.iter().map(part).collect())
    }

    /// Everything below a manifest, itself first, each once; of an index only `platforms`, unless that is empty.
    pub fn closure(&self, root: &Digest, platforms: &[String]) -> Vec<Part> {
        let known = self.index.known(root);
        let Some(known) = known else { return Vec::new() };
        let mut all = vec![Part { digest: *root, is_manifest: true, platform: None, known }];
        let mut seen = HashSet::from([*root]);
        let mut at = 0;
        while at < all.len() {
            if all[at].is_manifest {
                let wanted = |part: &Part| match &part.platform {
                    Some(platform) => platforms.is_empty() || platforms.iter().any(|wanted| matches(wanted, platform)),
                    None => true,
                };
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
                let inner = self.lock();
                let record = inner.repos.get(&scope.to_string())?.tags.get(tag)?.clone();
                Some((record.digest, Some(record)))
            }
        }
    }

    /// The tags that a selector names, in order; of a digest, those that stand for it. At most `limit`.
    pub fn tags(&self, selector: Option<&Selector>, limit: usize) -> Vec<Tagged> {
        let inner = self.lock();
        let wanted = |repo: &str, tag: &Tag, record: &TagRecord| match selector {
            None => true,
            Some(Selector::Digest(digest)) => record.digest == *digest,
            Some(Selector::Image(scope, Reference::Tag(wanted))) => *tag == *wanted && scope.to_string() == repo,
            Some(Selector::Image(scope, Reference::Digest(digest))) => record.digest == *digest && scope.to_string() == repo,
            Some(Selector::Glob(globs)) => globs.is_match(&format!("{repo}:{tag}")),
        };
        let all =
            inner.repos.iter().flat_map(|(name, repo)| repo.tags.iter().map(move |(tag, record)| (name, repo, tag, record)));
        all.filter(|(name, _, tag, record)| wanted(name, tag, record))
            .take(limit)
            .map(|(_, repo, tag, record)| Tagged { scope: repo.scope.clone(), tag: tag.clone(), record: record.clone() })
            .collect()
    }

    /// Whether a manifest of this digest is known, whatever of it is here.
    pub fn is_manifest(&self, digest: &Digest) -> bool {
        let inner = self.lock();
        self.index.lock().objects.find(digest).is_some_and(|id| inner.images.contains_key(&id))
    }

    /// The repositories that have an object: their manifests, or what is part of them.
    pub fn repositories_of(&self, digest: &Digest, limit: usize) -> Vec<Scope> {
        let inner = self.lock();
        let Some(id) = self.index.lock().objects.find(digest) else { return Vec::new() };
        // An index's parts have their own manifests in the same repository, so one step up is enough.
        let owners: HashSet<Id> =
            inner.images.iter().filter(|(_, image)| image.parts.iter().any(|part| part.id == id)).map(|(id, _)| *id).collect();
        let has = |repo: &&Repo| repo.manifests.contains(&id) || repo.manifests.iter().any(|manifest| owners.contains(manifest));
        inner.repos.values().filter(has).take(limit).map(|repo| repo.scope.clone()).collect()
    }

    /// Whether a repository is known to have a manifest.
    pub fn has_manifest(&self, scope: &Scope, digest: &Digest) -> bool {
        let inner = self.lock();
        let id = self.index.lock().objects.find(digest);
        id.is_some_and(|id| inner.repos.get(&scope.to_string()).is_some_and(|repo| repo.manifests.contains(&id)))
    }

    /// Whether a repository is known to hold an object: one of its tags or manifests is it or names it, an index's
    /// manifests included, as far as they are here.
    pub fn holds(&self, scope: &Scope, digest: &Digest) -> bool {
        let inner = self.lock();
        let state = self.index.lock();
        let (Some(id), Some(repo)) = (state.objects.find(digest), inner.repos.get(&scope.to_string())) else { return false };
        let names = |root: Id| {
            let parts = inner.images.get(&root).map_or(&[][..], |image| &image.parts);
            let below = |part: &Edge| inner.images.get(&part.id).is_some_and(|image| image.parts.iter().any(|own| own.id == id));
            root == id || parts.iter().any(|part| part.id == id || part.is_manifest && below(part))
        };
        let mut tags = repo.tags.values().filter_map(|record| state.objects.find(&record.digest));
        repo.manifests.iter().any(|root| names(*root)) || tags.any(names)
    }

    /// The manifests of `private` upstreams' repositories of which it is not known what they are made of.
    pub fn unread(&self, private: impl Fn(&UpstreamName) -> bool) -> Vec<(Scope, Digest)> {
        let inner = self.lock();
        let state = self.index.lock();
        let repos = inner.repos.values().filter(|repo| private(&repo.scope.upstream));
        let unread = repos.flat_map(|repo| repo.manifests.iter().map(move |id| (repo, *id)));
        let unread = unread.filter(|(_, id)| !inner.images.contains_key(id));
        unread.map(|(repo, id)| (repo.scope.clone(), state.objects.digest(id))).collect()
    }

    /// What only repositories of upstreams that are `private` refer to, each with one of them.
    pub fn confined(&self, private: impl Fn(&UpstreamName) -> bool) -> Vec<(Digest, UpstreamName)> {
        let inner = self.lock();
        let state = self.index.lock();
        let below = |repo: &Repo| {
            let tags = repo.tags.values().filter_map(|record| state.objects.find(&record.digest));
            let mut all: HashSet<Id> = repo.manifests.iter().copied().chain(tags).collect();
            for _ in 0..2 {
                let parts =
                    all.iter().filter_map(|id| inner.images.get(id)).flat_map(|image| image.parts.iter().map(|part| part.id));
                all.extend(parts.collect::<Vec<_>>());
            }
            all
        };
        let open: HashSet<Id> = inner.repos.values().filter(|repo| !private(&repo.scope.upstream)).flat_map(below).collect();
        let theirs = inner.repos.values().filter(|repo| private(&repo.scope.upstream));
        let theirs = theirs.flat_map(|repo| below(repo).into_iter().map(|id| (id, repo.scope.upstream.clone())));
        theirs.filter(|(id, _)| !open.contains(id)).map(|(id, upstream)| (state.objects.digest(id), upstream)).collect()
    }

    /// The manifests here, among those whose files are here, that name an object.
    pub fn owners_of(&self, digest: &Digest) -> Vec<Digest> {
        let inner = self.lock();
        let state = self.index.lock();
        let Some(id) = state.objects.find(digest) else { return Vec::new() };
        let owners = inner
            .images
            .iter()
            .filter(|(own, image)| state.objects.get(**own).present && image.parts.iter().any(|part| part.id == id));
        owners.map(|(own, _)| state.objects.digest(*own)).collect()
    }

    /// Which of `parts` no manifest here needs, once `gone` are: what may go with them.
    pub fn unshared(&self, parts: &[Digest], gone: &HashSet<Digest>) -> Vec<Digest> {
        let inner = self.lock();
        let state = self.index.lock();
        let gone: HashSet<Id> = gone.iter().filter_map(|digest| state.objects.find(digest)).collect();
        let needed: HashSet<Id> = inner
            .images
            .iter()
            .filter(|(own, _)| state.objects.get(**own).present && !gone.contains(own))
            .flat_map(|(_, image)| image.parts.iter().map(|part| part.id))
            .collect();
        let unneeded = |digest: &&Digest| state.objects.find(digest).is_none_or(|id| !needed.contains(&id));
        parts.iter().filter(unneeded).copied().collect()
    }

    /// Forgets the images whose manifests are gone; the records that have lost their meaning.
    pub fn prune(&self) -> Vec<(Scope, Digest)> {
        let mut inner = self.lock();
        let mut state = self.index.lock();
        let gone: Vec<Id> = inner.images.keys().filter(|id| !state.objects.get(**id).present).copied().collect();
        for id in gone {
            if let Some(image) = inner.images.remove(&id) {
                image.parts.iter().for_each(|part| state.release(part.id));
                state.release(id);
            }
        }
        let mut records = Vec::new();
        for repo in inner.repos.values_mut() {
            let gone: Vec<Id> = repo.manifests.iter().filter(|id| !state.objects.get(**id).present).copied().collect();
            for id in gone {
                repo.manifests.remove(&id);
                records.push((repo.scope.clone(), state.objects.digest(id)));
                state.release(id);
            }
        }
        inner.repos.retain(|_, repo| !repo.tags.is_empty() || !repo.manifests.is_empty());
        records
    }

    /// Numbers of repositories, tags and manifests.
    pub fn totals(&self) -> (usize, usize, usize) {
        let inner = self.lock();
        (inner.repos.len(), inner.repos.values().map(|repo| repo.tags.len()).sum(), inner.images.len())
    }
}

/// `linux/arm64` means every variant of it.
fn matches(wanted: &str, platform: &str) -> bool {
    platform == wanted || platform.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('/'))
}
