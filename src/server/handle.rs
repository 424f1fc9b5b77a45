//! One request: refused here, or handed to the pull path.
//!
//! Owns the order of the questions: is it well formed, what does it ask for, who asks, may they. Gives every 401 its challenge
//! and every answer its request id, and opens the account that counts it. Never looks into the cache or at an upstream. Called by
//! [`super::connection`].

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};

use super::account::{Account, Counted};
use super::sendfile::Lane;
use super::token;
use crate::hop;
use crate::metrics::{Kind, Metrics, Outcome};
use crate::oci::{Directory, ErrorCode, Reference, Repository, Route, Scope, Target, UpstreamName, Wanted};
use crate::policy::{Authorization, Caller, Identity, Peer, Policy, Refused, TOKEN_PATH, TokenError, Why};
use crate::pull::body::Body;
use crate::pull::respond::{self, Answer};
use crate::pull::{self, Pull, PullError};
use crate::telemetry::RequestId;

/// What answers requests.
#[derive(Debug)]
pub struct Handler {
    pub(super) directory: ArcSwap<Directory>,
    pub(super) policy: Arc<Policy>,
    pub(super) pull: Arc<Pull>,
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
    pub fn new(directory: Directory, policy: Arc<Policy>, pull: Arc<Pull>, metrics: Arc<Metrics>) -> Self {
        Self { directory: ArcSwap::from_pointee(directory), policy, pull, metrics }
    }

    /// Knows these upstreams from the next request on.
    pub fn replace_directory(&self, directory: Directory) {
        self.directory.store(Arc::new(directory));
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Answers. Counted and logged when the last byte of the answer has gone, or the client has (I12).
    /// `lane`: where a connection that can send files by itself queues them.
    pub async fn handle(&self, mut request: Request<Incoming>, peer: &Arc<Peer>, lane: Option<Lane>) -> Response<Counted> {
        let started = Instant::now();
        let id = RequestId::from_header_or_new(request.headers());
        let mut account = Account::new(self.metrics.clone(), &request, peer.clone(), id, started);
        let Answer { mut response, outcome, error } = hop::of(account.id().header(), async {
            match request.uri().path() {
                _ if !is_addressed(&request) => {
                    let message = "a request names the host that it is for, once".to_owned();
                    respond::refusal(ErrorCode::NameInvalid, Outcome::Invalid, message)
                }
                TOKEN_PATH => Box::pin(token::answer(self, &mut request, peer, &mut account)).await,
                _ => self.answer(&request, peer, &mut account).await,
            }
        })
        .await;
        if request.method() == Method::HEAD {
            // Its headers are those of a GET.
            *response.body_mut() = Body::empty();
        }
        response.headers_mut().insert(RequestId::HEADER, account.id().header());
        if has_body(&request) {
            // Nobody reads that body, and what is left of it on the connection could be mistaken for a request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        account.answered(response.status(), outcome, error);
        // HTTP/2 cuts bodies into frames of its own and would send the marker.
        let lane = lane.filter(|_| request.version() <= Version::HTTP_11);
        response.map(|body| Counted::new(body, account, lane))
    }

    async fn answer(&self, request: &Request<Incoming>, peer: &Peer, account: &mut Account) -> Answer {
        let path = request.uri().path();
        let route = Route::parse(path, request.uri().query(), host(request), &self.directory.load());
        account.about(Subject::of(&route));
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let message = format!("{} is not something a mirror does; it is read only", request.method());
            return respond::refusal(ErrorCode::Unsupported, Outcome::Invalid, message);
        }
        if has_body(request) {
            let message = "a request for content has no body".to_owned();
            return respond::refusal(ErrorCode::NameInvalid, Outcome::Invalid, message);
        }
        let upstream = route.as_ref().map_or_else(|error| error.upstream.as_ref(), |route| Some(&route.upstream));
        let mut session = self.policy.look();
        let identity = match session.identify(&Caller { peer, headers: request.headers() }, upstream).await {
            Ok(identity) => identity,
            Err(refused) => {
                let scope = route.ok().and_then(|route| route.scope());
                return self.refused(refused, request, peer, scope.as_ref());
            }
        };
        account.of(&identity);
        let route = match route {
            Ok(route) => route,
            // Only callers who may use the mirror at all are told which upstreams it has.
            Err(error) => match session.greet(&identity) {
                Ok(()) => return respond::refusal(error.code, Outcome::Invalid, error.message),
                Err(refused) => return self.refused(refused, request, peer, None),
            },
        };
        let Target::Content(repository, wanted) = &route.target else {
            return match session.greet(&identity) {
                Ok(()) => self.base(&route.upstream, &identity, request, peer).await,
                Err(refused) => self.refused(refused, request, peer, None),
            };
        };
        let permit = match session.admit(&identity, &route.upstream, repository) {
            Ok(permit) => permit,
            Err(refused) => return self.refused(refused, request, peer, route.scope().as_ref()),
        };
        let pulled = pull::Request {
            head: request.method() == Method::HEAD,
            headers: request.headers(),
            path,
            namespace: route.namespace.as_deref(),
            needs_length: request.version() < Version::HTTP_11,
            permit,
        };
        let mut answer = self.pull.answer(&pulled, wanted).await;
        if answer.response.status() == StatusCode::UNAUTHORIZED {
            self.challenge(&mut answer, request, peer, route.scope().as_ref(), None);
        }
        answer
    }

    /// Answers `/v2/`, by which a client for whom there is anything learns that this is a registry, and whether to sign in.
    async fn base<B>(&self, upstream: &UpstreamName, identity: &Identity, request: &Request<B>, peer: &Peer) -> Answer {
        // One of the mirror's users has signed in already.
        let mut answer = if !identity.is_user() && self.pull.wants_login(upstream, identity.login()) {
            respond::sign_in()
        } else {
            match self.try_login(identity, Some(upstream), peer).await {
                Ok(()) => respond::base(),
                Err(error) => respond::login_refused(&error),
            }
        };
        if answer.response.status() == StatusCode::UNAUTHORIZED {
            self.challenge(&mut answer, request, peer, None, None);
        }
        answer
    }

    /// Fails if the caller has a login of their own and the upstream does not take it.
    pub(super) async fn try_login(
        &self,
        identity: &Identity,
        upstream: Option<&UpstreamName>,
        peer: &Peer,
    ) -> Result<(), PullError> {
        match (upstream, identity.login()) {
            (Some(upstream), Some(login)) => {
                let from = peer.address().map(|address| address.ip());
                // Boxed: hardly any request has one.
                Box::pin(self.pull.try_login(upstream, login, from)).await
            }
            _ => Ok(()),
        }
    }

    /// The answer to a client that the rules refuse. It depends on the rules and the request alone: nothing in it says what
    /// there is.
    fn refused<B>(&self, refused: Refused, request: &Request<B>, peer: &Peer, scope: Option<&Scope>) -> Answer {
        let mut answer = refusal(&refused);
        if let Refused::SignIn(why) = refused {
            self.challenge(&mut answer, request, peer, scope, Some(why));
        }
        answer
    }

    /// Tells a client where to sign in: every answer of 401 goes through here (RFC 9110 §15.5.2).
    fn challenge<B>(&self, answer: &mut Answer, request: &Request<B>, peer: &Peer, scope: Option<&Scope>, why: Option<Why>) {
        let error = match Authorization::of(request.headers()) {
            Authorization::Bearer(_) if why == Some(Why::Token) => Some(TokenError::Invalid),
            Authorization::Bearer(_) if scope.is_some() => Some(TokenError::Insufficient),
            Authorization::Bearer(_) | Authorization::Basic(_) | Authorization::None => None,
        };
        let challenge = self.policy.challenge(peer, host(request), scope, error);
        let challenge = challenge.and_then(|challenge| HeaderValue::try_from(challenge).ok());
        answer.response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.unwrap_or(token::BASIC));
    }
}

