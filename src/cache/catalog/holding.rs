//! Which repository holds what, for content that is not everybody's. For `pull`, which asks before it shows any, and for
//! [`super::super::confined`].

use std::collections::{HashMap, HashSet};

use super::{Catalog, Repo};
use crate::cache::evict::Id;
use crate::oci::{Digest, Scope, UpstreamName};

impl Catalog {
    /// Whether a repository is known to have a manifest.
    pub fn has_manifest(&self, scope: &Scope, digest: &Digest) -> bool {
        let inner = self.inner.lock();
        let id = self.index.lock().objects.find(digest);
        id.is_some_and(|id| inner.repos.get(&scope.to_string()).is_some_and(|repo| repo.manifests.contains_key(&id)))
    }

    /// Whether a repository is known to hold an object: one of its tags or manifests is it or names it, an index's
    /// manifests included, as far as they are here.
    pub fn holds(&self, scope: &Scope, digest: &Digest) -> bool {
        let inner = self.inner.lock();
        let state = self.index.lock();
        let (Some(id), Some(repo)) = (state.objects.find(digest), inner.repos.get(&scope.to_string())) else { return false };
        let has = |root: Id| {
            let tagged = || inner.tagged.contains_key(&(state.objects.digest(root), repo.number));
            repo.manifests.contains_key(&root) || tagged()
        };
        // From the object upwards: what names it, and the indexes that name that.
        has(id) || inner.owners.of(id).any(|owner| has(owner) || inner.owners.of(owner).any(has))
    }

    /// The manifests of `private` upstreams' repositories of which it is not known what they are made of.
    pub fn unread(&self, private: impl Fn(&UpstreamName) -> bool) -> Vec<(Scope, Digest)> {
        let inner = self.inner.lock();
        let state = self.index.lock();
        let repos = inner.repos.values().filter(|repo| private(&repo.scope.upstream));
        let unread = repos.flat_map(|repo| repo.manifests.keys().map(move |id| (repo, *id)));
        let unread = unread.filter(|(_, id)| !inner.images.contains_key(id));
        unread.map(|(repo, id)| (repo.scope.clone(), state.objects.digest(id))).collect()
    }

    /// What only repositories of upstreams that are `private` refer to, each with all of these.
    pub fn confined(&self, private: impl Fn(&UpstreamName) -> bool) -> Vec<(Digest, Vec<UpstreamName>)> {
        let inner = self.inner.lock();
        let state = self.index.lock();
        let below = |repo: &Repo| {
            let tags = repo.tags.values().filter_map(|record| state.objects.find(&record.digest));
            let mut all: HashSet<Id> = repo.manifests.keys().copied().chain(tags).collect();
            for _ in 0..2 {
                let parts =
                    all.iter().filter_map(|id| inner.images.get(id)).flat_map(|image| image.parts.iter().map(|part| part.id));
                all.extend(parts.collect::<Vec<_>>());
            }
            all
        };
        let open: HashSet<Id> = inner.repos.values().filter(|repo| !private(&repo.scope.upstream)).flat_map(below).collect();
        let theirs = inner.repos.values().filter(|repo| private(&repo.scope.upstream));
        let theirs = theirs.flat_map(|repo| below(repo).into_iter().map(|id| (id, &repo.scope.upstream)));
        let mut holders: HashMap<Id, Vec<UpstreamName>> = HashMap::new();
        for (id, upstream) in theirs.filter(|(id, _)| !open.contains(id)) {
            let holders = holders.entry(id).or_default();
            if !holders.contains(upstream) {
                holders.push(upstream.clone());
            }
        }
        holders.into_iter().map(|(id, upstreams)| (state.objects.digest(id), upstreams)).collect()
    }
}
