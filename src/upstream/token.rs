//! Bearer tokens: fetched from a realm, kept while they live, fetched once for all who wait.
//!
//! The protocol is Docker's "Token Authentication Specification" (GET with Basic) and its OAuth2 variant (POST, here
//! only for identity tokens). Which realm may see which credential has been decided before, by [`super::auth`]; this
//! module makes sure that a redirect of the realm does not change it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use moka::Expiry;
use moka::future::Cache;
use serde::Deserialize;
use url::Url;
use url::form_urlencoded;

use super::blob::{self, Body};
use super::client::{self, Client, Exchange};
use super::credentials::Credential;
use super::error::{Class, Reason, UpstreamError};
use super::jwt;
use super::redirect::{self, MAX_REDIRECTS, RedirectError};
use crate::metrics::Kind;
use crate::oci::Digest;

/// The largest answer of a token service.
const MAX_ANSWER: usize = 1024 * 1024;
/// A token without a life, or with a shorter one, is used for so long: as docker and podman do. A service that takes
/// it back earlier answers 401, and the token is dropped.
const MIN_LIFE: Duration = Duration::from_secs(60);
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
/// The share of its life after which a token is replaced.
const REFRESH_AT: f64 = 0.85;
/// After a failed replacement: how long the old token, which still lives, is used before the next attempt.
const REFRESH_PAUSE: Duration = Duration::from_secs(5);
/// Token services whose anonymous tokens are good for every public repository, and which count requests for tokens
/// against the same limit as pulls: one token does for all.
const UNBOUND: [&str; 1] = ["ghcr.io"];
/// Who we say we are to OAuth2 token services.
const CLIENT_ID: &str = "roadstead";

/// What a token is asked for with.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    /// Sorted, without repetitions.
    pub(super) scopes: Vec<String>,
    /// Only what the realm may see.
    pub(super) credential: Option<Arc<Credential>>,
    /// An older token will not do: whether the credential is still good has to be seen.
    pub(super) not_before: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    realm: String,
    service: Option<String>,
    scopes: Vec<String>,
    credential: Option<Digest>,
}

/// A token in use.
#[derive(Clone, Debug)]
pub(super) struct Token {
    /// `Bearer …`, marked as sensitive.
    pub(super) authorization: HeaderValue,
    /// When it arrived; lives are counted from here, because a service's clock may be wrong.
    pub(super) received: Instant,
    refresh_at: Instant,
    dies_at: Instant,
}

/// The tokens of one upstream.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    cache: Cache<Key, Result<Token, UpstreamError>>,
    min_life: Duration,
}

/// Entries go when their token dies; failures at once, they are only for those who wait at this moment.
struct Life;

impl Expiry<Key, Result<Token, UpstreamError>> for Life {
    fn expire_after_create(&self, _: &Key, value: &Result<Token, UpstreamError>, created: Instant) -> Option<Duration> {
        Some(value.as_ref().map_or(Duration::ZERO, |token| token.dies_at.saturating_duration_since(created)))
    }

    fn expire_after_update(
        &self,
        key: &Key,
        value: &Result<Token, UpstreamError>,
        updated: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, value, updated)
    }
}

impl Wanted {
    fn key(&self) -> Key {
        let host = self.realm.host_str().unwrap_or_default();
        let unbound = self.credential.is_none() && self.realm.scheme() == "https" && UNBOUND.contains(&host);
        Key {
            realm: self.realm.as_str().to_owned(),
            service: self.service.clone(),
            scopes: if unbound { Vec::new() } else { self.scopes.clone() },
            credential: self.credential.as_ref().map(|credential| credential.fingerprint()),
        }
    }
}

impl Tokens {
    pub(super) fn new() -> Self {
        Self::with_min_life(MIN_LIFE)
    }

    /// Lives shorter than `min_life` count as that.
    pub(super) fn with_min_life(min_life: Duration) -> Self {
        Self { cache: Cache::builder().max_capacity(10_000).expire_after(Life).build(), min_life }
    }

