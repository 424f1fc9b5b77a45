//! A real file system, small enough to be full. Needs root, to mount it; says so where it is skipped.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::support::image::Blob;
use crate::support::mirror::Mirror;
use crate::support::upstream::Upstream;

/// A file system of its own in memory, unmounted when dropped.
pub struct Disk {
    pub folder: tempfile::TempDir,
}

impl Disk {
    /// `None` where it cannot be mounted.
    pub fn new(test: &str, mebibytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "roadstead-test"]).arg(folder.path()).output();
        match mounted {
            Ok(done) if done.status.success() => Some(Self { folder }),
            other => {
                // Where all tests must run, none may be left out.
                assert!(std::env::var_os("ROADSTEAD_ALL_TESTS").is_none(), "no file system can be mounted here: {other:?}");
                // Past the harness, which hides what passing tests print.
                let _ = writeln!(std::io::stderr(), "SKIPPED {test}: no file system can be mounted here (not root?): {other:?}");
                None
            }
        }
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.folder.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Another writer, who leaves `free` bytes.
    pub fn fill_up(&self, free: u64) {
        let other = fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("other")).unwrap();
        let (page, mut at) = (vec![1; 4096], other.metadata().unwrap().len());
        while self.free() >= free + 4096 {
            match other.write_all_at(&page, at) {
                Ok(()) => at += 4096,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn make_free(&self) {
        fs::remove_file(self.folder.path().join("other")).unwrap();
    }

    pub async fn mirror(&self, up: &Upstream, min_free: &str) -> Mirror {
        Mirror::with(up, |settings| {
            settings.set("cache", "dir", self.cache().to_str().unwrap()).set("cache", "max_size", "1GiB");
            settings.set("cache", "min_free", min_free).set("cache", "memory", "1MiB");
        })
        .await
    }

    /// The published files; fails unless each is what its name says (I1).
    pub fn published(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cache().join("blobs/sha256")).unwrap();
        let check = |path: PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(Blob::new("", fs::read(&path).unwrap()).digest.hex(), name, "{} is wrong", path.display());
            name
        };
        entries.map(|entry| check(entry.unwrap().path())).collect()
    }

    /// `ro` or `rw`; whether that could be done.
    pub fn remount(&self, how: &str) -> bool {
        let mut command = Command::new("mount");
        let done = command.args(["-o", &format!("remount,{how}")]).arg(self.folder.path()).output().unwrap();
        done.status.success()
    }

    /// What a mirror says that cannot start here.
    pub async fn refusal(&self) -> String {
        let text = format!("cache.dir = {:?}\nadmin.listen = \"127.0.0.1:0\"\nserver.listen = \"127.0.0.1:0\"\n", self.cache());
        let config = roadstead::config::Config::parse(&text, "test").unwrap();
        let Err(error) = roadstead::app::Mirror::start(config).await else { panic!("it started") };
        format!("{error:#}")
    }

    pub fn has(&self, blob: &Blob) -> bool {
        self.cache().join("blobs/sha256").join(blob.digest.hex()).exists()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}
