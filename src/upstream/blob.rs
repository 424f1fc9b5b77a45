//! Bodies from upstreams: read chunk by chunk, watched for stalls, lies about length and hidden encodings.
//!
//! A chunk is handed on as it arrives; nothing is buffered here but what `collect` is told to. Digests are not looked
//! at: who asked knows what it should be.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use prometheus::IntCounter;
use tokio::time::Instant;
use url::Url;

use super::client::Client;
use super::error::{Reason, UpstreamError, chain};
use super::health::Health;
use super::pace::Pace;
use super::queue::Slot;

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
    /// The bytes. May end, without an error, before `total`, if the upstream sent less of the range than was asked for.
    pub body: BlobBody,
}

/// The body of a blob. Holds one of the upstream's download slots until it is dropped.
#[derive(Debug)]
pub struct BlobBody {
    body: Body,
    _slot: Option<Slot>,
    /// Of the address that sends it.
    health: Arc<Health>,
    /// `max_bandwidth`, and when to read on.
    pace: Option<Arc<Pace>>,
    read_on: Instant,
}

impl BlobBody {
    pub(super) fn new(body: Body, slot: Option<Slot>, health: Arc<Health>, pace: Option<Arc<Pace>>) -> Self {
        Self { body, _slot: slot, health, pace, read_on: Instant::now() }
    }

    /// The next bytes; `None` at the end, which is also what follows an error. Fails with class `Broken` if no byte
    /// comes within the stall time-out, or the body ends before its length.
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

    /// A break speaks against the address: the rest is asked of another one first.
    fn noting(&self, chunk: Option<Result<Bytes, UpstreamError>>) -> Option<Result<Bytes, UpstreamError>> {
        if let Some(Err(error)) = &chunk {
            self.health.broke(error);
        }
        chunk
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
        Self { client: client.clone(), url: url.clone(), incoming: Some(incoming), left, received }
    }

    /// Announced length; `None` for a body that ends when it ends.
    pub(super) fn left(&self) -> Option<u64> {
        self.left
    }

    /// What the headers say of the length, which a body of unknown length is then held to.
    pub(super) fn expect(&mut self, length: u64) {
        self.left = Some(length);
    }

    pub(super) async fn chunk(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        loop {
            let incoming = self.incoming.as_mut()?;
            let frame = tokio::select! {
                frame = tokio::time::timeout(self.client.stall_timeout, incoming.frame()) => Some(frame),
                () = self.client.offline() => None,
            };
            let Some(frame) = frame else {
                self.incoming = None;
                return Some(Err(self.client.error(&self.url, Reason::Offline)));
            };
            let reason = match frame {
                Ok(Some(Ok(frame))) => {
                    // Trailers say nothing that is needed.
                    let Ok(data) = frame.into_data() else { continue };
                    if data.is_empty() {
                        continue;
                    }
                    self.received.inc_by(data.len() as u64);
                    match self.left.map(|left| left.checked_sub(data.len() as u64)) {
                        Some(None) => Reason::Invalid("its body is longer than it said".into()),
                        Some(left) => {
                            self.left = left;
                            return Some(Ok(data));
                        }
                        None => return Some(Ok(data)),
                    }
                }
                Ok(None) => match self.left {
                    Some(left) if left > 0 => Reason::Broken(format!("{left} bytes are missing")),
                    _ => {
                        self.incoming = None;
                        return None;
                    }
                },
                Ok(Some(Err(error))) => Reason::Broken(chain(&error)),
                Err(_) => Reason::Stalled(self.client.stall_timeout),
            };
            self.incoming = None;
            return Some(Err(self.client.error(&self.url, reason)));
        }
    }

    /// The whole body, if it has at most `limit` bytes and does not take minutes.
    pub(super) async fn collect(self, limit: usize) -> Result<Bytes, UpstreamError> {
        let slow = self.client.error(&self.url, Reason::Broken("it takes too long".into()));
        tokio::time::timeout(COLLECT, self.collect_all(limit)).await.unwrap_or(Err(slow))
    }

