//! The reading half of a fill: follows the growing file from any offset.
//!
//! Reads what is announced and waits for what is not. A slow reader holds one chunk and its place in the cell, nothing
//! else (I7): the bytes wait for it in the file.

use std::any::Any;
use std::fs::File;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::extents::Extents;
use super::progress::{Place, Progress, Readable};
use super::{Fill, FillError, Source};
use crate::cache::read::Reader;
use crate::oci::{Digest, UpstreamName};

impl Fill {
    pub(super) fn new(digest: Digest, source: Source) -> Self {
        let (file, givers, over, kept) = Default::default();
        Self { digest, source, progress: Progress::new(), file, givers, over, kept }
    }

    /// The upstream has answered, and `file` will have the bytes. `written` is there already.
    pub(super) fn begin(&self, file: Arc<File>, total: Option<u64>, written: Extents) {
        // Set once: a fill begins once.
        let _ = self.file.set(Arc::new(file.into()));
        self.progress.begin(total, written);
    }

    /// The fill has ended: drops what was to be kept until then.
    pub(super) fn ended(&self) {
        let kept = self.kept.lock().take();
        drop(kept);
        self.over.send_replace(true);
    }
}

/// A place at a fill. Dropping it leaves the fill; the fill goes on.
#[derive(Debug)]
pub struct FillReader {
    fill: Arc<Fill>,
    place: Place,
    /// Made at the first read: before that there is no file.
    reader: Option<Reader>,
}

impl FillReader {
    pub(super) fn new(fill: Arc<Fill>) -> Self {
        let place = fill.progress.attach();
        Self { fill, place, reader: None }
    }

    /// Through which upstream the blob comes.
    pub fn upstream(&self) -> &UpstreamName {
        self.fill.source.upstream.name()
    }

    /// Whether that upstream has sent anything of it. Not if all of it was here when the fill began. Known once there is a
    /// [`FillReader::head`].
    pub fn is_given(&self) -> bool {
        self.fill.is_given()
    }

    /// Keeps a value until the fill ends. For the one who began it.
    pub fn keep(&self, kept: impl Any + Send) {
        *self.fill.kept.lock() = Some(Box::new(kept));
    }

    /// Whether a reader that joined this fill and got `error` should begin one from its own `source`: yes if that is another
    /// source, or if the fill was abandoned or failed over what an earlier one had left. Readers with the same source share the
    /// failure, as they would have shared the bytes.
    pub fn leaves_hope(&self, error: &FillError, source: &Source) -> bool {
        matches!(error, FillError::Abandoned | FillError::Leftover(_)) || (error.blames_source() && !self.fill.source.is(source))
    }

    /// Waits until the fill's task has ended, which is a moment after its last byte: then the cache has the blob, unless it
    /// could not keep it. Cancel-safe.
    pub async fn ended(&self) {
        // The sender is in the fill itself, and sends true at its end.
        let _ = self.fill.over.subscribe().wait_for(|over| *over).await;
    }

    /// Waits until the upstream has answered (I4): the size in bytes, if it told. Cancel-safe.
    pub async fn head(&self) -> Result<Option<u64>, FillError> {
        poll_fn(|cx| self.fill.progress.poll_head(&self.place, cx)).await
    }

    /// Waits until the size is certain, which without a word from upstream or manifest is at the end. Cancel-safe.
    pub async fn total(&self) -> Result<u64, FillError> {
        poll_fn(|cx| self.fill.progress.poll_total(&self.place, cx)).await
    }

    /// Waits until more than the first `at` bytes are here, and says how many; `None` at the end. Reads nothing.
    /// Cancel-safe.
    pub async fn beyond(&self, at: u64) -> Result<Option<u64>, FillError> {
        let readable = poll_fn(|cx| self.fill.progress.poll_beyond(at, &self.place, cx)).await?;
        Ok(match readable {
            Readable::Until(until) => Some(until),
            Readable::End => None,
        })
    }

    /// Waits until bytes from `at` on may be read: the file's reader, and how far. `None` where the content ends.
    ///
    /// A read that has begun may be finished, whatever becomes of the fill: what may be read once may be read for ever.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>, at: u64) -> Poll<Result<Option<(&mut Reader, u64)>, FillError>> {
        let until = match ready!(self.fill.progress.poll_beyond(at, &self.place, cx))? {
            Readable::Until(until) => until,
            Readable::End => return Poll::Ready(Ok(None)),
        };
        if self.reader.is_none() {
            self.reader = self.fill.file.get().map(|file| Reader::new(file.clone()));
        }
        Poll::Ready(Ok(self.reader.as_mut().map(|reader| (reader, until))))
    }
}

impl Drop for FillReader {
    fn drop(&mut self) {
        self.fill.progress.detach(&self.place);
    }
}
