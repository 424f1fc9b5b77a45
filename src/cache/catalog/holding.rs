//! Which repository holds what, for content that is not everybody's. For `pull`, which asks before it shows any, and for
//! [`super::super::confined`].
//!
//! A repository holds a manifest that came through it, that its upstream said to have there, or that one of its tags stands for;
//! and what such a manifest has as its own ([`Manifest::owns`](crate::oci::Manifest::owns)), one level deep. Nothing else is
//! proved by being named: registries take indexes, and much else, without having what these name.

use std::collections::{HashMap, HashSet};

use super::{Catalog, Inner, Repo};
use crate::cache::evict::Id;
use crate::cache::index::State;
use crate::oci::{Digest, Scope, UpstreamName};

impl Inner {
    /// Whether a repository holds a manifest.
    fn has(&self, state: &State, repo: &Repo, id: Id) -> bool {
        repo.manifests.contains_key(&id) || self.tagged.contains_key(&(state.objects.digest(id), repo.number))
    }

    /// The manifests that a repository holds.
    fn held_by(&self, state: &State, repo: &Repo) -> HashSet<Id> {
        let tagged = repo.tags.values().filter_map(|record| state.objects.find(&record.digest));
        repo.manifests.keys().copied().chain(tagged).collect()
    }
}

impl Catalog {
    /// Whether it is written down that a repository has a manifest.
    pub fn has_manifest(&self, scope: &Scope, digest: &Digest) -> bool {
        self.ask(scope, digest, |_, _, repo, id| repo.manifests.contains_key(&id))
    }

    /// Whether a repository holds a manifest.
    pub fn holds_manifest(&self, scope: &Scope, digest: &Digest) -> bool {
        self.ask(scope, digest, |inner, state, repo, id| inner.has(state, repo, id))
    }

    /// Whether a repository holds a blob.
    pub fn holds_blob(&self, scope: &Scope, digest: &Digest) -> bool {
        self.ask(scope, digest, |inner, state, repo, id| {
            inner.has(state, repo, id) || inner.owners.whose(id).any(|owner| inner.has(state, repo, owner))
        })
    }

    /// Whether a repository holds a manifest that names this one, as an index does: which says where it may be had, and
    /// proves nothing.
    pub fn names_manifest(&self, scope: &Scope, digest: &Digest) -> bool {
        self.ask(scope, digest, |inner, state, repo, id| inner.owners.of(id).any(|owner| inner.has(state, repo, owner)))
    }

    /// `false` where the repository or the object is unknown.
    fn ask(&self, scope: &Scope, digest: &Digest, question: impl FnOnce(&Inner, &State, &Repo, Id) -> bool) -> bool {
        let inner = self.inner.lock();
        let state = self.index.lock();
        let (Some(id), Some(repo)) = (state.objects.find(digest), inner.repos.get(&scope.to_string())) else { return false };
        question(&inner, &state, repo, id)
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

    /// What only repositories of upstreams that are `private` refer to, each with all of these that hold it.
    pub fn confined(&self, private: impl Fn(&UpstreamName) -> bool) -> Vec<(Digest, Vec<UpstreamName>)> {
        let inner = self.inner.lock();
        let state = self.index.lock();
        let edges = |id: &Id| inner.images.get(id).into_iter().flat_map(|image| &image.parts);
        let below = |repo: &Repo| {
            let mut all = inner.held_by(&state, repo);
            for _ in 0..2 {
                let parts: Vec<Id> = all.iter().flat_map(edges).map(|edge| edge.id).collect();
                all.extend(parts);
            }
            all
        };
        let open: HashSet<Id> = inner.repos.values().filter(|repo| !private(&repo.scope.upstream)).flat_map(below).collect();
        let mut holders: HashMap<Id, Vec<UpstreamName>> = HashMap::new();
        for repo in inner.repos.values().filter(|repo| private(&repo.scope.upstream)) {
            for id in below(repo).into_iter().filter(|id| !open.contains(id)) {
                holders.entry(id).or_default();
            }
            let roots = inner.held_by(&state, repo);
            let own = roots.iter().flat_map(edges).filter(|edge| edge.is_own).map(|edge| edge.id);
            for id in roots.iter().copied().chain(own) {
                let upstream = &repo.scope.upstream;
                if let Some(holders) = holders.get_mut(&id).filter(|holders| !holders.contains(upstream)) {
                    holders.push(upstream.clone());
                }
            }
        }
        holders.into_iter().map(|(id, upstreams)| (state.objects.digest(id), upstreams)).collect()
    }
}