    async fn collect_all(mut self, limit: usize) -> Result<Bytes, UpstreamError> {
        let too_large = |this: &Self| {
            let reason = Reason::Invalid(format!("its body is larger than {}", bytesize::ByteSize(limit as u64)));
            this.client.error(&this.url, reason)
        };
        if self.left.is_some_and(|left| left > limit as u64) {
            return Err(too_large(&self));
        }
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk().await {
            let chunk = chunk?;
            if whole.len() + chunk.len() > limit {
                return Err(too_large(&self));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }
}

/// Refuses bodies that are not the bytes themselves: we asked for `identity`, and a digest is over those (T9).
pub(super) fn check_identity(headers: &HeaderMap) -> Result<(), Reason> {
    let plain = |value: &http::HeaderValue| value.is_empty() || value.as_bytes().eq_ignore_ascii_case(b"identity");
    match headers.get_all(header::CONTENT_ENCODING).iter().find(|value| !plain(value)) {
        None => Ok(()),
        Some(_) => Err(Reason::Invalid("it has a Content-Encoding, although that was excluded".into())),
    }
}

/// `Content-Range: bytes 5-9/10` (RFC 9110 §14.4): the span that is there and the whole size, if it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// `None` for `bytes */10`, the form of a 416.
    pub(super) span: Option<RangeInclusive<u64>>,
    pub(super) total: Option<u64>,
}

impl ContentRange {
    /// Reads the header; `None` for a missing one and one that contradicts itself.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::CONTENT_RANGE).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value.to_str().ok()?),
            _ => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        // `u64::from_str` also takes a plus sign.
        let number = |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        let (unit, rest) = text.trim().split_once(' ')?;
        let (span, total) = rest.trim().split_once('/')?;
        let total = if total == "*" { None } else { Some(number(total)?) };
        let span = match span {
            "*" => None,
            span => {
                let (first, last) = span.split_once('-')?;
                Some(number(first)?..=number(last)?)
            }
        };
        let consistent = match (&span, total) {
            (Some(span), Some(total)) => span.start() <= span.end() && *span.end() < total,
            (Some(span), None) => span.start() <= span.end() && *span.end() < u64::MAX,
            (None, total) => total.is_some(),
        };
        (unit.eq_ignore_ascii_case("bytes") && consistent).then_some(Self { span, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn content_ranges() {
        let parse = |text: &str| ContentRange::parse(text).map(|range| (range.span, range.total));
        assert_eq!(parse("bytes 5-9/10"), Some((Some(5..=9), Some(10))));
        assert_eq!(parse("Bytes 0-0/1"), Some((Some(0..=0), Some(1))));
        assert_eq!(parse("bytes 5-9/*"), Some((Some(5..=9), None)));
        assert_eq!(parse("bytes */10"), Some((None, Some(10))));
        for bad in [
            "",
            "bytes",
            "bytes 5-9",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes */*",
            "items 0-1/2",
            "bytes 5-/10",
            "bytes -5/10",
            "bytes +5-9/10",
            "bytes 5-9/10 x",
            "bytes 0-99999999999999999999/1",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn t9_encodings() {
        let with = |value: &str| HeaderMap::from_iter([(header::CONTENT_ENCODING, value.parse().unwrap())]);
        assert!(check_identity(&HeaderMap::new()).is_ok());
        assert!(check_identity(&with("Identity")).is_ok());
        assert!(check_identity(&with("gzip")).is_err());
        let mut two = with("identity");
        two.append(header::CONTENT_ENCODING, "br".parse().unwrap());
        assert!(check_identity(&two).is_err());
    }

    proptest! {
        #[test]
        fn a_content_range_never_panics(text in "bytes [0-9*/ -]{0,24}|\\PC*") {
            if let Some(ContentRange { span: Some(span), total: Some(total) }) = ContentRange::parse(&text) {
                prop_assert!(span.start() <= span.end() && *span.end() < total);
            }
        }
    }
}
