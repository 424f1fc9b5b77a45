//! How a connection to an upstream comes about: the address rules, the proxy, TLS and one time limit over all of it.
//!
//! Every connection of this layer, to a registry, a token service or a redirect's target, is made here, and here each
//! address is checked at the moment it is used: what somebody else named must not be a private or metadata address
//! ([`super::address`]). Through a proxy the proxy resolves names, so that only literal addresses can be checked.
//! Called by the HTTP client of [`super::client`] alone.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower_service::Service;
use url::Url;

use super::address::{self, Reach};
use super::realm;
use super::tls::Tls;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Pending<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The address is out of bounds for what the upstream may name.
    #[error("{0} is a private or link-local address")]
    Forbidden(String),
    /// Name, TCP, proxy and TLS together took too long.
    #[error("no connection within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The proxy's URL is of a kind that is not spoken.
    #[error("the proxy {0} is neither http nor https")]
    Proxy(String),
    /// The name has no address.
    #[error("{0} has no address")]
    NoAddress(String),
    /// Everything else.
    #[error("{0}")]
    Failed(#[source] BoxError),
}

/// Who may be connected to on behalf of one upstream address.
#[derive(Debug)]
pub(super) struct Guard {
    own: (String, u16),
    /// `token_realms`: named by the operator, and so as free as the upstream itself.
    approved: Vec<String>,
    /// The upstream itself is at a private address: then what it names may be, too.
    private: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The configured upstream: any address, and it decides what the others may have.
    Own,
    /// Named by the operator: any address.
    Approved,
    /// Named by the upstream.
    Foreign,
}

impl Guard {
    pub(super) fn new(upstream: &Url, approved: &[String]) -> Self {
        let host = upstream.host_str().unwrap_or_default().to_owned();
        let private = address::literal(&host).is_some_and(|ip| address::reach(ip) != Reach::Public);
        let own = (host, upstream.port_or_known_default().unwrap_or_default());
        Self { own, approved: approved.to_vec(), private: AtomicBool::new(private) }
    }

    fn standing(&self, uri: &Uri) -> Standing {
        let port = uri.port_u16().unwrap_or(if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 });
        if uri.host() == Some(self.own.0.as_str()) && port == self.own.1 {
            return Standing::Own;
        }
        let listed = Url::parse(&uri.to_string()).is_ok_and(|url| realm::is_listed(&url, &self.approved));
        if listed { Standing::Approved } else { Standing::Foreign }
    }

    fn admits(&self, standing: Standing, ip: IpAddr) -> bool {
        standing != Standing::Foreign
            || match address::reach(ip) {
                Reach::Public => true,
                Reach::Private => self.private.load(Ordering::Relaxed),
                Reach::Metadata => false,
            }
    }

    /// The addresses of a name that may be connected to. For the upstream's own name: learns where it lies.
    fn filter(&self, standing: Standing, name: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, ConnectError> {
        if addresses.is_empty() {
            return Err(ConnectError::NoAddress(name.to_owned()));
        }
        if standing == Standing::Own {
            let private = addresses.iter().all(|address| address::reach(address.ip()) != Reach::Public);
            self.private.store(private, Ordering::Relaxed);
        }
        let admitted: Vec<_> = addresses.into_iter().filter(|address| self.admits(standing, address.ip())).collect();
        if admitted.is_empty() { Err(ConnectError::Forbidden(name.to_owned())) } else { Ok(admitted) }
    }
}

/// Resolves names by the system's resolver, on its blocking threads, and lets through what the guard admits.
#[derive(Clone)]
struct Resolver {
    guard: Arc<Guard>,
    standing: Standing,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = ConnectError;
    type Future = Pending<Self::Response, ConnectError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { guard, standing } = self.clone();
        Box::pin(async move {
            let text = name.to_string();
            let found = GaiResolver::new().call(name).await.map_err(|error| ConnectError::Failed(error.into()))?;
            Ok(guard.filter(standing, &text, found.collect())?.into_iter())
        })
    }
}

/// TCP to a target, or to the proxy in front of it.
#[derive(Clone)]
pub(super) struct Dial {
    guard: Arc<Guard>,
    proxies: Arc<Matcher>,
    /// Towards proxies.
    tls: Arc<ClientConfig>,
}

impl Dial {
    fn tcp<R>(&self, resolver: R) -> HttpConnector<R> {
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // A peer that vanished without a word is noticed although nothing is being read or sent.
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        tcp
    }

    async fn direct(self, standing: Standing, target: Uri) -> Result<Stream, ConnectError> {
        let resolver = Resolver { guard: Arc::clone(&self.guard), standing };
        let tcp = self.tcp(resolver).call(target).await.map_err(|error| ConnectError::Failed(error.into()))?;
        Ok(Stream { io: MaybeHttpsStream::Http(tcp), absolute_form: false })
    }

    async fn proxied(self, proxy: Intercept, target: Uri) -> Result<Stream, ConnectError> {
        let uri = proxy.uri().clone();
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(ConnectError::Proxy(uri.to_string()));
        }
        let mut to_proxy = HttpsConnector::from((self.tcp(GaiResolver::new()), Arc::clone(&self.tls)));
        if target.scheme() == Some(&Scheme::HTTPS) {
            let mut tunnel = Tunnel::new(uri, to_proxy);
            if let Some(authorization) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(authorization.clone());
            }
            let io = tunnel.call(target).await.map_err(|error| ConnectError::Failed(error.into()))?;
            return Ok(Stream { io, absolute_form: false });
        }
        let io = to_proxy.call(uri).await.map_err(ConnectError::Failed)?;
        Ok(Stream { io, absolute_form: true })
    }
}

