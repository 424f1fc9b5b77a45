//! Content that came through private upstreams, and whose it is. An upstream is private unless it is open to everybody.
//!
//! Content lies under its digest, whoever it came from, and a digest is no secret. So before content comes through a
//! private upstream, it is confined to that upstream: a small file, `private/<algorithm>-<hex>`, names the upstream. Another
//! private upstream that says that it has the content is added, one name a line. A public one that says so removes the
//! file. The file is empty for what a bundle brings until it is known which of its images needs it: then the content is
//! nobody's. All marks are also in memory. A mirror of public registries has none, and pays one look at a flag. Who may see
//! confined content is not decided here. Called by `pull`, `fill` and `transfer`.
//!
//! An upstream may become private while its content is on its way. What is published later is confined all the same:
//! whoever publishes looks once more whose it is, and no upstream becomes private between that look and the publishing
//! ([`Confined::steady`]). What was published earlier is confined by what the catalog knows, once the change is made
//! ([`Cache::confine_known`]). Whoever tells the catalog of a manifest that was on its way during the change has that done
//! again ([`Cache::confine_since`]).

mod marks;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::{io, slice};

use parking_lot::RwLockReadGuard;

use super::Cache;
use crate::oci::{Digest, UpstreamName};

pub(super) use marks::parse;
pub use marks::{Confined, Holders};

impl Cache {
    /// Confines content to an upstream, before it comes through it. What is cached already keeps its mark, or its lack of
    /// one. After an error the caller must not keep the content. Cancel-safe.
    pub async fn confine(self: &Arc<Self>, digest: &Digest, upstream: &UpstreamName) -> io::Result<()> {
        if !self.mark(digest, slice::from_ref(upstream)) {
            return Ok(());
        }
        self.write_mark(digest).await
    }

    /// Blocks. Content that came through `upstream` is about to be published: it is confined, if that has become private since
    /// it was asked for. That is so until what is returned is dropped, which is when it can be found. After an error it must not
    /// be published.
    pub(super) fn confine_for_good(&self, digest: &Digest, upstream: &UpstreamName) -> io::Result<RwLockReadGuard<'_, ()>> {
        let steady = self.confined.steady();
        if self.confined.is_private(upstream) {
            self.confine_brought(digest, Some(upstream))?;
        }
        Ok(steady)
    }

    /// Content is on its way through `upstream`, which somebody else has asked for it: it is confined, if that upstream has
    /// become private since. After an error the caller must not join in. Cancel-safe.
    pub async fn confine_underway(self: &Arc<Self>, digest: &Digest, upstream: &UpstreamName) -> io::Result<()> {
        match self.confined.is_private(upstream) {
            true => self.confine(digest, upstream).await,
            false => Ok(()),
        }
    }

    /// Another upstream that is not everybody's has the content, too, by its own word. What is everybody's stays so. After an
    /// error that is in memory alone. Cancel-safe.
    pub async fn admit(self: &Arc<Self>, digest: &Digest, upstream: &UpstreamName) -> io::Result<()> {
        if !self.confined.add(digest, slice::from_ref(upstream)) {
            return Ok(());
        }
        self.write_mark(digest).await
    }

    async fn write_mark(self: &Arc<Self>, digest: &Digest) -> io::Result<()> {
        let digest = *digest;
        self.blocking(move |cache| cache.confined.write(&cache.store, &digest)).await?
    }

    /// Blocks. As [`Cache::confine`], of a bundle's content. `None`: whose it is is not known yet, and [`Cache::settle`] says
    /// it.
    pub fn confine_brought(&self, digest: &Digest, upstream: Option<&UpstreamName>) -> io::Result<()> {
        if !self.mark(digest, upstream.map_or(&[], slice::from_ref)) {
            return Ok(());
        }
        self.confined.write(&self.store, digest)
    }

    /// Marks what is not here. Whether that must be written down before it comes.
    fn mark(&self, digest: &Digest, upstreams: &[UpstreamName]) -> bool {
        let here = self.index.contains(digest) || self.memory.get(digest).is_some();
        !here && self.confined.insert(*digest, upstreams)
    }

    /// Blocks. Says whose content is that images of a bundle need: these private upstreams', besides whose it was; or
    /// everybody's (`None`), whosever it was.
    pub fn settle(&self, digest: &Digest, upstreams: Option<&[UpstreamName]>) -> io::Result<()> {
        if self.confined.of(digest).is_none() {
            return Ok(());
        }
        match upstreams {
            Some(upstreams) => {
                self.confined.add(digest, upstreams);
                self.confined.write(&self.store, digest)
            }
            None => self.confined.open(digest),
        }
    }

    /// An upstream that is everybody's has the content, too. One that has become private since it was asked opens nothing.
    pub async fn release(self: &Arc<Self>, digest: &Digest, upstream: &UpstreamName) {
        if self.confined.of(digest).is_some() && self.confined.release(digest, upstream) {
            let digest = *digest;
            // If that fails the next process asks the upstream once more.
            let _ = self.blocking(move |cache| cache.confined.unwrite(&digest)).await;
        }
    }

    /// Blocks. Confines what only repositories of upstreams that are not everybody's refer to, of a cache from before they were
    /// that. What others refer to as well was everybody's, and stays so.
    pub fn confine_known(&self) {
        let confined = &self.confined;
        if !confined.is_active() {
            return;
        }
        let private = confined.private();
        for (scope, digest) in self.catalog.unread(|upstream| private.contains(upstream)) {
            // One that cannot be read is looked for again the next time.
            let _ = self.survey_manifest(&scope, &digest, None);
        }
        let (mut failed, mut new) = (None, 0);
        for (digest, upstreams) in self.catalog.confined(|upstream| private.contains(upstream)) {
            // A manifest that names what is nobody's is no proof of whose it is; nor that what is another's is this one's, too.
            let is_nobodys = confined.of(&digest).is_some_and(|holders| holders.is_empty());
            if !is_nobodys && confined.insert(digest, &upstreams) {
                new += 1;
                failed = confined.write(&self.store, &digest).err().or(failed);
            }
        }
        if new > 0 {
            tracing::info!(
                objects = new,
                "what only repositories of upstreams with another visibility than \"public\" name is now theirs alone"
            );
        }
        if let Some(error) = failed {
            tracing::warn!(%error, "cannot write down which content is not everybody's; it is kept in memory");
        }
    }

    /// What has been said to the catalog may have come too late for [`Cache::confine_known`]: if other upstreams are private than
    /// these, that is done again. `before`: those that were when the manifest was asked for.
    pub async fn confine_since(self: &Arc<Self>, before: &BTreeSet<UpstreamName>) {
        if *self.confined.private() != *before {
            let _ = self.blocking(|cache| cache.confine_known()).await;
        }
    }

    /// Blocks. Forgets to whom content belonged that is no longer here.
    pub(super) fn prune_confined(&self) {
        // A file that the index does not know may be taken in yet.
        let is_here = |digest: &Digest| !matches!(self.store.find(digest), Ok(None));
        self.confined.prune(|digest| self.index.contains(digest) || self.store.has_ingest(digest) || is_here(digest));
    }
}
