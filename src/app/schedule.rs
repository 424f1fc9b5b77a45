//! `[[prefetch]]`: keeps chosen images warm.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::Prefetch;
use crate::pull::Pull;
use crate::transfer::prefetch::{Options, prefetch};
use crate::transfer::{Platforms, Wish};

/// Fetches the images of one entry, then waits, for ever.
pub(super) async fn run(pull: Arc<Pull>, entry: Prefetch) {
    let parsed: Result<Vec<Wish>, _> = entry.images.iter().map(|image| image.parse()).collect();
    let platforms: Result<Platforms, _> = match entry.platforms[..] {
        [] => Ok(Platforms::default()),
        _ => entry.platforms.join(",").parse(),
    };
    let (wishes, platforms) = match (parsed, platforms) {
        (Ok(wishes), Ok(platforms)) => (wishes, platforms),
        (Err(error), _) => return tracing::error!(%error, "[[prefetch]] is left out"),
        (_, Err(error)) => return tracing::error!(%error, "[[prefetch]] is left out"),
    };
    let options = Options { platforms, referrers: entry.with_referrers, ..Options::default() };
    loop {
        // Of an upstream that is offline nothing is asked: its images are reported as failed.
        {
            let (sender, mut events) = mpsc::channel(64);
            // Nobody looks: the outcomes say enough.
            tokio::spawn(async move { while events.recv().await.is_some() {} });
            let outcomes = prefetch(pull.clone(), wishes.clone(), options.clone(), sender).await;
            for outcome in &outcomes {
                if let Some(error) = &outcome.error {
                    tracing::warn!(image = outcome.image, error, "cannot prefetch an image");
                }
            }
            let fetched: u64 = outcomes.iter().map(|outcome| outcome.fetched).sum();
            let failed = outcomes.iter().filter(|outcome| outcome.error.is_some()).count();
            tracing::info!(images = outcomes.len(), failed, fetched_bytes = fetched, "prefetched");
        }
        tokio::time::sleep(entry.every.max(Duration::from_secs(1))).await;
    }
}
