//! The body of an answer: bytes from memory, from a file, from a growing fill, or passed through from the upstream.
//!
//! One body is a list of segments over one source, so that a whole blob, a range and a multipart answer are the same
//! thing. An error ends the connection short, never the body cleanly (I4): hyper closes a connection whose body fails.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use crate::cache::Content;
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
    fn remaining(&self) -> Option<u64> {
        self.segments.iter().try_fold(0, |sum, segment| match segment {
            Segment::Literal(bytes) => Some(sum + bytes.len() as u64),
            Segment::Span(range) => Some(sum + (range.end - range.start)),
            Segment::Rest => None,
        })
    }

    /// The next bytes of the source from `at` on, none beyond `end`; `None` where it ends.
    fn poll_source(&mut self, cx: &mut Context<'_>, at: u64, end: u64) -> Poll<Result<Option<Bytes>, BodyError>> {
        let read = match &mut self.source {
            Source::None => None,
            Source::Memory(bytes) => {
                let len = bytes.len() as u64;
                // Both fit a usize: they are within `bytes`.
                (at < len).then(|| bytes.slice(at as usize..end.min(len) as usize))
            }
            Source::File(reader) => {
                Some(ready!(reader.poll_read(cx, at, end)).map_err(|error| BodyError::Read(Arc::new(error)))?)
            }
            Source::Fill(reader) => ready!(reader.poll_read(cx, at, end))?,
            Source::Relay(chunks) => ready!(chunks.poll_recv(cx)).transpose()?,
        };
        Poll::Ready(Ok(read))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let (at, end) = match self.segments.front_mut() {
                None => return Poll::Ready(None),
                Some(Segment::Literal(bytes)) => {
                    let bytes = std::mem::take(bytes);
                    self.segments.pop_front();
                    if bytes.is_empty() {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Segment::Span(range)) if range.is_empty() => {
                    self.segments.pop_front();
                    continue;
                }
                Some(Segment::Span(range)) => (range.start, range.end),
                Some(Segment::Rest) => (self.at, u64::MAX),
            };
            let read = ready!(self.poll_source(cx, at, end))?;
            let taken = read.as_ref().map_or(0, |bytes| bytes.len() as u64);
            match (self.segments.front_mut(), read) {
                (Some(Segment::Span(range)), Some(bytes)) if at + taken <= range.end => {
                    range.start += taken;
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                (Some(Segment::Rest), Some(bytes)) => {
                    self.at += taken;
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                (Some(Segment::Rest), None) => {
                    self.segments.pop_front();
                }
                // Shorter or longer than the head of the answer promised.
                _ => return Poll::Ready(Some(Err(BodyError::Read(Arc::new(io::ErrorKind::UnexpectedEof.into()))))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.segments.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn segments_in_order() {
        let source = Source::Memory(Bytes::from_static(b"0123456789"));
        let body = Body::new(
            source,
            [Segment::Literal(Bytes::from_static(b"<")), Segment::Span(7..9), Segment::Span(0..1), Segment::Span(3..3)],
        );
        assert_eq!(body.size_hint().exact(), Some(4));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "<780");
    }

    #[tokio::test]
    async fn i4_a_source_that_ends_early_is_no_clean_end() {
        let body = Body::new(Source::Memory(Bytes::from_static(b"012")), [Segment::Span(0..4)]);
        assert!(body.collect().await.is_err());
        let (sender, receiver) = mpsc::channel(4);
        sender.try_send(Ok(Bytes::from_static(b"01"))).unwrap();
        drop(sender);
        assert!(Body::new(Source::Relay(receiver), [Segment::Span(0..3)]).collect().await.is_err());
    }

    #[tokio::test]
    async fn an_unknown_length_ends_with_its_source() {
        let body = Body::new(Source::Memory(Bytes::from_static(b"012")), [Segment::Rest]);
        assert_eq!(body.size_hint().exact(), None);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "012");
    }
}
