//! The cache: everything that has been pulled, by digest, in memory and on disk, and what is known of tags.
//!
//! Owns the two tiers ([`memory`] for manifests and small blobs, [`store`] with [`index`] for all), the JSON
//! [`records`] and the start-up [`scan`]. Knows nothing of upstreams, fills or HTTP. Its async functions hop to the
//! blocking pool for every file (I11) and are cancel-safe: what has begun on disk is finished there.
//! Called by `pull` to look up, by `fill` to reserve and publish, by `transfer` for bundles, and by `admin` and `cli` to show and
//! to change what is kept.

mod apart;
pub mod catalog;
pub mod confined;
mod dates;
mod doubt;
pub mod evict;
pub mod index;
mod leftover;
mod lookup;
mod maintain;
pub mod manage;
pub mod memory;
mod names;
mod objects;
mod owed;
mod owners;
pub mod pages;
pub mod pins;
mod prune;
pub mod purge;
pub mod read;
pub mod records;
mod room;
mod scan;
mod segments;
pub mod selector;
pub mod store;
mod survey;
mod thin;
pub mod tree;
pub mod verify;

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::config;
use crate::metrics::{Metrics, gauge};
use crate::oci::{Digest, Manifest, MediaType};
use catalog::Catalog;
use confined::Confined;
use doubt::Doubts;
use index::{Hold, Index, Limits, Quota};
use memory::Memory;
use names::Names;
use owed::Owed;
use pages::OpenFile;
use pins::Pins;
use records::Records;
use store::{Store, StoreError};
use thin::Crowd;
use verify::{Suspects, Verification};

/// Objects up to this size are kept in memory whole: manifests, configs, small layers.
pub const SMALL: u64 = 256 << 10;

/// What has to know all images waits so long for the catalog after a start.
const SURVEY: Duration = Duration::from_secs(60);

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
    File(Arc<OpenFile>),
}

/// The tiers of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Found in memory.
    Memory,
    /// Found on disk.
    Disk,
}

/// A task of the mirror panicked (or was ended with it): a bug, and no disk's fault. Logged where it happened.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the mirror failed at this: a task of it panicked, which the log tells more of")]
pub struct Panicked;

impl From<JoinError> for Panicked {
    fn from(_: JoinError) -> Self {
        Self
    }
}

impl From<Panicked> for io::Error {
    /// For those who have errors of the disk besides; [`NoRoom`] and whoever takes one of these finds it again.
    fn from(panicked: Panicked) -> Self {
        Self::other(panicked)
    }
}

/// The disk tier cannot take an object in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoRoom {
    /// It does not fit, whatever is evicted.
    #[error(
        "{wanted} bytes do not fit: cache.max_size is {max_size} bytes, of which {kept} bytes cannot be evicted; cache.min_free is \
         {min_free} bytes, {free} bytes are free{quota}"
    )]
    Full {
        /// What was to be stored.
        wanted: u64,
        /// The limit in force.
        max_size: u64,
        /// What counts against it and cannot go: what is pinned, held by an import, or promised to downloads.
        kept: u64,
        /// What has to stay free.
        min_free: u64,
        /// What the file system has.
        free: u64,
        /// Of which quota they are, where that has a limit.
        quota: OfQuota,
    },
    /// The disk failed.
    #[error("the cache's disk failed: {0}")]
    Disk(Arc<io::Error>),
    /// The mirror failed.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// The limit of a quota, as an error names it; nothing where there is none.
#[derive(Clone, Debug, Default)]
pub struct OfQuota(Option<(String, u64)>);

impl fmt::Display for OfQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((pattern, max_size)) = &self.0 else { return Ok(()) };
        write!(f, ", and cache.quota.{pattern:?}.max_size is {max_size} bytes")
    }
}

impl From<io::Error> for NoRoom {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Panicked>()) {
            Some(panicked) => Self::Panicked(*panicked),
            None => Self::Disk(Arc::new(error)),
        }
    }
}

/// How far the reading of the tree is.
#[derive(Debug)]
enum Scan {
    /// Fills wait: only at its end is it known how much room there is.
    Running,
    /// The index has all of it.
    Complete,
    /// It could not be read, and is tried again. Nothing is added until then.
    Failed(NoRoom),
}

/// What other images need is not known yet.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the mirror still reads its cache after the start, and does not know yet what images need; try again later")]
pub struct StillReading;

