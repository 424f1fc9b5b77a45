//! Looking again: re-hashing what is under `blobs/`, setting apart what is wrong, having it fetched again.
//!
//! Called in five places: for a request whose file could not be read, or is in doubt ([`Alarm`]); for one that finds a
//! file which the index does not know ([`super::lookup`]); behind the first reader of a file ([`super::doubt`]); by the
//! background pass ([`Cache::scrub`], slow); and by `roadstead verify` (fast). Hashing happens on the blocking pool
//! (I11). A verdict is about the file that was hashed, and never about another one that has its name by then.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::Cache;
use super::index::{Found, SHARDS};
use super::store::faults::Faults;
use super::store::{FileId, Store, origin, stamp};
use crate::oci::Digest;

/// Tells the cache that the file of an object could not be read.
#[derive(Clone, Debug)]
pub struct Alarm {
    digest: Digest,
    suspects: Arc<Suspects>,
}

impl Alarm {
    /// Never blocks. The cache looks at the file and does what is needed; until then nobody is given it.
    pub fn ring(&self) {
        self.suspects.add(self.digest);
    }

    /// Where tests make reads fail.
    pub(super) fn fault(&self) -> io::Result<()> {
        self.suspects.faults.check()
    }
}

/// How long a request waits for the verdict on a file. Long enough to hash a large one.
const VERDICT: Duration = Duration::from_secs(60);

/// The objects whose files a reader could not read, until somebody has looked at them.
#[derive(Debug)]
pub(super) struct Suspects {
    digests: Mutex<HashSet<Digest>>,
    /// How many those are, so that a hit looks at one number only.
    count: AtomicUsize,
    changed: watch::Sender<()>,
    queue: mpsc::UnboundedSender<Digest>,
    /// Taken by the maintenance task.
    queued: Mutex<Option<mpsc::UnboundedReceiver<Digest>>>,
    faults: Faults,
}

impl Suspects {
    pub fn new(faults: Faults) -> Self {
        let (queue, queued) = mpsc::unbounded_channel();
        Self {
            digests: Mutex::default(),
            count: AtomicUsize::new(0),
            changed: watch::Sender::new(()),
            queue,
            queued: Mutex::new(Some(queued)),
            faults,
        }
    }

    fn change(&self, change: impl FnOnce(&mut HashSet<Digest>) -> bool) -> bool {
        let mut digests = self.digests.lock();
        let changed = change(&mut digests);
        self.count.store(digests.len(), Ordering::Release);
        changed
    }

    fn add(&self, digest: Digest) {
        if self.mark(digest) {
            let _ = self.queue.send(digest);
        }
    }

    /// Nobody is given the object until it is cleared. `true`: nobody looks at it yet; the caller must, and clears it.
    pub fn mark(&self, digest: Digest) -> bool {
        self.change(|digests| digests.insert(digest))
    }

    pub fn clear(&self, digest: &Digest) {
        self.change(|digests| digests.remove(digest));
        self.changed.send_replace(());
    }

    fn holds(&self, digest: &Digest) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.change(|digests| digests.contains(digest))
    }

    /// Waits until the object is not suspected. Costs one look at a number where nothing is. Cancel-safe.
    pub async fn cleared(&self, digest: &Digest) {
        if !self.holds(digest) {
            return;
        }
        let mut changed = self.changed.subscribe();
        let verdict = changed.wait_for(|()| !self.holds(digest));
        // If a disk does not answer, whoever asks finds that out for themselves.
        let _ = tokio::time::timeout(VERDICT, verdict).await;
    }
}

/// What a look at an object's file has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is right, or not here.
    Sound,
    /// It was wrong, or its medium cannot read it; it is set apart.
    Damaged,
    /// It could not be looked at, for a reason that is not the file's.
    Unknown,
}

/// Whether an error says that a file's bytes are lost, and not only that they could not be looked at just now, for want
/// of descriptors, memory or a permission, or because of a signal. That says nothing about the file.
pub(super) fn condemns(error: &io::Error) -> bool {
    use rustix::io::Errno;
    // What file systems say of a medium that does not give its bytes back, or of checksums that do not fit.
    const LOST: [Errno; 6] = [Errno::IO, Errno::REMOTEIO, Errno::NODATA, Errno::BADMSG, Errno::UCLEAN, Errno::ILSEQ];
    let error = origin(error);
    error.kind() == io::ErrorKind::UnexpectedEof || Errno::from_io_error(error).is_some_and(|errno| LOST.contains(&errno))
}

