//! How fast blobs are taken from one upstream: a byte rate shared by all its downloads.
//!
//! A schedule instead of a bucket: each chunk that has arrived is given the next piece of time, and its reader reads
//! on when that is over. What is not read is not acknowledged, so that TCP slows the sender down. Pure but for the
//! lock; [`super::blob::BlobBody`] waits.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    /// When everything that was taken so far is paid for.
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::default() }
    }

    /// So many bytes have come; when to read on.
    pub(super) fn taken(&self, now: Instant, bytes: u64) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut free_at = self.free_at.lock();
        let next = free_at.map_or(now, |at| at.max(now)) + cost;
        *free_at = Some(next);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_downloads_together_keep_the_rate() {
        let (start, pace) = (Instant::now(), Pace::new(1000));
        let reader = async {
            for _ in 0..10 {
                tokio::time::sleep_until(pace.taken(Instant::now(), 100)).await;
            }
        };
        let other = async {
            for _ in 0..10 {
                tokio::time::sleep_until(pace.taken(Instant::now(), 100)).await;
            }
        };
        tokio::join!(reader, other);
        let seconds = start.elapsed().as_secs_f64();
        assert!((1.99..2.02).contains(&seconds), "{seconds}");
        // Idle time is not saved up.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(pace.taken(Instant::now(), 1000), Instant::now() + Duration::from_secs(1));
    }
}
