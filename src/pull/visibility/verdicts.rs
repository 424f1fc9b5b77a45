//! May this caller read this repository? The upstream's answer, asked with the caller's own login.
//!
//! The question is the one that the request implies: HEAD of the manifest it names, the first byte of the blob. A yes
//! holds for the whole repository, for `verdict_for` from when it was asked; a no for a few seconds; "not found" says
//! nothing, since registries answer so to whom they hide a repository from. For each check the login signs in anew.
//! There is no grace when the upstream cannot be asked: private content stays private.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::negative::Epoch;
use super::super::{Pull, PullError, Request};
use super::asker::{Guest, Key};
use super::{Asker, Evidence};
use crate::config;
use crate::oci::{Digest, Reference, Scope, Tag, UpstreamName, Wanted};
use crate::policy::Login;
use crate::upstream::{Class, TokenAge, Upstream, UpstreamError};

/// For how long a no is believed, unless `verdict_for` is shorter.
pub(super) const REFUSED: Duration = Duration::from_secs(10);

/// The upstream's word on a login and a repository.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub until: Instant,
    /// `None`: it may.
    pub refusal: Option<PullError>,
}

impl Verdict {
    /// Whether it is to be believed yet.
    pub fn holds(&self) -> bool {
        Instant::now() < self.until
    }

    /// The word itself.
    pub fn said(self) -> Result<(), PullError> {
        self.refusal.map_or(Ok(()), Err)
    }
}

impl Pull {
    /// Whose request it is, and whether they may see what is here of the repository. Asks the upstream where that has to
    /// be known and is not. Cancel-safe: the question goes on for others.
    pub(in crate::pull) async fn asker_for(self: &Arc<Self>, request: &Request<'_>, wanted: &Wanted) -> Result<Asker, PullError> {
        if !self.cache.confined.is_active() {
            return Ok(Asker::Mirror);
        }
        let scope = request.permit.scope();
        if self.site(scope)?.visibility != config::Visibility::Caller {
            return Ok(Asker::Mirror);
        }
        let Some(login) = request.permit.login() else {
            return Err(PullError::LoginNeeded { scope: scope.clone() });
        };
        let key = self.visibility.secrecy.key(scope, login);
        let guest = Arc::new(Guest::new(key, login.clone(), request.permit.address()));
        let evidence = match wanted {
            Wanted::Manifest(reference) => Evidence::Manifest(reference.clone()),
            Wanted::Blob(digest) => Evidence::Blob(*digest),
            // The lists themselves are the question: nothing that is here is shown without a verdict.
            Wanted::Tags(_) | Wanted::Referrers(..) => {
                return match self.verdict(&guest) {
                    None => Ok(Asker::Unverified(guest)),
                    Some(Ok(())) => Ok(Asker::Verified(guest)),
                    Some(Err(refusal)) => Err(refusal),
                };
            }
        };
        self.judge(scope, &guest, &evidence).await?;
        Ok(Asker::Verified(guest))
    }

    /// The same caller, of whom it is known that they may see what is here; or what the upstream says to them when they
    /// ask for this tag.
    pub(in crate::pull) async fn verified(self: &Arc<Self>, scope: &Scope, asker: &Asker, tag: &Tag) -> Result<Asker, PullError> {
        if let Asker::Unverified(guest) = asker {
            self.judge(scope, guest, &Evidence::Manifest(Reference::Tag(tag.clone()))).await?;
            return Ok(Asker::Verified(guest.clone()));
        }
        Ok(asker.clone())
    }

    /// Whether a client must be told to sign in to this upstream; it is told so at `/v2/`, before it asks for anything.
    pub fn wants_login(&self, upstream: &UpstreamName, login: Option<&Login>) -> bool {
        self.site_of(upstream).is_some_and(|site| site.visibility == config::Visibility::Caller) && login.is_none()
    }

    /// The upstream as it is asked for somebody.
    pub(in crate::pull) fn upstream(&self, scope: &Scope, asker: &Asker) -> Result<Arc<Upstream>, PullError> {
        let upstream = self.site(scope)?.upstream.clone();
        Ok(asker.guest().map_or_else(|| upstream.clone(), |guest| guest.view(&upstream)))
    }

    /// The upstream has refused something to somebody: what it said before does not hold any more.
    pub(in crate::pull) fn forget_verdict(&self, asker: &Asker) {
        if let Some(guest) = asker.guest()
            && self.visibility.verdicts.get(&guest.key).is_some_and(|verdict| verdict.refusal.is_none())
        {
            self.visibility.verdicts.invalidate(&guest.key);
        }
    }

    fn verdict(&self, guest: &Guest) -> Option<Result<(), PullError>> {
        self.visibility.verdicts.get(&guest.key).filter(Verdict::holds).map(Verdict::said)
    }

