//! The body of an answer: bytes from memory, from a file, from a growing fill, or passed through from the upstream.
//!
//! One body is a list of segments over one source, so that a whole blob, a range and a multipart answer are the same
//! thing. An error ends the connection short, never the body cleanly (I4): hyper closes a connection whose body fails, and
//! the client has a length or chunks to see it by. HTTP/1.0 has no chunks, so that no [`Segment::Rest`] goes there.
//! Knows nothing of sockets: to one that can send files by itself it gives [`Span`]s of them, to others bytes.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::cache::Content;
use crate::cache::pages::OpenFile;
use crate::cache::read::Reader;
use crate::fill::{FillError, FillReader};

/// Why a body could not be sent to its end. The client sees a connection that is closed short.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BodyError {
    /// The fill behind it failed.
    #[error(transparent)]
    Fill(#[from] FillError),
    /// A cached file could not be read.
    #[error("a cached file could not be read: {0}")]
    Read(Arc<io::Error>),
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        Self::Read(Arc::new(error))
    }
}

/// Where the bytes come from.
#[derive(Debug)]
pub enum Source {
    /// Nowhere: the segments hold them.
    None,
    /// Memory.
    Memory(Bytes),
    /// A published file.
    File(Reader),
    /// A fill.
    Fill(FillReader),
    /// The upstream itself, in order: for what the cache cannot take.
    Relay(mpsc::Receiver<Result<Bytes, FillError>>),
}

impl From<Content> for Source {
    fn from(content: Content) -> Self {
        match content {
            Content::Memory(bytes) => Self::Memory(bytes),
            Content::File(file) => Self::File(Reader::new(file)),
        }
    }
}

/// A piece of a body.
#[derive(Debug)]
pub enum Segment {
    /// These bytes: a multipart head, a JSON document.
    Literal(Bytes),
    /// These bytes of the source.
    Span(Range<u64>),
    /// The source to its end, wherever that is.
    Rest,
}

/// A piece of a body on its way to the client. Never empty.
#[derive(Debug)]
pub enum Piece {
    /// Bytes.
    Bytes(Bytes),
    /// A piece of a file, for a socket that can send it by itself.
    Span(Span),
}

impl Piece {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Span(span) => span.len(),
        }
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// At least one and at most [`Span::LONGEST`] bytes of a file, which were in the page cache a moment ago.
#[derive(Debug)]
pub struct Span {
    file: Arc<OpenFile>,
    start: u64,
    len: usize,
}

impl Span {
    /// Bounds what one system call sends, and so for how long it can hold up the reactor.
    const MAX: u64 = 1 << 20;

    /// What would be left over and too little to be sent by itself goes with the last span.
    pub const LONGEST: u64 = Self::MAX + Self::MIN;

    /// Below this a copy is as cheap as a file's bookkeeping.
    const MIN: u64 = 64 << 10;

    /// The file.
    pub fn file(&self) -> &File {
        self.file.file()
    }

    /// Where in the file it begins.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true of a span that was not advanced to its end.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes `sent` bytes off its front; whether that was all.
    pub fn advance(&mut self, sent: usize) -> bool {
        debug_assert!(sent <= self.len);
        self.start += sent as u64;
        self.len -= sent;
        self.len == 0
    }
}

/// A response body.
#[derive(Debug)]
pub struct Body {
    source: Source,
    segments: VecDeque<Segment>,
    /// How far into a [`Segment::Rest`].
    at: u64,
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self::new(Source::None, [])
    }

    /// These bytes.
    pub fn full(bytes: Bytes) -> Self {
        Self::new(Source::None, [Segment::Literal(bytes)])
    }

    /// The segments in order.
    pub fn new(source: Source, segments: impl IntoIterator<Item = Segment>) -> Self {
        Self { source, segments: segments.into_iter().collect(), at: 0 }
    }

    /// Bytes that are still to be sent; `None` where that shows only at the end.
    pub fn remaining(&self) -> Option<u64> {
        self.segments.iter().try_fold(0, |sum, segment| match segment {
            Segment::Literal(bytes) => Some(sum + bytes.len() as u64),
            Segment::Span(range) => Some(sum + (range.end - range.start)),
            Segment::Rest => None,
        })
    }

    /// The next bytes of the source from `at` on, none beyond `end`; `None` where it ends.
    fn poll_source(&mut self, cx: &mut Context<'_>, at: u64, end: u64, spans: bool) -> Poll<Result<Option<Piece>, BodyError>> {
        let spans = spans && end - at >= Span::MIN;
        let read = match &mut self.source {
            Source::None => None,
            Source::Memory(bytes) => {
                let len = bytes.len() as u64;
                // Both fit a usize: they are within `bytes`.
                (at < len).then(|| Piece::Bytes(bytes.slice(at as usize..end.min(len) as usize)))
            }
            Source::File(reader) if spans => Some(ready!(poll_span(reader, cx, at, end))?),
            Source::File(reader) => Some(Piece::Bytes(ready!(reader.poll_read(cx, at, end))?)),
            Source::Fill(reader) => match ready!(reader.poll_readable(cx, at))? {
                None => None,
                Some((reader, until)) if spans && until.min(end) - at >= Span::MIN => {
                    Some(ready!(poll_span(reader, cx, at, until.min(end)))?)
                }
                Some((reader, until)) => Some(Piece::Bytes(ready!(reader.poll_read(cx, at, until.min(end)))?)),
            },
            Source::Relay(chunks) => ready!(chunks.poll_recv(cx)).transpose()?.map(Piece::Bytes),
        };
        Poll::Ready(Ok(read))
    }

    /// The next piece; `None` at the end. `spans`: the socket can send files by itself; the same for the whole body.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>, spans: bool) -> Poll<Option<Result<Piece, BodyError>>> {
        loop {
            let (at, end) = match self.segments.front_mut() {
                None => return Poll::Ready(None),
                Some(Segment::Literal(bytes)) => {
                    let bytes = std::mem::take(bytes);
                    self.segments.pop_front();
                    if bytes.is_empty() {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(Piece::Bytes(bytes))));
                }
                Some(Segment::Span(range)) if range.is_empty() => {
                    self.segments.pop_front();
                    continue;
                }
                Some(Segment::Span(range)) => (range.start, range.end),
                Some(Segment::Rest) => (self.at, u64::MAX),
            };
            let read = ready!(self.poll_source(cx, at, end, spans))?;
            let taken = read.as_ref().map_or(0, |piece| piece.len() as u64);
            match (self.segments.front_mut(), read) {
                (Some(Segment::Span(range)), Some(piece)) if at + taken <= range.end => {
                    range.start += taken;
                    if range.is_empty() {
                        self.segments.pop_front();
                    }
                    return Poll::Ready(Some(Ok(piece)));
                }
                (Some(Segment::Rest), Some(piece)) => {
                    self.at += taken;
                    return Poll::Ready(Some(Ok(piece)));
                }
                (Some(Segment::Rest), None) => {
                    self.segments.pop_front();
                }
                // Shorter or longer than the head of the answer promised.
                _ => return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()))),
            }
        }
    }

    /// Whether all has been given.
    pub fn is_end(&self) -> bool {
        self.segments.is_empty()
    }
}

