//! Whose the cache folder is: opening it, making what is missing, locking it, and letting it go.
//!
//! Never takes a folder that belongs to something else, or that another process has. Blocks; used by
//! [`super::super::Cache`] at the start and at the end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::faults::Faults;
use super::{Store, scatter};
use crate::oci::Algorithm;

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
