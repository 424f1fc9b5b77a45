//! One HTTP exchange: send a request, get the head of the answer, count it.
//!
//! Knows connection pools, time limits, proxies and metrics; knows nothing of tokens, redirects or registries. Requests
//! are built from scratch from what the layers above say; nothing of a client's request can get in. The log shows
//! scheme, host and path, never a query string: presigned URLs are credentials (I9).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::AlertDescription;
use tokio::sync::watch;
use url::Url;

use super::connect::{ConnectError, Connector};
use super::error::{Reason, UpstreamError};
use super::quota;
use crate::causes;
use crate::metrics::{Kind, Metrics};
use crate::oci::UpstreamName;

/// Idle connections are dropped before common servers drop them (60 to 75 s), so that few die in the picking.
const IDLE: Duration = Duration::from_secs(30);
/// The most of a body that is read only to learn why something failed, and how long that may take.
const REMARK: (usize, Duration) = (64 * 1024, Duration::from_secs(2));

/// Bytes that are read of a fast body at once, at the most.
const READ: usize = 1 << 20;

type Pool = legacy::Client<Connector, Full<Bytes>>;

/// An HTTP client for one upstream address and whatever that leads to.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) name: UpstreamName,
    pub(super) metrics: Arc<Metrics>,
    pooled: Pool,
    /// Never reuses: for the retry after a pooled connection turned out to be dead.
    fresh: Pool,
    proxies: Arc<Matcher>,
    pub(super) timeouts: Timeouts,
    /// Turns true when not one packet more may go out.
    pub(super) offline: watch::Receiver<bool>,
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// To its head.
    pub(super) response: Duration,
    /// From one byte of its body to the next.
    pub(super) stall: Duration,
}

/// What to send.
pub(super) struct Exchange<'a> {
    pub(super) kind: Kind,
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Client {
    pub(super) fn new(
        name: UpstreamName,
        metrics: Arc<Metrics>,
        connector: Connector,
        proxies: Arc<Matcher>,
        timeouts: Timeouts,
        offline: watch::Receiver<bool>,
    ) -> Self {
        let pool = |idle: usize| {
            let mut builder = legacy::Client::builder(TokioExecutor::new());
            builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new()).pool_idle_timeout(IDLE);
            builder.http1_max_buf_size(READ).pool_max_idle_per_host(idle).build(connector.clone())
        };
        Self { name, metrics, pooled: pool(32), fresh: pool(0), proxies, timeouts, offline }
    }

    /// Waits until the upstream is offline; for ever, if that does not come.
    pub(super) async fn offline(&self) {
        if self.offline.clone().wait_for(|offline| *offline).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether a proxy stands between the mirror and `url`.
    pub(super) fn is_proxied(&self, url: &Url) -> bool {
        Uri::try_from(url.as_str()).is_ok_and(|uri| self.proxies.intercept(&uri).is_some())
    }

    /// An error of this upstream at the host of `url`.
    pub(super) fn error(&self, url: &Url, reason: impl Into<Reason>) -> UpstreamError {
        UpstreamError::new(&self.name, authority(url), reason)
    }

    /// Sends a request and waits for the head of the answer, whatever its status, at most for the response time-out.
    ///
    /// GET and HEAD are sent once more, on a new connection, if a connection ended without a byte of an answer: that is
    /// how a pooled one shows that the other side had closed it. Cancel-safe: dropping it ends the request.
    pub(super) async fn send(&self, exchange: Exchange<'_>) -> Result<Response<Incoming>, UpstreamError> {
        let error = |reason| self.error(exchange.url, reason);
        let uri = Uri::try_from(exchange.url.as_str())
            .map_err(|_| error(Reason::Invalid("it names a URL that is not valid".into())))?;
        let attempts = async {
            let first = self.attempt(&self.pooled, &exchange, &uri).await;
            match first {
                Err(failure) if failure.dead && matches!(exchange.method, Method::GET | Method::HEAD) => {
                    self.attempt(&self.fresh, &exchange, &uri).await
                }
                other => other,
            }
        };
        match tokio::time::timeout(self.timeouts.response, attempts).await {
            Ok(Ok(response)) => {
                self.note(&exchange, &response);
                Ok(response)
            }
            Ok(Err(failure)) => Err(error(failure.reason)),
            Err(_) => {
                self.count(&exchange, None);
                Err(error(Reason::Timeout(self.timeouts.response)))
            }
        }
    }

    async fn attempt(&self, pool: &Pool, exchange: &Exchange<'_>, uri: &Uri) -> Result<Response<Incoming>, Failure> {
        let started = Instant::now();
        let mut request = Request::new(Full::new(exchange.body.clone()));
        *request.method_mut() = exchange.method.clone();
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = exchange.headers.clone();
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("roadstead/", env!("CARGO_PKG_VERSION"))));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        // A plain-text target's proxy sees this very request; a tunnel's proxy got its authorization with CONNECT.
        if exchange.url.scheme() == "http"
            && let Some(proxy) = self.proxies.intercept(uri)
            && let Some(authorization) = proxy.basic_auth()
        {
            let mut authorization = authorization.clone();
            authorization.set_sensitive(true);
            headers.insert(header::PROXY_AUTHORIZATION, authorization);
        }
        let outcome = pool.request(request).await;
        let status = outcome.as_ref().ok().map(Response::status);
        tracing::debug!(
            upstream = %self.name,
            method = %exchange.method,
            url = %shown(exchange.url),
            status = status.map(|status| status.as_u16()),
            duration_ms = started.elapsed().as_millis() as u64,
            "asked upstream"
        );
        self.count(exchange, status);
        if status.is_some() {
            let seconds = started.elapsed().as_secs_f64();
            self.metrics.upstream_first_byte_seconds.with_label_values(&[self.name.as_str()]).observe(seconds);
        }
        outcome.map_err(|error| Failure::of(&error))
    }

    fn count(&self, exchange: &Exchange<'_>, status: Option<StatusCode>) {
        let code = status.as_ref().map_or("error", StatusCode::as_str);
        let labels = [self.name.as_str(), exchange.kind.label(), exchange.method.as_str(), code];
        self.metrics.upstream_requests_total.with_label_values(&labels).inc();
    }

    fn note(&self, exchange: &Exchange<'_>, response: &Response<Incoming>) {
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            tracing::warn!(upstream = %self.name, url = %shown(exchange.url), "the upstream says: too many requests");
            self.metrics.upstream_throttled_total.with_label_values(&[self.name.as_str()]).inc();
        }
    }

    /// Makes an error of an answer that is no success, reading a little of its body where that tells more.
    pub(super) async fn refusal(&self, url: &Url, response: Response<Incoming>) -> UpstreamError {
        let status = response.status();
        let reason = match status.as_u16() {
            404 | 410 => Reason::NotFound { believe: quota::believe(response.headers()) },
            401 | 403 | 451 => Reason::Denied(status),
            429 => {
                let (head, body) = response.into_parts();
                return self
                    .error(url, Reason::RateLimited { retry_after: quota::retry_after(&head.headers, &remark(body).await) });
            }
            408 | 425 | 500.. => Reason::Failing(status),
            _ => Reason::Status(status),
        };
        drop(remark(response.into_body()).await);
        self.error(url, reason)
    }
}

