//! One part of a fill: asks, receives, writes where it belongs, tells the readers.
//!
//! Runs in a task of its own beside the other parts. Holds at most two batches in memory (I7). It is never cut while a
//! write is under way: told to stop, it ends after that. Begun and judged by [`super::parts`] alone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::plan::{Id, Plan};
use super::run::{Incoming, stopped};
use super::{Fill, FillError, Source};
use crate::cache::Panicked;
use crate::cache::store::{Ingest, Scatter};
use crate::upstream::{BlobAnswer, Class, Effort, Lead, is_progress};

/// Received bytes that wait for the disk at most; then the upstream is read no further.
const BATCH: usize = 1 << 20;

/// Bytes that are read back and hashed in one go: the blocking pool is not held for longer than that takes.
const HASHED: u64 = 8 << 20;

/// What the parts of one fill share.
#[derive(Debug)]
pub(super) struct Shared {
    pub fill: Arc<Fill>,
    pub source: Source,
    pub scatter: Scatter,
    pub hash: Hash,
    pub plan: Mutex<Plan>,
    pub known: Mutex<Known>,
    /// Something was written, or a part was answered.
    pub moved: Notify,
    /// Held by the part that is being read, where they are read in turn.
    pub turn: tokio::sync::Mutex<()>,
    /// Whether parts are read in turn: as long as one connection is fast enough, and nobody waits for what waits its turn.
    pub in_turn: watch::Sender<bool>,
    /// Turns true when all parts have to end.
    pub stop: watch::Sender<bool>,
}

/// The hash, and how far it is. Held while something is hashed, so it is never waited for outside the blocking pool.
#[derive(Debug)]
pub(super) struct Hash(Mutex<Option<Box<Ingest>>>);

impl Hash {
    pub fn new(ingest: Ingest) -> Self {
        Self(Mutex::new(Some(Box::new(ingest))))
    }

    /// Bytes hashed; `None` while some are being hashed.
    pub fn len(&self) -> Option<u64> {
        Some(self.0.try_lock()?.as_ref()?.len())
    }

    /// Hashes what has just been written, if it comes next and nobody else is hashing: then it need not be read back.
    /// Blocks as long as hashing takes.
    fn offer(&self, at: u64, chunks: &[Bytes]) {
        if let Some(mut ingest) = self.0.try_lock()
            && let Some(ingest) = ingest.as_mut()
        {
            ingest.follow(at, chunks);
        }
    }

    /// Reads back and hashes up to byte `until`, or as far as one go takes. Blocks.
    pub fn catch_up(&self, until: u64) -> io::Result<()> {
        let mut ingest = self.0.lock();
        ingest.as_mut().map_or(Ok(()), |ingest| ingest.absorb(until.min(ingest.len() + HASHED)))
    }

    /// The file, for good.
    pub fn take(&self) -> Option<Ingest> {
        self.0.lock().take().map(|ingest| *ingest)
    }
}

/// What the answers so far have said.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub total: u64,
    /// Where the last redirect led.
    pub lead: Option<Arc<Lead>>,
    /// The content's validator, by whether it came from where a redirect led.
    pub etag: Option<(bool, http::HeaderValue)>,
    /// Parts that were answered as they should be.
    pub answered: usize,
}

/// Why a part ended early.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// No answer, or one that broke off.
    Fill(FillError),
    /// An answer that does not fit those before it, in a word: this upstream's parts are not to be trusted.
    Odd(&'static str),
}

/// What a part begins with.
pub(super) enum Start {
    /// An answer that has come already.
    Answer(Box<Incoming>),
    /// A question for these bytes; as one more part than are needed, or as the only one.
    Ask {
        part: std::ops::Range<u64>,
        spare: bool,
        /// It is asked for ahead: the answer is read only once the part before it has come, so that the hash goes on from
        /// memory.
        in_turn: bool,
    },
    /// A question for all from this byte on.
    AskRest(u64),
}

