//! Signing in with what a cloud gives its machines: Amazon, Google, Azure.
//!
//! A [`Renewing`] credential is fetched when an upstream first asks for it, renewed at half of its life by whoever asks
//! then, and kept to its end when that fails. Identity endpoints are reached from here alone, and only by an upstream
//! whose `credentials` name their cloud. Everything is configured by the environment variables that the clouds' own
//! SDKs know. No error repeats what an endpoint answered: some of them quote tokens (I9).

pub(super) mod aws;
pub(super) mod azure;
pub(super) mod gcp;
mod http;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Credential, CredentialError};
use crate::config::Secret;
use crate::metrics::Metrics;
use crate::oci::UpstreamName;
use crate::upstream::client::Client;
use crate::upstream::tls::Tls;

/// The shortest and longest life that is believed.
const LIFE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(12 * 3600));
/// After a failure: how long the old credential, or the failure, is given out before the next attempt.
const PAUSE: Duration = Duration::from_secs(15);
/// A credential is not given out anew so shortly after it was fetched, even if it was refused.
const YOUNG: Duration = Duration::from_secs(15);

/// What sources stand on.
#[derive(Clone)]
pub(in crate::upstream) struct Ground {
    /// The environment.
    pub(in crate::upstream) env: Env,
    pub(in crate::upstream) name: UpstreamName,
    pub(in crate::upstream) metrics: Arc<Metrics>,
    pub(in crate::upstream) proxies: Arc<Matcher>,
    /// Believes the system's roots alone: an upstream's `ca` is no authority over a cloud.
    pub(in crate::upstream) tls: Tls,
    /// Reaches the registry itself, which Azure's exchange is part of.
    pub(in crate::upstream) registry: Client,
}

/// Looks up an environment variable; an empty one counts as not set.
#[derive(Clone)]
pub(in crate::upstream) struct Env(Arc<LookUp>);

type LookUp = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Env {
    /// The environment of this process.
    pub(in crate::upstream) fn of_process() -> Self {
        Self::new(|name| std::env::var(name).ok())
    }

    pub(in crate::upstream) fn new(look_up: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(look_up))
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        self.get(name).map(Secret::new)
    }

    fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ground").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A fetched credential and how long it is good for.
#[derive(Debug)]
pub(in crate::upstream) struct Fresh {
    pub(super) credential: Credential,
    pub(super) life: Duration,
}

/// Where a credential that expires comes from.
pub(in crate::upstream) trait Fetch {
    /// Fetches one. Cancel-safe: a dropped call leaves nothing behind.
    fn fetch(&self) -> impl Future<Output = Result<Fresh, CredentialError>> + Send;
}

/// A credential that is renewed in time.
#[derive(Debug)]
pub(in crate::upstream) struct Renewing<S> {
    source: S,
    held: Mutex<Option<Held>>,
    /// Held by the one who fetches.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Held {
    outcome: Result<Arc<Credential>, CredentialError>,
    fetched_at: Instant,
    renew_at: Instant,
    dies_at: Instant,
    /// It was refused, perhaps for what it was used for: others wait for a new one, and have it back if there is none.
    doubted: bool,
}

