//! Manifests and tags at an upstream: HEAD to learn a digest, GET for the bytes.
//!
//! Owns the judgement of such answers: which are no manifest, which are another one, which need another address. Never asks by
//! GET where a HEAD will do. Whether the bytes are the right ones is for the caller to say.

use bytes::Bytes;
use bytesize::ByteSize;
use http::{HeaderMap, Method, StatusCode, header};
use tokio::time::Instant;

use super::Upstream;
use super::asking::{PAUSE, jittered};
use super::blob::{self, Body};
use super::breaker::Need;
use super::error::{Class, Reason, UpstreamError};
use super::request::{Answer, Ask, Origin};
use super::traffic::Traffic;
use crate::metrics::Kind;
use crate::oci::manifest::ManifestError;
use crate::oci::{Algorithm, Digest, Manifest, MediaType, Reference, Repository};

/// Hashing and reading a larger manifest than this leaves the reactor (I11).
pub const READ_INLINE: usize = 64 * 1024;

/// What a tag, or a digest, stands for.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The manifest's digest, as the upstream says; computed, if the upstream did not say it.
    pub digest: Digest,
    /// The manifest itself, where only a GET could tell the digest: so that this GET is the only one.
    pub fetched: Option<FetchedManifest>,
    /// The answer has named the digest, or a manifest's type, and not only been cheerful.
    told: bool,
}

/// A manifest as it came.
#[derive(Clone, Debug)]
pub struct FetchedManifest {
    /// The bytes, untouched (I10).
    pub bytes: Bytes,
    /// `Content-Type` as received; often missing or wrong.
    pub content_type: Option<String>,
    /// Computed over `bytes`, by the algorithm of the digest asked for, else of `claimed`, else SHA-256. Not compared to
    /// either: that is for the caller.
    pub digest: Digest,
    /// `Docker-Content-Digest` as received.
    pub claimed: Option<Digest>,
    /// What `bytes` say, of the type that `content_type` has.
    pub manifest: Result<Manifest, ManifestError>,
}

impl FetchedManifest {
    /// Whether it is another one than this, or the upstream says that it is.
    pub fn is_other_than(&self, digest: &Digest) -> bool {
        self.digest != *digest || self.claimed.is_some_and(|claimed| contradicts(&claimed, digest))
    }

    /// Whether it is a manifest, and the one that the upstream says it is. What it is asked for is for the caller to say.
    fn is_sound(&self) -> bool {
        !self.is_other_than(&self.digest) && self.manifest.is_ok()
    }
}

impl Upstream {
    /// The digest that a reference stands for, by HEAD, which no registry counts as a pull.
    ///
    /// A GET follows only where HEAD cannot tell: a success without `Docker-Content-Digest`, a 405, or a redirect whose
    /// target refuses the method (403 or 405: a URL presigned for GET). Never after a 401, 429, 5xx or time-out. An
    /// address that showed such a lack, and brought a manifest by GET, is not asked by HEAD for an hour; each GET in the
    /// place of a HEAD is counted. A page with a cheerful status is no such lack: it comes from whoever stands between.
    pub async fn resolve(&self, repository: &Repository, reference: &Reference) -> Result<Resolved, UpstreamError> {
        self.resolve_for(Need::Content, repository, reference).await
    }

    /// Whether the upstream has it: its digest. As [`Self::resolve`], for who opens something on this word: it has to be a
    /// registry's, and not that of whoever stands between and has an answer to everything.
    pub async fn has_manifest(&self, repository: &Repository, reference: &Reference) -> Result<Digest, UpstreamError> {
        let mut resolved = self.resolve(repository, reference).await?;
        if !resolved.told && resolved.fetched.is_none() {
            resolved = self.resolve_by_get(Need::Content, repository, reference).await?;
        }
        match resolved.told {
            true => Ok(resolved.digest),
            false => Err(self.error(Reason::Invalid("it sent no manifest for one".into()))),
        }
    }