fn unknown(digest: &Digest, error: &io::Error) -> Verdict {
    tracing::warn!(%digest, %error, "a cached file could not be looked at; it is left alone");
    Verdict::Unknown
}

/// How far a verification is. Read while it runs.
#[derive(Debug, Default)]
pub struct Verification {
    running: AtomicBool,
    whole: AtomicBool,
    pass: AtomicU64,
    objects: AtomicU64,
    bytes: AtomicU64,
    damaged: AtomicU64,
    unread: AtomicU64,
}

/// A [`Verification`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Which pass it is: no other has this number, of this process or of another. 0 before the first.
    pub pass: u64,
    /// It has not ended.
    pub running: bool,
    /// It has come to its end: everything was looked at.
    pub whole: bool,
    /// Objects hashed.
    pub objects: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Objects that were wrong.
    pub damaged: u64,
    /// Objects that could not be looked at, and of which nothing is known therefore.
    #[serde(default)]
    pub unread: u64,
}

impl Verification {
    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress {
            pass: self.pass.load(Ordering::Relaxed),
            running: self.running.load(Ordering::Acquire),
            whole: self.whole.load(Ordering::Relaxed),
            objects: self.objects.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            damaged: self.damaged.load(Ordering::Relaxed),
            unread: self.unread.load(Ordering::Relaxed),
        }
    }

    /// An object of `size` bytes was looked at, or was to be.
    fn count(&self, verdict: Verdict, size: u64) {
        if verdict == Verdict::Unknown {
            self.unread.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size, Ordering::Relaxed);
        self.damaged.fetch_add(u64::from(verdict == Verdict::Damaged), Ordering::Relaxed);
    }

    /// Begins anew; `None` while it is running.
    pub fn begin(self: &Arc<Self>) -> Option<Begun> {
        if self.running.swap(true, Ordering::AcqRel) {
            return None;
        }
        for figure in [&self.objects, &self.bytes, &self.damaged, &self.unread] {
            figure.store(0, Ordering::Relaxed);
        }
        self.whole.store(false, Ordering::Relaxed);
        // Microseconds since 1970 number the passes of all processes.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        self.pass.store(now.max(self.pass.load(Ordering::Relaxed) + 1), Ordering::Relaxed);
        Some(Begun(self.clone()))
    }
}

impl Cache {
    /// The bell for readers of an object's file.
    pub fn alarm(&self, digest: &Digest) -> Alarm {
        Alarm { digest: *digest, suspects: self.suspects.clone() }
    }

    /// Blocks. Hashes what is under an object's name; sets it apart if it is wrong, or if its medium cannot read it. A right
    /// one is an object from then on, if it was not.
    pub fn check(&self, digest: &Digest) -> Verdict {
        // Looked up before it is opened: if that fails, this says which file it was.
        let found = self.store.find(digest);
        match self.store.open_file(digest) {
            Ok(Some((file, meta))) => self.check_file(digest, &file, &meta),
            Ok(None) => {
                // Somebody may have removed it: it takes no room any more.
                self.forget_absent(digest);
                Verdict::Sound
            }
            Err(error) => match found {
                Ok(Some((file, size))) if condemns(&error) => self.condemn(digest, file, size, Some(&error)),
                _ => unknown(digest, &error),
            },
        }
    }

    /// As [`Cache::check`], of a file that was opened under the object's name.
    pub(super) fn check_file(&self, digest: &Digest, file: &File, meta: &Metadata) -> Verdict {
        match self.store.faults().check().and_then(|()| hash_file(file, digest.algorithm())) {
            Ok((found, _)) if found == *digest => {
                self.doubts.sound(digest);
                self.take_in(digest, meta, Found::new(meta.len(), stamp(meta), self.index.now()));
                Verdict::Sound
            }
            Ok(_) => self.condemn(digest, FileId::of(meta), meta.len(), None),
            Err(error) if condemns(&error) => self.condemn(digest, FileId::of(meta), meta.len(), Some(&error)),
            Err(error) => unknown(digest, &error),
        }
    }

    fn condemn(&self, digest: &Digest, file: FileId, size: u64, error: Option<&io::Error>) -> Verdict {
        match error {
            None => tracing::error!(%digest, "a cached file is damaged; it is set apart and will be pulled again"),
            Some(error) => {
                tracing::error!(%digest, %error, "a cached file cannot be read; it is set apart and will be pulled again")
            }
        }
        self.quarantine(digest, file, size);
        Verdict::Damaged
    }

