//! What came through upstreams that are not everybody's.
//!
//! Content lies under its digest, whoever it came from, and a digest is no secret. So what comes through such an
//! upstream is confined to it before it is here: a small file `private/<algorithm>-<hex>` holds the upstream's name until
//! another upstream says that it has the content, too. What a bundle brings before it is known which of its images needs it
//! is nobody's until then: its file is empty. All of them are in memory; a mirror of public registries has none, and pays
//! one look at a flag. Who may see confined content is not decided here. Called by `pull` and `transfer`.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use std::{fs, io};

use tokio::task::spawn_blocking;

use super::Cache;
use super::store::Store;
use crate::oci::{Digest, UpstreamName};

/// How often, and for how long after it was confined at the least, it is looked whether content is still here.
const LOOK: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
struct Mark {
    /// `None`: it is not known yet, or the file does not say it any more. Then it is nobody's.
    upstream: Option<UpstreamName>,
    since: Instant,
    /// The file is there, so that the next process knows, too.
    written: bool,
}

/// All confined content of a cache.
#[derive(Debug)]
pub struct Confined {
    folder: PathBuf,
    /// There is something confined, or something that will be.
    active: AtomicBool,
    /// The upstreams that are not everybody's.
    private: RwLock<BTreeSet<UpstreamName>>,
    marks: RwLock<HashMap<Digest, Mark>>,
    looked: Mutex<Instant>,
}

impl Confined {
    /// Blocks. What is confined in the cache folder of `store`.
    pub(super) fn load(store: &Store) -> io::Result<Self> {
        let folder = store.root().join("private");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (mut marks, since) = (HashMap::new(), Instant::now());
        for entry in entries.into_iter().flatten() {
            let entry = entry?;
            let Some(digest) = entry.file_name().to_str().and_then(Digest::from_file_name) else { continue };
            // A file that was cut off by a power cut still says that the content is not everybody's.
            let upstream = fs::read_to_string(entry.path()).ok().and_then(|name| name.trim().parse().ok());
            marks.insert(digest, Mark { upstream, since, written: true });
        }
        let (active, private) = (AtomicBool::new(!marks.is_empty()), RwLock::default());
        Ok(Self { folder, active, private, marks: RwLock::new(marks), looked: Mutex::new(since) })
    }

    /// Says which upstreams are not everybody's.
    pub fn set_private(&self, upstreams: impl IntoIterator<Item = UpstreamName>) {
        let upstreams: BTreeSet<_> = upstreams.into_iter().collect();
        if !upstreams.is_empty() {
            self.active.store(true, Ordering::Release);
        }
        *self.private.write().unwrap_or_else(PoisonError::into_inner) = upstreams;
    }

    /// Whether anything can be confined at all: false for a mirror that has only public upstreams, and had no others.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// To which upstream content is confined. `Some(None)`: to none that is known any more.
    pub fn of(&self, digest: &Digest) -> Option<Option<UpstreamName>> {
        if !self.is_active() {
            return None;
        }
        self.marks.read().unwrap_or_else(PoisonError::into_inner).get(digest).map(|mark| mark.upstream.clone())
    }

    /// Whether an upstream is not everybody's.
    pub fn is_private(&self, upstream: &UpstreamName) -> bool {
        self.is_active() && self.private.read().unwrap_or_else(PoisonError::into_inner).contains(upstream)
    }

