//! Heads of answers: status, headers, range. The response contract of a registry (protocol notes A9), in one place.
//!
//! Built from what is stored, never copied from an upstream's answer. HEAD is answered as GET is; `server` leaves the body off.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::json;

use super::body::{Body, Segment, Source};
use super::cache_status::ServedFrom;
use super::error::Said;
use super::listing::Page;
use super::manifest::Held;
use super::{PullError, Request};
use crate::hop;
use crate::metrics::{Kind, Outcome};
use crate::oci::range::MAX_PARTS;
use crate::oci::{ContentRange, Digest, ErrorCode, RangeHeader, Selection, route};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

const OCTETS: Option<HeaderValue> = Some(HeaderValue::from_static("application/octet-stream"));

/// As many as an answer has, so that their table is made once.
const HEADERS: usize = 12;

/// A response, and how it came about.
#[derive(Debug)]
pub struct Answer {
    /// Goes to the client.
    pub response: Response<Body>,
    /// The label it is counted under (I12).
    pub outcome: Outcome,
    /// What went wrong, for the log.
    pub error: Option<String>,
}

impl Request<'_> {
    /// A manifest.
    pub(super) fn manifest(&self, held: Held, digest: &Digest, from: ServedFrom) -> Answer {
        let size = held.bytes.len() as u64;
        let mut response = self.content(digest, &from, value(held.media_type.as_known(), held.media_type.as_str()));
        if self.is_unchanged(digest) {
            return answer(unchanged(response), from);
        }
        response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
        *response.body_mut() = Body::full(held.bytes);
        answer(response, from)
    }

    /// A blob of which `source` can give any part, in whatever part the client wants. `None` for a size that shows
    /// only at the end.
    pub(super) fn blob(&self, source: Source, size: Option<u64>, digest: &Digest, from: ServedFrom) -> Answer {
        let selection = size.zip(self.range(digest)).map(|(size, range)| (size, range.resolve(size)));
        match selection {
            Some((size, Selection::One(range))) => self.part(source, range, size, digest, from),
            Some((size, Selection::Many(ranges))) => self.parts(source, ranges, size, digest, from),
            Some((size, Selection::Unsatisfiable)) => self.unsatisfiable(size, digest),
            Some((_, Selection::Whole)) | None => self.whole(source, size, digest, from),
        }
    }

    /// 200
    pub(super) fn whole(&self, source: Source, size: Option<u64>, digest: &Digest, from: ServedFrom) -> Answer {
        let mut response = self.content(digest, &from, OCTETS);
        response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if self.is_unchanged(digest) {
            return answer(unchanged(response), from);
        }
        if let Some(size) = size {
            response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
        }
        *response.body_mut() = Body::new(source, [size.map_or(Segment::Rest, |size| Segment::Span(0..size))]);
        answer(response, from)
    }

    /// 206 with one part (RFC 9110 §15.3.7.1).
    pub(super) fn part(&self, source: Source, range: Range<u64>, size: u64, digest: &Digest, from: ServedFrom) -> Answer {
        let mut response = self.content(digest, &from, OCTETS);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
        insert(headers, header::CONTENT_RANGE, &ContentRange::Part { range: range.clone(), total: Some(size) }.to_string());
        *response.body_mut() = Body::new(source, [Segment::Span(range)]);
        answer(response, from)
    }

    /// 206 with several parts, which podman wants exactly as it asked for them (RFC 9110 §15.3.7.2).
    fn parts(&self, source: Source, ranges: Vec<Range<u64>>, size: u64, digest: &Digest, from: ServedFrom) -> Answer {
        let boundary = boundary(digest);
        let mut segments = Vec::with_capacity(ranges.len() * 2 + 1);
        let mut length = 0;
        for range in ranges {
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: {}\r\n\r\n",
                ContentRange::Part { range: range.clone(), total: Some(size) }
            );
            length += head.len() as u64 + (range.end - range.start);
            segments.extend([Segment::Literal(head.into()), Segment::Span(range)]);
        }
        let end = format!("\r\n--{boundary}--\r\n");
        length += end.len() as u64;
        segments.push(Segment::Literal(end.into()));
        let content_type = HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}"));
        let mut response = self.content(digest, &from, content_type.ok());
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CONTENT_LENGTH, length.into());
        *response.body_mut() = Body::new(source, segments);
        answer(response, from)
    }

    /// 416
    pub(super) fn unsatisfiable(&self, size: u64, digest: &Digest) -> Answer {
        let message = format!("{digest} has {size} bytes, and an answer at most {MAX_PARTS} parts");
        let mut response = error_response(ErrorCode::RangeInvalid, &message, None);
        self.common(&mut response, "roadstead; detail=invalid".into());
        insert(response.headers_mut(), header::CONTENT_RANGE, &ContentRange::Unsatisfied(size).to_string());
        Answer { response, outcome: Outcome::Invalid, error: Some(message) }
    }

    /// A list.
    pub(super) fn list(&self, page: Page, content_type: &str, from: ServedFrom) -> Answer {
        let mut response = Response::new(Body::empty());
        self.common(&mut response, from.cache_status.clone());
        let headers = response.headers_mut();
        insert(headers, header::CONTENT_TYPE, content_type);
        headers.insert(header::CONTENT_LENGTH, page.body.len().into());
        if let Some(next) = page.next {
            insert(headers, header::LINK, &route::next_link(self.path, self.namespace, &next));
        }
        if let Some(filters) = page.filters_applied {
            insert(headers, FILTERS_APPLIED, &filters);
        }
        if let Some(warning) = &from.warning {
            insert(headers, header::WARNING, warning);
        }
        *response.body_mut() = Body::full(page.body);
        answer(response, from)
    }

    /// An error, as clients understand it.
    pub(super) fn failure(&self, kind: Kind, error: PullError) -> Answer {
        let scope = self.permit.scope();
        let message = error.to_string();
        let mut response = error_response(error.code(kind), &message, Some(json!({ "name": scope.repository })));
        let cache_status = match &error {
            PullError::NotFound { said: Said::Stale(stale), .. } => {
                let ServedFrom { cache_status, warning, .. } = ServedFrom::stale(stale);
                insert(response.headers_mut(), header::WARNING, &warning.unwrap_or_default());
                cache_status
            }
            PullError::NotFound { said: Said::Before, .. } => "roadstead; hit; detail=negative".into(),
            PullError::NotFound { .. } => "roadstead; fwd=miss; fwd-status=404".into(),
            _ if error.outcome() == Outcome::Offline => "roadstead; detail=offline".into(),
            _ if error.outcome() == Outcome::Denied => "roadstead; fwd=miss; detail=denied".into(),
            _ => format!("roadstead; fwd=miss; reason={}; detail=error", error.label()).into(),
        };
        self.common(&mut response, cache_status);
        allow(response.headers_mut(), error.code(kind));
        if let Some(wait) = error.retry_after(kind) {
            response.headers_mut().insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
        }
        Answer { response, outcome: error.outcome(), error: Some(message) }
    }

    /// The range that the client wants, if it wants one of the content with this digest. HEAD ignores it
    /// (RFC 9110 §14.2), so does an `If-Range` of something else (§13.1.5), and who has the content already gets none of it
    /// (§13.2.2).
    pub(super) fn range(&self, digest: &Digest) -> Option<RangeHeader> {
        let value = self.headers.get(header::RANGE).filter(|_| !self.head && !self.is_unchanged(digest))?;
        if let Some(condition) = self.headers.get(header::IF_RANGE)
            && condition.as_bytes() != etag(digest).as_bytes()
        {
            return None;
        }
        RangeHeader::parse(value.to_str().ok()?)
    }

    /// `Cache-Control: no-cache`: the client wants to know that it is current (RFC 9111 §5.2.1.4).
    pub(super) fn wants_check(&self) -> bool {
        let values = self.headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
        let mut directives = values.flat_map(|value| value.split(','));
        directives.any(|directive| directive.trim().eq_ignore_ascii_case("no-cache"))
    }

    /// `If-None-Match` names this digest (RFC 9110 §13.1.2); without quotes, too, as distribution takes it.
    fn is_unchanged(&self, digest: &Digest) -> bool {
        let Some(value) = self.headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()) else { return false };
        let digest = digest.to_string();
        value.split(',').map(|tag| tag.trim().trim_start_matches("W/").trim_matches('"')).any(|tag| tag == "*" || tag == digest)
    }

    /// The head of content with a digest: 200, no length and no body yet.
    fn content(&self, digest: &Digest, from: &ServedFrom, content_type: Option<HeaderValue>) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        response.headers_mut().reserve(HEADERS);
        self.common(&mut response, from.cache_status.clone());
        let headers = response.headers_mut();
        if let Some(content_type) = content_type {
            headers.insert(header::CONTENT_TYPE, content_type);
        }
        // Both are one text, with its quotes and without them.
        let etag = Bytes::from(etag(digest));
        let bare = etag.slice(1..etag.len() - 1);
        for (name, text) in [(CONTENT_DIGEST, bare), (header::ETAG, etag)] {
            if let Ok(value) = HeaderValue::from_maybe_shared(text) {
                headers.insert(name, value);
            }
        }
        if let Some(warning) = &from.warning {
            insert(headers, header::WARNING, warning);
        }
        response
    }

    fn common(&self, response: &mut Response<Body>, cache_status: Cow<'static, str>) {
        let headers = response.headers_mut();
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        // Nearest to the origin first (RFC 9211 §2).
        let status = match (hop::before(), cache_status) {
            (None, Cow::Borrowed(own)) => value(Some(own), own),
            (None, Cow::Owned(own)) => HeaderValue::try_from(own).ok(),
            (Some(before), own) => value(None, &format!("{before}, {own}")),
        };
        if let Some(status) = status {
            headers.insert(CACHE_STATUS, status);
        }
        if let Some(namespace) = self.namespace {
            insert(headers, NAMESPACE, namespace);
        }
    }
}

