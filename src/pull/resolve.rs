//! From a tag to a digest: the cached record while it is fresh, else one coalesced HEAD.
//!
//! A record is written only when its manifest is in the cache, so that a tag is never answered from a source that
//! then cannot give the manifest. A revalidation runs in a task of its own; a client waits for it only as long as
//! `revalidate_within` says, if there is something older to give it.

use std::sync::Arc;
use std::time::Duration;

use super::flight::Landed;
use super::visibility::Asker;
use super::{Pull, PullError};
use crate::cache::records::TagRecord;
use crate::config::Terms;
use crate::oci::{Digest, Reference, Scope, Tag};
use crate::upstream::Readiness;

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
        /// Why, in a word.
        reason: &'static str,
    },
}

/// What a revalidation found; shared by all who wait for it.
#[derive(Clone, Debug)]
pub struct Confirmed {
    digest: Digest,
    filled: bool,
}

/// What to do about a tag, before anybody is asked. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Answer from the record: it is fresh.
    Fresh,
    /// Answer from the record, and check it behind.
    Behind,
    /// Check it; answer from the record if that fails or takes longer than this.
    Check(Duration),
    /// Check it; without an answer there is none for the client.
    Need,
}

/// `age` is the record's, where there is one. `check`: the client wants to know that it is current.
fn plan(age: Option<Duration>, terms: &Terms, check: bool) -> Plan {
    let Some(age) = age else { return Plan::Need };
    let check = check && terms.no_cache;
    if age < terms.fresh_for && !check {
        Plan::Fresh
    } else if age < terms.fresh_for.saturating_add(terms.stale_while_revalidate) && !check {
        Plan::Behind
    } else if age <= terms.fresh_for.saturating_add(terms.stale_if_error) {
        Plan::Check(terms.revalidate_within)
    } else {
        Plan::Need
    }
}

impl Pull {
    /// Resolves a tag; `check`: although it may be fresh, if a rule allows that. Cancel-safe.
    pub(super) async fn resolve(
        self: &Arc<Self>,
        scope: &Scope,
        asker: &Asker,
        tag: &Tag,
        check: bool,
    ) -> Result<Resolved, PullError> {
        let site = self.site(scope)?;
        let terms = site.freshness.terms(scope.repository.as_str(), tag.as_str());
        let record = self.cached_tag(scope, tag).await;
        // A record from the future was written under a wrong clock, now or then: it is due, and no more is known.
        let age = record.as_ref().map(|record| self.clock.now().since(record.checked_at).unwrap_or(terms.fresh_for));
        let plan = plan(age, &terms, check);
        let overdue = age.map(|age| age.saturating_sub(terms.fresh_for)).unwrap_or_default();
        let revalidation = || {
            let (this, scope, asker, tag) = (self.clone(), scope.clone(), asker.clone(), tag.clone());
            let fallback = matches!(plan, Plan::Behind | Plan::Check(_));
            move || this.revalidate(scope, asker, tag, fallback)
        };
        let key = (scope.clone(), tag.clone(), asker.key());
        if let Some(record) = record.as_ref().filter(|record| record.imported && site.upstream.is_offline()) {
            // What was carried here is as good as it gets.
            return Ok(Resolved { digest: record.digest, how: How::Fresh });
        }
        let within = match (plan, &record) {
            (Plan::Need, _) | (_, None) => {
                if site.upstream.is_offline() {
                    // However old it is: there is nobody to ask.
                    return record
                        .map(|record| stale(&record, overdue, "the mirror is offline", "offline"))
                        .ok_or_else(|| PullError::Offline { scope: scope.clone(), what: format!("the tag {tag}") });
                }
                if self.negative.is_remembered(scope, asker, tag.as_str()) {
                    return Err(not_found(scope, tag, true));
                }
                let landed = self.revalidations.join(key, revalidation()).await.ok_or(PullError::Internal)?;
                return landed.value.map(|confirmed| confirmed.resolved(landed.joined));
            }
            (Plan::Fresh, Some(record)) => return Ok(Resolved { digest: record.digest, how: How::Fresh }),
            (Plan::Behind, Some(record)) => {
                if let Readiness::Away(error) = site.upstream.readiness() {
                    return Ok(stale(record, overdue, &error.to_string(), error.label()));
                }
                if site.upstream.allows_background() {
                    self.revalidations.begin(key, revalidation());
                }
                return Ok(stale(record, overdue, "it is being revalidated", "revalidating"));
            }
            (Plan::Check(within), Some(record)) => {
                match site.upstream.readiness() {
                    Readiness::Ready => {}
                    // Whether it is back is seen without a client's waiting for it.
                    Readiness::Probe => {
                        self.revalidations.begin(key, revalidation());
                        return Ok(stale(record, overdue, "the upstream has failed; it is tried again", "breaker"));
                    }
                    Readiness::Away(error) => return Ok(stale(record, overdue, &error.to_string(), error.label())),
                }
                within
            }
        };
        let landed = tokio::time::timeout(within, self.revalidations.join(key, revalidation())).await;
        let (why, reason) = match landed {
            Ok(Some(Landed { value: Ok(confirmed), joined })) => return Ok(confirmed.resolved(joined)),
            Ok(Some(Landed { value: Err(error), .. })) if error.is_outage() => (error.to_string(), error.label()),
            Ok(Some(Landed { value: Err(error), .. })) => return Err(error),
            Ok(None) => ("the revalidation failed".to_owned(), "internal"),
            Err(_) => {
                site.upstream.is_slow();
                ("the upstream takes long to answer".to_owned(), "slow")
            }
        };
        // Another one may have confirmed a newer one in the meantime.
        let latest = self.cached_tag(scope, tag).await.or(record).ok_or(PullError::Internal)?;
        Ok(stale(&latest, overdue, &why, reason))
    }

