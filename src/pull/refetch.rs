//! Fetching again what was found damaged, before anybody asks for it.

use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;

use super::Pull;
use super::visibility::Asker;
use crate::fill::{FillError, Join, Source};
use crate::oci::{Digest, Scope};

/// Repositories tried for one object.
const TRIED: usize = 8;

impl Pull {
    /// Fetches what the cache finds damaged, for ever. One task a mirror.
    pub async fn replace_damaged(self: Arc<Self>) {
        let mut damaged = self.cache.damaged();
        loop {
            match damaged.recv().await {
                Ok(digest) => self.refetch(&digest).await,
                // The next pull fetches what was missed here.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn refetch(self: &Arc<Self>, digest: &Digest) {
        for scope in self.cache.catalog.repositories_of(digest, TRIED) {
            let Ok(site) = self.site(&scope) else { continue };
            if site.upstream.is_offline() {
                continue;
            }
            let fetched = if self.cache.catalog.is_manifest(digest) {
                self.fetch_manifest(&scope, &Asker::Mirror, digest).await.map(drop).map_err(|error| error.to_string())
            } else {
                let source = Source {
                    upstream: site.upstream.clone(),
                    repository: scope.repository.clone(),
                    size: self.sizes.get(&(scope.clone(), *digest)),
                };
                self.refetch_blob(&scope, digest, source).await.map_err(|error| error.to_string())
            };
            match fetched {
                Ok(()) => {
                    tracing::info!(%digest, upstream = %scope.upstream, repository = %scope.repository, "fetching damaged content again");
                    return;
                }
                Err(error) => tracing::warn!(%digest, upstream = %scope.upstream, %error, "cannot fetch damaged content again"),
            }
        }
    }
    async fn refetch_blob(self: &Arc<Self>, scope: &Scope, digest: &Digest, source: Source) -> Result<(), FillError> {
        loop {
            let Join { reader, began } = self.join(scope, digest, source.clone()).await?;
            match reader.total().await {
                Ok(_) => return Ok(()),
                // Whoever found the damage asks for it by a repository or upstream of theirs; this one has its own.
                Err(error) if !began && reader.leaves_hope(&error, &source) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
