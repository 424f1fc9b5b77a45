//! What the readers of an open file have found of it in the page cache.
//!
//! A piece of a file that is sent without a copy has to be in memory, or the reactor waits for the disk (I11); to find
//! that out for a MiB takes nine system calls. Of a piece that was whole in memory a moment ago, one is enough: memory
//! that runs short loses first what was used first, and a piece is used from its front. Used by [`super::read`].

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::runtime::Handle;

/// Bytes that are remembered together.
const PIECE: u64 = 1 << 20;

/// Pieces remembered for one file, 2 KiB of memory. A larger file's share the places.
const PLACES: usize = 256;

/// How long a piece is remembered, in milliseconds.
const MOMENT: u64 = 1000;

/// How far apart pages are looked for: what the kernel reads ahead comes in pieces of this size at least.
const STEP: u64 = 128 << 10;

/// 21 bits; a piece's whole length is one of what they can say.
const MASK: u64 = (1 << 21) - 1;

/// An open file. Shared by all who read it.
#[derive(Debug)]
pub struct OpenFile {
    file: Arc<File>,
    opened: Instant,
    /// Each with a piece's number (22 bits), how much of it from its front on (21), and when (21, in milliseconds). A
    /// time that comes around is no harm: the one look that is left would find out.
    places: Box<[AtomicU64; PLACES]>,
}

impl From<Arc<File>> for OpenFile {
    fn from(file: Arc<File>) -> Self {
        Self { file, opened: Instant::now(), places: Box::new([const { AtomicU64::new(0) }; PLACES]) }
    }
}

impl OpenFile {
    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Whether the bytes of `range` are in memory, by looking at as few of them as will do.
    pub fn is_warm(&self, range: Range<u64>, look: impl Fn(u64) -> bool) -> bool {
        let now = self.opened.elapsed().as_millis() as u64;
        let numbers = range.start / PIECE..range.end.div_ceil(PIECE);
        numbers.into_iter().all(|number| {
            let (front, back) = (number * PIECE, (number + 1) * PIECE);
            let (start, end) = (range.start.max(front), range.end.min(back));
            let warm = match self.was_warm(number, end - front, now) {
                true => look(start),
                false => (start..end).step_by(STEP as usize).chain([end - 1]).all(&look),
            };
            if warm && start == front {
                self.note(number, end - front, now);
            }
            warm
        })
    }

    fn place(&self, number: u64) -> &AtomicU64 {
        &self.places[number as usize % PLACES]
    }

    /// Whether the first `length` bytes of a piece were in memory a moment ago.
    fn was_warm(&self, number: u64, length: u64, now: u64) -> bool {
        let noted = self.place(number).load(Ordering::Relaxed);
        let (known, until, when) = (noted >> 42, noted >> 21 & MASK, noted & MASK);
        until >= length && known == number & (MASK << 1 | 1) && (now.wrapping_sub(when) & MASK) < MOMENT
    }

    fn note(&self, number: u64, length: u64, now: u64) {
        self.place(number).store(number << 42 | length << 21 | now & MASK, Ordering::Relaxed);
    }
}

/// The last one to close a file that was evicted frees its blocks, which takes a file system up to a second for a large one:
/// not on a thread that serves others (I11).
impl Drop for OpenFile {
    fn drop(&mut self) {
        let is_last = Arc::strong_count(&self.file) == 1;
        let is_unlinked = || self.file.metadata().is_ok_and(|meta| meta.nlink() == 0);
        if is_last
            && let Ok(runtime) = Handle::try_current()
            && is_unlinked()
            && let Ok(last) = self.file.try_clone()
        {
            runtime.spawn_blocking(move || drop(last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn looks(file: &OpenFile, range: Range<u64>, cold: Option<u64>) -> (bool, Vec<u64>) {
        let looked = RefCell::new(Vec::new());
        let warm = file.is_warm(range, |at| {
            looked.borrow_mut().push(at);
            Some(at) != cold
        });
        (warm, looked.into_inner())
    }

    fn file() -> OpenFile {
        Arc::new(tempfile::tempfile().unwrap()).into()
    }

    /// With the blocking pool busy, what was evicted and is read by nobody any more stays open until that has time.
    #[test]
    fn the_last_one_closes_elsewhere() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let (name, open) = (file.path().display().to_string(), OpenFile::from(Arc::new(File::open(file.path()).unwrap())));
        drop(file);
        let is_open = || {
            let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
            links.into_iter().any(|link| link.display().to_string().starts_with(&name))
        };
        let (go, gate) = std::sync::mpsc::channel::<()>();
        runtime.block_on(async {
            let busy = tokio::task::spawn_blocking(move || gate.recv());
            drop(open);
            assert!(is_open());
            go.send(()).unwrap();
            busy.await.unwrap().unwrap();
            tokio::task::spawn_blocking(|| {}).await.unwrap();
        });
        assert!(!is_open());
    }

    #[test]
    fn what_was_found_a_moment_ago_is_looked_at_once() {
        let file = file();
        let (range, tail) = (PIECE..3 * PIECE, 3 * PIECE + 5);
        let (warm, looked) = looks(&file, range.clone(), None);
        assert!(warm && looked.len() == 18 && looked[..2] == [PIECE, PIECE + STEP], "{looked:?}");
        assert_eq!(looks(&file, range, None), (true, vec![PIECE, 2 * PIECE]));
        assert_eq!(looks(&file, 2 * PIECE..tail, None), (true, vec![2 * PIECE, 3 * PIECE, tail - 1]));
        assert_eq!(looks(&file, 2 * PIECE..tail, None), (true, vec![2 * PIECE, 3 * PIECE]), "also the end of a file");
        // A part of what is known, and more than that.
        assert_eq!(looks(&file, PIECE + 7..PIECE + 9, None), (true, vec![PIECE + 7]));
        assert_eq!(looks(&file, 3 * PIECE..tail + 1, None), (true, vec![3 * PIECE, tail]));
    }

    #[test]
    fn what_is_cold_is_not_remembered() {
        let file = file();
        assert!(!looks(&file, 0..PIECE, Some(4 * STEP)).0);
        assert!(!looks(&file, 0..PIECE, Some(PIECE - 1)).0);
        assert!(looks(&file, 0..PIECE, None).0);
        assert!(!looks(&file, 0..PIECE, Some(0)).0, "lost since then, from its front on");
        // Of a piece whose front nobody has looked at nothing is known.
        assert_eq!(looks(&file, PIECE + 1..2 * PIECE, None).1.len(), 9);
        assert_eq!(looks(&file, PIECE..2 * PIECE, None).1.len(), 9);
    }

    #[test]
    fn a_moment_passes_and_places_are_shared() {
        let file = file();
        file.note(3, PIECE, 100);
        assert!(file.was_warm(3, PIECE, 100 + MOMENT - 1) && !file.was_warm(3, PIECE, 100 + MOMENT));
        assert!(!file.was_warm(3 + PLACES as u64, PIECE, 100));
        file.note(3 + PLACES as u64, PIECE, MASK);
        assert!(!file.was_warm(3, PIECE, 100) && file.was_warm(3 + PLACES as u64, PIECE, MASK + 5));
    }
}
