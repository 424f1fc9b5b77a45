//! The threads behind the reader of an archive: they look whether a blob is the one that its name says, and publish it (I1).
//!
//! Called by [`super::archive`] alone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::ImportError;
use super::archive::damaged;
use super::custody::Custody;
use super::staged::Notes;
use crate::cache::Cache;
use crate::cache::index::Reservation;
use crate::cache::store::Ingest;

/// Blobs whose last bytes are on their way to the disk while the next ones are read.
const BEHIND: usize = 8;
const WRITERS: usize = 3;

/// A blob that is written, where its bytes count, and whose it is.
type Job = (Ingest, Reservation, Custody);

/// Threads that bring finished blobs to the disk and give them their names, behind the reader's back.
pub(super) struct Writers {
    queue: SyncSender<Job>,
    threads: Vec<JoinHandle<()>>,
    failed: Arc<Mutex<Option<ImportError>>>,
    failures: Arc<AtomicUsize>,
}

impl Writers {
    pub fn start(cache: &Arc<Cache>, notes: &Arc<Notes>) -> Self {
        let (queue, jobs) = sync_channel::<Job>(BEHIND);
        let jobs: Arc<Mutex<Receiver<_>>> = Arc::new(Mutex::new(jobs));
        let failed: Arc<Mutex<Option<ImportError>>> = Arc::default();
        let failures = Arc::new(AtomicUsize::new(0));
        let work = || {
            let (cache, jobs, notes) = (cache.clone(), jobs.clone(), notes.clone());
            let (failed, failures) = (failed.clone(), failures.clone());
            std::thread::spawn(move || {
                loop {
                    let next = jobs.lock().recv();
                    let Ok((ingest, reservation, custody)) = next else { return };
                    let result =
                        ingest.verify().map_err(|mismatch| damaged(&mismatch.wanted, &mismatch.found)).and_then(|verified| {
                            let (digest, size) = (*verified.digest(), verified.size());
                            custody.publish(&cache, verified, reservation)?;
                            notes.add(digest, size);
                            Ok(())
                        });
                    if let Err(error) = result {
                        failed.lock().get_or_insert(error);
                        failures.fetch_add(1, Ordering::Release);
                    }
                }
            })
        };
        let threads = (0..WRITERS).map(|_| work()).collect();
        Self { queue, threads, failed, failures }
    }

    /// Hands a whole blob on. An error says that an earlier one failed.
    pub fn send(&self, (ingest, reservation, custody): Job) -> Result<(), ImportError> {
        if self.failures.load(Ordering::Acquire) > 0 {
            ingest.discard();
            return Err(ImportError::Bad("the import has failed".into()));
        }
        self.queue.send((ingest, reservation, custody)).map_err(|_| io::Error::other("a writer has ended").into())
    }

    /// Waits for them, and says why the first blob failed that did.
    pub fn finish(self) -> Result<(), ImportError> {
        drop(self.queue);
        for thread in self.threads {
            thread.join().map_err(|_| io::Error::other("a writer has failed"))?;
        }
        let failed = self.failed.lock().take();
        failed.map_or(Ok(()), Err)
    }
}
