//! The writing half of a fill: takes bytes from the network, hands them in batches to the blocking pool.
//!
//! While one batch is hashed and written, the next one is received: one hop a batch, not a chunk, and no thread that
//! waits for a slow upstream. Holds at most two batches in memory, whatever the size of the blob (I7). Used by
//! [`super::run`] alone.

use std::io;

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::cache::Panicked;
use crate::cache::store::Ingest;

/// Received bytes that wait for the disk at most; then the upstream is read no further.
const BATCH: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Writer {
    state: State,
    /// Received, not yet handed on.
    pending: Vec<Bytes>,
    pending_bytes: usize,
    /// Bytes received in all: where the next byte of the upstream belongs.
    received: u64,
}

#[derive(Debug)]
enum State {
    Idle(Box<Ingest>),
    Writing(JoinHandle<(Box<Ingest>, Vec<Bytes>, io::Result<()>)>),
    /// The blocking task is gone: it panicked, or the runtime shuts down.
    Lost,
}

impl Writer {
    /// Writes to `ingest`, after what is there.
    pub fn new(ingest: Ingest) -> Self {
        let received = ingest.len();
        Self { state: State::Idle(Box::new(ingest)), pending: Vec::new(), pending_bytes: 0, received }
    }

    /// Bytes received in all, those of an earlier fill included.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether more bytes should be received now.
    pub fn has_room(&self) -> bool {
        self.pending_bytes < BATCH
    }

    /// Takes in the next bytes.
    pub fn push(&mut self, chunk: Bytes) {
        self.received += chunk.len() as u64;
        self.pending_bytes += chunk.len();
        self.pending.push(chunk);
        self.start();
    }

    /// Whether bytes are on their way to the disk.
    pub fn is_busy(&self) -> bool {
        matches!(self.state, State::Writing(_))
    }

    fn start(&mut self) {
        if self.pending.is_empty() || !matches!(self.state, State::Idle(_)) {
            return;
        }
        if let State::Idle(mut ingest) = std::mem::replace(&mut self.state, State::Lost) {
            let batch = std::mem::take(&mut self.pending);
            self.pending_bytes = 0;
            self.state = State::Writing(spawn_blocking(move || {
                let written = ingest.append(&batch);
                (ingest, batch, written)
            }));
        }
    }

    /// Waits for the batch under way; the number of bytes in the file. Cancel-safe. After an error the batch is kept,
    /// and [`Writer::retry`] writes it again.
    pub async fn written(&mut self) -> io::Result<u64> {
        if let State::Writing(job) = &mut self.state {
            let done = job.await;
            self.state = State::Lost;
            let (ingest, batch, written) = done.map_err(Panicked::from)?;
            let len = ingest.len();
            self.state = State::Idle(ingest);
            if let Err(error) = written {
                self.pending_bytes += batch.iter().map(Bytes::len).sum::<usize>();
                self.pending.splice(0..0, batch);
                return Err(error);
            }
            self.start();
            return Ok(len);
        }
        match &self.state {
            State::Idle(ingest) => Ok(ingest.len()),
            _ => Err(Panicked.into()),
        }
    }

    /// Tries once more to write what could not be written.
    pub fn retry(&mut self) {
        self.start();
    }

    /// The file, once nothing is under way. Bytes that could not be written are dropped: the file is as long as its
    /// hash says.
    pub async fn into_ingest(mut self) -> io::Result<Ingest> {
        if let State::Writing(job) = self.state {
            let (ingest, ..) = job.await.map_err(Panicked::from)?;
            self.state = State::Idle(ingest);
        }
        match self.state {
            State::Idle(ingest) => Ok(*ingest),
            _ => Err(Panicked.into()),
        }
    }
}
