//! Which repository holds what, and what is held by repositories of some upstreams alone.
//!
//! By what is here; an upstream may know more. Called by `pull` and [`crate::cache::confined`].

use std::collections::HashSet;

use super::super::evict::Id;
use super::{Catalog, Edge, Repo};
use crate::oci::{Digest, Scope, UpstreamName};

impl Catalog {
    /// Whether a repository is known to have a manifest.
    pub fn has_manifest(&self, scope: &Scope, digest: &Digest) -> bool {
        let inner = self.lock();
        let id = self.index.lock().objects.find(digest);
        id.is_some_and(|id| inner.repos.get(&scope.to_string()).is_some_and(|repo| repo.manifests.contains_key(&id)))
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
        repo.manifests.keys().any(|root| names(*root)) || tags.any(names)
    }

    /// The manifests of `private` upstreams' repositories of which it is not known what they are made of.
    pub fn unread(&self, private: impl Fn(&UpstreamName) -> bool) -> Vec<(Scope, Digest)> {
        let inner = self.lock();
        let state = self.index.lock();
        let repos = inner.repos.values().filter(|repo| private(&repo.scope.upstream));
        let unread = repos.flat_map(|repo| repo.manifests.keys().map(move |id| (repo, *id)));
        let unread = unread.filter(|(_, id)| !inner.images.contains_key(id));
        unread.map(|(repo, id)| (repo.scope.clone(), state.objects.digest(id))).collect()
    }

    /// What only repositories of upstreams that are `private` refer to, each with one of them.
    pub fn confined(&self, private: impl Fn(&UpstreamName) -> bool) -> Vec<(Digest, UpstreamName)> {
        let inner = self.lock();
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
        let theirs = theirs.flat_map(|repo| below(repo).into_iter().map(|id| (id, repo.scope.upstream.clone())));
        theirs.filter(|(id, _)| !open.contains(id)).map(|(id, upstream)| (state.objects.digest(id), upstream)).collect()
    }
}