    /// A token, from memory or fetched; those who want the same one at one time share one request and its outcome.
    ///
    /// A token past most of its life is replaced; if that fails while it lives, it goes on being used. Cancel-safe: if
    /// the caller that fetches goes away, one that waits takes over.
    pub(super) async fn get(&self, client: &Client, wanted: &Wanted) -> Result<Token, UpstreamError> {
        let key = wanted.key();
        let fetch = async {
            let recent = |token: &Token| wanted.not_before.is_none_or(|limit| token.received >= limit);
            let old = self.cache.get(&key).await.and_then(Result::ok).filter(recent);
            let fetched = fetch(client, wanted, self.min_life).await;
            match (fetched, old) {
                (Err(error), Some(old)) if Instant::now() < old.dies_at && error.class() != Class::Denied => {
                    tracing::warn!(%error, "a token cannot be renewed; the old one is used while it lives");
                    Ok(Token { refresh_at: Instant::now() + REFRESH_PAUSE, ..old })
                }
                (fetched, _) => fetched,
            }
        };
        let stale = |held: &Result<Token, UpstreamError>| {
            let held = held.as_ref().ok().filter(|token| wanted.not_before.is_none_or(|limit| token.received >= limit));
            held.is_none_or(|token| Instant::now() >= token.refresh_at)
        };
        self.cache.entry_by_ref(&key).or_insert_with_if(fetch, stale).await.into_value()
    }

    /// Forgets a token that was refused, unless another one has taken its place already.
    pub(super) async fn drop(&self, wanted: &Wanted, refused: &Token) {
        let key = wanted.key();
        let same =
            |held: &Result<Token, UpstreamError>| held.as_ref().is_ok_and(|held| held.authorization == refused.authorization);
        if self.cache.get(&key).await.is_some_and(|held| same(&held)) {
            self.cache.invalidate(&key).await;
        }
    }
}

async fn fetch(client: &Client, wanted: &Wanted, min_life: Duration) -> Result<Token, UpstreamError> {
    let error = |reason| client.error(&wanted.realm, reason);
    let response = match wanted.credential.as_deref() {
        Some(Credential::Identity { token, .. }) => {
            let response = post(client, wanted, token.expose()).await?;
            let basic = wanted.credential.as_ref().and_then(|credential| credential.basic());
            match (response.status().as_u16(), basic) {
                // Services without OAuth2; some take the identity token as a password instead.
                (400 | 401 | 404 | 405, Some(basic)) => {
                    drop(client::remark(response.into_body()).await);
                    get(client, wanted, Some(basic)).await?
                }
                _ => response,
            }
        }
        Some(credential) => get(client, wanted, credential.basic()).await?,
        None => get(client, wanted, None).await?,
    };
    let status = response.status();
    if !status.is_success() {
        // The account is not good: that says nothing about what was asked for. (403 does: this account may not.)
        let identity = matches!(wanted.credential.as_deref(), Some(Credential::Identity { .. }));
        if wanted.credential.is_some() && (status == StatusCode::UNAUTHORIZED || identity && status == StatusCode::BAD_REQUEST) {
            return Err(error(Reason::CredentialsRefused(status)));
        }
        // A token service that lacks the path is a broken upstream, not a missing image.
        if matches!(status.as_u16(), 404 | 410) {
            return Err(error(Reason::Status(status)));
        }
        return Err(client.refusal(&wanted.realm, response).await);
    }
    let received = Instant::now();
    blob::check_identity(response.headers()).map_err(error)?;
    let answer = Body::new(client, &wanted.realm, response).collect(MAX_ANSWER).await?;
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| error(Reason::Invalid("the token service's answer is not the JSON of a token".into())))?;
    answer
        .token(received, min_life)
        .ok_or_else(|| error(Reason::Invalid("the token service's answer holds no usable token".into())))
}

