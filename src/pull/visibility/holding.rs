//! Does this repository hold this digest?
//!
//! Content lies under its digest, wherever it came from. Under a repository of an upstream that is not everybody's it is
//! served only if that repository is known to hold it by what is here ([`crate::cache::catalog`]), or if the upstream says that
//! it has it there. What is confined to some upstreams ([`crate::cache::confined`]) is served for another one only once
//! that one says that it has it, too, which is written down; if a public one says so, it is everybody's. What is on its way
//! through an upstream is that one's for now.

use std::sync::Arc;
use std::time::Duration;

use super::super::what::What;
use super::super::{Pull, PullError};
use super::{Asker, Evidence, is_open};
use crate::cache::records::ManifestRecord;
use crate::oci::{Digest, MediaType, Reference, Scope, UpstreamName};

/// How long a request waits until all that was on disk at the start is known, where nobody else can tell.
const START: Duration = Duration::from_secs(10);

impl Pull {
    /// Whether content that comes through this scope's upstream is for everybody who may pull from it.
    pub(in crate::pull) fn is_open(&self, scope: &Scope) -> bool {
        !self.cache.confined.is_active() || self.site(scope).is_ok_and(|site| is_open(site.visibility))
    }

    /// Fails, as the upstream would, unless the repository holds this digest. To be called after content was found or
    /// joined, before it is shown; for a repository that is not open also before a download is begun. Cancel-safe.
    pub(in crate::pull) async fn vouch(
        self: &Arc<Self>,
        scope: &Scope,
        asker: &Asker,
        evidence: Evidence,
    ) -> Result<(), PullError> {
        if !self.cache.confined.is_active() {
            return Ok(());
        }
        let site = self.site(scope)?;
        let digest = match &evidence {
            Evidence::Blob(digest) | Evidence::Manifest(Reference::Digest(digest)) => *digest,
            // The upstream resolved it, in this repository.
            Evidence::Manifest(Reference::Tag(_)) => return Ok(()),
        };
        let confined = self.cache.confined.of(&digest);
        if is_open(site.visibility) && confined.is_none() {
            return Ok(());
        }
        if self.visibility.words.contains_key(&(scope.clone(), evidence.of(digest))) {
            // It may have come through another upstream since.
            self.add_holder(scope, &digest).await;
            return Ok(());
        }
        if self.is_known_to_hold(scope, evidence.of(digest)) {
            return Ok(());
        }
        Box::pin(self.ask_for_word(scope, asker, &evidence, digest)).await
    }

    /// The same of a blob that is on its way `through` an upstream. To be called before the first of its bytes is here: they are
    /// the word of that one.
    pub(in crate::pull) async fn vouch_underway(
        self: &Arc<Self>,
        scope: &Scope,
        asker: &Asker,
        digest: &Digest,
        through: &UpstreamName,
    ) -> Result<(), PullError> {
        if *through == scope.upstream && !self.is_open(scope) && self.is_shown_to_hold(scope, What::Blob(*digest)) {
            return Ok(());
        }
        self.vouch(scope, asker, Evidence::Blob(*digest)).await
    }

    /// Asks the upstream whether the repository holds this. Where it cannot be asked, waits until everything here is
    /// known, and takes that.
    async fn ask_for_word(
        self: &Arc<Self>,
        scope: &Scope,
        asker: &Asker,
        evidence: &Evidence,
        digest: Digest,
    ) -> Result<(), PullError> {
        let what = evidence.of(digest);
        let flight = || {
            let (this, upstream) = (self.clone(), self.upstream(scope, asker));
            let (scope, evidence) = (scope.clone(), evidence.clone());
            async move {
                this.ask_for_proof(&*upstream?, &scope, &evidence).await?;
                this.visibility.heard(&scope, evidence.of(digest));
                match this.is_open(&scope) {
                    true => this.cache.release(&digest, &scope.upstream).await,
                    false => this.add_holder(&scope, &digest).await,
                }
                Ok(())
            }
        };
        let key = (scope.clone(), what.clone(), asker.key());
        let asking = async { self.visibility.questions.join(key, flight).await.ok_or(PullError::Internal)?.value };
        match self.unless_absent(scope, asker, &what, asking).await {
            Err(error) if error.is_unanswered() && self.was_known_to_hold(scope, what.clone()).await => {
                tracing::debug!(%digest, upstream = %scope.upstream, %error, "known since the start to be the repository's");
                Ok(())
            }
            value => value,
        }
    }

    /// Whether what is here proves it: that the repository has it, and that it is its upstream's.
    fn is_known_to_hold(&self, scope: &Scope, what: What) -> bool {
        let (What::Manifest(digest) | What::Blob(digest)) = &what else { return false };
        // What has no mark is everybody's, or is not here, nor anything of it.
        let own = self.cache.confined.of(digest).is_none_or(|holders| holders.contains(&scope.upstream));
        own && !self.is_open(scope) && self.is_shown_to_hold(scope, what)
    }

    /// Whether what is here of the repository shows that it has this. A public upstream's manifests prove nothing: whoever writes
    /// one need not have what it names.
    fn is_shown_to_hold(&self, scope: &Scope, what: What) -> bool {
        // What the catalog said is remembered; marks are looked at each time.
        let key = (scope.clone(), what);
        let held = self.visibility.held.contains_key(&key)
            || match &key.1 {
                What::Manifest(digest) => self.cache.catalog.holds_manifest(scope, digest),
                What::Blob(digest) => self.cache.catalog.holds_blob(scope, digest),
                What::Tag(_) | What::Tags | What::Referrers(_) => false,
            };
        if held {
            self.visibility.held.insert(key, ());
        }
        held
    }

    /// As [`Pull::is_known_to_hold`], once everything on disk has been read.
    async fn was_known_to_hold(&self, scope: &Scope, what: What) -> bool {
        // It may have been read to its end since the first look.
        let _ = tokio::time::timeout(START, self.cache.until_surveyed()).await;
        self.is_known_to_hold(scope, what)
    }

    /// The upstream said that it has this: writes that down, for the next process, too. If that fails, the next process
    /// asks once more.
    pub(in crate::pull) async fn add_holder(&self, scope: &Scope, digest: &Digest) {
        if self.is_open(scope) {
            return;
        }
        if let Err(error) = self.cache.add_holder(digest, &scope.upstream).await {
            tracing::warn!(%digest, upstream = %scope.upstream, %error, "cannot write down that this upstream has this content, too");
        }
    }

    /// This manifest, which was here already, is the repository's, too: the upstream said so, or what is here proves it.
    pub(in crate::pull) async fn adopt(&self, scope: &Scope, digest: &Digest, media_type: &MediaType) {
        if self.is_open(scope) {
            return;
        }
        self.visibility.heard(scope, What::Manifest(*digest));
        self.add_holder(scope, digest).await;
        if !self.cache.catalog.has_manifest(scope, digest) {
            let record = ManifestRecord { media_type: media_type.clone() };
            self.cache.set_manifest_record(scope, digest, &record).await;
        }
    }
}
