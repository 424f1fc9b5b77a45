//! Blobs: from the cache, or from the one fill of their digest.

use std::sync::Arc;

use super::body::Source as Bytes;
use super::respond::{Answer, From};
use super::{Pull, PullError, Request};
use crate::cache::Content;
use crate::cache::read::Reader;
use crate::fill::{FillError, Join, Source};
use crate::oci::{Digest, Scope};

impl Pull {
    /// Answers a request for a blob.
    pub(super) async fn blob(self: &Arc<Self>, request: &Request<'_>, digest: &Digest) -> Result<Answer, PullError> {
        if let Some(hit) = self.cache.get(digest).await {
            let content = match hit.content {
                Content::File(file) => Bytes::File(Reader::new(file).with_alarm(self.cache.alarm(digest))),
                content => content.into(),
            };
            return Ok(request.blob(content, Some(hit.size), digest, From::cache(hit.tier)));
        }
        Box::pin(self.missing_blob(request, digest)).await
    }

    /// Answers a request for a blob that is not here.
    async fn missing_blob(self: &Arc<Self>, request: &Request<'_>, digest: &Digest) -> Result<Answer, PullError> {
        let scope = request.permit.scope();
        let what = format!("blob {digest}");
        if self.site(scope)?.upstream.is_offline() {
            return Err(PullError::Offline { scope: scope.clone(), what });
        }
        if self.negative.is_remembered(scope, &what) {
            return Err(PullError::NotFound { scope: scope.clone(), what, remembered: true });
        }
        let answer = if request.head { self.probe(request, digest).await } else { self.fill(request, digest).await };
        answer.map_err(|error| match self.site(scope) {
            Ok(site) if error.is_not_found() => {
                self.negative.remember(scope, &what, error.believe(site.freshness.negative));
                PullError::NotFound { scope: scope.clone(), what, remembered: false }
            }
            Ok(site) => error.instead(site.upstream.blob_outage_status()),
            Err(_) => error,
        })
    }

    /// Begins or joins the fill, and answers as soon as the upstream has (I4).
    async fn fill(self: &Arc<Self>, request: &Request<'_>, digest: &Digest) -> Result<Answer, PullError> {
        let scope = request.permit.scope();
        let source = Source {
            upstream: self.site(scope)?.upstream.clone(),
            repository: scope.repository.clone(),
            size: self.told_size(scope, digest),
        };
        loop {
            let Join { reader, began } = self.fills.join(digest, source.clone());
            let size = match reader.head().await {
                // A range needs the whole size, so that every ranged request gets the same kind of answer.
                Ok(None) if request.range(digest).is_some() => reader.total().await.map(Some),
                head => head,
            };
            match size {
                Ok(size) => return Ok(request.blob(Bytes::Fill(reader), size, digest, From::upstream(!began))),
                // Somebody else's repository or upstream; this request has its own.
                Err(error) if !began && error.blames_source() => {}
                Err(FillError::NoRoom(_)) => return self.relay(request, digest, source).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The size of a blob that is not here, without its bytes. The upstream is never asked by HEAD: some refuse it for
    /// blobs, and presigned redirects are for GET.
    async fn probe(self: &Arc<Self>, request: &Request<'_>, digest: &Digest) -> Result<Answer, PullError> {
        let scope = request.permit.scope();
        let upstream = self.site(scope)?.upstream.clone();
        let flight = || {
            let (repository, digest) = (scope.repository.clone(), *digest);
            async move { Ok(upstream.blob_size(&repository, &digest).await?) }
        };
        let landed = self.probes.join((scope.clone(), *digest), flight).await.ok_or(PullError::Internal)?;
        let size = landed.value?.or_else(|| self.told_size(scope, digest));
        Ok(request.blob(Bytes::None, size, digest, From::uncached(landed.joined)))
    }

    /// A blob's size, as a manifest of the same repository has it.
    fn told_size(&self, scope: &Scope, digest: &Digest) -> Option<u64> {
        self.sizes.get(&(scope.clone(), *digest))
    }
}