    /// Whether there is such an upstream.
    pub fn has_private(&self) -> bool {
        self.is_active() && !self.private.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.file_name())
    }

    /// Marks it in memory. Whether its file is still to be written: then what confines it must wait for that. What is
    /// confined to an upstream stays that one's; what is nobody's becomes `upstream`'s.
    fn insert(&self, digest: Digest, upstream: Option<&UpstreamName>) -> bool {
        let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
        let since = Instant::now();
        let mark = marks.entry(digest).or_insert_with(|| Mark { upstream: None, since, written: false });
        // It is about to come again: the next look must not find it gone.
        mark.since = since;
        if mark.upstream.is_none() && upstream.is_some() {
            (mark.upstream, mark.written) = (upstream.cloned(), false);
        }
        self.active.store(true, Ordering::Release);
        !mark.written
    }

    fn replace(&self, store: &Store, path: &Path, text: &str) -> io::Result<()> {
        match store.replace(path, text.as_bytes(), false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.folder)?;
                store.replace(path, text.as_bytes(), false)
            }
            other => other,
        }
    }

    /// Blocks. Several at one time write the same.
    fn write(&self, store: &Store, digest: &Digest, upstream: Option<&UpstreamName>) -> io::Result<()> {
        let written = self.replace(store, &self.path(digest), upstream.map_or("", UpstreamName::as_str));
        if written.is_ok()
            && let Some(mark) = self.marks.write().unwrap_or_else(PoisonError::into_inner).get_mut(digest)
        {
            mark.written = true;
        }
        written
    }

    /// Blocks. Forgets what `is_here` does not know, if it had the time to come.
    fn prune(&self, store: &Store, is_here: impl Fn(&Digest) -> bool) {
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() < LOOK {
                return;
            }
            *looked = Instant::now();
        }
        self.forget(store, LOOK, is_here);
    }

    fn forget(&self, store: &Store, age: Duration, is_here: impl Fn(&Digest) -> bool) {
        let old: Vec<Digest> = {
            let marks = self.marks.read().unwrap_or_else(PoisonError::into_inner);
            marks.iter().filter(|(_, mark)| mark.since.elapsed() >= age).map(|(digest, _)| *digest).collect()
        };
        for digest in old.into_iter().filter(|digest| !is_here(digest)) {
            let forgotten = {
                let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
                let is_old = marks.get(&digest).is_some_and(|mark| mark.since.elapsed() >= age);
                is_old && marks.remove(&digest).is_some()
            };
            // Not under the lock, which every request takes. So somebody may have confined it anew, and written that down.
            if forgotten {
                let _ = fs::remove_file(self.path(&digest));
                if let Some(upstream) = self.of(&digest) {
                    let _ = self.write(store, &digest, upstream.as_ref());
                }
            }
        }
    }
}

impl Cache {
    /// Confines content to an upstream, before it comes through it. What is cached already keeps its mark, or its lack of
    /// one. After an error the caller must not keep the content. Cancel-safe.
    pub async fn confine(self: &Arc<Self>, digest: &Digest, upstream: &UpstreamName) -> io::Result<()> {
        if !self.mark(digest, Some(upstream)) {
            return Ok(());
        }
        let (this, digest, upstream) = (self.clone(), *digest, upstream.clone());
        let write = move || this.confined.write(&this.store, &digest, Some(&upstream));
        spawn_blocking(write).await.map_err(io::Error::other)?
    }

    /// Blocks. As [`Cache::confine`], of a bundle's content. `None`: whose it is is not known yet, and [`Cache::settle`] says
    /// it.
    pub fn confine_brought(&self, digest: &Digest, upstream: Option<&UpstreamName>) -> io::Result<()> {
        if !self.mark(digest, upstream) {
            return Ok(());
        }
        self.confined.write(&self.store, digest, upstream)
    }

    /// Marks what is not here. Whether that must be written down before it comes.
    fn mark(&self, digest: &Digest, upstream: Option<&UpstreamName>) -> bool {
        let here = self.index.contains(digest) || self.memory.get(digest).is_some();
        !here && self.confined.insert(*digest, upstream)
    }

