//! One mirror from its start to its stop: builds every part, owns their tasks, takes them down in order.
//!
//! Called by `cli` and by tests; binds the addresses that the configuration names, port 0 included.

mod reload;
mod schedule;
mod sites;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, spawn_blocking};

pub use reload::ReloadError;
pub use sites::SetupError;
use sites::Upstreams;

use crate::admin::Admin;
use crate::cache::Cache;
use crate::cache::store::StoreError;
use crate::cache::tree::Tree;
use crate::config::{self, Config, ConfigError};
use crate::fill::Fills;
use crate::listen::tls::{Interface, Tls, TlsError};
use crate::listen::{self, BindError, Listener, Passed, Place};
use crate::metrics::Metrics;
use crate::oci::UpstreamName;
use crate::policy::{NoKey, Policy};
use crate::pull::Pull;
use crate::pull::wanted::WantedList;
use crate::server::{Handler, Server};
use crate::transfer::import::Imports;

/// How long fills may take to come to a resumable end, and an import that has begun to set its tags to come to its own.
const FILLS_END: Duration = Duration::from_secs(10);

/// Why a mirror could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cache folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A certificate of an upstream cannot be used.
    #[error(transparent)]
    Upstream(#[from] SetupError),
    /// What the configuration asks for is not safe.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no key for tokens and passwords.
    #[error(transparent)]
    Key(#[from] NoKey),
    /// An address cannot be bound, or a socket is not passed.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The certificates of the mirror itself cannot be used.
    #[error(transparent)]
    Certificates(#[from] TlsError),
    /// The threads that serve could not be had.
    #[error("the mirror cannot start its threads: {0}")]
    Workers(io::Error),
    /// A thread that helped at the start is gone.
    #[error("the mirror cannot start: {0}")]
    Threads(#[from] tokio::task::JoinError),
}

/// The builder of mirrors.
#[derive(Debug)]
pub struct Mirror;

/// A mirror that serves. Dropping it stops it at once; [`Running::shutdown`] stops it well.
#[derive(Debug)]
pub struct Running {
    places: Vec<Served>,
    admin: Option<Served>,
    /// What holds.
    held: Mutex<Held>,
    metrics: Arc<Metrics>,
    /// As [`Workshop::found`].
    found: BTreeMap<UpstreamName, config::Upstream>,
    tls: Option<Arc<Tls>>,
    admin_tls: Option<Arc<Tls>>,
    stopping: watch::Sender<bool>,
    server: Arc<Server>,
    /// One a listener: they accept.
    servers: Vec<Task>,
    /// Run to the end of the process; aborted when this is dropped.
    _background: Vec<Task>,
    fills: Arc<Fills>,
    imports: Arc<Imports>,
    cache: Arc<Cache>,
    pull: Arc<Pull>,
    policy: Arc<Policy>,
}

/// Where a mirror can be reached.
#[derive(Clone, Debug)]
pub struct Served {
    /// The address or file.
    pub place: Place,
    /// TLS is spoken there.
    pub tls: bool,
}

impl Served {
    fn new(listener: &Listener, tls: Option<&Arc<Tls>>) -> Self {
        Self { place: listener.place().clone(), tls: listener.tls && tls.is_some() }
    }
}

/// The configuration that holds, and the upstreams that were made from it.
#[derive(Debug)]
struct Held {
    config: Config,
    upstreams: Upstreams,
}

/// The parts that bring content into a cache, without anything that serves it: what a mirror is built on, and what
/// `prefetch` and `import` use on the folder of a mirror that is stopped.
#[derive(Debug)]
pub struct Workshop {
    /// As it amounts to: with those that were found.
    pub config: Config,
    /// Upstreams that the configuration does not name, and of which there is something.
    pub found: BTreeMap<UpstreamName, config::Upstream>,
    /// All upstreams.
    upstreams: Upstreams,
    /// The cache. Somebody has to run [`Cache::maintain`].
    pub cache: Arc<Cache>,
    /// Downloads.
    pub fills: Arc<Fills>,
    /// Pulls.
    pub pull: Arc<Pull>,
}

impl Workshop {
    /// Opens the cache folder, which locks it. No upstream is contacted.
    pub async fn open(mut config: Config, metrics: &Arc<Metrics>) -> Result<Self, StartError> {
        let opened = (config.cache.clone(), metrics.clone());
        let open = move || {
            let cache = Cache::open(&opened.0, opened.1)?;
            let wanted = WantedList::load(cache.store(), cache.clock());
            Ok::<_, StoreError>((cache, wanted))
        };
        let (cache, wanted) = spawn_blocking(open).await??;
        let named = config.clone();
        let found = spawn_blocking(move || found(&named)).await??;
        config.upstreams.extend(found.clone());
        let (configured, counted) = (config.clone(), metrics.clone());
        let upstreams = spawn_blocking(move || Upstreams::default().remade(&configured, &counted)).await??.upstreams;
        cache.confined.set_private(upstreams.private());
        let fills = Fills::new(cache.clone(), config.fill.clone(), metrics.clone());
        let pull = Pull::new(upstreams.sites(), cache.clone(), fills.clone(), metrics.clone(), wanted);
        Ok(Self { config, found, upstreams, cache, fills, pull })
    }

    /// Ends downloads where they can be resumed, and writes recency and names down.
    pub async fn close(self) {
        self.fills.stop(FILLS_END).await;
        self.cache.close().await;
    }
}

/// What an offline mirror serves, whether its upstream is configured or not, since nobody is going to ask it: what was
/// imported, or cached before. Blocking (I11).
fn found(config: &Config) -> Result<BTreeMap<UpstreamName, config::Upstream>, StoreError> {
    if !config.cache.offline {
        return Ok(BTreeMap::new());
    }
    let names = Tree::open(&config.cache.dir)?.upstreams()?;
    let unknown = names.into_iter().filter(|name| !config.upstreams.contains_key(name));
    let upstream = |name: UpstreamName| {
        let url = url::Url::parse(&format!("https://{name}")).ok()?;
        let hosts = vec![name.to_string()];
        let upstream = config::Upstream::new(url, config.freshness.clone());
        Some((name, config::Upstream { hosts, offline: true, ..upstream }))
    };
    Ok(unknown.filter_map(upstream).collect())
}

/// Writes down what clients asked for in vain, soon after it changes.
async fn save_wanted(pull: Arc<Pull>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        let pull = pull.clone();
        let _ = spawn_blocking(move || pull.save_wanted()).await;
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Task {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }

    /// Waits for its own end.
    async fn ended(mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Mirror {
    /// Starts a mirror. When this returns, it serves; the index of its cache may still be incomplete. No upstream is
    /// contacted.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        Self::start_with(config, Passed::default()).await
    }

    /// As [`Mirror::start`], with the sockets that the service manager passed.
    pub async fn start_with(config: Config, passed: Passed) -> Result<Running, StartError> {
        let metrics = Arc::new(Metrics::new());
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);

        config.check_exposure()?;
        let Sockets { listeners, admin, tls, admin_tls } = sockets(&config, passed, &metrics).await?;
        // Of sockets that the service manager passes, only now it is known where they are.
        config.check_exposure_at(listeners.iter().filter_map(|listener| listener.place().address()))?;
        let places = listeners.iter().map(|listener| Served::new(listener, tls.as_ref())).collect();
        let admin_place = admin.first().map(|listener| Served::new(listener, admin_tls.as_ref()));

        let Workshop { config, found, upstreams, cache, fills, pull } = Workshop::open(config, &metrics).await?;
        let directory = upstreams.directory(&config.server.default_upstream);
        let policy = Arc::new(Policy::new(&config, metrics.clone())?);
        let handler = Handler::new(directory, policy.clone(), pull.clone(), metrics.clone());
        let server = Server::new(handler, config.server.clone(), tls.clone()).map_err(StartError::Workers)?;

        let stopping = watch::Sender::new(false);
        let servers =
            listeners.into_iter().map(|listener| Task::spawn(server.clone().run(listener, stopping.subscribe()))).collect();
        let mut background = vec![
            Task::spawn(cache.clone().maintain()),
            Task::spawn(cache.clone().scrub(config.cache.verify_every, config.cache.verify_rate)),
            Task::spawn(pull.clone().replace_damaged()),
            Task::spawn(policy.clone().watch()),
            Task::spawn(save_wanted(pull.clone())),
        ];
        let imports = Arc::new(Imports::default());
        let interface = Admin::new(&config, &cache, &pull, imports.clone(), metrics.clone(), stopping.subscribe());
        let interface_tls = |listener: &Listener| admin_tls.clone().filter(|_| listener.tls);
        background.extend(admin.into_iter().map(|listener| {
            let tls = interface_tls(&listener);
            Task::spawn(interface.clone().run(listener, tls))
        }));
        background.extend(tls.iter().chain(&admin_tls).map(|tls| Task::spawn(tls.clone().watch())));
        let prefetch = config.prefetch.iter().cloned().enumerate();
        background.extend(prefetch.map(|(place, entry)| Task::spawn(schedule::run(pull.clone(), metrics.clone(), entry, place))));
        Ok(Running {
            places,
            admin: admin_place,
            held: Mutex::new(Held { config, upstreams }),
            metrics,
            found,
            tls,
            admin_tls,
            stopping,
            server,
            servers,
            _background: background,
            fills,
            imports,
            cache,
            pull,
            policy,
        })
    }
}

impl Running {
    /// Where clients pull.
    pub fn places(&self) -> &[Served] {
        &self.places
    }

    /// The addresses among [`Running::places`].
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.places.iter().filter_map(|served| served.place.address()).collect()
    }

    /// Where health, metrics and status are.
    pub fn admin(&self) -> Option<&Served> {
        self.admin.as_ref()
    }

    /// That, if it is an address.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|served| served.place.address())
    }

    /// Stops: no new connections, running answers end within `shutdown_timeout`, fills come to a resumable end, an import that
    /// has begun to set its tags to its own, recency and names are written down.
    pub async fn shutdown(self) {
        self.shutdown_unless(std::future::pending::<()>()).await;
    }

    /// As [`Running::shutdown`], unless `hurry` is ready before that is done: its value is returned then, and all
    /// connections have ended at once. Each of their requests has been counted and logged either way (I12).
    pub async fn shutdown_unless<T>(mut self, hurry: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = self.stop() => None,
            hurry = hurry => {
                self.server.cut_off().await;
                Some(hurry)
            }
        }
    }

    async fn stop(&mut self) {
        self.stopping.send_replace(true);
        for server in self.servers.drain(..) {
            server.ended().await;
        }
        self.server.finish().await;
        tokio::join!(self.fills.stop(FILLS_END), self.imports.stop(FILLS_END));
        let pull = self.pull.clone();
        let _ = spawn_blocking(move || pull.save_wanted()).await;
        self.cache.close().await;
    }
}

