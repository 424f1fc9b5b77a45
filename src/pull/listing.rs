//! Lists that change: the tags of a repository, the referrers of a manifest.
//!
//! Relayed; all who ask for the same page share one request. When the upstream cannot be asked, tags are listed as far as
//! they were pulled, and referrers of what is here as they were last seen. When it has answered, and that cannot be
//! passed on, no shorter list takes its place: nobody could tell it from the whole one. An upstream without a referrers
//! API is asked for the tag that stands in for it (distribution-spec, *Referrers Tag Schema*): a client never gets a 404
//! for a valid digest.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::cache_status::{ServedFrom, Stale};
use super::error::Said;
use super::resolve::How;
use super::respond::Answer;
use super::visibility::{Asker, Key};
use super::what::What;
use super::{Pull, PullError, Request};
use crate::cache::Tier;
use crate::cache::records::ReferrersRecord;
use crate::oci::route::{self, ReferrersQuery};
use crate::oci::{Digest, MediaType, Scope, Tag};
use crate::upstream::Referrers;

/// Which page of which tags.
pub(super) type TagsKey = (Scope, route::Page, Option<Key>);
/// Which page of whose referrers.
pub(super) type ReferrersKey = (Scope, Digest, ReferrersQuery, Option<Key>);

/// One page of a list, as it goes to the client.
#[derive(Clone, Debug)]
pub struct Page {
    /// JSON.
    pub body: Bytes,
    /// The query of the next page.
    pub next: Option<String>,
    /// `OCI-Filters-Applied`
    pub filters_applied: Option<String>,
}

/// A whole list of referrers up to so many bytes is narrowed at once (I11).
const SHORT: usize = 64 << 10;

/// What a filter leaves of a whole list of referrers (distribution-spec, *Listing Referrers*).
async fn narrowed(whole: ReferrersRecord, query: &ReferrersQuery) -> Option<ReferrersRecord> {
    let (is_long, query) = (whole.body.len() > SHORT, query.clone());
    let narrow = move || {
        let mut index: Value = serde_json::from_str(&whole.body).ok()?;
        let manifests = index.get_mut("manifests")?.as_array_mut()?;
        manifests.retain(|entry| query.wants(entry["artifactType"].as_str()));
        Some(ReferrersRecord { body: index.to_string(), filters_applied: Some("artifactType".to_owned()), ..whole })
    };
    if is_long { spawn_blocking(narrow).await.ok()? } else { narrow() }
}

impl From<ReferrersRecord> for Page {
    fn from(record: ReferrersRecord) -> Self {
        Self { body: record.body.into(), next: None, filters_applied: record.filters_applied }
    }
}

impl Pull {
    /// Answers a request for a repository's tags.
    pub(super) async fn tags(
        self: &Arc<Self>,
        request: &Request<'_>,
        asker: &Asker,
        page: &route::Page,
    ) -> Result<Answer, PullError> {
        let scope = request.permit.scope();
        if self.site(scope)?.upstream.is_offline() {
            let missing = PullError::Offline { scope: scope.clone(), what: What::Tags };
            return self.known_tags(request, asker, page, missing, "the mirror is offline", "offline").await;
        }
        let upstream = self.upstream(scope, asker)?;
        let flight = || {
            let (this, scope, asker, query) = (self.clone(), scope.clone(), asker.clone(), page.query());
            async move {
                let listing = this.patiently(&scope, &asker, upstream.tags(&scope.repository, &query)).await?;
                Ok(Page { body: listing.bytes, next: listing.next, filters_applied: None })
            }
        };
        let landed = self.tag_lists.join((scope.clone(), page.clone(), asker.key()), flight).await.ok_or(PullError::Internal)?;
        match landed.value {
            Ok(listed) => Ok(request.list(listed, "application/json", ServedFrom::uncached(landed.joined))),
            Err(error) if error.is_outage() && !error.is_invalid() => {
                let (why, reason) = (error.to_string(), error.label());
                self.known_tags(request, asker, page, error, &why, reason).await
            }
            Err(error) => Err(error),
        }
    }

