//! What was written down of manifests that are gone, and is of no use without them: their types, what refers to them, and
//! the tags that stand for them. Else there would be as many records as there ever were tags.
//!
//! A tag's record is worth nothing to a pull before its manifest is here again, and whoever brings that writes the record, too.
//! Pins and what was imported stay: somebody wanted these by name. Called by [`super::survey`] every minute, and by
//! [`super::manage`].

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use super::Cache;
use super::catalog::{Pruned, Tagged};
use super::records::TagKey;
use crate::oci::{Digest, ImageRef, Scope, Tag};

impl Cache {
    /// Removes the records of what is gone; how many these were.
    pub(super) async fn prune_records(self: &Arc<Self>) -> u64 {
        // Before the survey, a manifest may only look gone.
        if !self.is_surveyed() {
            return 0;
        }
        let mut count = 0;
        loop {
            let pruned = self.blocking(|cache| cache.prune_manifests()).await.unwrap_or_default();
            count += pruned.manifests.len() as u64;
            let mut left: HashSet<Scope> = pruned.manifests.into_iter().map(|(scope, _)| scope).collect();
            let pinned = self.pinned_images();
            for tagged in pruned.tags.into_iter().filter(|tagged| self.is_useless(tagged, &pinned)) {
                self.prune_tag(&tagged.scope, &tagged.tag).await;
                count += 1;
                left.insert(tagged.scope);
            }
            let _ = self.blocking(move |cache| left.iter().for_each(|scope| cache.records.remove_empty(scope))).await;
            if !pruned.more {
                return count;
            }
        }
    }

    /// How many records [`Cache::prune_records`] would remove.
    pub(super) fn count_prunable(&self) -> u64 {
        if !self.is_surveyed() {
            return 0;
        }
        let (manifests, tags) = self.catalog.prunable();
        let pinned = self.pinned_images();
        manifests + tags.iter().filter(|tagged| self.is_useless(tagged, &pinned)).count() as u64
    }

    fn prune_manifests(&self) -> Pruned {
        let pruned = self.catalog.prune();
        self.remove_records(&pruned.manifests);
        pruned
    }

    /// Removes the records of manifests that are gone. Blocks.
    pub(super) fn remove_records(&self, records: &[(Scope, Digest)]) {
        for (scope, digest) in records {
            let _ = fs::remove_file(self.records.manifest_path(scope, digest));
            self.records.forget_referrers(scope, digest);
        }
    }

    fn pinned_images(&self) -> HashSet<ImageRef> {
        self.pins.all().iter().map(|pin| pin.image.clone()).collect()
    }

    fn is_useless(&self, Tagged { scope, tag, record }: &Tagged, pinned: &HashSet<ImageRef>) -> bool {
        !record.imported && !self.index.contains(&record.digest) && !pinned.contains(&scope.image(tag.clone()))
    }

    /// Forgets a tag, but not in memory: its manifest may still be there, and clients get both as long as it is. If a check has
    /// confirmed the tag meanwhile, it is written down again.
    pub(super) async fn prune_tag(self: &Arc<Self>, scope: &Scope, tag: &Tag) {
        self.catalog.set_tag(scope, tag, None);
        let path = self.records.tag_path(scope, tag);
        let _ = self.blocking(move |_| fs::remove_file(path)).await;
        // Whoever confirms it has its manifest on disk first, then notes it in memory, and writes it down last.
        if let Some(Some(known)) = self.records.tags.get(&TagKey(scope.clone(), tag.clone()))
            && self.index.contains(&known.digest)
        {
            let _ = self.settle_tag(scope, tag, Some(known), true).await;
        }
    }
}
