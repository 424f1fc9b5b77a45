//! A client that speaks TLS, and HTTP by hyper above it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authority::{Authority, Pair};
use crate::support::within;

/// What a client knows and offers.
#[derive(Clone)]
pub struct Client {
    config: ClientConfig,
    name: ServerName<'static>,
}

impl Client {
    /// A client that believes this authority, calls the server `a.example` and offers HTTP/1.1 alone.
    pub fn of(authority: &Authority) -> Self {
        Self::with(authority, None, &[&rustls::version::TLS13, &rustls::version::TLS12])
    }

    /// A client with a certificate of its own, and these versions.
    pub fn with(authority: &Authority, own: Option<&Pair>, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { config, name: "a.example".try_into().unwrap() }
    }

    /// Calls the server by this name.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned().try_into().unwrap();
        self
    }

    /// Names no server.
    pub fn without_sni(mut self) -> Self {
        self.config.enable_sni = false;
        self
    }

    /// Offers these protocols.
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// Connects, and makes sure that the server is content: with TLS 1.3 it refuses a client after the client is ready.
    pub async fn dial(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let tcp = within("a connection", TcpStream::connect(address)).await?;
        within("a handshake", TlsConnector::from(Arc::new(self.config.clone())).connect(self.name.clone(), tcp)).await
    }

    /// Asks for `/v2/`: the status, or why there is none.
    pub async fn ping(&self, address: SocketAddr) -> Result<u16, String> {
        let stream = self.dial(address).await.map_err(|error| error.to_string())?;
        let mut requests = Requests::http1(stream).await;
        requests
            .try_send(Method::GET, "/v2/", &[])
            .await
            .map(|response| response.status().as_u16())
            .map_err(|error| format!("{error:?}"))
    }

    /// The certificate that the server shows.
    pub async fn shown(&self, address: SocketAddr) -> CertificateDer<'static> {
        let stream = self.dial(address).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

/// One connection, over which requests go.
pub enum Requests {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Requests {
    pub async fn http1(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http1(requests)
    }

    pub async fn http2(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http2(requests)
    }

    /// One request; the whole answer.
    pub async fn send(&mut self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
        self.try_send(method, path, headers).await.unwrap()
    }

    pub async fn try_send(&mut self, method: Method, path: &str, headers: &[(&str, &str)]) -> hyper::Result<Response<Bytes>> {
        let uri = if matches!(self, Self::Http2(_)) { format!("https://a.example{path}") } else { path.to_owned() };
        let mut request = Request::builder().method(method).uri(uri);
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request = request.header(header::HOST, "a.example");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new()).unwrap();
        within("an answer", async {
            let response = match self {
                Self::Http1(requests) => {
                    requests.ready().await?;
                    requests.send_request(request).await?
                }
                Self::Http2(requests) => {
                    requests.ready().await?;
                    requests.send_request(request).await?
                }
            };
            let (head, body) = response.into_parts();
            Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
        })
        .await
    }
}
