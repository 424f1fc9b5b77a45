//! One exchange with an identity endpoint: no redirects, no large answers, no proxy for what is on this machine.
//!
//! The URL comes from the environment or is a constant, never from an upstream. Plain http is for loopback and the fixed
//! addresses of metadata services alone.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use hyper_util::client::proxy::matcher::Matcher;
use serde::de::DeserializeOwned;
use url::{Host, Url};

use super::{CredentialError, Ground, failed};
use crate::metrics::Kind;
use crate::upstream::address::{self, Reach};
use crate::upstream::blob::{self, Body};
use crate::upstream::client::{Client, Exchange, Timeouts};
use crate::upstream::connect::{Connector, Guard};

/// More than any identity endpoint answers.
const MAX_ANSWER: usize = 256 * 1024;
/// For the metadata services of this machine, and for everything else: to connect, to answer.
const LOCAL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));
const REMOTE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));
/// A clock that is off by so much is worth a word: the clouds take up to five minutes.
const SKEW: Duration = Duration::from_secs(240);

/// A request to an identity endpoint.
pub(super) struct Call {
    /// What it is, for errors: "AWS STS".
    pub(super) service: &'static str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Its answer, of any status.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn get(service: &'static str, url: Url) -> Self {
        Self { service, method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// A POST of a form.
    pub(super) fn form(service: &'static str, url: Url, pairs: &[(&str, &str)]) -> Self {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(pairs);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        Self { service, method: Method::POST, url, headers, body: form.finish().into() }
    }

    /// Adds a header that may hold a secret.
    pub(super) fn header(mut self, name: &'static str, value: &str) -> Result<Self, CredentialError> {
        let mut value = HeaderValue::try_from(value.trim())
            .map_err(|_| failed(self.service, format!("what should go into its {name} header cannot stand in one")))?;
        value.set_sensitive(true);
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }
}

impl Reply {
    /// The body as JSON. Its text is never shown.
    pub(super) fn json<T: DeserializeOwned>(&self, service: &str) -> Result<T, CredentialError> {
        serde_json::from_slice(&self.body).map_err(|_| failed(service, "its answer is not the JSON that was expected"))
    }

    /// How far the clock of this machine is from the service's, if that is enough to matter.
    pub(super) fn clock(&self) -> Option<(SystemTime, String)> {
        let date = self.headers.get(header::DATE)?.to_str().ok()?;
        let theirs = httpdate::parse_http_date(date).ok()?;
        let ours = SystemTime::now();
        let (off, way) = match ours.duration_since(theirs) {
            Ok(off) => (off, "ahead"),
            Err(behind) => (behind.duration(), "behind"),
        };
        let off = Duration::from_secs(off.as_secs());
        (off > SKEW).then(|| (theirs, format!("the clock of this machine is {} {way}: set it", humantime::format_duration(off))))
    }
}

impl Ground {
    /// Sends a request. Cancel-safe.
    pub(super) async fn call(&self, call: Call) -> Result<Reply, CredentialError> {
        let local = is_local(&call.url);
        if call.url.scheme() != "https" && !local {
            let host = call.url.host_str().unwrap_or_default();
            return Err(failed(call.service, format!("{host} would be asked by plain http, which only this machine may be")));
        }
        let (connect, answer) = if local { LOCAL } else { REMOTE };
        let proxies = if local { Arc::new(Matcher::builder().build()) } else { Arc::clone(&self.proxies) };
        let connector = Connector::new(Guard::new(&call.url, &[]), Arc::clone(&proxies), self.tls.clone(), connect);
        let offline = self.registry.offline.clone();
        let timeouts = Timeouts { response: answer, stall: answer };
        let client = Client::new(self.name.clone(), Arc::clone(&self.metrics), connector, proxies, timeouts, offline);
        exchange(&client, call).await
    }

    /// Sends a request to the registry itself, over its own connections.
    pub(super) async fn call_registry(&self, call: Call) -> Result<Reply, CredentialError> {
        exchange(&self.registry, call).await
    }
}

async fn exchange(client: &Client, call: Call) -> Result<Reply, CredentialError> {
    let Call { service, method, url, headers, body } = call;
    let host = url.host_str().unwrap_or_default().to_owned();
    let error = |reason: &dyn std::fmt::Display| failed(format!("{service} ({host})"), reason.to_string());
    let response = client
        .send(Exchange { kind: Kind::Other, method, url: &url, headers, body })
        .await
        .map_err(|failure| error(failure.reason()))?;
    let (status, headers) = (response.status(), response.headers().clone());
    if status.is_redirection() {
        return Err(error(&"it sends a redirect, which is not followed"));
    }
    blob::check_identity(&headers).map_err(|reason| error(&reason))?;
    let body = Body::new(client, &url, response).collect(MAX_ANSWER).await.map_err(|failure| error(failure.reason()))?;
    Ok(Reply { status, headers, body })
}

/// On this machine, as far as its name says: loopback, or the metadata services that have no certificates.
fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback() || address::reach(ip.into()) == Reach::Metadata,
        Some(Host::Ipv6(ip)) => ip.is_loopback() || address::reach(ip.into()) == Reach::Metadata,
        Some(Host::Domain(name)) => matches!(name, "localhost" | "metadata.google.internal" | "metadata.google.internal."),
        None => false,
    }
}
