//! A large blob in parts: several requests at one time, one fill (I3).
//!
//! Begins with the one answer that every fill begins with, so that nobody waits longer for the first byte; it is a part
//! where the size was known before, and open where not. If it says that ranges are served and does not come as fast as
//! one could wish ([`super::rate`]), a second part is asked for, and each that is answered as it should be permits one
//! more, up to `fill.parallel`. If it does, parts are read one after the other, and the next is asked for ahead. A part that
//! the upstream pushes back (429, 503, a stall), or that does not fit the others, is one too many: from then on there are
//! fewer, at the least the one. The hash follows the frontier: from memory where a part wrote just what comes next, and else
//! reading back what was written out of order. Called by [`super::run`].

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::FillError;
use super::abandon::Abandonment;
use super::extents::Extents;
use super::part::{self, Ended, Hash, Shared, Start, Trouble};
use super::plan::{self, Plan};
use super::rate::{Pace, Rate};
use super::run::{CHECK, Download, FRUITLESS, Opened, Run, STEP, on_disk, stopped};
use crate::cache::index::Reservation;
use crate::cache::store::Ingest;
use crate::cache::{NoRoom, Panicked};
use crate::hop;
use crate::upstream::{Class, Reason, UpstreamError};

/// Steps of a part where one connection is fast enough: each question costs time.
const FAST_STEPS: u64 = 4;

/// Where one connection is fast enough, the next part is asked for when so many bytes are still to come, so that there is
/// no pause between two: an upstream that needs 30 ms for an answer could bring as much in the meantime.
const AHEAD: u64 = 32 << 20;

/// The parts of one fill, and who decides about them.
struct Parts<'a> {
    run: &'a mut Run,
    shared: Arc<Shared>,
    running: JoinSet<Ended>,
    /// The most at one time; lowered where the upstream pushes back.
    most: usize,
    /// The upstream serves no parts after all: one request for all that is missing.
    whole: bool,
    /// Attempts in a row that brought no byte, or next to none.
    fruitless: u32,
    rate: Rate,
    pace: Pace,
    /// Reads back and hashes what was written out of order.
    reading_back: Option<JoinHandle<io::Result<()>>>,
}

impl Run {
    /// Receives all that is missing in `ingest`, beginning with the answer in `opened`.
    pub(super) async fn download_parts(
        &mut self,
        ingest: Ingest,
        reservation: Reservation,
        total: u64,
        opened: Opened,
    ) -> Download {
        let (ingest, scatter) = match on_disk(ingest, Ingest::scatter).await {
            Ok(scattered) => scattered,
            Err((ingest, error)) => return Download::stopped(ingest, reservation, error),
        };
        let mut written = Extents::prefix(ingest.len());
        ingest.beyond().iter().for_each(|range| written.insert(range.clone()));
        let step = plan::step(total, self.fills.config.parallel_threshold);
        self.fill.begin(ingest.file().clone(), Some(total), written.clone());
        let from = ingest.len();
        let shared = Arc::new(Shared {
            fill: self.fill.clone(),
            source: self.source.clone(),
            scatter,
            hash: Hash::new(ingest),
            plan: Mutex::new(Plan::new(total, step, written)),
            known: Mutex::new(part::Known { total, ..opened.known }),
            moved: Notify::new(),
            turn: tokio::sync::Mutex::default(),
            in_turn: watch::Sender::new(true),
            stop: watch::Sender::new(false),
        });
        let most = if opened.ranges { self.parts(total) } else { 1 };
        let rate = Rate::new(shared.plan.lock().bytes());
        let (running, whole) = (JoinSet::new(), !opened.ranges);
        let mut parts =
            Parts { run: self, shared, running, most, whole, fruitless: 0, rate, pace: Pace::default(), reading_back: None };
        let id = match opened.end {
            Some(end) if end < total => parts.shared.plan.lock().claim(from..end.max(from)),
            _ if parts.whole => parts.shared.plan.lock().claim_whole(from),
            _ => parts.shared.plan.lock().claim_open(from),
        };
        parts.spawn(id, Start::Answer(Box::new(opened.incoming)));
        let ended = parts.drive(total).await;
        Download { reservation, ended: parts.end(ended).await }
    }
}