    /// The tags that were pulled through this mirror; `missing` if there are none.
    async fn known_tags(
        self: &Arc<Self>,
        request: &Request<'_>,
        asker: &Asker,
        page: &route::Page,
        missing: PullError,
        why: &str,
        reason: &'static str,
    ) -> Result<Answer, PullError> {
        let scope = request.permit.scope();
        if !asker.is_verified() {
            return Err(PullError::Unverified { scope: scope.clone(), cause: Box::new(missing) });
        }
        let known = self.cache.tags(scope).await;
        if known.is_empty() {
            return Err(missing);
        }
        let after = |tag: &&Tag| page.last.as_deref().is_none_or(|last| tag.as_str() > last);
        let mut tags: Vec<&str> = known.iter().filter(after).map(Tag::as_str).collect();
        let limit = page.n.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        let next =
            (limit > 0 && tags.len() > limit).then(|| route::Page { last: Some(tags[limit - 1].into()), ..page.clone() }.query());
        tags.truncate(limit);
        let body = json!({ "name": scope.repository, "tags": tags }).to_string().into();
        self.served_stale(scope, reason);
        Ok(request.list(Page { body, next, filters_applied: None }, "application/json", ServedFrom::made_here(why, reason)))
    }

    /// Counts what was served although nobody has confirmed it.
    pub(super) fn served_stale(&self, scope: &Scope, reason: &str) {
        self.metrics.stale_total.with_label_values(&[scope.upstream.as_str(), reason]).inc();
    }

