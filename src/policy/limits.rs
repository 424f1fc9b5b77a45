//! How much one identity may ask: requests a second, and downloads at one time.
//!
//! Owns the counts; how much is allowed comes with each call, since it can change while the mirror runs. What is remembered is
//! bounded, whoever asks. Called by [`super::Policy`], and by `pull` through a [`super::Permit`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::TooManyFills;
use super::identity::Key;
use crate::config::Pace;

/// Identities remembered.
const IDENTITIES: u64 = 100_000;
/// Who has asked nothing for so long has its whole burst again, whatever the pace.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// Requests a second by identity: the generic cell rate algorithm (ITU-T I.371), one number each.
#[derive(Debug)]
pub(super) struct Meter {
    started: Instant,
    /// When the next request would be in time, in nanoseconds since `started`.
    due: Cache<Key, Arc<AtomicU64>>,
}

impl Meter {
    pub fn new() -> Self {
        let due = Cache::builder().max_capacity(IDENTITIES).time_to_idle(FORGOTTEN).build();
        Self { started: Instant::now(), due }
    }

    /// Counts a request. The error says when the next one will be taken.
    pub fn take(&self, key: Key, pace: Pace) -> Result<(), Duration> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let each = nanos(Duration::from_secs(1)) / u64::from(pace.per_second.max(1));
        let ahead = each.saturating_mul(u64::from(pace.burst.max(1)) - 1);
        let now = nanos(self.started.elapsed());
        let due = self.due.get_with(key, Arc::default);
        let next = |due: u64| {
            let due = due.max(now);
            (due - now <= ahead).then(|| due.saturating_add(each))
        };
        let taken = due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.map(|_| ()).map_err(|due| Duration::from_nanos(due.saturating_sub(now).saturating_sub(ahead)))
    }
}

/// Downloads by identity.
#[derive(Debug, Default)]
pub(super) struct Fills {
    /// Those who have begun any.
    begun: Mutex<HashMap<Key, Turns>>,
}

/// One identity's.
#[derive(Clone, Debug)]
struct Turns {
    limit: usize,
    free: Arc<Semaphore>,
}

/// How many downloads one identity may have begun.
#[derive(Clone, Debug)]
pub(super) struct FillLimit {
    pub fills: Arc<Fills>,
    pub key: Key,
    pub limit: usize,
}

impl FillLimit {
    /// As [`Fills::slot`].
    pub async fn slot(&self, patience: Duration) -> Result<FillSlot, TooManyFills> {
        let Self { fills, key, limit } = self;
        fills.slot(key.clone(), *limit, patience).await.ok_or(TooManyFills { limit: *limit })
    }
}

/// The right to begin a download. Held while it runs.
#[derive(Debug)]
pub struct FillSlot {
    fills: Arc<Fills>,
    key: Key,
    permit: Option<OwnedSemaphorePermit>,
}

impl Fills {
    /// Waits for its turn, in order, for `patience` at most. Cancel-safe.
    pub async fn slot(self: &Arc<Self>, key: Key, limit: usize, patience: Duration) -> Option<FillSlot> {
        // Made before the wait, so that an identity whose clients all left is forgotten.
        let mut slot = FillSlot { fills: self.clone(), key, permit: None };
        let free = {
            let new = || Turns { limit, free: Arc::new(Semaphore::new(limit)) };
            let mut begun = self.begun.lock();
            let turns = begun.entry(slot.key.clone()).or_insert_with(new);
            if turns.limit != limit {
                // Reloaded: those who hold one of the old ones are not counted among the new.
                *turns = new();
            }
            turns.free.clone()
        };
        slot.permit = Some(tokio::time::timeout(patience, free.acquire_owned()).await.ok()?.ok()?);
        Some(slot)
    }
}

impl Drop for FillSlot {
    fn drop(&mut self) {
        let mut begun = self.fills.begun.lock();
        self.permit = None;
        // Whoever holds one or waits for one shares the semaphore.
        if begun.get(&self.key).is_some_and(|turns| Arc::strong_count(&turns.free) == 1) {
            begun.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
