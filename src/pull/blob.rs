//! Blobs: from the cache, or from the one fill of their digest.
//!
//! Nothing that is found or joined is shown before the repository is known to hold it ([`super::visibility`]). What the cache
//! cannot take is handed to [`super::relay`]. Called by [`Pull::answer`].

use std::io;
use std::sync::Arc;

use http::header;

use super::cache_status::ServedFrom;
use super::respond::Answer;
use super::visibility::{Asker, Evidence};
use super::what::What;
use super::{Pull, PullError, Request, body};
use crate::cache::read::Reader;
use crate::cache::{Content, Hit};
use crate::fill::{FillError, Join, Source};
use crate::oci::{Digest, Scope};

impl Pull {
    /// Answers a request for a blob.
    pub(super) async fn blob(
        self: &Arc<Self>,
        request: &Request<'_>,
        asker: &Asker,
        digest: &Digest,
    ) -> Result<Answer, PullError> {
        let scope = request.permit.scope();
        if let Some(hit) = self.cache.get(digest).await {
            self.vouch(scope, asker, Evidence::Blob(*digest)).await.map_err(|error| self.told(scope, error))?;
            if let Some(hit) = self.unless_wrong(request, digest, hit).await {
                let content = match hit.content {
                    Content::File(file) => body::Source::File(Reader::new(file).with_alarm(self.cache.alarm(digest))),
                    content => content.into(),
                };
                return Ok(request.blob(content, Some(hit.size), digest, ServedFrom::cache(hit.tier)));
            }
        }
        Box::pin(self.missing_blob(request, asker, digest)).await
    }

    /// A client that asks for a blob again within minutes may have found it wrong: it waits until the file has been
    /// hashed.
    async fn unless_wrong(&self, request: &Request<'_>, digest: &Digest, hit: Hit) -> Option<Hit> {
        let is_whole = !request.head && !request.headers.contains_key(header::RANGE);
        match (request.permit.address(), &hit.content) {
            (Some(client), Content::File(_)) if is_whole && self.cache.recheck_if_asked_again(digest, client, hit.size) => {
                Box::pin(self.cache.get(digest)).await
            }
            _ => Some(hit),
        }
    }

    /// Answers a request for a blob that is not here.
    async fn missing_blob(self: &Arc<Self>, request: &Request<'_>, asker: &Asker, digest: &Digest) -> Result<Answer, PullError> {
        let scope = request.permit.scope();
        let asking = async {
            match request.head {
                true => self.probe(request, asker, digest).await,
                false => self.fill(request, asker, digest).await,
            }
        };
        let answer = self.unless_absent(scope, asker, &What::Blob(*digest), asking).await;
        answer.map_err(|error| self.told(scope, error))
    }

    /// The error as the operator wants clients to be told of an outage.
    fn told(&self, scope: &Scope, error: PullError) -> PullError {
        match self.site(scope) {
            Ok(site) => error.instead(site.upstream.blob_outage_status()),
            Err(_) => error,
        }
    }

    /// Begins or joins the fill, and answers as soon as the upstream has (I4).
    async fn fill(self: &Arc<Self>, request: &Request<'_>, asker: &Asker, digest: &Digest) -> Result<Answer, PullError> {
        let scope = request.permit.scope();
        let source = Source {
            upstream: self.upstream(scope, asker)?,
            repository: scope.repository.clone(),
            size: self.told_size(scope, digest),
        };
        if !self.is_open(scope) {
            match self.fills.upstream_of(digest) {
                Some(through) => self.vouch_underway(scope, asker, digest, &through).await?,
                None => self.vouch(scope, asker, Evidence::Blob(*digest)).await?,
            }
        }
        let mut slot = None;
        loop {
            // Joining a download that runs takes no slot. (If that ends between the look and the joining, the new one is
            // not counted.)
            if slot.is_none() && !self.fills.is_running(digest) {
                slot = request.permit.fill_slot().await.inspect_err(|_| self.refused_fill())?;
            }
            let Ok(Join { reader, began }) = self.join(scope, digest, source.clone()).await else {
                // [`Self::relay`] takes one of its own.
                drop(slot);
                return self.relay(request, digest, source).await;
            };
            if began && let Some(slot) = slot.take() {
                reader.keep(slot);
            }
            // By now the content is closed, if its upstream is private.
            self.vouch_underway(scope, asker, digest, reader.upstream()).await?;
            let size = match reader.head().await {
                // A range needs the whole size, so that every ranged request gets the same kind of answer; and so does a
                // client that would take the connection's end for the blob's.
                Ok(None) if request.needs_length || request.range(digest).is_some() => reader.total().await.map(Some),
                head => head,
            };
            match size {
                Ok(size) => {
                    if !reader.is_given() {
                        // All of it was here already, whoever had sent it, and the upstream was not asked.
                        self.vouch(scope, asker, Evidence::Blob(*digest)).await?;
                    }
                    return Ok(request.blob(body::Source::Fill(reader), size, digest, ServedFrom::upstream(!began)));
                }
                // Another repository or upstream failed; this request has its own.
                Err(error) if !began && reader.leaves_hope(&error, &source) => {}
                Err(FillError::NoRoom(_)) => {
                    drop(slot);
                    return self.relay(request, digest, source).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn refused_fill(&self) {
        self.metrics.access_refusals_total.with_label_values(&["too_many_fills"]).inc();
    }

    /// Joins the fill of a blob, or begins it, and sees to it that the content is closed if it comes through a private upstream.
    /// After an error the blob must not be kept.
    pub(super) async fn join(&self, scope: &Scope, digest: &Digest, source: Source) -> io::Result<Join> {
        let join = self.fills.join(digest, source);
        self.cache.expect_joined(digest, join.reader.upstream()).await.inspect_err(|error| {
            tracing::warn!(%digest, upstream = %scope.upstream, %error, "cannot write down that this is not everybody's; it is not kept");
        })?;
        Ok(join)
    }

    /// The size of a blob that is not here, without its bytes. The upstream is never asked by HEAD: some refuse it for
    /// blobs, and presigned redirects are for GET.
    async fn probe(self: &Arc<Self>, request: &Request<'_>, asker: &Asker, digest: &Digest) -> Result<Answer, PullError> {
        let scope = request.permit.scope();
        let upstream = self.upstream(scope, asker)?;
        let flight = || {
            let (repository, digest) = (scope.repository.clone(), *digest);
            async move { Ok(upstream.blob_size(&repository, &digest).await?) }
        };
        let landed = self.probes.join((scope.clone(), *digest, asker.key()), flight).await.ok_or(PullError::Internal)?;
        let size = landed.value?.or_else(|| self.told_size(scope, digest));
        Ok(request.blob(body::Source::None, size, digest, ServedFrom::uncached(landed.joined)))
    }

    /// A blob's size, as a manifest of the same repository states it.
    pub(super) fn told_size(&self, scope: &Scope, digest: &Digest) -> Option<u64> {
        self.sizes.get(&(scope.clone(), *digest))
    }
}
