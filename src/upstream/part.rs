//! Blobs, whole or in parts: what is asked for, and what the answer means.
//!
//! The parts of a blob share what a redirect led to ([`Lead`]) as long as it works: a presigned URL is made once, not
//! once a part. Where the upstream's limits are reached, an additional part does not wait for its turn.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::time::Instant;
use url::Url;

use super::blob::{self, Body, Question, Source};
use super::error::{Class, Reason, UpstreamError};
use super::queue::Lane;
use super::request::{Answer, Ask, Origin};
use super::traffic::Traffic;
use super::{BlobAnswer, BlobBody, Upstream};
use crate::metrics::Kind;
use crate::oci::{ContentRange, Digest, Repository};

/// Where a redirect for a blob has led. Holds for minutes, for this blob alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Lead {
    /// The address that sent the redirect.
    pub(super) home: Url,
    /// A presigned URL, mostly, and so a credential (I9).
    pub(super) url: Url,
}

impl fmt::Debug for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lead")
    }
}

/// What is done for an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// A client depends on it: what fails in passing is asked for again.
    #[default]
    Patient,
    /// The caller tries again itself, as long as that brings bytes.
    Once,
    /// An additional part, which must be no burden: where it would have to wait for a slot it fails as busy.
    Spare,
}

/// What is asked for.
#[derive(Debug, Default)]
struct Wanted<'a> {
    from: u64,
    /// To the end, where it is `None`.
    to: Option<u64>,
    lead: Option<&'a Lead>,
    effort: Effort,
}

impl Wanted<'_> {
    /// It is the rest of what is here; that may be nothing, where nobody has told the size.
    fn may_be_nothing(&self) -> bool {
        self.effort == Effort::Once && self.to.is_none() && self.from > 0
    }
}

/// The answer says that byte `from` is the first one behind the blob.
fn is_end(answer: &Answer, from: u64) -> bool {
    answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE
        && blob::content_range(answer.response.headers()) == Some(ContentRange::Unsatisfied(from))
}

impl Upstream {
    /// The size of a blob without its bytes: a GET of its first byte. `None` if the upstream does not tell. Takes no
    /// download slot.
    pub async fn blob_size(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        self.first_byte(repository, digest, Question::Size).await
    }

    /// Whether the upstream has a blob, for who opens something on this word: it has to be a registry's, and not that of
    /// whoever stands between and has an answer to everything. `known`: its size, where that is certain; whoever says
    /// another one speaks of something else. Asked as [`Self::blob_size`] is.
    pub async fn has_blob(&self, repository: &Repository, digest: &Digest, known: Option<u64>) -> Result<(), UpstreamError> {
        self.first_byte(repository, digest, Question::Proof(known)).await.map(drop)
    }

    async fn first_byte(
        &self,
        repository: &Repository,
        digest: &Digest,
        question: Question,
    ) -> Result<Option<u64>, UpstreamError> {
        let range = Some(HeaderValue::from_static("bytes=0-0"));
        let ask = Ask { range, ..Ask::new(Kind::Blob, repository, format!("blobs/{digest}")) };
        // An empty blob has no first byte.
        let unsatisfiable = |answer: &Answer| answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE;
        let mut useless = 0;
        loop {
            let (origin, answer) = self.ask_in(Lane::Small, &ask, unsatisfiable).await?;
            match blob::told_size(origin, answer, digest, question) {
                Err(error)
                    if error.class() == Class::Invalid && self.give_way(origin, Traffic::Layer, &mut useless, Some(&error)) => {}
                told => return told,
            }
        }
    }

    /// GET of a blob, from byte `from` on; waits for a free download slot first.
    ///
    /// A range that the upstream ignores is no error: [`BlobAnswer::start`] says where the body begins.
    pub async fn blob(&self, repository: &Repository, digest: &Digest, from: u64) -> Result<BlobAnswer, UpstreamError> {
        self.get_blob(repository, digest, Wanted { from, ..Wanted::default() }).await
    }

    /// The same after a break. A redirect is asked for anew, because presigned URLs expire. If the upstream says that the
    /// blob ends at `from`, the answer is an empty one: only the end of the last one had not come.
    pub async fn resume_blob(&self, repository: &Repository, digest: &Digest, from: u64) -> Result<BlobAnswer, UpstreamError> {
        self.get_blob(repository, digest, Wanted { from, effort: Effort::Once, ..Wanted::default() }).await
    }

