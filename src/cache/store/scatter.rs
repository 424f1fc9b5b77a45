//! Files that are filled out of order: the bytes, and beside them a list of what is whole.
//!
//! A hole reads as zeros, and zeros must never count as content. So a fill of several parts keeps a list of the ranges
//! that it has written in a file of its own, `ingest/<algorithm>-<hex>.parts`, a line each, added after the bytes. What
//! is resumed is what the list says; without a list, a file has no holes. A list outlives its file for a moment at most,
//! and then [`super::Store::open`] sweeps it.
//!
//! Nothing is synced on the way, which would cost more than it saves: after a power cut the list may say more than the disk
//! has, and a hole be taken for content. The digest of the whole tells, and the blob is fetched anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::faults::Faults;

/// What follows a file's name in that of its list.
const SUFFIX: &str = ".parts";

/// Buffers that one system call writes: the kernel takes no more than 1024.
const VECTOR: usize = 256;

/// Writes anywhere into a file that is being filled. Every byte at most once; what is written is never written again.
#[derive(Debug)]
pub struct Scatter {
    path: PathBuf,
    file: Arc<File>,
    list: File,
    faults: Faults,
}

impl Scatter {
    /// Begins a list, or goes on with it. `here`: what the file has that may not be in the list yet.
    pub(super) fn open(path: &Path, file: Arc<File>, here: Range<u64>, faults: Faults) -> io::Result<Self> {
        let list = OpenOptions::new().append(true).create(true).open(list_of(path))?;
        let scatter = Self { path: path.to_owned(), file, list, faults };
        if !here.is_empty() {
            scatter.note(&here)?;
        }
        Ok(scatter)
    }

    /// Writes the chunks one after the other from `at` on. Blocks. After an error none of them counts.
    pub fn write(&self, at: u64, chunks: &[Bytes]) -> io::Result<()> {
        let length: usize = chunks.iter().map(Bytes::len).sum();
        let written = self.faults.check_write(length).map_err(|(_, error)| error);
        let written = written.and_then(|()| write_vectored(&self.file, at, chunks));
        written.and_then(|()| self.note(&(at..at + length as u64))).map_err(super::at::at("write", &self.path))
    }

    fn note(&self, range: &Range<u64>) -> io::Result<()> {
        // The sign shows where a line begins, should the one before it have been torn.
        let line = format!("+{} {}\n", range.start, range.end);
        (&self.list).write_all(line.as_bytes())
    }
}

/// Writes all of the chunks, as many as possible with one call.
pub(super) fn write_vectored(file: &File, mut at: u64, chunks: &[Bytes]) -> io::Result<()> {
    for chunks in chunks.chunks(VECTOR) {
        let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
        let mut slices = &mut slices[..];
        while slices.iter().any(|slice| !slice.is_empty()) {
            match rustix::io::pwritev(file, slices, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn list_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

/// The name of the file whose list `name` is.
pub(super) fn listed(name: &str) -> Option<&str> {
    name.strip_suffix(SUFFIX)
}

/// What the file at `path`, of `size` bytes, has by its list: sorted, apart from each other. `None`: there is no list,
/// and the file no hole.
pub(super) fn read(path: &Path, size: u64) -> io::Result<Option<Vec<Range<u64>>>> {
    let text = match fs::read(list_of(path)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&text);
    // A line without its end was torn.
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.strip_prefix('+'));
    let ranges = lines.filter_map(|line| {
        let (start, end) = line.split_once(' ')?;
        Some(start.parse().ok()?..end.parse().ok()?)
    });
    let mut ranges: Vec<Range<u64>> = ranges.filter(|range: &Range<u64>| range.start < range.end && range.end <= size).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut whole: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match whole.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => whole.push(range),
        }
    }
    Ok(Some(whole))
}

/// Unlinks the list of the file at `path`, which is gone or has no hole any more.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    super::remove(&list_of(path))
}