impl Service<Uri> for Dial {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pending<Stream, ConnectError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move {
            let standing = dial.guard.standing(&target);
            let host = target.host().unwrap_or_default();
            // Literal addresses never reach the resolver.
            if address::literal(host).is_some_and(|ip| !dial.guard.admits(standing, ip)) {
                return Err(ConnectError::Forbidden(host.to_owned()));
            }
            match dial.proxies.intercept(&target) {
                Some(proxy) => dial.proxied(proxy, target).await,
                None => dial.direct(standing, target).await,
            }
        })
    }
}

/// A connection before the target's own TLS.
pub(super) struct Stream {
    /// TLS here is that of an https proxy.
    io: MaybeHttpsStream<TokioIo<TcpStream>>,
    /// A proxy that wants whole URLs in request lines.
    absolute_form: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.absolute_form)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

/// What the HTTP client connects by: [`Dial`], then TLS for https, all within one time limit.
#[derive(Clone)]
pub(super) struct Connector {
    /// For the upstream's own address.
    own: HttpsConnector<Dial>,
    /// For all others.
    others: HttpsConnector<Dial>,
    guard: Arc<Guard>,
    limit: Duration,
}

impl Connector {
    pub(super) fn new(guard: Guard, proxies: Arc<Matcher>, tls: Tls, limit: Duration) -> Self {
        let guard = Arc::new(guard);
        let dial = Dial { guard: Arc::clone(&guard), proxies, tls: Arc::clone(&tls.others) };
        let (own, others) = (HttpsConnector::from((dial.clone(), tls.own)), HttpsConnector::from((dial, tls.others)));
        Self { own, others, guard, limit }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Stream>;
    type Error = ConnectError;
    type Future = Pending<Self::Response, ConnectError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        // I9: nobody else is shown the client certificate, not even a token service that the operator has named.
        let connecting = match self.guard.standing(&target) {
            Standing::Own => self.own.call(target),
            Standing::Approved | Standing::Foreign => self.others.call(target),
        };
        let limit = self.limit;
        Box::pin(async move {
            match tokio::time::timeout(limit, connecting).await {
                Ok(connected) => connected.map_err(ConnectError::Failed),
                Err(_) => Err(ConnectError::Timeout(limit)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(upstream: &str) -> Guard {
        Guard::new(&upstream.parse().unwrap(), &["tokens.example".to_owned()])
    }

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect()
    }

    #[test]
    fn i9_t37_a_public_upstream_leads_to_no_private_address() {
        let guard = guard("https://r.example");
        assert!(guard.filter(Standing::Own, "r.example", addresses(&["1.1.1.1", "10.0.0.1"])).is_ok());
        for bad in ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:10.0.0.1"] {
            let refused = guard.filter(Standing::Foreign, "cdn.example", addresses(&[bad]));
            assert!(matches!(refused, Err(ConnectError::Forbidden(_))), "{bad}");
        }
        // A name that has both keeps the public one only.
        let mixed = guard.filter(Standing::Foreign, "cdn.example", addresses(&["10.0.0.1", "1.1.1.1"])).unwrap();
        assert_eq!(mixed, addresses(&["1.1.1.1"]));
        assert!(guard.filter(Standing::Approved, "tokens.example", addresses(&["10.0.0.1"])).is_ok());
        assert!(matches!(guard.filter(Standing::Foreign, "x", Vec::new()), Err(ConnectError::NoAddress(_))));
    }

    #[test]
    fn a_private_upstream_may_lead_to_private_addresses_but_to_no_metadata() {
        let guard = guard("https://r.internal");
        assert!(guard.filter(Standing::Own, "r.internal", addresses(&["10.0.0.5"])).is_ok());
        assert!(guard.filter(Standing::Foreign, "s3.internal", addresses(&["10.0.0.6"])).is_ok());
        assert!(guard.filter(Standing::Foreign, "metadata", addresses(&["169.254.169.254"])).is_err());
        // It moved to the Internet: no longer.
        assert!(guard.filter(Standing::Own, "r.internal", addresses(&["1.1.1.1"])).is_ok());
        assert!(guard.filter(Standing::Foreign, "s3.internal", addresses(&["10.0.0.6"])).is_err());
    }

    #[test]
    fn standings() {
        let guard = guard("http://127.0.0.1:5000/base");
        for (uri, expected) in [
            ("http://127.0.0.1:5000/x", Standing::Own),
            ("http://127.0.0.1:5001/x", Standing::Foreign),
            ("http://127.0.0.1/x", Standing::Foreign),
            ("https://tokens.example/x", Standing::Approved),
            ("https://tokens.example:444/x", Standing::Foreign),
        ] {
            assert_eq!(guard.standing(&uri.parse().unwrap()), expected, "{uri}");
        }
        assert!(guard.admits(Standing::Foreign, "127.0.0.1".parse().unwrap()), "a loopback upstream is private");
    }
}
