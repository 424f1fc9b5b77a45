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
//! Upstream        what to ask, what the answer means           (manifest, part, blob, listing)
//!                 whose turn it is, which address, and again   (asking, queue, health and what that stands on)
//!   Origin        one address: sign-in and redirects           (request, redirect, auth, challenge, realm, token, credentials)
//!     Client      one exchange: counted, timed, logged         (client, quota)
//!       Connector one connection: checked, proxied, encrypted  (connect, address, tls)
//! ```

mod accounts;
mod address;
mod asking;
mod auth;
mod blob;
mod breaker;
pub mod challenge;
mod client;
mod connect;
mod credentials;
mod error;
mod failing;
mod flow;
mod health;
mod holdback;
mod jwt;
mod listing;
mod login;
mod manifest;
mod pace;
mod part;
mod probe;
mod queue;
mod quota;
mod ranges;
mod realm;
mod redirect;
mod request;
mod standing;
mod tls;
mod token;
mod traffic;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hyper_util::client::proxy::matcher::Matcher;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

pub use asking::jittered;
pub use auth::TokenAge;
pub use blob::{BlobAnswer, BlobBody, Giver};
pub use breaker::Need;
pub use credentials::CredentialError;
pub use error::{Class, Reason, UpstreamError};
pub use flow::{SLOWEST, Stall, is_progress};
pub use health::Readiness;
pub use listing::{Listing, Referrers};
pub use manifest::{FetchedManifest, READ_INLINE, Resolved};
pub use part::{Effort, Lead};
pub use probe::Step;
pub use queue::Crowd;
pub use quota::Quota;
pub use redirect::RedirectError;
pub use tls::{TlsError, problems as certificate_problems};

use crate::config;
use crate::metrics::Metrics;
use crate::oci::UpstreamName;
use auth::{Auth, Guest};
use client::{Client, Timeouts};
use connect::{Connector, Guard};
use credentials::{Credential, Credentials, Env, Ground};
use pace::Pace;
use queue::{Limits, Queue};
use ranges::Ranges;
use request::Origin;
use tls::Tls;

/// One registry. Shared as `Arc<Upstream>`; all its methods are cancel-safe: dropping a call ends its request.
#[derive(Debug)]
pub struct Upstream {
    name: UpstreamName,
    metrics: Arc<Metrics>,
    config: Arc<config::Upstream>,
    /// At least one; the healthy ones are tried first, in this order.
    origins: Vec<Origin>,
    /// Who may ask now.
    queue: Arc<Queue>,
    pace: Option<Arc<Pace>>,
    /// When a piece of background work was last let through in spite of a quota's end.
    spared: Arc<Mutex<Option<Instant>>>,
    /// Whether it serves parts of blobs.
    ranges: Arc<Mutex<Ranges>>,
    /// True: nothing is asked.
    offline: watch::Sender<bool>,
    /// True: it is no upstream of the mirror any more, or another one has taken its place, and the gauges.
    retired: Arc<AtomicBool>,
}

impl Upstream {
    /// Sets an upstream up; nothing is asked of it yet. Proxies are taken from `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`
    /// and `NO_PROXY` as curl does.
    ///
    /// Reads certificate files: while serving, call it off the reactor (I11).
    pub fn new(name: UpstreamName, config: &config::Upstream, metrics: Arc<Metrics>) -> Result<Self, TlsError> {
        let offline = watch::Sender::new(config.offline);
        Self::within(name, config, metrics, Matcher::from_env(), Env::of_process(), offline)
    }

    /// The same registry under another configuration. Both share one switch, and one queue if its limits are the same, so
    /// that what has begun with this one still counts, and an operator can still stop it. Reads files, as [`Self::new`]
    /// does.
    pub fn succeeded_by(&self, config: &config::Upstream) -> Result<Self, TlsError> {
        let (name, metrics, offline) = (self.name.clone(), self.metrics.clone(), self.offline.clone());
        let mut new = Self::within(name, config, metrics, Matcher::from_env(), Env::of_process(), offline)?;
        let limits = |config: &config::Upstream| (config.max_connections, config.max_fills, config.max_queue);
        if limits(&self.config) == limits(config) {
            new.queue = Arc::clone(&self.queue);
        }
        if self.config.max_bandwidth == config.max_bandwidth {
            new.pace.clone_from(&self.pace);
        }
        Ok(new)
    }