impl Parts<'_> {
    fn spawn(&mut self, id: plan::Id, start: Start) {
        self.run.fills.metrics.fill_parts_in_flight.inc();
        self.running.spawn(hop::carried(part::run(self.shared.clone(), id, start)));
    }

    /// Runs parts until all is here and hashed.
    async fn drive(&mut self, total: u64) -> Result<(), FillError> {
        let mut abandonment = Abandonment::new(&self.run.fills.config);
        let mut checked = self.shared.plan.lock().bytes();
        let (shared, mut stopping) = (self.shared.clone(), self.run.stopping.clone());
        loop {
            let (frontier, bytes) = {
                let plan = shared.plan.lock();
                (plan.frontier(), plan.bytes())
            };
            let fast = self.rate.is_enough(bytes, Instant::now());
            self.begin_more(fast);
            let in_turn = fast && !shared.plan.lock().keeps_waiting(&shared.fill.progress.wanted());
            shared.in_turn.send_if_modified(|known| std::mem::replace(known, in_turn) != in_turn);
            if bytes.saturating_sub(checked) >= CHECK {
                checked = bytes;
                self.run.fills.cache.blocking(|cache| cache.keep_free()).await??;
            }
            self.read_back(frontier);
            if self.running.is_empty() && shared.hash.len() == Some(total) {
                return Ok(());
            }
            let now = Instant::now();
            let slow_at = self.rate.slow_at(bytes, now);
            tokio::select! {
                Some(ended) = self.running.join_next(), if !self.running.is_empty() => {
                    self.run.fills.metrics.fill_parts_in_flight.dec();
                    self.settle(ended.map_err(Panicked::from)?).await?;
                }
                hashed = done(&mut self.reading_back), if self.reading_back.is_some() => hashed?,
                () = shared.moved.notified() => {}
                () = sleep_until(slow_at.unwrap_or(now)), if slow_at.is_some() => {}
                () = abandonment.of(&shared.fill) => return Err(FillError::Abandoned),
                () = stopped(&mut stopping) => return Err(FillError::Stopping),
            }
        }
    }

    /// Hashes on, up to the frontier, unless that is being done.
    fn read_back(&mut self, frontier: u64) {
        if self.reading_back.is_none() && self.shared.hash.len().is_some_and(|len| len < frontier) {
            let shared = self.shared.clone();
            self.reading_back = Some(spawn_blocking(move || shared.hash.catch_up(frontier)));
        }
    }

    /// Begins the parts that may be: the first that is missing always, more as far as upstream and limits let them, and
    /// as long as they make a difference.
    fn begin_more(&mut self, fast: bool) {
        loop {
            let (running, answered) = (self.running.len(), self.shared.known.lock().answered);
            // The first answer permits a second part, each part that came as asked one more.
            let allowed = self.most.min(answered + 2);
            let spare = running > 0;
            if running >= allowed || (spare && !self.run.source.upstream.has_room()) {
                return;
            }
            if self.whole {
                let from = self.shared.plan.lock().frontier();
                if running > 0 || !self.shared.plan.lock().has_gap() {
                    return;
                }
                let id = self.shared.plan.lock().claim_whole(from);
                return self.spawn(id, Start::AskRest(from));
            }
            let wanted = self.run.fill.progress.wanted();
            let claimed = {
                let mut plan = self.shared.plan.lock();
                // However fast it comes: a reader must not wait for what nobody fetches.
                let elsewhere = plan.neglected(&wanted).is_some();
                if spare && fast && !elsewhere && (running > 1 || !plan.ends_within(AHEAD)) {
                    return;
                }
                let steps = match (fast, elsewhere) {
                    (true, _) => FAST_STEPS,
                    // A reader that jumps about will soon want a connection again.
                    (false, true) => 1,
                    (false, false) => plan.steps(self.pace.worthwhile(), self.most),
                };
                plan.claim_next(&wanted, steps).map(|claimed| (claimed, fast && !elsewhere))
            };
            let Some(((id, part), in_turn)) = claimed else { return };
            self.spawn(id, Start::Ask { part, spare, in_turn });
        }
    }

    /// Decides what follows from the end of a part.
    async fn settle(&mut self, ended: Ended) -> Result<(), FillError> {
        let missing = {
            let mut plan = self.shared.plan.lock();
            plan.release(ended.id);
            plan.has_gap()
        };
        if ended.progress {
            self.fruitless = 0;
        }
        if ended.bytes > 0
            && let Some((waited, took)) = ended.took
        {
            self.pace.learn(ended.bytes, waited, took);
        }
        let alone = self.running.is_empty();
        let upstream = self.run.source.upstream.clone();
        let broken = match ended.trouble {
            // An upstream may send less than it was asked for; the rest is asked for anew.
            None if ended.progress || ended.void || !missing => return Ok(()),
            None => self.run.wrong_length(self.shared.known.lock().total, self.shared.plan.lock().bytes()),
            Some(Trouble::Odd(why)) => {
                upstream.part_refused(why);
                (self.most, self.whole) = (1, true);
                return Ok(());
            }
            Some(Trouble::Fill(FillError::Upstream(error))) => {
                if !alone {
                    self.push_back(&error, ended.bytes > 0);
                    return Ok(());
                }
                if !error.retry() {
                    return Err(error.into());
                }
                error.into()
            }
            Some(Trouble::Fill(FillError::NoRoom(full))) if is_full(&full) => {
                drop(self.run.fills.cache.reserve(STEP).await?);
                FillError::NoRoom(full)
            }
            Some(Trouble::Fill(error)) => return Err(error),
        };
        self.fruitless += 1;
        if self.fruitless > FRUITLESS {
            return Err(broken);
        }
        let received = self.shared.plan.lock().bytes();
        tracing::debug!(digest = %self.run.fill.digest, received_bytes = received, error = %broken, fruitless = self.fruitless, "resuming");
        let fruitless = self.fruitless;
        self.run.pause(fruitless, &broken).await?;
        self.run.fills.metrics.fill_resumes_total.with_label_values(&[upstream.name().as_str()]).inc();
        Ok(())
    }

    /// A part failed while others go on: what it left goes to them.
    fn push_back(&mut self, error: &UpstreamError, useful: bool) {
        let upstream = &self.run.source.upstream;
        // It is no push-back that a part found no place just now, or that its connection broke on its way.
        let passing =
            error.was_not_asked() || (useful && error.class() == Class::Broken && !matches!(error.reason(), Reason::Stalled(_)));
        if useful {
            self.run.fills.metrics.fill_resumes_total.with_label_values(&[upstream.name().as_str()]).inc();
        }
        if passing && error.retry_in().is_none() {
            return;
        }
        tracing::debug!(digest = %self.run.fill.digest, %error, parts = self.running.len(), "one part fewer");
        self.most = self.running.len().max(1);
        if matches!(error.reason(), Reason::RateLimited { .. } | Reason::Failing(_)) {
            upstream.part_refused("it answers a second request with an error");
        }
    }

    /// Ends what still runs, waiting for the disk: nothing is written to the file after this.
    async fn end(mut self, ended: Result<(), FillError>) -> Result<Ingest, (Option<Ingest>, FillError)> {
        self.shared.stop.send_replace(true);
        while self.running.join_next().await.is_some() {
            self.run.fills.metrics.fill_parts_in_flight.dec();
        }
        let hashed = done(&mut self.reading_back).await.map_err(FillError::from);
        match (self.shared.hash.take(), ended.and(hashed)) {
            (Some(ingest), Ok(())) => Ok(ingest),
            (ingest, Err(error)) => Err((ingest, error)),
            (None, Ok(())) => Err((None, FillError::Internal)),
        }
    }
}

/// Waits for what is being read back. Cancel-safe.
async fn done(job: &mut Option<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let Some(running) = job else { return Ok(()) };
    let done = running.await;
    *job = None;
    done.map_err(Panicked::from)?
}

/// The disk has filled up behind the reservation's back, which eviction may help against.
fn is_full(error: &NoRoom) -> bool {
    matches!(error, NoRoom::Disk(error) if error.kind() == io::ErrorKind::StorageFull)
}
