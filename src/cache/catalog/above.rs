//! From an object upwards: what names it, where it is, and what has lost its meaning. For `explain` and purges, for fetching
//! again what was damaged, and for the housekeeping.

use std::collections::HashSet;

use super::{CHUNK, Catalog, Inner, Tagged};
use crate::cache::evict::Id;
use crate::cache::index::State;
use crate::oci::{Digest, Scope};

/// Manifests of an object that are looked at for its repositories.
const OWNERS: usize = 10_000;

/// How long, in seconds, a manifest may be on its way to the disk after it was noted.
const ON_ITS_WAY: u32 = 120;

/// What has lost its meaning.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Manifests that are gone, each with a repository that had it. The catalog has forgotten them.
    pub manifests: Vec<(Scope, Digest)>,
    /// Tags that stand for what may be gone. Whoever looks after their records tells the catalog which go.
    pub tags: Vec<Tagged>,
    /// There is more to be found.
    pub more: bool,
}

impl Inner {
    /// Forgets a manifest whose file is gone, and what it is made of; the records that have lost their meaning.
    pub(super) fn forget_manifest(&mut self, state: &mut State, id: Id) -> Vec<(Scope, Digest)> {
        state.objects.get_mut(id).manifest = false;
        let (digest, mut records) = (state.objects.digest(id), Vec::new());
        let homes: Vec<Id> = self.homes.of(id).collect();
        for number in homes {
            let Some(repo) = self.names.get(&number).and_then(|name| self.repos.get_mut(name)) else { continue };
            let Some(slot) = repo.manifests.remove(&id) else { continue };
            records.push((repo.scope.clone(), digest));
            let is_empty = repo.tags.is_empty() && repo.manifests.is_empty();
            self.homes.remove(id, slot);
            state.release(id);
            if is_empty {
                self.forget_repo(number);
            }
        }
        if let Some(image) = self.images.remove(&id) {
            self.parts -= image.parts.len();
            for part in image.parts {
                self.owners.remove(part.id, part.slot);
                state.release(part.id);
            }
            state.release(id);
        }
        records
    }
}

impl Catalog {
    /// The repositories that have an object: their manifests, or what is part of them.
    pub fn repositories_of(&self, digest: &Digest, limit: usize) -> Vec<Scope> {
        let inner = self.inner.lock();
        let Some(id) = self.index.lock().objects.find(digest) else { return Vec::new() };
        // An index's parts have their own manifests in the same repository, so one step up is enough.
        let mut seen = HashSet::new();
        let homes = std::iter::once(id).chain(inner.owners.of(id).take(OWNERS)).flat_map(|owner| inner.homes.of(owner));
        let names = homes.filter(|number| seen.insert(*number)).filter_map(|number| inner.home(number));
        let mut scopes: Vec<Scope> = names.take(limit).map(|repo| repo.scope.clone()).collect();
        scopes.sort_by_cached_key(ToString::to_string);
        scopes
    }

    /// The manifests here, among those whose files are here, that name an object; at most `limit`.
    pub fn owners_of(&self, digest: &Digest, limit: usize) -> Vec<Digest> {
        let inner = self.inner.lock();
        let state = self.index.lock();
        let Some(id) = state.objects.find(digest) else { return Vec::new() };
        let owners = inner.owners.of(id).filter(|own| state.objects.get(*own).present);
        owners.take(limit).map(|own| state.objects.digest(own)).collect()
    }

    /// How many manifests whose files are here name an object; not counted beyond `most`.
    pub fn count_owners(&self, digest: &Digest, most: usize) -> usize {
        let inner = self.inner.lock();
        let state = self.index.lock();
        let Some(id) = state.objects.find(digest) else { return 0 };
        inner.owners.of(id).filter(|own| state.objects.get(*own).present).take(most).count()
    }

    /// Which of `parts` no manifest here needs, once `gone` are: what may go with them.
    pub fn unshared(&self, parts: &[Digest], gone: &HashSet<Digest>) -> Vec<Digest> {
        let inner = self.inner.lock();
        let state = self.index.lock();
        let gone: HashSet<Id> = gone.iter().filter_map(|digest| state.objects.find(digest)).collect();
        let is_needed = |id: Id| inner.owners.of(id).any(|own| state.objects.get(own).present && !gone.contains(&own));
        parts.iter().filter(|digest| state.objects.find(digest).is_none_or(|id| !is_needed(id))).copied().collect()
    }

    /// Forgets images whose manifests are gone, some at a time; what has lost its meaning with them.
    pub fn prune(&self) -> Pruned {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let mut state = self.index.lock();
        let (now, mut pruned) = (self.index.now(), Pruned::default());
        let from = state.orphans.len().saturating_sub(CHUNK);
        pruned.more = from > 0;
        for (id, noted) in state.orphans.split_off(from) {
            let entry = state.objects.get_mut(id);
            if entry.present || !entry.manifest {
                continue;
            }
            if now.saturating_sub(noted) < ON_ITS_WAY {
                state.waiting.push((id, noted));
                continue;
            }
            pruned.tags.extend(inner.tags_of(&state.objects.digest(id)));
            pruned.manifests.extend(inner.forget_manifest(&mut state, id));
        }
        if !pruned.more {
            // Looked at again the next time.
            let waiting = std::mem::take(&mut state.waiting);
            state.orphans.extend(waiting);
        }
        drop(state);
        let due = inner.lost.partition_point(|(_, noted)| now.saturating_sub(*noted) >= ON_ITS_WAY).min(CHUNK);
        pruned.more |= due == CHUNK;
        for (digest, _) in inner.lost.drain(..due).collect::<Vec<_>>() {
            pruned.tags.extend(inner.tags_of(&digest));
        }
        pruned
    }

    /// Notes that there may be tags that stand for a manifest that is not on disk. It may be on its way.
    pub(super) fn note_lost(&self, digest: &Digest) {
        let now = self.index.now();
        let mut inner = self.inner.lock();
        if !self.index.contains(digest) {
            inner.lost.push_back((*digest, now));
        }
    }

    /// How many records of manifests [`Catalog::prune`] would find without meaning, and of which tags.
    pub fn prunable(&self) -> (u64, Vec<Tagged>) {
        let inner = self.inner.lock();
        let state = self.index.lock();
        let now = self.index.now();
        let is_due = |noted: u32| now.saturating_sub(noted) >= ON_ITS_WAY;
        let gone = state.orphans.iter().filter(|(id, noted)| {
            let entry = state.objects.get(*id);
            !entry.present && entry.manifest && is_due(*noted)
        });
        let gone: HashSet<Id> = gone.map(|(id, _)| *id).collect();
        let manifests = gone.iter().map(|id| inner.homes.of(*id).count() as u64).sum();
        let mut lost: HashSet<Digest> = gone.into_iter().map(|id| state.objects.digest(id)).collect();
        lost.extend(inner.lost.iter().filter(|(_, noted)| is_due(*noted)).map(|(digest, _)| *digest));
        (manifests, lost.iter().flat_map(|digest| inner.tags_of(digest)).collect())
    }
}
