//! Bodies from upstreams: read chunk by chunk, watched for stalls, lies about length and hidden encodings.
//!
//! A chunk is handed on as it arrives; nothing is buffered here but what `collect` is told to. Digests are not looked
//! at: who asked knows what it should be.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytesize::ByteSize;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use prometheus::IntCounter;
use tokio::time::Instant;
use url::Url;

use super::client::Client;
use super::error::{Reason, UpstreamError};
use super::flow::Flow;
use super::health::Health;
use super::manifest::content_type;
use super::pace::Pace;
use super::part::Lead;
use super::queue::Slot;
use super::request::{Answer, Origin};
use super::traffic::Traffic;
use crate::causes;
use crate::oci::{ContentRange, Digest};

/// How long the whole of a small body may take, however steadily it drips.
const COLLECT: Duration = Duration::from_secs(120);

/// The answer to a blob GET.
#[derive(Debug)]
pub struct BlobAnswer {
    /// The size of the whole blob, where the upstream told it.
    pub total: Option<u64>,
    /// Where in the blob `body` begins: the offset asked for, or 0 if the upstream ignored the range. Then the caller
    /// skips.
    pub start: u64,
    /// Where in the blob it ends, if the upstream said.
    pub end: Option<u64>,
    /// Whether the upstream says, or shows, that it serves ranges of this blob.
    pub ranges: bool,
    /// The content's strong validator, where there is one.
    pub etag: Option<HeaderValue>,
    /// Where a redirect led for it.
    pub lead: Option<Arc<Lead>>,
    /// The bytes. May end, without an error, before `total`, if the upstream sent less of the range than was asked for.
    pub body: BlobBody,
}

/// The body of a blob. Holds one of the upstream's download slots until it ends, or is dropped: a caller that asks for
/// the rest of a body that broke waits for a slot like everybody, and must not wait for its own.
#[derive(Debug)]
pub struct BlobBody {
    body: Body,
    slot: Option<Slot>,
    source: Source,
    /// `max_bandwidth`, and when to read on.
    pace: Option<Arc<Pace>>,
    read_on: Instant,
}

/// Where a body comes from.
#[derive(Debug)]
pub(super) struct Source {
    /// Of the address that was asked.
    pub(super) health: Arc<Health>,
    /// For what.
    pub(super) what: String,
    /// It had led elsewhere for it.
    pub(super) foreign: bool,
}

impl BlobBody {
    pub(super) fn new(body: Body, slot: Option<Slot>, source: Source, pace: Option<Arc<Pace>>) -> Self {
        Self { body, slot, source, pace, read_on: Instant::now() }
    }

    /// The next bytes; `None` at the end, which is also what follows an error. Fails with class `Broken` if no byte
    /// comes within the stall time-out, or they come too slowly ([`SLOWEST`](super::SLOWEST)), or the body ends before its length.
    ///
    /// Cancel-safe: no byte is lost. The stall time-out begins anew with each call.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        if let Some(pace) = &self.pace {
            tokio::time::sleep_until(self.read_on).await;
            let chunk = self.body.chunk().await;
            if let Some(Ok(chunk)) = &chunk {
                self.read_on = pace.taken(Instant::now(), chunk.len() as u64);
            }
            return self.noting(chunk);
        }
        let chunk = self.body.chunk().await;
        self.noting(chunk)
    }

    /// Who sends it.
    pub fn giver(&self) -> Giver {
        Giver(Arc::clone(&self.source.health))
    }

    /// A break counts against the address: another one is asked for the rest first.
    fn noting(&mut self, chunk: Option<Result<Bytes, UpstreamError>>) -> Option<Result<Bytes, UpstreamError>> {
        if !matches!(chunk, Some(Ok(_))) {
            self.slot = None;
        }
        let Some(Err(error)) = chunk else { return chunk };
        let error = if self.source.foreign { error.elsewhere() } else { error };
        self.source.health.broke(&self.source.what, &error);
        Some(Err(error))
    }
}

/// The address that a body came from, for whoever finds out later that the bytes are wrong.
#[derive(Clone, Debug)]
pub struct Giver(Arc<Health>);

impl Giver {
    /// It sent other bytes than it was asked for: the upstream's other addresses are asked for blobs first, for a while.
    pub fn misled(&self) {
        self.0.misled(Traffic::Layer);
    }

    /// What it sent is what it was asked for.
    pub fn was_right(&self) {
        self.0.was_right(Traffic::Layer);
    }
}

