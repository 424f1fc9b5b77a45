//! One question to a registry: signed in, redirected, answered.
//!
//! An [`Origin`] is one configured address of an upstream. `ask` sends a question there and follows where it leads:
//! at most one round of sign-in at each place, at most five redirects, credentials only to the origin itself and never
//! again once a redirect has left it (I9). What comes back is an answer of any status; [`super::Upstream`] decides
//! what it means. Redirects are not remembered, because the URLs they lead to live for minutes; but who asks for the parts
//! of one blob may bring the [`Lead`] of the part before.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use url::Url;

use super::accounts::Account;
use super::auth::{Auth, Grant, Guest};
use super::breaker::{Need, Verdict};
use super::challenge;
use super::client::{Client, Exchange, authority, remark};
use super::error::{Reason, UpstreamError};
use super::health::Health;
use super::part::{Effort, Lead};
use super::queue::Slot;
use super::redirect::{self, MAX_REDIRECTS, RedirectError};
use super::traffic::Traffic;
use crate::config;
use crate::hop;
use crate::metrics::Kind;
use crate::oci::Repository;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A question, independent of which address it goes to.
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    pub(super) kind: Kind,
    pub(super) method: Method,
    pub(super) repository: &'a Repository,
    /// What follows the repository: `manifests/latest`.
    pub(super) path: String,
    /// Without the question mark, already encoded.
    pub(super) query: Option<String>,
    pub(super) accept: &'static str,
    pub(super) range: Option<HeaderValue>,
    pub(super) need: Need,
    /// Where an earlier answer for the same content came from.
    pub(super) lead: Option<&'a Lead>,
    pub(super) effort: Effort,
}

impl<'a> Ask<'a> {
    /// A GET of the content at `path`, whatever its type.
    pub(super) fn new(kind: Kind, repository: &'a Repository, path: String) -> Self {
        let (query, range, lead) = (None, None, None);
        Self {
            kind,
            method: Method::GET,
            repository,
            path,
            query,
            accept: "*/*",
            range,
            need: Need::Content,
            lead,
            effort: Effort::Patient,
        }
    }

    /// The thing that is asked for, whichever address has it.
    pub(super) fn what(&self) -> String {
        format!("{}/{}", self.repository, self.path)
    }

    /// Which limit of the upstream it falls under.
    pub(super) fn traffic(&self) -> Traffic {
        match (&self.method, self.kind) {
            (&Method::HEAD, _) => Traffic::Check,
            (_, Kind::Blob) => Traffic::Layer,
            _ => Traffic::Pull,
        }
    }
}

/// The head of an answer, and where it comes from. Not to be printed: the URL may be a presigned one (I9).
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) url: Url,
    /// It comes from where a redirect led.
    pub(super) redirected: bool,
    /// And that was another place than the upstream.
    pub(super) foreign: bool,
    /// Who the upstream was asked as.
    pub(super) account: Account,
    /// The request's place in the upstream's queue, kept as long as its body is read.
    pub(super) slot: Option<Slot>,
}

/// One address of an upstream.
#[derive(Debug)]
pub(super) struct Origin {
    url: Url,
    pub(super) client: Client,
    auth: Auth,
    health: Arc<Health>,
}

impl Origin {
    pub(super) fn new(url: Url, client: Client, auth: Auth, breaker: config::Breaker) -> Self {
        Self { url, client, auth, health: Arc::new(Health::new(breaker)) }
    }

