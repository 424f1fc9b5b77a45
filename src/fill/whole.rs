//! A blob in one piece: one request at one time, in order.
//!
//! For small blobs, for those of which nobody tells the size, and for upstreams that serve no ranges. A transfer that
//! breaks is continued by Range, as long as that brings bytes. Called by [`super::run`].

use tokio::time::Instant;

use super::abandon::Abandonment;
use super::extents::Extents;
use super::run::{CHECK, Download, FRUITLESS, Incoming, Opened, Run, STEP, on_disk, stopped};
use super::writer::Writer;
use super::{FillError, Source};
use crate::cache::index::Reservation;
use crate::cache::store::Ingest;
use crate::upstream::{BlobAnswer, is_progress};

impl Run {
    /// Receives all that is missing in `ingest`, beginning with the answer in `opened`.
    pub(super) async fn download_whole(&mut self, ingest: Ingest, mut reservation: Reservation, opened: Opened) -> Download {
        let Opened { incoming: body, total, .. } = opened;
        let ingest = match on_disk(ingest, Ingest::close_up).await {
            Ok((ingest, ())) => ingest,
            Err((ingest, error)) => return Download::stopped(ingest, reservation, error),
        };
        self.fill.begin(ingest.file().clone(), total, Extents::prefix(ingest.len()));
        let mut writer = Writer::new(ingest);
        let received = self.receive(body, total, &mut writer, &mut reservation).await;
        let ended = match received {
            Ok(()) => self.drain(&mut writer).await,
            Err(error) => Err(error),
        };
        match (writer.into_ingest().await, ended) {
            (Ok(ingest), Ok(())) => Download { reservation, ended: Ok(ingest) },
            (ingest, Err(error)) => Download::stopped(ingest.ok(), reservation, error),
            (Err(error), Ok(())) => Download::stopped(None, reservation, error),
        }
    }

    /// Receives to the end, asking again by Range whenever the transfer breaks and as long as that brings more than next to
    /// nothing.
    async fn receive(
        &mut self,
        mut body: Incoming,
        total: Option<u64>,
        writer: &mut Writer,
        reservation: &mut Reservation,
    ) -> Result<(), FillError> {
        let (mut fruitless, mut asked) = (0, Instant::now());
        loop {
            let before = writer.received();
            let mut broken: FillError = match self.pump(&mut body, total, writer, reservation).await {
                Ok(()) => match total {
                    // An upstream may send less of a range than it was asked for; the rest is asked for anew.
                    Some(total) if writer.received() < total => self.wrong_length(total, writer.received()),
                    _ => return Ok(()),
                },
                // All bytes have come, and only the end of the answer has not: the digest says whether they are right.
                Err(FillError::Upstream(_)) if total == Some(writer.received()) => return Ok(()),
                Err(FillError::Upstream(error)) if error.retry() => error.into(),
                Err(error) => return Err(error),
            };
            if is_progress(writer.received() - before, asked.elapsed()) {
                fruitless = 0;
            }
            body = loop {
                fruitless += 1;
                if fruitless > FRUITLESS {
                    return Err(broken);
                }
                tracing::debug!(digest = %self.fill.digest, received_bytes = writer.received(), error = %broken, fruitless, "resuming");
                self.pause(fruitless, &broken).await?;
                asked = Instant::now();
                self.fills.metrics.fill_resumes_total.with_label_values(&[self.source.upstream.name().as_str()]).inc();
                match self.resume(writer.received(), total).await {
                    Ok(body) => break body,
                    Err(FillError::Upstream(error)) if error.retry() => broken = error.into(),
                    Err(error) => return Err(error),
                }
            };
        }
    }

    async fn resume(&mut self, from: u64, total: Option<u64>) -> Result<Incoming, FillError> {
        let Source { upstream, repository, .. } = &self.source;
        let answer = tokio::select! {
            answer = upstream.resume_blob(repository, &self.fill.digest, from) => answer?,
            () = stopped(&mut self.stopping) => return Err(FillError::Stopping),
        };
        let BlobAnswer { total: now, start, body, .. } = answer;
        if let (Some(total), Some(now)) = (total, now)
            && total != now
        {
            return Err(self.wrong_length(total, now));
        }
        Ok(Incoming::new(&self.fill, body, from - start))
    }

    /// Moves bytes from one upstream answer to the file until the answer ends.
    async fn pump(
        &self,
        body: &mut Incoming,
        total: Option<u64>,
        writer: &mut Writer,
        reservation: &mut Reservation,
    ) -> Result<(), FillError> {
        let mut abandonment = Abandonment::new(&self.fills.config);
        let mut checked = writer.received();
        let mut stopping = self.stopping.clone();
        loop {
            tokio::select! {
                written = writer.written(), if writer.is_busy() => self.announce(written, writer).await?,
                chunk = body.chunk(), if writer.has_room() => match chunk {
                    Some(chunk) => {
                        let chunk = chunk?;
                        let received = writer.received() + chunk.len() as u64;
                        match total {
                            Some(total) if received > total => return Err(self.wrong_length(total, received)),
                            Some(_) => {}
                            None => if received > reservation.bytes() {
                                self.reserve(received + STEP, reservation).await?;
                            }
                        }
                        writer.push(chunk);
                        if received - checked >= CHECK {
                            checked = received;
                            self.fills.cache.blocking(|cache| cache.keep_free()).await??;
                        }
                    }
                    None => return Ok(()),
                },
                () = abandonment.of(&self.fill) => return Err(FillError::Abandoned),
                () = stopped(&mut stopping) => return Err(FillError::Stopping),
            }
        }
    }

    async fn drain(&self, writer: &mut Writer) -> Result<(), FillError> {
        while writer.is_busy() {
            let written = writer.written().await;
            self.announce(written, writer).await?;
        }
        Ok(())
    }

    /// Tells the readers what is in the file. A disk that has filled up behind the reservation's back gets one more
    /// chance, after eviction.
    async fn announce(&self, written: std::io::Result<u64>, writer: &mut Writer) -> Result<(), FillError> {
        match written {
            Ok(written) => self.fill.progress.advance(written),
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                drop(self.fills.cache.reserve(STEP).await?);
                writer.retry();
                let written = writer.written().await?;
                self.fill.progress.advance(written);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
