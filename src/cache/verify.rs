//! Looking again: re-hashing what is under `blobs/`, setting apart what is wrong, having it fetched again.
//!
//! Three callers: a request whose file could not be read ([`Alarm`]), the background pass ([`Cache::scrub`], slow), and
//! `roadstead verify` (fast). Hashing happens on the blocking pool (I11).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::Cache;
use super::store::Check;
use crate::oci::Digest;

/// Objects looked up at a time.
const PAGE: usize = 256;

/// Tells the cache that the file of an object could not be read.
#[derive(Clone, Debug)]
pub struct Alarm {
    digest: Digest,
    suspects: mpsc::UnboundedSender<Digest>,
}

impl Alarm {
    /// Never blocks. The cache looks at the file and does what is needed.
    pub fn ring(&self) {
        let _ = self.suspects.send(self.digest);
    }
}

/// How far a verification is. Read while it runs.
#[derive(Debug, Default)]
pub struct Verification {
    running: AtomicBool,
    objects: AtomicU64,
    bytes: AtomicU64,
    damaged: AtomicU64,
}

/// A [`Verification`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// It has not come to its end.
    pub running: bool,
    /// Objects hashed.
    pub objects: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Objects that were wrong.
    pub damaged: u64,
}

impl Verification {
    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress {
            running: self.running.load(Ordering::Acquire),
            objects: self.objects.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            damaged: self.damaged.load(Ordering::Relaxed),
        }
    }

    /// Begins anew, unless it is running.
    fn begin(&self) -> bool {
        if self.running.swap(true, Ordering::AcqRel) {
            return false;
        }
        for figure in [&self.objects, &self.bytes, &self.damaged] {
            figure.store(0, Ordering::Relaxed);
        }
        true
    }
}

impl Cache {
    /// The bell for readers of an object's file.
    pub fn alarm(&self, digest: &Digest) -> Alarm {
        Alarm { digest: *digest, suspects: self.suspects.clone() }
    }

    /// Blocks. Hashes an object's file again; sets it apart if it is wrong or cannot be read. `true`: it is right, or
    /// not here.
    pub fn check(&self, digest: &Digest) -> bool {
        match self.store.check(digest) {
            Ok(Check::Right(_) | Check::Absent) => return true,
            Ok(Check::Wrong) => tracing::error!(%digest, "a cached file is damaged; it is set apart and will be pulled again"),
            Err(error) => {
                tracing::error!(%digest, %error, "a cached file cannot be read; it is set apart and will be pulled again")
            }
        }
        self.quarantine(digest);
        false
    }

    /// Blocks. Takes a damaged file away from under its name; the next pull, or the mirror itself, fetches it again.
    pub(super) fn quarantine(&self, digest: &Digest) {
        self.memory.forget(digest);
        let removed = self.index.expel(digest);
        match self.store.quarantine(digest) {
            Ok(Some(size)) => self.index.insert_quarantined(*digest, size),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%digest, %error, "a damaged file cannot be set apart; it is removed");
                let _ = self.store.remove(digest);
            }
        }
        if let Some(victim) = removed {
            self.index.left(victim);
        }
        self.metrics.cache_damaged_total.inc();
        self.metrics.evictions_total.with_label_values(&["damaged"]).inc();
        let _ = self.damaged.send(*digest);
    }

    /// Hashes everything, at most `rate` bytes a second (0: as fast as the disk reads). `false`: one is running.
    /// Dropping the future ends it after the object at hand.
    pub async fn verify(self: &Arc<Self>, verification: &Verification, rate: u64) -> bool {
        if !verification.begin() {
            return false;
        }
        let ended = Ended(verification);
        self.until_scanned().await;
        let (mut from, mut due) = (Some(0), tokio::time::Instant::now());
        while let Some(at) = from {
            let (page, next) = self.index.page(at, PAGE);
            from = next;
            for (digest, size) in page {
                let this = self.clone();
                let right = spawn_blocking(move || this.check(&digest)).await.unwrap_or(true);
                verification.objects.fetch_add(1, Ordering::Relaxed);
                verification.bytes.fetch_add(size, Ordering::Relaxed);
                verification.damaged.fetch_add(u64::from(!right), Ordering::Relaxed);
                if rate > 0 {
                    due = due.max(tokio::time::Instant::now() - Duration::from_secs(1))
                        + Duration::from_secs_f64(size as f64 / rate as f64);
                    tokio::time::sleep_until(due).await;
                }
            }
        }
        drop(ended);
        true
    }

    /// The background pass: everything once in `every`, for ever. How far it is survives a restart only by the day:
    /// each pass begins at the start, or when `every` has passed since the last one ended.
    pub async fn scrub(self: Arc<Self>, every: Duration, rate: u64) {
        if every.is_zero() {
            return;
        }
        let path = self.store.root().join("verified");
        loop {
            let file = path.clone();
            let last = spawn_blocking(move || std::fs::metadata(file).and_then(|meta| meta.modified())).await;
            let last = last.ok().and_then(Result::ok).unwrap_or(UNIX_EPOCH);
            let age = SystemTime::now().duration_since(last).unwrap_or_default();
            tokio::time::sleep(every.saturating_sub(age).max(Duration::from_secs(60))).await;
            self.verify(&self.scrubbing, rate).await;
            let (this, file) = (self.clone(), path.clone());
            let _ = spawn_blocking(move || this.store.replace(&file, b"", false)).await;
            let progress = self.scrubbing.progress();
            tracing::info!(
                objects = progress.objects,
                size_bytes = progress.bytes,
                damaged = progress.damaged,
                "all content verified"
            );
        }
    }

    /// Looks at what readers could not read, for ever.
    pub(super) async fn watch(self: Arc<Self>, mut suspects: mpsc::UnboundedReceiver<Digest>) {
        while let Some(digest) = suspects.recv().await {
            let this = self.clone();
            let _ = spawn_blocking(move || {
                this.memory.forget_file(&digest);
                this.check(&digest)
            })
            .await;
        }
    }

    /// Blocks. Hashes a file again that is not as long as a manifest says: one of the two is wrong, and a manifest may
    /// say anything.
    pub(super) fn check_size(&self, digest: &Digest, size: u64) {
        if self.index.known(digest).is_some_and(|known| known.present && known.size != size) {
            self.check(digest);
        }
    }
}

/// Says that a verification has ended, also when it was dropped.
struct Ended<'a>(&'a Verification);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
    }
}

/// Reads a file once, for its hash.
pub(super) fn hash_file(file: &std::fs::File, algorithm: crate::oci::Algorithm) -> io::Result<(Digest, u64)> {
    use std::os::unix::fs::FileExt as _;
    let mut hasher = crate::oci::Hasher::new(algorithm);
    let (mut buffer, mut at) = (vec![0; 1 << 20], 0);
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok((hasher.finish(), at)),
            read => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
        }
    }
}
