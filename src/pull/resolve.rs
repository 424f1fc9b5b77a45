//! From a tag to a digest: the cached record while it is fresh, else one coalesced HEAD.
//!
//! A record is written only when its manifest is in the cache, so that a tag is never answered from a source that
//! then cannot give the manifest. A revalidation runs in a task of its own; a client waits for it only as long as
//! `revalidate_within` says, if there is something older to give it. What it confirms is as old as its question, for
//! the record and for whoever joined it.

use std::sync::Arc;
use std::time::Duration;

use super::cache_status::Stale;
use super::error::Said;
use super::flight::Landed;
use super::manifest::Held;
use super::plan::{self, Course, Plan};
use super::visibility::Asker;
use super::what::What;
use super::{Pull, PullError};
use crate::cache::records::{AbsenceRecord, TagRecord};
use crate::clock::Moment;
use crate::oci::{Digest, Reference, Scope, Tag};
use crate::upstream::Need;

/// What a tag stands for, and how that is known.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The manifest.
    pub digest: Digest,
    /// How it is known.
    pub how: How,
    /// The manifest itself, where it was looked at on the way.
    pub held: Option<Held>,
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
    Stale(Stale),
}

/// What a revalidation found; shared by all who wait for it.
#[derive(Clone, Debug)]
pub struct Confirmed {
    digest: Digest,
    filled: bool,
    /// When the upstream was asked.
    asked: Moment,
    /// When it had answered. The manifest is pulled and the record written after that.
    answered: Moment,
}

/// Which confirmation of a tag a request is content with.
#[derive(Clone, Copy, Debug)]
struct Demand {
    /// When it came.
    came: Moment,
    /// For how long a confirmation is good.
    fresh_for: Duration,
    /// Only with a check that began after it came.
    check: bool,
}

impl Demand {
    fn age(&self, record: &TagRecord) -> Duration {
        plan::age(self.came, record, self.fresh_for)
    }

    /// Whether a check that was under way when the request came may answer it, too (RFC 9111 §4): if the upstream had
    /// not answered yet, or if a record of it would be fresh. `no-cache` takes neither (§5.2.1.4): the tag may have
    /// moved between the question and the request.
    fn is_met_by(&self, joined: &Confirmed) -> bool {
        let awaited = joined.answered > self.came;
        let fresh = self.came.since(joined.asked).is_some_and(|age| age < self.fresh_for);
        !self.check && (awaited || fresh)
    }
}

impl Pull {
    /// Resolves a tag. `check`: asks although the record is fresh, if the configuration lets clients demand that.
    /// Cancel-safe.
    pub(super) async fn resolve(
        self: &Arc<Self>,
        scope: &Scope,
        asker: &Asker,
        tag: &Tag,
        check: bool,
    ) -> Result<Resolved, PullError> {
        let terms = self.site(scope)?.freshness.terms(scope.repository.as_str(), tag.as_str());
        let cached = self.cached_tag(scope, tag).await;
        let demand = Demand { came: self.clock.now(), fresh_for: terms.fresh_for, check: check && terms.no_cache };
        let age = cached.as_ref().map(|(record, _)| demand.age(record));
        match (Plan::of(age, &terms, demand.check), cached) {
            (Plan::Fresh, Some((record, held))) => Ok(Resolved { held: Some(held), ..fresh(&record) }),
            (plan, cached) => {
                // Boxed, as everything is that a hit has no use for: a future is moved about with all that it may become.
                Box::pin(self.confirm(scope, asker, tag, plan, cached.map(|(record, _)| record), demand)).await
            }
        }
    }

