//! Reading files without blocking the reactor (I11).
//!
//! A [`Reader`] first asks for what the page cache has (`preadv2` with `RWF_NOWAIT`), which costs no thread; only what
//! has to wait for the disk goes to the blocking pool, in larger pieces. Buffers are initialised once and reused.
//! Used by the bodies of `pull`, for published files and for files that are still growing.

use std::fs::File;
use std::future::Future as _;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::task::{JoinHandle, spawn_blocking};

use super::pages::OpenFile;
use super::verify::Alarm;

/// One read: large enough that system calls do not count, small enough to stay in the CPU's cache.
pub const CHUNK: usize = 256 << 10;

/// Buffers kept for reuse; beyond that they are freed. Bounds idle memory at 16 MiB.
const POOLED: usize = 64;

static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Set once the kernel or the file system turns out not to know `RWF_NOWAIT` (gVisor, some FUSE): then every read
/// goes to the blocking pool.
static NO_NOWAIT: AtomicBool = AtomicBool::new(false);

/// A buffer of [`CHUNK`] initialised bytes that returns to the pool when the last `Bytes` over it is dropped.
struct Buffer {
    bytes: Vec<u8>,
    len: usize,
}

impl Buffer {
    fn take() -> Self {
        let pooled = POOL.lock().pop();
        Self { bytes: pooled.unwrap_or_else(|| vec![0; CHUNK]), len: 0 }
    }

    fn filled(mut self, len: usize) -> Bytes {
        self.len = len;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut pool = POOL.lock();
        if pool.len() < POOLED {
            pool.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Blocks. A whole small file.
pub fn whole(file: &File, size: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes.into())
}

/// Reads pieces of one file. Cancel-safe: dropping it forgets a read that is under way.
#[derive(Debug)]
pub struct Reader {
    file: Arc<OpenFile>,
    /// A read under way, and the offset it is for: what comes of it is never taken for another one's.
    waiting: Option<(u64, JoinHandle<io::Result<Bytes>>)>,
    warming: Option<(u64, JoinHandle<io::Result<()>>)>,
    alarm: Option<Alarm>,
}

impl Reader {
    /// A reader of `file`, which must not shrink.
    pub fn new(file: Arc<OpenFile>) -> Self {
        Self { file, waiting: None, warming: None, alarm: None }
    }

    /// Rings when the file cannot be read, or is shorter than the caller knows.
    pub fn with_alarm(self, alarm: Alarm) -> Self {
        Self { alarm: Some(alarm), ..self }
    }

    /// The file.
    pub fn file(&self) -> &Arc<OpenFile> {
        &self.file
    }

    /// At least one byte from `at` on, at most up to `end` and [`CHUNK`]. The caller knows that bytes up to `end` are
    /// there: an end of file before it is an error. Called again with another `at` while it is pending, it begins anew.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, at: u64, end: u64) -> Poll<io::Result<Bytes>> {
        debug_assert!(at < end);
        if self.waiting.as_ref().is_none_or(|(from, _)| *from != at) {
            let want = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
            let fault = self.alarm.as_ref().map_or(Ok(()), Alarm::fault);
            if let Some(bytes) = self.report(fault.and_then(|()| self.read_now(at, want)))? {
                return Poll::Ready(Ok(bytes));
            }
            let file = self.file().clone();
            let job = spawn_blocking(move || {
                let mut buffer = Buffer::take();
                match file.file().read_at(&mut buffer.bytes[..want], at)? {
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    len => Ok(buffer.filled(len)),
                }
            });
            self.waiting = Some((at, job));
        }
        let Some((_, job)) = &mut self.waiting else { return Poll::Pending };
        let read = ready!(Pin::new(job).poll(cx));
        self.waiting = None;
        Poll::Ready(self.report(read.map_err(io::Error::other)?))
    }

    fn report<T>(&self, read: io::Result<T>) -> io::Result<T> {
        if let (Err(_), Some(alarm)) = (&read, &self.alarm) {
            alarm.ring();
        }
        read
    }

    /// Waits until the bytes from `at` to `end` are in the page cache, as far as probes can tell. Called
    /// again with another `at` while it is pending, it begins anew.
    pub fn poll_warm(&mut self, cx: &mut Context<'_>, at: u64, end: u64) -> Poll<io::Result<()>> {
        debug_assert!(at < end);
        if self.warming.as_ref().is_none_or(|(from, _)| *from != at) {
            if self.file.is_warm(at..end, |at| self.has(at)) {
                return Poll::Ready(Ok(()));
            }
            let file = self.file().clone();
            let job = spawn_blocking(move || {
                let (mut at, mut buffer) = (at, Buffer::take());
                while at < end {
                    let want = (end - at).min(CHUNK as u64) as usize;
                    match file.file().read_at(&mut buffer.bytes[..want], at)? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        read => at += read as u64,
                    }
                }
                Ok(())
            });
            self.warming = Some((at, job));
        }
        let Some((_, job)) = &mut self.warming else { return Poll::Pending };
        let warmed = ready!(Pin::new(job).poll(cx));
        self.warming = None;
        Poll::Ready(self.report(warmed.map_err(io::Error::other)?))
    }

    /// Whether the page cache has this byte.
    fn has(&self, at: u64) -> bool {
        let mut byte = [0];
        !NO_NOWAIT.load(Ordering::Relaxed)
            && rustix::io::preadv2(self.file.file(), &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT) == Ok(1)
    }

    /// What the page cache has of the range. A short read says nothing about the end of the file (kernels 5.9 and
    /// 5.10 return them at random), so zero bytes mean "ask the slow way".
    fn read_now(&self, at: u64, want: usize) -> io::Result<Option<Bytes>> {
        if NO_NOWAIT.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut buffer = Buffer::take();
        let target = &mut [IoSliceMut::new(&mut buffer.bytes[..want])];
        match rustix::io::preadv2(self.file.file(), target, at, ReadWriteFlags::NOWAIT) {
            Ok(0) | Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Ok(len) => Ok(Some(buffer.filled(len))),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                NO_NOWAIT.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::io::Write as _;

    async fn read_all(file: &File, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let mut reader = Reader::new(Arc::new(OpenFile::from(Arc::new(file.try_clone()?))));
        let mut all = Vec::new();
        while start + (all.len() as u64) < end {
            all.extend_from_slice(&poll_fn(|cx| reader.poll_read(cx, start + all.len() as u64, end)).await?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn any_range_of_a_file() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..(3 * CHUNK + 17)).map(|n| (n % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        for (start, end) in [(0, bytes.len()), (1, 2), (CHUNK - 1, CHUNK + 1), (2 * CHUNK, bytes.len())] {
            assert!(read_all(&file, start as u64, end as u64).await.unwrap() == bytes[start..end], "{start}..{end}");
        }
    }

    #[tokio::test]
    async fn a_file_shorter_than_promised_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"short").unwrap();
        assert_eq!(read_all(&file, 0, 6).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