impl<S: Fetch> Renewing<S> {
    pub(in crate::upstream) fn new(source: S) -> Self {
        Self { source, held: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// The credential. One caller fetches for all; while an older one lives, nobody else waits for that.
    pub(in crate::upstream) async fn get(&self) -> Result<Arc<Credential>, CredentialError> {
        if let Some(held) = self.current() {
            return held;
        }
        let living = || self.held.lock().clone().filter(|held| held.outcome.is_ok() && Instant::now() < held.dies_at);
        let _turn = match (self.turn.try_lock(), living().filter(|held| !held.doubted)) {
            (Ok(turn), _) => turn,
            (Err(_), Some(old)) => return old.outcome,
            (Err(_), None) => self.turn.lock().await,
        };
        // Another caller may have fetched it while this one waited for its turn.
        if let Some(held) = self.current() {
            return held;
        }
        let (fetched, old, now) = (self.source.fetch().await, living(), Instant::now());
        let held = match (fetched, old) {
            (Ok(fresh), _) => {
                let life = fresh.life.clamp(LIFE.0, LIFE.1);
                let outcome = Ok(Arc::new(fresh.credential));
                Held { outcome, fetched_at: now, renew_at: now + life / 2, dies_at: now + life, doubted: false }
            }
            (Err(error), Some(old)) => {
                tracing::warn!(%error, "a cloud credential cannot be renewed; the old one is used while it lives");
                Held { renew_at: now + PAUSE, doubted: false, ..old }
            }
            (Err(error), None) => {
                let (until, outcome) = (now + PAUSE, Err(error));
                Held { outcome, fetched_at: now, renew_at: until, dies_at: until, doubted: false }
            }
        };
        let outcome = held.outcome.clone();
        *self.held.lock() = Some(held);
        outcome
    }

    /// It was refused: fetch another one next time, unless this one is quite new. If none can be had this one is used on: a
    /// 403 may be about a repository, and the others need it.
    pub(in crate::upstream) fn forget(&self) {
        let mut held = self.held.lock();
        if let Some(held) = held.as_mut().filter(|held| held.fetched_at.elapsed() >= YOUNG) {
            (held.renew_at, held.doubted) = (Instant::now(), true);
        }
    }

    fn current(&self) -> Option<Result<Arc<Credential>, CredentialError>> {
        let held = self.held.lock();
        let now = Instant::now();
        held.as_ref().filter(|held| now < held.renew_at && now < held.dies_at).map(|held| held.outcome.clone())
    }
}

/// A failure of `service`, with what to do about it.
fn failed(service: impl Into<String>, problem: impl Into<String>) -> CredentialError {
    CredentialError::Cloud { service: service.into(), problem: problem.into() }
}

/// A file that an environment variable or a profile names.
async fn read(service: &str, path: &str) -> Result<String, CredentialError> {
    let text = tokio::fs::read_to_string(path).await;
    text.map_err(|error| failed(service, format!("cannot read {path}: {}", error.kind())))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Gives `k1`, `k2` … for an hour each, takes a second for it, and fails while told to.
    #[derive(Default)]
    struct Source {
        count: AtomicUsize,
        broken: std::sync::atomic::AtomicBool,
    }

    impl Fetch for Arc<Source> {
        async fn fetch(&self) -> Result<Fresh, CredentialError> {
            let count = self.count.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
            if self.broken.load(Ordering::SeqCst) {
                return Err(failed("the test", "no"));
            }
            let credential = Credential::Password { username: "u".into(), password: Secret::new(format!("k{count}")) };
            Ok(Fresh { credential, life: Duration::from_secs(3600) })
        }
    }

    async fn key(renewing: &Renewing<Arc<Source>>) -> Result<String, CredentialError> {
        match &*renewing.get().await? {
            Credential::Password { password, .. } => Ok(password.expose().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn t42_renewed_at_half_life_and_kept_when_that_fails() {
        let source = Arc::new(Source::default());
        let renewing = Renewing::new(Arc::clone(&source));
        let minutes = |minutes: u64| tokio::time::advance(Duration::from_secs(minutes * 60));
        // Many at one time: one fetch.
        let (a, b, c) = tokio::join!(key(&renewing), key(&renewing), key(&renewing));
        assert_eq!((a.unwrap(), b.unwrap(), c.unwrap()), ("k1".into(), "k1".into(), "k1".into()));
        assert_eq!(source.count.load(Ordering::SeqCst), 1);
        minutes(29).await;
        assert_eq!(key(&renewing).await.unwrap(), "k1");
        minutes(2).await;
        // One renews; the others do not wait for it.
        let (a, b) = tokio::join!(key(&renewing), key(&renewing));
        assert_eq!((a.unwrap(), b.unwrap()), ("k2".into(), "k1".into()));
        // The source fails: the old one to its end, with one attempt a pause.
        source.broken.store(true, Ordering::SeqCst);
        minutes(31).await;
        for _ in 0..5 {
            assert_eq!(key(&renewing).await.unwrap(), "k2");
        }
        assert_eq!(source.count.load(Ordering::SeqCst), 3);
        minutes(30).await;
        assert!(key(&renewing).await.is_err());
        assert!(key(&renewing).await.is_err());
        assert_eq!(source.count.load(Ordering::SeqCst), 4, "the failure is not repeated by asking again");
        source.broken.store(false, Ordering::SeqCst);
        tokio::time::advance(PAUSE).await;
        assert_eq!(key(&renewing).await.unwrap(), "k5");
        // Refused: not at once, but later.
        renewing.forget();
        assert_eq!(key(&renewing).await.unwrap(), "k5");
        minutes(1).await;
        renewing.forget();
        // Those who come meanwhile wait for the new one.
        let (a, b) = tokio::join!(key(&renewing), key(&renewing));
        assert_eq!((a.unwrap(), b.unwrap()), ("k6".into(), "k6".into()));
        // There is none: the old one, which may have been refused for another reason.
        minutes(1).await;
        source.broken.store(true, Ordering::SeqCst);
        renewing.forget();
        assert_eq!(key(&renewing).await.unwrap(), "k6");
    }
}
