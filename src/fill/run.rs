//! One fill from beginning to end: open, reserve, receive, resume, verify, publish.
//!
//! Runs in a task of its own (I6). Announces through the fill's progress and through nothing else.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::extents::Extents;
use super::table::{Entry, Fills};
use super::{Fill, FillError, Source, part, plan};
use crate::cache::Panicked;
use crate::cache::confined::Came;
use crate::cache::index::{self, Reservation};
use crate::cache::store::{Disproved, Ingest};
use crate::oci::Scope;
use crate::upstream::{BlobAnswer, BlobBody, Class, Effort, UpstreamError, jittered};

/// Attempts in a row that brought no byte, or next to none for their time, before a fill gives up.
pub(super) const FRUITLESS: u32 = 4;

/// How long a fill that has begun waits at once for an upstream that is held back or down.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes reserved at a time where the upstream does not tell the size.
pub(super) const STEP: u64 = 16 << 20;

/// Bytes received between two looks at the file system's free space: others write to it, too (I8).
pub(super) const CHECK: u64 = 32 << 20;

/// Everything one fill needs.
pub(super) struct Run {
    pub(super) fills: Arc<Fills>,
    pub(super) fill: Arc<Fill>,
    pub(super) source: Source,
    pub(super) stopping: watch::Receiver<bool>,
}

/// A body of the upstream, of which the first bytes may be here already.
pub(super) struct Incoming {
    pub(super) body: BlobBody,
    pub(super) skip: u64,
}

impl Incoming {
    /// The body of an answer to `fill`'s question, `skip` bytes of which are here.
    pub(super) fn new(fill: &Fill, body: BlobBody, skip: u64) -> Self {
        fill.add_giver(body.giver());
        Self { body, skip }
    }

    /// The next bytes that are missing. Cancel-safe.
    pub(super) async fn chunk(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        loop {
            let mut chunk = match self.body.chunk().await? {
                Ok(chunk) => chunk,
                Err(error) => return Some(Err(error)),
            };
            let skipped = self.skip.min(chunk.len() as u64);
            self.skip -= skipped;
            // At most the chunk's own length.
            chunk.advance(skipped as usize);
            if !chunk.is_empty() {
                return Some(Ok(chunk));
            }
        }
    }
}

/// How a download ended. Either way the file and what is reserved for it stay together, so that the account never says
/// less than the disk holds (I8).
pub(super) struct Download {
    pub(super) reservation: Reservation,
    /// The whole file; or what there is of it, `None` if the task that wrote it is gone.
    pub(super) ended: Result<Ingest, (Option<Ingest>, FillError)>,
}

impl Download {
    pub(super) fn stopped(ingest: Option<Ingest>, reservation: Reservation, error: impl Into<FillError>) -> Self {
        Self { reservation, ended: Err((ingest, error.into())) }
    }
}

/// Does blocking work on a file off the reactor (I11). The file comes back whether that failed or not, unless the task
/// panicked.
pub(super) async fn on_disk<T: Send + 'static>(
    mut ingest: Ingest,
    work: impl FnOnce(&mut Ingest) -> std::io::Result<T> + Send + 'static,
) -> Result<(Ingest, T), (Option<Ingest>, std::io::Error)> {
    let done = spawn_blocking(move || {
        let done = work(&mut ingest);
        (ingest, done)
    });
    match done.await {
        Ok((ingest, Ok(value))) => Ok((ingest, value)),
        Ok((ingest, Err(error))) => Err((Some(ingest), error)),
        Err(error) => Err((None, Panicked::from(error).into())),
    }
}

/// The first answer, once there is room for all of it.
pub(super) struct Opened {
    pub(super) incoming: Incoming,
    pub(super) total: Option<u64>,
    /// Where the answer ends: before the blob does, if a part was asked for.
    pub(super) end: Option<u64>,
    pub(super) ranges: bool,
    pub(super) known: part::Known,
}

impl Run {
    pub fn new(fills: Arc<Fills>, fill: Arc<Fill>, source: Source) -> Self {
        let stopping = fills.stopping.subscribe();
        Self { fills, fill, source, stopping }
    }

