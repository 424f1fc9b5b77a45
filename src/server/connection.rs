//! One connection from its first byte to its last: TLS, which HTTP, and requests until somebody has had enough.
//!
//! What waits for its client is kept small: an idle connection holds hyper's state and its read buffer, while the futures
//! of handshakes and of requests are boxes that come and go.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Server;
use super::account::Counted;
use super::handle::Handler;
use super::io::Io;
use super::limits::{Place, Refusal};
use super::sendfile::{Lane, Socket};
use super::streams::{Idle, Streams, Tasks, Watched};
use crate::listen::tls::Tls;
use crate::listen::{Accepted, Detached, Timed};
use crate::metrics::Metrics;
use crate::policy::{ClientCertificate, Peer};

/// The first bytes of a client that speaks HTTP/2 without having agreed on it (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a request head: clients of registries send tokens of several KiB and little else. hyper's own limit of 100
/// headers holds; if that number were set, hyper would allocate tables for them at every request. HTTP/2 does not limit
/// their number, but counts 32 bytes more for each (RFC 9113, 6.5.2).
const MAX_HEAD: usize = 64 << 10;

/// Requests at one time on an HTTP/2 connection, and what waits to be sent for each, besides the piece of a file that was
/// read last: 32 MiB in the worst case.
const MAX_STREAMS: u32 = 100;
const STREAM_BUFFER: usize = 64 << 10;

/// Streams that a client opened and took back before they were looked at (CVE-2023-44487), and streams that were refused
/// by us, on one connection.
const MAX_PENDING_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 100;

/// What the loop of a connection needs.
#[derive(Debug)]
pub(super) struct Connection {
    pub server: Arc<Server>,
    /// `None`: it is plain.
    pub tls: Option<Arc<Tls>>,
    /// Turns true when the mirror stops.
    pub stop: watch::Receiver<bool>,
    pub _held: Held,
}

/// What a connection takes up of the limits, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    /// Of all connections.
    #[expect(dead_code, reason = "it acts when it is dropped")]
    pub slot: OwnedSemaphorePermit,
    /// Of those of its client.
    #[expect(dead_code, reason = "it acts when it is dropped")]
    pub client: Place,
}

/// A connection that can begin with HTTP.
struct Ready {
    io: Timed<Io>,
    peer: Peer,
    http2: bool,
    lane: Option<Lane>,
}

impl Connection {
    /// Serves to the end.
    pub async fn run(self, socket: Detached) {
        let _open = Open::new(self.server.metrics());
        // Boxed, as the next step is: this frame lives as long as the connection.
        let mut stop = self.stop.clone();
        let ready = tokio::select! {
            ready = Box::pin(self.ready(socket)) => ready,
            // Nothing was asked yet, so nobody is cut short.
            () = super::stopped(&mut stop) => return,
        };
        drop(stop);
        let Some(ready) = ready else { return };
        let Ready { io, peer, http2, lane } = ready;
        let peer = Arc::new(peer);
        if http2 {
            Box::pin(self.http2(io, peer)).await;
        } else {
            Box::pin(self.http1(io, peer, lane)).await;
        }
    }

    /// Agrees with the client on what will be spoken. `None` if the connection is over.
    async fn ready(&self, socket: Detached) -> Option<Ready> {
        let accepted = socket.attach().inspect_err(|error| tracing::debug!(%error, "connection ended")).ok()?;
        let config = &self.server.config;
        let mut peer = Peer::new(accepted.address());
        // Whether TLS has agreed on HTTP/2; `None` without TLS.
        let (io, agreed, lane) = match (accepted, &self.tls) {
            (Accepted::Tcp(tcp, _), Some(tls)) => {
                let _ = tcp.set_nodelay(true);
                let secured = match tls.accept(tcp).await {
                    Ok(secured) => secured,
                    Err(error) => {
                        self.refused(&peer, Refusal::of_handshake(&error), &error);
                        return None;
                    }
                };
                peer.tls = true;
                peer.certificate = secured.certificate.as_deref().and_then(ClientCertificate::parse);
                (Io::Tls(Box::new(secured.stream)), Some(secured.http2), None)
            }
            (Accepted::Tcp(tcp, _), None) => {
                // A small answer leaves at once; large ones fill their segments anyway.
                let _ = tcp.set_nodelay(true);
                let socket = Socket::new(tcp);
                let lane = socket.lane();
                (Io::Plain(socket), None, Some(lane))
            }
            (Accepted::Unix(unix), _) => (Io::Unix(unix), None, None),
        };
        io.on_trial();
        let mut io = Timed::new(io, config.write_timeout).once_it_reads(Io::trusted);
        let http2 = match agreed {
            // Without TLS there is nothing to agree by: the client that knows better begins with the preface.
            None if config.http2 => match tokio::time::timeout(config.header_timeout, io.begins_with(PREFACE)).await {
                Ok(Ok(preface)) => preface,
                Ok(Err(error)) => {
                    tracing::debug!(client = %peer, %error, "connection ended");
                    return None;
                }
                Err(_) => {
                    if io.head_begun() {
                        self.refused(&peer, Refusal::HeadTimeout, &"the client sends no request");
                    }
                    return None;
                }
            },
            agreed => agreed == Some(true),
        };
        Some(Ready { io, peer, http2, lane })
    }