    /// As [`Self::new`], with these proxies and environment variables.
    fn within(
        name: UpstreamName,
        config: &config::Upstream,
        metrics: Arc<Metrics>,
        proxies: Matcher,
        env: Env,
        offline: watch::Sender<bool>,
    ) -> Result<Self, TlsError> {
        let tls = Tls::of(config)?;
        metrics.begin_upstream(name.as_str(), config.visibility == config::Visibility::Caller);
        let cloud_tls = if config.credentials.is_cloud() { Tls::anonymous()? } else { tls.clone() };
        let proxies = Arc::new(proxies);
        let origin = |url: &url::Url| {
            let guard = Guard::new(url, &config.token_realms);
            let connector = Connector::new(guard, Arc::clone(&proxies), tls.clone(), config.connect_timeout);
            let timeouts = Timeouts { response: config.response_timeout, stall: config.stall_timeout };
            let client =
                Client::new(name.clone(), Arc::clone(&metrics), connector, Arc::clone(&proxies), timeouts, offline.subscribe());
            let ground = Ground {
                env: env.clone(),
                name: name.clone(),
                metrics: Arc::clone(&metrics),
                proxies: Arc::clone(&proxies),
                tls: cloud_tls.clone(),
                registry: client.clone(),
            };
            let credentials = Credentials::new(&config.credentials, url, &ground);
            Origin::new(url.clone(), client, Auth::new(url.clone(), credentials, config.token_realms.clone()), config.breaker)
        };
        let origins = config.urls.iter().map(origin).collect();
        let layers = config.max_fills.unwrap_or(usize::MAX).min(config.max_connections);
        let all = config.max_connections.saturating_add((config.max_connections / 8).max(1));
        let queue = Queue::new(Limits { layers, all, waiting: config.max_queue });
        let pace = config.max_bandwidth.map(|rate| Arc::new(Pace::new(rate)));
        let (config, spared, ranges) = (Arc::new(config.clone()), Arc::default(), Arc::default());
        let retired = Arc::default();
        Ok(Self { name, metrics, config, origins, queue, pace, spared, ranges, offline, retired })
    }

    /// The same upstream, asked with the login of somebody else than the mirror: the same connections, health, queue and
    /// switch, but no token, silence or quota of anybody else's. `tokens`: new ones are from after this call.
    ///
    /// The login goes where the mirror's own credentials would (I9). It lives as long as what this returns, and what is
    /// begun with it.
    pub fn signed_in_as(&self, username: &str, password: &config::Secret, tokens: TokenAge) -> Self {
        let login = Credential::Password { username: username.to_owned(), password: password.clone() };
        let guest = Guest::new(login, tokens);
        Self {
            name: self.name.clone(),
            metrics: Arc::clone(&self.metrics),
            config: Arc::clone(&self.config),
            origins: self.origins.iter().map(|origin| origin.signed_in_as(&guest)).collect(),
            queue: Arc::clone(&self.queue),
            pace: self.pace.clone(),
            spared: Arc::clone(&self.spared),
            ranges: Arc::clone(&self.ranges),
            offline: self.offline.clone(),
            retired: Arc::clone(&self.retired),
        }
    }

    /// The name by which images and configuration call it.
    pub fn name(&self) -> &UpstreamName {
        &self.name
    }

    /// What a client that wants a blob is told while this upstream is down.
    pub fn blob_outage_status(&self) -> config::BlobOutage {
        self.config.blob_outage_status
    }

    fn error(&self, reason: Reason) -> UpstreamError {
        UpstreamError::new(&self.name, self.origins.first().map_or_else(String::new, Origin::host), reason)
    }
}

#[cfg(test)]
mod tests;
