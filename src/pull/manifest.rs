//! Manifests: small, wanted whole, looked into before they are believed.
//!
//! Stored and served byte for byte as they came (I10). One GET per digest at a time (I3), whoever asks; it runs in a
//! task of its own (I6).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::cache_status::ServedFrom;
use super::flight::Landed;
use super::respond::Answer;
use super::visibility::{Asker, Evidence, Key};
use super::what::What;
use super::{Pull, PullError, Request, resolve};
use crate::cache::records::ManifestRecord;
use crate::cache::{Content, Hit, Tier, read};
use crate::fill::FillError;
use crate::metrics::Kind;
use crate::oci::{Digest, MAX_MANIFEST, Manifest, MediaType, Reference, Scope, UpstreamName};
use crate::upstream::{FetchedManifest, READ_INLINE};
use resolve::{How, Resolved};

/// A manifest that is here.
#[derive(Clone, Debug)]
pub struct Held {
    /// Exactly as received (I10).
    pub bytes: Bytes,
    /// What it is.
    pub media_type: MediaType,
    /// Where it was found.
    pub tier: Tier,
}

/// A manifest that was just pulled.
#[derive(Debug)]
pub struct Pulled {
    /// The manifest.
    pub held: Held,
    /// Another request had asked for it already.
    pub joined: bool,
}

/// What came of a pull by digest, and for whom it was begun.
#[derive(Clone, Debug)]
pub(super) struct Flown {
    scope: Scope,
    login: Option<Key>,
    brought: Result<Held, PullError>,
}

impl Pull {
    /// Answers a request for a manifest.
    pub(super) async fn manifest(
        self: &Arc<Self>,
        request: &Request<'_>,
        asker: &Asker,
        reference: &Reference,
    ) -> Result<Answer, PullError> {
        let scope = request.permit.scope();
        let Resolved { digest, how, held } = match reference {
            Reference::Tag(tag) => match self.resolve(scope, asker, tag, request.wants_check()).await {
                Ok(resolved) => resolved,
                Err(error) => return Err(Box::pin(self.as_last_heard(scope, tag, error)).await),
            },
            Reference::Digest(digest) => Resolved { digest: *digest, how: How::Fresh, held: None },
        };
        let held = match held {
            Some(held) => Some(held),
            None => self.held(scope, &digest).await,
        };
        let (held, pulled) = match held {
            Some(held) => (held, None),
            None => {
                let Pulled { held, joined } = Box::pin(self.pull_manifest(scope, asker, &digest)).await?;
                (held, Some(joined))
            }
        };
        // What a tag resolved to, the upstream itself has named in this repository.
        if self.cache.confined.is_active() {
            self.vouch(scope, asker, Evidence::Manifest(reference.clone())).await?;
            self.adopt(scope, &digest, &held.media_type).await;
        }
        let from = match (pulled, &how) {
            (Some(joined), How::Stale(stale)) => ServedFrom::upstream(joined).by_stale_tag(stale),
            (Some(joined), _) => ServedFrom::upstream(joined),
            (None, How::Filled { joined }) => ServedFrom::upstream(*joined),
            (None, How::Fresh) => ServedFrom::cache(held.tier),
            (None, How::Revalidated) => ServedFrom::revalidated(),
            (None, How::Stale(stale)) => ServedFrom::stale(stale),
        };
        if let How::Stale(stale) = how {
            self.served_stale(scope, stale.reason);
        }
        if !request.head {
            self.metrics.pull_answered(scope.upstream.as_str());
        }
        Ok(request.manifest(held, &digest, from))
    }

    /// A manifest from the cache. `None` also for bytes that are no manifest: a layer is not served as one.
    pub(super) async fn held(self: &Arc<Self>, scope: &Scope, digest: &Digest) -> Option<Held> {
        let hit = self.cache.get(digest).await.filter(|hit| hit.size <= MAX_MANIFEST)?;
        let Some(media_type) = self.cache.media_type(digest) else {
            return Box::pin(self.look_into(scope, digest, hit)).await;
        };
        let tier = hit.tier;
        let bytes = match hit.content {
            Content::Memory(bytes) => bytes,
            Content::File(file) => spawn_blocking(move || read::whole(file.file(), hit.size)).await.ok()?.ok()?,
        };
        self.cache.catalog.touch_parts(digest);
        Some(Held { bytes, media_type, tier })
    }

    /// The same, of what has not been found to be a manifest since the start.
    async fn look_into(self: &Arc<Self>, scope: &Scope, digest: &Digest, hit: Hit) -> Option<Held> {
        let recorded = self.cache.manifest_record(scope, digest).await.map(|record| record.media_type);
        // The type that its upstream once gave it may make it one.
        let is_of_own_word = recorded.is_none();
        if is_of_own_word && self.cache.is_no_manifest(digest) {
            return None;
        }
        let (tier, size) = (hit.tier, hit.size);
        let is_at_hand = matches!(&hit.content, Content::Memory(bytes) if bytes.len() <= READ_INLINE);
        let read = move || {
            let bytes = match hit.content {
                Content::Memory(bytes) => bytes,
                Content::File(file) => read::whole(file.file(), size).ok()?,
            };
            let manifest = Manifest::parse(&bytes, recorded.as_ref().map(MediaType::as_str));
            Some((bytes, manifest))
        };
        let (bytes, manifest) = if is_at_hand { read() } else { spawn_blocking(read).await.ok()? }?;
        match manifest {
            Ok(manifest) => {
                self.note(scope, digest, &manifest);
                Some(Held { bytes, media_type: manifest.media_type, tier })
            }
            Err(_) => {
                if is_of_own_word {
                    self.cache.set_no_manifest(digest);
                }
                None
            }
        }
    }

