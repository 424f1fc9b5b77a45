//! Looking an object up: memory, then disk, and never a file that is not what the index knows.
//!
//! Small files are hashed when they are read. Of a large one that is opened, length and modification time are compared
//! with what the mirror last saw: one that somebody has written to is hashed before it is served. So is a file of any
//! size that the index does not know: a name alone proves nothing. What a reader could not read is not opened again until
//! it has been looked at, and what is known to be damaged never.

use std::fs::{File, Metadata};
use std::sync::Arc;

use super::pages::OpenFile;
use super::store::{FileId, stamp};
use super::verify::{Verdict, condemns};
use super::{Cache, Content, Hit, SMALL, Tier, read, scan};
use crate::oci::Digest;

impl Cache {
    /// Looks an object up: memory, then disk. A small object found on disk moves into memory.
    pub async fn get(self: &Arc<Self>, digest: &Digest) -> Option<Hit> {
        if let Some(bytes) = self.memory.get(digest) {
            self.index.touch(digest);
            let size = bytes.len() as u64;
            return Some(Hit { content: Content::Memory(bytes), size, tier: Tier::Memory });
        }
        self.suspects.cleared(digest).await;
        if let Some((file, size)) = self.memory.file(digest) {
            self.index.touch(digest);
            return Some(Hit { content: Content::File(file), size, tier: Tier::Disk });
        }
        if self.is_scanned() && !self.index.contains(digest) && !self.finds(digest).await {
            return None;
        }
        let digest = *digest;
        self.blocking(move |cache| cache.load(&digest)).await.ok().flatten()
    }

    /// Whether a file that the index does not know lies under an object's name, and is right: somebody has put it there. It is
    /// hashed once, whoever waits for that, and is an object from then on. One that is known to be damaged is not found.
    async fn finds(self: &Arc<Self>, digest: &Digest) -> bool {
        let digest = *digest;
        let found = self.blocking(move |cache| {
            let is_there = matches!(cache.store.find(&digest), Ok(Some(_)));
            is_there && !cache.index.is_condemned(&digest) && !cache.index.contains(&digest)
        });
        if !found.await.unwrap_or(false) {
            // It may have been published meanwhile.
            return self.index.contains(&digest);
        }
        if self.suspects.mark(digest) {
            let this = self.clone();
            // In a task of its own: whoever asked may leave, and others wait.
            tokio::spawn(async move {
                let looked = this.blocking(move |cache| {
                    tracing::info!(%digest, "a file that the mirror did not put into its cache is hashed before it is served");
                    cache.check(&digest);
                    // If that takes the cache beyond its limit, something is evicted at once.
                    let _ = cache.make_room(0, 0);
                });
                let _ = looked.await;
                this.suspects.clear(&digest);
            });
        }
        self.suspects.cleared(&digest).await;
        self.index.contains(&digest)
    }

    /// Blocks. A small file that its medium cannot read, or whose bytes are wrong, is set apart, and the next fill replaces
    /// it. One that cannot be opened or read for another reason is left where it is, and as good as absent this time.
    fn load(&self, digest: &Digest) -> Option<Hit> {
        let (file, meta) = self.open_known(digest)?;
        let size = meta.len();
        if size > SMALL {
            let file = Arc::new(OpenFile::from(Arc::new(file)));
            self.memory.insert_file(*digest, file.clone(), size);
            if !self.index.touch(digest) {
                // It was evicted, or found damaged, since it was opened: nobody may get it.
                self.memory.forget_file(digest);
                return None;
            }
            self.doubts.opened(digest, size);
            return Some(Hit { content: Content::File(file), size, tier: Tier::Disk });
        }
        let read = self.store.faults().check().and_then(|()| read::whole(&file, size));
        let bytes = match read {
            Ok(bytes) if Digest::of(digest.algorithm(), &bytes) == *digest => bytes,
            Err(error) if !condemns(&error) => {
                tracing::warn!(%digest, %error, "a cached file cannot be read just now");
                return None;
            }
            wrong => {
                tracing::error!(%digest, error = wrong.err().map(tracing::field::display),
                    "a cached file is damaged; it is set apart and will be pulled again");
                self.quarantine(digest, FileId::of(&meta), size);
                return None;
            }
        };
        self.memory.insert(*digest, bytes.clone());
        self.index.touch(digest);
        Some(Hit { content: Content::Memory(bytes), size, tier: Tier::Disk })
    }

