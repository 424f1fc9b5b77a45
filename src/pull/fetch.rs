//! Pulls that no client waits for: what a prefetch brings into the cache. The same flights and fills as clients', so
//! that both share one download.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::visibility::{Asker, Evidence};
use super::what::What;
use super::{Pull, PullError};
use crate::cache::Cache;
use crate::fill::{FillError, FillReader, Join, Source};
use crate::oci::route::ReferrersQuery;
use crate::oci::{Digest, Reference, Scope, Tag};
use crate::upstream::{Need, Upstream};

/// Longest list of tags that is followed from page to page.
const MAX_PAGES: usize = 1000;

/// A page of tags, which the upstream's side has found to be one.
#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

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
        let held = match self.held(scope, digest).await {
            Some(held) => held,
            None if self.is_offline(scope) => {
                return Err(PullError::Offline { scope: scope.clone(), what: What::Manifest(*digest) });
            }
            None => self.fetch_manifest(scope, &Asker::Mirror, digest).await?.held,
        };
        // What came through a private upstream, or another repository of it, is shown for this one only if its own upstream says
        // that it has it. That is written down, so that it is known when there is nobody to ask.
        self.vouch(scope, &Asker::Mirror, Evidence::Manifest(Reference::Digest(*digest))).await?;
        self.adopt(scope, digest, &held.media_type).await;
        Ok(held.bytes)
    }

    /// Brings a blob of `size` bytes into the cache; `progress` is told how many bytes are here. `false`: it was here
    /// already. Cancel-safe: a fill that has begun goes on.
    pub async fn blob_into_cache(
        self: &Arc<Self>,
        scope: &Scope,
        digest: &Digest,
        size: u64,
        progress: impl FnMut(u64) + Send,
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
        self.fill_whole(scope, digest, &source, progress).await?;
        self.vouch_for_others(scope, Evidence::Blob(*digest), digest).await?;
        Ok(true)
    }

    /// Begins or joins the fill of a blob, and waits until the cache has it; `progress` is told how many bytes are here.
    /// Cancel-safe: a fill that has begun goes on.
    pub(super) async fn fill_whole(
        &self,
        scope: &Scope,
        digest: &Digest,
        source: &Source,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<(), FillError> {
        let reader = loop {
            let Join { reader, began } = self.join(scope, digest, source.clone()).await?;
            match to_the_end(&reader, &mut progress).await {
                Ok(()) => break reader,
                // Another repository or upstream failed; this one is asked itself.
                Err(error) if !began && reader.leaves_hope(&error, source) => {}
                Err(error) => return Err(error),
            }
        };
        reader.ended().await;
        match self.cache.has(digest) {
            Some(_) => Ok(()),
            None => Err(std::io::Error::other("the blob was downloaded and could not be kept").into()),
        }
    }

    /// Where what has come is confined to other upstreams, because a download of theirs was joined, asks this upstream
    /// whether it has it, too. Without that its own repositories could not be served it later.
    async fn vouch_for_others(self: &Arc<Self>, scope: &Scope, evidence: Evidence, digest: &Digest) -> Result<(), PullError> {
        match self.cache.confined.of(digest) {
            Some(holders) if !holders.contains(&scope.upstream) => self.vouch(scope, &Asker::Mirror, evidence).await,
            _ => Ok(()),
        }
    }

    /// All tags of a repository, as the upstream lists them. An error where the list does not end.
    pub async fn list_tags(self: &Arc<Self>, scope: &Scope) -> Result<Vec<Tag>, PullError> {
        if self.is_offline(scope) {
            return Err(PullError::Offline { scope: scope.clone(), what: What::Tags });
        }
        let upstream = self.site(scope)?.upstream.clone();
        let (mut tags, mut query) = (Vec::new(), String::new());
        for _ in 0..MAX_PAGES {
            let listing = upstream.tags(&scope.repository, &query).await?;
            // A million tags take a while (I11).
            let page = spawn_blocking(move || serde_json::from_slice::<TagList>(&listing.bytes));
            let page = page.await.map_err(|_| PullError::Internal)?;
            let listed = page.ok().and_then(|page| page.tags).unwrap_or_default();
            tags.extend(listed.into_iter().filter_map(|tag| tag.parse::<Tag>().ok()));
            match listing.next {
                Some(next) if next != query => query = next,
                _ => return Ok(tags),
            }
        }
        let problem = format!("that of {scope} does not end after {MAX_PAGES} pages; name the tags instead of a pattern");
        Err(PullError::Invalid { scope: scope.clone(), what: What::Tags, problem: problem.into() })
    }

    /// The list of what refers to a manifest, which is also kept for offline clients.
    pub async fn list_referrers(self: &Arc<Self>, scope: &Scope, digest: &Digest) -> Result<Bytes, PullError> {
        Ok(self.ask_for_referrers(scope, &Asker::Mirror, digest, &ReferrersQuery::default()).await?.body)
    }
}

/// Follows a fill to the end of its last byte.
async fn to_the_end(reader: &FillReader, progress: &mut impl FnMut(u64)) -> Result<(), FillError> {
    let mut at = 0;
    while let Some(written) = reader.beyond(at).await? {
        at = written;
        progress(at);
    }
    Ok(())
}
