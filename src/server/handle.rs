//! One request: refused here, or handed to the pull path.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method, Request, Response, Version, header};
use hyper::body::Body as _;
use hyper::body::Incoming;

use super::account::{Account, Counted};
use super::sendfile::Lane;
use crate::hop;
use crate::metrics::{Kind, Metrics, Outcome};
use crate::oci::{Directory, ErrorCode, Reference, Repository, Route, Target, UpstreamName, Wanted};
use crate::policy::{Caller, Peer, Policy};
use crate::pull::respond::{self, Answer};
use crate::pull::{self, Pull};
use crate::telemetry::RequestId;

/// What answers requests.
#[derive(Debug)]
pub struct Handler {
    directory: Directory,
    policy: Policy,
    pull: Arc<Pull>,
    metrics: Arc<Metrics>,
}

/// What a request turned out to be about, for the log and the counters.
#[derive(Debug)]
pub(super) struct Subject {
    pub kind: Kind,
    /// A configured one, so that its name is one of a closed set of labels.
    pub upstream: Option<UpstreamName>,
    pub repository: Option<Repository>,
    pub reference: Option<Reference>,
}

impl Handler {
    /// A handler for the upstreams of `directory`.
    pub fn new(directory: Directory, policy: Policy, pull: Arc<Pull>, metrics: Arc<Metrics>) -> Self {
        Self { directory, policy, pull, metrics }
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Answers. Counted and logged when the last byte of the answer has gone, or the client has (I12).
    /// `lane`: where a connection that can send files by itself queues them.
    pub async fn handle(&self, request: Request<Incoming>, peer: &Arc<Peer>, lane: Option<Lane>) -> Response<Counted> {
        let started = Instant::now();
        let id = RequestId::from_header_or_new(request.headers());
        let mut account = Account::new(self.metrics.clone(), &request, peer.clone(), id, started);
        let Answer { mut response, outcome, error } =
            hop::of(account.id().header(), self.answer(&request, peer, &mut account)).await;
        response.headers_mut().insert(RequestId::HEADER, account.id().header());
        if has_body(&request) {
            // Nobody reads it; what follows on this connection could be mistaken for a request.
            response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        account.answered(response.status(), outcome, error);
        // HTTP/2 cuts bodies into frames of its own and would send the marker.
        let lane = lane.filter(|_| request.version() <= Version::HTTP_11);
        response.map(|body| Counted::new(body, account, lane))
    }

    async fn answer(&self, request: &Request<Incoming>, peer: &Peer, account: &mut Account) -> Answer {
        let head = request.method() == Method::HEAD;
        let refuse = |code, outcome, message| respond::refusal(code, outcome, message, head);
        let (path, query) = (request.uri().path(), request.uri().query());
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).or(request.uri().host());
        let route = Route::parse(path, query, host, &self.directory);
        account.about(Subject::of(&route));
        if !head && request.method() != Method::GET {
            let message = format!("{} is not something a mirror does; it is read only", request.method());
            return refuse(ErrorCode::Unsupported, Outcome::Invalid, message);
        }
        if has_body(request) {
            let message = "a request for content has no body".to_owned();
            return refuse(ErrorCode::NameInvalid, Outcome::Invalid, message);
        }
        let route = match route {
            Ok(route) => route,
            Err(error) => return refuse(error.code, Outcome::Invalid, error.message),
        };
        let Target::Content(repository, wanted) = &route.target else { return respond::base(head) };
        let permit = match self.policy.admit(&Caller { peer, headers: request.headers() }, &route.upstream, repository) {
            Ok(permit) => permit,
            Err(refused) => return refuse(ErrorCode::Denied, Outcome::Denied, refused.to_string()),
        };
        let request = pull::Request { head, headers: request.headers(), path, namespace: route.namespace.as_deref(), permit };
        self.pull.answer(&request, wanted).await
    }
}

/// Whether a request carries a body, or says so.
fn has_body(request: &Request<Incoming>) -> bool {
    let says_so = |headers: &HeaderMap| headers.contains_key(header::TRANSFER_ENCODING);
    !request.body().is_end_stream() || says_so(request.headers())
}

impl Default for Subject {
    fn default() -> Self {
        Self { kind: Kind::Other, upstream: None, repository: None, reference: None }
    }
}

impl Subject {
    fn of(route: &Result<Route, crate::oci::RouteError>) -> Self {
        let route = match route {
            Ok(route) => route,
            Err(error) => return Self { kind: error.kind, upstream: error.upstream.clone(), ..Self::default() },
        };
        let (repository, reference) = match &route.target {
            Target::Base => (None, None),
            Target::Content(repository, wanted) => {
                let reference = match wanted {
                    Wanted::Manifest(reference) => Some(reference.clone()),
                    Wanted::Blob(digest) | Wanted::Referrers(digest, _) => Some(Reference::Digest(*digest)),
                    Wanted::Tags(_) => None,
                };
                (Some(repository.clone()), reference)
            }
        };
        Self { kind: route.kind(), upstream: Some(route.upstream.clone()), repository, reference }
    }
}