/// Why one attempt has no answer.
struct Failure {
    reason: Reason,
    /// The connection ended before an answer began.
    dead: bool,
}

impl Failure {
    fn of(error: &legacy::Error) -> Self {
        let mut next = Some(error as &(dyn std::error::Error + 'static));
        let (mut dead, mut invalid) = (false, false);
        while let Some(cause) = next {
            if let Some(ConnectError::Forbidden(host)) = cause.downcast_ref() {
                return Self { reason: Reason::Forbidden(host.clone()), dead: false };
            }
            if let Some(http) = cause.downcast_ref::<hyper::Error>() {
                dead |= http.is_incomplete_message() || http.is_canceled() || http.is_closed();
                invalid |= http.is_parse();
            }
            if let Some(io) = cause.downcast_ref::<std::io::Error>() {
                use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
                dead |= matches!(io.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof);
                let alert = io.get_ref().and_then(|inner| inner.downcast_ref());
                if let Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)) = alert {
                    let wish =
                        "it asks for a client certificate; if this is the upstream itself, set `client_cert` and `client_key`";
                    return Self { reason: Reason::Connect(wish.into()), dead: false };
                }
            }
            next = cause.source();
        }
        let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), causes::told);
        if error.is_connect() {
            return Self { reason: Reason::Connect(cause), dead: false };
        }
        let reason = if invalid { Reason::Invalid(cause) } else { Reason::NoAnswer(cause) };
        Self { reason, dead: dead && !invalid }
    }
}

/// Reads the beginning of a body that nobody wants, which also lets its connection be used again.
pub(super) async fn remark(mut body: Incoming) -> Vec<u8> {
    let mut text = Vec::new();
    let read = async {
        while text.len() < REMARK.0
            && let Some(Ok(frame)) = body.frame().await
        {
            if let Ok(data) = frame.into_data() {
                text.extend_from_slice(&data[..data.len().min(REMARK.0 - text.len())]);
            }
        }
    };
    // Too slow to wait for: what is there has to do.
    let _ = tokio::time::timeout(REMARK.1, read).await;
    text
}

/// Host and port as they stand in a URL.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What may be logged of a URL (I9): no query, no user; the path only where it is a registry's, since that of a storage
/// or a token service can hold a key as well as a query can.
fn shown(url: &Url) -> String {
    let path = if url.path().starts_with("/v2/") { url.path() } else { "/…" };
    format!("{}://{}{path}", url.scheme(), authority(url))
}
