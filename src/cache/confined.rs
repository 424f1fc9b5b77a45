//! Content that came through private upstreams, and whose it is. An upstream is private unless it is open to everybody.
//!
//! Content lies under its digest, whoever it came from, and a digest is no secret. So content that comes through a private
//! upstream is confined to that upstream: a small file, `private/<algorithm>-<hex>`, names the upstream. Another private
//! upstream that brings it, too, or says that it has it, is added, one name a line. A public one that says so removes the
//! file. The file is empty, and the content nobody's, as long as nobody has brought it or said that it is there: while it is
//! on its way, since whoever asks for something need not get it; and for what a bundle brings until it is known which of
//! its images needs it. All marks are also in memory. A mirror of public registries has none, and pays one look at a flag. Who
//! may see confined content is not decided here. Called by `pull`, `fill` and `transfer`.
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

/// How content came that is published for an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// The upstream sent it, or all that was missing of it.
    Sent,
    /// An earlier download had left all of it, and nobody was asked.
    Left,
}

impl Cache {
    /// Blocks. Content is about to come through `upstream`, if that has it: it is closed, if that upstream is private. What is
    /// cached already keeps its mark, or its lack of one. After an error the content must not be kept.
    pub fn expect(&self, digest: &Digest, upstream: &UpstreamName) -> io::Result<()> {
        match self.confined.is_private(upstream) && !self.is_cached(digest) && self.confined.expect(*digest) {
            true => self.confined.write(&self.store, digest),
            false => Ok(()),
        }
    }

    /// The same, for whoever joins a download through `upstream`, which somebody else may have begun, and before that became
    /// private. After an error the caller must not join in. Cancel-safe.
    pub async fn expect_joined(self: &Arc<Self>, digest: &Digest, upstream: &UpstreamName) -> io::Result<()> {
        match self.confined.is_private(upstream) && !self.is_cached(digest) && self.confined.expect(*digest) {
            true => self.write_mark(digest).await,
            false => Ok(()),
        }
    }

    /// Blocks. A download has ended without its content: what was closed for it is forgotten, unless there is something of it.
    pub fn withdraw(&self, digest: &Digest) {
        if self.confined.is_in_vain(digest) && !self.is_here(digest) {
            self.confined.withdraw(digest);
        }
    }

    /// Blocks. Content that came through `upstream` is about to be published: it is that one's, if it has become private since it
    /// was asked for. That is so until what is returned is dropped, which is when it can be found. After an error it must not be
    /// published.
    pub(super) fn confine_for_good(
        &self,
        digest: &Digest,
        upstream: &UpstreamName,
        came: Came,
    ) -> io::Result<RwLockReadGuard<'_, ()>> {
        let steady = self.confined.steady();
        if self.confined.is_private(upstream) {
            let unwritten = match (self.is_cached(digest), came) {
                // What was everybody's stays so.
                (true, Came::Sent) => self.confined.add(digest, slice::from_ref(upstream)),
                (false, Came::Sent) => self.confined.bring(*digest, upstream),
                (true, Came::Left) => false,
                (false, Came::Left) => self.confined.expect(*digest),
            };
            if unwritten {
                self.confined.write(&self.store, digest)?;
            }
        }
        Ok(steady)
    }

    /// Another upstream that is not everybody's has the content, too, by its own word. What is everybody's stays so. After an
    /// error that is in memory alone. Cancel-safe.
    pub async fn add_holder(self: &Arc<Self>, digest: &Digest, upstream: &UpstreamName) -> io::Result<()> {
        if !self.confined.add(digest, slice::from_ref(upstream)) {
            return Ok(());
        }
        self.write_mark(digest).await
    }

    async fn write_mark(self: &Arc<Self>, digest: &Digest) -> io::Result<()> {
        let digest = *digest;
        self.blocking(move |cache| cache.confined.write(&cache.store, &digest)).await?
    }

    /// Blocks. Confines a bundle's content, which is whole, before it can be found. `None`: whose it is is not known yet, and
    /// [`Cache::settle`] says it. What is cached already keeps its mark, or its lack of one. After an error it must not be kept.
    pub fn confine_brought(&self, digest: &Digest, upstream: Option<&UpstreamName>) -> io::Result<()> {
        match !self.is_cached(digest) && self.confined.insert(*digest, upstream.map_or(&[], slice::from_ref)) {
            true => self.confined.write(&self.store, digest),
            false => Ok(()),
        }
    }

    /// Whether content can be found.
    fn is_cached(&self, digest: &Digest) -> bool {
        self.index.contains(digest) || self.memory.get(digest).is_some()
    }

    /// Blocks. Whether there is anything of this content: in memory alone, where the disk has no room, or what a download has left of
    /// it. A file that the index does not know may be taken in yet.
    fn is_here(&self, digest: &Digest) -> bool {
        self.is_cached(digest) || self.store.has_ingest(digest) || !matches!(self.store.find(digest), Ok(None))
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

    /// Blocks. Confines what is here and only repositories of upstreams that are not everybody's refer to, of a cache from before
    /// they were that: to those whose repositories hold it. What others refer to as well was everybody's, and stays so. What is not
    /// here has come from nobody, whatever names it.
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
            if self.is_here(&digest) && confined.confine(digest, &upstreams) {
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
        self.confined.prune(|digest| self.is_here(digest));
    }
}
