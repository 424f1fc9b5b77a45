//! What the disk says of times, once the wall clock was set: at boot it may be wrong until NTP has set it, and what was
//! written down until then would be taken for old, or for news from the future, by the next process.
//!
//! Called by [`super::maintain`].

use std::sync::Arc;

use super::Cache;
use super::catalog::Tagged;
use super::records::TagKey;
use crate::clock::Look;

impl Cache {
    /// If the wall clock was set since the last look, sees to it that what this process wrote down is written again. What
    /// earlier ones wrote stays as it is: nobody knows by which clock they did. A list of referrers is asked for again soon.
    pub(super) async fn keep_time(self: &Arc<Self>) {
        if self.clock().look() == Look::Steady {
            return;
        }
        let since = self.clock().start();
        let found = self.blocking(move |cache| {
            cache.index.rewrite_uses();
            cache.catalog.checked_since(since)
        });
        let tags = found.await.unwrap_or_default();
        tracing::warn!(tags = tags.len(), "the clock of this machine was set; times that were written down are written again");
        for Tagged { scope, tag, .. } in tags {
            // As memory has it, which may be newer; what is not there any more keeps its date.
            if let Some(Some(known)) = self.records.tags.get(&TagKey(scope.clone(), tag.clone())) {
                let _ = self.settle_tag(&scope, &tag, Some(known), false).await;
            }
        }
    }
}
