//! Who fills what: at most one fill per digest (I3).
//!
//! Owns the table of running fills. A fill enters it before it runs, and leaves it before anybody hears that it has ended, so
//! that whoever asks then begins anew. Never downloads; called by `pull` to join or begin.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::reader::FillReader;
use super::run::Run;
use super::{Fill, FillError, Source};
use crate::cache::Cache;
use crate::config;
use crate::hop;
use crate::metrics::Metrics;
use crate::oci::{Digest, UpstreamName};

/// All fills of a mirror.
#[derive(Debug)]
pub struct Fills {
    table: Mutex<HashMap<Digest, Arc<Fill>>>,
    pub(super) cache: Arc<Cache>,
    pub(super) config: config::Fill,
    pub(super) metrics: Arc<Metrics>,
    /// Turns true when fills have to end.
    pub(super) stopping: watch::Sender<bool>,
    /// Number of running fills.
    running: watch::Sender<usize>,
    /// Where fills run: not on the thread of the connection that began one (I6).
    runtime: Handle,
}

/// A place at a fill.
#[derive(Debug)]
pub struct Join {
    /// What follows it.
    pub reader: FillReader,
    /// Whether this call began it.
    pub began: bool,
}

impl Fills {
    /// An empty table. Called within the runtime on which fills will run.
    pub fn new(cache: Arc<Cache>, config: config::Fill, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            cache,
            config,
            metrics,
            stopping: watch::Sender::new(false),
            running: watch::Sender::new(0),
            runtime: Handle::current(),
        })
    }

    /// Joins the fill of `digest` if there is one.
    pub fn join_running(&self, digest: &Digest) -> Option<Join> {
        let table = self.table.lock();
        let fill = table.get(digest).filter(|fill| !fill.progress.has_failed())?;
        Some(Join { reader: FillReader::new(fill.clone()), began: false })
    }

    /// Joins the fill of `digest`, or begins it from `source`. Returns at once; the fill runs in its own task and
    /// does not depend on the caller (I6).
    pub fn join(self: &Arc<Self>, digest: &Digest, source: Source) -> Join {
        let (join, begun) = self.enter(digest, &source);
        if let Some((fill, entry)) = begun {
            self.runtime.spawn(hop::carried(Run::new(self.clone(), fill, source).run(entry)));
        }
        join
    }

    /// A place at the fill of `digest`; if there was none, also the new fill, which the caller must run.
    pub(super) fn enter(self: &Arc<Self>, digest: &Digest, source: &Source) -> (Join, Option<(Arc<Fill>, Entry)>) {
        let fill = {
            let mut table = self.table.lock();
            match table.get(digest) {
                // One that has failed is about to leave the table: nobody joins it any more.
                Some(fill) if !fill.progress.has_failed() => {
                    return (Join { reader: FillReader::new(fill.clone()), began: false }, None);
                }
                _ => {}
            }
            let fill = Arc::new(Fill::new(*digest, source.clone()));
            table.insert(*digest, fill.clone());
            fill
        };
        let join = Join { reader: FillReader::new(fill.clone()), began: true };
        self.metrics.fills_in_flight.inc();
        self.running.send_modify(|running| *running += 1);
        let entry = Entry::new(self.clone(), fill.clone());
        (join, Some((fill, entry)))
    }

    /// Whether a fill of `digest` runs that [`Fills::join`] would join.
    pub fn is_running(&self, digest: &Digest) -> bool {
        self.upstream_of(digest).is_some()
    }

    /// Through which upstream the fill runs that [`Fills::join`] would join.
    pub fn upstream_of(&self, digest: &Digest) -> Option<UpstreamName> {
        let table = self.table.lock();
        let fill = table.get(digest).filter(|fill| !fill.progress.has_failed())?;
        Some(fill.source.upstream.name().clone())
    }

    /// Ends all fills, leaving on disk what can be resumed; waits for them at most `patience`.
    pub async fn stop(&self, patience: Duration) {
        self.stopping.send_replace(true);
        let mut running = self.running.subscribe();
        let stopped = tokio::time::timeout(patience, running.wait_for(|running| *running == 0)).await.is_ok();
        if !stopped {
            tracing::warn!("some downloads did not stop in time; they are resumed at the next start");
        }
    }
}

/// A fill's place in the table, for its task. Dropped when the task ends, however it ends.
#[derive(Debug)]
pub(super) struct Entry(Option<Place>);

impl Entry {
    fn new(fills: Arc<Fills>, fill: Arc<Fill>) -> Self {
        Self(Some(Place { fills, fill, error: FillError::Internal }))
    }

    /// The fill has failed.
    pub fn fail(mut self, error: FillError) {
        if let Some(mut place) = self.0.take() {
            place.error = error;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Some(place) = self.0.take() else { return };
        if place.fill.progress.has_ended() {
            return;
        }
        // The task has panicked. What it had written is counted before another fill of the digest can begin.
        let (runtime, cache) = (place.fills.runtime.clone(), place.fills.cache.clone());
        runtime.spawn_blocking(move || {
            cache.recount(&place.fill.digest);
            drop(place);
        });
    }
}

/// See [`Entry`].
#[derive(Debug)]
struct Place {
    fills: Arc<Fills>,
    fill: Arc<Fill>,
    /// What its readers are told, if the fill has not come to its end.
    error: FillError,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.fills.table.lock();
        // A failed fill may have been replaced already.
        if table.get(&self.fill.digest).is_some_and(|fill| Arc::ptr_eq(fill, &self.fill)) {
            table.remove(&self.fill.digest);
        }
        drop(table);
        self.fill.ended();
        self.fills.metrics.fills_in_flight.dec();
        if matches!(self.error, FillError::Internal) && !self.fill.progress.has_ended() {
            let labels = [self.fill.source.upstream.name().as_str(), self.error.reason()];
            self.fills.metrics.fill_failures_total.with_label_values(&labels).inc();
        }
        // Out of the table before anybody hears of it: who asks again begins anew.
        if !self.fill.progress.has_ended() {
            self.fill.progress.fail(self.error.clone());
        }
        self.fills.running.send_modify(|running| *running -= 1);
    }
}