impl PartialEq for Giver {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A body from an upstream.
pub(super) struct Body {
    client: Client,
    url: Url,
    incoming: Option<Incoming>,
    /// The bytes that are still to come, where that is known.
    left: Option<u64>,
    received: IntCounter,
    flow: Flow,
}

impl fmt::Debug for Body {
    /// Without the URL, whose query may be a presigned one (I9).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("upstream", &self.client.name).field("left", &self.left).finish_non_exhaustive()
    }
}

impl Body {
    pub(super) fn new(client: &Client, url: &Url, response: Response<Incoming>) -> Self {
        let incoming = response.into_body();
        let left = incoming.size_hint().exact();
        let received = client.metrics.upstream_bytes_total.with_label_values(&[client.name.as_str()]);
        let flow = Flow::new(client.timeouts.stall);
        Self { client: client.clone(), url: url.clone(), incoming: Some(incoming), left, received, flow }
    }

    /// None: all bytes have come before.
    pub(super) fn ended(client: &Client, url: &Url) -> Self {
        let received = client.metrics.upstream_bytes_total.with_label_values(&[client.name.as_str()]);
        Self {
            client: client.clone(),
            url: url.clone(),
            incoming: None,
            left: Some(0),
            received,
            flow: Flow::new(client.timeouts.stall),
        }
    }

    /// Announced length; `None` for a body that ends when it ends.
    pub(super) fn left(&self) -> Option<u64> {
        self.left
    }

    /// Holds a body of unknown length to what the headers say of it.
    pub(super) fn expect(&mut self, length: u64) {
        self.left = Some(length);
    }

    pub(super) async fn chunk(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        loop {
            let incoming = self.incoming.as_mut()?;
            let asked = Instant::now();
            let frame = tokio::select! {
                frame = tokio::time::timeout(self.client.timeouts.stall, incoming.frame()) => Some(frame),
                () = self.client.offline() => None,
            };
            let Some(frame) = frame else {
                self.incoming = None;
                return Some(Err(self.client.error(&self.url, Reason::Offline)));
            };
            let reason = match frame {
                Ok(Some(Ok(frame))) => {
                    // Trailers say nothing that is needed.
                    let data = frame.into_data().unwrap_or_default();
                    self.received.inc_by(data.len() as u64);
                    let left = self.left.map(|left| left.checked_sub(data.len() as u64));
                    match (left, self.flow.came(data.len() as u64, asked.elapsed())) {
                        (Some(None), _) => Reason::Invalid("its body is longer than it said".into()),
                        // The last bytes are welcome however late.
                        (left, Err(stall)) if left != Some(Some(0)) => Reason::Stalled(stall),
                        (left, _) => {
                            self.left = left.flatten();
                            if data.is_empty() {
                                continue;
                            }
                            return Some(Ok(data));
                        }
                    }
                }
                Ok(None) => match self.left {
                    Some(left) if left > 0 => Reason::Broken(format!("{left} bytes are missing")),
                    _ => {
                        self.incoming = None;
                        return None;
                    }
                },
                Ok(Some(Err(error))) => Reason::Broken(causes::told(&error)),
                Err(_) => Reason::Stalled(self.flow.silent()),
            };
            self.incoming = None;
            return Some(Err(self.client.error(&self.url, reason)));
        }
    }

    /// The whole body, if it has at most `limit` bytes and does not take minutes.
    pub(super) async fn collect(self, limit: usize) -> Result<Bytes, UpstreamError> {
        let too_large = Reason::Invalid(format!("its body is larger than {}", ByteSize(limit as u64)));
        self.collect_or(limit, too_large).await
    }

    /// The same; `too_large` is what a larger one is.
    pub(super) async fn collect_or(self, limit: usize, too_large: Reason) -> Result<Bytes, UpstreamError> {
        let error = |reason| self.client.error(&self.url, reason);
        let (slow, too_large) = (error(Reason::Broken("it takes too long".into())), error(too_large));
        tokio::time::timeout(COLLECT, self.collect_all(limit, too_large)).await.unwrap_or(Err(slow))
    }