/// How a part ended.
pub(super) struct Ended {
    pub id: Id,
    /// Bytes that it has brought.
    pub bytes: u64,
    /// Whether these are more than next to nothing for the time that it was waited for, its turn apart.
    pub progress: bool,
    /// Another answer had brought its bytes before.
    pub void: bool,
    /// How long it waited for its answer, and how long that took to come; of a part that waited for nothing else, neither a
    /// slot nor its turn.
    pub took: Option<(Duration, Duration)>,
    pub trouble: Option<Trouble>,
}

impl Ended {
    fn of(id: Id, bytes: u64, trouble: Option<Trouble>) -> Self {
        Self { id, bytes, progress: false, void: false, took: None, trouble }
    }
}

/// Runs a part to its end. Its claim is kept; the caller releases it.
pub(super) async fn run(shared: Arc<Shared>, id: Id, start: Start) -> Ended {
    let mut stop = shared.stop.subscribe();
    let in_turn = matches!(start, Start::Answer(_) | Start::Ask { in_turn: true, .. });
    let is_timed = matches!(start, Start::Ask { spare: true, in_turn: false, .. });
    let asked = Instant::now();
    let body = async {
        let body = open(&shared, id, start).await?;
        let answered = Instant::now();
        let mut still_in_turn = shared.in_turn.subscribe();
        let turn = tokio::select! {
            biased;
            turn = shared.turn.lock(), if in_turn => Some(turn),
            _ = still_in_turn.wait_for(|still| !still), if in_turn => None,
            else => None,
        };
        Ok((body, answered, turn))
    };
    let body = tokio::select! {
        body = body => body,
        () = stopped(&mut stop) => Err(Trouble::Fill(FillError::Stopping)),
    };
    match body {
        Ok((Some(body), answered, _turn)) => {
            let read = Instant::now();
            let ended = receive(&shared, id, body).await;
            let progress = is_progress(ended.bytes, (answered - asked) + read.elapsed());
            Ended { took: is_timed.then(|| (answered - asked, answered.elapsed())), progress, ..ended }
        }
        Ok((None, ..)) => Ended { void: true, ..Ended::of(id, 0, None) },
        Err(trouble) => Ended::of(id, 0, Some(trouble)),
    }
}

/// `None`: the bytes have come by another way.
async fn open(shared: &Shared, id: Id, start: Start) -> Result<Option<Incoming>, Trouble> {
    let Source { upstream, repository, .. } = &shared.source;
    let digest = &shared.fill.digest;
    let fail = |error| Trouble::Fill(FillError::Upstream(error));
    match start {
        Start::Answer(body) => Ok(Some(*body)),
        Start::AskRest(from) => {
            let answer = upstream.resume_blob(repository, digest, from).await.map_err(fail)?;
            let expected = shared.known.lock().total;
            if let Some(got) = answer.total.filter(|total| *total != expected) {
                let (upstream, digest) = (upstream.name().clone(), *digest);
                return Err(Trouble::Fill(FillError::Length { upstream, digest, expected, got }));
            }
            Ok(Some(Incoming::new(&shared.fill, answer.body, from - answer.start)))
        }
        Start::Ask { part, spare, in_turn: _ } => {
            let lead = shared.known.lock().lead.clone();
            let effort = if spare { Effort::Spare } else { Effort::Once };
            let asked = upstream.blob_part(repository, digest, part.clone(), lead.as_deref(), effort).await;
            let answer = asked.map_err(|error| match error.class() {
                Class::Invalid => Trouble::Odd("it does not answer to a range as it should"),
                _ => fail(error),
            })?;
            agrees(shared, &part, &answer).map_err(Trouble::Odd)?;
            if !shared.plan.lock().answered(id) {
                // An open answer has brought it in the meantime.
                return Ok(None);
            }
            shared.known.lock().answered += 1;
            shared.moved.notify_one();
            Ok(Some(Incoming::new(&shared.fill, answer.body, 0)))
        }
    }
}

