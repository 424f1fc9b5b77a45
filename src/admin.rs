//! The admin interface: health, metrics, figures, and a page that shows them.
//!
//! GET reads; what changes anything is a POST below `/api/v1/` ([`api`], [`upstreams`], [`transfer`]). Listens apart from the
//! mirror, on loopback by default; who may ask for what is decided in one place ([`guard`]). Called by `app`.

mod api;
mod guard;
mod parameters;
mod stats;
pub mod transfer;
mod upstreams;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};

use api::Api;
use guard::{Guard, Refused, Standing};
use transfer::Transfer;
use upstreams::Switchboard;

use crate::cache::Cache;
use crate::config::Config;
use crate::listen::tls::{Secured, Tls};
use crate::listen::{Listener, Timed};
use crate::metrics::Metrics;
use crate::pull::Pull;
use crate::transfer::import::Imports;

/// For a request head, and between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// For a client to take some of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// For a body that is read whole, and between two pieces of one that is not.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of a request head, and headers in it.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// Open connections. Further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 128;

/// What the admin interface shows.
#[derive(Debug)]
pub struct Admin {
    metrics: Arc<Metrics>,
    cache: Arc<Cache>,
    api: Api,
    upstreams: Switchboard,
    transfer: Transfer,
    guard: Guard,
    /// True from the moment the mirror begins to stop.
    stopping: watch::Receiver<bool>,
}

impl Admin {
    /// An interface to the mirror that serves `cache` by `pull`. `imports`: those that it begins, for who waits for them.
    pub fn new(
        config: &Config,
        cache: &Arc<Cache>,
        pull: &Arc<Pull>,
        imports: Arc<Imports>,
        metrics: Arc<Metrics>,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            cache: cache.clone(),
            api: Api::new(cache.clone(), pull.clone()),
            upstreams: Switchboard::new(pull.clone()),
            transfer: Transfer::new(pull.clone(), config, imports),
            guard: Guard::new(&config.admin),
            stopping,
        })
    }

    /// Serves until the task is dropped: health must be visible while the mirror stops. `tls`: what is spoken there.
    pub async fn run(self: Arc<Self>, listener: Listener, tls: Option<Arc<Tls>>) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = connections.clone().acquire_owned().await else { return };
            let accepted = listener.accept().await;
            let (this, tls) = (self.clone(), tls.clone());
            let standing = Standing { local: listener.place().address().is_none(), certificate: false };
            tokio::spawn(async move {
                match tls {
                    None => this.serve(accepted.into_stream(), standing).await,
                    Some(tls) => match tls.accept(accepted.into_stream()).await {
                        Ok(Secured { stream, certificate, .. }) => {
                            this.serve(stream, Standing { certificate: certificate.is_some(), ..standing }).await;
                        }
                        Err(error) => tracing::debug!(%error, "connection to the admin interface refused"),
                    },
                }
                drop(slot);
            });
        }
    }

    /// Serves one connection to its end.
    async fn serve(&self, socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, standing: Standing) {
        let service = service_fn(|request| async move { Ok::<_, Infallible>(self.handle(request, standing).await) });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
        // Nobody keeps a place by asking and not reading.
        let socket = Timed::new(socket, WRITE_TIMEOUT);
        let _ = builder.serve_connection(TokioIo::new(socket), service).await;
    }

    async fn handle(&self, request: Request<Incoming>, standing: Standing) -> transfer::Answer {
        let (head, body) = request.into_parts();
        if let Err(refused) = self.guard.check(&head, standing) {
            return refusal(refused).map(BodyExt::boxed_unsync);
        }
        if let Some(path) = head.uri.path().strip_prefix("/api/v1/")
            && let Err(error) = parameters::check(&head.method, path, head.uri.query().unwrap_or_default())
        {
            return api_answer(StatusCode::BAD_REQUEST, &json!({ "error": error })).map(BodyExt::boxed_unsync);
        }
        match self.transfer.answer(Request::from_parts(head, body)).await {
            Ok(answer) => answer,
            Err(request) => self.route(request).await.map(BodyExt::boxed_unsync),
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if path != "/api" && !path.starts_with("/api/") {
            return self.answer(&head.method, path);
        }
        let reply = match path.strip_prefix("/api/v1/") {
            Some("stats") => Some(self.stats(&head.method)),
            Some(path) if Switchboard::knows(path) => match whole(body, upstreams::MAX_BODY).await {
                Ok(body) => Some(self.upstreams.answer(&head.method, path, &head.headers, &body)),
                Err((status, why)) => Some((status, json!({ "error": why }))),
            },
            Some(path) => self.api.answer(&head.method, path, head.uri.query().unwrap_or_default()).await,
            None => None,
        };
        let (status, document) = reply.unwrap_or_else(|| {
            let error = format!("{path}: there is no such path; docs/API.md has those that there are");
            (StatusCode::NOT_FOUND, json!({ "error": error }))
        });
        api_answer(status, &document)
    }

    fn stats(&self, method: &Method) -> api::Reply {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return (StatusCode::METHOD_NOT_ALLOWED, json!({ "error": "this only reads" }));
        }
        self.measure();
        (StatusCode::OK, stats::stats(&self.metrics))
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
                typed("text/plain; version=0.0.4; charset=utf-8", Full::from(self.metrics.render()))
            }
            "/" => typed("text/html; charset=utf-8", Full::new(Bytes::from_static(include_bytes!("admin/index.html")))),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /healthz, /readyz, /metrics, the status page at / and the API of docs/API.md under /api/v1/\n",
            ),
        }
    }
}

/// A body, whole. `Err` says what is wrong with it: it is longer than `limit`, comes too slowly, or broke off.
async fn whole(body: Incoming, limit: usize) -> Result<Bytes, (StatusCode, String)> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err((StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {limit} bytes")))
        }
        Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, format!("the body took longer than {} s", BODY_TIMEOUT.as_secs()))),
    }
}

/// Ends the connection, too: who may not ask here keeps no place.
fn refusal(refused: Refused) -> Response<Full<Bytes>> {
    let mut response = api_answer(refused.status(), &json!({ "error": refused.to_string() }));
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if refused == Refused::Token {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"roadstead admin\""));
    }
    response
}

fn api_answer(status: StatusCode, document: &Value) -> Response<Full<Bytes>> {
    let mut response = typed("application/json", Full::from(document.to_string()));
    *response.status_mut() = status;
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = typed("text/plain; charset=utf-8", Full::from(body));
    *response.status_mut() = status;
    response
}

/// Every answer is made here: none of it is kept, guessed at or framed by a browser.
fn typed<B>(content_type: &'static str, body: B) -> Response<B> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The page runs its own script and speaks to its own origin, nothing else.
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
