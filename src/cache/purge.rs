//! Removes images and what only they need. What others rely on stays: what a pin protects, a tag names, or a manifest
//! that is here needs. That is known only once the catalog has seen the whole tree.
//!
//! Called by `admin`, and by an import that was refused.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use serde::Serialize;

use super::catalog::Tagged;
use super::selector::Selector;
use super::{Cache, StillReading};
use crate::metrics::Removal;
use crate::oci::{Digest, ImageRef, Platforms, Reference, Scope, Tag};

/// What became of a purge, or would become of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Removed {
    /// Images whose tags were forgotten.
    pub images: Vec<String>,
    /// Objects removed.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Images that a pin protects: left alone.
    pub pinned: Vec<String>,
    /// Objects that other images need: left alone.
    pub shared: u64,
    /// Why not all of it could be removed. Images whose tags could not be forgotten are whole; of others, what is left is
    /// removed when the disk lets it, and not served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Removed {
    /// The first failure is told; the log has all.
    fn failed(&mut self, what: &dyn std::fmt::Display, error: &io::Error) {
        tracing::error!(%what, %error, "cannot be purged");
        self.error.get_or_insert_with(|| format!("not all of it could be removed: {what}: {error}"));
    }
}

impl Cache {
    /// Removes images and what only they need, or one object. What pins protect stays.
    pub async fn purge(self: &Arc<Self>, selector: Selector, dry_run: bool) -> Result<Removed, StillReading> {
        self.surveyed_soon().await?;
        Ok(self.blocking(move |cache| cache.purge_now(&selector, dry_run)).await.unwrap_or_default())
    }

    fn purge_now(&self, selector: &Selector, dry_run: bool) -> Removed {
        let mut removed = Removed::default();
        let by_digest = match selector {
            Selector::Digest(digest) | Selector::Image(ImageRef { reference: Reference::Digest(digest), .. }) => Some(*digest),
            _ => None,
        };
        let mut roots: HashSet<Digest> = HashSet::new();
        let mut purged: HashSet<(Scope, Tag)> = HashSet::new();
        for Tagged { scope, tag, record } in self.catalog.tags(Some(selector), usize::MAX) {
            let name = scope.image(tag.clone()).to_string();
            if self.is_pinned(&record.digest) {
                removed.pinned.push(name);
                continue;
            }
            if !dry_run {
                if let Err(error) = self.records.forget_tag(&scope, &tag) {
                    removed.failed(&name, &error);
                    continue;
                }
                self.catalog.set_tag(&scope, &tag, None);
            }
            roots.insert(record.digest);
            removed.images.push(name);
            purged.insert((scope, tag));
        }
        let mut going = Going { cache: self, purged, gone: HashSet::new() };
        // What is named by its digest goes, whoever needs it.
        match by_digest {
            Some(digest) if !self.is_pinned(&digest) => drop(going.gone.insert(digest)),
            Some(digest) if removed.pinned.is_empty() => removed.pinned.push(digest.to_string()),
            _ => {}
        }
        removed.shared += going.take(roots);
        // Indexes and manifests first, since what they name can go only with them.
        for manifests in [true, false] {
            let parts = going.gone.iter().flat_map(|root| self.catalog.closure(root, &Platforms::default()));
            let parts = parts.filter(|part| part.is_manifest == manifests).map(|part| part.digest).collect();
            removed.shared += going.take(parts);
        }
        for digest in going.gone {
            let bytes = match dry_run {
                true => Ok(self.index.known(&digest).filter(|known| known.present).map(|known| known.size)),
                false => self.remove(&digest, Removal::Purged),
            };
            match bytes {
                Ok(Some(bytes)) => {
                    removed.objects += 1;
                    removed.bytes += bytes;
                }
                Ok(None) => {}
                Err(error) => removed.failed(&digest, &error),
            }
        }
        removed
    }

    /// Blocks. Takes back what an import has `published`, in that order, and has no use for after all. What others rely on
    /// by now stays, as with a purge.
    pub fn take_back(&self, published: &[Digest]) {
        // Indexes and manifests were published after what they need, so they are gone before the look at that.
        for digest in published.iter().rev() {
            let going = Going { cache: self, purged: HashSet::new(), gone: HashSet::new() };
            if going.may(digest) && !self.catalog.unshared(&[*digest], &going.gone).is_empty() {
                // Said in the log, and tried again.
                let _ = self.remove(digest, Removal::Refused);
            }
        }
    }

    fn is_pinned(&self, digest: &Digest) -> bool {
        self.index.known(digest).is_some_and(|known| known.pinned)
    }
}

/// What is to go.
struct Going<'a> {
    cache: &'a Cache,
    /// Tags that count no more.
    purged: HashSet<(Scope, Tag)>,
    gone: HashSet<Digest>,
}

impl Going<'_> {
    /// Takes those that nothing needs that stays; how many of them stay, and are here.
    fn take(&mut self, mut parts: HashSet<Digest>) -> u64 {
        parts.retain(|digest| !self.gone.contains(digest));
        // What an index names may be an index, and can go when that does.
        loop {
            let left: Vec<Digest> = parts.iter().copied().collect();
            let free: Vec<Digest> =
                self.cache.catalog.unshared(&left, &self.gone).into_iter().filter(|digest| self.may(digest)).collect();
            if free.is_empty() {
                let here = |digest: &&Digest| self.cache.known(digest).is_some_and(|known| known.present);
                return parts.iter().filter(here).count() as u64;
            }
            self.gone.extend(free);
            parts.retain(|digest| !self.gone.contains(digest));
        }
    }

    /// No pin protects it, and no tag that stays names it.
    fn may(&self, digest: &Digest) -> bool {
        !self.cache.is_pinned(digest) && !self.cache.catalog.is_tagged(digest, &self.purged)
    }
}
