//! The memory tier: whole small objects, and open files of large ones.
//!
//! Holds only what is immutable, so an entry can be dropped at any moment and is never wrong. Bytes are bounded by
//! `cache.memory`, open files by number; moka decides what stays (TinyLFU: one scan of cold images does not wash the
//! hot ones out).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use moka::sync::Cache;

use super::index::seconds;
use super::pages::OpenFile;
use crate::oci::{Digest, MediaType};

/// Large objects whose files stay open between requests, so that a hit needs no system call to find its file.
pub const OPEN_FILES: u64 = 512;

/// Unread for so long, a file is closed: the space of an evicted one is free only then.
const CLOSE_AFTER: Duration = Duration::from_secs(30);

/// Media types noted; a few dozen bytes each.
const MEDIA_TYPES: u64 = 100_000;

/// So often, in seconds, a file that stays open is looked at by its name again: somebody may have written to it.
const LOOK_EVERY: u32 = 1;

#[derive(Debug)]
struct Kept {
    file: Arc<OpenFile>,
    size: u64,
    /// Seconds since 1970: when it was last looked at.
    looked: AtomicU32,
}

/// See the module.
#[derive(Debug)]
pub struct Memory {
    objects: Cache<Digest, Bytes>,
    files: Cache<Digest, Arc<Kept>>,
    media_types: Cache<Digest, MediaType>,
}

/// What one entry costs beside its bytes: key, counters, allocation.
const OVERHEAD: usize = 256;

impl Memory {
    /// An empty tier of at most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            objects: Cache::builder()
                .max_capacity(limit)
                .weigher(|_, bytes: &Bytes| u32::try_from(bytes.len() + OVERHEAD).unwrap_or(u32::MAX))
                .build(),
            files: Cache::builder().max_capacity(OPEN_FILES).time_to_idle(CLOSE_AFTER).build(),
            media_types: Cache::new(MEDIA_TYPES),
        }
    }

    /// An object's bytes.
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.objects.get(digest)
    }

    /// Offers an object; it may be declined.
    pub fn insert(&self, digest: Digest, bytes: Bytes) {
        self.objects.insert(digest, bytes);
    }

    /// An object's open file and its size in bytes. `None` also for the one caller a second who is to open it anew.
    pub fn file(&self, digest: &Digest) -> Option<(Arc<OpenFile>, u64)> {
        let open = self.files.get(digest)?;
        let (now, looked) = (seconds(SystemTime::now()), open.looked.load(Ordering::Relaxed));
        // Also where the clock has gone back.
        let is_due = now.abs_diff(looked) > LOOK_EVERY;
        if is_due && open.looked.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return None;
        }
        Some((open.file.clone(), open.size))
    }

    /// Keeps a published file open for the next reader.
    pub fn insert_file(&self, digest: Digest, file: Arc<OpenFile>, size: u64) {
        self.files.insert(digest, Arc::new(Kept { file, size, looked: seconds(SystemTime::now()).into() }));
    }

    /// Closes a file that leaves the disk.
    pub fn forget_file(&self, digest: &Digest) {
        self.files.invalidate(digest);
    }

    /// Forgets everything of an object.
    pub fn forget(&self, digest: &Digest) {
        self.objects.invalidate(digest);
        self.files.invalidate(digest);
        self.media_types.invalidate(digest);
    }

    /// A manifest's media type.
    pub fn media_type(&self, digest: &Digest) -> Option<MediaType> {
        self.media_types.get(digest)
    }

    /// Notes a manifest's media type; the first one stays.
    pub fn set_media_type(&self, digest: &Digest, media_type: &MediaType) {
        self.media_types.get_with_by_ref(digest, || media_type.clone());
    }

    /// Bytes and number of the objects in memory.
    pub fn totals(&self) -> (u64, u64) {
        self.objects.run_pending_tasks();
        (self.objects.weighted_size(), self.objects.entry_count())
    }
}