/// Whether an answer is the part that was asked for, of the same content as the parts before.
fn agrees(shared: &Shared, part: &std::ops::Range<u64>, answer: &BlobAnswer) -> Result<(), &'static str> {
    let mut known = shared.known.lock();
    if !answer.ranges || (answer.start, answer.end) == (0, Some(known.total)) {
        return Err("it ignores Range");
    }
    if answer.start != part.start || answer.end.is_none_or(|end| end > part.end) {
        return Err("it sends other ranges than are asked for");
    }
    if answer.total.is_some_and(|total| total != known.total) {
        return Err("its parts do not agree on the size");
    }
    let led = answer.lead.is_some();
    if let (Some((before, etag)), Some(now)) = (&known.etag, &answer.etag)
        && *before == led
        && etag != now
    {
        return Err("its parts have different ETags");
    }
    if known.etag.is_none() {
        known.etag = answer.etag.clone().map(|etag| (led, etag));
    }
    known.lead.clone_from(&answer.lead);
    Ok(())
}

/// Batches on their way to the disk.
#[derive(Default)]
struct Lane {
    pending: Vec<(u64, Bytes)>,
    pending_bytes: usize,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl Lane {
    fn start(&mut self, shared: &Arc<Shared>) {
        if self.writing.is_none() && !self.pending.is_empty() {
            let (batch, shared) = (std::mem::take(&mut self.pending), shared.clone());
            self.pending_bytes = 0;
            self.writing = Some(spawn_blocking(move || write(&shared, batch)));
        }
    }

    /// Waits for the batch under way. Cancel-safe.
    async fn written(&mut self) -> io::Result<()> {
        let Some(job) = &mut self.writing else { return Ok(()) };
        let done = job.await;
        self.writing = None;
        done.map_err(Panicked::from)?
    }
}

/// Blocks. Neighbours are written together.
fn write(shared: &Shared, batch: Vec<(u64, Bytes)>) -> io::Result<()> {
    let mut batch = batch.into_iter().peekable();
    while let Some((at, first)) = batch.next() {
        let mut end = at + first.len() as u64;
        let mut chunks = vec![first];
        while let Some((_, chunk)) = batch.next_if(|(next, _)| *next == end) {
            end += chunk.len() as u64;
            chunks.push(chunk);
        }
        shared.scatter.write(at, &chunks)?;
        // Readers first; the hash before the frontier moves, so that nobody begins to read back what is in memory here.
        shared.fill.progress.fill(at..end);
        shared.hash.offer(at, &chunks);
        shared.plan.lock().wrote(at..end);
        shared.moved.notify_one();
    }
    Ok(())
}

/// Moves bytes from the answer to the file, to the end of the part. What has come is written, whatever comes then.
async fn receive(shared: &Arc<Shared>, id: Id, body: Incoming) -> Ended {
    let (mut lane, mut bytes, mut trouble) = (Lane::default(), 0, None);
    let mut body = Some(body);
    let mut stop = shared.stop.subscribe();
    while body.is_some() || lane.writing.is_some() {
        tokio::select! {
            written = lane.written(), if lane.writing.is_some() => {
                if let Err(error) = written {
                    (body, trouble) = (None, Some(Trouble::Fill(error.into())));
                    lane.pending.clear();
                }
                lane.start(shared);
            }
            chunk = chunk_of(&mut body), if body.is_some() && lane.pending_bytes < BATCH => match chunk {
                Some(Ok(chunk)) => {
                    let at = shared.plan.lock().position(id);
                    let (pieces, on) = shared.plan.lock().take(id, chunk.len() as u64);
                    for piece in pieces {
                        // Within the chunk, whose length is a usize.
                        let slice = chunk.slice((piece.start - at) as usize..(piece.end - at) as usize);
                        bytes += slice.len() as u64;
                        lane.pending_bytes += slice.len();
                        lane.pending.push((piece.start, slice));
                    }
                    if !on {
                        body = None;
                    }
                    lane.start(shared);
                }
                Some(Err(error)) => (body, trouble) = (None, Some(Trouble::Fill(error.into()))),
                None => body = None,
            },
            () = stopped(&mut stop), if body.is_some() => {
                (body, trouble) = (None, Some(Trouble::Fill(FillError::Stopping)));
            }
        }
    }
    Ended::of(id, bytes, trouble)
}

/// Cancel-safe.
async fn chunk_of(body: &mut Option<Incoming>) -> Option<Result<Bytes, crate::upstream::UpstreamError>> {
    match body {
        Some(body) => body.chunk().await,
        None => std::future::pending().await,
    }
}