    /// The whole life of the fill. `entry` leaves the table at the end, however that comes.
    pub async fn run(mut self, entry: Entry) {
        let digest = self.fill.digest;
        if let Err(error) = self.fill().await {
            let upstream = self.source.upstream.name();
            self.fills.metrics.fill_failures_total.with_label_values(&[upstream.as_str(), error.reason()]).inc();
            if matches!(error, FillError::Mismatch { .. } | FillError::Length { .. }) {
                self.fill.was_misled();
            }
            if matches!(error, FillError::Mismatch { .. }) {
                self.fills.metrics.digest_mismatches_total.with_label_values(&[upstream.as_str()]).inc();
            }
            let (repository, reason) = (&self.source.repository, error.reason());
            if error.is_fault() {
                tracing::warn!(%digest, %upstream, %repository, reason, %error, "fill failed");
            } else {
                tracing::info!(%digest, %upstream, %repository, reason, %error, "fill ended early");
            }
            let ended = self.fills.cache.blocking(move |cache| {
                // A task that panicked may have left something.
                cache.recount(&digest);
                // Before it leaves the table: nobody else can have begun to rely on that.
                cache.withdraw(&digest);
            });
            let _ = ended.await;
            entry.fail(error);
        }
    }

    async fn fill(&mut self) -> Result<(), FillError> {
        if self.is_cached().await {
            return Ok(());
        }
        let digest = self.fill.digest;
        self.fills.cache.until_scanned().await?;
        let (class, upstream) = (self.class(), self.source.upstream.name().clone());
        let begun = self.fills.cache.blocking(move |cache| {
            // Before there is anything of it: nobody may take what this leaves for everybody's.
            cache.expect(&digest, &upstream)?;
            cache.resume(&digest, class)
        });
        let (ingest, reservation) = begun.await??;
        if !ingest.is_empty() {
            tracing::debug!(%digest, written_bytes = ingest.len(), "resuming what an earlier fill left");
        }
        let Download { reservation, ended } = self.download(ingest, reservation).await;
        let ingest = match ended {
            Ok(ingest) => ingest,
            Err((ingest, error)) => {
                match may_be_resumed(ingest.as_ref(), &error) {
                    true => self.leave(ingest, reservation).await,
                    false => self.discard(ingest, reservation).await,
                }
                return Err(error);
            }
        };
        let (len, file, resumed) = (ingest.len(), ingest.file().clone(), ingest.is_resumed());
        let verified = match ingest.proved() {
            Ok(verified) => verified,
            Err(disproved) => {
                let Disproved { ingest, mismatch } = *disproved;
                self.discard(Some(ingest), reservation).await;
                let mismatch = Box::new(mismatch);
                return Err(match resumed {
                    true => FillError::Leftover(mismatch),
                    false => FillError::Mismatch {
                        upstream: self.source.upstream.name().clone(),
                        repository: self.source.repository.clone(),
                        mismatch,
                    },
                });
            }
        };
        if self.fill.file.get().is_none() {
            // An earlier process had received all of it and was ended before it could publish.
            self.fill.begin(file, Some(len), Extents::prefix(len));
        }
        self.fill.was_not_misled();
        // Readers go on to the end now; none of them waits for the disk.
        self.fill.progress.verified(len);
        let upstream = self.source.upstream.name().clone();
        let came = if self.fill.is_given() { Came::Sent } else { Came::Left };
        let published = self.fills.cache.blocking(move |cache| cache.publish_from(&upstream, came, verified, reservation)).await;
        if let Err(error) = published.map_err(std::io::Error::from).flatten() {
            // Every reader has what it asked for; only the cache has not.
            tracing::error!(%digest, %error, "a verified blob could not be published");
            self.fills.metrics.fill_failures_total.with_label_values(&[self.source.upstream.name().as_str(), "publish"]).inc();
        } else {
            tracing::debug!(%digest, size_bytes = len, upstream = %self.source.upstream.name(), "filled");
        }
        Ok(())
    }

