//! What stays for a while although no pin protects it: what an import brings, and what its images are made of.
//!
//! Eviction and expiry leave it alone until the [`Hold`] is dropped; who removes it by hand removes it. It is no pin, and nobody
//! is told that it is one.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Index;
use super::state::State;
use crate::oci::Digest;

/// Objects that are held, here or not yet here. Let go when dropped.
#[derive(Debug)]
pub struct Hold {
    index: Arc<Index>,
    held: Mutex<HashSet<Digest>>,
}

/// How an object is held.
#[derive(Debug, Default)]
pub(super) struct Held {
    times: u32,
    /// What the policy knew of its uses before.
    heat: Option<u8>,
}

impl Index {
    /// Nothing is held yet.
    pub fn hold(self: &Arc<Self>) -> Hold {
        Hold { index: self.clone(), held: Mutex::default() }
    }

    /// Bytes that no eviction can free: what is pinned or held, and what is promised or damaged.
    pub fn unmovable(&self) -> u64 {
        let state = self.lock();
        state.total() - (state.bytes - state.pinned) - state.spare - state.leaving()
    }
}

impl Hold {
    /// Holds an object, too. To be called before it is looked whether it is here: then it stays if it is. Whether that is new.
    pub fn add(&self, digest: &Digest) -> bool {
        let new = self.held.lock().insert(*digest);
        if new {
            let mut state = self.index.lock();
            state.held.entry(*digest).or_default().times += 1;
            state.repin(digest, None);
        }
        new
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let held = std::mem::take(self.held.get_mut());
        let mut state = self.index.lock();
        held.iter().for_each(|digest| state.let_go(digest));
    }
}

impl State {
    fn let_go(&mut self, digest: &Digest) {
        let Some(held) = self.held.get_mut(digest) else { return };
        held.times -= 1;
        if let Held { times: 0, heat } = *held {
            self.held.remove(digest);
            self.repin(digest, heat);
        }
    }

    /// Whether a pin protects an object, or somebody holds it.
    pub(in crate::cache) fn stays(&self, digest: &Digest) -> bool {
        self.protected.contains(digest) || self.held.contains_key(digest)
    }

    /// Brings an object's file into step with whether it stays. `heat`: what was known of its uses before it did.
    pub(super) fn repin(&mut self, digest: &Digest, heat: Option<u8>) {
        let stays = self.stays(digest);
        let Some(id) = self.objects.find(digest) else { return };
        let entry = self.objects.get(id);
        if !entry.present || entry.pinned == stays {
            return;
        }
        let heat = self.heat(id).or(heat);
        self.dismiss(id);
        self.objects.get_mut(id).pinned = stays;
        self.admit(id, heat);
        if let Some(held) = self.held.get_mut(digest) {
            held.heat = heat;
        }
    }

    /// Bytes of files that stay only because somebody holds them.
    pub(super) fn only_held(&self) -> u64 {
        let only = self.held.keys().filter(|digest| !self.protected.contains(*digest));
        let files = only.filter_map(|digest| Some(self.objects.get(self.objects.find(digest)?)));
        files.filter(|entry| entry.present).map(|entry| entry.size).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::evict::Kind;
    use crate::cache::index::{Claim, Limits};
    use crate::cache::store::Space;
    use crate::oci::Algorithm;

    fn digest(n: u8) -> Digest {
        Digest::of(Algorithm::Sha256, &[n])
    }

    /// What goes for ten bytes more.
    fn victim(index: &Arc<Index>) -> Option<Digest> {
        match index.claim(10, 0, Space { total: 1 << 30, free: 1 << 30 }, 0) {
            Claim::Evict(victim) => {
                index.stayed(victim);
                Some(victim.digest)
            }
            Claim::Impossible => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_held_stays_and_is_no_pin() {
        let index = Arc::new(Index::with(Limits { max_size: 20, min_free: 0 }, &[], Kind::Lru));
        let (one, other) = (digest(1), digest(2));
        let hold = index.hold();
        assert!(hold.add(&one) && !hold.add(&one));
        index.insert(one, 10);
        index.insert(other, 10);
        assert_eq!(victim(&index), Some(other), "the one that came first is held, since before it was here");
        assert!(!index.known(&one).unwrap().pinned && index.pinned() == 0);

        // A second hold, and a pin that comes and goes meanwhile.
        let again = index.hold();
        assert!(again.add(&one) && again.add(&other));
        assert_eq!((victim(&index), index.unmovable(), index.pinned()), (None, 20, 0));
        index.protect(HashSet::from([one]));
        assert!(index.known(&one).unwrap().pinned && !index.known(&other).unwrap().pinned && index.pinned() == 10);
        drop(again);
        assert_eq!(victim(&index), Some(other));
        index.protect(HashSet::new());
        assert_eq!(victim(&index), Some(other), "the first hold is still there");
        drop(hold);
        index.remove(&other);
        index.insert(other, 10);
        assert_eq!((victim(&index), index.unmovable()), (Some(one), 0));
    }
}