    /// Hashes everything, at most `rate` bytes a second (0: as fast as the disk reads). `false`: the tree cannot be read.
    /// Dropping the future ends it after the object at hand.
    pub async fn verify(self: &Arc<Self>, begun: Begun, rate: u64) -> bool {
        self.verify_from(begun, rate, Pass::default(), None).await
    }

    /// As [`Cache::verify`], from where a pass stands; how far it is is written down in `file` after each share.
    async fn verify_from(self: &Arc<Self>, begun: Begun, rate: u64, mut pass: Pass, file: Option<&Path>) -> bool {
        let Begun(verification) = &begun;
        if self.until_scanned().await.is_err() {
            return false;
        }
        let mut due = tokio::time::Instant::now();
        for shard in pass.next..SHARDS {
            for (digest, size) in self.index.shard(shard) {
                let verdict = self.blocking(move |cache| cache.check(&digest)).await.unwrap_or(Verdict::Unknown);
                verification.count(verdict, size);
                if rate > 0 {
                    due = due.max(tokio::time::Instant::now() - Duration::from_secs(1))
                        + Duration::from_secs_f64(size as f64 / rate as f64);
                    tokio::time::sleep_until(due).await;
                }
            }
            pass.next = (shard + 1) % SHARDS;
            if pass.next == 0 {
                pass.ended = crate::clock::seconds(SystemTime::now());
            }
            if let Some(file) = file {
                let file = file.to_path_buf();
                let _ = self.blocking(move |cache| pass.write(&cache.store, &file)).await;
            }
        }
        verification.whole.store(true, Ordering::Relaxed);
        true
    }

    /// The background pass: everything once in `every`, for ever. A pass that a restart cuts off goes on where it was,
    /// to a 256th of all objects; `verified` in the cache folder says where.
    pub async fn scrub(self: Arc<Self>, every: Duration, rate: u64) {
        if every.is_zero() {
            return;
        }
        let path = self.store.root().join("verified");
        loop {
            let file = path.clone();
            let pass = self.blocking(move |cache| Pass::read(&cache.store, &file)).await.unwrap_or_default();
            let age = Duration::from_secs(crate::clock::seconds(SystemTime::now()).saturating_sub(pass.ended));
            let wait = if pass.next == 0 { every.saturating_sub(age) } else { Duration::ZERO };
            // Not in the first minute of a mirror, which has other things to do; nor in a circle where all is small.
            tokio::time::sleep(wait.max(every.min(Duration::from_secs(60)))).await;
            let Some(begun) = self.scrubbing.begin() else { continue };
            if !self.verify_from(begun, rate, pass, Some(&path)).await {
                continue;
            }
            let progress = self.scrubbing.progress();
            let Progress { objects, bytes, damaged, unread, .. } = progress;
            tracing::info!(objects, size_bytes = bytes, damaged, unread, "all content verified");
        }
    }

    /// Looks at what readers could not read, for ever.
    pub(super) async fn watch(self: Arc<Self>) {
        let queued = self.suspects.queued.lock().take();
        let Some(mut queued) = queued else { return };
        while let Some(digest) = queued.recv().await {
            let checked = self.blocking(move |cache| {
                cache.memory.forget_file(&digest);
                cache.check(&digest)
            });
            let _ = checked.await;
            self.suspects.clear(&digest);
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

/// How far the background pass is, as it is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Pass {
    /// The share that is next; 0 when none has begun.
    next: usize,
    /// Seconds since 1970: when the last whole pass ended.
    ended: u64,
}

impl Pass {
    /// Blocks. One that is lost, or damaged, begins anew.
    fn read(store: &Store, path: &Path) -> Self {
        let found = store.read_small(path).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        found.filter(|pass| pass.next < SHARDS).unwrap_or_default()
    }

    /// Blocks.
    fn write(self, store: &Store, path: &Path) {
        let written = serde_json::to_vec(&self).map_err(io::Error::other).and_then(|json| store.replace(path, &json, false));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "cannot write down how far the verification is");
        }
    }
}

/// A [`Verification`] that has begun. It has ended when this is dropped.
#[derive(Debug)]
pub struct Begun(Arc<Verification>);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
    }
}

/// Reads a file once, for its hash.
pub(super) fn hash_file(file: &File, algorithm: crate::oci::Algorithm) -> io::Result<(Digest, u64)> {
    use std::os::unix::fs::FileExt as _;
    let mut hasher = crate::oci::Hasher::new(algorithm);
    let (mut buffer, mut at) = (vec![0; 1 << 20], 0);
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok((hasher.finish(), at)),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