    /// Answers a request for what refers to a manifest.
    pub(super) async fn referrers(
        self: &Arc<Self>,
        request: &Request<'_>,
        asker: &Asker,
        digest: &Digest,
        query: &ReferrersQuery,
    ) -> Result<Answer, PullError> {
        let scope = request.permit.scope();
        let site = self.site(scope)?;
        let (freshness, offline) = (&site.freshness, site.upstream.is_offline());
        let list = |page, from| request.list(page, MediaType::OCI_INDEX.as_str(), from);
        // Later pages are named by the upstream, and are not kept.
        let record = match query.page() {
            None if asker.is_verified() => self.known_referrers(scope, digest, query).await,
            _ => None,
        };
        // An empty list is a "not found": a signature that is pushed shows as soon as a tag would.
        let empty = record.as_ref().is_some_and(ReferrersRecord::is_empty);
        let fresh_for = if empty { freshness.fresh_for.min(freshness.negative) } else { freshness.fresh_for };
        // As with tags, one from the future was written under a wrong clock: it is due, and no more is known.
        let age = record.as_ref().map(|record| self.clock.now().since(record.checked_at).unwrap_or(fresh_for));
        let stale = |why: String, reason| {
            self.served_stale(scope, reason);
            ServedFrom::stale(&Stale { overdue: age.unwrap_or_default().saturating_sub(fresh_for), why, reason })
        };
        let record = record.map(Page::from);
        match (record.clone(), age) {
            (Some(page), Some(age)) if age < fresh_for => return Ok(list(page, ServedFrom::cache(Tier::Disk))),
            (Some(page), _) if offline => return Ok(list(page, stale("the mirror is offline".to_owned(), "offline"))),
            (None, _) if offline => {
                let offline = PullError::Offline { scope: scope.clone(), what: What::Referrers(*digest) };
                return Err(match asker.is_verified() {
                    true => offline,
                    false => PullError::Unverified { scope: scope.clone(), cause: Box::new(offline) },
                });
            }
            _ => {}
        }
        let flight = || {
            let (this, scope, asker) = (self.clone(), scope.clone(), asker.clone());
            let (digest, query) = (*digest, query.clone());
            async move { this.ask_for_referrers(&scope, &asker, &digest, &query).await }
        };
        let key = (scope.clone(), *digest, query.clone(), asker.key());
        let landed = self.referrers.join(key, flight).await.ok_or(PullError::Internal)?;
        match (landed.value, record) {
            (Ok(page), _) => Ok(list(page, ServedFrom::uncached(landed.joined))),
            (Err(error), Some(page)) if error.is_outage() && age.is_some_and(|age| age <= freshness.stale_if_error) => {
                Ok(list(page, stale(error.to_string(), error.label())))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// What was last seen of what refers to a manifest. The whole list says what is of each type, too, so that no client makes
    /// the upstream say it again for every combination of them.
    async fn known_referrers(&self, scope: &Scope, digest: &Digest, query: &ReferrersQuery) -> Option<ReferrersRecord> {
        let cache = &self.cache;
        let Some(filter) = query.filter() else { return cache.referrers_record(scope, digest, None).await };
        let narrow = cache.referrers_record(scope, digest, Some(&filter)).await;
        let since = narrow.as_ref().map(|record| record.checked_at);
        match cache.referrers_record(scope, digest, None).await.filter(|whole| Some(whole.checked_at) > since) {
            Some(whole) => narrowed(whole, query).await.or(narrow),
            None => narrow,
        }
    }

    pub(super) async fn ask_for_referrers(
        self: &Arc<Self>,
        scope: &Scope,
        asker: &Asker,
        digest: &Digest,
        query: &ReferrersQuery,
    ) -> Result<Page, PullError> {
        let (upstream, page) = (self.upstream(scope, asker)?, query.page());
        // Freshness runs from the question, as a tag's does.
        let asked = self.clock.now();
        let answer = upstream.referrers(&scope.repository, digest, &query.artifact_types, page.as_deref());
        let answer = self.patiently(scope, asker, answer).await?;
        let Some(referrers) = answer else { return self.referrers_by_tag(scope, asker, digest, query).await };
        let Referrers { bytes, filters_applied, next } = referrers;
        // Only the upstream has all of a list of several pages.
        if query.rest.is_empty()
            && next.is_none()
            && let Ok(body) = String::from_utf8(bytes.to_vec())
        {
            // An upstream that filters nothing has sent the whole list.
            let filter = query.filter().filter(|_| filters_applied.is_some());
            let record = ReferrersRecord { body, filters_applied: filters_applied.clone(), checked_at: asked };
            self.keep_referrers(scope, asker, digest, filter, record).await;
        }
        Ok(Page { body: bytes, next, filters_applied })
    }

    /// To a caller who is not verified an upstream may have shown less than to others: that is nobody else's answer.
    async fn keep_referrers(
        &self,
        scope: &Scope,
        asker: &Asker,
        digest: &Digest,
        filter: Option<String>,
        record: ReferrersRecord,
    ) {
        if asker.is_verified() {
            self.cache.set_referrers_record(scope, digest, filter.as_deref(), record).await;
        }
    }

    /// The index that clients push under a tag made of the digest, where there is no referrers API: all of it, whatever
    /// part of it was asked for.
    async fn referrers_by_tag(
        self: &Arc<Self>,
        scope: &Scope,
        asker: &Asker,
        digest: &Digest,
        query: &ReferrersQuery,
    ) -> Result<Page, PullError> {
        let asked = self.clock.now();
        let (manifests, stale) = match self.index_by_tag(scope, asker, digest).await {
            Ok(found) => found,
            Err(PullError::NotFound { said: Said::Stale(_), .. }) => (Vec::new(), true),
            Err(error) if error.is_not_found() => (Vec::new(), false),
            Err(error) => return Err(error),
        };
        let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": manifests });
        let whole = ReferrersRecord { body: index.to_string(), filters_applied: None, checked_at: asked };
        // A list made of a stale tag is not the upstream's word of now; a later page of it there is not.
        if !stale && query.rest.is_empty() {
            self.keep_referrers(scope, asker, digest, None, whole.clone()).await;
        }
        match query.artifact_types.is_empty() {
            true => Ok(whole.into()),
            false => narrowed(whole, query).await.map(Page::from).ok_or(PullError::Internal),
        }
    }

    /// The entries of that index, and whether the tag is stale. No entries if the tag stands for something else: some
    /// registries (GitLab) take it for another way to write the digest, and give the manifest itself.
    async fn index_by_tag(
        self: &Arc<Self>,
        scope: &Scope,
        asker: &Asker,
        digest: &Digest,
    ) -> Result<(Vec<Value>, bool), PullError> {
        // The encoded part is cut at 64 characters.
        let hex = digest.hex();
        let tag = format!("{}-{}", digest.algorithm().name(), &hex[..hex.len().min(64)]);
        let tag: Tag = tag.parse().map_err(|_| PullError::Internal)?;
        // The tag may be here already.
        let asker = self.verified(scope, asker, &tag).await?;
        let resolved = self.resolve(scope, &asker, &tag, false).await?;
        let stale = matches!(resolved.how, How::Stale(_));
        if resolved.digest == *digest {
            return Ok((Vec::new(), stale));
        }
        let held = match self.held(scope, &resolved.digest).await {
            Some(held) => held,
            None => self.fetch_manifest(scope, &asker, &resolved.digest).await?.held,
        };
        if held.media_type != MediaType::OCI_INDEX {
            return Ok((Vec::new(), stale));
        }
        let mut index: Value = serde_json::from_slice(&held.bytes).map_err(|_| PullError::Internal)?;
        Ok((index["manifests"].as_array_mut().map(std::mem::take).unwrap_or_default(), stale))
    }
}
