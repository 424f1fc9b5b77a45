//! What the disk tier holds and may still take in: sizes, order of use, reservations.
//!
//! Owns the account behind I8: objects + leftovers + what is being unlinked + reservations ≤ limit, at every moment.
//! Never touches a file: it names a victim, [`super::Cache`] unlinks it and reports back. The lock is held for map
//! operations only.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use super::evict::Lru;
use super::store::Space;
use crate::oci::Digest;

/// How much the disk tier may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all files together.
    pub max_size: u64,
    /// Bytes of the file system that stay free.
    pub min_free: u64,
}

/// The account of the disk tier.
#[derive(Debug)]
pub struct Index {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: Lru,
    /// What earlier fills left in `ingest/`, in bytes.
    leftovers: HashMap<Digest, u64>,
    /// Bytes promised to fills.
    reserved: u64,
    /// Bytes of files that were chosen as victims and may still be there.
    leaving: u64,
    /// Objects used since recency was last written down.
    used: HashSet<Digest>,
}

impl State {
    fn bytes(&self) -> u64 {
        self.objects.bytes() + self.leftovers.values().sum::<u64>() + self.leaving + self.reserved
    }
}

/// What has to happen before a claim can be granted.
#[derive(Debug)]
pub enum Claim {
    /// It is granted.
    Granted(Reservation),
    /// This must be unlinked first; then [`Index::left`] is called and the claim made again.
    Evict(Victim),
    /// Others are unlinking: make the claim again in a moment.
    Wait,
    /// It cannot be granted, whatever is evicted.
    Impossible,
}

/// A file that has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Whose file.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// In `ingest/` rather than `blobs/`.
    pub leftover: bool,
}

impl Index {
    /// An empty account.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Tries to set `bytes` aside. `space` is what the file system says now.
    pub fn claim(self: &Arc<Self>, bytes: u64, space: Space) -> Claim {
        let mut state = self.lock();
        let over = (state.bytes() + bytes).saturating_sub(self.limits.max_size);
        let short = (bytes + self.limits.min_free).saturating_sub(space.free);
        if over == 0 && short == 0 {
            state.reserved += bytes;
            return Claim::Granted(Reservation { index: self.clone(), bytes });
        }
        // What eviction could free at best; if that is not enough, nothing is evicted in vain.
        let evictable = state.bytes() - state.reserved;
        if over.max(short) > evictable {
            return Claim::Impossible;
        }
        let leftover = state.leftovers.keys().next().copied();
        let victim = match leftover {
            Some(digest) => state.leftovers.remove(&digest).map(|size| Victim { digest, size, leftover: true }),
            None => state.objects.pop().map(|(digest, size)| Victim { digest, size, leftover: false }),
        };
        match victim {
            Some(victim) => {
                state.leaving += victim.size;
                Claim::Evict(victim)
            }
            None if state.leaving > 0 => Claim::Wait,
            None => Claim::Impossible,
        }
    }

    /// A victim has been unlinked.
    pub fn left(&self, victim: Victim) {
        self.lock().leaving -= victim.size;
    }

    /// Takes in a file that is under `blobs/`, as the one used last.
    pub fn insert(&self, digest: Digest, size: u64) {
        self.lock().objects.insert(digest, size);
    }

    /// Takes in what an earlier fill left.
    pub fn insert_leftover(&self, digest: Digest, size: u64) {
        self.lock().leftovers.insert(digest, size);
    }

    /// Hands a leftover over to a new fill of the same digest: its bytes count as that fill's from now on.
    pub fn take_leftover(self: &Arc<Self>, digest: &Digest) -> Reservation {
        let mut state = self.lock();
        let bytes = state.leftovers.remove(digest).unwrap_or(0);
        state.reserved += bytes;
        Reservation { index: self.clone(), bytes }
    }

    /// Forgets an object; its size.
    pub fn remove(&self, digest: &Digest) -> Option<u64> {
        self.lock().objects.remove(digest)
    }

    /// Notes that an object was served.
    pub fn touch(&self, digest: &Digest) {
        let mut state = self.lock();
        if state.objects.touch(digest) {
            state.used.insert(*digest);
        }
    }

    /// Whether the object is held.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.lock().objects.contains(digest)
    }

    /// The size of an object that is held.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.lock().objects.size(digest)
    }

    /// The objects used since the last call, for recency to be written down.
    pub fn take_used(&self) -> HashSet<Digest> {
        std::mem::take(&mut self.lock().used)
    }

    /// Bytes held and promised, and the number of objects.
    pub fn totals(&self) -> (u64, usize) {
        let state = self.lock();
        (state.bytes(), state.objects.len())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics; if it did, the account is still the best there is.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Bytes set aside for one fill; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    index: Arc<Index>,
    bytes: u64,
}

