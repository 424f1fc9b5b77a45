//! Large files that are hashed again because somebody asks for them: before the background pass comes by.
//!
//! A hit does not hash a large file, so a bit that has flipped in one, with neither length nor time changed, goes out with
//! it. Two things keep that from going on:
//!
//! - a file that is opened and was not hashed for [`SOUND`] is hashed behind its first reader, when what he reads is in the
//!   page cache anyway, at the pace of the background pass;
//! - a client that has been given the whole of one and asks for it again within [`AGAIN`], as one does that found it wrong,
//!   gets it only after it has been hashed, unless that was within [`FRESH`]. So nobody gets the same wrong file twice.
//!
//! Neither lets a client burn the CPU: an object is hashed once in those times, however often and by whomever it is asked
//! for, the first at `cache.verify_rate`, the second at [`RATE`] in the mean. What is remembered has a fixed size. Knows no
//! request; called by [`super::lookup`] and by `pull`.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Cache, SMALL};
use crate::clock::wall_seconds;
use crate::config;
use crate::oci::Digest;

/// For so many seconds after it was hashed, a file is not hashed behind a reader.
const SOUND: u32 = 24 * 3600;

/// For so many seconds after it was hashed, a file is given to the same client again without a look.
const FRESH: u32 = 3600;

/// Within so many seconds a client that found a blob wrong asks again: kubelet's longest pause, and two more downloads.
const AGAIN: u32 = 15 * 60;

/// Bytes a second that are hashed in the mean for clients that ask again; [`BURST`] of them at once.
const RATE: f64 = (64 << 20) as f64;

/// See [`RATE`].
const BURST: f64 = (8_u64 << 30) as f64;

/// Files that wait to be hashed behind their readers. What finds no place is left to the background pass.
const WAITING: usize = 256;

/// When something was last noted, in a table of fixed size whose entries overwrite each other. A lost one costs a look
/// too many, or one too few, which the background pass makes up for.
#[derive(Debug)]
struct Recent {
    /// Half of a hash, and seconds since 1970. 0: nothing.
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Recent {
    fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::new() }
    }

    fn slot(&self, key: impl Hash) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(key);
        (&self.slots[hash as usize % self.slots.len()], hash & !u64::from(u32::MAX))
    }

    /// Whether it was noted within so many seconds.
    fn was(&self, key: impl Hash, within: u32, now: u32) -> bool {
        let (slot, mark) = self.slot(key);
        let found = slot.load(Ordering::Relaxed);
        found & !u64::from(u32::MAX) == mark && now.saturating_sub(found as u32) < within
    }

    /// Notes it as of now.
    fn note(&self, key: impl Hash, now: u32) {
        let (slot, mark) = self.slot(key);
        slot.store(mark | u64::from(now), Ordering::Relaxed);
    }
}

/// What may still be hashed for clients that ask again.
#[derive(Debug)]
struct Budget {
    bytes: f64,
    at: Instant,
}

impl Budget {
    /// One file may be larger than what is left: then there is none for a while.
    fn take(&mut self, size: u64, now: Instant) -> bool {
        self.bytes = BURST.min(self.bytes + now.duration_since(self.at).as_secs_f64() * RATE);
        self.at = now;
        let granted = self.bytes > 0.0;
        if granted {
            self.bytes -= size as f64;
        }
        granted
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Doubts {
    /// Files by when they were found to be right.
    hashed: Recent,
    /// Files by when they were last put into the queue.
    queued: Recent,
    /// Whole files and clients, by when one was last given to the other.
    given: Recent,
    budget: Mutex<Budget>,
    /// Bytes a second that are hashed behind readers; `None`: none, 0: as fast as the disk reads.
    rate: Option<u64>,
    queue: mpsc::Sender<(Digest, u64)>,
    /// Taken by the maintenance task.
    waiting: Mutex<Option<mpsc::Receiver<(Digest, u64)>>>,
}

impl Doubts {
    pub fn new(config: &config::Cache) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        Self {
            hashed: Recent::new(1 << 15),
            queued: Recent::new(1 << 12),
            given: Recent::new(1 << 14),
            budget: Mutex::new(Budget { bytes: BURST, at: Instant::now() }),
            rate: (!config.verify_every.is_zero()).then_some(config.verify_rate),
            queue,
            waiting: Mutex::new(Some(waiting)),
        }
    }

    /// A file was hashed, and is right.
    pub fn sound(&self, digest: &Digest) {
        self.hashed.note(digest, wall_seconds());
    }

    /// A large file was opened for a reader.
    pub fn opened(&self, digest: &Digest, size: u64) {
        let now = wall_seconds();
        if self.rate.is_none() || self.hashed.was(digest, SOUND, now) || self.queued.was(digest, SOUND, now) {
            return;
        }
        if self.queue.try_send((*digest, size)).is_ok() {
            self.queued.note(digest, now);
        }
    }

    /// A client is given the whole of a large file. `true`: it shall be hashed before.
    fn given(&self, digest: &Digest, client: IpAddr, size: u64) -> bool {
        let (key, now) = ((digest, client), wall_seconds());
        let again = self.given.was(key, AGAIN, now);
        self.given.note(key, now);
        let budget = || self.budget.lock().take(size, Instant::now());
        again && !self.hashed.was(digest, FRESH, now) && budget()
    }
}

impl Cache {
    /// A client is about to be given the whole of an object that is in a file. `true`: it got it a moment ago, too, and
    /// nobody has looked at the file since. It is looked at now; [`Cache::get`] waits for what comes of that.
    pub fn recheck_if_asked_again(&self, digest: &Digest, client: IpAddr, size: u64) -> bool {
        let doubtful = size > SMALL && self.doubts.given(digest, client, size);
        if doubtful {
            tracing::debug!(%digest, "a client asks for the same blob again; its file is hashed first");
            self.alarm(digest).ring();
        }
        doubtful
    }

