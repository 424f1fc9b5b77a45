//! Room in the disk tier: what is asked for, and what has been granted.
//!
//! A [`Reservation`] counts against the limit until it becomes an object or a leftover, or is dropped (I8).

use std::sync::Arc;

use super::{Class, Found, Index, Place, Victim};
use crate::cache::store::Space;
use crate::oci::Digest;

/// What has to happen before a claim can be granted.
#[derive(Debug)]
pub enum Claim {
    /// It is granted.
    Granted(Reservation),
    /// This must be unlinked first; then [`Index::left`] is called and the claim made again.
    Evict(Victim),
    /// The account has room for it, the file system has not: unlinking this helps if that frees its space. If it would
    /// not, [`Index::stayed`]; then the claim again.
    Free(Victim),
    /// The file system is still to get back what is needed, of files that were unlinked.
    OnItsWay,
    /// Others are unlinking: make the claim again in a moment.
    Wait,
    /// It cannot be granted, whatever is evicted.
    Impossible,
}

/// Bytes set aside for one fill; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    pub(super) index: Arc<Index>,
    pub(super) bytes: u64,
    pub(super) class: Class,
}

impl Index {
    /// Tries to set `bytes` aside for content of `class`. `space` is what the file system says now, `owed` what it is still
    /// to get back for files that were unlinked.
    pub fn claim(self: &Arc<Self>, bytes: u64, class: Class, space: Space, owed: u64) -> Claim {
        let mut state = self.lock();
        let class = state.class(class);
        let over = state.total().saturating_add(bytes).saturating_sub(self.limits.max_size);
        let short = bytes.saturating_add(self.limits.min_free).saturating_sub(space.free);
        let share = &state.classes[usize::from(class)];
        let beyond = share.beyond(bytes);
        if over == 0 && short == 0 && beyond == 0 {
            state.share(class).reserved += bytes;
            return Claim::Granted(Reservation { index: self.clone(), bytes, class });
        }
        let for_account = over > 0 || beyond > 0;
        let short = short.saturating_sub(owed);
        if short == 0 && !for_account {
            return Claim::OnItsWay;
        }
        // What eviction could free at best; if that is not enough, nothing is evicted in vain.
        let evictable = state.bytes - state.pinned + state.spare + state.leaving();
        if over.max(short) > evictable || !share.can_free(beyond) {
            return Claim::Impossible;
        }
        let spare = if over.max(short) > 0 { state.evict_spare() } else { None };
        let victim = spare.or_else(|| state.evict((beyond > 0).then_some(class)));
        match victim {
            Some(victim) if for_account => Claim::Evict(victim),
            Some(victim) => Claim::Free(victim),
            None if !state.leaving.is_empty() => Claim::Wait,
            None => Claim::Impossible,
        }
    }
}

impl Reservation {
    /// How many bytes are set aside.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes over another reservation of the same index and quota.
    pub fn absorb(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.index, &other.index) && self.class == other.class);
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Sets `bytes` of it apart, as far as it goes.
    pub fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { index: self.index.clone(), bytes, class: self.class }
    }

    /// The fill has been published as an object of `size` bytes, in a file of this [`super::super::store::stamp`]. Whether
    /// it took the name of one that was known to be damaged.
    pub fn published(mut self, digest: Digest, size: u64, stamp: u32) -> bool {
        let now = self.index.now();
        let mut state = self.index.lock();
        state.share(self.class).reserved -= std::mem::take(&mut self.bytes);
        let replaced = state.condemned.contains_key(&digest);
        state.insert(&digest, self.class, Found::new(size, stamp, now));
        replaced
    }

    /// The fill stopped and left `size` bytes that can be resumed.
    pub fn left_over(mut self, digest: Digest, size: u64) {
        let mut state = self.index.lock();
        state.share(self.class).reserved -= std::mem::take(&mut self.bytes);
        state.add_spare(Place::Ingest, digest, size);
    }

    /// The fill's file cannot be removed, and has no name by which it could be later: it counts until a start sweeps it.
    pub fn lost(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.index.lock().share(self.class).reserved -= self.bytes;
        }
    }
}
