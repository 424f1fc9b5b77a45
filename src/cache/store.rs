//! The disk tier's files: where things lie, how they come into being, how they go.
//!
//! Owns everything below `cache.dir` except the JSON records' contents. The way of a blob is told by types:
//! [`Ingest`] (a growing file whose bytes are hashed as they are written) → [`Verified`] (its digest matched) →
//! [`Store::publish`], the one function that gives a file its name under `blobs/` (I1). A published file is never
//! written again (I2). Every function here blocks and is called from `spawn_blocking` (I11), by [`super::Cache`] and
//! by the fills.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, OFlags};

use super::verify::hash_file;
use crate::oci::{Algorithm, Digest, Hasher};
use faults::Faults;

pub mod faults;

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
        match lock.try_lock() {
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
            if entry.file_name().to_str().and_then(Self::ingest_digest).is_none() {
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
    #[cfg(test)]
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
                Ok(Some((file, meta.len())))
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

    /// A temporary file for content that is already whole in memory. Never resumed.
    pub fn ingest_whole(&self, digest: &Digest) -> io::Result<Ingest> {
        self.faults.check()?;
        let path = self.temporary("whole");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok(self.new_ingest(digest, path, file))
    }

    fn new_ingest(&self, digest: &Digest, path: PathBuf, file: File) -> Ingest {
        let hasher = Hasher::new(digest.algorithm());
        Ingest { digest: *digest, path, file: Arc::new(file), hasher, len: 0, faults: self.faults.clone() }
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
        let Ingest { digest, path, file, .. } = &verified.0;
        self.faults.check()?;
        file.sync_data()?;
        self.faults.check()?;
        fs::rename(path, self.blob_path(digest))?;
        self.unsynced.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes the names given since the last call survive a power cut. A name that is lost costs a fill, not a byte,
    /// so that many publications share one call.
    pub fn sync_names(&self) -> io::Result<()> {
        if self.unsynced.swap(false, Ordering::AcqRel) {
            for algorithm in Algorithm::ALL {
                File::open(self.blobs(algorithm))?.sync_all()?;
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
        remove(&self.ingest_path(digest))
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

    /// Writes down when a published file was last used, as its modification time.
    pub fn set_used(&self, digest: &Digest, used: SystemTime) -> io::Result<()> {
        File::open(self.blob_path(digest))?.set_modified(used)
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

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A file that is being filled: the hash always covers exactly its first `len` bytes.
#[derive(Debug)]
pub struct Ingest {
    digest: Digest,
    path: PathBuf,
    file: Arc<File>,
    hasher: Hasher,
    len: u64,
    faults: Faults,
}

impl Ingest {
    /// Bytes written and hashed.
    pub fn len(&self) -> u64 {
        self.len
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
        let mut at = self.len;
        for chunk in chunks {
            if let Err((torn, error)) = self.faults.check_write(chunk.len()) {
                self.file.write_all_at(&chunk[..torn], at)?;
                return Err(error);
            }
            self.file.write_all_at(chunk, at)?;
            at += chunk.len() as u64;
        }
        // Hashed only once all is written, so that `len`, hash and file never disagree.
        for chunk in chunks {
            self.hasher.update(chunk);
        }
        self.len = at;
        Ok(())
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
        let _ = fs::remove_file(&self.path);
        Err(Box::new(Mismatch { wanted: self.digest, found }))
    }

    /// Names the content by its own digest, for content that came without a name: what is found is what is wanted.
    pub fn seal(mut self) -> Verified {
        self.digest = self.hasher.clone().finish();
        Verified(self)
    }

    /// Unlinks the file. Readers keep what they have open.
    pub fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }

    fn rehash(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = self.file.read_at(&mut buffer, self.len)?;
            if read == 0 {
                return Ok(());
            }
            self.hasher.update(&buffer[..read]);
            self.len += read as u64;
        }
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

#[cfg(test)]
mod tests;
