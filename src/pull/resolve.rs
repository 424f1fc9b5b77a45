//! From a tag to a digest: the cached record while it is fresh, else one coalesced HEAD.
//!
//! A record is written only when its manifest is in the cache, so that a tag is never answered from a source that
//! then cannot give the manifest. A revalidation runs in a task of its own; a client waits for it only as long as
//! `revalidate_within` says, if there is something older to give it.

use std::sync::Arc;
use std::time::Duration;

use super::{Pull, PullError, Site};
use crate::cache::records::TagRecord;
use crate::oci::{Digest, Reference, Scope, Tag};

/// What a tag stands for, and how that is known.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The manifest.
    pub digest: Digest,
    /// How it is known.
    pub how: How,
}

/// How a digest is known to be the right one.
#[derive(Clone, Debug)]
pub enum How {
    /// It was asked for by digest, or the tag was confirmed recently enough.
    Fresh,
    /// The upstream was asked and confirmed it.
    Revalidated,
    /// The upstream was asked and named a manifest that had to be pulled.
    Filled {
        /// Another request had asked already.
        joined: bool,
    },
    /// The upstream could not be asked.
    Stale {
        /// How long ago its freshness ended.
        overdue: Duration,
        /// Why, for the client's log.
        why: String,
    },
}

/// What a revalidation found; shared by all who wait for it.
#[derive(Clone, Debug)]
pub struct Confirmed {
    digest: Digest,
    filled: bool,
}

impl Pull {
    /// Resolves a tag. Cancel-safe.
    pub(super) async fn resolve(self: &Arc<Self>, scope: &Scope, tag: &Tag) -> Result<Resolved, PullError> {
        let site = self.site(scope)?;
        let freshness = &site.freshness;
        let record = self.cached_tag(scope, tag).await;
        // A record from the future was written under a wrong clock: it is as old as can be.
        let age = record.as_ref().map(|record| self.clock.now().since(record.checked_at).unwrap_or(Duration::MAX));
        let overdue = age.map(|age| age.saturating_sub(freshness.fresh_for));
        let stale = |record: &TagRecord, why: &str| {
            let how = How::Stale { overdue: overdue.unwrap_or_default(), why: why.to_owned() };
            Resolved { digest: record.digest, how }
        };
        if let (Some(record), Some(age)) = (&record, age) {
            if age < freshness.fresh_for || freshness.immutable_tags.is_match(tag.as_str()) {
                return Ok(Resolved { digest: record.digest, how: How::Fresh });
            }
            if self.offline && record.imported {
                return Ok(Resolved { digest: record.digest, how: How::Fresh });
            }
            if self.offline {
                return Ok(stale(record, "the mirror is offline"));
            }
            if age < freshness.fresh_for.saturating_add(freshness.stale_while_revalidate) {
                self.revalidations.begin((scope.clone(), tag.clone()), || self.clone().revalidate(scope.clone(), tag.clone()));
                return Ok(stale(record, "it is being revalidated"));
            }
        }
        if self.offline {
            return Err(PullError::Offline { scope: scope.clone(), what: format!("the tag {tag}") });
        }
        if self.negative.is_remembered(scope, tag.as_str()) {
            return Err(not_found(scope, tag, true));
        }
        let revalidation =
            self.revalidations.join((scope.clone(), tag.clone()), || self.clone().revalidate(scope.clone(), tag.clone()));
        let usable =
            record.filter(|_| age.is_some_and(|age| age <= freshness.stale_if_error.saturating_add(freshness.fresh_for)));
        let Some(record) = usable else {
            let landed = revalidation.await.ok_or(PullError::Internal)?;
            return landed.value.map(|confirmed| confirmed.resolved(landed.joined));
        };
        match tokio::time::timeout(freshness.revalidate_within, revalidation).await {
            Ok(Some(landed)) => match landed.value {
                Ok(confirmed) => Ok(confirmed.resolved(landed.joined)),
                Err(error) if error.is_outage() => Ok(stale(&record, &error.to_string())),
                Err(error) => Err(error),
            },
            Ok(None) => Ok(stale(&record, "the revalidation failed")),
            Err(_) => Ok(stale(&record, "the upstream takes long to answer")),
        }
    }

    /// A tag's record, if its manifest is here.
    async fn cached_tag(self: &Arc<Self>, scope: &Scope, tag: &Tag) -> Option<Arc<TagRecord>> {
        let record = self.cache.tag(scope, tag).await?;
        self.held(scope, &record.digest).await?;
        Some(record)
    }

    /// Asks the upstream what a tag stands for, pulls that manifest if it is not here, and writes the record.
    pub(super) async fn revalidate(self: Arc<Self>, scope: Scope, tag: Tag) -> Result<Confirmed, PullError> {
        let confirmed = self.ask(&scope, &tag).await;
        match &confirmed {
            Ok(confirmed) => {
                let record = TagRecord { digest: confirmed.digest, checked_at: self.clock.now(), imported: false };
                self.cache.set_tag(&scope, &tag, record).await;
            }
            Err(error) if error.is_not_found() => {
                self.cache.remove_tag(&scope, &tag).await;
                self.negative.remember(&scope, tag.as_str(), self.site(&scope)?.freshness.negative);
                return Err(not_found(&scope, &tag, false));
            }
            Err(error) => {
                tracing::warn!(upstream = %scope.upstream, repository = %scope.repository, %tag, %error, "cannot revalidate a tag")
            }
        }
        confirmed
    }

    async fn ask(self: &Arc<Self>, scope: &Scope, tag: &Tag) -> Result<Confirmed, PullError> {
        let site: &Site = self.site(scope)?;
        let resolved = site.upstream.resolve(&scope.repository, &Reference::Tag(tag.clone())).await?;
        let digest = resolved.digest;
        if self.held(scope, &digest).await.is_some() {
            return Ok(Confirmed { digest, filled: false });
        }
        match resolved.fetched {
            // Only a GET could tell the digest; its bytes are not asked for again.
            Some(fetched) => self.keep_manifest(scope, &digest, fetched).await?,
            None => self.fetch_manifest(scope, &digest).await?.held,
        };
        Ok(Confirmed { digest, filled: true })
    }
}

impl Confirmed {
    /// The manifest.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    fn resolved(self, joined: bool) -> Resolved {
        let how = if self.filled { How::Filled { joined } } else { How::Revalidated };
        Resolved { digest: self.digest, how }
    }
}

fn not_found(scope: &Scope, tag: &Tag, remembered: bool) -> PullError {
    PullError::NotFound { scope: scope.clone(), what: format!("tag {tag}"), remembered }
}
