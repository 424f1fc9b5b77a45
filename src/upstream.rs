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
//! Upstream        what to ask, what the answer means           (this file, blob, part, listing)
//!   Origin        one address: sign-in and redirects           (request, redirect, auth, challenge, realm, token, credentials)
//!     Client      one exchange: counted, timed, logged         (client, quota)
//!       Connector one connection: checked, proxied, encrypted  (connect, address, tls)
//! ```

mod accounts;
mod address;
mod auth;
mod blob;
mod breaker;
pub mod challenge;
mod client;
mod connect;
mod credentials;
mod error;
mod failing;
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

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use hyper_util::client::proxy::matcher::Matcher;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

pub use blob::{BlobAnswer, BlobBody, Giver};
pub use credentials::CredentialError;
pub use error::{Class, Reason, UpstreamError};
pub use health::Readiness;
pub use listing::{Listing, Referrers};
pub use manifest::{FetchedManifest, Resolved};
pub use part::{Effort, Lead};
pub use probe::Step;
pub use queue::Crowd;
pub use quota::Quota;
pub use redirect::RedirectError;
pub use tls::{TlsError, check as check_certificates};

use crate::config;
use crate::metrics::{Kind, Metrics, gauge};
use crate::oci::{ContentRange, Digest, Repository, UpstreamName};
use auth::{Auth, Guest};
use blob::Body;
use breaker::Need;
use client::Client;
use connect::{Connector, Guard};
use credentials::{Credential, Credentials, Env, Ground};
use health::Change;
use holdback::{BRIEFS, LEAST};
use pace::Pace;
use queue::{Lane, Limits, Queue, Slot};
use ranges::Ranges;
use request::{Answer, Ask, Origin};
use tls::Tls;
use traffic::Traffic;

