//! Which content is confined to which upstreams: in memory, and each in a file. Called by [`super`] alone.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, slice};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::cache::store::{Store, make};
use crate::oci::{Digest, UpstreamName};

/// How often, and for how long after it was confined at the least, it is looked whether content is still here.
pub(super) const LOOK: Duration = Duration::from_secs(3600);

/// The upstreams that content is confined to, in order: each has brought it whole, or said that it has it. None: nobody has yet,
/// or the file does not say it any more. Then it is nobody's. Cheap to clone.
pub type Holders = Arc<[UpstreamName]>;

#[derive(Clone, Debug)]
struct Mark {
    holders: Holders,
    since: Instant,
    /// The file says the same, so that the next process knows, too.
    written: bool,
    /// Made for a download alone: it goes if that brings nothing.
    awaited: bool,
}

impl Mark {
    fn new(awaited: bool) -> Self {
        Self { holders: Holders::default(), since: Instant::now(), written: false, awaited }
    }

    /// Whether it says something new.
    fn add(&mut self, upstreams: &[UpstreamName]) -> bool {
        self.awaited = false;
        if upstreams.iter().all(|upstream| self.holders.contains(upstream)) {
            return false;
        }
        let all: BTreeSet<_> = self.holders.iter().chain(upstreams).cloned().collect();
        (self.holders, self.written) = (all.into_iter().collect(), false);
        true
    }
}

/// What the file of a mark says: one name a line.
pub(in crate::cache) fn parse(text: &str) -> Holders {
    let names: BTreeSet<UpstreamName> = text.lines().filter_map(|name| name.trim().parse().ok()).collect();
    names.into_iter().collect()
}

pub(super) fn text(holders: &Holders) -> String {
    holders.iter().map(UpstreamName::as_str).collect::<Vec<_>>().join("\n")
}

/// All confined content of a cache.
#[derive(Debug)]
pub struct Confined {
    folder: PathBuf,
    /// There is something confined, or something that will be.
    active: AtomicBool,
    /// The upstreams that are not everybody's.
    private: ArcSwap<BTreeSet<UpstreamName>>,
    /// Held by those who publish, while `private` must not change; alone by who changes it.
    steady: RwLock<()>,
    marks: RwLock<HashMap<Digest, Mark>>,
    /// Who changes a file has it: what was read from the marks is what is written, and the last to write knows the most.
    /// Taken before `marks`, and never while that is held, which every request takes.
    files: Mutex<()>,
    looked: Mutex<Instant>,
}