/// `GET /v2/`: yes, this is a registry. Never asked upstream.
pub fn base() -> Answer {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, 2.into());
    *response.body_mut() = Body::full(Bytes::from_static(b"{}"));
    Answer { response, outcome: Outcome::Local, error: None }
}

/// `GET /v2/` from a client that has to sign in: some learn here, and nowhere else, that they shall send a login.
pub fn sign_in() -> Answer {
    let message = "sign in with your own login for the registry behind this mirror".to_owned();
    refusal(ErrorCode::Unauthorized, Outcome::Denied, message)
}

/// The answer to a login that the upstream behind this does not take.
pub fn login_refused(error: &PullError) -> Answer {
    let mut answer = refusal(error.code(Kind::Other), Outcome::Denied, error.to_string());
    if let Some(wait) = error.retry_after(Kind::Other) {
        answer.response.headers_mut().insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
    }
    answer
}

/// A request that is refused before it is a pull.
pub fn refusal(code: ErrorCode, outcome: Outcome, message: String) -> Answer {
    let mut response = error_response(code, &message, None);
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    allow(response.headers_mut(), code);
    Answer { response, outcome, error: Some(message) }
}

fn error_response(code: ErrorCode, message: &str, detail: Option<serde_json::Value>) -> Response<Body> {
    let body = code.body(message, detail);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code.status();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
    *response.body_mut() = Body::full(body);
    response
}

