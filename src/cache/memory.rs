//! The memory tier: whole small objects, and open files of large ones.
//!
//! Holds only what is immutable, so an entry can be dropped at any moment and is never wrong. Bytes are bounded by
//! `cache.memory`, open files by number; moka decides what stays (TinyLFU: one scan of cold images does not wash the
//! hot ones out).

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;
use parking_lot::Mutex;

use super::pages::OpenFile;
use crate::clock::wall_seconds;
use crate::oci::{Digest, MediaType};

/// Large objects whose files stay open between requests, so that a hit needs no system call to find its file.
pub const OPEN_FILES: u64 = 512;

/// A file that is unread for so long is closed: the space of an evicted one is free only then.
const CLOSE_AFTER: Duration = Duration::from_secs(30);

/// How often such files are looked for.
pub const TIDY_EVERY: Duration = Duration::from_secs(10);

/// Media types noted; a few dozen bytes each.
const MEDIA_TYPES: u64 = 100_000;

/// How often, in seconds, a file that stays open is looked up by its name again: somebody may have written to it.
const LOOK_EVERY: u32 = 1;

#[derive(Debug)]
struct Kept {
    /// Taken out when the entry goes, because moka drops what it removes only later.
    file: Mutex<Option<Arc<OpenFile>>>,
    size: u64,
    /// Seconds since 1970: when it was last looked at.
    looked: AtomicU32,
}

impl Kept {
    fn close(&self) {
        self.file.lock().take();
    }
}

/// See the module.
#[derive(Debug)]
pub struct Memory {
    objects: Cache<Digest, Bytes>,
    files: Cache<Digest, Arc<Kept>>,
    /// Files of large objects that were opened, some of which somebody may still read.
    opened: Mutex<HashMap<Digest, Vec<Weak<File>>>>,
    media_types: Cache<Digest, MediaType>,
    /// What is no manifest, whatever else it is.
    no_manifests: Cache<Digest, ()>,
}

fn is_open(file: &Weak<File>) -> bool {
    file.strong_count() > 0
}

/// What one entry costs beside its bytes: key, counters, allocation.
const OVERHEAD: usize = 256;

impl Memory {
    /// An empty tier of at most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self::with(limit, CLOSE_AFTER)
    }

    fn with(limit: u64, close_after: Duration) -> Self {
        Self {
            objects: Cache::builder()
                .max_capacity(limit)
                .weigher(|_, bytes: &Bytes| u32::try_from(bytes.len() + OVERHEAD).unwrap_or(u32::MAX))
                .build(),
            files: Cache::builder()
                .max_capacity(OPEN_FILES)
                .time_to_idle(close_after)
                .eviction_listener(|_, kept: Arc<Kept>, _| kept.close())
                .build(),
            opened: Mutex::default(),
            media_types: Cache::new(MEDIA_TYPES),
            no_manifests: Cache::new(MEDIA_TYPES),
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
        let (now, looked) = (wall_seconds(), open.looked.load(Ordering::Relaxed));
        // Also where the clock has gone back.
        let is_due = now.abs_diff(looked) > LOOK_EVERY;
        if is_due && open.looked.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return None;
        }
        let file = open.file.lock().clone()?;
        Some((file, open.size))
    }

    /// Keeps a published file open for the next reader.
    pub fn insert_file(&self, digest: Digest, file: Arc<OpenFile>, size: u64) {
        {
            let mut opened = self.opened.lock();
            let opened = opened.entry(digest).or_default();
            opened.retain(is_open);
            opened.push(Arc::downgrade(file.file()));
        }
        let file = Mutex::new(Some(file));
        self.files.insert(digest, Arc::new(Kept { file, size, looked: wall_seconds().into() }));
    }

    /// Whether somebody reads the file of a large object. The one that is kept for the next reader is one of them.
    pub fn is_read(&self, digest: &Digest) -> bool {
        self.opened.lock().get(digest).is_some_and(|opened| opened.iter().any(is_open))
    }

    /// Closes what was unread for [`CLOSE_AFTER`]: nobody else does, where nothing is read.
    pub fn tidy(&self) {
        self.files.run_pending_tasks();
        self.opened.lock().retain(|_, opened| {
            opened.retain(is_open);
            !opened.is_empty()
        });
    }

    /// Closes a file that leaves the disk.
    pub fn forget_file(&self, digest: &Digest) {
        if let Some(kept) = self.files.remove(digest) {
            kept.close();
        }
    }

    /// Forgets everything of an object.
    pub fn forget(&self, digest: &Digest) {
        self.objects.invalidate(digest);
        self.forget_file(digest);
        self.media_types.invalidate(digest);
        self.no_manifests.invalidate(digest);
    }

    /// A manifest's media type.
    pub fn media_type(&self, digest: &Digest) -> Option<MediaType> {
        self.media_types.get(digest)
    }

    /// Notes a manifest's media type; the first one stays.
    pub fn set_media_type(&self, digest: &Digest, media_type: &MediaType) {
        self.media_types.get_with_by_ref(digest, || media_type.clone());
    }

    /// Whether something is known to be no manifest.
    pub fn is_no_manifest(&self, digest: &Digest) -> bool {
        self.no_manifests.contains_key(digest)
    }

    /// Notes that something is no manifest.
    pub fn set_no_manifest(&self, digest: &Digest) {
        self.no_manifests.insert(*digest, ());
    }

    /// Bytes and number of the objects in memory.
    pub fn totals(&self) -> (u64, u64) {
        self.objects.run_pending_tasks();
        (self.objects.weighted_size(), self.objects.entry_count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn opened(memory: &Memory, digest: Digest) -> Weak<File> {
        let file = Arc::new(tempfile::tempfile().unwrap());
        memory.insert_file(digest, Arc::new(OpenFile::from(file.clone())), 1);
        Arc::downgrade(&file)
    }

    #[test]
    fn a_file_that_is_forgotten_is_closed_at_once_unless_somebody_reads_it() {
        let (memory, digest) = (Memory::new(0), Digest::of(Algorithm::Sha256, b""));
        let file = opened(&memory, digest);
        assert!(memory.is_read(&digest));
        memory.forget_file(&digest);
        assert!(!is_open(&file) && !memory.is_read(&digest));
        // Another one of the same name takes its place, while the first is read.
        let first = opened(&memory, digest);
        let (reader, _) = memory.file(&digest).unwrap();
        let second = opened(&memory, digest);
        memory.forget(&digest);
        assert!(is_open(&first) && !is_open(&second) && memory.is_read(&digest));
        drop(reader);
        assert!(!is_open(&first) && !memory.is_read(&digest));
        memory.tidy();
        assert!(memory.opened.lock().is_empty());
    }

    #[test]
    fn where_nothing_is_read_files_are_closed_all_the_same() {
        let (memory, digest) = (Memory::with(0, Duration::from_millis(1)), Digest::of(Algorithm::Sha256, b""));
        let file = opened(&memory, digest);
        std::thread::sleep(Duration::from_millis(20));
        // The first looks find what was written to moka's queues.
        for _ in 0..100 {
            memory.tidy();
            if !is_open(&file) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it is still open");
    }
}