    /// As [`Self::resolve`]. With [`Need::Fallback`] it is not asked at all while the upstream has just failed, and only
    /// once.
    pub async fn resolve_for(
        &self,
        need: Need,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Resolved, UpstreamError> {
        // Of several addresses one that can may answer.
        if !self.origins.iter().any(|origin| origin.health().knows_head()) {
            return self.resolve_by_get(need, repository, reference).await;
        }
        let no_head = |answer: &Answer| match answer.response.status() {
            StatusCode::METHOD_NOT_ALLOWED => true,
            StatusCode::FORBIDDEN => answer.redirected,
            _ => false,
        };
        let mut useless = 0;
        let (origin, answer) = loop {
            let (origin, answer) = self.ask_for_manifest(need, Method::HEAD, repository, reference, no_head).await?;
            let headers = answer.response.headers();
            let is_page = answer.response.status().is_success() && is_page(headers);
            let is_other = matches!((claimed(headers), reference),
                (Some(claimed), Reference::Digest(asked)) if contradicts(&claimed, asked));
            if !(is_page || is_other) || !self.give_way(origin, Traffic::Check, &mut useless, None) {
                break (origin, answer);
            }
        };
        let headers = answer.response.headers();
        let claimed = claimed(headers);
        let digest = match (claimed, reference) {
            _ if !answer.response.status().is_success() => None,
            (Some(claimed), Reference::Digest(asked)) if contradicts(&claimed, asked) => {
                let problem = format!("asked for {asked}, it says it has {claimed}");
                return Err(origin.client.error(&answer.url, Reason::Invalid(problem)));
            }
            (Some(_), Reference::Digest(asked)) => Some(*asked),
            // A page says nothing of it, whatever its status.
            (None, Reference::Digest(asked)) if !is_page(headers) => Some(*asked),
            (claimed, _) => claimed,
        };
        if let Some(digest) = digest {
            let is_manifest = |kind: String| kind.parse::<MediaType>().is_ok_and(|kind| kind.is_manifest());
            let told = claimed.is_some() || content_type(headers).is_some_and(is_manifest);
            return Ok(Resolved { digest, fetched: None, told });
        }
        let status = answer.response.status();
        let page = status.is_success() && is_page(headers);
        // Gives its place in the queue back before the next request wants one.
        drop(answer);
        let resolved = self.resolve_by_get(need, repository, reference).await?;
        if !page && resolved.fetched.as_ref().is_some_and(FetchedManifest::is_sound) && origin.health().note_no_head() {
            tracing::warn!(upstream = %self.name, address = origin.host(), status = status.as_u16(),
                "this registry does not tell a tag's digest by HEAD; tags are checked by GET, which may count as pulls");
        }
        Ok(resolved)
    }

    async fn resolve_by_get(
        &self,
        need: Need,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Resolved, UpstreamError> {
        self.metrics.upstream_head_fallbacks_total.with_label_values(&[self.name.as_str()]).inc();
        let fetched = self.manifest_for(need, repository, reference).await?;
        if let Reference::Digest(asked) = reference
            && fetched.is_other_than(asked)
        {
            return Err(self.error(Reason::Invalid(format!("asked for {asked}, it sent {}", fetched.digest))));
        }
        Ok(Resolved { digest: fetched.digest, told: fetched.is_sound(), fetched: Some(fetched) })
    }

    /// GET of a manifest, whole, at most `max_manifest` bytes. Counts as a pull at registries that count. One that broke off
    /// on its way, or has another digest than it should, is asked for once more.
    pub async fn manifest(&self, repository: &Repository, reference: &Reference) -> Result<FetchedManifest, UpstreamError> {
        self.manifest_for(Need::Content, repository, reference).await
    }

    async fn manifest_for(
        &self,
        need: Need,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<FetchedManifest, UpstreamError> {
        let (started, mut useless, mut repeated, mut earlier) = (Instant::now(), 0, false, None);
        loop {
            let asked = self.ask_for_manifest(need, Method::GET, repository, reference, |_| false).await;
            let (origin, answer) = match (asked, earlier.take()) {
                (Ok(found), _) => found,
                // The earlier answer says more than that it was not asked again.
                (Err(error), Some(earlier)) if error.was_not_asked() => return earlier,
                (Err(error), _) => return Err(error),
            };
            let fetched = self.fetch(origin, answer, reference).await;
            let is_other = fetched.as_ref().is_ok_and(|fetched| match reference {
                Reference::Digest(asked) => fetched.is_other_than(asked),
                Reference::Tag(_) => fetched.is_other_than(&fetched.digest),
            });
            // Any bytes match their own digest, so what a tag stands for must at least be a manifest.
            let is_none = matches!(reference, Reference::Tag(_)) && fetched.as_ref().is_ok_and(|fetched| !fetched.is_sound());
            if is_other {
                self.metrics.digest_mismatches_total.with_label_values(&[self.name.as_str()]).inc();
            }
            let class = fetched.as_ref().err().map(UpstreamError::class);
            let is_useless = is_other || is_none || class == Some(Class::Invalid);
            if is_useless && self.give_way(origin, Traffic::Pull, &mut useless, fetched.as_ref().err()) {
                earlier = Some(fetched);
                continue;
            }
            // The same address, or one like it, may do better the next time: bytes went astray on the way.
            let is_glitch = is_other || class == Some(Class::Broken);
            if fetched.is_ok() && !is_useless {
                origin.health().was_right(Traffic::Pull);
            }
            let pause = jittered(PAUSE);
            if !is_glitch || repeated || started.elapsed() + pause > self.config.response_timeout {
                return fetched;
            }
            (repeated, useless) = (true, 0);
            origin.health().avoid(Traffic::Pull);
            tracing::debug!(upstream = %self.name, address = origin.host(), error = fetched.as_ref().err().map(tracing::field::display),
                "a manifest did not come whole; asking again");
            self.metrics.upstream_retries_total.with_label_values(&[self.name.as_str()]).inc();
            earlier = Some(fetched);
            tokio::time::sleep(pause).await;
        }
    }

    async fn fetch(&self, origin: &Origin, answer: Answer, reference: &Reference) -> Result<FetchedManifest, UpstreamError> {
        let error = |reason| origin.client.error(&answer.url, reason);
        if answer.response.status() != StatusCode::OK {
            return Err(error(Reason::Status(answer.response.status())));
        }
        let headers = answer.response.headers();
        blob::check_identity(headers).map_err(error)?;
        let (content_type, claimed) = (content_type(headers), claimed(headers));
        if is_page(headers) {
            return Err(error(Reason::Invalid("it sent an HTML page for a manifest".into())));
        }
        self.metrics.pull_made(self.name.as_str());
        let limit = usize::try_from(self.config.max_manifest).unwrap_or(usize::MAX);
        let is_named = match (reference, claimed) {
            (Reference::Digest(asked), Some(claimed)) => !contradicts(&claimed, asked),
            (Reference::Digest(_), None) => true,
            // Whoever sends something long for a tag, and does not say what, may be anybody.
            (Reference::Tag(_), claimed) => claimed.is_some(),
        };
        let body = Body::new(&origin.client, &answer.url, answer.response);
        let bytes = match is_named {
            true => body.collect_or(limit, too_large(self.config.max_manifest)).await?,
            false => body.collect(limit).await?,
        };
        let algorithm = match reference {
            Reference::Digest(digest) => digest.algorithm(),
            Reference::Tag(_) => claimed.map_or(Algorithm::Sha256, |digest| digest.algorithm()),
        };
        let (digest, manifest) = read(algorithm, bytes.clone(), content_type.clone()).await;
        Ok(FetchedManifest { bytes, content_type, digest, claimed, manifest })
    }

    async fn ask_for_manifest(
        &self,
        need: Need,
        method: Method,
        repository: &Repository,
        reference: &Reference,
        accepts: impl Fn(&Answer) -> bool,
    ) -> Result<(&Origin, Answer), UpstreamError> {
        let path = format!("manifests/{reference}");
        let ask = Ask { method, need, accept: MediaType::ACCEPT, ..Ask::new(Kind::Manifest, repository, path) };
        self.ask(&ask, accepts).await
    }
}

/// The digest of bytes, and what they say.
async fn read(algorithm: Algorithm, bytes: Bytes, content_type: Option<String>) -> (Digest, Result<Manifest, ManifestError>) {
    let is_large = bytes.len() > READ_INLINE;
    let read = move || (Digest::of(algorithm, &bytes), Manifest::parse(&bytes, content_type.as_deref()));
    if is_large && let Ok(done) = tokio::task::spawn_blocking(read.clone()).await {
        return done;
    }
    // Small; or the runtime is shutting down, and nobody is left to be held up.
    read()
}

fn too_large(limit: u64) -> Reason {
    Reason::Refused(format!("a manifest that is larger than {} (max_manifest)", ByteSize(limit)))
}

/// `claimed` says that it is another manifest than `asked`. A digest of another algorithm says nothing of it: distribution
/// names a manifest's sha256, whatever it was asked for by.
fn contradicts(claimed: &Digest, asked: &Digest) -> bool {
    claimed.algorithm() == asked.algorithm() && claimed != asked
}

/// A sign-in page or an error page.
fn is_page(headers: &HeaderMap) -> bool {
    content_type(headers).is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html"))
}

/// `Docker-Content-Digest`; one that is no digest counts as missing.
fn claimed(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.trim().parse().ok()
}

pub(super) fn content_type(headers: &HeaderMap) -> Option<String> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}