/// Every 405 says what would be allowed (RFC 9110 § 15.5.6).
fn allow(headers: &mut http::HeaderMap, code: ErrorCode) {
    if code == ErrorCode::Unsupported {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
}

fn answer(response: Response<Body>, from: ServedFrom) -> Answer {
    Answer { response, outcome: from.outcome, error: None }
}

fn unchanged(mut response: Response<Body>) -> Response<Body> {
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// The boundary for parts of a blob. No part can contain it, since no bytes are known that contain their own digest; and the
/// same ranges of the same blob are always the same answer, as its strong ETag says. (An upstream may forge parts in bytes
/// that are not the blob; such an answer never ends, I5.)
fn boundary(digest: &Digest) -> String {
    // 70 characters are allowed (RFC 2046 § 5.1.1): sha512 is cut to what sha256 has.
    let mut hex = digest.hex();
    hex.truncate(64);
    hex
}

fn etag(digest: &Digest) -> String {
    digest.with_text(|text| ["\"", text, "\""].concat())
}

/// A value, without a copy where the text is `known` for ever. None that cannot stand in a header.
fn value(known: Option<&'static str>, text: &str) -> Option<HeaderValue> {
    known.map(HeaderValue::from_static).or_else(|| HeaderValue::try_from(text).ok())
}

/// Sets a header. A value that cannot stand in one is left out: it was a client's or an upstream's.
fn insert(headers: &mut http::HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn t7_a_boundary_belongs_to_its_blob() {
        let of = |algorithm, data: &[u8]| boundary(&Digest::of(algorithm, data));
        for algorithm in Algorithm::ALL {
            assert_eq!(of(algorithm, b"layer").len(), 64);
            assert_eq!(of(algorithm, b"layer"), of(algorithm, b"layer"));
            assert_ne!(of(algorithm, b"layer"), of(algorithm, b"other"));
            assert!(of(algorithm, b"layer").bytes().all(|c| c.is_ascii_alphanumeric()), "needs no quotes");
        }
    }
}