/// GET as docker does, following redirects; never with credentials to another host.
async fn get(client: &Client, wanted: &Wanted, basic: Option<HeaderValue>) -> Result<Response<Incoming>, UpstreamError> {
    let mut url = wanted.realm.clone();
    {
        let mut query = url.query_pairs_mut();
        query.extend_pairs(wanted.service.iter().map(|service| ("service", service)));
        query.extend_pairs(wanted.scopes.iter().map(|scope| ("scope", scope)));
        if let Some(account) = wanted.credential.as_ref().filter(|_| basic.is_some()).and_then(|credential| credential.username())
        {
            query.append_pair("account", account);
        }
    }
    for _ in 0..=MAX_REDIRECTS {
        let headers = basic.iter().map(|basic| (header::AUTHORIZATION, basic.clone())).collect();
        let exchange = Exchange { kind: Kind::Other, method: Method::GET, url: &url, headers, body: Bytes::new() };
        let response = client.send(exchange).await?;
        if !redirect::is_redirect(response.status()) {
            return Ok(response);
        }
        let target = redirect::target(&url, response.headers()).map_err(|error| client.error(&url, error))?;
        if basic.is_some() && !redirect::same_origin(&wanted.realm, &target) {
            return Err(client.error(&url, RedirectError::Credentials));
        }
        drop(client::remark(response.into_body()).await);
        url = target;
    }
    Err(client.error(&url, RedirectError::TooMany))
}

/// POST of an identity token. Its redirects are never followed: the token would go along.
async fn post(client: &Client, wanted: &Wanted, token: &str) -> Result<Response<Incoming>, UpstreamError> {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))]);
    let body = Bytes::from(form(wanted, token));
    let exchange = Exchange { kind: Kind::Other, method: Method::POST, url: &wanted.realm, headers, body };
    let response = client.send(exchange).await?;
    if redirect::is_redirect(response.status()) {
        return Err(client.error(&wanted.realm, RedirectError::Credentials));
    }
    Ok(response)
}

fn form(wanted: &Wanted, token: &str) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token).append_pair("client_id", CLIENT_ID);
    form.extend_pairs(wanted.service.iter().map(|service| ("service", service)));
    if !wanted.scopes.is_empty() {
        form.append_pair("scope", &wanted.scopes.join(" "));
    }
    form.finish()
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    /// A number of seconds; some write it as a string, some as null.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Answer {
    fn token(self, received: Instant, min_life: Duration) -> Option<Token> {
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let text = filled(self.access_token).or_else(|| filled(self.token))?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {text}")).ok()?;
        authorization.set_sensitive(true);
        let seconds = self.expires_in.as_f64().or_else(|| self.expires_in.as_str().and_then(|text| text.trim().parse().ok()));
        let told = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        // Azure's say it only inside.
        let life = told.or_else(|| jwt::life(&text)).unwrap_or_default();
        let life = life.clamp(min_life, MAX_LIFE);
        Some(Token { authorization, received, refresh_at: received + life.mul_f64(REFRESH_AT), dies_at: received + life })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<(String, u64, u64)> {
        let received = Instant::now();
        let token = serde_json::from_str::<Answer>(json).unwrap().token(received, MIN_LIFE)?;
        assert!(token.authorization.is_sensitive());
        let until = |at: Instant| at.duration_since(received).as_secs();
        Some((token.authorization.to_str().unwrap().to_owned(), until(token.refresh_at), until(token.dies_at)))
    }

    #[test]
    fn t30_forms_of_an_answer() {
        let token = |text: &str, refresh, dies| Some((format!("Bearer {text}"), refresh, dies));
        for (json, expected) in [
            (r#"{"token":"a","expires_in":300,"issued_at":"2001-01-01T00:00:00Z"}"#, token("a", 255, 300)),
            (r#"{"access_token":"b","expires_in":100}"#, token("b", 85, 100)),
            (r#"{"token":"a","access_token":"b","expires_in":100.5}"#, token("b", 85, 100)),
            (r#"{"token":"a","access_token":""}"#, token("a", 51, 60)),
            (r#"{"token":"a","expires_in":5}"#, token("a", 51, 60)),
            (r#"{"token":"a","expires_in":0}"#, token("a", 51, 60)),
            (r#"{"token":"a","expires_in":-1}"#, token("a", 51, 60)),
            (r#"{"token":"a","expires_in":null}"#, token("a", 51, 60)),
            (r#"{"token":"a","expires_in":"600"}"#, token("a", 510, 600)),
            (r#"{"token":"a","expires_in":1e300}"#, token("a", 51, 60)),
            (r#"{"token":"a","expires_in":1e9}"#, token("a", 73440, 86400)),
            (r#"{"token":""}"#, None),
            (r#"{"token":"a\r\nX: y"}"#, None),
            ("{}", None),
        ] {
            assert_eq!(read(json), expected, "{json}");
        }
    }
}