/// The answer to a caller whom the rules refuse, without a challenge.
pub(super) fn refusal(refused: &Refused) -> Answer {
    let (code, wait) = match refused {
        Refused::SignIn(_) => (ErrorCode::Unauthorized, None),
        Refused::Denied(_) | Refused::Forbidden { .. } | Refused::Nothing(_) => (ErrorCode::Denied, None),
        Refused::TooMany { wait, .. } => (ErrorCode::TooManyRequests, Some(wait.as_secs().max(1))),
    };
    let mut answer = respond::refusal(code, Outcome::Denied, refused.to_string());
    if let Some(wait) = wait {
        answer.response.headers_mut().insert(header::RETRY_AFTER, wait.into());
    }
    answer
}

/// The host by which the client calls the mirror, with the port. The authority of the request's target, which HTTP/2
/// always has, comes before the header (RFC 9112 § 3.2.2, RFC 9113 § 8.3.1).
pub(super) fn host<B>(request: &Request<B>) -> Option<&str> {
    let header = || request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    request.uri().authority().map(Authority::as_str).or_else(header)
}

/// Whether the request names its host exactly as often as it must (RFC 9112 §3.2): one that two servers could take to be for
/// different hosts is refused.
fn is_addressed<B>(request: &Request<B>) -> bool {
    match request.headers().get_all(header::HOST).iter().count() {
        0 => request.uri().authority().is_some() || request.version() != Version::HTTP_11,
        count => count == 1,
    }
}

/// Whether a request carries a body, or announces one.
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