    /// The same address, asked with another login.
    pub(super) fn signed_in_as(&self, guest: &Guest) -> Self {
        let auth = self.auth.signed_in_as(guest);
        Self { url: self.url.clone(), client: self.client.clone(), auth, health: Arc::clone(&self.health) }
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn auth(&self) -> &Auth {
        &self.auth
    }

    /// What is known of its health; shared with the bodies that come from it.
    pub(super) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Whether a question would be asked here, and as what.
    pub(super) fn peek(&self, ask: &Ask<'_>) -> Result<Verdict, Reason> {
        self.health.peek(self.auth.account(ask.repository), ask.traffic(), Some(&ask.what()), ask.need)
    }

    /// The same for any check that can do without an answer, as the account that fares best.
    pub(super) fn peek_at_checks(&self) -> Result<Verdict, Reason> {
        let peek = |account| self.health.peek(account, Traffic::Check, None, Need::Fallback);
        let said = self.auth.accounts().into_iter().map(peek);
        said.min_by_key(|said| said.as_ref().map_or(2, |verdict| u8::from(*verdict != Verdict::Go))).unwrap_or(Ok(Verdict::Go))
    }

    /// Host and port, for people.
    pub(super) fn host(&self) -> String {
        authority(&self.url)
    }

    /// Sends a question and follows redirects. A presigned URL that is refused gets one more chance from the start,
    /// because it may have expired between its making and its use.
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, UpstreamError> {
        let mut again = ask.method == Method::GET;
        if let Some(lead) = ask.lead.filter(|lead| lead.home == self.url)
            && let Some(answer) = self.led(&lead.url, ask).await
        {
            return Ok(answer);
        }
        loop {
            let answer = self.follow(ask).await;
            match answer {
                Ok(answer) if again && answer.redirected && matches!(answer.response.status().as_u16(), 400 | 401 | 403) => {
                    again = false;
                    drop(remark(answer.response.into_body()).await);
                }
                other => return other,
            }
        }
    }

    /// What an earlier redirect led to, if that still serves.
    async fn led(&self, url: &Url, ask: &Ask<'_>) -> Option<Answer> {
        let response = self.foreign(url, ask).await.ok()?;
        if response.status().is_success() || response.status() == StatusCode::TOO_MANY_REQUESTS {
            let account = Account::Anonymous;
            return Some(Answer { response, url: url.clone(), redirected: true, foreign: true, account, slot: None });
        }
        drop(remark(response.into_body()).await);
        None
    }

    async fn follow(&self, ask: &Ask<'_>) -> Result<Answer, UpstreamError> {
        let mut url = self.resolve(ask);
        let (mut foreign, mut account) = (false, Account::Anonymous);
        for hop in 0..=MAX_REDIRECTS {
            foreign |= !redirect::same_origin(&self.url, &url);
            let response = match foreign {
                true => self.foreign(&url, ask).await.map_err(UpstreamError::elsewhere)?,
                false => {
                    let (response, asked_as) = self.own(&url, ask).await?;
                    account = asked_as;
                    response
                }
            };
            if !redirect::is_redirect(response.status()) {
                if !foreign {
                    hop::learn(response.headers());
                }
                return Ok(Answer { response, url, redirected: hop > 0, foreign, account, slot: None });
            }
            let target = redirect::target(&url, response.headers()).map_err(|error| self.client.error(&url, error))?;
            drop(remark(response.into_body()).await);
            url = target;
        }
        Err(self.client.error(&url, RedirectError::TooMany))
    }

    /// The question's URL at this address, below the path that the address may have.
    fn resolve(&self, ask: &Ask<'_>) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/v2/{}/{}", self.url.path().trim_end_matches('/'), ask.repository, ask.path));
        url.set_query(ask.query.as_deref());
        url
    }

    /// A request to the upstream's own host, signed in as it wants it; and who that was.
    async fn own(&self, url: &Url, ask: &Ask<'_>) -> Result<(Response<Incoming>, Account), UpstreamError> {
        let started = Instant::now();
        let mut account = self.auth.account(ask.repository);
        let grant = self.auth.preemptive(&self.client, ask.kind, ask.repository).await;
        let mut grant = grant.map_err(|error| error.made_as(account))?;
        let mut renewed = false;
        // At the most: with a remembered token, bare, with a new one, and with one more if that was a cloud's and is refused.
        for _ in 0..4 {
            let response = self.send(url, ask, grant.header()).await?;
            if response.status() == StatusCode::FORBIDDEN
                && !std::mem::replace(&mut renewed, true)
                && let Some(newer) = self.auth.renewed(&self.client, ask.repository, &grant).await?
            {
                drop(remark(response.into_body()).await);
                grant = newer;
                continue;
            }
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok((response, account));
            }
            let challenges = challenge::challenges(response.headers());
            drop(remark(response.into_body()).await);
            let next = match self.auth.challenged(&self.client, ask.kind, ask.repository, grant, started, &challenges).await {
                Ok(Some(grant)) => Ok(grant),
                Ok(None) => self.probe(ask).await,
                Err(error) => Err(error),
            };
            account = self.auth.account(ask.repository);
            grant = next.map_err(|error| error.made_as(account))?;
        }
        Err(self.client.error(url, Reason::Denied(StatusCode::UNAUTHORIZED)))
    }

    /// Some registries name their challenge only at `/v2/`.
    async fn probe(&self, ask: &Ask<'_>) -> Result<Grant, UpstreamError> {
        let response = self.base(None).await?;
        let (status, challenges) = (response.status(), challenge::challenges(response.headers()));
        drop(remark(response.into_body()).await);
        match challenge::preferred(&challenges).filter(|_| status == StatusCode::UNAUTHORIZED) {
            Some(challenge) => self.auth.answer(&self.client, ask.kind, ask.repository, challenge).await,
            None => Err(self.client.error(&self.url, Reason::Denied(StatusCode::UNAUTHORIZED))),
        }
    }

    /// `/v2/` at this address, below the path that the address may have.
    pub(super) fn base_url(&self) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/v2/", self.url.path().trim_end_matches('/')));
        url
    }

    /// GET of `/v2/`, bare or with this `Authorization`: its answer of any status, redirects not followed (distribution-spec,
    /// *Determining Support*). What a status means depends on why it was asked. Cancel-safe.
    pub(super) async fn base(&self, authorization: Option<HeaderValue>) -> Result<Response<Incoming>, UpstreamError> {
        let headers = authorization.map(|value| (header::AUTHORIZATION, value)).into_iter().collect();
        let url = self.base_url();
        self.client.send(Exchange { kind: Kind::Other, method: Method::GET, url: &url, headers, body: Bytes::new() }).await
    }

    /// A request to where a redirect led: bare, and if that is refused, with an anonymous token of that host's realm.
    async fn foreign(&self, url: &Url, ask: &Ask<'_>) -> Result<Response<Incoming>, UpstreamError> {
        let response = self.send(url, ask, None).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenges = challenge::challenges(response.headers());
        match self.auth.foreign(&self.client, url, ask.repository, &challenges).await? {
            Some(token) => {
                drop(remark(response.into_body()).await);
                self.send(url, ask, Some(token)).await
            }
            None => Ok(response),
        }
    }

    async fn send(
        &self,
        url: &Url,
        ask: &Ask<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(ask.accept));
        // The id is no secret, and of no use to whoever only stores blobs.
        if redirect::same_origin(&self.url, url) {
            headers.extend(hop::request_id().map(|id| (REQUEST_ID, id)));
        }
        headers.extend(ask.range.clone().map(|range| (header::RANGE, range)));
        headers.extend(authorization.map(|value| (header::AUTHORIZATION, value)));
        let exchange = Exchange { kind: ask.kind, method: ask.method.clone(), url, headers, body: Bytes::new() };
        self.client.send(exchange).await
    }
}
