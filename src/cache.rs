//! The cache: everything that has been pulled, by digest, in memory and on disk, and what is known of tags.
//!
//! Owns the two tiers ([`memory`] for manifests and small blobs, [`store`] with [`index`] for all), the JSON
//! [`records`] and the start-up [`scan`]. Knows nothing of upstreams, fills or HTTP. Its async functions hop to the
//! blocking pool for every file (I11) and are cancel-safe: what has begun on disk is finished there.
//! Called by `pull` to look up, by `fill` to reserve and publish.

pub mod catalog;
pub mod confined;
pub mod evict;
pub mod index;
pub mod manage;
pub mod memory;
mod objects;
pub mod pins;
pub mod read;
pub mod records;
mod scan;
pub mod selector;
pub mod store;
mod survey;
pub mod tree;
pub mod verify;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;

use crate::config;
use crate::metrics::Metrics;
use crate::oci::{Digest, Manifest, MediaType, Scope};
use catalog::Catalog;
use confined::Confined;
use index::{Claim, Class, Index, Limits, Place, Quota, Reservation, Victim};
use memory::Memory;
use pins::Pins;
use records::Records;
use store::{Store, StoreError, Verified};
use verify::Verification;

/// Objects up to this size are kept in memory whole: manifests, configs, small layers.
pub const SMALL: u64 = 256 << 10;

/// An object that is here.
#[derive(Clone, Debug)]
pub struct Hit {
    /// Its bytes, or the file that has them.
    pub content: Content,
    /// Its size in bytes.
    pub size: u64,
    /// The tier it was found in.
    pub tier: Tier,
}

/// Where an object's bytes are.
#[derive(Clone, Debug)]
pub enum Content {
    /// In memory.
    Memory(Bytes),
    /// In a published file, open: eviction does not matter to its reader (I2).
    File(Arc<File>),
}

/// The tiers of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Found in memory.
    Memory,
    /// Found on disk.
    Disk,
}

/// The disk tier cannot take an object in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoRoom {
    /// It does not fit, whatever is evicted.
    #[error(
        "{wanted} bytes do not fit: cache.max_size is {max_size} bytes, cache.min_free {min_free} bytes, {free} bytes are free"
    )]
    Full {
        /// What was to be stored.
        wanted: u64,
        /// The limit in force.
        max_size: u64,
        /// What has to stay free.
        min_free: u64,
        /// What the file system has.
        free: u64,
    },
    /// The disk failed.
    #[error("the cache's disk failed: {0}")]
    Disk(Arc<io::Error>),
}

impl From<io::Error> for NoRoom {
    fn from(error: io::Error) -> Self {
        Self::Disk(Arc::new(error))
    }
}

/// The cache of one mirror.
#[derive(Debug)]
pub struct Cache {
    store: Store,
    index: Arc<Index>,
    memory: Memory,
    /// Tags and media types.
    pub records: Records,
    /// Images and their parts.
    pub catalog: Catalog,
    /// What stays.
    pub pins: Pins,
    /// What came through upstreams that are not everybody's.
    pub confined: Confined,
    /// Patterns of quotas, in the order of the index's classes from 1 on.
    quotas: Vec<config::Globs>,
    metrics: Arc<Metrics>,
    /// Turns true when the index has seen the whole tree.
    scanned: watch::Sender<bool>,
    /// Turns true when the catalog has, too.
    surveyed: watch::Sender<bool>,
    suspects: mpsc::UnboundedSender<Digest>,
    /// Taken by the maintenance task.
    suspected: std::sync::Mutex<Option<mpsc::UnboundedReceiver<Digest>>>,
    /// What was found damaged, for whoever fetches it again.
    damaged: tokio::sync::broadcast::Sender<Digest>,
    /// The background verification.
    pub scrubbing: Verification,
}