    /// A tag's record, if its manifest is here.
    async fn cached_tag(self: &Arc<Self>, scope: &Scope, tag: &Tag) -> Option<Arc<TagRecord>> {
        let record = self.cache.tag(scope, tag).await?;
        self.held(scope, &record.digest).await?;
        Some(record)
    }

    /// Asks the upstream what a tag stands for, pulls that manifest if it is not here, and writes the record.
    /// `fallback`: what is cached stands in, so that a failing upstream is spared.
    pub(super) async fn revalidate(
        self: Arc<Self>,
        scope: Scope,
        asker: Asker,
        tag: Tag,
        fallback: bool,
    ) -> Result<Confirmed, PullError> {
        let confirmed = self.ask(&scope, &asker, &tag, fallback).await;
        match &confirmed {
            Ok(confirmed) => {
                let record = TagRecord { digest: confirmed.digest, checked_at: self.clock.now(), imported: false };
                self.cache.set_tag(&scope, &tag, record).await;
            }
            Err(error) if error.is_not_found() => {
                self.cache.remove_tag(&scope, &tag).await;
                let negative = self.site(&scope)?.freshness.terms(scope.repository.as_str(), tag.as_str()).negative;
                self.negative.remember(&scope, &asker, tag.as_str(), error.believe(negative));
                return Err(not_found(&scope, &tag, false));
            }
            // Told when it began.
            Err(PullError::Upstream(error)) if error.was_not_asked() => {}
            Err(error) => {
                tracing::warn!(reason = error.label(), upstream = %scope.upstream, repository = %scope.repository, %tag, %error, "cannot revalidate a tag")
            }
        }
        confirmed
    }

    async fn ask(self: &Arc<Self>, scope: &Scope, asker: &Asker, tag: &Tag, fallback: bool) -> Result<Confirmed, PullError> {
        let upstream = self.upstream(scope, asker)?;
        let reference = Reference::Tag(tag.clone());
        let resolved = match fallback {
            true => upstream.revalidate(&scope.repository, &reference).await?,
            false => upstream.resolve(&scope.repository, &reference).await?,
        };
        let digest = resolved.digest;
        if let Some(held) = self.held(scope, &digest).await {
            if self.is_open(scope) {
                self.cache.release(&digest).await;
            }
            self.adopt(scope, &digest, &held.media_type).await;
            return Ok(Confirmed { digest, filled: false });
        }
        match resolved.fetched {
            // Only a GET could tell the digest; its bytes are not asked for again.
            Some(fetched) => self.keep_manifest(scope, &digest, fetched).await?,
            None => self.fetch_manifest(scope, asker, &digest).await?.held,
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

fn stale(record: &TagRecord, overdue: Duration, why: &str, reason: &'static str) -> Resolved {
    Resolved { digest: record.digest, how: How::Stale { overdue, why: why.to_owned(), reason } }
}

fn not_found(scope: &Scope, tag: &Tag, remembered: bool) -> PullError {
    PullError::NotFound { scope: scope.clone(), what: format!("tag {tag}"), remembered }
}
