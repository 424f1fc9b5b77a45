//! The pull path in simulated time: tokio's clock is paused, and held still while sockets are waited for, so that an
//! hour takes seconds and no time-out fires by itself.
//!
//! Without the server, whose threads have clocks of their own: a request goes to [`Pull::answer`] as the server would
//! hand it on. The upstream is a real one on loopback.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use http::HeaderMap;
use roadstead::cache::Cache;
use roadstead::config::Config;
use roadstead::fill::Fills;
use roadstead::metrics::Metrics;
use roadstead::oci::{Reference, UpstreamName, Wanted};
use roadstead::policy::{Caller, Peer, Policy};
use roadstead::pull::body::Piece;
use roadstead::pull::wanted::WantedList;
use roadstead::pull::{self, Pull, Site};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::image::Image;
use crate::support::mirror::Settings;
use crate::support::upstream::Upstream;

/// Keeps the paused clock still as long as it lives: tokio moves it only when nothing runs, and this does.
pub struct Still(#[allow(dead_code, reason = "dropping it ends the wait")] mpsc::Sender<()>);

pub fn still() -> Still {
    let (alive, ended) = mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || ended.recv());
    Still(alive)
}

/// Lets the simulated time pass.
pub async fn pass(time: Duration) {
    tokio::time::advance(time).await;
    // What the timers have woken gets its turn before anything else is asked.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Waits for real; the clock moves a second each time that nothing comes for a good while. Returns what came, and the
/// simulated time that it took.
pub async fn ticking<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    let mut future = std::pin::pin!(future);
    loop {
        let patience = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(250)));
        tokio::select! {
            biased;
            value = &mut future => return (value, started.elapsed()),
            _ = patience => pass(Duration::from_secs(1)).await,
        }
    }
}

/// A pull path with one upstream, `docker.io`.
pub struct Sim {
    pull: Arc<Pull>,
    policy: Policy,
    pub metrics: Arc<Metrics>,
    pub upstream: Arc<roadstead::upstream::Upstream>,
    folder: Arc<TempDir>,
    maintained: tokio::task::JoinHandle<()>,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// The word that `Cache-Status` gives as the reason.
    pub fn reason(&self) -> Option<&str> {
        self.header("cache-status")?.split("; ").find_map(|part| part.strip_prefix("reason="))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn is(&self, image: &Image) -> bool {
        self.status == 200 && self.body == image.manifest.bytes
    }
}

fn hub() -> UpstreamName {
    "docker.io".parse().unwrap()
}

impl Sim {
    pub async fn with(up: &Upstream, change: impl FnOnce(&mut Settings)) -> Self {
        Self::start(up, Arc::new(TempDir::new().expect("a folder")), change).await
    }

    /// Another one on the same folder, of another process as it were.
    pub async fn restart(self, up: &Upstream, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = self.folder.clone();
        self.maintained.abort();
        let _ = self.maintained.await;
        drop((self.pull, self.upstream));
        Self::start(up, folder, change).await
    }

    async fn start(up: &Upstream, folder: Arc<TempDir>, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new(up, folder.path().to_str().expect("a path in UTF-8"));
        change(&mut settings);
        let config = Config::parse(&settings.text(), "test").unwrap_or_else(|error| panic!("{error}"));
        let metrics = Arc::new(Metrics::new());
        let cache = Cache::open(&config.cache, metrics.clone()).expect("a cache");
        let maintained = tokio::spawn(cache.clone().maintain());
        let fills = Fills::new(cache.clone(), config.fill.clone(), metrics.clone());
        let site = &config.upstreams[&hub()];
        let upstream = Arc::new(roadstead::upstream::Upstream::new(hub(), site, metrics.clone()).expect("an upstream"));
        let (visibility, verdict_for) = (site.visibility, site.verdict_for);
        let site = Site { upstream: upstream.clone(), freshness: site.freshness.clone(), visibility, verdict_for };
        let wanted = WantedList::load(cache.store(), cache.clock());
        let pull = Pull::new(BTreeMap::from([(hub(), Arc::new(site))]), cache, fills, metrics.clone(), wanted);
        Self { pull, policy: Policy::new(&config, metrics.clone()).unwrap(), metrics, upstream, folder, maintained }
    }

    /// An upstream with these images, and a mirror that has their manifests.
    pub async fn warm(images: &[(String, Image)], change: impl FnOnce(&mut Settings)) -> (Upstream, Self) {
        let up = Upstream::start().await;
        for (repository, image) in images {
            up.push_image(repository, "latest", image);
        }
        let sim = Self::with(&up, change).await;
        for (repository, image) in images {
            assert!(sim.tag(repository).await.is(image), "{repository}");
        }
        (up, sim)
    }

    /// `GET /v2/<repository>/manifests/latest`
    pub async fn tag(&self, repository: &str) -> Got {
        self.tag_with(repository, &HeaderMap::new()).await
    }

    /// The same, with headers.
    pub async fn tag_with(&self, repository: &str, headers: &HeaderMap) -> Got {
        self.ask(repository, Wanted::Manifest(Reference::Tag("latest".parse().unwrap())), headers).await
    }

    pub async fn get(&self, repository: &str, wanted: Wanted) -> Got {
        self.ask(repository, wanted, &HeaderMap::new()).await
    }

    async fn ask(&self, repository: &str, wanted: Wanted, headers: &HeaderMap) -> Got {
        let caller = Caller { peer: &Peer::new(None), headers };
        let mut session = self.policy.look();
        let identity = session.identify(&caller, None).await.unwrap();
        let permit = session.admit(&identity, &hub(), &repository.parse().unwrap()).expect("allowed");
        let request = pull::Request { head: false, headers, path: "/", namespace: None, needs_length: false, permit };
        let (head, mut pieces) = self.pull.answer(&request, &wanted).await.response.into_parts();
        let mut body = Vec::new();
        while let Some(piece) = std::future::poll_fn(|context| pieces.poll_piece(context, false)).await {
            match piece.expect("a whole body") {
                Piece::Bytes(bytes) => body.extend_from_slice(&bytes),
                Piece::Span(_) => unreachable!("not asked for"),
            }
        }
        Got { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// The value of a series, as `/metrics` would show it.
    pub fn metric(&self, series: &str) -> f64 {
        self.upstream.measure();
        let text = self.metrics.render();
        let line = text.lines().find(|line| line.starts_with(series));
        line.and_then(|line| line.rsplit_once(' ')).map_or(0.0, |(_, value)| value.parse().expect("a number"))
    }
}
