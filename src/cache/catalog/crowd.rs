//! How much the manifests here may name, and which of them go when they name more.
//!
//! What a manifest names takes some 110 bytes of memory each, whether it is here or not, and nothing but the manifest's own
//! size bounds how much that is: a hostile one names 100 000. So there is a number for all of them. Chosen here, evicted by
//! [`super::super::thin`].

use super::{Catalog, Edge};
use crate::cache::evict::Id;
use crate::oci::{Digest, Scope};

/// What manifests may name together, at the least: some 110 MB of memory.
const LEAST: usize = 1_000_000;

/// Bytes of the cache for each thing that is named beyond that. Real images have one in 3 MB or so.
const BYTES_EACH: u64 = 256 << 10;

/// What no image names, since no system can have so many layers, and hardly an index. Manifests that name more go before all
/// others: else a few hostile ones, which were used last, would make thousands go that name ten each.
const ORDINARY: usize = 256;

/// Numbers looked at under one lock.
const LOOKED_AT: Id = 4096;

/// How much the manifests of a cache of so many bytes may name.
pub(super) fn most(max_size: u64) -> usize {
    usize::try_from(max_size / BYTES_EACH).unwrap_or(usize::MAX).max(LEAST)
}

/// When a manifest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Huge,
    /// Its file is not here: it is on its way, or never could be stored.
    HugeAbsent,
    Ordinary,
    OrdinaryAbsent,
}

/// A manifest that may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    turn: Turn,
    /// Seconds since 1970: its last use.
    pub used: u32,
    /// Its number.
    pub id: Id,
}

impl Catalog {
    /// Whether the manifests here name more than they may.
    pub fn is_crowded(&self) -> bool {
        let inner = self.inner.lock();
        inner.parts > inner.most
    }

    /// Whether so many of them have gone that it will not soon be crowded again.
    pub fn is_thin(&self) -> bool {
        let inner = self.inner.lock();
        inner.parts <= inner.most / 10 * 9
    }

    /// Bytes of memory that what they name takes here.
    pub fn memory(&self) -> usize {
        self.inner.lock().parts * (size_of::<Edge>() + 16)
    }

    /// The manifests that may go, of some numbers from `from` on, and where to go on.
    pub fn candidates(&self, from: Id) -> (Vec<Candidate>, Option<Id>) {
        let inner = self.inner.lock();
        let state = self.index.lock();
        let (found, next) = state.objects.walk(from, LOOKED_AT);
        let candidates = found.filter_map(|(id, entry)| {
            let image = inner.images.get(&id)?;
            let stays = if entry.present { entry.pinned } else { state.stays(&state.objects.digest(id)) };
            let turn = match (image.parts.len() > ORDINARY, entry.present) {
                (true, false) => Turn::HugeAbsent,
                (true, true) => Turn::Huge,
                (false, true) => Turn::Ordinary,
                (false, false) => Turn::OrdinaryAbsent,
            };
            (!stays).then_some(Candidate { turn, used: entry.used, id })
        });
        (candidates.collect(), next)
    }

    /// Forgets a manifest at once if its file is not here; the records that have lost their meaning.
    pub fn forget_absent(&self, id: Id) -> Vec<(Scope, Digest)> {
        let now = self.index.now();
        let mut inner = self.inner.lock();
        let mut state = self.index.lock();
        if state.objects.get(id).present || !inner.images.contains_key(&id) {
            return Vec::new();
        }
        // Its number may go to another object now: the next pruning must not look for it. If it has just gone, it is the last.
        if let Some(at) = state.orphans.iter().rposition(|(orphan, _)| *orphan == id) {
            state.orphans.swap_remove(at);
        }
        state.waiting.retain(|(orphan, _)| *orphan != id);
        let digest = state.objects.digest(id);
        if inner.tags_of(&digest).next().is_some() {
            // Its tags go at the next pruning.
            inner.lost.push_back((digest, now));
        }
        inner.forget_manifest(&mut state, id)
    }

    /// Lets manifests name fewer things than a test could make.
    #[cfg(test)]
    pub fn limit_parts(&self, most: usize) {
        self.inner.lock().most = most;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_named_grows_with_the_cache() {
        assert_eq!([0, 50 << 30, 1 << 40].map(most), [1_000_000, 1_000_000, 4 << 20]);
    }
}
