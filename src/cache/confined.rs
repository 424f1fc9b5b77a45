//! Content that came through private upstreams, and whose it is. An upstream is private unless it is open to everybody.
//!
//! Content lies under its digest, whoever it came from, and a digest is no secret. So before content comes through a
//! private upstream, it is confined to that upstream: a small file, `private/<algorithm>-<hex>`, names the upstream. Another
//! private upstream that says that it has the content is added, one name a line. A public one that says so removes the
//! file. The file is empty for what a bundle brings until it is known which of its images needs it: then the content is
//! nobody's. All marks are also in memory. A mirror of public registries has none, and pays one look at a flag. Who may see
//! confined content is not decided here. Called by `pull`, `fill` and `transfer`.
//!
//! An upstream may become private while its content is on its way. What is published later is confined all the same:
//! whoever publishes looks once more whose it is, and no upstream becomes private between that look and the publishing
//! ([`Confined::steady`]). What was published earlier is confined by what the catalog knows, once the change is made
//! ([`Cache::confine_known`]). Whoever tells the catalog of a manifest that was on its way during the change has that done
//! again ([`Cache::confine_since`]).

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, slice};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::task::spawn_blocking;

use super::Cache;
use super::store::Store;
use crate::oci::{Digest, UpstreamName};

/// How often, and for how long after it was confined at the least, it is looked whether content is still here.
const LOOK: Duration = Duration::from_secs(3600);

/// The upstreams that content is confined to, in order. None: it is not known yet, or the file does not say it any more. Then
/// it is nobody's. Cheap to clone.
pub type Holders = Arc<[UpstreamName]>;

#[derive(Clone, Debug)]
struct Mark {
    holders: Holders,
    since: Instant,
    /// The file says the same, so that the next process knows, too.
    written: bool,
}

impl Mark {
    /// Whether it says something new.
    fn add(&mut self, upstreams: &[UpstreamName]) -> bool {
        if upstreams.iter().all(|upstream| self.holders.contains(upstream)) {
            return false;
        }
        let all: BTreeSet<_> = self.holders.iter().chain(upstreams).cloned().collect();
        (self.holders, self.written) = (all.into_iter().collect(), false);
        true
    }
}

/// What the file of a mark says: one name a line.
pub(super) fn parse(text: &str) -> Holders {
    let names: BTreeSet<UpstreamName> = text.lines().filter_map(|name| name.trim().parse().ok()).collect();
    names.into_iter().collect()
}