impl Cache {
    /// Opens the cache in `cache.dir` and begins to read the tree; serves at once.
    pub fn open(config: &config::Cache, metrics: Arc<Metrics>) -> Result<Arc<Self>, StoreError> {
        let store = Store::open(&config.dir)?;
        let space = store.space().map_err(|source| StoreError::Io {
            action: "read the free space of",
            path: config.dir.clone(),
            source,
        })?;
        let limits = Limits { max_size: config.max_size.of(space.total), min_free: config.min_free.of(space.total) };
        metrics.cache_limit_bytes.with_label_values(&["disk"]).set(limits.max_size as i64);
        metrics.cache_limit_bytes.with_label_values(&["memory"]).set(config.memory as i64);
        let pins = store.root().join(pins::Pins::FILE);
        let pins = Pins::open(pins.clone()).map_err(|source| StoreError::Io { action: "read", path: pins, source })?;
        let confined = Confined::load(&store).map_err(|source| StoreError::Io {
            action: "read",
            path: store.root().join("private"),
            source,
        })?;
        let quota = |quota: &config::Quota| Quota {
            max_size: quota.max_size.map(|amount| amount.of(space.total)),
            unused_for: quota.unused_for,
        };
        let quotas: Vec<Quota> = config.quotas.iter().map(quota).collect();
        let index = Arc::new(Index::with(limits, &quotas, config.eviction));
        let (suspects, suspected) = mpsc::unbounded_channel();
        Ok(Arc::new(Self {
            records: Records::new(store.repos()),
            catalog: Catalog::new(index.clone()),
            pins,
            confined,
            quotas: config.quotas.iter().map(|quota| quota.pattern.clone()).collect(),
            index,
            surveyed: watch::Sender::new(false),
            suspects,
            suspected: std::sync::Mutex::new(Some(suspected)),
            damaged: tokio::sync::broadcast::Sender::new(64),
            scrubbing: Verification::default(),
            memory: Memory::new(config.memory),
            store,
            metrics,
            scanned: watch::Sender::new(false),
        }))
    }

    /// Reads the tree into the index, then keeps recency and names on disk up to date for ever. One task a mirror.
    pub async fn maintain(self: Arc<Self>) {
        let this = self.clone();
        let scan = spawn_blocking(move || scan::scan(&this.store, &this.index)).await;
        let complete = matches!(scan, Ok(Ok(_)));
        match scan {
            Ok(Ok(found)) => tracing::info!(
                objects = found.objects,
                size_bytes = found.bytes,
                leftovers = found.leftovers,
                duration_ms = found.took.as_millis() as u64,
                "cache index is complete"
            ),
            Ok(Err(error)) => {
                tracing::error!(%error, "the cache folder cannot be read; what is in it is served, nothing is added")
            }
            Err(error) => tracing::error!(%error, "the cache folder cannot be read"),
        }
        if complete {
            // Before anything can be evicted.
            let this = self.clone();
            let _ = spawn_blocking(move || this.survey_pins()).await;
            self.scanned.send_replace(true);
            // The limit may be lower than it was in the last process's time.
            match self.reserve(0).await {
                Ok(_) | Err(NoRoom::Full { .. }) => {}
                Err(error) => tracing::error!(%error, "the cache cannot be brought under its limit"),
            }
            let this = self.clone();
            let _ = spawn_blocking(move || this.survey()).await;
            self.surveyed.send_replace(true);
        }
        let mut every = tokio::time::interval(Duration::from_secs(60));
        let house = async {
            loop {
                every.tick().await;
                self.flush().await;
                if complete {
                    self.keep_house().await;
                }
            }
        };
        match self.suspected.lock().ok().and_then(|mut suspected| suspected.take()) {
            Some(suspected) => drop(tokio::join!(house, self.clone().watch(suspected))),
            None => house.await,
        }
    }

    /// Writes down what is only in memory, and lets another process have the folder. The last call a mirror makes.
    pub async fn close(self: &Arc<Self>) {
        self.flush().await;
        self.store.release();
    }

