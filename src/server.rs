//! The side that clients see: listeners, connections, and one request after another.
//!
//! Owns sockets, hyper's settings and the limits on both; knows content only as [`crate::pull`] answers it. Called by
//! `app`.

mod account;
mod handle;
mod sendfile;
mod stream;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config;
use crate::policy::Peer;
pub use handle::Handler;
use sendfile::Socket;
use stream::Stream;
use workers::Workers;

/// Bytes of a request head: clients of registries send tokens of several KiB and little else. The headers in it are at most
/// 100, as hyper has it by itself; told so, it would make and move tables for them at every request.
const MAX_HEAD: usize = 64 << 10;

/// Serves clients until it is told to stop.
#[derive(Debug)]
pub struct Server {
    handler: Arc<Handler>,
    config: config::Server,
    connections: Arc<Semaphore>,
    workers: Workers,
}

impl Server {
    /// A server that answers with `handler`, on a thread for each core. Fails if there is no thread to be had.
    pub fn new(handler: Handler, config: config::Server) -> io::Result<Arc<Self>> {
        let connections = Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS)));
        let workers = Workers::start(std::thread::available_parallelism().map_or(1, usize::from))?;
        Ok(Arc::new(Self { handler: Arc::new(handler), config, connections, workers }))
    }

    /// Accepts connections until `stopping` turns true; then lets running answers finish, for `shutdown_timeout` at most.
    pub async fn run(self: Arc<Self>, listener: TcpListener, mut stopping: watch::Receiver<bool>) {
        let graceful = GracefulShutdown::new();
        loop {
            // Taken before the accept: a client too many waits in the kernel's queue and costs nothing here.
            let slot = tokio::select! {
                slot = self.connections.clone().acquire_owned() => slot,
                () = stopped(&mut stopping) => break,
            };
            let Ok(slot) = slot else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stopped(&mut stopping) => break,
            };
            match accepted {
                // From this reactor to that of the thread which will serve it.
                Ok((socket, peer)) => match socket.into_std() {
                    Ok(socket) => {
                        let (this, watcher) = (self.clone(), graceful.watcher());
                        self.workers.spawn(move || this.connection(socket, peer, slot, watcher));
                    }
                    Err(error) => tracing::debug!(%peer, %error, "connection ended"),
                },
                Err(error) => {
                    // Out of file descriptors, mostly: others will be closed soon.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        let open = graceful.count();
        if tokio::time::timeout(self.config.shutdown_timeout, graceful.shutdown()).await.is_err() {
            tracing::warn!(
                connections = open,
                timeout_s = self.config.shutdown_timeout.as_secs(),
                "answers were cut off at shutdown"
            );
        }
    }

    async fn connection(
        self: Arc<Self>,
        socket: std::net::TcpStream,
        peer: SocketAddr,
        _slot: OwnedSemaphorePermit,
        watcher: Watcher,
    ) {
        let socket = match TcpStream::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::debug!(%peer, %error, "connection ended"),
        };
        self.handler.metrics().connections.inc();
        // A small answer leaves at once; large ones fill their segments anyway.
        let _ = socket.set_nodelay(true);
        let socket = Socket::new(socket);
        let lane = socket.lane();
        let stream = TokioIo::new(Stream::new(socket, self.config.write_timeout));
        let caller = Arc::new(Peer { address: Some(peer) });
        let service = service_fn(|request| {
            let (handler, caller, lane) = (self.handler.clone(), caller.clone(), lane.clone());
            async move { Ok::<_, std::convert::Infallible>(handler.handle(request, &caller, Some(lane)).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.header_timeout)
            .max_buf_size(MAX_HEAD)
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD as u32)
            .keep_alive_interval(self.config.header_timeout)
            .keep_alive_timeout(self.config.header_timeout);
        let served = watcher.watch(builder.serve_connection(stream, service).into_owned()).await;
        if let Err(error) = served {
            // The client left, or its answer had to be cut short; the access log has said which.
            tracing::debug!(%peer, %error, "connection ended");
        }
        self.handler.metrics().connections.dec();
    }
}

/// Waits until the mirror stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
