//! The disk tier's files: where things lie, how they come into being, how they go.
//!
//! Owns everything below `cache.dir` except the JSON records' contents. The way of a blob is told by types:
//! [`Ingest`] (a growing file whose bytes are hashed as they are written) → [`Verified`] (its digest matched) →
//! [`Store::publish`], the one function that gives a file its name under `blobs/` (I1). A published file is never
//! written again (I2). Every function here blocks and is called from `spawn_blocking` (I11), by [`super::Cache`] and
//! by the fills.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, OFlags};

use super::evict::MAX_HEAT;
use super::index::Used;
use super::verify::hash_file;
use crate::oci::{Algorithm, Digest, Hasher};
use faults::Faults;
pub use scatter::Scatter;

pub mod faults;
mod scatter;

/// The layout this program reads and writes; stands in the file `VERSION`.
const VERSION: &str = "1";

/// Why a cache folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call failed.
    #[error("cache.dir {path}: cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the folder.
    #[error("cache.dir {0} is in use by another process; give each mirror a folder of its own")]
    Locked(PathBuf),
    /// The folder belongs to something else.
    #[error("cache.dir {0} is not empty and holds no Roadstead cache; name an empty or a new folder")]
    Foreign(PathBuf),
    /// The folder was written by another layout version.
    #[error(
        "cache.dir {path} has layout version {found}, this program reads {VERSION}; empty the folder or use the program that wrote it"
    )]
    Version {
        /// The folder.
        path: PathBuf,
        /// What its `VERSION` says.
        found: String,
    },
}

/// Bytes read at a time to be hashed: what was just written is still in the CPU's cache, and so is this.
const READ_BACK: usize = 256 << 10;

/// The folder tree of the disk tier. Holding it holds the lock on the folder.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Names have changed in `blobs/` since the folders were last synced.
    unsynced: AtomicBool,
    /// Makes the names of temporary files differ.
    serial: AtomicU64,
    faults: Faults,
    /// `None` once the folder has been released.
    lock: Mutex<Option<File>>,
}

