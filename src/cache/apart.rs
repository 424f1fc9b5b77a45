//! What follows from a look at a file: a right one that the index does not know is taken in, a damaged one is set apart.
//!
//! Done with the name held, and only to the very file that was looked at: by then another one may have its name. Blocks
//! (I11); called by [`super::verify`], [`super::lookup`] and the housekeeping.

use std::fs::Metadata;

use super::Cache;
use super::index::Found;
use super::store::FileId;
use crate::metrics::Removal;
use crate::oci::Digest;

impl Cache {
    /// Blocks. Takes in a file that was opened under an object's name and that the index does not know, if it still has that
    /// name, and nobody is about to unlink it. Whether the index knows it now.
    pub(super) fn take_in(&self, digest: &Digest, meta: &Metadata, found: Found) -> bool {
        if self.index.contains(digest) {
            return true;
        }
        let _name = self.names.hold(digest);
        let is_named = matches!(self.store.find(digest), Ok(Some((file, _))) if file == FileId::of(meta));
        is_named && self.index.insert_found(digest, found)
    }

    /// Blocks. Takes a damaged file of `size` bytes away from under its name; the next pull, or the mirror itself,
    /// fetches it again. Known to be bad before anything is done to it, and until it is gone: where it can be neither
    /// moved nor removed, it is served to nobody all the same. Does nothing if another file has the name by now: somebody
    /// else has set this one apart.
    pub(super) fn quarantine(&self, digest: &Digest, file: FileId, size: u64) {
        let _name = self.names.hold(digest);
        if self.store.find(digest).is_ok_and(|found| found.is_none_or(|(found, _)| found != file)) {
            return;
        }
        let is_news = self.index.condemn(digest, size, file);
        self.memory.forget(digest);
        self.set_apart(digest);
        if is_news {
            self.metrics.cache_damaged_total.inc();
            self.metrics.evictions_total.with_label_values(&[Removal::Damaged.label()]).inc();
            let _ = self.damaged.send(*digest);
        }
    }

    /// With the name held.
    fn set_apart(&self, digest: &Digest) {
        let error = match self.store.quarantine(digest) {
            Ok(moved) => return self.index.set_apart(digest, moved),
            Err(error) => error,
        };
        tracing::error!(%digest, %error, "a damaged file cannot be set apart; it is removed");
        match self.store.remove(digest) {
            Ok(()) => self.index.set_apart(digest, false),
            Err(error) => tracing::error!(%digest, %error,
                "a damaged file can be neither set apart nor removed; it is served to nobody, and tried again every minute"),
        }
    }

    /// Blocks. Tries again to set apart what could not be.
    pub(super) fn retry_condemned(&self) {
        for (digest, file) in self.index.condemned() {
            let _name = self.names.hold(&digest);
            if !self.index.is_condemned(&digest) {
                // Published anew meanwhile.
            } else if self.store.find(&digest).is_ok_and(|found| found.is_none_or(|(found, _)| found != file)) {
                // Somebody has removed it, or put another one there, which is hashed before anybody gets it.
                self.index.set_apart(&digest, false);
            } else {
                self.set_apart(&digest);
            }
        }
    }
}
