//! Whose the cache folder is: opening it, making what is missing, locking it, and letting it go.
//!
//! Never takes a folder that belongs to something else, or that another process has. Blocks; used by
//! [`super::super::Cache`] at the start and at the end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use parking_lot::Mutex;

use super::faults::Faults;
use super::{Store, scatter};
use crate::oci::{Algorithm, Digest};

/// The layout this program reads and writes; stands in the file `VERSION`.
pub const VERSION: &str = "1";

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

/// Makes a folder, and those above it that are missing, for this user alone: what is cached may be private. One that is
/// there stays as its owner wants it.
pub(in crate::cache) fn make(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

impl Store {
    /// Opens the tree below `root`, creating what is missing, and locks it against other processes.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let fail = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| StoreError::Io { action, path, source }
        };
        root.parent().map_or(Ok(()), fs::create_dir_all).map_err(fail("create the folder above", root))?;
        make(root).map_err(fail("create the folder", root))?;
        let version = root.join("VERSION");
        let found = match fs::read_to_string(&version) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(fail("read", &version)(error)),
        };
        match found {
            Some(found) if found == VERSION => {}
            Some(found) => return Err(StoreError::Version { path: root.into(), found }),
            None if is_unused(root).map_err(fail("list", root))? => {}
            None => return Err(StoreError::Foreign(root.into())),
        }
        let path = root.join("LOCK");
        // Where this cannot be written, nothing can. Not kept open for writing: that would keep its operator from making
        // the file system read-only.
        drop(OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(fail("open", &path))?);
        let lock = File::open(&path).map_err(fail("open", &path))?;
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
            make(dir).map_err(fail("create the folder", dir))?;
        }
        store.sweep().map_err(fail("sweep", &store.ingest_dir()))?;
        if !version.exists() {
            // Written last: a tree with a VERSION is a whole one.
            store.replace(&version, format!("{VERSION}\n").as_bytes(), true).map_err(fail("write", &version))?;
            // Before there is content, which without it would be nobody's.
            File::open(root).and_then(|root| root.sync_all()).map_err(fail("sync", root))?;
        }
        Ok(store)
    }

    /// Lets another process have the folder. Nothing is written after this.
    pub fn release(&self) {
        self.lock.lock().take();
    }

    /// Removes the temporary files of a process that ended while it wrote them. Before anything new is written.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.ingest_dir())? {
            let entry = entry?;
            let name = entry.file_name();
            // The list of a file is as resumable as the file.
            let kept = name.to_str().is_some_and(|name| match scatter::listed(name) {
                Some(file) => Digest::from_file_name(file).is_some() && self.ingest_dir().join(file).exists(),
                None => Digest::from_file_name(name).is_some(),
            });
            if !kept {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whether a folder without a `VERSION` holds nothing, or nothing but what a first start that was cut short leaves: its
/// empty folders, and a `VERSION` that had not got its name yet. `lost+found` is what an empty ext4 volume holds.
fn is_unused(root: &Path) -> io::Result<bool> {
    let all = |folder: &Path, is_known: &dyn Fn(&str, &fs::DirEntry) -> io::Result<bool>| {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if !entry.file_name().to_str().map_or(Ok(false), |name| is_known(name, &entry))? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let is_empty = |entry: &fs::DirEntry| Ok(entry.file_type()?.is_dir() && all(&entry.path(), &|_, _| Ok(false))?);
    all(root, &|name, entry| match name {
        "lost+found" | "LOCK" => Ok(true),
        "quarantine" | "repos" => is_empty(entry),
        "blobs" => {
            let is_known = |name: &str, entry: &fs::DirEntry| {
                Ok(Algorithm::ALL.iter().any(|algorithm| algorithm.name() == name) && is_empty(entry)?)
            };
            Ok(entry.file_type()?.is_dir() && all(&entry.path(), &is_known)?)
        }
        "ingest" => Ok(entry.file_type()?.is_dir() && all(&entry.path(), &|name, _| Ok(name.starts_with("record.")))?),
        _ => Ok(false),
    })
}

/// Locks the folder. Tries for a moment: a child that was just forked keeps our open files until it has become the other
/// program, and a mirror that is shutting down keeps its folder a moment longer.
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