/// The cache of one mirror.
#[derive(Debug)]
pub struct Cache {
    store: Store,
    index: Arc<Index>,
    /// Held while what a digest's name means is changed.
    names: Names,
    memory: Memory,
    /// Tags and media types.
    pub records: Records,
    /// Images and their parts.
    pub catalog: Catalog,
    /// What eviction, expiry and purges leave alone.
    pub pins: Pins,
    /// What came through upstreams that are not everybody's.
    pub confined: Confined,
    /// Patterns of quotas, in the order of the index's classes from 1 on.
    quotas: Vec<config::Globs>,
    metrics: Arc<Metrics>,
    /// Whether the index has seen the whole tree.
    scanned: watch::Sender<Scan>,
    /// Turns true when the catalog has, too.
    surveyed: watch::Sender<bool>,
    /// What readers could not read.
    suspects: Arc<Suspects>,
    /// What is hashed again because it is asked for.
    doubts: Doubts,
    /// Held while a file's modification time is set and noted, so that nobody sees one without the other.
    stamping: Mutex<()>,
    /// What was found damaged, for whoever fetches it again.
    damaged: tokio::sync::broadcast::Sender<Digest>,
    /// Space that evicted files have yet to give back.
    owed: Owed,
    /// Whether the manifests name too much to be kept track of.
    crowd: Crowd,
    /// The background verification.
    pub scrubbing: Arc<Verification>,
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
        metrics.cache_limit_bytes.with_label_values(&["disk"]).set(gauge(limits.max_size));
        metrics.cache_limit_bytes.with_label_values(&["memory"]).set(gauge(config.memory));
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
        Ok(Arc::new(Self {
            records: Records::new(store.repos()),
            catalog: Catalog::new(index.clone()),
            pins,
            confined,
            quotas: config.quotas.iter().map(|quota| quota.pattern.clone()).collect(),
            index,
            names: Names::default(),
            surveyed: watch::Sender::new(false),
            suspects: Arc::new(Suspects::new(store.faults().clone())),
            doubts: Doubts::new(config),
            stamping: Mutex::default(),
            damaged: tokio::sync::broadcast::Sender::new(64),
            owed: Owed::default(),
            crowd: Crowd::default(),
            scrubbing: Arc::default(),
            memory: Memory::new(config.memory),
            store,
            metrics,
            scanned: watch::Sender::new(Scan::Running),
        }))
    }

    /// Does what may wait for a disk on a thread that may wait (I11). Begins at once. Cancel-safe: what has begun is done to
    /// its end. An error only if it panicked.
    pub fn blocking<T, W>(self: &Arc<Self>, work: W) -> impl Future<Output = Result<T, Panicked>> + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&Arc<Self>) -> T + Send + 'static,
    {
        let this = self.clone();
        let done = spawn_blocking(move || work(&this));
        async move { Ok(done.await?) }
    }

    /// Whether the index has seen the whole tree.
    pub fn is_scanned(&self) -> bool {
        matches!(*self.scanned.borrow(), Scan::Complete)
    }

    /// Why the tree cannot be read; `None` while it is read, or has been.
    pub fn scan_error(&self) -> Option<String> {
        match &*self.scanned.borrow() {
            Scan::Failed(error) => Some(error.to_string()),
            Scan::Running | Scan::Complete => None,
        }
    }

    /// The media type of a manifest that is in memory, if it was noted.
    pub fn media_type(&self, digest: &Digest) -> Option<MediaType> {
        self.memory.media_type(digest)
    }

    /// Notes the media type of a manifest. The first one stays (CVE-2021-41190).
    pub fn set_media_type(&self, digest: &Digest, media_type: &MediaType) {
        self.memory.set_media_type(digest, media_type);
    }

    /// Whether something has been found to be no manifest.
    pub fn is_no_manifest(&self, digest: &Digest) -> bool {
        self.memory.is_no_manifest(digest)
    }

    /// Notes that something is no manifest, by its bytes alone: it is not looked into again.
    pub fn set_no_manifest(&self, digest: &Digest) {
        self.memory.set_no_manifest(digest);
    }

    /// Notes what a manifest is made of.
    pub fn note_parts(&self, digest: &Digest, manifest: &Manifest) {
        if self.catalog.set_parts(digest, manifest) {
            self.reprotect_manifest(digest);
            self.mind_the_crowd();
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

    /// The same, for a minute at most. Cancel-safe.
    pub async fn surveyed_soon(&self) -> Result<(), StillReading> {
        timeout(SURVEY, self.until_surveyed()).await.map_err(|_| StillReading)
    }

    /// Whether the catalog has seen the whole tree.
    pub fn is_surveyed(&self) -> bool {
        *self.surveyed.borrow()
    }

    /// The mirror's clock.
    pub fn clock(&self) -> &Clock {
        self.index.clock()
    }

    /// The disk tier's files, for a fill. Its functions block.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is added to it is not evicted until it is dropped.
    pub fn hold(&self) -> Hold {
        self.index.hold()
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
            self.metrics.cache_bytes.with_label_values(&[tier]).set(gauge(bytes));
            self.metrics.cache_objects.with_label_values(&[tier]).set(gauge(objects));
        }
    }
}

#[cfg(test)]
mod tests;