impl Store {
    /// Opens the tree below `root`, creating what is missing, and locks it against other processes.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let fail = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| StoreError::Io { action, path, source }
        };
        fs::create_dir_all(root).map_err(fail("create the folder", root))?;
        let version = root.join("VERSION");
        let found = match fs::read_to_string(&version) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(fail("read", &version)(error)),
        };
        match found {
            Some(found) if found == VERSION => {}
            Some(found) => return Err(StoreError::Version { path: root.into(), found }),
            None => {
                let mut entries = fs::read_dir(root).map_err(fail("list", root))?;
                // `lost+found` is what an empty ext4 volume holds; `LOCK`, what a start that was cut short left.
                let foreign = entries.any(|entry| {
                    entry.is_ok_and(|entry| !["lost+found", "LOCK"].iter().any(|known| entry.file_name() == *known))
                });
                if foreign {
                    return Err(StoreError::Foreign(root.into()));
                }
            }
        }
        let path = root.join("LOCK");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(fail("open", &path))?;
        match take(&lock) {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StoreError::Locked(root.into())),
            Err(fs::TryLockError::Error(error)) => return Err(fail("lock", &path)(error)),
        }
        let store = Self {
            root: root.into(),
            unsynced: AtomicBool::new(false),
            serial: AtomicU64::new(0),
            faults: Faults::default(),
            lock: Mutex::new(Some(lock)),
        };
        for dir in Algorithm::ALL.map(|algorithm| store.blobs(algorithm)).iter().chain([
            &store.ingest_dir(),
            &store.quarantine_dir(),
            &root.join("repos"),
        ]) {
            fs::create_dir_all(dir).map_err(fail("create the folder", dir))?;
        }
        store.sweep().map_err(fail("sweep", &store.ingest_dir()))?;
        if !version.exists() {
            // Written last: a tree with a VERSION is a whole one.
            store.replace(&version, format!("{VERSION}\n").as_bytes(), true).map_err(fail("write", &version))?;
        }
        Ok(store)
    }

    /// Lets another process have the folder. Nothing is written after this.
    pub fn release(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Removes the temporary files of a process that ended while it wrote them. Before anything new is written.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.ingest_dir())? {
            let entry = entry?;
            let name = entry.file_name();
            // The list of a file is as resumable as the file.
            let kept = name.to_str().is_some_and(|name| match scatter::listed(name) {
                Some(file) => Self::ingest_digest(file).is_some() && self.ingest_dir().join(file).exists(),
                None => Self::ingest_digest(name).is_some(),
            });
            if !kept {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The folder of published files of one algorithm: the shape of an OCI image layout.
    pub fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.name())
    }

    /// The folder of files that are still being filled.
    pub fn ingest_dir(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// The folder of files that were found damaged.
    pub fn quarantine_dir(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// The folder of everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where tests make the disk fail.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The folder of the JSON records.
    pub fn repos(&self) -> PathBuf {
        self.root.join("repos")
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    fn ingest_path(&self, digest: &Digest) -> PathBuf {
        self.ingest_dir().join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
    }

    /// Whether an earlier fill left something that can be resumed.
    pub fn has_ingest(&self, digest: &Digest) -> bool {
        self.ingest_path(digest).exists()
    }

    /// The digest of a resumable file in `ingest/`, from its name; `None` for temporary files.
    pub fn ingest_digest(name: &str) -> Option<Digest> {
        let (algorithm, hex) = name.split_once('-')?;
        let algorithm = Algorithm::ALL.into_iter().find(|known| known.name() == algorithm)?;
        Digest::from_parts(algorithm, hex).ok()
    }

    /// Opens a published file; its size is in bytes. `None` where there is none.
    pub fn read(&self, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        Ok(self.open_file(digest)?.map(|(file, meta)| (file, meta.len())))
    }

    /// Opens a published file. `None` where there is none.
    pub fn open_file(&self, digest: &Digest) -> io::Result<Option<(File, Metadata)>> {
        self.faults.check()?;
        let path = self.blob_path(digest);
        // Not to wait for the other end of a pipe that somebody put there.
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        match OpenOptions::new().read(true).custom_flags(nonblocking).open(&path) {
            Ok(file) => {
                let meta = file.metadata()?;
                if !meta.is_file() {
                    tracing::warn!(path = %path.display(), "not a file; left alone");
                    return Ok(None);
                }
                Ok(Some((file, meta)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the resumable file of `digest`, with whatever an earlier fill left in it already hashed.
    pub fn ingest(&self, digest: &Digest) -> io::Result<Ingest> {
        self.faults.check()?;
        let path = self.ingest_path(digest);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut ingest = self.new_ingest(digest, path, file);
        ingest.rehash()?;
        Ok(ingest)
    }

    /// Gives back the blocks that a killed process had set aside behind what it wrote; the file's bytes.
    pub fn trim_ingest(&self, digest: &Digest) -> io::Result<u64> {
        self.faults.check()?;
        let file = OpenOptions::new().write(true).open(self.ingest_path(digest))?;
        let len = file.metadata()?.len();
        file.set_len(len)?;
        Ok(len)
    }

    /// A temporary file for content that is already whole in memory. Never resumed.
    pub fn ingest_whole(&self, digest: &Digest) -> io::Result<Ingest> {
        self.faults.check()?;
        let path = self.temporary("whole");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok(self.new_ingest(digest, path, file))
    }

    fn new_ingest(&self, digest: &Digest, path: PathBuf, file: File) -> Ingest {
        let hasher = Hasher::new(digest.algorithm());
        let (beyond, scattered) = (Vec::new(), false);
        Ingest { digest: *digest, path, file: Arc::new(file), hasher, len: 0, beyond, scattered, faults: self.faults.clone() }
    }

    /// A file without a name, for what has to wait. Gone when it is closed.
    pub fn scratch(&self) -> io::Result<File> {
        let path = self.temporary("scratch");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }

    /// Gives a verified file its name under `blobs/`. The only function that does (I1).
    pub fn publish(&self, verified: &Verified) -> io::Result<()> {
        let Ingest { digest, path, file, scattered, .. } = &verified.0;
        self.faults.check()?;
        file.sync_data()?;
        self.faults.check()?;
        fs::rename(path, self.blob_path(digest))?;
        if *scattered {
            // What stays of it is swept at the next start.
            let _ = scatter::remove(path);
        }
        self.unsynced.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes the names given since the last call survive a power cut. A name that is lost costs a fill, not a byte,
    /// so that many publications share one call.
    pub fn sync_names(&self) -> io::Result<()> {
        if self.unsynced.swap(false, Ordering::AcqRel) {
            for algorithm in Algorithm::ALL {
                let synced = self.faults.check().and_then(|()| File::open(self.blobs(algorithm))?.sync_all());
                if synced.is_err() {
                    // The next call tries again.
                    self.unsynced.store(true, Ordering::Release);
                }
                synced?;
            }
        }
        Ok(())
    }

    /// Unlinks a published file. Readers keep what they have open (I2).
    pub fn remove(&self, digest: &Digest) -> io::Result<()> {
        self.faults.check()?;
        remove(&self.blob_path(digest))
    }

    /// Unlinks what an earlier fill left of `digest`.
    pub fn remove_ingest(&self, digest: &Digest) -> io::Result<()> {
        self.faults.check()?;
        let path = self.ingest_path(digest);
        // The list goes last: a file without one has no hole.
        remove(&path)?;
        scatter::remove(&path)
    }

    /// Unlinks a damaged file that was set apart.
    pub fn remove_quarantined(&self, digest: &Digest) -> io::Result<()> {
        self.faults.check()?;
        remove(&self.quarantine_path(digest))
    }

    fn quarantine_path(&self, digest: &Digest) -> PathBuf {
        self.quarantine_dir().join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
    }

    /// Takes a file away from under `blobs/`; its size in bytes. `None` where there is none.
    pub fn quarantine(&self, digest: &Digest) -> io::Result<Option<u64>> {
        self.faults.check()?;
        let path = self.quarantine_path(digest);
        match fs::rename(self.blob_path(digest), &path) {
            Ok(()) => Ok(Some(fs::metadata(&path)?.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a whole published file, and says whether it is what its name says.
    pub fn check(&self, digest: &Digest) -> io::Result<Check> {
        let Some((file, _)) = self.read(digest)? else { return Ok(Check::Absent) };
        let (found, size) = hash_file(&file, digest.algorithm())?;
        Ok(if found == *digest { Check::Right(size) } else { Check::Wrong })
    }

    /// Writes down when a published file was last used, as its modification time: the seconds, and as nanoseconds what
    /// the policy wants to be told after a restart. The file's stamp from now on.
    pub fn set_used(&self, used: &Used) -> io::Result<u32> {
        self.faults.check()?;
        let file = File::open(self.blob_path(&used.digest))?;
        file.set_modified(UNIX_EPOCH + Duration::new(u64::from(used.at), u32::from(used.heat)))?;
        Ok(stamp(&file.metadata()?))
    }

    /// Reads a small file, as records are.
    pub fn read_small(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.faults.check()?;
        fs::read(path)
    }

    /// Lists a folder.
    pub fn list(&self, folder: &Path) -> io::Result<fs::ReadDir> {
        self.faults.check()?;
        fs::read_dir(folder)
    }

    /// What is known of a file that was listed.
    pub fn look(&self, entry: &fs::DirEntry) -> io::Result<Metadata> {
        self.faults.check()?;
        entry.metadata()
    }

    /// Replaces a small file by an atomic rename; `durable` waits until the bytes are on the disk.
    pub fn replace(&self, path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
        let temporary = self.temporary("record");
        let written = (|| {
            self.faults.check()?;
            let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
            file.write_all_at(bytes, 0)?;
            if durable {
                file.sync_data()?;
            }
            fs::rename(&temporary, path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Free bytes, and the size, of the file system below.
    pub fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(Space { free: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
    }

    fn temporary(&self, what: &str) -> PathBuf {
        self.ingest_dir().join(format!("{what}.{}", self.serial.fetch_add(1, Ordering::Relaxed)))
    }
}

/// What the file system below the cache has, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Free for the mirror's user.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// What became of a published file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// It is what its name says, and so many bytes.
    Right(u64),
    /// It is something else.
    Wrong,
    /// There is none.
    Absent,
}

/// A file's modification time in few bits: one that somebody has written to, or touched, has another one.
pub fn stamp(meta: &Metadata) -> u32 {
    (meta.mtime() as u32).wrapping_mul(0x9E37_79B1) ^ (meta.mtime_nsec() as u32)
}

/// What [`Store::set_used`] wrote into a file's modification time, beside the seconds. A file that was never used has
/// the nanoseconds of its last write there, which are not likely to be that few.
pub fn heat(meta: &Metadata) -> u8 {
    u8::try_from(meta.mtime_nsec()).ok().filter(|heat| *heat <= MAX_HEAT).unwrap_or(0)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A file that is being filled: the hash always covers exactly its first `len` bytes. Parts of it may be further on
/// ([`Scatter`]); the hash follows ([`Ingest::absorb`]).
#[derive(Debug)]
pub struct Ingest {
    digest: Digest,
    path: PathBuf,
    file: Arc<File>,
    hasher: Hasher,
    len: u64,
    beyond: Vec<Range<u64>>,
    /// There is a list of parts beside it.
    scattered: bool,
    faults: Faults,
}

impl Ingest {
    /// Bytes written and hashed.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What an earlier fill wrote further on, in order; a hole is before each.
    pub fn beyond(&self) -> &[Range<u64>] {
        &self.beyond
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether what is there already is all of it.
    pub fn is_complete(&self) -> bool {
        !self.is_empty() && self.hasher.clone().finish() == self.digest
    }

    /// The file, for readers that follow it. They must not read beyond what the fill has announced.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Sets blocks aside for a file of `size` bytes, so that a full disk shows before the first byte is answered.
    /// The file's length stays that of what was written.
    pub fn allocate(&self, size: u64) -> io::Result<()> {
        if size == 0 {
            return Ok(());
        }
        self.faults.check()?;
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, size) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Appends. After an error the file is as before the call: the same bytes can be appended again.
    pub fn append(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        if let Some(chunk) = chunks.first()
            && let Err((torn, error)) = self.faults.check_write(chunk.len())
        {
            self.file.write_all_at(&chunk[..torn], self.len)?;
            return Err(error);
        }
        scatter::write_vectored(&self.file, self.len, chunks)?;
        // Only once all is written, so that `len`, hash and file never disagree.
        self.hash(chunks);
        Ok(())
    }

    fn hash(&mut self, chunks: &[Bytes]) {
        for chunk in chunks {
            self.hasher.update(chunk);
            self.len += chunk.len() as u64;
        }
    }

    /// From now on the file is written by parts, in any order.
    pub fn scatter(&mut self) -> io::Result<Scatter> {
        self.faults.check()?;
        self.scattered = true;
        Scatter::open(&self.path, self.file.clone(), 0..self.len, self.faults.clone())
    }

    /// Hashes on with chunks that have just been written from byte `at` on, if that is where the hash stands; else they
    /// are read back ([`Ingest::absorb`]).
    pub fn follow(&mut self, at: u64, chunks: &[Bytes]) {
        if self.len == at {
            self.hash(chunks);
        }
    }

    /// Hashes on, up to byte `until`. All before that has been written: by parts, so that it is read back.
    pub fn absorb(&mut self, until: u64) -> io::Result<()> {
        let mut buffer = vec![0; READ_BACK];
        while self.len < until {
            let want = usize::try_from(until - self.len).map_or(READ_BACK, |left| left.min(READ_BACK));
            match self.file.read_at(&mut buffer[..want], self.len)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    self.hasher.update(&buffer[..read]);
                    self.len += read as u64;
                }
            }
        }
        Ok(())
    }

    /// Forgets what is beyond a hole: the file is to be written in order. Before anybody reads it.
    pub fn close_up(&mut self) -> io::Result<()> {
        if self.scattered {
            self.file.set_len(self.len)?;
            scatter::remove(&self.path)?;
            (self.beyond, self.scattered) = (Vec::new(), false);
        }
        Ok(())
    }

    /// The bytes that the file takes from now on: blocks that were set aside behind its end are given back.
    pub fn settle(&self) -> io::Result<u64> {
        let size = self.file.metadata()?.len();
        self.file.set_len(size)?;
        Ok(size)
    }

    /// Forgets all bytes, to begin again.
    pub fn reset(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.hasher = Hasher::new(self.digest.algorithm());
        self.len = 0;
        Ok(())
    }

    /// Whether the bytes are the ones that the digest names. A refused file is unlinked: nothing can resume it.
    pub fn verify(self) -> Result<Verified, Box<Mismatch>> {
        let found = self.hasher.clone().finish();
        if found == self.digest {
            return Ok(Verified(self));
        }
        let wanted = self.digest;
        self.discard();
        Err(Box::new(Mismatch { wanted, found }))
    }

    /// Names the content by its own digest, for content that came without a name: what is found is what is wanted.
    pub fn seal(mut self) -> Verified {
        self.digest = self.hasher.clone().finish();
        Verified(self)
    }

    /// Unlinks the file. Readers keep what they have open.
    pub fn discard(self) {
        let _ = fs::remove_file(&self.path);
        if self.scattered {
            let _ = scatter::remove(&self.path);
        }
    }

    /// Hashes what is there without a hole.
    fn rehash(&mut self) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        let prefix = match scatter::read(&self.path, size)? {
            None => size,
            Some(mut whole) => {
                self.scattered = true;
                let prefix = whole.first().filter(|range| range.start == 0).map_or(0, |range| range.end);
                whole.retain(|range| range.start > prefix);
                self.beyond = whole;
                prefix
            }
        };
        self.absorb(prefix)
    }
}

/// A filled file whose digest matched; what [`Store::publish`] takes.
#[derive(Debug)]
pub struct Verified(Ingest);

impl Verified {
    /// The digest, and now the name.
    pub fn digest(&self) -> &Digest {
        &self.0.digest
    }

    /// Bytes in the file.
    pub fn size(&self) -> u64 {
        self.0.len
    }

    /// The file, open.
    pub fn file(&self) -> &Arc<File> {
        &self.0.file
    }

    /// Unlinks the file unpublished.
    pub fn discard(self) {
        self.0.discard();
    }
}

/// Bytes that are not what they were asked for as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the content has digest {found}, not {wanted}")]
pub struct Mismatch {
    /// The digest that was asked for.
    pub wanted: Digest,
    /// The digest of what came.
    pub found: Digest,
}

/// Locks the folder. Tries for a moment: whatever process has just been started holds what is open here until it has
/// become the other program, and a mirror that is on its way out its folder.
fn take(lock: &File) -> Result<(), fs::TryLockError> {
    const EVERY: Duration = Duration::from_millis(50);
    for _ in 0..10 {
        match lock.try_lock() {
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(EVERY),
            done => return done,
        }
    }
    lock.try_lock()
}

#[cfg(test)]
mod tests;