    /// Hashes what was opened, behind its readers, for ever.
    pub(super) async fn follow_readers(self: Arc<Self>) {
        let waiting = self.doubts.waiting.lock().take();
        let (Some(mut waiting), Some(rate)) = (waiting, self.doubts.rate) else { return };
        while let Some((digest, size)) = waiting.recv().await {
            let _ = self.blocking(move |cache| cache.check(&digest)).await;
            if rate > 0 {
                tokio::time::sleep(Duration::from_secs_f64(size as f64 / rate as f64)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn digest(n: u64) -> Digest {
        Digest::of(Algorithm::Sha256, &n.to_le_bytes())
    }

    #[test]
    fn who_asks_again_makes_it_be_hashed_once() {
        let doubts = Doubts::new(&config::Cache::default());
        let (other, size) = ("10.0.0.1".parse().unwrap(), 1 << 20);
        assert!(!doubts.given(&digest(1), CLIENT, size), "the first time");
        assert!(!doubts.given(&digest(2), CLIENT, size) && !doubts.given(&digest(1), other, size));
        assert!(doubts.given(&digest(1), CLIENT, size));
        doubts.sound(&digest(1));
        assert!(!doubts.given(&digest(1), CLIENT, size) && !doubts.given(&digest(1), other, size));
    }

    #[test]
    fn all_together_have_a_budget() {
        let start = Instant::now();
        let mut budget = Budget { bytes: BURST, at: start };
        assert!(budget.take(u64::MAX >> 20, start), "one file, however large");
        assert!(!budget.take(1, start) && !budget.take(1, start + Duration::from_secs(3600)));
        let mut budget = Budget { bytes: 0.0, at: start };
        let later = start + Duration::from_secs(1);
        assert!(budget.take(RATE as u64 + 1, later) && !budget.take(1, later));
        assert!(budget.take(1, later + Duration::from_secs(1)));
    }

    #[test]
    fn a_file_waits_once_and_the_queue_has_an_end() {
        let doubts = Doubts::new(&config::Cache::default());
        doubts.sound(&digest(1));
        for _ in 0..3 {
            (0..1000).for_each(|n| doubts.opened(&digest(n), 1));
        }
        let mut waiting = doubts.waiting.lock().take().unwrap();
        let found: Vec<Digest> = std::iter::from_fn(|| waiting.try_recv().ok()).map(|(digest, _)| digest).collect();
        assert_eq!(found.len(), WAITING);
        assert!(!found.contains(&digest(1)) && found.contains(&digest(2)));
        let never = Doubts::new(&config::Cache { verify_every: Duration::ZERO, ..config::Cache::default() });
        never.opened(&digest(1), 1);
        assert!(never.waiting.lock().take().unwrap().try_recv().is_err());
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let recent = Recent::new(64);
        recent.note(1, 1000);
        assert!(recent.was(1, 10, 1009) && !recent.was(1, 10, 1010) && !recent.was(2, 10, 1000));
        assert!(recent.was(1, 10, 900), "a clock that went back");
    }
}
