//! The account of one request: counted once and logged once, when its answer has ended (I12).
//!
//! An answer ends when the connection has taken its last byte, or has given it up: the client left, or the body failed.
//! hyper takes a piece of a body long before it is on its way to a slow client, and drops the body once it has the last
//! one. So the account belongs to the body and to every piece in hyper's hands, and ends with the last of them.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Buf;
use http::{Method, Request, StatusCode};
use http_body::{Frame, SizeHint};

use super::handle::Subject;
use super::sendfile::{Chunk, Lane};
use crate::metrics::{Metrics, Outcome};
use crate::oci::{Repository, UpstreamName};
use crate::policy::{Identity, Peer};
use crate::pull::body::{Body, BodyError, Piece};
use crate::telemetry::RequestId;
use crate::telemetry::access::Line;

/// What is known of a request so far.
#[derive(Debug)]
pub struct Account {
    metrics: Arc<Metrics>,
    id: RequestId,
    peer: Arc<Peer>,
    method: Method,
    /// The caller's name, where it has one.
    identity: Option<String>,
    started: Instant,
    subject: Option<Subject>,
    status: StatusCode,
    outcome: Outcome,
    error: Option<Cow<'static, str>>,
    /// How long the first byte of the body took.
    first_byte: OnceLock<Duration>,
    /// Bytes of the body that hyper was given.
    given: AtomicU64,
    /// Those of them that the connection has taken.
    sent: AtomicU64,
    /// hyper has been given all of it.
    ended: AtomicBool,
    /// Why the body broke off.
    broken: OnceLock<String>,
}

impl Account {
    pub(super) fn new<B>(metrics: Arc<Metrics>, request: &Request<B>, peer: Arc<Peer>, id: RequestId, started: Instant) -> Self {
        Self {
            metrics,
            id,
            peer,
            method: request.method().clone(),
            identity: None,
            started,
            subject: None,
            status: StatusCode::INTERNAL_SERVER_ERROR,
            // What stays if the client leaves before there is an answer.
            outcome: Outcome::Error,
            error: Some("the client left, or the mirror stopped, before it was answered".into()),
            first_byte: OnceLock::new(),
            given: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            broken: OnceLock::new(),
        }
    }

    pub(super) fn id(&self) -> &RequestId {
        &self.id
    }

    pub(super) fn about(&mut self, subject: Subject) {
        self.subject = Some(subject);
    }

    pub(super) fn of(&mut self, identity: &Identity) {
        self.identity = identity.name();
    }

    pub(super) fn answered(&mut self, status: StatusCode, outcome: Outcome, error: Option<String>) {
        (self.status, self.outcome, self.error) = (status, outcome, error.map(Cow::Owned));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let subject = self.subject.take().unwrap_or_default();
        let upstream = subject.upstream.as_ref().map_or("unknown", UpstreamName::as_str);
        let first_byte = self.first_byte.take();
        let sent = *self.sent.get_mut();
        let whole = *self.ended.get_mut() && sent == *self.given.get_mut();
        let (outcome, error) = match self.broken.get() {
            Some(broken) => (Outcome::Error, Some(broken.as_str())),
            None => (self.outcome, self.error.as_deref()),
        };
        self.metrics.count(upstream, subject.kind, outcome, sent, duration, first_byte);
        let reference: &dyn fmt::Display = match &subject.reference {
            Some(reference) => reference,
            None => &"",
        };
        let line = Line {
            request_id: self.id.as_str(),
            client: &*self.peer,
            identity: self.identity.as_deref(),
            method: self.method.as_str(),
            kind: subject.kind.label(),
            upstream,
            repository: subject.repository.as_ref().map_or("", Repository::as_str),
            reference,
            status: self.status.as_u16(),
            result: outcome.label(),
            bytes: sent,
            first_byte,
            duration,
            complete: whole,
            error,
        };
        line.log();
    }
}

/// A piece of a body in hyper's hands: what the connection takes of it is counted.
#[derive(Debug)]
pub struct Outgoing {
    chunk: Chunk,
    account: Arc<Account>,
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.chunk.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.chunk.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.chunk.advance(count);
        self.account.sent.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// A body that is accounted for.
#[derive(Debug)]
pub struct Counted {
    body: Body,
    account: Arc<Account>,
    /// Where the connection can send files by itself.
    lane: Option<Lane>,
}

impl Counted {
    pub(super) fn new(body: Body, account: Account, lane: Option<Lane>) -> Self {
        account.ended.store(body.is_end(), Ordering::Relaxed);
        Self { body, account: Arc::new(account), lane }
    }
}

impl http_body::Body for Counted {
    type Data = Outgoing;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Outgoing>, BodyError>>> {
        let Self { body, account, lane } = &mut *self;
        let chunk = match ready!(body.poll_piece(cx, lane.is_some())) {
            Some(Ok(piece)) => {
                account.given.fetch_add(piece.len() as u64, Ordering::Relaxed);
                account.first_byte.get_or_init(|| account.started.elapsed());
                match (piece, lane) {
                    (Piece::Bytes(bytes), _) => Some(Ok(Chunk::Bytes(bytes))),
                    (Piece::Span(span), Some(lane)) => Some(Ok(lane.take(span))),
                    // A span is given only where one is asked for.
                    (Piece::Span(_), None) => Some(Err(std::io::Error::other("a span without a lane").into())),
                }
            }
            Some(Err(error)) => {
                account.broken.get_or_init(|| error.to_string());
                Some(Err(error))
            }
            None => None,
        };
        account.ended.store(body.is_end(), Ordering::Relaxed);
        let frame = |chunk| Frame::data(Outgoing { chunk, account: account.clone() });
        Poll::Ready(chunk.map(|chunk| chunk.map(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
