//! The admin interface: health, metrics, figures, and a page that shows them.
//!
//! GET reads; what changes anything is a POST below `/api/v1/` ([`api`], [`upstreams`], [`transfer`]). Listens apart from the
//! mirror, on loopback by default. Called by `app`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;

use api::Api;
use transfer::Transfer;
use upstreams::Switchboard;

use crate::cache::Cache;
use crate::listen::Listener;
use crate::metrics::Metrics;

/// For a request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the admin interface shows.
#[derive(Debug)]
pub struct Admin {
    metrics: Arc<Metrics>,
    cache: Arc<Cache>,
    api: Api,
    upstreams: Switchboard,
    transfer: Transfer,
    /// True from the moment the mirror begins to stop.
    stopping: watch::Receiver<bool>,
}

impl Admin {
    /// An interface to a mirror with these parts.
    pub fn new(
        metrics: Arc<Metrics>,
        cache: Arc<Cache>,
        api: Api,
        upstreams: Switchboard,
        transfer: Transfer,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Self { metrics, cache, api, upstreams, transfer, stopping })
    }

    /// Serves until the task is dropped: health must be visible while the mirror stops.
    pub async fn run(self: Arc<Self>, listener: Listener) {
        loop {
            let Ok(accepted) = listener.accept().await else {
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
                            Err(request) => this.route(request).await.map(BodyExt::boxed_unsync),
                        })
                    }
                });
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                let _ = builder.serve_connection(TokioIo::new(accepted.into_stream()), service).await;
            });
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let Some(path) = head.uri.path().strip_prefix("/api/v1/") else {
            return self.answer(&head.method, head.uri.path());
        };
        let reply = if Switchboard::knows(path) {
            let Ok(body) = Limited::new(body, upstreams::MAX_BODY).collect().await else {
                return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long, or broke off\n");
            };
            Some(self.upstreams.answer(&head.method, path, &head.headers, &body.to_bytes()))
        } else {
            self.api.answer(&head.method, path, head.uri.query().unwrap_or_default(), &head.headers).await
        };
        let Some((status, document)) = reply else { return self.answer(&head.method, head.uri.path()) };
        let mut response = typed("application/json", document.to_string().into());
        *response.status_mut() = status;
        response
    }

    fn measure(&self) {
        self.cache.measure();
        self.upstreams.measure();
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
                self.measure();
                typed("text/plain; version=0.0.4; charset=utf-8", self.metrics.render().into())
            }
            "/api/v1/stats" => {
                self.measure();
                typed("application/json", stats::stats(&self.metrics).to_string().into())
            }
            "/" => typed("text/html; charset=utf-8", Bytes::from_static(include_bytes!("admin/index.html"))),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /healthz, /readyz, /metrics, /api/v1/stats, /api/v1/upstreams, /api/v1/offline and the status page at /\n",
            ),
        }
    }
}

pub mod api;
mod stats;
pub mod transfer;
pub mod upstreams;

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
