//! What the disk cannot take is passed through: from the upstream to one client, uncached.
//!
//! The last resort of a full disk. A whole blob is hashed on its way, and its last chunk held back until the digest
//! matches (I5); of a range only the whole could be checked, and the client does that.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::body;
use super::cache_status::ServedFrom;
use super::respond::Answer;
use super::{Pull, PullError, Request};
use crate::cache::store::Mismatch;
use crate::fill::{FillError, Source};
use crate::oci::{Digest, Hasher, Selection};
use crate::policy::FillSlot;
use crate::upstream::{BlobAnswer, BlobBody};

/// Chunks between the upstream and a slow client; then the upstream waits (I7).
const AHEAD: usize = 4;

/// Hashed in one go at most, so that the reactor is not held up (I11).
const PIECE: usize = 64 << 10;

impl Pull {
    /// Answers from the upstream itself.
    pub(super) async fn relay(
        self: &Arc<Self>,
        request: &Request<'_>,
        digest: &Digest,
        source: Source,
    ) -> Result<Answer, PullError> {
        let slot = request.permit.fill_slot().await.inspect_err(|_| self.refused_fill())?;
        let wanted = request.range(digest);
        let size = match source.size {
            told if wanted.is_some() => source.upstream.blob_size(&source.repository, digest).await?.or(told),
            // By a request of its own: the answer with the bytes may not tell it.
            None if request.needs_length => source.upstream.blob_size(&source.repository, digest).await?,
            told => told,
        };
        let range = match size.zip(wanted).map(|(size, header)| (size, header.resolve(size))) {
            Some((size, Selection::One(range))) => Some((size, range)),
            Some((size, Selection::Unsatisfiable)) => return Ok(request.unsatisfiable(size, digest)),
            // Several ranges may be answered with the whole; so may one of a blob whose size nobody tells.
            Some((_, Selection::Many(_) | Selection::Whole)) | None => None,
        };
        let from = range.as_ref().map_or(0, |(_, range)| range.start);
        let BlobAnswer { total, start, body, .. } = source.upstream.blob(&source.repository, digest, from).await?;
        let total = total.or(size);
        if total.is_none() && request.needs_length {
            return Err(PullError::NoLength { scope: request.permit.scope().clone(), digest: *digest });
        }
        if total == Some(0) && *digest != Digest::of(digest.algorithm(), b"") {
            // An empty body has no last chunk to hold back.
            body.giver().misled();
            return Err(mismatch(&source, *digest, Digest::of(digest.algorithm(), b"")).into());
        }
        let (sender, receiver) = mpsc::channel(AHEAD);
        let chunks = body::Source::Relay(receiver);
        tracing::warn!(%digest, upstream = %source.upstream.name(), repository = %source.repository,
            "passing a blob through uncached: the cache cannot take it");
        match range {
            None => {
                let passed = pass_whole(body, *digest, total, source, sender);
                tokio::spawn(holding(slot, passed));
                Ok(request.whole(chunks, total, digest, ServedFrom::uncached(false)))
            }
            Some((size, range)) => {
                let passed = pass_range(body, range.start - start, range.end - range.start, sender);
                tokio::spawn(holding(slot, passed));
                Ok(request.part(chunks, range, size, digest, ServedFrom::uncached(false)))
            }
        }
    }
}

fn mismatch(source: &Source, wanted: Digest, found: Digest) -> FillError {
    FillError::Mismatch {
        upstream: source.upstream.name().clone(),
        repository: source.repository.clone(),
        mismatch: Box::new(Mismatch { wanted, found }),
    }
}

type Sender = mpsc::Sender<Result<Bytes, FillError>>;

/// Holds the client's right to a download while it lasts.
async fn holding(slot: Option<FillSlot>, passed: impl Future<Output = ()>) {
    passed.await;
    drop(slot);
}

/// Passes a whole blob on, the last piece only if all of it is right. Ends when the client has left.
///
/// What the client takes for the last piece is the one that makes `total` full, so that nothing may follow that.
async fn pass_whole(mut body: BlobBody, digest: Digest, total: Option<u64>, source: Source, sender: Sender) {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut held: Option<Bytes> = None;
    let mut got = 0;
    while let Some(chunk) = body.chunk().await {
        let mut chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                let _ = sender.send(Err(error.into())).await;
                return;
            }
        };
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(PIECE));
            hasher.update(&piece);
            got += piece.len() as u64;
            if let Some(expected) = total.filter(|total| got > *total) {
                let upstream = source.upstream.name().clone();
                body.giver().misled();
                let _ = sender.send(Err(FillError::Length { upstream, digest, expected, got })).await;
                return;
            }
            if let Some(earlier) = held.replace(piece)
                && sender.send(Ok(earlier)).await.is_err()
            {
                return;
            }
        }
    }
    let found = hasher.finish();
    let last = if found == digest {
        held.map(Ok)
    } else {
        body.giver().misled();
        Some(Err(mismatch(&source, digest, found)))
    };
    if let Some(last) = last {
        let _ = sender.send(last).await;
    }
}

/// Passes `left` bytes on, after the first `skip`.
async fn pass_range(mut body: BlobBody, mut skip: u64, mut left: u64, sender: Sender) {
    while left > 0
        && let Some(chunk) = body.chunk().await
    {
        let passed = chunk.map_err(FillError::from).map(|mut chunk| {
            let skipped = chunk.split_to(skip.min(chunk.len() as u64) as usize);
            skip -= skipped.len() as u64;
            chunk.truncate(left.min(chunk.len() as u64) as usize);
            left -= chunk.len() as u64;
            chunk
        });
        let failed = passed.is_err();
        let empty = passed.as_ref().is_ok_and(Bytes::is_empty);
        if !empty && sender.send(passed).await.is_err() || failed {
            return;
        }
    }
}