    /// Blocks. Opens an object's file; its size is in bytes. `None` if there is none, or if it is not what the index
    /// knows: one of another length, or one that somebody has written to and that is wrong now, is set apart. A file that
    /// the index does not know is nobody's: it has to be hashed first ([`Cache::check`]).
    pub fn open_sound(&self, digest: &Digest) -> Option<(File, u64)> {
        self.open_known(digest).map(|(file, meta)| (file, meta.len()))
    }

    fn open_known(&self, digest: &Digest) -> Option<(File, Metadata)> {
        let (file, meta) = match self.store.open_file(digest) {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.forget_absent(digest);
                return None;
            }
            Err(error) => {
                tracing::error!(%digest, %error, "cannot open a cached file");
                return None;
            }
        };
        let size = meta.len();
        let Some(known) = self.index.known(digest).filter(|known| known.present) else {
            // While the tree is read, a name is as good as it is to the scan, which has only not come by yet.
            let is_found =
                !self.is_scanned() && scan::found(&meta, &self.index).is_ok_and(|found| self.take_in(digest, &meta, found));
            return is_found.then_some((file, meta));
        };
        if known.size != size {
            tracing::error!(%digest, size_bytes = size, "a cached file has changed its length; it is set apart and will be pulled again");
            self.quarantine(digest, FileId::of(&meta), size);
            return None;
        }
        // Small ones are hashed in any case.
        if size > SMALL && known.stamp != stamp(&meta) && self.was_touched(digest, &file) {
            tracing::warn!(%digest, size_bytes = size, "somebody has written to a cached file, or touched it; it is hashed again");
            if self.check_file(digest, &file, &meta) != Verdict::Sound {
                return None;
            }
            self.index.set_stamp(digest, stamp(&meta));
        }
        Some((file, meta))
    }

    /// Blocks. There was no file under an object's name a moment ago; if that is still so, the index is wrong.
    pub(super) fn forget_absent(&self, digest: &Digest) {
        let _name = self.names.hold(digest);
        if matches!(self.store.find(digest), Ok(None)) {
            self.index.remove(digest);
            self.memory.forget_file(digest);
        }
    }

    /// Whether a file's time is not the one that is known, looked at while nobody writes down a use.
    fn was_touched(&self, digest: &Digest, file: &File) -> bool {
        let _stamping = self.stamping.lock();
        let known = self.index.known(digest).map(|known| known.stamp);
        file.metadata().map_or(true, |meta| known != Some(stamp(&meta)))
    }

    /// The size of an object that is here, which counts as a use of it. Opens nothing.
    pub fn has(&self, digest: &Digest) -> Option<u64> {
        let size = self.index.size(digest)?;
        self.index.touch(digest);
        Some(size)
    }

    /// As [`Self::has`], for callers that are going to rely on it for long. Looks at the file, which somebody may have
    /// removed, and hashes it if the index does not know it or it is small: a small file is hashed when it is read, and
    /// damage must not show only then, when what could have replaced it is gone. Blocks.
    pub fn keeps(&self, digest: &Digest) -> Option<u64> {
        if !self.index.contains(digest) && !self.index.is_condemned(digest) {
            self.check(digest);
        }
        let (file, meta) = self.open_known(digest)?;
        if meta.len() <= SMALL && self.check_file(digest, &file, &meta) != Verdict::Sound {
            return None;
        }
        self.index.touch(digest);
        Some(meta.len())
    }
}