    /// GET of a part of a blob, where `lead` led, as long as it does, else from the beginning.
    /// Each part holds a slot of its own, as a download does.
    pub async fn blob_part(
        &self,
        repository: &Repository,
        digest: &Digest,
        part: Range<u64>,
        lead: Option<&Lead>,
        effort: Effort,
    ) -> Result<BlobAnswer, UpstreamError> {
        self.get_blob(repository, digest, Wanted { from: part.start, to: Some(part.end), lead, effort }).await
    }

    async fn get_blob(&self, repository: &Repository, digest: &Digest, wanted: Wanted<'_>) -> Result<BlobAnswer, UpstreamError> {
        let may_be_nothing = wanted.may_be_nothing();
        let Wanted { from, to, lead, effort } = wanted;
        let range = match to {
            Some(to) => Some(format!("bytes={from}-{}", to.saturating_sub(1))),
            None => (from > 0).then(|| format!("bytes={from}-")),
        };
        // Digits and ASCII only: always a valid header.
        let range = range.and_then(|range| HeaderValue::try_from(range).ok());
        let ask = Ask { range, lead, effort, ..Ask::new(Kind::Blob, repository, format!("blobs/{digest}")) };
        let mut useless = 0;
        loop {
            let (origin, answer) = self.ask_in(Lane::Layer, &ask, |answer| may_be_nothing && is_end(answer, from)).await?;
            match self.judge(origin, answer, ask.what(), from) {
                Err(error) if self.give_way(origin, ask.traffic(), &mut useless, Some(&error)) => {}
                judged => return judged,
            }
        }
    }

    fn judge(&self, origin: &Origin, mut answer: Answer, what: String, from: u64) -> Result<BlobAnswer, UpstreamError> {
        let slot = answer.slot.take();
        let lead = answer.foreign.then(|| Arc::new(Lead { home: origin.url().clone(), url: answer.url.clone() }));
        let etag = etag(answer.response.headers());
        let source = Source { health: Arc::clone(origin.health()), what, foreign: answer.foreign };
        let whole = |body| BlobBody::new(body, slot, source, self.pace.clone());
        let invalid = |problem: &str| origin.client.error(&answer.url, Reason::Invalid(problem.into()));
        blob::check_identity(answer.response.headers()).map_err(|reason| origin.client.error(&answer.url, reason))?;
        let status = answer.response.status();
        let range = blob::content_range(answer.response.headers());
        match (status, range) {
            (StatusCode::OK, _) => {
                let ranges = accepts_ranges(answer.response.headers());
                let body = Body::new(&origin.client, &answer.url, answer.response);
                let total = body.left();
                Ok(BlobAnswer { total, start: 0, end: total, ranges, etag, lead, body: whole(body) })
            }
            (StatusCode::PARTIAL_CONTENT, Some(ContentRange::Part { range, total })) if range.start == from => {
                let length = range.end - range.start;
                let mut body = Body::new(&origin.client, &answer.url, answer.response);
                if body.left().is_some_and(|left| left != length) {
                    return Err(origin
                        .client
                        .error(&answer.url, Reason::Invalid("Content-Length and Content-Range differ".into())));
                }
                body.expect(length);
                Ok(BlobAnswer { total, start: from, end: Some(range.end), ranges: true, etag, lead, body: whole(body) })
            }
            _ if is_end(&answer, from) => {
                let (end, body) = (Some(from), Body::ended(&origin.client, &answer.url));
                Ok(BlobAnswer { total: end, start: from, end, ranges: true, etag: None, lead, body: whole(body) })
            }
            (StatusCode::PARTIAL_CONTENT, _) => Err(invalid("it sent another range than the one asked for")),
            _ => Err(origin.client.error(&answer.url, Reason::Status(status))),
        }
    }

    /// How many requests a large blob may be split into at one time, where `default` is everybody's number: one where
    /// the upstream has shown lately that it does not serve parts.
    pub fn parts(&self, default: usize) -> usize {
        let allowed = self.ranges.lock().allowed(Instant::now());
        if allowed { self.config.parallel.unwrap_or(default) } else { 1 }
    }

    /// Whether one more download could begin at once.
    pub fn has_room(&self) -> bool {
        self.queue.has_room(Lane::Layer)
    }

    /// A part did not come as it was asked for: `why` says what came instead. Blobs are asked for in one piece for a while.
    pub fn part_refused(&self, why: &str) {
        if self.ranges.lock().refused(Instant::now()) {
            tracing::info!(upstream = %self.name, why, "blobs are downloaded in one piece for the next hour");
        }
    }
}

fn accepts_ranges(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT_RANGES).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"bytes"))
}

/// A strong validator: the same bytes as long as it is the same (RFC 9110 §8.8.1).
fn etag(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(header::ETAG).filter(|etag| etag.as_bytes().starts_with(b"\"")).cloned()
}