    /// Writes down recency and makes published names durable.
    pub async fn flush(self: &Arc<Self>) {
        let this = self.clone();
        let flushed = spawn_blocking(move || {
            let now = SystemTime::now();
            for digest in this.index.take_used() {
                // Evicted meanwhile, or a file system without times: recency is only a hint.
                let _ = this.store.set_used(&digest, now);
            }
            this.store.sync_names()
        })
        .await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "cannot sync the cache folder");
        }
    }

    /// Whether the index has seen the whole tree.
    pub fn is_scanned(&self) -> bool {
        *self.scanned.borrow()
    }

    /// Looks an object up: memory, then disk. A small object found on disk moves into memory.
    pub async fn get(self: &Arc<Self>, digest: &Digest) -> Option<Hit> {
        if let Some(bytes) = self.memory.get(digest) {
            self.index.touch(digest);
            let size = bytes.len() as u64;
            return Some(Hit { content: Content::Memory(bytes), size, tier: Tier::Memory });
        }
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

    /// Blocks. A file that cannot be read, or a small one whose bytes are wrong, is as good as absent: it is
    /// forgotten, and the next fill replaces it.
    fn load(&self, digest: &Digest) -> Option<Hit> {
        let (file, size) = match self.store.read(digest) {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.index.remove(digest);
                return None;
            }
            Err(error) => {
                tracing::error!(%digest, %error, "cannot open a cached file");
                return None;
            }
        };
        if self.index.known(digest).is_some_and(|known| known.present && known.size != size) {
            tracing::error!(%digest, size_bytes = size, "a cached file has changed its length; it is set apart and will be pulled again");
            self.quarantine(digest);
            return None;
        }
        if size > SMALL {
            let file = Arc::new(file);
            self.memory.insert_file(*digest, file.clone(), size);
            self.index.touch(digest);
            return Some(Hit { content: Content::File(file), size, tier: Tier::Disk });
        }
        let bytes = match read::whole(&file, size) {
            Ok(bytes) if Digest::of(digest.algorithm(), &bytes) == *digest => bytes,
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

    /// The media type of a manifest that is in memory, if it was noted.
    pub fn media_type(&self, digest: &Digest) -> Option<MediaType> {
        self.memory.media_type(digest)
    }

    /// Notes the media type of a manifest. The first one stays (CVE-2021-41190).
    pub fn set_media_type(&self, digest: &Digest, media_type: &MediaType) {
        self.memory.set_media_type(digest, media_type);
    }

    /// Sets `bytes` of disk aside, evicting what was not used for longest (I8). Waits until the index is complete.
    pub async fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, NoRoom> {
        self.reserve_for(bytes, 0).await
    }

    /// As [`Cache::reserve`], within the quota of `class`.
    pub async fn reserve_for(self: &Arc<Self>, bytes: u64, class: Class) -> Result<Reservation, NoRoom> {
        self.until_scanned().await;
        let this = self.clone();
        spawn_blocking(move || this.make_room(bytes, class)).await.map_err(|error| NoRoom::from(io::Error::other(error)))?
    }

    /// Blocks; see [`Cache::reserve_for`], which also waits until the index is complete.
    pub fn make_room(&self, bytes: u64, class: Class) -> Result<Reservation, NoRoom> {
        loop {
            let space = self.store.space()?;
            match self.index.claim(bytes, class, space) {
                Claim::Granted(reservation) => return Ok(reservation),
                Claim::Evict(victim) => self.evict(victim)?,
                Claim::Wait => std::thread::sleep(Duration::from_millis(1)),
                Claim::Impossible => {
                    let Limits { max_size, min_free } = self.index.limits();
                    return Err(NoRoom::Full { wanted: bytes, max_size, min_free, free: space.free });
                }
            }
        }
    }

    fn evict(&self, victim: Victim) -> io::Result<()> {
        let removed = self.unlink(&victim);
        if let Err(error) = removed {
            self.index.stayed(victim);
            return Err(error);
        }
        self.index.left(victim);
        self.count_eviction(&victim, "space");
        Ok(())
    }

    fn unlink(&self, victim: &Victim) -> io::Result<()> {
        match victim.place {
            Place::Ingest => self.store.remove_ingest(&victim.digest),
            Place::Quarantine => self.store.remove_quarantined(&victim.digest),
            Place::Blobs => {
                self.memory.forget_file(&victim.digest);
                self.store.remove(&victim.digest)
            }
        }
    }

    fn count_eviction(&self, victim: &Victim, reason: &str) {
        self.metrics.evictions_total.with_label_values(&[reason]).inc();
        self.metrics.evicted_bytes_total.inc_by(victim.size);
        tracing::debug!(digest = %victim.digest, size_bytes = victim.size, place = ?victim.place, reason, "evicted");
    }

    /// Blocks. Looks whether the file system still has `min_free`; other writers may have taken it since a fill
    /// reserved its room. Evicts until it has, or until nothing is left to evict.
    pub fn keep_free(&self) -> Result<(), NoRoom> {
        loop {
            let space = self.store.space()?;
            let Limits { max_size, min_free } = self.index.limits();
            if space.free >= min_free {
                return Ok(());
            }
            match self.index.shortage(space) {
                Some(victim) => self.evict(victim)?,
                None => return Err(NoRoom::Full { wanted: 0, max_size, min_free, free: space.free }),
            }
        }
    }

    /// Which quota content of a repository counts for.
    pub fn class(&self, scope: &Scope) -> Class {
        if self.quotas.is_empty() {
            return 0;
        }
        let name = scope.to_string();
        // The configuration has at most 254.
        self.quotas.iter().position(|quota| quota.is_match(&name)).map_or(0, |at| (at + 1) as Class)
    }

    /// Notes what a manifest is made of.
    pub fn note_parts(&self, digest: &Digest, manifest: &Manifest) {
        if self.catalog.set_parts(digest, manifest) {
            self.reprotect();
        }
    }

    /// What was found damaged from now on.
    pub fn damaged(&self) -> tokio::sync::broadcast::Receiver<Digest> {
        self.damaged.subscribe()
    }

    /// Waits until the catalog has seen the whole tree. Cancel-safe.
    pub async fn until_surveyed(&self) {
        // Never errs: the sender lives in `self`.
        let _ = self.surveyed.subscribe().wait_for(|surveyed| *surveyed).await;
    }

    /// Whether the catalog has seen the whole tree.
    pub fn is_surveyed(&self) -> bool {
        *self.surveyed.borrow()
    }

    /// Blocks. Gives a verified file its name (I1) and takes it into the account and, if small, into memory.
    pub fn publish(&self, verified: Verified, reservation: Reservation) -> io::Result<()> {
        let (digest, size) = (*verified.digest(), verified.size());
        if let Err(error) = self.store.publish(&verified) {
            verified.discard();
            return Err(error);
        }
        reservation.published(digest, size);
        if size > SMALL {
            self.memory.insert_file(digest, verified.file().clone(), size);
        } else if let Ok(bytes) = read::whole(verified.file(), size) {
            // Not its file: a small object that is read again is hashed again.
            self.memory.insert(digest, bytes);
        }
        Ok(())
    }

    /// Stores content that is whole in memory and has been found to match `digest`: manifests. Where the disk tier
    /// cannot take it, it is kept in memory alone.
    pub async fn put(self: &Arc<Self>, digest: Digest, bytes: Bytes) -> Result<(), NoRoom> {
        self.memory.insert(digest, bytes.clone());
        let reservation = self.reserve(bytes.len() as u64).await?;
        let this = self.clone();
        let stored = spawn_blocking(move || {
            let mut ingest = this.store.ingest_whole(&digest)?;
            if let Err(error) = ingest.append(&[bytes]) {
                ingest.discard();
                return Err(error);
            }
            let verified = ingest.verify().map_err(io::Error::other)?;
            this.publish(verified, reservation)
        })
        .await;
        Ok(stored.map_err(io::Error::other)??)
    }

    /// The disk tier's files, for a fill. Its functions block.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Hands what an earlier fill of `digest` left over to the caller. Waits until the index is complete.
    pub async fn take_leftover(&self, digest: &Digest, class: Class) -> Reservation {
        self.until_scanned().await;
        self.index.take_leftover(digest, class)
    }

    /// The size of an object that is here, which counts as a use of it. Opens nothing.
    pub fn has(&self, digest: &Digest) -> Option<u64> {
        let size = self.index.size(digest)?;
        self.index.touch(digest);
        Some(size)
    }

    /// Blocks. Takes back objects of an import that was refused.
    pub fn take_back(&self, digests: &[Digest]) {
        digests.iter().for_each(|digest| {
            self.remove(digest, "refused");
        });
    }

    /// Waits until the index has seen the whole tree. Cancel-safe.
    pub async fn until_scanned(&self) {
        // Never errs: the sender lives in `self`.
        let _ = self.scanned.subscribe().wait_for(|scanned| *scanned).await;
    }

    /// Bytes and number of the files on disk, reservations included.
    pub fn disk_totals(&self) -> (u64, usize) {
        self.index.totals()
    }

    /// Brings the cache's gauges up to date; called when metrics are read.
    pub fn measure(&self) {
        let (bytes, objects) = self.index.totals();
        let (memory_bytes, memory_objects) = self.memory.totals();
        for (tier, bytes, objects) in [("disk", bytes, objects as u64), ("memory", memory_bytes, memory_objects)] {
            self.metrics.cache_bytes.with_label_values(&[tier]).set(bytes as i64);
            self.metrics.cache_objects.with_label_values(&[tier]).set(objects as i64);
        }
    }
}

#[cfg(test)]
mod tests;
