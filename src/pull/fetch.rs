//! Pulls that no client waits for: what a prefetch brings into the cache. The same flights and fills as clients', so
//! that both share one download.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::visibility::{Asker, Evidence};
use super::what::What;
use super::{Pull, PullError};
use crate::cache::Cache;
use crate::fill::{FillError, Source};
use crate::oci::route::ReferrersQuery;
use crate::oci::{Digest, Reference, Scope, Tag};
use crate::upstream::{Need, Upstream};

/// Longest list of tags that is followed from page to page.
const MAX_PAGES: usize = 1000;

impl Pull {
    /// The cache that pulls fill.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Whether the upstream may not be asked now.
    pub fn is_offline(&self, scope: &Scope) -> bool {
        self.site_of(&scope.upstream).is_none_or(|site| site.upstream.is_offline())
    }

    /// All upstreams, in order of their names.
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        self.sites.load().values().map(|site| site.upstream.clone()).collect()
    }

    /// Whether the upstream is mirrored.
    pub fn knows(&self, scope: &Scope) -> bool {
        self.sites.load().contains_key(&scope.upstream)
    }

    /// The pulls that an upstream has left, if they are kept for clients (`quota_reserve`).
    pub fn kept_for_clients(&self, scope: &Scope) -> Option<u64> {
        self.site_of(&scope.upstream)?.upstream.kept_for_clients()
    }

    /// Asks the upstream what a tag stands for now, and brings that manifest into the cache. Cancel-safe.
    pub async fn refresh(self: &Arc<Self>, scope: &Scope, tag: &Tag) -> Result<Digest, PullError> {
        if self.is_offline(scope) {
            return Err(PullError::Offline { scope: scope.clone(), what: What::Tag(tag.clone()) });
        }
        let landed = self.check_tag(scope, &Asker::Mirror, tag, Need::Content, |_| false).await.ok_or(PullError::Internal)?;
        landed.value.map(|confirmed| confirmed.digest())
    }

    /// A manifest's bytes, from the cache or the upstream. Cancel-safe.
    pub async fn manifest_bytes(self: &Arc<Self>, scope: &Scope, digest: &Digest) -> Result<Bytes, PullError> {
        if let Some(held) = self.held(scope, digest).await {
            // What came through a private upstream is shown for this repository only if its own upstream says that it has
            // it.
            self.vouch(scope, &Asker::Mirror, Evidence::Manifest(Reference::Digest(*digest))).await?;
            return Ok(held.bytes);
        }
        if self.is_offline(scope) {
            return Err(PullError::Offline { scope: scope.clone(), what: What::Manifest(*digest) });
        }
        let bytes = self.fetch_manifest(scope, &Asker::Mirror, digest).await?.held.bytes;
        self.vouch_for_others(scope, Evidence::Manifest(Reference::Digest(*digest)), digest).await?;
        Ok(bytes)
    }

    /// Brings a blob of `size` bytes into the cache; `progress` is told how many bytes are here. `false`: it was here
    /// already. Cancel-safe: a fill that has begun goes on.
    pub async fn blob_into_cache(
        self: &Arc<Self>,
        scope: &Scope,
        digest: &Digest,
        size: u64,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<bool, PullError> {
        // Where the tree cannot be read, the fill says so.
        let _ = self.cache.until_scanned().await;
        if self.cache.has(digest).is_some() {
            self.vouch(scope, &Asker::Mirror, Evidence::Blob(*digest)).await?;
            return Ok(false);
        }
        if self.is_offline(scope) {
            return Err(PullError::Offline { scope: scope.clone(), what: What::Blob(*digest) });
        }
        let source =
            Source { upstream: self.site(scope)?.upstream.clone(), repository: scope.repository.clone(), size: Some(size) };
        let cannot = |error| PullError::Fill(FillError::from(error));
        let reader = loop {
            let join = self.join(scope, digest, source.clone()).await.map_err(cannot)?;
            let mut at = 0;
            let ended = loop {
                match join.reader.beyond(at).await {
                    Ok(Some(written)) => {
                        at = written;
                        progress(at);
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            match ended {
                Ok(()) => break join.reader,
                // Another repository or upstream failed; this one is asked itself.
                Err(error) if !join.began && join.reader.leaves_hope(&error, &source) => {}
                Err(error) => return Err(error.into()),
            }
        };
        reader.ended().await;
        if self.cache.has(digest).is_some() {
            self.vouch_for_others(scope, Evidence::Blob(*digest), digest).await?;
            return Ok(true);
        }
        Err(PullError::Fill(FillError::from(std::io::Error::other("the blob was downloaded and could not be kept"))))
    }

    /// Where what has come is confined to other upstreams, because a download of theirs was joined, asks this upstream
    /// whether it has it, too. Without that its own repositories could not be served it later.
    async fn vouch_for_others(self: &Arc<Self>, scope: &Scope, evidence: Evidence, digest: &Digest) -> Result<(), PullError> {
        match self.cache.confined.of(digest) {
            Some(holders) if !holders.contains(&scope.upstream) => self.vouch(scope, &Asker::Mirror, evidence).await,
            _ => Ok(()),
        }
    }

    /// All tags of a repository, as the upstream lists them.
    pub async fn list_tags(self: &Arc<Self>, scope: &Scope) -> Result<Vec<Tag>, PullError> {
        if self.is_offline(scope) {
            return Err(PullError::Offline { scope: scope.clone(), what: What::Tags });
        }
        let upstream = self.site(scope)?.upstream.clone();
        let (mut tags, mut query) = (Vec::new(), String::new());
        for _ in 0..MAX_PAGES {
            let listing = upstream.tags(&scope.repository, &query).await?;
            let page: Value = serde_json::from_slice(&listing.bytes).unwrap_or_default();
            let listed = page["tags"].as_array().into_iter().flatten();
            tags.extend(listed.filter_map(|tag| tag.as_str()?.parse::<Tag>().ok()));
            match listing.next {
                Some(next) if next != query => query = next,
                _ => break,
            }
        }
        Ok(tags)
    }

    /// The list of what refers to a manifest, which is also kept for offline clients.
    pub async fn list_referrers(self: &Arc<Self>, scope: &Scope, digest: &Digest) -> Result<Bytes, PullError> {
        Ok(self.ask_for_referrers(scope, &Asker::Mirror, digest, &ReferrersQuery::default()).await?.body)
    }
}
