//! The disk tier's files: where things lie, how they come into being, how they go.
//!
//! Owns everything below `cache.dir` except the JSON records' contents. The way of a blob is told by types: [`Ingest`] (a
//! growing file whose bytes are hashed as they are written) → [`Verified`] (its digest matched) → [`Store::publish`], the
//! one function that gives a file its name under `blobs/` (I1). A published file is never written again (I2). [`folder`]
//! opens and locks the folder. Every function here blocks and is called from `spawn_blocking` (I11), by [`super::Cache`]
//! and by the fills.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use rustix::fs::OFlags;

use super::evict::MAX_HEAT;
use super::index::{Place, Used};
use crate::oci::{Algorithm, Digest};
use at::at;
pub use at::origin;
use faults::Faults;
pub(in crate::cache) use folder::make;
pub use folder::{StoreError, VERSION};
pub use ingest::{Disproved, Ingest, Mismatch, Verified};
pub use scatter::Scatter;

mod at;
pub mod faults;
mod folder;
mod ingest;
mod scatter;

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

    /// The path of a file of this digest in a place.
    pub fn path(&self, place: Place, digest: &Digest) -> PathBuf {
        match place {
            Place::Blobs => self.blob_path(digest),
            Place::Ingest => self.ingest_path(digest),
            Place::Quarantine => self.quarantine_path(digest),
        }
    }

    fn ingest_path(&self, digest: &Digest) -> PathBuf {
        self.ingest_dir().join(digest.file_name())
    }

    /// Whether an earlier fill left something that can be resumed.
    pub fn has_ingest(&self, digest: &Digest) -> bool {
        self.ingest_path(digest).exists()
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
        let path = self.ingest_path(digest);
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = self.faults.check().and_then(|()| open()).map_err(at("open", &path))?;
        let mut ingest = Ingest::new(digest, path, file, true, self.faults.clone());
        ingest.rehash()?;
        Ok(ingest)
    }

    /// Gives back the blocks that a killed process had set aside behind what it wrote; the file's bytes.
    pub fn trim_ingest(&self, digest: &Digest) -> io::Result<u64> {
        let path = self.ingest_path(digest);
        let trim = || {
            let file = OpenOptions::new().write(true).open(&path)?;
            let len = file.metadata()?.len();
            file.set_len(len)?;
            Ok(len)
        };
        self.faults.check().and_then(|()| trim()).map_err(at("trim", &path))
    }

    /// A temporary file, for content that is already whole in memory, or that must not touch what an earlier fill left. Never
    /// resumed.
    pub fn ingest_whole(&self, digest: &Digest) -> io::Result<Ingest> {
        let path = self.temporary("whole");
        let open = || OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = self.faults.check().and_then(|()| open()).map_err(at("create", &path))?;
        Ok(Ingest::new(digest, path, file, false, self.faults.clone()))
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
        self.faults.check().and_then(|()| file.sync_data()).map_err(at("sync", path))?;
        self.faults.check().and_then(|()| fs::rename(path, self.blob_path(digest))).map_err(at("publish", path))?;
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
                let folder = self.blobs(algorithm);
                let synced = self.faults.check().and_then(|()| File::open(&folder)?.sync_all()).map_err(at("sync", &folder));
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

    /// How many names a published file has: with more than one, as those that an export links, unlinking frees nothing.
    pub fn links(&self, digest: &Digest) -> io::Result<u64> {
        self.faults.check()?;
        match fs::symlink_metadata(self.blob_path(digest)) {
            Ok(meta) => Ok(meta.nlink()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
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
        self.quarantine_dir().join(digest.file_name())
    }

    /// Takes a file away from under `blobs/`; `false` where there is none.
    pub fn quarantine(&self, digest: &Digest) -> io::Result<bool> {
        self.faults.check()?;
        match fs::rename(self.blob_path(digest), self.quarantine_path(digest)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Which file has a published name, and its size in bytes; opens nothing. `None` where there is none.
    pub fn find(&self, digest: &Digest) -> io::Result<Option<(FileId, u64)>> {
        match fs::symlink_metadata(self.blob_path(digest)) {
            Ok(meta) => Ok(meta.is_file().then(|| (FileId::of(&meta), meta.len()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The length in bytes of what an earlier fill left of `digest`; 0 where there is nothing.
    pub fn ingest_len(&self, digest: &Digest) -> u64 {
        fs::symlink_metadata(self.ingest_path(digest)).map_or(0, |meta| meta.len())
    }

    /// Writes down when a published file was last used, as its modification time: the seconds, and as nanoseconds what
    /// the policy wants to be told after a restart. The file's stamp from now on; `None` if it is not as `known` now: the time
    /// says then that somebody has written to it, and stays.
    pub fn set_used(&self, used: &Used, known: Option<u32>) -> io::Result<Option<u32>> {
        self.faults.check()?;
        let file = File::open(self.blob_path(&used.digest))?;
        if let Some(known) = known
            && stamp(&file.metadata()?) != known
        {
            return Ok(None);
        }
        file.set_modified(UNIX_EPOCH + Duration::new(u64::from(used.at), u32::from(used.heat)))?;
        Ok(Some(stamp(&file.metadata()?)))
    }

    /// Reads a small file, as records are.
    pub fn read_small(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.faults.check()?;
        fs::read(path)
    }

    /// Lists a folder.
    pub fn list(&self, folder: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>> + use<>> {
        let listed = self.faults.check().and_then(|()| fs::read_dir(folder)).map_err(at("list", folder))?;
        let folder = folder.to_owned();
        Ok(listed.map(move |entry| entry.map_err(at("list", &folder))))
    }

    /// What is known of a file that was listed.
    pub fn look(&self, entry: &fs::DirEntry) -> io::Result<Metadata> {
        self.faults.check().and_then(|()| entry.metadata()).map_err(|error| at("look at", &entry.path())(error))
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
        let stat = rustix::fs::statvfs(&self.root).map_err(|errno| at("see the free space of", &self.root)(errno.into()))?;
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

/// Tells a file from another one that gets its name later, as long as the file is open or has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file that these are of.
    pub fn of(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino() }
    }
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

#[cfg(test)]
mod tests;