    async fn collect_all(mut self, limit: usize, too_large: UpstreamError) -> Result<Bytes, UpstreamError> {
        if self.left.is_some_and(|left| left > limit as u64) {
            return Err(too_large);
        }
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk().await {
            let chunk = chunk?;
            if whole.len() + chunk.len() > limit {
                return Err(too_large);
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }
}

/// Refuses bodies that are not the bytes themselves: we asked for `identity`, and a digest is over those (T9). Before a byte
/// of it is passed on, so that clients go to their next source; there they may decode it.
///
/// `aws-chunked` is how something was uploaded to S3, and none of what S3 sends. Stores that look like it keep the word as
/// the object's coding; clients overlook it. If the bytes are not plain all the same, they have another digest (I5).
pub(super) fn check_identity(headers: &HeaderMap) -> Result<(), Reason> {
    let plain =
        |coding: &str| coding.is_empty() || ["identity", "aws-chunked"].iter().any(|name| coding.eq_ignore_ascii_case(name));
    let is_plain = |value: &HeaderValue| value.to_str().is_ok_and(|codings| codings.split(',').map(str::trim).all(plain));
    match headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        true => Ok(()),
        false => Err(Reason::Invalid("it has a Content-Encoding, although that was excluded".into())),
    }
}

/// Why a blob's first byte is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question {
    /// To learn its size.
    Size,
    /// To learn whether the upstream has it; something will be opened on that word. With its size, where that is certain.
    Proof(Option<u64>),
}

/// What the answer to a request for a blob's first byte says of its size; `None`: nothing.
pub(super) fn told_size(
    origin: &Origin,
    answer: Answer,
    digest: &Digest,
    question: Question,
) -> Result<Option<u64>, UpstreamError> {
    let url = answer.url.clone();
    let error = |reason| origin.client.error(&url, reason);
    let (status, headers) = (answer.response.status(), answer.response.headers());
    let total = match content_range(headers) {
        Some(ContentRange::Part { total, .. }) => total,
        Some(ContentRange::Unsatisfied(total)) => Some(total),
        None => None,
    };
    let is_message = is_message(headers);
    // Any answer has a status; only one to this question has a range, or bytes of a type.
    let is_meant = match status {
        StatusCode::OK => content_type(headers).is_some(),
        _ => content_range(headers).is_some(),
    };
    let told = match status {
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => total,
        StatusCode::OK => {
            check_identity(headers).map_err(error)?;
            // The body is dropped unread, which ends its connection: cheaper than a layer.
            Body::new(&origin.client, &answer.url, answer.response).left()
        }
        _ => return Err(error(Reason::Status(status))),
    };
    match (told, question) {
        (Some(told), Question::Proof(Some(known))) if told != known => {
            Err(error(Reason::Invalid(format!("it says that {digest} has {told} bytes, and it has {known}"))))
        }
        // A config that is sent as the JSON that it is.
        (Some(_), Question::Proof(Some(_))) => Ok(told),
        // Whoever stands between has answered; the registry has said nothing.
        _ if status == StatusCode::OK && is_message => Err(error(Reason::Invalid("it sent a message for a blob".into()))),
        (_, Question::Proof(_)) if !is_meant => {
            Err(error(Reason::Invalid("it did not say what it sent for a blob, which may be anything".into())))
        }
        _ => Ok(told),
    }
}

/// Something that people or programs are told: a sign-in page, `{"code":401}`.
fn is_message(headers: &HeaderMap) -> bool {
    content_type(headers).is_some_and(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        kind.starts_with("text/") || kind == "application/json"
    })
}

/// The `Content-Range` of an answer; `None` for a missing one, several, and one that contradicts itself.
pub(super) fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let mut values = headers.get_all(header::CONTENT_RANGE).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => ContentRange::parse(value.to_str().ok()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_content_ranges_are_none() {
        let mut headers = HeaderMap::from_iter([(header::CONTENT_RANGE, "bytes 0-0/2".parse().unwrap())]);
        assert_eq!(content_range(&headers), Some(ContentRange::Part { range: 0..1, total: Some(2) }));
        headers.append(header::CONTENT_RANGE, "bytes 1-1/2".parse().unwrap());
        assert_eq!(content_range(&headers), None);
    }

    #[test]
    fn t9_encodings() {
        let with = |value: &str| HeaderMap::from_iter([(header::CONTENT_ENCODING, value.parse().unwrap())]);
        assert!(check_identity(&HeaderMap::new()).is_ok());
        assert!(check_identity(&with("Identity")).is_ok());
        assert!(check_identity(&with("AWS-chunked")).is_ok() && check_identity(&with("identity, aws-chunked")).is_ok());
        assert!(check_identity(&with("gzip")).is_err() && check_identity(&with("aws-chunked,gzip")).is_err());
        let mut two = with("identity");
        two.append(header::CONTENT_ENCODING, "br".parse().unwrap());
        assert!(check_identity(&two).is_err());
    }
}
