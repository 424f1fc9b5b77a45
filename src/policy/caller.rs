//! Who is asking: the other end of the connection, and what a request says of itself.
//!
//! Reads, and believes nothing: what is true of it is for [`super::Session::identify`] to find out. Made by `server`.

use std::fmt;
use std::net::SocketAddr;

use http::{HeaderMap, header};

use super::certificate::ClientCertificate;
use crate::config::Secret;

/// The other end of a connection, as far as the socket tells. One a connection, shared by its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    address: Option<SocketAddr>,
    /// The address as the log has it: each of its requests has a line.
    text: Box<str>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Whom its certificate names, if it showed one and it was verified.
    pub certificate: Option<ClientCertificate>,
}

impl Peer {
    /// A peer without encryption and without a certificate. `address`: `None` on a unix socket.
    pub fn new(address: Option<SocketAddr>) -> Self {
        let text = address.map_or_else(|| "unix".to_owned(), |address| address.to_string());
        Self { address, text: text.into(), tls: false, certificate: None }
    }

    /// Its address; `None` on a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// How a client addresses the mirror on this connection.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A user name and a password that a request carries, unchecked. Names somebody.
#[derive(Clone, Debug)]
pub struct Login {
    username: String,
    password: Secret,
}

impl Login {
    /// `None` if it names nobody: podman sends an empty user and password when it has none.
    pub fn new(username: impl Into<String>, password: Secret) -> Option<Self> {
        let username = username.into();
        (!username.is_empty()).then_some(Self { username, password })
    }

    /// The user.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Their password or access token.
    pub fn password(&self) -> &Secret {
        &self.password
    }

    /// The `Authorization: Basic` of a request (RFC 7617). `None` if there is none, or it is not of that form, or
    /// names nobody.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        match Authorization::of(headers) {
            Authorization::Basic(login) => Some(login),
            Authorization::Bearer(_) | Authorization::None => None,
        }
    }

    fn decode(encoded: &str) -> Option<Self> {
        use base64::Engine as _;
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (username, password) = text.split_once(':')?;
        Self::new(username, Secret::new(password))
    }
}

/// What the `Authorization` of a request says, unchecked.
#[derive(Clone, Debug)]
pub enum Authorization<'a> {
    /// Nothing that the mirror understands.
    None,
    /// A user and a password (RFC 7617).
    Basic(Login),
    /// A token (RFC 6750).
    Bearer(&'a str),
}

impl<'a> Authorization<'a> {
    /// Of the first such header.
    pub fn of(headers: &'a HeaderMap) -> Self {
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match value.and_then(|value| value.split_once(' ')) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("basic") => Login::decode(rest).map_or(Self::None, Self::Basic),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => Self::Bearer(rest.trim()),
            _ => Self::None,
        }
    }
}

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The connection's other end.
    pub peer: &'a Peer,
    /// The request's headers.
    pub headers: &'a HeaderMap,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_logins() {
        let login = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            Login::from_headers(&headers).map(|login| (login.username, login.password.expose().to_owned()))
        };
        assert_eq!(login("Basic dXNlcjpwYTpzcw=="), Some(("user".into(), "pa:ss".into())));
        assert_eq!(login("bAsIc dXNlcjo="), Some(("user".into(), String::new())));
        for other in ["Bearer dXNlcjpwYXNz", "Basic", "Basic ?", "Basic dXNlcg==", "Basic /w==", "Basic Og==", "Basic OnBhc3M="] {
            assert_eq!(login(other), None, "{other}");
        }
        assert!(Login::from_headers(&HeaderMap::new()).is_none());
        assert!(Login::new("", Secret::new("pass")).is_none());
    }
}