/// What is bound, and what is spoken there.
struct Sockets {
    listeners: Vec<Listener>,
    admin: Vec<Listener>,
    tls: Option<Arc<Tls>>,
    admin_tls: Option<Arc<Tls>>,
}

/// Binds what the configuration names, and reads the certificates. Off the reactor: files are looked at (I11).
async fn sockets(config: &Config, mut passed: Passed, metrics: &Arc<Metrics>) -> Result<Sockets, StartError> {
    let (server, admin, metrics) = (config.server.clone(), config.admin.clone(), metrics.clone());
    let bound = move || {
        let load =
            |tls: &config::Tls, interface, http2| Tls::load(tls, interface, http2, server.handshake_timeout, metrics.clone());
        let tls = server.tls.as_ref().map(|tls| load(tls, Interface::Server, server.http2)).transpose()?;
        let admin_tls = admin.tls.as_ref().map(|tls| load(tls, Interface::Admin, false)).transpose()?;
        let mut listeners = Vec::new();
        for entry in &server.listen {
            listeners.extend(listen::bind(entry, server.socket_mode, "server.listen", &mut passed)?);
        }
        let admin = admin
            .listen
            .map(|entry| listen::bind(&entry, server.socket_mode & !0o007, "admin.listen", &mut passed))
            .transpose()?;
        Ok(Sockets { listeners, admin: admin.unwrap_or_default(), tls, admin_tls })
    };
    spawn_blocking(bound).await?
}

#[cfg(test)]
mod tests;