    /// Keeps in mind what a manifest says: its type, and the sizes of what it refers to.
    fn note(&self, scope: &Scope, digest: &Digest, manifest: &Manifest) {
        self.cache.set_media_type(digest, &manifest.media_type);
        self.cache.note_parts(digest, manifest);
        for descriptor in &manifest.blobs {
            self.sizes.insert((scope.clone(), descriptor.digest), descriptor.size);
        }
    }

    /// Pulls a manifest by digest for a client that named it: with the memory of a "not found", and not offline.
    async fn pull_manifest(self: &Arc<Self>, scope: &Scope, asker: &Asker, digest: &Digest) -> Result<Pulled, PullError> {
        let asking = async {
            // Where an index of the repository names it, the pull itself is the question.
            if !self.is_open(scope) && !self.cache.catalog.names_manifest(scope, digest) {
                self.vouch(scope, asker, Evidence::Manifest(Reference::Digest(*digest))).await?;
            }
            self.fetch_manifest(scope, asker, digest).await
        };
        self.unless_absent(scope, asker, &What::Manifest(*digest), asking).await
    }

    /// Pulls a manifest by digest. Joins a pull under way, whichever repository it is for; if that one fails, and it was for
    /// another repository or another login, this one's own is asked. The caller vouches for what another one may have brought.
    pub(super) async fn fetch_manifest(
        self: &Arc<Self>,
        scope: &Scope,
        asker: &Asker,
        digest: &Digest,
    ) -> Result<Pulled, PullError> {
        loop {
            let flight = || {
                let (this, scope, asker, digest) = (self.clone(), scope.clone(), asker.clone(), *digest);
                async move {
                    let brought = this.bring_manifest(&scope, &asker, &digest).await;
                    Flown { scope, login: asker.key(), brought }
                }
            };
            let Landed { value: flown, joined } = self.manifests.join(*digest, flight).await.ok_or(PullError::Internal)?;
            match flown.brought {
                Ok(held) => return Ok(Pulled { held, joined }),
                Err(_) if joined && (flown.scope != *scope || flown.login != asker.key()) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn bring_manifest(self: &Arc<Self>, scope: &Scope, asker: &Asker, digest: &Digest) -> Result<Held, PullError> {
        // Another flight may have landed between the caller's look into the cache and this one's start.
        if let Some(held) = self.held(scope, digest).await {
            return Ok(held);
        }
        self.unless_refused(scope, asker, digest, async {
            let private = self.cache.confined.private();
            let upstream = self.upstream(scope, asker)?;
            let fetched = upstream.manifest(&scope.repository, &Reference::Digest(*digest)).await?;
            self.keep_manifest(scope, digest, fetched, &private).await
        })
        .await
    }

    /// Takes a manifest in, if it is what was asked for and one thing only (CVE-2021-41190). `private`: the upstreams that were
    /// not everybody's when it was asked for.
    pub(super) async fn keep_manifest(
        self: &Arc<Self>,
        scope: &Scope,
        digest: &Digest,
        fetched: FetchedManifest,
        private: &BTreeSet<UpstreamName>,
    ) -> Result<Held, PullError> {
        let invalid = |problem: String| {
            let problem = problem.into();
            PullError::Invalid { scope: scope.clone(), what: What::Manifest(*digest), problem }
        };
        if fetched.is_other_than(digest) {
            let said = fetched.claimed.map_or_else(String::new, |claimed| format!(", and it says {claimed}"));
            return Err(invalid(format!("the bytes have digest {}{said}", fetched.digest)));
        }
        let manifest = fetched.manifest.map_err(|error| {
            let problem = error.to_string().into();
            PullError::Refused { scope: scope.clone(), what: What::Manifest(*digest), problem }
        })?;
        self.note(scope, digest, &manifest);
        let media_type = manifest.media_type;
        if self.is_open(scope) {
            // A public upstream has it.
            self.cache.release(digest, &scope.upstream).await;
        }
        if let Err(error) = self.cache.put_of(scope, *digest, fetched.bytes.clone()).await {
            tracing::warn!(%digest, upstream = %scope.upstream, repository = %scope.repository, %error, "a manifest is kept in memory only");
            let reason = FillError::from(error).reason();
            self.metrics.fill_failures_total.with_label_values(&[scope.upstream.as_str(), reason]).inc();
        }
        self.cache.set_manifest_record(scope, digest, &ManifestRecord { media_type: media_type.clone() }).await;
        self.cache.confine_since(private).await;
        tracing::debug!(%digest, upstream = %scope.upstream, repository = %scope.repository, kind = Kind::Manifest.label(), "filled");
        Ok(Held { bytes: fetched.bytes, media_type, tier: Tier::Memory })
    }
}
