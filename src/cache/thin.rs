//! Keeps the memory bounded that the catalog takes for what manifests name: when they name too much, some of them are evicted,
//! as [`super::catalog`] chooses them. What pins protect and what an import holds stays. Rare, and never while
//! somebody waits: woken by whoever notes a manifest, done by a task of [`super::maintain`] on the blocking pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::Cache;
use super::catalog::{Candidate, Totals};

/// When there is something to do.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    wake: Notify,
    /// All that is left stays: not tried again before the next housekeeping.
    hopeless: AtomicBool,
}

impl Cache {
    /// Has manifests evicted, if those here name too much. Does not wait for it.
    pub(super) fn mind_the_crowd(&self) {
        if self.is_to_thin_out() {
            self.crowd.wake.notify_one();
        }
    }

    /// Whether the manifests here name too much, and it may help to look for some that can go.
    pub(super) fn is_to_thin_out(&self) -> bool {
        self.catalog.is_crowded() && !self.crowd.hopeless.load(Ordering::Relaxed)
    }

    /// Evicts manifests whenever those here name too much. For ever.
    pub(super) async fn thin_when_crowded(self: &Arc<Self>) {
        loop {
            self.crowd.wake.notified().await;
            // Before it is known what pins protect, nothing goes; whoever notes the next manifest wakes this again.
            if self.until_scanned().await.is_ok() {
                let _ = self.blocking(|cache| cache.thin_out()).await;
            }
        }
    }

    /// Blocks. Evicts manifests, if those here name too much.
    pub(super) fn thin_out(&self) {
        if !self.catalog.is_crowded() {
            self.crowd.hopeless.store(false, Ordering::Relaxed);
            return;
        }
        let (before, mut evicted) = (self.catalog.totals(), 0_u64);
        for candidate in self.all_candidates() {
            if self.catalog.is_thin() {
                break;
            }
            evicted += u64::from(self.evict_manifest(candidate));
        }
        let hopeless = self.catalog.is_crowded();
        if self.crowd.hopeless.swap(hopeless, Ordering::Relaxed) && evicted == 0 {
            return;
        }
        let Totals { parts, most_parts, .. } = self.catalog.totals();
        tracing::warn!(
            manifests = evicted,
            named_before = before.parts,
            named = parts,
            limit = most_parts,
            "the manifests here named more than the mirror keeps in memory: some were evicted, first those that name more than images do, and those that were not used for longest{}",
            if hopeless { "; what is pinned, or being imported, names more than that: nothing else can go" } else { "" }
        );
    }

    fn all_candidates(&self) -> Vec<Candidate> {
        let (mut all, mut from) = (Vec::new(), Some(0));
        while let Some(at) = from {
            let (candidates, next) = self.catalog.candidates(at);
            all.extend(candidates);
            from = next;
        }
        all.sort_unstable();
        all
    }

    /// Whether a file has gone.
    fn evict_manifest(&self, Candidate { used, id, .. }: Candidate) -> bool {
        let evicted = match self.index.expel_manifest(id, used) {
            Some(victim) => self.evict(victim).unwrap_or_else(|error| {
                let path = self.store.path(victim.place, &victim.digest);
                tracing::error!(path = %path.display(), %error, "a file of the cache cannot be removed");
                false
            }),
            None => false,
        };
        self.remove_records(&self.catalog.forget_absent(id));
        evicted
    }
}
