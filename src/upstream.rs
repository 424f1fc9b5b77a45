//! One upstream registry, asked politely.
//!
//! Owns everything between "this manifest, this blob" and the network: connections, proxies, TLS, sign-in, redirects,
//! fallback addresses, time limits, and the judgement of what an answer means. Must never: know of caches or clients,
//! relay anything of a client's request, send credentials to a host that they are not for (I9), ask for a blob by HEAD
//! (some registries refuse it always), or turn a HEAD of a tag into a GET that counts as a pull without need.
//!
//! Called by `pull` (manifests, tags, referrers) and `fill` (blobs). One question, from the outside in:
//!
//! ```text
//! Upstream        what to ask, what the answer means           (this file, blob, listing)
//!   Origin        one address: sign-in and redirects           (request, redirect, auth, challenge, realm, token, credentials)
//!     Client      one exchange: counted, timed, logged         (client, quota)
//!       Connector one connection: checked, proxied, encrypted  (connect, address, tls)
//! ```

mod address;
mod auth;
mod blob;
mod challenge;
mod client;
mod connect;
mod credentials;
mod error;
mod listing;
mod manifest;
mod quota;
mod realm;
mod redirect;
mod request;
mod tls;
mod token;

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderValue, Method, StatusCode};
use hyper_util::client::proxy::matcher::Matcher;
use tokio::sync::Semaphore;

pub use blob::{BlobAnswer, BlobBody};
pub use credentials::CredentialError;
pub use error::{Class, Reason, UpstreamError};
pub use listing::{Listing, Referrers};
pub use manifest::{FetchedManifest, Resolved};
pub use quota::Quota;
pub use redirect::RedirectError;
pub use tls::TlsError;

use crate::config;
use crate::metrics::{Kind, Metrics};
use crate::oci::{ContentRange, Digest, Repository, UpstreamName};
use auth::Auth;
use blob::Body;
use client::Client;
use connect::{Connector, Guard};
use credentials::Credentials;
use request::{Answer, Ask, Origin};

/// Anything: what blobs are asked for with.
const ANY: &str = "*/*";

/// One registry. Shared as `Arc<Upstream>`; all its methods are cancel-safe: dropping a call ends its request.
#[derive(Debug)]
pub struct Upstream {
    name: UpstreamName,
    metrics: Arc<Metrics>,
    /// At least one; tried in order.
    origins: Vec<Origin>,
    /// `max_connections`: held by open blob bodies, so that manifests never wait behind layers.
    slots: Arc<Semaphore>,
    quota: Mutex<Option<Quota>>,
}

impl Upstream {
    /// Sets an upstream up; nothing is asked of it yet. Proxies are taken from `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`
    /// and `NO_PROXY` as curl does.
    ///
    /// Reads certificate files: while serving, call it off the reactor (I11).
    pub fn new(name: UpstreamName, config: &config::Upstream, metrics: Arc<Metrics>) -> Result<Self, TlsError> {
        Self::with_proxies(name, config, metrics, Matcher::from_env())
    }