    /// The blob may have been published between the caller's look into the cache and its join. A file that the index does not
    /// know is none: nobody has hashed it (I5).
    async fn is_cached(&self) -> bool {
        let digest = self.fill.digest;
        let found = self.fills.cache.blocking(move |cache| cache.open_sound(&digest)).await;
        let Ok(Some((file, size))) = found else { return false };
        self.fill.begin(Arc::new(file), Some(size), Extents::prefix(size));
        self.fill.progress.verified(size);
        true
    }

    /// Receives all that is missing in `ingest`.
    async fn download(&mut self, mut ingest: Ingest, mut reservation: Reservation) -> Download {
        if ingest.is_complete() {
            return Download { reservation, ended: Ok(ingest) };
        }
        let mut opened = self.open(&mut ingest, &mut reservation).await;
        if ingest.is_resumed() && opened.as_ref().is_err_and(FillError::is_misfit) {
            tracing::warn!(digest = %self.fill.digest, written_bytes = ingest.reaches(),
                "what an earlier download left does not fit what this source says of the blob; it is set aside until the blob is here");
            let (fresh, room) = match self.begin_beside().await {
                Ok(begun) => begun,
                Err(error) => return Download::stopped(Some(ingest), reservation, error),
            };
            let (left, its) = (std::mem::replace(&mut ingest, fresh), std::mem::replace(&mut reservation, room));
            self.leave(Some(left), its).await;
            opened = self.open(&mut ingest, &mut reservation).await;
        }
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => return Download::stopped(Some(ingest), reservation, error),
        };
        if let Some(total) = opened.total {
            ingest = match on_disk(ingest, move |ingest| ingest.allocate(total)).await {
                Ok((ingest, ())) => ingest,
                Err((ingest, error)) => return Download::stopped(ingest, reservation, error),
            };
        }
        if let Some(total) = opened.total
            && self.comes_in_parts(total, &opened, &ingest)
        {
            return self.download_parts(ingest, reservation, total, opened).await;
        }
        self.download_whole(ingest, reservation, opened).await
    }

    /// A file and a reservation beside what an earlier fill left: nobody knows yet whether that or this source is wrong.
    /// Only the blob itself tells; once it is published, the leftover goes.
    async fn begin_beside(&self) -> Result<(Ingest, Reservation), FillError> {
        let room = self.fills.cache.reserve_for(0, self.class()).await?;
        let digest = self.fill.digest;
        let ingest = self.fills.cache.blocking(move |cache| cache.store().ingest_whole(&digest)).await??;
        Ok((ingest, room))
    }

    /// Asks the upstream and reserves space, before anybody gets a status line (I4, I8).
    async fn open(&mut self, ingest: &mut Ingest, reservation: &mut Reservation) -> Result<Opened, FillError> {
        let here = ingest.reaches();
        // All of it without a hole would be complete, and not come here.
        let whole = ingest.len();
        let is_too_much = |total: &u64| *total < here || (*total == whole && whole > 0);
        if let Some(size) = self.source.size.filter(is_too_much) {
            return Err(self.wrong_length(size, here));
        }
        let answer = match self.first_part(ingest) {
            Some(part) => {
                let Source { upstream, repository, .. } = &self.source;
                let answer = tokio::select! {
                    answer = upstream.blob_part(repository, &self.fill.digest, part, None, Effort::Patient) => answer,
                    () = stopped(&mut self.stopping) => return Err(FillError::Stopping),
                };
                match answer {
                    // It may have been the range that it did not like.
                    Err(error) if error.class() == Class::Invalid => {
                        upstream.part_refused("it does not answer to a range as it should");
                        self.ask(ingest.len()).await?
                    }
                    answer => answer?,
                }
            }
            None => self.ask(ingest.len()).await?,
        };
        let BlobAnswer { total, start, end, ranges, etag, lead, body } = answer;
        let total = total.or(self.source.size);
        if let Some(total) = total.filter(is_too_much) {
            return Err(self.wrong_length(total, here));
        }
        let wanted = total.unwrap_or(here + STEP);
        self.reserve(wanted, reservation).await?;
        let incoming = Incoming::new(&self.fill, body, ingest.len() - start);
        let etag = etag.map(|etag| (lead.is_some(), etag));
        let known = part::Known { total: total.unwrap_or_default(), lead, etag, answered: 0 };
        Ok(Opened { incoming, total, end, ranges, known })
    }

    /// How many parts this blob may come in at one time.
    pub(super) fn parts(&self, total: u64) -> usize {
        let config = &self.fills.config;
        if total > config.parallel_threshold { self.source.upstream.parts(config.parallel) } else { 1 }
    }

    /// What to ask for first, where a manifest has told that the blob is large: not more than a part, so that nothing is
    /// sent that another part brings (I3).
    fn first_part(&self, ingest: &Ingest) -> Option<std::ops::Range<u64>> {
        let total = self.source.size.filter(|total| self.parts(*total) > 1 && *total > ingest.len())?;
        let step = plan::step(total, self.fills.config.parallel_threshold);
        let hole = ingest.beyond().first().map_or(total, |range| range.start.min(total));
        let end = hole.min((ingest.len() / step + 1) * step);
        Some(ingest.len()..end)
    }

    /// Whether to go on in parts: where there are several to come, and where an earlier fill has left holes.
    fn comes_in_parts(&self, total: u64, opened: &Opened, ingest: &Ingest) -> bool {
        let partial = opened.end.is_some_and(|end| end < total);
        partial || !ingest.beyond().is_empty() || (opened.ranges && self.parts(total) > 1)
    }

    /// Which quota the blob counts for.
    fn class(&self) -> index::Class {
        let Source { upstream, repository, .. } = &self.source;
        self.fills.cache.class(&Scope { upstream: upstream.name().clone(), repository: repository.clone() })
    }

    async fn ask(&mut self, from: u64) -> Result<BlobAnswer, FillError> {
        let Source { upstream, repository, .. } = &self.source;
        tokio::select! {
            answer = upstream.blob(repository, &self.fill.digest, from) => Ok(answer?),
            () = stopped(&mut self.stopping) => Err(FillError::Stopping),
        }
    }

    pub(super) async fn reserve(&self, wanted: u64, reservation: &mut Reservation) -> Result<(), FillError> {
        if wanted > reservation.bytes() {
            reservation.absorb(self.fills.cache.reserve_for(wanted - reservation.bytes(), self.class()).await?);
        }
        Ok(())
    }

    /// Waits before the next attempt: hardly at all after progress, then longer and longer, by times that vary. An
    /// upstream that is not asked just now is waited for, within bounds.
    pub(super) async fn pause(&mut self, fruitless: u32, broken: &FillError) -> Result<(), FillError> {
        let pause = jittered(Duration::from_millis(if fruitless == 1 { 10 } else { 100 << fruitless }));
        let told = match broken {
            FillError::Upstream(error) => error.retry_in().unwrap_or_default().min(PATIENCE),
            _ => Duration::ZERO,
        };
        let pause = pause.max(told);
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = stopped(&mut self.stopping) => Err(FillError::Stopping),
        }
    }

    async fn leave(&self, ingest: Option<Ingest>, reservation: Reservation) {
        let digest = self.fill.digest;
        let _ = self.fills.cache.blocking(move |cache| cache.leave(&digest, ingest, reservation)).await;
    }

    async fn discard(&self, ingest: Option<Ingest>, reservation: Reservation) {
        let digest = self.fill.digest;
        let _ = self.fills.cache.blocking(move |cache| cache.discard(&digest, ingest, reservation)).await;
    }

    pub(super) fn wrong_length(&self, expected: u64, got: u64) -> FillError {
        FillError::Length { upstream: self.source.upstream.name().clone(), digest: self.fill.digest, expected, got }
    }
}

/// Whether what has come of a blob is worth keeping after `error`. Only the source that sent all of it can contradict it:
/// that another repository does not have the blob, or fails at it, says nothing against it.
fn may_be_resumed(ingest: Option<&Ingest>, error: &FillError) -> bool {
    let contradicts = match error {
        FillError::Upstream(error) => error.class() == Class::Invalid,
        FillError::Length { .. } => true,
        _ => false,
    };
    !contradicts || ingest.is_some_and(Ingest::is_resumed)
}

/// Waits until fills have to end. The sender outlives all fills.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