/// A piece of a file, once its pages are in memory: else `sendfile` would wait for the disk on the reactor (I11).
fn poll_span(reader: &mut Reader, cx: &mut Context<'_>, at: u64, end: u64) -> Poll<io::Result<Piece>> {
    let end = if end - at > Span::LONGEST { at + Span::MAX } else { end };
    ready!(reader.poll_warm(cx, at, end))?;
    // At most `Span::LONGEST`.
    Poll::Ready(Ok(Piece::Span(Span { file: reader.file().clone(), start: at, len: (end - at) as usize })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::os::unix::fs::FileExt as _;

    async fn collect(mut body: Body, spans: bool) -> Result<Vec<u8>, BodyError> {
        let mut all = Vec::new();
        while let Some(piece) = poll_fn(|cx| body.poll_piece(cx, spans)).await {
            match piece? {
                Piece::Bytes(bytes) => all.extend_from_slice(&bytes),
                Piece::Span(span) => {
                    assert!(spans && !span.is_empty() && span.len() as u64 <= Span::LONGEST);
                    let mut bytes = vec![0; span.len()];
                    span.file().read_exact_at(&mut bytes, span.start()).unwrap();
                    all.extend_from_slice(&bytes);
                }
            }
        }
        assert!(body.is_end());
        Ok(all)
    }

    #[tokio::test]
    async fn a_file_in_spans_and_in_bytes() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let bytes: Vec<u8> = (0..(3 * Span::MAX + 5)).map(|n| (n % 253) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        for range in [0..bytes.len(), 7..8, 100..Span::MIN as usize, 1..2 * Span::MAX as usize, 3..3 + Span::LONGEST as usize] {
            for spans in [true, false] {
                let segment = Segment::Span(range.start as u64..range.end as u64);
                let body = Body::new(Source::File(Reader::new(Arc::new(file.clone().into()))), [segment]);
                assert!(collect(body, spans).await.unwrap() == bytes[range.clone()], "{range:?} {spans}");
            }
        }
    }

    #[tokio::test]
    async fn segments_in_order() {
        let source = Source::Memory(Bytes::from_static(b"0123456789"));
        let body = Body::new(
            source,
            [Segment::Literal(Bytes::from_static(b"<")), Segment::Span(7..9), Segment::Span(0..1), Segment::Span(3..3)],
        );
        assert_eq!(body.remaining(), Some(4));
        assert_eq!(collect(body, true).await.unwrap(), b"<780");
    }

    #[tokio::test]
    async fn i4_a_source_that_ends_early_is_no_clean_end() {
        let body = Body::new(Source::Memory(Bytes::from_static(b"012")), [Segment::Span(0..4)]);
        assert!(collect(body, false).await.is_err());
        let (sender, receiver) = mpsc::channel(4);
        sender.try_send(Ok(Bytes::from_static(b"01"))).unwrap();
        drop(sender);
        assert!(collect(Body::new(Source::Relay(receiver), [Segment::Span(0..3)]), false).await.is_err());
    }

    #[tokio::test]
    async fn an_unknown_length_ends_with_its_source() {
        let body = Body::new(Source::Memory(Bytes::from_static(b"012")), [Segment::Rest]);
        assert_eq!(body.remaining(), None);
        assert_eq!(collect(body, true).await.unwrap(), b"012");
    }
}