impl Reservation {
    /// How many bytes are set aside.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes over another reservation of the same index.
    pub fn absorb(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.index, &other.index));
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Sets `bytes` of it apart, as far as it goes.
    pub fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { index: self.index.clone(), bytes }
    }

    /// The fill has been published as an object of `size` bytes.
    pub fn published(mut self, digest: Digest, size: u64) {
        let mut state = self.index.lock();
        state.reserved -= std::mem::take(&mut self.bytes);
        state.objects.insert(digest, size);
    }

    /// The fill stopped and left `size` bytes that can be resumed.
    pub fn left_over(mut self, digest: Digest, size: u64) {
        let mut state = self.index.lock();
        state.reserved -= std::mem::take(&mut self.bytes);
        state.leftovers.insert(digest, size);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.index.lock().reserved -= self.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use proptest::prelude::*;

    fn digest(n: u8) -> Digest {
        Digest::of(Algorithm::Sha256, &[n])
    }

    fn index(max_size: u64) -> Arc<Index> {
        Arc::new(Index::new(Limits { max_size, min_free: 10 }))
    }

    const ROOMY: Space = Space { free: 1 << 40, total: 1 << 40 };

    /// Makes a claim and evicts what it names, as the cache does.
    fn claim(index: &Arc<Index>, bytes: u64, space: &mut Space) -> (Option<Reservation>, Vec<Victim>) {
        let mut victims = Vec::new();
        loop {
            match index.claim(bytes, *space) {
                Claim::Granted(reservation) => return (Some(reservation), victims),
                Claim::Impossible => return (None, victims),
                Claim::Wait => panic!("nobody else evicts here"),
                Claim::Evict(victim) => {
                    space.free += victim.size;
                    index.left(victim);
                    victims.push(victim);
                }
            }
        }
    }

    #[test]
    fn room_is_made_by_use_leftovers_first() {
        let index = index(100);
        for n in 0..3 {
            index.insert(digest(n), 30);
        }
        index.insert_leftover(digest(9), 10);
        index.touch(&digest(0));
        let (reservation, victims) = claim(&index, 40, &mut ROOMY.clone());
        assert!(reservation.is_some());
        assert_eq!(
            victims,
            [Victim { digest: digest(9), size: 10, leftover: true }, Victim { digest: digest(1), size: 30, leftover: false }]
        );
        assert_eq!(index.totals(), (100, 2));
    }

    #[test]
    fn what_cannot_fit_evicts_nothing() {
        let index = index(100);
        index.insert(digest(0), 50);
        let held = claim(&index, 40, &mut ROOMY.clone()).0.unwrap();
        let (refused, victims) = claim(&index, 70, &mut ROOMY.clone());
        assert!(refused.is_none() && victims.is_empty());
        drop(held);
        assert!(claim(&index, 70, &mut ROOMY.clone()).0.is_some());
    }

    #[test]
    fn min_free_counts_other_writers() {
        let index = index(1000);
        index.insert(digest(0), 50);
        index.insert(digest(1), 50);
        let mut space = Space { free: 30, total: 1000 };
        let (reservation, victims) = claim(&index, 60, &mut space);
        assert!(reservation.is_some());
        assert_eq!(victims.len(), 1);
        assert!(claim(&index, 500, &mut space).0.is_none());
    }

    proptest! {
        /// I8: whatever fills do, held plus promised never exceeds the limit, and nothing leaks.
        #[test]
        fn i8_the_limit_holds(steps in prop::collection::vec((0..12u8, 0..80u64, 0..4u8), 0..300)) {
            let index = index(200);
            let mut fills: HashMap<u8, Reservation> = HashMap::new();
            for (n, bytes, what) in steps {
                match (what, fills.remove(&n)) {
                    (0, None) => {
                        let mut taken = index.take_leftover(&digest(n));
                        if let (Some(more), _) = claim(&index, bytes, &mut ROOMY.clone()) {
                            taken.absorb(more);
                            fills.insert(n, taken);
                        }
                    }
                    (1, Some(fill)) => { let size = fill.bytes(); fill.published(digest(n), size); }
                    (2, Some(fill)) => { let size = fill.bytes() / 2; fill.left_over(digest(n), size); }
                    (3, Some(fill)) => drop(fill),
                    (_, Some(fill)) => { fills.insert(n, fill); }
                    (_, None) => index.touch(&digest(n)),
                }
                prop_assert!(index.totals().0 <= 200, "{:?}", index.totals());
                let promised: u64 = fills.values().map(Reservation::bytes).sum();
                prop_assert!(index.totals().0 >= promised);
            }
            fills.clear();
            prop_assert_eq!(index.lock().reserved, 0);
            prop_assert_eq!(index.lock().leaving, 0);
        }
    }
}