    /// Resolves a tag that is not known to be fresh.
    async fn confirm(
        self: &Arc<Self>,
        scope: &Scope,
        asker: &Asker,
        tag: &Tag,
        plan: Plan,
        record: Option<Arc<TagRecord>>,
        demand: Demand,
    ) -> Result<Resolved, PullError> {
        let site = self.site(scope)?;
        let overdue = record.as_ref().map(|record| demand.age(record).saturating_sub(demand.fresh_for)).unwrap_or_default();
        let enough = |joined: &Confirmed| demand.is_met_by(joined);
        let begin = || {
            let check = || self.clone().revalidate(scope.clone(), asker.clone(), tag.clone(), Need::Fallback);
            self.revalidations.begin((scope.clone(), tag.clone(), asker.key()), check);
        };
        // A silence after a 429 is one account's: whoever asks by a login of their own has one of their own.
        let upstream = match plan {
            Plan::Behind | Plan::Check(_) => self.upstream(scope, asker)?,
            Plan::Fresh | Plan::Need => site.upstream.clone(),
        };
        let (within, record) = match (Course::of(plan, record.as_deref(), &upstream), record) {
            (Course::Fresh, Some(record)) => return Ok(fresh(&record)),
            (Course::Behind { .. }, Some(record)) => {
                if upstream.take_turn_behind() {
                    begin();
                }
                return Ok(stale(&record, overdue, "it is being revalidated", "revalidating"));
            }
            (Course::Stale { why, reason, behind }, Some(record)) => {
                if behind {
                    begin();
                }
                return Ok(stale(&record, overdue, &why, reason));
            }
            (Course::Check(within), Some(record)) => (within, record),
            (Course::Nothing, _) => {
                return Err(PullError::Offline { scope: scope.clone(), what: What::Tag(tag.clone()) });
            }
            (Course::Need, _) | (_, None) => {
                if !demand.check {
                    self.not_remembered(scope, asker, &What::Tag(tag.clone()))?;
                }
                let landed = self.check_tag(scope, asker, tag, Need::Content, enough).await.ok_or(PullError::Internal)?;
                return landed.value.map(|confirmed| confirmed.resolved(landed.joined));
            }
        };
        let landed = tokio::time::timeout(within, self.check_tag(scope, asker, tag, Need::Fallback, enough)).await;
        let (why, reason) = match landed {
            Ok(Some(Landed { value: Ok(confirmed), joined })) => return Ok(confirmed.resolved(joined)),
            Ok(Some(Landed { value: Err(error), .. })) if error.is_outage() => (error.to_string(), error.label()),
            Ok(Some(Landed { value: Err(error), .. })) => return Err(error),
            Ok(None) => ("the revalidation failed".to_owned(), "internal"),
            Err(_) => {
                site.upstream.note_slow();
                ("the upstream takes long to answer".to_owned(), "slow")
            }
        };
        // Another check may have confirmed a newer digest in the meantime.
        let latest = self.cached_tag(scope, tag).await.map_or(record, |(record, _)| record);
        Ok(stale(&latest, overdue, &why, reason))
    }

    /// What a client is told when a tag could not be resolved. If the tag would be about a manifest of the repository, as
    /// a signature is, and the upstream said when it was last asked that there is none, then that: else clients that look
    /// for signatures could not use a cached image in an outage. Only for callers who have been let in, as everybody has
    /// who has a tag resolved.
    pub(super) async fn as_last_heard(self: &Arc<Self>, scope: &Scope, tag: &Tag, error: PullError) -> PullError {
        let (PullError::Upstream(outage), Some(_), true) = (&error, tag.subject(), error.is_outage()) else { return error };
        // What was there once is no absence, although its manifest may have gone from here.
        if self.cache.tag(scope, tag).await.is_some() {
            return error;
        }
        let (Some(absence), Ok(site)) = (self.cache.absence(scope, tag).await, self.site(scope)) else { return error };
        let terms = site.freshness.terms(scope.repository.as_str(), tag.as_str());
        // As with tags, one from the future was written under a wrong clock.
        let age = self.clock.now().since(absence.checked_at).unwrap_or(terms.negative);
        let overdue = age.saturating_sub(terms.negative);
        if overdue > terms.stale_if_error {
            return error;
        }
        let (why, reason) = (outage.to_string(), outage.label());
        self.served_stale(scope, reason);
        let said = Said::Stale(Box::new(Stale { overdue, why, reason }));
        PullError::NotFound { scope: scope.clone(), what: What::Tag(tag.clone()), said }
    }

    /// Joins the check of a tag, or begins it; once more, if it was joined and is not `enough`: the next one begins after
    /// that, and so after this call. `None` only if a check panicked.
    pub(super) async fn check_tag(
        self: &Arc<Self>,
        scope: &Scope,
        asker: &Asker,
        tag: &Tag,
        need: Need,
        enough: impl Fn(&Confirmed) -> bool,
    ) -> Option<Landed<Result<Confirmed, PullError>>> {
        let key = (scope.clone(), tag.clone(), asker.key());
        let check = || self.clone().revalidate(scope.clone(), asker.clone(), tag.clone(), need);
        let landed = self.revalidations.join(key.clone(), check).await?;
        let again = landed.joined && landed.value.as_ref().is_ok_and(|confirmed| !enough(confirmed));
        if again { self.revalidations.join(key, check).await } else { Some(landed) }
    }

    /// A tag's record and its manifest, if that is here.
    async fn cached_tag(self: &Arc<Self>, scope: &Scope, tag: &Tag) -> Option<(Arc<TagRecord>, Held)> {
        let record = self.cache.tag(scope, tag).await?;
        let held = self.held(scope, &record.digest).await?;
        Some((record, held))
    }

