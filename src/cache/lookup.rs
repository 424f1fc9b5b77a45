//! Looking an object up: memory, then disk, and never a file that is not what the index knows.
//!
//! Small files are hashed when they are read. Of a large one that is opened, length and modification time are compared
//! with what the mirror last saw: one that somebody has written to is hashed before it is served. What a reader could
//! not read is not opened again until it has been looked at.

use std::fs::File;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::pages::OpenFile;
use super::store::stamp;
use super::verify::{Verdict, condemns};
use super::{Cache, Content, Hit, SMALL, Tier, read};
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
        if self.is_scanned() && !self.index.contains(digest) {
            return None;
        }
        let (this, digest) = (self.clone(), *digest);
        spawn_blocking(move || this.load(&digest)).await.ok().flatten()
    }

    /// Blocks. A small file that its medium cannot read, or whose bytes are wrong, is set apart, and the next fill replaces
    /// it. One that cannot be opened or read for another reason is left where it is, and as good as absent this time.
    fn load(&self, digest: &Digest) -> Option<Hit> {
        let (file, size) = self.open_sound(digest)?;
        if size > SMALL {
            self.doubts.opened(digest, size);
            let file = Arc::new(OpenFile::from(Arc::new(file)));
            self.memory.insert_file(*digest, file.clone(), size);
            self.index.touch(digest);
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
                self.quarantine(digest);
                return None;
            }
        };
        self.memory.insert(*digest, bytes.clone());
        self.index.touch(digest);
        Some(Hit { content: Content::Memory(bytes), size, tier: Tier::Disk })
    }

    /// Blocks. Opens an object's file; its size is in bytes. `None` if there is none, or if it is not what the index
    /// knows: one of another length, or one that somebody has written to and that is wrong now, is set apart.
    pub fn open_sound(&self, digest: &Digest) -> Option<(File, u64)> {
        let (file, meta) = match self.store.open_file(digest) {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.index.remove(digest);
                self.memory.forget_file(digest);
                return None;
            }
            Err(error) => {
                tracing::error!(%digest, %error, "cannot open a cached file");
                return None;
            }
        };
        let size = meta.len();
        let Some(known) = self.index.known(digest).filter(|known| known.present) else { return Some((file, size)) };
        if known.size != size {
            tracing::error!(%digest, size_bytes = size, "a cached file has changed its length; it is set apart and will be pulled again");
            self.quarantine(digest);
            return None;
        }
        // Small ones are hashed in any case.
        if size > SMALL && known.stamp != stamp(&meta) && self.was_touched(digest, &file) {
            tracing::warn!(%digest, size_bytes = size, "somebody has written to a cached file, or touched it; it is hashed again");
            if self.check(digest) != Verdict::Sound {
                return None;
            }
            self.index.set_stamp(digest, stamp(&meta));
        }
        Some((file, size))
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

    /// As [`Self::has`], for whoever is about to rely on it for long: the file is looked at, which somebody may have removed.
    /// Blocks.
    pub fn keeps(&self, digest: &Digest) -> Option<u64> {
        let (_, size) = self.open_sound(digest)?;
        self.index.touch(digest);
        Some(size)
    }
}