    /// Blocks. Says whose content is that an image of a bundle needs: a private upstream's, if it was nobody's until now; or
    /// everybody's (`None`), whosever it was.
    pub fn settle(&self, digest: &Digest, upstream: Option<&UpstreamName>) -> io::Result<()> {
        let Some(holder) = self.confined.of(digest) else { return Ok(()) };
        match (upstream, holder) {
            (Some(_), Some(_)) => Ok(()),
            (Some(upstream), None) => {
                self.confined.insert(*digest, Some(upstream));
                self.confined.write(&self.store, digest, Some(upstream))
            }
            (None, _) => {
                match fs::remove_file(self.confined.path(digest)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                self.confined.marks.write().unwrap_or_else(PoisonError::into_inner).remove(digest);
                Ok(())
            }
        }
    }

    /// An upstream that is everybody's has the content, too.
    pub async fn release(&self, digest: &Digest) {
        if self.confined.of(digest).is_none() {
            return;
        }
        let removed = {
            let mut marks = self.confined.marks.write().unwrap_or_else(PoisonError::into_inner);
            marks.remove(digest).is_some()
        };
        if removed {
            let path = self.confined.path(digest);
            // If that fails the upstream is asked once more, in the next process's time.
            let _ = spawn_blocking(move || fs::remove_file(path)).await;
        }
    }

    /// Blocks. Confines what only repositories of upstreams that are not everybody's refer to, of a cache from before they were
    /// that. What others refer to as well was everybody's, and stays so.
    pub fn confine_known(&self) {
        let confined = &self.confined;
        if !confined.is_active() {
            return;
        }
        for (scope, digest) in self.catalog.unread(|upstream| confined.is_private(upstream)) {
            // One that cannot be read is looked for again the next time.
            let _ = self.survey_manifest(&scope, &digest, None);
        }
        let (mut failed, mut new) = (None, 0);
        for (digest, upstream) in self.catalog.confined(|upstream| confined.is_private(upstream)) {
            // A manifest that names what is nobody's is no proof of whose it is.
            if confined.of(&digest) != Some(None) && confined.insert(digest, Some(&upstream)) {
                new += 1;
                failed = confined.write(&self.store, &digest, Some(&upstream)).err().or(failed);
            }
        }
        if new > 0 {
            tracing::info!(
                objects = new,
                "what only repositories of upstreams with another visibility than \"public\" name is now theirs alone"
            );
        }
        if let Some(error) = failed {
            tracing::warn!(%error, "cannot write down which content is not everybody's; it is kept in memory");
        }
    }

    /// Blocks. Forgets to whom content belonged that is no longer here.
    pub(super) fn prune_confined(&self) {
        // A file that the index does not know may be taken in yet.
        let is_here = |digest: &Digest| !matches!(self.store.find(digest), Ok(None));
        self.confined
            .prune(&self.store, |digest| self.index.contains(digest) || self.store.has_ingest(digest) || is_here(digest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_mark_outlives_the_process_and_a_power_cut() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (a, b) = (Digest::of(Algorithm::Sha256, b"a"), Digest::of(Algorithm::Sha512, b"b"));
        let name: UpstreamName = "private.example:5000".parse().unwrap();
        let confined = Confined::load(&store).unwrap();
        assert!(!confined.is_active());
        assert!(confined.insert(a, Some(&name)) && confined.insert(a, Some(&name)), "until it is written down");
        confined.write(&store, &a, Some(&name)).unwrap();
        assert!(!confined.insert(a, Some(&name)) && confined.insert(b, Some(&name)));
        confined.write(&store, &b, Some(&name)).unwrap();
        fs::write(confined.path(&b), b"").unwrap();

        let confined = Confined::load(&store).unwrap();
        assert!(confined.is_active());
        assert_eq!((confined.of(&a), confined.of(&b)), (Some(Some(name)), Some(None)));
        assert_eq!(confined.of(&Digest::of(Algorithm::Sha256, b"c")), None);
    }

    /// Content whose mark is in memory alone would be everybody's after a restart.
    #[tokio::test]
    async fn a_mark_that_cannot_be_written_confines_nothing_the_second_time_either() {
        let folder = tempfile::tempdir().unwrap();
        let config = crate::config::Cache { dir: folder.path().join("cache"), ..crate::config::Cache::default() };
        let cache = Cache::open(&config, Arc::default()).unwrap();
        let (digest, name) = (Digest::of(Algorithm::Sha256, b"a"), "private.example".parse().unwrap());
        // A file where the folder belongs.
        fs::write(config.dir.join("private"), b"").unwrap();
        for _ in 0..2 {
            cache.confine(&digest, &name).await.unwrap_err();
        }
        fs::remove_file(config.dir.join("private")).unwrap();
        cache.confine(&digest, &name).await.unwrap();
        assert_eq!(Confined::load(&cache.store).unwrap().of(&digest), Some(Some(name)));
    }

    #[test]
    fn what_is_gone_is_forgotten_unless_it_is_about_to_come() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (here, gone) = (Digest::of(Algorithm::Sha256, b"here"), Digest::of(Algorithm::Sha256, b"gone"));
        let name: UpstreamName = "private.example".parse().unwrap();
        let confined = Confined::load(&store).unwrap();
        for digest in [here, gone] {
            confined.insert(digest, Some(&name));
            confined.write(&store, &digest, Some(&name)).unwrap();
        }
        confined.forget(&store, LOOK, |_| false);
        assert!(confined.of(&gone).is_some(), "too young");
        confined.forget(&store, Duration::ZERO, |digest| *digest == here);
        assert_eq!((confined.of(&here).is_some(), confined.of(&gone).is_some()), (true, false));
        assert!(confined.path(&here).exists() && !confined.path(&gone).exists());
    }
}
