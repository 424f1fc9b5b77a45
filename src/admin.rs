//! The admin interface: health, metrics, figures, and a page that shows them.
//!
//! Read only but for [`transfer`]. Listens apart from the mirror, on loopback by default. Called by `app`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::cache::Cache;
use crate::metrics::Metrics;

/// For a request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the admin interface shows.
#[derive(Debug)]
pub struct Admin {
    metrics: Arc<Metrics>,
    cache: Arc<Cache>,
    transfer: transfer::Transfer,
    /// True from the moment the mirror begins to stop.
    stopping: watch::Receiver<bool>,
}

impl Admin {
    /// An interface to a mirror with these parts.
    pub fn new(
        metrics: Arc<Metrics>,
        cache: Arc<Cache>,
        transfer: transfer::Transfer,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Self { metrics, cache, transfer, stopping })
    }

    /// Serves until the task is dropped: health must be visible while the mirror stops.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let this = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let this = this.clone();
                    async move {
                        Ok::<_, Infallible>(match this.transfer.answer(request).await {
                            Ok(answer) => answer,
                            Err(request) => this.answer(request.method(), request.uri().path()).map(BodyExt::boxed_unsync),
                        })
                    }
                });
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                let _ = builder.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "read only\n");
        }
        match path {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" if *self.stopping.borrow() => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
            // Cached content is served from the first moment on, whether the index is complete or not.
            "/readyz" => text(StatusCode::OK, if self.cache.is_scanned() { "ready\n" } else { "ready; indexing the cache\n" }),
            "/metrics" => {
                self.cache.measure();
                typed("text/plain; version=0.0.4; charset=utf-8", self.metrics.render().into())
            }
            "/api/v1/stats" => {
                self.cache.measure();
                typed("application/json", stats::stats(&self.metrics).to_string().into())
            }
            "/" => typed("text/html; charset=utf-8", Bytes::from_static(include_bytes!("admin/index.html"))),
            _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz, /metrics, /api/v1/stats and the status page at /\n"),
        }
    }
}

mod stats;
pub mod transfer;

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = typed("text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()));
    *response.status_mut() = status;
    response
}

fn typed(content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The page runs its own script and speaks to its own origin, nothing else.
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}