    /// Asks the upstream what a tag stands for, pulls that manifest if it is not here, and writes the record.
    pub(super) async fn revalidate(
        self: Arc<Self>,
        scope: Scope,
        asker: Asker,
        tag: Tag,
        need: Need,
    ) -> Result<Confirmed, PullError> {
        let (asked, epoch) = (self.clock.now(), self.negative.epoch());
        let confirmed = self.ask(&scope, &asker, &tag, need).await;
        match &confirmed {
            Ok(confirmed) => {
                let record = TagRecord { digest: confirmed.digest, checked_at: confirmed.asked, imported: false };
                // Each login has checks of its own: one that asked later may have landed earlier.
                self.cache.confirm_tag(&scope, &tag, record, self.clock.now()).await;
            }
            Err(error) if error.is_not_found() => {
                // Who has been replaced meanwhile has no say in what is remembered: another one may have named it since.
                if epoch == self.negative.epoch() {
                    self.cache.remove_tag(&scope, &tag).await;
                    self.cache.set_absence(&scope, &tag, &AbsenceRecord { checked_at: asked }).await;
                }
                return confirmed.map_err(|error| self.absent(&scope, &asker, &What::Tag(tag), error, epoch));
            }
            // That was logged when it began.
            Err(PullError::Upstream(error)) if error.was_not_asked() => {}
            Err(error) => {
                tracing::warn!(reason = error.label(), upstream = %scope.upstream, repository = %scope.repository, %tag, %error, "cannot revalidate a tag")
            }
        }
        confirmed
    }

    async fn ask(self: &Arc<Self>, scope: &Scope, asker: &Asker, tag: &Tag, need: Need) -> Result<Confirmed, PullError> {
        let private = self.cache.confined.private();
        let upstream = self.upstream(scope, asker)?;
        let reference = Reference::Tag(tag.clone());
        let asked = self.clock.now();
        let resolved = upstream.resolve_for(need, &scope.repository, &reference).await?;
        let (digest, answered) = (resolved.digest, self.clock.now());
        self.cache.forget_absence(scope, tag).await;
        if let Some(held) = self.held(scope, &digest).await {
            if self.is_open(scope) {
                self.cache.release(&digest, &scope.upstream).await;
            }
            self.adopt(scope, &digest, &held.media_type).await;
            return Ok(Confirmed { digest, filled: false, asked, answered });
        }
        match resolved.fetched {
            // Only a GET could tell the digest; its bytes are not asked for again.
            Some(fetched) => {
                let is_named = fetched.claimed.is_some();
                let kept = self.keep_manifest(scope, &digest, fetched, &private).await;
                // Any bytes have a digest.
                kept.map_err(|error| if is_named { error } else { error.unnamed() })?
            }
            None => match self.fetch_manifest(scope, asker, &digest).await {
                Ok(pulled) => pulled.held,
                // It was asked of the one that has taken the place of the one that named it: what that one names counts.
                Err(_) if !Arc::ptr_eq(&upstream, &self.upstream(scope, asker)?) => {
                    return Box::pin(self.ask(scope, asker, tag, need)).await;
                }
                Err(error) => return Err(contradicted(scope, &digest, error)),
            },
        };
        Ok(Confirmed { digest, filled: true, asked, answered })
    }
}

impl Confirmed {
    /// The manifest.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    fn resolved(self, joined: bool) -> Resolved {
        let how = if self.filled { How::Filled { joined } } else { How::Revalidated };
        Resolved { digest: self.digest, how, held: None }
    }
}

fn fresh(record: &TagRecord) -> Resolved {
    Resolved { digest: record.digest, how: How::Fresh, held: None }
}

fn stale(record: &TagRecord, overdue: Duration, why: &str, reason: &'static str) -> Resolved {
    Resolved { digest: record.digest, how: How::Stale(Stale { overdue, why: why.to_owned(), reason }), held: None }
}

/// The upstream has just named this manifest, so a 404 for it says nothing about the tag: it may be from a replica that
/// lags behind the one that was asked first. An upstream that contradicts itself is not believed.
fn contradicted(scope: &Scope, digest: &Digest, error: PullError) -> PullError {
    if !error.is_not_found() {
        return error;
    }
    let problem = "a 404, although it has just named this for the tag".into();
    PullError::Invalid { scope: scope.clone(), what: What::Manifest(*digest), problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_joined_check_is_as_old_as_its_question() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        let joined = Confirmed { digest, filled: false, asked: Moment(1000), answered: Moment(3000) };
        let is_met = |came, fresh_for, check| {
            Demand { came: Moment(came), fresh_for: Duration::from_millis(fresh_for), check }.is_met_by(&joined)
        };
        assert!(is_met(2999, 0, false), "one question for all who wait");
        assert!(!is_met(3000, 0, false), "it had its answer already");
        assert!(is_met(5999, 5000, false) && !is_met(6000, 5000, false), "as a record");
        assert!(!is_met(1001, 5000, true), "no-cache");
    }
}