    /// Lets a caller in, or says what the upstream says to them.
    pub(super) async fn judge(self: &Arc<Self>, scope: &Scope, guest: &Arc<Guest>, evidence: &Evidence) -> Result<(), PullError> {
        loop {
            if let Some(verdict) = self.verdict(guest) {
                return verdict;
            }
            let asker = Asker::Unverified(guest.clone());
            self.may_ask(scope, &asker, &evidence.what()).map_err(|error| match error {
                PullError::Offline { .. } => PullError::Unverified { scope: scope.clone(), cause: Box::new(error) },
                error => error,
            })?;
            let flight = || {
                let (this, scope, guest, evidence) = (self.clone(), scope.clone(), guest.clone(), evidence.clone());
                async move { this.check(&scope, guest, &evidence).await }
            };
            let landed = self.visibility.checks.join(guest.key, flight).await.ok_or(PullError::Internal)?;
            match landed.value {
                // Another request of theirs asked for something else.
                Err(error) if error.is_not_found() && landed.joined => {}
                value => return value,
            }
        }
    }

    /// Keeps the word of who was asked in `epoch`, unless others are asked by now.
    pub(super) fn keep_verdict(&self, key: Key, verdict: Verdict, epoch: Epoch) {
        self.visibility.verdicts.insert(key, verdict);
        // Looked at after that: a change says so first, and then forgets what was kept before.
        if self.negative.epoch() != epoch {
            self.visibility.verdicts.invalidate(&key);
        }
    }

    async fn check(&self, scope: &Scope, guest: Arc<Guest>, evidence: &Evidence) -> Result<(), PullError> {
        let epoch = self.negative.epoch();
        let (site, started) = (self.site(scope)?, Instant::now());
        let upstream = site.upstream.signed_in_as(guest.login.username(), guest.login.password(), TokenAge::New);
        let (key, asker) = (guest.key, Asker::Unverified(guest));
        let said = self.patiently(scope, &asker, self.ask_for_proof(&upstream, scope, evidence)).await;
        let counted = |what| self.metrics.verdicts_total.with_label_values(&[scope.upstream.as_str(), what]).inc();
        match said {
            Ok(digest) => {
                counted("yes");
                self.visibility.heard(scope, evidence.of(digest));
                let until = started + site.verdict_for;
                self.keep_verdict(key, Verdict { until, refusal: None }, epoch);
                Ok(())
            }
            Err(error) if error.is_not_found() => {
                counted("not_found");
                Err(self.absent(scope, &asker, &evidence.what(), error, epoch))
            }
            Err(error @ PullError::Upstream(_)) if error.is_denied() => {
                counted("no");
                Err(error)
            }
            Err(error @ PullError::TooManyRefusals { .. }) => {
                counted("limited");
                Err(error)
            }
            Err(error) => {
                counted("unknown");
                Err(PullError::Unverified { scope: scope.clone(), cause: Box::new(error) })
            }
        }
    }

    /// Asks an upstream on behalf of a caller whose right is not known yet. How often that may fail is limited
    /// ([`super::patience`]).
    pub(in crate::pull) async fn patiently<T>(
        &self,
        scope: &Scope,
        asker: &Asker,
        asking: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, PullError> {
        let Asker::Unverified(guest) = asker else { return Ok(asking.await?) };
        let epoch = self.negative.epoch();
        let turn = self.visibility.patience.turn(guest.from).await;
        let turn = turn.map_err(|wait| PullError::TooManyRefusals { upstream: scope.upstream.clone(), wait })?;
        let asked = asking.await;
        if let Err(error) = &asked
            && error.class() == Class::Denied
        {
            turn.refused();
            let until = Instant::now() + REFUSED.min(self.site(scope)?.verdict_for);
            self.keep_verdict(guest.key, Verdict { until, refusal: Some(error.clone().into()) }, epoch);
        }
        Ok(asked?)
    }

    /// Whether the upstream has something, in words that a registry does not count as a pull: its digest. What is here tells
    /// how much it should be: whoever stands between and has an answer to everything has no such answer.
    pub(super) async fn ask_for_proof(
        &self,
        upstream: &Upstream,
        scope: &Scope,
        evidence: &Evidence,
    ) -> Result<Digest, UpstreamError> {
        match evidence {
            Evidence::Manifest(reference) => upstream.has_manifest(&scope.repository, reference).await,
            Evidence::Blob(digest) => {
                let here = self.cache.known(digest).filter(|known| known.present).map(|known| known.size);
                upstream.has_blob(&scope.repository, digest, here).await.map(|()| *digest)
            }
        }
    }
}
