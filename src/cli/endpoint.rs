//! The commands' way to the admin interface of a running mirror: where it is, the token that it wants, and a request.
//!
//! Plain HTTP over TCP, for the machine itself and a tunnel to another one, TLS, or a unix socket. The token goes into a
//! header that does not print (I9). Used by the commands that speak to a running mirror.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::papers::Papers;
use super::serve::reachable;
use crate::config::{Listen, Secret};

/// Where an admin interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `HOST:PORT`.
    Tcp(String),
    /// The same, where TLS is spoken. `configured`: as the configuration on this machine has it, and so by address.
    Tls { host: String, configured: bool },
    /// The path of a socket.
    Unix(PathBuf),
}

impl Place {
    /// Where a mirror with this `admin.listen` can be asked, which has `tls` there or not; `None` if that cannot be told
    /// from here.
    pub fn of(listen: &Listen, tls: bool) -> Option<Self> {
        match listen {
            Listen::Tcp(address) if tls => Some(Self::Tls { host: reachable(*address).to_string(), configured: true }),
            Listen::Tcp(address) | Listen::Plain(address) => Some(Self::Tcp(reachable(*address).to_string())),
            Listen::Unix(path) => Some(Self::Unix(path.clone())),
            Listen::Systemd(_) => None,
        }
    }
}

impl FromStr for Place {
    type Err = String;

    /// `http://HOST:PORT`, `HOST:PORT`, `https://HOST:PORT` or `unix:PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err("unix: is followed by a path".into()) } else { Ok(Self::Unix(path.into())) };
        }
        let secure = text.strip_prefix("https://");
        let host = secure.or(text.strip_prefix("http://")).unwrap_or(text).trim_end_matches('/');
        if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
            return Err("expected https://HOST:PORT or http://HOST:PORT without a path, IP:PORT, or unix:PATH".into());
        }
        let named = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = |port| if named { host.to_owned() } else { format!("{host}:{port}") };
        Ok(match secure {
            Some(_) => Self::Tls { host: with_port(443), configured: false },
            None => Self::Tcp(with_port(80)),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host) => f.write_str(host),
            Self::Tls { host, .. } => write!(f, "https://{host}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An admin interface, and what it wants to see.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    place: Place,
    token: Option<Secret>,
    papers: Papers,
}

/// A token, from the file that an option names.
pub(super) fn token_from(file: &Path) -> anyhow::Result<Secret> {
    Secret::from_file(file).map_err(anyhow::Error::msg)
}

impl Endpoint {
    pub fn new(place: Place, token: Option<Secret>, papers: Papers) -> Self {
        Self { place, token, papers }
    }

    /// Sends one request, and gives its answer whatever the status is.
    pub async fn ask(
        &self,
        method: Method,
        uri: &str,
        body: UnsyncBoxBody<Bytes, std::io::Error>,
    ) -> anyhow::Result<Response<Incoming>> {
        let unreachable = || format!("cannot reach a mirror's admin interface at {}; is it running?", self.place);
        let host = match &self.place {
            Place::Tcp(host) | Place::Tls { host, .. } => host.as_str(),
            Place::Unix(_) => "localhost",
        };
        let mut request = Request::builder().method(method).uri(uri).header(header::HOST, host);
        if let Some(token) = &self.token {
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", token.expose())).context("the token fits into no header")?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(body)?;
        let answer = match &self.place {
            Place::Tcp(host) => exchange(TcpStream::connect(host).await.with_context(unreachable)?, request).await,
            Place::Unix(path) => exchange(UnixStream::connect(path).await.with_context(unreachable)?, request).await,
            Place::Tls { host, configured } => {
                exchange(self.papers.connect(host, *configured).await.with_context(unreachable)?, request).await
            }
        };
        answer.with_context(unreachable)
    }

    /// Sends one request; the answer's status is 2xx.
    pub async fn send(
        &self,
        method: Method,
        uri: &str,
        body: UnsyncBoxBody<Bytes, std::io::Error>,
    ) -> anyhow::Result<Response<Incoming>> {
        let answer = self.ask(method, uri, body).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let told: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        match told["error"].as_str() {
            Some(why) => bail!("{why}"),
            None => bail!("the mirror at {} answers {status}", self.place),
        }
    }

    /// Sends one request and reads the whole answer.
    pub async fn get(&self, uri: &str) -> anyhow::Result<Bytes> {
        Ok(self.send(Method::GET, uri, empty()).await?.into_body().collect().await?.to_bytes())
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

/// No body.
pub(super) fn empty() -> UnsyncBoxBody<Bytes, std::io::Error> {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

async fn exchange(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<UnsyncBoxBody<Bytes, std::io::Error>>,
) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let running = tokio::spawn(connection);
    match sender.send_request(request).await {
        Ok(answer) => Ok(answer),
        // What the connection says is nearer to the cause.
        Err(error) => Err(running.await.ok().and_then(Result::err).unwrap_or(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let place = |text: &str| text.parse::<Place>().map(|place| place.to_string());
        for (text, shown) in [
            ("127.0.0.1:5001", "127.0.0.1:5001"),
            ("http://mirror.example:5001/", "mirror.example:5001"),
            ("http://mirror.example", "mirror.example:80"),
            ("[::1]:5001", "[::1]:5001"),
            ("https://mirror.example:5001/", "https://mirror.example:5001"),
            ("https://mirror.example", "https://mirror.example:443"),
            ("unix:/run/roadstead/admin", "unix:/run/roadstead/admin"),
        ] {
            assert_eq!(place(text).as_deref(), Ok(shown));
        }
        for wrong in ["", "http://", "http://a/b", "https://", "https://a/b", "ftp://a", "unix:", "http://user@host:1"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_does_not_print() {
        let endpoint = Endpoint::new(Place::Tcp("x:1".into()), Some(Secret::new("canary-token-0123456789")), Papers::default());
        assert!(!format!("{endpoint:?}").contains("canary"));
    }
}