impl Confined {
    /// Blocks. What is confined in the cache folder of `store`.
    pub(in crate::cache) fn load(store: &Store) -> io::Result<Self> {
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
            let holders = fs::read_to_string(entry.path()).map(|text| parse(&text)).unwrap_or_default();
            // An import that broke off has left content, or a download in an earlier process nothing.
            let awaited = holders.is_empty();
            marks.insert(digest, Mark { holders, since, written: true, awaited });
        }
        let (active, private, steady) = (AtomicBool::new(!marks.is_empty()), ArcSwap::default(), RwLock::default());
        let (marks, files) = (RwLock::new(marks), Mutex::default());
        Ok(Self { folder, active, private, steady, marks, files, looked: Mutex::new(since) })
    }

    /// Blocks, while somebody publishes. Says which upstreams are not everybody's: whatever is published from now on of theirs
    /// is confined.
    pub fn set_private(&self, upstreams: impl IntoIterator<Item = UpstreamName>) {
        let upstreams: BTreeSet<_> = upstreams.into_iter().collect();
        let _alone = self.steady.write();
        if !upstreams.is_empty() {
            self.active.store(true, Ordering::Release);
        }
        self.private.store(Arc::new(upstreams));
    }

    /// The upstreams that are not everybody's.
    pub fn private(&self) -> Arc<BTreeSet<UpstreamName>> {
        self.private.load_full()
    }

    /// Blocks, while these upstreams are about to change. They do not before what is returned is dropped.
    pub fn steady(&self) -> RwLockReadGuard<'_, ()> {
        self.steady.read()
    }

    /// Whether anything can be confined at all: false for a mirror that has only public upstreams, and had no others.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// To which upstreams content is confined; `None`: it is everybody's.
    pub fn of(&self, digest: &Digest) -> Option<Holders> {
        if !self.is_active() {
            return None;
        }
        self.marks.read().get(digest).map(|mark| mark.holders.clone())
    }

    /// Whether an upstream is not everybody's.
    pub fn is_private(&self, upstream: &UpstreamName) -> bool {
        self.is_active() && self.private.load().contains(upstream)
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.file_name())
    }

    /// Content may be on its way: it is closed to all until an upstream has brought it whole, or says that it has it. Returns
    /// whether the file of its mark is still to be written: then the content must wait for that.
    pub(super) fn expect(&self, digest: Digest) -> bool {
        self.mark(digest, true, |_| ())
    }

    /// The download that [`Confined::expect`] was for has ended without it.
    pub(super) fn is_in_vain(&self, digest: &Digest) -> bool {
        self.is_active() && self.marks.read().get(digest).is_some_and(|mark| mark.awaited)
    }

    /// Blocks. Drops the mark of what did not come, if nobody else has said anything of it.
    pub(super) fn withdraw(&self, digest: &Digest) {
        {
            let mut marks = self.marks.write();
            if !marks.get(digest).is_some_and(|mark| mark.awaited) {
                return;
            }
            marks.remove(digest);
        }
        self.unwrite(digest);
    }

    /// Content that a bundle brings is marked in memory. Returns whether its file is still to be written: then the content must
    /// wait for that. What is confined to others stays theirs, since nobody has said that it is anybody else's. Content of which
    /// nobody knows yet whose it is becomes that of `upstreams`.
    pub(super) fn insert(&self, digest: Digest, upstreams: &[UpstreamName]) -> bool {
        self.mark(digest, false, |mark| {
            mark.awaited = false;
            if mark.holders.is_empty() {
                mark.add(upstreams);
            }
        })
    }

    /// Content that has come whole through `upstream` is its own, besides whose it was. Returns whether that is still to be
    /// written.
    pub(super) fn bring(&self, digest: Digest, upstream: &UpstreamName) -> bool {
        self.mark(digest, false, |mark| {
            mark.add(slice::from_ref(upstream));
        })
    }

    fn mark(&self, digest: Digest, awaited: bool, change: impl FnOnce(&mut Mark)) -> bool {
        let mut marks = self.marks.write();
        let mark = marks.entry(digest).or_insert_with(|| Mark::new(awaited));
        // The content is about to come, maybe again, so the next look must not drop its mark.
        mark.since = Instant::now();
        change(mark);
        self.active.store(true, Ordering::Release);
        !mark.written
    }

    /// Content that was everybody's is that of `upstreams` from now on. What is confined stays as it is: a manifest that names
    /// it is no proof of whose it is. Returns whether its file is still to be written.
    pub(super) fn confine(&self, digest: Digest, upstreams: &[UpstreamName]) -> bool {
        match self.marks.write().entry(digest) {
            Entry::Occupied(entry) => !entry.get().written,
            Entry::Vacant(entry) => {
                entry.insert(Mark::new(false)).add(upstreams);
                true
            }
        }
    }

    /// These upstreams have the content, too. Returns whether that is new, and still to be written. What is public stays so.
    pub(super) fn add(&self, digest: &Digest, upstreams: &[UpstreamName]) -> bool {
        let knows = |holders: &Holders| upstreams.iter().all(|upstream| holders.contains(upstream));
        if self.of(digest).is_none_or(|holders| knows(&holders)) {
            return false;
        }
        let mut marks = self.marks.write();
        marks.get_mut(digest).is_some_and(|mark| mark.add(upstreams))
    }

    fn replace(&self, store: &Store, path: &Path, text: &str) -> io::Result<()> {
        match store.replace(path, text.as_bytes(), false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(&self.folder)?;
                store.replace(path, text.as_bytes(), false)
            }
            other => other,
        }
    }

    /// Blocks. Writes down what the mark says by now, unless that is done.
    pub(super) fn write(&self, store: &Store, digest: &Digest) -> io::Result<()> {
        let _files = self.files.lock();
        let unwritten = {
            let marks = self.marks.read();
            marks.get(digest).filter(|mark| !mark.written).map(|mark| mark.holders.clone())
        };
        let Some(holders) = unwritten else { return Ok(()) };
        self.replace(store, &self.path(digest), &text(&holders))?;
        let mut marks = self.marks.write();
        // If an upstream was added in the meantime, the one that added it is waiting to write it.
        if let Some(mark) = marks.get_mut(digest).filter(|mark| mark.holders == holders) {
            mark.written = true;
        }
        Ok(())
    }

    /// Blocks. Content is everybody's from now on. After an error it is confined as before.
    pub(super) fn open(&self, digest: &Digest) -> io::Result<()> {
        let _files = self.files.lock();
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.marks.write().remove(digest);
        Ok(())
    }

    /// `upstream` has said that it has the content. Returns whether that opens it: not if the upstream has become private
    /// since it was asked. Then [`Confined::unwrite`] must follow.
    pub(super) fn release(&self, digest: &Digest, upstream: &UpstreamName) -> bool {
        // Looked at under the lock under which marks are made: what is confined because of the change is so after it.
        let mut marks = self.marks.write();
        !self.is_private(upstream) && marks.remove(digest).is_some()
    }

    /// Blocks. Removes the file of a mark that is gone, unless there is a new one.
    pub(super) fn unwrite(&self, digest: &Digest) {
        let _files = self.files.lock();
        if self.of(digest).is_none() {
            let _ = fs::remove_file(self.path(digest));
        }
    }

    /// Blocks. Forgets the marks of content that is not here by `is_here`, once it has had the time to come.
    pub(super) fn prune(&self, is_here: impl Fn(&Digest) -> bool) {
        {
            let mut looked = self.looked.lock();
            if looked.elapsed() < LOOK {
                return;
            }
            *looked = Instant::now();
        }
        self.forget(LOOK, is_here);
    }

    pub(super) fn forget(&self, age: Duration, is_here: impl Fn(&Digest) -> bool) {
        let old: Vec<Digest> = {
            let marks = self.marks.read();
            marks.iter().filter(|(_, mark)| mark.since.elapsed() >= age).map(|(digest, _)| *digest).collect()
        };
        for digest in old.into_iter().filter(|digest| !is_here(digest)) {
            let forgotten = {
                let mut marks = self.marks.write();
                let is_old = marks.get(&digest).is_some_and(|mark| mark.since.elapsed() >= age);
                is_old && marks.remove(&digest).is_some()
            };
            if forgotten {
                self.unwrite(&digest);
            }
        }
    }
}
