//! Fetching again what was found damaged, before anybody asks for it.
//!
//! Each in a task of its own, so that a large one does not hold up the others; a few at a time, because clients come first.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

use super::visibility::Asker;
use super::{Pull, PullError};
use crate::fill::Source;
use crate::oci::{Digest, Scope};

/// Repositories tried for one object.
const TRIED: usize = 8;
/// Objects fetched at one time.
const AT_ONCE: usize = 4;
/// Objects that wait for their turn at most, or are fetched.
const WAITING: usize = 1000;

impl Pull {
    /// Fetches what the cache finds damaged, for ever. One task a mirror.
    pub async fn replace_damaged(self: Arc<Self>) {
        let (mut damaged, mut running) = (self.cache.damaged(), JoinSet::new());
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            tokio::select! {
                found = damaged.recv() => match found {
                    Ok(digest) if running.len() < WAITING => {
                        let (this, places) = (self.clone(), places.clone());
                        running.spawn(async move {
                            // Never closed.
                            let _place = places.acquire().await;
                            this.refetch(&digest).await;
                        });
                    }
                    // The next pull fetches what was missed here.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                Some(_) = running.join_next(), if !running.is_empty() => {}
            }
        }
    }

    /// Asks one repository after the other, until one has brought it.
    async fn refetch(self: &Arc<Self>, digest: &Digest) {
        for scope in self.cache.catalog.repositories_of(digest, TRIED) {
            if self.is_offline(&scope) {
                continue;
            }
            let (upstream, repository) = (&scope.upstream, &scope.repository);
            match self.refetch_from(&scope, digest).await {
                Ok(()) => {
                    tracing::info!(%digest, %upstream, %repository, "damaged content was fetched again");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%digest, %upstream, %repository, %error, "cannot fetch damaged content again");
                }
            }
        }
    }

    async fn refetch_from(self: &Arc<Self>, scope: &Scope, digest: &Digest) -> Result<(), PullError> {
        if self.cache.catalog.is_manifest(digest) {
            return self.fetch_manifest(scope, &Asker::Mirror, digest).await.map(drop);
        }
        let source = Source {
            upstream: self.site(scope)?.upstream.clone(),
            repository: scope.repository.clone(),
            size: self.told_size(scope, digest),
        };
        Ok(self.fill_whole(scope, digest, &source, |_| {}).await?)
    }
}
