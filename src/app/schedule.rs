//! `[[prefetch]]`: keeps chosen images warm.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::Prefetch;
use crate::metrics::{Metrics, gauge};
use crate::pull::Pull;
use crate::transfer::prefetch::{Options, prefetch};

/// How soon what could not be fetched is tried again, at first; then twice as late each time, up to `every`. A mirror may
/// be up before its network is.
const RETRY: Duration = Duration::from_secs(60);

/// Fetches the images of one entry, which is the one at `place` of the configuration, then waits, for ever.
pub(super) async fn run(pull: Arc<Pull>, metrics: Arc<Metrics>, entry: Prefetch, place: usize) {
    let options = Options { platforms: entry.platforms, referrers: entry.with_referrers, ..Options::default() };
    let failing = metrics.prefetch_failing.with_label_values(&[&place.to_string()]);
    let mut retry = RETRY;
    loop {
        let (sender, mut events) = mpsc::channel(64);
        // Nobody looks: the outcomes say enough.
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        // Of an upstream that is offline nothing is asked: its images are reported as failed.
        let outcomes = prefetch(pull.clone(), entry.images.clone(), options.clone(), sender).await;
        for outcome in &outcomes {
            if let Some(error) = &outcome.error {
                tracing::warn!(image = outcome.image, error, "cannot prefetch an image");
            }
        }
        let fetched: u64 = outcomes.iter().map(|outcome| outcome.fetched).sum();
        let failed = outcomes.iter().filter(|outcome| outcome.error.is_some()).count();
        tracing::info!(images = outcomes.len(), failed, fetched_bytes = fetched, "prefetched");
        failing.set(gauge(failed));
        let pause = next(&mut retry, entry.every, failed > 0);
        tokio::time::sleep(pause).await;
    }
}

/// The pause after a run.
fn next(retry: &mut Duration, every: Duration, failed: bool) -> Duration {
    let every = every.max(Duration::from_secs(1));
    if !failed {
        *retry = RETRY;
        return every;
    }
    let pause = every.min(*retry);
    *retry = retry.saturating_mul(2);
    pause
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_tried_again_soon_and_then_less_often() {
        let (mut retry, every) = (RETRY, Duration::from_secs(200));
        let mut seconds = |failed| next(&mut retry, every, failed).as_secs();
        assert_eq!([seconds(true), seconds(true), seconds(true), seconds(true)], [60, 120, 200, 200]);
        assert_eq!([seconds(false), seconds(true)], [200, 60]);
        assert_eq!(next(&mut { RETRY }, Duration::ZERO, true), Duration::from_secs(1));
    }
}