    async fn http1(mut self, io: Timed<Io>, peer: Arc<Peer>, lane: Option<Lane>) {
        let config = &self.server.config;
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(config.header_timeout).max_buf_size(MAX_HEAD);
        let (handler, caller) = (self.server.handler.clone(), peer.clone());
        let service = service_fn(move |request| answer(handler.clone(), request, caller.clone(), lane.clone()));
        let mut connection = builder.serve_connection(TokioIo::new(io), service);
        let served = tokio::select! {
            served = &mut connection => served,
            () = super::stopped(&mut self.stop) => {
                Pin::new(&mut connection).graceful_shutdown();
                (&mut connection).await
            }
        };
        if let Err(error) = served {
            let head_begun = connection.into_parts().io.inner().head_begun();
            self.ended(&peer, &error, head_begun);
        }
    }

    async fn http2(mut self, io: Timed<Io>, peer: Arc<Peer>) {
        let config = &self.server.config;
        let mut builder = http2::Builder::new(Tasks(self.server.clone()));
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD as u32)
            .max_concurrent_streams(MAX_STREAMS)
            .max_send_buf_size(STREAM_BUFFER)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_LOCAL_RESETS)
            .keep_alive_interval(config.header_timeout)
            .keep_alive_timeout(config.header_timeout);
        let streams = Streams::new();
        let (handler, caller, watch) = (self.server.handler.clone(), peer.clone(), streams.clone());
        let service = service_fn(move |request| {
            let (mut stream, answer) = (watch.begin(), answer(handler.clone(), request, caller.clone(), None));
            async move {
                stream.sent_here();
                answer.await.map(|response| response.map(|body| Watched::new(body, stream)))
            }
        });
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
        let (mut stopping, mut told) = (false, false);
        let mut idle = Idle::new(&streams);
        loop {
            tokio::select! {
                served = &mut connection => {
                    if let Err(error) = served {
                        self.ended(&peer, &error, false);
                    }
                    return;
                }
                () = super::stopped(&mut self.stop), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = streams.flooded() => {
                    return self.refused(&peer, Refusal::Flood, &"streams are opened and taken back without end");
                }
                () = tokio::time::sleep(config.header_timeout) => {
                    if idle.time() < config.header_timeout {
                        continue;
                    }
                    if told {
                        // The client holds on all the same. What it has not taken by now it does not want.
                        return;
                    }
                    (stopping, told) = (true, true);
                    idle.restart();
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    /// A connection ended by an error.
    fn ended(&self, peer: &Peer, error: &hyper::Error, head_begun: bool) {
        match Refusal::of(error, head_begun) {
            Some(why) => self.refused(peer, why, error),
            // The client left, or its answer had to be cut short; the access log has said which.
            None => tracing::debug!(client = %peer, %error, "connection ended"),
        }
    }

    fn refused(&self, peer: &Peer, why: Refusal, error: &dyn std::fmt::Display) {
        tracing::debug!(client = %peer, reason = why.label(), %error, "connection refused");
        self.server.refused(why);
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Counted>, Infallible>> + Send>>;

/// Answers one request. Boxed: hyper keeps room for the largest future that a service may give, even while the connection
/// is idle.
fn answer(handler: Arc<Handler>, request: Request<Incoming>, peer: Arc<Peer>, lane: Option<Lane>) -> Answering {
    Box::pin(async move { Ok(handler.handle(request, &peer, lane).await) })
}

/// An open connection in the gauge.
struct Open(Arc<Metrics>);

impl Open {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.connections.inc();
        Self(metrics.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}
