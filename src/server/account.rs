//! The account of one request: counted once and logged once, when its body has ended (I12).
//!
//! A request ends when its body is dropped: after its last byte, or because the client left or the body failed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode};
use http_body::{Frame, SizeHint};

use super::handle::Subject;
use super::sendfile::{Chunk, Lane};
use crate::metrics::{Kind, Metrics, Outcome};
use crate::policy::{Identity, Peer};
use crate::pull::body::{Body, BodyError, Piece};
use crate::telemetry::RequestId;

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
    error: Option<String>,
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
            error: Some("the client left before it was answered".to_owned()),
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
        (self.status, self.outcome, self.error) = (status, outcome, error);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let empty =
            Subject { kind: Kind::Other, upstream: "unknown".into(), repository: String::new(), reference: String::new() };
        let subject = self.subject.take().unwrap_or(empty);
        let (kind, outcome) = (subject.kind.label(), self.outcome.label());
        let labels = [subject.upstream.as_str(), kind, outcome];
        self.metrics.requests_total.with_label_values(&labels).inc();
        self.metrics.response_bytes_total.with_label_values(&labels).inc_by(self.sent);
        self.metrics.request_seconds.with_label_values(&[kind, outcome]).observe(took.as_secs_f64());
        if let Some(first_byte) = self.first_byte {
            self.metrics.first_byte_seconds.with_label_values(&[kind, outcome]).observe(first_byte.as_secs_f64());
        }
        tracing::info!(
            target: "access",
            request_id = %self.id,
            client = %self.peer,
            identity = self.identity.as_deref(),
            method = %self.method,
            kind,
            upstream = %subject.upstream,
            repository = %subject.repository,
            reference = %subject.reference,
            status = self.status.as_u16(),
            result = outcome,
            bytes = self.sent,
            first_byte_ms = self.first_byte.map(|time| time.as_secs_f64() * 1000.0),
            duration_ms = took.as_secs_f64() * 1000.0,
            complete = self.whole,
            error = self.error.as_deref(),
            "request"
        );
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
                this.account.error = Some(error.to_string());
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
