//! The account of one request: counted once and logged once, when its body has ended (I12).
//!
//! A request ends when its body is dropped: after its last byte, or because the client left or the body failed.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

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
    sent: u64,
    first_byte: Option<Duration>,
    whole: bool,
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
            error: Some("the client left before it was answered".into()),
            sent: 0,
            first_byte: None,
            whole: false,
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
        let first_byte = self.first_byte.map(|time| time.as_secs_f64());
        self.metrics.count(upstream, subject.kind, self.outcome, self.sent, duration.as_secs_f64(), first_byte);
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
            result: self.outcome.label(),
            bytes: self.sent,
            first_byte: self.first_byte,
            duration,
            complete: self.whole,
            error: self.error.as_deref(),
        };
        line.log();
    }
}

/// A body whose bytes are counted on their way to hyper.
#[derive(Debug)]
pub struct Counted {
    body: Body,
    account: Account,
    /// Where the connection can send files by itself.
    lane: Option<Lane>,
}

impl Counted {
    pub(super) fn new(body: Body, mut account: Account, lane: Option<Lane>) -> Self {
        account.whole = body.is_end();
        Self { body, account, lane }
    }
}

impl http_body::Body for Counted {
    type Data = Chunk;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, BodyError>>> {
        let this = &mut *self;
        let chunk = match ready!(this.body.poll_piece(cx, this.lane.is_some())) {
            Some(Ok(piece)) => {
                this.account.sent += piece.len() as u64;
                this.account.first_byte.get_or_insert_with(|| this.account.started.elapsed());
                match (piece, &this.lane) {
                    (Piece::Bytes(bytes), _) => Some(Ok(Frame::data(Chunk::Bytes(bytes)))),
                    (Piece::Span(span), Some(lane)) => Some(Ok(Frame::data(lane.take(span)))),
                    // Not asked for, so never given.
                    (Piece::Span(_), None) => Some(Err(std::io::Error::other("a span without a lane").into())),
                }
            }
            Some(Err(error)) => {
                this.account.error = Some(error.to_string().into());
                this.account.outcome = Outcome::Error;
                Some(Err(error))
            }
            None => None,
        };
        this.account.whole = this.body.is_end();
        Poll::Ready(chunk)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
