//! The side that clients see: connections, and one request after another.
//!
//! Owns open connections, hyper's settings and the limits on both; knows content only as [`crate::pull`] answers it.
//! Called by `app`, which gives it listeners.

mod account;
mod connection;
mod handle;
mod io;
mod limits;
mod sendfile;
mod streams;
mod token;
mod turns;
mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config;
use crate::listen::{Accepted, Listener, tls::Tls};
use crate::metrics::{Metrics, gauge};
use crate::oci::Directory;
use connection::{Connection, Held};
pub use handle::Handler;
use limits::{Clients, Refusal};
use workers::Workers;

/// How often the log says that all connections are taken.
const FULL_NOTICE: Duration = Duration::from_secs(60);

/// How long a stop waits for the serving threads. They end at once, unless a disk does not answer.
const LAST: Duration = Duration::from_secs(5);

/// Serves clients until it is told to stop.
#[derive(Debug)]
pub struct Server {
    handler: Arc<Handler>,
    config: config::Server,
    tls: Option<Arc<Tls>>,
    connections: Arc<Semaphore>,
    clients: Arc<Clients>,
    /// Turns true when connections are to end. Each holds a receiver, which shows when the last one has gone.
    open: watch::Sender<bool>,
    workers: Workers,
}

impl Server {
    /// Takes these upstreams from the next request on.
    pub fn replace_directory(&self, directory: Directory) {
        self.handler.replace_directory(directory);
    }

    /// A server that answers with `handler`, on a thread for each core. `tls` is for listeners that may speak it. Fails
    /// if a thread cannot be started.
    pub fn new(handler: Handler, config: config::Server, tls: Option<Arc<Tls>>) -> std::io::Result<Arc<Self>> {
        let limit = config.max_connections.min(Semaphore::MAX_PERMITS);
        let connections = Arc::new(Semaphore::new(limit));
        handler.metrics().connections_limit.set(gauge(limit));
        let clients = Clients::new(config.max_connections_per_client);
        let workers = Workers::start(std::thread::available_parallelism().map_or(1, usize::from))?;
        Ok(Arc::new(Self {
            handler: Arc::new(handler),
            config,
            tls,
            connections,
            clients,
            open: watch::Sender::new(false),
            workers,
        }))
    }

    fn metrics(&self) -> &Arc<Metrics> {
        self.handler.metrics()
    }

    /// Accepts connections until `stopping` turns true. Those that are open go on; see [`Server::finish`].
    pub async fn run(self: Arc<Self>, listener: Listener, mut stopping: watch::Receiver<bool>) {
        let mut told: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stopped(&mut stopping) => break,
            };
            let Some(client) = self.clients.enter(accepted.address()) else {
                self.refused(Refusal::PerClient);
                continue;
            };
            let slot = tokio::select! {
                slot = self.slot(&mut told) => slot,
                () = stopped(&mut stopping) => break,
            };
            let Some(slot) = slot else { break };
            let tls = self.tls.clone().filter(|_| listener.tls);
            self.begin(accepted, tls, Held { slot, client });
        }
    }

    /// Waits until there is room for one more connection. `told`: when a lack of it was last logged.
    async fn slot(&self, told: &mut Option<Instant>) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = self.connections.clone().try_acquire_owned() {
            return Some(slot);
        }
        // This client waits; those behind it wait in the kernel's queue and cost nothing here.
        self.metrics().connections_waits_total.inc();
        if told.is_none_or(|told| told.elapsed() > FULL_NOTICE) {
            *told = Some(Instant::now());
            let limit = self.config.max_connections;
            tracing::warn!(limit, "as many connections are open as server.max_connections allows; clients wait");
        }
        // Never closed.
        self.connections.clone().acquire_owned().await.ok()
    }

    /// Lets running answers finish for at most `shutdown_timeout`, then cuts them off. To be called when nothing is
    /// accepted any more.
    pub async fn finish(&self) {
        self.open.send_replace(true);
        let _ = tokio::time::timeout(self.config.shutdown_timeout, self.open.closed()).await;
        // Idle connections have ended by now; these have an answer to send.
        let connections = self.open.receiver_count();
        if connections > 0 {
            tracing::warn!(connections, timeout_s = self.config.shutdown_timeout.as_secs(), "answers were cut off at shutdown");
        }
        self.cut_off().await;
    }

    /// Ends all open connections at once. When this returns, each of their requests has been counted and logged (I12),
    /// except on a thread that a disk holds up.
    pub async fn cut_off(&self) {
        let _ = tokio::time::timeout(LAST, self.workers.end()).await;
    }

    /// Hands a connection to the thread that will serve it.
    fn begin(self: &Arc<Self>, accepted: Accepted, tls: Option<Arc<Tls>>, held: Held) {
        // From this reactor to that of the thread which will serve it.
        match accepted.detach() {
            Ok(socket) => {
                let connection = Connection { server: self.clone(), tls, stop: self.open.subscribe(), _held: held };
                self.workers.spawn(move || connection.run(socket));
            }
            Err(error) => tracing::debug!(%error, "connection ended"),
        }
    }

    /// Counts a connection that was closed for what its client did.
    fn refused(&self, why: Refusal) {
        self.metrics().connections_refused_total.with_label_values(&[why.label()]).inc();
    }
}

/// Waits until the mirror stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