fn text(holders: &Holders) -> String {
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
            let holders = fs::read_to_string(entry.path()).map(|text| parse(&text)).unwrap_or_default();
            marks.insert(digest, Mark { holders, since, written: true });
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

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.file_name())
    }

    /// Marks content in memory. Returns whether its file is still to be written: then the content must wait for that.
    /// Content that is confined to others stays theirs, since nobody has said that it is anybody else's. Content of which
    /// nobody knows yet whose it is becomes that of `upstreams`.
    fn insert(&self, digest: Digest, upstreams: &[UpstreamName]) -> bool {
        let mut marks = self.marks.write();
        let since = Instant::now();
        let mark = marks.entry(digest).or_insert_with(|| Mark { holders: Holders::default(), since, written: false });
        // The content is about to come again, so the next look must not drop its mark.
        mark.since = since;
        if mark.holders.is_empty() {
            mark.add(upstreams);
        }
        self.active.store(true, Ordering::Release);
        !mark.written
    }

    /// These upstreams have the content, too. Returns whether that is new, and still to be written. What is public stays so.
    fn add(&self, digest: &Digest, upstreams: &[UpstreamName]) -> bool {
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
                fs::create_dir_all(&self.folder)?;
                store.replace(path, text.as_bytes(), false)
            }
            other => other,
        }
    }

    /// Blocks. Writes down what the mark says by now, unless that is done.
    fn write(&self, store: &Store, digest: &Digest) -> io::Result<()> {
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

    /// Blocks. Removes the file of a mark that is gone, unless there is a new one.
    fn unwrite(&self, digest: &Digest) {
        let _files = self.files.lock();
        if self.of(digest).is_none() {
            let _ = fs::remove_file(self.path(digest));
        }
    }

    /// Blocks. Forgets the marks of content that is not here by `is_here`, once it has had the time to come.
    fn prune(&self, is_here: impl Fn(&Digest) -> bool) {
        {
            let mut looked = self.looked.lock();
            if looked.elapsed() < LOOK {
                return;
            }
            *looked = Instant::now();
        }
        self.forget(LOOK, is_here);
    }

    fn forget(&self, age: Duration, is_here: impl Fn(&Digest) -> bool) {
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

impl Cache {
    /// Confines content to an upstream, before it comes through it. What is cached already keeps its mark, or its lack of
    /// one. After an error the caller must not keep the content. Cancel-safe.
    pub async fn confine(self: &Arc<Self>, digest: &Digest, upstream: &UpstreamName) -> io::Result<()> {
        if !self.mark(digest, slice::from_ref(upstream)) {
            return Ok(());
        }
        self.write_mark(digest).await
    }

    /// Blocks. Content that came through `upstream` is about to be published: it is confined, if that has become private since
    /// it was asked for. That is so until what is returned is dropped, which is when it can be found. After an error it must not
    /// be published.
    pub(super) fn confine_for_good(&self, digest: &Digest, upstream: &UpstreamName) -> io::Result<RwLockReadGuard<'_, ()>> {
        let steady = self.confined.steady();
        if self.confined.is_private(upstream) {
            self.confine_brought(digest, Some(upstream))?;
        }
        Ok(steady)
    }

    /// Content is on its way through `upstream`, which somebody else has asked for it: it is confined, if that upstream has
    /// become private since. After an error the caller must not join in. Cancel-safe.
    pub async fn confine_underway(self: &Arc<Self>, digest: &Digest, upstream: &UpstreamName) -> io::Result<()> {
        match self.confined.is_private(upstream) {
            true => self.confine(digest, upstream).await,
            false => Ok(()),
        }
    }

    /// Another upstream that is not everybody's has the content, too, by its own word. What is everybody's stays so. After an
    /// error that is in memory alone. Cancel-safe.
    pub async fn admit(self: &Arc<Self>, digest: &Digest, upstream: &UpstreamName) -> io::Result<()> {
        if !self.confined.add(digest, slice::from_ref(upstream)) {
            return Ok(());
        }
        self.write_mark(digest).await
    }

    async fn write_mark(self: &Arc<Self>, digest: &Digest) -> io::Result<()> {
        let (this, digest) = (self.clone(), *digest);
        spawn_blocking(move || this.confined.write(&this.store, &digest)).await.map_err(io::Error::other)?
    }

    /// Blocks. As [`Cache::confine`], of a bundle's content. `None`: whose it is is not known yet, and [`Cache::settle`] says
    /// it.
    pub fn confine_brought(&self, digest: &Digest, upstream: Option<&UpstreamName>) -> io::Result<()> {
        if !self.mark(digest, upstream.map_or(&[], slice::from_ref)) {
            return Ok(());
        }
        self.confined.write(&self.store, digest)
    }

    /// Marks what is not here. Whether that must be written down before it comes.
    fn mark(&self, digest: &Digest, upstreams: &[UpstreamName]) -> bool {
        let here = self.index.contains(digest) || self.memory.get(digest).is_some();
        !here && self.confined.insert(*digest, upstreams)
    }

    /// Blocks. Says whose content is that images of a bundle need: these private upstreams', besides whose it was; or
    /// everybody's (`None`), whosever it was.
    pub fn settle(&self, digest: &Digest, upstreams: Option<&[UpstreamName]>) -> io::Result<()> {
        if self.confined.of(digest).is_none() {
            return Ok(());
        }
        match upstreams {
            Some(upstreams) => {
                self.confined.add(digest, upstreams);
                self.confined.write(&self.store, digest)
            }
            None => {
                let _files = self.confined.files.lock();
                match fs::remove_file(self.confined.path(digest)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                self.confined.marks.write().remove(digest);
                Ok(())
            }
        }
    }

    /// An upstream that is everybody's has the content, too. One that has become private since it was asked opens nothing.
    pub async fn release(self: &Arc<Self>, digest: &Digest, upstream: &UpstreamName) {
        if self.confined.of(digest).is_none() {
            return;
        }
        let removed = {
            // Looked at where marks are made: what is confined because of the change is so after it.
            let mut marks = self.confined.marks.write();
            !self.confined.is_private(upstream) && marks.remove(digest).is_some()
        };
        if removed {
            let (this, digest) = (self.clone(), *digest);
            // If that fails the upstream is asked once more, in the next process's time.
            let _ = spawn_blocking(move || this.confined.unwrite(&digest)).await;
        }
    }

    /// Blocks. Confines what only repositories of upstreams that are not everybody's refer to, of a cache from before they were
    /// that. What others refer to as well was everybody's, and stays so.
    pub fn confine_known(&self) {
        let confined = &self.confined;
        if !confined.is_active() {
            return;
        }
        let private = confined.private();
        for (scope, digest) in self.catalog.unread(|upstream| private.contains(upstream)) {
            // One that cannot be read is looked for again the next time.
            let _ = self.survey_manifest(&scope, &digest, None);
        }
        let (mut failed, mut new) = (None, 0);
        for (digest, upstreams) in self.catalog.confined(|upstream| private.contains(upstream)) {
            // A manifest that names what is nobody's is no proof of whose it is; nor that what is another's is this one's, too.
            let is_nobodys = confined.of(&digest).is_some_and(|holders| holders.is_empty());
            if !is_nobodys && confined.insert(digest, &upstreams) {
                new += 1;
                failed = confined.write(&self.store, &digest).err().or(failed);
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

    /// What has been said to the catalog may have come too late for [`Cache::confine_known`]: if other upstreams are private than
    /// these, that is done again. `before`: those that were when the manifest was asked for.
    pub async fn confine_since(self: &Arc<Self>, before: &BTreeSet<UpstreamName>) {
        if *self.confined.private() != *before {
            let this = self.clone();
            let _ = spawn_blocking(move || this.confine_known()).await;
        }
    }

    /// Blocks. Forgets to whom content belonged that is no longer here.
    pub(super) fn prune_confined(&self) {
        // A file that the index does not know may be taken in yet.
        let is_here = |digest: &Digest| !matches!(self.store.find(digest), Ok(None));
        self.confined.prune(|digest| self.index.contains(digest) || self.store.has_ingest(digest) || is_here(digest));
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
        let names = slice::from_ref(&name);
        assert!(confined.insert(a, names) && confined.insert(a, names), "until it is written down");
        confined.write(&store, &a).unwrap();
        assert!(!confined.insert(a, names) && confined.insert(b, names));
        confined.write(&store, &b).unwrap();
        fs::write(confined.path(&b), b"").unwrap();

        let confined = Confined::load(&store).unwrap();
        assert!(confined.is_active());
        assert_eq!((confined.of(&a), confined.of(&b)), (Some([name].into()), Some(Holders::default())));
        assert_eq!(confined.of(&Digest::of(Algorithm::Sha256, b"c")), None);
    }

    #[test]
    fn a_file_has_one_name_a_line() {
        let (a, b): (UpstreamName, UpstreamName) = ("a.example".parse().unwrap(), "b.example:5000".parse().unwrap());
        for (written, holders) in [
            ("a.example", Holders::from([a.clone()])),
            ("a.example\n", Holders::from([a.clone()])),
            ("b.example:5000\na.example", Holders::from([a.clone(), b.clone()])),
            ("", Holders::default()),
            ("no name\n\0\0", Holders::default()),
        ] {
            assert_eq!(parse(written), holders, "{written:?}");
            assert_eq!(parse(&text(&holders)), holders);
        }
        assert_eq!(text(&[a.clone()].into()), "a.example", "as it was when there could be one name only");
        assert_eq!(text(&[a, b].into()), "a.example\nb.example:5000");
    }

    /// That something may come through an upstream adds it to nothing; its word does.
    #[test]
    fn upstreams_that_add_themselves_at_one_moment_are_all_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let names: Vec<UpstreamName> = (0..8).map(|n| format!("u{n}.example").parse().unwrap()).collect();
        let confined = Confined::load(&store).unwrap();
        for round in 0..50_u8 {
            let digest = Digest::of(Algorithm::Sha256, &[round]);
            assert!(!confined.add(&digest, &names), "it is everybody's");
            confined.insert(digest, &names[..1]);
            confined.write(&store, &digest).unwrap();
            assert!(!confined.insert(digest, &names[1..2]) && confined.of(&digest) == Some(names[..1].into()));
            let start = std::sync::Barrier::new(names.len() - 1);
            std::thread::scope(|threads| {
                for name in &names[1..] {
                    threads.spawn(|| {
                        start.wait();
                        assert!(confined.add(&digest, slice::from_ref(name)));
                        confined.write(&store, &digest).unwrap();
                    });
                }
            });
            assert!(!confined.add(&digest, &names));
            assert_eq!(Confined::load(&store).unwrap().of(&digest).as_deref(), Some(&*names), "round {round}");
        }
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
        assert_eq!(Confined::load(&cache.store).unwrap().of(&digest), Some([name].into()));
    }

    /// A cache, and the upstream that becomes private.
    fn cache(folder: &Path) -> (Arc<Cache>, UpstreamName) {
        let min_free = crate::config::Amount::Bytes(0);
        let config = crate::config::Cache { dir: folder.join("cache"), min_free, ..crate::config::Cache::default() };
        (Cache::open(&config, Arc::default()).unwrap(), "private.example".parse().unwrap())
    }

    /// Whatever the order in which both come: what cannot be found yet when an upstream has become private is confined when it
    /// can.
    #[tokio::test]
    async fn what_is_published_after_its_upstream_became_private_is_confined() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, name) = cache(folder.path());
        for round in 0..200_u8 {
            cache.confined.set_private([]);
            let (content, start) = (vec![round; 100], std::sync::Barrier::new(2));
            let digest = Digest::of(Algorithm::Sha256, &content);
            let reservation = cache.make_room(100, 0).unwrap();
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    let mut ingest = cache.store.ingest_whole(&digest).unwrap();
                    ingest.append(&[content.into()]).unwrap();
                    let verified = ingest.verify().unwrap();
                    start.wait();
                    cache.publish_from(&name, verified, reservation).unwrap();
                });
                start.wait();
                cache.confined.set_private([name.clone()]);
                let was_here = cache.index.contains(&digest);
                while !cache.index.contains(&digest) {
                    std::thread::yield_now();
                }
                let confined = cache.confined.of(&digest).is_some();
                assert!(was_here || confined, "round {round}");
            });
        }
    }

    #[tokio::test]
    async fn a_manifest_that_comes_after_its_upstream_became_private_is_confined() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, name) = cache(folder.path());
        tokio::spawn(cache.clone().maintain());
        let digest = |content: &'static [u8]| (Digest::of(Algorithm::Sha256, content), bytes::Bytes::from_static(content));
        let ((before, first), (after, second)) = (digest(b"before"), digest(b"after"));
        cache.put_from(name.clone(), before, first).await.unwrap();
        cache.confined.set_private([name.clone()]);
        cache.put_from(name.clone(), after, second).await.unwrap();
        assert_eq!((cache.confined.of(&before), cache.confined.of(&after)), (None, Some([name].into())));
    }

    #[tokio::test]
    async fn a_late_word_of_an_upstream_that_became_private_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, name) = cache(folder.path());
        let (digest, public) = (Digest::of(Algorithm::Sha256, b"a"), "public.example".parse().unwrap());
        cache.confine(&digest, &name).await.unwrap();
        cache.confined.set_private([name.clone()]);
        cache.release(&digest, &name).await;
        assert!(cache.confined.of(&digest).is_some());
        cache.release(&digest, &public).await;
        assert!(cache.confined.of(&digest).is_none());
    }

    #[test]
    fn what_is_gone_is_forgotten_unless_it_is_about_to_come() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (here, gone) = (Digest::of(Algorithm::Sha256, b"here"), Digest::of(Algorithm::Sha256, b"gone"));
        let name: UpstreamName = "private.example".parse().unwrap();
        let confined = Confined::load(&store).unwrap();
        for digest in [here, gone] {
            confined.insert(digest, slice::from_ref(&name));
            confined.write(&store, &digest).unwrap();
        }
        confined.forget(LOOK, |_| false);
        assert!(confined.of(&gone).is_some(), "too young");
        confined.forget(Duration::ZERO, |digest| *digest == here);
        assert_eq!((confined.of(&here).is_some(), confined.of(&gone).is_some()), (true, false));
        assert!(confined.path(&here).exists() && !confined.path(&gone).exists());
    }
}