    fn with_proxies(
        name: UpstreamName,
        config: &config::Upstream,
        metrics: Arc<Metrics>,
        proxies: Matcher,
    ) -> Result<Self, TlsError> {
        let tls = tls::client_config(config.ca.as_deref())?;
        let proxies = Arc::new(proxies);
        let origin = |url: &url::Url| {
            let guard = Guard::new(url, &config.token_realms);
            let connector = Connector::new(guard, Arc::clone(&proxies), Arc::clone(&tls), config.connect_timeout);
            let timeouts = (config.response_timeout, config.stall_timeout);
            let client = Client::new(name.clone(), Arc::clone(&metrics), connector, Arc::clone(&proxies), timeouts);
            let credentials = Credentials::new(&config.credentials, url);
            Origin::new(url.clone(), client, Auth::new(url.clone(), credentials, config.token_realms.clone()))
        };
        let origins = config.urls.iter().map(origin).collect();
        let slots = Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS)));
        Ok(Self { name, metrics, origins, slots, quota: Mutex::default() })
    }

    /// The name by which images and configuration call it.
    pub fn name(&self) -> &UpstreamName {
        &self.name
    }

    /// What the upstream last said of its pull quota, if it has one.
    pub fn quota(&self) -> Option<Quota> {
        *self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// GET of a blob, from byte `from` on; waits for a free download slot first.
    ///
    /// A range that the upstream ignores is no error: [`BlobAnswer::start`] says where the body begins. To resume after
    /// a break, call it again: a redirect is asked for anew each time, because presigned URLs expire.
    pub async fn blob(&self, repository: &Repository, digest: &Digest, from: u64) -> Result<BlobAnswer, UpstreamError> {
        // The semaphore is never closed, so that waiting for it cannot fail.
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let (origin, answer) = self.ask_for_blob(repository, digest, range, |_| false).await?;
        let invalid = |problem: &str| origin.client.error(&answer.url, Reason::Invalid(problem.into()));
        blob::check_identity(answer.response.headers()).map_err(|reason| origin.client.error(&answer.url, reason))?;
        let status = answer.response.status();
        let range = blob::content_range(answer.response.headers());
        let Ok(slot) = slot else { return Err(invalid("no download slot")) };
        match (status, range) {
            (StatusCode::OK, _) => {
                let body = Body::new(&origin.client, &answer.url, answer.response);
                Ok(BlobAnswer { total: body.left(), start: 0, body: BlobBody::new(body, slot) })
            }
            (StatusCode::PARTIAL_CONTENT, Some(ContentRange::Part { range, total })) if range.start == from => {
                let length = range.end - range.start;
                let mut body = Body::new(&origin.client, &answer.url, answer.response);
                if body.left().is_some_and(|left| left != length) {
                    return Err(origin
                        .client
                        .error(&answer.url, Reason::Invalid("Content-Length and Content-Range differ".into())));
                }
                body.expect(length);
                Ok(BlobAnswer { total, start: from, body: BlobBody::new(body, slot) })
            }
            (StatusCode::PARTIAL_CONTENT, _) => Err(invalid("it sent another range than the one asked for")),
            _ => Err(origin.client.error(&answer.url, Reason::Status(status))),
        }
    }

    /// The size of a blob without its bytes: a GET of its first byte. `None` if the upstream does not tell. Takes no
    /// download slot.
    pub async fn blob_size(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let range = Some("bytes=0-0".to_owned());
        // An empty blob has no first byte.
        let unsatisfiable = |answer: &Answer| answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE;
        let (origin, answer) = self.ask_for_blob(repository, digest, range, unsatisfiable).await?;
        let status = answer.response.status();
        let total = match blob::content_range(answer.response.headers()) {
            Some(ContentRange::Part { total, .. }) => total,
            Some(ContentRange::Unsatisfied(total)) => Some(total),
            None => None,
        };
        match status {
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(total),
            StatusCode::OK => {
                blob::check_identity(answer.response.headers()).map_err(|reason| origin.client.error(&answer.url, reason))?;
                // The body is dropped unread, which ends its connection: cheaper than a layer.
                Ok(Body::new(&origin.client, &answer.url, answer.response).left())
            }
            _ => Err(origin.client.error(&answer.url, Reason::Status(status))),
        }
    }

    async fn ask_for_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        range: Option<String>,
        accepts: impl Fn(&Answer) -> bool,
    ) -> Result<(&Origin, Answer), UpstreamError> {
        let ask = Ask {
            kind: Kind::Blob,
            method: Method::GET,
            repository,
            path: format!("blobs/{digest}"),
            query: None,
            accept: ANY,
            // Digits and ASCII only: always a valid header.
            range: range.and_then(|range| HeaderValue::try_from(range).ok()),
        };
        self.ask(&ask, accepts).await
    }

    /// Asks the addresses in order until one answers with success, or with a status that `accepts` wants to see.
    ///
    /// Every failure goes on to the next address: they are configured as equals, and one that has not what another one
    /// has is no authority. Addresses that could not be reached a moment ago come last.
    async fn ask(&self, ask: &Ask<'_>, accepts: impl Fn(&Answer) -> bool) -> Result<(&Origin, Answer), UpstreamError> {
        let (avoided, ready): (Vec<_>, Vec<_>) = self.origins.iter().partition(|origin| origin.is_avoided());
        let mut failed: Option<UpstreamError> = None;
        for origin in ready.into_iter().chain(avoided) {
            let error = match origin.ask(ask).await {
                Ok(answer) => {
                    self.learn_quota(&answer);
                    if answer.response.status().is_success() || accepts(&answer) {
                        return Ok((origin, answer));
                    }
                    origin.client.refusal(&answer.url, answer.response).await
                }
                Err(error) => error,
            };
            tracing::debug!(%error, kind = ask.kind.label(), "an address of the upstream did not give it");
            failed = Some(match failed {
                Some(earlier) => earlier.or(error),
                None => error,
            });
        }
        let nowhere = || UpstreamError::new(&self.name, "", Reason::Connect("it has no `url`".into()));
        Err(failed.unwrap_or_else(nowhere))
    }

    fn learn_quota(&self, answer: &Answer) {
        let Some(quota) = quota::quota(answer.response.headers()).filter(|_| !answer.foreign) else { return };
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let labels = [self.name.as_str()];
        self.metrics.upstream_ratelimit_remaining.with_label_values(&labels).set(gauge(quota.remaining));
        if let Some(limit) = quota.limit {
            self.metrics.upstream_ratelimit_limit.with_label_values(&labels).set(gauge(limit));
        }
        *self.quota.lock().unwrap_or_else(PoisonError::into_inner) = Some(quota);
    }
}

#[cfg(test)]
mod tests;