/// How often a request that a client depends on is repeated, and the first pause before that. Pauses double, and each
/// is lengthened by up to its own length, so that many who failed together do not come back together.
const RETRIES: u32 = 2;
const PAUSE: Duration = Duration::from_millis(100);

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
            let timeouts = (config.response_timeout, config.stall_timeout);
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
    /// switch, but no token, silence or quota of anybody else's. `anew`: no token older than this call will do.
    ///
    /// The login goes where the mirror's own credentials would (I9). It lives as long as what this returns, and what is
    /// begun with it.
    pub fn signed_in_as(&self, username: &str, password: &config::Secret, anew: bool) -> Self {
        let login = Credential::Password { username: username.to_owned(), password: password.clone() };
        let guest = Guest::new(login, anew);
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

    /// The size of a blob without its bytes: a GET of its first byte. `None` if the upstream does not tell. Takes no
    /// download slot.
    pub async fn blob_size(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let range = Some(HeaderValue::from_static("bytes=0-0"));
        let ask = Ask { range, ..Ask::new(Kind::Blob, repository, format!("blobs/{digest}")) };
        // An empty blob has no first byte.
        let unsatisfiable = |answer: &Answer| answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE;
        let (origin, answer) = self.ask_in(Lane::Small, &ask, unsatisfiable).await?;
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

    /// An address has given an answer that is of no use. From now on it is tried after the others: they are configured as
    /// equals, and something in front of this one may send pages in the place of content. Whether to ask again; `useless`
    /// counts such answers to one question.
    fn asks_another(&self, origin: &Origin, traffic: Traffic, useless: &mut usize, error: Option<&UpstreamError>) -> bool {
        origin.health().misled(traffic);
        *useless += 1;
        let another = *useless < self.origins.len();
        if another {
            tracing::warn!(upstream = %self.name, address = origin.host(), of = traffic.label(), error = error.map(tracing::field::display),
                "an address of the upstream sent what cannot be right; another one is asked");
        }
        another
    }

    /// Asks for something small: see [`Self::ask_in`].
    async fn ask(&self, ask: &Ask<'_>, accepts: impl Fn(&Answer) -> bool) -> Result<(&Origin, Answer), UpstreamError> {
        self.ask_in(Lane::Small, ask, accepts).await
    }

    /// Asks, in turn with others, until it has an answer of success or with a status that `accepts` wants to see; or says
    /// why not. Ends at once when the upstream is switched off.
    async fn ask_in(
        &self,
        lane: Lane,
        ask: &Ask<'_>,
        accepts: impl Fn(&Answer) -> bool,
    ) -> Result<(&Origin, Answer), UpstreamError> {
        let mut offline = self.offline.subscribe();
        let asked = tokio::select! {
            biased;
            // The sender is here: it ends only by the switch.
            _ = offline.wait_for(|offline| *offline) => Err(self.error(Reason::Offline)),
            asked = self.ask_patiently(lane, ask, &accepts) => asked,
        };
        if let Err(error) = &asked {
            self.metrics.upstream_failures_total.with_label_values(&[self.name.as_str(), error.label()]).inc();
        }
        asked
    }

    /// Asks again after a short pause what failed in passing, if a client depends on it and within its patience.
    async fn ask_patiently(
        &self,
        lane: Lane,
        ask: &Ask<'_>,
        accepts: &impl Fn(&Answer) -> bool,
    ) -> Result<(&Origin, Answer), UpstreamError> {
        let retries = if ask.need == Need::Content && ask.effort == Effort::Patient { RETRIES } else { 0 };
        let (mut started, mut slot, mut failed) = (Instant::now(), None, None);
        let (mut retried, mut throttled) = (0, 0);
        loop {
            // A request that will be refused need not wait in line for that.
            if slot.is_none() && !self.origins.iter().all(|origin| origin.peek(ask).is_err()) {
                slot = Some(self.turn(lane, ask).await?);
                started = Instant::now();
            }
            let error = match self.ask_around(ask, accepts, retried == 0).await {
                Ok((origin, answer)) => return Ok((origin, Answer { slot, ..answer })),
                Err(error) => error,
            };
            let pause = match error.moment() {
                // One part more is not worth waiting for.
                Some(moment) if throttled < BRIEFS && ask.effort != Effort::Spare => {
                    throttled += u32::from(!error.was_not_asked());
                    Some(moment.max(LEAST) + (3 * LEAST).mul_f64(jitter()))
                }
                None if retried < retries && error.is_passing() => {
                    retried += 1;
                    Some(jittered(PAUSE * (1 << (retried - 1))))
                }
                _ => None,
            };
            let was_asked = !error.was_not_asked();
            // The first failure says more than that it was not asked again.
            let error = failed.take().filter(|_| !was_asked).unwrap_or(error);
            let Some(pause) = pause.filter(|pause| started.elapsed() + *pause <= self.config.response_timeout) else {
                return Err(error);
            };
            tracing::debug!(%error, "asking again");
            if was_asked {
                self.metrics.upstream_retries_total.with_label_values(&[self.name.as_str()]).inc();
            }
            failed = Some(error);
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits for its turn: a layer as long as it takes, anything else as long as an answer may take, a spare part not at all.
    async fn turn(&self, lane: Lane, ask: &Ask<'_>) -> Result<Slot, UpstreamError> {
        if ask.effort == Effort::Spare {
            return self.queue.try_enter(lane).ok_or_else(|| self.error(Reason::Busy));
        }
        let turn = self.queue.enter(lane, ask.repository);
        let turn = match lane {
            Lane::Layer => turn.await.ok(),
            Lane::Small => tokio::time::timeout(self.config.response_timeout, turn).await.ok().and_then(Result::ok),
        };
        turn.ok_or_else(|| self.error(Reason::Busy))
    }

    /// Asks one address after the other, the healthy ones first.
    ///
    /// Every failure goes on to the next address: they are configured as equals, and one that has not what another one
    /// has is no authority. `counts`: a failure is news to the circuit breaker, and no repetition of the last one.
    async fn ask_around(
        &self,
        ask: &Ask<'_>,
        accepts: &impl Fn(&Answer) -> bool,
        counts: bool,
    ) -> Result<(&Origin, Answer), UpstreamError> {
        let mut origins: Vec<_> = self.origins.iter().map(|origin| (origin.health().rank(ask.traffic()), origin)).collect();
        origins.sort_by_key(|(rank, _)| *rank);
        let mut failed: Option<UpstreamError> = None;
        for (_, origin) in origins {
            let error = match self.ask_one(origin, ask, accepts, counts).await {
                Ok(answer) => return Ok((origin, answer)),
                Err(error) => error,
            };
            tracing::debug!(%error, kind = ask.kind.label(), "an address of the upstream did not give it");
            failed = Some(match failed {
                Some(earlier) => earlier.or(error),
                None => error,
            });
        }
        Err(failed.unwrap_or_else(|| self.error(Reason::Connect("it has no `url`".into()))))
    }

    async fn ask_one(
        &self,
        origin: &Origin,
        ask: &Ask<'_>,
        accepts: &impl Fn(&Answer) -> bool,
        counts: bool,
    ) -> Result<Answer, UpstreamError> {
        let refused = |reason| UpstreamError::new(&self.name, origin.host(), reason);
        let account = origin.auth().account(ask.repository);
        let admitted = origin.health().admit(account, ask.traffic(), ask.what(), ask.need).map_err(refused)?;
        let asked = match origin.ask(ask).await {
            Ok(answer) => {
                self.learn_quota(origin, &answer);
                if answer.response.status().is_success() || accepts(&answer) {
                    Ok(answer)
                } else {
                    let error = origin.client.refusal(&answer.url, answer.response).await;
                    Err(if answer.foreign { error.elsewhere() } else { error.made_as(answer.account) })
                }
            }
            Err(error) => Err(error),
        };
        let error = asked.as_ref().err();
        if counts || error.is_none_or(|error| error.fault().is_none()) {
            match admitted.answered(&origin.host(), error, jitter()) {
                Change::Opened => {
                    tracing::warn!(upstream = %self.name, address = origin.host(), error = error.map(tracing::field::display),
                        probe_every = ?self.config.breaker.probe_every, "an address of the upstream is down; it is only probed now");
                }
                Change::Failing(traffic) => {
                    tracing::warn!(upstream = %self.name, address = origin.host(), of = traffic.label(), error = error.map(tracing::field::display),
                        probe_every = ?self.config.breaker.probe_every, "an address of the upstream fails at all that it is asked of a kind; that is only probed now");
                }
                Change::Closed => tracing::info!(upstream = %self.name, address = origin.host(), "the upstream is back"),
                Change::None => {}
            }
        }
        asked
    }

    fn error(&self, reason: Reason) -> UpstreamError {
        UpstreamError::new(&self.name, self.origins.first().map_or_else(String::new, Origin::host), reason)
    }

    fn learn_quota(&self, origin: &Origin, answer: &Answer) {
        let Some(quota) = quota::quota(answer.response.headers()).filter(|_| !answer.foreign) else { return };
        origin.health().told_quota(answer.account, quota);
        // What is exported is the mirror's own quota, which this one need not be.
        let Some(quota) = self.quota().filter(|_| !self.retired.load(Ordering::Acquire)) else { return };
        let labels = [self.name.as_str()];
        self.metrics.upstream_ratelimit_remaining.with_label_values(&labels).set(gauge(quota.remaining));
        if let Some(limit) = quota.limit {
            self.metrics.upstream_ratelimit_limit.with_label_values(&labels).set(gauge(limit));
        }
    }
}

/// A number from 0 to 1, another one each time. For spreading things out, not for secrets.
fn jitter() -> f64 {
    (RandomState::new().hash_one(0_u8) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A pause, lengthened at random by up to its own length.
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + jitter())
}

#[cfg(test)]
mod tests;
