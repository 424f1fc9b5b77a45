//! The one task a cache has, for as long as the mirror runs: it reads the tree, then writes down recency and keeps house;
//! and it looks at what readers could not read, and at what they were the first to read. Owns when these are done, not how.
//! Spawned by `app`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, interval_at};

use super::memory::TIDY_EVERY;
use super::{Cache, NoRoom, SMALL, Scan, scan};

/// How long to wait before a tree that cannot be read is tried again: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long to wait each time before what pins need is read again.
const PIN_PAUSES: [Duration; 4] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(3), Duration::ZERO];

const MINUTE: Duration = Duration::from_secs(60);

/// Uses written down at a time; the index's lock is held for as long as it takes to list them.
const USES: usize = 1024;

impl Cache {
    /// Reads the tree into the index, then keeps recency and names on disk up to date for ever. One task a mirror.
    pub async fn maintain(self: Arc<Self>) {
        tokio::join!(
            self.live(),
            self.clone().watch(),
            self.clone().follow_readers(),
            self.close_unread(),
            self.thin_when_crowded()
        );
    }

    async fn close_unread(self: &Arc<Self>) {
        loop {
            tokio::time::sleep(TIDY_EVERY).await;
            // Closes files, some of which have no name any more: that can take its time (I11).
            let _ = self.blocking(|cache| cache.memory.tidy()).await;
        }
    }

    async fn live(self: &Arc<Self>) {
        self.read_tree().await;
        // Before anything can be evicted.
        self.read_pins().await;
        self.scanned.send_replace(Scan::Complete);
        // The limit may be lower than it was in the last process's time.
        match self.reserve(0).await {
            Ok(_) | Err(NoRoom::Full { .. }) => {}
            Err(error) => tracing::error!(%error, "the cache cannot be brought under its limit"),
        }
        let surveyed = self.blocking(|cache| {
            cache.survey();
            // Only now it is known what counts for which quota.
            cache.keep_limits(&mut |_| {})
        });
        if let Ok(Err(error @ NoRoom::Disk(_))) = surveyed.await {
            tracing::error!(%error, "the quotas of the cache cannot be kept");
        }
        self.surveyed.send_replace(true);
        // Not at once: a machine that has just started may set its clock in the first minute.
        let mut every = interval_at(Instant::now() + MINUTE, MINUTE);
        loop {
            every.tick().await;
            self.keep_time().await;
            self.flush().await;
            self.keep_house().await;
        }
    }

    /// Reads the tree, as often as it takes. Meanwhile what is in it is served, and what is not passes through.
    async fn read_tree(self: &Arc<Self>) {
        let (mut pause, longest) = PAUSES;
        loop {
            match self.blocking(|cache| scan::scan(&cache.store, &cache.index)).await.map_err(io::Error::from).flatten() {
                Ok(found) => {
                    tracing::info!(
                        objects = found.objects,
                        size_bytes = found.bytes,
                        leftovers = found.leftovers,
                        duration_ms = found.took.as_millis() as u64,
                        "cache index is complete"
                    );
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, retry_s = pause.as_secs(),
                        "the cache folder cannot be read; what is in it is served, nothing is added");
                    self.scanned.send_replace(Scan::Failed(error.into()));
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Reads what pins need. A disk that fails may do so for a moment only: it is tried again before anything that may be
    /// pinned is given up. Then what could be read has to do, since a mirror that adds nothing helps nobody.
    async fn read_pins(self: &Arc<Self>) {
        for pause in PIN_PAUSES {
            match self.blocking(|cache| cache.survey_pins()).await.map_err(io::Error::from).flatten() {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(%error, "what a pin needs cannot be read; until it can, it may be evicted");
                    self.scanned.send_replace(Scan::Failed(error.into()));
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Writes down recency and makes published names durable.
    pub async fn flush(self: &Arc<Self>) {
        let flushed = self.blocking(|cache| {
            cache.write_uses();
            cache.store.sync_names()
        });
        if let Ok(Err(error)) = flushed.await {
            tracing::warn!(%error, "cannot sync the cache folder");
        }
    }

    fn write_uses(&self) {
        loop {
            let used = self.index.take_used(USES);
            let last = used.len() < USES;
            for used in &used {
                let _stamping = self.stamping.lock();
                // By its time a large file is known to be as it was ([`Cache::open_sound`]); small ones are hashed in any case.
                let known = self.index.known(&used.digest).filter(|known| known.size > SMALL).map(|known| known.stamp);
                // Evicted meanwhile, or a file system without times: recency is only a hint.
                if let Ok(Some(stamp)) = self.store.set_used(used, known) {
                    self.index.set_stamp(&used.digest, stamp);
                }
            }
            if last {
                return;
            }
        }
    }

    /// Waits until the index has seen the whole tree; an error while it cannot be read. Cancel-safe.
    pub async fn until_scanned(&self) -> Result<(), NoRoom> {
        let mut scanned = self.scanned.subscribe();
        let scan = scanned.wait_for(|scan| !matches!(scan, Scan::Running)).await;
        match scan.as_deref() {
            Ok(Scan::Failed(error)) => Err(error.clone()),
            // The sender lives in `self`.
            _ => Ok(()),
        }
    }

    /// Writes down what is only in memory, and lets another process have the folder. The last call a mirror makes.
    pub async fn close(self: &Arc<Self>) {
        self.keep_time().await;
        self.flush().await;
        self.store.release();
    }
}
